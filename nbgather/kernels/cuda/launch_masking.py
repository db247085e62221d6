"""Picks the kernels of noise, ranks and maskings, and the shapes of their launches."""

from __future__ import annotations

from nbgather.kernels.cuda import launch
from nbgather.kernels.cuda import masking as masking_kernels
from nbgather.kernels.cuda.driver import Place
from nbgather.kernels.cuda.masking import MAX_FUSED_TOKENS, RANKING_THREADS

#: Vectors that each thread should copy before a sample's rows are split over more blocks.
VECTORS_PER_MASKING_THREAD = 8


def token_noise(
    args: tuple[int, int, int], samples: int, tokens: int, ids: int, out: int, place: Place
) -> None:
    """Noise float32 `[samples, tokens]` for ``args`` = (epoch, key low, key high)."""
    threads = min(launch._power_of_two(launch._divide_up(tokens, 4)), launch.THREADS_PER_BLOCK)
    launch.driver.launch(
        "noise",
        masking_kernels.make_token_noise,
        (samples, launch._divide_up(tokens, 4 * threads)), (threads, 1), place,
        (out, ids),
        (samples, tokens, *args, int(ids == 0)),
    )  # fmt: skip


_SOURCES = {
    "seed": masking_kernels.SEED,
    "f4": masking_kernels.FLOAT32,
    "f8": masking_kernels.FLOAT64,
}


def masks_in_one(length: int, kept: int, row: int) -> bool:
    """Whether one launch ranks so many tokens and copies those kept, of ``row`` bytes each."""
    return length <= MAX_FUSED_TOKENS and kept * row < launch.WIDE_ELEMENTS


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
) -> None:
    """Mask in one launch, or only rank where it takes more: see :func:`masks_in_one`.

    The arguments are those of the CPU's, with device addresses.
    """
    key_source = _SOURCES[source]
    philox, strides = (epoch, key_low, key_high), (x_n, x_l)
    if not masks_in_one(length, kept, row):
        launch.driver.launch(
            ("ranks", key_source),
            lambda memory: masking_kernels.make_rank_tiles(memory, key_source),
            (samples, launch._divide_up(length, RANKING_THREADS)), (RANKING_THREADS, 1), place,
            (ids, scores, keep, restore, mask, counts),
            (length, kept, *philox, 0, 0, 0, implied),
        )  # fmt: skip
        return
    width = launch._width(row, out, x, *strides) if row else 16
    threads = max(min(launch._power_of_two(length), RANKING_THREADS), 64)
    vectors = row // width
    parts = launch._divide_up(kept * vectors, threads * VECTORS_PER_MASKING_THREAD)
    launch.driver.launch(
        ("masking", key_source, width),
        lambda memory: masking_kernels.make_masking(memory, key_source, width),
        (samples, launch._grid_y(parts, samples, place)), (threads, 1), place,
        (out, x, ids, scores, keep, restore, mask, counts),
        (length, kept, *philox, vectors, *(s & launch._64_BITS for s in strides), implied),
    )  # fmt: skip
