"""scatter and scatter_add on the simulated GPU: every path gives the CPU's bits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cases import rng, same
from simulator import DeviceArray, Driver, simulated, to_device

import nbgather
from nbgather.kernels.cuda import launch as cuda
from nbgather.kernels.cuda import launch_scatter, scatter, scatter_paths, scatter_shared
from nbgather.kernels.cuda.scatter_paths import Facts

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SUMMED = (
    "int8", "uint16", "int32", "uint64", "float16", BFLOAT16, "float32", "float64", "complex64",
    "complex128",
)  # fmt: skip
#: The last kernel of each path.
LAST_KERNELS = {
    "lines": "lines", "claim": "pick", "atomic": "atomic", "looks": "looks", "rows": "row sums",
    "shared lines": "shared lines", "buckets": "buckets",
}  # fmt: skip


@pytest.fixture
def gpu() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


def host(result: Any) -> np.ndarray:
    assert isinstance(result, DeviceArray), type(result)
    return np.array(result.array, order="C")


def kernels(gpu: Driver) -> list[str]:
    return [key if isinstance(key, str) else key[0] for key, _, _ in gpu.launches]


def force(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let one path serve everything."""
    path = next(p for p in scatter_paths.PATHS if p.name == name)
    paths = (path._replace(serves=lambda facts: True),)
    monkeypatch.setattr(scatter_paths, "PATHS", paths)


