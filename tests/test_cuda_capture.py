"""What a CUDA graph can hold: calls that neither wait nor copy from the host, eager and traced."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from pretender import pretending
from simulator import Driver, simulated, to_device
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import nbgather.cuda
import nbgather.torch
from nbgather import strategies
from nbgather.containers import cuda_arrays, torch_calls, torch_operators

UNSAFE = getattr(torch.Tag, "cudagraph_unsafe", None)


@pytest.fixture
def gpu() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


@pytest.fixture
def tensors() -> Iterator[Driver]:
    with pretending(32) as driver:
        yield driver


def both(call: Callable[..., Any], *arrays: np.ndarray) -> None:
    """A call on the device under capture gives what it gives on the host."""
    results = []
    for given in (map(to_device, arrays), arrays):
        made = call(*given)
        results.append(made if isinstance(made, tuple) else (made,))
    for got, want in zip(*results, strict=True):
        assert np.asarray(got.array).tobytes() == np.ascontiguousarray(want).tobytes()


X = np.arange(96, dtype=np.float32).reshape(2, 8, 6)
INDEX = np.array([[0, 9, 2], [-1, 7, 3]])
GOOD = np.abs(INDEX) % 8
RANKS = np.argsort(-X[..., 0] % 7, 1)
IMAGES = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)

CAPTURED: dict[str, tuple[Any, ...]] = {
    **{
        mode: (lambda x, i, mode=mode: nbgather.gather_tokens(x, i, mode=mode), X, INDEX)
        for mode in ("clip", "wrap", "fill")
    },
    "defer": (lambda x, i: nbgather.gather_tokens(x, i, mode="defer"), X, GOOD),
    "along": (
        lambda x, i: nbgather.take_along_axis(x, i, 1, mode="defer"), X, GOOD[..., None],
    ),
    "masking": (lambda x: nbgather.random_masking(x, 0.5, seed=1), X),
    "masking by noise": (lambda x, n: nbgather.random_masking(x, 0.5, noise=n), X, X[..., 0] % 7),
    "padded masking": (lambda x: nbgather.random_masking(x, seed=1, num_keep=[2, 5]), X),
    "masking of strides": (lambda x: nbgather.random_masking(x, 0.5, seed=1), X[..., ::2]),
    "restore": (lambda v, i: nbgather.restore_tokens(v, i, 1.5), X[:, :3], RANKS),
    "restore, deferred": (
        lambda v, i: nbgather.restore_tokens(v, i, 1.5, mode="defer"),
        X[:, :3],
        RANKS,
    ),
    "scatter": (
        lambda x, i, s: nbgather.scatter(x, 1, i, s, mode="defer"), X[..., 0], GOOD, X[:, :3, 1],
    ),
    "scatter of a number": (
        lambda x, i: nbgather.scatter(x, 1, i, 7.0, mode="defer"), X[..., 0], GOOD,
    ),
    "scatter_add": (
        lambda x, i, s: nbgather.scatter_add(x, 1, i, s, mode="defer"),
        X[..., 0],
        GOOD,
        X[:, :3, 1],
    ),
    **{
        s: (lambda i, s=s: getattr(nbgather.strategies, s)(1, i, (4, 4)), np.arange(2))
        for s in nbgather.strategies.__all__
        # What is made of array operations of a library has no kernels of its own.
        if s in ("random", "grid", "block", "time_frequency", "tube")
    },
    "patches": (lambda x: nbgather.masked_patchify(x, 4, 0.5, seed=1), IMAGES),
    "padded patches": (lambda x: nbgather.masked_patchify(x, 4, seed=1, num_keep=[1, 3]), IMAGES),
    "normalised patches": (
        lambda x: nbgather.masked_patchify(
            x, 4, 0.5, seed=1, scale=1 / 255, mean=(1, 2, 3), std=(1, 2, 3)
        ),
        IMAGES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_can_hold(gpu: Driver, name: str) -> None:
    """The simulated driver refuses to wait, or to copy from a device, while it captures."""
    call, *arrays = CAPTURED[name]
    gpu.captured = True
    both(call, *arrays)
    assert not gpu.waits


REFUSED: dict[str, tuple[Any, ...]] = {
    "gather": (lambda x, i: nbgather.gather_tokens(x, i), X, GOOD),
    "scatter": (lambda x, i: nbgather.scatter(x, 1, i, 7.0), X[..., 0], GOOD),
    "scatter_add": (lambda x, i: nbgather.scatter_add(x, 1, i, x), X[..., 0], GOOD),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_cannot_hold(gpu: Driver, name: str) -> None:
    call, *arrays = REFUSED[name]
    gpu.captured = True
    with pytest.raises(ValueError, match="which a CUDA graph under capture cannot"):
        call(*map(to_device, arrays))
    assert not gpu.launches


def test_many_bytes_of_the_host_are_refused_under_capture(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_arrays, "MAX_CAPTURED_BYTES", 1000)
    x = to_device(np.zeros((200, 3, 1), np.uint8))
    want = nbgather.random_masking(x, seed=1, num_keep=[1] * 200)
    assert not any(key[0] == "write" for key, *_ in gpu.launches[1:])  # they are copied
    gpu.captured = True
    with pytest.raises(ValueError, match=r"1600 bytes of the host .* under capture takes 1000"):
        nbgather.random_masking(x, seed=1, num_keep=[1] * 200)
    monkeypatch.undo()
    got = nbgather.random_masking(x, seed=1, num_keep=[1] * 200)
    for a, b in zip(got, want, strict=True):
        assert a.array.tobytes() == b.array.tobytes()


def test_numbers_of_a_graph_are_its_own(gpu: Driver) -> None:
    """What is kept for other calls may be gone at a replay, and what a capture made is not there
    before."""
    cuda_arrays._constants.clear()
    images = to_device(IMAGES)
    gpu.captured = True
    nbgather.masked_patchify(images, 4, seed=1, scale=0.5)
    assert not cuda_arrays._constants
    gpu.captured = False
    nbgather.masked_patchify(images, 4, seed=1, scale=0.5)
    (kept,) = cuda_arrays._constants.values()
    seen: list[int] = []
    launch = gpu.launch
    gpu.launch = lambda *a: (seen.extend(a[5]), launch(*a))  # type: ignore[method-assign]
    gpu.captured = True
    nbgather.masked_patchify(images, 4, seed=1, scale=0.5)
    assert kept.array.ctypes.data not in seen


# torch


def losses(x: torch.Tensor) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    noise = torch.rand(x.shape[:2])
    index = torch.randint(0, x.shape[1], (x.shape[0], 3))
    wide = index[..., None].expand(-1, -1, x.shape[2])
    whole = nbgather.random_masking(x.detach(), 0.25, noise=noise)
    return {
        "masking": lambda a: nbgather.random_masking(a, 0.25, noise=noise)[0],
        "masking of a number": lambda a: nbgather.random_masking(a, noise=noise, num_keep=6)[0],
        "padded": lambda a: nbgather.random_masking(a, noise=noise, num_keep=[8, 5])[0],
        "tokens": lambda a: nbgather.gather_tokens(a, index, mode="defer"),
        "gather": lambda a: nbgather.gather(a, 1, wide, mode="defer"),
        "restore": lambda a: nbgather.restore_tokens(a[:, :6], whole[2], 0.5, mode="defer"),
        "scatter_add": lambda a: nbgather.scatter_add(a, 1, wide, a[:, :3], mode="defer"),
    }


NAMES = tuple(losses(torch.zeros(2, 8, 4)))


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_can_be_captured(tensors: Driver, name: str, traced: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4)

    def gradient(a: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss(a.requires_grad_()).square().sum(), a)[0]

    loss = losses(x)[name]
    want = gradient(x.clone())
    tensors.waits.clear()
    step = make_fx(gradient)(x.clone()) if traced else gradient
    tensors.captured = True
    assert torch.equal(step(x.clone()), want)
    assert not tensors.waits
    if traced:
        ours = [n.target for n in step.graph.nodes if "nbgather" in str(n.target)]
        assert ours
        assert not any(UNSAFE in op.tags for op in ours)


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_what_was_filled_has_no_gradient(tensors: Driver, traced: bool) -> None:
    """A replay whose index is bad: the gradients are those of the mode fill."""
    x, index = torch.randn(2, 4, 3), torch.tensor([[0, 9, 3], [-7, 1, 1]])
    wide = index[..., None].expand(2, 3, 3)
    calls = {
        "gather": lambda a, i, mode: nbgather.gather(a, 1, i, mode=mode),
        "along": lambda a, i, mode: nbgather.take_along_axis(a, i, 1, mode=mode),
        "tokens": lambda a, i, mode: nbgather.gather_tokens(a, i[..., 0], mode=mode),
    }
    for call in calls.values():

        def gradient(a: torch.Tensor, i: torch.Tensor, mode: str, call: Any = call) -> Any:
            loss = (call(a.requires_grad_(), i, mode) + 1).square().sum()
            return torch.autograd.grad(loss, a)[0]

        want = gradient(x.clone(), wide, "fill")
        step = gradient
        if traced:
            traced_step = make_fx(lambda a, i: gradient(a, i, "defer"))(x.clone(), wide * 0)
            step = lambda a, i, mode, run=traced_step: run(a, i)  # noqa: E731
        tensors.captured = True
        assert torch.equal(step(x.clone(), wide, "defer"), want)
        tensors.captured = False
        with pytest.raises(IndexError, match=r"index 9 at \(0, 1(, 0)?\)"):
            nbgather.cuda.check()


def test_operators_that_may_wait_are_tagged() -> None:
    """torch.compile(mode="reduce-overhead") leaves them, and no others, out of its graphs."""
    if UNSAFE is None:
        pytest.skip("this torch does not know operators that no CUDA graph can hold")
    waiting = {
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("nbgather::") and UNSAFE in op(name).tags
    }
    assert waiting == {
        f"nbgather::{name}"
        for name in ("gather", "take_along_axis", "gather_tokens", "scatter", "scatter_add",
                     "scatter_reduce", "restore_tokens", "seeded_noise", "seeded_strategy")
    }  # fmt: skip


@pytest.mark.parametrize("length", [8, 300, 600])
def test_a_drawn_mask_is_anew_at_each_replay(tensors: Driver, length: int) -> None:
    """The seed is drawn by torch's generator of the device, and read there when a kernel runs."""
    x = torch.randn(2, length, 4)
    masked = lambda a, **by: nbgather.random_masking(a, 0.5, **by)  # noqa: E731
    tensors.captured = True  # nothing may wait, or be copied to the host
    torch.manual_seed(5)
    seed = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)
    torch.manual_seed(5)
    found = masked(x)
    for got, want in zip(found, masked(x, seed=int(seed) & 2**64 - 1), strict=True):
        assert torch.equal(got, want)
    assert not tensors.waits
    # A replay runs the same launches: where the seed lies another one is read.
    launches: list[Any] = []
    launch = tensors.launch
    tensors.launch = lambda *a: (launches.append(a), launch(*a))  # type: ignore[method-assign]
    held = torch.tensor(11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_calls, "drawn_seed", lambda device: held)
        mask = masked(x).mask
    for drawn in (11, -12):
        held.fill_(drawn)
        for arguments in launches:
            launch(*arguments)
        assert torch.equal(mask, masked(x, seed=drawn & 2**64 - 1).mask)


