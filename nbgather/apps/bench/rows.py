"""The table of all rows, in the order of the report."""

from __future__ import annotations

import fnmatch

from nbgather.apps.bench.compiled_rows import COMPILED_ROWS
from nbgather.apps.bench.contest import Row
from nbgather.apps.bench.dataset_rows import DATASET_ROWS
from nbgather.apps.bench.gather_rows import GATHER_ROWS, SCATTER_ROWS
from nbgather.apps.bench.jax_rows import JAX_ROWS
from nbgather.apps.bench.loader_rows import LOADER_ROWS
from nbgather.apps.bench.masking_rows import MASKING_ROWS
from nbgather.apps.bench.model_rows import MODEL_ROWS
from nbgather.apps.bench.patch_rows import PATCH_ROWS
from nbgather.apps.bench.reduce_rows import REDUCE_ROWS
from nbgather.apps.bench.small_rows import SMALL_ROWS

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (
    *GATHER_ROWS, *SMALL_ROWS, *SCATTER_ROWS, *REDUCE_ROWS, *MASKING_ROWS, *PATCH_ROWS,
    *LOADER_ROWS, *DATASET_ROWS, *MODEL_ROWS, *JAX_ROWS, *COMPILED_ROWS,
)  # fmt: skip


def select_rows(pattern: str | None) -> list[Row]:
    """Rows whose name or group matches a shell pattern; all without one."""
    if not pattern:
        return list(ROWS)
    return [
        row
        for row in ROWS
        if fnmatch.fnmatch(row.name, pattern)
        or fnmatch.fnmatch(row.group, pattern)
        or pattern in row.name
    ]
