"""The simulated GPU can fail: each of its checks meets a kernel that deserves it."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import simulated_device
from cases import rng
from numba import cuda, types
from simulated_device import KERNEL_MEMORY, run
from simulator import DeviceArray, Driver, simulated, to_device

import nbgather
from nbgather.kernels.cuda import gather as gather_kernels
from nbgather.kernels.cuda import launch_masking, scatter_paths

LOAD, STORE = KERNEL_MEMORY.LOAD, KERNEL_MEMORY.STORE
U64 = np.uint64


@pytest.fixture
def gpu() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


def address(array: DeviceArray) -> int:
    return int(array.array.ctypes.data)


def test_accesses_beside_an_array() -> None:
    array = to_device(np.arange(5, dtype=np.uint32))
    start = address(array)
    assert LOAD["u4"](start + 16) == 4
    for kind, outside in (("u4", start - 4), ("u4", start + 20), ("u8", start + 16)):
        for access in (LOAD[kind], lambda a, kind=kind: STORE[kind](a, 1)):
            with pytest.raises(AssertionError, match=f"{kind[1:]} bytes at .*: no array is there"):
                access(outside)


def test_accesses_off_their_alignment() -> None:
    start = address(to_device(np.zeros(64, np.uint8)))
    for kind in ("u2", "i4", "f8", "u16"):
        for access in (LOAD[kind], lambda a, kind=kind: STORE[kind](a, 1)):
            with pytest.raises(AssertionError, match="it is not aligned"):
                access(start + int(kind[1:]) // 2)


def test_accesses_to_an_array_that_is_gone() -> None:
    array = to_device(np.ones(1000, np.uint32))
    start = address(array)
    assert LOAD["u4"](start) == 1
    del array
    gc.collect()
    with pytest.raises(AssertionError, match="no array is there"):
        LOAD["u4"](start)


def test_accesses_to_the_padding_of_a_result(gpu: Driver) -> None:
    x, index = to_device(np.arange(6, dtype=np.uint8)), to_device(np.array([2, 1, 5]))
    result = nbgather.gather(x, 0, index)
    assert LOAD["u1"](address(result) + 2) == 5
    with pytest.raises(AssertionError, match="no array is there"):
        LOAD["u1"](address(result) + 3)


def test_the_simulator_sees_a_read_outside(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of this file can fail: a kernel without its comparison is caught."""
    # Never out of bounds, whatever the value.
    monkeypatch.setattr(
        gather_kernels, "resolve", lambda value, size, mode, from_end: Careless(value)
    )
    x, index = to_device(np.zeros((1, 4))), to_device(np.array([[10**6]]))
    with pytest.raises(AssertionError, match="no array is there"):
        nbgather.gather(x, 1, index)


class Careless(int):
    """A position that says that it is below any size."""

    def __lt__(self, other: Any) -> bool:
        return True

    def __mul__(self, other: Any) -> Any:
        return np.uint64(int(self)) * other


def half_waits(numbers: Any) -> None:
    if cuda.threadIdx.x < 16:
        cuda.syncthreads()


def halves_wait_apart(numbers: Any) -> None:
    if cuda.threadIdx.x < 16:
        cuda.syncthreads()
    else:
        cuda.syncthreads()


def barrier_in_an_expression(numbers: Any) -> None:
    assert cuda.syncthreads() is None


def test_barriers_that_not_all_threads_reach() -> None:
    line = half_waits.__code__.co_firstlineno + 2
    with pytest.raises(AssertionError, match=f"reach: 16 wait in line {line}, 16 have ended"):
        run(half_waits, (1, 1), (32, 1), ((),))
    with pytest.raises(AssertionError, match=r"reach: 16 wait in line \d+, 16 wait in line \d+"):
        run(halves_wait_apart, (1, 1), (32, 1), ((),))
    with pytest.raises(AssertionError, match="a barrier must be a statement of the kernel itself"):
        run(barrier_in_an_expression, (1, 1), (32, 1), ((),))


def neighbours(out: Any, numbers: Any) -> None:
    values = cuda.shared.array(32, types.uint64)
    unused = cuda.shared.array(32, types.uint64)
    t = cuda.threadIdx.x
    unused[t] = U64(99)
    values[t] = U64(t * t)
    cuda.syncthreads()
    STORE["u8"](out + U64(8 * t), values[(t + numbers[0]) % 32])


def neighbours_without_a_barrier(out: Any, numbers: Any) -> None:
    values = cuda.shared.array(32, types.uint64)
    t = cuda.threadIdx.x
    values[t] = U64(t * t)
    STORE["u8"](out + U64(8 * t), values[(t + numbers[0]) % 32])


