"""Random calls of every operation, drawn by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from fuzzing.guarded import Arena
from hypothesis import strategies as st

import nbgather

DTYPES = (
    "?",
    "i1",
    "u2",
    "f2",
    "i4",
    "f4",
    "i8",
    "f8",
    "c8",
    "c16",
    "S3",
    "S4",
    "M8[s]",
    ">f4",
    "V16",
)
NUMBERS = ("i1", "u1", "i2", "i4", "i8", "u4", "f4", "f8")
INDICES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4")
MODES = ("raise", "clip", "wrap", "fill")
REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")


class Call(NamedTuple):
    """A call to make by kernels and by the reference."""

    function: Callable[..., Any]
    operands: tuple[Any, ...]
    options: dict[str, Any]
    #: What must come out, where no backend is a reference.
    wanted: np.ndarray | None = None
    #: What the result can be written to, in some layout.
    out: np.ndarray | None = None

    def __repr__(self) -> str:
        shown = [_shown(a) for a in self.operands] + [f"{k}={v!r}" for k, v in self.options.items()]
        if self.out is not None:
            shown.append(f"out={_shown(self.out)}")
        return f"{self.function.__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    return f"<{value.dtype.str} {value.shape} strides {value.strides} {value.tobytes()[:64].hex()}>"


class Drawn:
    """What one case is drawn from."""

    def __init__(self, data: st.DataObject, arena: Arena, seed: int) -> None:
        self.data, self.arena, self.seed = data, arena, seed
        self.generator = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))

    def of(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def one_of(self, choices: tuple[Any, ...], *beside: int) -> Any:
        """The choice that goes with positions of other choices: a Latin square, by the seed.

        Every choice meets every other, and not every two others: where each combination is a kernel
        to compile, a campaign would compile for most of its time. Other seeds give other squares.
        """
        return choices[(sum(beside) + self.seed) % len(choices)]

    def number(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def sizes(self, least: int = 1, most: int = 4, length: int = 9) -> tuple[int, ...]:
        return tuple(
            self.data.draw(st.lists(st.integers(0, length), min_size=least, max_size=most))
        )

    def laid(self, values: np.ndarray) -> np.ndarray:
        """The values beside a guarded page, in some layout in which each has its own place."""
        steps = [self.of(1, 1, 1, 2, -1) for _ in values.shape]
        order = self.data.draw(st.permutations(range(values.ndim)))
        whole = [n * abs(s) for n, s in zip(values.shape, steps, strict=True)]
        base = self.arena.array(math.prod(whole) * values.itemsize, self.of(True, False))
        base = base.view(values.dtype) if base.size else np.empty(0, values.dtype)
        base = base.reshape([whole[d] for d in order]).transpose(np.argsort(order))
        view = base[tuple(slice(None, None, s) for s in steps)]
        view[...] = values
        return view

    def placed(self, values: np.ndarray) -> np.ndarray:
        """The values beside a guarded page, in some layout, or one of them all along an axis."""
        view = self.laid(values)
        if values.ndim and self.of(*(False,) * 9, True):
            axis = self.number(0, values.ndim - 1)
            if values.shape[axis]:
                view = np.broadcast_to(np.take(view, [0], axis), values.shape)
        return view

    def bits(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        kind = np.dtype(dtype)
        if kind == np.bool_:
            return self.placed(self.generator.integers(0, 2, shape).astype(bool))
        data = self.generator.integers(0, 256, math.prod(shape) * kind.itemsize, np.uint8)
        return self.placed(data.view(kind).reshape(shape))

    def some(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Numbers among which are equal ones, zeros of both signs and, rarely, NaN."""
        values = self.generator.integers(-3, 4, shape) * self.of(1, 0.5, -0.0)
        values = np.asarray(values, np.float64)
        if np.dtype(dtype).kind == "f" and self.of(*(False,) * 5, True):
            values = np.where(self.generator.random(shape) < 0.1, np.nan, values)
        with np.errstate(invalid="ignore"):
            return self.placed(values.astype(dtype))

    def index(self, shape: tuple[int, ...], size: int, far: bool, dtype: str) -> np.ndarray:
        low, high = (-2 * size - 1, 3 * size + 1) if far else (0, max(size, 1))
        info = np.iinfo(dtype)
        values = self.generator.integers(
            max(low, info.min), min(high, info.max), shape, endpoint=far
        )
        if self.of(*(False,) * 9, True) and values.size:
            values.reshape(-1)[self.number(0, values.size - 1)] = min(size, info.max)
        return self.placed(values.astype(dtype))


def _indexed(d: Drawn, dtypes: tuple[str, ...]) -> tuple[np.ndarray, int, tuple[int, ...], str]:
    shape = d.sizes()
    dim = d.number(0, len(shape) - 1)
    length = d.number(0, 12)
    index_shape = tuple(
        length if k == dim else d.of(n, n, max(n - 1, 0)) for k, n in enumerate(shape)
    )
    return d.bits(shape, d.of(*dtypes)), dim, index_shape, d.of(*INDICES)


