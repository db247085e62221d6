"""Gather and scatter with their kin: the operations that are each other's gradients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from nbgather.operations import checks
from nbgather.operations.base import (
    Apply,
    DType,
    Operation,
    Spec,
    Tuple,
    batch_of_samples,
    device_of,
    fresh,
    known,
    to_front,
)
from nbgather.operations.positions import narrow_positions
from nbgather.operations.shapes import (
    Shape,
    along_shape,
    gather_shapes,
    is_empty,
    scatter_shapes,
    token_shapes,
)

#: The kind of numbers that scatter_add adds in a dtype; integers of one size wrap alike.
ADDED = {
    "bool": "bool",
    **{f"{sign}int{8 * n}": f"u{n}" for n in (1, 2, 4, 8) for sign in ("", "u")},
    "float32": "f4",
    "float64": "f8",
    "complex64": "c8",
    "complex128": "c16",
}
#: Summed in float32 and rounded once, as torch does.
WIDENED = ("float16", "bfloat16")


class Loop(NamedTuple):
    """How operands are walked at the shape of the result; strides in bytes.

    Along ``dim`` the input is walked by the index's values, not by its stride.
    """

    shape: tuple[int, ...]
    dim: int
    size: int
    input_strides: tuple[int, ...]
    index_strides: tuple[int, ...]


@dataclass(frozen=True)
class Gather(Operation):
    """torch.gather: operands (input, index)."""

    dim: int
    mode: str = "raise"
    fill_value: Any = 0

    names: ClassVar[tuple[str, ...]] = ("input", "index")
    sides: ClassVar[tuple[int, ...]] = (1,)
    differentiable: ClassVar[tuple[int, ...]] = (0,)
    #: Which operand has the shape of the result.
    shaped_by: ClassVar[int] = 1
    #: Whether a negative index counts from the end.
    from_end: ClassVar[bool] = False
    #: What an index of another dtype raises.
    index_error: ClassVar[type[Exception]] = TypeError

    def __post_init__(self) -> None:
        checks.mode(self.mode)

    @property
    def mode_at_once(self) -> str:
        """The mode where every call has ended when it comes back: there nothing is put off."""
        return "raise" if self.mode == "defer" else self.mode

    def axis(self, ndim: int) -> int:
        """The dimension, counted from the front."""
        return checks.dim(self.dim, ndim)

    def shape(self, x: Shape, index: Shape) -> Shape:
        """The result's shape, for shapes that fit."""
        dim = self.axis(len(x))
        if not is_empty(index):
            gather_shapes(x, index, dim)
        return index

    def result(self, x: Spec, index: Spec) -> tuple[Spec, ...]:
        self.check_dtypes(x, index)
        return (fresh(self.shape(x.shape, index.shape), x.dtype, x),)

    def check_dtypes(self, x: Spec, index: Spec) -> None:
        """Whether items can be moved, and the index is one."""
        checks.itemsize(x.dtype, self.names[0])
        checks.index_dtype(index.dtype, self.names[1], self.index_error)

    def loop(self, x: Spec, index: Spec) -> Loop:
        """The loop over known shapes."""
        dim = self.axis(len(x.shape))
        size = x.shape[dim] if x.shape else 1
        return Loop(self.shape(x.shape, index.shape), dim, size, x.strides, index.strides)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        shape = specs[0].shape
        return (self._scatter_back(do, cotangent, shape, self.axis(len(shape)), operands[1]),)

    def _scatter_back(self, do: Apply, cotangent: Any, shape: Shape, dim: int, index: Any) -> Any:
        """Add a cotangent to where its items came from, an array of ``shape``.

        The index may have dimensions of 1 where the cotangent has more.
        """
        xp, zeros = do.xp, do.zeros(shape, cotangent)
        full = tuple(cotangent.shape)
        if is_empty(shape) or is_empty(full):
            return zeros
        size = shape[dim] if shape else 1
        if self.mode_at_once != "raise" or self.from_end:  # else a bad index has been told of
            index, inside = narrow_positions(xp, index, size, self.mode, self.from_end)
            if self.mode == "fill":
                cotangent = xp.where(inside, cotangent, 0)
            elif self.mode == "defer":  # what is out of bounds stays so, and is left out
                index = xp.where(inside, index, size)
        if tuple(index.shape) != full:
            index = do.spread(index, full)
        return do.run(ScatterAdd(dim, mode="defer", told=True), zeros, index, cotangent)

    def tangent(
        self,
        do: Apply,
        tangents: tuple[Any, ...],
        specs: tuple[Any, ...],
        operands: tuple[Any, ...],
    ) -> Any:
        return do.run(replace(self, fill_value=0), tangents[0], operands[1])

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        return _batch_off_dim(self, do, size, operands, axes)


