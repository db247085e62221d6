"""The models: the paper's recipe at every size, seeds, restoring, gather, refusals, files."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from cases import random_bits, rng, same

import nbgather
from nbgather.onnx import (
    CATALOG,
    Session,
    export_all,
    gather_model,
    masking_model,
    restore_model,
    run,
    stale_files,
)

ROOT = Path(__file__).resolve().parents[1]
SPECIAL_SCORES = [0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1e-45, 0.5, 0.5, 1.0, -1.0]
TOKENS = ("float32", "float64", "float16", "bfloat16", "int8", "uint16", "int32", "int64", "bool")


def dtype_of(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def recipe(x: np.ndarray, noise: np.ndarray, ratio: float) -> dict[str, np.ndarray]:
    """The paper's recipe in torch on given noise, with a stable sort; x as integers."""
    scores = torch.from_numpy(noise.astype(np.float64))
    bits = torch.from_numpy(x.view(f"i{x.dtype.itemsize}"))
    n, length, width = x.shape
    keep = int(length * (1 - ratio))
    ids_shuffle = torch.argsort(scores, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep = ids_shuffle[:, :keep]
    mask = torch.ones([n, length])
    mask[:, :keep] = 0
    return {
        "x_masked": torch.gather(bits, 1, ids_keep.unsqueeze(-1).expand(-1, -1, width))
        .numpy()
        .view(x.dtype),
        "mask": torch.gather(mask, 1, ids_restore).numpy(),
        "ids_restore": ids_restore.numpy(),
        "ids_keep": ids_keep.contiguous().numpy(),
    }


def assert_same(result: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert set(result) <= set(want)
    for name, array in result.items():
        same(array, want[name])


def noises(generator: np.random.Generator, n: int, length: int, dtype: str) -> list[np.ndarray]:
    arrays = [
        generator.random((n, length)),
        generator.choice(np.array(SPECIAL_SCORES), (n, length)),
        np.full((n, length), 0.25),
        generator.integers(0, 3, (n, length)) / 4,
    ]
    return [noise.astype(dtype_of(dtype)) for noise in arrays]


# Masking


@pytest.mark.parametrize("gather", ["elements", "nd"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.6, 0.75, 0.9, 1.0])
def test_one_model_at_every_size(gather: str, ratio: float) -> None:
    session = Session(masking_model(ratio, gather=gather, ids_keep=True), threads=1)
    generator = rng(f"{gather}{ratio}")
    for length in (1, 2, 5, 16, 49, 196, 197, 300):
        n, width = (int(v) for v in generator.integers(1, 9, 2))
        x = random_bits(generator, (n, length, width), "float32")
        for noise in noises(generator, n, length, "float32"):
            assert_same(session.run(x=x, noise=noise), recipe(x, noise, ratio))


@pytest.mark.parametrize("noise_dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_of_noise(noise_dtype: str) -> None:
    generator = rng(noise_dtype)
    session = Session(masking_model(0.6, noise_dtype=noise_dtype), threads=1)
    for length in (1, 7, 50):
        x = random_bits(generator, (4, length, 3), "float32")
        for noise in noises(generator, 4, length, noise_dtype):
            assert_same(session.run(x=x, noise=noise), recipe(x, noise, 0.6))


@pytest.mark.parametrize("gather", ["elements", "nd"])
@pytest.mark.parametrize("dtype", TOKENS)
def test_every_dtype_of_tokens(dtype: str, gather: str) -> None:
    generator = rng(dtype)
    x = random_bits(generator, (3, 10, 4), dtype_of(dtype))
    noise = generator.random((3, 10)).astype(np.float32)
    result = run(masking_model(0.5, gather=gather, dtype=dtype), x=x, noise=noise)
    assert_same(result, recipe(x, noise, 0.5))


def test_ratio_as_an_input() -> None:
    session = Session(masking_model(ratio_input=True), threads=1)
    generator = rng("ratio")
    for length in (1, 10, 49, 196, 1000):
        x = random_bits(generator, (2, length, 2), "float32")
        noise = generator.random((2, length)).astype(np.float32)
        for ratio in (0.0, 0.1, 0.3, 0.7, 0.75, 0.9, 1.0, *generator.random(5).tolist()):
            result = session.run(x=x, noise=noise, mask_ratio=ratio)
            assert_same(result, recipe(x, noise, ratio))


def test_without_tokens() -> None:
    noise = rng("alone").random((5, 33)).astype(np.float32)
    result = run(masking_model(0.6, with_x=False, ids_keep=True), noise=noise)
    assert list(result) == ["mask", "ids_restore", "ids_keep"]
    assert_same(result, recipe(np.zeros((5, 33, 1), np.float32), noise, 0.6))


@pytest.mark.parametrize("gather", ["elements", "nd"])
def test_empty_sizes(gather: str) -> None:
    for shape in ((0, 16, 4), (2, 0, 4), (2, 16, 0)):
        x, noise = np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32)
        result = run(masking_model(0.75, gather=gather), x=x, noise=noise)
        assert_same(result, recipe(x, noise, 0.75))


@pytest.mark.parametrize("noise_shape", [(2, 15), (2, 17), (1, 16), (3, 16), (2, 1), (16, 2)])
@pytest.mark.parametrize("options", [{}, {"gather": "nd"}, {"ratio_input": True}])
def test_other_sizes_fail_in_the_graph(noise_shape: tuple[int, int], options: dict) -> None:
    import onnxruntime

    # Without our runner, which looks at the sizes first.
    model = masking_model(0.75, **options).SerializeToString()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, settings)
    feeds = {"x": np.zeros((2, 16, 3), np.float32), "noise": np.zeros(noise_shape, np.float32)}
    if "ratio_input" in options:
        feeds["mask_ratio"] = np.array(0.75)
    assert session.run(None, feeds | {"noise": np.zeros((2, 16), np.float32)})
    with pytest.raises(Exception, match="sizes_checked"):
        session.run(None, feeds)


# Seeds


def words(*numbers: int) -> np.ndarray:
    """Numbers of 64 bits as words of 32, the low one first."""
    return np.array([int(n) & 2**64 - 1 for n in numbers], np.uint64).view(np.int32).reshape(-1, 2)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x299F31D0A4093822, 2**64 - 1])
