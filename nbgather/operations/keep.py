"""How many tokens a mask ratio keeps: the one formula, for numbers and for symbols."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["kept_tokens"]


def kept_tokens(length: Any, mask_ratio: Any) -> Any:
    """How many of ``length`` tokens stay: ``int(length * (1 - mask_ratio))`` in float64.

    The arguments are not checked. A tracer passes symbols, such as torch's SymInt or a value of an
    ONNX graph, and gets the symbol that ``__trunc__`` of their product returns: ``int()`` itself
    would ask for a number.

    Parameters
    ----------
    length : int or symbol
        L, the number of tokens.
    mask_ratio : float or symbol
        The part to remove, 0 to 1. A float narrower than float64 gives another count for some
        lengths and ratios.

    Returns
    -------
    int or symbol
        K, truncated towards zero.

    Examples
    --------
    >>> kept_tokens(196, 0.75)
    49
    >>> kept_tokens(10, 0.9)
    0
    """
    return math.trunc(length * (1 - mask_ratio))
