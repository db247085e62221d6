"""torch's road to the CUDA backend, without a GPU: the CPU's tensors pass for the device's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from pretender import Pretender, pretending
from simulator import Driver

import nbgather


@pytest.fixture
def small() -> Iterator[Driver]:
    with pretending(32) as driver:
        yield driver


def test_every_call_goes_to_the_device_and_is_right(small: Driver) -> None:
    x, index = torch.randn(3, 8, 4), torch.randint(0, 8, (3, 5, 4))
    assert torch.equal(nbgather.gather(x, 1, index), torch.gather(x, 1, index))
    got = nbgather.take_along_axis(x, index[:, :, :1], 1)
    assert torch.equal(got, torch.take_along_dim(x, index[:, :, :1], 1))
    wide = index[:, :, :1].expand(3, 5, 4)
    assert torch.equal(nbgather.gather_tokens(x, index[..., 0]), torch.gather(x, 1, wide))
    src = torch.randn(3, 5, 4)
    assert torch.equal(nbgather.scatter_add(x, 1, index, src), x.scatter_add(1, index, src))
    assert torch.equal(nbgather.scatter(x, 1, index, 2.5), x.scatter(1, index, 2.5))
    half = x.bfloat16()
    got = nbgather.scatter_add(half, 1, index, src.bfloat16())
    assert got.dtype is torch.bfloat16
    ids = torch.arange(3) * 5
    want = nbgather.token_noise(1, ids.numpy(), 9)
    assert nbgather.token_noise(1, ids, 9).numpy().tobytes() == want.tobytes()
    noise = torch.rand(3, 8).half()
    for options in ({"seed": 4}, {"noise": noise}, {"seed": 4, "num_keep": [1, 8, 0]}):
        masked = nbgather.random_masking(x, 0.5, **options)
        on_host = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        for a, b in zip(masked, nbgather.random_masking(x.numpy(), 0.5, **on_host), strict=True):
            assert a.numpy().tobytes() == b.tobytes()
    masked = nbgather.random_masking(x, 0.5, seed=1)
    for token in (0.5, torch.arange(4.0), torch.ones(1, 1, 4)):
        back = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, token)
        keep = masked.mask[..., None] == 0
        assert torch.equal(back, torch.where(keep, x, torch.as_tensor(token).reshape(-1)))
    few = nbgather.random_masking(x, seed=1, num_keep=[2, 5, 8])
    back = nbgather.restore_tokens(few.x_masked, few.ids_restore, 0.0, valid=few.valid)
    assert torch.equal(back, torch.where(few.mask[..., None] == 0, x, torch.zeros(())))
    packed = nbgather.random_masking(x, seed=1, num_keep=[2, 5, 8], packed=True)
    rows = [few.x_masked[n, :k] for n, k in enumerate((2, 5, 8))]
    assert torch.equal(packed.x_masked, torch.cat(rows))
    assert packed.cu_seqlens.tolist() == [0, 2, 7, 15]
    again = nbgather.restore_tokens(
        packed.x_masked, packed.ids_restore, 0.0, cu_seqlens=packed.cu_seqlens
    )
    assert torch.equal(again, back)
    images = torch.randint(0, 256, (2, 3, 8, 8)).byte()
    for options in ({"num_keep": [1, 3]}, {"mask_ratio": 0.5}):
        packed = nbgather.masked_patchify(images, 4, seed=1, scale=0.5, packed=True, **options)
        want = nbgather.masked_patchify(
            images.numpy(), 4, seed=1, scale=0.5, packed=True, **options
        )
        assert packed.x_masked.numpy().tobytes() == want.x_masked.tobytes()
    sizes = [images[0], images[1, :, :4]]
    packed = nbgather.masked_patchify(sizes, 4, 0.5, seed=1, packed=True)
    want = nbgather.masked_patchify([i.numpy() for i in sizes], 4, 0.5, seed=1, packed=True)
    assert packed.x_masked.numpy().tobytes() == want.x_masked.tobytes()
    masked = nbgather.masked_patchify(images, 4, seed=1, scale=1 / 255, mean=0.5, std=0.25)
    want = nbgather.masked_patchify(images.numpy(), 4, seed=1, scale=1 / 255, mean=0.5, std=0.25)
    assert masked.x_masked.numpy().tobytes() == want.x_masked.tobytes()
    assert len(small.launches) > 15


def test_gradients(small: Driver) -> None:
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 5, (2, 4, 3))
    token = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: nbgather.gather(a, 1, index), (x,), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda a: nbgather.random_masking(a, 0.5, seed=1)[0], (x,), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda a: nbgather.random_masking(a, seed=1, num_keep=[1, 4], packed=True)[0],
        (x,),
        fast_mode=True,
    )
    masked = nbgather.random_masking(x.detach(), 0.5, seed=1)
    visible = masked.x_masked.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, t: nbgather.restore_tokens(v, masked.ids_restore, t),
        (visible, token),
        fast_mode=True,
    )
    src = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, s: nbgather.scatter_add(a, 1, index, s), (x, src), fast_mode=True
    )


def test_a_gradient_adds_in_order_and_not_by_atomics_of_torch(
    small: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of the CPU, where several cotangents go to one place."""
    # The graph of a small call on the host is torch's; tensors on a device have none of these.
    monkeypatch.setattr(Pretender, "small_graph", lambda self, *args: None)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("torch was asked to add")

    x, index = torch.randn(2, 9, 8), torch.randint(0, 9, (2, 40, 8))
    rows, cotangent = index[..., 0], torch.randn(2, 40, 8)
    calls = {
        "shared lines": lambda a: nbgather.gather(a, 1, index),
        "looks": lambda a: nbgather.gather_tokens(a, rows),
    }
    for kernel, call in calls.items():
        leaf = x.clone().requires_grad_()
        result = call(leaf)
        small.launches.clear()
        with monkeypatch.context() as patch:
            for name in ("scatter_add", "scatter_add_", "index_add", "index_add_", "index_put_"):
                patch.setattr(torch.Tensor, name, refuse)
            (grad,) = torch.autograd.grad(result, leaf, cotangent)
        assert small.launches[-1][0][0] == kernel
        where = index if kernel != "looks" else rows[..., None].expand(2, 40, 8)
        want = nbgather.scatter_add(np.zeros(x.shape, "f4"), 1, where.numpy(), cotangent.numpy())
        assert grad.numpy().tobytes() == want.tobytes()
    masked = nbgather.random_masking(leaf, 0.5, seed=1)
    small.launches.clear()
    torch.autograd.grad(masked.x_masked, leaf, torch.ones(2, 4, 8))
    assert [key[0] for key, _, _ in small.launches] == ["rows"]  # nothing is added: one row gather


def test_errors(small: Driver) -> None:
    x, index = torch.zeros(3, 4), torch.zeros(3, 2, dtype=torch.int64)
    index[1, 1] = 4
    with pytest.raises(IndexError, match=r"index 4 at \(1, 1\) is out of bounds for dimension 1"):
        nbgather.gather(x, 1, index)
    with pytest.raises(TypeError, match="x_visible is a torch array and mask_token a NumPy one"):
        nbgather.restore_tokens(torch.zeros(1, 1, 4), torch.zeros(1, 2).long(), np.zeros(4))
    with pytest.raises(ValueError, match="backend 'cpu' cannot serve arrays on"):
        nbgather.gather(x, 1, index, backend="cpu")
