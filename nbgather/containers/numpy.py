"""NumPy arrays."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np

from nbgather.containers.base import Container
from nbgather.engine import memo, recycle
from nbgather.kernels import small
from nbgather.kernels.memory import bits_dtype, memory_address
from nbgather.operations.base import DType, Spec
from nbgather.operations.tokens import castable_token

_ndarray = np.ndarray
_kept = memo.entries.get


@functools.lru_cache(maxsize=256)
def describe(dtype: np.dtype[Any]) -> DType:
    """What is known of a NumPy dtype."""
    if dtype.hasobject:
        raise TypeError(
            f"dtype {dtype} holds Python objects: a dtype of plain bytes is needed"
            " (numbers, bool, datetime64, ...)"
        )
    index = f"{dtype.kind}{dtype.itemsize}" if dtype.kind in "iu" else None
    return DType(str(dtype), dtype.itemsize, index, dtype.isnative)


def item_bits(dtype: np.dtype[Any], value: Any, what: str) -> np.ndarray:
    """A number in a NumPy dtype, as an array of one item's bits; 0 is what `numpy.zeros` holds.

    So padding is the same for bytes, text and void, where an assigned 0 is a digit or an error.
    """
    if type(value) is int and not value:
        return np.zeros(1, bits_dtype(dtype.itemsize))
    message = f"{what} {value!r} cannot be held in dtype {dtype}"
    try:
        item = np.empty(1, dtype)
        with np.errstate(over="raise"):
            item[0] = value
        held = _holds(item, value)
    except (ArithmeticError, ValueError, TypeError):
        raise ValueError(message) from None
    if not held:
        raise ValueError(message)
    return item.view(bits_dtype(dtype.itemsize))


def _holds(item: np.ndarray, value: Any) -> bool:
    """Whether an assigned value is there whole: NumPy cuts texts, and times to the unit."""
    kind = item.dtype.kind
    if kind in "biu":
        return bool(item[0] == value)
    if kind not in "SUmM" or (kind in "mM" and isinstance(value, (int, np.integer))):
        return True
    whole = np.array(value, kind)
    back = item.astype(whole.dtype)[0]
    if kind in "SU":
        return bool(back == whole)
    return bool(back == whole or (np.isnat(back) and np.isnat(whole)))


def one_token(broadcast: Any, token: Any, inner: tuple[int, ...]) -> Any:
    """A mask token such as `[D]` or `[1, 1, D]` broadcast to the shape of one token."""
    while token.ndim > len(inner):
        token = token[0]
    return broadcast(token, inner)


@functools.lru_cache(maxsize=1)
def _namespace() -> Any:
    return importlib.import_module("array_api_compat.numpy")


class NumpyContainer(Container):
    """NumPy arrays in the host's memory."""

    name = "NumPy"
    exact_types = frozenset((np.ndarray,))

    def serves(self, kind: type) -> bool:
        return issubclass(kind, np.ndarray)  # a scalar has no memory to read

    def locate(self, array: Any, what: str) -> Container:
        if type(array) is not _ndarray and isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{what} is a masked array: its mask would be lost; pass {what}.filled(...) or"
                f" {what}.data"
            )
        return self

    def spec(self, array: np.ndarray) -> Spec:
        if type(array) is not _ndarray:
            array = np.asarray(array)  # a subclass may say of itself what its memory is not
        return Spec(array.shape, array.strides, describe(array.dtype))

    address = staticmethod(memory_address)

    def empty(self, shape: tuple[int, ...], like: Any, dtype: DType | None = None) -> np.ndarray:
        kind = like.dtype if dtype is None else np.dtype(dtype.name)
        nbytes = kind.itemsize
        for n in shape:
            nbytes *= n
        if nbytes < recycle.MIN_BYTES:
            return np.empty(shape, kind)
        return recycle.empty(nbytes).view(kind).reshape(shape)

    def copy(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C", copy=True, subok=False)

    def assign(self, target: np.ndarray, source: np.ndarray) -> None:
        target[...] = source

    def from_numpy(self, array: np.ndarray, like: Any) -> np.ndarray:
        return array

    def item_bits(self, value: Any, like: np.ndarray, what: str) -> np.ndarray:
        return item_bits(like.dtype, value, what)

    def token_row(self, token: Any, inner: tuple[int, ...], like: np.ndarray) -> np.ndarray:
        token = np.asarray(token)  # a matrix has two dimensions whatever is taken of it
        castable_token(np.can_cast(token.dtype, like.dtype, "safe"), token.dtype, like.dtype)
        return np.array(one_token(np.broadcast_to, token, inner), like.dtype, order="C")

    def is_writable(self, array: np.ndarray) -> bool:
        return bool(array.flags.writeable)

    def namespace(self, array: Any) -> Any:
        return _namespace()

    def recall(self, head: Any, operands: tuple[Any, ...]) -> Any:
        chain = _kept(head)
        return None if chain is None else memo.repeat(chain, *operands)

    def small_operand(self, array: np.ndarray) -> tuple[int, int, tuple[int, ...]]:
        return small.ARRAY, id(array.dtype), array.strides

    def small_result(self, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any, Any]:
        kind = np.dtype(dtype.name) if isinstance(dtype, DType) else dtype
        return *recycle.maker(shape, kind), None


SERVES = NumpyContainer
