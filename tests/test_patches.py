"""Patches: the paper's einsum, the way back, video, containers, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from cases import DTYPES, random_bits, rng, same
from torch.fx.experimental.proxy_tensor import make_fx

import nbgather
from nbgather.kernels.cpu import limits as cpu_limits


def paper_patchify(images: torch.Tensor, p: int) -> torch.Tensor:
    """As in the code of the paper."""
    h = w = images.shape[2] // p
    x = images.reshape(images.shape[0], 3, h, p, w, p)
    x = torch.einsum("nchpwq->nhwpqc", x)
    return x.reshape(images.shape[0], h * w, p**2 * 3)


def test_the_papers_order() -> None:
    images = torch.randn(2, 3, 32, 32)
    got = nbgather.patchify(images, 8)
    assert type(got) is torch.Tensor
    assert torch.equal(got, paper_patchify(images, 8))
    assert torch.equal(nbgather.unpatchify(got, 8, 32), images)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_there_and_back(dtype: str) -> None:
    images = random_bits(rng(dtype), (2, 3, 6, 8), DTYPES[dtype])
    patches = nbgather.patchify(images, (3, 2))
    assert patches.shape == (2, 8, 18)
    # Patch (row 1, column 2), pixel (2, 1), channel 0.
    same(patches[:, 6, (2 * 2 + 1) * 3], images[:, 0, 5, 5])
    same(np.ascontiguousarray(nbgather.unpatchify(patches, (3, 2), (6, 8))), images)


@pytest.mark.parametrize("view", ["transposed", "reversed", "broadcast"])
def test_any_strides(view: str) -> None:
    images = random_bits(rng(view), (2, 3, 4, 6), "float32")
    images = {
        "transposed": images.transpose(0, 1, 3, 2),
        "reversed": images[:, ::-1, ::-1, ::-1],
        "broadcast": np.broadcast_to(images[:1, :1], images.shape),
    }[view]
    same(nbgather.patchify(images, 2), nbgather.patchify(images.copy(), 2))


def test_video() -> None:
    video = np.arange(2 * 3 * 4 * 6 * 8).reshape(2, 3, 4, 6, 8)
    patches = nbgather.patchify(video, (2, 3, 4))
    assert patches.shape == (2, 2 * 2 * 2, 2 * 3 * 4 * 3)
    # Patch (time 1, row 0, column 1), pixel (1, 2, 3), channel 2.
    assert patches[1, 5, ((1 * 3 + 2) * 4 + 3) * 3 + 2] == video[1, 2, 3, 2, 7]
    same(np.ascontiguousarray(nbgather.unpatchify(patches, (2, 3, 4), (4, 6, 8))), video)


def by_numpy(images: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Patches as NumPy cuts them."""
    n, channels, *sides = images.shape
    grid = [s // p for s, p in zip(sides, sizes, strict=True)]
    split = [m for pair in zip(grid, sizes, strict=True) for m in pair]
    nd = len(sizes)
    order = (0, *range(2, 2 + 2 * nd, 2), *range(3, 3 + 2 * nd, 2), 1)
    cut = images.reshape(n, channels, *split).transpose(order)
    return cut.reshape(n, int(np.prod(grid)), int(np.prod(sizes)) * channels)


BITS = ("uint8", "float16", "float32", "int64", "complex128")


def channels_and_dtypes() -> list[Any]:
    """Each has kernels of its own, to compile: beyond a fifth of them it is ``large``."""
    return [
        pytest.param(channels, dtype, marks=() if (k + n) % 5 == 0 else pytest.mark.large)
        for k, channels in enumerate([1, 2, 3, 4, 5, 8, 9, 19])
        for n, dtype in enumerate(BITS)
    ]


#: Sides of images and of patches which, with their neighbours, are larger ones: rows of patches,
#: columns, whole frames, all there is; and patches of one column.
MERGED = [
    ((6, 10), (1, 1)), ((6, 10), (1, 5)), ((6, 1), (1, 1)), ((6, 5), (2, 5)), ((6, 5), (1, 5)),
    ((6, 20), (3, 1)), ((4, 1), (2, 1)), ((4, 6, 10), (1, 1, 1)), ((4, 6, 5), (2, 3, 5)),
    ((4, 6, 5), (1, 3, 5)), ((4, 6, 5), (2, 6, 5)), ((4, 3, 5), (1, 1, 5)), ((4, 6, 20), (2, 2, 1)),
    ((4, 1, 1), (2, 1, 1)), ((2, 2, 2), (2, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize("samples", [1, 3, 17])
@pytest.mark.parametrize("sides, sizes", MERGED)
def test_patches_that_follow_each_other(
    sides: tuple[int, ...], sizes: tuple[int, ...], samples: int
) -> None:
    for channels in (1, 3):
        images = random_bits(rng(f"{sides} {sizes}"), (samples, channels, *sides), "float32")
        last = np.moveaxis(np.ascontiguousarray(np.moveaxis(images, 1, -1)), -1, 1)
        apart = np.repeat(images, 2, axis=0)[::2]
        turned = images[..., ::-1].copy()[..., ::-1]
        patches = by_numpy(images, sizes)
        for given in (images, last, apart, turned):
            same(nbgather.patchify(given, sizes), patches)
        longer = np.repeat(patches, 2, axis=1)[:, ::2]
        for given in (patches, longer):
            same(nbgather.unpatchify(given, sizes, sides), images)


def test_images_that_are_parts_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_NUM_THREADS", "3")
    for shape, sizes in (
        ((2, 1, 600, 500), (1, 1)),
        ((2, 3, 300, 401), (3, 1)),
        ((2, 1, 999, 200), (3, 200)),
    ):
        images = random_bits(rng(f"{shape}"), shape, "float32")
        patches = by_numpy(images, sizes)
        same(nbgather.patchify(images, sizes), patches)
        same(nbgather.unpatchify(patches, sizes, shape[2:]), images)


@pytest.mark.parametrize("channels, dtype", channels_and_dtypes())
def test_every_block_of_channels_and_pixels(dtype: str, channels: int) -> None:
    for height, width in (
        (1, 1),
        (3, 2),
        (2, 3),
        (1, 4),
        (2, 7),
        (8, 8),
        (1, 14),
        (2, 16),
        (1, 65),
    ):
        generator = rng(f"{dtype} {channels} {width}")
        sides = 2 * height, 3 * width
        images = random_bits(generator, (2, channels, *sides), dtype)
        patches = by_numpy(images, (height, width))
        last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        for given in (images, last):
            same(nbgather.patchify(given, (height, width)), patches)
        same(nbgather.unpatchify(patches, (height, width), sides), images)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_large_images_on_any_number_of_threads(dtype: str, threads: int) -> None:
    images = random_bits(rng("large"), (7, 3, 224, 208), dtype)
    video = random_bits(rng("video"), (3, 2, 8, 48, 60), dtype)
    with cpu_limits.limit_threads(threads):
        for given, sizes in ((images, (16, 8)), (images, (14, 13)), (video, (2, 16, 5))):
            patches = nbgather.patchify(given, sizes)
            same(patches, by_numpy(given, sizes))
            same(nbgather.unpatchify(patches, sizes, given.shape[2:]), given)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "side"), [("float32", 32), ("uint8", 64), ("float64", 16)])
def test_patches_that_share_places_of_the_cache(dtype: str, side: int, threads: int) -> None:
    """A few of a row are moved at a time."""
    images = random_bits(rng("places"), (5, 1, 2 * side, 11 * side), dtype)
    with cpu_limits.limit_threads(threads):
        patches = nbgather.patchify(images, side)
        same(patches, by_numpy(images, (side, side)))
        same(nbgather.unpatchify(patches, side, images.shape[2:]), images)


def test_patches_of_any_strides_are_put_together() -> None:
    images = random_bits(rng("strides"), (3, 3, 8, 12), "float32")
    patches = by_numpy(images, (4, 4))
    cls = np.concatenate([patches[:, :1], patches], 1)[:, 1:]
    every = np.repeat(patches, 2, 2)[..., ::2]
    turned = np.ascontiguousarray(patches[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    odd = np.frombuffer(b"0" + patches.tobytes(), np.uint8)[1:].view("f4").reshape(patches.shape)
    for given in (cls, every, turned, odd):
        same(nbgather.unpatchify(given, 4, (8, 12)), images)
    one = np.broadcast_to(patches[:1], patches.shape)
    same(nbgather.unpatchify(one, 4, (8, 12)), np.repeat(images[:1], 3, 0))
    unaligned = np.frombuffer(b"0" + images.tobytes(), np.uint8)[1:].view("f4")
    same(nbgather.patchify(unaligned.reshape(images.shape), 4), patches)


def test_other_bytes_and_sizes_of_items() -> None:
    for dtype in (">f4", "S3", "M8[s]", [("a", "u1"), ("b", "u2")]):
        images = np.zeros((2, 3, 4, 6), dtype)
        images.view(np.uint8)[...] = rng("b").integers(0, 100, images.view(np.uint8).shape)
        patches = nbgather.patchify(images, (2, 3))
        assert patches.dtype == images.dtype
        assert patches.tobytes() == by_numpy(images, (2, 3)).tobytes()
        assert nbgather.unpatchify(patches, (2, 3), (4, 6)).tobytes() == images.tobytes()


def test_the_result_is_no_view() -> None:
    images = np.zeros((2, 1, 4, 4))
    patches = nbgather.patchify(images, 4)
    patches += 1
    assert not images.any()
    nbgather.unpatchify(patches, 4, 4)[...] = 5
    assert (patches == 1).all()


def test_gradients_of_patches_are_each_other() -> None:
    images = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    video = torch.randn(1, 2, 2, 4, 2, dtype=torch.float64, requires_grad=True)
    for given, sizes in ((images, (2, 3)), (video, (1, 2, 2))):
        sides = tuple(given.shape[2:])
        cut = lambda x, p=sizes: nbgather.patchify(x, p)  # noqa: E731
        put = lambda q, p=sizes, s=sides: nbgather.unpatchify(q, p, s)  # noqa: E731
        patches = cut(given)
        assert patches.grad_fn is not None
        weight = torch.randn_like(patches)
        (gradient,) = torch.autograd.grad((patches * weight).sum(), given)
        assert torch.equal(gradient, put(weight))
        leaf = patches.detach().requires_grad_()
        for function, x in ((cut, given), (put, leaf)):
            assert torch.autograd.gradcheck(function, (x,), check_forward_ad=True)
            assert torch.autograd.gradgradcheck(function, (x,))
            batched = torch.func.vmap(function, in_dims=1, out_dims=1)(torch.stack([x, 2 * x], 1))
            assert torch.equal(batched[:, 1], function(2 * x))
            rows = torch.func.jacrev(function)(x.detach())
            assert torch.equal(rows, torch.func.jacfwd(function)(x.detach()))


def test_patches_of_torchs_other_tensors() -> None:
    meta = nbgather.patchify(torch.zeros(2, 3, 4, 4, device="meta"), 2)
    assert (meta.device.type, meta.shape) == ("meta", (2, 4, 12))
    back = nbgather.unpatchify(meta, 2, 4)
    assert (back.device.type, back.shape) == ("meta", (2, 3, 4, 4))
    turned = torch.randn(2, 3, 4, 4, dtype=torch.complex64)
    assert torch.equal(nbgather.patchify(turned.conj(), 2), nbgather.patchify(turned, 2).conj())
    half = torch.randn(2, 3, 4, 4).to(torch.bfloat16)
    assert torch.equal(nbgather.unpatchify(nbgather.patchify(half, 2), 2, 4), half)


def test_empty_batch() -> None:
    patches = nbgather.patchify(np.zeros((0, 3, 4, 4)), 2)
    assert patches.shape == (0, 4, 12)
    assert nbgather.unpatchify(patches, 2, 4).shape == (0, 3, 4, 4)


def test_gradients_flow() -> None:
    images = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: nbgather.patchify(x, 2), (images,))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: nbgather.patchify(np.zeros((1, 3, 5, 4)), 2), ValueError, "5"),
        (lambda: nbgather.patchify(np.zeros((3, 4, 4)), 2), ValueError, "(3, 4, 4)"),
        (lambda: nbgather.patchify(np.zeros((1, 3, 4, 4)), 0), ValueError, "0"),
        (lambda: nbgather.patchify(np.zeros((1, 3, 4, 4)), 2.0), TypeError, "2.0"),
        (lambda: nbgather.patchify(np.zeros((1, 3, 4, 4)), (2, 2, 2)), ValueError, "(2, 2, 2)"),
        (lambda: nbgather.unpatchify(np.zeros((1, 3, 12)), 2, 4), ValueError, "(1, 3, 12)"),
        (lambda: nbgather.unpatchify(np.zeros((1, 4, 13)), 2, 4), ValueError, "(1, 4, 13)"),
        (lambda: nbgather.unpatchify(np.zeros((1, 4, 12)), 2, (4, 4, 4)), ValueError, "3 sides"),
    ],
)
def test_refusals(call, kind, text) -> None:
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)


