"""Inside of jax.jit: the kernels on XLA's buffers, the same bits and the same words as outside."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from cases import same as exactly

import nbgather
import nbgather.jax
from nbgather import strategies
from nbgather.containers import jax_ffi
from nbgather.containers.jax_rules import spec_of
from nbgather.engine.programs import held, program_of
from nbgather.kernels import program as layout
from nbgather.kernels.cpu import programs
from nbgather.operations.indexing import Gather, ScatterAdd, TakeAlongAxis

RNG = np.random.default_rng(0)
X = RNG.random((3, 16, 4), np.float32)
INDEX = RNG.integers(0, 16, (3, 5, 4)).astype(np.int32)
IDS = np.array([7, 5, 2**30], np.int32)
NOISE = RNG.random((3, 16), np.float32)
IMAGES = RNG.random((2, 3, 8, 12), np.float32)
PIXELS = (IMAGES * 255).astype(np.uint8)
AFFINE = {"scale": 1 / 255, "mean": (0.1, 0.2, 0.3), "std": 0.5}
MADE = nbgather.random_masking(X, 0.5, seed=3)
RESTORE = MADE.ids_restore.astype(np.int32)
DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32",
    "complex64", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3b11fnuz,
)  # fmt: skip

Case = tuple[Callable[..., Any], tuple[np.ndarray, ...]]
CASES: dict[str, Case] = {
    "gather": (lambda x, i: nbgather.gather(x, 1, i), (X, INDEX)),
    "gather, last": (lambda x, i: nbgather.gather(x, -1, i), (X, INDEX[:, :, :2] % 4)),
    "gather, clip": (lambda x, i: nbgather.gather(x, 1, i, mode="clip"), (X, INDEX - 8)),
    "gather, wrap": (lambda x, i: nbgather.gather(x, 1, i, mode="wrap"), (X, INDEX - 99)),
    "gather, -0.0": (
        lambda x, i: nbgather.gather(x, 1, i, mode="fill", fill_value=-0.0), (X, INDEX - 8)
    ),
    "gather, NaN": (
        lambda x, i: nbgather.gather(x, 1, i, mode="fill", fill_value=np.nan), (X, INDEX - 8)
    ),
    "gather, empty": (lambda x, i: nbgather.gather(x, 1, i), (X, INDEX[:, :0])),
    "gather, of nothing": (lambda x, i: nbgather.gather(x, 1, i), (X[:, :0], INDEX[:, :0])),
    "gather, uint8": (lambda x, i: nbgather.gather(x, 1, i), (X, INDEX.astype(np.uint8))),
    "along": (lambda x, i: nbgather.take_along_axis(x, i, 1), (X, INDEX[:, :, :1] - 16)),
    "along, flat": (lambda x, i: nbgather.take_along_axis(x, i, None), (X, INDEX[0, 0] * 9)),
    "tokens": (nbgather.gather_tokens, (X, INDEX[..., 0])),
    "tokens, fill": (
        lambda x, i: nbgather.gather_tokens(x, i, mode="fill", fill_value=2), (X, INDEX[..., 0] - 4)
    ),
    "scatter": (lambda x, i: nbgather.scatter(x, 1, i, x[:, :5]), (X, INDEX)),
    "scatter, number": (lambda x, i: nbgather.scatter(x, 1, i, -0.0), (X, INDEX)),
    "scatter_add": (lambda x, i: nbgather.scatter_add(x, 1, i, x[:, :5]), (X, INDEX)),
    "scatter_add, float16": (
        lambda x, i: nbgather.scatter_add(x, 1, i, x[:, :5]), (X.astype(np.float16), INDEX)
    ),
    "scatter_reduce": (
        lambda x, i: nbgather.scatter_reduce(x, 1, i, x[:, :5], "amax", include_self=False),
        (X, INDEX),
    ),
    "scatter_reduce, bfloat16": (
        lambda x, i: nbgather.scatter_reduce(x, 1, i, x[:, :5], "mean"),
        (X.astype(ml_dtypes.bfloat16), INDEX),
    ),
    "segments": (
        lambda x, i: nbgather.segment_reduce(x[0], "amax", ids=i[0, :, 0] % 3, num_segments=3),
        (X, np.zeros((1, X.shape[1], 1), np.int32)),
    ),
    "noise": (lambda i: nbgather.token_noise(-1, i, 9, epoch=2), (IDS,)),
    "noise, int8": (lambda i: nbgather.token_noise(1, i, 9), (np.array([-1, 3], np.int8),)),
    "noise, uint32": (lambda i: nbgather.token_noise(1, i, 9), (np.array([2**31], np.uint32),)),
    "ranks": (lambda n: nbgather.rank_tokens(n, 4), (NOISE,)),
    "ranks, bfloat16": (
        lambda n: nbgather.rank_tokens(n, 4), (NOISE.astype(ml_dtypes.bfloat16),)
    ),
    "ranks, counts": (lambda n: nbgather.rank_tokens(n, [4, 1, 0]), (NOISE,)),
    "masking": (lambda x: nbgather.random_masking(x, 0.6, seed=3), (X,)),
    "masking, ids": (
        lambda x, i: nbgather.random_masking(x, 0.6, seed=-1, sample_ids=i, epoch=2), (X, IDS)
    ),
    "masking, noise": (lambda x, n: nbgather.random_masking(x, 0.6, noise=n), (X, NOISE)),
    "masking, counts": (
        lambda x: nbgather.random_masking(x, seed=3, num_keep=[1, 5, 0]), (X,)
    ),
    "restore": (
        lambda a, i, t: nbgather.restore_tokens(a, i, t),
        (MADE.x_masked, RESTORE, np.arange(4, dtype=np.float32)[None, None]),
    ),
    "restore, number": (
        lambda a, i: nbgather.restore_tokens(a, i, -0.0), (MADE.x_masked, RESTORE)
    ),
    "patchify": (lambda i: nbgather.patchify(i, 4), (IMAGES,)),
    "unpatchify": (
        lambda p: nbgather.unpatchify(p, 4, (8, 12)), (np.array(nbgather.patchify(IMAGES, 4)),)
    ),
    "masked patches": (lambda i: nbgather.masked_patchify(i, 4, 0.5, seed=1), (IMAGES,)),
    "masked patches, normal": (
        lambda i: nbgather.masked_patchify(i, 4, 0.5, seed=1, **AFFINE), (PIXELS,)
    ),
    "masked patches, counts": (
        lambda i: nbgather.masked_patchify(i, 4, seed=1, num_keep=[1, 3]), (IMAGES,)
    ),
    **{
        name: (lambda i, name=name: getattr(strategies, name)(3, i, (4, 8), epoch=1), (IDS,))
        for name in ("random", "block", "grid", "time_frequency")
    },
    "tube": (lambda i: strategies.tube(3, i, (2, 4, 4), spatial=strategies.block), (IDS,)),
}  # fmt: skip


def as_jax(arrays: tuple[np.ndarray, ...]) -> list[Any]:
    return [jnp.asarray(a) for a in arrays]


def same(got: Any, want: Any) -> None:
    """The same results, of JAX's dtypes."""
    assert type(got) is type(want) or not isinstance(want, tuple)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        plain = np.asarray(other)
        if plain.dtype == np.int64 and not jax.config.jax_enable_x64:
            plain = plain.astype(np.int32)
        exactly(np.asarray(one), plain)


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_as_outside(name: str) -> None:
    call, operands = CASES[name]
    compiled = jax.jit(call)
    given = as_jax(operands)
    assert "custom_call @nbgather" in compiled.lower(*given).as_text()
    same(compiled(*given), call(*operands))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_dtype_is_moved(dtype: Any) -> None:
    x = (X * 9).astype(dtype)
    call = jax.jit(lambda a, i: nbgather.gather(a, 1, i))
    same(call(*as_jax((x, INDEX))), nbgather.gather(x, 1, INDEX))
    call = jax.jit(lambda a, i: nbgather.gather(a, 1, i, mode="fill", fill_value=1))
    want = nbgather.gather(x, 1, INDEX - 8, mode="fill", fill_value=1)
    same(call(*as_jax((x, INDEX - 8))), want)
    call = jax.jit(lambda a, i: nbgather.scatter(a, 1, i, a[:, ::3][:, :5]))
    same(call(*as_jax((x, INDEX))), nbgather.scatter(x, 1, INDEX, x[:, ::3][:, :5]))


