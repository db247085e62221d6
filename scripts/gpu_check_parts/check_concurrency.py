"""Streams, threads, graphs, other libraries, and what a call leaves behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

import nbgather
import nbgather.cuda
import nbgather.torch
from gpu_check_parts import data
from gpu_check_parts.checks import Checks
from gpu_check_parts.data import same
from gpu_check_parts.device import Device, Skip

check = Checks()

#: How long a stream is kept busy while a call is made on it.
BUSY_MILLISECONDS = 60


def tokens(device: Device, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [N, L, D], ids [N, K], and the rows they pick."""
    n, length, width, kept = device.pick((64, 200, 256, 50), (2, 5, 4, 3))
    x = data.bits((n, length, width), torch.int32, device.torch, seed)
    ids = data.indices((n, kept), length, device.torch, seed=seed)
    return x, ids, torch.gather(x, 1, ids[..., None].expand(n, kept, width))


@check
def current_stream(device: Device) -> None:
    """A call that does not wait goes to torch's current stream, and comes back at once."""
    x, ids, want = tokens(device)
    side, late = device.stream(), torch.zeros_like(x)
    nbgather.gather_tokens(late, ids, mode="clip")  # what loads late loads now
    with device.on(side):
        device.busy(1)
        late.copy_(x)
    device.synchronize()
    late.zero_()
    device.synchronize()
    begun = time.perf_counter()
    with device.on(side):
        device.busy(BUSY_MILLISECONDS)
        late.copy_(x)
        got = nbgather.gather_tokens(late, ids, mode="clip")
    milliseconds = (time.perf_counter() - begun) * 1e3
    assert not device.is_idle(side), f"the call waited: {milliseconds:.1f} ms"
    device.synchronize()
    same(got, want)


@check
def two_threads_on_two_streams(device: Device) -> None:
    """Each thread's calls are its own, raising ones too."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            x, ids, want = tokens(device, number)
            bad = ids.clone()
            bad[-1, -1] = x.shape[1] + number
            device.synchronize()
            with device.on(device.stream()):
                for _ in range(device.pick(200, 1)):
                    same(nbgather.gather_tokens(x, ids), want)
                    masked = nbgather.random_masking(x, 0.75, seed=number)
                    back = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0)
                    same(back, torch.where(masked.mask[..., None] == 0, x, torch.zeros_like(x)))
                    try:
                        nbgather.gather_tokens(x, bad)
                    except IndexError as error:
                        assert f"index {x.shape[1] + number} " in str(error)  # noqa: PT017
                    else:
                        raise AssertionError("no IndexError")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in (1, 2)]
    for thread in threads:
        thread.start()
        if device.tiny:
            thread.join()  # the simulator runs one kernel at a time
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@check
def foreign_streams(device: Device) -> None:
    """An index by the CUDA array interface is waited for on the stream that it names."""
    x, ids, want = tokens(device)
    late = torch.zeros_like(ids)
    first, second = device.stream(), device.stream()
    for _ in range(2):  # once to load what is loaded late
        late.zero_()
        device.synchronize()
        with device.on(second):
            device.busy(BUSY_MILLISECONDS)
            late.copy_(ids)
        got = nbgather.gather_tokens(device.foreign(x, first), device.foreign(late, second))
        device.synchronize()
    assert device.foreign_to_host(got).tobytes() == want.cpu().numpy().tobytes()


@check
def cupy_arrays(device: Device) -> None:
    """CuPy's arrays in and out, on a stream of CuPy's that is not the default one."""
    try:
        import cupy
    except ImportError:
        raise Skip("cupy is not installed") from None
    x, ids, want = tokens(device)
    expected = want.cpu().numpy()
    device.synchronize()
    ours, i = cupy.asarray(x.cpu().numpy()), cupy.asarray(ids.cpu().numpy())
    result = nbgather.gather_tokens(ours, i)
    assert isinstance(result, cupy.ndarray)
    assert result.get().tobytes() == expected.tobytes()
    stream, late = cupy.cuda.Stream(non_blocking=True), cupy.zeros_like(ours)
    weight = cupy.ones((4096, 4096), cupy.float32)
    cupy.cuda.Device().synchronize()
    for _ in range(2):
        with stream:
            late[...] = 0
            for _ in range(10):
                weight = weight @ weight * 0
            late[...] = ours
            result = nbgather.gather_tokens(late, i, mode="clip")
            masked = nbgather.random_masking(late, 0.75, seed=1)
            added = nbgather.scatter_add(late, 1, i[..., None] + cupy.zeros_like(late[:, :1]),
                                         late[:, : i.shape[1]])  # fmt: skip
        stream.synchronize()
    assert result.get().tobytes() == expected.tobytes()
    on_torch = nbgather.random_masking(x, 0.75, seed=1)
    assert masked.x_masked.get().tobytes() == on_torch.x_masked.cpu().numpy().tobytes()
    wide = ids[..., None].expand(*ids.shape, x.shape[2])
    sums = nbgather.scatter_add(x, 1, wide, x[:, : ids.shape[1]])
    assert added.get().tobytes() == sums.cpu().numpy().tobytes()


@check
def numba_arrays(device: Device) -> None:
    """numba's device arrays in and out."""
    if device.tiny:
        raise Skip("the simulator has no arrays of numba's")
    from numba import cuda

    x, ids, want = tokens(device)
    device.synchronize()
    result = nbgather.gather_tokens(
        cuda.to_device(x.cpu().numpy()), cuda.to_device(ids.cpu().numpy())
    )
    assert result.copy_to_host().tobytes() == want.cpu().numpy().tobytes()


