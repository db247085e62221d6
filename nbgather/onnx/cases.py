"""Cases for a model: inputs of its ports' dtypes, and the outputs that are expected of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from nbgather.indexing import gather
from nbgather.masking import random_masking, rank_tokens, restore_tokens, token_noise
from nbgather.onnx.runner import Port
from nbgather.results import Reduce
from nbgather.segments import gather_reduce, segment_reduce

__all__ = [
    "SCORES",
    "Arrays",
    "Case",
    "Masking",
    "Restoring",
    "first_difference",
    "gather_case",
    "masking_case",
    "restoring_case",
    "rows_case",
    "without_defaults",
]

Arrays = dict[str, np.ndarray]

SPECIAL_SCORES = (0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-30, 0.5, 0.5, 1.0, -1.0)
#: Some runtimes compute with 0 in place of these.
SUBNORMAL_SCORES = (0.0, 1e-45, -1e-45, 1e-39, -1e-39, 0.5)

#: Kinds of scores; "subnormal" is one more.
SCORES = ("uniform", "tied", "constant", "special", "largest")


class Case(NamedTuple):
    """Inputs by name, and the outputs expected of them.

    Attributes
    ----------
    feeds, expected : dict of str to numpy.ndarray
    """

    feeds: Arrays
    expected: Arrays


class Masking(NamedTuple):
    """What a case of a masking is about: the inputs that the model lacks are not used.

    Attributes
    ----------
    batch, length, width : int
        N, L, D.
    ratio : float
    scores : str
        One of ``SCORES``, or "subnormal".
    seed, epoch : int
    id_bits : int
        Sample ids are numbers of as many bits; 64 for negative ones too.
    """

    batch: int
    length: int
    width: int
    ratio: float
    scores: str = "uniform"
    seed: int = 0
    epoch: int = 0
    id_bits: int = 64


class Restoring(NamedTuple):
    """What a case of a restoring is about.

    Attributes
    ----------
    batch, length, kept, width : int
        N, L, K, D.
    """

    batch: int
    length: int
    kept: int
    width: int


def masking_case(
    inputs: Mapping[str, Port],
    outputs: Collection[str],
    about: Masking,
    generator: np.random.Generator,
    backend: str | None = "reference",
) -> Case:
    """A case of a masking model with these inputs and outputs.

    Parameters
    ----------
    inputs : mapping of str to Port
        By our names, those that have a default included.
    outputs : collection of str
        Names of ours.
    about : Masking
    generator : numpy.random.Generator
    backend : str, optional
        What the expected outputs come from.

    Examples
    --------
    >>> from nbgather.onnx.runner import Port
    >>> ports = {"noise": Port("noise", "float32", ("N", "L"))}
    >>> about = Masking(1, 4, 0, 0.5, "constant")
    >>> case = masking_case(ports, ["mask"], about, np.random.default_rng(0))
    >>> case.expected["mask"].tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    n, length, width = about.batch, about.length, about.width
    feeds: Arrays = {"mask_ratio": np.array(about.ratio, np.float64)}
    if "x" in inputs:
        feeds["x"] = values(generator, (n, length, width), inputs["x"].dtype)
    if "noise" in inputs:
        noise = _scores(generator, about.scores, (n, length), inputs["noise"].dtype)
        feeds["noise"] = noise
    else:
        drawn = _drawn(inputs, about, generator)
        feeds |= drawn
        epoch = about.epoch if {"epoch", "epoch_word"} & set(inputs) else 0
        ids = drawn["sample_ids"]
        noise = token_noise(about.seed, ids, length, epoch=epoch, backend=backend)
    x = feeds.get("x", np.empty((n, length, 0), np.float32))
    expected = dict(random_masking(x, about.ratio, noise=noise, backend=backend)._asdict())
    if "ids_keep" in outputs:
        kept = expected["x_masked"].shape[1]
        expected["ids_keep"] = rank_tokens(noise, kept, backend=backend).ids_keep
    return Case(
        {name: feeds[name] for name in inputs if name in feeds},
        {name: array for name, array in expected.items() if name in outputs},
    )