PARTIAL = functools.partial(strategies.block, wrap=True, min_area=2)


@pytest.mark.parametrize(
    ("strategy", "drawn"),
    [("random", False), ("grid", False), ("time_frequency", True), ("stripes", False),
     ("multiblock", True), ("tube", False), (PARTIAL, True), (PARTIAL, False)],
    ids=lambda value: "partial" if value is PARTIAL else str(value),
)  # fmt: skip
def test_a_module_on_the_device_is_captured(
    tensors: Driver, monkeypatch: pytest.MonkeyPatch, strategy: Any, drawn: bool
) -> None:
    """Its seed and epoch are read where they are: at each replay, what has been written there."""
    x, ids = torch.randn(2, 12, 4), torch.tensor([7, 2**40])
    module = nbgather.torch.RandomMasking(0.5, strategy=strategy, grid=(3, 4))
    held = torch.tensor(5)
    monkeypatch.setattr(torch_calls, "drawn_seed", lambda device: held)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    launches: list[Any] = []
    launch = tensors.launch
    tensors.launch = lambda *a: (launches.append(a), launch(*a))  # type: ignore[method-assign]
    tensors.captured = True
    found = module(x) if drawn else module(x, ids)
    assert not tensors.waits
    tensors.launch = launch  # type: ignore[method-assign]
    for seed, epoch in ((11, 0), (-12, 2**32 - 1)):
        held.fill_(seed)
        module.seed.fill_(seed)
        module.epoch.fill_(epoch)
        for arguments in launches:
            launch(*arguments)
        given = (torch.arange(2), 0) if drawn else (ids, epoch)
        score = strategy if callable(strategy) else getattr(strategies, strategy)
        scores = score(seed, given[0], (3, 4), epoch=given[1])
        want = nbgather.random_masking(x, 0.5, noise=scores)
        for got, other in zip(found, want, strict=True):
            assert torch.equal(got, other)


