"""Packed tokens: the dense call's values without its padding, and what takes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from cases import random_bits, rng, same
from test_containers import CALLS as CONTAINER_CALLS
from torch._subclasses.fake_tensor import FakeTensorMode

import nbgather
from nbgather import strategies
from nbgather.packing import token_batches

COUNTS = [4, 0, 9, 1, 9]
ENDS = np.array([0, 4, 4, 13, 14, 23], np.int32)
X = random_bits(rng("packed"), (5, 9, 4), "float32")
IMAGES = rng("images").integers(0, 256, (5, 3, 6, 6), np.uint8)
VIDEO = rng("video").integers(0, 256, (5, 3, 2, 6, 6), np.uint8)
SIDES = [(8, 12), (12, 8), (16, 20), (8, 12), (4, 4)]
PICTURES = [rng(str(s)).integers(0, 256, (3, *s), np.uint8) for s in SIDES]


def rows_of(padded: Any, counts: list[int]) -> np.ndarray:
    """The tokens of a dense call, one sample after the other."""
    return np.concatenate([np.asarray(padded.x_masked)[n, :k] for n, k in enumerate(counts)])


def check_packed(packed: Any, padded: Any, counts: list[int]) -> None:
    assert type(packed) is nbgather.PackedTokens
    same(np.asarray(packed.x_masked), rows_of(padded, counts))
    same(np.asarray(packed.mask), np.asarray(padded.mask))
    same(np.asarray(packed.ids_restore), np.asarray(padded.ids_restore))
    same(np.asarray(packed.cu_seqlens), np.cumsum([0, *counts]).astype(np.int32))
    assert packed.max_seqlen == max(counts, default=0)
    assert type(packed.max_seqlen) is int


@pytest.mark.parametrize("view", ["plain", "strided", "reversed"])
@pytest.mark.parametrize("given", ["seed", "noise"])
def test_packed_tokens_are_the_dense_calls(given: str, view: str, backend: str) -> None:
    x = {"plain": X, "strided": X[..., ::2], "reversed": X[::-1, ::-1]}[view]
    source: Any = {"seed": 3} if given == "seed" else {"noise": nbgather.token_noise(3, 5, 9)}
    for wrap in (np.asarray, lambda a: torch.from_numpy(a.copy())):
        tokens = wrap(x)
        options = {**source, "backend": backend}
        packed = nbgather.random_masking(tokens, num_keep=COUNTS, packed=True, **options)
        assert type(packed.x_masked) is type(packed.cu_seqlens) is type(tokens)
        check_packed(packed, nbgather.random_masking(x, num_keep=COUNTS, **source), COUNTS)
        for ratio in (0.5, 0.75, 1.0, 0.0):
            packed = nbgather.random_masking(tokens, ratio, packed=True, **options)
            kept = int(9 * (1 - ratio))
            check_packed(packed, nbgather.random_masking(x, ratio, **source), [kept] * 5)


@pytest.mark.parametrize("kind", ["images", "normalised", "video"])
def test_packed_patches_are_the_dense_calls(kind: str, backend: str) -> None:
    images = VIDEO if kind == "video" else IMAGES
    size: Any = (2, 2, 2) if kind == "video" else 2
    pixels = {"scale": 1 / 255, "mean": [0.1, 0.2, 0.3]} if kind == "normalised" else {}
    for array in (images, torch.from_numpy(images), images[::-1, ::-1, ..., ::-1]):
        for how in ({"num_keep": COUNTS}, {"num_keep": 4}, {"mask_ratio": 0.6}):
            options: Any = {"seed": 9, "epoch": 2, **how, **pixels}
            packed = nbgather.masked_patchify(array, size, packed=True, backend=backend, **options)
            padded = nbgather.masked_patchify(np.ascontiguousarray(array), size, **options)
            counts = how.get("num_keep", padded.x_masked.shape[1])
            check_packed(packed, padded, counts if isinstance(counts, list) else [counts] * 5)


@pytest.mark.parametrize("samples", [0, 1])
def test_few_samples_and_none(samples: int) -> None:
    for counts in ([9], [0]):
        given = counts * samples
        made = nbgather.random_masking(X[:samples], num_keep=given, seed=0, packed=True)
        assert made.x_masked.shape == (sum(given), 4)
        check_packed(made, nbgather.random_masking(X[:samples], num_keep=given, seed=0), given) if (
            samples
        ) else same(made.cu_seqlens, np.zeros(1, np.int32))
        back = nbgather.restore_tokens(
            made.x_masked, made.ids_restore, 0.5, cu_seqlens=made.cu_seqlens
        )
        same(back, np.where(made.mask[..., None] == 1, np.float32(0.5), X[:samples]))
    made = nbgather.masked_patchify(IMAGES[:samples], 2, packed=True, seed=0)
    assert (made.x_masked.shape, made.max_seqlen) == ((2 * samples, 12), 2 * samples)


def test_a_ratio_for_each_sample() -> None:
    ratios = [0.0, 0.25, 0.5, 0.99, 1.0]
    counts = [int(9 * (1 - r)) for r in ratios]
    want = nbgather.random_masking(X, num_keep=counts, seed=1)
    for given in (ratios, tuple(ratios), np.array(ratios)):
        got = nbgather.random_masking(X, given, seed=1)
        assert type(got) is nbgather.PaddedTokens
        for mine, theirs in zip(got, want, strict=True):
            same(mine, theirs)
        check_packed(nbgather.random_masking(X, given, seed=1, packed=True), want, counts)
        check_packed(
            nbgather.masked_patchify(IMAGES, 2, given, seed=1, packed=True),
            nbgather.masked_patchify(IMAGES, 2, num_keep=counts, seed=1),
            counts,
        )


@pytest.mark.parametrize("tensors", [False, True])
def test_packed_tokens_are_restored(tensors: bool, backend: str) -> None:
    x, token = X.view(np.int32), np.arange(4, dtype=np.int32)
    if tensors:
        x, token = torch.from_numpy(x), torch.from_numpy(token)
    made = nbgather.random_masking(x, num_keep=COUNTS, seed=3, packed=True)
    for ends in (made.cu_seqlens, ENDS, ENDS.tolist(), ENDS.astype(np.int64)):
        back = nbgather.restore_tokens(
            made.x_masked, made.ids_restore, token, cu_seqlens=ends, backend=backend
        )
        assert type(back) is type(x)
        want = np.where(np.asarray(made.mask)[..., None] == 1, np.asarray(token), np.asarray(x))
        same(np.asarray(back), want)


# Images of different sizes


@pytest.mark.parametrize("how", ["list", "tensors", "nested", "jagged", "last", "jax"])
def test_images_of_different_sizes(how: str) -> None:
    ids = [70, 8, -3, 2**40, 5]
    images: Any = {
        "list": PICTURES,
        "tensors": tuple(map(torch.from_numpy, PICTURES)),
        "jax": [jax.numpy.asarray(p) for p in PICTURES],
        "last": [p.transpose(1, 2, 0) for p in PICTURES],
    }.get(how)
    if how in ("nested", "jagged"):
        images = torch.nested.nested_tensor(list(map(torch.from_numpy, PICTURES)))
    channels: Any = "last" if how == "last" else "first"
    options: Any = {"seed": 7, "epoch": 1, "scale": 1 / 255, "std": 0.5}
    made = nbgather.masked_patchify(
        images, 4, [0.5, 0.2, 0.9, 0.5, 0.0], packed=True, sample_ids=ids, channels=channels,
        **options,
    )  # fmt: skip
    assert type(made) is nbgather.PackedImages
    assert made.grids == ((2, 3), (3, 2), (4, 5), (2, 3), (1, 1))
    ends, tokens = np.asarray(made.cu_seqlens), np.asarray(made.cu_tokens)
    assert (ends.dtype, tokens.dtype) == (np.int32, np.int32)
    assert tokens.tolist() == [0, 6, 12, 32, 38, 39]
    assert made.max_seqlen == np.diff(ends).max()
    whole = []
    for n, picture in enumerate(PICTURES):
        one = nbgather.masked_patchify(
            picture[None], 4, [0.5, 0.2, 0.9, 0.5, 0.0][n], sample_ids=ids[n : n + 1], **options
        )
        row, place = slice(*ends[n : n + 2]), slice(*tokens[n : n + 2])
        same(np.asarray(made.x_masked)[row], one.x_masked[0])
        same(np.asarray(made.mask)[place], one.mask[0])
        assert np.asarray(made.ids_restore)[place].tolist() == one.ids_restore[0].tolist()
        kept = np.asarray(made.ids_keep)[row]
        assert np.asarray(made.ids_restore)[place][kept].tolist() == list(range(len(kept)))
        patches = nbgather.patchify(picture[None], 4)[0].astype(np.float32)
        whole.append(patches * np.float32(1 / 255) / np.float32(0.5))
    back = nbgather.restore_tokens(
        made.x_masked, made.ids_restore, -1.0,
        cu_seqlens=made.cu_seqlens, cu_tokens=made.cu_tokens,
    )  # fmt: skip
    mask = np.asarray(made.mask)[:, None]
    same(np.asarray(back), np.where(mask == 1, np.float32(-1), np.concatenate(whole)))


def test_images_of_different_sizes_by_noise_and_by_chance() -> None:
    noise = [strategies.block(1, [n], (s[0] // 4, s[1] // 4))[0] for n, s in enumerate(SIDES)]
    made = nbgather.masked_patchify(PICTURES, 4, 0.5, noise=noise, packed=True)
    for n, picture in enumerate(PICTURES):
        one = nbgather.masked_patchify(picture[None], 4, 0.5, noise=noise[n][None])
        same(made.x_masked[slice(*made.cu_seqlens[n : n + 2])], one.x_masked[0])
    tensors = list(map(torch.from_numpy, PICTURES))
    torch.manual_seed(3)
    first = nbgather.masked_patchify(tensors, 4, packed=True).ids_keep
    torch.manual_seed(3)
    assert torch.equal(first, nbgather.masked_patchify(tensors, 4, packed=True).ids_keep)


def test_a_clip_and_a_gradient_of_different_sizes() -> None:
    clips = [VIDEO[0], VIDEO[1, :, :, :4]]
    made = nbgather.masked_patchify(clips, (2, 2, 2), 0.5, seed=0, packed=True)
    assert (made.grids, made.cu_seqlens.tolist()) == (((1, 3, 3), (1, 2, 3)), [0, 4, 7])
    images = [torch.rand(3, 4, 8, requires_grad=True), torch.rand(3, 8, 4, requires_grad=True)]
    packed = nbgather.masked_patchify(images, 4, 0.5, seed=0, packed=True)
    packed.x_masked.sum().backward()
    for n, image in enumerate(images):
        left = 1 - packed.mask[slice(*packed.cu_tokens[n : n + 2])]
        want = left[None, :, None].expand(1, 2, 48)
        assert torch.equal(image.grad, nbgather.unpatchify(want, 4, image.shape[1:])[0])


def test_token_batches() -> None:
    assert list(token_batches([49, 20, 30, 64, 10, 100, 0], 100)) == [[0, 1, 2], [3, 4], [5, 6]]
    assert list(token_batches([], 5)) == []
    counts = rng("batches").integers(1, 60, 500).tolist()
    batches = list(token_batches(iter(counts), 128))
    assert list(itertools.chain(*batches)) == list(range(500))
    for batch, after in itertools.pairwise(batches):
        held = sum(counts[n] for n in batch)
        assert held <= 128 < held + counts[after[0]]


# What torch, JAX and Dask do with them


def there_and_back(x: Any, token: Any) -> Any:
    made = nbgather.random_masking(x, num_keep=COUNTS, seed=3, packed=True)
    return nbgather.restore_tokens(
        made.x_masked, made.ids_restore, token, cu_seqlens=made.cu_seqlens
    )


def test_gradients_graphs_and_batches_of_torch() -> None:
    x = torch.randn(5, 9, 4, dtype=torch.float64, requires_grad=True)
    token = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(there_and_back, (x, token))
    images = torch.rand(2, 3, 4, 4, dtype=torch.float32, requires_grad=True)
    options: Any = {"num_keep": [1, 3], "seed": 1, "scale": 2.0}
    (packed,) = torch.autograd.grad(
        nbgather.masked_patchify(images, 2, packed=True, **options).x_masked.sum(), images
    )
    (padded,) = torch.autograd.grad(
        nbgather.masked_patchify(images, 2, **options).x_masked.sum(), images
    )
    assert torch.equal(packed, padded)
    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    want = there_and_back(x, token)
    got = compiled(x, token)
    assert torch.equal(got, want)
    grads = [torch.autograd.grad(r.square().sum(), (x, token)) for r in (got, want)]
    for mine, theirs in zip(*grads, strict=True):
        assert torch.equal(mine, theirs)
    many = torch.randn(3, 5, 9, 4)
    made = torch.func.vmap(lambda x: there_and_back(x, torch.zeros(4)))(many)
    assert torch.equal(made, torch.stack([there_and_back(x, torch.zeros(4)) for x in many]))
    dynamic = torch.compile(
        lambda x: nbgather.random_masking(x, 0.5, seed=1, packed=True)[:4],
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    for samples in (3, 4):
        eager = nbgather.random_masking(many[0, :samples], 0.5, seed=1, packed=True)
        for mine, theirs in zip(dynamic(many[0, :samples]), eager, strict=False):
            assert torch.equal(mine, theirs)


def test_varlen_attention_and_nested_tensors_take_them() -> None:
    x = torch.randn(3, 10, 32, requires_grad=True)
    made = nbgather.random_masking(x, num_keep=[3, 7, 5], seed=0, packed=True)
    heads = made.x_masked.reshape(-1, 2, 16)
    ends = made.cu_seqlens
    nested = torch.nested.nested_tensor_from_jagged(heads, ends.long()).transpose(1, 2)
    attended = torch.nn.functional.scaled_dot_product_attention(nested, nested, nested)
    values = attended.transpose(1, 2).values()
    for n in range(3):
        one = heads[ends[n] : ends[n + 1]].transpose(0, 1)[None]
        want = torch.nn.functional.scaled_dot_product_attention(one, one, one)
        torch.testing.assert_close(values[ends[n] : ends[n + 1]].transpose(0, 1)[None], want)
    values.sum().backward()
    assert ((x.grad.abs().sum(2) != 0) == (made.mask == 0)).all()
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch is older than 2.10")
    mode, half = FakeTensorMode(), heads.detach().half()
    half, ends = mode.from_tensor(half), mode.from_tensor(ends)
    with mode:  # there is no kernel of it for the CPU, but its checks are here
        longest = made.max_seqlen
        assert varlen.varlen_attn(half, half, half, ends, ends, longest, longest).shape == (
            15, 2, 16,
        )  # fmt: skip


def test_jax_traces_and_differentiates_them() -> None:
    x, token = jax.numpy.asarray(X), jax.numpy.arange(4.0)
    want = there_and_back(x, token)
    same(np.asarray(jax.jit(there_and_back)(x, token)), np.asarray(want))

    def padded(x: Any, token: Any) -> Any:
        made = nbgather.random_masking(x, num_keep=COUNTS, seed=3)
        return nbgather.restore_tokens(made.x_masked, made.ids_restore, token, valid=made.valid)

    x = jax.numpy.asarray(rng("finite").random((5, 9, 4), np.float32))
    grads = [
        jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), (0, 1))(x, token)
        for f in (there_and_back, padded)
    ]
    for mine, theirs in zip(*grads, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-6)


def test_dask_chunks_them_by_samples() -> None:
    da = pytest.importorskip("dask.array", reason="dask is not installed")
    for how in ({"num_keep": COUNTS}, {"mask_ratio": 0.5}):
        options: Any = {"seed": 1, "packed": True, **how}
        got = nbgather.random_masking(da.from_array(X, chunks=(2, 4, 3)), **options)
        want = nbgather.random_masking(X, **options)
        assert got.max_seqlen == want.max_seqlen
        for mine, theirs in zip(got[:4], want[:4], strict=True):
            assert mine.shape == theirs.shape
            same(mine.compute(), theirs)
        got = nbgather.masked_patchify(da.from_array(IMAGES, chunks=(2, 3, 3, 6)), 2, **options)
        want = nbgather.masked_patchify(IMAGES, 2, **options)
        for mine, theirs in zip(got[:4], want[:4], strict=True):
            same(mine.compute(), theirs)
    unknown = da.from_array(X, chunks=2)
    unknown = unknown[unknown[:, 0, 0] == unknown[:, 0, 0]]
    with pytest.raises(ValueError, match="chunk sizes along N are unknown"):
        nbgather.random_masking(unknown, 0.5, sample_ids=da.arange(5, chunks=2), seed=0,
                                packed=True)  # fmt: skip


def test_a_graph_of_them_leaves_as_onnx() -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from nbgather.onnx import torch_translation_table

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, noise: torch.Tensor) -> Any:
            made = nbgather.random_masking(x, num_keep=COUNTS, noise=noise, packed=True)
            back = nbgather.restore_tokens(
                made.x_masked, made.ids_restore, 0.5, cu_seqlens=made.cu_seqlens
            )
            return made.x_masked, made.cu_seqlens, back

    x = torch.rand(5, 9, 4)
    noise = torch.from_numpy(nbgather.token_noise(3, 5, 9))
    program = torch.onnx.export(
        Model().eval(), (x, noise), dynamo=True, custom_translation_table=torch_translation_table(),
        verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [i.name for i in session.get_inputs()]
    results = session.run(None, dict(zip(names, (x.numpy(), noise.numpy()), strict=True)))
    for mine, theirs in zip(results, Model()(x, noise), strict=True):
        same(mine, theirs.numpy())


# Bad input


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "packed": (lambda: nbgather.random_masking(X, packed=1), TypeError, "packed is 1"),
    "ratios": (
        lambda: nbgather.random_masking(X, [0.5, 0.5], packed=True),
        ValueError,
        "mask_ratio has shape (2,): a number for each of the 5 samples is needed",
    ),
    "a ratio": (
        lambda: nbgather.random_masking(X, [0.5, 0.5, 2, 0, 0], packed=True),
        ValueError,
        "mask_ratio[2] is 2.0: it must be between 0 and 1",
    ),
    "too many": (
        lambda: nbgather.random_masking(
            np.broadcast_to(np.uint8(0), (2**21, 2**11, 1)), 0.0, seed=0, packed=True
        ),
        ValueError,
        "the samples keep 4294967296 tokens together",
    ),
    "a list": (
        lambda: nbgather.masked_patchify(PICTURES, 4),
        TypeError,
        "images is a list: one array [N, C, H, W] is needed, or packed=True",
    ),
    "an empty list": (
        lambda: nbgather.masked_patchify([], 4, packed=True),
        ValueError,
        "images is an empty list",
    ),
    "a side": (
        lambda: nbgather.masked_patchify(
            [PICTURES[0], np.zeros((3, 8, 7), np.uint8)], 4, packed=True
        ),
        ValueError,
        "images[1]: images has shape (1, 3, 8, 7), taken as [N, C, H, W]: sides (8, 7) cannot be",
    ),
    "mixed": (
        lambda: nbgather.masked_patchify(
            [PICTURES[0], torch.from_numpy(PICTURES[1])], 4, packed=True
        ),
        TypeError,
        "images[0] is a NumPy array and images[1] a torch one",
    ),
    "dtypes": (
        lambda: nbgather.masked_patchify(
            [PICTURES[0], PICTURES[1].astype(np.float32)], 4, packed=True
        ),
        TypeError,
        "images[1] has dtype float32 and images[0] uint8",
    ),
    "channels": (
        lambda: nbgather.masked_patchify([PICTURES[0], PICTURES[1][:1]], 4, packed=True),
        ValueError,
        "images[1] has 1 channels and images[0] 3",
    ),
    "counts": (
        lambda: nbgather.masked_patchify(PICTURES, 4, num_keep=[1, 2], packed=True),
        ValueError,
        "num_keep has shape (2,): a number for each of the 5 images is needed",
    ),
    "a count": (
        lambda: nbgather.masked_patchify(PICTURES, 4, num_keep=2, packed=True),
        ValueError,
        "images[4]: num_keep is 2: it must be between 0 and L = 1",
    ),
    "ids": (
        lambda: nbgather.masked_patchify(PICTURES, 4, seed=0, sample_ids=[1], packed=True),
        ValueError,
        "sample_ids has shape (1,): one id for each of the 5",
    ),
    "noise": (
        lambda: nbgather.masked_patchify(PICTURES, 4, noise=[X[0]], packed=True),
        ValueError,
        "noise has 1 items: one for each of the 5 images",
    ),
    "one noise": (
        lambda: nbgather.masked_patchify(
            PICTURES[:1], 4, noise=[np.zeros(5, np.float32)], packed=True
        ),
        ValueError,
        "noise[0] has shape (5,): (6,) is needed",
    ),
    "budget": (
        lambda: list(token_batches([3, 9], 8)),
        ValueError,
        "counts[1] is 9: a batch holds at most budget = 8 tokens",
    ),
    "first end": (
        lambda: restore(cu_seqlens=[1, 4, 4, 13, 14, 23]),
        ValueError,
        "cu_seqlens[0] is 1: it must be 0",
    ),
    "falling ends": (
        lambda: restore(cu_seqlens=[0, 4, 3, 13, 14, 23]),
        ValueError,
        "cu_seqlens[2] is 3 and cu_seqlens[1] 4: no sample may end before it begins",
    ),
    "last end": (
        lambda: restore(cu_seqlens=[0, 4, 4, 13, 14, 22]),
        ValueError,
        "cu_seqlens[5] is 22 and x_visible has 23 tokens",
    ),
    "ends": (
        lambda: restore(cu_seqlens=ENDS[:-1]),
        ValueError,
        "cu_seqlens[4] is 14 and x_visible has 23 tokens",
    ),
    "more ends": (
        lambda: restore(cu_seqlens=[*ENDS, 23]),
        ValueError,
        "cu_seqlens has shape (7,): [N + 1] = (6,) is needed",
    ),
    "ends of floats": (
        lambda: restore(cu_seqlens=ENDS.astype(np.float32)),
        TypeError,
        "cu_seqlens has dtype float32",
    ),
    "valid too": (
        lambda: restore(cu_seqlens=ENDS, valid=np.ones((5, 9), bool)),
        ValueError,
        "both valid and cu_seqlens",
    ),
    "cu_tokens alone": (
        lambda: nbgather.restore_tokens(X[0], np.arange(9), 0.0, cu_tokens=[0, 9]),
        ValueError,
        "cu_tokens was given without cu_seqlens",
    ),
    "a negative rank": (
        lambda: restore(cu_seqlens=ENDS, rank=-1),
        IndexError,
        "index -1 at (2, 3) is out of bounds for dimension 1 with size 9",
    ),
    "a rank": (
        lambda: restore(cu_seqlens=ENDS, rank=9),
        IndexError,
        "index 9 at (2, 3) is out of bounds for dimension 1 with size 9",
    ),
}


def restore(rank: int | None = None, wrap: Any = np.asarray, **options: Any) -> Any:
    made = nbgather.random_masking(X, num_keep=COUNTS, seed=3, packed=True)
    ids = made.ids_restore.copy()
    if rank is not None:
        ids[2, 3] = rank
    return nbgather.restore_tokens(wrap(made.x_masked), wrap(ids), 0.0, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bad_rank_is_told_of_with_a_gradient_too() -> None:
    def wrap(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    with pytest.raises(IndexError, match=r"index 9 at \(2, 3\) is out of bounds"):
        restore(9, wrap, cu_seqlens=ENDS)
    with pytest.raises(ValueError, match="no sample may end before it begins"):
        restore(None, wrap, cu_seqlens=[0, 4, 3, 13, 14, 23])


def test_the_table_of_containers_has_them() -> None:
    assert {"random_masking, packed", "restore_tokens, packed"} <= CONTAINER_CALLS.keys()
