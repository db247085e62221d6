"""Masking: known answers of the noise, the paper's recipe in torch, seeds, restoring, refusals."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch
from cases import DTYPES, random_bits, rng, same
from hypothesis import given, settings
from hypothesis import strategies as st

import nbgather
from nbgather.kernels import scalar
from nbgather.kernels.cpu import limits as cpu_limits
from nbgather.kernels.cpu import philox
from nbgather.kernels.views import reference

# Random123's published known answers for philox4x32-10: counter, key, output.
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def recipe(x: np.ndarray, noise: torch.Tensor, keep: int) -> tuple[np.ndarray, ...]:
    """The paper's random_masking on given noise, with the sort made stable."""
    tokens = torch.from_numpy(np.array(x, order="C", copy=True))
    n, length = noise.shape
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep = ids_shuffle[:, :keep]
    wide = ids_keep.reshape(n, keep, *[1] * (x.ndim - 2)).expand(n, keep, *x.shape[2:])
    x_masked = torch.gather(tokens, 1, wide)
    mask = torch.ones([n, length])
    mask[:, :keep] = 0
    mask = torch.gather(mask, 1, ids_restore)
    return x_masked.numpy(), mask.numpy(), ids_restore.numpy()


def assert_recipe(x: np.ndarray, noise: np.ndarray, ratio: float, backend: str | None) -> None:
    if noise.dtype == ml_dtypes.bfloat16:
        scores = torch.from_numpy(noise.view(np.int16).copy()).view(torch.bfloat16)
    else:
        scores = torch.from_numpy(np.array(noise, order="C", copy=True))
    # As integers: torch makes signalling NaNs of float16 quiet ones on the way.
    bits = np.ascontiguousarray(x).view(f"i{x.dtype.itemsize}")
    want = recipe(bits, scores, int(noise.shape[1] * (1 - ratio)))
    got = nbgather.random_masking(x, ratio, noise=noise, backend=backend)
    same(got.x_masked, want[0].view(x.dtype))
    same(got.mask, want[1])
    same(got.ids_restore, want[2])


# The noise


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_known_answers(counter: tuple, key: tuple, words: tuple) -> None:
    from numba import njit

    @njit
    def run(c0, c1, c2, c3, k0, k1):
        return scalar.philox4x32(c0, c1, c2, c3, k0, k1)

    for words_of in (scalar.philox4x32.py_func, run):
        with np.errstate(over="ignore"):
            given_back = words_of(*(np.uint32(v) for v in (*counter, *key)))
        assert tuple(int(word) for word in given_back) == words
    assert reference.philox4x32(counter, key) == words


def test_noise_is_made_of_the_known_answer(backend: str) -> None:
    # Only the first answer's counter is that of a block near the start of a sample.
    _, _, words = KNOWN[0]
    noise = nbgather.token_noise(0, 1, 4, backend=backend)
    assert noise.tolist() == [[(word >> 8) * 2.0**-24 for word in words]]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 8, 49, 197])
def test_every_backend_gives_the_reference_noise(length: int, backend: str) -> None:
    ids = np.array([0, 1, -1, 2**40 + 7, -(2**63), 2**63 - 1])
    want = nbgather.token_noise(-5, ids, length, epoch=2**32 - 1, backend="reference")
    assert want.shape == (6, length)
    same(nbgather.token_noise(-5, ids, length, epoch=2**32 - 1, backend=backend), want)


@pytest.mark.parametrize("length", range(1, philox.FEW_TOKENS + 3))
def test_many_samples_of_few_tokens(length: int) -> None:
    """They are drawn side by side, in groups."""
    count = 2 * philox.SIDE_BY_SIDE + 5
    ids = rng("few").integers(-(2**63), 2**63 - 1, count)
    want = np.concatenate([nbgather.token_noise(9, one, 64, epoch=6) for one in ids.reshape(-1, 1)])
    same(nbgather.token_noise(9, ids, length, epoch=6), np.ascontiguousarray(want[:, :length]))
    for some in (ids, None):
        noise = nbgather.token_noise(9, count if some is None else some, length, epoch=6)
        x = random_bits(rng("tokens"), (count, length, 1), "int32")
        masked = nbgather.random_masking(x, 0.5, seed=9, sample_ids=some, epoch=6)
        for mine, plain in zip(masked, nbgather.random_masking(x, 0.5, noise=noise), strict=True):
            same(mine, plain)


