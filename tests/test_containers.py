"""Containers: imported when their arrays come, one more in one file, and what is refused, and how.

The operations that they execute are values.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import pickle
import pkgutil
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
import xarray
import zarr

import nbgather
import nbgather.operations
from nbgather import strategies
from nbgather.containers import registry
from nbgather.operations.base import BOOL, FLOAT32, INT64, Operation, Spec
from nbgather.operations.blocks import Blocks, MultiBlock, MultiBlockIds, Sizes
from nbgather.operations.cleared import Cleared
from nbgather.operations.indexing import (
    Gather,
    GatherTokens,
    Scatter,
    ScatterAdd,
    TakeAlongAxis,
    TakeInBounds,
)
from nbgather.operations.infer import InferGather
from nbgather.operations.keep import Keep
from nbgather.operations.packing import (
    CutPacked,
    KeepPacked,
    PackedMasking,
    PackedPatchify,
    RestorePacked,
)
from nbgather.operations.patches import CutPatches, MaskedPatchify, Patchify, Unpatchify
from nbgather.operations.ranked import RankedMasking
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.scores import OwnScores, Score, Stripes, Tube
from nbgather.operations.segments import CheckedBounds, GatherReduce, SegmentReduce
from nbgather.operations.tokens import (
    ChooseTokens,
    KeepTokens,
    RandomMasking,
    RankTokens,
    RestoreTokens,
    RestoreValidTokens,
    SeededNoise,
    TokenNoise,
)

StrictArray = type(array_api_strict.zeros(()))
PACKAGE = Path(nbgather.__file__).parent

# Imported when their arrays come

STEPS = """
import importlib, json, sys
import numpy as np
import nbgather

def loaded():
    return sorted(name for name in LIBRARIES if PREFIX + name in sys.modules)

PREFIX = "nbgather.containers."
LIBRARIES = ("torch", "jax", "dask", "array_api_strict", "cuda_interface", "torch_cuda")
x, ids = np.zeros((2, 3, 4), np.float32), np.zeros((2, 1), np.int64)

def call(convert):
    nbgather.gather_tokens(convert(x), convert(ids))
    nbgather.random_masking(convert(x), seed=0)

steps = {}
call(lambda a: a)
steps["numpy"] = loaded()
for name, convert in (
    ("torch", lambda m: m.from_numpy), ("array_api_strict", lambda m: m.asarray),
    ("dask.array", lambda m: m.asarray), ("jax.numpy", lambda m: m.asarray),
):
    module = importlib.import_module(name)
    call(lambda a: a)
    steps[f"{name} imported"] = loaded()
    call(convert(module))
    steps[name] = loaded()
