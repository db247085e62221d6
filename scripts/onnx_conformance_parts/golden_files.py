"""Cases as files: the models, ``golden.json`` and ``golden.bin``, the arrays laid end to end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbgather import files
from nbgather.onnx._build import ModelProto, to_bytes
from onnx_conformance_parts.vectors import Vector


def write(folder: Path, models: Mapping[str, ModelProto], cases: Iterable[Vector]) -> str:
    """Write the cases and their models; a line that says how many they are."""
    data = bytearray()

    def placed(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        places = {}
        for name, array in arrays.items():
            data.extend(bytes(-len(data) % 8))
            little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
            places[name] = {
                "dtype": array.dtype.name, "shape": list(array.shape), "offset": len(data),
                "nbytes": array.nbytes,
            }  # fmt: skip
            data.extend(little.tobytes())
        return places

    written = []
    for case in cases:
        one: dict[str, Any] = {"model": case.model, "inputs": placed(case.feeds)}
        if case.expected is None:
            one["fails"] = True
        else:
            one["outputs"] = placed(case.expected)
        if case.flushed is not None:
            one["flushed"] = placed(case.flushed)
        written.append(one)
    for name in {one["model"] for one in written}:
        files.write(folder / name, to_bytes(models[name]))
    files.write(folder / "golden.bin", bytes(data))
    files.write(folder / "golden.json", json.dumps(written).encode())
    return f"{len(written)} cases, {len(data):,} bytes: {folder}"
