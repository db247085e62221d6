"""The passes of a stable sort of 32-bit keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nbgather.kernels.cuda import launch, radix
from nbgather.kernels.cuda.driver import Place

#: Threads of a block that sorts, a power of two.
RADIX_THREADS = radix.RADIX_THREADS

#: Memory of so many bytes on the device, until the call is over: its address.
Scratch = Callable[[int], int]


class Source(NamedTuple):
    """What makes a source, by what it is known, and what it reads."""

    key: Any
    make: Callable[[Any], Any]
    a: int = 0
    b: int = 0
    numbers: tuple[int, ...] = ()


class Sink(NamedTuple):
    """What makes a sink, by what it is known, and where it writes."""

    key: Any
    make: Callable[[Any], Any]
    addresses: tuple[int, ...]


class Pass(NamedTuple):
    """A pass: its source, None for what the pass before has left, and the lowest bit."""

    source: Source | None
    shift: int


def passes_of(source: Source, first: int, count: int) -> list[Pass]:
    """So many passes from a bit on, of which the first reads the source."""
    shifts = [first + radix.DIGIT_BITS * k for k in range(count)]
    return [Pass(source if k == 0 else None, shift) for k, shift in enumerate(shifts)]


def whole_threads(length: int, place: Place) -> int:
    """The threads of a block that sorts a segment of so many keys whole; 0 if none can."""
    return radix.threads_of_whole(length, launch.driver.shared_memory(place.device))


def sort_whole(
    key: Any,
    make_sources: Callable[[Any], Any],
    read: int,
    bits: int,
    segments: int,
    length: int,
    place: Place,
    sink: Sink,
    numbers: tuple[int, ...] = (),
) -> None:
    """Sort each segment in a block of its own, by so many bits of each source."""
    threads = whole_threads(length, place)
    launch.driver.launch(
        key,
        lambda memory: radix.make_radix_whole(memory, make_sources, sink.make),
        (segments, 1), (threads, 1), place,
        (read, 0, *sink.addresses),
        (length, launch._divide_up(length, threads), launch._divide_up(bits, radix.ROUND_BITS),
         *numbers),
        radix.whole_bytes(length, threads),
    )  # fmt: skip


def sort(
    passes: list[Pass],
    segments: int,
    length: int,
    flag: int,
    place: Place,
    scratch: Scratch,
    sink: Sink | None = None,
) -> tuple[int, int]:
    """Sort segments of so many keys; where keys and tokens are then, or what ``sink`` takes.

    ``numbers`` of the first source are those of every pass.
    """
    driver, threads = launch.driver, RADIX_THREADS
    tile = threads * radix.TILE_ITEMS
    tiles = launch._divide_up(length, tile)
    counts = scratch(4 * segments * radix.DIGITS * tiles)
    totals = scratch(4 * segments * radix.DIGITS)
    kept = len(passes) - (sink is not None)
    buffers = [
        (scratch(4 * segments * length), scratch(4 * segments * length))
        for _ in range(min(kept, 2))
    ]
    numbers = passes[0].source.numbers if passes[0].source is not None else ()
    carried = Source("carried", radix.make_carried)
    at: tuple[int, ...] = (0, 0)
    for k, (given, shift) in enumerate(passes):
        source = given or carried
        last = k == len(passes) - 1 and sink is not None
        target = Sink("pass on", radix.make_pass_on, (*buffers[k % 2], 0, 0)) if not last else sink
        assert target is not None
        head = (length, tiles, shift, *numbers)
        driver.launch(
            ("radix count", source.key),
            lambda memory, source=source: radix.make_radix_count(memory, source.make),
            (segments * tiles, 1), (threads, 1), place,
            (*at, source.a, flag, counts), head,
        )  # fmt: skip
        driver.launch(
            "radix scan", radix.make_radix_scan,
            (segments * radix.DIGITS, 1), (threads, 1), place, (counts, totals), (tiles,),
        )  # fmt: skip
        driver.launch(
            ("radix sort", source.key, target.key),
            lambda memory, source=source, target=target: radix.make_radix_sort(
                memory, source.make, target.make
            ),
            (segments * tiles, 1), (threads, 1), place,
            (*at, source.a, source.b, flag, counts, totals, *target.addresses), head,
        )  # fmt: skip
        at = target.addresses[:2]
    return at[0], at[1]
