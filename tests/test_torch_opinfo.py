"""torch's own samples of gather and its kin, good and bad ones, and its own gradient checks."""

from __future__ import annotations

import importlib
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nbgather
import nbgather.torch

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from torch_cases import CASES, NOISE, flat


def opinfos(*names: str) -> dict[str, Any]:
    """torch's own samples, which stand among its test classes, which derive from expecttest's."""
    sys.modules.setdefault("expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("torch.testing._internal.common_methods_invocations")
    return {info.name: info for info in module.op_db if info.name in names}


OPINFOS = opinfos("gather", "scatter", "scatter_add", "take_along_dim")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.int64, torch.bool]


def inapplicable(name: str, sample: Any) -> str:
    """Why a sample of torch's has no counterpart here; "" where it has."""
    if "reduce" in sample.kwargs:
        return "scatter with reduce= is another function"
    if sample.kwargs.get("sparse_grad"):
        return "gradients are dense"
    if "out" in sample.kwargs:
        return "out= is checked elsewhere: torch resizes it"
    whole = not (sample.input.is_floating_point() or sample.input.is_complex())
    if whole and any(isinstance(a, float) and a != int(a) for a in sample.args):
        return "a number that the dtype cannot hold is refused, where torch cuts it"
    if name == "take_along_dim" and len(sample.args) == 1 and sample.args[0].ndim != 1:
        return "with axis=None the indices have one dimension, as in NumPy"
    return ""


def ours(name: str, tensor: torch.Tensor, args: tuple[Any, ...]) -> torch.Tensor:
    if name == "take_along_dim":
        return nbgather.take_along_axis(tensor, args[0], *(args[1:] or (None,)))
    return getattr(nbgather, name)(tensor, *args)


def theirs(name: str, tensor: torch.Tensor, args: tuple[Any, ...]) -> torch.Tensor:
    return getattr(torch, name)(tensor, *args)


def samples(name: str, dtype: torch.dtype, grad: bool) -> Iterator[Any]:
    torch.manual_seed(0)
    for sample in OPINFOS[name].sample_inputs("cpu", dtype, requires_grad=grad):
        if not inapplicable(name, sample):
            # The dimension may come by name.
            yield sample.input, (*sample.args, *sample.kwargs.values())


def test_most_samples_apply() -> None:
    counts = {name: len(list(samples(name, torch.float32, False))) for name in OPINFOS}
    assert counts == {"gather": 7, "scatter": 9, "scatter_add": 7, "take_along_dim": 4}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPINFOS)
def test_samples(name: str, dtype: torch.dtype) -> None:
    for tensor, args in samples(name, dtype, False):
        got, want = ours(name, tensor, args), theirs(name, tensor, args)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", OPINFOS)
