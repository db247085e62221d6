"""The job that masks a dataset, under what happens to long jobs; nothing lost, nothing doubled.

    python scripts/soak.py [--minutes N] [--seed N]

Scenarios take turns until the time is over, each once at least: writers that are killed at random
moments, a disk that fills up (a small tmpfs where one can be mounted, else a limit on the size of
files), also under two workers of a cluster, clocks that jump, two writers at once, and the command
line interrupted. After each the same call is made until it ends well, and every byte is compared
with the masking of the whole. Prints a
report; exit status 1 if anything was lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zarr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import nbgather  # noqa: E402

SAMPLES, TOKENS, WIDTH, CHUNK, SEED = 240, 64, 96, 4, 5
ARRAYS = ("x_masked", "mask", "ids_restore")
DISK_BYTES = 1 << 20
SECONDS = 120
#: A writer: jumps of the clock in seconds, a limit of a file's size, then source and target.
WRITER = """
import random, resource, sys, time
jump, limit, source, target = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if jump:
    real = time.time
    time.time = lambda: real() + random.uniform(-jump, jump)
    time.time_ns = lambda: int(time.time() * 1e9)
if limit:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from nbgather.dask.dataset import mask_dataset
states = []
mask_dataset(source, target, 0.5, seed={SEED}, chunk={CHUNK}, progress=states.append)
done = [s.done for s in states]
assert done == sorted(done) and states[-1].done == states[-1].chunks, done
print(states[-1].chunks)
""".replace("{SEED}", str(SEED)).replace("{CHUNK}", str(CHUNK))


#: The same job on a cluster of two processes.
CLUSTER_WRITER = """
import sys
from dask.distributed import Client, LocalCluster
from nbgather.dask.dataset import mask_dataset
source, target, folder = sys.argv[1:]
options = {"threads_per_worker": 1, "dashboard_address": None, "local_directory": folder}
if __name__ == "__main__":
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        try:
            mask_dataset(source, target, 0.5, seed={SEED}, chunk={CHUNK}, client=client)
        except OSError as error:
            sys.exit(f"OSError {error.errno}: {error.filename}")
""".replace("{SEED}", str(SEED)).replace("{CHUNK}", str(CHUNK))


class Wrong(Exception):
    """Something was lost, doubled, or is not what it should be."""


class Job:
    """A source, its target, and what the target must hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source, self.target = folder / "x.npy", folder / "y.zarr"
        tokens = np.random.default_rng(0).random((SAMPLES, TOKENS, WIDTH)).astype("f4")
        np.save(self.source, tokens)
        self.wanted = nbgather.random_masking(tokens, 0.5, seed=SEED)._asdict()

    def start(
        self, jump: float = 0, limit: int = 0, target: Path | None = None
    ) -> subprocess.Popen:
        words = [str(jump), str(limit), str(self.source), str(target or self.target)]
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def finish(self, **options: object) -> None:
        """Make the call until it ends well, which it must now."""
        process = self.start(**options)  # type: ignore[arg-type]
        _, error = process.communicate(timeout=SECONDS)
        if process.returncode:
            raise Wrong(f"the call does not go on: {error.strip().splitlines()[-1:]}")

    def check(self, target: Path | None = None) -> None:
        target = target or self.target
        group = zarr.open_group(str(target), mode="r")
        if sorted(group.array_keys()) != sorted(ARRAYS):
            raise Wrong(f"the group holds {sorted(group.array_keys())}")
        for name in ARRAYS:
            got = np.asarray(group[name])
            if got.shape != self.wanted[name].shape or got.tobytes() != self.wanted[name].tobytes():
                raise Wrong(f"{name} is not the mask of the whole")
            files = [p for p in (target / name).rglob("*") if p.is_file() and p.name != "zarr.json"]
            files = [p for p in files if not p.name.startswith(".")]
            if len(files) != -(-SAMPLES // CHUNK):
                raise Wrong(f"{name} has {len(files)} chunks on disk")
        if (target / ".nbgather").exists():
            raise Wrong("the journal was left behind")


def marked(job: Job) -> set[str]:
    """The chunks that the journal says are done."""
    folder = job.target / ".nbgather/done"
    with contextlib.suppress(FileNotFoundError):
        return {p.name for p in folder.iterdir() if p.name.isdigit()}
    return set()


def kills(job: Job) -> str:
    """Writers die at random moments; what is done stays done."""
    begun = time.monotonic()
    job.finish(target=job.folder / "whole.zarr")
    whole = time.monotonic() - begun
    count, before = 0, set()
    while True:
        process = job.start()
        try:
            _, error = process.communicate(timeout=random.uniform(0.2, 1.2) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
            process.communicate()
            count += 1
            now = marked(job)
            if not before <= now and now:
                raise Wrong(f"chunks {sorted(before - now)} were done and are not") from None
            before = now
        else:
            if process.returncode:
                raise Wrong(error[-300:])
            return f"{count} kills"
        if count > 12:
            job.finish()
            return f"{count} kills"


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs of some bytes; None where none can be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    options = f"size={DISK_BYTES}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], capture_output=True
    )
    try:
        yield disk if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(disk)], check=True)


