"""What no runtime decides: the order of equal scores, how many tokens stay, and float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from cases import rng
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx_recipe import assert_same, noises, recipe

from nbgather.onnx import CATALOG, Session, masking_model
from nbgather.onnx._counts import whole_part

LARGEST = np.finfo(np.float32).max


def tied_noises(generator: np.random.Generator, n: int, length: int) -> list[np.ndarray]:
    top = LARGEST - np.arange(5, dtype=np.float32) * np.float32(2**104)
    large = generator.choice([*top, *-top, np.inf, -np.inf, np.nan, 1], (n, length))
    nothing = np.full((n, length), np.nan)
    return [
        *noises(generator, n, length, "float32"), large.astype("f4"), nothing.astype("f4"),
    ]  # fmt: skip


def test_no_order_of_equal_values_is_relied_on() -> None:
    """A TopK that puts the higher of equal positions first, and NaN and -0 where it likes.

    As on WebGPU, it would lose a key that is no less than the largest float32.
    """
    calls = []

    class TopK(OpRun):
        op_domain = ""

        def _run(self, x, k, axis=None, largest=None, sorted=None):
            assert (axis, largest, sorted) == (1, 0, 1)
            assert not np.isnan(x).any()
            assert x.dtype != np.float32 or (x < LARGEST).all()
            calls.append(len(x))
            last = np.arange(x.shape[1])[::-1]
            order = np.stack([np.lexsort((last, row)) for row in x]).reshape(x.shape)
            order = order[:, : int(k[0])]
            return np.take_along_axis(x, order, 1), order

    for options in ({}, {"noise_dtype": "float64"}, {"noise_dtype": "float16"}):
        model = masking_model(0.6, with_x=False, ids_keep=True, **options)
        evaluator = ReferenceEvaluator(model, new_ops=[TopK])
        generator = rng("unstable")
        for length in (1, 2, 5, 33):
            for noise in tied_noises(generator, 4, length):
                with np.errstate(over="ignore"):
                    noise = noise.astype(options.get("noise_dtype", "float32"))
                result = dict(zip(evaluator.output_names, evaluator.run(None, {"noise": noise})))
                assert_same(result, recipe(np.zeros((4, length, 1), np.float32), noise, 0.6))
    assert set(calls) == {1, 2, 3, 4, 5, 6}  # as many rows as have ties, and the added one


def test_samples_without_ties_are_ordered_once() -> None:
    model = masking_model(0.5, with_x=False)
    model.graph.output.append(onnx.helper.make_tensor_value_info("rows", 7, ["R"]))
    session = Session(model)
    noise = rng("x").permuted(np.arange(450, dtype=np.float32).reshape(9, 50), axis=1)
    assert set(session.run(noise=noise)["rows"].tolist()) == {0}  # the added row
    noise[3, 7], noise[5, 2:4], noise[6, 49] = noise[3, 8], np.nan, np.nan
    assert set(session.run(noise=noise)["rows"].tolist()) == {0, 4, 6}


RATIOS = [k / 20 for k in range(21)] + [0.123, 1 / 3, 2 / 3, 0.55, 0.999, 1e-9, 1 - 2**-53, 2**-53]


def test_kept_counts_in_integers_are_those_of_float64() -> None:
    generator = rng("counts")
    for ratio in [*RATIOS, *generator.random(40).tolist()]:
        rule = whole_part(1 - ratio)
        assert rule.limit > 48_000
        tops = [2**k for k in range(31)] + [3 * 2**k for k in range(30)]
        multiples = [rule.denominator * int(v) for v in (*tops, *generator.integers(0, 10**6, 50))]
        lengths = [*range(400), *generator.integers(0, rule.limit, 100).tolist(), rule.limit]
        for length in [*lengths, *multiples, *(m - 1 for m in multiples)]:
            if 0 <= length <= rule.limit:
                assert rule.of(length) == int(length * (1 - ratio)), (ratio, length)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.55, 0.75, 0.9, 0.123456, 1.0])
def test_kept_counts_of_the_graph(ratio: float) -> None:
    """0.55 is rounded to either side, 0.9 always to one, 0.123456 is no simple fraction."""
    session = Session(masking_model(ratio, with_x=False, ids_keep=True), threads=1)
    for length in (0, *range(1, 62), 100, 180, 1000, 4000):
        result = session.run(noise=np.zeros((1, length), np.float32))
        assert result["ids_keep"].shape == (1, int(length * (1 - ratio))), length


def test_a_sample_too_long_fails_in_the_graph() -> None:
    ratio = 0.3141592653589793
    model = masking_model(ratio, with_x=False)
    longest = int({p.key: p.value for p in model.metadata_props}["longest"])
    session = Session(model)
    for length in (longest, longest - 1):
        kept = session.run(noise=np.arange(length, dtype=np.float32)[None])["mask"] == 0
        assert kept.sum() == int(length * (1 - ratio))
    with pytest.raises(RuntimeError, match="sizes_checked"):
        session.run(noise=np.zeros((1, longest + 1), np.float32))


def test_what_webgpu_and_openvino_would_change() -> None:
    """A shader has eight tensors, and a constant is made to fit for bfloat16."""
    for entry in CATALOG:
        graph = entry.build().graph
        constants = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            values = {*node.input, *node.output} - constants
            assert len(values) <= 8, (entry.file, node.name)
        for tensor in graph.initializer:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            size = np.abs(array[np.isfinite(array)])
            assert (size <= ml_dtypes.finfo(ml_dtypes.bfloat16).max).all(), tensor.name


def test_no_float64_that_was_not_asked_for() -> None:
    def dtypes(model: onnx.ModelProto) -> set[int]:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        ports = [*inferred.input, *inferred.output, *inferred.value_info]
        return {p.type.tensor_type.elem_type for p in ports} | {
            tensor.data_type for tensor in inferred.initializer
        }

    double = onnx.TensorProto.DOUBLE
    for entry in CATALOG:
        assert double not in dtypes(entry.build()), entry.file
    for options in ({"noise_dtype": "float16"}, {"dtype": "int8"}, {"noise_dtype": "bfloat16"}):
        assert double not in dtypes(masking_model(0.55, **options))
    for options in ({"noise_dtype": "float64"}, {"dtype": "float64"}, {"ratio_input": True}):
        assert double in dtypes(masking_model(0.55, **options))
