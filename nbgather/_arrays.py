"""What was handed in, its bits, and the way back to the same container.

Nothing is imported here but NumPy: a container's library is found in ``sys.modules``, since
whoever hands in a tensor has imported torch. One :class:`Adapter` per container says what the
plan needs to know (a hashable *key* of shape, strides and dtype), where the data lies, and how to
make a result of the same kind.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from nbgather import _validate
from nbgather.engine import recycle
from nbgather.kernels.memory import bits_dtype, memory_address, view_memory

#: Bytes per item that the kernels move.
ITEMSIZES = (1, 2, 4, 8, 16)

#: Items of a gather up to which torch's own operator is as fast as a kernel behind a call of ours.
TINY = 512

#: Where the host's arrays are, any context will do.
_ANYWHERE = contextlib.nullcontext()

Key = tuple[tuple[int, ...], tuple[int, ...], Any]


class DType(NamedTuple):
    """What a kernel needs to know of a dtype."""

    name: str
    itemsize: int
    integer: str | None  # "i8", "u1", ... for an integer dtype, else None
    native: bool  # in this machine's byte order


class Layout(NamedTuple):
    """Shape, strides in bytes and dtype of one operand."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType


class SmallCall(NamedTuple):
    """All of a gather on the calling thread but its three addresses."""

    run: Any
    numbers: int  # their address
    shape: tuple[int, ...]
    dtype: Any  # NumPy's for the result, or None where it has none
    item_mask: int
    index_mask: int
    sizes: tuple[int, int, int, int]  # bytes of an item and of all, of the input and of the index
    owners: Any  # of the numbers


