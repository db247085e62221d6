"""Files of the Spatter benchmark: what they mean, and what is said of bad ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbgather.apps.bench import spatter
from nbgather.apps.bench.spatter import patterns, run
from nbgather.apps.bench.spatter.configuration import parse_configuration


@pytest.mark.parametrize(
    "text, indices",
    [  # as Spatter's README has them
        ("UNIFORM:8:4", [0, 4, 8, 12, 16, 20, 24, 28]),
        ("UNIFORM:3:0", [0, 0, 0]),
        ("MS1:8:4:32", [0, 1, 2, 3, 35, 36, 37, 38]),
        ("MS1:8:2,3:20", [0, 1, 21, 41, 42, 43, 44, 45]),
        ("MS1:8:2,3:20,22", [0, 1, 21, 43, 44, 45, 46, 47]),
        ("LAPLACIAN:1:1:100", [0, 1, 2]),
        ("LAPLACIAN:2:1:100", [0, 99, 100, 101, 200]),
        ("LAPLACIAN:2:2:100", [0, 100, 198, 199, 200, 201, 202, 300, 400]),
        ("LAPLACIAN:3:1:100", [0, 9900, 9999, 10000, 10001, 10100, 20000]),
        ("1,2,4,8,16,32", [1, 2, 4, 8, 16, 32]),
        ([4, 4, 4], [4, 4, 4]),
    ],
)
def test_patterns(text: Any, indices: list[int]) -> None:
    assert patterns.parse_pattern(text).indices.tolist() == indices


BAD_PATTERNS = {
    "UNIFORM:8": "'UNIFORM:8' is not UNIFORM:LENGTH:STRIDE, or UNIFORM:LENGTH:STRIDE:NR",
    "UNIFORM:8:1:2": "is not UNIFORM:LENGTH:STRIDE",
    "UNIFORM:8,9:1": "is not UNIFORM:LENGTH:STRIDE",
    "UNIFORM:8:-1": "'-1' is no whole number",
    "UNIFORM:8:x": "'x' is no whole number",
    "UNIFORM:0:1": "has 0 offsets: between 1 and 2**24 are allowed",
    "UNIFORM:99999999:1": "has 99999999 offsets",
    "UNIFORM:8:999999999999": "reaches 6999999999993: 2**40 is the most",
    "UNIFORM:8:99999999999999999999999": "is not between 0 and 2**40",
    "MS1:8:4": "is not MS1:LENGTH:GAP_LOCATIONS:GAPS",
    "MS1:8:4,5:1,2,3": "with one gap or one each",
    "MS1:8:4,4:1": "do not ascend",
    "MS1:8:8:1": "not within the pattern",
    "LAPLACIAN:0:1:10": "a number that is not positive",
    "LAPLACIAN:99:1:10": "reaches further than 2**40",
    "LAPLACIAN:3:1:10000000": "reaches further than 2**40",
    "RANDOM:8": "'RANDOM:8' is none of UNIFORM, MS1, LAPLACIAN",
    "": "'' is no whole number",
}


@pytest.mark.parametrize("text", BAD_PATTERNS)
def test_a_bad_pattern_is_told(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        patterns.parse_pattern(text)
    assert BAD_PATTERNS[text] in str(caught.value)


BAD_ENTRIES: list[tuple[Any, str]] = [
    ([], "an object with a pattern is needed"),
    ({}, "kernel gather needs pattern"),
    ({"pattern": None}, "pattern: None is neither"),
    ({"pattern": [True]}, "pattern: True is no whole number"),
    ({"pattern": [1.5]}, "pattern: 1.5 is no whole number"),
    ({"pattern": []}, "pattern: [] has 0 offsets"),
    ({"pattern": "1", "kernel": "sort"}, "kernel is 'sort': it must be one of gather, scatter, gs"),
    ({"pattern": "1", "kernel": 3}, "kernel is 3"),
    ({"pattern": "1", "kernel": ["gather"]}, "kernel is ['gather']"),
    ({"pattern": "1", "count": 0}, "count is 0: it must be between 1 and 2**31"),
    ({"pattern": "1", "count": "many"}, "count: 'many' is no whole number"),
    ({"pattern": "1", "delta": -2}, "delta: -2 is not between 0 and 2**40"),
    ({"pattern": "1", "delta": 2**40, "count": 9}, "the last pattern reaches further than 2**40"),
    ({"pattern": "1,2", "pattern-size": 3}, "pattern-size is 3: the pattern has 2 offsets"),
    ({"pattern": "1,2", "boundary": 0}, "boundary is 0"),
    ({"kernel": "GS", "pattern-gather": "1"}, "kernel gs needs pattern-scatter"),
    ({"kernel": "GS", "pattern-gather": "1", "pattern-scatter": "1,2"}, "as many are needed"),
    ({"kernel": "MultiGather", "pattern": "5", "pattern-gather": "1"}, "inner pattern reaches 1"),
]  # fmt: skip


@pytest.mark.parametrize("entry, message", BAD_ENTRIES)
def test_a_bad_configuration_is_told_with_its_place(
    entry: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"pattern": "1"}, entry]))
    with pytest.raises(ValueError) as caught:
        spatter.load_spatter(path)
    assert str(caught.value).startswith(f"{path}, configuration 1: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"3", b"[", b"\xff\xfe", b"[" * 100_000, b"[1e999]", b"NaN",
     b'[{"pattern": [' + b"9" * 5000 + b"]}]"],
)  # fmt: skip
def test_a_file_that_is_none_is_one_line_and_status_2(
    content: bytes, tmp_path: Path, command: Any
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    done = command("bench", "--spatter", path)
    assert done.code == 2
    assert done.err.startswith(f"error: {path}")
    assert done.err.count("\n") == 1
    assert len(done.err) < 400 + len(str(path))


#: What is put together at random: parts of good files, and what no file should have.
PATTERNS = [
    "UNIFORM:8:1", "UNIFORM:8:1:NR", "MS1:8:4:32", "MS1:8:2,3:20,22", "LAPLACIAN:2:2:10", "1,2,3",
]  # fmt: skip
SCRAPS: list[Any] = [
    *PATTERNS, None, True, -1, 0, 1, 8, 2**31, 2**40, 2**63, 1.5, float("inf"), "", "8", "-8",
    "Gather", "GS", "scatter", "MultiGather", "multiscatter", "UNIFORM", "UNIFORM:", "MS1:8::",
    "MS1:8:2,3:20,", "LAPLACIAN:40:1:2", "1,,2", "٣", "²", "UNIFORM:1e3:1", "UNIFORM:8:1:NR:NR",
    [], [0], [1, 2, 3], [[1]], ["1"], [-1], {}, "x\n|y", "UNIFORM:" + "9" * 5000 + ":1", ":" * 50,
    "," * 50,
]  # fmt: skip
KEYS = [
    "name", "kernel", "kernel-name", "pattern", "pattern-gather", "pattern-scatter", "delta",
    "delta-gather", "delta-scatter", "count", "length", "boundary", "pattern-size", "wrap", "other",
]  # fmt: skip


def torn(rng: random.Random, text: str) -> str:
    """A text with one or two characters that do not belong there."""
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice("0189:,-+. eNRM\n\0٣") + text[place + rng.randrange(2) :]
    return text


def random_entry(rng: random.Random) -> dict[str, Any]:
    entry = {rng.choice(KEYS): rng.choice(SCRAPS) for _ in range(rng.randrange(4))}
    return entry | {"pattern": torn(rng, rng.choice(PATTERNS))} if rng.random() < 0.7 else entry


def test_whatever_a_file_has_it_is_read_or_refused_in_one_line() -> None:
    rng = random.Random(0)
    read, messages = 0, []
    for _ in range(20_000):
        entry = random_entry(rng)
        try:
            configuration = parse_configuration(entry)
        except ValueError as error:
            messages.append(str(error))
            continue
        read += 1
        for pattern in (configuration.gathered, configuration.scattered):
            if pattern is not None:
                assert 0 <= pattern.min() <= pattern.max() <= patterns.MOST_INDEX
        assert configuration.nbytes > 0
        assert run.needed_bytes(configuration) > 0
        assert not set("|\n") & set(configuration.name)
    assert read > 2000
    assert len(messages) > 2000
    assert [m for m in messages if not 0 < len(m) < 300 or "\n" in m] == []


def expected(entry: dict[str, Any]) -> np.ndarray:
    """What Spatter's loops leave, in the plainest words."""
    one = parse_configuration(entry)
    source = np.arange(2000.0)
    rows = range(one.count)
    if one.gathered is not None:
        items = [source[p + one.gather_delta * i] for i in rows for p in one.gathered]
        if one.scattered is None:
            return np.array(items)
    else:
        assert one.scattered is not None
        items = list(source[: one.count * len(one.scattered)])
    assert one.scattered is not None
    places = [p + one.scatter_delta * i for i in rows for p in one.scattered]
    target = np.zeros(run.extent(one.scattered, one.scatter_delta, one.count))
    for place, item in zip(places, items, strict=True):
        target[place] = item
    return target


