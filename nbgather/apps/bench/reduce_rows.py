"""Rows of reductions: scatter_reduce, sums of rows, segments.

Values are small whole numbers, so that sums are the same in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call, Contest, Row
from nbgather.apps.bench.operands import generator, installed, onnx_session

__all__ = ["REDUCE_ROWS"]

#: The values of the index, below a size: how often each is hit.
INDICES: dict[str, Callable[[int, int], np.ndarray]] = {
    "random": lambda size, n: generator().integers(0, size, n),
    "sorted": lambda size, n: np.sort(generator().integers(0, size, n)),
    "power law": lambda size, n: np.minimum(generator().zipf(1.3, n) - 1, size - 1),
    "few": lambda size, n: generator().integers(0, 16, n) * (size // 16),
    "all the same": lambda size, n: np.full(n, size // 2),
}
_NUMPY = {"sum": np.add, "amax": np.maximum, "amin": np.minimum, "prod": np.multiply}
_JAX = {"sum": "add", "amax": "max", "amin": "min", "prod": "mul"}


def _whole(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return generator().integers(-8, 8, shape).astype(dtype)


def _columns(reduce: Any, own: bool, dtype: str = "float32") -> Contest:
    """The shape of an issue of torch's, where each column has an index of its own."""
    x, src = _whole((128, 64, 128), dtype), _whole((128, 256, 128), dtype)
    return _contest(x, 1, generator().integers(0, 64, src.shape), src, reduce, own)


def _flat(kind: str, reduce: Any, own: bool = True) -> Contest:
    x, src = _whole((100_000,)), _whole((2_000_000,))
    return _contest(x, 0, INDICES[kind](100_000, 2_000_000), src, reduce, own)


def _rows(kind: str, reduce: Any, own: bool = True) -> Contest:
    x, src = _whole((10_000, 64)), _whole((200_000, 64))
    rows = INDICES[kind](10_000, 200_000)
    index = np.broadcast_to(rows[:, None], src.shape)
    return _contest(x, 0, index, src, reduce, own, rows)


def _contest(
    x: np.ndarray,
    dim: int,
    index: np.ndarray,
    src: np.ndarray,
    reduce: Any,
    own: bool,
    rows: np.ndarray | None = None,
) -> Contest:
    peers: dict[str, Call] = {}
    if rows is None and index.ndim == 1:
        rows = index
    if installed("torch"):
        peers |= _torch(x, dim, index, src, reduce, own, rows)
    if rows is not None and own and reduce in _NUMPY:
        peers["numpy"] = lambda: _numpy(x, rows, src, _NUMPY[reduce])
        if installed("jax"):
            peers["jax"] = _jax(x, rows, src, _JAX[reduce])
        if installed("scipy") and reduce == "sum" and x.ndim == 2:
            peers["scipy.sparse"] = _sparse(x, rows, src)
    if rows is not None and own and x.ndim == 1:
        peers["numba's loop"] = _loop(x, rows, src, reduce)
        if installed("onnxruntime") and installed("onnx"):
            peers["onnxruntime"] = _model(x, rows, src, reduce)
    read = index.nbytes if rows is None else rows.nbytes
    return Contest(
        lambda: nbgather.scatter_reduce(x, dim, index, src, reduce, include_self=own),
        peers,
        2 * x.nbytes + read + src.nbytes,
    )


def _torch(
    x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray, reduce: Any, own: bool, rows: Any
) -> dict[str, Call]:
    import torch

    tx, ts = torch.from_numpy(x), torch.from_numpy(src)
    if rows is None:
        wide = torch.from_numpy(index)
    else:
        narrow = torch.from_numpy(rows)
        wide = narrow.reshape(-1, *(1,) * (x.ndim - 1)).expand(src.shape)
    peers: dict[str, Call] = {
        "torch": lambda: torch.scatter_reduce(tx, dim, wide, ts, reduce, include_self=own)
    }
    if rows is None:
        return peers
    if reduce == "sum":
        peers["torch.index_add"] = lambda: torch.index_add(tx, 0, narrow, ts)
    else:
        peers["torch.index_reduce"] = lambda: torch.index_reduce(
            tx, 0, narrow, ts, reduce, include_self=own
        )
    return peers