@pytest.mark.parametrize("gather", ["elements", "nd"])
def test_seed_words_give_the_kernels_masks(seed: int, gather: str) -> None:
    model = masking_model(0.75, noise="seed", seed_words=True, gather=gather)
    session = Session(model, threads=1)
    generator = rng("seed")
    for length in (1, 3, 4, 5, 49, 196):
        ids = generator.integers(-(2**63), 2**63 - 1, 5)
        ids[:4] = [0, 7, 2**31, 2**32]
        x = random_bits(generator, (5, length, 2), "float32")
        for epoch in (0, 1, 2**31, 2**32 - 1):
            result = session.run(
                x=x, seed_words=words(seed)[0], sample_id_words=words(*ids.tolist()),
                epoch_word=words(epoch)[0, :1],
            )  # fmt: skip
            want = nbgather.random_masking(x, 0.75, seed=seed, sample_ids=ids, epoch=epoch)
            assert_same(result, want._asdict())


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 0x299F31D0])
@pytest.mark.parametrize("gather", ["elements", "nd"])
def test_a_seed_gives_the_kernels_masks(seed: int, gather: str) -> None:
    session = Session(masking_model(0.75, noise="seed", gather=gather), threads=1)
    generator = rng("seed")
    for length in (1, 2, 3, 4, 5, 49, 196):
        ids = generator.integers(0, 2**31, 5)
        ids[:3] = [0, 7, 2**31 - 1]
        x = random_bits(generator, (5, length, 2), "float32")
        for epoch in (0, 1, 2**31 - 1):
            result = session.run(x=x, seed=seed, sample_ids=ids, epoch=epoch)
            want = nbgather.random_masking(x, 0.75, seed=seed, sample_ids=ids, epoch=epoch)
            assert_same(result, want._asdict())


@pytest.mark.parametrize("options", [{}, {"seed_words": True}])
def test_the_epoch_may_be_left_out_and_numbers_may_be_vectors(options: dict) -> None:
    model = masking_model(0.5, noise="seed", with_x=False, optional_epoch=True, **options)
    session = Session(model, threads=1)
    ids = np.arange(3)
    given = {"sample_ids": ids, "num_tokens": np.array(9), "seed": np.array(4)}
    epoch = {"epoch": np.array(2)}
    if options:
        given = {
            "sample_id_words": words(*ids),
            "num_tokens": np.array(9),
            "seed_words": words(4)[0],
        }
        epoch = {"epoch_word": np.array(2, np.int32)}
    assert [port.name for port in session.optional] == list(epoch)
    for number, extra in ((0, {}), (2, epoch)):
        noise = nbgather.token_noise(4, ids, 9, epoch=number)
        want = nbgather.rank_tokens(noise, 4)
        for shape in ((), (1,)):
            feeds = {
                name: array.reshape(shape) if array.ndim == 0 else array
                for name, array in (given | extra).items()
            }
            result = session.run(feeds)
            same(result["mask"], want.mask)
            same(result["ids_restore"], want.ids_restore)


