"""Draw the picture of a run that goes on elsewhere: ``python scripts/resume_picture.py``.

The run of ``examples/resume_anywhere.py`` is made three times: whole, stopped in the middle of an
epoch, and of the one that was stopped the rest, on other ranks and workers.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from nbgather import files
from nbgather.figures import png_bytes
from nbgather.plotting import GOOD, MUTED, TEXT_POINTS, new_figure

SCRIPTS = Path(__file__).parent
EXAMPLE = SCRIPTS.parent / "examples" / "resume_anywhere.py"
STOPPED, RESUMED = (4, 2), (3, 0)


def log_of(folder: Path, ranks: int, workers: int, *more: str) -> str:
    """The log after a run of so many ranks and workers."""
    options = ["--folder", str(folder), f"--ranks={ranks}", f"--workers={workers}", *more]
    subprocess.run([sys.executable, str(EXAMPLE), *options], check=True)
    return (folder / "log.txt").read_text()


def losses(log: str) -> list[float]:
    return [float.fromhex(number) for number in re.findall(r"loss (\S+)", log)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = log_of(Path(folder) / "whole", 1, 0)
        stopped = log_of(Path(folder) / "run", *STOPPED, "--stop-after=3")
        resumed = log_of(Path(folder) / "run", *RESUMED)
    if resumed != whole or not whole.startswith(stopped):
        raise SystemExit("the logs differ")
    figure = new_figure(7.2, 3.0)
    axes, before = figure.subplots(), len(losses(stopped))
    steps = range(1, len(losses(whole)) + 1)
    axes.plot(steps, losses(whole), color=MUTED, label="never stopped: 1 rank, no worker")
    parts = (STOPPED, 0, before, "#b5651d"), (RESUMED, before, len(steps), GOOD)
    for (ranks, workers), first, last, colour in parts:
        label = f"{ranks} ranks, {workers or 'no'} workers each"
        axes.plot(steps[first:last], losses(resumed)[first:last], "o", color=colour, label=label)
    axes.axvline(before + 0.5, color=MUTED, linestyle=":")
    axes.set_xlabel("step; an epoch has four")
    axes.set_ylabel("loss")
    samples = len(re.findall(r"^ *\d+ \w{16}$", whole, re.MULTILINE))
    title = (
        f"stopped and resumed elsewhere: {len(steps)} losses and {samples} samples, byte for byte"
    )
    axes.set_title(title, fontsize=TEXT_POINTS)
    axes.legend(fontsize=TEXT_POINTS - 1, frameon=False)
    print(files.write(SCRIPTS / "pictures" / "resume.png", png_bytes(figure)))


if __name__ == "__main__":
    main()
