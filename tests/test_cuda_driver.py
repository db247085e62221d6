"""What is asked of the CUDA driver, without one: what is missing, and what a launch hands over."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cuda.bindings import driver as cuda_driver
from stub_driver import GLOBAL, StubDriver, installed

import nbgather
from nbgather.engine import device_errors
from nbgather.kernels.cuda import contexts, errors, gather, images
from nbgather.kernels.cuda import driver as our_driver

ROOT = Path(__file__).parents[1]


def test_without_a_gpu_one_line_says_what_is_missing() -> None:
    reason = nbgather.backends.available()["cuda"]
    if reason is None:
        pytest.skip("there is a GPU here")
    code = """if True:
        import numpy, nbgather
        nbgather.gather(numpy.zeros(3), 0, numpy.zeros(3, int), backend="cuda")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = done.stderr.strip().splitlines()[-1]
    assert line == f"ImportError: backend 'cuda' is not available: {reason}"
    assert "driver" in reason or "device" in reason


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubDriver]:
    """A driver of two devices; kernels are not compiled."""
    monkeypatch.setattr(images, "find", lambda *kernel: iter([images.Image(b"image", "test")]))
    yield installed(monkeypatch, StubDriver())
    contexts.capability.cache_clear()
    contexts.processors.cache_clear()


def copy(place: our_driver.Place, key: str = "a test's") -> None:
    """A launch of two addresses and two numbers."""
    our_driver.launch(key, lambda memory: None, (5, 3), (32, 8), place, (2**63 + 8, 16), (1, 2))


