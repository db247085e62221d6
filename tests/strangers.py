"""Calls every public function with operands of every strange kind; a program.

``strangers.py cold`` makes each call as the first of its kind, ``strangers.py warm`` after three
ordinary calls of the same layout. Before each call a line names it, and after it another says what
came of it, so that a crash tells where it was.
"""

from __future__ import annotations

import array
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import dask.array as da
import jax
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.masked import masked_tensor
from torch.testing._internal.two_tensor import TwoTensor

import nbgather
from nbgather.containers.base import Container
from nbgather.engine import memo

warnings.simplefilter("ignore")


class LookAlike:
    """It has what the key of an array is made of, and no memory."""

    def __init__(self, like: np.ndarray) -> None:
        self.shape, self.strides, self.dtype, self.ndim = (
            like.shape,
            like.strides,
            like.dtype,
            like.ndim,
        )
        self.size, self.flags, self.nbytes = like.size, like.flags, like.nbytes


class CudaLookAlike(LookAlike):
    """It says that it lies on a GPU."""

    def __init__(self, like: np.ndarray) -> None:
        super().__init__(like)
        self.__cuda_array_interface__ = {
            "shape": like.shape, "typestr": like.dtype.str, "data": (4096, False), "version": 3,
        }  # fmt: skip


class Convertible:
    """Something that NumPy can convert."""

    def __init__(self, held: np.ndarray) -> None:
        self.held = held

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.held


class Derived(np.ndarray):
    pass


class DerivedTensor(torch.Tensor):
    pass


def _freed(tensor: torch.Tensor, nbytes: int) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(nbytes)
    return tensor


def _deleted(value: Any) -> Any:
    value.delete()
    return value


def _batched(tensor: torch.Tensor) -> torch.Tensor:
    kept = []
    torch.func.vmap(lambda t: kept.append(t) or t)(torch.stack([tensor, tensor]))
    return kept[0]


def _fake(tensor: torch.Tensor) -> Any:
    return FakeTensorMode().from_tensor(tensor)


#: Kinds of operand, made of the ordinary one as a NumPy array.
NUMPY_STRANGERS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda a: a.copy(),
    "scalar": lambda a: a.reshape(-1)[0],
    "int": lambda a: 1,
    "bool": lambda a: True,
    "float": lambda a: 0.5,
    "none": lambda a: None,
    "str": lambda a: "0",
    "bytes": lambda a: b"0",
    "object": lambda a: object(),
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "range": lambda a: range(len(a)),
    "ragged": lambda a: [[0], [0, 1]],
    "list of text": lambda a: ["0", "1"],
    "list of arrays": lambda a: list(a),
    "huge list": lambda a: [10**30] * len(a),
    "empty list": lambda a: [],
    "dict": lambda a: {0: a},
    "0-d": lambda a: np.array(a.reshape(-1)[0]),
    "empty": lambda a: a[:0],
    "look-alike": LookAlike,
    "cuda look-alike": CudaLookAlike,
    "convertible": Convertible,
    "masked": lambda a: np.ma.MaskedArray(a, np.zeros(a.shape, bool)),
    "derived": lambda a: a.copy().view(Derived),
    "matrix": np.asmatrix,
    "memoryview": lambda a: memoryview(a.copy()),
    "array.array": lambda a: array.array("q", range(a.size)),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "reversed": lambda a: a[::-1].copy()[::-1],
    "unaligned": lambda a: np.frombuffer(b"0" + a.tobytes(), a.dtype, a.size, 1).reshape(a.shape),
    "int16": lambda a: a.astype(np.int16),
    "uint64": lambda a: a.astype(np.uint64),
    "float16": lambda a: a.astype(np.float16),
    "bools": lambda a: a.astype(bool),
    "objects": lambda a: a.astype(object),
    "strings": lambda a: a.astype(np.dtypes.StringDType()),
    "structs": lambda a: a.view([("a", a.dtype)]),
    "times": lambda a: a.astype(np.int64).view("M8[s]"),
    "jax": jax.numpy.asarray,
    "jax deleted": lambda a: _deleted(jax.numpy.asarray(a)),
    "jax key": lambda a: jax.random.key(0),
    "dask": lambda a: da.from_array(a, chunks=1),
}
TORCH_STRANGERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "torch": lambda t: t.clone(),
    "torch int32": lambda t: t.to(torch.int32),
    "torch meta": lambda t: t.to("meta"),
    "torch negative view": lambda t: torch._neg_view(t.clone()),
    "torch conjugate": lambda t: t.to(torch.complex64).conj(),
    "torch imaginary": lambda t: torch.complex(t.float(), t.float()).conj().imag,
    "torch zero": lambda t: torch._efficientzerotensor(tuple(t.shape), dtype=t.dtype),
    "torch freed": lambda t: _freed(t, 0),
    "torch shrunk": lambda t: _freed(t, t.itemsize),
    "torch sparse": lambda t: t.to_sparse(),
    "torch csr": lambda t: t.to_sparse_csr(),
    "torch mkldnn": lambda t: t.float().to_mkldnn(),
    "torch nested": lambda t: torch.nested.nested_tensor(list(t)),
    "torch jagged": lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
    "torch quantized": lambda t: torch.quantize_per_tensor(t.float(), 1.0, 0, torch.qint8),
    "torch fake": _fake,
    "torch functional": lambda t: torch._to_functional_tensor(t.clone()),
    "torch two": lambda t: TwoTensor(t.clone(), t.clone()),
    "torch masked": lambda t: masked_tensor(t.clone(), torch.ones_like(t, dtype=torch.bool)),
    "torch derived": lambda t: t.clone().as_subclass(DerivedTensor),
    "torch parameter": lambda t: torch.nn.Parameter(t.clone(), requires_grad=False),
    "torch with grad": lambda t: t.clone().requires_grad_(),
    "torch escaped batch": _batched,
    "torch strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "torch 0-d": lambda t: t.reshape(-1)[0],
    "torch storage": lambda t: t.clone().untyped_storage(),
}