def test_gradients_of_samples(name: str) -> None:
    for tensor, args in samples(name, torch.float64, True):
        inputs = [a for a in (tensor, *args) if isinstance(a, torch.Tensor) and a.requires_grad]
        grads = []
        for call in (ours, theirs):
            result = call(name, tensor, args)
            weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
            grads.append(torch.autograd.grad((result * weight).sum(), inputs))
        for got, want in zip(*grads, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", OPINFOS)
def test_what_torch_refuses_is_refused(name: str) -> None:
    info, found = OPINFOS[name], 0
    if info.error_inputs_func is None:
        pytest.skip("torch has no bad samples of it")
    for bad in info.error_inputs("cpu"):
        sample = bad.sample_input
        if inapplicable(name, sample):
            continue
        args = (*sample.args, *sample.kwargs.values())
        with pytest.raises(bad.error_type):
            theirs(name, sample.input, args)
        with pytest.raises((TypeError, ValueError, IndexError)) as caught:
            ours(name, sample.input, args)
        assert len(str(caught.value)) > 20
        found += 1
    assert found > 2


# Derivatives by differences, of every function that has any


def wide(args: tuple[Any, ...]) -> list[Any]:
    return [a.double() if a.is_floating_point() and a is not NOISE else a for a in args]


DIFFERENTIABLE = [
    name
    for name, case in CASES.items()
    if any(a.is_floating_point() and a is not NOISE for a in case.args)
    and not name.endswith("drawn") and not case.untraced
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives(name: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second, forward, backward and batched; by torch's operators, or by our own."""
    if not small:
        monkeypatch.setattr("nbgather.containers.torch_small.MAX_TORCH_ITEMS", 0)
    case = CASES[name]
    args = wide(case.args)
    places = [k for k, a in enumerate(args) if a.dtype is torch.float64]

    def call(*floats: torch.Tensor) -> torch.Tensor:
        filled = list(args)
        for k, value in zip(places, floats, strict=True):
            filled[k] = value
        return flat(case.ours(*filled))[0]

    inputs = [args[k].clone().requires_grad_() for k in places]
    check: Callable[..., bool] = torch.autograd.gradcheck
    assert check(
        call, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True, check_undefined_grad=True,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(
        call, inputs, fast_mode=True, check_fwd_over_rev=True, check_batched_grad=True
    )


# scatter_reduce and segment_reduce, of which torch has variants


def reductions(name: str) -> list[Any]:
    return [info for info in _module().op_db if info.name == name]


def _module() -> Any:
    return sys.modules["torch.testing._internal.common_methods_invocations"]


REDUCTIONS = {info.variant_test_name: info for info in reductions("scatter_reduce")}


def reductions_and_dtypes() -> list[Any]:
    """Each with one dtype, as each pair has kernels to compile; the others are ``large``."""
    usual = {"mean": torch.bfloat16, "prod": torch.bfloat16, "sum": torch.int64}
    return [
        pytest.param(
            reduce, dtype,
            marks=() if dtype is usual.get(reduce, torch.float32) else pytest.mark.large,
        )
        for reduce in REDUCTIONS
        for dtype in (torch.float32, torch.bfloat16, torch.int64)
    ]  # fmt: skip


@pytest.mark.parametrize("reduce, dtype", reductions_and_dtypes())
def test_samples_of_reductions(reduce: str, dtype: torch.dtype) -> None:
    found = 0
    torch.manual_seed(0)
    for sample in REDUCTIONS[reduce].sample_inputs("cpu", dtype):
        args = (sample.input, *sample.args)
        got = nbgather.scatter_reduce(*args, **sample.kwargs)
        want = torch.scatter_reduce(*args, **sample.kwargs)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert torch.equal(got, want)
        found += 1
    assert found >= 20


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradients_of_samples_of_reductions(reduce: str) -> None:
    torch.manual_seed(0)
    for sample in REDUCTIONS[reduce].sample_inputs("cpu", torch.float64, requires_grad=True):
        inputs, grads = (sample.input, sample.args[2]), []
        for call in (nbgather.scatter_reduce, torch.scatter_reduce):
            result = call(sample.input, *sample.args, **sample.kwargs)
            weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
            grads.append(torch.autograd.grad((result * weight).sum(), inputs))
        for got, want in zip(*grads, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


def test_samples_of_index_add() -> None:
    """A sum of rows is scatter_add with an index that is expanded."""
    found = 0
    for sample in reductions("index_add")[0].sample_inputs("cpu", torch.float32):
        x, (dim, index, source), alpha = sample.input, sample.args, sample.kwargs.get("alpha", 1)
        if x.ndim == 0 or source.ndim == 0:
            continue
        shape = [1] * x.ndim
        shape[dim] = -1
        wide = index.reshape(shape).expand(source.shape)
        got = nbgather.scatter_add(x, dim, wide, source * alpha)
        assert torch.equal(got, torch.index_add(x, dim, index, source * alpha))
        found += 1
    assert found >= 4


SEGMENTS = {"max": "amax", "min": "amin"}


@pytest.mark.parametrize("variant", ["lengths", "offsets"])
def test_samples_of_segment_reduce(variant: str) -> None:
    found, samples_of = 0, _module().sample_inputs_segment_reduce
    for sample in samples_of(None, "cpu", torch.float32, False, mode=variant):
        options, (reduce,) = dict(sample.kwargs), sample.args
        where = options[variant]
        total = int(where.sum() if variant == "lengths" else where[..., -1].max())
        if options["axis"] != 0 or total != sample.input.shape[0]:
            continue  # along another axis, or rows of no segment
        options.pop("initial")
        way = {"counts" if variant == "lengths" else "offsets": where}
        name = SEGMENTS.get(reduce, reduce)
        got = nbgather.segment_reduce(sample.input, name, **way)
        want = torch.segment_reduce(sample.input, reduce, **options)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
        found += 1
    assert found >= 30


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("reduce", ["sum", "prod", "mean", "amax", "amin"])
def test_derivatives_of_reductions(reduce: str, own: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, src = (torch.randn(3, n, generator=generator).double().requires_grad_() for n in (4, 6))
    index = torch.randint(0, 4, (3, 6), generator=generator)

    def call(x: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
        return nbgather.scatter_reduce(x, 1, index, src, reduce, include_self=own)

    assert torch.autograd.gradcheck(
        call, (x, src), fast_mode=True, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(
        call, (x, src), fast_mode=True, check_fwd_over_rev=True, check_batched_grad=True
    )


def test_equal_ones_share_a_gradient_alike() -> None:
    x = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)
    src = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 0, 1])
    for own, shares in ((True, [1 / 3, 1 / 2]), (False, [1 / 2, 1.0])):
        result = nbgather.scatter_reduce(x, 0, index, src, "amax", include_self=own)
        to_x, to_src = torch.autograd.grad(result.sum(), (x, src))
        assert to_x.tolist() == (shares if own else [0.0, 0.0])
        assert to_src.tolist() == [shares[0], shares[0], shares[1]]