@check
def graphs(device: Device) -> None:
    """Calls that do not wait are captured into a CUDA graph, and replayed on other values."""
    n, length, width, kept = device.pick((8, 196, 64, 49), (2, 6, 3, 2))
    x = data.floats((n, length, width), torch.float32, device.torch)
    ids = data.indices((n, kept), length, device.torch)
    noise = data.indices((n, length), 50, device.torch).float()
    images = data.bits((n, 3, 8, 8), torch.uint8, device.torch)

    def work() -> tuple[torch.Tensor, ...]:
        masked = nbgather.random_masking(x, 0.75, noise=noise)
        seeded = nbgather.random_masking(x, 0.75, seed=3)
        whole = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0.0)
        cut = nbgather.masked_patchify(images, 4, 0.5, seed=2)
        picked = (
            nbgather.gather_tokens(x, ids, mode=mode, fill_value=1.5)
            for mode in ("clip", "wrap", "fill")
        )
        return (*masked, *seeded, whole, *cut, *picked)

    results, replay = device.capture(work)
    x.copy_(data.floats((n, length, width), torch.float32, device.torch, 7))
    noise.copy_(data.indices((n, length), 50, device.torch, seed=8).float())
    ids.copy_(data.indices((n, kept), length, device.torch, seed=9))
    images.copy_(data.bits((n, 3, 8, 8), torch.uint8, device.torch, 10))
    for _ in range(2):
        replay()
        device.synchronize()
        same(results, work())


@check
def graph_of_a_scatter(device: Device) -> None:
    """Sums and reductions in a graph, and segments whose offsets no host reads."""
    shape = device.pick((300, 64), (6, 3))
    x, src = (data.floats(shape, torch.float32, device.torch, k) for k in (1, 2))
    index = data.indices(shape, shape[0], device.torch)
    counts = torch.tensor([shape[0] - 2, 0, 2], device=device.torch)
    offsets = torch.tensor([0, 1, 1, shape[0]], device=device.torch)

    def work() -> tuple[torch.Tensor, ...]:
        return (
            nbgather.scatter_add(x, 0, index, src, mode="defer"),
            nbgather.scatter(x, 0, index, src, mode="defer"),
            nbgather.scatter_reduce(x, 0, index, src, "mean"),
            nbgather.segment_reduce(src, "amax", offsets=offsets),
            nbgather.segment_reduce(src, "mean", counts=counts),
        )

    with nbgather.cuda.deferred():
        results, replay = device.capture(work)
        src.mul_(3)
        replay()
        same(results, work())


@check
def strategies_in_a_graph(device: Device) -> None:
    """A module's masks: by the epoch that was set before a replay, or by a seed drawn anew."""
    n, grid = device.pick((64, (14, 14)), (2, (3, 4)))
    x = data.floats((n, grid[0] * grid[1], 4), torch.float32, device.torch)
    ids = data.bits((n,), torch.int64, device.torch)
    several = ("random", "grid", "block", "stripes", "multiblock", "time_frequency")
    for strategy in device.pick(several, ("stripes", "multiblock")):
        module = nbgather.torch.RandomMasking(0.5, strategy=strategy, grid=grid, seed=3)
        module.to(device.torch)
        results, replay = device.capture(lambda m=module: (m(x, ids).mask,))
        for epoch in (1, 2**32 - 1):
            module.set_epoch(epoch)
            replay()
            score = getattr(nbgather.strategies, strategy)
            scores = score(3, ids, grid, epoch=epoch)
            same(results[0], nbgather.random_masking(x, 0.5, noise=scores).mask)
        drawn, replay = device.capture(lambda m=module: (m(x).mask,))
        seen = set()
        for _ in range(3):
            replay()
            seen.add(data.digest(drawn[0]))
        assert len(seen) == 3 or device.tiny, f"{strategy}: replays have the same mask"


