"""The numbers that kernels and those who call them agree on: kinds, the order of arguments, sizes.

Finished kernels are called without numba; this module is what a call needs to know of them.
"""

from __future__ import annotations

#: What to do with an index that is out of bounds; the order is the kernels' numbering.
MODES = ("raise", "clip", "wrap", "fill")
RAISE, CLIP, WRAP, FILL = range(4)

#: Items of a gather that are moved at once.
BLOCK_ITEMS = 16
#: The ways to move them: by an instruction that gathers; one by one; one by one into a vector that
#: is then stored.
VECTOR, SINGLE, INSERTED = range(3)
METHODS = ("vector", "single", "inserted")
#: Items of a row that is gathered to time them.
PROBED_ITEMS = 512

#: What a gather by elements prefetches: the next row along the dimension, or what later indices
#: stand for.
ROWS_FETCHED, EACH_FETCHED = 1, 2

#: Forms of the innermost loop of an element gather.
LAST, MIDDLE, STRIDED = range(3)

#: What a scatter does with an item: replaces it, adds to it, or-s it.
SET, ADD, ANY = range(3)
#: What a scatter kernel returns where it has no memory: more than any count of bad values.
NO_MEMORY = 1 << 40

#: Kernels of strategies.
GRID, BLOCK, LINES = range(3)

#: Keys that are ranked at once.
BLOCK_KEYS = 16
#: Slots that keys are sorted into have numbers of at most so many bits.
MAX_SLOT_BITS = 14

#: Where the scores of a masking come from: drawn by seed, or given as float32 or float64.
SEED, FLOAT32, FLOAT64 = range(3)

#: The arguments of a masking kernel, in the order of its ``args``. ``keep`` (0: not written),
#: ``restore``, ``mask`` and ``counts`` are addresses; with ``counts`` (0: none) each sample keeps
#: its own number of tokens, and ``kept`` is the largest. Bytes: ``row`` (0: no tokens are copied),
#: and x's strides ``x_n`` and ``x_l``. With ``implied`` the sample ids are 0, 1, ...
MASKING_ARGS = (
    "length", "kept", "epoch", "key_low", "key_high", "row", "x_n", "x_l", "keep", "restore",
    "mask", "bits", "nt", "counts", "implied",
)  # fmt: skip

#: The arguments of a masking whose samples are each ranked by several threads: those of a masking,
#: the address of the shared memory, and the parts of a sample.
SPLIT_ARGS = (*MASKING_ARGS, "shared", "parts")
#: Tasks of each part, one after the other, and the most parts of a sample.
PHASES, MAX_PARTS = 5, 16
#: int64 numbers at the start of a sample's memory: tasks finished in each phase, whether its keys
#: crowd, and then the least and the largest key of each part.
COUNTERS, CROWDED, EXTREMES = 0, PHASES, 8


def slot_bits(length: int) -> int:
    """How many bits number the slots of so many tokens: about two are in each."""
    return min(max((length - 1).bit_length() - 1, 1), MAX_SLOT_BITS)


def shared_bytes(length: int, bits: int, parts: int) -> int:
    """Bytes of memory that the threads share which rank a sample."""
    room = length + BLOCK_KEYS + 3 & ~3
    words = 8 * (EXTREMES + 2 * MAX_PARTS) + 32 * room + 8 * BLOCK_KEYS * BLOCK_KEYS
    return words + 8 * parts * max(1 << bits, 256)


#: The words of a team's memory (:mod:`nbgather.kernels.cpu.team`): functions of the system, what
#: they are given, and when helpers are next woken and after which pause, in nanoseconds.
WAIT, POST, YIELD, CLOCK, SEMAPHORE, CLOCK_ID = range(6)
RETRY_AT, PENALTY = 8, 9
#: What begins a region of OpenMP, and what each of its threads does.
OPENMP, OPENMP_BODY = 10, 11
#: What gives the CPU a thread is on, what binds a thread to CPUs, the CPU that helpers keep off,
#: the helpers that can be bound, and the CPUs that the process may use: a bit for each. Where there
#: are more than `MAX_BOUND`, nobody is bound.
WHICH_CPU, BIND, AVOIDED_CPU, BOUND, CPUS = 12, 13, 14, 15, 16
HELPER_THREADS, MAX_BOUND = 32, 8
CPU_SET_WORDS = 16
#: How many helpers are awake between jobs, when the last call ended that may be split, and when
#: helpers were last woken for the short calls to come.
AWAKE, LAST_END, WOKEN = 40, 41, 42
HEAD_WORDS = 48
#: The words of a slot: whether a call has it, the job, and in cache lines of their own what all
#: threads write: the next part, who is inside, and what helpers have done.
TAKEN, OPEN, J_KERNEL, J_OUT, J_SRC, J_IDX, J_AUX, J_ARGS, J_COUNT, J_PARTS = range(10)
NEXT, INSIDE, SEATS, BAD, HELPED = 16, 24, 25, 26, 27
SLOT_WORDS = 32
#: Calls at the same time that may have helpers.
SLOTS = 8

#: How many threads a call may use, as a number with flags: OpenMP's are awake and take its parts;
#: it is too short to wake helpers for it alone.
MAX_THREADS, BY_OPENMP, SHORT = (1 << 16) - 1, 1 << 16, 1 << 17

#: A call that takes longer looks for signals, such as an interrupt, so often.
CHECK_SIGNALS_NS = 50_000_000
#: Helpers that made the caller wait longer, beside the time of two parts, were not worth it.
LATE_NS = 30_000
#: A helper that was woken looks so long for work before it sleeps, and after work for more.
AWAKE_NS = 50_000
#: Between two times that helpers are woken for short calls, and until when they are awake.
WAKE_AGAIN_NS, WAKING_NS = 500_000, 200_000
#: How long calls stay alone after that, and after helpers that came too late to help.
MAX_PENALTY_NS = 200_000_000
MIN_PENALTY_NS, MAX_UNHELPED_NS = 50_000, 1_000_000