def _numpy(x: np.ndarray, rows: np.ndarray, src: np.ndarray, function: Any) -> np.ndarray:
    result = x.copy()
    function.at(result, rows, src)
    return result


def _jax(x: np.ndarray, rows: np.ndarray, src: np.ndarray, name: str) -> Call:
    import jax

    operands = [jax.numpy.asarray(a) for a in (x, rows, src)]
    function = jax.jit(lambda a, i, s: getattr(a.at[i], name)(s, mode="promise_in_bounds"))
    return lambda: function(*operands).block_until_ready()


def _loop(x: np.ndarray, rows: np.ndarray, src: np.ndarray, reduce: str) -> Call:
    """What one writes by hand, without checks, on one thread."""
    import numba

    def largest(x: Any, rows: Any, src: Any) -> Any:
        result = x.copy()
        for k in range(len(rows)):
            if src[k] > result[rows[k]]:
                result[rows[k]] = src[k]
        return result

    def mean(x: Any, rows: Any, src: Any) -> Any:
        result, count = x.copy(), np.ones(len(x), np.int64)
        for k in range(len(rows)):
            result[rows[k]] += src[k]
            count[rows[k]] += 1
        return (result / count).astype(x.dtype)

    function = numba.njit({"amax": largest, "mean": mean}[reduce])
    return lambda: function(x, rows, src)


def _model(x: np.ndarray, rows: np.ndarray, src: np.ndarray, reduce: str) -> Call:
    """ScatterElements."""
    from nbgather.onnx import scatter_reduce_model

    session = onnx_session(scatter_reduce_model(0, 1, reduce))
    operands = {"data": x, "indices": rows, "updates": src}
    return lambda: session.run(None, operands)[0]


def _sparse(x: np.ndarray, rows: np.ndarray, src: np.ndarray) -> Call:
    """The product with a matrix that has a one in each column."""
    from scipy import sparse

    ones, ends = np.ones(len(rows), x.dtype), np.arange(len(rows) + 1)

    def product() -> np.ndarray:
        matrix = sparse.csc_array((ones, rows, ends), shape=(len(x), len(rows)))
        return x + matrix @ src

    return product


def _segments(reduce: Any, columns: int = 0) -> Contest:
    """Segments of 0 to 40 rows that follow each other."""
    counts = generator().integers(1, 40, 4_000 if columns else 100_000)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    x = _whole((int(offsets[-1]), *(columns,) * (columns > 0)))
    peers: dict[str, Call] = {
        "numpy": lambda: _NUMPY[reduce].reduceat(x, offsets[:-1], 0),
    }
    if installed("torch"):
        import torch

        tx, where = torch.from_numpy(x), torch.from_numpy(offsets)
        name = {"amax": "max"}.get(reduce, reduce)
        peers["torch"] = lambda: torch.segment_reduce(tx, name, offsets=where)
    if installed("jax"):
        import jax

        ids = jax.numpy.asarray(np.repeat(np.arange(len(counts)), counts))
        jx, of_jax = jax.numpy.asarray(x), {"sum": "segment_sum", "amax": "segment_max"}[reduce]
        function = jax.jit(
            lambda a, i: getattr(jax.ops, of_jax)(a, i, len(counts), indices_are_sorted=True)
        )
        peers["jax"] = lambda: function(jx, ids).block_until_ready()
    nbytes = x.nbytes * (len(counts) + len(x)) // len(x)
    return Contest(lambda: nbgather.segment_reduce(x, reduce, offsets=offsets), peers, nbytes)