@pytest.mark.parametrize(
    ("call", "operands"),
    [
        (lambda x, i: nbgather.gather(x, 1, i), (np.zeros((2, 3)), [[0, 2], [1, 7]])),
        (lambda x, i: nbgather.gather(x, 0, i), (np.zeros(3), [0, -1])),
        (lambda x, i: nbgather.gather(x, 0, i), (np.zeros(()), 4)),
        (lambda x, i: nbgather.gather(x, 0, i), (np.zeros(3), np.array([2, 200], np.uint8))),
        (lambda x, i: nbgather.gather(x, 0, i), (np.zeros(3), np.array([2, -200], np.int16))),
        (lambda x, i: nbgather.gather(x, 0, i), (np.zeros(3), np.array([2**32 - 1], np.uint32))),
        (lambda x, i: nbgather.gather(x, 1, i), (np.zeros((2, 0)), [[0], [1]])),
        (lambda x, i: nbgather.take_along_axis(x, i, 0), (np.zeros((3, 2)), [[-3, 2], [-4, 9]])),
        (nbgather.gather_tokens, (np.zeros((2, 3, 4)), [[0, 1], [3, 9]])),
        (lambda x, i: nbgather.scatter(x, 1, i, i * 1.0), (np.zeros((2, 3)), [[0, 1], [3, 1]])),
        (lambda x, i: nbgather.scatter_add(x, 0, i, i * 1.0), (np.zeros(3), [0, 5])),
        (lambda x, i: nbgather.restore_tokens(x, i, 0), (np.zeros((1, 2, 3)), [[0, 1, -1]])),
        (
            lambda x, i: nbgather.gather(x, 2, i),
            (np.zeros((1, 2, 3, 4, 5)), np.full((1, 2, 1, 1, 5), 3)),
        ),
    ],
)
def test_a_bad_index_is_told_in_the_same_words(call: Any, operands: Any) -> None:
    given = as_jax(tuple(np.asarray(o) for o in operands))
    with pytest.raises(IndexError) as plain:
        call(*given)
    with pytest.raises(Exception) as raised:
        jax.block_until_ready(jax.jit(call)(*given))
    assert str(raised.value).endswith(str(plain.value))
    assert "OUT_OF_RANGE" in str(raised.value)
    assert "index" in str(plain.value)


