"""Reductions that threads share by parts of the index, and means of floats of 16 bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import rng, same
from test_reduce import at_the_end_of_a_page, by_torch, dtype_of, equal, special

import nbgather
from nbgather.kernels.cpu import launch_reduce, limits


@pytest.fixture
def parted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small calls are cut in parts too; how many parts they had."""
    seen: list[int] = []
    cut = launch_reduce._by_parts

    def noting(plan, *rest):
        seen.append(launch_reduce.parts_of_lanes(plan, rest[3]))
        return cut(plan, *rest)

    monkeypatch.setattr(launch_reduce, "PARTED_MIN_BYTES", 1)
    monkeypatch.setattr(launch_reduce, "_by_parts", noting)
    return seen


SHAPES = (((40,), (900,), 0), ((2, 40, 3), (2, 300, 3), 1))


@pytest.mark.parametrize(
    ("name", "reduce", "owns"),
    [
        ("float32", "amax", (True, False)), ("uint8", "amin", (True,)),
        pytest.param("uint8", "amin", (False,), marks=pytest.mark.large),
        pytest.param("float16", "amin", (True, False), marks=pytest.mark.large),
        pytest.param("int16", "amax", (True, False), marks=pytest.mark.large),
        pytest.param("bool", "sum", (True, False), marks=pytest.mark.large),
    ],
)  # fmt: skip
def test_parts_of_an_index_give_the_same_bits(
    name: str, reduce: str, owns: tuple[bool, ...], parted: list[int]
) -> None:
    generator = rng(f"parts {name}")
    for shape, index_shape, dim in SHAPES:
        x, src = (special(generator, s, name) for s in (shape, index_shape))
        if name.startswith("float"):
            # To some places comes nothing but what they begin with.
            src[generator.random(index_shape) < 0.9] = -np.inf if reduce == "amax" else np.inf
        index = generator.integers(0, shape[dim] - 3, index_shape)
        for own, threads in itertools.product(owns, (2, 3, 16)):
            with limits.limit_threads(threads):
                got = nbgather.scatter_reduce(x, dim, index, src, reduce, include_self=own)
            equal(got, by_torch(x, dim, index, src, reduce, own))
            want = nbgather.scatter_reduce(
                x, dim, index, src, reduce, include_self=own, backend="reference"
            )
            same(got, want)
    assert {2, 3} <= set(parted)


def test_the_last_nan_and_the_first_zero_are_left(parted: list[int]) -> None:
    """Across parts as within one: which NaN, and which of the zeros."""
    bits = np.array([0x7FC00001, 0x7FC00002, 0x7FC00003], np.uint32).view(np.float32)
    src = np.tile(np.array([0.0, -0.0], np.float32), 100)
    index = np.arange(200) % 2
    index[::50] = 2
    src[::50] = np.resize(bits, 4)
    for begun in (0.0, -0.0):
        x = np.full(3, begun, np.float32)
        with limits.limit_threads(4):
            got = nbgather.scatter_reduce(x, 0, index, src, "amax")
        same(got, nbgather.scatter_reduce(x, 0, index, src, "amax", backend="reference"))
    assert set(parted) == {4}


def test_parts_find_a_bad_index_and_touch_nothing_beyond(parted: list[int]) -> None:
    generator = rng("parts beyond")
    x, src = (generator.standard_normal(n).astype(np.float32) for n in (33, 701))
    index = generator.integers(0, 33, 701)
    held = [at_the_end_of_a_page(a) for a in (x, index, src, np.empty_like(x))]
    for own in (True, False):
        options = {"include_self": own, "out": held[3]}
        with limits.limit_threads(3):
            nbgather.scatter_reduce(held[0], 0, held[1], held[2], "amax", **options)
        equal(held[3], by_torch(x, 0, index, src, "amax", own))
        for place in (0, 350, 700):
            bad = index.copy()
            bad[place] = 33
            with limits.limit_threads(3), pytest.raises(IndexError) as raised:
                nbgather.scatter_reduce(x, 0, bad, src, "amax", include_self=own)
            assert str(raised.value).startswith(f"index 33 at ({place},) is out of bounds")
    assert set(parted) == {3}


