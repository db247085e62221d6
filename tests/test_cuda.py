"""The CUDA backend in a simulator, on the shared cases, against the reference and the CPU.

Every load and store of a kernel is checked against the arrays that exist, so a read outside
fails here before it could on a device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cases import CASES, DTYPES, INDEX_DTYPES, random_bits, rng, same
from simulator import DeviceArray, Driver, simulated, to_device

import nbgather.cuda
from nbgather.engine.plan import plan_gather
from nbgather.kernels.cuda import launch as cuda
from nbgather.kernels.cuda import launch_masking, radix
from nbgather.kernels.cuda import positions as positions_of
from nbgather.kernels.cuda.driver import Place

#: What a GPU's array cannot be: off its alignment, or in another byte order.
NOT_THERE = {"unaligned", "unaligned_index", "swapped_index"}


@pytest.fixture(params=[32, 96], ids=["32 threads", "96 threads"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with simulated(request.param) as driver:
        yield driver


@pytest.fixture
def small() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


@pytest.fixture(params=[1 << 32, 1], ids=["32-bit", "64-bit"])
def positions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a kernel takes a position apart."""
    plan_gather.cache_clear()  # plans keep launches
    monkeypatch.setattr(cuda, "WIDE_ELEMENTS", request.param)


def host(result: Any) -> np.ndarray:
    assert isinstance(result, DeviceArray), type(result)
    return np.array(result.array, order="C")


@pytest.mark.parametrize("name", sorted(set(CASES) - NOT_THERE))
def test_gather_on_the_shared_cases(name: str, small: Driver, positions: None) -> None:
    x, dim, index = CASES[name]()
    got = nbgather.gather(to_device(x), dim, to_device(index))
    same(host(got), nbgather.gather(x, dim, index, backend="reference"))


@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 70), (4, 300), (2, 3, 4, 33)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "complex128"])
def test_gather_of_odd_shapes(gpu: Driver, shape: tuple[int, ...], dtype: str) -> None:
    generator = rng(f"{shape}{dtype}")
    x = random_bits(generator, shape, dtype)
    for dim in range(len(shape)):
        index_shape = (*shape[:dim], 6, *shape[dim + 1 :])
        index = generator.integers(0, shape[dim], index_shape)
        got = nbgather.gather(to_device(x), dim, to_device(index))
        same(host(got), nbgather.gather(x, dim, index))
        row = generator.integers(
            0, shape[dim], (*index_shape[: dim + 1], *[1] * (x.ndim - dim - 1))
        )
        wide = np.broadcast_to(row, index_shape)
        got = nbgather.gather(to_device(x), dim, to_device(wide))
        same(host(got), nbgather.gather(x, dim, wide))


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
@pytest.mark.parametrize("mode", ["clip", "wrap", "fill"])
@pytest.mark.parametrize("rows", [False, True])
def test_modes(small: Driver, mode: Any, index_dtype: str, rows: bool) -> None:
    generator = rng(f"{mode}{index_dtype}")
    x = random_bits(generator, (3, 5, 40), "uint16")
    info = np.iinfo(index_dtype)
    values = [info.min, info.max, 0, 4, 5, 6, 11, max(info.min, -1), max(info.min, -6)]
    chosen = generator.integers(0, len(values), (3, 8, 1 if rows else 40))
    index = np.array(values, index_dtype)[chosen]
    index = np.broadcast_to(index, (3, 8, 40))
    along = index[..., :1]
    got = nbgather.gather(to_device(x), 1, to_device(index), mode=mode, fill_value=257)
    taken = nbgather.take_along_axis(to_device(x), to_device(along), 1, mode=mode, fill_value=3)
    # The CPU's kernels are compared with the reference elsewhere, and take long to compile.
    for backend in ("reference", "cpu") if index_dtype == "int64" else ("reference",):
        options = {"mode": mode, "backend": backend}
        same(host(got), nbgather.gather(x, 1, index, fill_value=257, **options))
        same(host(taken), nbgather.take_along_axis(x, along, 1, fill_value=3, **options))