@pytest.mark.parametrize(
    ("rows", "reduce", "by", "bounds"),
    [
        (4, "sum", "offsets", [0, 3, 2, 4]),
        (4, "amax", "counts", [1, 1]),
        (4, "sum", "offsets", [0, 5]),  # of one segment, whose rows are all there are
        (0, "sum", "counts", [0, 1]),
        (0, "amin", "offsets", [0, 1]),
    ],
)
def test_bad_segments_are_told_in_the_same_words(
    rows: int, reduce: Any, by: str, bounds: list[int]
) -> None:
    """When the bounds are known: while it is traced, or where it runs."""

    def segments(x: Any, where: Any) -> Any:
        return nbgather.segment_reduce(x, reduce, **{by: where})

    def bags(x: Any, where: Any) -> Any:
        return nbgather.gather_reduce(x, jnp.arange(rows), reduce, **{by: where})

    x, where = jnp.ones((rows, 2)), jnp.asarray(bounds)
    for call in (segments, bags):
        with pytest.raises(ValueError) as plain:
            call(x, where)
        with pytest.raises(Exception) as raised:
            jax.block_until_ready(jax.jit(call)(x, where))
        assert str(raised.value).endswith(str(plain.value))
        assert by in str(plain.value)
        for known in (where, np.asarray(where), bounds):
            with pytest.raises(ValueError) as at_once:
                jax.make_jaxpr(lambda x, c=call, k=known: c(x, k))(x)
            assert str(at_once.value) == str(plain.value)
    with pytest.raises(ValueError, match=by):
        jax.grad(lambda x: segments(x, where).sum())(x)
    with pytest.raises(Exception, match=by):
        jax.block_until_ready(jax.vmap(segments, (None, 0))(x, where[None]))


