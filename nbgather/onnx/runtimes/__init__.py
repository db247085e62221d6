"""Runtimes other than the onnxruntime of this process: ``child`` runs one, ``session`` asks it."""

from nbgather.onnx.runtimes.session import RUNTIMES, RuntimeSession, check_runtime

__all__ = ["RUNTIMES", "RuntimeSession", "check_runtime"]
