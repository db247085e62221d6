"""A model's card: what goes in and comes out, and what it was verified on; kept in the file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from nbgather import files
from nbgather.onnx._build import ModelProto, onnx, to_bytes
from nbgather.onnx.runtimes import check_runtime
from nbgather.onnx.verify import verify

__all__ = ["CARD", "export_model", "port_text"]

#: The names of a card's lines in ``metadata_props``.
CARD = ("inputs", "outputs", "opset", "verified")


def export_model(
    model: ModelProto,
    path: str | os.PathLike[str],
    *,
    runtimes: Sequence[str] = ("onnxruntime",),
) -> dict[str, str]:
    """Verify a model, add its card to its metadata, and write it; nothing where it is not right.

    Parameters
    ----------
    model : onnx.ModelProto
        One that :func:`verify` knows: a masking, a restoring or a gather. It is not changed.
    path : path
        The file; it is written whole or not at all.
    runtimes : sequence of str
        What it is verified on; see :func:`verify`.

    Returns
    -------
    dict of str to str
        The card: ``inputs``, ``outputs``, ``opset`` and ``verified``.

    Raises
    ------
    RuntimeError
        The model is not right on one of the runtimes.
    FileNotFoundError, TypeError, ValueError, ImportError
        As :func:`verify`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from nbgather.onnx import export_model, masking_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "mask.onnx")
    ...     card = export_model(masking_model(0.6, with_x=False), path)
    >>> card["inputs"], card["opset"]
    ('noise float32 [N, L]', '17, IR 8')
    """
    for name in runtimes:
        check_runtime(name)
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: the model's file is needed")
    verified = []
    for name in runtimes:
        result = verify(model, runtime=name)
        if result.difference is not None:
            raise RuntimeError(f"the model is not right on {result.runtime}, {result.difference}")
        verified.append(f"{result.runtime}: {result.cases} cases equal")
    defaults = {tensor.name for tensor in model.graph.initializer}
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    card = {
        "inputs": _ports(model.graph.input, defaults),
        "outputs": _ports(model.graph.output, ()),
        "opset": f"{opset}, IR {model.ir_version}",
        "verified": "; ".join(verified),
    }
    marked = ModelProto()
    marked.CopyFrom(model)
    for key, value in card.items():
        marked.metadata_props.add(key=key, value=value)
    files.write(path, to_bytes(marked))
    return card


def port_text(port: onnx.ValueInfoProto) -> tuple[str, str]:
    """A port's name, and its dtype and shape in words.

    Examples
    --------
    >>> from nbgather.onnx import gather_model
    >>> port_text(gather_model(1).graph.output[0])
    ('output', 'float32 [i0, i1, i2]')
    """
    tensor = port.type.tensor_type
    shape = ", ".join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return port.name, f"{dtype} [{shape}]"


def _ports(ports: Iterable[onnx.ValueInfoProto], defaults: Iterable[str]) -> str:
    texts = []
    for port in ports:
        name, kind = port_text(port)
        texts.append(f"{name} {kind}" + (" (optional)" if name in defaults else ""))
    return "; ".join(texts)