@pytest.mark.parametrize(
    "entry",
    [
        {"pattern": "UNIFORM:8:4", "count": 5},
        {"pattern": "UNIFORM:8:4:NR", "count": 5},
        {"pattern": "MS1:8:2,3:20", "delta": 0, "count": 3},
        {"pattern": [5, 0, 2], "delta": 1, "count": 7, "kernel": "Gather"},
        {"pattern": [5, 0, 5], "delta": 2, "count": 7, "kernel": "Scatter"},
        {"pattern": [9, 7, 8], "pattern-gather": [2, 0], "kernel": "MultiGather", "count": 4},
        {"pattern": [9, 7, 8], "pattern-scatter": [2, 0], "kernel": "MultiScatter", "count": 4},
        {"pattern-gather": "1,2", "pattern-scatter": "0,3", "delta-gather": 3, "delta-scatter": 1,
         "kernel": "GS", "count": 6},
        {"pattern": [50, 3, 7, 1], "boundary": 8, "pattern-size": 3, "length": 2},
    ],
)  # fmt: skip
def test_calls_move_what_spatter_moves(entry: dict[str, Any]) -> None:
    configuration = parse_configuration(entry)
    for name, call in run.calls_of(configuration).items():
        assert np.array_equal(np.ravel(call()), expected(entry)), name


