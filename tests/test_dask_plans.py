"""The plans of a gather on Dask: what is chosen, what is expected of it, and what its tasks do."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import random_bits, rng, same
from dask.highlevelgraph import MaterializedLayer

import nbgather
from nbgather import dask as nd
from nbgather.apps.bench import dask_surface
from nbgather.containers.dask import expectations, gather_blocks, gather_graph, plans
from nbgather.containers.dask.plans import PLANS, Facts, Workers

THREADS = Workers(1, 2, None)
CLUSTER = Workers(2, 2, 4 << 30)


@pytest.fixture(autouse=True)
def _two_threads() -> Any:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def facts(sources: int, indices: int, **other: Any) -> Facts:
    """Float32 in 8 chunks along the dimension, and 8 rows of chunks."""
    given = {"index_itemsize": 8, "row": 4, "rows": 8, "known": True, "reads": False, **other}
    chunks = given.pop("chunks", 8)
    pieces = given.setdefault("pieces", 1)
    blocks = given["rows"] * pieces
    return Facts(sources, sources // chunks, chunks, indices, blocks=blocks, panel=1 << 20, **given)


@pytest.mark.parametrize(
    "there, given, plan",
    [
        (THREADS, facts(64 << 20, 4 << 20), "concatenate"),
        (THREADS, facts(64 << 20, 1 << 10, chunks=1), "list"),
        (THREADS, facts(600 << 20, 4 << 20), "tree"),
        (THREADS, facts(600 << 20, 4 << 20, chunks=1), "list"),
        (THREADS, facts(64 << 20, 4 << 20, known=False), "concatenate"),
        # Few indices and large chunks: half of the memory, in the same time.
        (THREADS, facts(256 << 20, 1 << 19), "tree"),
        # What has to travel decides, and what is read in place does not.
        (CLUSTER, facts(512 << 20, 1 << 20), "tree"),
        (CLUSTER, facts(64 << 20, 8 << 20), "concatenate"),
        (CLUSTER, facts(512 << 20, 16 << 20, reads=True), "concatenate"),
        # A fourth of a worker's memory is the budget there.
        (CLUSTER, facts(1100 << 20, 64 << 20), "tree"),
    ],
)  # fmt: skip
def test_the_plan_follows_from_sizes_and_workers(
    monkeypatch: pytest.MonkeyPatch, there: Workers, given: Facts, plan: str
) -> None:
    monkeypatch.setattr(plans, "workers", lambda: there)
    chosen, reason = plans.choose(given, 1, None, None)
    assert chosen == plan, (reason, given)
    for asked in PLANS:
        if given.known or asked != "tree":
            assert plans.choose(given, 1, asked, None)[0] == asked


def test_explain_tells_of_every_gather_in_an_expression() -> None:
    x = da.zeros((64, 1000), chunks=(16, 250), dtype="f4")
    index = da.zeros((64, 500), chunks=(16, -1), dtype="i8")
    first = nd.gather(x, 1, index, plan="list")
    both = nd.gather((first + 1).rechunk(16), 0, index[:8], plan="tree").sum()
    one, two = nd.explain(both)
    assert (one.plan, two.plan) == ("list", "tree")
    assert one.tasks == 4
    assert one.read == 64 * 1000 * 4
    assert one.moved == 0
    freed = 16 * 250 * 4 // 2  # half a chunk for each thread
    assert one.memory == 2 * (16 * 1000 * 4 + 16 * 500 * (12 + plans._SORT_BYTES) + freed)
    assert nd.explain(x) == []
    with pytest.raises(TypeError, match="array is of type ndarray: a Dask array is needed"):
        nd.explain(np.zeros(3))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("call", ["gather", "take_along_axis", "gather_tokens"])
def test_what_is_done_a_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch, plan: str, dim: int, call: str
) -> None:
    """A few rows, columns or indices at once, where usually one part is all."""
    monkeypatch.setattr(gather_blocks, "PANEL_BYTES", 150)
    monkeypatch.setattr(gather_blocks, "_LINE_BYTES", 8)
    monkeypatch.setattr(gather_blocks, "SORTED_AT_ONCE", 17)
    generator = rng(f"{plan}{dim}{call}")
    x, cuts = random_bits(generator, (7, 9, 10), "f4"), ((4, 3), (3, 3, 2, 1), (4, 4, 2))
    shape = [7, 9, 10]
    shape[dim] = 12
    index = generator.integers(0, x.shape[dim], shape)
    pieces = [(5, 3, 4) if d == dim else cuts[d] for d in range(3)]
    function, arguments = getattr(nbgather, call), (dim,)
    if call == "gather_tokens":
        index, pieces, arguments = generator.integers(0, 9, (7, 12)), [cuts[0], (5, 3, 4)], ()
    if call == "take_along_axis":
        index[index % 2 == 0] -= x.shape[dim]
    order = (*arguments, index) if call != "take_along_axis" else (index, *arguments)
    lazy_order = [da.from_array(a, tuple(pieces)) if a is index else a for a in order]
    got = getattr(nd, call)(da.from_array(x, cuts), *lazy_order, plan=plan)
    same(got.compute(scheduler="sync"), function(x, *order, backend="reference"))


@pytest.mark.parametrize("plan", PLANS)
def test_no_dimensions_at_all(plan: str) -> None:
    x, index = np.float32(3.5), np.int64(0)
    got = nd.gather(da.from_array(x, ()), 0, da.from_array(index, ()), plan=plan)
    same(np.asarray(got.compute()), nbgather.gather(np.asarray(x), 0, np.asarray(index)))
    with pytest.raises(IndexError, match=r"index 1 at \(0,\) is out of bounds"):
        nd.gather(da.from_array(x, ()), 0, da.from_array(index + 1, ()), plan=plan).compute()


def counted(path: Path, block_id: Any = None) -> np.ndarray:
    """A chunk `[5, 10]` of numbers that leaves a mark each time that it is made."""
    place = [(n * k, n * k + n) for n, k in zip((5, 10), block_id, strict=True)]
    with (path / "made").open("a") as file:
        file.write(f"{place}\n")
    return np.add.outer(*(np.arange(*ends, dtype="f8") * k for ends, k in zip(place, (100, 1))))


@pytest.mark.parametrize("pieces, fused", [(-1, True), (16, False)])
def test_chunks_are_read_where_they_are_needed_and_once(
    tmp_path: Path, pieces: int, fused: bool
) -> None:
    x = da.map_blocks(
        counted, tmp_path, chunks=((5, 5), (10, 10, 10)), dtype="f8", meta=np.empty((0, 0))
    )
    index = np.random.default_rng(0).integers(0, 30, (10, 32))
    lazy = nd.gather(x, 1, da.from_array(index, (5, pieces)), plan="concatenate")
    keys = {key[0] for key in dict(dask.optimize(lazy)[0].__dask_graph__()) if len(key) == 3}
    assert (x.name in keys) is not fused
    whole = np.add.outer(np.arange(10.0) * 100, np.arange(30.0))
    same(lazy.compute(scheduler="sync"), nbgather.gather(whole, 1, index))
    assert len((tmp_path / "made").read_text().splitlines()) == 6
    kept = nd.gather(x.persist(), 1, index, plan="concatenate")
    same(kept.compute(), nbgather.gather(whole, 1, index))
    assert len((tmp_path / "made").read_text().splitlines()) == 12


def test_what_is_persisted_takes_no_memory_and_is_not_bound_by_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks that lie in this process are no part of what a gather holds; elsewhere they travel."""
    x = random_bits(rng("kept"), (8, 4000), "f4")
    index = rng("kept").integers(0, 4000, (8, 400))
    lazy, asked = da.from_array(x, (4, 500)).map_blocks(np.copy), da.from_array(index, (4, 400))
    kept = lazy.persist()
    [cold], [warm] = (nd.explain(nd.gather(a, 1, asked, plan="list")) for a in (lazy, kept))
    assert cold.memory - warm.memory == x.nbytes
    assert nd.explain(nd.gather(lazy, 1, asked, budget="20 kB"))[0].plan == "tree"
    got = nd.gather(kept, 1, asked, budget="20 kB")
    assert nd.explain(got)[0].plan != "tree"
    same(got.compute(), nbgather.gather(x, 1, index))
    # On a cluster half of a row lies on the other worker, and travels: that half is held twice.
    monkeypatch.setattr(plans, "workers", lambda: CLUSTER)
    monkeypatch.setattr(expectations, "workers", lambda: CLUSTER)
    far = facts(64 << 20, 1 << 20, kept=True)
    near = far._replace(kept=False)
    ours, theirs = (expectations.expected(f, "concatenate", "") for f in (far, near))
    assert ours.moved == theirs.moved == 8 * (64 << 20) // 2
    assert theirs.memory - ours.memory == 64 << 20


