"""What a case of the surface is: one call of a public function, and who else can do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nbgather.apps.bench.contest import Call


@dataclass(frozen=True)
class Traffic:
    """What a call has to move.

    Attributes
    ----------
    index, source, result : int
        Bytes that are read of what says where, read of the values, and written.
    loads : int
        Separate places that are read or written in an order that the index decides.
    spread : int
        Bytes that these places are spread over.
    """

    index: int
    source: int
    result: int
    loads: int
    spread: int


@dataclass
class Case:
    """One call and its contestants, on operands that they share.

    Attributes
    ----------
    text : str
        The operands in words.
    row : int
        Items that lie side by side in the innermost loop.
    traffic : Traffic
        What must be moved.
    ours : dict of str to callable
        nbgather's calls by container, ``numpy`` or ``torch``, with a fresh result; those that write
        to ``out=`` have `` out=`` behind the name.
    peers : dict of str to callable
        The others' calls, named likewise; the name begins with the library's.
    exact : str
        How results are compared: ``bits``, ``close`` (sums of another order) or ``shape`` (everyone
        draws random numbers).
    """

    text: str
    row: int
    traffic: Traffic
    ours: dict[str, Call]
    peers: dict[str, Call] = field(default_factory=dict)
    exact: str = "bits"


def calls_of(
    function: Callable[..., Any],
    containers: Mapping[str, Sequence[Any]],
    into: Mapping[str, Any] | None = None,
) -> dict[str, Call]:
    """Our calls of a case: the function of the arguments that each container has.

    ``into`` has what is written to with ``out=``, by container.
    """
    calls: dict[str, Call] = {}
    for name, arguments in containers.items():
        calls[name] = partial(function, *arguments)
        if into is not None and name in into:
            calls[f"{name} out="] = partial(function, *arguments, out=into[name])
    return calls
