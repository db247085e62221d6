"""Threads: who may say how many, when helpers are asked, and what calls do without them."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from children import child

import nbgather
from nbgather.kernels import constants, split
from nbgather.kernels.cpu import limits, openmp, systems, threads

X = np.random.default_rng(0).random((600, 700))
INDEX = np.random.default_rng(1).integers(0, 700, X.shape)
EXPECTED = np.take_along_axis(X, INDEX, 1)


@pytest.fixture(autouse=True)
def nobody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (limits.VARIABLE.name, "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    limits.default.cache_clear()
    yield
    limits.set_num_threads(None)
    limits.default.cache_clear()
    torch.set_num_threads(before)


def helped() -> int:
    """Parts that helpers have done in the calls that had the slots last."""
    team = threads._team
    assert team is not None
    slots = team.words[constants.HEAD_WORDS :].reshape(-1, constants.SLOT_WORDS)
    return int(slots[:, constants.HELPED].sum())


def forget_lateness() -> None:
    assert threads._team is not None
    threads._team.words[[constants.RETRY_AT, constants.PENALTY]] = 0


# How many


def test_who_may_say_how_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the weakest to the strongest."""
    monkeypatch.setattr(limits, "_CONTROL_GROUPS", tmp_path)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert limits.num_threads() == cpus

    def after(**variables: str) -> int:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        limits.default.cache_clear()
        return nbgather.get_num_threads()

    assert after(NUMBA_NUM_THREADS="5") == 5
    assert after(OMP_NUM_THREADS="4,2") == 4
    assert after(OMP_NUM_THREADS="many") == 5
    torch.set_num_threads(1)
    assert limits.num_threads_of_torch() == 1
    assert limits.num_threads() == 5
    assert after(NBGATHER_NUM_THREADS="6") == limits.num_threads_of_torch() == 6
    nbgather.set_num_threads(7)
    assert nbgather.get_num_threads() == limits.num_threads_of_torch() == 7
    with nbgather.limit_threads(2):
        assert nbgather.get_num_threads() == limits.num_threads_of_torch() == 2
        with nbgather.limit_threads(3):
            assert nbgather.get_num_threads() == 3
        assert nbgather.get_num_threads() == 2
    nbgather.set_num_threads(None)
    assert nbgather.get_num_threads() == 6


def test_a_block_is_of_its_thread() -> None:
    seen = []
    with nbgather.limit_threads(9):
        thread = threading.Thread(target=lambda: seen.append(nbgather.get_num_threads()))
        thread.start()
        thread.join()
    assert seen != [9]


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "2"])
def test_numbers_of_threads_that_are_none(count: object) -> None:
    error = ValueError if count in (0, -1) and count is not False else TypeError
    for call in (nbgather.set_num_threads, lambda n: nbgather.limit_threads(n).__enter__()):
        with pytest.raises(error, match=f"num_threads is {count!r}"):
            call(count)


@pytest.mark.parametrize(
    ("files", "own", "count"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}, "0::/a/b\n", 1),
        ({"a/cpu.max": "800000 100000\n", "cpu.max": "300000 100000\n"}, "0::/a\n", 3),
        ({"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, "4:cpu:/x\n", None),
        ({"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"}, "4:cpu:/x\n", 1),
        (
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            "3:memory:/x\n4:cpu,cpuacct:/x\n0::/\n",
            4,
        ),
        ({"cpu.max": "nonsense"}, "0::/\n", None),
        ({}, "nonsense", None),
    ],
)
def test_quotas_of_control_groups(
    files: dict[str, str], own: str, count: int | None, tmp_path: Path
) -> None:
    groups = tmp_path / "groups"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    (tmp_path / "own").write_text(own)
    quota = limits.quota(groups, tmp_path / "own")
    assert quota == (sys.maxsize if count is None else count)
    assert limits.quota(tmp_path / "missing", tmp_path / "none") == sys.maxsize


def test_tensors_use_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    nbgather.gather(X, 1, INDEX, backend="cpu")
    monkeypatch.setattr(openmp, "awake", lambda count: counts.append(count) or False)
    x, index = torch.from_numpy(X), torch.from_numpy(INDEX)
    for count in (1, 2):
        torch.set_num_threads(count)
        nbgather.gather(x, 1, index, backend="cpu")
        assert counts[-1] == count
    nbgather.gather(X, 1, INDEX, backend="cpu")
    assert counts[-1] == limits.default()


def test_a_worker_of_a_data_loader_uses_one_thread() -> None:
    code = """
    import torch
    from nbgather.kernels.cpu import limits

    class Counts(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, k):
            check()
            return limits.num_threads_of_torch()

    loader = torch.utils.data.DataLoader(Counts(), batch_size=None, num_workers=2)
    print(list(loader))
    """
    assert child(code) == "[1, 1, 1, 1]\n"


# The team


