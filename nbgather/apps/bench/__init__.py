"""The benchmark: contestants interleaved on the same arrays, and the report.

``contest`` says what a row is, the modules ``*_rows`` have them, ``rows`` is the table of all;
``run`` compares and times them with ``measure``. ``surface`` draws random calls instead, and
``spatter`` those of another benchmark.
``report`` tells of one run, ``kinds`` of those of several machines, ``gpu`` of those of GPUs,
``rows_picture`` draws them, ``readme`` puts tables into documents.
"""

from nbgather.apps.bench.contest import Contest, Row
from nbgather.apps.bench.measure import Timing, bandwidth, interleave, split_cost
from nbgather.apps.bench.readme import check_tables, update_tables
from nbgather.apps.bench.report import markdown
from nbgather.apps.bench.rows import ROWS
from nbgather.apps.bench.rows_picture import picture
from nbgather.apps.bench.run import run_all, run_rows

__all__ = [
    "ROWS",
    "Contest",
    "Row",
    "Timing",
    "bandwidth",
    "check_tables",
    "interleave",
    "markdown",
    "picture",
    "run_all",
    "run_rows",
    "split_cost",
    "update_tables",
]