print(json.dumps(steps))
"""


def test_a_container_is_imported_when_its_arrays_come() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "numpy": [],
        "torch imported": [],
        "torch": ["torch"],
        "array_api_strict imported": ["torch"],
        "array_api_strict": ["array_api_strict", "torch"],
        "dask.array imported": ["array_api_strict", "torch"],
        "dask.array": ["array_api_strict", "dask", "torch"],
        "jax.numpy imported": ["array_api_strict", "dask", "torch"],
        "jax.numpy": ["array_api_strict", "dask", "jax", "torch"],
    }


@pytest.mark.parametrize("library", sorted(registry.MODULES))
def test_every_module_of_the_registry_has_a_container(library: str) -> None:
    module = importlib.import_module(registry.MODULES[library])
    assert issubclass(module.SERVES, registry.Container)


# One more container in one file: array-api-strict, which has the standard's functions and no others

GENERATOR = np.random.default_rng(0)
X = GENERATOR.random((3, 8, 4), np.float32)
INDEX = GENERATOR.integers(0, 4, (3, 2, 4))
IDS = np.array([[5, 0], [7, 7], [1, 2]])
SRC = GENERATOR.random((3, 2, 4), np.float32)
SCORES = np.round(GENERATOR.random((3, 8)), 1)
IDS_RESTORE = np.argsort(GENERATOR.random((3, 8)), axis=1)
SAMPLES = np.array([0, -5, 2**40 + 3])
IMAGES = GENERATOR.integers(0, 256, (3, 3, 8, 12), np.uint8)
VIDEO = GENERATOR.random((2, 3, 4, 4, 6))
TOKEN = np.arange(4, dtype=np.float32)

Make = Callable[[np.ndarray], Any]
CALLS: dict[str, Callable[[Make], Any]] = {
    "gather": lambda a: nbgather.gather(a(X), 1, a(INDEX)),
    "gather, listed": lambda a: nbgather.gather(a(X), 1, INDEX.tolist()),
    "gather, NumPy's index": lambda a: nbgather.gather(a(X), -1, INDEX),
    "gather, clip": lambda a: nbgather.gather(a(X), 2, a(INDEX - 2), mode="clip"),
    "gather, fill": lambda a: nbgather.gather(a(X), 2, a(INDEX - 2), mode="fill", fill_value=0.5),
    "gather, reversed": lambda a: nbgather.gather(a(X)[::-1, :, :], 1, a(INDEX)),
    "gather, uint8 index": lambda a: nbgather.gather(a(X), 1, a(INDEX.astype(np.uint8))),
    "gather, empty": lambda a: nbgather.gather(a(X), 1, a(INDEX[:, :0])),
    "gather, 0-d": lambda a: nbgather.gather(a(np.array(3.0)), 0, a(np.array(0))),
    **{
        f"gather, {dtype}": lambda a, dtype=dtype: nbgather.gather(a(X.astype(dtype)), 1, a(INDEX))
        for dtype in ("bool", "int16", "uint64", "float64", "complex64", "complex128")
    },
    "take_along_axis, flat": lambda a: nbgather.take_along_axis(a(X), a(INDEX[0, 0]), None),
    "take_along_axis": lambda a: nbgather.take_along_axis(a(X), a(INDEX[:, :1] - 4), 2),
    "gather_tokens": lambda a: nbgather.gather_tokens(a(X), a(IDS)),
    "scatter": lambda a: nbgather.scatter(a(X), 1, a(INDEX), a(SRC)),
    "scatter, a number": lambda a: nbgather.scatter(a(X), 1, a(INDEX), 0.5),
    "scatter_add": lambda a: nbgather.scatter_add(a(X), 1, a(INDEX * 0), a(SRC)),
    "rank_tokens": lambda a: nbgather.rank_tokens(a(SCORES), 3),
    "rank_tokens, each": lambda a: nbgather.rank_tokens(a(SCORES), a(np.array([3, 0, 8]))),
    "random_masking, seed": lambda a: nbgather.random_masking(a(X), 0.5, seed=3, epoch=2),
    "random_masking, ids": lambda a: nbgather.random_masking(a(X), seed=3, sample_ids=a(SAMPLES)),
    "random_masking, noise": lambda a: nbgather.random_masking(a(X), 0.4, noise=a(SCORES)),
    "random_masking, each": lambda a: nbgather.random_masking(a(X), seed=3, num_keep=[3, 0, 8]),
    "restore_tokens": lambda a: nbgather.restore_tokens(a(X[:, :3]), a(IDS_RESTORE), 0.5),
    "restore_tokens, a token": lambda a: nbgather.restore_tokens(
        a(X[:, :3]), a(IDS_RESTORE), a(TOKEN)
    ),
    "restore_tokens, valid": lambda a: nbgather.restore_tokens(
        a(X[:, :3]), a(IDS_RESTORE), a(TOKEN), valid=a(np.arange(3) < np.array([[3], [0], [2]]))
    ),
    "random_masking, packed": lambda a: nbgather.random_masking(
        a(X), seed=3, num_keep=[3, 0, 8], packed=True
    )[:4],
    "restore_tokens, packed": lambda a: nbgather.restore_tokens(
        a(X[0]), a(IDS_RESTORE), a(TOKEN), cu_seqlens=a(np.array([0, 3, 3, 8], np.int32))
    ),
    "masked_patchify, packed": lambda a: nbgather.masked_patchify(
        a(IMAGES), 4, seed=1, num_keep=[1, 6, 0], packed=True
    )[:4],
    "masked_patchify, channels last": lambda a: nbgather.masked_patchify(
        a(IMAGES.transpose(0, 2, 3, 1)), 4, 0.5, seed=1, channels="last"
    ),
    "patchify": lambda a: nbgather.patchify(a(IMAGES), 4),
    "patchify, video": lambda a: nbgather.patchify(a(VIDEO), (2, 2, 3)),
    "unpatchify": lambda a: nbgather.unpatchify(a(X[:, :6, :]), (2, 1), (4, 3)),
    "masked_patchify": lambda a: nbgather.masked_patchify(a(IMAGES), 4, 0.5, seed=1),
    "masked_patchify, normalised": lambda a: nbgather.masked_patchify(
        a(IMAGES), 4, seed=1, num_keep=[1, 6, 0], scale=1 / 255, mean=[0.1, 0.2, 0.3], std=0.2
    ),
    "token_noise": lambda a: nbgather.token_noise(5, a(SAMPLES), 7, epoch=1),
    "block": lambda a: strategies.block(5, a(SAMPLES), (4, 6)),
    "multiblock": lambda a: strategies.multiblock(5, a(SAMPLES), (8, 9)),
    "multiblock_ids": lambda a: strategies.multiblock_ids(5, a(SAMPLES), (8, 9)),
    "stripes": lambda a: strategies.stripes(5, a(SAMPLES), (8, 9)),
    "tube": lambda a: strategies.tube(5, a(SAMPLES), (2, 4, 6), spatial=strategies.grid),
    "infer_gather": lambda a: nbgather.infer_gather(a(X), a(X[:, ::-1].copy()))[0].index,
}


def as_tuple(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("name", CALLS)
def test_strict_arrays_have_numpys_bits(name: str) -> None:
    call = CALLS[name]
    expected = call(lambda a: a)
    results = call(array_api_strict.asarray)
    assert type(results) is (StrictArray if isinstance(expected, np.ndarray) else type(expected))
    for result, array in zip(as_tuple(results), as_tuple(expected), strict=True):
        assert type(result) is StrictArray
        assert result.dtype == getattr(array_api_strict, array.dtype.name)
        view = np.asarray(result)
        assert (view.shape, view.dtype) == (array.shape, array.dtype)
        assert view.tobytes() == array.tobytes()


def test_a_strict_array_that_came_is_not_written_to() -> None:
    x, index = array_api_strict.asarray(X), array_api_strict.asarray(INDEX)
    for out in (array_api_strict.asarray(SRC), x, SRC.copy()):
        with pytest.raises(ValueError, match="out= was given for array-api-strict arrays"):
            nbgather.gather(x, 1, index, out=out)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda s, t: nbgather.gather(s(X), 1, t(INDEX)), ("input", "index")),
        (lambda s, t: nbgather.gather(t(X), 1, s(INDEX)), ("input", "index")),
        (lambda s, t: nbgather.scatter(s(X), 1, s(INDEX), t(SRC)), ("input", "src")),
        (lambda s, t: nbgather.scatter_add(t(X), 1, t(INDEX), s(SRC)), ("input", "src")),
        (lambda s, t: nbgather.random_masking(s(X), noise=t(SCORES)), ("x", "noise")),
        (
            lambda s, t: nbgather.restore_tokens(s(X), s(IDS_RESTORE), t(TOKEN)),
            ("x_visible", "mask_token"),
        ),
    ],
)
def test_strict_arrays_beside_torch_are_refused_by_name(call: Any, names: Any) -> None:
    with pytest.raises(TypeError) as raised:
        call(array_api_strict.asarray, torch.from_numpy)
    message = str(raised.value)
    for word in (*names, "torch", "array-api-strict", "one library"):
        assert word in message


def test_a_bad_index_in_a_strict_array_is_named() -> None:
    with pytest.raises(IndexError) as raised:
        nbgather.gather(array_api_strict.asarray(X), 2, array_api_strict.asarray(INDEX + 2))
    with pytest.raises(IndexError) as expected:
        nbgather.gather(X, 2, INDEX + 2)
    assert str(raised.value) == str(expected.value)


def test_strict_arrays_elsewhere_are_refused() -> None:
    x = array_api_strict.asarray(X, device=array_api_strict.Device("device1"))
    with pytest.raises(TypeError, match=r"x is an array-api-strict array on .*device1.*CPU device"):
        nbgather.random_masking(x, seed=0)


# What is refused


@pytest.mark.parametrize(
    "call",
    [
        lambda s: nbgather.gather(s(3.0), 0, np.array(0)),
        lambda s: nbgather.scatter(s(3.0), 0, np.array(0), 1.0),
        lambda s: nbgather.scatter_add(np.zeros(3), 0, np.array(0), s(1.0)),
        lambda s: nbgather.infer_gather(s(3.0), np.array(3.0)),
        lambda s: nbgather.gather(np.zeros(3), 0, s(0).astype(np.int64)),
    ],
)
def test_a_scalar_of_numpy_is_no_array(call: Callable[..., Any]) -> None:
    """It has a shape and strides, and its value where an array has its address."""
    with pytest.raises(TypeError, match=r"is a numpy\.(float|int)64: an array of NumPy, torch"):
        call(np.float64)


def of_library(module: str, name: str = "Array") -> Any:
    """An array of a library that is not installed: all that is looked at is where its type is."""
    return type(name, (), {"__module__": module, "shape": (2, 3), "dtype": np.dtype("f4")})()


FOREIGN: dict[str, tuple[Callable[[], Any], str]] = {
    "pandas": (lambda: pandas.DataFrame(X[0]), "pass {}.to_numpy()"),
    "pandas, Series": (lambda: pandas.Series(X[0, 0]), "pass {}.to_numpy()"),
    "xarray": (lambda: xarray.DataArray(X), "pass {}.data, or apply it by xarray.apply_ufunc"),
    "zarr": (
        lambda: zarr.array(X),
        "read it first, {}[...], or pass dask.array.from_zarr({})",
    ),
    "scipy": (lambda: scipy.sparse.csr_array(X[0]), "pass {}.toarray()"),
    "polars": (lambda: of_library("polars.dataframe.frame"), "pass {}.to_numpy()"),
    "pyarrow": (lambda: of_library("pyarrow.lib"), "pass {}.to_numpy(zero_copy_only=False)"),
    "h5py": (
        lambda: of_library("h5py._hl.dataset", "Dataset"),
        "read it first, {}[...], or pass dask.array.from_array({})",
    ),
    "awkward": (lambda: of_library("awkward.highlevel"), "pass awkward.to_numpy({})"),
    "sparse": (lambda: of_library("sparse.numba_backend._coo.core", "COO"), "pass {}.todense()"),
    "tensorflow": (lambda: of_library("tensorflow.python.framework.ops"), "pass {}.numpy()"),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "input": lambda array: nbgather.gather(array, 1, INDEX),
    "index": lambda array: nbgather.gather(X, 1, array),
    "out": lambda array: nbgather.gather(X, 1, INDEX, out=array),
    "src": lambda array: nbgather.scatter(X, 1, INDEX, array),
    "x": lambda array: nbgather.random_masking(array, seed=0),
    "noise": lambda array: nbgather.random_masking(X, noise=array),
    "images": lambda array: nbgather.patchify(array, 4),
    "sample_ids": lambda array: nbgather.token_noise(0, array, 4),
}


def test_every_remedy_is_tested() -> None:
    assert {name.partition(",")[0] for name in FOREIGN} == set(registry.REMEDIES)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("library", FOREIGN)
def test_a_refusal_says_how_to_hand_the_data_over(library: str, place: str) -> None:
    make, remedy = FOREIGN[library]
    array = make()
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    with pytest.raises(TypeError) as raised:
        PLACES[place](array)
    message = str(raised.value)
    assert message.startswith(f"{place} is a {kind}: an array of NumPy, torch, JAX, Dask, CuPy")
    assert message.endswith(f"({remedy.format(place, place)})")


@pytest.mark.parametrize("place", PLACES)
def test_a_refusal_without_a_remedy(place: str) -> None:
    with pytest.raises(TypeError) as raised:
        PLACES[place](of_library("somewhere.inside"))
    assert str(raised.value) == (
        f"{place} is a somewhere.inside.Array: an array of NumPy, torch, JAX, Dask, CuPy or"
        " numba.cuda is needed"
    )


def test_what_pandas_is_told_to_pass_is_taken() -> None:
    frame, index = pandas.DataFrame(X[0]), INDEX[0]
    result = nbgather.gather(frame.to_numpy(), 0, index)
    assert (result == np.take_along_axis(X[0], index, 0)).all()


def nested(layout: torch.layout) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout)


MEANINGFUL: dict[str, tuple[Callable[[], Any], str]] = {
    "masked": (
        lambda: np.ma.masked_array(X, X > 0.5),
        "{} is a masked array: its mask would be lost; pass {}.filled(...) or {}.data",
    ),
    "objects": (
        lambda: X.astype(object),
        "dtype object holds Python objects: a dtype of plain bytes is needed",
    ),
    "sparse": (
        lambda: torch.zeros(3, 8).to_sparse(),
        "a torch tensor of layout torch.sparse_coo came: a strided one is needed",
    ),
    "nested": (
        lambda: nested(torch.strided),
        "{} is a nested tensor: a plain one is needed, as torch.nested.to_padded_tensor({}, 0.0)",
    ),
    "jagged": (
        lambda: nested(torch.jagged),
        "{} is a torch.nested._internal.nested_tensor.NestedTensor: a plain tensor is needed, as"
        " torch.nested.to_padded_tensor({}, 0.0) is",
    ),
}


@pytest.mark.parametrize("name", MEANINGFUL)
@pytest.mark.parametrize("place", ["input", "x"])
def test_arrays_that_mean_more_than_their_memory_are_refused(name: str, place: str) -> None:
    make, words = MEANINGFUL[name]
    array = make()
    index = torch.zeros((3, 1), dtype=torch.int64) if isinstance(array, torch.Tensor) else INDEX
    calls = {
        "input": lambda: nbgather.gather(array, 1, index),
        "x": lambda: nbgather.random_masking(array, seed=0),
    }
    with pytest.raises(TypeError) as raised:
        calls[place]()
    assert str(raised.value).startswith(words.format(place, place, place))


# Operations are values

KEEP = Keep(ratio=0.75)
BLOCKS = Blocks((4, 4), 1, Sizes(1, 2, 256, 256), Sizes(8, 12, 256, 256), 1, False)
#: An operation of each class, with operands of unknown sizes that it accepts.
F, INT, B = FLOAT32, INT64, BOOL
SAMPLES_OF_OPERATIONS: list[tuple[Operation, tuple[Any, ...]]] = [
    (Gather(1), (("N", "L"), F, ("N", "K"), INT)),
    (TakeAlongAxis(-1, "wrap"), (("N", "L"), F, ("M", "K"), INT)),
    (TakeInBounds(-1, "wrap"), (("N", "L"), F, ("M", "K"), INT)),
    (GatherTokens(mode="fill", fill_value=2), (("N", "L", "D"), F, ("M", "K"), INT)),
    (Scatter(0), (("N", "L"), F, ("M", "K"), INT, ("A", "B"), F)),
    (ScatterAdd(0), (("N", "L"), F, ("M", "K"), INT, ("A", "B"), F)),
    (ScatterReduce(0, reduce="amax"), (("N", "L"), F, ("M", "K"), INT, ("A", "B"), F)),
    (SegmentReduce("sum", "ids", 5), (("N", "L"), F, ("M",), INT)),
    (GatherReduce("sum", "offsets"), (("N", "L"), F, ("T",), INT, ("M",), INT)),
    (CheckedBounds(SegmentReduce("sum", "counts"), 9), (("M",), INT)),
    (Cleared((3, 4)), (("N", "L"), F)),
    (TokenNoise(2**64 - 1, 3, 7), (("N",), INT)),
    (SeededNoise(7), (("N",), INT, (), INT, (), INT)),
    (RankTokens(Keep(number=3)), (("N", "L"), F)),
    (ChooseTokens(Keep(number=3), 1, 0, 7), (("N", "L"), F, ("M",), INT)),
    (RandomMasking(Keep(number=3), 1), (("N", "L"), F, None, None, ("M",), INT)),
    (KeepTokens(True), (("N", "L", "D"), F, ("M", "K"), INT, ("M", "L"), INT)),
    (KeepPacked((3, 0)), (("N", "L", "D"), F, ("M", "K"), INT, ("M", "L"), INT)),
    (CutPacked((3, 0), (4, 4), None), (("N", 1, 8, 8), F, ("M", "K"), INT)),
    (PackedMasking(Keep(number=3), 1), (("N", "L"), F, None, None, ("M",), INT)),
    (
        PackedPatchify(Keep(ratio=0.5), 1, patch_size=(4, 4)),
        (("N", 3, 8, 8), F, ("M", "L"), F, None, None),
    ),
    (RestorePacked(), (("T", "D"), F, ("M", "L"), INT, ("D",), F, ("S",), INT)),
    (RankedMasking(0.5), (("N", 8, "D"), F, ("N", 8), F)),
    (RestoreTokens(), (("N", "K", "D"), F, ("M", "L"), INT)),
    (RestoreValidTokens(), (("N", "K"), F, ("M", "L"), INT, None, None, ("N", "K"), B)),
    (Patchify((4, 4)), (("N", 3, 8, 12), F)),
    (Unpatchify((2, 1), (4, 3)), (("N", 6, 4), F)),
    (CutPatches((4, 4), (1.0, 0.0, 1.0)), (("N", 1, 8, 8), F, ("M", "K"), INT)),
    (
        MaskedPatchify(Keep(number=3), 1, patch_size=(4, 4)),
        (("N", 3, 8, 8), F, ("M", "L"), F, None, None),
    ),
    (Score("grid", (4, 4), (2, 0, 0), 1, 0), (("N",), INT)),
    (Tube(strategies.block, (2, 4, 4), 1, 0), (("N",), INT)),
    (Stripes((4, 4), (2, 1), 1, 0), (("N",), INT)),
    (OwnScores(strategies.block, 0, (4, 4), 1, 0), (("N",), INT)),
    (MultiBlock(BLOCKS, 1, 0), (("N",), INT)),
    (MultiBlockIds(BLOCKS, 1, 0), (("N",), INT)),
    (InferGather(), (("N", "L"), F, ("M", "K"), F)),
]
EVERY = pytest.mark.parametrize(
    ("operation", "parts"), SAMPLES_OF_OPERATIONS, ids=lambda v: type(v).__name__
)


def subclasses(kind: type) -> set[type]:
    return {kind} | {s for direct in kind.__subclasses__() for s in subclasses(direct)}


def test_every_operation_has_a_sample() -> None:
    for module in pkgutil.iter_modules(nbgather.operations.__path__, "nbgather.operations."):
        importlib.import_module(module.name)
    ours = {k for k in subclasses(Operation) if k.__module__.startswith("nbgather.")}
    assert {type(operation) for operation, _ in SAMPLES_OF_OPERATIONS} == ours - {Operation}


@EVERY
def test_an_operation_is_a_value(operation: Operation, parts: Any) -> None:
    fields = dataclasses.fields(operation)  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(operation, fields[0].name if fields else "anything", None)
    twin = pickle.loads(pickle.dumps(operation))
    assert twin is not operation
    assert (twin, hash(twin)) == (operation, hash(operation))
    assert {operation: 1}[twin] == 1
    if fields:
        other = "defer" if fields[-1].name in ("mode", "errors") else "another"
        assert dataclasses.replace(twin, **{fields[-1].name: other}) != operation


def specs_of(parts: tuple[Any, ...], size: Callable[[Any], Any]) -> list[Spec | None]:
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [None if s is None else Spec(tuple(map(size, s)), (), dtype) for s, dtype in pairs]


@EVERY
@pytest.mark.parametrize("unknown", ["names", None, float("nan")], ids=["names", "None", "nan"])
def test_a_rule_compares_known_sizes_only(operation: Operation, parts: Any, unknown: Any) -> None:
    """As names, the sizes differ where they must be equal."""
    keep = unknown == "names"
    operation.check(*specs_of(parts, lambda n: n if keep or isinstance(n, int) else unknown))


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (Gather(1), ((3, None), (4, None))),
        (TakeAlongAxis(-1), ((3, "L"), (4, "K"))),
        (GatherTokens(), ((3, None, "D"), (4, None))),
        (RestoreTokens(), ((None, 4, "D"), (None, 3))),
    ],
    ids=lambda v: type(v).__name__,
)
def test_known_sizes_beside_unknown_ones_are_compared(operation: Operation, shapes: Any) -> None:
    x, index = shapes
    with pytest.raises(ValueError, match="shape"):
        operation.check(Spec(x, (), FLOAT32), Spec(index, (), INT64))


# One formula


def code_of(path: Path) -> str:
    """A module's code without comments and strings."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    skipped = (tokenize.COMMENT, tokenize.STRING)
    return " ".join(t.string for t in tokens if t.type not in skipped)


def test_the_formula_of_kept_tokens_stands_once() -> None:
    """Outside the ONNX graphs, which spell it in operators."""
    formula = re.compile(r"\b1(\.0?)? - (\w+ \. )*(mask_)?ratio\b")
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(formula.findall(code_of(path)))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "onnx"
    }
    assert {name: n for name, n in lines.items() if n} == {"operations/keep.py": 1}


class Boasting(np.ndarray):
    """A subclass that says that it is larger than its memory."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (1 << 40, 8)


def test_a_subclass_that_lies_of_its_shape_is_read_as_it_is() -> None:
    x = np.arange(32, dtype="f4").reshape(4, 8)
    index = np.array([[7], [0], [1], [2]])
    result = nbgather.gather(x.view(Boasting), 1, index)
    assert result.tobytes() == np.take_along_axis(x, index, 1).tobytes()
    assert nbgather.infer_gather(x, x.view(Boasting))[0].is_unique
