"""What a gather by a plan is expected to read, to move from worker to worker, and to hold.

Where tasks run is up to the scheduler, and is known before in part only: what is said here is what
the usual one does on workers that have nothing else to do, with the least and the most it may be.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from dask import config
from dask.utils import parse_bytes, parse_timedelta

from nbgather.containers.dask.plans import (
    MANY_OF_THREAD,
    Facts,
    Workers,
    brought,
    held,
    present_client,
    read_apart,
    tasks,
    workers,
)

#: More tasks than MANY_OF_THREAD for each thread are placed without a look at what they need where
#: that are fewer tasks than this: the rule of distributed's scheduler.
_FEW_NEEDED = 5


class Choice(NamedTuple):
    """A plan, why, and what is expected of it; bytes of all that is computed.

    Attributes
    ----------
    plan : str
        ``concatenate``, ``list`` or ``tree``.
    reason : str
        Why this one.
    tasks : int
        How many tasks the graph has.
    read : int
        Bytes of input that are read, once for each row of chunks.
    moved : int
        Bytes that are expected to go from worker to worker.
    memory : int
        Bytes that a worker process is expected to hold at once, beside what it has already: input,
        index and result of the blocks in work.
    moved_between : tuple of int
        The least and the most that ``moved`` may be, as the scheduler places tasks; both are
        ``moved`` where that decides nothing.
    """

    plan: str
    reason: str
    tasks: int
    read: int
    moved: int
    memory: int
    moved_between: tuple[int, int]


class Operand(NamedTuple):
    """The keys of an array's chunks, and how large those are."""

    name: str
    chunks: tuple[tuple[Any, ...], ...]
    itemsize: int

    @classmethod
    def of(cls, array: Any) -> Operand:
        return cls(array.name, array.chunks, array.dtype.itemsize)

    def nbytes(self, block: tuple[int, ...]) -> int:
        """The bytes of a chunk whose sizes are known."""
        return math.prod(int(c[b]) for c, b in zip(self.chunks, block, strict=True)) * self.itemsize


def expected(facts: Facts, plan: str, reason: str) -> Choice:
    """What a plan is expected to read, move and hold, wherever chunks lie."""
    there = workers()
    moved, least, most = _moved(facts, there, plan)
    memory, read = _memory(facts, there, plan), facts.rows * facts.sources
    return Choice(plan, reason, tasks(facts, plan), read, moved, memory, (least, most))


def _moved(facts: Facts, there: Workers, plan: str) -> tuple[int, int, int]:
    """Bytes that travel: what is expected, the least and the most."""
    others = there.processes - 1
    away = others / there.processes
    if plan == "tree":
        sent = facts.blocks * facts.indices * (4 + facts.row)
        # What reads chunks itself stays where their row's index was split, if all have a row.
        stays = facts.fused(plan) and facts.rows >= there.processes
        index = facts.blocks * facts.asked if facts.kept else 0  # may lie elsewhere itself
        inputs = (0.0 if stays else away * sent, 0.0, float(sent + index) if others else 0.0)
    elif facts.fused(plan) or not others:
        inputs = (0.0, 0.0, 0.0)
    else:
        # Chunks are read by all workers alike, and a row of them is brought to each worker that
        # has a block of it: to one, if there are rows for all, or to as many as there are blocks.
        all_rows = facts.rows * facts.sources
        apart = min(facts.blocks / max(facts.rows, 1) * away, others)
        least, most = away * all_rows, apart * all_rows
        middle = most if facts.rows < there.processes else (least + most) / 2
        inputs = (middle, least, most)
    results = _pieces_moved(facts, there)
    moved, least, most = (int(a + b) for a, b in zip(inputs, results, strict=True))
    return moved, least, most


def _pieces_moved(facts: Facts, there: Workers) -> tuple[float, float, float]:
    """What travels of results that are cut into the pieces that were asked for."""
    others = there.processes - 1
    most = float(others * facts.blocks * facts.result)
    if facts.cut == 1 or not others:
        return 0.0, 0.0, 0.0
    if not _placed_anywhere(facts, there):
        return 0.0, 0.0, most  # a piece is cut where the result is
    # Of as many results as there are workers all others take pieces; later ones find them busy.
    return float(min(facts.blocks, there.processes) * others * facts.result), 0.0, most


def _placed_anywhere(facts: Facts, there: Workers) -> bool:
    """Whether the scheduler places the pieces of results without a look at where those are."""
    many = facts.blocks * facts.cut > MANY_OF_THREAD * there.threads
    return many and facts.blocks < _FEW_NEEDED


