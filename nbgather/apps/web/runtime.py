"""onnxruntime-web on this machine: the files that the page loads."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["ORT_WEB", "find_ort"]

#: The onnxruntime-web that the page is tested with.
ORT_WEB = "1.30.0"

#: The module that the page imports, and the names of all files that it may ask for.
LOADER = "ort.wasm.min.mjs"
FILE_NAME = re.compile(r"ort[\w.-]*\.(?:mjs|wasm)")


def find_ort(folder: Path | None, cache: Path) -> Path:
    """Find the files of onnxruntime-web, or have npm fetch them once.

    Parameters
    ----------
    folder : path, optional
        The ``dist`` folder of an onnxruntime-web that is installed already.
    cache : path
        Where npm puts it otherwise, once.

    Returns
    -------
    path

    Raises
    ------
    FileNotFoundError
        ``folder`` holds no onnxruntime-web, or links to its files; or there is no npm to fetch it.
    OSError
        npm failed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nbgather.apps.web import find_ort
    >>> with tempfile.TemporaryDirectory() as name:
    ...     dist = pathlib.Path(name)
    ...     _ = (dist / "ort.wasm.min.mjs").write_text("")
    ...     find_ort(dist, dist) == dist
    True
    """
    if folder is not None:
        if not (folder / LOADER).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {LOADER}: the dist folder of onnxruntime-web is needed"
            )
        if (folder / LOADER).is_symlink():
            raise FileNotFoundError(
                f"{folder / LOADER} is a symbolic link, which is not followed: give the folder it"
                f" leads to, {(folder / LOADER).resolve().parent}"
            )
        return folder
    folder = cache / f"onnxruntime-web-{ORT_WEB}"
    dist = folder / "node_modules" / "onnxruntime-web" / "dist"
    if (dist / LOADER).is_file():
        return dist
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"onnxruntime-web {ORT_WEB} is not there, nor npm to fetch it: install Node, or give"
            " --ort the dist folder of an onnxruntime-web"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as aside:
        done = subprocess.run(
            [npm, "install", "--prefix", aside, "--ignore-scripts", "--no-audit", "--no-fund",
             "--loglevel=error", f"onnxruntime-web@{ORT_WEB}"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise OSError(f"npm could not fetch onnxruntime-web {ORT_WEB}: {reason}")
        # Whole or not at all; if another process was first, its files are the same.
        if not folder.exists():
            Path(aside).rename(folder)
            Path(aside).mkdir()  # which TemporaryDirectory removes
    return dist
