"""The table of the functions that the surface is of."""

from __future__ import annotations

from collections.abc import Callable

from nbgather.apps.bench.surface.case import Case
from nbgather.apps.bench.surface.draws import Generator
from nbgather.apps.bench.surface.gather_cases import (
    gather_case,
    gather_tokens_case,
    take_along_axis_case,
)
from nbgather.apps.bench.surface.patch_cases import (
    masked_patchify_case,
    patchify_case,
    unpatchify_case,
)
from nbgather.apps.bench.surface.scatter_cases import scatter_add_case, scatter_case
from nbgather.apps.bench.surface.strategy_cases import strategies_case
from nbgather.apps.bench.surface.token_cases import (
    random_masking_case,
    rank_tokens_case,
    restore_tokens_case,
    token_noise_case,
)

#: What draws a case of each function, in the order of the report.
FUNCTIONS: dict[str, Callable[[Generator], Case]] = {
    "gather": gather_case,
    "take_along_axis": take_along_axis_case,
    "gather_tokens": gather_tokens_case,
    "scatter": scatter_case,
    "scatter_add": scatter_add_case,
    "rank_tokens": rank_tokens_case,
    "token_noise": token_noise_case,
    "random_masking": random_masking_case,
    "restore_tokens": restore_tokens_case,
    "patchify": patchify_case,
    "unpatchify": unpatchify_case,
    "masked_patchify": masked_patchify_case,
    "strategies": strategies_case,
}


def select_functions(only: str | None) -> list[str]:
    """The functions of a list with commas; all without one.

    Raises
    ------
    ValueError
        A name that is none of them.

    Examples
    --------
    >>> from nbgather.apps.bench.surface import select_functions
    >>> select_functions("scatter,gather")
    ['gather', 'scatter']
    """
    if not only:
        return list(FUNCTIONS)
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in FUNCTIONS:
            raise ValueError(f"{name!r} is no function of the surface: {', '.join(FUNCTIONS)}")
    return [name for name in FUNCTIONS if name in names]