def gather(d: Drawn) -> Call:
    x, dim, shape, dtype = _indexed(d, DTYPES)
    mode = d.of(*MODES)
    index = d.index(shape, x.shape[dim], mode != "raise", dtype)
    return Call(nbgather.gather, (x, d.of(dim, dim - x.ndim), index), {"mode": mode})


def take_along_axis(d: Drawn) -> Call:
    x, dim, shape, dtype = _indexed(d, DTYPES)
    shape = tuple(n if k == dim else d.of(m, m, 1) for k, (n, m) in enumerate(zip(shape, x.shape)))
    mode = d.of(*MODES)
    index = d.index(shape, x.shape[dim], mode != "raise", dtype)
    return Call(nbgather.take_along_axis, (x, index, dim), {"mode": mode})


def gather_tokens(d: Drawn) -> Call:
    shape = d.sizes(2)
    x, mode = d.bits(shape, d.of(*DTYPES)), d.of(*MODES)
    ids = d.index((shape[0], d.number(0, 12)), shape[1], mode != "raise", d.of(*INDICES))
    return Call(nbgather.gather_tokens, (x, ids), {"mode": mode})


def _scattered(d: Drawn, dtypes: tuple[str, ...]) -> tuple[Any, ...]:
    x, dim, shape, dtype = _indexed(d, dtypes)
    return x, dim, d.index(shape, x.shape[dim], False, dtype), shape


def scatter(d: Drawn) -> Call:
    x, dim, index, shape = _scattered(d, DTYPES)
    return Call(nbgather.scatter, (x, dim, index, d.bits(shape, x.dtype.str)), {})


def scatter_add(d: Drawn) -> Call:
    x, dim, index, shape = _scattered(d, NUMBERS)
    operands = d.some(x.shape, x.dtype.str), dim, index, d.some(shape, x.dtype.str)
    return Call(nbgather.scatter_add, operands, {})


def scatter_reduce(d: Drawn) -> Call:
    x, dim, index, shape = _scattered(d, NUMBERS)
    operands = d.some(x.shape, x.dtype.str), dim, index, d.some(shape, x.dtype.str)
    dtypes = NUMBERS.index(x.dtype.str.lstrip("<>|")), INDICES.index(index.dtype.str.lstrip("<|"))
    options = {"include_self": d.of(True, False)}
    return Call(nbgather.scatter_reduce, (*operands, d.one_of(REDUCTIONS, *dtypes)), options)


def segment_reduce(d: Drawn) -> Call:
    shape = d.sizes()
    x, rows = d.some(shape, d.of(*NUMBERS)), shape[0]
    segments, by = d.number(0, 6), d.of("ids", "offsets", "counts")
    if by == "ids":
        options = {by: d.index((rows,), segments, False, d.of(*INDICES)), "num_segments": segments}
    else:
        inner = np.sort(d.generator.integers(0, rows + 1, max(segments - 1, 0)))
        offsets = np.array([0, *inner, rows])
        options = {by: d.placed(offsets if by == "offsets" else np.diff(offsets))}
        segments = len(offsets) - 1
    out = d.laid(np.full((segments, *shape[1:]), 7, x.dtype))
    return Call(nbgather.segment_reduce, (x, d.of(*REDUCTIONS)), options, out=out)


def gather_reduce(d: Drawn) -> Call:
    shape, mode = d.sizes(), d.of(*MODES)
    x, bags, width = d.some(shape, d.of(*NUMBERS)), d.number(0, 6), d.number(0, 5)
    counts = d.generator.integers(0, 5, bags)
    by = d.of(None, "offsets", "counts")
    wide = (bags, width) if by is None else (int(counts.sum()),)
    ids = d.index(wide, shape[0], mode != "raise", d.of(*INDICES))
    options = {"mode": mode}
    if mode == "fill":
        options["fill_value"] = d.of(0, 1, 3)
    if by is not None:
        options[by] = d.placed(counts if by == "counts" else np.cumsum([0, *counts]))
    out = d.laid(np.full((bags, *shape[1:]), 7, x.dtype))
    return Call(nbgather.gather_reduce, (x, ids, d.of(*REDUCTIONS)), options, out=out)


def token_noise(d: Drawn) -> Call:
    ids = d.placed(d.generator.integers(-(1 << 63), 1 << 63, d.number(0, 9)))
    operands = d.number(0, (1 << 64) - 1), ids, d.number(0, 70)
    return Call(nbgather.token_noise, operands, {"epoch": d.number(0, (1 << 32) - 1)})


def rank_tokens(d: Drawn) -> Call:
    samples, tokens = d.number(0, 5), d.of(d.number(0, 40), d.number(0, 600))
    scores = d.some((samples, tokens), d.of("f2", "f4", "f8"))
    return Call(nbgather.rank_tokens, (scores, d.number(0, tokens)), {})


def random_masking(d: Drawn) -> Call:
    shape = (d.number(0, 5), d.number(1, 40), *d.sizes(0, 2))
    x = d.bits(shape, d.of(*DTYPES))
    ratio = d.data.draw(st.floats(0, 1, exclude_max=True))
    if d.of(True, False):
        return Call(nbgather.random_masking, (x, ratio), {"seed": d.number(0, 99)})
    noise = d.some(shape[:2], d.of("f2", "f4", "f8"))
    return Call(nbgather.random_masking, (x, ratio), {"noise": noise})


