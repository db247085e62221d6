"""What is run and not imported: the command line, the demo, the page, the bench.

``cli`` is the way in and reports failures, ``commands`` are the commands, and ``demo``, ``bench``,
``web``, ``info`` and ``warmup`` do their work; ``photos`` and ``published`` serve several of them.
"""
