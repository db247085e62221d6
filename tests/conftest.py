"""What many tests share: backends that can run here, the command line, tests run on request."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

import pytest

import nbgather
from nbgather.apps import cli
from nbgather.kernels import split

#: ``cuda`` serves a device's arrays alone, and has tests of its own.
BACKENDS = sorted(set(nbgather.backends.BACKENDS) - {"cuda"})


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend's name in turn; one that cannot run here is skipped with its reason."""
    reason = nbgather.backends.available()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    return str(request.param)


@pytest.fixture(autouse=True, scope="session")
def small_parts() -> None:
    """Calls of little work are split: thousands of cases for what runs over several threads."""
    split.AWAKE_MIN_BYTES, split.WOKEN_MIN_BYTES, split.PART_MIN_BYTES = 1 << 17, 1 << 18, 1 << 15


@pytest.fixture(autouse=True, scope="module")
def what_is_loaded_is_not_searched() -> None:
    """Collections look at what a module of tests made, and not again at all that came before.

    Libraries, tests and compiled code are millions of objects that stay: a collection over them
    takes two seconds, and some tests ask for one each.
    """
    gc.collect()
    gc.freeze()


class Finished(NamedTuple):
    """What a command leaves: its exit status, and what it wrote to either stream."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Runs ``nbgather ARGUMENTS`` as its script would, in this process."""

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["nbgather", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:  # the interpreter ends so
            traceback.print_exc()
            code = 1
        return Finished(code, *capfd.readouterr())

    return run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-large", action="store_true", help="run the tests marked large as well")


def _runs_large(config: pytest.Config) -> bool:
    # The environment reaches the tests through scripts/test and its arguments alike.
    return config.getoption("--run-large") or os.environ.get("NBGATHER_RUN_LARGE", "0") != "0"


def pytest_report_header(config: pytest.Config) -> str:
    if _runs_large(config):
        return "tests marked large: run"
    return (
        "tests marked large: left out, for they take gigabytes or compile every combination"
        " (--run-large or NBGATHER_RUN_LARGE=1 runs them)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _runs_large(config):
        return
    large = [item for item in items if item.get_closest_marker("large")]
    if large:
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if not item.get_closest_marker("large")]
