"""Kernels for NVIDIA GPUs: their sources, the driver, and how a call is launched.

``launch`` picks the kernel of a call and the shape of its launch, ``driver`` compiles and launches
it; ``memory`` is what kernels load from and store to.
"""
