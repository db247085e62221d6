"""What many tests share: the backends that can run here, and the command line in this process."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

import pytest

import nbgather
from nbgather.apps import cli

#: ``cuda`` serves a device's arrays alone, and has tests of its own.
BACKENDS = sorted(set(nbgather.backends.BACKENDS) - {"cuda"})


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend's name in turn; one that cannot run here is skipped with its reason."""
    reason = nbgather.backends.available()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    return str(request.param)


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
