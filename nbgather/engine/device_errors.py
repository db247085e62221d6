"""Bad indices that a GPU's kernels report: raised by the call that waits, or by a later one.

A call of the mode ``raise`` waits for the device and reads what its kernels have reported. One of
the mode ``defer`` does not: the next call on the device, :func:`check` or the end of a block of
:func:`deferred` raises what was reported.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nbgather.engine import backends
from nbgather.engine.bad_index import message, unseen
from nbgather.kernels import forks
from nbgather.kernels.cuda.contexts import Place
from nbgather.kernels.cuda.errors import KIND_BITS, OWN_CALL, Record, Report

#: Where calls were made in a block of this thread, or task, in which none of them waits; None
#: outside of such a block.
_deferring: contextvars.ContextVar[set[Place] | None] = contextvars.ContextVar(
    "deferring", default=None
)
#: Kinds of calls that are told apart; what is said of a bad index of others is less.
MAX_KINDS = 1 << 16


class Kind(NamedTuple):
    """What the message of a call needs besides the report.

    Attributes
    ----------
    name : str
        The operation.
    shape, step : tuple of int, int
        Positions are of these, counted in so many elements.
    index_shape, dtype : tuple of int, str
        Of the index, whose dimensions of 1 may be more of the shape's; and its dtype's code.
    dim, size : int
        The dimension, and the limit that an index must be below.
    what : str
        Of what is no index: ``offsets`` or ``counts`` of segments, whose rows ``size`` are.
    """

    name: str
    shape: tuple[int, ...]
    step: int
    index_shape: tuple[int, ...]
    dtype: str
    dim: int
    size: int
    what: str = ""


#: The kinds of calls that did not wait, for as long as a CUDA graph may replay one of them; the
#: first stands for those beyond what a call's number can tell apart.
_kinds: list[Kind] = [Kind("call", (), 1, (), "i8", 0, 0)]
_numbers: dict[Kind, int] = {}


def kind_of_segments(name: str, by: str, count: int, rows: int, dtype: str) -> Kind:
    """The kind of a call whose segments, or bags, are told by so many offsets or counts."""
    return Kind(name, (count,), 1, (count,), dtype, 0, rows, by)


def _signed(kind: Kind, value: int) -> int:
    return value - (1 << 64) if kind.dtype.startswith("i") and value >= 1 << 63 else value


def _text_of_segments(kind: Kind, report: Report) -> str:
    what, rows, k = kind.what, kind.size, report.position
    total = "N" if kind.name == "segment_reduce" else "the number of ids"
    if k is None or report.value is None:
        return f"some {what} are bad: those of {total} = {rows} are needed"
    value = _signed(kind, report.value)
    if what == "counts" and k == kind.shape[0]:
        return f"counts sum to {value}: {total} = {rows} is needed"
    if not 0 <= value <= rows:
        return f"{what}[{k}] is {value}: it must be between 0 and {total} = {rows}"
    return f"offsets[{k}] is {value}: they must not fall, and go from 0 to {total} = {rows}"


def text(kind: Kind, report: Report) -> str:
    """What is said of a report."""
    if kind.what:
        return _text_of_segments(kind, report)
    if kind is _kinds[0]:
        return "an index was out of bounds"
    if report.position is None or report.value is None:
        return unseen(kind.dim, kind.size)
    position = report.position * kind.step
    if position >= math.prod(kind.shape):  # of another call, which reported meanwhile
        return unseen(kind.dim, kind.size)
    place = np.unravel_index(position, kind.shape) if kind.shape else ()
    of_index = zip(place, kind.index_shape, strict=False)
    where = tuple(0 if n == 1 else int(p) for p, n in of_index)
    return message(_signed(kind, report.value), str(where), kind.dim, kind.size)


@functools.lru_cache(maxsize=4096)
def _number(make: Callable[..., Kind], *known: Any) -> int:
    """The number of a kind, which is made where it has none yet."""
    kind = make(*known)
    with forks.lock:
        number = _numbers.get(kind)
        if number is None and len(_kinds) < MAX_KINDS:
            number = _numbers[kind] = len(_kinds)
            _kinds.append(kind)
    return number or 0


def _give_after_failure(backend: Any, place: Place, record: Record) -> None:
    """Give back the record of a call that failed, once what it had launched before is done."""
    backend.driver.synchronize(place)
    backend.driver.records.give(record)


def run(
    backend: Any,
    place: Place,
    waits: bool,
    launch: Callable[[int, int], Any],
    make: Callable[..., Kind],
    *known: Any,
) -> None:
    """Launch what reports bad indices, and raise the first one if the call ``waits``.

    ``launch`` is given the address of a record and the number of the call; ``make(*known)`` is the
    call's kind, of values that can be hashed.
    """
    records = backend.driver.records
    if not waits:
        number = records.number(_number(make, *known))
        launch(records.of(place.device).address, number)
        return
    record = records.take(place.device)
    try:
        launch(record.address, OWN_CALL)
    except Exception:
        _give_after_failure(backend, place, record)
        raise
    backend.driver.synchronize(place)
    report = record.read()
    # Where waiting was interrupted a kernel may still write to the record: it is not given back.
    records.give(record)
    if report is not None:
        raise IndexError(text(make(*known), report))


def run_flagged(
    backend: Any,
    place: Place,
    waits: bool,
    told: bool,
    launch: Callable[[int], bool],
    find: Callable[[int, int], Any],
    make: Callable[..., Kind],
    *known: Any,
) -> bool:
    """As :func:`run`, for kernels that only say whether an index was bad, and skip it.

    Where nothing waits and a bad index was ``told`` of by another call, it is not looked for.
    ``launch`` is given the address of a flag, and says whether there are such kernels; ``find`` is
    given what a launch of :func:`run` is, and looks through the index for the first one.
    """
    records = backend.driver.records
    if not waits:
        if not launch(records.ignored(place.device).address):
            return False
        if not told:
            run(backend, place, False, find, make, *known)
        return True
    record = records.take(place.device)
    try:
        launched = launch(record.address)
    except Exception:
        _give_after_failure(backend, place, record)
        raise
    if not launched:
        records.give(record)
        return False
    backend.driver.synchronize(place)
    is_bad = record.read() is not None
    records.give(record)
    if is_bad:
        run(backend, place, True, find, make, *known)
        kind = make(*known)
        raise IndexError(unseen(kind.dim, kind.size))  # somebody has written to the index since
    return True


def function_name(kind: str) -> str:
    """The public function of a kind of operation."""
    return re.sub(r"\B([A-Z])", r"_\1", kind).lower()


def may_wait(backend: Any, place: Place, mode: str, needed: bool = True) -> bool:
    """Whether a call of a mode waits for the device to tell of a bad index.

    Those of the mode ``raise`` do, outside of a block of :func:`deferred`. While the stream is
    captured into a CUDA graph none can: where it is ``needed``, that is refused.
    """
    if mode != "raise" or _deferring.get() is not None:
        return False
    if not backend.driver.capturing(place):
        return True
    if needed:
        raise ValueError(
            "mode 'raise' waits for the device, which a CUDA graph under capture cannot: use the"
            " mode defer, clip, wrap or fill, or capture in a block of nbgather.cuda.deferred()"
        )
    return False


def poll(backend: Any, place: Place) -> None:
    """Raise what a call has reported that did not wait; a look at the host's memory if none has."""
    used = _deferring.get()
    if used is not None:
        used.add(place)
    record = backend.driver.records.shared.get(place.device)
    if record is not None and record.words[0] and not backend.driver.capturing(place):
        # Until the first position is known. Not for all of the device: where another thread
        # captures a CUDA graph there, that would end its capture.
        backend.driver.synchronize(place)
        _raise(record, place.device)


