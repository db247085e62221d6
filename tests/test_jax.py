"""JAX arrays in and out: the same bits, no copies of what is large, clear refusals.

What is traced has tests of its own: ``test_jax_compiled.py``, ``test_jax_rules.py``.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import nbgather
from nbgather import strategies

FLOATS = np.random.default_rng(0).random


def same(got: Any, want: np.ndarray) -> None:
    """A JAX array of the same bits; its int64 is int32 where JAX has no other."""
    assert isinstance(got, jax.Array)
    seen = np.asarray(got)
    if want.dtype == np.int64 and not jax.config.jax_enable_x64:
        want = want.astype(np.int32)
    assert seen.dtype == want.dtype
    assert seen.shape == want.shape
    assert seen.tobytes() == want.tobytes()


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "int8", "uint16", "bool",
     "complex64"],
)  # fmt: skip
def test_the_gather_family(dtype: Any) -> None:
    x = (FLOATS((3, 8, 4)) * 9).astype(dtype)
    index = np.random.default_rng(1).integers(0, 8, (3, 5, 4)).astype(np.int32)
    jx, ji = jnp.asarray(x), jnp.asarray(index)
    assert jx.dtype == x.dtype
    same(nbgather.gather(jx, 1, ji), nbgather.gather(x, 1, index))
    same(nbgather.gather(jx, 1, ji + 5, mode="clip"), nbgather.gather(x, 1, index + 5, mode="clip"))
    same(
        nbgather.gather(jx, 1, ji + 5, mode="fill", fill_value=1),
        nbgather.gather(x, 1, index + 5, mode="fill", fill_value=1),
    )
    same(
        nbgather.take_along_axis(jx, ji[:, :, :1] - 8, 1),
        nbgather.take_along_axis(x, index[:, :, :1] - 8, 1),
    )
    same(nbgather.gather_tokens(jx, ji[..., 0]), nbgather.gather_tokens(x, index[..., 0]))
    same(nbgather.scatter(jx, 1, ji, jx[:, :5]), nbgather.scatter(x, 1, index, x[:, :5]))
    same(nbgather.scatter(jx, 1, ji, 1), nbgather.scatter(x, 1, index, 1))
    if dtype != ml_dtypes.float8_e4m3fn and dtype != ml_dtypes.bfloat16 and dtype != "float16":
        same(
            nbgather.scatter_add(jx, 1, ji, jx[:, :5]), nbgather.scatter_add(x, 1, index, x[:, :5])
        )


def test_masking() -> None:
    x, ids = FLOATS((3, 16, 4), np.float32), np.array([7, 5, 2**30])
    jx, ji = jnp.asarray(x), jnp.asarray(ids)
    ways = (
        {"seed": 3},
        {"seed": -1, "sample_ids": ids, "epoch": 2},
        {"noise": FLOATS((3, 16))},
        {"seed": 3, "num_keep": [1, 5, 0]},
    )
    for own in ways:
        theirs = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in own.items()}
        own = {k: np.asarray(theirs[k]) if k == "noise" else v for k, v in own.items()}
        made, want = (
            nbgather.random_masking(jx, 0.6, **theirs),
            nbgather.random_masking(x, 0.6, **own),
        )
        assert type(made) is type(want)
        for got, plain in zip(made, want, strict=True):
            same(got, plain)
    made = nbgather.random_masking(jx, 0.6, seed=3)
    whole = nbgather.restore_tokens(made.x_masked, made.ids_restore, jnp.arange(4.0))
    want = nbgather.random_masking(x, 0.6, seed=3)
    plain = nbgather.restore_tokens(want.x_masked, want.ids_restore, np.arange(4, dtype=np.float32))
    same(whole, plain)
    same(nbgather.token_noise(3, ji, 9), nbgather.token_noise(3, ids, 9))
    noise = np.asarray(nbgather.token_noise(3, ji, 9))
    for got, plain in zip(
        nbgather.rank_tokens(jnp.asarray(noise), 4), nbgather.rank_tokens(noise, 4), strict=True
    ):
        same(got, plain)


@pytest.mark.parametrize("name", ["random", "block", "grid", "time_frequency", "tube"])
def test_strategies(name: str) -> None:
    grid = (2, 4, 4) if name == "tube" else (4, 8)
    score = getattr(strategies, name)
    same(score(3, jnp.arange(4), grid, epoch=1), score(3, 4, grid, epoch=1))


def test_patches_and_the_inverse() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12)).astype(np.uint8)
    ji = jnp.asarray(images)
    same(nbgather.patchify(ji, 4), np.ascontiguousarray(nbgather.patchify(images, 4)))
    same(nbgather.unpatchify(nbgather.patchify(ji, 4), 4, (8, 12)), images)
    own = {"seed": 1, "scale": 1 / 255, "mean": (0.1, 0.2, 0.3), "std": 0.5}
    for got, want in zip(
        nbgather.masked_patchify(ji, 4, 0.5, **own),
        nbgather.masked_patchify(images, 4, 0.5, **own),
        strict=True,
    ):
        same(got, want)
    (solution,) = nbgather.infer_gather(
        jnp.arange(6.0).reshape(2, 3), jnp.array([[2.0, 0], [5, 3]])
    )
    same(solution.index, np.array([[2, 0], [2, 0]]))


def test_large_arrays_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.asarray(FLOATS((64, 196, 64), np.float32))
    assert np.asarray(x).ctypes.data == x.unsafe_buffer_pointer()
    handed: list[np.ndarray] = []
    put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda a, d: handed.append(a) or put(a, d))
    got = nbgather.gather_tokens(x, jnp.tile(jnp.arange(100), (64, 1)))
    assert got.nbytes > 1 << 20
    assert got.unsafe_buffer_pointer() == handed[0].ctypes.data
    # And nobody writes to that memory while the array lives.
    before = np.array(got)
    handed.clear()
    for _ in range(3):
        nbgather.gather_tokens(x, jnp.tile(jnp.arange(99, -1, -1), (64, 1)))
    assert np.array_equal(np.asarray(got), before)


def test_a_bad_index_is_named() -> None:
    with pytest.raises(IndexError) as raised:
        nbgather.gather(jnp.zeros((2, 3)), 1, jnp.array([[0, 2], [1, 7]]))
    assert str(raised.value) == "index 7 at (1, 1) is out of bounds for dimension 1 with size 3"


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: nbgather.gather(jnp.zeros(3), 0, torch.tensor([0])),
            TypeError,
            "input is a JAX array and index a torch one",
        ),
        (
            lambda: nbgather.gather(torch.zeros(3), 0, jnp.array([0])),
            TypeError,
            "input is a torch array and index a JAX one",
        ),
        (
            lambda: nbgather.gather(jnp.zeros(3), 0, jnp.array([0]), out=np.zeros(1)),
            ValueError,
            "out= was given for JAX arrays",
        ),
        (
            lambda: nbgather.gather(jax.random.key(0), 0, jnp.array([0])),
            TypeError,
            "input is a JAX array of dtype key<fry>",
        ),
        (
            lambda: nbgather.gather(jnp.zeros(3, jnp.int4), 0, jnp.array([0])),
            TypeError,
            "input is a JAX array of dtype int4: plain numbers are needed",
        ),
        (
            lambda: nbgather.gather(jnp.zeros(3), 0, jnp.zeros(1)),
            TypeError,
            "index has dtype float32",
        ),
    ],
)
def test_refusals(call, error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)


def test_with_x64_ids_are_int64() -> None:
    code = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "import jax.numpy as jnp, numpy as np, nbgather\n"
        "x = jnp.arange(32.0).reshape(1, 16, 2)\n"
        "made = nbgather.random_masking(x, 0.5, seed=2**63, sample_ids=jnp.array([2**40]))\n"
        "assert made.ids_restore.dtype == jnp.int64 and made.x_masked.dtype == jnp.float64\n"
        "ids = np.array([2**40])\n"
        "want = nbgather.random_masking(np.asarray(x), 0.5, seed=2**63, sample_ids=ids)\n"
        "assert all(np.array_equal(a, b) for a, b in zip(made, want))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
