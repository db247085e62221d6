"""Backends that take NumPy views of the host's memory; the kernels are checked against them.

``reference`` is the specification as plain loops, ``torch`` calls torch; ``positions`` has what
``torch`` shares with :mod:`nbgather.onnx.backend`.
"""
