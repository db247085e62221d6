"""Torch tensors in the memory of the CPU: eager, differentiated, and in every state of torch.

Plain tensors go straight to the engine. One that needs a gradient goes through an autograd function
made of the operation's own rules (:mod:`nbgather.containers.torch_autograd`); where torch traces,
transforms or watches the call, it is an operator of ``torch.ops.nbgather``
(:mod:`nbgather.containers.torch_operators`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import array_api_compat.torch
import numpy as np
import torch

from nbgather.containers import registry, torch_autograd, torch_operators
from nbgather.containers.base import Container, Run
from nbgather.containers.numpy import one_token
from nbgather.containers.torch_dtypes import describe, torch_dtype
from nbgather.engine import arrays, recycle
from nbgather.engine.memo import SmallGather, SmallMasking
from nbgather.operations.base import DType, Operation, Options, Spec
from nbgather.operations.indexing import Gather
from nbgather.operations.tokens import castable_token

#: Items of a gather up to which torch's own operator is as fast as a kernel behind a call of ours.
MAX_TORCH_ITEMS = 512
#: What torch.gather leaves the bits of as they are, and their bytes; of float16 it does not.
_KEPT_BY_TORCH = {torch.float32: 4, torch.float64: 8}

_Tensor, _int64 = torch.Tensor, torch.int64
_is_compiling = torch.compiler.is_compiling
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling  # cheaper
_current_transform = torch._C._functorch.maybe_current_level
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
_forward_ad = torch.autograd.forward_ad
_from_numpy, _torch_gather, _empty = torch.from_numpy, torch.gather, np.empty
_LOW64 = 0xFFFFFFFFFFFFFFFF


def at_rest() -> bool:
    """Whether torch just computes: no mode, transform, trace or forward-mode AD is active."""
    return not (
        _dispatch_modes()
        or _function_modes()
        or _current_transform() is not None
        or _forward_ad._current_level >= 0
        or _tracing_state() is not None
    )


def in_mode() -> bool:
    """Whether one of torch's modes, or its tracer of scripts, must see the call."""
    if _dispatch_modes() or _tracing_state() is not None:
        return True
    count = _function_modes()
    if not count:
        return False
    # A default device concerns what makes tensors from nothing; here all go where ``x`` is.
    devices = sys.modules.get("torch.utils._device")
    ignored: Any = () if devices is None else devices.DeviceContext
    get = torch._C._get_function_stack_at
    return any(not isinstance(get(k), ignored) for k in range(count))


def _require_served_transform() -> None:
    functorch = torch._C._functorch
    interpreter: Any = functorch.peek_interpreter_stack()
    kind = interpreter.key()
    served = functorch.TransformType.Vmap, functorch.TransformType.Functionalize
    if kind not in served:
        raise NotImplementedError(
            f"torch.func's transform {kind.name.lower()!r} cannot go through nbgather's calls:"
            " backward(), torch.autograd.grad and torch.func.vmap can"
        )


