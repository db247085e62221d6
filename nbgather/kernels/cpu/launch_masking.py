"""Maskings on the CPU: noise, ranks, and whole maskings, by the kernel that fits."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels import constants
from nbgather.kernels.constants import BLOCK, GRID, LINES
from nbgather.kernels.cpu import compiler, limits, threads
from nbgather.kernels.memory import memory_address
from nbgather.kernels.plans import STREAM_BYTES
from nbgather.kernels.small import Place

#: Tokens from which on a sample is worth being ranked by several threads.
SPLIT_SAMPLE_TOKENS = 1 << 16


def token_noise(args: tuple[int, int, int], ids: np.ndarray, out: np.ndarray) -> None:
    """Fill float32 ``out`` `[N, L]` for ``args`` = (epoch, key low, key high)."""
    noise_by_address(args, out.shape, memory_address(out), memory_address(ids))


def noise_by_address(
    args: tuple[Any, Any, Any], pair: tuple[int, ...], out: Any, ids: Any, run: Any = threads.run
) -> Any:
    """Noise `[N, L]` = ``pair`` by addresses."""
    kernel = compiler.range_kernel("philox", "token_noise_range", None, ("f4", "u1", "i8", "u1"))
    samples, tokens = pair
    # A counter's ten rounds, for four tokens, cost about what 120 bytes of copying do.
    work = samples * tokens * 30
    return run(kernel, out, 0, ids, 0, integers((tokens, *args)), samples, work)


_STRATEGIES = {"grid": GRID, "block": BLOCK, "lines": LINES}


def strategy(
    name: str,
    sizes: tuple[int, ...],
    numbers: tuple[int, int, int],
    aspects: np.ndarray,
    args: tuple[int, int, int],
    ids: np.ndarray,
    out: np.ndarray,
) -> None:
    """Order a grid's tokens, as `nbgather.kernels.views.reference.strategy` does."""
    addresses = memory_address(out), memory_address(ids)
    if strategy_by_address(
        name, sizes, numbers, memory_address(aspects), args, out.shape, *addresses
    ):
        raise MemoryError(f"no memory to order {out.shape[1]} tokens")


def strategy_by_address(
    name: str,
    sizes: tuple[int, ...],
    numbers: tuple[int, int, int],
    aspects: int,
    args: tuple[int, int, int],
    pair: tuple[int, ...],
    out: Any,
    ids: Any,
    run: Any = threads.run,
) -> Any:
    """The order of a grid's tokens `[N, L]` = ``pair`` by addresses; not 0 without memory."""
    kernel = compiler.range_kernel(
        "strategies", "make_strategy", (_STRATEGIES[name],), ("f4", "u1", "i8", "f8")
    )
    samples, tokens = pair
    planned = np.array([tokens, *args, len(sizes), *numbers, *sizes], np.int64)
    # Ordering a token costs about what 256 bytes of copying do.
    return run(kernel, out, 0, ids, aspects, planned, samples, samples * tokens * 256)


#: The masking kernels by where the scores come from, and the type of the scores' bits.
_SOURCES = {
    "seed": (constants.SEED, "u1"),
    "f4": (constants.FLOAT32, "u4"),
    "f8": (constants.FLOAT64, "u8"),
}


def _masking_kernel(source: str, module: str, make: str) -> int:
    scores, bits = _SOURCES[source]
    return compiler.range_kernel(module, make, (scores,), ("u1", "u1", "i8", bits))


def integers(values: Any) -> Any:
    """The integers of a kernel: as they came where there are places among them."""
    if any(isinstance(v, Place) for v in values):
        return values
    return np.array(values, np.int64)


def _masking_args(samples: int, numbers: dict[str, Any]) -> Any:
    length, moved = numbers["length"], samples * numbers["kept"] * numbers.get("row", 0)
    values = {
        "bits": constants.slot_bits(length),
        "nt": int(moved >= STREAM_BYTES),
        **numbers,
    }
    return integers([values.get(name, 0) for name in constants.MASKING_ARGS])


def _masking_work(samples: int, numbers: dict[str, Any]) -> int:
    # Drawing and ranking a token costs about what 100 bytes of copying do.
    return samples * (numbers["length"] * 100 + numbers["kept"] * numbers.get("row", 0))


def masking(
    source: str,
    samples: int,
    out: Any,
    src: Any,
    idx: Any,
    aux: Any,
    run: Any = threads.run,
    **numbers: Any,
) -> Any:
    """Mask in one pass; the numbers are those of :data:`nbgather.kernels.constants.MASKING_ARGS`.

    ``source`` is ``seed``, with the address of the sample ids in ``idx``, or ``f4`` or ``f8``, with
    that of contiguous scores in ``aux``. As a step it is None where several threads rank a sample.
    """
    work = _masking_work(samples, numbers)
    parts = _parts_of_samples(samples, numbers["length"], work)
    if parts > 1:
        if run is threads.step:
            return None  # a step has one range, and no memory that its parts share
        return _split_masking(source, samples, (out, src, idx, aux), parts, numbers)
    kernel = _masking_kernel(source, "masking", "make_masking")
    args = _masking_args(samples, numbers)
    result = run(kernel, out, src, idx, aux, args, samples, work)
    if isinstance(result, int) and result:
        raise MemoryError(f"no memory to rank {numbers['length']} tokens")
    return result


def _parts_of_samples(samples: int, length: int, work: int) -> int:
    """By how many threads each sample is ranked: by one, unless there are fewer than threads."""
    if length < SPLIT_SAMPLE_TOKENS or not threads.splits(work):
        return 1
    count = limits.num_threads()
    return 1 if samples >= count else min(count, constants.MAX_PARTS)


def _split_masking(
    source: str,
    samples: int,
    pointers: tuple[int, int, int, int],
    parts: int,
    numbers: dict[str, int],
) -> int:
    kernel = _masking_kernel(source, "split_sample", "make_split_masking")
    slot_bits = constants.slot_bits(numbers["length"]) - 2  # each part counts all slots
    nbytes = constants.shared_bytes(numbers["length"], slot_bits, parts)
    shared = np.empty((samples, nbytes), np.uint8)
    shared[:, : 8 * constants.EXTREMES] = 0
    masking_args = _masking_args(samples, {**numbers, "bits": slot_bits})
    args = np.array([*masking_args, memory_address(shared), parts], np.int64)
    tasks = samples * parts * constants.PHASES
    return threads.run_tasks(kernel, *pointers, args, tasks, parts)


def rank_tokens(
    scores: np.ndarray,
    ids_keep: np.ndarray,
    ids_restore: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray | None = None,
) -> None:
    """Rank contiguous float32 or float64 scores `[N, L]`; ``counts`` as in the reference."""
    masking(
        f"f{scores.itemsize}",
        scores.shape[0],
        *(0, 0, 0, memory_address(scores)),
        length=scores.shape[1],
        kept=ids_keep.shape[1],
        keep=memory_address(ids_keep),
        restore=memory_address(ids_restore),
        mask=memory_address(mask),
        counts=0 if counts is None else memory_address(counts),
    )