def test_segments_whose_bounds_are_traced() -> None:
    x, offsets = (
        np.arange(24, dtype=np.float32).reshape(8, 3),
        np.array([[0, 3, 3, 8], [0, 0, 1, 8]]),
    )

    def call(x: Any, where: Any) -> Any:
        return nbgather.segment_reduce(x, "sum", offsets=where)

    want = [call(x, one) for one in offsets]
    same(jax.jit(call)(x, offsets[0]), want[0])
    same(jax.jit(jax.vmap(call, (None, 0)))(x, offsets), np.stack(want))
    same(jax.jit(jax.grad(lambda x, w: call(x, w)[2].sum()))(x, offsets[1]), (x > 2).astype("f4"))
    # One segment, and no rows: see above.
    same(jax.jit(call)(x, np.array([0, 8])), x.sum(0)[None])
    same(jax.jit(call)(x[:0], np.array([0, 0])), x[:1] * 0)


def test_what_a_trace_can_know_is_raised_at_once() -> None:
    x, i = as_jax((X, INDEX))
    refusals: tuple[tuple[Callable[[Any, Any], Any], type[Exception], str], ...] = (
        (lambda x, i: nbgather.gather(x, 1, i[0]), ValueError, "index has 2 dimensions"),
        (lambda x, i: nbgather.gather(x, 4, i), IndexError, "dim 4 is out of range"),
        (lambda x, i: nbgather.gather(x, 1, i * 1.0), TypeError, "index has dtype float32"),
        (
            lambda x, i: nbgather.gather(x[:, :0], 1, i, mode="clip"),
            IndexError, "dimension 1 has size 0",
        ),
        (
            lambda x, i: nbgather.gather(i, 1, i, mode="fill", fill_value=0.5),
            ValueError, "fill_value 0.5 cannot be held in dtype int32",
        ),
        (lambda x, i: nbgather.scatter(x, 1, i, i), TypeError, "input has dtype float32 and src"),
        (
            lambda x, i: nbgather.scatter(x[:, :0], 1, i, 1),
            IndexError, "an index was out of bounds for dimension 1 with size 0",
        ),
        (lambda x, i: nbgather.infer_gather(x, x), NotImplementedError, "traced by JAX"),
        (lambda x, i: nbgather.random_masking(x), ValueError, "neither noise nor seed"),
        (lambda x, i: nbgather.gather(x, 1, i, out=X), ValueError, "out= was given for JAX"),
        (lambda x, i: nbgather.gather(x, 1, i, backend="reference"), ValueError, "backend="),
        (lambda x, i: nbgather.rank_tokens(x[..., 0], i[0, 0, 0]), TypeError, "num_keep came as"),
        (lambda x, i: nbgather.token_noise(i[0, 0, 0], 3, 4), TypeError, "a whole number"),
        (
            lambda x, i: nbgather.gather(x, 1, i, mode="fill", fill_value=x[0, 0, 0]),
            TypeError, "a scalar came as an array that JAX traces",
        ),
        (
            lambda x, i: nbgather.gather(x, 1, INDEX.astype(np.int64) + 2**40),
            TypeError, "jax_enable_x64",
        ),
        (
            lambda x, i: nbgather.random_masking(x, noise=NOISE.astype(np.float64)),
            TypeError, "noise is a NumPy array of dtype float64",
        ),
        (lambda x, i: nbgather.gather(X, 1, i), TypeError, "input is a NumPy array and index"),
        (lambda x, i: nbgather.gather(x.astype("int4"), 1, i), TypeError, "of dtype int4"),
        (lambda x, i: nbgather.restore_tokens(x, i[..., 0], np.float64(1) * X[0, 0]), TypeError,
         "x_visible is a JAX array and mask_token a NumPy one"),
    )  # fmt: skip
    for call, error, text in refusals:
        with pytest.raises(error) as raised:
            jax.jit(call)(x, i)
        assert text in str(raised.value)