def _raise(record: Record, device: int) -> None:
    with forks.lock:
        report = record.read()
        if report is None:  # another thread has raised it
            return
        record.clear()
    kind = _kinds[report.call & (1 << KIND_BITS) - 1]
    raise (ValueError if kind.what else IndexError)(
        f"{text(kind, report)}: found by an earlier {kind.name} on cuda:{device}, which did not"
        " wait"
    )


def check(device: int | None = None, stream: int | None = None) -> None:
    """Wait for devices, or for one stream, and raise what was reported on them."""
    backend = backends.loaded("cuda")
    if backend is None:
        return
    shared = backend.driver.records.shared
    numbers = [number for number in sorted(shared) if device in (None, number)]
    if stream is not None and numbers:
        backend.driver.synchronize(Place(numbers[0], stream))
    for number in numbers:
        if stream is None:
            backend.driver.synchronize_device(number)
        _raise(shared[number], number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A block in which no call waits, and at whose end all are waited for.

    Within a capture that goes on nothing can be waited for: what the replays meet is told of later.
    """
    used: set[Place] = set()
    before = _deferring.set(used)
    try:
        yield
    finally:
        _deferring.reset(before)
    backend = backends.loaded("cuda")
    if backend is None or not any(map(backend.driver.capturing, used)):
        check()
