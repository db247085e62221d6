"""Which plan gathers along a chunked dimension.

- ``concatenate``: a task for each block of the result has all its chunks, and brings a few rows of
  them together at a time.
- ``list``: the same task sorts its indices by chunk and reads the chunks where they lie.
- ``tree``: the index is split by chunk and goes to the data; what each chunk gives comes back.
"""

from __future__ import annotations

import math
import os
import sys
from typing import Any, NamedTuple

from dask import config
from dask.utils import parse_bytes

from nbgather.containers.dask import blocks
from nbgather.containers.dask.gather_blocks import SORTED_AT_ONCE, panel_bytes
from nbgather.containers.dask.sides import is_known

PLANS = ("concatenate", "list", "tree")
#: Bytes of the sources of one output block from which they are not brought together, where no
#: cluster says what its workers have.
BUDGET = "512 MiB"
#: What part of a worker's memory may be one thread's sources.
_PART_OF_WORKER = 4

# Nanoseconds, measured on one core of an x86 server; only how they compare counts.
_COPY_BYTE = 0.12
_READ_JOINED = 1.2
_SORT = 18.0
_SPLIT = 21.0
_MOVE_BYTE = 0.7
#: What a task costs those who run it, and where it goes through a scheduler of a cluster.
_TASK, _TASK_OF_CLUSTER = 80_000.0, 2_000_000.0
#: Pieces of index are put together up to this part of the sources, which would be read for each.
_PIECES = 4
#: By how much more than the mean the busiest thread may have to do.
_UNEVEN = 1.25
#: What sorting an index by chunk needs beside the result, for each index that is sorted at once.
_SORT_BYTES = 64
#: A tree is taken for its memory where it holds this part of what the others hold, at most, ...
_WORTH = 0.5
#: ... and takes no more than this times their time, or than bringing the sources together.
_SLOWER = 1.1

#: Tasks of one name for each thread up to which distributed's scheduler places them by what they
#: need.
MANY_OF_THREAD = 2


class Workers(NamedTuple):
    """Where a graph will run: processes, threads of all, and the bytes of memory of a thread."""

    processes: int
    threads: int
    memory: int | None


class Facts(NamedTuple):
    """What is known of a gather: of its largest block, and of the whole.

    ``sources`` are the bytes of the chunks that a block of the result reads, ``indices`` the values
    that its block of index holds, and ``row`` the bytes that one of them picks. ``rows`` counts the
    rows of chunks along the dimension, ``pieces`` those of index; ``reads`` is whether chunks are
    read or made without others, ``panel`` the bytes that are brought together at once, ``kept``
    whether the chunks lie in memory already, and ``cut`` into how many pieces a block of the result
    is cut.
    """

    sources: int
    chunk: int
    chunks: int
    indices: int
    index_itemsize: int
    row: int
    blocks: int
    rows: int
    known: bool
    reads: bool
    pieces: int
    panel: int
    kept: bool = False
    cut: int = 1

    def fused(self, plan: str) -> bool:
        """Whether chunks are read or made by what looks at them, each once.

        Between processes that pays where half of the threads have something to do.
        """
        there = workers()
        busy = self.rows * min(there.processes, 2)
        enough = plan == "tree" or busy >= there.threads
        return self.reads and self.pieces == 1 and enough

    @property
    def result(self) -> int:
        """Bytes of a block of the result."""
        return self.indices * self.row

    @property
    def asked(self) -> int:
        """Bytes of a block of index."""
        return self.indices * self.index_itemsize


def workers() -> Workers:
    """The cluster that the present client has, or the threads of this process."""
    client = present_client()
    if client is None:
        count = config.get("num_workers", None) or os.cpu_count() or 1
        return Workers(1, 1 if config.get("scheduler", None) in _ONE_THREAD else count, None)
    infos = list(client.scheduler_info(n_workers=-1)["workers"].values())
    if not infos:
        return Workers(1, 1, None)
    threads = [max(info["nthreads"], 1) for info in infos]
    limits = [
        info["memory_limit"] // n for info, n in zip(infos, threads, strict=True)
        if info.get("memory_limit")
    ]  # fmt: skip
    return Workers(len(infos), sum(threads), min(limits, default=None))


_ONE_THREAD = ("sync", "synchronous", "single-threaded")