def test_numpy_and_lists_may_say_where() -> None:
    x = jnp.asarray(X)
    for index in (INDEX, INDEX.astype(np.int64), INDEX[..., ::-1]):
        same(jax.jit(lambda x, i=index: nbgather.gather(x, 1, i))(x), nbgather.gather(X, 1, index))
    got = jax.jit(lambda x: nbgather.gather_tokens(x, [[1], [2], [15]]))(x)
    same(got, nbgather.gather_tokens(X, [[1], [2], [15]]))


def test_noise_of_a_seed_that_is_traced() -> None:
    noise = jax.jit(lambda s, i, e: nbgather.jax.seeded_noise(s, i, 9, epoch=e))
    for seed, epoch in ((3, 0), (-1, 7), (2**31 - 1, 2**31 - 1)):
        want = nbgather.token_noise(seed, IDS, 9, epoch=epoch)
        same(noise(jnp.int32(seed), jnp.asarray(IDS), jnp.int32(epoch)), want)
        same(nbgather.jax.seeded_noise(jnp.int32(seed), IDS, 9, epoch=epoch), want)
    same(noise(jnp.uint32(2**32 - 1), jnp.arange(3), 0), nbgather.token_noise(2**32 - 1, 3, 9))
    same(nbgather.jax.seeded_noise(2**64 - 1, [5, 6], 9), nbgather.token_noise(-1, [5, 6], 9))
    made = jax.jit(
        lambda x, s: nbgather.random_masking(x, noise=nbgather.jax.seeded_noise(s, 3, 16))
    )(jnp.asarray(X), 5)
    same(made, nbgather.random_masking(X, seed=5))
    seeds, epochs = jnp.arange(3), jnp.arange(3) + 4
    got = jax.jit(jax.vmap(lambda s, e: nbgather.jax.seeded_noise(s, 2, 9, epoch=e)))(seeds, epochs)
    same(got, np.stack([nbgather.token_noise(k, 2, 9, epoch=k + 4) for k in range(3)]))
    ids = jnp.arange(6).reshape(2, 3)
    got = jax.vmap(lambda i: nbgather.jax.seeded_noise(seeds[1], i, 9))(ids)
    same(got, nbgather.token_noise(1, 6, 9).reshape(2, 3, 9))
    for bad in (jnp.float32(1), jnp.arange(2), True, 1.5):
        with pytest.raises(TypeError, match="seed"):
            jax.jit(lambda i, bad=bad: nbgather.jax.seeded_noise(bad, i, 9))(jnp.asarray(IDS))


def test_many_threads_at_once() -> None:
    """XLA calls from each of them, and errors go to whose they are."""
    x = jnp.asarray(RNG.random((64, 196, 64), np.float32))
    index = jnp.asarray(RNG.integers(0, 196, (64, 98, 64)).astype(np.int32))
    call = jax.jit(lambda x, i: nbgather.gather(x, 1, i))
    want, wrong = np.asarray(call(x, index)).tobytes(), []

    def work(number: int) -> None:
        bad = index.at[number, 2, 1].set(999)
        for _ in range(4):
            if np.asarray(call(x, index)).tobytes() != want:
                wrong.append("bits")
            try:
                jax.block_until_ready(call(x, bad))
                wrong.append("no error")
            except Exception as error:
                if f"index 999 at ({number}, 2, 1) is out of bounds" not in str(error):
                    wrong.append(str(error))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_sums(threads: int) -> None:
    x = RNG.random((4, 1 << 16), np.float32)
    index = RNG.integers(0, 3, x.shape).astype(np.int32)
    want = nbgather.scatter_add(x, 1, index, x)
    nbgather.set_num_threads(threads)
    try:
        call = jax.jit(lambda x, i: nbgather.scatter_add(x, 1, i, x))
        same(call(jnp.asarray(x), jnp.asarray(index)), want)
    finally:
        nbgather.set_num_threads(None)


