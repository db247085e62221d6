"""The checks are checked: a broken kernel must not pass the comparisons that the suite rests on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import CASES, LARGE, same

import nbgather
from nbgather import _run
from nbgather.backends import cpu

Wrong = Callable[..., object]


def _gather_one_off(plan, out, src, idx, aux) -> int:
    """The right gather, with one bit of the last byte turned."""
    import ctypes

    bad = RIGHT["gather"](plan, out, src, idx, aux)
    last = ctypes.c_uint8.from_address(out + int(np.prod(plan.shape)) * plan.itemsize - 1)
    last.value ^= 1
    return bad


def _rank_swapped(scores, ids_keep, ids_restore, mask) -> None:
    RIGHT["rank_tokens"](scores, ids_keep, ids_restore, mask)
    ids_restore[0, :2] = ids_restore[0, 1::-1].copy()


def _noise_nudged(args, ids, out) -> None:
    RIGHT["token_noise"](args, ids, out)
    out[-1, -1] = np.nextafter(out[-1, -1], np.float32(2))


def _seeded_swapped(numbers, samples, addresses, tokens_at) -> None:
    import ctypes

    RIGHT["seeded_masking"](numbers, samples, addresses, tokens_at)
    first = (ctypes.c_int64 * 2).from_address(addresses[4])
    first[0], first[1] = first[1], first[0]


NAMES = ("gather", "rank_tokens", "seeded_masking", "token_noise")
RIGHT = {name: getattr(cpu, name) for name in NAMES}
BROKEN: dict[str, Wrong] = {
    "gather": _gather_one_off,
    "rank_tokens": _rank_swapped,
    "seeded_masking": _seeded_swapped,
    "token_noise": _noise_nudged,
}


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, request.param, BROKEN[request.param])
    monkeypatch.setattr(_run, "_small", {})  # calls that are repeated without asking `cpu` again


@pytest.mark.parametrize("broken", ["gather"], indirect=True)
@pytest.mark.parametrize("name", ["worked", "4d_middle", "transposed", "dtype_bool", "rows_int8"])
def test_a_broken_gather_is_seen(name: str, broken: None) -> None:
    case = CASES[name]()
    with pytest.raises(AssertionError, match="bits differ first at"):
        same(nbgather.gather(*case), nbgather.gather(*case, backend="reference"))


@pytest.mark.parametrize("broken", ["token_noise"], indirect=True)
def test_broken_noise_is_seen(broken: None) -> None:
    noise = nbgather.token_noise(1, 2, 9)
    with pytest.raises(AssertionError, match="bits differ first at"):
        same(noise, nbgather.token_noise(1, 2, 9, backend="reference"))


@pytest.mark.parametrize("broken", ["rank_tokens", "seeded_masking"], indirect=True)
def test_broken_ranks_are_seen(broken: None, request: pytest.FixtureRequest) -> None:
    x, noise = np.zeros((2, 9, 1)), nbgather.token_noise(3, 2, 9, backend="reference")
    way = {"noise": noise} if "rank_tokens" in request.node.name else {"seed": 3}
    ranks = nbgather.random_masking(x, **way).ids_restore
    want = nbgather.random_masking(x, backend="reference", **way).ids_restore
    with pytest.raises(AssertionError, match="bits differ first at"):
        same(ranks, want)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a.view(np.int32), "int32"),
        (lambda a: a[:-1], "(300"),
        (lambda a: a.tolist(), "list"),
        (lambda a: a[::-1], "bits differ"),
    ],
)
def test_same_sees_dtype_shape_container_and_bits(change: Callable, text: str) -> None:
    result = nbgather.gather(*LARGE["last"]())
    same(result, result.copy())
    with pytest.raises(AssertionError, match=text.replace("(", r"\(")):
        same(change(result), result)