def test_a_strategy_of_ones_own_is_given_a_number(
    tensors: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[Any] = []

    def own(seed: int, ids: Any, grid: Any, epoch: int = 0, **backend: Any) -> Any:
        seeds.append((seed, epoch))
        return strategies.random(seed, ids, grid, epoch=epoch)

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for score in (own, functools.partial(strategies.tube, spatial=own)):
        module = nbgather.torch.RandomMasking(0.5, strategy=score, grid=(3, 4), seed=9)
        module(torch.zeros(2, 12, 1), torch.arange(2))
        module(torch.zeros(2, 12, 1))
    assert [type(number) for pair in seeds for number in pair] == [int] * 8
    there = nbgather.torch.RandomMasking(0.5)
    assert there._lies_beside(torch.zeros(2, 12, 1), torch.arange(2))
    assert there._lies_beside(torch.zeros(2, 12, 1), 2)
    assert not there._lies_beside(torch.zeros(2, 12, 1), torch.empty(2, device="meta"))


@pytest.mark.parametrize(
    "what", ["tokens", "patches", "module", "epoch", "strategy", "strategy with ids"]
)
def test_a_drawn_masking_is_traced_for_a_graph(what: str) -> None:
    """On CUDA tensors, of which the trace needs none: no operator waits, no seed is on the host."""
    with FakeTensorMode():
        x = torch.empty(2, 16, 8, device="cuda")
        by = {"strategy": "block", "grid": (4, 4)} if what.startswith("strategy") else {}
        module = nbgather.torch.RandomMasking(0.5, **by)
        number = {"dtype": torch.int64, "device": "cuda"}
        module.seed, module.epoch = torch.empty((), **number), torch.empty((), **number)
        ids = torch.empty(2, **number)
        calls = {
            "tokens": lambda a: nbgather.random_masking(a, 0.5)[0],
            "epoch": lambda a: nbgather.random_masking(a, 0.5, epoch=3)[0],
            "module": lambda a: module(a)[0],
            "strategy": lambda a: module(a)[0],
            "strategy with ids": lambda a: module(a, ids)[0],
            "patches": lambda a: nbgather.masked_patchify(a.reshape(2, 1, 16, 8), 4, 0.5)[0],
        }
        traced = make_fx(calls[what])(x)
    nodes = [n for n in traced.graph.nodes if n.op == "call_function"]
    name = "seeded_strategy" if what.startswith("strategy") else "seeded_noise"
    assert any(n.target is getattr(torch.ops.nbgather, name).nowait for n in nodes)
    for node in nodes:
        assert UNSAFE not in getattr(node.target, "tags", ()), node
        assert node.target is not torch.ops.aten._local_scalar_dense.default
        value = node.meta.get("val")
        assert not isinstance(value, torch.Tensor) or value.is_cuda, node


def test_a_drawn_masking_compiles_without_a_break() -> None:
    x = torch.randn(2, 16, 4)
    call = torch.compile(
        lambda a: nbgather.random_masking(a, 0.5), fullgraph=True, backend="aot_eager"
    )
    torch.manual_seed(1)
    first, again = call(x).mask, call(x).mask
    torch.manual_seed(1)
    assert torch.equal(call(x).mask, first)
    assert not torch.equal(first, again)


def test_seeds_of_another_device_are_refused() -> None:
    seed, ids = torch.tensor(1), torch.arange(2)
    noise = torch.ops.nbgather.seeded_noise
    assert torch.equal(noise.nowait(seed, seed, ids, 9), noise(seed, seed, ids, 9))
    where = types.SimpleNamespace(device="cuda:0")
    with pytest.raises(ValueError, match="on cpu, cuda:0: one device is needed"):
        torch_operators._noise_beside_kernel(where, seed, ids, 9)


def op(name: str) -> Any:
    packet, _, overload = name.split("::")[1].partition(".")
    return getattr(getattr(torch.ops.nbgather, packet), overload or "default")


def test_the_operators_that_do_not_wait_refuse_to() -> None:
    x, index = torch.zeros(3, 4), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="mode 'raise' may wait: the overload nowait has"):
        torch.ops.nbgather.gather.nowait(x, 1, index, mode="raise")
    with pytest.raises(IndexError, match=r"index 9 at \(0, 0\)"):
        torch.ops.nbgather.gather.nowait(x, 1, index + 9, mode="defer")


