"""What numba compiles, and what checks it.

``scalar`` is the one source for every device; ``cpu`` and ``cuda`` are the kernels, and how they
are compiled and run; ``views`` are the same calls through NumPy and torch, on NumPy views.
"""
