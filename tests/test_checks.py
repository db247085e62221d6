"""The checks are checked: a broken kernel must not pass the comparisons that the suite rests on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import CASES, LARGE, same

import nbgather
from nbgather.engine import memo
from nbgather.kernels.cpu import launch as cpu

Wrong = Callable[..., object]


def _gather_one_off(plan, out, src, idx, aux) -> int:
    """The right gather, with one bit of the last byte turned."""
    import ctypes

    bad = RIGHT["gather"](plan, out, src, idx, aux)
    last = ctypes.c_uint8.from_address(out + int(np.prod(plan.shape)) * plan.itemsize - 1)
    last.value ^= 1
    return bad


def _ranks_swapped(source, samples, out, src, idx, aux, **numbers) -> None:
    import ctypes

    RIGHT["masking"](source, samples, out, src, idx, aux, **numbers)
    first = (ctypes.c_int64 * 2).from_address(numbers["restore"])
    first[0], first[1] = first[1], first[0]


def _noise_nudged(args, ids, out) -> None:
    RIGHT["token_noise"](args, ids, out)
    out[-1, -1] = np.nextafter(out[-1, -1], np.float32(2))


def _order_swapped(name, sizes, numbers, aspects, args, ids, out) -> None:
    RIGHT["strategy"](name, sizes, numbers, aspects, args, ids, out)
    out[-1, :2] = out[-1, 1::-1].copy()


def _pixel_turned(plan, out, images, ids=0) -> None:
    import ctypes

    RIGHT["move_patches"](plan, out, images, ids)
    ctypes.c_uint8.from_address(out).value ^= 1


def _normal_pixel_turned(numbers, count, out, images, ids_keep, pixel, affine) -> None:
    import ctypes

    RIGHT["normal_patches"](numbers, count, out, images, ids_keep, pixel, affine)
    ctypes.c_uint8.from_address(out).value ^= 1


BROKEN: dict[str, Wrong] = {
    "gather": _gather_one_off,
    "masking": _ranks_swapped,
    "move_patches": _pixel_turned,
    "normal_patches": _normal_pixel_turned,
    "strategy": _order_swapped,
    "token_noise": _noise_nudged,
}
RIGHT = {name: getattr(cpu, name) for name in BROKEN}


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, request.param, BROKEN[request.param])
    memo.entries.clear()  # calls that are repeated without asking `cpu` again


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


@pytest.mark.parametrize("broken", ["masking"], indirect=True)
@pytest.mark.parametrize("given", ["noise", "seed"])
def test_broken_ranks_are_seen(broken: None, given: str) -> None:
    x, noise = np.zeros((2, 9, 1)), nbgather.token_noise(3, 2, 9, backend="reference")
    way = {"noise": noise} if given == "noise" else {"seed": 3}
    ranks = nbgather.random_masking(x, **way).ids_restore
    want = nbgather.random_masking(x, backend="reference", **way).ids_restore
    with pytest.raises(AssertionError, match="bits differ first at"):
        same(ranks, want)


@pytest.mark.parametrize("broken", ["strategy"], indirect=True)
@pytest.mark.parametrize("strategy", ["block", "grid", "time_frequency"])
def test_a_broken_strategy_is_seen(broken: None, strategy: str) -> None:
    score = getattr(nbgather.strategies, strategy)
    with pytest.raises(AssertionError, match="bits differ first at"):
        same(score(1, 3, (4, 4)), score(1, 3, (4, 4), backend="reference"))


@pytest.mark.parametrize(
    "broken, how",
    [("move_patches", {}), ("normal_patches", {"scale": 2.0})],
    indirect=["broken"],
)
def test_broken_patches_are_seen(broken: None, how: dict) -> None:
    images = np.arange(96, dtype=np.uint8).reshape(2, 3, 4, 4)
    kept = nbgather.masked_patchify(images, 2, seed=0, **how).x_masked
    want = nbgather.masked_patchify(images, 2, seed=0, backend="reference", **how).x_masked
    with pytest.raises(AssertionError, match="bits differ first at"):
        same(kept, want)


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
