"""Launches the kernels of strategies: the keys of the tokens, and the sort that ranks them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nbgather.kernels.cuda import blocks, launch, launch_radix, radix, strategies
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.cuda.launch_radix import Pass, Scratch, Sink, Source, passes_of

#: Boxes that tokens are compared with, at most, up to which blocks are drawn here: some hundredths
#: of a second a sample.
MAX_COMPARED = 1 << 34

#: Epoch, key (low, high), and what is told of these.
Args = tuple[int, int, int, int]


def box_limit(tokens: int, least: int) -> int:
    """How many boxes are drawn at most."""
    return 8 * (tokens // least) + 32


def axes_here(sizes: tuple[int, ...]) -> bool:
    """Whether a kernel takes a grid of so many axes."""
    return len(sizes) <= strategies.MAX_AXES


def scores_here(name: str, sizes: tuple[int, ...], numbers: tuple[int, int, int]) -> bool:
    """Whether tokens are scored on the device."""
    tokens = math.prod(sizes)
    if not axes_here(sizes):
        return False
    return name != "block" or box_limit(tokens, numbers[0]) * tokens <= MAX_COMPARED


def strategy(
    name: str,
    sizes: tuple[int, ...],
    numbers: tuple[int, int, int],
    aspects: int,
    args: Args,
    ids: int,
    out: int,
    samples: int,
    place: Place,
    scratch: Scratch,
) -> None:
    """Score a grid's tokens: float32 `[samples, tokens]` at ``out``, for int64 ``ids``.

    ``aspects`` is the address of the table of them.
    """
    tokens = math.prod(sizes)
    keys = scratch(8 * samples * tokens)
    make: Callable[[Any], Any]
    key: tuple[Any, ...]
    if name == "block":
        limit = box_limit(tokens, numbers[0])
        step_bits = (max(sizes) - 1).bit_length()
        bits = limit.bit_length() + step_bits
        told = step_bits | len(sizes) << 8 | numbers[2] << 16
        four = (*(1,) * (strategies.BLOCK_AXES - len(sizes)), *sizes)
        key, make, read = ("block keys",), strategies.make_block_keys, aspects
        own = (*numbers[:2], limit, told, *four)
    elif name == "lines":
        axes = len(sizes)
        total = sum(n for d, n in enumerate(sizes) if numbers[0] >> d & 1)
        read = _line_ranks(total, args, ids, samples, place, scratch)
        bits = (total - 1).bit_length()
        key, make = ("line keys", axes), lambda memory: strategies.make_line_keys(memory, axes)
        own = (numbers[0], total, 0, 0, *sizes)
    else:
        axes, bits, read = len(sizes), 1, 0
        key, make = ("grid keys", axes), lambda memory: strategies.make_grid_keys(memory, axes)
        own = (numbers[0], 0, 0, 0, *sizes)
    threads = launch.THREADS_PER_BLOCK
    parts = launch._divide_up(tokens, threads)
    addresses = (keys, ids, read) if read else (keys, ids)
    launch.driver.launch(
        key, make, (samples * parts, 1), (threads, 1), place, addresses,
        (tokens, *args, parts, *own),
    )  # fmt: skip
    _rank(keys, bits + strategies.NOISE_BITS, samples, tokens, out, place, scratch)


def _line_ranks(
    total: int, args: Args, ids: int, samples: int, place: Place, scratch: Scratch
) -> int:
    """The address of the ranks of all lines of the samples, by their words: uint32."""
    ranks = scratch(4 * samples * total)
    lines = Source("lines", strategies.make_line_source, ids, 0, args)
    _rank_lines(lines, 32, samples, total, ranks, place, scratch)
    return ranks


def _rank_lines(
    lines: Source, bits: int, samples: int, total: int, out: int, place: Place, scratch: Scratch
) -> None:
    """The places of lines in the order of so many bits of their source's keys, as uint32."""
    sink = Sink("places", lambda memory: strategies.make_place_sink(memory, False), (out, 0, 0, 0))
    if launch_radix.whole_threads(total, place):
        launch_radix.sort_whole(
            ("ranks", lines.key, sink.key), lambda m: (lines.make(m),), lines.a, bits,
            samples, total, place, sink, lines.numbers,
        )  # fmt: skip
        return
    passes = passes_of(lines, 0, launch._divide_up(bits, radix.DIGIT_BITS))
    launch_radix.sort(passes, samples, total, 0, place, scratch, sink)


