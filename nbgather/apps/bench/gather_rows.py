"""Rows of gather and scatter on large arrays."""

from __future__ import annotations

import numpy as np

import nbgather
from nbgather.apps.bench.contest import NARROW, Call, Contest, Row
from nbgather.apps.bench.operands import copy_call, floats, generator, installed, onnx_session

__all__ = ["GATHER_ROWS", "SCATTER_ROWS"]


def _gather_contest(x: np.ndarray, dim: int, index: np.ndarray, *, batch: int = 1) -> Contest:
    """torch.gather's work by all; an expanded index stays expanded for whoever can take it."""
    out = np.empty(index.shape, x.dtype)
    expanded = index.strides[-1] == 0
    narrow = index[..., :1] if expanded else index
    peers: dict[str, Call] = {"numpy": lambda: np.take_along_axis(x, index, dim)}
    into: dict[str, Call] = {}
    if installed("torch"):
        peers["torch"], into["torch"] = _torch_gather(x, dim, narrow, out)
        if expanded:
            peers["torch.index_select"] = _torch_index_select(x, index)
    int32_index: dict[str, Call] = {}
    if installed("jax"):
        peers["jax"] = _jax_gather(x, dim, narrow)
        if index.dtype == np.int64:  # jax has no other index than int32 unless it is told
            small = narrow.astype(np.int32)
            ours = np.broadcast_to(small, index.shape)
            int32_index[f"nbgather{NARROW}"] = lambda: nbgather.gather(x, dim, ours)
            int32_index[f"jax{NARROW}"] = _jax_gather(x, dim, small)
    if installed("onnxruntime") and not expanded and x.flags.c_contiguous:
        peers["onnxruntime"] = _onnxruntime_gather(x, dim, index)
    index_bytes = narrow.nbytes
    source_bytes = min(x.nbytes, index.size * x.itemsize)
    nbytes = index_bytes + source_bytes + out.nbytes
    return Contest(
        lambda: nbgather.gather(x, dim, index),
        peers,
        nbytes,
        lambda: nbgather.gather(x, dim, index, out=out),
        into,
        int32_index,
        batch,
        # An index that is not expanded is read as well: its bytes are to be moved too.
        copy_call(out.nbytes if expanded else nbytes // 2),
    )


def _torch_gather(
    x: np.ndarray, dim: int, narrow: np.ndarray, out: np.ndarray
) -> tuple[Call, Call]:
    """torch.gather, without and with ``out=``."""
    import torch

    source = torch.from_numpy(x)
    index = torch.from_numpy(np.ascontiguousarray(narrow)).expand(out.shape)
    target = torch.from_numpy(np.empty_like(out))
    return (
        lambda: torch.gather(source, dim, index),
        lambda: torch.gather(source, dim, index, out=target),
    )


def _torch_index_select(x: np.ndarray, index: np.ndarray) -> Call:
    """The way around torch.gather that its users know: rows of the flattened source."""
    import torch

    rows = index[..., 0]
    if x.ndim == 3:
        rows = rows + np.arange(x.shape[0])[:, None] * x.shape[1]
    flat = torch.from_numpy(x).reshape(-1, x.shape[-1])
    flat_rows, shape = torch.from_numpy(rows.reshape(-1)), index.shape
    return lambda: torch.index_select(flat, 0, flat_rows).view(shape)


def _jax_gather(x: np.ndarray, dim: int, narrow: np.ndarray) -> Call:
    import jax

    # jax has no strides: what is transposed is transposed within the call.
    transposed = not x.flags.c_contiguous
    source = jax.numpy.asarray(x.T if transposed else x)
    index = jax.numpy.asarray(narrow)
    function = jax.jit(
        lambda a, i: jax.numpy.take_along_axis(
            a.T if transposed else a, i, dim, mode="promise_in_bounds"
        )
    )
    return lambda: function(source, index).block_until_ready()


def _onnxruntime_gather(x: np.ndarray, dim: int, index: np.ndarray) -> Call:
    from nbgather.onnx import gather_model

    model = gather_model(dim, x.ndim, dtype=x.dtype.name, index_dtype=index.dtype.name)
    session = onnx_session(model)
    return lambda: session.run(None, {"data": x, "indices": index})[0]


def _square(dim: int, dtype: str = "float32", index_dtype: str = "int64") -> Contest:
    x = floats((4096, 4096)) * 100
    index = np.random.default_rng(1).integers(0, 4096, x.shape)
    return _gather_contest(x.astype(dtype), dim, index.astype(index_dtype))


def _transposed() -> Contest:
    x = floats((4096, 4096)).T
    return _gather_contest(x, 1, np.random.default_rng(1).integers(0, 4096, x.shape))


def _mae(expanded: bool) -> Contest:
    x = floats((64, 196, 768))
    ids = np.argsort(generator().random((64, 196)), 1)[:, :49, None]
    wide = np.broadcast_to(ids, (64, 49, 768))
    return _gather_contest(x, 1, wide if expanded else np.ascontiguousarray(wide))


def _graph() -> Contest:
    rows = generator().integers(0, 100_000, (500_000, 1))
    return _gather_contest(floats((100_000, 128)), 0, np.broadcast_to(rows, (500_000, 128)))


def _deberta() -> Contest:
    shape = (10, 10, 512, 512)
    return _gather_contest(floats(shape), 3, generator().integers(0, 512, shape))


def _pick() -> Contest:
    return _gather_contest(
        floats((4096, 50257)), 1, generator().integers(0, 50257, (4096, 1)), batch=20
    )


def _scatter_add(values: int) -> Contest:
    import torch

    shape = (10, 10, 512, 512)
    x, src = np.zeros(shape, np.float32), floats(shape)
    index = generator().integers(0, values, shape)
    tx, ti, ts = (torch.from_numpy(a) for a in (x, index, src))
    return Contest(
        lambda: nbgather.scatter_add(x, 3, index, src),
        {"torch": lambda: torch.scatter_add(tx, 3, ti, ts)},
        2 * x.nbytes + index.nbytes + src.nbytes,
    )


GATHER_ROWS: tuple[Row, ...] = (
    Row("MAE rows, repeated", "gather", "x[64,196,768] dim 1, index [64,49,768]",
        lambda: _mae(False), {"best": 1.0, "copy": 1.3}),
    Row("MAE rows, expanded", "gather", "the same, index expanded from [64,49,1]",
        lambda: _mae(True), {"best": 1.0, "copy": 1.3}),
    Row("square, dim 1", "gather", "x[4096,4096], int64 index",
        lambda: _square(1), {"best": 1.0, "into": 1.3}),
    Row("square, dim 0", "gather", "x[4096,4096], int64 index",
        lambda: _square(0), {"best": 1.0, "onnxruntime": 2.5}),
    Row("DeBERTa", "gather", "x[10,10,512,512] dim -1",
        _deberta, {"best": 1.0, "into": 1.3}),
    Row("graph rows", "gather", "x[100000,128], 500,000 expanded rows",
        _graph, {"best": 1.0, "copy": 1.3}),
    Row("log-prob pick", "gather", "x[4096,50257], index [4096,1]", _pick),
    Row("float16, dim 1", "gather", "x[4096,4096] float16", lambda: _square(1, "float16")),
    Row("int8, dim 1", "gather", "x[4096,4096] int8", lambda: _square(1, "int8")),
    Row("int32 index, dim 1", "gather", "x[4096,4096], int32 index",
        lambda: _square(1, index_dtype="int32")),
    Row("transposed, dim 1", "gather", "x[4096,4096].T", _transposed),
)  # fmt: skip

SCATTER_ROWS: tuple[Row, ...] = (
    Row("scatter_add of 512", "gather", "[10,10,512,512], indices below 512",
        lambda: _scatter_add(512)),
    Row("scatter_add of 2", "gather", "[10,10,512,512], indices below 2",
        lambda: _scatter_add(2)),
)  # fmt: skip
