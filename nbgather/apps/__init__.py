"""What is run and not imported: the command line, the demo, the page, the bench.

``commands`` has the commands, ``cli`` the way in.
"""
