"""Gather along a dimension that is chunked: two plans, chosen by what an output block reads."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.utils import parse_bytes

from nbgather import _arrays, _validate
from nbgather._arrays import ITEMSIZES
from nbgather.dask._sides import chunked, index_beside, known, plain_block, start_of
from nbgather.kernels.cpu import launch as cpu
from nbgather.kernels.memory import memory_address

logger = logging.getLogger(__name__)

#: Bytes of the sources of one output block from which they are not brought together.
BUDGET = "512 MiB"
#: Partial results that are joined at once.
FAN = 8
PLANS = ("list", "tree")


def gather(
    input: Any,
    dim: int,
    index: Any,
    *,
    mode: str = "raise",
    fill_value: Any = 0,
    plan: str | None = None,
    budget: int | str = BUDGET,
) -> Any:
    """Gather along a dimension; :func:`nbgather.gather` of chunked arrays.

    Parameters
    ----------
    input : dask.array.Array
        Chunked in any way, along ``dim`` too; any dtype of 1, 2, 4, 8 or 16 bytes.
    dim : int
        The dimension to gather along.
    index : dask.array.Array, numpy.ndarray or sequence
        Any integer dtype, any chunks; off ``dim`` no larger than input.
    mode : {"raise", "clip", "wrap", "fill"}
        What a value out of bounds does. ``raise`` is an IndexError when the result is computed.
    fill_value : scalar
        For ``mode="fill"``.
    plan : {"list", "tree"}, optional
        ``list`` gathers an output block from all its source chunks in one task, where they lie;
        ``tree`` visits one source chunk in a task and ships only what it gives. By default
        ``tree`` where a block's sources are above ``budget``; the reason is logged.
    budget : int or str
        Bytes, or a text such as ``"512 MiB"``: about a quarter of a worker's memory.

    Returns
    -------
    dask.array.Array
        Shape and chunks of ``index``, dtype of ``input``.

    Raises
    ------
    TypeError, ValueError
        Shapes, dtypes or chunks that do not fit, when the graph is built.
    IndexError
        ``dim`` out of range; at compute, the first bad index of a block, by its global position.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nbgather.dask import gather
    >>> x = da.from_array(np.arange(12).reshape(2, 6), chunks=(1, 2))
    >>> gather(x, 1, np.array([[5, 0], [1, 4]])).compute()
    array([[ 5,  0],
           [ 7, 10]])
    """
    x, i = _operands(input, index, "input", "index")
    axis = _validate.dim(_validate.integer(dim, "dim"), x.ndim)
    _known_off(x, i, axis, "input", "index")
    shape = tuple(n if known(n) else m for n, m in zip(i.shape, i.shape, strict=True))
    _gather_shapes(x.shape, shape, axis)
    x = x[tuple(slice(None) if d == axis else _crop(x, i, d) for d in range(x.ndim))]
    i = i.rechunk({d: x.chunks[d] for d in range(x.ndim) if d != axis and _differ(x, i, d)})
    return _build(_Call(axis, axis, False, mode, fill_value), x, i, i.chunks, plan, budget)


def take_along_axis(
    arr: Any,
    indices: Any,
    axis: int = -1,
    *,
    mode: str = "raise",
    fill_value: Any = 0,
    plan: str | None = None,
    budget: int | str = BUDGET,
) -> Any:
    """Take values along an axis; :func:`nbgather.take_along_axis` of chunked arrays.

    Parameters
    ----------
    arr : dask.array.Array
        Chunked in any way.
    indices : dask.array.Array, numpy.ndarray or sequence
        Any integer dtype; off ``axis`` it broadcasts against ``arr``. Negative values count from
        the end.
    axis : int
        The axis to take along.
    mode, fill_value, plan, budget
        As in :func:`gather`.

    Returns
    -------
    dask.array.Array

    Raises
    ------
    TypeError, ValueError, IndexError
        As :func:`gather`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nbgather.dask import take_along_axis
    >>> x = da.from_array(np.arange(12).reshape(2, 6), chunks=(1, 2))
    >>> take_along_axis(x, np.array([[-1, 0]]), 1).compute()
    array([[ 5,  0],
           [11,  6]])
    """
    x, i = _operands(arr, indices, "arr", "indices")
    at = _validate.axis(_validate.integer(axis, "axis"), x.ndim)
    for d in range(min(x.ndim, i.ndim)):
        if d != at and not (known(x.shape[d]) and known(i.shape[d])):
            raise ValueError(
                f"chunk sizes along dimension {d} are unknown: call compute_chunk_sizes() first"
            )
    shape = _validate.along_shape(
        tuple(int(n) if known(n) else 1 for n in x.shape),
        tuple(int(n) if known(n) else 1 for n in i.shape),
        at,
    )
    for d in range(x.ndim):
        if d == at:
            continue
        if x.shape[d] != shape[d]:
            x = _spread(x, d, shape[d], i.chunks[d])
        if i.shape[d] != shape[d]:
            i = _spread(i, d, shape[d], x.chunks[d])
    i = i.rechunk({d: x.chunks[d] for d in range(x.ndim) if d != at and _differ(x, i, d)})
    return _build(_Call(at, at, True, mode, fill_value), x, i, i.chunks, plan, budget)


def gather_tokens(
    x: Any,
    ids: Any,
    *,
    mode: str = "raise",
    fill_value: Any = 0,
    plan: str | None = None,
    budget: int | str = BUDGET,
) -> Any:
    """Gather whole tokens; :func:`nbgather.gather_tokens` of chunked arrays.

    Parameters
    ----------
    x : dask.array.Array, shape [N, L, ...]
        Chunked in any way.
    ids : dask.array.Array, numpy.ndarray or sequence, shape [N, K]
        Which tokens.
    mode, fill_value, plan, budget
        As in :func:`gather`.

    Returns
    -------
    dask.array.Array, shape [N, K, ...]

    Raises
    ------
    TypeError, ValueError, IndexError
        As :func:`gather`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nbgather.dask import gather_tokens
    >>> x = da.from_array(np.arange(12).reshape(2, 3, 2), chunks=(1, 2, 1))
    >>> gather_tokens(x, np.array([[2], [0]])).compute().tolist()
    [[[4, 5]], [[6, 7]]]
    """
    taken, i = _operands(x, ids, "x", "ids")
    _validate.token_shapes(taken.shape, i.shape, "x", "ids")
    if _differ(taken, i, 0):
        i = i.rechunk({0: taken.chunks[0]})
    chunks = (*i.chunks, *taken.chunks[2:])
    return _build(_Call(1, 1, False, mode, fill_value), taken, i, chunks, plan, budget)


class _Call(NamedTuple):
    """What every task of a gather needs to know."""

    dim: int
    index_dim: int
    from_end: bool
    mode: str
    fill: Any


def _operands(x: Any, i: Any, x_name: str, i_name: str) -> tuple[Any, Any]:
    x, i = chunked(x, x_name), index_beside(i, i_name)
    adapted = _arrays._numpy_dtype
    x_type, i_type = adapted(x.dtype), adapted(i.dtype)
    _validate.itemsize(x_type.name, x_type.itemsize, ITEMSIZES, x_name)
    error = IndexError if i_name == "indices" else TypeError  # as NumPy's take_along_axis
    _validate.index_dtype(i_type.name, i_type.integer, i_name, error)
    return x, i


def _gather_shapes(x: tuple[Any, ...], i: tuple[Any, ...], dim: int) -> None:
    """The rules of gather, where the sizes are known."""
    sizes = [
        (int(n), int(m)) if known(n) and known(m) else (1, 1) for n, m in zip(x, i, strict=True)
    ]
    if math.prod(m for _, m in sizes):
        _validate.gather_shapes(tuple(n for n, _ in sizes), tuple(m for _, m in sizes), dim)


def _known_off(x: Any, i: Any, dim: int, x_name: str, i_name: str) -> None:
    if x.ndim != i.ndim:
        _validate.gather_shapes(x.shape, i.shape, dim)
    for d in range(x.ndim):
        unknown = not (known(x.shape[d]) and known(i.shape[d]))
        if d != dim and unknown and len(x.chunks[d]) != len(i.chunks[d]):
            raise ValueError(
                f"chunk sizes along dimension {d} are unknown, and {x_name} has"
                f" {len(x.chunks[d])} chunks there where {i_name} has {len(i.chunks[d])}: call"
                " compute_chunk_sizes() first"
            )


def _differ(x: Any, i: Any, d: int) -> bool:
    """Whether the chunks along ``d`` are known to differ."""
    return known(x.shape[d]) and known(i.shape[d]) and x.chunks[d] != i.chunks[d]


def _crop(x: Any, i: Any, d: int) -> slice:
    if known(x.shape[d]) and known(i.shape[d]) and i.shape[d] < x.shape[d]:
        return slice(0, int(i.shape[d]))
    return slice(None)


def _spread(array: Any, d: int, size: int, chunks: tuple[int, ...]) -> Any:
    """Broadcast one dimension, in chunks that the other operand has."""
    shape = (*array.shape[:d], size, *array.shape[d + 1 :])
    return da.broadcast_to(array, shape, chunks=(*array.chunks[:d], chunks, *array.chunks[d + 1 :]))


def _choose(x: Any, call: _Call, plan: str | None, budget: int | str) -> str:
    """Which plan, and why, for the log."""
    if plan is not None and plan not in PLANS:
        raise ValueError(f"plan is {plan!r}: it must be one of {', '.join(map(repr, PLANS))}")
    limit = parse_bytes(budget)
    all_known = all(map(known, x.chunks[call.dim]))
    if plan == "tree" and not all_known:
        raise ValueError(
            f"chunk sizes along dimension {call.dim} are unknown: plan 'tree' must know them; call"
            " compute_chunk_sizes() first, or use plan 'list'"
        )
    if plan is not None:
        return plan
    sides = [max((c for c in x.chunks[d] if known(c)), default=1) for d in range(x.ndim)]
    sides[call.dim] = sum(c for c in x.chunks[call.dim] if known(c))
    nbytes = math.prod(int(s) for s in sides) * x.dtype.itemsize
    chosen = "tree" if all_known and nbytes > limit else "list"
    sign = "above" if nbytes > limit else "within"
    logger.info(
        "gather by plan %r: the sources of an output block are %d bytes, %s the budget of %d",
        chosen, nbytes, sign, limit,
    )  # fmt: skip
    return chosen


def _build(call: _Call, x: Any, i: Any, chunks: Any, plan: str | None, budget: int | str) -> Any:
    """The graph of a gather whose operands' chunks fit off the dimension."""
    mode = _validate.mode(call.mode)
    fill = None
    if mode == "fill":
        fill = _arrays._numpy.scalar_bits(np.empty(0, x.dtype), call.fill).view(x.dtype)
    call = call._replace(fill=fill)
    size = x.shape[call.dim]
    if size == 0 and mode in ("clip", "wrap") and 0 not in i.shape:
        _validate.no_position(call.dim, mode)
    chosen = _choose(x, call, plan, budget)
    name = f"nbgather-{chosen}-" + tokenize(x, i, call, chosen)
    graph: dict[Any, Any] = {}
    for block in itertools.product(*(range(len(c)) for c in chunks)):
        sources = [
            (x.name, *block[: call.dim], j, *block[call.dim + 1 :])
            for j in range(x.numblocks[call.dim])
        ]
        indices = (i.name, *block[: i.ndim])
        starts = tuple(start_of(i.chunks[d], block[d]) for d in range(i.ndim))
        key = (name, *block)
        if chosen == "list":
            graph[key] = (_gather_list, sources, indices, call, starts)
        else:
            graph |= _tree(name, block, key, sources, indices, x, call, starts)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[x, i])
    meta = np.empty((0,) * len(chunks), x.dtype)
    return da.Array(layers, name, chunks=chunks, dtype=x.dtype, meta=meta)