@pytest.mark.parametrize(
    "rows, cut, results, most",
    [(1, 4, 0, 1), (1, 8, 1, 1), (2, 2, 0, 2), (2, 4, 2, 2), (4, 2, 2, 4), (5, 8, 0, 5)],
)
def test_pieces_of_few_large_results_travel(
    monkeypatch: pytest.MonkeyPatch, rows: int, cut: int, results: int, most: int
) -> None:
    """As distributed places tasks, and as was measured on two processes of a thread."""
    monkeypatch.setattr(plans, "workers", lambda: CLUSTER)
    monkeypatch.setattr(expectations, "workers", lambda: CLUSTER)
    given = facts(8 << 20, 1 << 18, rows=rows, reads=True, cut=cut)
    choice = expectations.expected(given, "concatenate", "")
    assert choice.moved == results * given.result
    assert choice.moved_between == (0, most * given.result)
    # A tree that reads its chunks stays with a row, if there are rows for all workers.
    sent = rows * given.indices * (4 + given.row)
    tree = expectations.expected(given, "tree", "")
    assert tree.moved == results * given.result + (sent // 2 if rows < 2 else 0)
    assert tree.moved_between == (0, most * given.result + sent)


class Future:
    """A chunk on a worker."""


def test_what_moves_follows_from_where_chunks_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of 4 chunks on a cluster: 3 of the first on one worker, all others on the other."""
    cluster = type("Client", (), {})()
    x = expectations.Operand("x", ((10, 10), (25,) * 4), 4)
    index = expectations.Operand("i", ((10, 10), (50,)), 8)
    layer = MaterializedLayer({("x", r, k): Future() for r in range(2) for k in range(4)})
    near = {("x", 0, 0), ("x", 0, 1), ("x", 0, 2)}
    cluster.who_has = lambda futures: {
        key: ("a",) if key in near else ("b",) for key in layer if layer[key] in futures
    }
    monkeypatch.setattr(plans, "workers", lambda: CLUSTER)
    monkeypatch.setattr(expectations, "workers", lambda: CLUSTER)
    given = facts(4000, 500, rows=2, chunks=4, kept=True)
    before = expectations.expected(given, "concatenate", "")
    assert before.moved == 2 * 4000 // 2

    def told() -> Any:
        return expectations.where_it_lies(before, given, (x, index), 1, {"x": layer})

    monkeypatch.setattr(expectations, "present_client", lambda: None)
    assert told() is before
    monkeypatch.setattr(expectations, "present_client", lambda: cluster)
    assert told().moved == 1000
    assert told().moved_between == (1000, 3000 + 4000)
    assert told().memory == 1000 + plans.held(given, "concatenate") - given.sources
    # Of three blocks of a row one goes to who has nothing to do, and takes what it needs there.
    index = index._replace(chunks=((10, 10), (25,) * 3))
    assert told().moved == 1000 + 3000 + 4000
    assert told().moved_between == (1000, 3000 + 3000 + 3 * 4000)
    assert told().memory == 5000 + plans.held(given, "concatenate") - given.sources
    index = index._replace(chunks=((10, 10), (75,)))
    near |= {("x", 0, 3)}
    assert told().moved == 0


def test_the_last_rows_are_read_by_every_thread(tmp_path: Path) -> None:
    """Three rows on two threads: the last one is not read by the task that gathers from it."""
    x = da.map_blocks(
        counted, tmp_path, chunks=((5,) * 3, (10,) * 3), dtype="f8", meta=np.empty((0, 0))
    )
    index = da.from_array(np.random.default_rng(0).integers(0, 30, (15, 32)), (5, -1))
    lazy = nd.gather(x, 1, index, plan="concatenate")
    keys = {key for key in dict(dask.optimize(lazy)[0].__dask_graph__()) if key[0] == x.name}
    assert keys == {(x.name, 2, k) for k in range(3)}
    whole = np.add.outer(np.arange(15.0) * 100, np.arange(30.0))
    same(lazy.compute(), nbgather.gather(whole, 1, index.compute()))
    assert len((tmp_path / "made").read_text().splitlines()) == 9


def test_small_pieces_of_index_are_looked_at_together() -> None:
    x = random_bits(rng("pieces"), (8, 4000), "f8")
    index = rng("pieces").integers(0, 4000, (8, 40))
    lazy = nd.gather(da.from_array(x, (2, 500)), 1, da.from_array(index, (2, 5)))
    assert lazy.chunks == ((2,) * 4, (5,) * 8)
    [choice] = nd.explain(lazy)
    assert choice.tasks < 32
    same(lazy.compute(), nbgather.gather(x, 1, index))
    index[5, 33] = 4000
    lazy = nd.gather(da.from_array(x, (2, 500)), 1, da.from_array(index, (2, 5)))
    with pytest.raises(IndexError, match=r"index 4000 at \(5, 33\) is out of bounds"):
        lazy.compute()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dim, operation", [(0, nd.gather), (1, nd.gather), (1, nd.gather_tokens)])
def test_pieces_of_index_are_read_where_they_are_looked_at(
    plan: str, dim: int, operation: Any
) -> None:
    """Pieces of different lengths, of which none has a task of its own unless they are split."""
    x = random_bits(rng("read pieces"), (900, 6) if dim == 0 else (6, 900), "f4")
    shape = (25, 6) if dim == 0 else (6, 25)
    index = rng("read pieces").integers(0, x.shape[dim], shape)

    def made(bad: int | None = None) -> Any:
        given = index.copy()
        if bad is not None:
            given[(bad, 3) if dim == 0 else (3, bad)] = 1000
        pieces = ((7, 7, 7, 4), (6,)) if dim == 0 else ((3, 3), (7, 7, 7, 4))
        reads = da.map_blocks(
            _cut_from, given, chunks=pieces, dtype="i8", meta=np.empty((0, 0), "i8"),
            starts=[np.cumsum([0, *c[:-1]]).tolist() for c in pieces], sizes=pieces,
        )  # fmt: skip
        source = da.from_array(x, (300, 6) if dim == 0 else (3, 300))
        if operation is nd.gather_tokens:
            return operation(source, reads, plan=plan)
        return operation(source, dim, reads, plan=plan)

    lazy = made()
    expected = (
        nbgather.gather_tokens(x, index)
        if operation is nd.gather_tokens
        else (nbgather.gather(x, dim, index))
    )
    assert len(lazy.chunks[dim]) == 4
    same(lazy.compute(), expected)
    [choice] = nd.explain(lazy)
    separate = [name for name in lazy.dask.layers if name.startswith("nbgather-index")]
    assert bool(separate) == (plan == "tree")
    if plan != "tree":
        assert choice.tasks < lazy.npartitions
    place = r"\(22, 3\)" if dim == 0 else r"\(3, 22\)"
    with pytest.raises(IndexError, match=rf"index 1000 at {place} is out of bounds"):
        made(22).compute()


def _cut_from(whole: Any, starts: Any, sizes: Any, block_id: Any = None) -> Any:
    at = zip(block_id, starts, sizes, strict=True)
    return whole[tuple(slice(s[b], s[b] + c[b]) for b, s, c in at)]


# What Dask's users expect


def gathered(plan: str | None = None) -> Any:
    x = da.arange(6000, chunks=500, dtype="f4").reshape(20, 300).rechunk((5, 100))
    return nd.gather(x, 1, da.full((20, 60), 3, chunks=(5, 20), dtype="i8"), plan=plan)


def test_names_are_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_dask_plans as t;"
        " print(*(t.gathered(plan).name for plan in t.PLANS))"
    )
    run = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(run, capture_output=True, text=True)
    names = [gathered(plan).name for plan in PLANS]
    assert done.stdout.split() == names, done.stderr
    assert [gathered(plan).name for plan in PLANS] == names
    assert len(set(names)) == 3


@pytest.mark.parametrize("plan", PLANS)
def test_slices_read_what_they_need(tmp_path: Path, plan: str) -> None:
    x = da.map_blocks(
        counted, tmp_path, chunks=((5,) * 4, (10,) * 3), dtype="f8", meta=np.empty((0, 0))
    )
    index = da.from_array(np.full((20, 30), 7), (5, 10))
    part = nd.gather(x, 1, index, plan=plan)[6:8, :10]
    assert part.compute().tolist() == [[607.0] * 10, [707.0] * 10]
    assert len((tmp_path / "made").read_text().splitlines()) == 3  # of 12 chunks one row
    small = dask.optimize(part)[0].__dask_graph__()
    assert sum("nbgather" in str(key) for key in small) < 12


@pytest.mark.parametrize("plan", PLANS)
def test_a_graph_is_pickled_persisted_and_goes_on(plan: str) -> None:
    lazy = gathered(plan)
    want = lazy.compute()
    same(pickle.loads(pickle.dumps(lazy)).compute(), want)
    same(lazy.persist().compute(), want)
    same(dask.optimize(lazy)[0].compute(), want)
    same((lazy.map_blocks(np.negative) + 1).compute(), 1 - want)
    again = nd.gather(lazy, 0, da.zeros((3, 60), chunks=(2, 30), dtype=int), plan=plan)
    same(again.compute(), np.repeat(want[:1], 3, 0))


@pytest.mark.parametrize("plan", PLANS)
def test_building_a_graph_takes_no_time(plan: str) -> None:
    """Less than 1 ms for each 1,000 chunks; the tasks are made when they are asked for."""
    x = da.zeros((10_000, 100), chunks=(10, 5), dtype="f4")
    index = da.zeros((10_000, 8), chunks=(10, -1), dtype=int)
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        lazy = nd.gather(x, 1, index, plan=plan)
        took.append(time.perf_counter() - begun)
    assert x.npartitions == 20_000
    assert min(took) < 0.020
    assert len(pickle.dumps(lazy)) < 200_000


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("count", [10_000, pytest.param(1_000_000, marks=pytest.mark.large)])
def test_a_million_chunks(plan: str, count: int) -> None:
    """The tasks of a gather by the number of chunks: how many, what they hold, and how long."""
    columns = 100
    rows = count // columns
    call = gather_blocks.Call(1, False, "raise", None)
    x = "x", ((10,) * rows, (1000,) * columns), np.dtype("f4")
    index = "index", ((10,) * rows, (50,)), None
    begun = time.process_time()
    tasks = gather_graph._tasks("name", plan, call, None, index[1], x, index)
    seconds = time.process_time() - begun
    assert len(tasks) == rows * (1 if plan != "tree" else 3 + 2 * columns + 4)
    assert seconds < 60e-6 * count
    blocks = sum(("name", n, 0) in tasks for n in range(rows))
    assert blocks == rows
    # Nothing of a chunk's size is in a task: names, numbers and functions alone.
    few = {key: tasks[key] for key in list(tasks)[:500]}
    assert len(pickle.dumps(few)) < 500 * 4000
    arrays = [part for task in few.values() for part in task if isinstance(part, np.ndarray)]
    assert arrays == []


# The bench


def test_the_bench_runs_on_both_schedulers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_surface, "LEAST", 1 << 12)
    monkeypatch.setattr(dask_surface, "MOST", 1 << 14)
    monkeypatch.setattr(dask_surface, "SCHEDULERS", ("threads",))
    cases = dask_surface.run_dask_surface(2, 0, 1)
    assert all({"nbgather", "rechunk, then take"} <= set(case["results"]) for case in cases)
    assert len(dask_surface.problem_lines(cases)) == 2
    assert len(dask_surface.surface_lines(cases)) == 3
    monkeypatch.setitem(dask_surface.PEERS, "masked sum", lambda x, index, dim: index * 0)
    with pytest.raises(RuntimeError, match="the contestants give different results"):
        dask_surface.run_dask_surface(1, 0, 1)
