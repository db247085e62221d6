"""scatter_reduce as a model: onnxruntime and onnx's reference, bit for bit the reference's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

import nbgather
from nbgather.onnx import run, scatter_reduce_model
from nbgather.operations.reducing import REDUCES

generator = np.random.default_rng(23)


def _operands(dtype: str, rows: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places 4 and 5 are never hit."""
    numbers = [generator.integers(1, 90, shape).astype(dtype) for shape in ((6, 5), (11, 5))]
    if dtype.startswith("float"):
        numbers = [(v / 7 - 5).astype(dtype) for v in numbers]
    elif dtype.startswith("int"):
        numbers = [v - np.array(40, dtype) for v in numbers]
    index = generator.integers(0, 4, 11 if rows else (11, 5))
    return numbers[0], index, numbers[1]


def _expected(
    x: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray, reduce: str, own: bool
) -> np.ndarray:
    if index.ndim < x.ndim:
        index = np.broadcast_to(index[:, None], src.shape)
    options = {"include_self": own, "backend": "reference"}
    return nbgather.scatter_reduce(x, dim, index, src, reduce, **options)


def _both(model: Any, x: np.ndarray, index: np.ndarray, src: np.ndarray) -> list[np.ndarray]:
    feeds = {"data": x, "indices": index, "updates": src}
    return [run(model, **feeds)["output"], ReferenceEvaluator(model).run(None, feeds)[0]]


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int16", "int64", "uint8"])
def test_models_have_the_bits_of_the_reference(dtype: str) -> None:
    for reduce, own, rows in itertools.product(REDUCES, (True, False), (False, True)):
        x, index, src = _operands(dtype, rows)
        model = scatter_reduce_model(0, 2, reduce, include_self=own, rows=rows, dtype=dtype)
        expected = _expected(x, 0, index, src, reduce, own)
        for result in _both(model, x, index, src):
            assert result.dtype == expected.dtype
            assert result.tobytes() == expected.tobytes(), (reduce, own, rows)


def test_halves_are_summed_in_float32_and_rounded_once() -> None:
    x, index, src = _operands("float16", rows=False)
    for reduce, own in itertools.product(("sum", "prod", "amax"), (True, False)):
        model = scatter_reduce_model(-1, 2, reduce, include_self=own, dtype="float16")
        expected = _expected(x, 1, index[:6], src[:6], reduce, own)
        for result in _both(model, x, index[:6], src[:6]):
            assert result.tobytes() == expected.tobytes(), (reduce, own)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_count_wraps_as_the_sum_does() -> None:
    x, src = np.zeros(2, np.int8), np.ones(200, np.int8)
    index = np.zeros(200, np.int64)
    model = scatter_reduce_model(0, 1, "mean", include_self=False, dtype="int8")
    expected = _expected(x, 0, index, src, "mean", own=False)
    assert _both(model, x, index, src)[0].tolist() == expected.tolist() == [1, 0]


def test_negative_places_count_from_the_end_and_others_fail() -> None:
    x, src = np.zeros(3, np.float32), np.ones(2, np.float32)
    model = scatter_reduce_model(0, 1)
    assert run(model, data=x, indices=np.array([-1, 0]), updates=src)["output"].tolist() == [
        1,
        0,
        1,
    ]
    with pytest.raises(RuntimeError, match=r"out of|bounds"):
        run(model, data=x, indices=np.array([3, 0]), updates=src)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((0, 0), {}, ValueError, "rank is 0: it must be at least 1"),
        ((2, 2), {}, IndexError, "dim"),
        ((0, 2, "max"), {}, ValueError, "reduce is 'max': it must be one of 'sum', 'prod'"),
        ((1, 2), {"rows": True}, ValueError, "dim is 1: with rows it must be 0"),
        ((0, 2), {"dtype": "bool"}, TypeError, "dtype is bool: it must be one of float16"),
        ((0, 2, "amax"), {"opset": 17}, ValueError, "opset is 17: it must be between 18 and"),
        ((0, 2), {"opset": 15}, ValueError, "opset is 15: it must be between 16 and"),
        ((0, 2), {"rows": True, "index_dtype": "int32"}, TypeError, "it must be one of int64"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_says_why(
    arguments: Any, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        scatter_reduce_model(*arguments, **options)


_NODES = [
    case
    for case in collect_testcases("ScatterElements")
    if case.model is not None and "ScatterElements" in {n.op_type for n in case.model.graph.node}
]
_REDUCES_OF_ONNX = {b"add": "sum", b"mul": "prod", b"max": "amax", b"min": "amin"}


@pytest.mark.parametrize("case", _NODES, ids=[case.name for case in _NODES])
def test_the_node_cases_of_onnx(case: Any) -> None:
    """What ONNX expects of ScatterElements, by calls and by models of ours."""
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    (((x, index, src), (expected,)),) = case.data_sets
    axis = attributes.get("axis", 0)
    reduce = _REDUCES_OF_ONNX.get(attributes.get("reduction", b"none"))
    positive = index % x.shape[axis]
    if reduce is None:
        result = nbgather.scatter(x, axis, positive, src)
    else:
        result = nbgather.scatter_reduce(x, axis, positive, src, reduce, backend="reference")
        model = scatter_reduce_model(axis, x.ndim, reduce, dtype=x.dtype.name)
        assert _both(model, x, index, src)[0].tobytes() == expected.tobytes()
    assert result.dtype == expected.dtype
    assert result.tobytes() == expected.tobytes()


def test_there_are_cases_of_each_reduction() -> None:
    names = " ".join(case.name for case in _NODES)
    assert all(name in names for name in ("duplicate", "reduction_max", "reduction_min"))
