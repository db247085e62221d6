"""Arrays that lie: about their memory, from one look to the next, or that give it away meanwhile.

What such an array is worth is not decided here. A call may refuse it in one error, or compute
with what it said at one time; it may not write where nobody allowed it, nor end the process by
itself. An address that is made up is beyond help: whoever reads it dies of it, NumPy and torch too.
So what lies here lies about shapes, strides, dtypes and lengths, and its memory is there.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import nbgather

BASE = np.arange(4096, dtype="f4")
#: What a call may refuse by; ImportError says that there is no GPU here.
ALLOWED = IndexError, TypeError, ValueError, MemoryError, ImportError
#: What a liar may raise itself.
OWN_ERRORS = {"raising subclass": RuntimeError}


class Interface:
    """It has `__array_interface__` alone, and says something else at each look."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self._said = itertools.cycle(said)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return next(self._said)


class CudaInterface(Interface):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return next(self._said)


class Dlpack:
    """It has `__dlpack__` alone: of another array each time, or of none."""

    def __init__(self, *arrays: Any) -> None:
        self._arrays = itertools.cycle(arrays)

    def __dlpack__(self, **options: Any) -> Any:
        array = next(self._arrays)
        return array if array is None else array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Changing(np.ndarray):
    """A subclass whose attributes are others at each look."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        object.__setattr__(self, "_looks", getattr(self, "_looks", 0) + 1)
        return (4, 8) if self._looks % 2 else (1 << 20, 8)


class Raising(np.ndarray):
    def __array_finalize__(self, base: Any) -> None:
        if base is not None and getattr(base, "armed", False):
            raise RuntimeError("no view of this")

    def __array_function__(self, *arguments: Any) -> Any:
        raise RuntimeError("no function of this")


def interface(**changes: Any) -> dict[str, Any]:
    said = {"version": 3, "shape": (4, 8), "typestr": "<f4", "data": (BASE.ctypes.data, False)}
    return {**said, **changes}


def liars() -> dict[str, Any]:
    raising = BASE[:32].reshape(4, 8).view(Raising)
    raising.armed = True
    honest = BASE[:32].reshape(4, 8)
    return {
        "interface": Interface(interface()),
        "growing interface": Interface(interface(), interface(shape=(16, 8))),
        "negative shape": Interface(interface(shape=(-4, 8))),
        "huge shape": Interface(interface(shape=(1 << 62, 1 << 62))),
        "no data": Interface(interface(data=None)),
        "wrong typestr": Interface(interface(typestr="<q9")),
        "objects": Interface(interface(typestr="|O8")),
        "strides that are too many": Interface(interface(strides=(4, 4, 4))),
        "an interface of no dict": Interface(7),  # type: ignore[arg-type]
        "CUDA interface": CudaInterface(interface()),
        "CUDA interface without data": CudaInterface(interface(data=(0, False))),
        "CUDA interface of no dict": CudaInterface(None),  # type: ignore[arg-type]
        "growing CUDA interface": CudaInterface(interface(), interface(shape=(1 << 40, 8))),
        "dlpack": Dlpack(honest),
        "dlpack of changing shape": Dlpack(honest, BASE.reshape(64, 64)),
        "dlpack of nothing": Dlpack(None),
        "changing subclass": honest.view(Changing),
        "raising subclass": raising,
    }


def calls(liar: Any) -> list[tuple[str, Callable[[], Any]]]:
    x, index = BASE[:32].reshape(4, 8).copy(), np.zeros((4, 3), "i8")
    return [
        ("gather input", lambda: nbgather.gather(liar, 1, index)),
        ("gather index", lambda: nbgather.gather(x, 1, liar)),
        ("gather out", lambda: nbgather.gather(x, 1, index, out=liar)),
        ("take_along_axis", lambda: nbgather.take_along_axis(liar, index, 1)),
        ("gather_tokens ids", lambda: nbgather.gather_tokens(x, liar)),
        ("scatter input", lambda: nbgather.scatter(liar, 1, index, x)),
        ("scatter src", lambda: nbgather.scatter(x, 1, index, liar)),
        ("scatter_add", lambda: nbgather.scatter_add(x, 1, index, liar)),
        ("rank_tokens", lambda: nbgather.rank_tokens(liar, 2)),
        ("random_masking", lambda: nbgather.random_masking(liar, 0.5, seed=1)),
        ("random_masking noise", lambda: nbgather.random_masking(x, 0.5, noise=liar)),
        ("restore_tokens", lambda: nbgather.restore_tokens(x[:, :2], liar, x[0, 0])),
        ("token_noise", lambda: nbgather.token_noise(1, liar, 5)),
        ("infer_gather", lambda: nbgather.infer_gather(x, liar)),
    ]


def tried(name: str, call: Callable[[], Any], own: type[Exception] = TypeError) -> str:
    print(name, end=" ", file=sys.stderr, flush=True)  # told if the process dies of it
    before = BASE.tobytes()
    try:
        call()
        outcome = "served"
    except (*ALLOWED, own) as error:
        outcome = type(error).__name__
    assert BASE.tobytes() == before, f"{name}: memory was written that no out= named"
    x, index = np.ones((4, 8), "f4"), np.full((4, 3), 7)
    assert (nbgather.gather(x, 1, index) == 1).all(), f"{name}: the next call is wrong"
    return outcome


def main(seconds: float, seed: int) -> None:
    """Each liar in each place, again and again until the time is over: once at least."""
    until, outcomes = time.monotonic() + seconds, {}
    rounds = 0
    while rounds == 0 or (time.monotonic() < until and rounds < 50):
        for name, liar in liars().items():
            for place, call in calls(liar):
                if place == "gather out" and "subclass" in name:
                    continue  # it may be written to: it says so
                outcome = tried(f"{name} as {place}", call, OWN_ERRORS.get(name, TypeError))
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        rounds += 1
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
