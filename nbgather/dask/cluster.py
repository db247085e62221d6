"""Work of many parts on the workers of a cluster, a few parts ahead of what is done."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

#: Parts that wait for each thread of the cluster, beside the one that it does.
WAITING = 1


def in_any_order(client: Any, work: Callable[[int], None], numbers: list[int]) -> Iterator[int]:
    """Do each part on some worker, and tell of it when it is done.

    If one fails, those that are under way are waited for, and told of, before its error is raised:
    nobody works on when the caller has gone on.
    """
    from distributed import as_completed

    # A name of its own for this run: a part may be done again, by another run.
    name = f"nbgather-{uuid.uuid4().hex}"
    ahead = iter(numbers)
    part_of: dict[str, int] = {}
    running = as_completed()
    failed: BaseException | None = None

    def start() -> None:
        number = next(ahead, None)
        if number is not None:
            future = client.submit(work, number, key=f"{name}-{number}", pure=False)
            part_of[future.key] = number
            running.add(future)

    threads = sum(client.nthreads().values())
    for _ in range(max(threads, 1) * (1 + WAITING)):
        start()
    for future in running:
        number = part_of.pop(future.key)
        error = future.exception()
        if error is not None:
            failed = failed or error
        else:
            yield number
            if failed is None:
                start()
    if failed is not None:
        raise failed