@check
def compiled_into_a_graph(device: Device) -> None:
    """torch.compile with reduce-overhead: no break, and no operator is left out of the graphs."""
    if device.tiny:
        raise Skip("torch's own compiler needs a device")
    from torch._dynamo.utils import counters

    x = data.floats((64, 196, 256), torch.float32, device.torch).requires_grad_()
    ids = data.indices((64, 49), 196, device.torch)
    noise = data.indices((64, 196), 50, device.torch).float()

    def step(a: torch.Tensor, scores: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        masked = nbgather.random_masking(a, 0.75, noise=scores)
        whole = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 0.0, mode="defer")
        return whole.sum(1) + nbgather.gather_tokens(a, where, mode="clip").sum(1)

    quick = torch.compile(step, fullgraph=True, mode="reduce-overhead")
    want = step(x, noise, ids)
    (gradient,) = torch.autograd.grad(want.sum(), x)
    skipped = counters["inductor"]["cudagraph_skips"]
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        got = quick(x, noise, ids)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got.sum(), x)[0], gradient)
    assert counters["inductor"]["cudagraph_skips"] == skipped, "torch made no CUDA graph of it"


@check
def deferred_errors(device: Device) -> None:
    """mode="defer": a call comes back at once, a later one tells of the place; in graphs too."""
    x, ids, want = tokens(device)
    size, width = x.shape[1], x.shape[2]
    bad = ids.clone()
    bad[1, 2] = size + 5
    place = f"index {size + 5} at (1, 2)"

    def told(call: Callable[[], Any]) -> str:
        try:
            call()
        except IndexError as error:
            return str(error)
        raise AssertionError("no IndexError")

    same(nbgather.gather_tokens(x, ids, mode="defer"), want)
    nbgather.cuda.check()
    got = nbgather.gather_tokens(x, bad, mode="defer", fill_value=7)
    assert place in told(nbgather.cuda.check)
    wide = bad[..., None].expand(*bad.shape, width)
    same(got, torch.where(wide < size, torch.gather(x, 1, wide.clamp(max=size - 1)), 7))
    nbgather.cuda.check()
    nbgather.gather_tokens(x, bad, mode="defer")
    device.synchronize()
    assert place in told(lambda: nbgather.gather_tokens(x, ids, mode="defer"))
    held = ids.clone()
    results, replay = device.capture(lambda: (nbgather.gather_tokens(x, held, mode="defer"),))
    replay()
    device.synchronize()
    same(results[0], want)
    nbgather.cuda.check()
    held.copy_(bad)
    for _ in range(2):  # each replay tells of its own
        replay()
        assert place in told(nbgather.cuda.check)
    same(nbgather.gather_tokens(x, ids), want)


@check
def nothing_is_kept(device: Device) -> None:
    """No call keeps its caller's tensors, nor memory of the device."""

    def once() -> list[Any]:
        x, ids, _ = tokens(device)
        token = torch.zeros(x.shape[2], dtype=x.dtype, device=device.torch)
        masked = nbgather.random_masking(x, 0.75, seed=1)
        back = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, token)
        side = device.pick(32, 4)
        images = data.bits((2, 3, side, side), torch.uint8, device.torch)
        cut = nbgather.masked_patchify(images, side // 2, seed=1, scale=0.5, mean=(1, 2, 3))
        src = x[:, : ids.shape[1]].contiguous()
        wide = ids[..., None].expand(src.shape)
        added = nbgather.scatter_add(x, 1, wide, src)
        held = (x, ids, token, *masked, back, images, *cut, src, added)
        return [weakref.ref(tensor) for tensor in held if isinstance(tensor, torch.Tensor)]

    once()
    gc.collect()
    before = device.allocated()
    for _ in range(device.pick(50, 1)):
        witnesses = once()
    gc.collect()
    device.synchronize()
    alive = sum(witness() is not None for witness in witnesses)
    assert not alive, f"{alive} of {len(witnesses)} tensors live on"
    assert device.allocated() <= before, (device.allocated(), before)