def test_the_known_answers_through_the_graph() -> None:
    """Random123's third answer: its block is beyond any array, so the emitter is called alone."""
    from nbgather.onnx._build import GraphBuilder
    from nbgather.onnx._limbs import Word, limbs
    from nbgather.onnx._noise import philox

    for counter, key, answer in (
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (2**32 - 1,) * 4,
            (2**32 - 1,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ):
        g = GraphBuilder("known", "Philox alone.", opset=18, ir_version=8)
        shapes = {
            "c0": [1, 1, 1],
            "c1": [1, 1, 1],
            "c2": [1, 1, 1],
            "c3": [1],
            "k0": [1],
            "k1": [1],
        }
        names = {}
        for name, shape in shapes.items():
            g.input(name, "int32", shape, name)
            names[name] = Word(*limbs(g, name, 2, name, wide=False))
        counters = tuple(names[f"c{k}"] for k in range(4))
        bits = philox(g, counters, (names["k0"], names["k1"]), g.int64([1, 1, 1]))
        g.output(bits, "int32", [1, 1, 4], "Of the four words.")
        given = np.array([*counter, *key], np.uint32).view(np.int32)
        feeds = {
            name: number.reshape(shape)
            for (name, shape), number in zip(shapes.items(), given, strict=True)
        }
        result = Session(g.finish({})).run(feeds)[bits]
        assert result.reshape(-1).tolist() == [word >> 8 for word in answer]


def test_no_integer_reaches_2_31_nor_is_divided_with_a_rest() -> None:
    """Every value of the seeded graph, where words are all zeros, all ones, and between."""
    from onnx.reference import ReferenceEvaluator

    for seed_words in (False, True):
        model = masking_model(noise="seed", with_x=False, seed_words=seed_words)
        evaluator = ReferenceEvaluator(model)
        values = [name for node in model.graph.node for name in node.output]
        integers = [n for n in model.graph.node if n.op_type == "Div"]
        assert len(integers) > 30
        top = 2**64 - 1 if seed_words else 2**31 - 1
        for seed in (0, top, 0x299F31D0A4093822 & top):
            ids = [0, top, 0x13198A2E85A308D3 & top]
            feeds: dict[str, np.ndarray] = {"num_tokens": np.array(150)}
            if seed_words:
                feeds |= {"seed_words": words(seed)[0], "sample_id_words": words(*ids)}
                feeds["epoch_word"] = np.array(-1, np.int32)
            else:
                feeds |= {"seed": np.array(seed), "sample_ids": np.array(ids)}
                feeds["epoch"] = np.array(2**31 - 1)
            found = dict(zip(values, evaluator.run(values, feeds), strict=True))
            constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
            found |= feeds | constants
            wrapped = []
            for node in model.graph.node:
                inputs = [np.asarray(found[name]) for name in node.input]
                if node.op_type in ("Add", "Sub", "Mul"):
                    exact = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[node.op_type](
                        *(value.astype(np.float64) for value in inputs)
                    )
                    wrapped += [node.name] if (np.abs(exact) >= 2**31).any() else []
                if node.op_type == "Div":
                    assert not (inputs[0] % inputs[1]).any() or np.abs(inputs[0]).max() < 2**24
            assert not wrapped
            for name, value in found.items():
                array = np.asarray(value)
                if array.dtype.kind == "i" and array.size:
                    assert array.min() >= -(2**31), name
                    assert array.max() < 2**31, name


@pytest.mark.parametrize("wrong", [-1, 2**31, 2**32 + 1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("name", ["seed", "sample_ids", "epoch"])
def test_more_than_31_bits_fail_in_the_graph(name: str, wrong: int) -> None:
    feeds = {"seed": np.array(0), "sample_ids": np.arange(2), "epoch": np.array(0)}
    feeds[name] = np.array([3, wrong]) if name == "sample_ids" else np.array(wrong)
    model = masking_model(noise="seed", with_x=False)
    with pytest.raises(RuntimeError, match="seed_epoch_ids_checked"):
        run(model, feeds, num_tokens=8)


# Ties, counts and dtypes that no runtime decides


def tied_noises(generator: np.random.Generator, n: int, length: int) -> list[np.ndarray]:
    return [*noises(generator, n, length, "float32"), np.full((n, length), np.nan, np.float32)]


def test_no_order_of_equal_values_is_relied_on() -> None:
    """A TopK that puts the higher of equal positions first, and NaN and -0 where it likes."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    calls = []

    class TopK(OpRun):
        op_domain = ""

        def _run(self, x, k, axis=None, largest=None, sorted=None):
            assert (axis, largest, sorted) == (1, 0, 1)
            assert not np.isnan(x).any()
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
    from nbgather.onnx._counts import whole_part

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


# Restoring


@pytest.mark.parametrize("gather", ["elements", "nd"])
@pytest.mark.parametrize("dtype", TOKENS)
def test_restore(dtype: str, gather: str) -> None:
    session = Session(restore_model(gather=gather, dtype=dtype), threads=1)
    generator = rng(dtype)
    for length, keep in ((1, 0), (1, 1), (16, 4), (49, 49), (50, 0)):
        x = random_bits(generator, (3, length, 4), dtype_of(dtype))
        token = random_bits(generator, (4,), dtype_of(dtype))
        tokens, _, ids = nbgather.random_masking(x, num_keep=keep, seed=3)
        result = session.run(x_visible=tokens, ids_restore=ids, mask_token=token)
        same(result["x"], nbgather.restore_tokens(tokens, ids, token))


@pytest.mark.parametrize("rank", [-1, 16, 2**40])
def test_a_rank_out_of_range_fails_in_the_graph(rank: int) -> None:
    ids = np.arange(16)[None].copy()
    ids[0, 5] = rank
    token = np.zeros(3, np.float32)
    with pytest.raises(RuntimeError, match="failed"):
        run(restore_model(), x_visible=np.zeros((1, 4, 3), np.float32), ids_restore=ids,
            mask_token=token)  # fmt: skip


# Gather


@pytest.mark.parametrize(("rank", "dim"), [(r, d) for r in (1, 2, 3, 4) for d in range(-r, r)])
def test_gather(rank: int, dim: int) -> None:
    session = Session(gather_model(dim, rank), threads=1)
    generator = rng(f"{rank}{dim}")
    for _ in range(5):
        shape = tuple(int(v) for v in generator.integers(1, 6, rank))
        index_shape = list(shape)
        index_shape[dim] = int(generator.integers(1, 9))
        x = random_bits(generator, shape, "float32")
        index = generator.integers(0, shape[dim], index_shape)
        same(session.run(data=x, indices=index)["output"], nbgather.gather(x, dim, index))
    index.reshape(-1)[-1] = shape[dim]
    with pytest.raises(RuntimeError, match="failed"):
        session.run(data=x, indices=index)
    with pytest.raises(IndexError):
        nbgather.gather(x, dim, index)


@pytest.mark.parametrize("dtype", TOKENS)
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_gather_dtypes(dtype: str, index_dtype: str) -> None:
    generator = rng(dtype)
    x = random_bits(generator, (3, 4), dtype_of(dtype))
    index = generator.integers(0, 4, (3, 6)).astype(index_dtype)
    result = run(gather_model(1, 2, dtype=dtype, index_dtype=index_dtype), data=x, indices=index)
    same(result["output"], nbgather.gather(x, 1, index))


# The models themselves


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "ratio": lambda: masking_model(ratio_input=True, ids_keep=True),
    "bfloat16": lambda: masking_model(dtype="bfloat16", noise_dtype="bfloat16", gather="nd"),
    "float64": lambda: masking_model(noise_dtype="float64"),
    "seed_alone": lambda: masking_model(noise="seed", with_x=False, ids_keep=True),
    "words": lambda: masking_model(noise="seed", seed_words=True, with_x=False),
    "rounded": lambda: masking_model(0.55),
    "opset21": lambda: masking_model(noise="seed", opset=21, ir_version=10),
    "gather": lambda: gather_model(-2, 5, dtype="uint8", index_dtype="int32"),
    "restore": lambda: restore_model(gather="nd", dtype="bool"),
} | {entry.file: entry.build for entry in CATALOG}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_sound_and_speak_for_themselves(name: str) -> None:
    model = MODELS[name]()
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    known = {value.name for value in inferred.graph.value_info}
    known |= {value.name for value in inferred.graph.output}
    nodes = model.graph.node
    assert {name for node in nodes for name in node.output} <= known
    assert all(node.name for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)
    assert all(node.doc_string for node in nodes)
    ports = [*model.graph.input, *model.graph.output]
    assert model.doc_string
    assert all(port.doc_string for port in ports)
    assert {node.domain for node in nodes} == {""}
    assert model.producer_name == "nbgather"
    assert model.producer_version == nbgather.__version__
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["license"] == "Apache-2.0"
    if "mae_mask" in name:
        assert metadata["mask_ratio"] == "0.75"


def test_a_call_gives_the_same_bytes_every_time() -> None:
    for entry in CATALOG:
        assert entry.build().SerializeToString() == entry.build().SerializeToString()
    code = (
        "import sys; from nbgather.onnx import masking_model as m\n"
        "sys.stdout.buffer.write(m(0.75, noise='seed').SerializeToString())"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert child.stdout == masking_model(0.75, noise="seed").SerializeToString()


# The files


def test_the_committed_models_are_fresh() -> None:
    assert stale_files(ROOT / "onnx_models") == []


def _check(folder: Path) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "scripts" / "export_onnx.py"), "--check"]
    done = subprocess.run([*command, "--out", str(folder)], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_a_stale_missing_or_extra_file_is_seen(tmp_path: Path) -> None:
    export_all(tmp_path)
    assert stale_files(tmp_path) == []
    path = tmp_path / "mae_masking.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (tmp_path / "mae_restore.onnx").unlink()
    (tmp_path / "other.onnx").write_bytes(b"")
    lines = ["stale: mae_masking.onnx", "missing: mae_restore.onnx", "extra: other.onnx"]
    assert stale_files(tmp_path) == lines
    assert _check(tmp_path) == (1, "\n".join(lines) + "\n")
    assert _check(ROOT / "onnx_models")[0] == 0


# Refusals

X, NOISE = np.zeros((2, 8, 3), np.float32), np.zeros((2, 8), np.float32)
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "ratio": (lambda: masking_model(1.5), ValueError, "mask_ratio is 1.5"),
    "ratio_nan": (lambda: masking_model(math.nan), ValueError, "mask_ratio is nan"),
    "choice": (lambda: masking_model(gather="rows"), ValueError, "gather is 'rows'"),
    "dtype": (lambda: masking_model(dtype="complex64"), TypeError, "complex64"),
    "noise_dtype": (lambda: masking_model(noise_dtype="int8"), TypeError, "int8"),
    "opset": (lambda: masking_model(opset=3), ValueError, "3"),
    "epoch": (lambda: masking_model(optional_epoch=True), ValueError, "for noise='seed'"),
    "words": (lambda: masking_model(seed_words=True), ValueError, "seed_words is for noise='seed'"),
    "seed_opset": (lambda: masking_model(noise="seed", opset=17), ValueError, "17"),
    "dim": (lambda: gather_model(3, 3), IndexError, "3"),
    "rank": (lambda: gather_model(0, 0), ValueError, "rank is 0"),
    "missing": (lambda: run(masking_model(), x=X), TypeError, "noise not given"),
    "unknown": (lambda: run(masking_model(), x=X, noise=NOISE, y=X), TypeError, "no input 'y'"),
    "wrong_dtype": (
        lambda: run(masking_model(), x=X, noise=NOISE.astype(np.float64)),
        TypeError,
        "input 'noise' is float64: it must be float32",
    ),
    "ndim": (lambda: run(masking_model(), x=X, noise=NOISE[0]), ValueError, "shape (8,)"),
    "sizes": (
        lambda: run(masking_model(), x=X, noise=NOISE[:, :7]),
        ValueError,
        "L = 7",
    ),
    "text": (lambda: run(b"not a model"), ValueError, "is not a model that onnxruntime"),
    "no_file": (lambda: run("/no/such/model.onnx"), FileNotFoundError, "there is no file"),
    "folder": (lambda: run(ROOT), ValueError, "is a folder"),
    "kind": (lambda: run(3), TypeError, "int"),
    "provider": (
        lambda: Session(masking_model(), providers=["None"]),
        ValueError,
        "providers has 'None'",
    ),
    "threads": (lambda: Session(masking_model(), threads=0), ValueError, "threads is 0"),
    "only": (lambda: export_all("/tmp", ["none.onnx"]), ValueError, "none.onnx"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
    assert "\n" not in str(raised.value)