@pytest.mark.parametrize("dtype", ["int8", "float32", "complex128"])
def test_fill_values_of_rows(small: Driver, dtype: str) -> None:
    x = random_bits(rng(dtype), (2, 4, 37), dtype)
    ids = np.array([[0, 9, 3], [-1, 2, 4]])
    got = nbgather.gather_tokens(to_device(x), to_device(ids), mode="fill", fill_value=100)
    same(host(got), nbgather.gather_tokens(x, ids, mode="fill", fill_value=100))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_gather_tokens(small: Driver, dtype: str) -> None:
    x = random_bits(rng(dtype), (3, 6, 5), DTYPES[dtype])
    ids = rng(dtype).integers(0, 6, (3, 4))
    same(host(nbgather.gather_tokens(to_device(x), to_device(ids))), nbgather.gather_tokens(x, ids))


@pytest.mark.parametrize(
    "kind, index",
    [
        ("elements", np.array([[0, 2], [7, -1], [3, 1]])),
        ("elements", np.array([[0, 2], [1, -1], [3, 9]])),
        ("elements", np.array([[0, 2], [1, 2**63 + 5], [3, 9]], np.uint64)),
        ("tokens", np.array([[0, 4, 9]])),
        ("along", np.array([[0, 1], [-5, 3], [8, 0]])),
    ],
)
def test_a_bad_index_is_the_same_error_and_nothing_is_read_outside(
    small: Driver, kind: str, index: np.ndarray
) -> None:
    call, x = {
        "elements": (lambda a, i: nbgather.gather(a, 1, i), np.zeros((3, 4))),
        "tokens": (nbgather.gather_tokens, np.zeros((1, 4, 32))),
        "along": (lambda a, i: nbgather.take_along_axis(a, i, 1), np.zeros((3, 4))),
    }[kind]
    with pytest.raises(IndexError) as theirs:
        call(x, index)
    with pytest.raises(IndexError) as ours:
        call(to_device(x), to_device(index))
    assert str(ours.value) == str(theirs.value)
    good = index * 0
    same(host(call(to_device(x), to_device(good))), call(x, good))  # and the next call works