def test_noise_is_in_the_unit_interval_and_24_bits_wide() -> None:
    noise = nbgather.token_noise(3, 100, 1000)
    assert noise.dtype == np.float32
    assert noise.min() >= 0
    assert noise.max() < 1
    scaled = noise.astype(np.float64) * 2**24
    assert (scaled == scaled.astype(np.int64)).all()


def test_signed_and_unsigned_seeds_are_the_same_bits() -> None:
    same(nbgather.token_noise(-1, 3, 9), nbgather.token_noise(2**64 - 1, 3, 9))
    assert not np.array_equal(nbgather.token_noise(0, 3, 9), nbgather.token_noise(1 << 32, 3, 9))


def test_an_int_stands_for_the_ids_from_zero() -> None:
    same(nbgather.token_noise(1, 5, 7), nbgather.token_noise(1, np.arange(5), 7))


def test_noise_is_of_the_container_of_the_ids() -> None:
    noise = nbgather.token_noise(1, torch.arange(5), 7)
    assert type(noise) is torch.Tensor
    same(noise.numpy(), nbgather.token_noise(1, 5, 7))
    same(
        nbgather.token_noise(1, np.arange(10)[::-2], 7), nbgather.token_noise(1, 10, 7)[::-2].copy()
    )
    same(nbgather.token_noise(1, np.arange(5, dtype=">i8"), 7), nbgather.token_noise(1, 5, 7))


# The ranking

AWKWARD = [0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1e-45, -1e-45, 0.5, 0.5, 1.0, -1.0]
NOISE_DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


@pytest.mark.parametrize("dtype", NOISE_DTYPES)
@pytest.mark.parametrize("length", [1, 2, 16, 49, 196, 197, 300])
def test_ranking_awkward_scores(length: int, dtype: type, backend: str) -> None:
    generator = rng(f"{length}")
    noise = generator.choice(np.array(AWKWARD), (5, length)).astype(dtype)
    noise[0] = 0.5
    x = random_bits(generator, (5, length, 3), "int16")
    assert_recipe(x, noise, 0.6, backend)