def _tree(
    name: str, block: Any, key: Any, sources: Any, indices: Any, x: Any, call: _Call, starts: Any
) -> dict[Any, Any]:
    """Tasks that visit one source each, and join what they give, a few at a time."""
    graph: dict[Any, Any] = {}
    size = int(x.shape[call.dim])
    keys = []
    for j, source in enumerate(sources):
        part = (f"{name}-part-{j}", *block)
        start = sum(x.chunks[call.dim][:j])
        graph[part] = (_hits, source, indices, call, starts, int(start), size)
        keys.append(part)
    level = 0
    while len(keys) > FAN:
        joined = []
        for k in range(0, len(keys), FAN):
            part = (f"{name}-join-{level}-{k}", *block)
            graph[part] = (_join, keys[k : k + FAN])
            joined.append(part)
        keys, level = joined, level + 1
    graph[key] = (_finish, keys, x.dtype, call)
    return graph


def _flat(nested: Any) -> Iterator[np.ndarray]:
    for one in nested if isinstance(nested, list) else [nested]:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield plain_block(one, "a chunk of input")


def _refuse(index: np.ndarray, size: int, call: _Call, starts: tuple[int | None, ...]) -> None:
    """Raise the IndexError of the first bad index of a block, by its place in the whole."""
    found = _validate.first_bad_index(index, size, call.from_end)
    if found is None:
        return
    position, value = found
    place = np.unravel_index(position, index.shape)
    whole = ["?" if s is None else str(s + int(p)) for s, p in zip(starts, place, strict=True)]
    where = f"({whole[0]},)" if len(whole) == 1 else f"({', '.join(whole)})"
    raise IndexError(
        f"index {value} at {where} is out of bounds for dimension {call.dim} with size {size}"
    )