class TorchContainer(Container):
    """Torch tensors in the memory of the CPU."""

    name = "torch"
    takes_numpy = True
    exact_types = frozenset((torch.Tensor, torch.nn.Parameter))

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        torch_operators.install(self)

    def serves(self, array: Any) -> bool:
        # What torch makes of tensors to trace them; any other subclass is somebody's own.
        kind = type(array)
        return kind in self.exact_types or kind.__module__.startswith("torch._subclasses")

    def locate(self, array: Any, what: str) -> Container:
        return registry.load(registry.TORCH_CUDA, self.run) if array.is_cuda else self

    # An array

    def spec(self, array: Any) -> Spec:
        if not self._lies_here(array) or array.layout is not torch.strided:
            self._refuse(array)
        if array.is_conj() or array.is_neg() or array._is_zerotensor():
            raise ValueError("a lazy view of torch came: its memory is not its value")
        if array.is_nested:
            raise TypeError("a nested torch tensor came: a padded one is needed")
        shape, strides, item = tuple(array.shape), array.stride(), array.itemsize
        self._require_memory(array, shape, strides)
        steps = tuple([s * item for s in strides])
        return Spec(shape, steps, describe(array.dtype))

    def shape(self, array: Any) -> tuple[Any, ...]:
        if array.is_nested:
            raise TypeError("a nested torch tensor came: a padded one is needed")
        return tuple(array.shape)

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
        if nbytes < recycle.SMALLEST:
            return torch.empty(shape, dtype=kind, device="cpu")
        return _from_numpy(recycle.empty(nbytes)).view(kind).reshape(shape)

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
        return arrays.bits(registry.load(registry.MODULES["torch"], self.run), item).copy()

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
            array = array.copy()
        return _from_numpy(array)

    def side_sequence(self, values: Any, array: Callable[[], np.ndarray], like: Any) -> Any:
        if _is_compiling():  # which follows NumPy's calls, but not all of them
            return torch.tensor(list(values), device=like.device)
        return self.side(array(), like)

    def host_scalar(self, array: Any) -> Any:
        return self.resolve(array).item()

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

    def draw_seed(self) -> int:
        return int(torch_operators.drawn_seed().item())

    def resolve(self, operand: Any) -> Any:
        """The value of a lazy view, whose memory is not its value; anything else as it is."""
        if not isinstance(operand, _Tensor) or operand.layout is not torch.strided:
            return operand
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
        if _is_compiling():
            return True
        if _current_transform() is not None:
            _require_served_transform()
            return True
        return (watched and in_mode()) or not all(map(self._is_plain, operands))

    def _is_plain(self, operand: Any) -> bool:
        if type(operand) in self.exact_types:
            return not torch._is_functional_tensor(operand)
        return not isinstance(operand, _Tensor)

    def wants_grad(self, array: Any) -> bool:
        """Whether the graph must know what comes of an array."""
        if not isinstance(array, _Tensor):
            return False
        if array.requires_grad and torch.is_grad_enabled():
            return True
        # A dual number of forward-mode AD, outside of the autograd function that takes it apart.
        return (
            _forward_ad._current_level >= 0
            and torch._C._is_fwd_grad_enabled()
            and _forward_ad.unpack_dual(array).tangent is not None
        )

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        if operation.composed:
            return self._compose(operation, operands, options)
        if self.traces(operands, watched=torch_operators.has_operator(operation)):
            return torch_operators.call(self, operation, operands, options)
        operation = self.with_seed(operation, operands)
        operands = tuple(map(self.resolve, operands))
        if options.out is not None and self.wants_grad(options.out):
            raise ValueError("out requires grad: gradients cannot flow into out")
        if not any(map(self.wants_grad, operands)) or options.lower:
            return self.run(self, operation, operands, options)
        if not operation.differentiable:
            return self.run(self, operation, operands, options._replace(lower=True))
        if not any(self.wants_grad(operands[k]) for k in operation.differentiable):
            return self.run(self, operation, operands, options)
        if options.out is not None:
            which = " or ".join(operation.names[k] for k in operation.differentiable)
            raise ValueError(f"{which} requires grad: gradients cannot flow through out=")
        return torch_autograd.apply(self, operation, operands, options)

    def _compose(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        """By the namespace's functions, which torch traces and differentiates itself."""
        for operand in operands:
            if operand.is_nested:
                raise TypeError("a nested torch tensor came: a padded one is needed")
            in_transform = _is_compiling() or _current_transform() is not None
            if not in_transform and self._is_plain(operand) and not operand.is_meta:
                self.spec(self.resolve(operand))
        return operation.lower(self.apply(operands[0], options.backend), *operands)

    # Small calls that are repeated

    def recall(
        self, entries: dict[Any, Any], head: Any, x: Any, side: Any, values: tuple[Any, ...]
    ) -> Any:
        # Exact types only: ``x`` has one of `exact_types`.
        if _is_dynamo_compiling() or (side is not None and type(side) not in self.exact_types):
            return None
        if head[0] is Gather and head[2] == "raise" and side.dtype is _int64:
            itemsize = _KEPT_BY_TORCH.get(x.dtype)
            if itemsize is not None:
                result = _gather_by_torch(x, head[1], side, itemsize)
                if result is not None:
                    return result
        if not at_rest():
            return None
        try:
            call = entries.get(self.small_key(head, x, side))
            if call is None or self.wants_grad(x):
                return None
            return call(x, side, *values)
        except RuntimeError:
            return None  # a tensor without plain memory

    def small_key(self, head: Any, x: Any, side: Any) -> Any:
        if side is None:
            return (head, x.shape, x.dtype) if x.is_contiguous() else None
        if x.is_contiguous() and side.is_contiguous():
            return head, x.shape, x.dtype, side.shape, side.dtype
        return None

    def small_gather(self, call: SmallGather, like: Any) -> Callable[..., Any]:
        run, numbers, shape = call.run, call.numbers_address, call.shape
        dtype = _numpy_dtype(like.dtype)
        item_mask, index_mask = call.item_mask, call.index_mask
        item, nbytes = call.itemsize, call.input_nbytes
        index_item, index_nbytes = call.index_itemsize, call.index_nbytes

        def repeat(x: Any, index: Any, call: SmallGather = call) -> Any:
            source = _plain_address(x, item, nbytes)
            positions = _plain_address(index, index_item, index_nbytes)
            if not source or not positions or source & item_mask or positions & index_mask:
                return None
            if dtype is None:
                result = torch.empty(shape, dtype=x.dtype, device="cpu")
            else:  # half the time of torch.empty, and three quarters of torch.empty_like's
                result = _from_numpy(_empty(shape, dtype))
            return None if run(result.data_ptr(), source, positions, numbers) else result

        return repeat

    def small_masking(self, call: SmallMasking, like: Any) -> Callable[..., Any]:
        run, numbers, shape, pair = call.run, call.numbers_address, call.shape, call.pair
        item, nbytes = call.itemsize, call.nbytes
        empty, float32 = torch.empty, torch.float32

        def repeat(x: Any, ids: Any, seed: int, epoch: int, call: SmallMasking = call) -> Any:
            source = _plain_address(x, item, nbytes)
            idx = 0 if ids is None else _plain_address(ids, 8, 8 * pair[0])
            if not source or idx & 7 or (idx == 0) != (ids is None):
                return None
            x_masked = empty(shape, dtype=x.dtype, device="cpu")
            mask = empty(pair, dtype=float32, device="cpu")
            ids_restore = empty(pair, dtype=_int64, device="cpu")
            bad = run(
                x_masked.data_ptr(), source, idx, ids_restore.data_ptr(), mask.data_ptr(), epoch,
                seed & _LOW64, numbers,
            )  # fmt: skip
            return None if bad else (x_masked, mask, ids_restore)

        return repeat


def _numpy_dtype(dtype: torch.dtype) -> Any:
    """The NumPy dtype whose arrays become tensors of this one, or None."""
    try:
        result = np.dtype(describe(dtype).name)
        return result if _from_numpy(_empty(0, result)).dtype is dtype else None
    except TypeError:
        return None  # bfloat16 and its like


def _plain_address(array: Any, itemsize: int, nbytes: int) -> int:
    """The address of a contiguous tensor whose memory is its value, or 0.

    A tensor without any memory may raise a RuntimeError.
    """
    if (
        not array.is_cpu
        or array.is_neg()
        or array.is_conj()
        or not array.is_contiguous()
        or array.untyped_storage().nbytes() < nbytes + array.storage_offset() * itemsize
    ):
        return 0
    return int(array.data_ptr())  # 0 where the storage has no memory


def _gather_by_torch(x: Any, dim: int, index: Any, itemsize: int) -> Any:
    """A gather by torch itself, where a call costs more than the kernel saves; None otherwise.

    Its operator is right in every mode, transform and kind of AD, and for every lazy view; its node
    of the graph costs a tenth of one written in Python. What it cannot see is that memory is gone.
    """
    try:
        items = index.numel()
        if (
            items <= MAX_TORCH_ITEMS
            and x.is_cpu
            and index.is_cpu
            and x.is_contiguous()
            and index.is_contiguous()
            and x.untyped_storage().nbytes() >= (x.numel() + x.storage_offset()) * itemsize
            and index.untyped_storage().nbytes() >= (items + index.storage_offset()) * 8
        ):
            return _torch_gather(x, dim, index)
    except (RuntimeError, IndexError):
        pass  # no plain memory, or an error for which we have words of our own
    return None


SERVES = TorchContainer
