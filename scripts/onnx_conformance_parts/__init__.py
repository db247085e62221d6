"""What scripts/onnx_conformance.py is made of, and scripts/golden.py with it.

``vectors`` are the cases, ``outcomes`` what came of them; ``environments`` installs runtimes,
``python_runs`` and ``javascript_runs`` run them; ``ties`` asks for the order of equals, ``page``
writes the documentation.
"""
