"""Gather, masking and restoring as ONNX models, and what joins, checks and runs them.

``gathering``, ``scattering``, ``rows``, ``masking`` and ``restoring`` build models, of nodes in
``_ranking`` and ``_noise``;
``attach``, ``runner`` and ``verify``, with the cases of ``cases``, use them, on any of
``runtimes``; ``card`` writes one and ``catalog`` lists the files; ``torch_table`` is for torch's
exporter; ``backend`` runs the library's calls on onnxruntime.
"""

from nbgather.onnx.attach import attach
from nbgather.onnx.card import export_model
from nbgather.onnx.catalog import CATALOG, export_all, stale_files
from nbgather.onnx.gathering import gather_model
from nbgather.onnx.masking import masking_model
from nbgather.onnx.restoring import restore_model
from nbgather.onnx.rows import gather_reduce_model, segment_reduce_model
from nbgather.onnx.runner import Port, Session, run
from nbgather.onnx.scattering import scatter_reduce_model
from nbgather.onnx.torch_table import torch_translation_table
from nbgather.onnx.verify import Verification, verify

__all__ = [
    "CATALOG",
    "Port",
    "Session",
    "Verification",
    "attach",
    "export_all",
    "export_model",
    "gather_model",
    "gather_reduce_model",
    "masking_model",
    "restore_model",
    "run",
    "scatter_reduce_model",
    "segment_reduce_model",
    "stale_files",
    "torch_translation_table",
    "verify",
]