def _drawn(inputs: Mapping[str, Port], about: Masking, generator: np.random.Generator) -> Arrays:
    """The inputs of a model that draws its noise."""
    low = -(2**63) if about.id_bits == 64 else 0
    ids = generator.integers(low, 2 ** min(about.id_bits, 63) - 1, about.batch)
    seed, epoch = np.array(about.seed), np.array(about.epoch)
    return {
        "seed": seed, "sample_ids": ids, "epoch": epoch, "num_tokens": np.array(about.length),
        "seed_words": words_of(seed), "sample_id_words": words_of(ids),
        "epoch_word": words_of(epoch)[0],
    }  # fmt: skip


def words_of(numbers: np.ndarray) -> np.ndarray:
    """The words of int64, the low one first: int32, with one dimension more."""
    both = [numbers & 0xFFFFFFFF, numbers >> 32]
    return np.stack(both, -1).astype(np.uint32).astype(np.int32)


def restoring_case(
    inputs: Mapping[str, Port],
    about: Restoring,
    generator: np.random.Generator,
    backend: str | None = "reference",
) -> Case:
    """A case of a restoring model; the parameters are those of :func:`masking_case`.

    Examples
    --------
    >>> from nbgather.onnx.runner import Port
    >>> floats, ids = Port("", "float32", ()), Port("", "int64", ())
    >>> ports = {"x_visible": floats, "ids_restore": ids, "mask_token": floats}
    >>> case = restoring_case(ports, Restoring(1, 4, 2, 3), np.random.default_rng(0))
    >>> case.expected["x"].shape
    (1, 4, 3)
    """
    shape = (about.batch, about.kept, about.width)
    x = values(generator, shape, inputs["x_visible"].dtype)
    ranks = np.argsort(generator.random((about.batch, about.length)), 1)
    ids = ranks.astype(inputs["ids_restore"].dtype)
    token = values(generator, (about.width,), inputs["mask_token"].dtype)
    feeds = {"x_visible": x, "ids_restore": ids, "mask_token": token}
    return Case(feeds, {"x": restore_tokens(x, ids, token, backend=backend)})


def gather_case(
    inputs: Mapping[str, Port],
    axis: int,
    data_shape: tuple[int, ...],
    index_shape: tuple[int, ...],
    generator: np.random.Generator,
    backend: str | None = "reference",
) -> Case:
    """A case of a gather model along ``axis``.

    Examples
    --------
    >>> from nbgather.onnx.runner import Port
    >>> ports = {"data": Port("", "float32", ()), "indices": Port("", "int64", ())}
    >>> gather_case(ports, 0, (3,), (5,), np.random.default_rng(0)).expected["output"].shape
    (5,)
    """
    data = values(generator, data_shape, inputs["data"].dtype)
    index = generator.integers(0, max(data_shape[axis], 1), index_shape)
    index = index.astype(inputs["indices"].dtype)
    output = gather(data, axis, index, backend=backend)
    return Case({"data": data, "indices": index}, {"output": output})


def rows_case(
    inputs: Mapping[str, Port],
    reduce: Reduce,
    sizes: tuple[tuple[int, ...], tuple[int, ...] | None, int],
    generator: np.random.Generator,
    backend: str | None = "reference",
) -> Case:
    """A case of a model that reduces segments of rows, or bags of ids.

    ``sizes`` are the shape of the rows, that of the ids of bags, and how many segments there are
    where no ids of one size tell it.

    Examples
    --------
    >>> from nbgather.onnx.runner import Port
    >>> ports = {"x": Port("", "float32", ()), "offsets": Port("", "int64", ())}
    >>> case = rows_case(ports, "sum", ((5, 3), None, 2), np.random.default_rng(0))
    >>> case.expected["output"].shape
    (2, 3)
    """
    shape, ids_shape, segments = sizes
    total = shape[0] if ids_shape is None else math.prod(ids_shape)
    feeds: Arrays = {"x": values(generator, shape, inputs["x"].dtype)}
    ends = np.sort(generator.integers(0, total + 1, max(segments - 1, 0)))
    offsets = np.array([0, *ends, *[total] * (segments > 0)])
    told = {"offsets": offsets, "counts": np.diff(offsets)}
    if ids_shape is not None:
        feeds["ids"] = generator.integers(0, shape[0], ids_shape)
    elif "ids" in inputs:
        told = {"ids": generator.integers(0, segments, total), "num_segments": np.array(segments)}
    feeds |= {name: array for name, array in told.items() if name in inputs}
    feeds = {
        name: array if name == "x" else array.astype(inputs[name].dtype)
        for name, array in feeds.items()
    }
    given: dict[str, Any] = {name: array for name, array in feeds.items() if name in told}
    if "num_segments" in given:
        given["num_segments"] = segments
    if ids_shape is None:
        output = segment_reduce(feeds["x"], reduce, **given, backend=backend)
    else:
        output = gather_reduce(feeds["x"], feeds["ids"], reduce, **given, backend=backend)
    return Case(feeds, {"output": output})


