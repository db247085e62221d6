"""Compare a model with the reference, byte for byte, over hundreds of shapes."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from nbgather.onnx._build import ModelProto
from nbgather.onnx.cases import (
    SCORES,
    Case,
    Masking,
    Restoring,
    first_difference,
    gather_case,
    masking_case,
    restoring_case,
    rows_case,
    without_defaults,
)
from nbgather.onnx.runner import Port, Session
from nbgather.onnx.runtimes import RuntimeSession, check_runtime
from nbgather.operations import checks, keep
from nbgather.operations.reducing import checked_reduce
from nbgather.results import Reduce

__all__ = ["Verification", "verify"]

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 15, 16, 17, 31, 32, 49, 64, 65, 100, 196, 197, 257)
BATCHES = (1, 2, 3, 5)
WIDTHS = (1, 2, 5, 8)
SEEDS = (0, 1, -1, 2**63 - 1, -(2**63), 0x299F31D0A4093822)
EPOCHS = (0, 1, 2**32 - 1)
#: Of models that take 31 bits, as their metadata say.
SEEDS_31 = (0, 1, 2**31 - 1, 0x299F31D0)
EPOCHS_31 = (0, 1, 2**31 - 1)
#: Cases with an array of more items are left out, which only fixed sizes can ask for.
MAX_ITEMS = 2**24
#: And cases with more tokens or gathered items, which the reference works through in loops.
MAX_LOOP_ITEMS = 2**17
KNOWN_INPUTS = {
    "x", "noise", "seed", "sample_ids", "epoch", "num_tokens", "mask_ratio",
    "seed_words", "sample_id_words", "epoch_word",
    "x_visible", "ids_restore", "mask_token", "data", "indices",
    "ids", "num_segments", "offsets", "counts",
}  # fmt: skip


class Verification(NamedTuple):
    """The result of :func:`verify`.

    Attributes
    ----------
    kind : str
        What the model was taken for.
    cases : int
        The number of cases that were run, the different one included.
    difference : str or None
        The first difference: the case, the output, the place, and both values.
    runtime : str
        What ran the model, with its version.
    """

    kind: str
    cases: int
    difference: str | None
    runtime: str

    @property
    def same(self) -> bool:
        """Whether every byte of every case was equal."""
        return self.difference is None


def verify(
    model: Session | RuntimeSession | str | os.PathLike[str] | bytes | ModelProto,
    *,
    mask_ratio: float | None = None,
    dim: int | None = None,
    reduce: Reduce | None = None,
    names: Mapping[str, str] | None = None,
    runtime: str = "onnxruntime",
) -> Verification:
    """Compare a model with the reference, byte for byte, over hundreds of shapes.

    The inputs tell what the model is: ``noise`` or ``seed``, with or without ``x``, a masking;
    ``x_visible``, a restoring; ``data`` and ``indices``, a gather; ``x`` and ``offsets``,
    ``counts``, or ``ids`` and ``num_segments``, a reduction of segments; ``x`` and ``ids``, with or
    without one of the first two, one of bags. The model can come from any exporter. Every output
    that has one of the names of :func:`masking_model`, :func:`restore_model`, :func:`gather_model`,
    :func:`segment_reduce_model` or :func:`gather_reduce_model` is compared; others are not. Fixed
    sizes are kept.

    Parameters
    ----------
    model : Session, path, bytes or onnx.ModelProto
        The model.
    mask_ratio : float, optional
        Of a masking without a ratio input; by default that of the model's metadata, or 0.75.
    dim : int, optional
        Of a gather; by default that of the model's metadata.
    reduce : {"sum", "prod", "mean", "amax", "amin"}, optional
        Of segments or bags; by default that of the model's metadata.
    names : mapping of str to str, optional
        The model's names of inputs and outputs: ``{"x": "tokens", "noise": "scores"}``.
    runtime : str
        What runs the model, if it is installed: ``onnxruntime``, ``openvino``, ``tract``,
        ``opencv``, ``mnn``, ``iree``, ``tvm``, or ``onnx`` for its ReferenceEvaluator. Others than
        onnxruntime run in a process of their own. Not used with a Session.

    Returns
    -------
    Verification

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As :class:`Session`; a model that is none of these, or that the runtime refuses, or a
        gather whose dim is not known, or segments whose reduction is not; an unknown runtime.
    ImportError
        The runtime is not installed.

    Examples
    --------
    >>> from nbgather.onnx import masking_model, verify
    >>> verify(masking_model(0.6)).same
    True
    """
    check_runtime(runtime)
    told = _Told(mask_ratio, dim, None if reduce is None else checked_reduce(reduce))
    if isinstance(model, (Session, RuntimeSession)):
        return _verified(model, told, dict(names or {}))
    if runtime == "onnxruntime":
        return _verified(Session(model), told, dict(names or {}))
    with RuntimeSession(model, runtime) as session:
        return _verified(session, told, dict(names or {}))


class _Told(NamedTuple):
    """What a caller told of a model, which its metadata tell otherwise."""

    mask_ratio: float | None
    dim: int | None
    reduce: Reduce | None


def _verified(
    session: Session | RuntimeSession, told: _Told, model_names: dict[str, str]
) -> Verification:
    standard = {name: key for key, name in model_names.items()}
    known = KNOWN_INPUTS | set(model_names)
    # Old exporters list every weight as an input with a default.
    ports = [
        *session.inputs,
        *(p for p in session.optional if standard.get(p.name, p.name) in known),
    ]
    inputs = {standard.get(port.name, port.name): port for port in ports}
    outputs = {standard.get(port.name, port.name) for port in session.outputs}
    unknown = set(model_names.values()) - {port.name for port in (*ports, *session.outputs)}
    if unknown:
        raise ValueError(f"names has {', '.join(sorted(unknown))}: the model has nothing so called")
    kind, cases = _cases(session, inputs, outputs, told)
    others = [name for name in inputs if name not in KNOWN_INPUTS]
    if others:
        raise ValueError(
            "the model has inputs that no masking, restoring, gather or reduction of rows has"
            f" ({', '.join(others)}): what it does to them cannot be verified"
        )
    defaults = {standard.get(port.name, port.name) for port in session.optional}
    count = 0
    for case in cases:
        count += 1
        difference = _difference(session, model_names, without_defaults(case, defaults))
        if difference is not None:
            return Verification(kind, count, difference, session.label)
    if not count:
        raise ValueError(
            "the model's fixed sizes leave no case to run: they contradict each other, or one case"
            f" has more than {MAX_ITEMS} items"
        )
    return Verification(kind, count, None, session.label)


def _cases(
    session: Session | RuntimeSession,
    inputs: Mapping[str, Port],
    outputs: set[str],
    told: _Told,
) -> tuple[str, Iterator[Case]]:
    """What the model is, and its cases with the expected values of its outputs."""
    cases: Iterator[Case]
    mask_ratio, dim, reduce = told
    rows = _kind_of_rows(inputs)
    if {"x_visible", "ids_restore", "mask_token"} <= set(inputs):
        kind, cases = "restore", _restore_cases(inputs)
    elif {"data", "indices"} <= set(inputs):
        if dim is None and "dim" not in session.metadata:
            raise ValueError("the model does not tell its dim: give dim=")
        axis = int(session.metadata["dim"]) if dim is None else checks.integer(dim, "dim")
        kind, cases = f"gather along dim {axis}", _gather_cases(inputs, axis)
    elif rows is not None:
        if reduce is None and "reduce" not in session.metadata:
            raise ValueError("the model does not tell its reduction: give reduce=")
        reduce = checked_reduce(session.metadata["reduce"]) if reduce is None else reduce
        kind, cases = f"{rows}, {reduce}", _rows_cases(inputs, reduce)
    elif any(
        names <= set(inputs)
        for names in ({"noise"}, {"seed", "sample_ids"}, {"seed_words", "sample_id_words"})
    ):
        ratios: tuple[float, ...] = (0.0, 0.25, 0.6, 0.75, 0.9, 1.0)
        source = "noise" if "noise" in inputs else "seed"
        if "mask_ratio" in inputs:
            kind = f"masking by {source}, ratio as an input"
        else:
            if mask_ratio is None:
                mask_ratio = float(session.metadata.get("mask_ratio", "0.75"))
            one = keep.ratio(mask_ratio)
            kind, ratios = f"masking by {source}, ratio {one:g}", (one,)
        bits = int(session.metadata.get("seed_bits", "64"))
        cases = _masking_cases(inputs, outputs, ratios, bits)
    else:
        raise ValueError(
            f"the model's inputs are {', '.join(inputs)}: noise, or seed and sample_ids, with or"
            " without x, or x_visible, ids_restore and mask_token, or data and indices, or x with"
            " offsets, counts or ids are needed; names= tells which is which"
        )
    return kind, cases


def _kind_of_rows(inputs: Mapping[str, Port]) -> str | None:
    """What rows are reduced by, where a model does that."""
    ways = {"offsets", "counts", "ids", "num_segments"} & set(inputs)
    if "x" not in inputs or not ways:
        return None
    known = {
        ("offsets",): "segment_reduce by offsets", ("counts",): "segment_reduce by counts",
        ("ids", "num_segments"): "segment_reduce by ids", ("ids",): "gather_reduce",
        ("ids", "offsets"): "gather_reduce by offsets",
        ("counts", "ids"): "gather_reduce by counts",
    }  # fmt: skip
    return known.get(tuple(sorted(ways)))


def _fits(port: Port | None, shape: tuple[int, ...]) -> bool:
    """Whether a shape has the fixed sizes of a port."""
    if port is None or not port.shape:
        return True
    if len(port.shape) != len(shape):
        return False
    return all(
        not isinstance(fixed, int) or fixed == size
        for fixed, size in zip(port.shape, shape, strict=True)
    )


def _fixed(port: Port | None, axis: int, others: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes to try along an axis: the fixed one if there is one, else ``others``."""
    size = port.shape[axis] if port is not None and len(port.shape) > axis else None
    return (size,) if isinstance(size, int) else others


