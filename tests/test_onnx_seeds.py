"""The seeded models: the kernels' masks by seeds of 31 and of 64 bits, in integers of 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from cases import random_bits, rng, same
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx_recipe import assert_same, words

import nbgather
from nbgather.onnx import Session, masking_model, run
from nbgather.onnx._build import GraphBuilder
from nbgather.onnx._limbs import turned
from nbgather.onnx._noise import philox


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
            names[name] = turned(g, name, f"{name}_turned")
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


def _bits_feeds(seed_words: bool, tokens: int) -> Iterator[dict[str, np.ndarray]]:
    """Words that are all zeros, all ones, and between."""
    top = 2**64 - 1 if seed_words else 2**31 - 1
    for seed in (0, top, 0x299F31D0A4093822 & top):
        ids = [0, top, 0x13198A2E85A308D3 & top]
        feeds: dict[str, np.ndarray] = {"num_tokens": np.array(tokens)}
        if seed_words:
            feeds |= {"seed_words": words(seed)[0], "sample_id_words": words(*ids)}
            feeds["epoch_word"] = np.array(-1, np.int32)
        else:
            feeds |= {"seed": np.array(seed), "sample_ids": np.array(ids)}
            feeds["epoch"] = np.array(2**31 - 1)
        yield feeds


@pytest.mark.parametrize("seed_words", [False, True])
def test_no_integer_leaves_32_bits_nor_is_divided_with_a_rest(seed_words: bool) -> None:
    """Every value of the seeded graph; but for quotients that need only be near, the next test."""
    model = masking_model(noise="seed", with_x=False, seed_words=seed_words)
    evaluator = ReferenceEvaluator(model)
    values = [name for node in model.graph.node for name in node.output]
    assert sum(node.op_type == "Div" for node in model.graph.node) > 30
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for feeds in _bits_feeds(seed_words, 150):
        found = dict(zip(values, evaluator.run(values, feeds), strict=True)) | feeds | constants
        wrapped = []
        for node in model.graph.node:
            inputs = [np.asarray(found[name]) for name in node.input]
            if node.op_type in ("Add", "Sub", "Mul"):
                exact = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[node.op_type](
                    *(value.astype(np.float64) for value in inputs)
                )
                outside = (exact < -(2**31)) | (exact >= 2**31)
                wrapped += [node.name] if outside.any() else []
            if node.op_type == "Div" and not node.name.endswith("_h"):
                assert not (inputs[0] % inputs[1]).any() or np.abs(inputs[0]).max() < 2**24
        assert not wrapped
        for name, value in found.items():
            array = np.asarray(value)
            if array.dtype.kind == "i" and array.size:
                assert array.min() >= -(2**31), name
                assert array.max() < 2**31, name


class Float32Div(OpRun):
    """Div of words by float32, as OpenVINO has it, its quotient rounded in some way."""

    op_domain = ""
    rounding: Callable[[np.ndarray], np.ndarray] = np.trunc

    @classmethod
    def create(cls, rounding: Callable[[np.ndarray], np.ndarray]) -> type[OpRun]:
        return type("Div", (cls,), {"rounding": staticmethod(rounding)})

    def _run(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
        if a.dtype == np.int64:  # a size
            return (a // b,)
        return (type(self).rounding(np.float32(a) / np.float32(b)).astype(a.dtype),)


@pytest.mark.parametrize("rounding", [np.trunc, np.rint, np.floor, np.ceil])
@pytest.mark.parametrize("seed_words", [False, True])
def test_division_in_float32_changes_no_mask(
    seed_words: bool, rounding: Callable[[np.ndarray], np.ndarray]
) -> None:
    model = masking_model(0.5, noise="seed", with_x=False, seed_words=seed_words)
    names = [port.name for port in model.graph.output]
    narrow = ReferenceEvaluator(model, new_ops=[Float32Div.create(rounding)])
    exact = ReferenceEvaluator(model)
    for feeds in _bits_feeds(seed_words, 33):
        for one, other in zip(narrow.run(names, feeds), exact.run(names, feeds), strict=True):
            same(one, other)


@pytest.mark.parametrize("wrong", [-1, 2**31, 2**32 + 1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("name", ["seed", "sample_ids", "epoch"])
def test_more_than_31_bits_fail_in_the_graph(name: str, wrong: int) -> None:
    feeds = {"seed": np.array(0), "sample_ids": np.arange(2), "epoch": np.array(0)}
    feeds[name] = np.array([3, wrong]) if name == "sample_ids" else np.array(wrong)
    model = masking_model(noise="seed", with_x=False)
    with pytest.raises(RuntimeError, match="seed_epoch_ids_checked"):
        run(model, feeds, num_tokens=8)
