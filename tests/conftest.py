"""One fixture: every backend that can run here."""

from __future__ import annotations

import pytest

import nbgather

#: ``cuda`` serves a device's arrays alone, and has tests of its own.
BACKENDS = sorted(set(nbgather.backends.BACKENDS) - {"cuda"})


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend's name in turn; one that cannot run here is skipped with its reason."""
    reason = nbgather.backends.available()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    return str(request.param)
