"""Gather, masking and restoring as ONNX models, and a runner for them."""

from nbgather.onnx.catalog import CATALOG, export_all, stale_files
from nbgather.onnx.graphs import gather_model, masking_model, restore_model
from nbgather.onnx.runner import Port, Session, run

__all__ = [
    "CATALOG",
    "Port",
    "Session",
    "export_all",
    "gather_model",
    "masking_model",
    "restore_model",
    "run",
    "stale_files",
]
