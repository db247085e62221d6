"""What was handed in, its bits, and the way back to the same container.

Nothing is imported here but NumPy: a container's library is found in ``sys.modules``, since
whoever hands in a tensor has imported torch. One :class:`Adapter` per container says what the
plan needs to know (a hashable *key* of shape, strides and dtype), where the data lies, and how to
make a result of the same kind.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from nbgather import _recycle

#: Bytes per item that the kernels move.
ITEMSIZES = (1, 2, 4, 8, 16)

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
    owners: Any  # of the numbers


class _Memory:
    """Memory that NumPy can view without owning it; keeps its owner alive."""

    def __init__(self, interface: dict[str, Any], owner: object) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def view_memory(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any] | str,
    owner: object,
) -> np.ndarray:
    """View memory as an array of any strides, in bytes. The caller answers for the bounds."""
    if 0 in shape:
        return np.empty(shape, dtype)
    interface = {
        "version": 3,
        "shape": shape,
        "strides": strides,
        "typestr": np.dtype(dtype).str,
        "data": (address, False),
    }
    return np.asarray(_Memory(interface, owner))


def bits_dtype(itemsize: int) -> np.dtype[Any]:
    """The dtype that carries the bits of an item: unsigned, or 16 bytes of void."""
    return np.dtype(f"u{itemsize}" if itemsize <= 8 else "V16")


class Adapter:
    """One kind of container. Subclasses know one library each."""

    name: str
    #: Whether a call may have to go another way than to a kernel on the array's own memory.
    detours = False
    #: Other libraries whose arrays may come with these.
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

    def detour(self, *arrays: Any) -> Any:
        """The module whose ``via_...`` functions take the call; None where it goes straight on."""
        return None

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
        if nbytes < _recycle.SMALLEST:
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


def _data_pointer_is_where_the_c_api_says() -> bool:
    probe = np.empty(3)
    try:
        found = ctypes.c_void_p.from_address(id(probe) + object.__basicsize__).value
    except (AttributeError, ValueError):
        return False
    return sys.implementation.name == "cpython" and found == probe.ctypes.data


_HEAD = object.__basicsize__
_read_pointer = ctypes.c_size_t.from_address


def _address_from_struct(array: np.ndarray) -> int:
    # PyArray_DATA: the first field after the object's head. `array.ctypes.data` and
    # `__array_interface__` give the same for 0.8 us each, a tenth of a whole call.
    return _read_pointer(id(array) + _HEAD).value


def _address_from_ctypes(array: np.ndarray) -> int:
    return int(array.ctypes.data)


#: The address of a NumPy array's first element.
memory_address = (
    _address_from_struct if _data_pointer_is_where_the_c_api_says() else _address_from_ctypes
)


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

    def key(self, array: np.ndarray) -> Key:
        return array.shape, array.strides, array.dtype

    def numpy_dtype(self, array: np.ndarray) -> Any:
        return array.dtype

    def again_key(self, head: Any, x: np.ndarray, i: np.ndarray) -> Any:
        return head, x.shape, x.strides, x.dtype, i.shape, i.strides, i.dtype

    def again(self, small: dict[Any, SmallCall], head: Any, x: Any, i: Any) -> Any:
        try:
            call = small.get((head, x.shape, x.strides, x.dtype, i.shape, i.strides, i.dtype))
        except AttributeError:  # an index of another library, or no array at all
            return None
        if call is None:
            return None
        run, numbers, shape, dtype, item_mask, index_mask, _ = call
        source, index = memory_address(x), memory_address(i)
        if source & item_mask or index & index_mask:
            return None
        result = np.empty(shape, dtype)
        return None if run(memory_address(result), source, index, numbers) else result

    address = staticmethod(memory_address)

    def layout(self, key: Key) -> Layout:
        return Layout(key[0], key[1], _numpy_dtype(key[2]))

    def empty(self, shape: tuple[int, ...], like: Any, dtype: str | None = None) -> np.ndarray:
        return np.empty(shape, like.dtype if dtype is None else dtype)

    def empty_large(self, shape: tuple[int, ...], like: Any, nbytes: int) -> np.ndarray:
        return _recycle.empty(nbytes).view(like.dtype).reshape(shape)

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)

    def assign(self, target: np.ndarray, source: np.ndarray) -> None:
        target[...] = source

    def clone(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C", copy=True, subok=False)

    def cast(self, array: np.ndarray, dtype: Any) -> np.ndarray:
        return array.astype(dtype)

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
            token = self.scalar_bits(array, value).view(array.dtype).reshape(())
        if not np.can_cast(token.dtype, array.dtype, "safe"):
            raise TypeError(
                f"mask_token has dtype {token.dtype}: it must go into {array.dtype} without loss"
            )
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
    came = tuple(token.shape)
    while token.ndim > len(shape) and token.shape[0] == 1:
        token = token[0]
    try:
        return broadcast(token, shape)
    except (ValueError, RuntimeError):
        raise ValueError(
            f"mask_token has shape {came}: it must broadcast to one token of shape {shape}"
        ) from None


_empty = np.empty


class TorchAdapter(Adapter):
    """Torch tensors in the memory of the CPU."""

    name = "torch"
    detours = True

    def __init__(self) -> None:
        self.torch = sys.modules["torch"]
        self._compiling = self.torch.compiler.is_compiling
        self._by_dynamo = self.torch.compiler.is_dynamo_compiling  # cheaper
        self._transform = self.torch._C._functorch.maybe_current_level
        self.plain = frozenset((self.torch.Tensor, self.torch.nn.Parameter))
        self._from_numpy = self.torch.from_numpy
        self._grad_enabled = self.torch.is_grad_enabled
        # torch.gather leaves the bits of these as they are, and of float16 not.
        self._moved_by_torch = (self.torch.float32, self.torch.float64)
        self._dtypes: dict[Any, DType] = {}

    def detour(self, *arrays: Any) -> Any:
        # Fake tensors have a type of their own; those of torch.func hide within its transforms.
        if not self._compiling():
            if self._transform() is not None:
                self._only_vmap()
            elif all(type(a) in self.plain or not isinstance(a, self.torch.Tensor) for a in arrays):
                return None
        from nbgather import _torch_ops

        return _torch_ops

    def _only_vmap(self) -> None:
        functorch = self.torch._C._functorch
        kind = functorch.peek_interpreter_stack().key()
        if kind != functorch.TransformType.Vmap:
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
        if array.is_conj() or array.is_neg():
            raise LookupError  # answered by `ready`
        if array.is_nested:
            raise TypeError("a nested torch tensor came: a padded one is needed")
        return array.shape, array.stride(), array.dtype

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
        if self._by_dynamo():
            return None
        try:
            dtype, shape = x.dtype, i.shape
            call = small.get((head, x.shape, dtype, shape, i.dtype))
            # Then all that a tensor's memory can be without showing it in these.
            if (
                call is None
                or not x.is_cpu
                or not i.is_cpu
                or x.is_neg()
                or (dtype.is_complex and x.is_conj())
                or not x.is_contiguous()
                or not i.is_contiguous()
            ):
                return None
            if x.requires_grad and self._grad_enabled():
                return self._again_with_grad(head, x, i)
            source, index = x.data_ptr(), i.data_ptr()
        except (AttributeError, RuntimeError):
            return None  # no tensor, or a sparse one or another without plain memory
        run, numbers, wanted, kind, item_mask, index_mask, _ = call
        if source & item_mask or index & index_mask:
            return None
        # Half the time of torch.empty, and three quarters of torch.empty_like's.
        result = (
            self._from_numpy(_empty(wanted, kind)) if kind is not None else self.empty(wanted, x)
        )
        return None if run(result.data_ptr(), source, index, numbers) else result

    def _again_with_grad(self, head: Any, x: Any, i: Any) -> Any:
        """A node of the graph that is written in C++ costs a tenth of one written in Python."""
        kind, dim, mode = head
        if kind == "gather" and mode == "raise" and x.dtype in self._moved_by_torch:
            return self.torch.gather(x, dim, i)
        return None

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
        return self.torch.empty(shape, dtype=kind)

    def empty_large(self, shape: tuple[int, ...], like: Any, nbytes: int) -> Any:
        memory = self.torch.from_numpy(_recycle.empty(nbytes))
        return memory.view(like.dtype).reshape(shape)

    def contiguous(self, array: Any) -> Any:
        return array.detach().clone(memory_format=self.torch.contiguous_format)

    def assign(self, target: Any, source: Any) -> None:
        target.copy_(source)

    def clone(self, array: Any) -> Any:
        return array.detach().clone(memory_format=self.torch.contiguous_format)

    def cast(self, array: Any, dtype: Any) -> Any:
        return array.to(getattr(self.torch, dtype) if isinstance(dtype, str) else dtype)

    def scalar_bits(self, array: Any, value: Any, what: str = "fill_value") -> np.ndarray:
        torch = self.torch
        problem = f"{what} {value!r} cannot be held in dtype {array.dtype}"
        try:
            held = torch.full((1,), value, dtype=array.dtype)
        except (OverflowError, ValueError, TypeError, RuntimeError):
            raise ValueError(problem) from None
        if not (array.dtype.is_floating_point or array.dtype.is_complex) and held.item() != value:
            raise ValueError(problem)
        return self.bits(held).copy()

    def row_bits(self, array: Any, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        torch = self.torch
        if isinstance(value, (int, float, complex)):
            return np.repeat(self.scalar_bits(array, value), math.prod(shape))
        if adapter(value, "mask_token") is not self:
            raise TypeError("x_visible is a torch array and mask_token is not")
        token = value.detach()
        if not torch.can_cast(token.dtype, array.dtype):
            raise TypeError(
                f"mask_token has dtype {token.dtype}: it must go into {array.dtype} without loss"
            )
        row = _one_token(torch.broadcast_to, token, shape).to(array.dtype).contiguous()
        return self.bits(row).reshape(-1).copy()

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        return array.permute(order)

    def tile(self, array: Any, times: int) -> Any:
        return array.repeat(1, times)

    def where(self, condition: Any, array: Any, other: Any) -> Any:
        return self.torch.where(condition, array, self.torch.as_tensor(other).to(array.dtype))

    def writeable(self, array: Any) -> bool:
        return True

    def from_numpy(self, array: np.ndarray, like: Any) -> Any:
        return self.torch.from_numpy(array)

    def device(self, array: Any) -> str:
        return str(array.device)

    def wants_grad(self, array: Any) -> bool:
        return bool(array.requires_grad and self.torch.is_grad_enabled())


@functools.lru_cache(maxsize=1)
def _torch_cuda() -> Adapter:
    from nbgather import _cuda_arrays

    return _cuda_arrays.TorchCudaAdapter()


_numpy = NumpyAdapter()
_by_type: dict[type, Adapter] = {np.ndarray: _numpy}
_torch: TorchAdapter | None = None

_SUPPORTED = "an array of NumPy, torch, JAX, Dask, CuPy or numba.cuda"


def adapter(array: Any, what: str) -> Adapter:
    """The adapter of this array's container; ``what`` names the argument in the TypeError."""
    found = _by_type.get(type(array))
    if found is None:
        found = _find(array, what)
        if not found.detours or type(array) in found.plain:
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
    raise TypeError(f"{what} is a {kind.__module__}.{kind.__qualname__}: {_SUPPORTED} is needed")


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
    second = adapter(other, other_what)
    if second.name in first.takes:
        return first
    if first is not second and first.name == second.name:
        places = first.device(array), second.device(other)
        raise TypeError(
            f"{what} is on {places[0]} and {other_what} on {places[1]}: both must be on one device"
        )
    if first is not second:
        raise TypeError(
            f"{what} is a {first.name} array and {other_what} a {second.name} one:"
            " both must be of one library"
        )
    if first.home != "cpu" and first.device(array) != second.device(other):
        raise TypeError(
            f"{what} is on {first.device(array)} and {other_what} on {second.device(other)}: both"
            " must be on one device"
        )
    return first


def ready(adapted: Adapter, array: Any) -> tuple[Any, Key]:
    """An array whose memory can be read as it is, and its key."""
    try:
        return array, adapted.key(array)
    except LookupError:
        # A lazy conjugate or negative view of torch: its memory is not its value.
        array = array.resolve_conj().resolve_neg()
        return array, adapted.key(array)
