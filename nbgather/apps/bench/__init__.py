"""The benchmark: rows of work, contestants interleaved on the same arrays, and the report."""

from nbgather.apps.bench.machine import run_all
from nbgather.apps.bench.measure import Timing, bandwidth, interleave, split_cost
from nbgather.apps.bench.report import check_readme, markdown, picture, update_readme
from nbgather.apps.bench.rows import ROWS, Contest, Row, run_rows

__all__ = [
    "ROWS",
    "Contest",
    "Row",
    "Timing",
    "bandwidth",
    "check_readme",
    "interleave",
    "markdown",
    "picture",
    "run_all",
    "run_rows",
    "split_cost",
    "update_readme",
]
