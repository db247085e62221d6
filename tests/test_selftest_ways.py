"""The self-test in other ways: threads, processes, lesser processors, byte order, no compiler."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from nbgather.apps.selftest import ahead, run
from nbgather.kernels.cpu import limits, loader

#: Inputs of the other byte order that are refused, by group, as README says: numbers that are
#: computed with. The errors' texts name the dtype that came.
REFUSED = "scatter_reduce", "segment_reduce", "gather_reduce", "errors"


def different() -> dict[str, str]:
    return run.run("cpu", quick=True).different


def _tell(queue: Any) -> None:
    queue.put(different())


@pytest.mark.parametrize("threads", [1, 8])
def test_threads(threads: int) -> None:
    with limits.limit_threads(threads):
        assert not different()


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_processes(way: str) -> None:
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {way}")
    context = multiprocessing.get_context(way)
    queue = context.Queue()
    process = context.Process(target=_tell, args=(queue,))
    process.start()
    assert queue.get(timeout=120) == {}
    process.join()
    assert process.exitcode == 0


def other_order(array: Any) -> Any:
    """Numbers in the other byte order; anything else as it is."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufcmM":
        return array
    return array.astype(array.dtype.newbyteorder("S"))


def test_inputs_of_the_other_byte_order() -> None:
    known, equal = run.expected(), 0
    for group, number, case in run.chosen(quick=True):
        result = run.outcome(case, other_order, {})
        if isinstance(result, Exception):
            # Words of an error are those of the dtype that came; a refusal is no other error.
            assert group in REFUSED, (case.text, result)
            continue
        native = tuple(a.astype(a.dtype.newbyteorder("=")) for a in run._arrays(result))
        want = known[group][number * run.DIGITS : (number + 1) * run.DIGITS]
        assert run.digest(native) == want, case.text
        equal += 1
    assert equal > 100


def environment(**settings: str) -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "NBGATHER_"))},
        **settings,
    }


CASES = """
import json, sys
from nbgather.apps.selftest import run
known, different = run.expected(), []
for group, number, case in run.chosen(quick=False):
    if group in sys.argv[1:] and number % 97 == 0:
        want = known[group][number * run.DIGITS : (number + 1) * run.DIGITS]
        if run.digest(run.outcome(case, lambda array: array, {})) != want:
            different.append(case.text)
print(json.dumps(different))
"""


#: What is compiled in seconds; `.ci/weekly` runs the whole self-test for each processor.
SOON = ("gather", "token_noise", "rank_tokens", "restore_tokens")


@pytest.mark.parametrize(
    "name, groups",
    [
        ("generic", SOON),
        *(
            pytest.param(name, tuple(run.GROUPS), marks=pytest.mark.large)
            for name in ("generic", "haswell", "znver3", "skylake-avx512")
        ),
    ],
)
def test_kernels_compiled_for_another_processor(name: str, groups: tuple[str, ...]) -> None:
    if name == "skylake-avx512" and not loader.has_features(("avx512f",)):
        pytest.skip("this processor has no AVX-512")
    done = subprocess.run(
        [sys.executable, "-c", CASES, *(group for group in groups if group != "errors")],
        env=environment(NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=""),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == []


def test_without_a_compiler_there_is_one_clear_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nbgather", "selftest", "--quick"],
        env=environment(NUMBA_DISABLE_JIT="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert "NUMBA_DISABLE_JIT is set" in done.stderr
    assert "backend='reference'" in done.stderr or "--backend reference" in done.stderr


def test_a_second_process_computes_from_the_last_case_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with ahead.second_process() as process:
        assert process is not None
        assert process.poll() is None
    assert process.returncode is not None
    monkeypatch.setattr(sys, "executable", "")
    with ahead.second_process() as process:
        assert process is None
    computed: list[str] = []
    monkeypatch.setattr(ahead, "outcome", lambda case, *_: computed.append(case.text))
    ahead.main()
    assert computed[::-1] == [case.text for _, _, case in run.chosen(quick=False)]