def without_defaults(case: Case, defaults: Collection[str]) -> Case:
    """The case with the inputs left out that have a default, where they are 0 as it is.

    Examples
    --------
    >>> without_defaults(Case({"epoch": np.array(0)}, {}), {"epoch"}).feeds
    {}
    """
    feeds = {
        name: array
        for name, array in case.feeds.items()
        if name not in defaults or np.any(array != 0)
    }
    return Case(feeds, case.expected)


def first_difference(got: Arrays, expected: Arrays) -> str | None:
    """The first byte of the outputs that is not as expected, in words.

    Examples
    --------
    >>> first_difference({"mask": np.zeros((1, 2))}, {"mask": np.array([[0.0, 1.0]])})
    'mask at (0, 1) is 0.0, it should be 1.0'
    """
    for name, want in expected.items():
        array = got[name]
        if array.dtype != want.dtype or array.shape != want.shape:
            return (
                f"{name} is {array.dtype} {list(array.shape)},"
                f" it should be {want.dtype} {list(want.shape)}"
            )
        if array.tobytes() == want.tobytes():
            continue
        want_bytes, got_bytes = (np.ascontiguousarray(a).view(np.uint8) for a in (want, array))
        differs = (want_bytes != got_bytes).reshape(want.size, -1).any(1)
        at = tuple(int(p) for p in np.unravel_index(int(differs.argmax()), want.shape))
        return f"{name} at {at} is {array[at]}, it should be {want[at]}"
    return None


def values(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Items of a dtype that ONNX has, by NumPy's name or ml_dtypes'.

    Examples
    --------
    >>> values(np.random.default_rng(0), (2,), "int8").dtype
    dtype('int8')
    """
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if dtype.startswith(("int", "uint")):
        return generator.integers(0, 100, shape).astype(dtype)
    return _floats(generator.standard_normal(shape).astype(np.float32), dtype)


def _scores(
    generator: np.random.Generator, kind: str, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    if kind == "uniform":
        scores = generator.random(shape)
    elif kind == "tied":
        scores = generator.integers(0, 4, shape) / 4
    elif kind == "constant":
        scores = np.full(shape, 0.5)
    elif kind == "largest":
        return _largest_scores(generator, shape, dtype)
    else:
        among = SPECIAL_SCORES if kind == "special" else SUBNORMAL_SCORES
        scores = generator.choice(np.array(among), shape)
    return _floats(scores, dtype)


def _largest_scores(
    generator: np.random.Generator, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    """The largest number of a dtype and its neighbours, infinities, NaN."""
    one = _floats(np.ones(1), dtype)
    bits = np.dtype(f"u{one.itemsize}")
    above = _floats(np.array([np.inf]), dtype).view(bits)
    finite = (above - np.arange(1, 5).astype(bits)).view(one.dtype)
    among = np.concatenate(
        [finite, -finite, one, _floats(np.array([np.inf, -np.inf, np.nan]), dtype)]
    )
    return generator.choice(among, shape)


def _floats(numbers: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        return numbers.astype(bfloat16)
    return numbers.astype(dtype)