def swap(values: Any, t: Any) -> Any:
    """A part of a kernel, with barriers of its own."""
    own = values[31 - t]
    cuda.syncthreads()
    values[t] = own
    cuda.syncthreads()
    return values[0]


def swap_by_a_part(out: Any, numbers: Any) -> None:
    values = cuda.shared.array(32, types.uint64)
    values[cuda.threadIdx.x] = U64(cuda.threadIdx.x)
    cuda.syncthreads()
    first = swap(values, cuda.threadIdx.x)
    STORE["u8"](out + U64(8 * cuda.threadIdx.x), values[cuda.threadIdx.x] + U64(100) * first)


def some_wait_in_a_part(out: Any, numbers: Any) -> None:
    values = cuda.shared.array(32, types.uint64)
    if cuda.threadIdx.x < 16:
        swap(values, cuda.threadIdx.x)


def test_barriers_in_a_part_of_a_kernel() -> None:
    out = to_device(np.zeros(32, np.uint64))
    for descending in (False, True):
        run(swap_by_a_part, (1, 1), (32, 1), (U64(address(out)), ()), descending)
        assert out.array.tolist() == [3100 + t for t in range(31, -1, -1)]
    with pytest.raises(AssertionError, match=r"reach: 16 wait in line \d+, 16 have ended"):
        run(some_wait_in_a_part, (1, 1), (32, 1), (U64(address(out)), ()))


def count_by_atomics(out: Any, numbers: Any) -> None:
    counts = cuda.shared.array(2, types.uint32)
    t = cuda.threadIdx.x
    if t < 2:
        counts[t] = np.uint32(0)
    cuda.syncthreads()
    cuda.atomic.add(counts, t % 2, np.uint32(1))
    KERNEL_MEMORY.ATOMIC_ADD["u4"](out, np.uint32(2**31 + 1))
    KERNEL_MEMORY.ATOMIC_MAX["u4"](out + U64(4), np.uint32(t))
    cuda.syncthreads()
    if t == 0:
        STORE["u4"](out + U64(8), counts[0])


def test_atomics() -> None:
    out = to_device(np.zeros(3, np.uint32))
    run(count_by_atomics, (2, 1), (32, 1), (U64(address(out)), ()))
    assert out.array.tolist() == [64, 31, 16]


@pytest.mark.parametrize("step", [1, 31])
def test_a_missing_barrier_shows(step: int) -> None:
    """Whichever neighbour a thread looks at, in one order of the threads or in the other."""
    out = to_device(np.zeros(32, np.uint64))
    want = ((np.arange(32) + step) % 32) ** 2
    right = {True: [], False: []}
    for kernel in (neighbours, neighbours_without_a_barrier):
        for descending in (False, True):
            run(kernel, (1, 1), (32, 1), (U64(address(out)), (step,)), descending)
            right[kernel is neighbours].append(np.array_equal(out.array, want))
    assert right[True] == [True, True]
    assert right[False] == [False, False]


@pytest.mark.parametrize("call", ["masking", "ranks", "shared lines", "row sums"])
def test_a_kernel_of_ours_without_its_barriers_shows(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    x, index = rng(call).random((3, 70)), rng(call).integers(0, 70, (3, 70))
    if call == "row sums":
        x, index = rng(call).random((70, 8)), np.broadcast_to(index[0, :, None], (70, 8))
        monkeypatch.setattr(scatter_paths, "MAX_LOOKS", 0)
    if call == "ranks":
        monkeypatch.setattr(launch_masking, "MAX_FUSED_TOKENS", 8)

    def result() -> Any:
        if call in ("shared lines", "row sums"):
            dim = int(call == "shared lines")
            return nbgather.scatter_add(to_device(x), dim, to_device(index), to_device(x)).array
        return nbgather.rank_tokens(to_device(x), 20).ids_restore.array

    want = result()
    assert gpu.launches[-1][0][0] == call
    monkeypatch.setattr(simulated_device, "_BarriersToYields", BarriersToNothing)
    simulated_device._generator_code.cache_clear()
    try:
        wrong = not np.array_equal(result(), want)
    except (IndexError, AssertionError):
        wrong = True  # what another thread had yet to write was taken for an index or a position
    finally:
        simulated_device._generator_code.cache_clear()
    assert wrong


BarriersToYields = simulated_device._BarriersToYields


class BarriersToNothing(BarriersToYields):
    """A kernel stays a generator, which never yields; rounds that would have no end stay."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name == "add_chunk":
            return BarriersToYields(self.waiting).visit(node)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if ast.unparse(node) == "cuda.syncthreads()":
            return ast.parse("if False: yield").body[0]
        return self.generic_visit(node)
