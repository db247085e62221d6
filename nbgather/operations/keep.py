"""How many tokens of a sample stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nbgather.operations import checks
from nbgather.operations.base import known


def kept_tokens(length: Any, mask_ratio: Any) -> Any:
    """How many of ``length`` tokens stay at a mask ratio: the whole part of the product in float64.

    The one place that knows it. A length may be symbolic (of torch's tracing, or a value of an ONNX
    graph): then the product says itself how its whole part is taken.
    """
    return math.trunc(length * (1 - mask_ratio))


@dataclass(frozen=True)
class Keep:
    """How many tokens stay: by a ratio, in every sample alike, or in each a number of its own.

    Exactly one is given; ``counts`` has one number for each sample.
    """

    ratio: float | None = None
    number: Any = None
    counts: tuple[int, ...] | None = None

    def of(self, length: Any) -> Any:
        """K for samples of ``length`` tokens: the largest number that stays in any."""
        if self.counts is not None:
            return max(self.counts, default=0)
        if self.number is not None:
            return self.number
        return kept_tokens(length, self.ratio)

    def check(self, samples: Any, length: Any) -> Keep:
        """Whether as many can stay, where the sizes are known."""
        if self.number is not None:
            between(self.number, length, "num_keep")
        if self.counts is not None:
            if known(samples) and len(self.counts) != samples:
                _one_for_each((len(self.counts),), samples)
            low, high = min(self.counts, default=0), max(self.counts, default=0)
            if low < 0 or (known(length) and high > length):
                for n, number in enumerate(self.counts):
                    between(number, length, f"num_keep[{n}]")  # the first of them is told of
        return self

    def repeated(self, times: int) -> Keep:
        """The same for so many times the samples, one batch of them after the other."""
        return self if self.counts is None else replace(self, counts=self.counts * times)

    def valid_slots(self) -> np.ndarray:
        """Which slots hold a token where each sample has a number of its own: bool `[N, K]`."""
        numbers = np.array(self.counts, np.int64)
        return np.arange(int(numbers.max(initial=0))) < numbers[:, None]


def keep_of(mask_ratio: Any, num_keep: Any, samples: Any, length: Any) -> Keep:
    """What ``mask_ratio`` and ``num_keep`` of a call say, for `[samples, length]` tokens."""
    if num_keep is None:
        # A number may be a symbol of torch's compiler, of which no attribute can be asked.
        is_number = isinstance(mask_ratio, (int, float))
        is_list = isinstance(mask_ratio, (list, tuple))
        if is_list or (not is_number and getattr(mask_ratio, "shape", ()) != ()):
            return Keep(counts=_counts_of(mask_ratio, samples, length)).check(samples, length)
        return Keep(ratio=ratio(mask_ratio))
    counts = _counts(num_keep, samples)
    if counts is None:
        return Keep(number=checks.integer(num_keep, "num_keep")).check(samples, length)
    return Keep(counts=counts).check(samples, length)


def _counts_of(ratios: Any, samples: Any, length: Any) -> tuple[int, ...]:
    """How many stay of each sample, by a ratio for each."""
    if not isinstance(ratios, (list, tuple, np.ndarray)):
        raise TypeError(
            f"mask_ratio is a {type(ratios).__module__}.{type(ratios).__qualname__} of shape"
            f" {tuple(ratios.shape)}: a number is needed, or a list of one for each sample"
        )
    if np.ndim(ratios) != 1 or (known(samples) and len(ratios) != samples):
        raise ValueError(
            f"mask_ratio has shape {np.shape(ratios)}: a number for each of the {samples} samples"
            " is needed, or one for all"
        )
    if not known(length):
        raise ValueError("a mask_ratio for each sample needs a number of tokens that is known")
    return tuple(kept_tokens(length, ratio(r, f"mask_ratio[{n}]")) for n, r in enumerate(ratios))


def _counts(num_keep: Any, samples: Any) -> tuple[int, ...] | None:
    """A number for each of the samples; None where it is one for all."""
    if isinstance(num_keep, (int, float, np.integer, np.floating)) or checks.is_open(num_keep):
        return None
    values: Sequence[Any] = num_keep
    if not isinstance(num_keep, (list, tuple)):
        array = np.asarray(num_keep)
        if array.ndim == 0 and array.dtype.kind in "iu":
            return None
        if array.dtype.kind not in "iu":
            raise TypeError(f"num_keep has dtype {array.dtype}: whole numbers are needed")
        values = array.tolist() if array.ndim == 1 else [array.shape]
    if any(isinstance(v, tuple) for v in values) or (known(samples) and len(values) != samples):
        _one_for_each(np.shape(num_keep), samples)
    return tuple(checks.integer(v, f"num_keep[{n}]") for n, v in enumerate(values))


def _one_for_each(shape: tuple[int, ...], samples: Any) -> None:
    raise ValueError(
        f"num_keep has shape {shape}: a number for each of the {samples} samples"
        " is needed, or one for all"
    )


def between(number: int, length: Any, what: str) -> None:
    """Whether so many of ``length`` tokens can stay."""
    if known(number) and (number < 0 or (known(length) and number > length)):
        raise ValueError(f"{what} is {number}: it must be between 0 and L = {length}")


def ratio(mask_ratio: Any, what: str = "mask_ratio") -> float:
    """A number between 0 and 1 as a float; text and bools are none."""
    if type(mask_ratio) is float:
        return _within(mask_ratio, what)
    kind = type(mask_ratio).__name__
    if isinstance(mask_ratio, (str, bytes, bytearray, bool)) or "bool" in str(
        getattr(mask_ratio, "dtype", "")
    ):
        raise TypeError(f"{what} is {mask_ratio!r} of type {kind}: a number is needed")
    if getattr(mask_ratio, "shape", ()) != ():
        raise TypeError(f"{what} has shape {tuple(mask_ratio.shape)}: one number for all is needed")
    try:
        value = float(mask_ratio)
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {mask_ratio!r} of type {kind}: a number is needed") from None
    return _within(value, what)


def _within(value: float, what: str) -> float:
    if not 0 <= value <= 1:  # NaN is not, either
        raise ValueError(f"{what} is {value}: it must be between 0 and 1")
    return value
