"""Cases of scatter and scatter_add."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.operands import installed
from nbgather.apps.bench.surface.case import Case, Traffic, calls_of
from nbgather.apps.bench.surface.draws import MOST_ITEMS, Generator, values
from nbgather.apps.bench.surface.gather_cases import DTYPES, along, in_words, row_of
from nbgather.apps.bench.surface.peers import jax_call, onnx_calls, tensors

ADDED_DTYPES = {"float32": 3, "float64": 1, "int64": 1, "int32": 1}


def scatter_case(rng: Generator) -> Case:
    """``scatter``; where an index repeats, only who lets the last one win does the same."""
    return _case(rng, False)


def scatter_add_case(rng: Generator) -> Case:
    """``scatter_add`` of numbers and whole numbers."""
    return _case(rng, True)


def _case(rng: Generator, add: bool) -> Case:
    drawn = along(rng, ADDED_DTYPES if add else DTYPES, MOST_ITEMS // 2)
    x, dim, index = drawn["x"], drawn["dim"], drawn["index"]
    src = values(rng, index.shape, x.dtype.name)
    unique = drawn["order"] == "argsort" and index.shape[dim] <= x.shape[dim]
    operands: dict[str, Any] = {"numpy": (x, dim, index, src)}
    into: dict[str, Any] = {"numpy": np.empty_like(x)}
    peers = {"numpy": _numpy_scatter(x, dim, index, src, add)}
    if installed("torch"):
        operands["torch"] = _torch_operands(x, dim, index, src)
        into["torch"] = tensors(np.empty_like(x))[0]
        peers |= _torch_scatter(operands["torch"], tensors(np.empty_like(x))[0], add)
    options = {"axis": dim, "reduction": "add"} if add else {"axis": dim}
    if add or unique:
        peers |= onnx_calls("ScatterElements", (x, index, src), np.empty_like(x), **options)
    if installed("jax") and (add or unique):
        peers["jax"] = _jax_scatter(x, dim, index, src, add)
    function = nbgather.scatter_add if add else nbgather.scatter
    return Case(
        in_words(x, dim, index, drawn["order"]),
        row_of(index.shape, dim),
        Traffic(index.nbytes, x.nbytes + src.nbytes, x.nbytes, index.size, x.nbytes),
        calls_of(function, operands, into),
        peers,
        "close" if add and x.dtype.kind == "f" else "bits",
    )


def _numpy_scatter(x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray, add: bool) -> Call:
    if not add:

        def put() -> np.ndarray:
            result = x.copy()
            np.put_along_axis(result, index, src, dim)
            return result

        return put
    places: list[np.ndarray] = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    places[dim] = index
    where = tuple(places)

    def accumulate() -> np.ndarray:
        result = x.copy()
        np.add.at(result, where, src)
        return result

    return accumulate


def _torch_operands(x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray) -> tuple:
    tx, ti, ts = tensors(x, index, src)
    return tx, dim, ti, ts


def _torch_scatter(operands: tuple[Any, ...], out: Any, add: bool) -> dict[str, Call]:
    import torch

    function = torch.scatter_add if add else torch.scatter
    return {
        "torch": lambda: function(*operands),
        "torch out=": lambda: function(*operands, out=out),
    }


def _jax_scatter(x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray, add: bool) -> Call:
    import jax

    def scattered(a: Any, i: Any, s: Any) -> Any:
        places = list(jax.numpy.ogrid[tuple(slice(n) for n in index.shape)])
        places[dim] = i
        at = a.at[tuple(places)]
        if add:
            return at.add(s, mode="promise_in_bounds")
        return at.set(s, mode="promise_in_bounds", unique_indices=True)

    return jax_call(scattered, x, index, src)