@pytest.mark.parametrize(
    "name", ["float16", pytest.param("bfloat16", marks=pytest.mark.large)]
)  # fmt: skip
def test_means_of_halves_are_rounded_as_torch_rounds_them(name: str) -> None:
    generator = rng(f"halves {name}")
    cases = (
        ((7, 8, 9), (5, 8, 4), 2), ((6, 40, 30), (6, 90, 30), 1), ((30, 50), (3000, 50), 0),
        ((5000,), (40000,), 0), ((6, 40, 5), (6, 90, 5), 1),
    )  # fmt: skip
    for (shape, index_shape, dim), rows in itertools.product(cases, (False, True)):
        x, src = (special(generator, s, name) for s in (shape, index_shape))
        src = (src.astype(np.float32) * 300).astype(dtype_of(name))
        index = generator.integers(0, max(shape[dim] * 3 // 4, 1), index_shape)
        if rows and dim != len(shape) - 1:
            index = np.broadcast_to(index[..., :1], index_shape)
        for own in (True, False):
            got = nbgather.scatter_reduce(x, dim, index, src, "mean", include_self=own)
            equal(got, by_torch(x, dim, index, src, "mean", own))


@pytest.mark.parametrize(
    ("reduce", "own"),
    [
        ("sum", True), ("mean", False),
        pytest.param("mean", True, marks=pytest.mark.large),
        pytest.param("amax", False, marks=pytest.mark.large),
    ],
)  # fmt: skip
def test_rows_of_an_index_that_rises_are_shared(reduce: str, own: bool) -> None:
    generator = rng("rows that rise")
    x, src = (generator.standard_normal((n, 64)).astype(np.float32) for n in (40, 300))
    random = generator.integers(0, 40, 300)
    late = np.sort(random)
    late[-1] = 3  # rises but for the last
    for rows in (np.sort(random), np.sort(random % 7) + 20, np.full(300, 39), random, late):
        index = np.broadcast_to(rows[:, None], src.shape)
        want = nbgather.scatter_reduce(
            x, 0, index, src, reduce, include_self=own, backend="reference"
        )
        for threads in (1, 2, 3, 16):
            with limits.limit_threads(threads):
                same(nbgather.scatter_reduce(x, 0, index, src, reduce, include_self=own), want)
    for place, value in ((-1, 40), (0, -1), (299, 1 << 40)):
        bad = np.sort(random)
        bad[place] = value
        index = np.broadcast_to(bad[:, None], src.shape)
        for threads in (1, 2, 16):
            with limits.limit_threads(threads), pytest.raises(IndexError, match=f"index {value} "):
                nbgather.scatter_reduce(x, 0, index, src, reduce, include_self=own)


def test_two_threads_share_only_places_for_which_the_last_cache_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    find = launch_reduce._kernel

    def noting(plan, form, how):
        seen.append(form)
        return find(plan, form, how)

    monkeypatch.setattr(launch_reduce, "_kernel", noting)
    monkeypatch.setattr(launch_reduce, "SHARED_MIN_BYTES", 0)
    monkeypatch.setattr(launch_reduce, "FAR_BYTES", 8 * 70_000)  # a sum and a count each
    generator = rng("two threads")
    for places, shared in ((69_999, False), (70_000, True)):
        x, src = (special(generator, (n,), "float32") for n in (places, 3000))
        index = generator.integers(0, places, 3000)
        seen.clear()
        with limits.limit_threads(2):
            got = nbgather.scatter_reduce(x, 0, index, src, "mean")
        assert [form == "shared" for form in seen] == [shared]
        equal(got, nbgather.scatter_reduce(x, 0, index, src, "mean", backend="reference"))


@pytest.mark.parametrize(
    ("reduce", "size", "columns", "width"),
    [
        ("mean", 64, 128, 128), ("mean", 64, 256, 256), ("mean", 64, 512, 128),
        ("amax", 16, 512, 256), ("amax", 300, 256, 128), ("mean", 300, 256, 256),
    ],
)  # fmt: skip
def test_rows_are_cut_into_columns_that_memory_gives_fast(
    reduce: str, size: int, columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    cut = launch_reduce._tiles

    def noting(*args):
        numbers, count = cut(*args)
        widths.append(int(numbers[launch_reduce._TILE]))
        return numbers, count

    monkeypatch.setattr(launch_reduce, "_tiles", noting)
    generator = rng(f"widths {size} {columns}")
    x, src = (special(generator, (2, n, columns), "float32") for n in (size, 5))
    index = generator.integers(0, size, (2, 5, columns))
    with limits.limit_threads(1):
        got = nbgather.scatter_reduce(x, 1, index, src, reduce)
    assert widths == [width]
    equal(got, nbgather.scatter_reduce(x, 1, index, src, reduce, backend="reference"))
