"""What only says where items are, beside arrays of another library; and values, which never mix."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nbgather

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
IDS = np.array([[2, 0], [1, 1]])
RANKS = np.array([[1, 0, 2], [2, 0, 1]])
NOISE = np.array([[0.5, 0.1, 0.9], [0.2, 0.8, 0.3]], np.float32)

#: The calls, with the main operand and what is beside it.
CALLS: dict[str, tuple[Callable[[Any, Any], Any], np.ndarray]] = {
    "gather": (lambda x, i: nbgather.gather(x, 1, i), np.repeat(IDS[..., None], 4, 2)),
    "take_along_axis": (lambda x, i: nbgather.take_along_axis(x, i, 1), IDS[..., None] - 3),
    "gather_tokens": (nbgather.gather_tokens, IDS),
    "scatter": (lambda x, i: nbgather.scatter(x, 1, i, x), np.repeat(IDS[..., None], 4, 2)),
    "scatter_add": (lambda x, i: nbgather.scatter_add(x, 1, i, x), np.repeat(IDS[..., None], 4, 2)),
    "random_masking noise": (lambda x, n: nbgather.random_masking(x, 0.5, noise=n), NOISE),
    "random_masking ids": (
        lambda x, i: nbgather.random_masking(x, 0.5, seed=1, sample_ids=i), np.array([7, 3]),
    ),
    "random_masking counts": (
        lambda x, k: nbgather.random_masking(x, seed=1, num_keep=k), np.array([2, 1]),
    ),
    "restore_tokens": (lambda x, r: nbgather.restore_tokens(x[:, :2], r, 0.5), RANKS),
    "restore_tokens valid": (
        lambda x, v: nbgather.restore_tokens(x[:, :2], RANKS.tolist(), 0.5, valid=v),
        np.array([[True, True], [True, False]]),
    ),
    "masked_patchify": (
        lambda x, i: nbgather.masked_patchify(x.reshape(2, 1, 3, 4), (3, 2), seed=1, sample_ids=i),
        np.array([7, 3]),
    ),
}  # fmt: skip
LIBRARIES: dict[str, tuple[Callable[[Any], Any], type]] = {
    "NumPy": (np.array, np.ndarray),
    "torch": (lambda a: torch.from_numpy(a.copy()), torch.Tensor),
    "JAX": (jnp.asarray, jax.Array),
}


def arrays(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple) else (result,)


def forms(side: np.ndarray) -> dict[str, Any]:
    """The same as each kind of thing that is welcome."""
    made = {
        "NumPy": side, "list": side.tolist(), "reversed": side[::-1].copy()[::-1],
        "tuple": tuple(map(tuple, side.tolist())) if side.ndim == 2 else tuple(side.tolist()),
        "byte order": side.astype(side.dtype.newbyteorder()),
    }  # fmt: skip
    made["read-only"] = np.frombuffer(side.tobytes(), side.dtype).reshape(side.shape)
    return made


def widths(name: str) -> dict[str, np.ndarray]:
    """The same in every other dtype of integers that holds it."""
    side = CALLS[name][1]
    if side.dtype != np.int64:
        return {}
    dtypes = [f"int{bits}" for bits in (8, 16, 32)]
    if side.min() >= 0:
        dtypes += [f"uint{bits}" for bits in (8, 16, 32, 64)]
    return {dtype: side.astype(dtype) for dtype in dtypes}


def some_widths(name: str) -> dict[str, np.ndarray]:
    """One of them, another for each call: each is a kernel to compile."""
    every = list(widths(name).items())
    place = list(CALLS).index(name)
    return dict([every[place % len(every)]] if every else [])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CALLS)
def test_what_says_where_is_welcome(name: str, library: str) -> None:
    own = LIBRARIES[library][0](CALLS[name][1])
    check_sides(name, library, {"own": own, **forms(CALLS[name][1]), **some_widths(name)})


@pytest.mark.large
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CALLS)
def test_integers_of_every_width_are_welcome(name: str, library: str) -> None:
    check_sides(name, library, widths(name))


def check_sides(name: str, library: str, sides: dict[str, Any]) -> None:
    call, side = CALLS[name]
    to, kind = LIBRARIES[library]
    expected = arrays(call(X.copy(), side))
    for how, given in sides.items():
        for _ in range(2):
            got = arrays(call(to(X), given))
            assert all(isinstance(a, kind) for a in got), how
            for a, b in zip(got, expected, strict=True):
                assert np.array_equal(np.asarray(a), b), how


def test_a_count_stands_for_the_first_ids() -> None:
    for to, _ in LIBRARIES.values():
        counted = nbgather.random_masking(to(X), 0.5, seed=1, sample_ids=2)
        listed = nbgather.random_masking(to(X), 0.5, seed=1, sample_ids=range(2))
        assert np.array_equal(np.asarray(counted.mask), np.asarray(listed.mask))
    with pytest.raises(ValueError, match="one id for each of the 2 samples"):
        nbgather.random_masking(X, 0.5, seed=1, sample_ids=3)


def test_ids_are_64_bits_of_any_width() -> None:
    """An id above 2**63 as uint64 is the same counter as its bits as int64."""
    wide = np.array([2**64 - 1, 2**63, 5], np.uint64)
    for to in (np.asarray, torch.from_numpy):
        got = nbgather.token_noise(1, to(wide), 9)
        assert np.array_equal(np.asarray(got), nbgather.token_noise(1, wide.view(np.int64), 9))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("other", LIBRARIES)
def test_values_are_never_mixed(library: str, other: str) -> None:
    if library == other:
        return
    x, value = LIBRARIES[library][0](X), LIBRARIES[other][0]
    index = LIBRARIES[library][0](np.repeat(IDS[..., None], 4, 2))
    calls = {
        ("input", "src"): lambda: nbgather.scatter_add(x, 1, index, value(X)),
        ("x_visible", "mask_token"): lambda: nbgather.restore_tokens(
            x[:, :2], RANKS.tolist(), value(X[0, 0])
        ),
    }
    for (main, operand), call in calls.items():
        text = f"{main} is a {library} array and {operand} a {other} one: both must be of one"
        with pytest.raises(TypeError, match=text):
            call()


@pytest.mark.parametrize("library", ["NumPy", "torch", "JAX"])
def test_what_cannot_be_beside_is_named_rightly(library: str) -> None:
    others = {"NumPy": ["torch", "JAX"], "torch": ["JAX"], "JAX": ["torch"]}[library]
    for other in others:
        text = f"x is a {library} array and noise a {other} one: both must be of one library"
        with pytest.raises(TypeError, match=text):
            nbgather.random_masking(LIBRARIES[library][0](X), 0.5, noise=LIBRARIES[other][0](NOISE))


def test_a_masked_mask_token_is_refused() -> None:
    token = np.ma.MaskedArray(np.zeros(4, np.float32), [True, False, False, False])
    with pytest.raises(TypeError, match="mask_token is a masked array: its mask would be lost"):
        nbgather.restore_tokens(X[:, :2], RANKS, token)


def test_classes_of_arrays_are_not_kept() -> None:
    class Derived(np.ndarray):
        pass

    for _ in range(3):
        nbgather.gather(X.copy().view(Derived), 1, np.repeat(IDS[..., None], 4, 2))
    witness = weakref.ref(Derived)
    del Derived
    gc.collect()
    assert witness() is None


@pytest.mark.parametrize("items", [3, 100_000])
def test_a_numpy_index_may_be_written_to_before_the_gradient_needs_it(items: int) -> None:
    x, src = torch.zeros(1, items, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    index = np.zeros((1, 2), np.int64)
    picked = nbgather.gather(x, 1, index)
    added = nbgather.scatter_add(torch.zeros(1, items), 1, index, src)
    index[:] = 1
    picked.sum().backward()
    assert x.grad is not None
    assert x.grad[0, :3].tolist() == [2, 0, 0]
    (added * torch.arange(items)).sum().backward()
    assert src.grad is not None
    assert src.grad.tolist() == [[0, 0]]
