"""The self-test: equal on every backend, different where a kernel is wrong; the digests."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbgather
from nbgather.apps.selftest import inputs, run
from nbgather.kernels.views import reference

ROOT = Path(__file__).parents[1]


@pytest.mark.large  # its eighth, which the others here compute, compiles fewer kernels
def test_every_case_is_equal_on_the_cpu() -> None:
    report = run.run("cpu")
    assert not report.different
    assert not report.refused
    assert sum(report.equal.values()) * run.DIGITS == sum(map(len, run.expected().values()))
    assert min(report.equal.values()) >= 20


@pytest.mark.parametrize("name", ["cpu", "reference", "torch", "onnxruntime"])
def test_an_eighth_of_the_cases_is_equal(name: str) -> None:
    report = run.run(name, quick=True)
    assert not report.different
    assert report.equal
    served = {text.split()[0].strip(",") for text in report.refused}
    scatters = {"scatter", "scatter_add", "scatter_reduce", "segment_reduce", "gather_reduce"}
    assert served <= (scatters if name == "onnxruntime" else set())


@pytest.mark.large
def test_the_digests_are_those_of_the_loops() -> None:
    """All of them; the backend ``reference`` above computes a part."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/selftest_digests.py", "--check"], capture_output=True
    )
    assert done.returncode == 0


def wrong_bit(function: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*operands: Any, **options: Any) -> Any:
        result = function(*operands, **options)
        first = result[0] if isinstance(result, tuple) else result
        if first.size:
            first.reshape(-1).view(np.uint8)[-1] ^= 1
        return result

    return changed


@pytest.mark.parametrize("name", ["gather", "scatter_add", "rank_tokens", "restore_tokens"])
def test_one_wrong_bit_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.setattr(nbgather, name, wrong_bit(getattr(nbgather, name)))
    done = command("selftest", "--quick")
    assert done.code == 1
    assert f"NOT EQUAL, the first: {name} " in done.out
    report = json.loads(command("selftest", "--quick", "--json").out)
    assert any(text.startswith(f"{name} ") for text in report["different"])


def test_what_is_wrong_when_repeated_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third call of its kind is made in another way."""
    seen: collections.Counter[bytes] = collections.Counter()
    right, wrong = nbgather.token_noise, wrong_bit(nbgather.token_noise)

    def noise(*operands: Any, **options: Any) -> Any:
        seen[repr((operands, options)).encode()] += 1
        return (wrong if max(seen.values()) > 2 else right)(*operands, **options)

    monkeypatch.setattr(nbgather, "token_noise", noise)
    monkeypatch.setattr(run, "GROUPS", {"token_noise": run.GROUPS["token_noise"]})
    report = run.run("cpu", quick=True)
    assert report.different


def test_another_text_of_an_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(*operands: Any, **options: Any) -> Any:
        raise IndexError("index out of range")

    monkeypatch.setattr(nbgather, "gather", gather)
    different = run.run("cpu", quick=True).different
    assert different["gather, index -1"] == "IndexError: index out of range"


def test_the_command_says_what_it_compared(command: Callable[..., Any]) -> None:
    done = command("selftest", "--quick")
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("cpu: all ")
    refused = command("selftest", "--quick", "--backend", "onnxruntime")
    assert refused.code == 0
    assert "not served, the first: scatter" in refused.out
    assert command("selftest", "--backend", "gpu").code == 2


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [((0,), (0,)), ((7,), (8,)), ((2**32,), (0,)), ((2**64 + 5,), (5,))],
)
def test_words_are_philoxs(arguments: tuple[int], changes: tuple[int]) -> None:
    (stream,) = arguments
    words = inputs.words(stream, 10)
    counters = [
        (q, *(stream >> 32 * k & 0xFFFFFFFF for k in range(3))) for q in range(3)
    ]  # fmt: skip
    want = [word for counter in counters for word in reference.philox4x32(counter, (0, 0))]
    assert words.tolist() == want[:10]
    assert arguments == changes or words.tolist() != inputs.words(*changes, 10).tolist()


@pytest.mark.parametrize("layout", inputs.LAYOUTS)
def test_layouts_have_the_same_values(layout: str) -> None:
    array = inputs.bits(3, (4, 6), "int32")
    laid = inputs.laid_out(array, layout)
    want = np.broadcast_to(array[:1], array.shape) if layout == "broadcast" else array
    assert np.array_equal(laid, want)
    assert layout == "C" or not laid.flags.c_contiguous
