"""The benchmark: contestants interleaved on the same arrays, and the report.

``contest`` says what a row is, the modules ``*_rows`` have them, ``rows`` is the table of all;
``run`` compares and times them with ``measure``, and ``report`` makes the table and the picture.
"""

from nbgather.apps.bench.contest import Contest, Row
from nbgather.apps.bench.measure import Timing, bandwidth, interleave, split_cost
from nbgather.apps.bench.report import check_readme, markdown, picture, update_readme
from nbgather.apps.bench.rows import ROWS
from nbgather.apps.bench.run import run_all, run_rows

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
