"""The same calls on NumPy views of the host's memory: what the kernels are checked against.

``reference`` is the specification as plain loops, ``torch`` the oracle of the tests; ``positions``
has what they share with :mod:`nbgather.onnx.backend`.
"""