def test_patterns_of_patterns_are_put_together_and_cut() -> None:
    entry = {"pattern": [9, 7, 8], "kernel": "MultiGather", "pattern-gather": [2, 0]}
    one = parse_configuration(entry)
    assert (one.gathered.tolist(), one.scattered) == ([8, 9], None)
    entry = {"pattern": [9, 7, 8], "kernel": "MultiScatter", "pattern-scatter": [1]}
    one = parse_configuration(entry)
    assert (one.gathered, one.scattered.tolist()) == (None, [7])
    one = parse_configuration({"pattern": [50, 3, 7, 1], "boundary": 8, "pattern-size": 3})
    assert one.gathered.tolist() == [2, 3, 7]


def test_bytes_are_those_that_spatter_counts() -> None:
    both = parse_configuration(
        {"kernel": "sg", "pattern-gather": "1,2", "pattern-scatter": "0,3", "count": 10}
    )
    assert both.nbytes == 8 * 4 * 10
    assert parse_configuration({"pattern": "UNIFORM:8:4", "count": 10}).nbytes == 8 * 8 * 10
    assert parse_configuration({"pattern": "UNIFORM:8:4:NR"}).gather_delta == 32
    assert parse_configuration({"pattern": "LAPLACIAN:1:1:9"}).gather_delta == 1
    assert parse_configuration({"pattern": "1", "delta": -1}).gather_delta == 8
    assert parse_configuration({"pattern": "1"}).count == 1024


def test_what_needs_more_memory_than_there_is_is_refused(tmp_path: Path, command: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"pattern": "UNIFORM:8:128:NR", "count": 1000000000}]')
    done = command("bench", "--spatter", path)
    assert done.code == 2
    assert "configuration 0 (UNIFORM:8:128:NR) needs" in done.err
    assert done.err.count("\n") == 1


def test_the_files_that_are_shipped() -> None:
    files = spatter.shipped_files()
    assert set(files) == {"uniform", "mostly-stride-1", "random"}
    strides = [1, 2, 4, 8, 16, 32, 64, 128]
    uniform = spatter.load_spatter("uniform")
    assert [c.name for c in uniform] == [f"UNIFORM:8:{s}:NR" for s in strides] * 2
    for name in files:
        kernels = [c.kernel for c in spatter.load_spatter(name)]
        half = len(kernels) // 2
        assert kernels == ["gather"] * half + ["scatter"] * half
        assert all(run.needed_bytes(c) < 1 << 30 for c in spatter.load_spatter(name))


def test_the_command(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "bandwidth", lambda rounds: 1e10)
    path, out = tmp_path / "x.json", tmp_path / "out.json"
    path.write_text('[{"pattern": [1, 0], "count": 3}, {"pattern": "0", "kernel": "Scatter"}]')
    done = command("bench", "--spatter", path, "--quick", "--threads", 1, "--json", out)
    assert done.code == 0, done.err
    assert "| gather | 2 offsets | 3 |" in done.out
    assert "| scatter | 0 | 1,024 |" in done.out
    names = [set(one["seconds"]) for one in json.loads(out.read_text())["spatter"]]
    assert names == [{run.WRITTEN_OUT, run.EXPANDED, run.COPY}, {run.WRITTEN_OUT, run.COPY}]
    assert command("bench", "--spatter", path, "--surface").code == 2
    assert "--png draws ratios" in command("bench", "--spatter", path, "--png", out).err