@pytest.mark.parametrize("length", [1568, 50_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranking_long_samples(length: int, dtype: type) -> None:
    generator = rng("long")
    noise = generator.random((2, length)).astype(dtype)
    noise[1] = generator.choice(np.array(AWKWARD), length)
    assert_recipe(random_bits(generator, (2, length, 1), "u1"), noise, 0.9, None)


@settings(max_examples=1500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 6),
    length=st.integers(1, 70),
    width=st.integers(1, 5),
    ratio=st.sampled_from([0, 0.1, 0.25, 0.6, 0.75, 0.9, 1]) | st.floats(0, 1),
    dtype=st.sampled_from(["bool", "uint8", "float16", "float32", "int64", "complex64"]),
    noise_dtype=st.sampled_from(["float16", "float32", "float64"]),
    kind=st.sampled_from(["uniform", "awkward", "equal", "few"]),
    view=st.sampled_from(["plain", "reversed", "transposed", "sliced", "broadcast"]),
)
def test_the_papers_recipe_on_random_cases(
    seed, n, length, width, ratio, dtype, noise_dtype, kind, view
) -> None:
    generator = np.random.default_rng(seed)
    noise = {
        "uniform": lambda: generator.random((n, length)),
        "awkward": lambda: generator.choice(np.array(AWKWARD), (n, length)),
        "equal": lambda: np.full((n, length), 0.25),
        "few": lambda: generator.integers(0, 3, (n, length)) / 4,
    }[kind]().astype(noise_dtype)
    x = random_bits(generator, (n, length, width), dtype)
    x = {
        "plain": lambda: x,
        "reversed": lambda: x[:, ::-1],
        "transposed": lambda: np.ascontiguousarray(x.transpose(2, 1, 0)).transpose(2, 1, 0),
        "sliced": lambda: np.repeat(x, 2, 2)[:, :, ::2],
        "broadcast": lambda: np.broadcast_to(x[:, :, :1], x.shape),
    }[view]()
    assert_recipe(x, noise, ratio, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_tokens(dtype: str, backend: str) -> None:
    generator = rng(dtype)
    x = random_bits(generator, (2, 6, 2, 2), DTYPES[dtype])
    noise = generator.random((2, 6), np.float32)
    x_masked, mask, ids_restore = nbgather.random_masking(x, 0.5, noise=noise, backend=backend)
    order = np.argsort(noise, 1, kind="stable")
    same(x_masked, x[np.arange(2)[:, None], order[:, :3]])
    same(mask, (np.argsort(order, 1) >= 3).astype(np.float32))
    same(ids_restore, np.argsort(order, 1))


def test_rank_tokens_takes_any_strides(backend: str) -> None:
    scores = rng("strides").random((40, 30)).astype(np.float32)
    for view in (scores.T, scores[::-2, ::3], np.broadcast_to(scores[:1], (4, 30))):
        got = nbgather.rank_tokens(view, 7, backend=backend)
        for mine, plain in zip(got, nbgather.rank_tokens(view.copy(), 7), strict=True):
            same(mine, plain)


def test_the_worked_example(backend: str) -> None:
    x = np.arange(64).reshape(1, 16, 4)
    noise = np.ones((1, 16), np.float32)
    noise[0, [10, 12, 4, 13]] = [0.1, 0.2, 0.3, 0.4]
    x_masked, mask, ids_restore = nbgather.random_masking(x, 0.75, noise=noise, backend=backend)
    assert x_masked.tolist() == [
        [[40, 41, 42, 43], [48, 49, 50, 51], [16, 17, 18, 19], [52, 53, 54, 55]]
    ]
    assert np.flatnonzero(mask[0] == 0).tolist() == [4, 10, 12, 13]
    assert ids_restore[0, [10, 12, 4, 13]].tolist() == [0, 1, 2, 3]
    ids_keep, _, _ = nbgather.rank_tokens(noise, 4, backend=backend)
    assert ids_keep.tolist() == [[10, 12, 4, 13]]


@pytest.mark.parametrize(
    ("length", "ratio", "keep"),
    [(196, 0.75, 49), (196, 0, 196), (196, 1, 0), (10, 0.9, 0), (10, 0.7, 3), (1, 0.75, 0)],
)
def test_len_keep_is_the_papers(length: int, ratio: float, keep: int) -> None:
    # int(10 * (1 - 0.9)) is int(0.9999999999999998): the paper's rounding, kept as it is.
    assert int(length * (1 - ratio)) == keep
    given_back = nbgather.random_masking(np.zeros((2, length, 3)), ratio, seed=0)
    assert given_back.x_masked.shape == (2, keep, 3)
    assert (given_back.mask == 0).sum(1).tolist() == [keep, keep]
    assert given_back.mask.dtype == np.float32


# Seeds


def test_a_seed_is_its_noise(backend: str) -> None:
    x = random_bits(rng("seed"), (5, 33, 4), "float32")
    ids = np.array([7, -3, 7, 0, 2**50])
    noise = nbgather.token_noise(11, ids, 33, epoch=4)
    want = nbgather.random_masking(x, 0.6, noise=noise)
    got = nbgather.random_masking(x, 0.6, seed=11, sample_ids=ids, epoch=4, backend=backend)
    for mine, plain in zip(got, want, strict=True):
        same(mine, plain)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 64, 65, 196, 257, 1568, 70_001])
@pytest.mark.parametrize("ratio", [0, 0.5, 0.9, 1])
def test_one_pass_by_seed_equals_noise_and_ranks(length: int, ratio: float) -> None:
    x = random_bits(rng("pass"), (3, length, 2), "int32")
    ids = np.array([5, -1, 2**60])
    noise = nbgather.token_noise(8, ids, length, epoch=1)
    want = nbgather.random_masking(x, ratio, noise=noise)
    got = nbgather.random_masking(x, ratio, seed=8, sample_ids=ids, epoch=1)
    for mine, plain in zip(got, want, strict=True):
        same(mine, plain)


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "batch_reversed": lambda x: x[::-1],
    "tokens_reversed": lambda x: x[:, ::-1],
    "every_other": lambda x: x[::2, ::3],
    "inner_strided": lambda x: x[..., ::2],
    "inner_reversed": lambda x: x[..., ::-1],
    "transposed": lambda x: x.transpose(1, 0, 3, 2),
    "broadcast": lambda x: np.broadcast_to(x[:1, :1], x.shape),
    "one_inner": lambda x: x[..., :1, :1],
    "no_inner": lambda x: x[..., 0, 0],
    "read_only": lambda x: np.broadcast_to(x, x.shape),
    "swapped": lambda x: x.astype(">f4"),
    "unaligned": lambda x: (
        np.frombuffer(b"0" + x.tobytes(), np.uint8)[1:].view("f4").reshape(x.shape)
    ),
}


@pytest.mark.parametrize("view", VIEWS)
def test_one_pass_by_seed_takes_any_strides(view: str) -> None:
    x = VIEWS[view](random_bits(rng(view), (7, 12, 5, 4), "float32"))
    want = nbgather.random_masking(x, 0.6, seed=3, backend="reference")
    for mine, plain in zip(nbgather.random_masking(x, 0.6, seed=3), want, strict=True):
        same(mine, plain)