def _bags(reduce: Any, shape: tuple[int, int], bags: int, each: int) -> Contest:
    """Bags of as many rows each, chosen at random: embeddings, neighbours."""
    x, ids = _whole(shape), generator().integers(0, shape[0], (bags, each))
    peers: dict[str, Call] = {
        "numpy": lambda: _NUMPY[reduce].reduce(x[ids], axis=1),
        "numba's loop": _loop_of_bags(x, ids, reduce),
    }
    if installed("torch"):
        import torch

        # The offsets of the bags and the end of the last: the fastest way there.
        tx, ti = torch.from_numpy(x), torch.from_numpy(ids.ravel())
        to = torch.arange(bags + 1) * each
        mode = {"amax": "max"}.get(reduce, reduce)
        peers["torch"] = lambda: torch.nn.functional.embedding_bag(
            ti, tx, to, mode=mode, include_last_offset=True
        )
    if installed("jax"):
        import jax

        operands = [jax.numpy.asarray(a) for a in (x, ids)]
        of_jax = {"sum": jax.numpy.sum, "amax": jax.numpy.max}[reduce]
        function = jax.jit(lambda a, i: of_jax(a.at[i].get(mode="promise_in_bounds"), axis=1))
        peers["jax"] = lambda: function(*operands).block_until_ready()
    if installed("scipy") and reduce == "sum":
        from scipy import sparse

        ends = np.arange(bags + 1) * each
        entries = np.ones(ids.size, x.dtype), ids.ravel(), ends
        matrix = sparse.csr_array(entries, shape=(bags, shape[0]))
        peers["scipy.sparse"] = lambda: matrix @ x
    nbytes = ids.nbytes + (ids.size + bags) * x[0].nbytes
    return Contest(lambda: nbgather.gather_reduce(x, ids, reduce), peers, nbytes)


def _loop_of_bags(x: np.ndarray, ids: np.ndarray, reduce: str) -> Call:
    """What one writes by hand, by all threads and without checks."""
    import numba

    is_sum = reduce == "sum"

    def loop(x: Any, ids: Any) -> Any:
        result = np.empty((len(ids), x.shape[1]), x.dtype)
        for bag in numba.prange(len(ids)):
            for e in range(x.shape[1]):
                result[bag, e] = x[ids[bag, 0], e]
            for k in range(1, ids.shape[1]):
                for e in range(x.shape[1]):
                    new, old = x[ids[bag, k], e], result[bag, e]
                    result[bag, e] = old + new if is_sum else max(old, new)
        return result

    function = numba.njit(parallel=True)(loop)
    return lambda: function(x, ids)


_ISSUE = "[128,64,128] of [128,256,128], dim 1"

REDUCE_ROWS: tuple[Row, ...] = (
    Row("sum of columns", "reduce", f"{_ISSUE}, as scatter_add",
        lambda: _columns("sum", True)),
    Row("amax of columns", "reduce", f"{_ISSUE}, without self",
        lambda: _columns("amax", False), {"torch": 5.0}),
    Row("amin of columns", "reduce", f"{_ISSUE}, without self",
        lambda: _columns("amin", False), {"torch": 5.0}),
    Row("mean of columns", "reduce", f"{_ISSUE}, without self",
        lambda: _columns("mean", False), {"torch": 5.0}),
    Row("mean of columns, float16", "reduce", f"{_ISSUE}, float16",
        lambda: _columns("mean", True, "float16")),
    *(Row(f"{reduce} of items, {kind}", "reduce", "[100000] of 2,000,000",
          partial(_flat, kind, reduce))
      for kind in INDICES for reduce in ("amax", "mean")),
    *(Row(f"{reduce} of rows, {kind}", "reduce", "[10000,64] of 200,000 rows",
          partial(_rows, kind, reduce))
      for kind in INDICES for reduce in ("sum", "amax")),
    Row("sum of segments", "reduce", "100,000 of 1 to 39", lambda: _segments("sum")),
    Row("amax of segments", "reduce", "100,000 of 1 to 39", lambda: _segments("amax")),
    Row("sum of segments of rows", "reduce", "4,000 of 1 to 39 rows of 64",
        lambda: _segments("sum", 64)),
    *(Row(name, "reduce", f"[{rows},{columns}], {bags} of {each}",
          partial(_bags, name.partition(" ")[0], (rows, columns), bags, each))
      for name, rows, columns, bags, each in (
          ("sum of bags", 10_000, 64, 10_000, 20),
          ("sum of bags, far rows", 1_000_000, 32, 20_000, 20),
          ("sum of bags, wide rows", 10_000, 768, 1_000, 20),
          ("sum of bags, 33 columns", 50_000, 33, 20_000, 7),
          ("sum of bags, 8 columns", 200_000, 8, 20_000, 40),
          ("sum of bags, one column", 1_000, 1, 100_000, 5),
          ("sum of bags, 257 columns", 40_000, 257, 3_000, 11),
          ("sum of bags, 1000 columns", 300, 1_000, 2_000, 3),
          ("amax of bags", 100_000, 64, 10_000, 20))),
)  # fmt: skip