def packed_masking(d: Drawn) -> Call:
    shape = (d.number(0, 5), d.number(1, 40), *d.sizes(0, 2))
    x, options = d.bits(shape, d.of(*DTYPES)), {"packed": d.of(True, False)}
    if d.of(True, False):
        options["num_keep"] = d.generator.integers(0, shape[1] + 1, shape[0]).tolist()
    else:
        options["mask_ratio"] = d.generator.random(shape[0]).tolist()
    if d.of(True, False):
        return Call(nbgather.random_masking, (x,), {"seed": d.number(0, 99), **options})
    noise = d.some(shape[:2], d.of("f2", "f4", "f8"))
    return Call(nbgather.random_masking, (x,), {"noise": noise, **options})


def restore_tokens(d: Drawn) -> Call:
    samples, tokens, width = d.number(0, 5), d.number(1, 30), d.number(0, 9)
    x = d.bits((samples, d.number(0, tokens), width), d.of(*DTYPES))
    order = d.generator.permuted(np.tile(np.arange(tokens), (samples, 1)), axis=1)
    token = d.bits((width,), x.dtype.str)
    return Call(nbgather.restore_tokens, (x, d.placed(order.astype(d.of("i4", "i8"))), token), {})


def _images(d: Drawn) -> tuple[np.ndarray, tuple[int, int]]:
    size = d.number(1, 5), d.number(1, 5)
    height, width = (s * d.number(1, 4) for s in size)
    shape = d.number(0, 3), d.number(1, 4), height, width
    return d.bits(shape, d.of("u1", "f4", "f8", "u2", "c16")), size


def _patches(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    samples, channels, height, width = images.shape
    rows, columns = height // size[0], width // size[1]
    split = images.reshape(samples, channels, rows, size[0], columns, size[1])
    width = size[0] * size[1] * channels
    return split.transpose(0, 2, 4, 3, 5, 1).reshape(samples, rows * columns, width)


def patchify(d: Drawn) -> Call:
    images, size = _images(d)
    return Call(nbgather.patchify, (images, size), {}, _patches(images, size))


def unpatchify(d: Drawn) -> Call:
    images, size = _images(d)
    patches = d.placed(_patches(images, size))
    for axis, stride in enumerate(patches.strides):
        if stride == 0 and patches.shape[axis] > 1:  # its values were spread over an axis
            patches = d.placed(np.ascontiguousarray(_patches(images, size)))
            break
    plain = images if np.array_equal(patches, _patches(images, size)) else None
    return Call(nbgather.unpatchify, (patches, size, images.shape[2:]), {}, plain)


def masked_patchify(d: Drawn) -> Call:
    images, size = _images(d)
    ratio = d.data.draw(st.floats(0, 1, exclude_max=True))
    options = {"seed": d.number(0, 99), "packed": d.of(False, True)}
    return Call(nbgather.masked_patchify, (images, size, ratio), options)


def strategies(d: Drawn) -> Call:
    name = d.of("random", "grid", "block", "time_frequency")
    grid = d.number(1, 12), d.number(1, 12)
    function = getattr(nbgather.strategies, name)
    return Call(function, (d.number(0, 99), d.number(0, 4), grid), {"epoch": d.number(0, 9)})


def frame_strategies(d: Drawn) -> Call:
    name, options = d.of("tube", "multiblock", "stripes"), {"epoch": d.number(0, 9)}
    grid = d.number(1, 4), d.number(1, 9), d.number(1, 9)
    if name == "multiblock":
        grid, options["targets"] = d.of(grid, grid[1:]), d.number(1, 5)
        options |= {"overlap": d.of(False, True), "min_keep": d.number(1, math.prod(grid))}
    if name == "stripes":
        options["ratios"] = [d.data.draw(st.floats(0, 1)) for _ in grid]
    function = getattr(nbgather.strategies, name)
    return Call(function, (d.number(0, 99), d.number(0, 4), grid), options)


def infer_gather(d: Drawn) -> Call:
    shape = d.sizes(1, 3, 5)
    x = d.some(shape, d.of("i1", "i4", "f8"))
    output = d.some(tuple(d.number(0, n) for n in shape), x.dtype.str)
    if x.size and d.of(True, False):
        dim = d.number(0, x.ndim - 1)
        index = d.generator.integers(0, shape[dim], shape)
        output = d.placed(np.take_along_axis(x, index, dim))
    return Call(nbgather.infer_gather, (x, output), {})


CASES: dict[str, Callable[[Drawn], Call]] = {
    f.__name__: f
    for f in (
        gather, take_along_axis, gather_tokens, scatter, scatter_add, scatter_reduce,
        segment_reduce, gather_reduce, token_noise, rank_tokens, random_masking, packed_masking,
        restore_tokens, patchify, unpatchify, masked_patchify, strategies, frame_strategies,
        infer_gather,
    )
}  # fmt: skip