def numbers(generator: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    """Numbers whose sums are rounded, and differently in each order."""
    if np.dtype(dtype) == np.bool_:
        return generator.integers(0, 2, shape).astype(bool)
    values = generator.normal(0, 50, shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * generator.normal(0, 50, shape)
    return np.asarray(values.astype(dtype))


def places(generator: np.random.Generator, kind: str, size: int, shape: Any, dim: int) -> Any:
    """An index: ``random``, with ``few`` values, ``sorted`` or all the ``same``."""
    most = {"few": min(size, 2), "same": 1}.get(kind, size)
    index = generator.integers(size - most, size, shape)
    return np.sort(index, axis=dim) if kind == "sorted" else index


#: Shape of the input, dim, shape of the index, and whether rows have one index.
LAYOUTS = [
    ((70,), 0, (150,), False),
    ((5, 33), 1, (5, 50), False),
    ((33, 5), 0, (40, 5), False),
    ((4, 6, 5), 1, (3, 9, 4), False),
    ((3, 4, 5, 2), 2, (3, 4, 7, 2), False),
    ((3, 2, 7), 0, (5, 1, 7), False),
    ((9, 32), 0, (50, 32), True),
    ((3, 6, 8, 2), 1, (2, 9, 8, 2), True),
    ((1,), 0, (90,), False),
    ((), 0, (), False),
]
ROWS = [layout for layout in LAYOUTS if layout[3]]


def random_case(layout: Any, kind: str, dtype: Any, name: str) -> tuple[Any, ...]:
    shape, dim, index_shape, rows = layout
    generator = rng(f"{layout}{kind}{dtype}{name}")
    at = (*index_shape[: dim + 1], *[1] * (len(shape) - dim - 1)) if rows else index_shape
    index = places(generator, kind, shape[dim] if shape else 1, at, dim)
    index = np.broadcast_to(index, index_shape)
    return numbers(generator, shape, dtype), dim, index, numbers(generator, index_shape, dtype)


def dtypes_by_turns() -> list[Any]:
    """Each dtype with the even layouts or the odd ones; the others are ``large``."""
    return [
        pytest.param(
            dtype, turn, marks=() if n % 2 == turn else pytest.mark.large, id=f"{dtype}-{turn}"
        )
        for n, dtype in enumerate(("bool", *SUMMED))
        for turn in (0, 1)
    ]


@pytest.mark.parametrize("dtype, turn", dtypes_by_turns())
def test_every_dtype_by_the_path_of_its_shape(gpu: Driver, dtype: Any, turn: int) -> None:
    for k, layout in enumerate(LAYOUTS[turn::2]):
        x, dim, index, src = random_case(layout, ("random", "few")[k % 2], dtype, "own")
        for call in (nbgather.scatter, nbgather.scatter_add):
            got = call(to_device(x), dim, to_device(index), to_device(src))
            same(host(got), call(x, dim, index, src))
    got = nbgather.scatter(to_device(x), dim, to_device(index), 1)
    same(host(got), nbgather.scatter(x, dim, index, 1))


@pytest.mark.parametrize("path", ["rows", "looks", "buckets", "lines", "shared lines"])
def test_every_path_on_every_layout(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Several buckets and tiles, and every kind of index."""
    monkeypatch.setattr(scatter_shared, "SHARED_ENTRIES", 64 if path == "buckets" else 256)
    force(monkeypatch, path)
    kinds = ("random", "few", "sorted", "same")
    layouts = ROWS if path in ("rows", "looks") else LAYOUTS
    dtypes = [d for d in SUMMED if path != "lines" or d not in ("float16", BFLOAT16)]
    for k in range(len(dtypes) if layouts is ROWS else 12):
        layout, dtype = layouts[k % len(layouts)], dtypes[(3 * k) % len(dtypes)]
        if path == "shared lines" and layout[0] in ((3, 4, 5, 2), (70,), ()):
            continue  # no one axis behind the dimension, or longer than a block has room for
        x, dim, index, src = random_case(layout, kinds[k % 4], dtype, path)
        gpu.launches.clear()
        got = nbgather.scatter_add(to_device(x), dim, to_device(index), to_device(src))
        same(host(got), nbgather.scatter_add(x, dim, index, src))
        assert kernels(gpu)[-1] == LAST_KERNELS[path]


@pytest.mark.parametrize("path", [p for p in LAST_KERNELS if p != "claim"])
def test_a_bad_index_is_the_same_error(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    layout = ROWS[0] if path in ("rows", "looks") else LAYOUTS[2]
    dtype = "int32" if path == "atomic" else "float32"
    x, dim, index, src = random_case(layout, "random", dtype, "bad")
    index = index.copy() if path not in ("rows", "looks") else index
    for value in (x.shape[dim], -1, 2**62):
        broken = np.array(index[..., :1] if layout is ROWS[0] else index)
        broken[3, 0] = value
        broken = np.broadcast_to(broken, index.shape)
        with pytest.raises(IndexError) as theirs:
            nbgather.scatter_add(x, dim, broken, src)
        with monkeypatch.context() as patch:
            force(patch, path)
            with pytest.raises(IndexError) as ours:
                nbgather.scatter_add(to_device(x), dim, to_device(broken), to_device(src))
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(IndexError, match=r"at \(3, 0\) is out of bounds"):
        nbgather.scatter(to_device(x), dim, to_device(broken), to_device(src))


@pytest.mark.parametrize("shape", [(4, 6, 5), (3,), ()])
def test_parts_and_strides(gpu: Driver, shape: tuple[int, ...]) -> None:
    generator = rng(f"{shape}")
    for dim in range(max(len(shape), 1)):
        part = tuple(n - 1 for n in shape)
        x, src = generator.normal(size=shape), np.asarray(generator.normal(size=shape)).T.copy().T
        index = np.asarray(generator.integers(0, shape[dim] if shape else 1, part))
        for call in (nbgather.scatter, nbgather.scatter_add):
            got = call(to_device(np.asarray(x)), dim, to_device(index), to_device(src))
            same(host(got), call(np.asarray(x), dim, index, src))
        flipped, zeros = np.asarray(x).T, np.zeros_like(index.T)
        got = nbgather.scatter_add(to_device(flipped), 0, to_device(zeros), to_device(src.T))
        same(host(got), nbgather.scatter_add(flipped, 0, zeros, src.T))


@pytest.mark.parametrize("index_dtype", ["int8", "uint16", "int32", "uint64"])
def test_index_dtypes(gpu: Driver, index_dtype: str) -> None:
    for layout in (LAYOUTS[1], ROWS[0]):
        x, dim, index, src = random_case(layout, "random", "float32", index_dtype)
        index = np.array(index).astype(index_dtype)
        got = nbgather.scatter_add(to_device(x), dim, to_device(index), to_device(src))
        same(host(got), nbgather.scatter_add(x, dim, index, src))


def test_signed_zeros_stay(gpu: Driver) -> None:
    x, src = np.array([-0.0, -0.0, 0.0], np.float32), np.array([-0.0, 0.0], np.float32)
    for dtype in ("float32", "float16", BFLOAT16, "float64"):
        for index in (np.array([0, 0]), np.array([0, 1])):
            args = x.astype(dtype), 0, index, src.astype(dtype)
            on_device = to_device(args[0]), 0, to_device(index), to_device(args[3])
            got = nbgather.scatter_add(*on_device)
            same(host(got), nbgather.scatter_add(*args))


def test_halves_are_rounded_once(gpu: Driver) -> None:
    """2048 + 1 + 1 in float16 steps would stay 2048."""
    x, ones = np.array([2048.0], np.float16), np.ones(2, np.float16)
    got = nbgather.scatter_add(to_device(x), 0, to_device(np.zeros(2, int)), to_device(ones))
    assert host(got).tolist() == [2050.0]
    assert kernels(gpu) == ["shared lines"]


def test_out_and_an_empty_index(gpu: Driver) -> None:
    x, src = to_device(np.zeros(4, np.float32)), to_device(np.ones(3, np.float32))
    out = to_device(np.full(4, 9, np.float32))
    assert nbgather.scatter_add(x, 0, to_device(np.array([1, 1, 3])), src, out=out) is out
    assert out.array.tolist() == [0, 2, 0, 1]
    none = to_device(np.zeros(0, int))
    assert host(nbgather.scatter_add(x, 0, none, to_device(np.zeros(0, "f4")))).tolist() == [0] * 4


@pytest.mark.parametrize("dtype", ["float32", "int32", "float16"])
def test_into_nothing(gpu: Driver, dtype: str) -> None:
    for shape, dim, part in (((0, 3), 0, (2, 3)), ((3, 0), 1, (3, 2)), ((2, 0, 3), 1, (2, 2, 3))):
        x, index, src = np.zeros(shape, dtype), np.zeros(part, int), np.zeros(part, dtype)
        for call in (nbgather.scatter, nbgather.scatter_add):
            with pytest.raises(IndexError, match=r"index 0 at .* for dimension \d with size 0"):
                call(to_device(x), dim, to_device(index), to_device(src))


def test_claims_that_run_out_of_rounds(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is cleared, and rounds count anew."""
    monkeypatch.setattr(scatter_shared, "MAX_ROUNDS", 6)
    x, dim, index, src = random_case(((40,), 0, (300,), False), "random", "float32", "rounds")
    want = nbgather.scatter_add(x, dim, index, src)
    same(host(nbgather.scatter_add(to_device(x), 0, to_device(index), to_device(src))), want)


def test_positions_of_64_bits(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter_paths, "MAX_COUNT", 2)
    monkeypatch.setattr(cuda, "WIDE_ELEMENTS", 1)
    for dtype in ("float32", "float16", "int64", "complex128"):
        x, dim, index, src = random_case(LAYOUTS[4], "random", dtype, "wide")
        for call in (nbgather.scatter, nbgather.scatter_add):
            gpu.launches.clear()
            got = call(to_device(x), dim, to_device(index), to_device(src))
            same(host(got), call(x, dim, index, src))
            assert "lines" in kernels(gpu)


# The table of paths

COMMON = {
    "operation": scatter.ADD, "kind": "f4", "size": 1000, "steps": 1000, "outer": 1, "inner": 1,
    "row": 0, "processors": 132,
}  # fmt: skip


def path_of(**given: Any) -> str:
    facts = COMMON | given
    facts.setdefault("elements", facts["steps"] * facts["outer"] * max(facts["inner"], 1))
    facts.setdefault("places", facts["size"] * facts["outer"] * max(facts["inner"], 1))
    return scatter_paths.choose(Facts(**facts)).name


def test_the_paths_of_usual_shapes() -> None:
    million = 10**6
    assert path_of(size=million, steps=2 * million) == "buckets"
    assert path_of(size=million, steps=2 * million, kind="u4") == "atomic"
    assert path_of(size=million, steps=2 * million, kind="u1") == "buckets"
    assert path_of(size=million, steps=2 * million, inner=128, row=512) == "rows"
    assert path_of(size=32000, steps=16384, inner=4096, row=16384, kind="b2") == "rows"
    assert path_of(outer=64, size=196, steps=49, inner=768, row=3072) == "looks"
    assert path_of(size=8192, steps=8192, inner=8192) == "shared lines"
    assert path_of(size=8192, steps=8192, outer=8192) == "shared lines"
    assert path_of(size=512, steps=512, outer=12 * 512) == "shared lines"
    assert path_of(size=1000, steps=1000) == "shared lines"
    assert path_of(size=1000, steps=10 * million) == "buckets"
    assert path_of(size=20000, steps=20, outer=200000) == "lines"
    assert path_of(size=20000, steps=20, outer=200000, kind="f2") == "buckets"
    assert path_of(operation=scatter.SET, size=million, steps=2 * million) == "claim"
    assert path_of(operation=scatter.ANY, kind="u1", size=million) == "atomic"
    assert path_of(size=1 << 33) == "lines"
    assert path_of(size=1 << 20, steps=1 << 26, inner=128, row=512) == "rows"
    assert path_of(size=1 << 33, kind="b2") == "lowered"
    assert path_of(size=0) == "nowhere"
    assert all(path.why for path in scatter_paths.PATHS)


def test_buckets_fit_into_shared_memory() -> None:
    for entries in (1, 2, 3, 4, 5):  # of an item, and the count of its values
        for places in (1, 2, 255, 8192, 8193, 10**6, 1 << 21, (1 << 32) - 2):
            bits, passes = scatter_paths.bucket_bits(places, entries)
            assert entries << bits <= scatter_shared.SHARED_ENTRIES
            assert (places - 1) >> (bits + 8 * passes) == 0


def test_shared_memory_is_not_more_than_there_is() -> None:
    for kind, entries in scatter_paths.ENTRIES.items():
        words = scatter_shared.SHARED_ENTRIES + scatter_shared.SHARED_THREADS * (1 + entries)
        assert 4 * (words + 2 * scatter_shared.slots_of(kind) + 2) <= 48 << 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_is_at_most_twice_the_operands(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Of what the largest scatters need for their time."""
    asked: list[int] = []
    launch = launch_scatter._sorted

    def noted(call: Any, *args: Any) -> Any:
        def scratch(nbytes: int) -> int:
            asked.append(nbytes)
            return int(call.scratch(nbytes))

        return launch(call._replace(scratch=scratch), *args)

    monkeypatch.setattr(launch_scatter, "_sorted", noted)
    monkeypatch.setattr(scatter_paths, "MAX_ALONE", 0)
    x, dim, index, src = random_case(((3000,), 0, (4000,), False), "random", dtype, "memory")
    got = nbgather.scatter_add(to_device(x), dim, to_device(index), to_device(src))
    same(host(got), nbgather.scatter_add(x, dim, index, src))
    assert kernels(gpu)[-1] == "buckets"
    # A tile of the simulator is an eighth of a device's, and its counters so many times more.
    tiles = -(-4000 // 256) * 1024
    assert 0 < sum(asked) - tiles * 7 // 8 <= 2 * (x.nbytes + index.nbytes + src.nbytes)


@pytest.mark.parametrize("path", LAST_KERNELS)
def test_every_path_leaves_bad_elements_out_where_nothing_waits(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    layout = ROWS[0] if path in ("rows", "looks") else LAYOUTS[2]
    dtype = "int32" if path == "atomic" else "float32"
    x, dim, index, src = random_case(layout, "random", dtype, "bad")
    call = nbgather.scatter if path == "claim" else nbgather.scatter_add
    index = np.array(index[:, :1] if layout is ROWS[0] else index)
    bad = rng(path).random(index.shape) < 0.3
    index[bad] = rng(path).choice([x.shape[0], -1, 2**62, -(2**63)], int(bad.sum()))
    index = np.broadcast_to(index, src.shape)
    force(monkeypatch, path)
    got = call(to_device(x), dim, to_device(index), to_device(src), mode="defer")
    assert not gpu.waits
    want = x.copy()
    for k, lane in np.argwhere((index >= 0) & (index < x.shape[0])):
        place = index[k, lane], lane
        want[place] = src[k, lane] + (want[place] if call is nbgather.scatter_add else 0)
    same(host(got), want)
    first = tuple(int(n) for n in np.argwhere((index < 0) | (index >= x.shape[0]))[0])
    with pytest.raises(IndexError, match=re.escape(f"index {index[first]} at {first} is out of")):
        nbgather.gather(to_device(x), dim, to_device(np.zeros((1, 1), int)))
