"""torch: operators, gradients, tracing, batching, export, the module and the collate function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader

import nbgather
from nbgather import strategies
from nbgather.onnx import Session, torch_translation_table
from nbgather.torch import MaskingCollate, RandomMasking


def doubles(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def samples(name: str) -> tuple[Any, ...]:
    torch.manual_seed(0)
    name, _, overload = name.partition(".")
    if overload and ("gather" in name or name == "take_along_axis"):
        return *samples(name), {"mode": "defer"}
    x, index = doubles(3, 8, 4), torch.randint(0, 8, (3, 5, 4))
    made = nbgather.random_masking(x, 0.5, seed=1)
    return {
        "gather": (x, 1, index),
        "take_along_axis": (x, index - 8, 1),
        "gather_tokens": (x, index[..., 0]),
        "scatter": (x, 1, torch.argsort(doubles(3, 8, 4), 1)[:, :6], doubles(3, 7, 4)),
        "scatter_add": (x, 1, index, doubles(3, 6, 4)),
        "scatter_reduce": (x, 1, index, doubles(3, 6, 4), "prod", {"include_self": False}),
        "token_noise": (3, torch.arange(4), 7),
        "rank_tokens": (torch.rand(3, 8), 3),
        "random_masking": (x, torch.rand(3, 8), 0.5),
        "restore_tokens": (made.x_masked, made.ids_restore, doubles(4)),
        "keep_tokens": (x, made.ids_restore.argsort(1)[:, :4], made.ids_restore),
        "score": (torch.arange(4), "block", [3, 2], [1, 2, 0], {"seed": 5, "min_aspect": 0.3}),
        "seeded_noise": (torch.tensor(5), torch.tensor(2), torch.arange(4), 7),
        "seeded_strategy": (torch.tensor(5), torch.tensor(2), torch.arange(4), "tube", [3, 2]),
    }[name]


OPS = [
    name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if "nbgather::" in name
]
DIFFERENTIABLE = [
    "gather", "take_along_axis", "gather_tokens", "scatter", "scatter_add", "random_masking",
    "restore_tokens", "keep_tokens",
]  # fmt: skip


def op_of(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.nbgather, packet), overload or "default")


def differentiable(args: tuple[Any, ...]) -> list[int]:
    return [
        k for k, a in enumerate(args) if isinstance(a, torch.Tensor) and a.dtype == torch.float64
    ]


UTILITIES = (
    "test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static",
    "test_aot_dispatch_dynamic",
)  # fmt: skip


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str, grad: bool) -> None:
    args = list(samples(name))
    for k in differentiable(tuple(args)):
        args[k] = args[k].clone().requires_grad_(grad)
    own = args.pop() if isinstance(args[-1], dict) else {}
    result = torch.library.opcheck(op_of(name), tuple(args), own, test_utils=UTILITIES)
    assert set(result.values()) == {"SUCCESS"}
    assert set(result) == set(UTILITIES)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_the_operators(name: str) -> None:
    args = samples(name)
    places = differentiable(args)

    def run(*given: torch.Tensor) -> torch.Tensor:
        filled = list(args)
        for k, tensor in zip(places, given, strict=True):
            filled[k] = tensor
        made = op_of(name)(*filled)
        return made if isinstance(made, torch.Tensor) else made[0]

    given = [args[k].clone().requires_grad_() for k in places]
    # A src larger than the index has a padded gradient, by what the old vmap has no rule for.
    batched = not name.startswith("scatter")
    assert torch.autograd.gradcheck(run, given, check_forward_ad=True, check_batched_grad=batched)
    assert torch.autograd.gradgradcheck(run, given, check_fwd_over_rev=True)


PUBLIC: dict[str, Callable[..., Any]] = {
    "gather": lambda x, i: nbgather.gather(x, 1, i),
    "take_along_axis": lambda x, i: nbgather.take_along_axis(x, i[:, :, :1], 1),
    "gather_tokens": lambda x, i: nbgather.gather_tokens(x, i[..., 0]),
    "random_masking": lambda x, i: nbgather.random_masking(x, 0.5, seed=1).x_masked,
    "clip": lambda x, i: nbgather.gather(x, 1, i * 3, mode="clip"),
    "fill": lambda x, i: nbgather.gather(x, 1, i * 3, mode="fill", fill_value=2),
    "scatter_add": lambda x, i: nbgather.scatter_add(x, 1, i, x[:, :5]),
    "restore_tokens": lambda x, i: nbgather.restore_tokens(
        x[:, :3], torch.argsort(i[:, :, 0] * 5 + torch.arange(5), 1).argsort(1), x[0, 0]
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_gradients_of_the_functions(name: str) -> None:
    x, index = doubles(3, 8, 4).requires_grad_(), torch.randint(0, 8, (3, 5, 4))

    def run(tokens: torch.Tensor) -> torch.Tensor:
        return PUBLIC[name](tokens, index)

    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


def test_gradients_equal_torchs_and_are_deterministic() -> None:
    x, index = torch.randn(4, 50, 8), torch.randint(0, 50, (4, 200, 8))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(4, 200, 8)
    (nbgather.gather(ours, 1, index) * weight).sum().backward()
    (torch.gather(theirs, 1, index) * weight).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    again = x.clone().requires_grad_()
    (nbgather.gather(again, 1, index) * weight).sum().backward()
    assert torch.equal(ours.grad, again.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
@pytest.mark.parametrize("mode", ["raise", "wrap"])
def test_repeated_small_calls_with_and_without_gradients(dtype: torch.dtype, mode: Any) -> None:
    x, index = torch.randn(2, 3, 4).to(dtype), torch.randint(0, 3, (2, 2, 4))
    want = torch.gather(x, 1, index)
    for wanted in (False, True, False, True):
        leaf = x.clone().requires_grad_(wanted)
        got = nbgather.gather(leaf, 1, index, mode=mode)
        assert torch.equal(got, want)
        assert got.dtype is dtype
        assert got.requires_grad is wanted
        if wanted:
            got.backward(torch.ones_like(got))
            counts = torch.zeros(x.shape).scatter_add_(1, index, torch.ones(want.shape))
            assert torch.equal(leaf.grad, counts.to(dtype))
        with torch.no_grad():
            assert not nbgather.gather(leaf, 1, index, mode=mode).requires_grad
    index[1, 0, 2] = 7
    if mode == "raise":
        for wanted in (False, True):
            with pytest.raises(IndexError, match=r"index 7 at \(1, 0, 2\)"):
                nbgather.gather(x.clone().requires_grad_(wanted), 1, index)


def test_the_profiler_names_the_calls() -> None:
    x, index, noise = torch.rand(3, 8, 4), torch.randint(0, 8, (3, 5, 4)), torch.rand(3, 8)
    for _ in range(3):  # which the memo repeats from here on
        nbgather.gather(x, 1, index)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        nbgather.gather(x, 1, index)
        made = nbgather.random_masking(torch.rand(3, 8, 900).requires_grad_(), 0.5, noise=noise)
        made.x_masked.sum().backward()
        nbgather.strategies.block(0, torch.arange(3), (4, 4))
        nbgather.patchify(torch.rand(1, 3, 4, 4), 2)
    names = {event.name for event in profile.events()}
    assert {
        "nbgather::gather", "nbgather::random_masking", "nbgather::restore_tokens",
        "nbgather::score", "nbgather::patchify", "NbgatherBackward",
    } <= names  # fmt: skip
    assert "aten::scatter_add" not in names
    assert torch.equal(nbgather.gather(x, 1, index), torch.gather(x, 1, index))


# Tracing


def everything(x: torch.Tensor, noise: torch.Tensor, index: torch.Tensor) -> tuple[Any, ...]:
    gathered = nbgather.gather(x, 1, index)
    made = nbgather.random_masking(x, 0.5, noise=noise)
    ids = torch.arange(x.shape[0]) * 7
    seeded = nbgather.random_masking(x, 0.5, seed=2**63 + 5, sample_ids=ids, epoch=3)
    few = nbgather.random_masking(x, num_keep=3, seed=-1)
    return (
        gathered,
        nbgather.take_along_axis(x, index[:, :, :1] - 1, 1),
        nbgather.gather_tokens(x, index[..., 0]),
        nbgather.gather(x, 1, index * 2, mode="fill", fill_value=-1.0),
        nbgather.scatter(x, 1, index[:, :1], 0.0),
        nbgather.scatter_add(x, 1, index, gathered),
        *made,
        *seeded,
        *few,
        nbgather.rank_tokens(noise, 2).mask,
        nbgather.token_noise(5, ids, 6, epoch=1),
        nbgather.restore_tokens(made.x_masked, made.ids_restore, 0.5),
        nbgather.restore_tokens(made.x_masked, made.ids_restore, x[:1, :1]),
    )


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_without_a_graph_break(backend: str, warm: bool) -> None:
    torch._dynamo.reset()
    x, noise, index = torch.rand(3, 8, 4), torch.rand(3, 8), torch.randint(0, 8, (3, 5, 4))
    if warm:  # small calls that are repeated without asking again
        everything(x, noise, index)
    compiled = torch.compile(everything, fullgraph=True, backend=backend)
    for _ in range(2):
        for got, want in zip(compiled(x, noise, index), everything(x, noise, index), strict=True):
            assert torch.equal(got, want)
    longer = torch.rand(5, 20, 4), torch.rand(5, 20), torch.randint(0, 20, (5, 9, 4))
    for got, want in zip(compiled(*longer), everything(*longer), strict=True):
        assert torch.equal(got, want)


def test_inductor_and_gradients() -> None:
    torch._dynamo.reset()

    def loss(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        made = nbgather.random_masking(x, 0.75, noise=noise)
        return (nbgather.restore_tokens(made.x_masked * 2, made.ids_restore, 0.0) ** 2).mean()

    x, noise = torch.rand(3, 16, 4), torch.rand(3, 16)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(ours, noise).backward()
    loss(theirs, noise).backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_a_bad_index_under_compile() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, i: nbgather.gather(x, 0, i), backend="eager")
    with pytest.raises(IndexError, match=r"index 9 at \(1,\) is out of bounds"):
        compiled(torch.rand(5), torch.tensor([0, 9]))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor, noise: torch.Tensor, index: torch.Tensor) -> Any:
            return everything(x, noise, index)

    x, noise, index = torch.rand(3, 8, 4), torch.rand(3, 8), torch.randint(0, 8, (3, 5, 4))
    program = torch.export.export(Module(), (x, noise, index), strict=strict)
    for got, want in zip(
        program.module()(x, noise, index), everything(x, noise, index), strict=True
    ):
        assert torch.equal(got, want)


def test_vmap() -> None:
    x, index = torch.rand(6, 3, 8, 4), torch.randint(0, 8, (6, 3, 5, 4))
    vmap = torch.func.vmap
    want = torch.stack([torch.gather(a, 1, i) for a, i in zip(x, index, strict=True)])
    assert torch.equal(vmap(lambda a, i: nbgather.gather(a, 1, i))(x, index), want)
    assert torch.equal(vmap(lambda a, i: nbgather.gather(a, -2, i))(x, index), want)
    one = torch.stack([torch.gather(a, 1, index[0]) for a in x])
    assert torch.equal(vmap(lambda a: nbgather.gather(a, 1, index[0]))(x), one)
    moved = x.movedim(0, 2)
    assert torch.equal(
        vmap(lambda a, i: nbgather.take_along_axis(a, i, 1), (2, 0))(moved, index), want
    )
    noise = torch.rand(6, 3, 8)
    made = vmap(lambda a, n: tuple(nbgather.random_masking(a, 0.5, noise=n)))(x, noise)
    for k, part in enumerate(nbgather.random_masking(x[4], 0.5, noise=noise[4])):
        assert torch.equal(made[k][4], part)
    restored = vmap(lambda v, r: nbgather.restore_tokens(v, r, 0.0))(made[0], made[2])
    assert torch.equal(restored[4], nbgather.restore_tokens(made[0][4], made[2][4], 0.0))
    ids = torch.arange(12).reshape(3, 4)
    drawn = vmap(lambda i: nbgather.token_noise(5, i, 9))(ids)
    assert torch.equal(drawn.reshape(12, 9), nbgather.token_noise(5, ids.flatten(), 9))
    sums = vmap(lambda a, i, s: nbgather.scatter_add(a, 1, i, s))(x, index, x[:, :, :5])
    assert torch.equal(sums[2], torch.scatter_add(x[2], 1, index[2], x[2, :, :5]))


@pytest.mark.parametrize(
    "dims", [(0, 0, 0), (0, 0, None), (None, 0, 0), (0, None, 0), (None, None, 1), (1, 2, -1)]
)
def test_vmap_over_the_operands_of_restoring(dims: tuple[Any, ...]) -> None:
    """With a gradient inside."""
    x, token = torch.rand(3, 5, 2, 3, 4), torch.rand(3, 5, 4)
    ranks = torch.argsort(torch.rand(3, 5, 2, 6), -1)

    def restored(v: torch.Tensor, r: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        full = torch.cat([v, t.expand(2, 3, 4)], 1)
        return full.gather(1, r[..., None].expand(-1, -1, 4))

    columns = [
        a[0, 0] if d is None else a[0].movedim(0, d) for a, d in zip((x, ranks, token), dims)
    ]

    def loss(restore: Callable[..., torch.Tensor]) -> Callable[..., Any]:
        return torch.func.grad(lambda v, r, t: (restore(v, r, t) ** 2).sum(), (0, 2))

    found = [
        torch.func.vmap(loss(restore), dims)(*columns)
        for restore in (nbgather.restore_tokens, restored)
    ]
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    plain = [torch.func.vmap(f, dims)(*columns) for f in (nbgather.restore_tokens, restored)]
    assert torch.equal(*plain)


def test_vmap_over_no_samples() -> None:
    made = torch.func.vmap(lambda a, n: tuple(nbgather.random_masking(a, 0.5, noise=n)))(
        torch.zeros(0, 2, 6, 4), torch.zeros(0, 2, 6)
    )
    assert [tuple(part.shape) for part in made] == [(0, 2, 3, 4), (0, 2, 6), (0, 2, 6)]


def test_random_numbers_within_vmap_follow_its_rule() -> None:
    x = torch.rand(3, 1, 50, 2)

    def masks(randomness: str) -> torch.Tensor:
        torch.manual_seed(0)
        call = torch.func.vmap(lambda a: nbgather.random_masking(a).mask, randomness=randomness)
        return call(x)[:, 0]

    same, different = masks("same"), masks("different")
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert not torch.equal(different[0], different[1])
    assert not torch.equal(different[1], different[2])
    with pytest.raises(RuntimeError, match="randomness error mode"):
        masks("error")


def test_numbers_within_vmap() -> None:
    """What is 0-d for each sample is an array of one, as without vmap."""
    x, index = torch.rand(5, 4), torch.randint(0, 4, (5,))
    vmap = torch.func.vmap
    assert torch.equal(vmap(lambda a, i: nbgather.gather(a, 0, i))(x, index), x[range(5), index])
    zeros = torch.zeros(5, dtype=torch.int64)
    assert torch.equal(vmap(lambda a, i: nbgather.gather(a, -1, i))(x[:, 0], zeros), x[:, 0])
    added = vmap(lambda a, i, s: nbgather.scatter_add(a, 0, i, s))(x[:, 0], zeros, x[:, 1])
    assert torch.equal(added, x[:, 0] + x[:, 1])
    with pytest.raises(IndexError, match="dim 5 is out of range for 1 dimensions"):
        vmap(lambda a, i: torch.ops.nbgather.gather(a, 5, i))(x, index[:, None])


def test_scores_have_no_tangent() -> None:
    x, noise = torch.rand(2, 6, 4), torch.rand(2, 6)
    want = nbgather.random_masking(x, 0.5, noise=noise)

    def call(scores: torch.Tensor) -> Any:
        return tuple(nbgather.random_masking(x, 0.5, noise=scores))

    values, tangents = torch.func.jvp(call, (noise,), (noise,))
    assert same_masks(values, want)
    assert not any(t.any() for t in tangents[:2])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(noise, noise)
        assert same_masks(call(dual), want)
        op = torch.ops.nbgather.random_masking(x, dual, 0.5)
        assert same_masks(op[:3], want)
    assert not torch.func.grad(lambda n: call(n)[0].sum())(noise).any()


OPERATORS_REFUSE: dict[str, Callable[[], Any]] = {
    "num_tokens is -1": lambda: op_of("token_noise")(1, torch.arange(2), -1),
    "epoch is -1": lambda: op_of("token_noise")(1, torch.arange(2), 3, epoch=-1),
    "num_tokens is -3": lambda: op_of("seeded_noise")(
        torch.tensor(1), torch.tensor(0), torch.arange(2), -3
    ),
    "strategy is 'x'": lambda: op_of("seeded_strategy")(
        torch.tensor(1), torch.tensor(0), torch.arange(2), "x", [4]
    ),
    "mask_ratio is -1.0": lambda: op_of("random_masking")(
        torch.rand(2, 6, 4), torch.rand(2, 6), -1.0
    ),
}


@pytest.mark.parametrize("text", OPERATORS_REFUSE)
def test_numbers_that_an_operator_is_given_are_checked(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        OPERATORS_REFUSE[text]()


def test_ids_that_an_operator_is_given_are_checked() -> None:
    x, ranks = torch.rand(2, 6, 4), torch.arange(6).repeat(2, 1)
    with pytest.raises(IndexError, match=r"index 9 at \(0, 1\)"):
        torch.ops.nbgather.keep_tokens(x, torch.tensor([[0, 9], [0, 1]]), ranks)


@pytest.mark.parametrize(
    ("strategy", "grid", "numbers", "aspect", "text"),
    [
        ("spiral", [4, 4], [1, 1, 0], None, "strategy is 'spiral'"),
        ("grid", [4, 4], [0, 0, 0], None, "stride is 0"),
        ("grid", [4, 0], [2, 0, 0], None, "every size must be at least 1"),
        ("grid", [4, 4], [], None, "three numbers"),
        ("block", [4, 4], [3, 99, 0], 0.3, "tokens is needed"),
        ("block", [4, 4], [1, 4, 0], 0.0, "min_aspect is 0.0"),
        ("lines", [4, 4], [4, 0, 0], None, "axes are the bits of 4"),
    ],
)
def test_parameters_that_an_operator_is_given_are_checked(
    strategy: str, grid: list[int], numbers: list[int], aspect: float | None, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        torch.ops.nbgather.score(
            torch.arange(3), strategy, grid, numbers, seed=1, min_aspect=aspect
        )


def test_a_transforms_leftover_is_its_value() -> None:
    """vjp's function is called when the transform has ended, whose tensors are shells then."""
    x, index = torch.rand(40, 300), torch.randint(0, 300, (40, 200))
    seen = []

    def call(a: torch.Tensor) -> torch.Tensor:
        seen.append(a)
        return nbgather.gather(a, 1, index) ** 2

    value, pull = torch.func.vjp(call, x)
    (got,) = pull(torch.ones_like(value))
    want = torch.func.vjp(lambda a: torch.gather(a, 1, index) ** 2, x)[1](torch.ones_like(value))
    assert torch.equal(got, want[0])
    assert torch.equal(nbgather.gather(seen[0], 1, index), torch.gather(x, 1, index))