def test_one_pass_by_seed_past_the_caches() -> None:
    x = random_bits(rng("wide"), (40, 100, 1001), "float32")
    got = nbgather.random_masking(x, 0.3, seed=3)
    noise = nbgather.token_noise(3, 40, 100)
    for mine, plain in zip(got, nbgather.random_masking(x, 0.3, noise=noise), strict=True):
        same(mine, plain)


@pytest.mark.parametrize("kind", ["grad", "conj", "plain"])
def test_one_pass_by_seed_on_tensors(kind: str) -> None:
    x = torch.randn(3, 9, 4, dtype=torch.complex64)
    if kind == "grad":
        x.requires_grad_()
    elif kind == "conj":
        x = x.conj()
    x_masked, mask, ids_restore = nbgather.random_masking(x, 0.5, seed=2)
    assert x_masked.requires_grad == (kind == "grad")
    ids = torch.argsort(ids_restore, dim=1)[:, :4]
    want = torch.gather(x, 1, ids.unsqueeze(-1).expand(-1, -1, 4))
    assert torch.equal(x_masked, want)
    assert torch.equal(mask, (ids_restore >= 4).float())


def test_a_sample_has_its_mask_alone_in_any_batch_and_order() -> None:
    ids = rng("ids").permutation(1000)
    x = np.zeros((1000, 50, 1), np.uint8)
    _, mask, restore = nbgather.random_masking(x, seed=5, sample_ids=ids, epoch=2)
    for n in (0, 1, 500, 999):
        alone = nbgather.random_masking(x[:1], seed=5, sample_ids=ids[n : n + 1], epoch=2)
        same(alone.mask[0], mask[n])
        same(alone.ids_restore[0], restore[n])
    _, shuffled, _ = nbgather.random_masking(x, seed=5, sample_ids=np.arange(1000), epoch=2)
    same(mask, shuffled[ids])
    _, other, _ = nbgather.random_masking(x, seed=5, sample_ids=ids, epoch=3)
    assert (mask != other).any(1).mean() > 0.99


def test_thread_counts_and_threads_do_not_enter() -> None:
    x = random_bits(rng("threads"), (300, 64, 32), "float32")
    with cpu_limits.limit_threads(1):
        want = nbgather.random_masking(x, seed=9)
    found: list[nbgather.MaskedTokens] = []

    def work() -> None:
        found.append(nbgather.random_masking(x, seed=9))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for got in found:
        for mine, plain in zip(got, want, strict=True):
            same(mine, plain)


def test_another_process_gives_the_same_mask() -> None:
    code = (
        "import nbgather, numpy as np, sys;"
        "m = nbgather.random_masking(np.zeros((9, 196, 1)), seed=77, epoch=3).ids_restore;"
        "sys.stdout.buffer.write(m.tobytes())"
    )
    environment = {**os.environ, "NBGATHER_NUM_THREADS": "1"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    ).stdout
    here = nbgather.random_masking(np.zeros((9, 196, 1)), seed=77, epoch=3).ids_restore
    assert out == here.tobytes()


def test_without_noise_or_seed_one_is_drawn() -> None:
    x = np.zeros((4, 100, 1))
    masks = {nbgather.random_masking(x).mask.tobytes() for _ in range(5)}
    assert len(masks) == 5


def test_torchs_generator_rules_over_tensors() -> None:
    x = torch.zeros(4, 100, 1)
    torch.manual_seed(3)
    first, second = nbgather.random_masking(x).mask, nbgather.random_masking(x).mask
    torch.manual_seed(3)
    assert torch.equal(nbgather.random_masking(x).mask, first)
    assert not torch.equal(first, second)


def test_torch_tensors_come_back_as_tensors() -> None:
    x = torch.randn(3, 20, 5).transpose(0, 2).contiguous().transpose(0, 2)
    got = nbgather.random_masking(x, 0.5, seed=1)
    want = nbgather.random_masking(x.numpy(), 0.5, seed=1)
    for mine, plain in zip(got, want, strict=True):
        assert type(mine) is torch.Tensor
        same(mine.numpy(), plain)


# Statistics, with fixed seeds: 20,000 samples of 16 tokens, a quarter of them kept.


def _kept(epoch: int = 0) -> np.ndarray:
    x = np.empty((20_000, 16, 0), np.uint8)
    return (nbgather.random_masking(x, 0.75, seed=2024, epoch=epoch).mask == 0).astype(float)


