"""The ways to move the items of a gather: the same bits, and one that is measured here."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import rng, same

import nbgather
from nbgather.engine import memo
from nbgather.engine.plan import plan_gather
from nbgather.kernels import constants
from nbgather.kernels.cpu import cache, variants
from nbgather.kernels.plans import STREAM_BYTES

#: More variants and items: each is some kernels to compile.
LARGE = [("vector", "uint8"), ("vector", "float64"), ("single", "float32"), ("inserted", "float32")]


def _forget() -> None:
    """Plans hold the kernel that was chosen for them."""
    plan_gather.cache_clear()
    memo.entries.clear()
    variants._choices.clear()
    variants._read.clear()


@pytest.fixture(params=constants.METHODS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NBGATHER_VARIANT", request.param)
    _forget()
    yield request.param
    _forget()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache in which nothing was measured."""
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    _forget()
    yield tmp_path
    _forget()


#: Rows of every length about the sixteen items of a block, joined or apart, and along other dims.
SHAPES = [
    *[
        ((7, 11), 1, length)
        for length in (1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 18, 23, 31, 32, 33, 47)
    ],
    ((5, 6, 1), 1, 40),
    ((5, 6, 3), 1, 9),
    ((4, 5, 16), 1, 7),
    ((3, 5, 17), 1, 7),
    ((2, 3, 4, 5), 1, 6),
    ((300,), 0, 1000),
]


@pytest.mark.parametrize(
    "variant, dtype",
    [
        ("vector", "float32"),
        ("single", "uint8"),
        ("single", "complex128"),
        ("inserted", "uint8"),
        *(pytest.param(*p, marks=pytest.mark.large) for p in LARGE),
    ],
    indirect=["variant"],
)
def test_every_length_of_rows(variant: str, dtype: str) -> None:
    generator = rng(dtype)
    for shape, dim, length in SHAPES:
        x = generator.integers(0, 200, shape).astype(dtype)
        index_shape = list(shape)
        index_shape[dim] = length
        index = generator.integers(0, shape[dim], index_shape)
        want = np.take_along_axis(x, index, dim)
        same(nbgather.gather(x, dim, index), want)
        # The index's rows, and the output's, that do not follow each other; an output off its line.
        room = np.zeros((*index_shape[:-1], index_shape[-1] + 3), dtype)
        apart = np.zeros(room.shape, np.int64)[..., 1:-2]
        apart[...] = index
        nbgather.gather(x, dim, apart, out=room[..., 1:-2])
        same(np.ascontiguousarray(room[..., 1:-2]), want)
        assert not room[..., 0].any()
        assert not room[..., -2:].any()


def variants_modes_and_indices() -> list[Any]:
    """Each is two kernels to compile: beyond an eighth of them it is ``large``."""
    return [
        pytest.param(name, index, mode, marks=() if (k + n + v) % 8 == 0 else pytest.mark.large)
        for v, name in enumerate(constants.METHODS)
        for k, index in enumerate(["int64", "int32", "uint8", "int8", "uint64"])
        for n, mode in enumerate(["raise", "clip", "fill"])
    ]


@pytest.mark.parametrize(
    "variant, index_dtype, mode", variants_modes_and_indices(), indirect=["variant"]
)
def test_every_mode_and_index(variant: str, index_dtype: str, mode: str) -> None:
    generator = rng(mode + index_dtype)
    low = -40 if index_dtype.startswith("i") else 0
    for length in (13, 16, 45):
        x = generator.integers(0, 200, (6, 21)).astype(np.float32)
        index = generator.integers(low, 60, (6, length)).astype(index_dtype)
        index[0, 0] = np.iinfo(index_dtype).max
        for call in (nbgather.gather, nbgather.take_along_axis):
            if mode == "raise":
                with pytest.raises(IndexError, match=r"at \(0, 0\) is out of bounds"):
                    call(x, index, 1) if call is nbgather.take_along_axis else call(x, 1, index)
                continue
            arguments = (x, index, 1) if call is nbgather.take_along_axis else (x, 1, index)
            got = call(*arguments, mode=mode, fill_value=7)
            same(got, call(*arguments, mode=mode, fill_value=7, backend="reference"))


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (5, 44), (5, 37)])
def test_one_bad_index_is_found(variant: str, place: tuple[int, int]) -> None:
    for value in (-1, 21, 2**62, -(2**63)):
        for length in (45, 48):
            index = np.zeros((6, length), np.int64)
            index[place] = value
            with pytest.raises(IndexError, match=f"index {value} at "):
                nbgather.gather(np.zeros((6, 21), np.float32), 1, index)


@pytest.mark.parametrize(
    "variant, dtype",
    [("vector", "float32"), ("single", "float64"), ("inserted", "uint8")],
    indirect=["variant"],
)
@pytest.mark.large
def test_outputs_past_the_caches(variant: str, dtype: str) -> None:
    generator = rng(dtype)
    length = STREAM_BYTES * 9 // 8 // (np.dtype(dtype).itemsize * 8)
    x = generator.integers(0, 200, (8, 1000)).astype(dtype)
    index = generator.integers(0, 1000, (8, length + 3))
    same(nbgather.gather(x, 1, index), np.take_along_axis(x, index, 1))


