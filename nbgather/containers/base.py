"""What every container has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeGuard

import numpy as np

from nbgather.operations.base import Apply, DType, Operation, Options, Spec
from nbgather.operations.tokens import RandomMasking

#: Executes an operation on arrays that have memory: run(container, operation, operands, options).
Run = Callable[["Container", Operation, tuple[Any, ...], Options], Any]

#: Operands that kernels take as int64.
IDS = ("sample_ids", "ids_keep", "seed", "epoch")


def needs_seed(operation: Any, operands: tuple[Any, ...]) -> TypeGuard[RandomMasking]:
    """Whether an operation is a masking that has neither noise nor a seed."""
    return isinstance(operation, RandomMasking) and operation.seed is None and operands[1] is None


class Container:
    """The arrays of one library in one kind of memory. Subclasses know the library."""

    #: What a message calls these arrays.
    name: ClassVar[str]
    #: The backend that serves them.
    home: ClassVar[str] = "cpu"
    #: Whether a result can be written into an array that was given.
    takes_out: ClassVar[bool] = True
    #: Whether NumPy's arrays may say where items are: index, ids, noise, counts.
    takes_numpy: ClassVar[bool] = False
    #: The types that a small call is repeated for: exactly these, not what derives from them.
    exact_types: frozenset[type] = frozenset()

    def __init__(self, run: Run) -> None:
        self.run = run

    # What the engine asks of an array

    def locate(self, array: Any, what: str) -> Container:
        """The container for where this array lies; a TypeError where there is none."""
        return self

    def serves(self, kind: type) -> bool:
        """Whether a type of the library is one of arrays that can be served; else it is refused."""
        return True

    def spec(self, array: Any) -> Spec:
        """What is known of an array; a TypeError where it has no plain memory."""
        raise NotImplementedError

    def shape(self, array: Any) -> tuple[Any, ...]:
        """The shape of an array, traced or not."""
        return tuple(array.shape)

    def require_strided(self, array: Any) -> None:
        """Refuse an array that its library cannot reshape, or whose memory is gone."""
        self.spec(array)

    def device(self, array: Any) -> str:
        """Where an array lies, for a message."""
        return self.spec(array).device

    def address(self, array: Any) -> int:
        """The address of the first item."""
        raise NotImplementedError

    def empty(self, shape: tuple[int, ...], like: Any, dtype: DType | None = None) -> Any:
        """A new C-contiguous array beside ``like``, of its dtype or another."""
        raise NotImplementedError

    def copy(self, array: Any) -> Any:
        """A C-contiguous copy of the same bits."""
        raise NotImplementedError

    def assign(self, target: Any, source: Any) -> None:
        """Copy the items of an array into another of the same shape and dtype."""
        raise NotImplementedError

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        """A NumPy array as one of this library, beside ``like``."""
        raise NotImplementedError

    def item_bits(self, value: Any, like: Any, what: str) -> np.ndarray:
        """A number in the dtype of ``like``, as a NumPy array of one item's bits."""
        raise NotImplementedError

    def token_row(self, token: Any, inner: tuple[int, ...], like: Any) -> Any:
        """A mask token as a contiguous array of the shape of one token and the dtype of like."""
        raise NotImplementedError

    def number_row(self, value: Any, inner: tuple[int, ...], like: Any) -> Any:
        """A number as a mask token: the bits of one token where kernels can read them."""
        return np.repeat(self.item_bits(value, like, "mask_token"), math.prod(inner))

    def is_writable(self, array: Any) -> bool:
        """Whether results can be written to an array."""
        return True

    def place(self, array: Any) -> tuple[Any, ...]:
        """Where a kernel runs, for a backend that asks: (device, stream); () on the host."""
        return ()

    # What a namespace can do is the namespace's

    def namespace(self, array: Any) -> Any:
        """The array namespace of an array, as array-api-compat completes it."""
        raise NotImplementedError

    def computes(self, array: Any) -> bool:
        """Whether the library has such functions for the array."""
        return True

    # How a call is executed

    def side(self, array: np.ndarray, like: Any) -> Any:
        """A NumPy array that says where items are, as an array of this library."""
        return self.from_numpy(array, like)

    def side_sequence(self, values: Any, array: Callable[[], np.ndarray], like: Any) -> Any:
        """A list, tuple or range that says where items are; ``array()`` makes it NumPy's."""
        return self.side(array(), like)

    def host_scalar(self, array: Any) -> Any:
        """The one item of a 0-d array on the host, as a scalar of Python or NumPy."""
        return np.asarray(array)[()]

    def host_integers(self, array: Any, what: str) -> np.ndarray:
        """A few whole numbers on the host as a NumPy array."""
        return np.asarray(array)

    def evaluate(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """A function of Python's numbers."""
        return function(*arguments)

    def draw_seed(self) -> int:
        """64 random bits for a masking that was given neither noise nor a seed."""
        return int.from_bytes(os.urandom(8), "little")

    def with_seed(self, operation: Operation, operands: tuple[Any, ...]) -> Operation:
        """A masking with a seed drawn where it needs one; any other operation as it is."""
        if needs_seed(operation, operands):
            return replace(operation, seed=self.draw_seed() & (2**64 - 1))
        return operation

    def num_threads(self) -> int | None:
        """How many threads the library itself would use; None where it has no setting."""
        return None

    def apply(self, array: Any, backend: str | None = None) -> Apply:
        """What lowerings and gradients of an operation on ``array`` run other operations by."""

        def run(operation: Operation, *operands: Any) -> Any:
            return self.execute(operation, operands, Options(None, backend))

        return Apply(run, lambda: self.namespace(array))

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        """Run an operation on operands that are all of this library."""
        if operation.composed and self.home != "cpu":
            return self._compose(operation, operands, options)
        return self.run(self, self.with_seed(operation, operands), operands, options)

    def _compose(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        """An operation by the namespace's functions."""
        for operand in operands:
            self.require_strided(operand)
        return operation.lower(self.apply(operands[0], options.backend), *operands)

    # Small calls that are repeated; see nbgather.engine.memo

    def may_repeat(self) -> bool:
        """Whether a small call could be repeated now, and is no part of a trace."""
        return True

    def recall(self, head: Any, operands: tuple[Any, ...]) -> Any:
        """Repeat a small call whose like went well before; None to go the whole way."""
        return None

    def small_operand(self, array: Any) -> tuple[int, int, tuple[int, ...]] | None:
        """How an array is told apart: its kind, a number for its dtype, its strides.

        None where none of the library's can be.
        """
        raise NotImplementedError

    def small_gradient(self, head: Any, operands: Sequence[Any]) -> Any:
        """What gives the results of a kept call to a graph; None where nothing short does."""
        return None

    def small_result(self, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any, Any]:
        """What makes a result: a callable and its arguments that give a NumPy array, and what makes
        the library's array of that, or None."""
        raise NotImplementedError


class HostViews(Container):
    """Arrays of a library that NumPy can view: computed by NumPy's container, and handed back."""

    takes_numpy, takes_out = True, False
    #: NumPy's container.
    numpy: Container

    def view(self, array: Any) -> Any:
        """A NumPy view of one of the library's arrays; anything else as it is."""
        raise NotImplementedError

    def back(self, array: np.ndarray, like: Any) -> Any:
        """One of the library's arrays for a result."""
        raise NotImplementedError

    def ids_view(self, ids: Any) -> Any:
        """Ids as a NumPy array of int64."""
        return self.view(ids)

    def spec(self, array: Any) -> Spec:
        return self.numpy.spec(self.view(array))

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        return self.back(array, like)

    def side(self, array: np.ndarray, like: Any) -> Any:
        return array

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if options.out is not None:
            raise ValueError(f"out= was given for {self.name} arrays: they cannot be written to")
        views = tuple(
            self.ids_view(o) if name in IDS else self.view(o)
            for name, o in zip(operation.names, operands, strict=True)
        )
        results = self.numpy.execute(operation, views, options)
        if isinstance(results, np.ndarray):
            return self.back(results, operands[0])
        if isinstance(results, tuple):
            return tuple(self.back(r, operands[0]) for r in results)
        return [s._replace(index=self.back(s.index, operands[1])) for s in results]
