"""Is a model what it should be? Run it against the reference over hundreds of shapes."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from nbgather.indexing import gather
from nbgather.masking import random_masking, rank_tokens, restore_tokens, token_noise
from nbgather.onnx._build import ModelProto
from nbgather.onnx.runner import Port, Session
from nbgather.operations import checks, keep

__all__ = ["Verification", "verify"]

Arrays = dict[str, np.ndarray]

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 15, 16, 17, 31, 32, 49, 64, 65, 100, 196, 197, 257)
BATCHES = (1, 2, 3, 5)
WIDTHS = (1, 2, 5, 8)
AWKWARD = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, 0.5, 0.5, 1.0, -1.0)
SEEDS = (0, 1, -1, 2**63 - 1, -(2**63), 0x299F31D0A4093822)
EPOCHS = (0, 1, 2**32 - 1)
#: Of one array of a case; fixed sizes above it are not run. And tokens, which loops rank.
MOST_ITEMS, MOST_TOKENS = 2**24, 2**17
KNOWN = {
    "x", "noise", "seed", "sample_ids", "epoch", "num_tokens", "mask_ratio",
    "x_visible", "ids_restore", "mask_token", "data", "indices",
}  # fmt: skip


class Verification(NamedTuple):
    """What :func:`verify` found.

    Attributes
    ----------
    kind : str
        What the model was taken for.
    cases : int
        How many cases were run, the different one included.
    difference : str or None
        The first difference: the case, the output, the place, and both values.
    """

    kind: str
    cases: int
    difference: str | None

    @property
    def same(self) -> bool:
        """Whether every byte of every case was equal."""
        return self.difference is None


def verify(
    model: Session | str | os.PathLike[str] | bytes | ModelProto,
    *,
    mask_ratio: float | None = None,
    dim: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Verification:
    """Compare a model with the reference, byte for byte, over hundreds of shapes.

    What the model is follows from its inputs: ``x`` or none with ``noise`` or ``seed``, a masking;
    ``x_visible``, a restoring; ``data`` and ``indices``, a gather. Any model with these names will
    do, whoever made it. Every output that has one of the names of :func:`masking_model`,
    :func:`restore_model` or :func:`gather_model` is compared; others are not. Fixed sizes are kept.

    Parameters
    ----------
    model : Session, path, bytes or onnx.ModelProto
        The model.
    mask_ratio : float, optional
        Of a masking without a ratio input; by default what the model's metadata tell, or 0.75.
    dim : int, optional
        Of a gather; by default what the model's metadata tell.
    names : mapping of str to str, optional
        What the model calls things: ``{"x": "tokens", "noise": "scores"}``.

    Returns
    -------
    Verification

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As :class:`Session`; a model that is none of these, or a gather whose dim is not known.

    Examples
    --------
    >>> from nbgather.onnx import masking_model, verify
    >>> verify(masking_model(0.6)).same
    True
    """
    session = model if isinstance(model, Session) else Session(model)
    theirs = dict(names or {})
    ours = {their: our for our, their in theirs.items()}
    inputs = {ours.get(port.name, port.name): port for port in session.inputs}
    outputs = {ours.get(port.name, port.name) for port in session.outputs}
    unknown = set(theirs.values()) - {p.name for p in (*session.inputs, *session.outputs)}
    if unknown:
        raise ValueError(f"names has {', '.join(sorted(unknown))}: the model has nothing so called")
    kind, cases = _cases(session, inputs, outputs, mask_ratio, dim)
    others = [name for name in inputs if name not in KNOWN]
    if others:
        raise ValueError(
            f"the model has inputs that no masking, restoring or gather has ({', '.join(others)}):"
            " what it does to them cannot be verified"
        )
    count = 0
    for feeds, wanted in cases:
        count += 1
        difference = _difference(session, theirs, feeds, wanted)
        if difference is not None:
            return Verification(kind, count, difference)
    if not count:
        raise ValueError(
            "the model's fixed sizes leave no case to run: they contradict each other, or one case"
            f" has more than {MOST_ITEMS} items"
        )
    return Verification(kind, count, None)


def _cases(
    session: Session,
    inputs: Mapping[str, Port],
    outputs: set[str],
    mask_ratio: float | None,
    dim: int | None,
) -> tuple[str, Iterator[tuple[Arrays, Arrays]]]:
    made: Iterator[tuple[Arrays, Arrays]]
    if {"x_visible", "ids_restore", "mask_token"} <= set(inputs):
        kind, made = "restore", _restore_cases(inputs)
    elif {"data", "indices"} <= set(inputs):
        if dim is None and "dim" not in session.metadata:
            raise ValueError("the model does not tell its dim: give dim=")
        at = int(session.metadata["dim"]) if dim is None else checks.integer(dim, "dim")
        kind, made = f"gather along dim {at}", _gather_cases(inputs, at)
    elif {"noise"} <= set(inputs) or {"seed", "sample_ids"} <= set(inputs):
        told = session.metadata.get("mask_ratio", "0.75")
        ratios: tuple[float, ...] = (0.0, 0.25, 0.6, 0.75, 0.9, 1.0)
        way = "noise" if "noise" in inputs else "seed"
        if "mask_ratio" in inputs:
            kind = f"masking by {way}, ratio as an input"
        else:
            one = keep.ratio(float(told) if mask_ratio is None else mask_ratio)
            kind, ratios = f"masking by {way}, ratio {one:g}", (one,)
        made = _masking_cases(inputs, outputs, ratios)
    else:
        raise ValueError(
            f"the model's inputs are {', '.join(inputs)}: noise, or seed and sample_ids, with or"
            " without x, or x_visible, ids_restore and mask_token, or data and indices are needed;"
            " names= tells which is which"
        )
    return kind, ((f, {k: v for k, v in w.items() if k in outputs}) for f, w in made)


def _fits(port: Port | None, shape: tuple[int, ...]) -> bool:
    """Whether a port takes a shape: its fixed sizes are met."""
    if port is None:
        return True
    if not port.shape:
        return True
    if len(port.shape) != len(shape):
        return False
    return all(not isinstance(w, int) or w == n for w, n in zip(port.shape, shape, strict=True))


def _fixed(port: Port | None, axis: int, others: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes to try along an axis: the fixed one, or these."""
    size = port.shape[axis] if port is not None and len(port.shape) > axis else None
    return (size,) if isinstance(size, int) else others


