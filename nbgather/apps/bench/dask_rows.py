"""Gather on Dask against what its users do today: time and peak memory, each in a process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CONTESTANTS", "dask_markdown", "run_dask"]

#: Shape and chunks of the array on disk, and the length of the index along the gathered axis.
SHAPE, CHUNKS, PICKED = (4096, 65536), (1024, 8192), 16384


def _ours(x: Any, index: Any) -> Any:
    from nbgather import dask

    return dask.take_along_axis(x, index, 1, plan="list")


def _tree(x: Any, index: Any) -> Any:
    from nbgather import dask

    return dask.take_along_axis(x, index, 1, plan="tree")


def _rechunked(x: Any, index: Any) -> Any:
    """Bring the axis together, then take block by block."""
    import dask.array as da

    whole = x.rechunk({1: -1})
    return da.map_blocks(
        lambda a, i: np.take_along_axis(a, i, 1),
        whole, index.rechunk({1: -1}), dtype=x.dtype, chunks=(x.chunks[0], (index.shape[1],)),
    )  # fmt: skip


def _masked_sum(x: Any, index: Any) -> Any:
    """The design of the open pull request (dask #3663): each chunk gives its part, and they add."""
    import dask.array as da

    starts = np.cumsum([0, *x.chunks[1]])
    parts = []
    for k, start in enumerate(starts[:-1]):
        chunk = x.blocks[:, k]

        def part(a: Any, i: Any, start: int = int(start)) -> Any:
            inside = (i >= start) & (i < start + a.shape[1])
            return np.where(inside, np.take_along_axis(a, np.where(inside, i - start, 0), 1), 0)

        parts.append(
            da.map_blocks(
                part,
                chunk.rechunk({1: -1}),
                index.rechunk({1: -1}),
                dtype=x.dtype,
                chunks=(x.chunks[0], (index.shape[1],)),
            )
        )
    return sum(parts[1:], parts[0])


CONTESTANTS: dict[str, Callable[[Any, Any], Any]] = {
    "nbgather, list": _ours,
    "nbgather, tree": _tree,
    "rechunk, then take": _rechunked,
    "masked sum": _masked_sum,
}


def contest(name: str, folder: str) -> dict[str, float]:
    """Compute one contestant in this process: seconds, and the peak above that at the start."""
    import dask
    import dask.array as da

    with dask.config.set(scheduler="threads", num_workers=2):
        small = da.zeros((8, 8), chunks=4)
        CONTESTANTS[name](small, da.zeros((8, 4), chunks=4, dtype=int)).compute()
        x = da.from_zarr(f"{folder}/x.zarr")
        index = da.from_zarr(f"{folder}/index.zarr")
        before, begun = peak(), time.perf_counter()
        da.to_zarr(CONTESTANTS[name](x, index), f"{folder}/out.zarr", overwrite=True)
        seconds = time.perf_counter() - begun
    import zarr

    out = zarr.open_array(f"{folder}/out.zarr", mode="r")
    return {
        "seconds": seconds,
        "peak": peak() - before,
        "check": float(np.asarray(out[:64]).sum()),
    }


def peak() -> float:
    """The most bytes that this process has had in memory."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss is inherited from whoever started the process
        lines = status.read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _make(folder: Path) -> None:
    import zarr

    generator = np.random.default_rng(0)
    x = zarr.create_array(
        str(folder / "x.zarr"), shape=SHAPE, chunks=CHUNKS, dtype="f4", compressors=None
    )
    shape = (SHAPE[0], PICKED)
    index = zarr.create_array(
        str(folder / "index.zarr"), shape=shape, chunks=(CHUNKS[0], PICKED // 4), dtype="i8",
        compressors=None,
    )  # fmt: skip
    for n in range(0, SHAPE[0], CHUNKS[0]):
        rows = slice(n, n + CHUNKS[0])
        x[rows] = generator.random((CHUNKS[0], SHAPE[1]), np.float32)
        index[rows] = generator.integers(0, SHAPE[1], (CHUNKS[0], PICKED))


def run_dask(rounds: int, progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Time the contestants in turn, each in a process of its own, on one array on disk.

    Parameters
    ----------
    rounds : int
        Turns of each.
    progress : callable
        Called with the name of each before its turn.

    Returns
    -------
    dict
        For each contestant the shortest seconds and the smallest peak in bytes.

    Raises
    ------
    RuntimeError
        A contestant failed, or gave another result.

    Examples
    --------
    >>> from nbgather.apps.bench.dask_rows import CONTESTANTS
    >>> sorted(CONTESTANTS)
    ['masked sum', 'nbgather, list', 'nbgather, tree', 'rechunk, then take']
    """
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        _make(Path(name))
        for turn in range(rounds):
            names = list(CONTESTANTS)
            for contestant in names[turn % len(names) :] + names[: turn % len(names)]:
                progress(contestant)
                code = (
                    "import json, sys; from nbgather.apps.bench.dask_rows import contest;"
                    " print(json.dumps(contest(*sys.argv[1:])))"
                )
                done = subprocess.run(
                    [sys.executable, "-c", code, contestant, name], capture_output=True, text=True
                )
                if done.returncode:
                    raise RuntimeError(f"{contestant} failed: {done.stderr[-2000:]}")
                result = json.loads(done.stdout)
                shortest = best.setdefault(contestant, result)
                if shortest["check"] != result["check"]:
                    raise RuntimeError(f"{contestant} gives another result in another turn")
                best[contestant] = {k: min(shortest[k], result[k]) for k in result}
    checks = {result.pop("check") for result in best.values()}
    if len(checks) > 1:
        raise RuntimeError(f"the contestants give different results: {checks}")
    return {"shape": SHAPE, "chunks": CHUNKS, "picked": PICKED, "contestants": best}


def dask_markdown(results: dict[str, Any]) -> str:
    """The table of a run.

    Parameters
    ----------
    results : dict
        Of :func:`run_dask`.

    Returns
    -------
    str

    Examples
    --------
    >>> from nbgather.apps.bench.dask_rows import dask_markdown
    >>> times = {"nbgather, list": {"seconds": 1.0, "peak": 2.0**20}}
    >>> results = {"shape": [2, 4], "chunks": [1, 2], "picked": 4, "contestants": times}
    >>> print(dask_markdown(results).splitlines()[-1])
    | nbgather, list | 1.0 | 1 | 1.00 | 1.00 |
    """
    shape, chunks = (tuple(results[key]) for key in ("shape", "chunks"))
    ours = results["contestants"]["nbgather, list"]
    lines = [
        f"take_along_axis on Dask, x{list(shape)} float32 in chunks of {list(chunks)}, index"
        f" [{shape[0]},{results['picked']}], from disk to disk with two threads; the peak is above"
        " what the process had before.",
        "",
        "| | seconds | peak MiB | times our time | times our peak |",
        "|---|---|---|---|---|",
    ]
    for name, result in results["contestants"].items():
        seconds, peak = result["seconds"], result["peak"]
        lines.append(
            f"| {name} | {seconds:.1f} | {peak / 2**20:.0f}"
            f" | {seconds / ours['seconds']:.2f} | {peak / ours['peak']:.2f} |"
        )
    return "\n".join(lines)
