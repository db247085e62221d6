"""Every public function in every state of torch: torch's own recipe there, or one clear error."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils.checkpoint
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import nbgather
import nbgather.torch
from nbgather.engine import memo

N, L, D, K = 2, 6, 4, 3
IDS = torch.tensor([7, 2**40])


def expanded(ids: torch.Tensor) -> torch.Tensor:
    return ids[..., None].expand(-1, -1, D)


def ranked(noise: torch.Tensor, keep: int) -> tuple[torch.Tensor, ...]:
    order = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(order, dim=1, stable=True)
    return order[:, :keep], restore, (restore >= keep).float()


def masked(x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
    ids, restore, mask = ranked(noise, K)
    return torch.gather(x, 1, expanded(ids)), mask, restore


def restored(x: torch.Tensor, ranks: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    filled = torch.cat([x, token.expand(N, L - K, D)], 1)
    return torch.gather(filled, 1, expanded(ranks))


def cut(images: torch.Tensor) -> torch.Tensor:
    n, c, h, w = images.shape
    return (
        images.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 4 * c)
    )


class Case(NamedTuple):
    args: tuple[torch.Tensor, ...]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    traced: bool = True  # whether it has an operator


generator = torch.Generator().manual_seed(0)
X = torch.rand(N, L, D, generator=generator)
INDEX = torch.randint(0, L, (N, K, D), generator=generator)
PICKS = torch.randint(0, L, (N, K), generator=generator)
NOISE = torch.rand(N, L, generator=generator)
RANKS = torch.argsort(torch.rand(N, L, generator=generator), 1)
SEEDED = nbgather.token_noise(3, IDS, L, epoch=1, backend="reference")
SMALL = torch.rand(N, K, D, generator=generator)
TOKEN = torch.rand(D, generator=generator)
IMAGES = torch.rand(N, 2, 4, 6, generator=generator)
PATCH_NOISE = nbgather.token_noise(3, IDS, 6, backend="reference")
BLOCK = nbgather.strategies.block(1, IDS, (3, 2), backend="reference")
TUBE = nbgather.strategies.tube(1, IDS, (3, 2), backend="reference")


CASES: dict[str, Case] = {
    "gather": Case((X, INDEX), lambda x, i: nbgather.gather(x, 1, i), lambda x, i: x.gather(1, i)),
    "gather fill": Case(
        (X, INDEX), lambda x, i: nbgather.gather(x, 1, i - 1, mode="fill", fill_value=2),
        lambda x, i: torch.where(i > 0, x.gather(1, (i - 1).clamp(min=0)), 2.0),
    ),
    "gather int32": Case(
        (X, INDEX), lambda x, i: nbgather.gather(x, 1, i.int()), lambda x, i: x.gather(1, i)
    ),
    "take_along_axis": Case(
        (X, INDEX), lambda x, i: nbgather.take_along_axis(x, i - L, 1), lambda x, i: x.gather(1, i)
    ),
    "gather_tokens": Case(
        (X, PICKS), nbgather.gather_tokens, lambda x, i: x.gather(1, expanded(i))
    ),
    "scatter": Case(
        (X, RANKS[:, :K], SMALL), lambda x, i, s: nbgather.scatter(x, 1, expanded(i), s),
        lambda x, i, s: x.scatter(1, expanded(i), s),
    ),
    "scatter_add": Case(
        (X, INDEX, SMALL), lambda x, i, s: nbgather.scatter_add(x, 1, i, s),
        lambda x, i, s: x.scatter_add(1, i, s),
    ),
    "infer_gather": Case(
        (X[0], X[0, :, 2:]), lambda x, y: nbgather.infer_gather(x, y)[0].index,
        lambda x, y: torch.arange(2, D).expand(L, 2), False,
    ),
    "token_noise": Case(
        (IDS,), lambda ids: nbgather.token_noise(3, ids, L, epoch=1), lambda ids: SEEDED.clone()
    ),
    "rank_tokens": Case(
        (NOISE,), lambda n: tuple(nbgather.rank_tokens(n, K)), lambda n: ranked(n, K)
    ),
    "random_masking noise": Case(
        (X, NOISE), lambda x, n: tuple(nbgather.random_masking(x, 0.5, noise=n)), masked
    ),
    "random_masking seed": Case(
        (X, IDS),
        lambda x, i: tuple(nbgather.random_masking(x, 0.5, seed=3, sample_ids=i, epoch=1)),
        lambda x, i: masked(x, SEEDED),
    ),
    "restore_tokens": Case((SMALL, RANKS, TOKEN), nbgather.restore_tokens, restored),
    "restore_tokens number": Case(
        (SMALL, RANKS), lambda x, r: nbgather.restore_tokens(x, r, 0.5),
        lambda x, r: restored(x, r, torch.full((D,), 0.5, device=x.device)),
    ),
    "patchify": Case((IMAGES,), lambda x: nbgather.patchify(x, 2), cut),
    "unpatchify": Case(
        (cut(IMAGES),), lambda p: nbgather.unpatchify(p, 2, (4, 6)),
        lambda p: p.reshape(N, 2, 3, 2, 2, 2).permute(0, 5, 1, 3, 2, 4).reshape(N, 2, 4, 6),
    ),
    "masked_patchify": Case(
        (IMAGES, IDS),
        lambda x, i: nbgather.masked_patchify(x, 2, 0.5, seed=3, sample_ids=i).x_masked,
        lambda x, i: cut(x).gather(1, ranked(PATCH_NOISE, 3)[0][..., None].expand(-1, -1, 8)),
    ),
    "strategies.random": Case(
        (IDS,), lambda i: nbgather.strategies.random(3, i, (3, 2), epoch=1),
        lambda i: SEEDED.clone(),
    ),
    "strategies.block": Case(
        (IDS,), lambda i: nbgather.strategies.block(1, i, (3, 2)), lambda i: BLOCK.clone(), False
    ),
    "strategies.tube": Case(
        (IDS,), lambda i: nbgather.strategies.tube(1, i, (3, 2)), lambda i: TUBE.clone()
    ),
}  # fmt: skip


class Seen(TorchDispatchMode):
    """Counts what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.namespace)
        return func(*args, **(kwargs or {}))


class SeenFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def within(context: Callable[[], Any]) -> Callable[..., Any]:
    def run(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with context():
            return call(*args)

    return run


@contextlib.contextmanager
def default_device(name: str) -> Any:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def inference(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with torch.inference_mode():
        return call(*(a.clone() for a in args))


def compiled(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    torch._dynamo.reset()
    return torch.compile(call, fullgraph=True, backend="aot_eager")(*args)


def checkpointed(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return torch.utils.checkpoint.checkpoint(call, *args, use_reentrant=False)


def pickled(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    stream = io.BytesIO()
    torch.save(call(*copy.deepcopy(args)), stream)
    stream.seek(0)
    return torch.load(stream)


def batched(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    stacked = tuple(torch.stack([a, a.flip(0)]) for a in args)
    return torch.func.vmap(call)(*stacked)


def fake(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return call(*map(mode.from_tensor, args))


def gradient(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Results, and the gradients of whatever is floating."""
    operands = [a.clone().requires_grad_() if a.is_floating_point() else a for a in args]
    result = call(*operands)
    results = result if isinstance(result, tuple) else (result,)
    loss = sum((r**2).sum() for r in results if r.requires_grad)
    if not isinstance(loss, torch.Tensor):
        return tuple(r.detach() for r in results)
    inputs = [g for g in operands if g.requires_grad]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    zeros = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, inputs)]
    return (*(r.detach() for r in results), *zeros)


STATES: dict[str, Callable[..., Any]] = {
    "plain": lambda call, args: call(*args),
    "grad": gradient,
    "no_grad": within(torch.no_grad),
    "inference": inference,
    "vmap": batched,
    "functionalize": lambda call, args: torch.func.functionalize(call)(*args),
    "fake": fake,
    "default device meta": within(lambda: default_device("meta")),
    "device context meta": within(lambda: torch.device("meta")),
    "compile": compiled,
    "autocast": within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "checkpoint": checkpointed,
    "deterministic": within(deterministic),
    "pickle": pickled,
    "dispatch mode": within(Seen),
    "function mode": within(SeenFunctions),
    "anomaly": within(lambda: torch.autograd.set_detect_anomaly(True, check_nan=False)),
}
#: States in which a function without an operator says so, and what it says.
TRACED = {"fake", "compile", "vmap", "functionalize"}
#: Where a recipe of torch's cannot be run as it is: its constants are real beside fake tensors, and
#: sizes within vmap are those of one sample. There the results are compared with plain ones.
BY_PLAIN = {"vmap", "default device meta", "device context meta", "fake"}


def flat(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def same(one: Any, other: Any) -> bool:
    pairs = zip(flat(one), flat(other), strict=True)
    return all(a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("heat", ["cold", "warm"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CASES)
def test_states(name: str, state: str, heat: str) -> None:
    case, run = CASES[name], STATES[state]
    memo.entries.clear()
    for _ in range(3 if heat == "warm" else 0):
        case.ours(*case.args)
    if state in TRACED and not case.traced:
        with pytest.raises(Exception, match="cannot be traced by torch"):
            run(case.ours, case.args)
        return
    if state == "vmap" and name == "restore_tokens":
        with pytest.raises(ValueError, match="vmap over mask_token: one mask token for all"):
            run(case.ours, case.args)
        return
    got = run(case.ours, case.args)
    if state == "fake":
        plain = case.theirs(*case.args)
        for a, b in zip(flat(got), flat(plain), strict=True):
            assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    elif state == "vmap":
        halves = [case.theirs(*case.args), case.theirs(*(a.flip(0) for a in case.args))]
        if name in SEED_ONLY:  # the recipe has the noise of these ids in this order
            halves[1] = case.ours(*(a.flip(0) for a in case.args))
        for k, whole in enumerate(flat(got)):
            assert torch.equal(whole, torch.stack([flat(h)[k] for h in halves]))
    elif state in BY_PLAIN:
        assert same(got, case.theirs(*case.args))
    elif state == "grad" and name == "restore_tokens":
        # The mask token's gradient is a sum over all removed tokens, in another order than torch's.
        *exact, ours = got
        *others, theirs = run(case.theirs, case.args)
        assert same(tuple(exact), tuple(others))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    else:
        assert same(got, run(case.theirs, case.args))


SEED_ONLY = {
    "token_noise", "random_masking seed", "masked_patchify", "strategies.random",
    "strategies.tube", "infer_gather", "restore_tokens", "restore_tokens number",
}  # fmt: skip


def test_a_mode_sees_the_operator() -> None:
    for x in (X, X.half(), X.clone().requires_grad_()):
        for _ in range(3):
            nbgather.gather(x, 1, INDEX)
        with Seen() as mode:
            nbgather.gather(x, 1, INDEX)
        assert mode.names == {"nbgather"}


def test_an_operator_is_checked_by_torch() -> None:
    torch.library.opcheck(torch.ops.nbgather.gather.default, (X, 1, INDEX))
    seeds = torch.tensor(5), torch.tensor(2), IDS, L
    torch.library.opcheck(torch.ops.nbgather.seeded_noise.default, seeds)