def test_out_and_backend_are_not_for_tracing() -> None:
    torch._dynamo.reset()
    out, index = torch.empty(5), torch.randint(0, 8, (5,))
    for own in ({"out": out}, {"backend": "cpu"}):
        compiled = torch.compile(
            lambda a, o=own: nbgather.gather(a, 0, index, **o), backend="eager"
        )
        with pytest.raises(Exception, match="out= or backend= was given where torch traces"):
            torch.compile(compiled, fullgraph=True)(torch.rand(8))


def test_autocast_and_inference_mode() -> None:
    x, index = torch.rand(4, 9), torch.randint(0, 9, (4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nbgather.gather(x, 1, index), torch.gather(x, 1, index))
    with torch.inference_mode():
        got = nbgather.gather(x, 1, index)
        assert torch.equal(got, torch.gather(x, 1, index))
        assert nbgather.random_masking(torch.rand(2, 8, 3), seed=0).x_masked.shape == (2, 2, 3)
    assert torch.equal(nbgather.gather(got, 1, torch.zeros(4, 1, dtype=torch.int64)), got[:, :1])


def test_lazy_views() -> None:
    x = torch.randn(4, 9, dtype=torch.complex64)
    index = torch.randint(0, 9, (4, 5))
    for view in (x.conj(), x.conj().imag, x.mT.conj().mT):
        for _ in range(2):
            assert torch.equal(nbgather.gather(view, 1, index), torch.gather(view, 1, index))


class Mine(torch.Tensor):
    pass


REFUSED: dict[str, tuple[Callable[[], Any], type, str]] = {
    "meta": (
        lambda: nbgather.gather(torch.rand(3, device="meta"), 0, torch.tensor([0])),
        TypeError, "input is on meta and index on cpu: both must be on one device",
    ),
    "src on meta": (
        lambda: nbgather.scatter(
            torch.rand(3), 0, torch.tensor([0]), torch.rand(1, device="meta")
        ),
        TypeError, "input is on cpu and src on meta: both must be on one device",
    ),
    "bad index on meta": (
        lambda: nbgather.gather(torch.rand(3, device="meta"), 0, torch.rand(2, device="meta")),
        TypeError, "index has dtype float32: an integer dtype is needed",
    ),
    "out of a subclass": (
        lambda: nbgather.gather(
            torch.rand(3).as_subclass(Mine), 0, torch.tensor([0]), out=torch.empty(1)
        ),
        ValueError, "out= or backend= was given where torch traces the call",
    ),
    "sparse": (
        lambda: nbgather.gather(torch.eye(3).to_sparse(), 0, torch.zeros(3, 3, dtype=torch.int64)),
        TypeError, "layout torch.sparse_coo",
    ),
    "quantised": (
        lambda: nbgather.gather(
            torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8), 0, torch.tensor([0])
        ),
        TypeError, "quantised dtype qint8",
    ),
    "nested": (
        lambda: nbgather.gather(
            torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]), 0, torch.tensor([0])
        ),
        TypeError, "input is a nested tensor: a plain one is needed, as torch.nested.to_padded",
    ),
    "libraries": (
        lambda: nbgather.gather(np.zeros(3), 0, torch.tensor([0])),
        TypeError, "input is a NumPy array and index a torch one",
    ),
    "devices": (
        lambda: nbgather.gather(torch.rand(3), 0, torch.zeros(1, dtype=torch.int64, device="meta")),
        TypeError, "input is on cpu and index on meta: both must be on one device",
    ),
    "grad into out": (
        lambda: nbgather.gather(
            torch.rand(3, requires_grad=True), 0, torch.tensor([0]), out=torch.empty(1)
        ),
        ValueError, "gradients cannot flow through out=",
    ),
    "out with grad": (
        lambda: nbgather.gather(
            torch.rand(3), 0, torch.tensor([0]), out=torch.empty(1, requires_grad=True)
        ),
        ValueError, "out requires grad",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, error, text = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error) as raised:
            call()
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