F, INT64 = np.float32, np.int64
X = np.arange(24, dtype=F).reshape(2, 3, 4)
SQUARE = np.arange(6, dtype=F).reshape(2, 3)
IMAGES = np.arange(32, dtype=F).reshape(2, 1, 4, 4)
NOISE = np.array([[0.5, 0.1, 0.9], [0.2, 0.8, 0.3]], F)
RANKS = np.array([[1, 0, 2], [2, 0, 1]], INT64)
IDS = np.array([[2, 0], [1, 1]], INT64)

#: Function → ordinary operands, and the call.
FUNCTIONS: dict[str, tuple[dict[str, np.ndarray], Callable[..., Any]]] = {
    "gather": (
        {"input": SQUARE, "index": IDS},
        lambda input, index: nbgather.gather(input, 1, index),
    ),
    "gather 0-d": (
        {"input": np.array(5.0), "index": np.array(0)},
        lambda input, index: nbgather.gather(input, 0, index),
    ),
    "gather float16": (
        {"input": SQUARE.astype(np.float16), "index": IDS},
        lambda input, index: nbgather.gather(input, 1, index),
    ),
    "gather out": (
        {"input": SQUARE, "index": IDS, "out": np.zeros((2, 2), F)},
        lambda input, index, out: nbgather.gather(input, 1, index, out=out),
    ),
    "gather fill": (
        {"input": SQUARE, "index": IDS, "fill_value": np.array(3, F)},
        lambda input, index, fill_value: nbgather.gather(
            input, 1, index, mode="fill", fill_value=fill_value
        ),
    ),
    "take_along_axis": (
        {"arr": SQUARE, "indices": IDS},
        lambda arr, indices: nbgather.take_along_axis(arr, indices, 1),
    ),
    "take_along_axis flat": (
        {"arr": SQUARE, "indices": np.array([1, 0])},
        lambda arr, indices: nbgather.take_along_axis(arr, indices, None),
    ),
    "gather_tokens": (
        {"x": X, "ids": IDS},
        lambda x, ids: nbgather.gather_tokens(x, ids),
    ),
    "scatter": (
        {"input": SQUARE, "index": IDS, "src": np.ones((2, 2), F)},
        lambda input, index, src: nbgather.scatter(input, 1, index, src),
    ),
    "scatter_add": (
        {"input": SQUARE, "index": IDS, "src": np.ones((2, 2), F)},
        lambda input, index, src: nbgather.scatter_add(input, 1, index, src),
    ),
    "infer_gather": (
        {"input": SQUARE, "output": SQUARE[:, :2]},
        lambda input, output: nbgather.infer_gather(input, output),
    ),
    "token_noise": (
        {"sample_ids": np.array([3, 4])},
        lambda sample_ids: nbgather.token_noise(1, sample_ids, 5),
    ),
    "rank_tokens": (
        {"scores": NOISE, "num_keep": np.array([2, 1])},
        lambda scores, num_keep: nbgather.rank_tokens(scores, num_keep),
    ),
    "random_masking": (
        {"x": X, "sample_ids": np.array([3, 4])},
        lambda x, sample_ids: nbgather.random_masking(x, 0.5, seed=1, sample_ids=sample_ids),
    ),
    "random_masking noise": (
        {"x": X, "noise": NOISE},
        lambda x, noise: nbgather.random_masking(x, 0.5, noise=noise),
    ),
    "random_masking counts": (
        {"x": X, "num_keep": np.array([2, 1])},
        lambda x, num_keep: nbgather.random_masking(x, seed=1, num_keep=num_keep),
    ),
    "restore_tokens": (
        {
            "x_visible": X[:, :2],
            "ids_restore": RANKS,
            "mask_token": np.ones(4, F),
            "valid": np.array([[True, True], [True, False]]),
        },
        lambda x_visible, ids_restore, mask_token, valid: nbgather.restore_tokens(
            x_visible, ids_restore, mask_token, valid=valid
        ),
    ),
    "restore_tokens plain": (
        {"x_visible": X[:, :2], "ids_restore": RANKS, "mask_token": np.ones(4, F)},
        lambda x_visible, ids_restore, mask_token: nbgather.restore_tokens(
            x_visible, ids_restore, mask_token
        ),
    ),
    "rank_tokens number": (
        {"scores": NOISE, "num_keep": np.array(2)},
        lambda scores, num_keep: nbgather.rank_tokens(
            scores, int(num_keep) if type(num_keep) is np.ndarray else num_keep
        ),
    ),
    "gather_tokens out": (
        {"x": X, "ids": IDS, "out": np.zeros((2, 2, 4), F)},
        lambda x, ids, out: nbgather.gather_tokens(x, ids, out=out),
    ),
    "patchify": ({"images": IMAGES}, lambda images: nbgather.patchify(images, 2)),
    "unpatchify": (
        {"patches": np.arange(32, dtype=F).reshape(2, 4, 4)},
        lambda patches: nbgather.unpatchify(patches, 2, 4),
    ),
    "masked_patchify": (
        {"images": IMAGES, "sample_ids": np.array([3, 4])},
        lambda images, sample_ids: nbgather.masked_patchify(
            images, 2, seed=1, sample_ids=sample_ids
        ),
    ),
    "strategies.block": (
        {"sample_ids": np.array([3, 4])},
        lambda sample_ids: nbgather.strategies.block(1, sample_ids, (4, 4)),
    ),
    "strategies.tube": (
        {"sample_ids": np.array([3, 4])},
        lambda sample_ids: nbgather.strategies.tube(1, sample_ids, (2, 2, 2)),
    ),
}