def present_client() -> Any:
    """The client that would compute, if there is one; distributed is not imported for it."""
    if "distributed" not in sys.modules or config.get("scheduler", None) in (
        "threads", "threading", "processes", *_ONE_THREAD,
    ):  # fmt: skip
        return None
    from distributed import get_client

    try:
        client = get_client()
    except ValueError:
        return None
    return None if client.asynchronous else client


def facts_of(x: Any, index: Any, dim: int, chunks: Any, tokens: bool, reads: bool) -> Facts:
    """What is known of a gather whose operands' chunks fit off the dimension."""

    def largest(sizes: Any) -> int:
        return int(max((c for c in sizes if is_known(c)), default=1))

    sides = [largest(c) for c in x.chunks]
    item = x.dtype.itemsize
    chunk = math.prod(sides) * item
    sides[dim] = sum(int(c) for c in x.chunks[dim] if is_known(c))
    return Facts(
        sources=math.prod(sides) * item,
        chunk=chunk,
        chunks=len(x.chunks[dim]),
        indices=math.prod(map(largest, index.chunks)),
        index_itemsize=index.dtype.itemsize,
        row=item * (math.prod(map(largest, x.chunks[2:])) if tokens else 1),
        blocks=math.prod(len(c) for c in chunks),
        rows=math.prod(len(c) for d, c in enumerate(x.chunks) if d != dim),
        known=all(map(is_known, x.chunks[dim])),
        reads=reads,
        pieces=index.numblocks[dim],
        panel=_panel(x, sides, dim, tokens) if len(x.chunks[dim]) > 1 else 0,
        kept=kept(x.dask.layers.get(x.name)),
    )


def _panel(x: Any, sides: list[int], dim: int, tokens: bool) -> int:
    """The bytes of a block's sources that are brought together at once: elsewhere, all."""
    if not blocks.is_numpy(x._meta):
        return math.prod(sides) * x.dtype.itemsize
    return panel_bytes(sides[dim], math.prod(sides[dim + 1 :]), x.dtype.itemsize, tokens)


def together(facts: Facts, plan: str, budget: int | str | None) -> int:
    """How many pieces of index along the dimension are looked at in one task.

    All sources are read for each, so small ones are put together, as far as there is a task for
    every thread, or for half of them between processes; as many as fit the budget where the
    sources need then not travel or wait. A tree has its tasks for each chunk.
    """
    there, tree = workers(), plan == "tree"
    room = facts.sources // _PIECES
    if tree:
        room = limit(budget)
    elif facts.reads and facts.pieces * (facts.asked + facts.result) <= facts.sources:
        room = facts.sources
    elif facts.reads and there.processes > 1:
        room = limit(budget) - facts.sources
        anywhere = facts.blocks > MANY_OF_THREAD * there.threads
        if anywhere and _uneven(facts.rows, there) > _UNEVEN:
            # Who has no row left takes results of others, which travel: large ones stay apart.
            room = min(room, facts.sources)
    fit = room // max(facts.asked + facts.result, 1)
    idle = facts.pieces if tree else facts.blocks * min(there.processes, 2) // there.threads
    return max(min(facts.pieces, fit, idle), 1)