@dataclass(frozen=True)
class TakeAlongAxis(Gather):
    """numpy.take_along_axis: operands (arr, indices); other dimensions broadcast."""

    names: ClassVar[tuple[str, ...]] = ("arr", "indices")
    from_end: ClassVar[bool] = True
    index_error: ClassVar[type[Exception]] = IndexError  # as NumPy's

    def axis(self, ndim: int) -> int:
        return checks.axis(self.dim, ndim)

    def shape(self, x: Shape, index: Shape) -> Shape:
        return along_shape(x, index, self.axis(len(x)))

    def loop(self, x: Spec, index: Spec) -> Loop:
        dim = self.axis(len(x.shape))
        shape = self.shape(x.shape, index.shape)
        strides = _broadcast(x, shape, dim), _broadcast(index, shape)
        return Loop(shape, dim, x.shape[dim], *strides)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        shape = specs[0].shape
        dim = self.axis(len(shape))
        full = tuple(cotangent.shape)
        whole = (*full[:dim], shape[dim], *full[dim + 1 :])
        return (sum_to(do, self._scatter_back(do, cotangent, whole, dim, operands[1]), shape),)


@dataclass(frozen=True)
class TakeInBounds(TakeAlongAxis):
    """The same of an index that does not count from the end: a gather whose input broadcasts."""

    from_end: ClassVar[bool] = False
    index_error: ClassVar[type[Exception]] = TypeError


@dataclass(frozen=True)
class GatherTokens(Gather):
    """Whole tokens of each sample: operands (x `[N, L, ...]`, ids `[N, K]`)."""

    dim: int = 1

    names: ClassVar[tuple[str, ...]] = ("x", "ids")

    def axis(self, ndim: int) -> int:
        return 1

    def shape(self, x: Shape, index: Shape) -> Shape:
        token_shapes(x, index, *self.names[:2])
        return (*index, *x[2:])

    def loop(self, x: Spec, index: Spec) -> Loop:
        shape = self.shape(x.shape, index.shape)
        strides = index.strides + (0,) * (len(x.shape) - 2)
        return Loop(shape, 1, x.shape[1], x.strides, strides)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        ids = beside_tokens(do, operands[1], tuple(cotangent.shape))
        return (self._scatter_back(do, cotangent, specs[0].shape, 1, ids),)

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        return batch_of_samples(self, do, size, operands, axes)


@dataclass(frozen=True)
class Scatter(Operation):
    """torch.scatter: operands (input, index, src); a number for src stands for all of them.

    In the mode ``defer`` a bad index is skipped, where it cannot be raised at once.
    """

    dim: int
    mode: str = field(default="raise", kw_only=True)
    #: Whether a bad index has been told of, or will be, by the call whose gradient this is.
    told: bool = field(default=False, kw_only=True)

    names: ClassVar[tuple[str, ...]] = ("input", "index", "src")
    sides: ClassVar[tuple[int, ...]] = (1,)
    values: ClassVar[tuple[int, ...]] = (2,)
    may_be_numbers: ClassVar[tuple[int, ...]] = (2,)
    differentiable: ClassVar[tuple[int, ...]] = (0, 2)
    #: Which operand has the shape of the result.
    shaped_by: ClassVar[int] = 0

    def __post_init__(self) -> None:
        checks.mode(self.mode, checks.WRITE_MODES)

    def axis(self, ndim: int) -> int:
        """The dimension, counted from the front."""
        return checks.dim(self.dim, ndim)

    def result(self, x: Spec, index: Spec, src: Spec | None) -> tuple[Spec, ...]:
        """``src`` is None where it is a number."""
        checks.itemsize(x.dtype, "input")
        checks.index_dtype(index.dtype, "index")
        dim = self.axis(len(x.shape))
        if src is not None and x.dtype.name != src.dtype.name:
            raise TypeError(
                f"input has dtype {x.dtype.name} and src {src.dtype.name}: one is needed"
            )
        if not is_empty(index.shape):
            shape = index.shape if src is None else src.shape
            scatter_shapes(x.shape, index.shape, shape, dim)
        return (fresh(x.shape, x.dtype, x),)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        index, src = operands[1], specs[2]
        return (
            self._to_input(do, cotangent, index) if needed[0] else None,
            self._to_src(do, cotangent, index, src) if needed[1] and src is not None else None,
        )

    def _to_input(self, do: Apply, cotangent: Any, index: Any) -> Any:
        """What was overwritten has no part in the result."""
        return do.run(Scatter(self.dim, mode="defer", told=True), cotangent, index, 0)

    def _to_src(self, do: Apply, cotangent: Any, index: Any, src: Spec) -> Any:
        """As in torch, each of several values for one place gets its whole cotangent."""
        read = do.run(Gather(self.dim, mode="defer"), cotangent, index)
        return self._padded(do, read, src)

    def _padded(self, do: Apply, read: Any, src: Spec) -> Any:
        """What the part of src that is read gets, with zeros for the rest."""
        for d, n in enumerate(src.shape):
            missing = n - read.shape[d]
            if not (known(missing) and missing == 0):
                shape = (*read.shape[:d], missing, *read.shape[d + 1 :])
                zeros = do.xp.zeros(shape, dtype=read.dtype, device=device_of(read))
                read = do.xp.concat([read, zeros], axis=d)
        return read

    def tangent(
        self,
        do: Apply,
        tangents: tuple[Any, ...],
        specs: tuple[Any, ...],
        operands: tuple[Any, ...],
    ) -> Any:
        to_input, _, to_src = tangents
        if to_input is None:
            to_input = do.xp.zeros(specs[0].shape, dtype=to_src.dtype, device=device_of(to_src))
        if to_src is None:
            to_src = 0
            if specs[2] is not None:
                shape = specs[2].shape
                to_src = do.xp.zeros(shape, dtype=to_input.dtype, device=device_of(to_input))
        return do.run(self, to_input, operands[1], to_src)

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        return _batch_off_dim(self, do, size, operands, axes)


