"""Patterns: what is gathered at once, as offsets in items.

As Spatter's README has them: ``UNIFORM:length:stride``, with ``:NR`` behind it where the next
pattern begins behind the last one, ``MS1:length:gap_locations:gaps``,
``LAPLACIAN:dimension:pseudo_order:problem_size``, or the offsets themselves.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

__all__ = ["MOST_INDEX", "MOST_LENGTH", "Pattern", "parse_pattern"]

#: The longest pattern, and the largest number that may stand anywhere.
MOST_LENGTH, MOST_INDEX = 2**24, 2**40
FORMS = {
    "UNIFORM": "UNIFORM:LENGTH:STRIDE, or UNIFORM:LENGTH:STRIDE:NR",
    "MS1": "MS1:LENGTH:GAP_LOCATIONS:GAPS",
    "LAPLACIAN": "LAPLACIAN:DIMENSION:PSEUDO_ORDER:PROBLEM_SIZE",
}


class Pattern(NamedTuple):
    """Offsets, and how far the next pattern is where that follows from the pattern.

    Attributes
    ----------
    indices : ndarray of int64
    delta : int or None
    """

    indices: np.ndarray
    delta: int | None = None


def parse_pattern(value: Any) -> Pattern:
    """The pattern of a text or of a list of offsets.

    Parameters
    ----------
    value : str or list of int
        As a file has it.

    Returns
    -------
    Pattern

    Raises
    ------
    ValueError
        It is of no form that Spatter knows, or too large.

    Examples
    --------
    >>> from nbgather.apps.bench.spatter.patterns import parse_pattern
    >>> parse_pattern("UNIFORM:4:3").indices.tolist()
    [0, 3, 6, 9]
    >>> parse_pattern("MS1:8:2,3:20,22").indices.tolist()
    [0, 1, 21, 43, 44, 45, 46, 47]
    >>> parse_pattern("LAPLACIAN:2:1:100").indices.tolist()
    [0, 99, 100, 101, 200]
    """
    if isinstance(value, list):
        return Pattern(_offsets([whole(item) for item in value]))
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is neither a pattern's text nor a list of offsets")
    kind, *fields = value.strip().split(":")
    form = FORMS.get(kind)
    if form is None:
        if fields:
            raise ValueError(f"{_shown(value)} is none of {', '.join(FORMS)}")
        return Pattern(_offsets(_numbers(kind)))
    repeats = True
    if kind == "UNIFORM" and fields[-1:] == ["NR"]:
        repeats, fields = False, fields[:-1]
    numbers = [_numbers(field) for field in fields]
    if len(numbers) != form.partition(",")[0].count(":"):
        raise ValueError(f"{_shown(value)} is not {form}")
    if kind == "MS1":
        return Pattern(_mostly_stride_1(value, *numbers))
    if any(len(field) != 1 for field in numbers):
        raise ValueError(f"{_shown(value)} is not {form}")
    if kind == "LAPLACIAN":
        return Pattern(_laplacian(value, *(field[0] for field in numbers)), 1)
    length, stride = (field[0] for field in numbers)
    _check_length(value, length)
    indices = np.arange(length, dtype=np.int64) * stride
    return Pattern(_bounded(value, indices), None if repeats else length * stride)


def whole(value: Any) -> int:
    """A number of a file that is not negative; a text of digits will do."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value) if len(value) < 20 else MOST_INDEX + 1
    if type(value) is not int:
        raise ValueError(f"{_shown(value)} is no whole number")
    if not 0 <= value <= MOST_INDEX:
        raise ValueError(f"{_shown(value)} is not between 0 and 2**40")
    return value


def _numbers(text: str) -> list[int]:
    return [whole(part) for part in text.split(",")]


def _shown(value: Any) -> str:
    """A value as a message has it, on one short line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_length(value: Any, length: int) -> None:
    if not 1 <= length <= MOST_LENGTH:
        raise ValueError(f"{_shown(value)} has {length} offsets: between 1 and 2**24 are allowed")


def _offsets(numbers: list[int]) -> np.ndarray:
    _check_length(numbers, len(numbers))
    return np.array(numbers, np.int64)


def _bounded(value: Any, indices: np.ndarray) -> np.ndarray:
    if int(indices.max()) > MOST_INDEX:
        raise ValueError(f"{_shown(value)} reaches {indices.max()}: 2**40 is the most")
    return indices


def _mostly_stride_1(
    value: str, lengths: list[int], locations: list[int], gaps: list[int]
) -> np.ndarray:
    """Steps of 1, and a gap before each of the locations; one gap will do for all."""
    if len(lengths) != 1 or len(gaps) not in (1, len(locations)):
        raise ValueError(f"{_shown(value)} is not {FORMS['MS1']}, with one gap or one each")
    (length,) = lengths
    _check_length(value, length)
    if any(a >= b for a, b in itertools.pairwise(locations)):
        raise ValueError(f"{_shown(value)} has gap locations that do not ascend")
    if not 1 <= locations[0] <= locations[-1] < length:
        raise ValueError(f"{_shown(value)} has a gap location that is not within the pattern")
    steps = np.ones(length, np.int64)
    steps[0] = 0
    steps[locations] = gaps
    return _bounded(value, np.cumsum(steps))


def _laplacian(value: str, dimension: int, order: int, size: int) -> np.ndarray:
    """The points of a stencil: so many to both sides along each axis, and the middle."""
    length = 2 * dimension * order + 1
    _check_length(value, length)
    if not dimension or not order or not size:
        raise ValueError(f"{_shown(value)} has a number that is not positive")
    if size > 1 and dimension > 40:
        raise ValueError(f"{_shown(value)} reaches further than 2**40")
    if 2 * order * size ** (dimension - 1) > MOST_INDEX:
        raise ValueError(f"{_shown(value)} reaches further than 2**40")
    ahead = [step * size**axis for axis in range(dimension) for step in range(1, order + 1)]
    middle = ahead[-1]
    places = [*(middle - step for step in reversed(ahead)), middle, *(middle + s for s in ahead)]
    return np.array(places, np.int64)