def test_helpers_help() -> None:
    if limits.default() < 2:
        pytest.skip("one CPU: nobody can help")
    with nbgather.limit_threads(2):
        for _ in range(2000):
            forget_lateness() if threads._team is not None else None
            assert np.array_equal(nbgather.gather(X, 1, INDEX, backend="cpu"), EXPECTED)
            if helped():
                return
    raise AssertionError("no helper came in 2000 calls")


def test_a_repeated_call_has_helpers_that_its_first_one_had_not() -> None:
    code = """
    from nbgather.kernels.cpu import threads
    large = np.zeros((2000, 1000)), 1, np.zeros((2000, 1000), np.int64)
    with nbgather.limit_threads(1):
        for _ in range(3):
            nbgather.gather(*large)
    assert threads._team.helpers == 0
    with nbgather.limit_threads(3):
        nbgather.gather(*large)
    print(threads._team.helpers)
    """
    assert child(code) == "2\n"


def test_short_calls_that_follow_each_other_wake_helpers() -> None:
    """They wait for nobody, and are split once somebody is awake; who then sleeps again."""
    if limits.default() < 2:
        pytest.skip("one CPU: nobody can help")
    code = """
    import time
    from nbgather.kernels import constants, split
    from nbgather.kernels.cpu import threads
    x, index = np.arange(300 * 70.0).reshape(300, 70), np.zeros((300, 70), np.int64)
    large = np.zeros((2000, 1000)), 1, np.zeros((2000, 1000), np.int64)
    wanted = nbgather.gather(x, 1, index)
    assert split.AWAKE_MIN_BYTES <= 16 * index.size < split.WOKEN_MIN_BYTES
    with nbgather.limit_threads(2):
        nbgather.gather(*large)
        words = threads._team.words
        slots = words[constants.HEAD_WORDS :].reshape(-1, constants.SLOT_WORDS)
        until, helped = time.monotonic() + 20, 0
        while not helped and time.monotonic() < until:
            slots[:, constants.HELPED] = 0
            for _ in range(100):
                assert np.array_equal(nbgather.gather(x, 1, index), wanted)
                helped += int(slots[:, constants.HELPED].sum())
        until = time.monotonic() + 20
        while words[constants.AWAKE] and time.monotonic() < until:
            time.sleep(0.001)
    begun = time.process_time()
    time.sleep(0.2)
    print(helped > 0, int(words[constants.AWAKE]), time.process_time() - begun < 0.1)
    """
    assert child(code) == "True 0 True\n"


def test_when_all_slots_are_taken() -> None:
    nbgather.gather(X, 1, INDEX, backend="cpu")
    team = threads._team
    assert team is not None
    slots = team.words[constants.HEAD_WORDS :].reshape(-1, constants.SLOT_WORDS)
    forget_lateness()
    slots[:, constants.TAKEN] = 1
    slots[:, constants.HELPED] = 0
    try:
        assert np.array_equal(nbgather.gather(X, 1, INDEX, backend="cpu"), EXPECTED)
        assert helped() == 0
    finally:
        slots[:, constants.TAKEN] = 0


def test_late_helpers_are_not_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "awake", lambda count: False)
    nbgather.gather(X, 1, INDEX, backend="cpu")
    team = threads._team
    assert team is not None
    team.words[constants.RETRY_AT] = 2**62
    slots = team.words[constants.HEAD_WORDS :].reshape(-1, constants.SLOT_WORDS)
    slots[:, constants.HELPED] = 0
    try:
        for _ in range(20):
            nbgather.gather(X, 1, INDEX, backend="cpu")
        assert helped() == 0
    finally:
        forget_lateness()


@pytest.mark.parametrize("name", ["no system", "no thread", "no semaphore"])
def test_calls_run_alone_where_there_are_no_helpers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = systems.known_system()
    if system is None:
        pytest.skip(f"{sys.platform} has no helpers")
    monkeypatch.setattr(threads, "_team", None)
    monkeypatch.setattr(threads, "team_address", np.zeros(1, np.int64))
    if name == "no thread":
        system = system._replace(start=lambda routine, argument: 0)
        monkeypatch.setattr(threads, "known_system", lambda: system)
    elif name == "no system":
        monkeypatch.setattr(systems, "_SYSTEMS", {})
    else:

        def fails(library: object) -> None:
            raise OSError("no semaphore")

        monkeypatch.setattr(systems, "_SYSTEMS", {sys.platform: fails})
    for _ in range(3):
        assert np.array_equal(nbgather.gather(X, 1, INDEX, backend="cpu"), EXPECTED)
        assert np.array_equal(nbgather.gather(X, 1, INDEX), EXPECTED)
    with pytest.raises(IndexError, match="is out of bounds for dimension 1 with size 700"):
        nbgather.gather(X, 1, INDEX + 600, backend="cpu")


