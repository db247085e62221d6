"""Random calls: the same for the same numbers, compared before they are timed, and their report."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbgather.apps.bench import kinds, surface
from nbgather.apps.bench.operands import with_64_bits
from nbgather.apps.bench.surface import bounds, draws, functions, race, run, summary
from nbgather.apps.bench.surface.case import Case, Traffic

#: Who must take part in the first cases of each function, besides NumPy and torch.
PEERS = {"gather": {"onnxruntime", "jax"}, "scatter_add": {"onnxruntime", "jax"}}


def first_cases(function: str, count: int) -> list[Case]:
    return [functions.FUNCTIONS[function](draws.generator_of(5, function, k)) for k in range(count)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases that take no time."""
    monkeypatch.setattr("nbgather.apps.bench.surface.token_cases.MOST_ITEMS", 20_000)
    monkeypatch.setattr("nbgather.apps.bench.surface.patch_cases.MOST_ITEMS", 20_000)
    monkeypatch.setattr("nbgather.apps.bench.surface.scatter_cases.MOST_ITEMS", 20_000)
    monkeypatch.setattr("nbgather.apps.bench.surface.gather_cases.MOST_ITEMS", 20_000)
    cut = draws.log_uniform
    monkeypatch.setattr(
        "nbgather.apps.bench.surface.gather_cases.log_uniform",
        lambda rng, low, high: cut(rng, low, min(high, 20_000)),
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("function", functions.FUNCTIONS)
def test_peers_do_the_same_and_nobody_is_left_out(function: str) -> None:
    pytest.importorskip("torch")
    names: set[str] = set()
    with with_64_bits():
        for case in first_cases(function, 6):
            assert run._compare(function, case, case.peers) == {}, case.text
            assert {"numpy", "torch"} <= set(case.ours)
            names |= {name.partition(" out=")[0].partition(",")[0] for name in case.peers}
    wanted = {"numpy", "torch"} | {
        n for n in PEERS.get(function, ()) if importlib.util.find_spec(n)
    }
    assert wanted <= names


@pytest.mark.usefixtures("small")
def test_a_peer_that_does_other_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    take = np.take_along_axis
    monkeypatch.setattr(np, "take_along_axis", lambda x, i, d: take(x, i[..., ::-1].copy(), d))
    case = first_cases("gather", 1)[0]
    with pytest.raises(RuntimeError, match=r"gather .*: numpy gives another result"):
        run._compare("gather", case, case.peers)


def case_of(ours: Any, **peers: Any) -> Case:
    calls = {name: (lambda value=value: value) for name, value in peers.items()}
    return Case("text", 1, Traffic(0, 0, 0, 0, 0), {"numpy": lambda: ours}, calls)


def test_how_results_are_compared() -> None:
    zeros = np.zeros(3, np.float32)
    for wrong in (zeros + 1, zeros[:2], zeros.astype(np.float64), (zeros, zeros)):
        with pytest.raises(RuntimeError, match=r"x \(text\): peer gives another"):
            run._compare("x", case_of(zeros, peer=wrong), case_of(zeros, peer=wrong).peers)
    close = case_of(zeros, peer=zeros + 1e-7)
    close.exact = "close"
    assert run._compare("x", close, close.peers) == {}
    other = case_of(zeros, peer=zeros + 1)
    other.exact = "shape"
    assert run._compare("x", other, other.peers) == {}
    other.ours["torch"] = lambda: zeros + 1
    with pytest.raises(RuntimeError, match="torch differs from numpy"):
        run._compare("x", other, {})

    def refuse() -> None:
        raise NotImplementedError("no\nsuch dtype")

    assert run._compare("x", case_of(zeros), {"peer": refuse}) == {"peer": "no such dtype"}


def test_the_same_numbers_draw_the_same_cases() -> None:
    texts = [case.text for case in first_cases("gather_tokens", 3)]
    assert texts == [case.text for case in first_cases("gather_tokens", 4)[:3]]
    assert len(set(texts)) == 3
    one, other = (draws.generator_of(seed, "gather", 0).random() for seed in (0, 1))
    assert one != other


def test_indices_are_in_their_order() -> None:
    rng = np.random.default_rng(0)
    index = {
        order: draws.indices(rng, (4, 50, 3), 1, 60, order, "int32")
        for order in ("random", "sorted", "argsort", "few")
    }
    for order, values in index.items():
        assert values.dtype == np.int32
        assert values.flags.c_contiguous
        assert 0 <= values.min() <= values.max() < 60, order
    assert (np.diff(index["sorted"], axis=1) >= 0).all()
    assert all(
        len(set(line)) == 50 for line in np.moveaxis(index["argsort"], 1, -1).reshape(-1, 50)
    )
    assert len(np.unique(index["few"])) <= draws.FEW_PLACES
    assert draws.indices(rng, (70,), 0, 60, "argsort", "int64").shape == (70,)


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, ""

    def work(self, name: str, seconds: float):
        def call() -> None:
            self.calls += name
            self.now += seconds

        return call


def test_a_race_leaves_the_hopeless_behind_but_never_us() -> None:
    clock = Clock()
    calls = {
        "nbgather numpy": clock.work("n", 0.5), "fast": clock.work("f", 0.05),
        "slow": clock.work("s", 0.3),
    }  # fmt: skip
    rests: list[float] = []
    best = race.race(calls, 5.0, clock=lambda: clock.now, rest=rests.append)
    assert best == {name: pytest.approx(t) for name, t in zip(calls, (0.5, 0.05, 0.3), strict=True)}
    assert clock.calls.count("s") == 1
    assert clock.calls.count("n") > 4
    assert rests
    assert set(rests) == {race.REST_SECONDS}
    few = Clock()
    race.race({"a": few.work("a", 9.0)}, 0.0, clock=lambda: few.now, rest=rests.append)
    assert len(few.calls) == race.TRIES + 2 * 2  # two turns at least, each with a call before it


def test_short_calls_are_timed_many_at_a_time() -> None:
    clock = Clock()
    best = race.race({"a": clock.work("a", 1e-6)}, 0.0, clock=lambda: clock.now)
    assert best["a"] == pytest.approx(1e-6)
    assert len(clock.calls) > 3 * race.TURN_SECONDS / 1e-6 / 2


def measured(function: str = "gather", **seconds: float) -> dict[str, Any]:
    names = {name.replace("_out", " out=").replace("ours_", "nbgather "): t
             for name, t in seconds.items()}  # fmt: skip
    return {
        "function": function, "number": 0, "text": "x", "row": 8,
        "bytes": {"index": 80, "source": 40, "result": 40}, "loads": 10, "spread": 100,
        "seconds": names, "refused": {},
    }  # fmt: skip


def results_of(*cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "facts": {"CPU": "a CPU", "kind": "a-kind"}, "copy": 1e10, "threads": 2, "count": 1,
        "seed": 7, "cases": list(cases),
    }  # fmt: skip


def test_calls_have_the_best_peer_of_their_kind() -> None:
    case = measured(ours_numpy=4e-6, ours_numpy_out=2e-6, numpy=8e-6, torch=6e-6, torch_out=5e-6)
    fresh, into = summary.calls_of_results(results_of(case))
    assert (fresh.peer, fresh.ratio, fresh.small) == ("torch", pytest.approx(1.5), False)
    assert (into.peer, into.ratio, into.small) == ("torch out=", pytest.approx(2.5), True)
    assert fresh.against("torch") == pytest.approx(1.5)
    assert into.against("torch") == pytest.approx(2.5)
    assert fresh.against("numpy") == pytest.approx(2.0)
    assert fresh.against("jax") is None


def test_the_report_counts_classes_and_lists_the_worst() -> None:
    cases = [
        measured(ours_numpy=8e-6, numpy=4e-6), measured(ours_numpy=8e-6, numpy=8e-6),
        measured(ours_numpy=2e-6, numpy=1e-6), measured("strategies", ours_numpy=5e-6),
    ]  # fmt: skip
    text = surface.surface_text(results_of(*cases))
    lines = text.splitlines()
    assert "1 random cases of each function, seed 7" in lines[0]
    (small,) = (line for line in lines if line.startswith("| gather | under"))
    assert small.startswith("| gather | under 3 µs | 1 | **0.50** | 100 % | 100 % | 0.50 |")
    (long,) = (line for line in lines if line.startswith("| gather | 3 µs"))
    assert long.startswith("| gather | 3 µs and more | 2 | **0.71** | 50 % | 50 % | 0.71 |")
    (none,) = (line for line in lines if line.startswith("| strategies"))
    assert none.startswith("| strategies | 3 µs and more | 1 |  |  |  |")
    worst = lines[lines.index("Worst of gather, 3 µs and more:") + 2 :]
    assert worst[0] == "- 0.50 numpy: x: 8.0 µs, numpy 4.0 µs; call 25 %"
    assert "Worst of strategies" not in text
    assert len(surface.surface_text(results_of(*cases), worst=1).splitlines()) == len(lines) - 1


def test_what_bounds_a_call() -> None:
    big = {"bytes": {"index": 8e8, "source": 1e8, "result": 1e8}, "loads": 10, "spread": 1e9}
    assert bounds.bound_of(big, 1.0, 1e-6, 1e9, 2) == "index bytes 80 %"
    assert bounds.bound_of({**big, "loads": 1e9}, 4.0, 1e-6, 1e9, 2).startswith("loads")
    stores = {"bytes": {"index": 0, "source": 1, "result": 1e9}, "loads": 10, "spread": 1e9}
    assert bounds.bound_of(stores, 4.0, 1e-6, 1e9, 2) == "stores 25 %"


def test_means_and_shares_of_nothing() -> None:
    assert summary.geometric_mean([2, 8]) == pytest.approx(4)
    assert math.isnan(summary.geometric_mean([]))
    assert math.isnan(summary.share_below([], 1))
    assert summary.share_below([0.5, 0.9, 1], 0.9) == pytest.approx(1 / 3)


def test_a_run_is_kept_drawn_and_shown_for_each_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "bandwidth", lambda rounds: 1e10)
    results = surface.run_surface(2, 3, ["token_noise"], threads=1, seconds=0.01, without=["torch"])
    assert {name for case in results["cases"] for name in case["seconds"]} == {
        "nbgather numpy", "nbgather torch", "numpy"
    }  # fmt: skip
    path = tmp_path / "a-kind.surface.json"
    path.write_bytes(surface.surface_json(results))
    kept = json.loads(path.read_text())
    assert len(path.read_text().splitlines()) < 20
    ours = [case["seconds"]["nbgather numpy"] for case in (kept["cases"][0], results["cases"][0])]
    assert ours[0] == pytest.approx(ours[1], rel=1e-3)
    assert surface.surface_map(kept).startswith(b"\x89PNG")
    loaded = kinds.load_kinds(tmp_path)
    table = kinds.surface_markdown(loaded)
    assert table.splitlines()[0].startswith(f"| function | {loaded[0].title}, 3 µs and more |")
    assert table.splitlines()[2].startswith("| token_noise | ")
    assert kinds.kinds_markdown(loaded).startswith("|  | rows |\n| --- | --- |\n\n<details>")
    assert "(maps/a-kind.png)" in kinds.surface_document(loaded, "maps/{kind}.png", 2)


def test_functions_are_chosen_by_name() -> None:
    assert surface.select_functions(None) == list(functions.FUNCTIONS)
    assert surface.select_functions("scatter, gather") == ["gather", "scatter"]
    with pytest.raises(ValueError, match="'gathr' is no function of the surface: gather, take"):
        surface.select_functions("gathr")
