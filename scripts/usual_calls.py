"""Make usual calls by the kernels that come with the package for one kind of processors.

    python scripts/usual_calls.py linux-x86-64-v3

Every result is compared with the reference's. Prints, as JSON, a digest of all results, what had to
be compiled, and whether numba was loaded.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import sys
from typing import Any

import numpy as np

import nbgather
from nbgather.kernels.cpu import cache, compiler, shipped

MODES = ("raise", "clip", "wrap", "fill")
generator = np.random.default_rng(0)
digest = hashlib.sha256()
compiled: list[str] = []


def note_what_is_compiled() -> None:
    """Write down every function that is compiled."""
    build = compiler._build

    def counted(function: compiler.Function, entry: cache.Entry) -> bytes:
        compiled.append(str(function))
        return build(function, entry)

    compiler._build = counted


def same(call: Any, *operands: Any, **options: Any) -> None:
    """Make a call by kernels and by the reference, where it has one, and compare every bit."""
    pair = [call(*operands, **options)]
    if "backend" in inspect.signature(call).parameters:
        pair.append(call(*operands, backend="reference", **options))
    ours, theirs = (v if isinstance(v, tuple) else (v,) for v in (pair[0], pair[-1]))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype, (call, options)
        assert one.tobytes() == other.tobytes(), (call, options)
        digest.update(repr((call.__name__, one.dtype.str, one.shape)).encode() + one.tobytes())


def gather_items(x: np.ndarray, shape: tuple[int, ...], dim: int, index: str, mode: str) -> None:
    size = x.shape[dim]
    low, high = (0, size) if mode == "raise" else (-2 * size, 3 * size)
    i = generator.integers(low, high, shape).astype(index)
    fill = {"fill_value": 7} if mode == "fill" else {}
    same(nbgather.gather, x, dim, i, mode=mode, **fill)
    if mode == "raise":
        i -= size * (i % 2).astype(index)
    same(nbgather.take_along_axis, x, i, dim, mode=mode, **fill)


def gathers() -> None:
    for size, index, mode in itertools.product((1, 2, 4, 8), ("i4", "i8"), MODES):
        x = generator.integers(0, 256, (8, 24, 40 * size), np.uint8).view(f"u{size}")
        gather_items(x, (8, 24, 17), 2, index, mode)
        gather_items(x, (8, 31, 40), 1, index, mode)
        gather_items(x.transpose(2, 0, 1), (40, 8, 9), 2, index, mode)
        ids = generator.integers(0, 24, (8, 11)).astype(index)
        fill = {"fill_value": 7} if mode == "fill" else {}
        same(nbgather.gather_tokens, x, ids, mode=mode, **fill)


def masking() -> None:
    x = generator.random((3, 50, 24)).astype("f4")
    draws = {"seed": 5}, {"noise": x[..., 0].copy()}, {"noise": x[..., 1].astype("f8")}
    for draw in draws:
        same(nbgather.random_masking, x, 0.75, **draw)
    order = generator.permuted(np.tile(np.arange(50), (3, 1)), axis=1)
    same(nbgather.restore_tokens, x[:, :20], order, mask_token=x[0, 0])
    for strategy in ("random", "grid", "block", "time_frequency"):
        same(getattr(nbgather.strategies, strategy), 1, 3, (14, 14))


def patches() -> None:
    images = generator.integers(0, 256, (5, 3, 32, 48), np.uint8)
    last = images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    for pixels in (images, images.astype("f4"), last):
        same(nbgather.patchify, pixels, 16)
        same(nbgather.unpatchify, nbgather.patchify(pixels, 16), 16, (32, 48))
        same(nbgather.masked_patchify, pixels, 8, 0.75, seed=1)
        same(nbgather.masked_patchify, pixels, 8, 0.75, seed=1, scale=1 / 255, mean=0.5, std=0.25)


def scatters() -> None:
    for dtype in ("i4", "f4", "f8"):
        i, into = generator.integers(0, 24, (8, 40)), np.zeros((8, 24), dtype)
        same(nbgather.scatter_add, into, 1, i, np.ones((8, 40), dtype))
        same(nbgather.scatter, into, 1, i, np.arange(320).reshape(8, 40).astype(dtype))


def large() -> None:
    """What is split over threads."""
    x = generator.integers(0, 1 << 30, (1000, 1000)).astype("i4")
    i = generator.integers(0, 1000, (1000, 1000))
    for dim in (0, 1):
        ours = nbgather.gather(x, dim, i)
        assert ours.tobytes() == np.take_along_axis(x, i, dim).tobytes()
        digest.update(ours.tobytes())


def main() -> None:
    kinds = {kind.name: kind for known in shipped.KINDS.values() for kind in known}
    shipped.kind = lambda: kinds.get(sys.argv[1])  # type: ignore[assignment]
    note_what_is_compiled()
    gathers()
    masking()
    patches()
    scatters()
    large()
    said = {"digest": digest.hexdigest(), "compiled": compiled, "numba": "numba" in sys.modules}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