def _uneven(rows: int, there: Workers) -> float:
    """How much longer the thread with the most rows has to do than if all had as many."""
    return -(-rows // there.threads) * there.threads / max(rows, 1)


def read_apart(facts: Facts) -> int:
    """How many rows of chunks, the last ones, are read by tasks of their own.

    A task that reads a whole row leaves the threads idle that have none left: these read a part of
    the last rows. Between processes what they read would have to travel.
    """
    there = workers()
    last = facts.rows % there.threads
    if there.processes > 1 or facts.chunks == 1 or _uneven(facts.rows, there) <= _UNEVEN:
        return 0
    return last if facts.rows > there.threads else 0


def choose(facts: Facts, dim: int, plan: str | None, budget: int | str | None) -> tuple[str, str]:
    """The plan that was asked for, or the cheapest that fits, and why it is that."""
    if plan is not None and plan not in PLANS:
        raise ValueError(f"plan is {plan!r}: it must be one of {', '.join(map(repr, PLANS))}")
    if plan == "tree" and not facts.known:
        raise ValueError(
            f"chunk sizes along dimension {dim} are unknown: plan 'tree' must know them; call"
            " compute_chunk_sizes() first, or use another plan"
        )
    if plan is not None:
        return plan, "it was asked for"
    return _cheapest(facts, workers(), limit(budget))


def limit(budget: int | str | None = None) -> int:
    """The bytes that the chunks of one task may have."""
    there = workers()
    if budget is not None:
        return int(parse_bytes(budget))
    if there.memory is None:
        return int(parse_bytes(BUDGET))
    return there.memory // _PART_OF_WORKER


def _cheapest(facts: Facts, there: Workers, limit: int) -> tuple[str, str]:
    """A plan and the reason."""
    if not facts.known:
        return "concatenate", "the sizes of chunks are unknown"
    if brought(facts) > limit:
        sources = f"the sources of an output block are {facts.sources} bytes"
        if facts.chunks > 1:
            return "tree", f"{sources}, above the budget of {limit}"
        return "list", f"{sources}, above the budget of {limit}, and one chunk"
    times, local = {plan: _nanoseconds(facts, there, plan) for plan in PLANS}, cheaper(facts)
    within = (
        f"the sources of an output block are {facts.sources} bytes, within the budget of {limit}"
    )
    if facts.chunks == 1:
        return local, within
    if times["tree"] < times[local]:
        return "tree", "it is cheaper to move the index to the data"
    part = held(facts, "tree") / max(held(facts, local), 1)
    if part < _WORTH and times["tree"] < max(_SLOWER * times[local], times["concatenate"]):
        return "tree", f"it holds {part:.2f} of the memory of plan {local!r}, in good time"
    return local, within


def cheaper(facts: Facts) -> str:
    """Of the plans whose task has all sources the one that takes less time."""
    there = workers()
    return min(("concatenate", "list"), key=lambda plan: _nanoseconds(facts, there, plan))


def _nanoseconds(facts: Facts, there: Workers, plan: str) -> float:
    """What a gather costs, roughly, besides what every plan has to do."""
    away = (1 - 1 / there.processes) * _MOVE_BYTE
    if plan != "tree" and facts.fused(plan):
        away = 0.0
    if plan == "concatenate":
        work = facts.sources * (_COPY_BYTE + away) + facts.indices * _READ_JOINED
        work += facts.result * _COPY_BYTE
    elif plan == "list":
        work = facts.sources * away + facts.indices * _SORT + 2 * facts.result * _COPY_BYTE
    else:
        travels = facts.indices * (4 + facts.row)
        work = travels * away + facts.indices * _SPLIT + 2 * facts.result * _COPY_BYTE
    task = _TASK if there.memory is None else _TASK_OF_CLUSTER
    return facts.blocks * work / min(there.threads, facts.blocks) + tasks(facts, plan) * task


def tasks(facts: Facts, plan: str) -> int:
    """How many tasks a plan has."""
    return facts.blocks * (3 + 2 * facts.chunks if plan == "tree" else 1)


def held(facts: Facts, plan: str) -> int:
    """Bytes that a thread holds at once for a block of the result."""
    if plan == "list":
        return brought(facts) + facts.asked + facts.result + _scratch(facts)
    if plan == "concatenate":
        return brought(facts) + facts.asked + facts.result + facts.panel
    # Places and rows are in four bytes each. First the index is split, then a chunk is looked at
    # while what the others gave waits, then the result is made of that.
    split = facts.asked + 8 * facts.indices + _scratch(facts)
    chunk = 0 if facts.kept else facts.chunk  # it is looked at where it lies
    looking = chunk + 8 * facts.indices + facts.result
    return max(split, looking, 4 * facts.indices + 2 * facts.result)


def brought(facts: Facts) -> int:
    """Bytes of sources that a task brings into memory: none that lie in this process already."""
    return 0 if facts.kept and workers().processes == 1 else facts.sources


def _scratch(facts: Facts) -> int:
    return min(facts.indices, SORTED_AT_ONCE) * _SORT_BYTES


def kept(layer: Any) -> bool:
    """Whether the chunks of a layer lie in memory, here or on workers, as those of ``persist``."""
    if layer is None or not layer.is_materialized():
        return False
    value = next(iter(layer.values()), None)
    value = getattr(value, "value", value)  # of a node of data
    return hasattr(value, "shape") or type(value).__name__ == "Future"