def test_a_limit_of_this_thread_is_not_one_of_xlas() -> None:
    nbgather.set_num_threads(3)
    try:
        with nbgather.limit_threads(1):
            jax.jit(lambda x: nbgather.gather(x, 0, [2]))(jnp.arange(7.0)).block_until_ready()
            assert programs._threads.tolist() == [3]
        nbgather.set_num_threads(2)
        assert programs._threads.tolist() == [2]
    finally:
        nbgather.set_num_threads(None)


def _advised(address: int) -> bool:
    """Whether large pages were asked for at an address, as the kernel has it."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if found:
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux is asked, and tells")
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has none"
)
def test_large_pages_are_asked_for_large_results() -> None:
    """XLA takes new memory for each, which the system clears page by page."""
    x = jnp.asarray(RNG.random((1 << 16, 64), np.float32))
    ids = jnp.asarray(RNG.integers(0, 1 << 16, (1 << 17, 1)).astype(np.int32))
    many = jax.jit(lambda x, i: nbgather.take_along_axis(x, i, 0))
    result = many(x, ids)
    assert _advised(result.unsafe_buffer_pointer() + result.nbytes // 2)
    same(result, np.take_along_axis(np.asarray(x), np.asarray(ids), 0))
    few = program_of(TakeAlongAxis(0), tuple(map(spec_of, (x, ids[:9]))))
    large = program_of(TakeAlongAxis(0), tuple(map(spec_of, (x, ids))))
    assert few is not None
    assert large is not None
    assert [len(p.steps) for p in (few, large)] == [1, 2]
    added = map(spec_of, (x, jnp.broadcast_to(ids[: 1 << 16], x.shape), x))
    first, *others = added
    held_in_place = program_of(ScatterAdd(0), (held(first), *others))
    assert held_in_place is not None
    assert len(held_in_place.steps) == 1  # in memory that is not new


@pytest.mark.parametrize("samples", [2, 2048])
def test_numbers_below_the_normal_ones_count(samples: int) -> None:
    """XLA's threads flush them to zero, and their sums and products have other bits then."""
    x = np.full((samples, 64), 1e-40, np.float32)
    index = RNG.integers(0, 64, x.shape).astype(np.int32)
    call = jax.jit(lambda x, i: nbgather.scatter_add(x, 1, i, x))
    want = nbgather.scatter_add(x, 1, index, x)
    assert (want > 1e-40).any()
    same(call(*as_jax((x, index))), want)
    images = np.full((samples, 3, 8, 8), 1e-38, np.float32)
    cut = lambda i: nbgather.masked_patchify(i, 4, 0.5, seed=1, scale=0.01)  # noqa: E731
    same(jax.jit(cut)(jnp.asarray(images)), cut(images))
    bits = RNG.integers(0, 300, (3, 40)).astype(np.uint16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        ranks = jax.jit(lambda n: nbgather.rank_tokens(n, 7))
        same(ranks(jnp.asarray(bits.view(dtype))), nbgather.rank_tokens(bits.view(dtype), 7))


def test_a_donated_input_is_read_before_it_is_written_to() -> None:
    want = nbgather.scatter_add(X, 1, INDEX, X[:, :5])
    call = jax.jit(lambda x, i: nbgather.scatter_add(x, 1, i, x[:, :5]), donate_argnums=0)
    same(call(jnp.array(X), jnp.asarray(INDEX)), want)


def test_without_the_function_xla_calls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_ffi, "why_not", lambda: "it is a test")
    for name in ("gather", "noise, uint32", "masked patches, normal", "restore"):
        call, operands = CASES[name]
        compiled = jax.jit(lambda *a, call=call: call(*a))
        text = compiled.lower(*as_jax(operands)).as_text()
        assert "callback" in text
        assert "@nbgather" not in text
        same(compiled(*as_jax(operands)), call(*operands))
    x, index = as_jax((X, INDEX))
    total = jax.jit(jax.grad(lambda x, i: nbgather.gather_tokens(x, i).sum()))
    assert "callback" in total.lower(x, index[..., 0]).as_text()
    want = np.stack([np.bincount(row, minlength=16) for row in INDEX[..., 0]])
    same(total(x, index[..., 0]), np.repeat(want[..., None], 4, 2).astype(np.float32))
    index = index * 0 + 99
    with pytest.raises(Exception, match="index 99 at"):
        jax.block_until_ready(jax.jit(lambda x, i: nbgather.gather(x, 1, i))(x, index))


