"""Every form of the gather kernels, at sizes where its own paths are taken, against torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import Case, random_bits, rng, same
from test_gather import expected

import nbgather
from nbgather import dispatch
from nbgather.engine import plan
from nbgather.engine.plan import plan_gather
from nbgather.kernels.constants import EACH_FETCHED, ROWS_FETCHED
from nbgather.kernels.cpu import limits
from nbgather.kernels.plans import STREAM_BYTES
from nbgather.kernels.split import splits
from nbgather.operations.indexing import Gather

DTYPES = ("uint8", "float16", "float32", "int64", "complex128")
Draw = Callable[[np.random.Generator, str], Case]


def _case(generator: np.random.Generator, dtype: str, shape: tuple, dim: int, length: int) -> Case:
    index_shape = list(shape)
    index_shape[dim] = length
    x = random_bits(generator, shape, dtype)
    return Case(x, dim, generator.integers(0, shape[dim], index_shape))


def _across(generator: np.random.Generator, dtype: str, shape: tuple, length: int) -> Case:
    """Along an axis that is the input's first in memory and the last of index and output."""
    x, _, _ = _case(generator, dtype, shape, 0, 1)
    return Case(x.T, 1, generator.integers(0, shape[0], (shape[1], length)))


def _streamed(dtype: str, lanes: int) -> int:
    """How long the dimension must be for an output a little larger than the caches keep."""
    return STREAM_BYTES * 9 // 8 // (np.dtype(dtype).itemsize * lanes)


FORMS: dict[str, tuple[str, Draw]] = {
    "last": ("last", lambda g, t: _case(g, t, (37, 501), 1, 777)),
    "last_short": ("last", lambda g, t: _case(g, t, (3001, 9), 1, 7)),
    "last_streamed": ("last", lambda g, t: _case(g, t, (64, 1000), 1, _streamed(t, 64))),
    "middle": ("middle", lambda g, t: _case(g, t, (29, 40, 51), 1, 13)),
    "panel": ("panel", lambda g, t: _case(g, t, (300, 5003), 0, 211)),
    "panel_batched": ("panel", lambda g, t: _case(g, t, (3, 150, 6000), 1, 150)),
    "lanes": ("lanes", lambda g, t: _across(g, t, (700, 1001), 500)),
    "lanes_one_group": ("lanes", lambda g, t: _across(g, t, (16_000, 65), 9000)),
    "strided": ("strided", lambda g, t: _case(g, t, (50, 60, 70), 1, 33)),
    "rows": ("rows", lambda g, t: _case(g, t, (50, 60, 70), 1, 33)),
    "rows_streamed": ("rows", lambda g, t: _case(g, t, (3, 50, 1001), 1, _streamed(t, 3003))),
}


def build(name: str, dtype: str) -> tuple[str, Case]:
    form, draw = FORMS[name]
    case = draw(rng(name + dtype), dtype)
    if form == "strided":
        case = Case(case.input[:, :, ::2], case.dim, case.index[:, :, ::2])
    if form == "rows":
        case = Case(case.input, 1, np.broadcast_to(case.index[..., :1], case.index.shape))
    return form, case


def form_of(case: Case, mode: str = "raise") -> str:
    container = dispatch.container_of(case.input, "input")
    specs = container.spec(case.input), container.spec(case.index)
    return plan_gather(Gather, case.dim, mode, *specs, None).form


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(t, marks=() if t in ("uint8", "float32") else pytest.mark.large) for t in DTYPES],
)
@pytest.mark.parametrize("name", [n for n in FORMS if "streamed" not in n])
def test_each_form_equals_torch(name: str, dtype: str) -> None:
    form, case = build(name, dtype)
    if form_of(case) != form:
        # The smallest items fill no panel, and the largest no cache: the plan must say so.
        assert (name, dtype) in {
            ("panel", "uint8"),
            ("panel_batched", "uint8"),
            ("lanes", "complex128"),
            ("lanes_one_group", "uint8"),
            ("lanes_one_group", "complex128"),
        }, form_of(case)
    want = expected(case)
    same(nbgather.gather(*case), want)
    with limits.limit_threads(3):
        same(nbgather.gather(*case), want)
    # An output that begins off a cache line, and one between whose rows lies something else.
    room = np.zeros((*want.shape[:-1], want.shape[-1] + 3), want.dtype)
    out = room[..., 1:-2]
    nbgather.gather(*case, out=out)
    same(out.copy(), want)
    assert not room[..., 0].any()
    assert not room[..., -2:].any()


