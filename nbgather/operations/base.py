"""What every operation has: specifications of arrays, and the rules that are asked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

Tuple = tuple[Any, ...]


class DType(NamedTuple):
    """What is known of a dtype: its name, bytes, integer code such as ``i8``, and byte order."""

    name: str
    itemsize: int
    integer: str | None = None
    native: bool = True

    @property
    def plain(self) -> str:
        """The name without what a library or a byte order puts before it: ``f4``, ``bfloat16``."""
        return self.name.rpartition(".")[2].lstrip("<>=|")


BOOL = DType("bool", 1)
FLOAT32 = DType("float32", 4)
INT64 = DType("int64", 8, "i8")


class Spec(NamedTuple):
    """An array without its values: shape, strides in bytes, dtype, device.

    A size that is not an int is not known yet (torch's symbolic sizes, Dask's NaN, the names of
    ONNX): a rule compares known sizes only, and the others are compared when the operation runs.
    """

    shape: tuple[Any, ...]
    strides: tuple[int, ...]
    dtype: DType
    device: str = "cpu"


def fresh(shape: tuple[Any, ...], dtype: DType, like: Spec) -> Spec:
    """The specification of a new C-contiguous array on the device of ``like``."""
    if not all(map(known, shape)):
        return Spec(shape, (), dtype, like.device)
    return Spec(shape, contiguous_strides(shape, dtype.itemsize), dtype, like.device)


def contiguous_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """The strides in bytes of a C-contiguous array."""
    strides: list[int] = []
    step = itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def is_contiguous(spec: Spec) -> bool:
    """Whether an array is C-contiguous."""
    return spec.strides == contiguous_strides(spec.shape, spec.dtype.itemsize)


def known(size: Any) -> bool:
    """Whether a size is a number that can be compared."""
    return isinstance(size, int)


def is_array(value: Any) -> bool:
    """Whether an operand is an array of some library, and not a number or nothing."""
    return hasattr(type(value), "shape") and not isinstance(value, np.generic)


class Options(NamedTuple):
    """How a call is executed: where the result goes, which backend computes it.

    ``lower`` asks for the operations that it is made of, where those are what a gradient knows.
    """

    out: Any = None
    backend: str | None = None
    lower: bool = False


#: What most calls are executed with.
PLAIN = Options()


class Apply:
    """What a gradient, a batching rule or a lowering is written with.

    Attributes
    ----------
    run : callable
        ``run(operation, *operands)``: another operation on arrays of the same container.
    xp : module
        The array namespace of the container (array-api-compat's), for what a namespace can do.
    """

    __slots__ = ("_namespace", "run")

    def __init__(self, run: Callable[..., Any], namespace: Callable[[], Any]) -> None:
        self.run, self._namespace = run, namespace

    @property
    def xp(self) -> Any:
        return self._namespace()

    def spread(self, array: Any, shape: Tuple) -> Any:
        """An array broadcast to a shape, as an operand that says where and for `run` alone."""
        return self.xp.broadcast_to(array, shape)

    def zeros(self, shape: Tuple, like: Any) -> Any:
        """Zeros that no one else has, of the dtype of an array and beside it."""
        return self.xp.zeros(shape, dtype=like.dtype, device=device_of(like))


class Operation:
    """A value that says what is to be done; see the subclasses for the operands of each.

    Subclasses are frozen dataclasses. ``result`` is asked by everything that must know a result
    before it is there: the engine, torch's fake tensors, XLA, Dask.
    """

    #: What the operands are called in a message.
    names: ClassVar[tuple[str, ...]] = ()
    #: Which operands only say where items are, or how many: a list or a NumPy array will do.
    sides: ClassVar[tuple[int, ...]] = ()
    #: Which operands may be None.
    optional: ClassVar[tuple[int, ...]] = ()
    #: Which operands carry values besides the first: of the same library and device.
    values: ClassVar[tuple[int, ...]] = ()
    #: Which of them may be a number instead.
    may_be_numbers: ClassVar[tuple[int, ...]] = ()
    #: Which operands a gradient flows to by `transpose`.
    differentiable: ClassVar[tuple[int, ...]] = ()
    #: Of which of these its rules need the values, not what is known of them alone.
    needs_values: tuple[int, ...] = ()
    #: Of several results the first is differentiable; which of the others its rules need, behind
    #: the operands.
    kept_results: ClassVar[tuple[int, ...]] = ()
    #: Whether a gradient flows through what `lower` gives instead.
    differentiable_parts: ClassVar[bool] = False
    #: Whether `lower` is made of a namespace's functions alone: what a library traces, or has on a
    #: device where no kernel does it.
    composed: ClassVar[bool] = False
    #: Whether samples may keep different numbers of tokens; a result then says which slots hold one
    #: of them.
    may_pad: ClassVar[bool] = False

    def result(self, *specs: Any) -> tuple[Spec, ...]:
        """The checks of the operands, and the specifications of what comes out."""
        raise NotImplementedError

    def check(self, *specs: Any) -> None:
        """The checks alone, for who learns of the results otherwise."""
        self.result(*specs)

    def transpose(
        self, do: Apply, cotangent: Any, specs: Tuple, operands: Tuple, needed: tuple[bool, ...]
    ) -> Tuple:
        """The cotangents of the operands that `differentiable` names, by other operations.

        ``operands`` holds what is not differentiable and what `needs_values` names, None in the
        other places; ``specs`` is of all of them. Of the cotangents those that are not ``needed``
        may be None.
        """
        raise NotImplementedError

    def tangent(
        self,
        do: Apply,
        tangents: tuple[Any, ...],
        specs: tuple[Any, ...],
        operands: tuple[Any, ...],
    ) -> Any:
        """The tangent of the result: the operation itself, where it is linear in its values."""
        raise NotImplementedError

    def batch(self, do: Apply, size: int, operands: Tuple, axes: Tuple) -> Any:
        """The results for a batch of operands, with the batch as the first dimension.

        What is done to each sample by itself has this rule: a batch is more samples.
        """
        return batch_of_samples(self, do, size, operands, axes)

    def lower(self, do: Apply, *operands: Any) -> Any:
        """The same by other operations, where no kernel does it at once."""
        raise NotImplementedError(f"{type(self).__name__} has no other form")


def device_of(array: Any) -> Any:
    """Where an array lies, in its library's own words; None where it has none."""
    return getattr(array, "device", None)


def to_front(do: Apply, array: Any, axis: int | None, size: int) -> Any:
    """An operand of a batch with the batch in front, broadcast where it has none."""
    if axis is None:
        return do.xp.broadcast_to(array[None], (size, *array.shape))
    rest = [d for d in range(array.ndim) if d != axis]
    return do.xp.permute_dims(array, (axis, *rest))


def merge_samples(do: Apply, array: Any) -> Any:
    """`[B, N, ...]` as `[B * N, ...]`."""
    shape = tuple(array.shape)
    return do.xp.reshape(array, (shape[0] * shape[1], *shape[2:]))


def split_samples(do: Apply, array: Any, like: Any) -> Any:
    """`[B * N, ...]` as `[B, N, ...]`, where ``like`` is of these two sizes."""
    return do.xp.reshape(array, (*like.shape[:2], *array.shape[1:]))


def batch_of_samples(
    operation: Operation, do: Apply, size: int, operands: Tuple, axes: Tuple
) -> Any:
    """The batching rule of operations over samples: a batch is more samples."""
    moved = [
        None if a is None else to_front(do, a, axis, size)
        for a, axis in zip(operands, axes, strict=True)
    ]
    results = do.run(operation, *(None if a is None else merge_samples(do, a) for a in moved))
    if isinstance(results, tuple):
        return tuple(split_samples(do, r, moved[0]) for r in results)
    return split_samples(do, results, moved[0])
