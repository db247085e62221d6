"""Cases of gather, take_along_axis and gather_tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.operands import installed
from nbgather.apps.bench.surface.case import Case, Traffic, calls_of
from nbgather.apps.bench.surface.draws import (
    FEWEST_ITEMS,
    MOST_ITEMS,
    Generator,
    choice,
    cut,
    indices,
    log_uniform,
    values,
)
from nbgather.apps.bench.surface.peers import jax_call, onnx_calls, tensors

DTYPES = {"float32": 2, "float64": 1, "int64": 1, "float16": 1, "uint8": 1, "int32": 1}
INDEX_DTYPES = {"int64": 3, "int32": 1}
ORDERS = {"random": 1, "sorted": 1, "argsort": 1, "few": 1}
DIMS = {1: 1, 2: 3, 3: 3, 4: 1}


def along(rng: Generator, dtypes: Mapping[str, float], most: int = MOST_ITEMS) -> dict[str, Any]:
    """Operands of a call along a dim: ``x``, ``dim``, ``index`` and the order that it is in."""
    dims = choice(rng, DIMS)
    shape = cut(rng, log_uniform(rng, FEWEST_ITEMS, most), dims)
    dim = int(rng.integers(dims))
    dtype, index_dtype = choice(rng, dtypes), choice(rng, INDEX_DTYPES)
    picked = max(1, log_uniform(rng, 0.03 * shape[dim], 2 * shape[dim]))
    others = math.prod(shape) // shape[dim]
    picked = min(picked, max(1, most // others))
    order = choice(rng, ORDERS)
    index_shape = [*shape[:dim], picked, *shape[dim + 1 :]]
    return {
        "x": values(rng, shape, dtype),
        "dim": dim,
        "index": indices(rng, index_shape, dim, shape[dim], order, index_dtype),
        "order": order,
    }


def in_words(x: np.ndarray, dim: int, index: np.ndarray, order: str) -> str:
    """The operands of a call along a dim."""
    return f"{x.dtype}{list(x.shape)} dim {dim}, {index.dtype}{list(index.shape)} {order}"


def row_of(shape: tuple[int, ...], dim: int) -> int:
    """Items of the innermost loop: along the last dim those picked, else those behind the dim."""
    return shape[dim] if dim == len(shape) - 1 else math.prod(shape[dim + 1 :])


def gather_traffic(x: np.ndarray, index: np.ndarray, result: int) -> Traffic:
    """Every place of the index is read, its source loaded and a result stored."""
    items = result // x.itemsize
    return Traffic(index.nbytes, min(x.nbytes, result), result, items, x.nbytes)


def gather_case(rng: Generator) -> Case:
    """``gather`` along a random dim, the other sizes equal."""
    drawn = along(rng, DTYPES)
    x, dim, index = drawn["x"], drawn["dim"], drawn["index"]
    out = np.empty(index.shape, x.dtype)
    operands: dict[str, Any] = {"numpy": (x, dim, index)}
    into: dict[str, Any] = {"numpy": np.empty_like(out)}
    peers: dict[str, Call] = {"numpy": lambda: np.take_along_axis(x, index, dim)}
    if x.ndim == 1:
        peers["numpy.take"] = lambda: np.take(x, index)
        peers["numpy.take out="] = lambda: np.take(x, index, out=out, mode="clip")
    if installed("torch"):
        import torch

        tx, ti, to = tensors(x, index, np.empty_like(out))
        operands["torch"], into["torch"] = (tx, dim, ti), torch.from_numpy(np.empty_like(out))
        peers["torch"] = lambda: torch.gather(tx, dim, ti)
        peers["torch out="] = lambda: torch.gather(tx, dim, ti, out=to)
        if x.ndim == 1:
            peers["torch.index_select"] = lambda: torch.index_select(tx, 0, ti)
            peers["torch.index_select out="] = lambda: torch.index_select(tx, 0, ti, out=to)
    peers |= onnx_calls("GatherElements", (x, index), np.empty_like(out), axis=dim)
    if installed("jax"):
        peers["jax"] = _jax_along(x, index, dim)
    return Case(
        in_words(x, dim, index, drawn["order"]),
        row_of(index.shape, dim),
        gather_traffic(x, index, out.nbytes),
        calls_of(nbgather.gather, operands, into),
        peers,
    )


def _jax_along(x: np.ndarray, index: np.ndarray, dim: int, mode: str = "promise_in_bounds") -> Call:
    import jax

    return jax_call(lambda a, i: jax.numpy.take_along_axis(a, i, dim, mode=mode), x, index)


def take_along_axis_case(rng: Generator) -> Case:
    """``take_along_axis``: some indices count from the end, some operands are broadcast."""
    drawn = along(rng, DTYPES)
    x, dim, index = drawn["x"], drawn["dim"], drawn["index"]
    words = [drawn["order"]]
    broadcast = choice(rng, {"": 6, "indices": 1, "arr": 1}) if x.ndim > 1 else ""
    other = (dim + 1) % x.ndim
    if broadcast == "indices":
        index = np.ascontiguousarray(index.take([0], other))
    elif broadcast == "arr":
        x = np.ascontiguousarray(x.take([0], other))
    negative = rng.random() < 0.25
    if negative:
        index -= np.where(rng.random(index.shape) < 0.5, x.shape[dim], 0).astype(index.dtype)
        words.append("from both ends")
    out = np.take_along_axis(x, index, dim)
    operands: dict[str, Any] = {"numpy": (x, index, dim)}
    into: dict[str, Any] = {"numpy": np.empty_like(out)}
    peers: dict[str, Call] = {"numpy": lambda: np.take_along_axis(x, index, dim)}
    if installed("torch"):
        import torch

        tx, ti, to = tensors(x, index, np.empty_like(out))
        operands["torch"], into["torch"] = (tx, ti, dim), torch.from_numpy(np.empty_like(out))
        if not negative:
            wide_x, wide_i = _broadcast(tx, ti, dim)
            peers["torch"] = lambda: torch.gather(wide_x, dim, wide_i)
            peers["torch out="] = lambda: torch.gather(wide_x, dim, wide_i, out=to)
    if not broadcast:
        peers |= onnx_calls("GatherElements", (x, index), np.empty_like(out), axis=dim)
    if installed("jax"):
        peers["jax"] = _jax_along(x, index, dim, "fill" if negative else "promise_in_bounds")
    return Case(
        in_words(x, dim, index, " ".join(words)),
        row_of(out.shape, dim),
        gather_traffic(x, index, out.nbytes),
        calls_of(nbgather.take_along_axis, operands, into),
        peers,
    )


def _broadcast(x: Any, index: Any, dim: int) -> tuple[Any, Any]:
    """As torch.take_along_dim does it, once: views that agree off the dim."""
    shape = [max(a, b) for a, b in zip(x.shape, index.shape, strict=True)]

    def widened(a: Any) -> Any:
        return a.expand([*shape[:dim], a.shape[dim], *shape[dim + 1 :]])

    return widened(x), widened(index)


def gather_tokens_case(rng: Generator) -> Case:
    """``gather_tokens``: rows of each sample, the index never expanded."""
    samples, width = log_uniform(rng, 1, 630), log_uniform(rng, 1, 1250)
    length = log_uniform(rng, 2, 10_000)
    length = max(2, min(length, MOST_ITEMS // (samples * width)))
    picked = max(1, log_uniform(rng, 0.03 * length, 2 * length))
    dtype, index_dtype = choice(rng, DTYPES), choice(rng, INDEX_DTYPES)
    order = choice(rng, ORDERS)
    x = values(rng, (samples, length, width), dtype)
    ids = indices(rng, (samples, picked), 1, length, order, index_dtype)
    out = np.empty((samples, picked, width), dtype)
    batch = np.arange(samples)[:, None]
    operands: dict[str, Any] = {"numpy": (x, ids)}
    into: dict[str, Any] = {"numpy": np.empty_like(out)}
    peers: dict[str, Call] = {
        "numpy": lambda: x[batch, ids],
        "numpy.take_along_axis": lambda: np.take_along_axis(x, ids[:, :, None], 1),
    }
    if samples == 1:
        peers["numpy.take"] = lambda: np.take(x[0], ids[0], 0)[None]
    if installed("torch"):
        operands["torch"] = tuple(tensors(x, ids))
        into["torch"] = tensors(np.empty_like(out))[0]
        peers |= _torch_rows(x, ids, np.empty_like(out))
    if index_dtype == "int64":  # GatherND has no other
        positions = ids[:, :, None]
        peers |= onnx_calls("GatherND", (x, positions), np.empty_like(out), batch_dims=1)
    if installed("jax"):
        peers["jax"] = _jax_along(x, ids[:, :, None], 1)
    return Case(
        in_words(x, 1, ids, order),
        width,
        Traffic(ids.nbytes, min(x.nbytes, out.nbytes), out.nbytes, ids.size, x.nbytes),
        calls_of(nbgather.gather_tokens, operands, into),
        peers,
    )


def _torch_rows(x: np.ndarray, ids: np.ndarray, out: np.ndarray) -> dict[str, Call]:
    """Rows by torch: the index expanded, and rows of the flattened source."""
    import torch

    tx, ti, to = tensors(x, ids, out)
    samples, length, width = x.shape
    shape = tuple(out.shape)
    flat, flat_out = tx.view(-1, width), to.view(-1, width)
    first = (torch.arange(samples, dtype=ti.dtype) * length)[:, None]

    def rows() -> Any:
        return (ti if samples == 1 else ti + first).view(-1)

    def selected_into() -> Any:
        torch.index_select(flat, 0, rows(), out=flat_out)
        return to

    wide = ti[:, :, None].expand(shape)
    return {
        "torch": lambda: torch.gather(tx, 1, wide),
        "torch out=": lambda: torch.gather(tx, 1, wide, out=to),
        "torch.index_select": lambda: torch.index_select(flat, 0, rows()).view(shape),
        "torch.index_select out=": selected_into,
    }