def test_every_token_is_kept_with_the_same_probability() -> None:
    kept = _kept()
    want = len(kept) * 4 / 16
    # Var of a count is N p (1-p); the sum over L tokens has L-1 degrees of freedom.
    chi2 = ((kept.sum(0) - want) ** 2 / (want * (1 - 4 / 16))).sum() * 15 / 16
    assert chi2 < 37.7  # the 99.9 % point for 15 degrees of freedom
    assert chi2 > 3.5  # and not suspiciously even: the 0.1 % point


def test_pairs_of_tokens_are_as_independent_as_a_fixed_count_allows() -> None:
    kept = _kept()
    joint = kept.T @ kept / len(kept)
    want = 4 / 16 * 3 / 15  # sampling without replacement
    off = joint[~np.eye(16, dtype=bool)]
    assert np.abs(off - want).max() < 4.5 * math.sqrt(want * (1 - want) / len(kept))


def test_consecutive_epochs_are_independent() -> None:
    overlap = (_kept(0) * _kept(1)).sum(1)
    # Hypergeometric: mean 4·4/16, variance 4·(4/16)·(12/16)·(12/15).
    error = abs(overlap.mean() - 1.0) / math.sqrt(0.6 / len(overlap))
    assert error < 4


# Restoring


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "complex128", "bool"])
@pytest.mark.parametrize("keep", [0, 1, 5, 12])
def test_restore_puts_tokens_back(dtype: str, keep: int, backend: str) -> None:
    x = random_bits(rng(dtype), (3, 12, 4), dtype)
    token = random_bits(rng("token"), (4,), dtype)
    made = nbgather.random_masking(x, num_keep=keep, seed=1)
    whole = nbgather.restore_tokens(made.x_masked, made.ids_restore, token, backend=backend)
    want = x.copy()
    want[made.mask == 1] = token
    same(whole, want)
    # Bytes, since torch makes signalling NaNs of float16 quiet ones on the way.
    visible = torch.from_numpy(made.x_masked.view(np.uint8))
    removed = torch.from_numpy(token.view(np.uint8)).expand(3, 12 - keep, -1)
    ids = torch.from_numpy(made.ids_restore).unsqueeze(-1).expand(3, 12, visible.shape[2])
    joined = torch.gather(torch.cat([visible, removed], 1), 1, ids)
    assert whole.tobytes() == joined.numpy().tobytes()


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1, 4)])
def test_mask_tokens_broadcast(shape: tuple[int, ...], backend: str) -> None:
    x = np.ones((2, 6, 4), np.float32)
    made = nbgather.random_masking(x, 0.5, seed=0)
    token = np.arange(math.prod(shape), dtype=np.float32).reshape(shape) - 7
    whole = nbgather.restore_tokens(made.x_masked, made.ids_restore, token, backend=backend)
    want = np.broadcast_to(token, (2, 6, 4) if len(shape) == 3 else (6, 4))
    same(whole, np.where(made.mask[..., None] == 1, want, x).astype(np.float32))


def test_restore_a_sample_without_inner_shape() -> None:
    made = nbgather.random_masking(np.arange(12).reshape(2, 6), 0.5, seed=0)
    whole = nbgather.restore_tokens(made.x_masked, made.ids_restore, -1)
    assert (np.where(made.mask == 1, -1, np.arange(12).reshape(2, 6)) == whole).all()