def _gather_list(
    sources: list[Any], index: np.ndarray, call: _Call, starts: tuple[int | None, ...]
) -> np.ndarray:
    """One output block, from all its source chunks, on the calling thread."""
    d = call.dim
    index = np.ascontiguousarray(plain_block(index, "a chunk of index"))
    if not index.dtype.isnative:
        index = index.astype(index.dtype.newbyteorder("="))
    chunks = list(_flat(sources))
    tokens = index.ndim < chunks[0].ndim
    off = index.shape[:d] if tokens else (*index.shape[:d], 0, *index.shape[d + 1 :])
    trimmed = []
    for chunk in chunks:
        for e, n in enumerate(off):
            if e != d and chunk.shape[e] < n:
                raise ValueError(
                    f"a chunk of index has {n} items along dimension {e} and the one of input"
                    f" {chunk.shape[e]}: the unknown chunk sizes do not fit"
                )
        cut = tuple(slice(None) if e == d else slice(0, n) for e, n in enumerate(off))
        part = np.ascontiguousarray(chunk[cut])
        trimmed.append(part if part.ctypes.data % part.itemsize == 0 else part.copy())
    first = trimmed[0]
    size = sum(c.shape[d] for c in trimmed)
    if size == 0 and index.size and call.mode in ("clip", "wrap"):
        _validate.no_position(d, call.mode)
    inner = math.prod(first.shape[d + 1 :])
    shape = (*index.shape, *first.shape[2:]) if tokens else index.shape
    out = np.empty(shape, first.dtype)
    table = [
        size,
        len(trimmed),
        inner,
        max(index.shape[d] if index.ndim else 1, 1),
        0 if tokens else 1,
    ]
    end, item = 0, first.itemsize
    base = memory_address(first)
    for chunk in trimmed:
        end += chunk.shape[d]
        table += [end, chunk.shape[d], (memory_address(chunk) - base) // item]
    fill = np.zeros(1, first.dtype) if call.fill is None else call.fill
    if out.size:
        code = f"{index.dtype.kind}{index.dtype.itemsize}"
        addresses = tuple(memory_address(a) for a in (out, first, index, fill))
        bad = cpu.gather_chunks(
            item, code, call.mode, call.from_end, addresses,  # type: ignore[arg-type]
            np.array(table, np.int64), out.size // max(inner, 1),
        )  # fmt: skip
        if bad:
            _refuse(index, size, call, starts)
    return out


class _Part(NamedTuple):
    """What one source gave to an output block: the block's shape, where, and what."""

    shape: tuple[int, ...]
    places: np.ndarray
    values: np.ndarray


def _hits(source: Any, index: np.ndarray, call: _Call, starts: Any, start: int, size: int) -> _Part:
    """The items of one source that an output block asks for."""
    d = call.dim
    source = plain_block(source, "a chunk of input")
    index = plain_block(index, "a chunk of index")
    if call.mode == "raise":
        _refuse(index, size, call, starts)
    position, valid = _positions(index, size, call)
    tokens = index.ndim < source.ndim
    here = valid & (position >= start) & (position < start + source.shape[d])
    places = np.flatnonzero(here)
    where = list(np.unravel_index(places, index.shape)) if index.ndim else []
    where[d] = position.reshape(-1)[places] - start
    shape = (*index.shape, *source.shape[2:]) if tokens else index.shape
    return _Part(shape, places, source[tuple(where)])


def _positions(index: np.ndarray, size: int, call: _Call) -> tuple[np.ndarray, np.ndarray]:
    """Positions as int64, and which of them take part, by the mode."""
    if index.dtype == np.uint64:  # whatever is not below 2**63 is beyond every size
        beyond = index >= np.uint64(2**63)
        rest = index % np.uint64(max(size, 1))
        index = np.where(beyond, np.uint64(2**63 - 1), index).astype(np.int64)
    else:
        index = index.astype(np.int64)
        beyond = None
    if call.from_end:
        index = np.where(index < 0, index + size, index)
    if call.mode == "clip":
        index = np.clip(index, 0, size - 1)
    elif call.mode == "wrap":
        wrapped = index % size
        index = wrapped if beyond is None else np.where(beyond, rest.astype(np.int64), wrapped)
    return index, (index >= 0) & (index < size)


def _join(parts: list[_Part]) -> _Part:
    return _Part(
        parts[0].shape,
        np.concatenate([p.places for p in parts]),
        np.concatenate([p.values for p in parts]),
    )


def _finish(parts: list[_Part], dtype: np.dtype[Any], call: _Call) -> np.ndarray:
    out = np.zeros(parts[0].shape, dtype) if call.fill is None else None
    if out is None:
        out = np.full(parts[0].shape, call.fill[0], dtype)
    for part in parts:
        rows = out.reshape(-1, *part.values.shape[1:])
        rows[part.places] = part.values
    return out
