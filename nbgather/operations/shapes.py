"""Which shapes fit together, and what shape comes out; unknown sizes are not compared."""

from __future__ import annotations

import math
from typing import Any

from nbgather.operations.base import known

Shape = tuple[Any, ...]


def is_empty(shape: Shape) -> bool:
    """Whether a shape is known to have no items."""
    return any(known(n) and n == 0 for n in shape)


def gather_shapes(x: Shape, index: Shape, dim: int) -> None:
    """Off the dimension an index is no larger than the input."""
    if max(len(x), 1) != max(len(index), 1):
        raise ValueError(
            f"index has {len(index)} dimensions (shape {index}) and input"
            f" {len(x)} (shape {x}): both must have the same number"
        )
    for d, (n, limit) in enumerate(zip(index, x, strict=False)):
        if d != dim and known(n) and known(limit) and n > limit:
            raise ValueError(
                f"index has size {n} at dimension {d}, input only {limit} (index shape"
                f" {index}, input shape {x}): off dim {dim} the index must not be"
                " larger than the input"
            )


def scatter_shapes(x: Shape, index: Shape, src: Shape, dim: int) -> None:
    """The same, and the index is no larger than src in any dimension."""
    gather_shapes(x, index, dim)
    if max(len(src), 1) != max(len(index), 1):
        raise ValueError(
            f"src has {len(src)} dimensions (shape {src}) and index"
            f" {len(index)} (shape {index}): both must have the same number"
        )
    # 0-d counts as one dimension of length 1.
    for d, (n, limit) in enumerate(zip(index or (1,), src or (1,), strict=True)):
        if known(n) and known(limit) and n > limit:
            raise ValueError(
                f"index has size {n} at dimension {d}, src only {limit} (index shape"
                f" {index}, src shape {src}): the index must not be larger than src"
            )


def along_shape(arr: Shape, indices: Shape, axis: int) -> Shape:
    """The result's shape of take_along_axis: off the axis the shapes broadcast."""
    if len(arr) != len(indices):
        raise ValueError(
            f"indices has {len(indices)} dimensions (shape {indices}) and arr"
            f" {len(arr)} (shape {arr}): both must have the same number"
        )
    shape = []
    for d, (n, m) in enumerate(zip(indices, arr, strict=False)):
        if d != axis and known(n) and known(m) and n != m and 1 not in (n, m):
            raise ValueError(
                f"indices has size {n} at dimension {d}, arr {m} (indices shape"
                f" {indices}, arr shape {arr}): off axis {axis} the sizes must be"
                " equal, or one of them 1"
            )
        shape.append(n if d == axis or (known(m) and m == 1) else m)
    return tuple(shape)


def flat_indices(ndim: int) -> None:
    if ndim != 1:
        raise ValueError(f"indices has {ndim} dimensions: with axis=None it must have 1")


def token_shapes(x: Shape, ids: Shape, x_name: str, ids_name: str) -> None:
    fit = len(x) >= 2 and len(ids) == 2
    if not fit or (known(x[0]) and known(ids[0]) and x[0] != ids[0]):
        raise ValueError(
            f"{x_name} has shape {x} and {ids_name} {ids}: [N, L, ...] and [N, K] with"
            " the same N are needed"
        )


def no_position(dim: int, mode: str) -> None:
    raise IndexError(f"dimension {dim} has size 0: mode {mode!r} has no position to choose")


def needs_position(shape: Shape, size: int, dim: int, mode: str) -> None:
    """Refuse the modes that choose a position where there is none to choose."""
    if size == 0 and mode in ("clip", "wrap") and math.prod(shape):
        no_position(dim, mode)