def describe(value: Any) -> str:
    """What came, bits and all."""
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(map(describe, value))})"
    if isinstance(value, da.Array):
        return f"dask {describe(value.compute())}"
    if isinstance(value, (FakeTensor, TwoTensor)) or (
        isinstance(value, torch.Tensor) and value.is_meta
    ):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    if not hasattr(value, "dtype"):
        return repr(value)
    kind = f"{type(value).__module__}.{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    if isinstance(value, torch.Tensor):
        if torch._is_functional_tensor(value):
            value = torch._from_functional_tensor(value)
        value = value.detach().numpy()
    if value.dtype == object:
        return f"{kind} {value.tolist()}"
    data = np.ascontiguousarray(value).tobytes()
    return f"{kind} {hashlib.blake2s(data, digest_size=6).hexdigest()}"


def outcome(call: Callable[..., Any], operands: dict[str, Any]) -> str:
    # Not torch.manual_seed, which notes a traceback for every kind of device that is not there.
    torch.default_generator.manual_seed(0)
    try:
        return describe(call(**operands))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _torch_of(value: Any) -> Any:
    return torch.from_numpy(value.copy())


def run(name: str, library: str, warm: bool, write: Callable[[str, str], None]) -> None:
    """Try all strangers in each operand of one function, the others ordinary."""
    ordinary, call = FUNCTIONS[name]
    to = _torch_of if library == "torch" else np.copy
    fresh = lambda: {key: to(value) for key, value in ordinary.items()}  # noqa: E731
    if warm:
        for _ in range(3):
            outcome(call, fresh())
    for operand in ordinary:
        strangers = [(k, f, ordinary[operand]) for k, f in NUMPY_STRANGERS.items()]
        strangers += [(k, f, _torch_of(ordinary[operand])) for k, f in TORCH_STRANGERS.items()]
        for kind, make, base in strangers:
            label = f"{name} ({library})/{operand} {kind}"
            write(label, "")
            try:
                stranger = make(base)
            except Exception as error:
                write(label, f"cannot be made: {type(error).__name__}")
                continue
            if not warm:
                memo.entries.clear()
            text = outcome(call, {**fresh(), operand: stranger})
            write(label, re.sub(r" at 0x[0-9a-f]+", "", text))


if __name__ == "__main__":
    Container.draw_seed = lambda self: 7
    for chosen in sys.argv[2:] or FUNCTIONS:
        for kind_of_array in ("numpy", "torch"):
            run(
                chosen,
                kind_of_array,
                sys.argv[1] == "warm",
                lambda label, text: print(json.dumps([label, text]), flush=True),
            )
