"""What the repeating of small calls must know to read a tensor from compiled code.

A tensor's Python object holds its handle for the C interface of torch (``aoti_torch_...``, whose
signatures are promised not to change), and the tensor's implementation holds its set of dispatch
keys, which says in one word that a tensor is a plain one: dense, on the CPU, no lazy view, nothing
of torch.func's, not functional. Where the two lie is not promised: it is found out, once, by
tensors of many kinds whose answers torch gives itself, and where they do not all agree nothing is
repeated.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from nbgather.containers import torch_state
from nbgather.engine import memo
from nbgather.kernels.small import TABLE

#: Functions of torch's C interface by the word of the table: ``int32 f(handle, answer*)``.
_FUNCTIONS = {
    "data": "get_data_ptr",
    "storage_size": "get_storage_size",
    "storage_offset": "get_storage_offset",
    "dtype": "get_dtype",
    "ndim": "get_dim",
    "sizes": "get_sizes",
    "strides": "get_strides",
}
#: Words of a tensor's implementation that are looked at: it is known to have no more than 26.
_MAX_WORDS = 25
_HEAD_BYTES = object.__basicsize__
#: What the table refers to for as long as the process lives.
_owners: list[Any] = []


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _keys(tensor: Any) -> int:
    return int(torch._C._dispatch_keys(tensor).raw_repr())


def _probes() -> list[Any]:
    """Tensors whose sets of dispatch keys differ, and some that are plain alike."""
    plain = torch.ones(2, 3, dtype=torch.float32, device="cpu")
    return [
        plain,
        torch.nn.Parameter(plain.clone()),
        plain[1:].t(),
        torch._neg_view(plain),
        torch.ones(2, dtype=torch.complex64, device="cpu").conj(),
        torch._efficientzerotensor((2,), device="cpu"),
        torch.ones(2, device="meta"),
        torch._to_functional_tensor(plain),
        plain.to_sparse(),
    ]


def _place_of_handle(probes: list[Any]) -> int | None:
    """Bytes from a tensor's object to the pointer to its implementation."""
    for place in (_HEAD_BYTES, _HEAD_BYTES + 8):
        if all(_word(id(t) + place) == t._cdata for t in probes):
            return place
    return None


def _place_of_keys(probes: list[Any]) -> int | None:
    """Bytes from the start of an implementation to its set of dispatch keys."""
    for word in range(1, _MAX_WORDS):
        if all(_word(t._cdata + 8 * word) == _keys(t) for t in probes):
            return 8 * word
    return None


def _library() -> Any:
    """torch's library for the CPU, which is loaded already."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    raise OSError(f"{folder} has no library of torch's for the CPU")


def _facts() -> dict[str, int] | None:
    """The words of the table; None where something is not as it must be."""
    try:
        library, probes = _library(), _probes()
        words = {
            word: ctypes.cast(getattr(library, f"aoti_torch_{name}"), ctypes.c_void_p).value or 0
            for word, name in _FUNCTIONS.items()
        }
        with torch.inference_mode():
            inference = torch.ones(2, device="cpu")
        handle, keys = _place_of_handle([*probes, inference]), _place_of_keys([*probes, inference])
    except (AttributeError, OSError, RuntimeError, TypeError):
        return None
    if handle is None or keys is None or not all(words.values()):
        return None
    objects = {
        "tensor": torch.Tensor,
        "parameter": torch.nn.Parameter,
        "requires_grad": "requires_grad",
        "grad_enabled": torch.is_grad_enabled,
        **torch_state.REST,
    }
    _owners.extend((library, objects))
    return {
        **words, "handle": handle, "keys": keys, "plain_keys": _keys(probes[0]),
        "inference_keys": _keys(inference),
        **{word: id(value) for word, value in objects.items()},
    }  # fmt: skip


def tell() -> bool:
    """Complete the table of the memo; False where tensors cannot be read."""
    facts = _facts()
    if facts is None:
        return False
    for name, value in facts.items():
        memo.table[TABLE.index(name)] = value
    return True


def dtype_number(tensor: Any) -> int:
    """torch's number of a tensor's dtype, as the table's function gives it."""
    answer = ctypes.c_int32()
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(
        int(memo.table[TABLE.index("dtype")])
    )
    handle = id(tensor) + int(memo.table[TABLE.index("handle")])
    if function(handle, ctypes.addressof(answer)):
        raise RuntimeError("a tensor without a dtype came")
    return answer.value