@pytest.mark.parametrize("nbytes", [*range(1, 36), 63, 64, 65, 127, 128, 129])
def test_rows_of_every_length(nbytes: int) -> None:
    generator = rng(str(nbytes))
    x = generator.integers(0, 255, (3, 10, nbytes), dtype=np.uint8)
    ids = generator.integers(0, 10, (3, 7))
    want = np.stack([x[n, ids[n]] for n in range(3)])
    same(nbgather.gather_tokens(x, ids), want)
    same(nbgather.gather_tokens(x[:1], ids[:1, :1]), want[:1, :1])
    # Rows apart in memory, and at odd addresses.
    room = np.zeros((3, 10, nbytes + 1), np.uint8)
    room[..., 1:] = x
    same(nbgather.gather_tokens(room[..., 1:], ids), want)
    # Filled from a whole row, where the token is removed.
    token = generator.integers(0, 255, nbytes, dtype=np.uint8)
    restore = generator.permuted(np.tile(np.arange(14), (3, 1)), axis=1)
    got = nbgather.restore_tokens(x, restore, token)
    same(got, nbgather.restore_tokens(x, restore, token, backend="reference"))
    restore[2, 3] = 14
    with pytest.raises(IndexError, match=r"index 14 at \(2, 3\)"):
        nbgather.restore_tokens(x, restore, token)


def test_a_large_call_measures_once_and_keeps_it(empty_folder: Path) -> None:
    assert variants.method(4) == variants.DEFAULT
    assert variants.choices() == {}
    number = variants.method(4, variants.MEASURE_MIN_BYTES)
    (path,) = empty_folder.glob("variants-*")
    choice = variants.choices()[4]
    assert choice.method == number
    assert set(choice.seconds) == set(constants.METHODS)
    assert constants.METHODS[number] == min(choice.seconds, key=lambda k: choice.seconds[k])
    # Another process reads what this one measured, also for a small call.
    _forget()
    text = path.read_bytes()
    assert variants.method(4) == number
    assert path.read_bytes() == text
    # What is measured later is added.
    variants.method(1, variants.MEASURE_MIN_BYTES)
    _forget()
    assert set(variants.choices()) == {1, 4}


@pytest.mark.parametrize(
    "damage", ["empty", "truncated", "flipped", "text", "list", "method", "item"]
)
def test_a_damaged_file_is_measured_again(empty_folder: Path, damage: str) -> None:
    variants.measured(4)
    (path,) = empty_folder.glob("variants-*")
    data = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(data[:-5])
    elif damage == "flipped":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    else:
        stored = {
            "text": "no",
            "list": [],
            "method": {"4": ["no", {}]},
            "item": {"x": ["single", {}]},
        }
        cache.write(path, json.dumps(stored[damage]).encode())
    _forget()
    assert variants.choices() == {}
    assert variants.method(4, variants.MEASURE_MIN_BYTES) in range(3)
    _forget()
    assert set(variants.choices()) == {4}


def test_a_folder_that_cannot_be_written(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(cache, "write", refuse)
    assert variants.method(8, variants.MEASURE_MIN_BYTES) in range(3)
    assert set(variants.choices()) == {8}


def test_without_a_folder(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "folder", lambda: None)
    assert variants.method(8, variants.MEASURE_MIN_BYTES) in range(3)


def test_two_processes_measure_at_once(tmp_path: Path) -> None:
    code = (
        "from nbgather.kernels.cpu import variants\n"
        "print(variants.method(4, variants.MEASURE_MIN_BYTES))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    environment.pop("NBGATHER_VARIANT", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [p.communicate()[0].strip() in "012" for p in processes] == [True, True]
    (path,) = tmp_path.rglob("variants-*.nbc")
    assert cache.read(path) is not None


def test_an_unknown_variant_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGATHER_VARIANT", "fastest")
    _forget()
    with pytest.raises(
        ValueError, match="NBGATHER_VARIANT is 'fastest': it must be one of vector,"
    ):
        nbgather.gather(np.zeros((3, 40), np.int16), 1, np.zeros((3, 40), np.int64))
    _forget()


LESSER = """if True:
    import numpy as np
    import nbgather
    generator = np.random.default_rng(0)
    for dtype in ("u1", "f4"):
        x = generator.integers(0, 200, (9, 40)).astype(dtype)
        for length in (5, 45):
            index = generator.integers(0, 40, (9, length))
            assert (nbgather.gather(x, 1, index) == np.take_along_axis(x, index, 1)).all()
    scores = generator.random((5, 60), dtype=np.float32)
    order = scores.argsort(1, kind="stable")
    assert (nbgather.rank_tokens(scores, 20).ids_keep == order[:, :20]).all()
    print("right")
"""


@pytest.mark.parametrize(
    "processor",
    ["generic", *(pytest.param(p, marks=pytest.mark.large) for p in ("haswell", "znver3"))],
)
def test_kernels_for_a_lesser_processor(processor: str) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("these are processors of x86-64")
    environment = {**os.environ, "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", LESSER], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "right\n", done.stderr