def allocated(call: Callable[[], Any]) -> int:
    """How many bytes torch was asked for during a call."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    return sum(max(event.nbytes(), 0) for event in events if event.name() == "[memory]")


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("wanted", ["tokens", "mask token", "both"])
def test_the_gradient_of_a_restoring_makes_nothing_of_its_size(
    tensors: Driver, wanted: str, traced: bool
) -> None:
    """The cotangent is read once: neither what of it is removed nor what is not is a copy."""
    x, token = torch.randn(2, 6, 256), torch.randn(256)
    ids = torch.stack([torch.randperm(24), torch.randperm(24)])
    leaves = {"tokens": (x,), "mask token": (token,), "both": (x, token)}[wanted]

    def gradient(cotangent: torch.Tensor) -> Any:
        for leaf in (x, token):
            leaf.requires_grad_(any(leaf is other for other in leaves))
        result = nbgather.restore_tokens(x, ids, token, mode="defer")
        return torch.autograd.grad(result, leaves, cotangent)

    cotangent = torch.randn(2, 24, 256)
    step = make_fx(gradient)(cotangent) if traced else gradient
    kept = (ids < 6)[..., None]
    order = torch.argsort(ids)[:, :6, None].expand(-1, -1, 256)
    want = {"tokens": cotangent.gather(1, order), "mask token": (cotangent * ~kept).sum((0, 1))}
    got = dict(zip(("tokens", "mask token") if wanted == "both" else (wanted,), step(cotangent)))
    for name, grad in got.items():
        torch.testing.assert_close(grad, want[name])
    whole = cotangent.nbytes  # of the result
    rows = 2 * 7 * 1024  # zeros, and what they become
    assert allocated(lambda: step(cotangent)) <= whole + 2 * rows + 4096


@pytest.mark.parametrize("mode", ["raise", "clip", "fill"])
def test_a_narrow_index_stays_narrow(tensors: Driver, mode: str) -> None:
    """Forward and backward: memory is asked for the result and the gradient, and no wider index."""
    x, cotangent = torch.randn(2, 64, 32, requires_grad=True), torch.randn(2, 64, 32)
    index = torch.randint(0, 64, (2, 64, 32), dtype=torch.int16)
    want = torch.zeros(2, 64, 32).scatter_add_(1, index.long(), cotangent)

    def forward() -> torch.Tensor:
        return nbgather.gather(x, 1, index, mode=mode)

    def both_ways() -> torch.Tensor:
        return torch.autograd.grad(forward(), x, cotangent)[0]

    torch.testing.assert_close(both_ways(), want)
    result, bools = cotangent.nbytes, index.numel()
    assert allocated(forward) <= result + 4096
    # The gradient, and the zeros that it is added to; of what was filled a cotangent without it.
    more = {"raise": 0, "clip": index.nbytes, "fill": result + 2 * index.nbytes + 3 * bools}
    assert allocated(both_ways) <= 3 * result + more[mode] + 4096


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("name", ["masking", "masking of a number", "padded"])
def test_the_gradient_of_a_masking_expands_nothing(
    tensors: Driver, name: str, traced: bool
) -> None:
    """Ids of [N, K, D] would be more than all else: the cotangent is restored as it is."""
    x = torch.randn(2, 8, 256)
    masked = losses(x)[name]

    def gradient(a: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(masked(a.requires_grad_()), a, cotangent)[0]

    kept = masked(x)
    step = make_fx(gradient)(x.clone(), kept) if traced else gradient
    forward = allocated(lambda: masked(x))
    both_ways = allocated(lambda: step(x.clone(), kept)) - x.nbytes  # the clone
    copies = kept.nbytes if name == "padded" else 0  # whose slots without a token are zeros
    assert both_ways - forward <= x.nbytes + copies + x.nbytes // 4
