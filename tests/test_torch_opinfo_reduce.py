"""torch's own samples of scatter_reduce, index_add and segment_reduce, good and bad ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_torch_opinfo import opinfos

import nbgather

opinfos()  # so that torch's samples can be imported
_OPS = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db
INFOS = {
    f"{info.name} {info.variant_test_name}".strip(): info
    for info in _OPS
    if info.name in ("scatter_reduce", "index_add", "_segment_reduce")
}
SEGMENTS = {"sum": "sum", "prod": "prod", "mean": "mean", "max": "amax", "min": "amin"}


def ours(name: str, x: torch.Tensor, args: tuple[Any, ...], given: dict[str, Any]) -> torch.Tensor:
    if name.startswith("scatter_reduce"):
        return nbgather.scatter_reduce(x, *args, **given)
    if name == "index_add":
        dim, index, source = args
        if source.ndim == x.ndim > 0:
            wide = index.reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
            index = wide.expand(source.shape)
        return nbgather.scatter_add(x, dim, index, source * given.get("alpha", 1))
    where = {"counts": given["lengths"]} if "lengths" in given else {"offsets": given["offsets"]}
    rows = int(where["counts"].sum() if "counts" in where else where["offsets"][-1])
    return nbgather.segment_reduce(x[:rows], SEGMENTS[args[0]], **where)


def inapplicable(name: str, sample: Any) -> str:
    """Why a sample of torch's has no counterpart here; "" where it has."""
    given = sample.kwargs
    if not name.startswith("_segment"):
        return ""
    where = given.get("lengths", given.get("offsets"))
    return (
        "" if where.ndim == 1 and not given.get("axis") else "segments are of the first dimension"
    )


def samples(name: str, dtype: torch.dtype, grad: bool) -> Iterator[Any]:
    torch.manual_seed(0)
    info = INFOS[name]
    if dtype not in info.supported_dtypes("cpu"):
        return
    for sample in info.sample_inputs("cpu", dtype, requires_grad=grad):
        if not inapplicable(name, sample):
            # Segments begin with what the reduction begins with.
            given = {k: v for k, v in sample.kwargs.items() if k != "initial"}
            yield sample.input, sample.args, given


def test_most_samples_apply() -> None:
    counts = {name: len(list(samples(name, torch.float32, False))) for name in INFOS}
    assert len(counts) == 8
    assert min(counts.values()) >= 4, counts


@pytest.mark.parametrize("name", INFOS)
def test_samples(name: str) -> None:
    dtypes = [torch.float32] if name.startswith("_segment") else [torch.float32, torch.bfloat16]
    for dtype in dtypes:
        for x, args, given in samples(name, dtype, False):
            got, want = ours(name, x, args, given), INFOS[name].op(x, *args, **given)
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            if dtype == torch.bfloat16 and name == "index_add":
                torch.testing.assert_close(got, want)  # torch rounds each sum
            else:
                assert torch.equal(got.nan_to_num(7), want.nan_to_num(7)), (args, given)


@pytest.mark.parametrize("name", INFOS)
def test_gradients_of_samples(name: str) -> None:
    for x, args, given in samples(name, torch.float64, True):
        inputs = [a for a in (x, *args) if isinstance(a, torch.Tensor) and a.requires_grad]
        grads = []
        for call in (lambda *a: ours(name, *a), lambda x, a, g: INFOS[name].op(x, *a, **g)):
            result = call(x, args, given)
            weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
            grads.append(torch.autograd.grad((result * weight).sum(), inputs, allow_unused=True))
        for got, want in zip(*grads, strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", INFOS)
def test_what_torch_refuses_is_refused(name: str) -> None:
    info = INFOS[name]
    if info.error_inputs_func is None:
        pytest.skip("torch has no bad samples of it")
    found = 0
    for bad in info.error_inputs("cpu"):
        sample = bad.sample_input
        with pytest.raises((TypeError, ValueError, IndexError)) as caught:
            ours(name, sample.input, sample.args, sample.kwargs)
        assert len(str(caught.value)) > 20
        found += 1
    assert found > 0
