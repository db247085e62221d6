"""Kernels for the CPU: their sources, how they are compiled and cached, and how a call is run.

``launch`` picks the kernel of a call, ``compiler`` makes it once, ``threads`` runs it.
"""