@pytest.mark.parametrize("dtype", ["uint8", "float32", "complex128"])
def test_short_rows(small: Driver, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Several rows for each thread, of which the last are fewer."""
    monkeypatch.setattr(cuda, "BLOCKS_PER_MULTIPROCESSOR", 0)
    generator = rng(dtype)
    for nbytes, kept in ((64, 3), (96, 50), (240, 21)):
        x = random_bits(generator, (3, 6, nbytes // np.dtype(dtype).itemsize), dtype)
        ids = generator.integers(0, 6, (3, kept))
        small.launches.clear()
        got = nbgather.gather_tokens(to_device(x), to_device(ids))
        same(host(got), nbgather.gather_tokens(x, ids))
        assert [key[0] for key, _, _ in small.launches] == ["short rows"]
        ids[1, 2] = ids[2, 0] = -9
        for value in (7, 0):
            options: dict[str, Any] = {"mode": "fill", "fill_value": value}
            got = nbgather.gather_tokens(to_device(x), to_device(ids), **options)
            same(host(got), nbgather.gather_tokens(x, ids, **options))
        with pytest.raises(IndexError, match=r"index -9 at \(1, 2\) is out of bounds"):
            nbgather.gather_tokens(to_device(x), to_device(ids))
        ids[:] = generator.integers(0, 9, (3, kept))
        ids[0, :2] = 6, 7
        token = x[0, 0]
        if kept >= 6:
            got = nbgather.restore_tokens(to_device(x), to_device(ids), to_device(token))
            same(host(got), nbgather.restore_tokens(x, ids, token))


@pytest.mark.parametrize("columns", [6, 70, 97])
def test_rows_of_any_number_of_vectors(small: Driver, columns: int) -> None:
    x = random_bits(rng(f"{columns}"), (5, columns, 4), "float32")
    ids = np.array([3, 0, 3, 4])
    wide = np.broadcast_to(ids[:, None, None], (4, columns, 4))
    got = nbgather.gather(to_device(x), 0, to_device(wide))
    same(host(got), nbgather.gather(x, 0, wide))


@pytest.mark.parametrize("index_dtype", ["int64", "uint8"])
def test_panels_of_columns(
    small: Driver, positions: None, monkeypatch: pytest.MonkeyPatch, index_dtype: str
) -> None:
    monkeypatch.setattr(cuda, "NEAR_BYTES", 0)
    monkeypatch.setattr(cuda, "PANEL_COLUMNS", (16, 8))
    for shape, dim, panels in (
        ((9, 24), 0, True), ((2, 9, 32), 1, True), ((3, 9, 16), 1, True), ((9, 30), 0, False),
        ((9, 24), 1, False), ((9, 8), 0, False), ((3, 4, 24), 0, True),
    ):  # fmt: skip
        x = random_bits(rng(f"{shape}"), shape, "float32")
        index = rng("panels").integers(0, shape[dim], shape).astype(index_dtype)
        small.launches.clear()
        got = nbgather.gather(to_device(x), dim, to_device(index))
        same(host(got), nbgather.gather(x, dim, index))
        assert small.launches[-1][0][7] == panels, (shape, dim)
        index[1:, -1] = 77
        index[-1, 0] = 99
        with pytest.raises(IndexError) as theirs:
            nbgather.gather(x, dim, index)
        with pytest.raises(IndexError) as ours:
            nbgather.gather(to_device(x), dim, to_device(index))
        assert str(ours.value) == str(theirs.value)


def test_products_that_stand_for_divisions() -> None:
    """The quotient is exact for all numbers of 32 bits; those beside multiples are the hardest."""
    generator = rng("divide")
    most = (1 << 32) - 1
    lengths = [2, 3, 5, 7, 10, 641, 65537, 1 << 31, (1 << 31) + 1, most - 1, most]
    lengths += generator.integers(2, most, 200).tolist()
    for length in lengths:
        factor = np.uint64(positions_of.reciprocal(length, False))
        multiples = [length * k for k in (0, 1, 2, most // length, most // length // 2 + 1)]
        for n in {m + e for m in multiples for e in (-1, 0, 1)} | {most}:
            if 0 <= n <= most:
                found = positions_of.divide_by(np.uint64(n), np.uint64(length), factor)
                assert tuple(map(int, found)) == divmod(n, length), (n, length)


def test_a_gather_from_nothing(small: Driver) -> None:
    x, index = to_device(np.zeros((0, 3))), to_device(np.zeros((2, 3), int))
    with pytest.raises(IndexError, match=r"index 0 at \(0, 0\) is out of bounds .* with size 0"):
        nbgather.gather(x, 0, index)
    with pytest.raises(IndexError, match="has no position to choose"):
        nbgather.gather(x, 0, index, mode="clip")
    got = nbgather.gather(x, 0, index, mode="fill", fill_value=2.5)
    same(host(got), np.full((2, 3), 2.5))


def test_out(small: Driver) -> None:
    x, index = random_bits(rng("out"), (4, 6), "float32"), rng("out").integers(0, 6, (4, 3))
    whole = to_device(np.zeros((4, 6), np.float32))
    out = whole.view_of(whole.array[:, ::2])
    dx, di = to_device(x), to_device(index)
    assert nbgather.gather(dx, 1, di, out=out) is out
    assert np.array_equal(whole.array[:, ::2], np.take_along_axis(x, index, 1), equal_nan=True)
    assert not whole.array[:, 1::2].any()
    with pytest.raises(ValueError, match="out overlaps input"):
        nbgather.gather(dx, 1, di, out=dx.view_of(dx.array[:, :3]))


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 49, 196])
def test_token_noise(small: Driver, tokens: int) -> None:
    ids = np.array([0, -1, 2**40 + 3, 7])
    got = nbgather.token_noise(2**63 + 1, to_device(ids), tokens, epoch=2**32 - 1)
    same(host(got), nbgather.token_noise(2**63 + 1, ids, tokens, epoch=2**32 - 1))


AWKWARD = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, 0.5, 0.5, 1.0, -1.0])


#: The most tokens that are compared, and that a block sorts.
RANKINGS = {"compared": (512, 4096), "sorted by a block": (0, 4096), "sorted in passes": (0, 0)}


def limit_ranking(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    fused, whole = RANKINGS[way]
    monkeypatch.setattr(launch_masking, "MAX_FUSED_TOKENS", fused)
    monkeypatch.setattr(radix, "MAX_WHOLE", whole)


@pytest.mark.parametrize("way", ["compared", "sorted by a block"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rank_tokens(gpu: Driver, monkeypatch: pytest.MonkeyPatch, dtype: str, way: str) -> None:
    limit_ranking(monkeypatch, way)
    for tokens, kept in ((1, 1), (37, 9), (70, 0), (130, [130, 3])):
        scores = rng(f"{tokens}").choice(AWKWARD, (2, tokens)).astype(dtype)
        scores[1, ::2] = 0.25
        want = nbgather.rank_tokens(scores, kept, backend="reference")
        for layout in (scores, np.asfortranarray(scores)):
            got = nbgather.rank_tokens(to_device(layout), kept)
            for a, b in zip(got, want, strict=True):
                same(host(a), b)


def test_rank_tokens_in_passes(small: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_ranking(monkeypatch, "sorted in passes")
    scores = rng("passes").choice(AWKWARD, (2, 40)).astype("float32")
    want = nbgather.rank_tokens(scores, [40, 3], backend="reference")
    for a, b in zip(nbgather.rank_tokens(to_device(scores), [40, 3]), want, strict=True):
        same(host(a), b)


@pytest.mark.parametrize("way", ["sorted by a block", "sorted in passes"])
@pytest.mark.parametrize("kind", ["seed", "float32", "float64"])
def test_the_ranks_of_several_tiles(
    small: Driver, monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    """Every digit of the keys, ties among them, in tiles of which the last is not full."""
    limit_ranking(monkeypatch, way)
    generator = rng(kind)
    x = np.zeros((2, 517, 0), np.float32)
    if kind == "seed":
        ids = np.array([5, 2**40])
        options = {"seed": 9, "sample_ids": ids, "epoch": 3}
        on_device = options | {"sample_ids": to_device(ids)}
    else:
        unsigned = f"u{kind[-2:]}".replace("32", "4").replace("64", "8")
        noise = random_bits(generator, (2, 517), unsigned).view(kind)
        noise[:, 100:300] = noise[:, :200]
        noise[0, :5] = [0.0, -0.0, np.nan, np.inf, -np.inf]
        options, on_device = {"noise": noise}, {"noise": to_device(noise)}
    got = nbgather.random_masking(to_device(x), 0.6, **on_device)
    for a, b in zip(got, nbgather.random_masking(x, 0.6, **options), strict=True):
        same(host(a), b)
    names = [key if isinstance(key, str) else key[0] for key, _, _ in small.launches]
    assert ("ranks" in names) == (way == "sorted by a block")
    assert ("radix sort" in names) == (way == "sorted in passes")


@pytest.mark.parametrize("length", [256, 300, 600])
def test_noise_that_is_equal_or_almost(small: Driver, length: int) -> None:
    """Every bit of the noise counts, and the token where all are equal."""
    ids = np.arange(6000)
    noise = nbgather.token_noise(0, ids, length)
    order = np.argsort(noise, axis=1, kind="stable")
    steps = np.diff(np.take_along_axis(noise, order, 1), axis=1) * 2**24
    behind = np.diff(order, axis=1) < 0
    almost = ids[((steps == 1) & behind).any(1)][:2]
    equal = ids[(steps == 0).any(1)][:1]
    assert len(almost) == 2
    assert len(equal) == 1
    chosen = np.concatenate([almost, equal])
    x = np.zeros((3, length, 0), np.float32)
    got = nbgather.random_masking(to_device(x), 0.5, seed=0, sample_ids=to_device(chosen))
    want = nbgather.random_masking(x, 0.5, seed=0, sample_ids=chosen)
    for a, b in zip(got, want, strict=True):
        same(host(a), b)


def test_ranks_are_taken_once_where_blocks_share_a_sample(small: Driver) -> None:
    """Two launches, the ranks and a gather of rows, instead of ranks by each block."""
    small.multiprocessors = 100
    x = random_bits(rng("once"), (1, 300, 200), "float32")
    got = nbgather.random_masking(to_device(x), 0.3, seed=1)
    for a, b in zip(got, nbgather.random_masking(x, 0.3, seed=1), strict=True):
        same(host(a), b)
    assert [(key[0], grid[1]) for key, grid, _ in small.launches] == [("masking", 1), ("rows", 1)]


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 5, 0), (0, 600, 3)])
def test_a_masking_of_nothing(small: Driver, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    got = nbgather.random_masking(to_device(x), 0.5, seed=1)
    for a, b in zip(got, nbgather.random_masking(x, 0.5, seed=1), strict=True):
        same(host(a), b)


class Noted(Driver):
    """Launches are written down, and not made."""

    def launch(self, key: Any, build: Any, grid: Any, block: Any, *rest: Any) -> None:
        self.launches.append((key, grid, block))


def test_grids_of_long_samples_are_within_the_limits_of_a_device(small: Driver) -> None:
    noted, place = Noted(), Place(0, 7)
    before = cuda.use(noted)
    try:
        for samples, length in ((1, (1 << 32) - 8), (300, 1 << 23), (1 << 18, 1 << 14 | 1)):
            launch_masking.token_noise((0, 1, 2), samples, length, 0, 0, place)
            for source in ("seed", "f4", "f8"):
                launch_masking.masking(
                    source, samples, 0, 0, 0, 0, place, length=length, kept=1, epoch=0, key_low=0,
                    key_high=0, row=0, x_n=0, x_l=0, keep=0, restore=0, mask=0, counts=0,
                    implied=1, scratch=lambda nbytes: 0,
                )  # fmt: skip
    finally:
        cuda.use(before)
    assert len(noted.launches) == 3 * (1 + 3 * (3 + 4 + 8))
    for _, (x, y), _ in noted.launches:
        assert 0 < x < 1 << 31
        assert 0 < y <= 65535


def test_counts_of_vectors_stay_within_32_bits(small: Driver) -> None:
    """A thread looks for a vector three block widths on: the sum must not wrap."""
    place = Place(0, 7)
    most = launch_masking.MAX_KEPT_BYTES
    ahead = 4 * launch_masking.masking_kernels.RANKING_THREADS
    assert most - 1 + ahead < 1 << 32
    assert launch_masking.masks_in_one(10**6, 2, 1, most - 1, place)
    assert not launch_masking.masks_in_one(10**6, 2, 1, most, place)
    assert not launch_masking.masks_in_one(10**6, 2, 2, (1 << 31) - 1, place)


@pytest.mark.parametrize("shape", [(3, 16, 4), (2, 49, 3, 5), (1, 197, 8), (4, 1, 1), (2, 60, 0)])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "complex128"])
def test_random_masking(small: Driver, shape: tuple[int, ...], dtype: str) -> None:
    x = random_bits(rng(f"{shape}"), shape, dtype)
    noise = rng("noise").choice(AWKWARD, shape[:2])
    ids = rng("ids").integers(-(2**63), 2**63 - 1, shape[0])
    few = [(3 * n + 1) % (shape[1] + 1) for n in range(shape[0])]
    calls: list[dict[str, Any]] = [
        {"seed": 3}, {"seed": -1, "sample_ids": ids, "epoch": 9}, {"noise": noise},
        {"noise": noise.astype(np.float32), "num_keep": 1}, {"seed": 5, "num_keep": few},
    ]  # fmt: skip
    for options in calls:
        on_device = {
            k: to_device(v) if isinstance(v, np.ndarray) else v for k, v in options.items()
        }
        got = nbgather.random_masking(to_device(x), 0.75, **on_device)
        want = nbgather.random_masking(x, 0.75, **options)
        assert type(got) is type(want)
        for a, b in zip(got, want, strict=True):
            same(host(a), b)
    assert sum(k[0] == "masking" for k, _, _ in small.launches) == len(calls)  # one launch each


@pytest.mark.parametrize(
    "options", [{"seed": 2}, {"noise": True}, {"seed": 2, "num_keep": [3, 40]}]
)
def test_masking_of_many_tokens_and_of_strides(
    small: Driver, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(launch_masking, "MAX_FUSED_TOKENS", 40)
    monkeypatch.setattr(radix, "MAX_WHOLE", 60)
    plain = random_bits(rng("many"), (2, 90, 6), "float32")
    if "noise" in options:
        options = {"noise": rng("many").random((2, 90), np.float32)}
    on_device = {k: to_device(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    for x in (plain, plain[:, ::3], plain[:, :, ::2], plain.transpose(0, 2, 1)[:, :, :30]):
        if "noise" in options:
            options["noise"] = rng("many").random(x.shape[:2], np.float32)
            on_device["noise"] = to_device(options["noise"])
        if "num_keep" in options:
            options["num_keep"] = on_device["num_keep"] = [3, min(40, x.shape[1])]
        got = nbgather.random_masking(to_device(x), 0.5, **on_device)
        want = nbgather.random_masking(x, 0.5, **options)
        for a, b in zip(got, want, strict=True):
            same(host(a), b)


def test_blocks_that_share_a_sample(small: Driver) -> None:
    small.multiprocessors = 100
    x = random_bits(rng("share"), (2, 20, 777), "float32")
    got = nbgather.random_masking(to_device(x), 0.3, seed=1)
    for a, b in zip(got, nbgather.random_masking(x, 0.3, seed=1), strict=True):
        same(host(a), b)
    assert small.launches[-1][1][1] > 1


@pytest.mark.parametrize("token", ["scalar", "row", "long row"])
def test_restore_tokens(small: Driver, token: str) -> None:
    x = random_bits(rng("restore"), (3, 12, 5), "float32")
    visible, _, ids = nbgather.random_masking(x, 0.6, seed=4)
    row = np.arange(5, dtype=np.float32)
    value = {"scalar": 1.5, "row": row, "long row": row.reshape(1, 1, 5)}[token]
    on_device = value if token == "scalar" else to_device(np.asarray(value))
    got = nbgather.restore_tokens(to_device(visible), to_device(ids), on_device)
    same(host(got), nbgather.restore_tokens(visible, ids, value))
    ids[1, 3] = 12
    with pytest.raises(IndexError, match=r"index 12 at \(1, 3\) is out of bounds"):
        nbgather.restore_tokens(to_device(visible), to_device(ids), on_device)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "complex128", "float16"])
@pytest.mark.parametrize("video", [False, True])
def test_masked_patchify(small: Driver, dtype: str, video: bool) -> None:
    shape, patch = ((2, 3, 4, 8, 12), (2, 4, 3)) if video else ((2, 3, 8, 12), (4, 3))
    images = random_bits(rng(dtype), shape, dtype)
    for x in (images, images[..., ::-1], images[:, ::-1]):
        for options in ({"seed": 1}, {"seed": 1, "num_keep": [2, 5]}):
            got = nbgather.masked_patchify(to_device(x), patch, 0.5, **options)
            want = nbgather.masked_patchify(x, patch, 0.5, **options)
            for a, b in zip(got, want, strict=True):
                same(host(a), b)


def test_more_patches_than_a_grid_has_blocks(small: Driver) -> None:
    small.MAX_GRID_X = 5  # those of two images
    images = rng("many").integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    for options in ({}, {"scale": 2.0, "mean": 1, "std": 3}):
        small.launches.clear()
        got = nbgather.masked_patchify(to_device(images), 4, 0.5, seed=1, **options)
        want = nbgather.masked_patchify(images, 4, 0.5, seed=1, **options)
        same(host(got.x_masked), want.x_masked)
        blocks = [grid for key, grid, _ in small.launches if key[0] == "patches"]
        assert blocks == [(4, 1), (4, 1), (2, 1)]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_normalised_patches(small: Driver, dtype: str) -> None:
    images = rng("n").integers(0, 256, (2, 3, 8, 8)).astype(dtype)
    options = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    got = nbgather.masked_patchify(to_device(images), 4, 0.5, seed=1, **options)
    want = nbgather.masked_patchify(images, 4, 0.5, seed=1, **options)
    same(host(got.x_masked), want.x_masked)


def test_strategies_come_back_to_the_device(small: Driver) -> None:
    ids = np.array([5, 2, 9])
    got = nbgather.strategies.block(3, to_device(ids), (6, 6), epoch=2)
    same(host(got), nbgather.strategies.block(3, ids, (6, 6), epoch=2))


def test_a_capture_refuses_what_would_wait(small: Driver) -> None:
    x, index = to_device(np.zeros((3, 4))), to_device(np.zeros((3, 4), int))
    small.captured = True
    with pytest.raises(ValueError, match="use the mode defer, clip, wrap or fill"):
        nbgather.gather(x, 1, index)
    assert not small.launches
    nbgather.gather(x, 1, index, mode="clip")
    masked = nbgather.random_masking(to_device(np.zeros((2, 8, 4), np.float32)), seed=0)
    assert len(small.launches) == 2
    strided = to_device(np.zeros((2, 4, 8), np.float32).transpose(0, 2, 1))
    nbgather.random_masking(strided, seed=0)  # in two launches, without a check that would wait
    assert len(small.launches) == 4
    whole = nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 2.0)
    want = np.where(host(masked.mask)[..., None] == 0, np.float32(0), np.float32(2))
    same(host(whole), np.broadcast_to(want, (2, 8, 4)).copy())


def test_what_cannot_be_mixed(small: Driver) -> None:
    x, index = np.zeros((3, 4)), np.zeros((3, 4), int)
    with pytest.raises(TypeError, match="input is a CUDA array and index a NumPy one"):
        nbgather.gather(to_device(x), 1, index)
    elsewhere = DeviceArray(index, device=1)
    with pytest.raises(TypeError, match="input is on cuda:0 and index on cuda:1"):
        nbgather.gather(to_device(x), 1, elsewhere)
    with pytest.raises(ValueError, match="backend 'cpu' cannot serve arrays on cuda:0"):
        nbgather.gather(to_device(x), 1, to_device(index), backend="cpu")
    with pytest.raises(ValueError, match="backend 'cuda' cannot serve arrays on cpu"):
        nbgather.gather(x, 1, index, backend="cuda")
    with pytest.raises(TypeError, match="input is on cuda:0: infer_gather looks at the host"):
        nbgather.infer_gather(to_device(x), to_device(x))


@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill", "defer"])
@pytest.mark.parametrize("item", ["uint8", "float16", "float32", "float64"])
def test_two_indices_have_one_load(small: Driver, item: str, mode: str) -> None:
    """Where they lie side by side at a multiple of 16 bytes, good ones and bad."""
    shapes: tuple[tuple[Any, int, Any, bool], ...] = (
        ((5, 300), 1, (5, 300), True), ((300, 6), 0, (200, 6), True), ((700,), 0, (701,), False),
        ((3, 9, 8), 1, (3, 50, 8), True), ((4, 9), 1, (4, 9), False), ((700,), 0, (900,), True),
    )  # fmt: skip
    for shape, dim, index_shape, pairs in shapes:
        x = random_bits(rng(f"{shape}{item}"), shape, item)
        index = rng("pairs").integers(0, shape[dim], index_shape)
        if mode != "raise":
            index.reshape(-1)[[3, 40 % index.size, -1]] = [shape[dim], -1, 2**62]
        small.launches.clear()
        got = nbgather.gather(to_device(x), dim, to_device(index), mode=mode)
        same(host(got), nbgather.gather(x, dim, index, mode="fill" if mode == "defer" else mode))
        assert small.launches[-1][0][8] == pairs, shape
        if mode == "defer":
            with pytest.raises(IndexError, match=re.escape(f"index {shape[dim]} at")):
                nbgather.cuda.check()
    # At another address, with another stride, and of another dtype there are none.
    whole = rng("aside").integers(0, 9, 2002)
    x = random_bits(rng("x"), (9,), item)
    for index in (to_device(whole).view_of, None):
        device = to_device(whole)
        given = device.view_of(device.array[1:1001] if index else device.array[::2])
        got = nbgather.gather(to_device(x), 0, given)
        same(host(got), x[whole[1:1001] if index else whole[::2]])
        assert not small.launches[-1][0][8]
    nbgather.gather(to_device(x), 0, to_device(whole.astype(np.int32)))
    assert not small.launches[-1][0][8]


def test_results_beyond_the_second_cache_are_streamed(small: Driver) -> None:
    x = random_bits(rng("streams"), (64, 64), "float32")
    index = rng("streams").integers(0, 64, (64, 64))
    calls = {
        "elements": lambda a, i: nbgather.gather(a, 1, i),
        "rows": lambda a, i: nbgather.gather_tokens(a[None], i[:1, :9]),
    }
    for name, call in calls.items():
        for size in (1 << 30, 0):
            small.l2_bytes = size
            plan_gather.cache_clear()
            args = [to_device(x), to_device(index)]
            if name == "rows":
                args = [to_device(x[None]), to_device(index[:1, :9])]
            got = (
                nbgather.gather(args[0], 1, args[1])
                if name == "elements"
                else (nbgather.gather_tokens(*args))
            )
            same(host(got), np.ascontiguousarray(call(x, index)))
            key = small.launches[-1][0]
            assert (key[0], key[-1]) == (name, size == 0)


def test_one_block_serves_a_row(small: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many are picked from it, it fits a cache, and rows are enough."""
    for rows, size, count, whole in (
        (20, 90, 700, True),
        (20, 90, 100, False),
        (3, 90, 700, False),
    ):
        x = random_bits(rng(f"{rows}"), (rows, size), "float32")
        index = rng("rows").integers(0, size, (rows, count))
        got = nbgather.gather(to_device(x), 1, to_device(index))
        same(host(got), nbgather.gather(x, 1, index))
        assert (small.launches[-1][1][0] == rows) == whole
    monkeypatch.setattr(cuda, "ROW_BYTES", 300)
    nbgather.gather(to_device(np.zeros((20, 90))), 1, to_device(np.zeros((20, 700), int)))
    assert small.launches[-1][1][0] > 20


def test_a_block_sorts_what_its_device_has_memory_for() -> None:
    """By as many threads as fit; on some the longest samples are sorted in passes."""
    kilobytes = {"sm_80": 163, "sm_86": 99, "sm_90": 227}
    threads = {
        name: [radix.threads_of_whole(n, size << 10) for n in (196, 4096, 4097, 10240, 1 << 14)]
        for name, size in kilobytes.items()
    }
    assert threads["sm_80"] == [256, 256, 1024, 1024, 512]
    assert threads["sm_86"] == [256, 256, 1024, 256, 0]
    assert threads["sm_90"] == [256, 256, 1024, 1024, 1024]
    assert radix.threads_of_whole((1 << 14) + 1, 227 << 10) == 0
    # Without being asked a block has 48 KB, which is enough for those of few threads.
    assert radix.whole_bytes(4096, 256) <= 48 << 10


@pytest.mark.parametrize("source", ["seed", "f4", "f8"])
def test_a_block_of_many_threads_sorts_a_sample(
    small: Driver, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(launch_masking, "MAX_FUSED_TOKENS", 8)
    monkeypatch.setattr(radix, "FEW_ITEMS", 100)
    x = np.zeros((2, 201, 1), np.float32)
    scores = random_bits(rng("many threads"), (2, 201), "float64" if source == "f8" else "float32")
    scores[:, 50:90] = scores[:, :1]
    given: dict[str, Any] = {"seed": 5} if source == "seed" else {"noise": scores}
    want = nbgather.random_masking(x, 0.5, **given)
    on_device = {k: v if k == "seed" else to_device(v) for k, v in given.items()}
    got = nbgather.random_masking(to_device(x), 0.5, **on_device)
    for a, b in zip(got, want, strict=True):
        same(host(a), b)
    (block,) = [b for key, _, b in small.launches if key[0] == "ranks"]
    assert block[0] == 2 * radix.WHOLE_THREADS[-1]
    small.shared_bytes = radix.whole_bytes(201, block[0]) - 1  # of fewer threads, and of none
    for threads in (block[0] // 2, 0):
        small.launches.clear()
        got = nbgather.random_masking(to_device(x), 0.5, **on_device)
        same(host(got.ids_restore), want.ids_restore)
        blocks = [b[0] for key, _, b in small.launches if key[0] == "ranks"]
        assert blocks == ([threads] if threads else [])
        small.shared_bytes = 100