# To ONNX


class Masking(torch.nn.Module):
    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> Any:
        made = nbgather.random_masking(x, 0.75, noise=noise)
        ranked = nbgather.rank_tokens(noise, 5)
        return (*made, *ranked, nbgather.restore_tokens(made.x_masked, made.ids_restore, x[0, 0]))


class Seeded(torch.nn.Module):
    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> Any:
        made = nbgather.random_masking(x, 0.6, seed=2**63 + 9, sample_ids=ids, epoch=5)
        return (*made, nbgather.token_noise(-3, ids, 7))


class Counted(torch.nn.Module):
    """A number of kept tokens, and a seed that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.masking = RandomMasking(0.6, seed=2**63 + 9)
        self.masking.set_epoch(5)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> Any:
        noise = nbgather.token_noise(1, ids, x.shape[1])
        return (*self.masking(x, ids), *nbgather.random_masking(x, noise=noise, num_keep=2))


class Gathers(torch.nn.Module):
    def forward(self, x: torch.Tensor, index: torch.Tensor) -> Any:
        gathered = nbgather.gather(x, 1, index)
        return (
            gathered,
            nbgather.take_along_axis(x, index[:, :, :1], 1),
            nbgather.take_along_axis(x[:1], index.to(torch.int32) - x.shape[1], 1),
            nbgather.gather_tokens(x, index[..., 0]),
            nbgather.scatter_add(torch.zeros_like(x), 1, index, gathered),
            nbgather.scatter(torch.zeros_like(x), 1, index[:, :1], gathered),
        )


def given(kind: str, n: int, length: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, length, width)
    if kind == "Masking":
        noise = torch.rand(n, length)
        noise[0, :2] = noise[0, 2]
        noise[-1, 1] = torch.nan
        return x, noise
    if kind in ("Seeded", "Counted"):
        return x, torch.randint(-(2**62), 2**62, (n,))
    return x, torch.randint(0, length, (n, length // 2, width))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("module", [Masking, Seeded, Counted, Gathers])
def test_modules_export_to_flat_standard_onnx(module: type, dynamic: bool) -> None:
    kind = module.__name__
    n, length, width = (torch.export.Dim(name, min=2) for name in ("N", "L", "D"))
    kept = torch.export.Dim("K", min=2)
    one = {0: n}
    second = {
        "Masking": {0: n, 1: length},
        "Seeded": one,
        "Counted": one,
        "Gathers": {0: n, 1: kept, 2: width},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module(),
            given(kind, 3, 16, 4),
            dynamo=True,
            verbose=False,
            opset_version=18,
            dynamic_shapes=({0: n, 1: length, 2: width}, second[kind]) if dynamic else None,
            custom_translation_table=torch_translation_table(),
        )
    model = program.model_proto
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    session = Session(model)
    sizes = [(3, 16, 4), (5, 33, 3), (2, 197, 8)] if dynamic else [(3, 16, 4)]
    for size in sizes:
        args = given(kind, *size)
        feeds = {p.name: a.numpy() for p, a in zip(session.inputs, args, strict=True)}
        made = session.run(feeds).values()
        for got, want in zip(made, module()(*args), strict=True):
            assert got.dtype == want.numpy().dtype
            assert got.shape == tuple(want.shape)
            assert got.tobytes() == want.contiguous().numpy().tobytes()


WITHOUT_TRANSLATION: dict[str, Callable[..., Any]] = {
    "mode 'clip' has no translation to ONNX": lambda x, i: nbgather.gather(x, 0, i, mode="clip"),
    "a number of kept tokens for each sample has no translation to ONNX": (
        lambda x, i: nbgather.random_masking(x[None, :, None], seed=1, num_keep=[2]).x_masked
    ),
    "a strategy has no translation to ONNX": lambda x, i: nbgather.strategies.block(0, i, (2, 2)),
}


@pytest.mark.parametrize("text", WITHOUT_TRANSLATION)
def test_what_has_no_translation_is_told(text: str) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return WITHOUT_TRANSLATION[text](x, index)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match=text):
            torch.onnx.export(
                Module(), (torch.rand(4), torch.tensor([3])), dynamo=True, verbose=False,
                opset_version=18, custom_translation_table=torch_translation_table(),
            )  # fmt: skip


# The module


def same_masks(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("strategy", ["random", "block", "grid", "time_frequency", "tube"])
def test_the_module_is_the_function(strategy: str) -> None:
    grid = (2, 4, 4) if strategy == "tube" else (4, 8)
    module = RandomMasking(0.6, strategy=strategy, grid=grid, seed=2**64 - 1)
    module.set_epoch(4)
    x, ids = torch.rand(3, 32, 5), torch.tensor([7, -2, 2**40])
    scores = getattr(strategies, strategy)(2**64 - 1, ids, grid, epoch=4)
    assert same_masks(module(x, ids), nbgather.random_masking(x, 0.6, noise=scores))


@pytest.mark.parametrize("given", [True, False], ids=["ids", "drawn"])
@pytest.mark.parametrize("strategy", ["random", "block", "tube"])
def test_a_compiled_module_serves_every_epoch(strategy: str, given: bool) -> None:
    torch._dynamo.reset()
    module = RandomMasking(0.6, strategy=strategy, grid=(4, 8), seed=7)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    ids = torch.tensor([7, -2, 2**40]) if given else None
    for epoch in range(3):
        module.set_epoch(epoch)
        x = torch.rand(3, 32, 5)
        torch.manual_seed(epoch)
        made = compiled(x, ids)
        torch.manual_seed(epoch)
        assert same_masks(made, module(x, ids))
    assert counter.frame_count == 1
    program = torch.export.export(module, (x, ids))
    torch.manual_seed(2)
    assert same_masks(program.module()(x, ids), made)


def test_num_keep_and_repr() -> None:
    module = RandomMasking(0.5, num_keep=3, seed=9)
    assert module(torch.rand(2, 16, 1)).x_masked.shape == (2, 3, 1)
    assert repr(module) == (
        "RandomMasking(mask_ratio=0.5, strategy='random', num_keep=3, seed=9, epoch=0)"
    )


def test_a_strategy_of_ones_own() -> None:
    def corner(seed, sample_ids, grid, *, epoch=0):
        return torch.arange(16.0).expand(len(sample_ids), 16)

    module = RandomMasking(0.75, strategy=corner, grid=(4, 4))
    assert module(torch.rand(2, 16, 1)).mask.argmax(1).tolist() == [4, 4]
    assert "strategy='corner'" in repr(module)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: RandomMasking(1.5), ValueError, "mask_ratio is 1.5"),
        (lambda: RandomMasking(strategy="spiral"), ValueError, "strategy is 'spiral'"),
        (lambda: RandomMasking(strategy="block"), ValueError, "it needs grid="),
        (lambda: RandomMasking(strategy="block", grid=(0, 3)), ValueError, "grid is (0, 3)"),
        (lambda: RandomMasking(seed=2**64), ValueError, "seed is"),
        (lambda: RandomMasking(num_keep=-1), ValueError, "num_keep is -1"),
        (lambda: RandomMasking().set_epoch(-1), ValueError, "epoch is -1"),
        (
            lambda: RandomMasking(strategy="block", grid=(4, 4))(torch.rand(1, 9, 1)),
            ValueError,
            "noise has shape (1, 16) and x (1, 9, 1)",
        ),
        (lambda: MaskingCollate(4)([torch.rand(3, 8, 8)]), TypeError, "samples must be pairs"),
        (lambda: MaskingCollate(4, 2.0), ValueError, "mask_ratio is 2.0"),
        (lambda: MaskingCollate(4, strategy="x"), ValueError, "strategy is 'x'"),
    ],
)
def test_refusals_of_the_modules(call, error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)


# The collate function


class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        return number, torch.full((3, 16, 24), number * 10, dtype=torch.uint8)


@pytest.mark.parametrize(
    "workers, strategy",
    [(0, "random"), (0, "block"), (2, "block"),
     pytest.param(2, "random", marks=pytest.mark.large)],
)  # fmt: skip
def test_collate_in_workers_that_persist(workers: int, strategy: str) -> None:
    collate = MaskingCollate(8, 0.5, strategy=strategy, seed=3, scale=1 / 255, mean=0.5, std=0.5)
    loader = DataLoader(
        Numbers(), 5, shuffle=True, num_workers=workers, collate_fn=collate,
        persistent_workers=workers > 0, multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    for epoch in (0, 1, 7):
        collate.epoch = epoch
        assert collate.epoch == epoch
        seen = []
        for ids, made in loader:
            seen += ids.tolist()
            images = torch.stack([Numbers()[n][1] for n in ids.tolist()])
            score = getattr(strategies, strategy)
            scores = score(3, ids, (2, 3), epoch=epoch)
            want = nbgather.masked_patchify(
                images, 8, 0.5, noise=scores, scale=1 / 255, mean=0.5, std=0.5
            )
            assert same_masks(made, want)
        assert sorted(seen) == list(range(24))


def test_patches_under_compile() -> None:
    torch._dynamo.reset()
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    own = {"scale": 1 / 255, "mean": (0.1, 0.2, 0.3), "std": 0.5}

    def run(images: torch.Tensor) -> Any:
        return tuple(nbgather.masked_patchify(images, 8, 0.5, seed=3, epoch=1, **own))

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    assert same_masks(compiled(images), run(images))


def test_what_has_no_operator_is_told() -> None:
    torch._dynamo.reset()
    with pytest.raises(Exception, match="infer_gather cannot be traced"):
        torch.compile(lambda x: nbgather.infer_gather(x, x), fullgraph=True, backend="eager")(
            torch.rand(2, 3)
        )