def test_python_goes_on_during_a_call() -> None:
    """The GIL is not held, neither on the whole way nor by a call that is repeated."""
    x = np.zeros((3000, 3000), np.float32)
    index = np.zeros((3000, 3000), np.int64)
    out, counts, stop = np.empty_like(x), [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counts[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        with nbgather.limit_threads(1):
            went_on = 0
            for _ in range(40):
                before = counts[0]
                nbgather.gather(x, 1, index, out=out)
                went_on += counts[0] - before
            assert went_on
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def torchs_threads() -> None:
    if limits.default() < 2 or openmp._library() is None or openmp._may_be_forked():
        pytest.skip("torch has no threads of GNU OpenMP here")
    torch.set_num_threads(2)
    torch.ones(1 << 20).add_(1)


def test_a_call_over_openmps_threads(torchs_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "awake", lambda count: count == 2)
    x, index = torch.from_numpy(X), torch.from_numpy(INDEX)
    nbgather.gather(x, 1, index, backend="cpu")
    for _ in range(20):
        assert threads.choose_for_tensors() == 2 | constants.BY_OPENMP
        assert np.array_equal(nbgather.gather(x, 1, index, backend="cpu").numpy(), EXPECTED)
        # All parts are done by the threads of a region, of which the caller is one.
        assert helped() > 1
        assert torch.get_num_threads() == 2
        with pytest.raises(IndexError, match="is out of bounds"):
            nbgather.gather(x, 1, index + 600, backend="cpu")


def test_which_threads_are_awake(torchs_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose CPU clocks go on, of a set as large as torch's."""
    openmp._local.clocks = None
    openmp.awake(2)
    assert len(openmp._local.clocks[1]) == 1
    time = [0]

    def clock(number: int) -> int:
        time[0] += speed
        return time[0]

    monkeypatch.setattr(openmp.time, "clock_gettime_ns", clock)
    for speed, awake in ((1, True), (0, False)):  # noqa: B007
        assert openmp.awake(2) is awake
    speed = 1
    assert not openmp.awake(3)
    torch.set_num_threads(1)
    assert not openmp.awake(2)
    assert not openmp.awake(1)
    torch.set_num_threads(2)

    def gone(number: int) -> int:
        raise OSError("no such thread")

    monkeypatch.setattr(openmp.time, "clock_gettime_ns", gone)
    assert not openmp.awake(2)
    assert openmp._local.clocks is None


def test_torch_that_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    assert not openmp.awake(2)


def test_openmp_is_left_alone_in_a_forked_child() -> None:
    code = """
    import torch
    from nbgather.kernels.cpu import openmp
    torch.set_num_threads(2)
    check()
    openmp.awake(2)
    pid = os.fork()
    if pid == 0:
        openmp._clocks = lambda count: os._exit(1)
        check()
        os._exit(int(openmp.awake(2)))
    assert os.waitpid(pid, 0)[1] == 0
    print("done")
    """
    assert child(code, "torch") == "done\n"


# Into how many parts


@pytest.mark.parametrize("work", [0, 1 << 16, 1 << 20, 1 << 24, 1 << 40])
@pytest.mark.parametrize("count", [1, 7, 1 << 40])
@pytest.mark.parametrize("threads_", [1, 2, 64])
def test_parts(work: int, count: int, threads_: int) -> None:
    parts = split.parts_of(work, count, threads_, 1 << 50)
    assert 1 <= parts <= count
    assert parts == 1 or work // parts >= split.PART_MIN_BYTES
    assert parts * split.PART_MAX_BYTES >= work - parts or parts == count
    assert split.parts_of(work, count, threads_, 3) <= 3
    assert split.parts_of(work, count, threads_ | constants.BY_OPENMP, 1 << 50) == parts


@pytest.mark.parametrize("threads_", [1, 2, 3])
def test_parts_with_a_cost_of_their_own_have_a_thread_each(threads_: int) -> None:
    """A scatter of one lane walks its index once for each part."""
    assert split.parts_of(1 << 24, 1 << 20, threads_ | constants.BY_OPENMP, 2) == min(threads_, 2)


def test_what_a_region_of_openmp_is_given() -> None:
    chosen = 2 | constants.BY_OPENMP
    assert split.with_length(chosen, split.WOKEN_MIN_BYTES - 1) == 2 | constants.SHORT
    assert split.with_length(chosen, split.WOKEN_MIN_BYTES) == chosen
    assert split.with_length(chosen, split.REGION_MAX_BYTES + 1) == 2


def test_what_is_raised_on_the_way_to_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a repeated call: an interrupt is not lost, nor a number of threads that is none."""
    out = np.zeros_like(X)
    for _ in range(3):
        nbgather.gather(X, 1, INDEX, out=out)
    monkeypatch.setenv(limits.VARIABLE.name, "none")
    with pytest.raises(ValueError, match="NBGATHER_NUM_THREADS is 'none'"):
        nbgather.gather(X, 1, INDEX, out=out)
    monkeypatch.delenv(limits.VARIABLE.name)

    def interrupted() -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(limits, "num_threads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nbgather.gather(X, 1, INDEX, out=out)
    assert np.array_equal(nbgather.gather(X, 1, INDEX, out=out), EXPECTED)
