"""The backends by name: which exist, and why one is not available."""

from nbgather.engine.backends import BACKENDS, available

__all__ = ["BACKENDS", "available"]