@dataclass(frozen=True)
class ScatterAdd(Scatter):
    """torch.scatter_add: the sums of one place in row-major order of the index."""

    may_be_numbers: ClassVar[tuple[int, ...]] = ()

    def result(self, x: Spec, index: Spec, src: Spec | None) -> tuple[Spec, ...]:
        results = super().result(x, index, src)
        if x.dtype.plain not in WIDENED:
            added_kind(x.dtype)
        return results

    def _to_input(self, do: Apply, cotangent: Any, index: Any) -> Any:
        return cotangent

    def lower(self, do: Apply, *operands: Any) -> Any:
        """Sums of narrow floats in float32, rounded once."""
        x, index, src = operands
        xp = do.xp
        wide = do.run(self, xp.astype(x, xp.float32), index, xp.astype(src, xp.float32))
        return xp.astype(wide, x.dtype)


def _batch_off_dim(
    operation: Gather | Scatter, do: Apply, size: int, operands: Tuple, axes: Tuple
) -> Any:
    """The batching rule of operations along a dimension: a batch is one more, in front."""
    sizes = [a.ndim - (axis is not None) for a, axis in zip(operands, axes, strict=True)]

    def front(k: int) -> Any:
        array, axis = operands[k], axes[k]
        spreads = axis is None and k in operation.sides
        moved = array[None] if spreads else to_front(do, array, axis, size)
        if sizes[k] == 0:  # of numbers each is an array of one, as a 0-d array is to the operation
            moved = do.xp.reshape(moved, (-1, 1))
        return do.spread(moved, (size, *moved.shape[1:])) if spreads else moved

    dim = operation.axis(max(sizes[0], 1)) + 1
    result = do.run(replace(operation, dim=dim), *map(front, range(len(operands))))
    return do.xp.reshape(result, (size,)) if sizes[operation.shaped_by] == 0 else result


def added_kind(dtype: DType) -> str:
    """What :data:`ADDED` says of a dtype; a TypeError where it has no sum."""
    kind = ADDED.get(dtype.plain) if dtype.native else None
    if kind is None:
        raise TypeError(
            f"input has dtype {dtype.name}: a sum takes bool, integers, float16, bfloat16, float32,"
            " float64 and complex numbers, in this machine's byte order"
        )
    return kind


def beside_tokens(do: Apply, ids: Any, shape: Shape) -> Any:
    """Ids `[N, K]` as `[N, K, 1, ...]`, of as many dimensions as the tokens that they pick."""
    return do.xp.reshape(ids, (*ids.shape, *(1,) * (len(shape) - 2)))


def sum_to(do: Apply, array: Any, shape: Shape) -> Any:
    """The sum over the dimensions in which ``shape`` was broadcast."""
    axes = tuple(
        d
        for d, (n, m) in enumerate(zip(array.shape, shape, strict=True))
        if known(m) and m == 1 and not (known(n) and n == 1)
    )
    if not axes:
        return array
    return do.xp.sum(array, axis=axes, keepdims=True, dtype=array.dtype)


def _broadcast(spec: Spec, shape: tuple[int, ...], keep: int = -1) -> tuple[int, ...]:
    """The strides that view an array at ``shape``; dimension ``keep`` stays as it is."""
    strides = spec.strides or (spec.dtype.itemsize,)
    return tuple(
        0 if n == 1 and d != keep and shape[d] != 1 else s
        for d, (n, s) in enumerate(zip(spec.shape or (1,), strides, strict=True))
    )
