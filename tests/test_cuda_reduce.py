"""scatter_reduce and segment_reduce on the simulated GPU: the reference's bits by every path."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cases import rng, same
from pretender import pretending
from simulator import DeviceArray, Driver, simulated, to_device
from test_cuda_scatter import LAYOUTS, ROWS, force, kernels
from test_reduce import DTYPES, REDUCES, dtype_of, equal, special
from test_scatter import numbers

import nbgather.cuda
from nbgather.kernels.cuda import folds, scatter_paths, scatter_shared
from nbgather.kernels.cuda import launch as cuda


@pytest.fixture
def gpu() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


def case(layout: Any, name: str, salt: str) -> tuple[Any, ...]:
    """Numbers with ties, both zeros, infinities and NaNs, of a layout of the scatter's tests."""
    shape, dim, index_shape, rows = layout
    generator = rng(f"{layout}{name}{salt}")
    make = numbers if name.startswith("complex") else special
    at = (*index_shape[: dim + 1], *[1] * (len(shape) - dim - 1)) if rows else index_shape
    size = shape[dim] if shape else 1
    index = np.broadcast_to(generator.integers(size // 3, size, at), index_shape)
    return make(generator, shape, name), dim, index, make(generator, index_shape, name)


def both(args: tuple[Any, ...], reduce: str, own: bool) -> None:
    """The simulated GPU's result and the reference's."""
    with np.errstate(all="ignore"):
        want = nbgather.scatter_reduce(*args, reduce, include_self=own, backend="reference")
    on_device = tuple(to_device(a) if isinstance(a, np.ndarray) else a for a in args)
    got = nbgather.scatter_reduce(*on_device, reduce, include_self=own)
    assert isinstance(got, DeviceArray)
    equal(np.array(got.array, order="C"), want)


def possible(name: str, reduce: str) -> bool:
    if name.startswith("complex"):
        return reduce in ("sum", "prod")
    return (name, reduce) != ("bool", "mean")


NAMES = (*DTYPES, "uint64", "complex64", "complex128")


@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_by_the_path_of_its_shape(gpu: Driver, name: str) -> None:
    for k, reduce in enumerate(REDUCES):
        if possible(name, reduce):
            for own in (True, False):
                for layout in LAYOUTS[k + own :: 3]:
                    both(case(layout, name, reduce), reduce, own)


@pytest.mark.parametrize("path", ["rows", "looks", "buckets", "shared lines"])
def test_every_path(gpu: Driver, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Several buckets and tiles; what sorts takes long in the simulator, and every fifth case."""
    monkeypatch.setattr(scatter_shared, "SHARED_ENTRIES", 64 if path == "buckets" else 512)
    force(monkeypatch, path)
    layouts = ROWS if path in ("rows", "looks") else [LAYOUTS[k] for k in (1, 2, 5)]
    number = 0
    for name, reduce in itertools.product(NAMES, REDUCES):
        number += 1
        own = bool(number % 2)
        if path in ("rows", "buckets") and number % 5 != 0:
            continue
        atomic_or_any = own and reduce == "sum"
        if possible(name, reduce) and not atomic_or_any:
            gpu.launches.clear()
            both(case(layouts[number % len(layouts)], name, path), reduce, own)
            assert kernels(gpu)[-1] == {"rows": "row sums"}.get(path, path)


def test_a_place_with_no_values_keeps_the_input(gpu: Driver) -> None:
    """Its bits too, of a NaN and of -0."""
    x = np.array([np.nan, -0.0, 5.0, 7.0], np.float32)
    x.view(np.uint32)[0] |= 1
    index, src = np.array([2, 2]), np.array([1.0, 3.0], np.float32)
    wanted = {"sum": 4, "prod": 3, "mean": 2, "amax": 3, "amin": 1}
    for reduce, value in wanted.items():
        got = nbgather.scatter_reduce(
            to_device(x), 0, to_device(index), to_device(src), reduce, include_self=False
        )
        want = x.copy()
        want[2] = value
        same(np.array(got.array), want)


def test_counts_wrap_and_round_as_on_the_cpu(gpu: Driver) -> None:
    for name, count in (("int8", 300), ("int8", 256), ("uint8", 256), ("bfloat16", 300)):
        x, src = np.full(1, 9, dtype_of(name)), np.full(count, 3, dtype_of(name))
        for own in (True, False):
            both((x, 0, np.zeros(count, int), src), "mean", own)


@pytest.mark.parametrize("name", ["int32", "int64", "uint32"])
def test_means_of_integers_are_rounded_down(gpu: Driver, name: str) -> None:
    limits = np.iinfo(name)
    for values in ((-7, -1), (-7, 2), (limits.min, 0), (limits.max, limits.max), (7, 0, 1)):
        src = np.array([v % (limits.max + 1 - limits.min) for v in values], np.uint64).astype(name)
        both((np.zeros(2, name), 0, np.zeros(len(src), int), src), "mean", False)


def test_values_come_in_order(gpu: Driver) -> None:
    """A product that overflows on its way, and the last of several NaNs."""
    index = np.zeros(4, int)
    for order in itertools.permutations([1e30, 1e30, 1e-30, 1e-30]):
        both((np.ones(1, "f4"), 0, index, np.array(order, "f4")), "prod", True)
    nans = np.array([0x7FC00001, 0x7FC00002, 0x3F800000, 0x7FC00003], np.uint32).view("f4")
    for reduce in ("amax", "amin"):
        got = nbgather.scatter_reduce(
            to_device(np.ones(1, "f4")), 0, to_device(index), to_device(nans), reduce
        )
        assert got.array.view(np.uint32)[0] == 0x7FC00003


def test_a_complex_product_is_rounded_step_by_step(gpu: Driver) -> None:
    both(case(((9,), 0, (60,), False), "complex64", "steps"), "prod", False)


@pytest.mark.parametrize("layout", [LAYOUTS[1], ROWS[0]])
def test_a_bad_index_is_the_same_error(gpu: Driver, layout: Any) -> None:
    x, dim, index, src = case(layout, "float32", "bad")
    broken = np.array(index if not layout[3] else index[:, :1])
    for value in (x.shape[dim], -1, 2**62):
        broken[3, 0] = value
        given = np.broadcast_to(broken, index.shape)
        for reduce, own in (("amax", True), ("mean", False)):
            with pytest.raises(IndexError) as theirs:
                nbgather.scatter_reduce(
                    x, dim, given, src, reduce, include_self=own, backend="reference"
                )
            with pytest.raises(IndexError) as ours:
                nbgather.scatter_reduce(
                    to_device(x), dim, to_device(given), to_device(src), reduce, include_self=own
                )
            assert str(ours.value) == str(theirs.value)


def test_out_and_an_empty_index(gpu: Driver) -> None:
    x, src = to_device(np.zeros(4, "f4")), to_device(np.array([1, 5, 3], "f4"))
    out, index = to_device(np.full(4, 9, "f4")), to_device(np.array([1, 1, 3]))
    assert nbgather.scatter_reduce(x, 0, index, src, "mean", out=out, include_self=False) is out
    assert out.array.tolist() == [0, 3, 0, 3]
    none = to_device(np.zeros(0, int))
    got = nbgather.scatter_reduce(x, 0, none, to_device(np.zeros(0, "f4")), "amin")
    assert got.array.tolist() == [0] * 4


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy as a tensor, of bfloat16 too."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(dtype_of("bfloat16"))
    return tensor.numpy()


@pytest.mark.parametrize("reduce", REDUCES)
def test_where_32_bits_do_not_reach_lines_are_walked(
    monkeypatch: pytest.MonkeyPatch, reduce: str
) -> None:
    """Means, products of halves, and what the input does not count in are made of such."""
    monkeypatch.setattr(scatter_paths, "MAX_COUNT", 2)
    for name, own in itertools.product(NAMES, (True, False)):
        if not possible(name, reduce) or (reduce, name[:4]) == ("mean", "uint"):
            continue  # which torch does not divide
        x, dim, index, src = case(LAYOUTS[1], name, "wide")
        args = as_tensor(x), dim, as_tensor(index), as_tensor(src)
        with np.errstate(all="ignore"):
            want = nbgather.scatter_reduce(
                x, dim, index, src, reduce, include_self=own, backend="reference"
            )
        with pretending(32) as driver:
            got = nbgather.scatter_reduce(*args, reduce, include_self=own)
            assert "lines" in kernels(driver)
        equal(as_numpy(got), want)


def test_what_reductions_begin_with() -> None:
    from nbgather.kernels.cpu.folds import identity

    for reduce in REDUCES:
        for kind in ("u1", "i1", "u2", "i4", "i8", "u8", "f4", "f8", "half", "brain"):
            if kind in ("half", "brain") and reduce not in ("amax", "amin"):
                continue
            bits = folds.identity((reduce, kind, False))
            want = np.asarray(identity(reduce, kind)).tobytes()
            assert bits.to_bytes(len(want), "little") == want, (reduce, kind)


SEGMENTS = ([10, 0, 5, 35], [1] * 50, [50], [0, 50], [7, 7, 7, 7, 7, 7, 8, 0])


@pytest.mark.parametrize("reduce", REDUCES)
def test_segments(gpu: Driver, reduce: str) -> None:
    names = ("float32", "int8", "float16", "bool", "uint64", "bfloat16", "complex128")
    for k, (counts, name) in enumerate(itertools.product(SEGMENTS, names)):
        if not possible(name, reduce):
            continue
        shape = ((50,), (50, 3), (50, 2, 8))[k % 3]
        make = numbers if name.startswith("complex") else special
        x = make(rng(f"{counts}{name}"), shape, name)
        ids = np.repeat(np.arange(len(counts)), counts)
        offsets = np.cumsum([0, *counts])
        size = len(counts)
        with np.errstate(all="ignore"):
            want = nbgather.segment_reduce(
                x, reduce, ids=ids, num_segments=size, backend="reference"
            )
        ways: dict[str, Any] = {"offsets": offsets, "counts": np.array(counts, np.int32)}
        mixed = rng(name).permutation(50)
        for by, where in ways.items():
            got = nbgather.segment_reduce(to_device(x), reduce, **{by: to_device(where)})
            equal(np.array(got.array, order="C"), want)
            assert kernels(gpu)[-1] == "row sums"
        with np.errstate(all="ignore"):
            want = nbgather.segment_reduce(
                x[mixed], reduce, ids=ids[mixed], num_segments=size, backend="reference"
            )
        got = nbgather.segment_reduce(
            to_device(x[mixed]), reduce, ids=to_device(ids[mixed]), num_segments=size
        )
        equal(np.array(got.array, order="C"), want)


def test_segments_of_strides_and_of_no_rows(gpu: Driver) -> None:
    x = np.arange(24.0).reshape(4, 6)[::2, ::-1]
    got = nbgather.segment_reduce(to_device(x), "sum", offsets=[0, 1, 1, 2])
    same(np.array(got.array), np.stack([x[0], 0 * x[0], x[1]]))
    ids = to_device(np.array([2, 0, 1])[::2])
    got = nbgather.segment_reduce(to_device(x), "amax", ids=ids, num_segments=3)
    assert got.array[:, 0].tolist() == [-np.inf, x[1, 0], x[0, 0]]
    none = to_device(np.zeros((0, 3), "i4"))
    assert (
        nbgather.segment_reduce(none, "amin", counts=[0, 0]).array.tolist() == [[2**31 - 1] * 3] * 2
    )
    assert nbgather.segment_reduce(none, "sum", offsets=[0]).array.shape == (0, 3)


def test_bad_segments_are_the_same_error(gpu: Driver) -> None:
    x = np.zeros((4, 2), "f4")
    for given in (
        {"offsets": [0, 3, 2, 4]}, {"offsets": [0, 5]}, {"counts": [1, 2]}, {"counts": [-1, 5]},
        {"ids": [0, 1, 9, 1], "num_segments": 2},
    ):  # fmt: skip
        errors = []
        for array in (x, to_device(x)):
            with pytest.raises((ValueError, IndexError)) as raised:
                nbgather.segment_reduce(array, "mean", **given)
            errors.append((type(raised.value), str(raised.value)))
        assert errors[0] == errors[1]


def test_offsets_are_not_read_under_capture(gpu: Driver) -> None:
    """But in a block whose errors come later: what is bad is found where it is."""
    x = np.arange(24, dtype=np.float32).reshape(12, 2)
    segments = {
        "offsets": np.array([0, 3, 3, 12, 12], np.int32),
        "counts": np.array([5, 0, 9, 7], np.uint8)[::2] - np.array([0, 2], np.uint8),
    }
    for by, where in segments.items():
        gpu.captured = True
        given = {by: to_device(where)}
        with pytest.raises(ValueError, match=r"capture in a block of nbgather.cuda.deferred\(\)"):
            nbgather.segment_reduce(to_device(x), "mean", **given)
        with nbgather.cuda.deferred():
            got = nbgather.segment_reduce(to_device(x), "mean", **given)
            assert not gpu.waits
            gpu.captured = False
        same(np.array(got.array), nbgather.segment_reduce(x, "mean", **{by: where}))
        gpu.waits.clear()


BAD_SEGMENTS: tuple[tuple[str, list[int], str], ...] = (
    ("offsets", [0, 3, 2, 4], "offsets[2] is 2: they must not fall, and go from 0 to N = 4"),
    ("offsets", [0, 5], "offsets[1] is 5: it must be between 0 and N = 4"),
    ("offsets", [0, 9, 2**40, -3], "offsets[1] is 9: it must be between 0 and N = 4"),
    ("offsets", [-1, 4], "offsets[0] is -1: it must be between 0 and N = 4"),
    ("offsets", [1, 4], "offsets[0] is 1: they must not fall, and go from 0 to N = 4"),
    ("offsets", [0, 3], "offsets[1] is 3: they must not fall, and go from 0 to N = 4"),
    ("counts", [1, 2], "counts sum to 3: N = 4 is needed"),
    ("counts", [4, 4, 4], "counts sum to 12: N = 4 is needed"),
    ("counts", [-1, 5], "counts[0] is -1: it must be between 0 and N = 4"),
    ("counts", [0, 5], "counts[1] is 5: it must be between 0 and N = 4"),
    ("counts", [], "counts sum to 0: N = 4 is needed"),
)


@pytest.mark.parametrize(("by", "where", "text"), BAD_SEGMENTS)
def test_bad_segments_are_told_of_later(gpu: Driver, by: str, where: list[int], text: str) -> None:
    """Nothing outside of the rows is read, whatever they say."""
    x, given = to_device(np.zeros((4, 2), "f4")), {by: to_device(np.array(where, np.int64))}

    def call() -> None:
        with nbgather.cuda.deferred():
            nbgather.segment_reduce(x, "mean", **given)
            assert not gpu.waits

    with pytest.raises(ValueError) as raised:
        call()
    told = f"{text}: found by an earlier segment_reduce on cuda:0, which did not wait"
    assert str(raised.value) == told


@pytest.mark.parametrize(
    "reduce",
    [pytest.param(r, marks=pytest.mark.large if r in ("sum", "amin") else ()) for r in REDUCES],
)
def test_torch_and_its_gradients(reduce: str) -> None:
    """The same as on the CPU, forward and backward, and no sum by torch's atomics."""
    x, src = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    index, offsets = torch.randint(0, 4, (3, 6)), torch.tensor([0, 2, 2, 3])
    found: list[list[Any]] = []
    for where in (None, pretending(32)):
        leaves = [t.clone().requires_grad_() for t in (x, src)]
        if where is not None:
            where.__enter__()
        try:
            got = nbgather.scatter_reduce(leaves[0], 1, index, leaves[1], reduce)
            part = nbgather.segment_reduce(leaves[1], reduce, offsets=offsets)
            kept = torch.nan_to_num(part, posinf=0, neginf=0)
            grads = torch.autograd.grad((got.sin().sum() + kept.sin().sum()), leaves)
        finally:
            if where is not None:
                where.__exit__(None, None, None)
        found.append([got.detach(), part.detach(), *grads])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7)), reduce


def test_kernels_are_the_same_for_the_same_reduction(gpu: Driver) -> None:
    """A plain sum has the kernel of scatter_add, whatever it is called."""
    x, dim, index, src = (to_device(a) if isinstance(a, np.ndarray) else a for a in
                          case(LAYOUTS[1], "float32", "keys"))  # fmt: skip
    nbgather.scatter_add(x, dim, index, src)
    nbgather.segment_reduce(x, "sum", ids=[0, 1, 0, 1, 0])
    sums = {key[2] for key, _, _ in gpu.launches if key[0] in ("looks", "shared lines")}
    assert sums == {("sum", "f4", True)}
    assert cuda.driver is gpu


def test_bags_and_their_modes() -> None:
    """What gather_reduce is made of there, and where the result goes."""
    x, ids = special(rng("bags"), (6, 3), "float32"), rng("ids").integers(-5, 12, (4, 3))
    for mode, reduce in (("clip", "mean"), ("wrap", "amax"), ("fill", "sum")):
        options: Any = {"mode": mode, "fill_value": 2}
        for rows in (6, 30):
            wide = np.resize(x, (rows, 3))
            want = nbgather.gather_reduce(wide, ids, reduce, **options)
            tensors = torch.from_numpy(wide), torch.from_numpy(ids)
            with pretending(32):
                out = torch.zeros(4, 3)
                equal(nbgather.gather_reduce(*tensors, reduce, **options).numpy(), want)
                assert nbgather.gather_reduce(*tensors, reduce, **options, out=out) is out
                equal(out.numpy(), want)
                segments = nbgather.segment_reduce(tensors[0], reduce, counts=[rows], out=out[:1])
                equal(segments.numpy(), nbgather.segment_reduce(wide, reduce, counts=[rows]))
    text = r"index -?\d+ at \(0, 1\) is out of bounds for dimension 0 with size 6"
    ids[0] = 0, 7, -1
    with pretending(32):
        out, tensors = torch.full((4, 3), 7.0), (torch.from_numpy(x), torch.from_numpy(ids))
        with pytest.raises(IndexError, match=text):
            nbgather.gather_reduce(*tensors, "sum", out=out)
        assert (out == 7).all()
        got = nbgather.gather_reduce(*tensors, "sum", mode="defer", fill_value=2)
        equal(got.numpy(), nbgather.gather_reduce(x, ids, "sum", mode="fill", fill_value=2))
        told = f"{text}: found by an earlier gather_reduce on cuda:0"
        with pytest.raises(IndexError, match=told):
            nbgather.gather(tensors[0], 0, torch.zeros(1, 1, dtype=torch.int64))
        good = torch.from_numpy(ids % 6)
        got = nbgather.gather_reduce(tensors[0], good, "sum", mode="defer")
        equal(got.numpy(), nbgather.gather_reduce(x, ids % 6, "sum"))


def error_of(call: Any) -> tuple[type[Exception], str]:
    with pytest.raises((ValueError, IndexError)) as raised:
        call()
    return raised.type, str(raised.value)


@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill", "defer"])
def test_bags_of_arrays_without_functions(gpu: Driver, mode: str) -> None:
    """Of numba's arrays too, which no library computes with: ids and rows of any strides."""
    generator = rng(f"bags {mode}")
    names = ("float32", "int8", "float16", "bool", "uint64", "bfloat16", "complex64")
    low, high = (0, 7) if mode in ("raise", "defer") else (-9, 20)
    counts = np.array([3, 0, 1, 0, 8, 0], np.int32)
    for k, (name, reduce) in enumerate(itertools.product(names, REDUCES)):
        if not possible(name, reduce):
            continue
        make = numbers if name.startswith("complex") else special
        x = make(generator, ((14,), (14, 3), (14, 4, 8))[k % 3], name)[:: 2 - k % 2][:7]
        flat = generator.integers(low, high, 24).astype(("i8", "i1", "i4")[k % 3])
        ways: list[tuple[np.ndarray, dict[str, Any]]] = [
            (flat.reshape(4, 6)[:, ::-2], {}),
            (flat[:12], {"counts": counts}),
            (flat[::-2], {"offsets": np.cumsum([0, *counts])}),
        ]
        ids, bags = ways[k % 3 if k % 4 else 0]
        options = {"mode": mode, "fill_value": 1}
        with np.errstate(all="ignore"):
            want = nbgather.gather_reduce(x, ids, reduce, **bags, **options, backend="reference")
        given = {by: to_device(where) for by, where in bags.items()}
        operands = to_device(x), to_device(ids)
        got = nbgather.gather_reduce(*operands, reduce, **given, **options)
        assert isinstance(got, DeviceArray)
        equal(np.array(got.array, order="C"), want)
        assert kernels(gpu)[-1] == "row sums"
        out = to_device(np.zeros((*want.shape, 2), x.dtype))
        out = out.view_of(out.array[..., 1])
        assert nbgather.gather_reduce(*operands, reduce, **given, **options, out=out) is out
        equal(np.array(out.array, order="C"), want)


def odd(array: np.ndarray) -> DeviceArray:
    """A copy on the simulated GPU at an address that is no multiple of its items' size."""
    owner = to_device(np.zeros(array.nbytes + 1, np.uint8))
    view = owner.array[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return owner.view_of(view)


def test_bags_at_any_address(gpu: Driver) -> None:
    x, ids = np.arange(9, dtype=np.float32), np.array([[1, 3], [0, 8]], np.int32)
    want = nbgather.gather_reduce(x, ids, "sum")
    for operands in ((odd(x), to_device(ids)), (to_device(x), odd(ids))):
        same(np.array(nbgather.gather_reduce(*operands, "sum").array), want)
    counts = odd(np.array([1, 3]))
    with nbgather.cuda.deferred():
        got = nbgather.gather_reduce(to_device(x), to_device(ids.ravel()), "sum", counts=counts)
    same(np.array(got.array), np.array([1, 11], np.float32))


def test_bags_of_nothing(gpu: Driver) -> None:
    """No bags, no ids, no rows, rows of no items: as on the CPU, the errors as well."""
    x, none = np.ones((6, 2), "f4"), np.zeros(0, int)
    for rows, ids, options in (
        (x, none, {"counts": [0, 0]}), (x, none, {"offsets": [0]}), (x[:0], none, {"counts": [0]}),
        (x, np.zeros((3, 0), int), {}), (x, np.zeros((0, 3), int), {}),
        (x[:0], np.array([[1, 2]]), {"mode": "fill", "fill_value": 3}),
        (x[:, :0], np.array([[1, 2]]), {}), (x[:, :0], np.array([[1, 9]]), {"mode": "clip"}),
    ):  # fmt: skip
        for reduce in REDUCES:
            want = nbgather.gather_reduce(rows, ids, reduce, **options)
            got = nbgather.gather_reduce(to_device(rows), to_device(ids), reduce, **options)
            equal(np.array(got.array), want)


ONES, BAD_IDS = np.ones((6, 2), "f4"), np.array([[1, 2], [7, -1]])


@pytest.mark.parametrize(
    ("x", "ids", "options"),
    [
        (ONES, BAD_IDS, {}), (ONES[:, 0], BAD_IDS, {}), (ONES[:, :0], BAD_IDS, {}),
        (ONES, BAD_IDS.T, {}), (ONES[:0], BAD_IDS, {}), (ONES, BAD_IDS[1], {"counts": [1, 1]}),
        (ONES, BAD_IDS[1], {"offsets": [0, 1, 3]}), (ONES, BAD_IDS[1], {"counts": [1, 2]}),
        (ONES[:0], BAD_IDS, {"mode": "clip"}), (ONES[:0, :0], BAD_IDS, {"mode": "wrap"}),
        (ONES.astype(int), BAD_IDS, {"mode": "fill", "fill_value": 2.5}),
    ],
)  # fmt: skip
def test_bad_bags_are_the_same_error(
    gpu: Driver, x: np.ndarray, ids: np.ndarray, options: dict[str, Any]
) -> None:
    """And nothing is written to an ``out``."""
    out = to_device(np.full((2, *x.shape[1:]), 9, x.dtype)) if x[:1].size else None
    given = {**options, "out": out}
    theirs = error_of(lambda: nbgather.gather_reduce(x, ids, "mean", **options))
    ours = error_of(lambda: nbgather.gather_reduce(to_device(x), to_device(ids), "mean", **given))
    assert ours == theirs
    assert out is None or (out.array == 9).all()


def test_bags_wait_for_nothing_where_they_may_not(gpu: Driver) -> None:
    """Under capture, and in a block whose errors come later: offsets are made and met there."""
    x, ids = np.arange(24, dtype=np.float32).reshape(12, 2), np.array([[3, 0, 3], [11, 5, 1]])
    where = to_device(np.array([2, 4]))
    want = nbgather.gather_reduce(x, ids, "sum")
    gpu.captured = True
    got = nbgather.gather_reduce(to_device(x), to_device(ids), "sum", mode="defer")
    same(np.array(got.array), want)
    with pytest.raises(ValueError, match=r"capture in a block of nbgather.cuda.deferred\(\)"):
        nbgather.gather_reduce(to_device(x), to_device(ids), "sum")
    with nbgather.cuda.deferred():
        got = nbgather.gather_reduce(to_device(x), to_device(ids.ravel()), "sum", counts=where)
        assert not gpu.waits
        gpu.captured = False
    same(np.array(got.array), nbgather.gather_reduce(x, ids.ravel(), "sum", counts=[2, 4]))

    def later(ids: np.ndarray, **options: Any) -> None:
        with nbgather.cuda.deferred():
            nbgather.gather_reduce(to_device(x), to_device(ids), "sum", **options)

    told = ": found by an earlier gather_reduce on cuda:0, which did not wait"
    text = f"counts sum to 6: the number of ids = 5 is needed{told}"
    assert error_of(lambda: later(ids.ravel()[:5], counts=where)) == (ValueError, text)
    text = f"index 11 at (3,) is out of bounds for dimension 0 with size 7{told}"
    x = x[:7]
    assert error_of(lambda: later(ids.ravel(), counts=where)) == (IndexError, text)
