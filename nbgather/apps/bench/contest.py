"""What a row of the table is: one task, its contestants, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COPY", "NARROW", "Call", "Contest", "Row"]

Call = Callable[[], Any]

#: What the copy of as many bytes is called.
COPY = "nbgather copy of as many bytes"
#: What the names end with of calls that have half the index bytes of the others.
NARROW = ", int32 index"


@dataclass
class Contest:
    """The contestants of a row, on arrays that they share.

    Attributes
    ----------
    ours : callable
        nbgather's call, with a fresh result.
    peers : dict of str to callable
        The others' calls; each is to give the same bytes, unless ``random``.
    into : callable, optional
        nbgather's call with ``out=``.
    peers_into : dict of str to callable
        The others' calls with ``out=``.
    nbytes : int
        Bytes that must be moved: index read, source touched, result written.
    narrow : dict of str to callable
        The same calls with an int32 index where the others have int64: nbgather's and those of
        peers that have no other unless they are told. The names end with ``NARROW``.
    batch : int
        Calls in a turn.
    copied : callable, optional
        A copy of as many bytes, by all cores into memory that is allocated already.
    random : bool
        Every contestant draws its own noise, so only shapes can be compared.
    scales : bool
        Whether nbgather's own threads do the work.
    turns : int, optional
        At most so many turns of each, where a call takes seconds.
    """

    ours: Call
    peers: dict[str, Call]
    nbytes: int
    into: Call | None = None
    peers_into: dict[str, Call] = field(default_factory=dict)
    narrow: dict[str, Call] = field(default_factory=dict)
    batch: int = 1
    copied: Call | None = None
    random: bool = False
    scales: bool = True
    turns: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    name, group, about : str
        What it is called, which family it belongs to, and what is done.
    make : callable
        Gives the :class:`Contest`, or None where a package is missing.
    targets : dict of str to float
        Ratios to reach: a peer's name, ``best``, ``into`` (best peer over ``out=``) or ``copy``
        (at most so many times a copy of the same bytes).
    """

    name: str
    group: str
    about: str
    make: Callable[[], Contest | None]
    targets: dict[str, float] = field(default_factory=lambda: {"best": 1.0})