def full_disk(job: Job) -> str:
    """The disk is full in the middle, and has room again later."""
    with small_disk(job.folder) as disk:
        if disk is None:
            process = job.start(limit=4096)
            what = "a limit on files (no tmpfs can be mounted here)"
            target = job.target
        else:
            target, what = disk / "y.zarr", "a tmpfs"
            process = job.start(target=target)
        _, error = process.communicate(timeout=SECONDS)
        if process.returncode == 0:
            raise Wrong("it ended well on a full disk")
        last = error.strip().splitlines()[-1]
        if not last.startswith("OSError"):
            raise Wrong(f"a full disk is told as {last}")
        if disk is not None:
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        job.finish(target=target)
        job.check(target)
        if disk is not None:
            shutil.copytree(target, job.target)
    return f"{what}: {last[:60]}"


def full_disk_of_a_cluster(job: Job) -> str:
    """Two workers fill the disk, of which the caller is told with its place; later it has room."""
    script = job.folder / "cluster.py"
    script.write_text(CLUSTER_WRITER)
    with small_disk(job.folder) as disk:
        if disk is None:
            shutil.rmtree(job.folder / "disk")
            job.finish()
            return "no tmpfs can be mounted here"
        target = disk / "y.zarr"

        def run(folder: Path) -> subprocess.CompletedProcess[str]:
            words = [sys.executable, str(script), str(job.source), str(target), str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            return subprocess.run(
                words, capture_output=True, text=True, timeout=SECONDS, env=environment
            )

        last = run(job.folder).stderr.strip().splitlines()[-1]
        if last != f"OSError {errno.ENOSPC}: {target}":
            raise Wrong(f"a full disk is told as {last}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        done = run(job.folder)
        if done.returncode:
            raise Wrong(f"the call does not go on: {done.stderr[-300:]}")
        job.check(target)
        shutil.copytree(target, job.target)
    return "two workers on a tmpfs"


def clock_jumps(job: Job) -> str:
    """The clock goes back and forth by days, and files are as old as they please."""
    for _ in range(2):
        process = job.start(jump=5 * 86400)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=random.uniform(0.5, 2))
        process.kill()
        process.communicate()
        for path in job.target.rglob("*") if job.target.exists() else ():
            with contextlib.suppress(FileNotFoundError):
                moment = time.time() + random.uniform(-1e8, 1e8)
                os.utime(path, (moment, moment))
    job.finish(jump=5 * 86400)
    return "clocks went back and forth by 5 days"


def two_writers(job: Job) -> str:
    """Two at once: at least one ends well, and the other says why not, or does too."""
    writers = [job.start(), job.start()]
    errors = [process.communicate(timeout=SECONDS)[1] for process in writers]
    codes = [process.returncode for process in writers]
    said = {error.strip().splitlines()[-1][:80] for error in errors if error.strip()}
    if 0 not in codes:
        job.finish()
    return f"ended with {sorted(codes)}" + (f" ({'; '.join(sorted(said))})" if said else "")


def command_line(job: Job) -> str:
    """`nbgather mask-dataset`, interrupted; one line, no traceback."""
    words = [sys.executable, "-m", "nbgather", "mask-dataset", str(job.source), str(job.target)]
    words += ["--seed", str(SEED), "--ratio", "0.5", "--chunk", str(CHUNK)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=random.uniform(2, 4))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=SECONDS)
    if "Traceback" in (error or ""):
        raise Wrong(f"a traceback: {error[-200:]}")
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=SECONDS)
    if done.returncode:
        raise Wrong(done.stderr[-300:])
    return f"interrupted with exit status {process.returncode}"


SCENARIOS: tuple[Callable[[Job], str], ...] = (
    kills, full_disk, full_disk_of_a_cluster, clock_jumps, two_writers, command_line,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", nargs="+", choices=[s.__name__ for s in SCENARIOS])
    given = parser.parse_args()
    random.seed(given.seed)
    chosen = [s for s in SCENARIOS if not given.only or s.__name__ in given.only]
    until, runs, failures = time.monotonic() + 60 * given.minutes, 0, []
    ends: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    while runs < len(chosen) or time.monotonic() < until:
        scenario = chosen[runs % len(chosen)]
        runs += 1
        with tempfile.TemporaryDirectory(prefix="nbgather-soak-") as name:
            job = Job(Path(name))
            try:
                said = scenario(job)
                job.check()
                ends[scenario.__name__][said] += 1
            except (Wrong, subprocess.TimeoutExpired) as error:
                failures.append(f"{scenario.__name__}: {error}")
                print("FAILED", failures[-1], flush=True)
    for title, counts in ends.items():
        print(f"{title}: {counts.total()} runs right")
        for said, count in counts.most_common(5):
            print(f"    {count} × {said}")
    print(f"soak: {runs - len(failures)} passed, {len(failures)} failed")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