# What is written for XLA's interface, by frames of our own


def call_handler(frame: np.ndarray) -> int:
    address = programs.handler(jax_ffi.program_of_text)
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(frame.ctypes.data))


def frame_of(text: str, operands: list[int], results: list[int]) -> tuple[np.ndarray, list[Any]]:
    """A frame as XLA makes it of a call on buffers at addresses; and the errors that come of it."""
    errors: list[Any] = []

    def create(at: int) -> int:
        words = (ctypes.c_int64 * 4).from_address(at)
        errors.append((words[3] & 0xFFFF, ctypes.string_at(words[2]).decode()))
        return 1

    create_by_c = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(create)
    kept: list[Any] = [create_by_c]

    def words(*values: int) -> int:
        kept.append(np.array(values, np.int64))
        return int(kept[-1].ctypes.data)

    raw = np.frombuffer(text.encode(), np.uint8)
    buffers = [[words(*(0, 0, 0, at, 0, 0)) for at in group] for group in (operands, results)]
    function = ctypes.cast(create_by_c, ctypes.c_void_p).value or 0
    frame = np.zeros(21, np.int64)
    frame[[0, 2, 4, 7, 9, 12, 14, 17]] = (
        168, words(*(0,) * 6, function), 3, len(operands), words(*buffers[0]), len(results),
        words(*buffers[1]), 1,
    )  # fmt: skip
    span = words(raw.ctypes.data, raw.size)
    frame[[18, 20]] = words(4), words(span)
    _frames.append((frame, kept, raw))
    return frame, errors


_frames: list[Any] = []  # which hold the memory that they refer to


def published(operation: Any, *arrays: np.ndarray) -> str:
    specs = tuple(map(spec_of, arrays))
    made = jax_ffi.published(operation, specs, b"")
    assert made is not None
    return made[0]


def test_buffers_that_are_not_aligned_are_refused() -> None:
    x, index, out = np.arange(8.0), np.arange(8), np.zeros(9)
    text = published(Gather(0), x, index)
    at = [x.ctypes.data, index.ctypes.data]
    frame, errors = frame_of(text, at, [out.ctypes.data])
    assert call_handler(frame) == 0
    assert not errors
    assert np.array_equal(out[:8], x)
    frame, errors = frame_of(text, at, [out.ctypes.data + 4])
    assert call_handler(frame) == 1
    assert errors == [(layout.INTERNAL, "a call came from XLA that is none of nbgather's")]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="the bits are of x86-64"
)
def test_a_thread_gets_back_how_it_computes() -> None:
    x, index, out = np.full(8, 1e-310), np.zeros(8, np.int64), np.zeros(8)
    frame, errors = frame_of(
        published(ScatterAdd(0), x, index, x), [x.ctypes.data, index.ctypes.data, x.ctypes.data],
        [out.ctypes.data],
    )  # fmt: skip
    want = nbgather.scatter_add(x, 0, index, x)
    library, flush = ctypes.CDLL("libm.so.6"), 0x8040
    before, env = ctypes.create_string_buffer(128), ctypes.create_string_buffer(128)
    library.fegetenv(before)
    library.fegetenv(env)
    control = ctypes.c_uint32.from_buffer(env, 28)
    control.value |= flush
    library.fesetenv(env)
    try:
        assert call_handler(frame) == 0
        library.fegetenv(env)
    finally:
        library.fesetenv(before)
    assert control.value & flush == flush
    exactly(out, want)
    assert not errors


def test_the_version_is_told_to_xla() -> None:
    metadata = np.zeros(8, np.int64)
    extension = np.array([32, 1, 0, metadata.ctypes.data], np.int64)
    frame = np.zeros(21, np.int64)
    frame[:2] = 168, extension.ctypes.data
    assert call_handler(frame) == 0
    version = jax_ffi._version(Path(jax.ffi.include_dir()) / jax_ffi.HEADER)
    assert version in layout.API_VERSIONS
    assert metadata[3] == version[0] | version[1] << 32