# Only the kept patches


def composed(images: np.ndarray, patch_size, affine=None, **how) -> tuple[np.ndarray, ...]:
    """patchify, then random_masking, then the arithmetic, each rounded to float32."""
    made = nbgather.random_masking(
        np.ascontiguousarray(nbgather.patchify(images, patch_size)), **how
    )
    if affine is None:
        return tuple(made)
    scale, mean, std = affine
    pixels = made.x_masked.shape[2] // images.shape[1]
    mean, std = (
        np.tile(np.broadcast_to(np.float32(v), (images.shape[1],)), pixels) for v in (mean, std)
    )
    kept = (made.x_masked.astype(np.float32) * np.float32(scale) - mean) / std
    if len(made) == 4:
        kept = np.where(made.valid[..., None], kept, np.float32(0))
    return (kept, *made[1:])


def as_tuple(made) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(part) for part in made)


SHAPES = (
    ((2, 3, 8, 12), 4),
    ((3, 1, 6, 6), (2, 3)),
    ((1, 4, 10, 5), (5, 1)),
    ((2, 3, 4, 6, 8), (2, 3, 4)),
    ((2, 2, 3, 4, 4), (1, 4, 2)),
    ((0, 3, 4, 4), 2),
)


@pytest.mark.parametrize(("shape", "patch_size"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_patches_of_every_dtype(dtype: str, shape, patch_size, backend: str) -> None:
    images = random_bits(rng(dtype), shape, DTYPES[dtype])
    got = nbgather.masked_patchify(images, patch_size, 0.5, seed=4, epoch=1, backend=backend)
    for mine, plain in zip(
        got, composed(images, patch_size, mask_ratio=0.5, seed=4, epoch=1), strict=True
    ):
        same(mine, plain)


AFFINE = (
    (1 / 255, 0.0, 1.0),
    (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    (1.0, 0.1, (3.0, -2.0, 0.7)),
)


@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "reversed", "sliced"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("tensors", [False, True])
def test_kept_patches_are_normalised_on_the_way(
    dtype: str, layout: str, affine, tensors: bool, backend: str
) -> None:
    generator = rng("pixels")
    images = generator.integers(0, 256, (5, 3, 32, 48)).astype(np.uint8)
    if dtype == "float32":
        images = generator.standard_normal(images.shape).astype(np.float32) * np.float32(1e3)
    if layout == "NHWC":
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    elif layout == "reversed" and not tensors:
        images = images[:, ::-1, ::-1, ::-1]
    elif layout == "sliced":
        images = np.repeat(images, 2, 3)[..., ::2]
    scale, mean, std = affine
    given = torch.from_numpy(images) if tensors else images
    got = nbgather.masked_patchify(
        given, (16, 8), seed=1, scale=scale, mean=mean, std=std, backend=backend
    )
    assert type(got.x_masked) is type(given)
    for mine, plain in zip(as_tuple(got), composed(images, (16, 8), affine, seed=1), strict=True):
        same(mine, plain)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("given", ["scale", "mean", "std"])
def test_each_of_scale_mean_and_std_alone(given: str, channels: int, backend: str) -> None:
    images = rng("one").integers(0, 256, (2, channels, 8, 8)).astype(np.uint8)
    values = {"scale": 1.0, "mean": 0.0, "std": 1.0, given: 3.0}
    got = nbgather.masked_patchify(images, 4, seed=1, backend=backend, **{given: 3.0})
    for mine, plain in zip(got, composed(images, 4, tuple(values.values()), seed=1), strict=True):
        same(mine, plain)


@pytest.mark.parametrize("affine", [None, AFFINE[1]])
@pytest.mark.parametrize("how", ["counts", "noise", "ids"])
def test_kept_patches_by_any_choice(how: str, affine, backend: str) -> None:
    images = rng("any").integers(0, 256, (4, 3, 8, 12)).astype(np.uint8)
    own = {
        "counts": {"num_keep": [3, 0, 6, 1], "seed": 2},
        "noise": {"noise": rng("n").random((4, 6)).astype(np.float16), "mask_ratio": 0.3},
        "ids": {"seed": -1, "sample_ids": np.array([9, -1, 9, 2**50]), "epoch": 3},
    }[how]
    keywords = {} if affine is None else dict(zip(("scale", "mean", "std"), affine, strict=True))
    got = nbgather.masked_patchify(images, 4, backend=backend, **own, **keywords)
    for mine, plain in zip(got, composed(images, 4, affine, **own), strict=True):
        same(mine, plain)


def test_kept_patches_of_other_bytes() -> None:
    images = rng("bytes").standard_normal((2, 3, 8, 8)).astype(np.float32)
    want = nbgather.masked_patchify(images, 4, seed=0, scale=2.0).x_masked
    swapped = images.astype(">f4")
    same(nbgather.masked_patchify(swapped, 4, seed=0, scale=2.0).x_masked, want)
    moved = nbgather.masked_patchify(swapped, 4, seed=0).x_masked
    assert moved.dtype == swapped.dtype
    same(moved * 2, want)
    odd = np.frombuffer(b"0" + images.tobytes(), np.uint8)[1:].view("f4").reshape(images.shape)
    same(nbgather.masked_patchify(odd, 4, seed=0, scale=2.0).x_masked, want)


def test_kept_patches_have_gradients() -> None:
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    got = nbgather.masked_patchify(images, 4, seed=0, scale=0.5, mean=0.1, std=2.0).x_masked
    got.sum().backward()
    made = nbgather.masked_patchify(images.detach(), 4, seed=0)
    cells = (1 - made.mask).reshape(2, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(images.grad, (cells * 0.25).expand(2, 3, 8, 8))


GUARDED = """
import ctypes, mmap, sys
import numpy as np
import nbgather

# A patch is a row of pixels on a page of its own; the pages of removed patches cannot be read.
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 8 * page)
images = np.frombuffer(memory, np.uint8).reshape(1, 1, 8, page)
images[...] = np.arange(8)[:, None]
mask = nbgather.random_masking(np.zeros((1, 8, 1)), 0.5, seed=3).mask[0]
start = images.ctypes.data
libc = ctypes.CDLL(None, use_errno=True)
for row in np.flatnonzero(mask == 1):
    assert libc.mprotect(ctypes.c_void_p(start + int(row) * page), page, 0) == 0
if sys.argv[1] == "all":
    images.sum()  # the guard is there: this ends the process
for how in ({}, {"scale": 2.0}):
    got = nbgather.masked_patchify(images, (1, page), 0.5, seed=3, **how)
    assert (got.mask[0] == mask).all()
    kept = np.sort(got.x_masked[0, :, 0])
    assert kept.tolist() == [r * (2 if how else 1) for r in np.flatnonzero(mask == 0)]
sys.stdout.write("done")
sys.stdout.flush()
import os
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="mprotect is POSIX's")
@pytest.mark.parametrize("what", ["kept", "all"])
def test_removed_pixels_are_never_read(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", GUARDED, what], capture_output=True, text=True)
    if what == "all":
        assert done.returncode < 0
    else:
        assert (done.returncode, done.stdout) == (0, "done"), done.stderr


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"scale": (1, 2)}, ValueError, "scale has shape (2,): one number is needed"),
        ({"mean": (1, 2)}, ValueError, "mean has shape (2,): one number is needed, or 3, one"),
        ({"std": 0}, ValueError, "std is 0: none may be 0"),
        ({"std": (1, 1, 1e-60)}, ValueError, "none may be 0 in float32"),
        ({"scale": float("inf")}, ValueError, "scale is inf: finite numbers"),
        ({"mean": 1e39}, ValueError, "mean is 1e+39: finite numbers"),
        ({"std": "wide"}, TypeError, "std is 'wide': numbers are needed"),
        ({"seed": 0, "noise": np.zeros((2, 4))}, ValueError, "both noise and seed"),
        ({"noise": np.zeros((2, 5))}, ValueError, "noise has shape (2, 5) and images (2, 3, 4, 4)"),
        ({"seed": 0, "sample_ids": np.arange(3)}, ValueError, "the 2 samples of images"),
        ({"mask_ratio": 1.5}, ValueError, "mask_ratio is 1.5"),
        ({"num_keep": 5}, ValueError, "num_keep is 5: it must be between 0 and L = 4"),
        ({"backend": "x"}, ValueError, "backend is 'x'"),
    ],
)
def test_refusals_of_masked_patchify(keywords, error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        nbgather.masked_patchify(np.zeros((2, 3, 4, 4), np.uint8), 2, **keywords)
    assert text in str(raised.value)


@pytest.mark.parametrize("dtype", ["int64", "float64", "bool", "float16"])
def test_other_dtypes_are_not_normalised(dtype: str) -> None:
    for images in (
        np.zeros((1, 3, 4, 4), dtype),
        torch.zeros(1, 3, 4, 4).to(getattr(torch, dtype)),
    ):
        with pytest.raises(TypeError) as raised:
            nbgather.masked_patchify(images, 2, seed=0, scale=1.0)
        assert "uint8 or float32 can be normalised" in str(raised.value)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (
            (2, 32, 48, 3),
            "images has shape (2, 32, 48, 3), taken as [N, C, H, W]: sides (48, 3) cannot be cut"
            " into patches of (16, 16): each must divide; it looks like [N, H, W, C], whose"
            " channels must go to dimension 1",
        ),
        (
            (2, 3, 32, 40),
            "images has shape (2, 3, 32, 40), taken as [N, C, H, W]: sides (32, 40) cannot be cut"
            " into patches of (16, 16): each must divide",
        ),
        ((3, 32, 32), "images has shape (3, 32, 32): [N, C, H, W] or [N, C, T, H, W] is needed"),
    ],
)
def test_shapes_are_told_with_their_meaning(shape: tuple[int, ...], text: str) -> None:
    images = np.zeros(shape, np.uint8)
    calls = [
        lambda: nbgather.patchify(images, 16),
        lambda: nbgather.masked_patchify(images, 16, seed=0),
    ]
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == text


def test_normalised_patches_made_again_are_of_their_own_numbers() -> None:
    """A call that is repeated is found by every number, with its type, sign and place."""
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (4, 3, 8, 12), np.uint8)
    zeros = images.astype(np.float32) * np.float32(-0.0)
    third = [0.5, 0.25, 0.125]
    numbers = [
        {"scale": 1 / 255},
        {"scale": 1 / 255, "mean": 0.5},
        {"scale": 1 / 255, "std": 0.5},
        {"mean": third},
        {"mean": tuple(third[::-1])},
        {"std": third},
        {"mean": 0.0},
        {"mean": -0.0},
        {"mean": 0},
        {"mean": [0.0, -0.0, 0.0]},
        {"mean": [-0.0, 0.0, 0.0]},
        {"mean": np.float32(0.1)},
        {"mean": 0.1, "std": np.array(third)},
    ]
    for _ in range(4):
        for pixels in (images, zeros, torch.from_numpy(images), images[:, :1], images[..., ::-1]):
            for given in numbers:
                if pixels.shape[1] == 1 and any(np.ndim(v) for v in given.values()):
                    with pytest.raises(ValueError, match="3"):
                        nbgather.masked_patchify(pixels, 4, 0.5, seed=1, **given)
                    continue
                got = nbgather.masked_patchify(pixels, 4, 0.5, seed=1, **given)
                host = np.asarray(pixels)
                want = nbgather.masked_patchify(host, 4, 0.5, seed=1, backend="reference", **given)
                for one, other in zip(got, want, strict=True):
                    assert type(one) is type(pixels)
                    assert np.asarray(one).tobytes() == other.tobytes(), given
        for wrong in (True, [0.5, 0.5], float("nan"), "0.5", [0.5, None, 0.5]):
            with pytest.raises((TypeError, ValueError)):
                nbgather.masked_patchify(images, 4, 0.5, seed=1, mean=wrong)
        for wrong in (0, -0.0, float("inf"), [1, 0, 1]):
            with pytest.raises(ValueError, match="std"):
                nbgather.masked_patchify(images, 4, 0.5, seed=1, std=wrong)


def test_normalised_patches_of_a_symbolic_number_of_channels() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)

    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(nbgather.masked_patchify(x, 4, 0.5, seed=1, scale=0.5, mean=0.25))

    traced = make_fx(run, tracing_mode="symbolic")(images)
    for one, other in zip(traced(images), run(images), strict=True):
        assert torch.equal(one, other)
