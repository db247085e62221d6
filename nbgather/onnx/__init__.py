"""Gather, masking and restoring as ONNX models, and a runner for them."""

from nbgather.onnx.attach import attach
from nbgather.onnx.catalog import CATALOG, export_all, stale_files
from nbgather.onnx.graphs import gather_model, masking_model, restore_model
from nbgather.onnx.runner import Port, Session, run
from nbgather.onnx.torch_table import torch_translation_table
from nbgather.onnx.verify import Verification, verify

__all__ = [
    "CATALOG",
    "Port",
    "Session",
    "Verification",
    "attach",
    "export_all",
    "gather_model",
    "masking_model",
    "restore_model",
    "run",
    "stale_files",
    "torch_translation_table",
    "verify",
]