@pytest.mark.parametrize(
    ("header", "started", "reason"),
    [
        ("#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 2\n", False, "it is a test"),
        ("#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 0\n", False, "of version (0, 0)"),
        ("#define XLA_FFI_API_MAJOR 9\n#define XLA_FFI_API_MINOR 0\n", True, "it is a test"),
        ("", True, "it is a test"),
        (None, True, "it is a test"),
    ],
)
def test_a_function_that_is_refused_is_not_used(
    header: str | None, started: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a version that is not known, XLA is asked when it runs: else it would not start."""
    path, calls = tmp_path / jax_ffi.HEADER, []

    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("it is a test")

    if header is not None:
        path.parent.mkdir(parents=True)
        path.write_text(header)
    before = programs._table.copy()
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    monkeypatch.setattr(jax, "devices", lambda *a: calls.append(a))
    assert reason in str(jax_ffi.registered.__wrapped__())
    assert bool(calls) == started
    programs._table[:] = before
    assert nbgather.jax.why_not() is None


def test_programs_are_found_however_many_there_are() -> None:
    """The table of them grows, and an executable finds what it found before."""
    x, index = as_jax((X, INDEX))
    call = jax.jit(lambda x, i: nbgather.gather(x, 1, i))
    want = np.asarray(call(x, index))
    before = int(programs._block[0])
    keys = [f"{k:016}".encode() for k in range(2 * before)]
    for key in keys:
        assert programs.publish(key, programs.failing(f"this is {int(key)}"))
    assert int(programs._block[0]) > before
    same(call(x, index), want)
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    for key in (keys[0], keys[-1]):
        named = jax.jit(lambda x, k=key: jax.ffi.ffi_call("nbgather", shape)(x, call=k.decode()))
        with pytest.raises(Exception, match=f"this is {int(key)}"):
            jax.block_until_ready(named(jnp.zeros(3)))


def test_what_is_beyond_compiled_code_is_called_back() -> None:
    """A gather of very many dimensions has more numbers than a program may have."""
    x = np.arange(3**15, dtype=np.int32).reshape((3,) * 15)
    index = RNG.integers(0, 3, (2,) * 15).astype(np.int32)
    call = jax.jit(lambda x, i: nbgather.gather(x, 2, i))
    assert "callback" in call.lower(*as_jax((x, index))).as_text()
    same(call(*as_jax((x, index))), nbgather.gather(x, 2, index))


def test_other_platforms_are_refused() -> None:
    call = jax.jit(lambda x, i: nbgather.gather(x, 1, i))
    meant = jax.export.DisabledSafetyCheck.custom_call("nbgather")
    export = jax.export.export(call, platforms=["cuda"], disabled_checks=[meant])
    with pytest.raises(NotImplementedError, match="Gather was traced by JAX for cuda"):
        export(*as_jax((X, INDEX)))
    with pytest.raises(TypeError, match="symbolic ones are not served"):
        jax.export.export(call, disabled_checks=[meant])(
            jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 16, 4"), jnp.float32),
            jax.ShapeDtypeStruct(INDEX.shape, jnp.int32),
        )


def test_a_call_that_is_not_understood_is_an_error() -> None:
    """As of an executable of another version, or of a frame that does not fit."""
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    x = jnp.zeros(3)
    texts = {
        "x" * 16 + "[2]": "another version of nbgather compiled",
        "y" * 16 + "none": "another version of nbgather compiled",
        "short": "none of nbgather's",
    }
    for text, said in texts.items():
        call = jax.jit(lambda x, text=text: jax.ffi.ffi_call("nbgather", shape)(x, call=text))
        with pytest.raises(Exception, match=said):
            jax.block_until_ready(call(x))
    text = published(Gather(0), np.zeros(3, np.float32), np.zeros(3, np.int32))
    with pytest.raises(Exception, match="none of nbgather's"):  # an operand is missing
        jax.block_until_ready(
            jax.jit(lambda x: jax.ffi.ffi_call("nbgather", shape)(x, call=text))(x)
        )
