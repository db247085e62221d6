"""The published models' cases: inputs, the outputs of the kernels, or that they must be refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nbgather.masking import random_masking, rank_tokens
from nbgather.onnx import CATALOG
from nbgather.onnx._build import ModelProto
from nbgather.onnx.card import port_text
from nbgather.onnx.cases import (
    Arrays,
    Case,
    Masking,
    Restoring,
    first_difference,
    gather_case,
    masking_case,
    restoring_case,
    without_defaults,
)
from nbgather.onnx.catalog import Entry
from nbgather.onnx.runner import Port

SEEDS_31 = (1, 2**16, 2**31 - 1, 0x299F31D0)
SEEDS_64 = (-1, 2**31, 2**63 - 1, -(2**63), 0x299F31D0A4093822)


class Sizes(NamedTuple):
    """How much is tried."""

    lengths: Sequence[int]
    tied: Sequence[int]
    large: Sequence[tuple[int, int, int]]


#: On every change, for every week, and for the table.
SIZES = {
    "usual": Sizes((1, 2, 3, 4, 5, 9, 16, 49, 64, 65, 197), (2, 16, 49, 197), [(1, 1568, 2)]),
    "weekly": Sizes((*range(1, 20), 63, 64, 65, 100, 196, 197, 300), (2, 3, 16, 49, 197, 256),
                    [(1, 1568, 2), (64, 196, 4)]),
    "full": Sizes(range(1, 301), (*range(2, 33), 49, 63, 64, 65, 127, 128, 129, 196, 197, 255, 256,
                  257, 512, 1000), [(1, 1568, 2), (64, 196, 4), (2, 4096, 1), (1, 50000, 1)]),
}  # fmt: skip

SUBNORMAL = "subnormal scores"
REFUSED = "bad sizes and indices"
TOO_WIDE = "numbers beyond 31 bits"
EMPTY = ((0, 16, 4), (4, 0, 3), (2, 10, 0))


class Vector(NamedTuple):
    """A case of a model; ``expected`` is None where it must be refused.

    ``flushed`` is what comes of scores whose subnormal numbers are taken for 0.
    """

    model: str
    entry: str
    group: str
    feeds: Arrays
    expected: Arrays | None
    flushed: Arrays | None = None


def models() -> dict[str, ModelProto]:
    """The published models, and those of the ratios 0 and 1, which keep all tokens and none."""
    made = {entry.file: entry.build() for entry in CATALOG}
    for entry in CATALOG:
        if entry.args and isinstance(entry.args[0], float):
            for ratio in (0.0, 1.0):
                file = f"{entry.file.removesuffix('.onnx')}@{ratio:g}.onnx"
                made[file] = replace(entry, args=(ratio, *entry.args[1:])).build()
    return made


def vectors(part: str, made: Mapping[str, ModelProto]) -> Iterator[Vector]:
    """Every case of a part, those of a model one after the other."""
    for entry in CATALOG:
        for file, model in made.items():
            if file.split("@")[0].removesuffix(".onnx") == entry.file.removesuffix(".onnx"):
                for group, *case in _of_model(entry, file, model, SIZES[part]):
                    yield Vector(file, entry.file, group, *case)


def _of_model(
    entry: Entry, file: str, model: ModelProto, sizes: Sizes
) -> Iterator[tuple[str, Arrays, Arrays | None, Arrays | None]]:
    defaults = {tensor.name for tensor in model.graph.initializer}
    ports = {port.name: _port(port) for port in model.graph.input}
    outputs = {port.name for port in model.graph.output}
    cases: Iterator[tuple[str, Case | Arrays]]
    if "x_visible" in ports:
        cases = _restorings(ports, sizes)
    elif "data" in ports:
        cases = _gathers(ports, int(entry.args[0]), sizes)
    else:

        def masking(about: Masking) -> Case:
            generator = np.random.default_rng([about.batch, about.length, about.width])
            return masking_case(ports, outputs, about, generator, backend=None)

        ratio = float(file.split("@")[1].removesuffix(".onnx")) if "@" in file else None
        cases = _maskings(masking, ports, ratio, sizes)
    for group, case in cases:
        if not isinstance(case, Case):
            yield group, case, None, None
            continue
        case = without_defaults(case, defaults)
        flushed = _flushed(case) if group == SUBNORMAL else None
        yield group, case.feeds, case.expected, flushed


def flushed_in_part(case: Vector, got: Arrays) -> bool:
    """Whether the outputs are right if some subnormal scores, whichever they be, are taken for 0.

    OpenCV does so in some threads.
    """
    ranks = got["ids_restore"]
    if case.flushed is None or ranks.shape != case.feeds["noise"].shape:
        return False
    noise = _without_subnormal(case.feeds["noise"])
    # All that are 0 now in the order they came in, everything else in its own.
    within = np.where(noise == 0, ranks, 0) / (noise.shape[1] + 1)
    places = np.unique(noise, return_inverse=True)[1].reshape(noise.shape)
    expected = _masked(Case(case.feeds, case.flushed), places + within)
    return first_difference(got, expected) is None


def _flushed(case: Case) -> Arrays:
    """What is expected of a case whose subnormal scores are taken for 0."""
    return _masked(case, _without_subnormal(case.feeds["noise"]))


def _without_subnormal(noise: np.ndarray) -> np.ndarray:
    return np.where(np.abs(noise) < np.finfo(noise.dtype).tiny, 0, noise)


def _masked(case: Case, noise: np.ndarray) -> Arrays:
    """What is expected of other scores."""
    x = case.feeds.get("x", np.empty((*noise.shape, 0), np.float32))
    made = dict(random_masking(x, 0.75, noise=noise)._asdict())
    made["ids_keep"] = rank_tokens(noise, made["x_masked"].shape[1]).ids_keep
    return {name: made[name] for name in case.expected}


def _port(port: Any) -> Port:
    name, text = port_text(port)
    dtype, _, shape = text.partition(" ")
    return Port(name, dtype, tuple(filter(None, shape.strip("[]").split(", "))))


def _maskings(
    case: Callable[[Masking], Case], ports: Mapping[str, Port], other: float | None, sizes: Sizes
) -> Iterator[tuple[str, Case | Arrays]]:
    if other is not None:
        for length in (1, 2, 3, 16, 65, 196):
            yield "all or none kept", case(Masking(2, length, 3, other, id_bits=20))
        return
    for length in sizes.lengths:
        yield "lengths", case(Masking(2, length, 3, 0.75, seed=5, id_bits=20))
    for n, length, width in sizes.large:
        yield "large", case(Masking(n, length, width, 0.75, seed=5, id_bits=20))
    for n, length, width in EMPTY:
        yield "empty", case(Masking(n, length, width, 0.75, seed=5, id_bits=20))
    good = case(Masking(2, 8, 3, 0.75, id_bits=20)).feeds
    if "noise" in ports:
        for length in sizes.tied:
            yield "ties", case(Masking(3, length, 2, 0.75, "tied"))
            yield "ties", case(Masking(2, length, 1, 0.75, "constant"))
            yield "NaN, ±0, ±inf", case(Masking(3, length, 2, 0.75, "special"))
            yield "largest scores", case(Masking(3, length, 2, 0.75, "largest"))
            yield SUBNORMAL, case(Masking(3, length, 2, 0.75, "subnormal"))
        if "x" in ports:
            for shape in ((2, 7), (1, 8), (3, 8), (2, 9)):
                yield REFUSED, good | {"noise": np.zeros(shape, np.float32)}
        return
    yield from _seeded(case, ports, good)


def _seeded(
    case: Callable[[Masking], Case], ports: Mapping[str, Port], good: Arrays
) -> Iterator[tuple[str, Case | Arrays]]:
    """Seeds, ids and epochs: of 64 bits where the model takes words, of 31 bits where not."""
    words = "seed_words" in ports
    for length in (5, 49):
        about = Masking(2, length, 1, 0.75, seed=5, id_bits=20)
        for seed in (*SEEDS_31, *(SEEDS_64 if words else ())):
            yield "seeds", case(about._replace(seed=seed))
        for bits in (31, 33, 63, 64) if words else (31,):
            yield "ids", case(about._replace(batch=3, id_bits=bits))
        for epoch in (1, 2**31 - 1, *((2**31, 2**32 - 1) if words else ())):
            yield "epochs", case(about._replace(epoch=epoch))
    numbers = ("seed", "epoch", "num_tokens", "epoch_word")
    vector = case(Masking(2, 16, 1, 0.75, seed=5, epoch=1, id_bits=20))
    shaped = {n: a.reshape(1) if n in numbers else a for n, a in vector.feeds.items()}
    yield "numbers as [1]", Case(shaped, vector.expected)
    ids = "sample_id_words" if words else "sample_ids"
    yield REFUSED, good | {ids: np.concatenate([good[ids], good[ids][:1]])}
    if not words:
        for number in (-1, 2**31, 2**32, 2**32 + 5, -(2**63)):
            yield TOO_WIDE, good | {"seed": np.array(number)}
            yield TOO_WIDE, good | {"sample_ids": np.array([0, number])}
            yield TOO_WIDE, good | {"epoch": np.array(number)}


def _restorings(ports: Mapping[str, Port], sizes: Sizes) -> Iterator[tuple[str, Case | Arrays]]:
    def case(about: Restoring) -> Case:
        return restoring_case(ports, about, np.random.default_rng(about), backend=None)

    for length in sizes.lengths:
        yield "lengths", case(Restoring(2, length, length // 4, 3))
    for n, length, width in sizes.large:
        yield "large", case(Restoring(n, length, length // 4, width))
    for length in (1, 2, 3, 16, 65, 196):
        for kept in (0, length):
            yield "all or none kept", case(Restoring(2, length, kept, 3))
    for n, length, width in EMPTY:
        yield "empty", case(Restoring(n, length, length // 4, width))
    good = case(Restoring(1, 4, 2, 3)).feeds
    for rank in (-1, 4, 2**40):
        yield REFUSED, good | {"ids_restore": np.array([[0, 1, 2, rank]])}


def _gathers(
    ports: Mapping[str, Port], dim: int, sizes: Sizes
) -> Iterator[tuple[str, Case | Arrays]]:
    def case(size: int, count: int, others: tuple[int, int], fewer: int = 0) -> Case:
        data, index = ([*others] for _ in range(2))
        index = [other - fewer for other in index]
        data.insert(dim, size)
        index.insert(dim, count)
        generator = np.random.default_rng([dim, size, count])
        return gather_case(ports, dim, tuple(data), tuple(index), generator, backend=None)

    for size in sizes.lengths:
        yield "lengths", case(size, size + 2, (2, 3))
    for n, size, width in sizes.large:
        yield "large", case(size, size // 4, (n, width))
    for size in (1, 5, 64, 65):
        yield "smaller indices", case(size, 4, (3, 4), fewer=1)
    yield "empty", case(3, 0, (2, 3))
    yield "empty", case(3, 4, (0, 3))
    for size, index in ((3, 3), (3, 2**40), (70, 70)):
        good = case(size, 4, (2, 3)).feeds
        wrong = good["indices"].copy()
        wrong[0, 0, 0] = index
        yield REFUSED, good | {"indices": wrong}