def _values(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if dtype.startswith(("int", "uint")):
        return generator.integers(0, 100, shape).astype(dtype)
    values = generator.standard_normal(shape).astype(np.float32)
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        return values.astype(bfloat16)
    return values.astype(dtype)


def _masking_cases(
    inputs: Mapping[str, Port], outputs: set[str], ratios: tuple[float, ...]
) -> Iterator[tuple[Arrays, Arrays]]:
    generator = np.random.default_rng(0)
    x_port, noise_port = inputs.get("x"), inputs.get("noise")
    grid_port = noise_port or x_port
    sizes = itertools.product(
        _fixed(grid_port, 0, BATCHES),
        _fixed(grid_port, 1, LENGTHS),
        _fixed(x_port, 2, WIDTHS) if x_port else (1,),
    )
    for number, (n, length, width) in enumerate(sizes):
        if not _fits(x_port, (n, length, width)) or not _fits(noise_port, (n, length)):
            continue
        if n * length * width > MOST_ITEMS or n * length > MOST_TOKENS:
            continue
        ratio = ratios[number % len(ratios)]
        feeds: Arrays = {}
        if x_port is not None:
            feeds["x"] = _values(generator, (n, length, width), x_port.dtype)
        if noise_port is not None:
            noise = _noise(generator, number, (n, length), noise_port.dtype)
            feeds["noise"] = noise
        else:
            seed, epoch = SEEDS[number % len(SEEDS)], EPOCHS[number % len(EPOCHS)]
            ids = generator.integers(-(2**63), 2**63 - 1, n)
            feeds |= {"seed": np.array(seed), "sample_ids": ids, "epoch": np.array(epoch)}
            feeds["num_tokens"] = np.array(length)
            at = epoch if "epoch" in inputs else 0
            noise = token_noise(seed, ids, length, epoch=at, backend="reference")
        feeds["mask_ratio"] = np.array(ratio, np.float64)
        x = feeds.get("x", np.empty((n, length, 0), np.float32))
        wanted = dict(random_masking(x, ratio, noise=noise, backend="reference")._asdict())
        if "ids_keep" in outputs:
            kept = wanted["x_masked"].shape[1]
            wanted["ids_keep"] = rank_tokens(noise, kept, backend="reference").ids_keep
        yield {name: feeds[name] for name in inputs if name in feeds}, wanted


def _noise(
    generator: np.random.Generator, number: int, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    """Even, tied, constant and awkward scores in turn."""
    values = (
        lambda: generator.random(shape),
        lambda: generator.integers(0, 4, shape) / 4,
        lambda: np.full(shape, 0.5),
        lambda: generator.choice(np.array(AWKWARD), shape),
    )[number % 4]()
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        return values.astype(bfloat16)
    return values.astype(dtype)


def _restore_cases(inputs: Mapping[str, Port]) -> Iterator[tuple[Arrays, Arrays]]:
    generator = np.random.default_rng(1)
    x_port, ids_port, token_port = (
        inputs[name] for name in ("x_visible", "ids_restore", "mask_token")
    )
    for n, length, width in itertools.product(
        _fixed(ids_port, 0, BATCHES), _fixed(ids_port, 1, LENGTHS), _fixed(x_port, 2, WIDTHS)
    ):
        for kept in _fixed(x_port, 1, tuple({0, length // 4, length})):
            if not _fits(x_port, (n, kept, width)) or kept > length:
                continue
            if n * length * width > MOST_ITEMS:
                continue
            x = _values(generator, (n, kept, width), x_port.dtype)
            ids = np.argsort(generator.random((n, length)), 1).astype(ids_port.dtype)
            token = _values(generator, (width,), token_port.dtype)
            want = restore_tokens(x, ids, token, backend="reference")
            yield {"x_visible": x, "ids_restore": ids, "mask_token": token}, {"x": want}


def _gather_cases(inputs: Mapping[str, Port], dim: int) -> Iterator[tuple[Arrays, Arrays]]:
    generator = np.random.default_rng(2)
    data_port, index_port = inputs["data"], inputs["indices"]
    rank = len(data_port.shape)
    axis = checks.dim(dim, rank)
    for number in range(300):
        data_shape = tuple(
            _fixed(data_port, d, (int(generator.integers(1, 12)),))[0] for d in range(rank)
        )
        index_shape = tuple(
            _fixed(index_port, d, (int(generator.integers(0 if number % 9 == 0 else 1, 15)),))[0]
            if d == axis
            else _fixed(index_port, d, (int(generator.integers(1, data_shape[d] + 1)),))[0]
            for d in range(rank)
        )
        if max(math.prod(data_shape), math.prod(index_shape)) > MOST_TOKENS:
            continue  # by loops too
        data = _values(generator, data_shape, data_port.dtype)
        index = generator.integers(0, data_shape[axis], index_shape).astype(index_port.dtype)
        want = gather(data, axis, index, backend="reference")
        yield {"data": data, "indices": index}, {"output": want}


def _difference(
    session: Session, theirs: Mapping[str, str], feeds: Arrays, wanted: Arrays
) -> str | None:
    case = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
    try:
        made = session.run({theirs.get(name, name): array for name, array in feeds.items()})
    except (RuntimeError, TypeError, ValueError) as error:
        return f"with {case}: {error}"
    for name, want in wanted.items():
        got = made[theirs.get(name, name)]
        if got.dtype != want.dtype or got.shape != want.shape:
            return (
                f"with {case}: {name} is {got.dtype} {list(got.shape)},"
                f" it should be {want.dtype} {list(want.shape)}"
            )
        ours, others = (np.ascontiguousarray(a).view(np.uint8) for a in (want, got))
        if not np.array_equal(ours, others):
            place = int((ours != others).reshape(want.size, -1).any(1).argmax())
            at = tuple(int(p) for p in np.unravel_index(place, want.shape))
            return f"with {case}: {name} at {at} is {got[at]}, it should be {want[at]}"
    return None
