"""The README's table of GPUs: of what is kept, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from script_modules import script_module

from nbgather.apps.bench.gpu import gpu_markdown, keep_gpu, load_gpus

ROOT = Path(__file__).resolve().parents[1]


def row(name: str, ours: float | None, **others: float) -> dict[str, object]:
    times = {"nbgather": {"median": ours} if ours else {"error": "CUDA"}}
    times |= {other: {"median": time} for other, time in others.items()}
    ratios = {other: time / ours for other, time in others.items()} if ours else {}
    return {
        "name": name, "microseconds": times, "ratios": ratios | ({"copy": 0.854} if ours else {}),
        "GB/s": 2561.4, "targets": {}, "missed": [],
    }  # fmt: skip


RESULTS = {
    "facts": {
        "device": "NVIDIA H100 80GB HBM3",
        "torch": "2.11.0",
        "copy GB/s, bench gather": 3000.4,
    },
    "rows": [
        row("rows", 100.0, torch=150.0, embedding=130.0, index_select=170.0),
        row("sums", 1234.56, torch=1111.1),
        row("broken", None, torch=1.0),
    ],
}


def test_the_readme_says_what_is_kept() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("<!-- gpu:begin -->\n")[2].partition("\n<!-- gpu:end -->")[0]
    kept = load_gpus(script_module("bench").GPUS)
    assert table == gpu_markdown(kept)
    if not kept:
        assert table == "not measured"


def test_a_run_becomes_a_table(tmp_path: Path) -> None:
    (tmp_path / "gpu_check.json").write_text(json.dumps(RESULTS))
    path = keep_gpu(tmp_path / "gpu_check.json", tmp_path / "gpu")
    assert path == tmp_path / "gpu" / "nvidia-h100-80gb-hbm3.json"
    lines = gpu_markdown(load_gpus(tmp_path / "gpu")).splitlines()
    assert lines[0].startswith(
        "NVIDIA H100 80GB HBM3, torch 2.11.0; its own copy moves 3,000 GB/s."
    )
    assert lines[4:] == [
        "| rows | 100.0 | 2,561 | 85 % | 1.50 |  | embedding 1.30 |",
        "| sums | 1,234.6 | 2,561 | 85 % | 0.90 |  |  |",
        "| broken | failed |  |  |  |  |  |",
    ]
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_a_dry_run_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "gpu_check.json"
    path.write_text(json.dumps(RESULTS | {"facts": {"device": "simulated"}}))
    with pytest.raises(ValueError, match="has no times of a GPU: its device is 'simulated'"):
        keep_gpu(path, tmp_path / "gpu")
    assert load_gpus(tmp_path / "gpu") == []