@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize("name", ["last_streamed", "rows_streamed"])
def test_outputs_written_past_the_caches(name: str, dtype: str) -> None:
    form, case = build(name, dtype)
    assert form_of(case) == form
    assert case.index.size * case.input.itemsize >= STREAM_BYTES
    same(nbgather.gather(*case), expected(case))
    out = np.empty(case.index.size + 5, case.input.dtype)[5:].reshape(case.index.shape)
    nbgather.gather(*case, out=out)
    same(out, expected(case))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All gathers are planned as if they were large."""
    plan_gather.cache_clear()
    monkeypatch.setattr(plan, "FETCH_BYTES", 0)
    yield
    plan_gather.cache_clear()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    "shape, dim, length",
    [
        ((7, 1009), 1, 1009), ((7, 1009), 1, 20), ((5, 40), 1, 61), ((3, 5, 17), 2, 700),
        ((1, 3001), 1, 2999), ((4, 9, 613), 1, 3), ((4, 9, 70), 1, 2), ((9, 2050), 0, 2),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("fetched")
def test_what_is_prefetched_is_gathered_as_ever(
    shape: tuple[int, ...], dim: int, length: int, dtype: str
) -> None:
    case = _case(rng(f"{shape} {dtype}"), dtype, shape, dim, length)
    specs = [dispatch.container_of(a, "input").spec(a) for a in (case.input, case.index)]
    planned = plan_gather(Gather, dim, "raise", *specs, None)
    assert planned.form in ("last", "middle")
    row = shape[dim] * case.input.itemsize
    assert planned.args[12] == _what_is_fetched(planned.form, row, length)
    want = expected(case)
    for _ in range(2):
        same(nbgather.gather(*case), want)
    repeated = np.repeat(case.index[..., :1], case.index.shape[-1], -1)
    same(nbgather.gather(case.input, dim, repeated), expected(Case(case.input, dim, repeated)))
    last = tuple(n - 1 for n in case.index.shape)
    case.index[last] = shape[dim]
    with pytest.raises(IndexError, match=f"index {shape[dim]} at"):
        nbgather.gather(*case)


def _what_is_fetched(form: str, row: int, length: int) -> int:
    if form == "last" and row <= 64 * length:
        return ROWS_FETCHED
    return EACH_FETCHED if form == "middle" or length >= 64 else 0


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All gathers are planned as if their input were large."""
    plan_gather.cache_clear()
    monkeypatch.setattr(plan, "APART_BYTES", 0)
    monkeypatch.setattr(plan, "APART_ITEMS", 0)
    yield
    plan_gather.cache_clear()


