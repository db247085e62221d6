"""Torch tensors in the memory of the CPU: eager, differentiated, and in every state of torch.

Plain tensors go straight to the engine. One that needs a gradient goes through an autograd function
made of the operation's own rules (:mod:`nbgather.containers.torch_autograd`); where torch traces,
transforms or watches the call, it is an operator of ``torch.ops.nbgather``
(:mod:`nbgather.containers.torch_operators`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import array_api_compat.torch
import numpy as np
import torch

from nbgather.containers import registry, torch_autograd, torch_calls, torch_operators
from nbgather.containers.base import Container, Run
from nbgather.containers.numpy import one_token
from nbgather.containers.torch_dtypes import describe, torch_dtype
from nbgather.containers.torch_small import SmallTorchCalls, written
from nbgather.containers.torch_state import (
    constant_in_graphs,
    current_transform,
    in_mode,
    is_compiling,
    profiler_enabled,
    wants_grad,
)
from nbgather.engine import arrays, memo, recycle
from nbgather.operations.base import DType, Operation, Options, Spec
from nbgather.operations.tokens import castable_token

_Tensor = torch.Tensor
_from_numpy = torch.from_numpy
_is_legacy_batch = torch._C._functorch.is_legacy_batchedtensor
#: The tensor in the shell that a transform of torch.func has left, which has ended.
_unwrap_if_dead = torch._C._functorch.unwrap_if_dead


@constant_in_graphs
def _evaluated(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str, str]:
    """What a function gives, once for a graph; else which error it raised, and its message."""
    try:
        return function(*arguments), "", ""
    except (TypeError, ValueError) as error:
        return None, type(error).__name__, str(error)


class TorchContainer(SmallTorchCalls):
    """Torch tensors in the memory of the CPU."""

    name = "torch"
    takes_numpy = True
    exact_types = frozenset((torch.Tensor, torch.nn.Parameter))

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        torch_operators.install(self)

    def serves(self, kind: type) -> bool:
        # A subclass sees the operators, as it sees torch's own.
        return issubclass(kind, _Tensor) and kind.__name__ not in registry.TENSOR_REMEDIES

    def locate(self, array: Any, what: str) -> Container:
        if array.is_nested:
            remedy = registry.NESTED.format(what=what)
            raise TypeError(f"{what} is a nested tensor: a plain one is needed, as {remedy} is")
        if array.is_meta:
            return registry.load(registry.TORCH_META)
        return registry.load(registry.TORCH_CUDA) if array.is_cuda else self

    # An array

    def spec(self, array: Any) -> Spec:
        if not self._lies_here(array) or array.layout is not torch.strided:
            self._refuse(array)
        if array.is_conj() or array.is_neg() or array._is_zerotensor():
            raise ValueError("a lazy view of torch came: its memory is not its value")
        shape, strides, item = tuple(array.shape), array.stride(), array.itemsize
        self._require_memory(array, shape, strides)
        steps = tuple([s * item for s in strides])
        return Spec(shape, steps, describe(array.dtype))

    def device(self, array: Any) -> str:
        return str(array.device)

    def _lies_here(self, array: Any) -> bool:
        return bool(array.is_cpu)

    def _refuse(self, array: Any) -> None:
        if array.layout is not torch.strided:
            raise TypeError(
                f"a torch tensor of layout {array.layout} came: a strided one is needed"
            )
        raise TypeError(
            f"a torch tensor on device {array.device} came: there are kernels for the CPU and for"
            " CUDA devices"
        )

    def _require_memory(self, array: Any, shape: Any, strides: Any) -> None:
        """Refuse a tensor whose storage was freed or made smaller under it, as FSDP does."""
        if not array.numel():
            return
        if array.is_contiguous():
            reach = array.storage_offset() + array.numel() - 1
        else:
            reach = array.storage_offset() + sum(s * (n - 1) for n, s in zip(shape, strides))
        try:
            needed, nbytes = (reach + 1) * array.itemsize, array.untyped_storage().nbytes()
        except NotImplementedError as error:  # what a transform of torch.func made has none
            raise TypeError(f"a torch tensor without memory of its own came: {error}") from None
        if nbytes < needed or not array.data_ptr():
            raise ValueError(
                f"a torch tensor of shape {tuple(shape)} needs {needed} bytes of its storage, which"
                f" holds {nbytes if array.data_ptr() else 0}: its memory was freed"
            )

    def address(self, array: Any) -> int:
        return int(array.data_ptr())

    def empty(self, shape: tuple[int, ...], like: Any, dtype: DType | None = None) -> Any:
        kind = like.dtype if dtype is None else torch_dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        if nbytes < recycle.MIN_BYTES:
            return torch.empty(shape, dtype=kind, device="cpu")
        return _from_numpy(recycle.empty(nbytes)).view(kind).reshape(shape)

    def copy(self, array: Any) -> Any:
        return array.detach().clone(memory_format=torch.contiguous_format)

    def assign(self, target: Any, source: Any) -> None:
        target.copy_(source)

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        return _from_numpy(array)

    def item_bits(self, value: Any, like: Any, what: str) -> np.ndarray:
        dtype = like.dtype
        message = f"{what} {value!r} cannot be held in dtype {dtype}"
        try:
            item = torch.full((1,), value, dtype=dtype, device="cpu")
        except (OverflowError, ValueError, TypeError, RuntimeError):
            raise ValueError(message) from None
        if not (dtype.is_floating_point or dtype.is_complex) and item.item() != value:
            raise ValueError(message)
        return arrays.bits(registry.load(registry.MODULES["torch"]), item).copy()

    def token_row(self, token: Any, inner: tuple[int, ...], like: Any) -> Any:
        castable = torch.can_cast(token.dtype, like.dtype)
        castable_token(castable, token.dtype, like.dtype)
        row = one_token(torch.broadcast_to, token.detach(), inner).to(like.dtype)
        return row.contiguous()

    def is_writable(self, array: Any) -> bool:
        if array.is_conj() or array.is_neg() or array._is_zerotensor():
            raise ValueError(
                "out is a lazy view (conjugate, negative or zero) of torch: a plain tensor is"
                " needed"
            )
        return True

    def namespace(self, array: Any) -> Any:
        return array_api_compat.torch

    # Operands that only say where items are

    def side(self, array: np.ndarray, like: Any) -> Any:
        # torch has no other byte order, and warns of memory that is read-only.
        if array.dtype.kind not in "biuf":
            raise TypeError(f"an array of dtype {array.dtype} came beside torch's: torch has none")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not array.flags.writeable or any(s < 0 for s in array.strides):
            return _from_numpy(array.copy())
        tensor = _from_numpy(array)
        if not is_compiling():
            tensor.is_lent = True
        return tensor

    def side_sequence(self, values: Any, array: Callable[[], np.ndarray], like: Any) -> Any:
        if is_compiling():  # which follows NumPy's calls, but not all of them
            return torch.tensor(list(values), device=like.device)
        return self.side(array(), like)

    def host_scalar(self, array: Any) -> Any:
        if self.traces((array,)):
            raise TypeError(
                "a tensor whose value torch does not know came for a scalar: a number is needed"
            )
        array = self.resolve(array)
        self.spec(array)
        return array.item()

    def host_integers(self, array: Any, what: str) -> np.ndarray:
        if self.traces((array,)):
            raise TypeError(
                f"{what} is a tensor where torch traces the call, which does not know its values:"
                " an int is needed, or a list of them"
            )
        array = self.resolve(array)
        dtype = self.spec(array).dtype
        if dtype.integer is None:
            raise TypeError(f"{what} has dtype {dtype.name}: whole numbers are needed")
        return arrays.integers(self, array).copy()

    # How a call is executed

    def evaluate(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if not is_compiling():
            return function(*arguments)
        # A size that the graph leaves open is fixed: numbers that depend on it are constants.
        known = tuple([operator.index(a) if isinstance(a, int) else a for a in arguments])
        value, kind, message = _evaluated(function, known)
        if kind == "TypeError":
            raise TypeError(message)
        if kind:
            raise ValueError(message)
        return value

    def num_threads(self) -> int | None:
        return torch.get_num_threads()

    def draw_seed(self) -> int:
        return int(torch_calls.drawn_seed().item())

    def resolve(self, operand: Any) -> Any:
        """The value of a lazy view, whose memory is not its value; anything else as it is."""
        if not isinstance(operand, _Tensor) or operand.layout is not torch.strided:
            return operand
        if current_transform() is None:
            operand = _unwrap_if_dead(operand)
        if operand._is_zerotensor():
            return torch.zeros(operand.shape, dtype=operand.dtype, device=operand.device)
        if operand.is_conj() or operand.is_neg():
            return operand.resolve_conj().resolve_neg()
        return operand

    def traces(self, operands: tuple[Any, ...], *, watched: bool = True) -> bool:
        """Whether torch must see the call as an operator.

        Fake tensors have a type of their own; those of torch.func hide within its transforms, and
        those of functionalisation behind a tensor of no memory. ``watched`` says whether the call
        has an operator, which torch's modes can see.
        """
        if is_compiling():
            return True
        if current_transform() is not None:
            return True
        return (watched and in_mode()) or not all(map(self._is_plain, operands))

    def _is_eager(self, array: Any) -> bool:
        """Whether a tensor has memory on the CPU, and nothing of torch must see what is done."""
        if is_compiling() or current_transform() is not None or in_mode():
            return False
        return self.home == "cpu" and self._is_plain(array) and bool(array.is_cpu)

    def _is_plain(self, operand: Any) -> bool:
        if type(operand) in self.exact_types:
            # The other is of torch.autograd.grad(is_grads_batched=True), which is no transform.
            return not (torch._is_functional_tensor(operand) or _is_legacy_batch(operand))
        return not isinstance(operand, _Tensor)

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if is_compiling() or not profiler_enabled():
            return self._execute(operation, operands, options)
        with torch._C._profiler._RecordFunctionFast(
            torch_calls.event_name(type(operation).__name__)
        ):
            return self._execute(operation, operands, options)

    def _execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if options.out is None or is_compiling():
            return self._by_state(operation, operands, options)
        try:
            return self._by_state(operation, operands, options)
        finally:  # a call that failed may have written to a part of it
            written(options.out)

    def _by_state(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if operation.composed and not self._is_eager(operands[0]):
            return self._compose(operation, operands, options)  # which torch sees to itself
        if self.traces(operands, watched=torch_calls.has_operator(operation)):
            return torch_calls.call(self, operation, operands, options)
        operation = self.with_seed(operation, operands)
        operands = tuple(map(self.resolve, operands))
        if options.out is not None and wants_grad(options.out):
            raise ValueError("out requires grad: gradients cannot flow into out")
        if not any(map(wants_grad, operands)) or options.lower:
            return self.run(self, operation, operands, options)
        flows = any(wants_grad(operands[k]) for k in operation.differentiable)
        if options.out is not None and flows:
            which = " or ".join(operation.names[k] for k in operation.differentiable)
            raise ValueError(f"{which} requires grad: gradients cannot flow through out=")
        if operation.differentiable_parts:
            return self.run(self, operation, operands, options._replace(lower=True))
        if not flows:
            return self.run(self, operation, operands, options)
        # Nothing tells torch when a NumPy array is written to before the gradient needs it.
        operands = tuple([o.clone() if getattr(o, "is_lent", False) else o for o in operands])
        if options.backend is None:
            result = self.small_graph(operation, operands)
            if result is not None:
                return result

        def compute() -> Any:
            if options.backend is None:
                result = self.recall(*memo.call_of(operation, operands))
                if result is not None:
                    return result
            return self.run(self, operation, operands, options)

        return torch_autograd.record(compute, self, operation, operands, options.backend)

    def require_strided(self, array: Any) -> None:
        in_transform = is_compiling() or current_transform() is not None
        if not in_transform and self._is_plain(array) and not array.is_meta:
            self.locate(array, "").spec(self.resolve(array))


SERVES = TorchContainer
