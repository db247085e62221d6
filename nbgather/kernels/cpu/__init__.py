"""Kernels for the CPU: their sources, how they are compiled and cached, and how a call is run.

``launch`` picks the kernel of a call, ``compiler`` compiles it once, ``cache`` keeps it in a file,
``threads`` runs it on all cores through the ``drivers``. The other modules are kernels' sources.
"""
