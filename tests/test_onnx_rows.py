"""Segments and bags of rows as models: onnxruntime and onnx's reference, by the calls' bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import nbgather
from nbgather.onnx import gather_reduce_model, run, segment_reduce_model
from nbgather.operations.reducing import REDUCES

COUNTS = np.array([3, 0, 6, 1, 0])
GIVEN = {"counts": COUNTS, "offsets": np.cumsum([0, *COUNTS])}


def _rows(dtype: str, *shape: int) -> np.ndarray:
    generator = np.random.default_rng(5)
    if dtype.startswith("float"):
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 90, shape).astype(dtype)


def _agree(model: Any, want: np.ndarray, **feeds: np.ndarray) -> None:
    for got in (run(model, **feeds)["output"], ReferenceEvaluator(model).run(None, feeds)[0]):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes()


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int64", "uint8"])
def test_models_have_the_bits_of_the_calls(dtype: str) -> None:
    generator = np.random.default_rng(6)
    for reduce, rank in itertools.product(REDUCES, (1, 3)):
        if dtype == "float16" and (rank == 3 or reduce in ("mean", "amax", "amin")):
            continue  # which runtimes lack, or round otherwise
        x = _rows(dtype, *(10, 4, 3)[:rank])
        of, ids = generator.integers(0, 3, 10), generator.integers(0, 10, 10)
        for by, where in GIVEN.items():
            options: Any = {by: where, "backend": "reference"}
            model = segment_reduce_model(reduce, rank, by=by, dtype=dtype)
            _agree(model, nbgather.segment_reduce(x, reduce, **options), x=x, **{by: where})
            model = gather_reduce_model(reduce, rank, by=by, dtype=dtype)
            want = nbgather.gather_reduce(x, ids, reduce, **options)
            _agree(model, want, x=x, ids=ids, **{by: where})
        model = segment_reduce_model(reduce, rank, by="ids", dtype=dtype)
        want = nbgather.segment_reduce(x, reduce, ids=of, num_segments=5, backend="reference")
        _agree(model, want, x=x, ids=of, num_segments=np.array(5))
        model = gather_reduce_model(reduce, rank, dtype=dtype)
        want = nbgather.gather_reduce(x, ids.reshape(5, 2), reduce, backend="reference")
        _agree(model, want, x=x, ids=ids.reshape(5, 2))


def test_narrow_indices_and_nothing_at_all() -> None:
    x, where = _rows("float32", 10, 3), GIVEN["offsets"].astype("i4")
    model = segment_reduce_model("sum", index_dtype="int32")
    _agree(model, nbgather.segment_reduce(x, "sum", offsets=where), x=x, offsets=where)
    ids = np.array([[0, 9], [-1 + 10, 3]], "i4")
    model = gather_reduce_model("mean", index_dtype="int32")
    _agree(model, nbgather.gather_reduce(x, ids, "mean"), x=x, ids=ids)
    for where, rows in ((np.array([0, 0, 0]), 0), (np.array([0]), 0), (np.array([0, 10]), 10)):
        model = segment_reduce_model("mean")
        want = nbgather.segment_reduce(x[:rows], "mean", offsets=where)
        assert run(model, x=x[:rows], offsets=where)["output"].tobytes() == want.tobytes()


def test_what_does_not_fit_fails_in_the_graph() -> None:
    x = _rows("float32", 10, 3)
    for where in ([0, 3, 9], [0, 3, 12]):
        with pytest.raises(RuntimeError):
            run(segment_reduce_model(), x=x, offsets=np.array(where))
    with pytest.raises(RuntimeError):
        run(gather_reduce_model(), x=x, ids=np.array([[0, 10]]))
    few = {"ids": np.arange(10), "num_segments": np.array(9)}
    with pytest.raises(RuntimeError):
        run(segment_reduce_model(by="ids"), x=x, **few)


@pytest.mark.parametrize(
    ("make", "options", "error", "text"),
    [
        (segment_reduce_model, {"rank": 0}, ValueError, "rank is 0: it must be at least 1"),
        (segment_reduce_model, {"by": None}, ValueError, "by is None: it must be one of 'offsets'"),
        (gather_reduce_model, {"by": "ids"}, ValueError, "by is 'ids': it must be one of 'offse"),
        (gather_reduce_model, {"reduce": "max"}, ValueError, "reduce is 'max'"),
        (gather_reduce_model, {"dtype": "bool"}, TypeError, "dtype is bool"),
        (segment_reduce_model, {"reduce": "amin", "opset": 17}, ValueError, "between 18 and"),
        (segment_reduce_model, {"index_dtype": "uint8"}, TypeError, "one of int64, int32"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_says_why(
    make: Any, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(**options)