@pytest.mark.parametrize("n", [0, 1])
def test_empty_batches_and_samples(n: int, backend: str) -> None:
    for shape in ((n, 0, 3), (n, 4, 0), (0, 4, 3)):
        made = nbgather.random_masking(np.zeros(shape), 0.5, seed=0, backend=backend)
        assert made.x_masked.shape == (shape[0], shape[1] // 2, shape[2])
        assert made.mask.shape == made.ids_restore.shape == shape[:2]
        whole = nbgather.restore_tokens(made.x_masked, made.ids_restore, 0.0, backend=backend)
        assert whole.shape == shape


def test_gradients_equal_torchs() -> None:
    x = torch.randn(3, 10, 4, dtype=torch.float64, requires_grad=True)
    token = torch.randn(1, 1, 4, dtype=torch.float64, requires_grad=True)
    noise = torch.rand(3, 10, dtype=torch.float64)
    weight = torch.randn(3, 10, 4, dtype=torch.float64)

    x_masked, _, ids_restore = nbgather.random_masking(x, 0.7, noise=noise)
    whole = nbgather.restore_tokens(x_masked, ids_restore, token)
    ours = torch.autograd.grad((whole * weight).sum(), (x, token))

    ids = torch.argsort(noise, dim=1, stable=True)
    visible = torch.gather(x, 1, ids[:, : x_masked.shape[1], None].expand(-1, -1, 4))
    joined = torch.cat([visible, token.expand(3, 10 - visible.shape[1], 4)], 1)
    again = torch.gather(joined, 1, torch.argsort(ids, dim=1)[:, :, None].expand(-1, -1, 4))
    theirs = torch.autograd.grad((again * weight).sum(), (x, token))
    assert torch.equal(whole, again)
    assert torch.equal(ours[0], theirs[0])
    # A sum over the removed tokens, in an order of its own on either side: rounding may differ.
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-12, atol=1e-12)

    def both(x: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        masked = nbgather.random_masking(x, 0.7, noise=noise)
        return nbgather.restore_tokens(masked.x_masked, masked.ids_restore, token)

    assert torch.autograd.gradcheck(both, (x, token))
    assert torch.autograd.gradgradcheck(both, (x, token))


# Refusals

X = np.zeros((2, 8, 3), np.float32)
NOISE = np.zeros((2, 8), np.float32)
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "ratio_high": (
        lambda: nbgather.random_masking(X, 1.5, seed=0),
        ValueError,
        "mask_ratio is 1.5: it must be between 0 and 1",
    ),
    "ratio_low": (
        lambda: nbgather.random_masking(X, -0.1, seed=0),
        ValueError,
        "mask_ratio is -0.1: it must be between 0 and 1",
    ),
    "ratio_nan": (
        lambda: nbgather.random_masking(X, math.nan, seed=0),
        ValueError,
        "mask_ratio is nan: it must be between 0 and 1",
    ),
    "keep_high": (
        lambda: nbgather.random_masking(X, num_keep=9, seed=0),
        ValueError,
        "num_keep is 9: it must be between 0 and L = 8",
    ),
    "keep_low": (
        lambda: nbgather.rank_tokens(NOISE, -1),
        ValueError,
        "num_keep is -1: it must be between 0 and L = 8",
    ),
    "noise_shape": (
        lambda: nbgather.random_masking(X, noise=NOISE[:, :7]),
        ValueError,
        "noise has shape (2, 7)",
    ),
    "noise_dtype": (
        lambda: nbgather.random_masking(X, noise=NOISE.astype(int)),
        TypeError,
        "int64",
    ),
    "noise_library": (
        lambda: nbgather.random_masking(X, noise=torch.zeros(2, 8)),
        TypeError,
        "x is a NumPy array and noise a torch one",
    ),
    "noise_and_seed": (
        lambda: nbgather.random_masking(X, noise=NOISE, seed=1),
        ValueError,
        "both noise and seed were given",
    ),
    "ids_short": (
        lambda: nbgather.random_masking(X, seed=1, sample_ids=np.arange(3)),
        ValueError,
        "sample_ids has shape (3,): one id for each of the 2 samples",
    ),
    "ids_dtype": (
        lambda: nbgather.random_masking(X, seed=1, sample_ids=np.arange(2, dtype=np.float32)),
        TypeError,
        "float32",
    ),
    "ids_without_seed": (
        lambda: nbgather.random_masking(X, sample_ids=np.arange(2)),
        ValueError,
        "sample_ids was given without seed",
    ),
    "seed_wide": (
        lambda: nbgather.random_masking(X, seed=2**64),
        ValueError,
        "seed is 18446744073709551616",
    ),
    "seed_float": (lambda: nbgather.random_masking(X, seed=1.0), TypeError, "seed"),
    "epoch_negative": (
        lambda: nbgather.random_masking(X, seed=1, epoch=-1),
        ValueError,
        "epoch is -1",
    ),
    "x_1d": (lambda: nbgather.random_masking(X[0, 0], seed=1), ValueError, "(3,)"),
    "scores_1d": (lambda: nbgather.rank_tokens(NOISE[0], 1), ValueError, "(8,)"),
    "tokens_negative": (lambda: nbgather.token_noise(0, 1, -1), ValueError, "num_tokens is -1"),
    "rank_beyond": (
        lambda: nbgather.restore_tokens(X[:, :2], np.array([[0, 8] * 4] * 2), 0.0),
        IndexError,
        "index 8 at (0, 1) is out of bounds for dimension 1 with size 8",
    ),
    "rank_negative": (
        lambda: nbgather.restore_tokens(X[:, :2], np.array([[0] * 8, [0] * 7 + [-1]]), 0.0),
        IndexError,
        "index -1 at (1, 7) is out of bounds for dimension 1 with size 8",
    ),
    "restore_batch": (
        lambda: nbgather.restore_tokens(X, np.zeros((3, 8), int), 0.0),
        ValueError,
        "(3, 8)",
    ),
    "token_shape": (
        lambda: nbgather.restore_tokens(X, np.zeros((2, 8), int), np.zeros(4, np.float32)),
        ValueError,
        "(4,)",
    ),
    "token_dtype": (
        lambda: nbgather.restore_tokens(X, np.zeros((2, 8), int), np.zeros(3, complex)),
        TypeError,
        "complex128",
    ),
    "backend": (
        lambda: nbgather.random_masking(X, seed=0, backend="gpu"),
        ValueError,
        "gpu",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
    assert "\n" not in str(raised.value)


# A number of its own for each sample

COUNTS = [4, 0, 9, 1, 9]


def padded(x: np.ndarray, noise: np.ndarray, counts: list[int]) -> tuple[np.ndarray, ...]:
    """Sample by sample."""
    most = max(counts, default=0)
    x_masked = np.zeros((len(x), most, *x.shape[2:]), x.dtype)
    mask, restore = np.empty(noise.shape, np.float32), np.empty(noise.shape, np.int64)
    for n, keep in enumerate(counts):
        one = nbgather.random_masking(x[n : n + 1], num_keep=keep, noise=noise[n : n + 1])
        x_masked[n, :keep], mask[n], restore[n] = one.x_masked[0], one.mask[0], one.ids_restore[0]
    return x_masked, mask, restore, np.arange(most) < np.array(counts)[:, None]


@pytest.mark.parametrize("how", ["list", "tuple", "array", "int32"])
@pytest.mark.parametrize("view", ["plain", "strided"])
@pytest.mark.parametrize("given", ["seed", "noise"])
def test_each_sample_keeps_a_number_of_its_own(
    how: str, view: str, given: str, backend: str
) -> None:
    x = random_bits(rng("own"), (5, 9, 4), "float32")
    x = x[..., ::2] if view == "strided" else x
    counts = {"list": list, "tuple": tuple, "array": np.array, "int32": np.int32}[how](COUNTS)
    noise = nbgather.token_noise(3, 5, 9)
    source = {"seed": 3} if given == "seed" else {"noise": noise}
    got = nbgather.random_masking(x, num_keep=counts, backend=backend, **source)
    assert type(got) is nbgather.PaddedTokens
    for mine, plain in zip(got, padded(x, noise, COUNTS), strict=True):
        same(mine, plain)


def test_ranks_of_a_number_for_each_sample(backend: str) -> None:
    noise = nbgather.token_noise(3, 3, 5)
    ids_keep, ids_restore, mask = nbgather.rank_tokens(noise, [2, 0, 3], backend=backend)
    order = np.argsort(noise, 1)
    assert ids_keep.tolist() == [[*order[0, :2], -1], [-1, -1, -1], list(order[2, :3])]
    same(ids_restore, np.argsort(order, 1))
    assert (mask == 0).sum(1).tolist() == [2, 0, 3]


@pytest.mark.parametrize("dtype", ["V16", "S4", "U1", "M8[s]"])
@pytest.mark.parametrize("step", [1, 2])
def test_slots_without_a_token_are_zeros_in_every_dtype(dtype: str, step: int) -> None:
    # With a step the kernel that does all in one does not serve: two gathers do.
    x = random_bits(rng(dtype), (2, 3, 4 * step), "u4").astype("S4").astype(dtype)
    x = x[..., ::step]
    for options in ({}, {"backend": "reference"}):
        got = nbgather.random_masking(x, seed=0, num_keep=[1, 3], **options).x_masked
        assert got[0, 1:].tobytes() == bytes(2 * 4 * x.itemsize)
        assert got[1].any()


@pytest.mark.parametrize("tensors", [False, True])
def test_padded_tokens_are_restored(tensors: bool, backend: str) -> None:
    x = random_bits(rng("pad"), (5, 9, 4), "int32")
    token = np.arange(4, dtype=np.int32)
    noise = nbgather.token_noise(3, 5, 9)
    given_x, given_noise, given_token = x, noise, token
    if tensors:
        given_x, given_noise, given_token = map(torch.from_numpy, (x, noise, token))
    made = nbgather.random_masking(given_x, num_keep=COUNTS, noise=given_noise)
    restored = nbgather.restore_tokens(
        made.x_masked, made.ids_restore, given_token, valid=made.valid, backend=backend
    )
    want = np.where(np.asarray(made.mask)[..., None] == 1, token, x)
    same(np.asarray(restored), want)


def test_padded_tokens_have_gradients() -> None:
    x = torch.randn(5, 9, 4, dtype=torch.float64, requires_grad=True)
    token = torch.randn(4, dtype=torch.float64, requires_grad=True)
    noise = torch.from_numpy(nbgather.token_noise(3, 5, 9))

    def run(x: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        made = nbgather.random_masking(x, num_keep=COUNTS, noise=noise)
        return nbgather.restore_tokens(made.x_masked, made.ids_restore, token, valid=made.valid)

    assert torch.autograd.gradcheck(run, (x, token))


@pytest.mark.parametrize(
    ("num_keep", "error", "text"),
    [
        ([1, 2], ValueError, "num_keep has shape (2,): a number for each of the 3 samples"),
        ([[1], [2], [3]], TypeError, "num_keep[0]"),
        (np.ones((3, 1), int), ValueError, "num_keep has shape (3, 1)"),
        ([1, 6, 2], ValueError, "num_keep[1] is 6: it must be between 0 and L = 5"),
        ([1, 2, -1], ValueError, "num_keep[2] is -1"),
        ([1, 2.5, 1], TypeError, "num_keep[1]"),
        (np.array([1.0, 2, 3]), TypeError, "num_keep has dtype float64"),
        ("abc", TypeError, "num_keep"),
    ],
)
def test_bad_numbers_for_each_sample(num_keep, error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        nbgather.random_masking(np.zeros((3, 5, 1)), num_keep=num_keep, seed=0)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("valid", "error", "text"),
    [
        (np.ones((2, 3), np.float32), TypeError, "valid has dtype float32: bool is needed"),
        (np.ones((2, 2), bool), ValueError, "valid has shape (2, 2) and x_visible (2, 3, 1)"),
        (torch.ones(2, 3, dtype=torch.bool), TypeError, "x_visible is a NumPy array and valid"),
    ],
)
def test_a_bad_valid(valid, error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        nbgather.restore_tokens(np.zeros((2, 3, 1)), np.zeros((2, 5), int), 0.0, valid=valid)
    assert text in str(raised.value)


# The short way of a repeated call


@pytest.mark.parametrize("tensors", [False, True])
def test_a_repeated_small_call_is_the_same(tensors: bool) -> None:
    x = random_bits(rng("again"), (2, 30, 3), "float32")
    ids = np.array([5, -7])
    wrap = torch.from_numpy if tensors else np.asarray
    for seed in (0, -1, 2**64 - 1, 12345678901234567890):
        for epoch in (0, 2**32 - 1):
            for own in (None, ids, ids[::-1].copy()):
                noise = nbgather.token_noise(seed, 2 if own is None else own, 30, epoch=epoch)
                want = nbgather.random_masking(x, 0.6, noise=noise)
                for _ in range(2):
                    got = nbgather.random_masking(
                        wrap(x), 0.6, seed=seed, epoch=epoch,
                        sample_ids=None if own is None else wrap(own),
                    )  # fmt: skip
                    for mine, plain in zip(got, want, strict=True):
                        assert type(mine) is type(wrap(x))
                        same(np.asarray(mine), plain)


def test_the_short_way_refuses_what_the_long_way_refuses() -> None:
    x = np.zeros((2, 8, 1), np.float32)
    for _ in range(2):
        nbgather.random_masking(x, 0.5, seed=1)
        nbgather.random_masking(x, 0.5, seed=1, sample_ids=np.arange(2))
    for wrong in (
        {"seed": 2**64},
        {"seed": 1.0},
        {"seed": 1, "epoch": -1},
        {"seed": 1, "epoch": 2**32},
        {"seed": 1, "sample_ids": np.arange(3)},
        {"seed": 1, "sample_ids": np.arange(2.0)},
        {"seed": 1, "sample_ids": torch.arange(2)},
        {"seed": 1, "noise": np.zeros((2, 8))},
    ):
        with pytest.raises((TypeError, ValueError)):
            nbgather.random_masking(x, 0.5, **wrong)
    tensor = torch.zeros(2, 8, 1)
    for _ in range(2):
        nbgather.random_masking(tensor, 0.5, seed=1)
    assert nbgather.random_masking(tensor.requires_grad_(), 0.5, seed=1).x_masked.requires_grad
