"""The benchmark's own arithmetic, on a clock of the test's making, and its report."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from script_modules import script_module

from nbgather.apps import bench
from nbgather.apps.bench import kinds, machine, measure, report
from nbgather.apps.bench.contest import COPY, NARROW, Contest, Row
from nbgather.apps.bench.rows import select_rows

ROOT = Path(__file__).resolve().parents[1]


def script() -> ModuleType:
    return script_module("bench")


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def work(self, name: str, *seconds: float):
        taken = iter(seconds)

        def call() -> None:
            self.order += name
            self.now += next(taken)

        return call


def test_turns_alternate_and_the_shortest_and_middle_are_kept() -> None:
    clock = Clock()
    times = bench.interleave(
        {"a": clock.work("a", 99, 5, 99, 1, 99, 3), "b": clock.work("b", 99, 2, 99, 2, 99, 8)},
        3,
        clock=lambda: clock.now,
        rest=lambda seconds: None,
    )
    assert clock.order == "aabb" + "bbaa" + "aabb"  # the first call of a turn is not timed
    assert times == {"a": (1, 3, 5), "b": (2, 2, 8)}


def test_a_turn_warms_up_for_some_time() -> None:
    clock, half = Clock(), measure.WARM_SECONDS / 2
    call = clock.work("a", half * 0.9, half * 0.9, half * 0.9, 7)
    times = bench.interleave({"a": call}, 1, clock=lambda: clock.now, rest=lambda seconds: None)
    assert times["a"] == (pytest.approx(7),) * 3  # clock readings are subtracted


def test_short_calls_are_timed_in_batches() -> None:
    clock = Clock()
    call = clock.work("a", *([7] + [0.5] * 10) * 2)
    times = bench.interleave(
        {"a": call}, 2, batch=10, clock=lambda: clock.now, rest=lambda seconds: None
    )
    assert times["a"] == (0.5, 0.5, 0.5)


def row_of(ours, peer, **options) -> Row:
    return Row("r", "gather", "about", lambda: Contest(ours, {"peer": peer}, 100, **options))


def test_a_contestant_with_other_bytes_is_refused() -> None:
    zeros = np.zeros(3, np.float32)
    (result,) = bench.run_rows([row_of(lambda: zeros, lambda: zeros)], 1, 1e9)
    assert result["floor"] == 1e-7
    for wrong in (zeros + 1, zeros[:2], zeros.astype(np.float64)):
        with pytest.raises(RuntimeError, match="r: peer gives another result"):
            list(bench.run_rows([row_of(lambda: zeros, lambda w=wrong: w)], 1, 1e9))
    row = row_of(lambda: zeros, lambda: zeros, into=lambda: zeros + 1)
    with pytest.raises(RuntimeError, match="nbgather out= gives another"):
        list(bench.run_rows([row], 1, 1e9))
    row = row_of(lambda: zeros, lambda: zeros, narrow={"x": lambda: zeros + 1})
    with pytest.raises(RuntimeError, match="x gives another"):
        list(bench.run_rows([row], 1, 1e9))


def measured(ours: float, **peers: float) -> dict:
    seconds = {"nbgather": ours} | {k.replace("_out", " out="): v for k, v in peers.items()}
    return {
        "name": "r",
        "group": "gather",
        "about": "x",
        "bytes": 8,
        "floor": 0.5,
        "seconds": {k: {"min": v, "median": v} for k, v in seconds.items()},
        "targets": {"best": 2.0, "into": 1.0, "torch": 4.0, "copy": 1.3},
    }


def test_ratios_and_targets() -> None:
    row = measured(1.0, torch=4.0, jax=3.0, torch_out=2.0, nbgather_out=0.5)
    row["seconds"][COPY] = {"min": 0.5, "median": 0.5}
    assert report.best_peer(row) == ("jax", 3.0)
    assert report.best_peer(row, into=True) == ("torch out=", 2.0)
    assert report.ratio(row) == 3.0
    assert report.ratio(row, into=True) == 4.0
    assert report.reached(row) == {
        "best": (3.0, 2.0, True),
        "into": (4.0, 1.0, True),
        "torch": (4.0, 4.0, True),
        "copy": (2.0, 1.3, False),
    }
    assert report.geometric_mean([measured(1, torch=2), measured(1, torch=8)]) == pytest.approx(4)


def test_the_table_tells_what_was_not_reached() -> None:
    text = bench.markdown({"facts": {"CPU": "x"}, "rows": [measured(1.0, torch=3.0, jax=1.5)]})
    assert "jax 1500.00 ms | 1.50 |" in text
    assert "≥ 2: **no, 1.50**" in text
    assert "torch ≥ 4: **no, 3.00**" in text


def test_one_in_ten_turns_is_left_out_of_the_slow_one() -> None:
    turns = [float(k) for k in range(1, 12)]
    assert measure._timing(turns) == (1, 6, 10)
    assert measure._timing([2.0]) == (2, 2, 2)


def test_who_has_half_the_index_is_no_peer() -> None:
    row = measured(1.0, torch=4.0)
    assert report.narrow_ratio(row) is None
    for name, seconds in (("jax", 3.0), ("nbgather", 2.0)):
        row["seconds"][f"{name}{NARROW}"] = {"min": seconds}
    assert report.best_peer(row) == ("torch", 4.0)
    assert report.narrow_ratio(row) == 1.5
    assert "| 1.50 |" in bench.markdown({"facts": {}, "rows": [row]})


def test_the_kind_of_a_cpu_is_a_name_for_files() -> None:
    zen = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
    assert machine.cpu_kind(f"{zen}\nvendor_id\t: GenuineIntel\n") == "amd-25-17"
    assert machine.cpu_kind("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n") == "arm-0x41-0xd40"
    assert machine.cpu_kind("vendor_id : Some/One\n") == "some_one"
    assert machine.cpu_kind("")


def test_each_kind_has_a_column_and_old_files_lack_rows(tmp_path: Path) -> None:
    old, new = measured(1.0, torch=4.0, jax=2.0), measured(1.0, torch=3.0)
    new["seconds"][f"jax{NARROW}"] = {"min": 2.0}
    runs = {"old": [old], "new": [new | {"name": "s"}, new]}
    for name, rows in runs.items():
        text = json.dumps({"facts": {"CPU": f"An(R) {name} CPU", "kind": name}, "rows": rows})
        (tmp_path / f"{name}.json").write_text(text)
    loaded = kinds.load_kinds(tmp_path)
    assert [kind.title for kind in loaded] == ["An new (new)", "An old (old)"]
    lines = kinds.kinds_markdown(loaded).splitlines()
    assert lines[0] == "|  | rows | An new (new): mean, least | An old (old): mean, least |"
    assert lines[2] == "| gather | 2 | **3.00**, 3.00 (s) | **2.00**, 2.00 (r) |"
    assert lines[4:8] == [
        "<details>",
        "<summary>Each of the 2 rows</summary>",
        "",
        "|  |  | An new (new) | An old (old) |",
    ]
    assert lines[9:11] == [
        "| s | x | **3.00** torch |  |",
        "| r | x | **3.00** torch | **2.00** jax |",
    ]
    assert lines[12::2] == ["On An old (old) JAX's index was int32 in every row.", "</details>"]
    assert kinds.surface_markdown(loaded) == ""
    assert bench.picture({kind.title: kind.rows for kind in loaded}).startswith(b"\x89PNG")


def test_the_readme_is_of_the_results(tmp_path: Path) -> None:
    assert script().main(["--check"]) == 0, "scripts/bench.py --update-readme"
    copied = tmp_path / "README.md"
    copied.write_bytes((ROOT / "README.md").read_bytes())
    tables = {"bench": "other", "dask": "tables"}
    assert not bench.check_tables(copied, tables)
    bench.update_tables(copied, tables)
    assert bench.check_tables(copied, tables)
    copied.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        bench.update_tables(copied, tables)


def test_the_script_from_rows_to_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbgather.apps.bench.run.bandwidth", lambda rounds: 1e10)
    path = tmp_path / "results.json"
    assert script().main(["--rows", "tiny, NumPy", "--rounds", "1", "--json", str(path)]) == 0
    first = capsys.readouterr().out
    assert "| tiny, NumPy |" in first
    assert script().main(["--from-json", str(path)]) == 0
    assert capsys.readouterr().out == first
    assert script().main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(bench.ROWS)
    with pytest.raises(SystemExit, match="no row matches 'none'"):
        script().main(["--rows", "none"])


def test_rows_are_chosen_by_name_and_group() -> None:
    assert {row.group for row in select_rows("masking")} == {"masking"}
    assert [row.name for row in select_rows("DeBERTa")] == ["DeBERTa"]
    assert len({row.name for row in bench.ROWS}) == len(select_rows(None))
