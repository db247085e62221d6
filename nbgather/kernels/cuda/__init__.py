"""Kernels for NVIDIA GPUs: their sources, the driver, and how a call is launched.

``launch`` picks the kernel of a call and the shape of its launch, ``driver`` compiles and runs it.
``gather``, ``scatter``, ``masking`` and ``patches`` are the kernels, ``positions`` what they share:
where an element lies; ``memory`` is what they load from and store to.
"""