def _masking_cases(
    inputs: Mapping[str, Port], outputs: set[str], ratios: tuple[float, ...], id_bits: int
) -> Iterator[Case]:
    generator = np.random.default_rng(0)
    seeds, epochs = (SEEDS, EPOCHS) if id_bits == 64 else (SEEDS_31, EPOCHS_31)
    x_port, noise_port = inputs.get("x"), inputs.get("noise")
    grid_port = noise_port or x_port
    sizes = itertools.product(
        _fixed(grid_port, 0, BATCHES),
        _fixed(grid_port, 1, LENGTHS),
        _fixed(x_port, 2, WIDTHS) if x_port else (1,),
    )
    for k, (n, length, width) in enumerate(sizes):
        if not _fits(x_port, (n, length, width)) or not _fits(noise_port, (n, length)):
            continue
        if n * length * width > MAX_ITEMS or n * length > MAX_LOOP_ITEMS:
            continue
        about = Masking(
            n, length, width, ratios[k % len(ratios)], SCORES[k % len(SCORES)],
            seeds[k % len(seeds)], epochs[k % len(epochs)], id_bits,
        )  # fmt: skip
        yield masking_case(inputs, outputs, about, generator)


def _restore_cases(inputs: Mapping[str, Port]) -> Iterator[Case]:
    generator = np.random.default_rng(1)
    x_port, ids_port = inputs["x_visible"], inputs["ids_restore"]
    for n, length, width in itertools.product(
        _fixed(ids_port, 0, BATCHES), _fixed(ids_port, 1, LENGTHS), _fixed(x_port, 2, WIDTHS)
    ):
        for kept in _fixed(x_port, 1, tuple({0, length // 4, length})):
            if not _fits(x_port, (n, kept, width)) or kept > length:
                continue
            if n * length * width <= MAX_ITEMS:
                yield restoring_case(inputs, Restoring(n, length, kept, width), generator)


def _gather_cases(inputs: Mapping[str, Port], dim: int) -> Iterator[Case]:
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
        if max(math.prod(data_shape), math.prod(index_shape)) <= MAX_LOOP_ITEMS:
            yield gather_case(inputs, axis, data_shape, index_shape, generator)


def _rows_cases(inputs: Mapping[str, Port], reduce: Reduce) -> Iterator[Case]:
    """Segments and bags of all sizes, empty ones among them."""
    generator = np.random.default_rng(3)
    x_port, ids_port = inputs["x"], inputs.get("ids")
    bags = ids_port is not None and "num_segments" not in inputs
    by = next((name for name in ("offsets", "counts") if name in inputs), None)
    for _ in range(300):
        most = int(generator.choice([3, 12, 60]))
        first = _fixed(x_port, 0, (int(generator.integers(1 if bags else 0, most)),))
        x_shape = *first, *(
            _fixed(x_port, d, (int(generator.integers(1, 9)),))[0]
            for d in range(1, len(x_port.shape))
        )  # fmt: skip
        segments = int(generator.integers(1, most))
        if by is not None:
            (given,) = _fixed(inputs[by], 0, (segments + (by == "offsets"),))
            segments = given - (by == "offsets")
        ids_shape = None
        if bags:
            sizes = (int(generator.integers(0, most)),) if by else (segments, most // 8)
            ids_shape = tuple(_fixed(ids_port, d, (n,))[0] for d, n in enumerate(sizes))
        total = x_shape[0] if ids_shape is None else math.prod(ids_shape)
        nowhere = segments < (total > 0) or (ids_shape is not None and x_shape[0] < (total > 0))
        items = max(total, x_shape[0]) * math.prod(x_shape[1:])
        if nowhere or items > MAX_LOOP_ITEMS:
            continue
        case = rows_case(inputs, reduce, (x_shape, ids_shape, segments), generator)
        if all(_fits(inputs[name], array.shape) for name, array in case.feeds.items()):
            yield case


def _difference(
    session: Session | RuntimeSession, model_names: Mapping[str, str], case: Case
) -> str | None:
    """The first difference of a case, in words."""
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in case.feeds.items())
    try:
        outputs = session.run({model_names.get(name, name): a for name, a in case.feeds.items()})
    except (RuntimeError, TypeError, ValueError) as error:
        return f"with {shapes}: {error}"
    got = {name: outputs[model_names.get(name, name)] for name in case.expected}
    difference = first_difference(got, case.expected)
    return difference and f"with {shapes}: {difference}"
