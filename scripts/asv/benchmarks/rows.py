"""Each row of `nbgather bench` that runs here: what our own contestant takes."""

from __future__ import annotations

import os

from nbgather.apps.bench.rows import select_rows

ROWS = {row.name: row for row in select_rows(os.environ.get("NBGATHER_ASV_ROWS"))}


class Rows:
    """Seconds of a turn of calls, as the row says how many."""

    params = (list(ROWS),)
    param_names = ("row",)
    timeout = 300
    warmup_time = 0.1
    rounds = 2

    def setup(self, row: str) -> None:
        contest = ROWS[row].make()
        if contest is None:
            raise NotImplementedError("a package is missing")  # which asv leaves out
        self.call, self.batch = contest.ours, contest.batch

    def time_row(self, row: str) -> None:
        for _ in range(self.batch):
            self.call()