class Adapter:
    """One kind of container. Subclasses know one library each."""

    name: str
    #: Whether a call may have to go another way than to a kernel on the array's own memory.
    detours = False
    #: Other libraries whose arrays may say where the items are: index, ids, noise, ...
    takes: frozenset[str] = frozenset()
    #: Types that have memory of their own, where others of the library have not.
    plain: frozenset[type] = frozenset()

    #: The backend that serves these arrays.
    home = "cpu"

    def at(self, array: Any) -> Adapter:
        """The adapter for where this array lies."""
        return self

    def place(self, array: Any) -> tuple[Any, ...]:
        """Where a backend runs, for one that asks: (device, stream), or nothing on the host."""
        return ()

    def on(self, array: Any) -> Any:
        """A context in which the array's device is the current one."""
        return _ANYWHERE

    def detour(self, *arrays: Any, operator: bool = True) -> Any:
        """The module whose ``via_...`` functions take the call; None where it goes straight on.

        ``operator`` says whether the call has an operator of torch, which its modes can see.
        """
        return None

    def adopt(self, array: np.ndarray, like: Any) -> Any:
        """A NumPy array that says where items are, as these arrays' library needs it."""
        return array

    def adopt_sequence(self, values: Any, what: str, like: Any) -> Any:
        """The same of a list, a tuple or a range."""
        return self.adopt(from_sequence(values, what), like)

    def key(self, array: Any) -> Key:
        raise NotImplementedError

    def again_key(self, head: Any, x: Any, i: Any) -> Any:
        """``head`` and all that a plan depends on."""
        raise NotImplementedError

    def numpy_dtype(self, array: Any) -> Any:
        """The NumPy dtype of this array's, or None."""
        raise NotImplementedError

    def again(self, small: dict[Any, SmallCall], head: Any, x: Any, i: Any) -> Any:
        """Repeat a small gather whose like went well before; None to go the whole way."""
        raise NotImplementedError

    def shape(self, array: Any) -> tuple[int, ...]:
        return tuple(array.shape)

    def require_strided(self, array: Any) -> None:
        """Refuse an array that its own library cannot reshape, or whose memory is gone."""

    def resolve(self, array: Any) -> Any:
        """The value of a view whose memory is not its value."""
        raise NotImplementedError

    def settled(self, side: Any) -> bool:
        """Whether a fast path may serve an array of a type in `_by_type` with this one or None."""
        return False

    def tokens_key(self, x: Any, ids: Any) -> Any:
        """All that the plan of a masking depends on, of tokens and sample ids (or None)."""
        raise NotImplementedError

    def plain_address(self, array: Any, itemsize: int, nbytes: int) -> int:
        """The address of an array whose memory is its value, as `tokens_key` describes it, or 0.

        One without any memory may raise a RuntimeError.
        """
        raise NotImplementedError

    def address(self, array: Any) -> int:
        raise NotImplementedError

    def layout(self, key: Key) -> Layout:
        raise NotImplementedError

    def empty(self, shape: tuple[int, ...], like: Any, dtype: str | None = None) -> Any:
        """A fresh C-contiguous array beside ``like``; ``dtype`` is a NumPy name or like's own."""
        raise NotImplementedError

    def empty_large(self, shape: tuple[int, ...], like: Any, nbytes: int) -> Any:
        """The same in like's dtype, from memory that an earlier large result gave back."""
        raise NotImplementedError

    def empty_result(self, shape: tuple[int, ...], like: Any, nbytes: int) -> Any:
        """A fresh result in like's dtype, from wherever its size is best served."""
        if nbytes < recycle.SMALLEST:
            return self.empty(shape, like)
        return self.empty_large(shape, like, nbytes)

    def contiguous(self, array: Any) -> Any:
        """An aligned, C-contiguous copy in native byte order."""
        raise NotImplementedError

    def assign(self, target: Any, source: Any) -> None:
        raise NotImplementedError

    def clone(self, array: Any) -> Any:
        """A C-contiguous copy of the same dtype, byte order and all."""
        raise NotImplementedError

    def cast(self, array: Any, dtype: Any) -> Any:
        """The values in another dtype, by its NumPy name or as the library's own."""
        raise NotImplementedError

    def reinterpret(self, array: Any, dtype: str) -> Any:
        """The same bits as a dtype of the same size."""
        raise NotImplementedError

    def scalar_bits(self, array: Any, value: Any, what: str = "fill_value") -> np.ndarray:
        """``value`` in the array's dtype, as a 1-element array of its bits."""
        raise NotImplementedError

    def row_bits(self, array: Any, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        """``value`` broadcast to ``shape`` in the array's dtype, as a flat array of its bits."""
        raise NotImplementedError

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def tile(self, array: Any, times: int) -> Any:
        """Rows `[N, L]` so many times over, `[N, times * L]`."""
        raise NotImplementedError

    def where(self, condition: Any, array: Any, other: Any) -> Any:
        """``array`` where the condition holds, else ``other``, in array's dtype."""
        raise NotImplementedError

    def writeable(self, array: Any) -> bool:
        raise NotImplementedError

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        raise NotImplementedError

    def constant(self, array: np.ndarray, like: Any) -> Any:
        """The same, kept for the next call that asks for it."""
        raise NotImplementedError

    def device(self, array: Any) -> str:
        return "cpu"

    def wants_grad(self, array: Any) -> bool:
        return False

    def bits(self, array: Any) -> np.ndarray:
        """View an array's items as unsigned integers (16-byte ones as void), strides kept."""
        layout = self.layout(self.key(array))
        return view_memory(
            self.address(array),
            layout.shape,
            layout.strides,
            bits_dtype(layout.dtype.itemsize),
            array,
        )

    def integers(self, array: Any) -> np.ndarray:
        """View an integer array as a NumPy array of its own dtype."""
        layout = self.layout(self.key(array))
        dtype = np.dtype(layout.dtype.integer or "u1")
        if not layout.dtype.native:
            dtype = dtype.newbyteorder()
        return view_memory(self.address(array), layout.shape, layout.strides, dtype, array)


@functools.lru_cache(maxsize=256)
def _numpy_dtype(dtype: np.dtype[Any]) -> DType:
    if dtype.hasobject:
        raise TypeError(
            f"dtype {dtype} holds Python objects: a dtype of plain bytes is needed"
            " (numbers, bool, datetime64, ...)"
        )
    index = f"{dtype.kind}{dtype.itemsize}" if dtype.kind in "iu" else None
    return DType(str(dtype), dtype.itemsize, index, dtype.isnative)


class NumpyAdapter(Adapter):
    name = "NumPy"
    plain = frozenset((np.ndarray,))

    def key(self, array: np.ndarray) -> Key:
        return array.shape, array.strides, array.dtype

    def numpy_dtype(self, array: np.ndarray) -> Any:
        return array.dtype

    def again_key(self, head: Any, x: np.ndarray, i: np.ndarray) -> Any:
        return head, x.shape, x.strides, x.dtype, i.shape, i.strides, i.dtype

    def again(self, small: dict[Any, SmallCall], head: Any, x: Any, i: Any) -> Any:
        # Whatever else has a shape, strides and a dtype need not have its memory where an ndarray
        # has it, or may mean more than its memory says. ``x`` is an ndarray by its entry in
        # `_by_type`.
        if type(i) is not _ndarray:
            return None
        dtype = x.dtype
        try:
            call = small.get((head, x.shape, x.strides, dtype, i.shape, i.strides, i.dtype))
        except TypeError:  # a mode that cannot be hashed
            return None
        if call is None:
            return None
        run, numbers, shape, _, item_mask, index_mask, _, _ = call
        source, index = memory_address(x), memory_address(i)
        if source & item_mask or index & index_mask:
            return None
        result = np.empty(shape, dtype)
        return None if run(memory_address(result), source, index, numbers) else result

    def settled(self, side: Any) -> bool:
        return side is None or type(side) is _ndarray

    def tokens_key(self, x: np.ndarray, ids: Any) -> Any:
        if ids is None:
            return x.shape, x.strides, x.dtype
        return x.shape, x.strides, x.dtype, ids.shape, ids.strides, ids.dtype

    def plain_address(self, array: np.ndarray, itemsize: int, nbytes: int) -> int:
        return memory_address(array)

    address = staticmethod(memory_address)

    def layout(self, key: Key) -> Layout:
        return Layout(key[0], key[1], _numpy_dtype(key[2]))

    def empty(self, shape: tuple[int, ...], like: Any, dtype: str | None = None) -> np.ndarray:
        return np.empty(shape, like.dtype if dtype is None else dtype)

    def empty_large(self, shape: tuple[int, ...], like: Any, nbytes: int) -> np.ndarray:
        return recycle.empty(nbytes).view(like.dtype).reshape(shape)

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)

    def assign(self, target: np.ndarray, source: np.ndarray) -> None:
        target[...] = source

    def clone(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C", copy=True, subok=False)

    def cast(self, array: np.ndarray, dtype: Any) -> np.ndarray:
        return array.astype(dtype)

    def reinterpret(self, array: np.ndarray, dtype: str) -> np.ndarray:
        return array.view(dtype)

    def scalar_bits(self, array: np.ndarray, value: Any, what: str = "fill_value") -> np.ndarray:
        dtype = array.dtype
        problem = f"{what} {value!r} cannot be held in dtype {dtype}"
        try:
            held = np.empty(1, dtype)
            held[0] = value
        except (OverflowError, ValueError, TypeError):
            raise ValueError(problem) from None
        if dtype.kind in "biu" and held[0] != value:
            raise ValueError(problem)
        return held.view(bits_dtype(dtype.itemsize))

    def row_bits(self, array: Any, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        token = np.asarray(value)
        if isinstance(value, (int, float, complex)):
            token = self.scalar_bits(array, value, "mask_token").view(array.dtype).reshape(())
        safe = np.can_cast(token.dtype, array.dtype, "safe")
        _validate.castable_token(safe, token.dtype, array.dtype)
        row = np.ascontiguousarray(_one_token(np.broadcast_to, token, shape), array.dtype)
        return row.reshape(-1).view(bits_dtype(array.dtype.itemsize))

    def permute(self, array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
        return array.transpose(order)

    def tile(self, array: np.ndarray, times: int) -> np.ndarray:
        return np.tile(array, (1, times))

    def where(self, condition: np.ndarray, array: np.ndarray, other: Any) -> np.ndarray:
        return np.where(condition, array, np.asarray(other, array.dtype))

    def writeable(self, array: np.ndarray) -> bool:
        return bool(array.flags.writeable)

    def from_numpy(self, array: np.ndarray, like: Any) -> np.ndarray:
        return array


def _one_token(broadcast: Any, token: Any, shape: tuple[int, ...]) -> Any:
    """Broadcast a mask token such as `[D]` or `[1, 1, D]` to the shape of one token."""
    _validate.one_token(tuple(token.shape), shape)
    while token.ndim > len(shape):
        token = token[0]
    return broadcast(token, shape)


def torch_token(torch: Any, token: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    """A mask token as a tensor of the dtype and shape of one token."""
    _validate.castable_token(torch.can_cast(token.dtype, dtype), token.dtype, dtype)
    return _one_token(torch.broadcast_to, token, shape).to(dtype)


#: What fills an array of text, times or structs.
_SCALARS = (str, bytes, tuple, np.generic, datetime.date, datetime.timedelta)

_empty = np.empty
_ndarray = np.ndarray


class TorchAdapter(Adapter):
    """Torch tensors in the memory of the CPU."""

    name = "torch"
    detours = True
    takes = frozenset({"NumPy"})

    def __init__(self) -> None:
        self.torch = sys.modules["torch"]
        self._compiling = self.torch.compiler.is_compiling
        self._by_dynamo = self.torch.compiler.is_dynamo_compiling  # cheaper
        self._transform = self.torch._C._functorch.maybe_current_level
        self._dispatch_modes = self.torch._C._len_torch_dispatch_stack
        self._function_modes = self.torch._C._len_torch_function_stack
        self._jit_tracing = self.torch._C._get_tracing_state
        self._forward_ad = self.torch.autograd.forward_ad
        self.plain = frozenset((self.torch.Tensor, self.torch.nn.Parameter))
        self._from_numpy = self.torch.from_numpy
        self._int64 = self.torch.int64
        # torch.gather leaves the bits of these as they are, and of float16 not.
        self._moved_by_torch = {self.torch.float32: 4, self.torch.float64: 8}
        self._torch_gather = self.torch.gather
        self._dtypes: dict[Any, DType] = {}

    def detour(self, *arrays: Any, operator: bool = True) -> Any:
        # Fake tensors have a type of their own; those of torch.func hide within its transforms, and
        # those of functionalisation behind a tensor of no memory.
        if not self._compiling():
            if self._transform() is not None:
                self._require_served_transform()
            elif not (operator and self._in_mode()) and all(map(self._is_plain, arrays)):
                return None
        from nbgather import _torch_ops

        return _torch_ops

    def _is_plain(self, array: Any) -> bool:
        if type(array) in self.plain:
            return not self.torch._is_functional_tensor(array)
        return not isinstance(array, self.torch.Tensor)

    def _in_mode(self) -> bool:
        """Whether one of torch's modes, or its tracer of scripts, must see the call."""
        if self._dispatch_modes() or self._jit_tracing() is not None:
            return True
        count = self._function_modes()
        if not count:
            return False
        # A default device concerns what makes tensors from nothing; here all go where ``x`` is.
        devices = sys.modules.get("torch.utils._device")
        ignored: Any = () if devices is None else devices.DeviceContext
        get = self.torch._C._get_function_stack_at
        return any(not isinstance(get(k), ignored) for k in range(count))

    def _require_served_transform(self) -> None:
        functorch = self.torch._C._functorch
        kind = functorch.peek_interpreter_stack().key()
        served = functorch.TransformType.Vmap, functorch.TransformType.Functionalize
        if kind not in served:
            raise NotImplementedError(
                f"torch.func's transform {kind.name.lower()!r} cannot go through nbgather's calls:"
                " backward(), torch.autograd.grad and torch.func.vmap can"
            )

    def at(self, array: Any) -> Adapter:
        return _torch_cuda() if array.is_cuda else self

    def _serves(self, array: Any) -> bool:
        return bool(array.is_cpu)

    def key(self, array: Any) -> Key:
        if not self._serves(array) or array.layout is not self.torch.strided:
            self._refuse(array)
        if array.is_conj() or array.is_neg() or array._is_zerotensor():
            raise LookupError  # answered by `ready`
        if array.is_nested:
            raise TypeError("a nested torch tensor came: a padded one is needed")
        shape, strides = array.shape, array.stride()
        self._require_memory(array, shape, strides)
        return shape, strides, array.dtype

    def _require_memory(self, array: Any, shape: Any, strides: Any) -> None:
        """Refuse a tensor whose storage was freed or made smaller under it, as FSDP does."""
        if not array.numel():
            return
        reach = array.storage_offset() + sum(s * (n - 1) for n, s in zip(shape, strides))
        try:
            needed, held = (reach + 1) * array.itemsize, array.untyped_storage().nbytes()
        except NotImplementedError as error:  # what a transform of torch.func made has none
            raise TypeError(f"a torch tensor without memory of its own came: {error}") from None
        if held < needed or not array.data_ptr():
            raise ValueError(
                f"a torch tensor of shape {tuple(shape)} needs {needed} bytes of its storage, which"
                f" holds {held if array.data_ptr() else 0}: its memory was freed"
            )

    def shape(self, array: Any) -> tuple[int, ...]:
        if array.is_nested:
            raise TypeError("a nested torch tensor came: a padded one is needed")
        return tuple(array.shape)

    def require_strided(self, array: Any) -> None:
        if self._compiling() or self._transform() is not None:
            return
        if self._is_plain(array) and not array.is_meta:
            with contextlib.suppress(LookupError):  # a lazy view is a strided tensor
                self.at(array).key(array)

    def resolve(self, array: Any) -> Any:
        if array._is_zerotensor():
            return self.torch.zeros(array.shape, dtype=array.dtype, device=array.device)
        return array.resolve_conj().resolve_neg()

    def numpy_dtype(self, array: Any) -> Any:
        try:
            dtype = np.dtype(self._describe(array.dtype).name)
            return dtype if self._from_numpy(_empty(0, dtype)).dtype is array.dtype else None
        except TypeError:
            return None  # bfloat16 and its like

    def again_key(self, head: Any, x: Any, i: Any) -> Any:
        if x.is_contiguous() and i.is_contiguous():
            return head, x.shape, x.dtype, i.shape, i.dtype
        return None  # which is no key that `again` looks for

    def again(self, small: dict[Any, SmallCall], head: Any, x: Any, i: Any) -> Any:
        # Exact types only: ``x`` has one of `plain` by its entry in `_by_type`.
        if self._by_dynamo() or type(i) not in self.plain:
            return None
        kind, dim, mode = head
        if kind == "gather" and mode == "raise" and i.dtype is self._int64:
            size = self._moved_by_torch.get(x.dtype)
            if size is not None:
                result = self._tiny(x, dim, i, size)
                if result is not None:
                    return result
        if not self.at_rest():
            return None
        try:
            call = small.get((head, x.shape, x.dtype, i.shape, i.dtype))
            if call is None:
                return None
            run, numbers, wanted, dtype, item_mask, index_mask, sizes, _ = call
            source = self.plain_address(x, sizes[0], sizes[1])
            index = self.plain_address(i, sizes[2], sizes[3])
            if not source or not index or source & item_mask or index & index_mask:
                return None
            if self.wants_grad(x):
                return None
        except (RuntimeError, TypeError):
            return None  # a tensor without plain memory, or a mode that cannot be hashed
        # Half the time of torch.empty, and three quarters of torch.empty_like's.
        result = (
            self._from_numpy(_empty(wanted, dtype)) if dtype is not None else self.empty(wanted, x)
        )
        return None if run(result.data_ptr(), source, index, numbers) else result

    def _tiny(self, x: Any, dim: int, i: Any, itemsize: int) -> Any:
        """A gather by torch itself, where a call costs more than the kernel saves; None otherwise.

        Its operator is right in every mode, transform and kind of AD, and for every lazy view; its
        node of the graph costs a tenth of one written in Python. What it cannot see is that memory
        is gone.
        """
        try:
            items = i.numel()
            if (
                items <= TINY
                and x.is_cpu
                and i.is_cpu
                and x.is_contiguous()
                and i.is_contiguous()
                and x.untyped_storage().nbytes() >= (x.numel() + x.storage_offset()) * itemsize
                and i.untyped_storage().nbytes() >= (items + i.storage_offset()) * 8
            ):
                return self._torch_gather(x, dim, i)
        except (RuntimeError, IndexError):
            pass  # no plain memory, or an error for which we have words of our own
        return None

    def settled(self, side: Any) -> bool:
        return (
            not self._by_dynamo() and (side is None or type(side) in self.plain) and self.at_rest()
        )

    def at_rest(self) -> bool:
        """Whether torch just computes: no mode, transform, trace or forward-mode AD is active."""
        return not (
            self._dispatch_modes()
            or self._function_modes()
            or self._transform() is not None
            or self._forward_ad._current_level >= 0
            or self._jit_tracing() is not None
        )

    def tokens_key(self, x: Any, ids: Any) -> Any:
        return (x.shape, x.dtype) if ids is None else (x.shape, x.dtype, ids.shape, ids.dtype)

    def plain_address(self, array: Any, itemsize: int, nbytes: int) -> int:
        if (
            not array.is_cpu
            or array.is_neg()
            or array.is_conj()
            or not array.is_contiguous()
            or array.untyped_storage().nbytes() < nbytes + array.storage_offset() * itemsize
        ):
            return 0
        return array.data_ptr()  # 0 where the storage has no memory

    def _refuse(self, array: Any) -> None:
        if array.layout is not self.torch.strided:
            raise TypeError(
                f"a torch tensor of layout {array.layout} came: a strided one is needed"
            )
        raise TypeError(
            f"a torch tensor on device {array.device} came: there are kernels for the CPU and for"
            " CUDA devices"
        )

    def address(self, array: Any) -> int:
        return array.data_ptr()

    def layout(self, key: Key) -> Layout:
        dtype = self._dtypes.get(key[2])
        if dtype is None:
            dtype = self._dtypes[key[2]] = self._describe(key[2])
        return Layout(tuple(key[0]), tuple(s * dtype.itemsize for s in key[1]), dtype)

    def _describe(self, dtype: Any) -> DType:
        name = str(dtype).removeprefix("torch.")
        if name.startswith(("q", "bits")):
            raise TypeError(f"a torch tensor of quantised dtype {name} came: dequantise it first")
        index = None
        if name.startswith(("int", "uint")) and name[-1].isdigit():
            index = f"{name[0]}{dtype.itemsize}"
        return DType(name, dtype.itemsize, index, True)

    def empty(self, shape: tuple[int, ...], like: Any, dtype: str | None = None) -> Any:
        kind = like.dtype if dtype is None else getattr(self.torch, dtype)
        return self.torch.empty(shape, dtype=kind, device="cpu")

    def empty_large(self, shape: tuple[int, ...], like: Any, nbytes: int) -> Any:
        memory = self.torch.from_numpy(recycle.empty(nbytes))
        return memory.view(like.dtype).reshape(shape)

    def contiguous(self, array: Any) -> Any:
        return array.detach().clone(memory_format=self.torch.contiguous_format)

    def assign(self, target: Any, source: Any) -> None:
        target.copy_(source)

    def clone(self, array: Any) -> Any:
        return array.detach().clone(memory_format=self.torch.contiguous_format)

    def cast(self, array: Any, dtype: Any) -> Any:
        return array.to(getattr(self.torch, dtype) if isinstance(dtype, str) else dtype)

    def reinterpret(self, array: Any, dtype: str) -> Any:
        return array.view(getattr(self.torch, dtype))

    def scalar_bits(self, array: Any, value: Any, what: str = "fill_value") -> np.ndarray:
        torch = self.torch
        problem = f"{what} {value!r} cannot be held in dtype {array.dtype}"
        try:
            held = torch.full((1,), value, dtype=array.dtype, device="cpu")
        except (OverflowError, ValueError, TypeError, RuntimeError):
            raise ValueError(problem) from None
        if not (array.dtype.is_floating_point or array.dtype.is_complex) and held.item() != value:
            raise ValueError(problem)
        return self.bits(held).copy()

    def row_bits(self, array: Any, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        torch = self.torch
        if is_number(value):
            return np.repeat(self.scalar_bits(array, value, "mask_token"), math.prod(shape))
        token, key = ready(self, value)
        token = token.detach()
        self.layout(key)  # which refuses what is no plain number
        row = torch_token(torch, token, array.dtype, shape).contiguous()
        return self.bits(row).reshape(-1).copy()

    def adopt_sequence(self, values: Any, what: str, like: Any) -> Any:
        if self._compiling():  # which follows NumPy's calls, but not all of them
            return self.torch.tensor(list(values), device=like.device)
        return super().adopt_sequence(values, what, like)

    def adopt(self, array: np.ndarray, like: Any) -> Any:
        # torch has no other byte order, and warns of memory that is read-only.
        if array.dtype.kind not in "biuf":
            raise TypeError(f"an array of dtype {array.dtype} came beside torch's: torch has none")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not array.flags.writeable or any(s < 0 for s in array.strides):
            array = array.copy()
        return self.torch.from_numpy(array)

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        return array.permute(order)

    def tile(self, array: Any, times: int) -> Any:
        return array.repeat(1, times)

    def where(self, condition: Any, array: Any, other: Any) -> Any:
        other = self.torch.as_tensor(other, dtype=array.dtype, device=array.device)
        return self.torch.where(condition, array, other)

    def writeable(self, array: Any) -> bool:
        return True

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        return self.torch.from_numpy(array)

    def device(self, array: Any) -> str:
        return str(array.device)

    def wants_grad(self, array: Any) -> bool:
        if array.requires_grad and self.torch.is_grad_enabled():
            return True
        # A dual number of forward-mode AD, outside of the autograd function that takes it apart.
        forward = self._forward_ad
        return (
            forward._current_level >= 0
            and self.torch._C._is_fwd_grad_enabled()
            and forward.unpack_dual(array).tangent is not None
        )


@functools.lru_cache(maxsize=1)
def _torch_cuda() -> Adapter:
    from nbgather import _cuda_arrays

    return _cuda_arrays.TorchCudaAdapter()


_numpy = NumpyAdapter()
#: The adapter of the types that a fast path may go by: exactly these, not what derives from them.
_by_type: dict[type, Adapter] = {np.ndarray: _numpy}
_torch: TorchAdapter | None = None

_SUPPORTED = "an array of NumPy, torch, JAX, Dask, CuPy or numba.cuda"


def adapter(array: Any, what: str) -> Adapter:
    """The adapter of this array's container; ``what`` names the argument in the TypeError."""
    found = _by_type.get(type(array))
    if found is None:
        found = _find(array, what)
        if type(array) in found.plain:
            _by_type[type(array)] = found
    return found.at(array) if found.detours else found


def _find(array: Any, what: str) -> Adapter:
    global _torch
    kind = type(array)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{what} is a masked array: its mask would be lost; pass {what}.filled(...) or"
            f" {what}.data"
        )
    if isinstance(array, np.ndarray):
        return _numpy
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        if _torch is None:
            _torch = TorchAdapter()
        # What torch makes of tensors to trace them; any other kind of tensor is somebody's own.
        internal = kind.__module__.startswith("torch._subclasses")
        if kind in (torch.Tensor, torch.nn.Parameter) or internal:
            return _torch
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(array, jax.Array):
        return _find_jax(array, what)
    dask = sys.modules.get("dask.array")
    if dask is not None and isinstance(array, dask.Array):
        from nbgather import _dask

        return _dask.adapter
    if hasattr(array, "__cuda_array_interface__"):
        from nbgather import _cuda_arrays

        return _cuda_arrays.interface
    name = f"{kind.__module__}.{kind.__qualname__}"
    if torch is not None and isinstance(array, torch.Tensor):
        raise TypeError(
            f"{what} is a {name}, which derives from torch.Tensor: a plain tensor is needed, as"
            f" {what}.as_subclass(torch.Tensor) is where its data is all there is to it"
        )
    raise TypeError(f"{what} is a {name}: {_SUPPORTED} is needed")


def _find_jax(array: Any, what: str) -> Adapter:
    from nbgather import _jax

    if isinstance(array, sys.modules["jax"].core.Tracer):
        raise TypeError(
            f"{what} is traced by JAX, which cannot run a kernel: wrap the call in"
            " jax.pure_callback(function, jax.ShapeDtypeStruct(shape, dtype), ...)"
        )
    if type(array).__name__ != "ArrayImpl":
        raise TypeError(f"{what} is a JAX array of dtype {array.dtype}: plain numbers are needed")
    places = array.devices()
    if {d.platform for d in places} != {"cpu"} or len(places) > 1:
        raise TypeError(
            f"{what} is a JAX array on {', '.join(sorted(map(str, places)))}: one CPU device is"
            " needed"
        )
    return _jax.adapter


#: The adapter of a type that has come before, or None.
known = _by_type.get


def same_adapter(array: Any, what: str, other: Any, other_what: str) -> Adapter:
    """The adapter of two arrays of one library on one device; a TypeError names both if not."""
    first = adapter(array, what)
    _require_same(first, array, what, adapter(other, other_what), other, other_what)
    return first


def _require_same(
    first: Adapter, array: Any, what: str, second: Adapter, other: Any, other_what: str
) -> None:
    if first is second and first.home == "cpu":
        return
    if first.name != second.name:
        raise TypeError(
            f"{what} is a {first.name} array and {other_what} a {second.name} one:"
            " both must be of one library"
        )
    places = first.device(array), second.device(other)
    if places[0] != places[1]:
        raise TypeError(
            f"{what} is on {places[0]} and {other_what} on {places[1]}: both must be on one device"
        )


def beside(adapted: Adapter, array: Any, what: str, other: Any, other_what: str) -> Any:
    """``other``, which says where items are, as an array of the library of ``array``.

    It may be a list, a tuple, a range, or a NumPy array beside one of torch, JAX or Dask on the
    CPU. What goes to a GPU must be there already, unless it is a list.
    """
    kind = type(other)
    if kind in adapted.plain and not adapted.detours:
        return other
    if kind is list or kind is tuple or kind is range:
        return adapted.adopt_sequence(other, other_what, array)
    found = adapter(other, other_what)
    if found is _numpy and found is not adapted and found.name in adapted.takes:
        if adapted.home != "cpu":
            raise TypeError(
                f"{what} is on {adapted.device(array)} and {other_what} a NumPy array on the CPU:"
                " both must be on one device"
            )
        return adapted.adopt(other, array)
    _require_same(adapted, array, what, found, other, other_what)
    return other


def from_sequence(values: Any, what: str) -> np.ndarray:
    """A list, tuple or range of numbers as an array; an empty one counts as integers."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        raise ValueError(
            f"{what} is a {type(values).__name__} that is no array: rows of one length are needed"
        ) from None
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{what} is a {type(values).__name__} of dtype {array.dtype}: numbers of at most 64"
            " bits are needed"
        )
    return array if array.size else array.astype(np.int64)


def scalar(value: Any, what: str) -> Any:
    """A scalar of Python or NumPy, also where a 0-d array of a library holds it."""
    if is_number(value) or isinstance(value, _SCALARS):
        return value
    if not hasattr(type(value), "shape"):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{what} is a {kind}: a scalar is needed")
    adapted = adapter(value, what)
    shape = adapted.shape(value)
    if shape != ():
        raise TypeError(f"{what} has shape {shape}: a scalar is needed")
    if adapted.home != "cpu":
        raise TypeError(f"{what} is on {adapted.device(value)}: a scalar on the host is needed")
    if isinstance(adapted, TorchAdapter):
        return ready(adapted, value)[0].item()
    return np.asarray(value)[()]


def host_counts(value: Any, what: str) -> Any:
    """Counts as Python's or NumPy's numbers, also where a library's array on the CPU holds them."""
    if isinstance(value, np.generic) or not hasattr(type(value), "shape"):
        return value
    adapted = adapter(value, what)
    if adapted.home != "cpu":
        raise TypeError(f"{what} is on {adapted.device(value)}: counts on the host are needed")
    if isinstance(adapted, TorchAdapter):
        value, key = ready(adapted, value)
        layout = adapted.layout(key)
        if layout.dtype.integer is None:
            raise TypeError(f"{what} has dtype {layout.dtype.name}: whole numbers are needed")
        return adapted.integers(value).copy()
    return np.asarray(value)


def is_number(value: Any) -> bool:
    """Whether it is a scalar of Python or NumPy."""
    return isinstance(value, (int, float, complex, np.number, np.bool_))


def require_beside(adapted: Adapter, array: Any, what: str, other: Any, other_what: str) -> None:
    """Refuse ``other``, which carries values, unless it is of the same library and device."""
    if not is_number(other):
        found = adapter(other, other_what)
        _require_same(adapted, array, what, found, other, other_what)


def ready(adapted: Adapter, array: Any) -> tuple[Any, Key]:
    """An array whose memory can be read as it is, and its key."""
    try:
        return array, adapted.key(array)
    except LookupError:
        # A lazy conjugate or negative view of torch: its memory is not its value.
        array = adapted.resolve(array)
        return array, adapted.key(array)
