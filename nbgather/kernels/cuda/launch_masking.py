"""Launches the kernels of noise, ranks and maskings, by the number of tokens."""

from __future__ import annotations

from nbgather.kernels.cuda import launch, launch_radix, radix, ranking
from nbgather.kernels.cuda import masking as masking_kernels
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.cuda.launch_radix import Pass, Scratch, Source, passes_of
from nbgather.kernels.cuda.masking import (
    MAX_FUSED_TOKENS,
    MAX_NARROW_TOKENS,
    RANKING_THREADS,
)

#: Vectors that each thread should copy before a sample's rows are split over more blocks.
VECTORS_PER_MASKING_THREAD = 8
#: Bytes of a sample's kept tokens up to which the number of the next vector has 32 bits, too, for
#: any thread that looks whether there is one.
MAX_KEPT_BYTES = (1 << 32) - 4 * RANKING_THREADS * 4

_SOURCES = {
    "seed": masking_kernels.SEED,
    "f4": masking_kernels.FLOAT32,
    "f8": masking_kernels.FLOAT64,
}


def token_noise(
    args: tuple[int, int, int],
    samples: int,
    tokens: int,
    ids: int,
    out: int,
    place: Place,
    told: int = 0,
) -> None:
    """Noise float32 `[samples, tokens]` for ``args`` = (epoch, key low, key high).

    ``told`` says which of these are addresses.
    """
    threads = min(launch._power_of_two(launch._divide_up(tokens, 4)), launch.THREADS_PER_BLOCK)
    parts = launch._divide_up(tokens, 4 * threads)
    launch.driver.launch(
        "noise",
        masking_kernels.make_token_noise,
        (samples * parts, 1), (threads, 1), place,
        (out, ids),
        (samples, tokens, *args, told | int(ids == 0), parts),
    )  # fmt: skip


def _parts(samples: int, kept: int, vectors: int, threads: int, place: Place) -> int:
    """Blocks that share the copy of a sample's kept tokens."""
    parts = launch._divide_up(kept * vectors, threads * VECTORS_PER_MASKING_THREAD)
    return launch._grid_y(parts, max(samples, 1), place)


def masks_in_one(samples: int, length: int, kept: int, row: int, place: Place) -> bool:
    """Whether one launch ranks so many tokens and copies those kept, of ``row`` bytes each.

    Blocks that share a sample rank it each for itself, which pays for few tokens only.
    """
    if length > MAX_FUSED_TOKENS or kept * row >= MAX_KEPT_BYTES:
        return False
    parts = _parts(samples, kept, row // 16, RANKING_THREADS, place)
    return length <= MAX_NARROW_TOKENS or parts == 1


def masking(
    source: str,
    samples: int,
    out: int,
    x: int,
    ids: int,
    scores: int,
    place: Place,
    *,
    length: int,
    kept: int,
    epoch: int,
    key_low: int,
    key_high: int,
    row: int,
    x_n: int,
    x_l: int,
    keep: int,
    restore: int,
    mask: int,
    counts: int,
    implied: int,
    told: int = 0,
    scratch: Scratch,
) -> None:
    """Mask in one launch where :func:`masks_in_one` says so; without rows, rank any number.

    The arguments are those of the CPU's, with device addresses, and what gives memory for the time
    of the call.
    """
    philox = (epoch, key_low, key_high)
    told |= implied
    if length > MAX_FUSED_TOKENS:
        sink = launch_radix.Sink("ranks", ranking.make_rank_sink, (restore, mask, keep, counts))
        _rank(
            source, samples, length, ids if source == "seed" else scores, sink,
            (kept, *philox, told), place, scratch,
        )  # fmt: skip
        return
    strides = (x_n, x_l)
    width = launch._width(row, out, x, *strides) if row else 16
    threads = max(min(launch._power_of_two(length), RANKING_THREADS), 64)
    vectors = row // width
    key = (_SOURCES[source], width, source == "seed" and length <= MAX_NARROW_TOKENS)
    launch.driver.launch(
        ("masking", *key),
        lambda memory: masking_kernels.make_masking(memory, *key),
        (samples, _parts(samples, kept, vectors, threads, place)), (threads, 1), place,
        (out, x, ids, scores, keep, restore, mask, counts),
        (length, kept, *philox, vectors, *(s & launch._64_BITS for s in strides), told),
    )  # fmt: skip


def _rank(
    source: str,
    samples: int,
    length: int,
    read: int,
    sink: launch_radix.Sink,
    numbers: tuple[int, ...],
    place: Place,
    scratch: Scratch,
) -> None:
    """Rank by a stable sort: of a sample in one block, or in passes over all of them."""
    if not launch_radix.whole_threads(length, place):
        passes = _passes(source, read, numbers)
        launch_radix.sort(passes, samples, length, 0, place, scratch, sink)
        return
    launch_radix.sort_whole(
        ("ranks", source), ranking.WHOLE_SOURCES[source], read, ranking.KEY_BITS[source], samples,
        length, place, sink, numbers,
    )  # fmt: skip


def _passes(source: str, read: int, numbers: tuple[int, ...]) -> list[Pass]:
    """The passes of the sort of a source's keys, the lowest bits first."""
    if source == "seed":
        noise = Source("noise", ranking.make_noise_source, read, 0, numbers)
        return passes_of(noise, 0, ranking.NOISE_BITS // radix.DIGIT_BITS)
    if source == "f4":
        return passes_of(Source("f4", ranking.make_f4_source, read, 0, numbers), 0, 4)
    low = Source("f8 low", lambda m: ranking.make_f8_source(m, 0, False), read, 0, numbers)
    high = Source("f8 high", lambda m: ranking.make_f8_source(m, 32, True), read, 0, numbers)
    return [*passes_of(low, 0, 4), *passes_of(high, 0, 4)]
