"""Golden vectors of the published models: inputs, and the outputs of the kernels.

``python scripts/golden.py FOLDER`` writes the models, ``golden.json`` and ``golden.bin`` to the
folder, to be run by another onnxruntime (``scripts/run_golden.py``), Node or a browser
(``scripts/js``). A case with ``"fails"`` must be refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import nbgather
from nbgather import files
from nbgather.onnx import CATALOG
from nbgather.onnx._build import to_bytes

SPECIAL_SCORES = (0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, 0.5, 0.5, 1.0, -1.0)
SIZES = ((1, 1, 1), (2, 16, 4), (3, 197, 5), (1, 1568, 2), (5, 49, 1), (0, 16, 4), (4, 0, 3),
         (2, 10, 0))  # fmt: skip
SEEDS = (0, 1, -1, 2**63 - 1, -(2**63), 0x299F31D0A4093822)

Arrays = dict[str, np.ndarray]


class Vectors:
    """Cases, their arrays laid end to end."""

    def __init__(self) -> None:
        self.cases: list[dict[str, Any]] = []
        self.data = bytearray()

    def add(self, model: str, inputs: Arrays, outputs: Arrays | None) -> None:
        case: dict[str, Any] = {"model": model, "inputs": self._place(inputs)}
        if outputs is None:
            case["fails"] = True
        else:
            case["outputs"] = self._place(outputs)
        self.cases.append(case)

    def _place(self, arrays: Arrays) -> dict[str, Any]:
        placed = {}
        for name, array in arrays.items():
            self.data += bytes(-len(self.data) % 8)
            little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
            placed[name] = {
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "offset": len(self.data),
                "nbytes": array.nbytes,
            }
            self.data += little.tobytes()
        return placed


def main(folder: Path) -> None:
    """Write everything."""
    vectors = Vectors()
    for entry in CATALOG:
        files.write(folder / entry.file, to_bytes(entry.build()))
    for gather in ("", "_nd"):
        _noise_cases(vectors, f"mae_masking{gather}.onnx", with_x=True)
    _noise_cases(vectors, "mae_mask_only.onnx", with_x=False)
    _seed_cases(vectors)
    _restore_cases(vectors)
    for dim in range(3):
        _gather_cases(vectors, dim)
    files.write(folder / "golden.bin", bytes(vectors.data))
    files.write(folder / "golden.json", json.dumps(vectors.cases).encode())
    print(f"{len(vectors.cases)} cases, {len(vectors.data):,} bytes: {folder}")


def _noise_cases(vectors: Vectors, model: str, *, with_x: bool) -> None:
    generator = np.random.default_rng(0)
    for n, length, width in SIZES:
        x = generator.standard_normal((n, length, width)).astype(np.float32)
        for noise in (
            generator.random((n, length), np.float32),
            generator.choice(np.array(SPECIAL_SCORES, np.float32), (n, length)),
            np.full((n, length), 0.25, np.float32),
        ):
            result = nbgather.random_masking(x, 0.75, noise=noise)
            outputs = {"mask": result.mask, "ids_restore": result.ids_restore}
            if with_x:
                vectors.add(
                    model, {"x": x, "noise": noise}, {"x_masked": result.x_masked} | outputs
                )
            else:
                keep = nbgather.rank_tokens(noise, result.x_masked.shape[1]).ids_keep
                vectors.add(model, {"noise": noise}, outputs | {"ids_keep": keep})
    if with_x:
        x = np.zeros((2, 8, 3), np.float32)
        for shape in ((2, 7), (1, 8), (3, 8), (2, 9)):
            vectors.add(model, {"x": x, "noise": np.zeros(shape, np.float32)}, None)


def _words(*numbers: int) -> np.ndarray:
    """Words of 32 bits of numbers, the low one first."""
    return np.array([int(n) & 2**64 - 1 for n in numbers], "<u8").view("<i4").reshape(-1, 2)


def _seed_cases(vectors: Vectors) -> None:
    generator = np.random.default_rng(1)
    narrow, wide = "mae_masking_seeded.onnx", "mae_masking_seeded_words.onnx"

    def numbers(seed: int, ids: np.ndarray, epoch: int) -> Arrays:
        scalars = {"seed": seed, "epoch": epoch}
        return {"sample_ids": ids} | {k: np.array(v, np.int64) for k, v in scalars.items()}

    for k, (n, length, width) in enumerate(SIZES):
        x = generator.standard_normal((n, length, width)).astype(np.float32)
        ids = generator.integers(-(2**63), 2**63 - 1, n)
        seed, epoch = SEEDS[k % len(SEEDS)], (0, 1, 2**32 - 1)[k % 3]
        result = nbgather.random_masking(x, 0.75, seed=seed, sample_ids=ids, epoch=epoch)
        words = {
            "seed_words": _words(seed)[0],
            "sample_id_words": _words(*ids),
            "epoch_word": _words(epoch)[0, :1].reshape(()),
        }
        vectors.add(wide, {"x": x} | words, dict(result._asdict()))
        ids, seed, epoch = ids & 2**31 - 1, seed & 2**31 - 1, epoch & 2**31 - 1
        result = nbgather.random_masking(x, 0.75, seed=seed, sample_ids=ids, epoch=epoch)
        vectors.add(narrow, {"x": x} | numbers(seed, ids, epoch), dict(result._asdict()))
    x = np.zeros((2, 8, 3), np.float32)
    two = np.arange(2)
    for seed, ids, epoch in (
        (0, np.arange(3), 0), (0, two, -1), (0, two, 2**31), (-1, two, 0), (2**31, two, 0),
        (0, np.array([1, -1]), 0), (0, np.array([2**31, 1]), 0),
    ):  # fmt: skip
        vectors.add(narrow, {"x": x} | numbers(seed, ids, epoch), None)


def _restore_cases(vectors: Vectors) -> None:
    generator = np.random.default_rng(2)
    model = "mae_restore.onnx"
    for n, length, width in SIZES:
        ids = np.argsort(generator.random((n, length)), 1)
        token = generator.standard_normal(width).astype(np.float32)
        for kept in {0, length // 4, length}:
            x = generator.standard_normal((n, kept, width)).astype(np.float32)
            inputs = {"x_visible": x, "ids_restore": ids, "mask_token": token}
            vectors.add(model, inputs, {"x": nbgather.restore_tokens(x, ids, token)})
    x, token = np.zeros((1, 2, 3), np.float32), np.zeros(3, np.float32)
    for rank in (-1, 4, 2**40):
        ids = np.array([[0, 1, 2, rank]])
        vectors.add(model, {"x_visible": x, "ids_restore": ids, "mask_token": token}, None)


def _gather_cases(vectors: Vectors, dim: int) -> None:
    generator = np.random.default_rng(3)
    model = f"gather_elements_dim{dim}.onnx"
    for shape in ((2, 3, 4), (1, 1, 1), (5, 70, 3), (64, 2, 9)):
        data = generator.standard_normal(shape).astype(np.float32)
        size = list(shape)
        size[dim] += 2
        indices = generator.integers(0, shape[dim], size)
        vectors.add(
            model, {"data": data, "indices": indices},
            {"output": nbgather.gather(data, dim, indices)},
        )  # fmt: skip
        indices[0, 0, 0] = shape[dim]
        vectors.add(model, {"data": data, "indices": indices}, None)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