def stripes(
    sizes: tuple[int, ...],
    kept: tuple[int, ...],
    args: Args,
    ids: int,
    out: int,
    samples: int,
    place: Place,
    scratch: Scratch,
) -> None:
    """Score a grid's tokens by whether they are on lines that go; ``kept`` of each axis stay."""
    tokens, lines, axes = math.prod(sizes), sum(sizes), len(sizes)
    ranks, before = scratch(4 * samples * lines), 0
    for size, stay in zip(sizes, kept, strict=True):
        if stay < size:
            numbers = (*args, tokens + before)
            source = Source("words", blocks.make_word_source, ids, 0, numbers)
            out_at = ranks + 4 * samples * before
            _rank_lines(source, strategies.NOISE_BITS, samples, size, out_at, place, scratch)
        before += size
    threads = launch.THREADS_PER_BLOCK
    parts = launch._divide_up(tokens, threads)
    launch.driver.launch(
        ("stripes", axes), lambda memory: blocks.make_stripes(memory, axes),
        (samples * parts, 1), (threads, 1), place, (out, ids, ranks),
        (tokens, *args, parts, lines, samples, 0, 0, *sizes, *kept),
    )  # fmt: skip


def multiblock(
    drawn: tuple[int, ...], args: Args, ids: int, out: int, samples: int, place: Place
) -> None:
    """Score a grid's tokens by the blocks that they are in; ``drawn`` says how these are drawn.

    It is what the kernel has among its numbers behind those of the noise.
    """
    tokens, threads = math.prod(drawn[:3]), launch.THREADS_PER_BLOCK
    parts = launch._grid_y(launch._divide_up(drawn[0] * drawn[1], threads), samples, place)
    launch.driver.launch(
        "block scores", blocks.make_block_scores, (samples, parts), (threads, 1), place,
        (out, ids), (tokens, *args, *drawn),
    )  # fmt: skip


def multiblock_ids(
    drawn: tuple[int, ...],
    most: tuple[int, int],
    args: Args,
    ids: int,
    out: tuple[int, int, int, int],
    samples: int,
    place: Place,
) -> None:
    """The ids of the blocks of :func:`multiblock`, and how many there are of each.

    ``out`` are the addresses of a context's and targets' ids, and of their numbers; ``most`` says
    for how many ids of each there is room.
    """
    threads, each = min(launch.THREADS_PER_BLOCK, blocks.LIST_THREADS), drawn[3] + 1
    launch.driver.launch(
        "block ids", blocks.make_block_ids, (samples * each, 1), (threads, 1), place,
        (*out, ids), (math.prod(drawn[:3]), *args, *drawn, *most),
    )  # fmt: skip


def _rank(
    keys: int, bits: int, samples: int, tokens: int, out: int, place: Place, scratch: Scratch
) -> None:
    """The places of tokens in the order of so many bits of their keys, as float32."""
    sink = Sink("scores", lambda memory: strategies.make_place_sink(memory, True), (out, 0, 0, 0))
    is_wide = bits > 32
    if launch_radix.whole_threads(tokens, place):

        def sources(memory: Any) -> tuple[Any, ...]:
            low = strategies.make_key_source(memory, 0, False)
            return (low, strategies.make_key_source(memory, 32, False)) if is_wide else (low,)

        key = "ranks", f"keys of {64 if is_wide else 32}", sink.key
        launch_radix.sort_whole(
            key, sources, keys, 32 if is_wide else bits, samples, tokens, place, sink
        )
        return
    low = Source("keys", lambda m: strategies.make_key_source(m, 0, False), keys)
    high = Source("high keys", lambda m: strategies.make_key_source(m, 32, True), keys)
    passes: list[Pass] = passes_of(low, 0, launch._divide_up(min(bits, 32), radix.DIGIT_BITS))
    if is_wide:
        passes += passes_of(high, 0, launch._divide_up(bits - 32, radix.DIGIT_BITS))
    launch_radix.sort(passes, samples, tokens, 0, place, scratch, sink)