def _memory(facts: Facts, there: Workers, plan: str) -> int:
    """Bytes that a worker process holds at once."""
    threads = -(-there.threads // there.processes)
    at_once = min(threads, facts.blocks)
    if plan == "tree":
        # All threads look at chunks, while what was found waits, of other blocks as well.
        chunks = 0 if facts.kept else min(threads, facts.blocks * facts.chunks) * facts.chunk
        waiting = max(at_once, 2) * (8 * facts.indices + facts.result)
        waiting += _waiting(facts, there) + (facts.asked if facts.kept else 0)
        # Between two chunks a thread has freed one that the allocator has not given back.
        chunks += facts.chunk // 2 if threads > 1 and chunks else 0
        return max(at_once * held(facts, plan), chunks + waiting)
    # Blocks of one row have their sources together.
    rows, beside = float(min(at_once, facts.rows)), held(facts, plan) - brought(facts)
    together = there.processes > 1
    if facts.fused(plan):
        rows += read_apart(facts) / there.threads
        more = _waiting(facts, there) + _freed(facts, threads)
        return int(rows * facts.sources) + at_once * beside + more
    if facts.pieces == 1:
        rows += 0 if facts.kept else 1 - 1 / there.processes  # they wait where they were read, too
    else:  # what comes next is read while something is in work
        rows = float(min(threads + 1 + together, facts.rows))
    if facts.kept:  # what has to travel is held twice
        rows *= 1 - 1 / there.processes
    more = 0
    if facts.pieces > 1 and facts.rows > 1:  # the next index, and where it has to travel a result
        more = facts.asked + (facts.result if together else 0)
    return int(rows * facts.sources) + at_once * beside + more


def _waiting(facts: Facts, there: Workers) -> int:
    """A result of which pieces are still to be cut, while the next is made."""
    waits = facts.blocks > there.threads or _placed_anywhere(facts, there)
    return facts.result if facts.cut > 1 and waits else 0


def _freed(facts: Facts, threads: int) -> int:
    """What threads have freed, and the allocator has not given back: half a chunk of each."""
    again = facts.blocks >= 2 * threads and threads > 1
    return threads * facts.chunk // 2 if again and not facts.kept else 0


def where_it_lies(
    choice: Choice, facts: Facts, operands: tuple[Operand, Operand], dim: int, layers: Any
) -> Choice:
    """A choice with what is expected where the chunks of x lie on workers now, as those persisted.

    The scheduler starts a task where it expects it to begin first: where a worker has what the task
    needs, or is done with others.
    """
    client = present_client()
    if client is None or not facts.kept or not facts.known or choice.plan == "tree":
        return choice
    x, index = operands
    futures = [f for one in operands for f in _futures(layers.get(one.name))]
    holders = client.who_has(futures)
    places = sorted({worker for each in holders.values() for worker in each})
    if not places:
        return choice
    there = workers()
    has = {w: {key for key, each in holders.items() if w in each} for w in places}
    queued, brought_to = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0)
    task, bandwidth = _scheduler_expects()
    least = most = 0
    for block in itertools.product(*(range(len(c)) for c in index.chunks)):
        needs = _needed(block, x, index, dim, holders)
        missing = {w: sum(n for key, n in needs.items() if key not in has[w]) for w in places}
        least, most = least + min(missing.values()), most + max(missing.values())
        w = min(places, key=lambda w: (queued[w] + missing[w] / bandwidth, brought_to[w]))
        queued[w] += (task + missing[w] / bandwidth) * there.processes / there.threads
        brought_to[w] += missing[w]
        has[w] |= needs.keys()
    results, _, most_results = _pieces_moved(facts, there)
    moved = sum(brought_to.values()) + int(results)
    at_once = min(-(-there.threads // there.processes), facts.blocks)
    beside = held(facts, choice.plan) - brought(facts)
    beside -= facts.asked if any(key[0] == index.name for key in holders) else 0
    memory = max(brought_to.values()) + at_once * beside + _waiting(facts, there)
    between = min(least, moved), max(most, moved) + int(most_results)
    return choice._replace(moved=moved, memory=memory, moved_between=between)


def _needed(
    block: tuple[int, ...], x: Operand, index: Operand, dim: int, holders: Any
) -> dict[Any, int]:
    """The chunks on workers that a block of the result needs, and their bytes."""
    # Tokens have dimensions behind those of the index, which lie in every block's row.
    behind = [range(len(c)) for c in x.chunks[len(index.chunks) :]]
    along = [range(len(c)) if d == dim else (b,) for d, (b, c) in enumerate(zip(block, x.chunks))]
    wanted = [(x, at) for at in itertools.product(*along, *behind)] + [(index, block)]
    named = [((one.name, *at), one.nbytes(at)) for one, at in wanted]
    return {key: nbytes for key, nbytes in named if key in holders}


def _futures(layer: Any) -> list[Any]:
    """The chunks of a layer that lie on workers."""
    if layer is None or not layer.is_materialized():
        return []
    values = (getattr(value, "value", value) for value in layer.values())
    return [value for value in values if type(value).__name__ == "Future"]


def _scheduler_expects() -> tuple[float, float]:
    """Seconds of a task that it has not seen yet, and bytes that travel in a second."""
    task = parse_timedelta(config.get("distributed.scheduler.unknown-task-duration", "500ms"))
    return float(task), float(parse_bytes(config.get("distributed.scheduler.bandwidth", 100e6)))