def test_a_launch_hands_the_driver_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a launch but the device: compiled, linked, and its numbers in the order of the PTX."""
    stub = installed(monkeypatch, StubDriver(arguments=13))
    numbers = (1, 2, 3, 2**64 - 8, 5, 6, 7, 2**63, 9, 10, 11)
    for _ in range(2):
        our_driver.launch(
            "a test's", lambda memory: gather.make_copy(memory, 2, 4, False),
            (5, 3), (32, 8), our_driver.Place(0, 77), (2**63 + 8, 16), numbers,
        )  # fmt: skip
        assert stub.launches[-1].values == [2**63 + 8, 16, *numbers]
        assert stub.launches[-1].stream == 77
    (image,) = stub.images
    assert image.startswith(b"\x7fELF")
    assert stub.launches[-1].function[-1] in image
    contexts.capability.cache_clear()


def test_a_failure_of_the_driver_has_its_name(stub: StubDriver) -> None:
    failed = cuda_driver.CUresult.CUDA_ERROR_LAUNCH_FAILED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_driver, "cuLaunchKernel", lambda *a: (failed,))
        with pytest.raises(RuntimeError, match="CUDA: CUDA_ERROR_LAUNCH_FAILED"):
            copy(our_driver.Place(0, 0))


def test_more_blocks_than_a_grid_has_are_one_clear_error(stub: StubDriver) -> None:
    for grid in ((2**31, 1), (1, 2**16)):
        with pytest.raises(ValueError, match=f"{grid[0]} times {grid[1]} blocks is needed: CUDA"):
            our_driver.Launch("k", lambda memory: None, grid, (1, 1), 0, ())


@pytest.mark.parametrize("before", [(), (100,), (100, 101), (201,)])
@pytest.mark.parametrize("device", [0, 1])
def test_work_of_a_device_runs_in_a_context_of_it(
    stub: StubDriver, before: tuple[int, ...], device: int
) -> None:
    """Whatever is current before is so afterwards; the last context is one of device 1."""
    place = our_driver.Place(device, 5)

    def all_calls() -> None:
        stub.make_current(*before)
        copy(place)
        our_driver.synchronize(place)
        assert not our_driver.capturing(place)
        our_driver.follow(place, [9])
        our_driver.records.of(device)
        our_driver.synchronize_device(device)
        assert tuple(stub.thread.contexts) == before

    all_calls()
    thread = threading.Thread(target=all_calls)  # which has no context before
    thread.start()
    thread.join()
    contexts_of_work = {launched.context for launched in stub.launches}
    assert {context % 100 for context in contexts_of_work} == {device}
    assert len(stub.launches) == 2


def test_each_device_has_its_kernel(stub: StubDriver) -> None:
    stub.make_current(100)
    for device in (0, 1, 0, 1):
        copy(our_driver.Place(device, 0))
    assert [launched.function[0] for launched in stub.launches] == [100, 101, 100, 101]
    assert stub.images == [b"image"]  # which is of no context


def test_each_context_of_a_device_has_its_function(stub: StubDriver) -> None:
    """Those of others, as of a green context, are an error of the driver there."""
    place = our_driver.Place(1, 0)
    launch = our_driver.Launch("k", lambda memory: None, (1, 1), (32, 1), 4, ())
    for context in (101, 201, 301, 101, 100):  # the last is of another device
        stub.make_current(context)
        our_driver.start(launch, place, (1, 2, 3, 4))
    assert [launched.function[0] for launched in stub.launches] == [101, 201, 301, 101, 101]
    assert len(stub.images) == 1


def test_shared_memory_beyond_the_usual_is_asked_for(stub: StubDriver) -> None:
    """All that the device has, once for each context, so that no launch takes it from another."""
    stub.make_current(100)
    seen: list[int] = []
    launch = cuda_driver.cuLaunchKernel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_driver, "cuLaunchKernel", lambda *a: (seen.append(a[7]), launch(*a))[1])
        for device, shared in ((0, 60000), (0, 70000), (1, 8), (0, 60000)):
            place = our_driver.Place(device, 0)
            our_driver.launch("k", lambda m: None, (1, 1), (32, 1), place, (1, 2), (3, 4), shared)
    assert seen == [60000, 70000, 8, 60000]
    name = "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
    assert [(f[0], *rest) for f, *rest in stub.attributes] == [
        (100, name, 99 << 10), (101, name, 99 << 10),
    ]  # fmt: skip


def test_a_launch_asks_the_driver_for_two_things(stub: StubDriver) -> None:
    stub.make_current(100)
    copy(our_driver.Place(0, 5))
    stub.calls.clear()
    copy(our_driver.Place(0, 5))
    assert stub.calls == ["cuCtxGetId", "cuLaunchKernel"]


def test_what_was_put_off_is_told_while_another_thread_captures(stub: StubDriver) -> None:
    """To wait for the whole device would end its capture."""
    place = our_driver.Place(0, 5)
    stub.make_current(100)
    record = our_driver.records.of(0)
    kind = device_errors.Kind("gather", (3,), 1, (3,), "i8", 0, 2)
    number = our_driver.records.number(device_errors._number(lambda: kind))
    for word, value in ((errors.CALL, number), (errors.POSITION, 1), (errors.RING, 1)):
        record.words[word] = value
    record.words[errors.RING + 1] = 9
    stub.captured = {77}
    with pytest.raises(IndexError, match=r"index 9 at \(1,\) .* found by an earlier gather"):
        device_errors.poll(SimpleNamespace(driver=our_driver), place)
    assert not stub.invalidated
    device_errors.poll(SimpleNamespace(driver=our_driver), place)  # which is told once


def test_loads_and_allocations_are_no_part_of_a_capture(stub: StubDriver) -> None:
    place = our_driver.Place(0, 5)
    stub.make_current(100)
    stub.captured = {5, 9}
    copy(place)
    our_driver.records.of(0)
    our_driver.follow(place, [9])
    with pytest.raises(ValueError, match="is of stream 0xb, which is no part of the CUDA graph"):
        our_driver.follow(place, [9, 11])
    assert stub.events == [("record", 9), ("wait", 5)]
    assert not stub.invalidated
    assert our_driver.capturing(place)
    with pytest.raises(RuntimeError, match="CAPTURE_UNSUPPORTED"):
        our_driver.synchronize(place)  # the stub can tell
    with pytest.raises(RuntimeError, match="CAPTURE_UNSUPPORTED"):
        contexts.checked(cuda_driver.cuMemHostAlloc(8, 0))
    assert stub.thread.mode == GLOBAL


def test_nothing_is_said_when_the_interpreter_ends() -> None:
    """What is kept of the driver's memory is not given back, for which it is too late then."""
    code = """if True:
        import sys
        sys.path.insert(0, "tests")
        import pytest
        from stub_driver import StubDriver, installed
        from nbgather.kernels.cuda import driver
        patch = pytest.MonkeyPatch()
        stub = installed(patch, StubDriver())
        record = driver.records.take(0)
        kept = driver.records.of(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["gather rows, 16 B, raise", "scatter lines, set u16"])
def test_the_text_for_one_architecture_is_that_for_the_other(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """scripts/check_cuda.py compiles a kernel once and assembles it for both."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import check_cuda

    (kernel,) = (k for k in check_cuda.all_kernels() if k.name == name)

    def text(cc: tuple[int, int]) -> str:
        numbered = re.sub(r"\.target sm_\d+", ".target", check_cuda.ptx_of(kernel, cc))
        return re.sub(r"_Z\w+(\$\w+)*|_cudapy_smem_\d+", "NAME", numbered)

    oldest, newest = map(text, check_cuda.ARCHITECTURES)
    assert "NAME" in oldest
    assert oldest == newest