@pytest.mark.parametrize("mode", ["raise", "clip", "fill"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    "shape, dim, length",
    [
        ((3001,), 0, 2999), ((3, 700), 1, 700), ((5, 40), 1, 61), ((900, 17), 0, 300),
        ((900, 3), 0, 300), ((2, 90, 5), 1, 400), ((4, 9, 613), 1, 3), ((300, 33), 0, 299),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("apart")
def test_items_that_are_fetched_each_are_gathered_as_ever(
    shape: tuple[int, ...], dim: int, length: int, dtype: str, mode: str
) -> None:
    """Random, sorted and repeated; a prefetch of what a bad index stands for is harmless."""
    case = _case(rng(f"{shape} {dtype}"), dtype, shape, dim, length)
    specs = [dispatch.container_of(a, "input").spec(a) for a in (case.input, case.index)]
    planned = plan_gather(Gather, dim, mode, *specs, None)
    assert planned.form in ("last", "middle")
    assert planned.args[12] == EACH_FETCHED
    repeated = np.repeat(case.index[..., :1], case.index.shape[-1], -1)
    for index in (case.index, np.sort(case.index, dim), repeated):
        same(
            nbgather.gather(case.input, dim, index, mode=mode), expected(case._replace(index=index))
        )
    case.index[tuple(n - 1 for n in case.index.shape)] = 1 << 62
    if mode == "raise":
        with pytest.raises(IndexError, match=f"index {1 << 62} at"):
            nbgather.gather(*case)
    else:
        want = nbgather.gather(*case, mode=mode, backend="reference")
        same(nbgather.gather(*case, mode=mode), want)


def test_reads_of_far_apart_pages_count_for_more_than_their_bytes() -> None:
    """One value of each row, as of log-probabilities: two threads wait for half as many."""
    x, narrow = np.empty((4096, 1 << 11), np.float32), np.empty((4096, 16), np.float32)
    index = np.empty((4096, 1), np.int32)
    far, near = (
        plan_gather(
            Gather, 1, "raise", *(dispatch.container_of(a, "x").spec(a) for a in pair), None
        )
        for pair in ((x, index), (narrow, index))
    )
    assert (far.form, near.form) == ("strided", "strided")
    assert splits(far.work)
    assert not splits(near.work)


def bad_index_cases() -> list[Any]:
    """Each form with each dtype, mode ``fill``, and ``clip``: each of these is a kernel to compile.

    ``fill`` has ways of its own for items of 2 and of 4 or 8 bytes, and ``clip`` has one for all:
    beyond one dtype of each form it is ``large``. The small cases of test_gather have them all.
    """
    cases = []
    for k, name in enumerate(["last", "middle", "panel", "lanes", "strided", "rows"]):
        for n, dtype in enumerate(["float16", "float32", "int64"]):
            marks = () if n == k % 3 or name == "rows" else pytest.mark.large
            cases.append(pytest.param(name, dtype, "fill", id=f"{name}-{dtype}", marks=marks))
            cases.append(pytest.param(name, dtype, "clip", id=f"{name}-{dtype}-clip", marks=marks))
    return cases


@pytest.mark.parametrize("name, dtype, mode", bad_index_cases())
def test_bad_indices_in_each_form(name: str, dtype: str, mode: str) -> None:
    _, (x, dim, index) = build(name, dtype)
    index = index.copy() if index.strides[-1] else index
    size = x.shape[dim]
    if name == "rows":
        wrong = index[..., :1].copy()
        wrong[7, 5, 0], wrong[9, 0, 0] = -1, size
        index = np.broadcast_to(wrong, index.shape)
        first = (7, 5, 0)
    else:
        first = tuple(n // 2 for n in index.shape)
        index[first] = -1
        index[tuple(n - 1 for n in index.shape)] = size
    with pytest.raises(IndexError) as raised:
        nbgather.gather(x, dim, index)
    message = f"index -1 at {first} is out of bounds for dimension {dim} with size {size}"
    assert str(raised.value) == message
    if mode == "clip":
        want = expected(Case(x, dim, np.clip(index, 0, size - 1)))
    else:
        inside = (index >= 0) & (index < size)
        want = expected(Case(x, dim, np.where(inside, index, 0)))
        want[~inside] = 5
    same(nbgather.gather(x, dim, index, mode=mode, fill_value=5), want)


def test_two_thousand_random_token_gathers_equal_numpy() -> None:
    generator = np.random.default_rng(23)
    for _ in range(2000):
        n, length, keep = (int(v) for v in generator.integers(1, 7, 3))
        inner = tuple(generator.integers(1, 9, int(generator.integers(0, 3))).tolist())
        dtype = ("float32", "int64")[int(generator.integers(0, 2))]
        x = random_bits(generator, (n, length, *inner), dtype)
        ids = generator.integers(0, length, (n, keep))
        kind = int(generator.integers(0, 4))
        if kind == 1:
            x, ids = x[:, ::-1], ids[::-1]
        elif kind == 2:
            x = np.ascontiguousarray(np.moveaxis(x, 0, -1))
            x = np.moveaxis(x, -1, 0)
        elif kind == 3:
            x.flags.writeable = ids.flags.writeable = False
        same(nbgather.gather_tokens(x, ids), x[np.arange(n)[:, None], ids])


GUARDED = """
import ctypes, mmap, sys
import numpy as np, nbgather

page = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
area = mmap.mmap(-1, 3 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
for edge in (start, start + 2 * page):  # the pages around the middle one cannot be read
    assert libc.mprotect(ctypes.c_void_p(edge), ctypes.c_size_t(page), 0) == 0
middle = (ctypes.c_uint8 * page).from_address(start + page)
memory = np.ctypeslib.as_array(middle)
memory[:] = np.arange(page) % 251
generator = np.random.default_rng(0)
for dtype in ("u1", "u2", "u4", "u8", "c16"):
    items = memory.view(dtype)
    for size in [*range(1, 12), 40]:
        for x in (items[-size:], items[:size]):
            for index_dtype in ("i8", "i1")[: 2 if dtype in ("u1", "c16") else 1]:
                index = generator.integers(0, size, 50).astype(index_dtype)
                index[:2] = [0, size - 1]
                got = nbgather.gather(x, 0, index)
                assert got.tobytes() == x[index].tobytes(), (dtype, size)
                square = np.broadcast_to(x, (3, size))
                got = nbgather.gather(square, 1, np.broadcast_to(index, (3, 50)))
                assert got.tobytes() == square[:, index].tobytes(), (dtype, size)
                for bad in (-1, size, 100):
                    index[7] = bad
                    filled = nbgather.gather(x, 0, index, mode="fill")
                    assert filled[8:].tobytes() == x[index[8:]].tobytes()
                    try:
                        nbgather.gather(x, 0, index)
                    except IndexError:
                        pass
                    else:
                        raise AssertionError((dtype, size, bad))
if "break" in sys.argv:
    ctypes.c_uint8.from_address(start + 2 * page).value
sys.stdout.write("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect is called as Linux has it")
@pytest.mark.parametrize("argument", ["", "break"])
def test_nothing_outside_the_input_is_read(argument: str) -> None:
    done = subprocess.run([sys.executable, "-c", GUARDED, argument], capture_output=True, text=True)
    if argument:  # the guard is there: a read beyond it ends the process
        assert done.returncode < 0
    else:
        assert (done.returncode, done.stdout) == (0, "done"), done.stderr[-2000:]


@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill"])
@pytest.mark.parametrize("width", [127, 128, 129, 191, 192, 257, 1000, 2047, 2048, 2049])
def test_rows_of_any_width(width: int, mode: str) -> None:
    """Copied by two moves, a loop of them, or memcpy; nothing beside them is touched."""
    generator = rng(f"{width} {mode}")
    x = random_bits(generator, (5, 40, width), "uint8")
    low, high = (0, 40) if mode == "raise" else (-60, 90)
    ids = generator.integers(low, high, (5, 70))
    fill = {"fill_value": 7} if mode == "fill" else {}
    places = ids % 40 if mode == "wrap" else ids.clip(0, 39)
    want = np.take_along_axis(x, places[..., None], 1)
    if mode == "fill":
        want[(ids < 0) | (ids >= 40)] = 7
    guarded = np.full((5, 72, width + 3), 99, np.uint8)
    for given in (
        x,
        x[::-1, :, ::-1][::-1, :, ::-1],
        np.pad(x, ((0, 0), (0, 0), (1, 5)))[..., 1:-5],
    ):
        for _ in range(3):
            same(nbgather.gather_tokens(given, ids, mode=mode, **fill), want)
        out = guarded[:, 1:-1, 1:-2]
        nbgather.gather_tokens(given, ids, mode=mode, out=out, **fill)
        same(np.ascontiguousarray(out), want)
        out[:] = 99
        assert (guarded == 99).all()
    ids[3, 5] = 40
    if mode == "raise":
        with pytest.raises(IndexError, match=r"index 40 at \(3, 5\)"):
            nbgather.gather_tokens(x, ids)


def groups_of_few_elements() -> list[Any]:
    """Each dtype with each mode, by turns with an index of either width: each is a kernel.

    Those of the widest take three seconds to compile: two of their modes are ``large``.
    """
    long = ("complex128", "clip"), ("complex128", "wrap")
    return [
        pytest.param(dtype, mode, kind, marks=()
                     if (n + m + k) % 2 and (dtype, mode) not in long else pytest.mark.large)
        for n, dtype in enumerate(("uint8", "float32", "complex128"))
        for m, mode in enumerate(("raise", "clip", "wrap", "fill"))
        for k, kind in enumerate(("int64", "int8"))
    ]  # fmt: skip


@pytest.mark.parametrize("dtype, mode, kind", groups_of_few_elements())
def test_groups_of_few_elements(dtype: str, mode: str, kind: str) -> None:
    """Of a length that a table of places holds, and a little more; wherever a part begins."""
    generator = rng(f"groups {dtype} {mode} {kind}")
    low, high = (0, 5) if mode == "raise" else (-7, 12)
    for length, inner in (
        (2, 3), (4, 4), (1, 17), (4, 5), (3, 16), (6, 40), (7, 33), (16, 15), (61, 4), (2, 121),
    ):  # fmt: skip
        for samples in (1, 2, 7, 40):
            x = random_bits(generator, (samples, 5, inner), dtype)
            index = generator.integers(low, high, (samples, length, inner)).astype(kind)
            want = nbgather.gather(x, 1, index, mode=mode, backend="reference")
            same(nbgather.gather(x, 1, index, mode=mode), want)
            for threads in (2, 3):
                with limits.limit_threads(threads):
                    same(nbgather.gather(x, 1, index, mode=mode), want)


def test_parts_of_groups_begin_anywhere() -> None:
    x = random_bits(rng("parts"), (5000, 9, 7), "uint8")
    index = rng("parts of groups").integers(0, 9, (5000, 5, 7))
    want = np.take_along_axis(x, index, 1)
    for threads in (1, 2, 3, 5):
        with limits.limit_threads(threads):
            for _ in range(3):
                same(nbgather.gather(x, 1, index), want)
    index[4321, 3, 6] = 9
    with pytest.raises(IndexError, match=r"index 9 at \(4321, 3, 6\) is out of bounds"):
        nbgather.gather(x, 1, index)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint64"])
def test_only_the_last_place_is_counted_from_the_end_where_there_is_one(dtype: str) -> None:
    x, index = random_bits(rng(dtype), (1, 300), "float32"), np.zeros((1, 300), dtype)
    limits = np.iinfo(dtype)
    index[0, ::3] = -1 if limits.min else 0
    for place in (0, 17, 299):
        for bad in (limits.max, limits.min, 1, -2):
            if bad == 0 or bad < limits.min:
                continue
            index[0, place], good = bad, index[0, place]
            with pytest.raises(
                IndexError, match=rf"index {bad} at \(0, {place}\) is out of bounds"
            ):
                nbgather.take_along_axis(x, index, 0)
            index[0, place] = good
            same(nbgather.take_along_axis(x, index, 0), x)


@pytest.mark.parametrize("shape, dim", [((3, 1, 4), 1), ((1, 5), 0), ((1,), 0), ((700, 300, 1), 2)])
def test_a_dimension_of_length_one(shape: tuple[int, ...], dim: int) -> None:
    """The input is copied if no index is bad; what is then done with a bad one is as ever."""
    x = random_bits(rng(f"one {shape}"), shape, "float32")
    index = np.zeros(shape, np.int32)
    last = tuple(n - 1 for n in shape)
    for _ in range(3):
        same(nbgather.gather(x, dim, index), x)
        same(nbgather.take_along_axis(x, index - 1, dim), x)
    for bad in (1, -1):
        index[last] = bad
        for mode in ("clip", "wrap"):
            same(nbgather.gather(x, dim, index, mode=mode), x)
        filled = nbgather.gather(x, dim, index, mode="fill", fill_value=3)
        assert filled[last] == 3
        out = np.full_like(x, 7)
        for _ in range(3):
            with pytest.raises(IndexError, match=f"index {bad} at .* dimension {dim} with size 1"):
                nbgather.gather(x, dim, index)
            with pytest.raises(IndexError, match=f"index {bad} at"):
                nbgather.gather(x, dim, index, out=out)
    with pytest.raises(IndexError, match="index -2 at"):
        nbgather.take_along_axis(x, index - 1, dim)
    same(nbgather.take_along_axis(x, index, dim), x)
    turned = np.ascontiguousarray(x.T).T
    same(nbgather.gather(turned, dim, np.zeros(shape, np.int32)), np.ascontiguousarray(turned))
