"""What a case of the self-test is, and how combinations are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

#: Takes an array to where it is asked for; and the backend, as keywords of a call.
To = Callable[[np.ndarray], Any]
Given = dict[str, Any]
#: Makes a call.
Make = Callable[[To, Given], Any]

#: The first two are the usual ones, whose kernels come compiled.
INDEX_DTYPES = ("int64", "int32", "uint8", "int8", "int16", "uint16", "uint32", "uint64")


class Case(NamedTuple):
    """One call.

    Attributes
    ----------
    text : str
        The call and its inputs, which :mod:`nbgather.apps.selftest.inputs` makes by their stream.
    make : callable
        Makes it.
    plainly : callable, optional
        The result by NumPy, for a function that has no reference.
    """

    text: str
    make: Make
    plainly: Callable[[], Any] | None = None


def every(*choices: Any, count: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """``count`` numbered combinations, in which each pair of neighbours' choices comes soon."""
    product = list(itertools.product(*choices))
    step = next(s for s in range(len(product) * 5 // 8, 2 * len(product)) if _coprime(s, product))
    for number in range(min(count, len(product))):
        yield number, product[number * step % len(product)]


def _coprime(step: int, product: list[Any]) -> bool:
    return bool(np.gcd(step, len(product)) == 1)
