"""A page that masks photos in the browser, by the seeded ONNX model; served from this machine.

Nothing comes from elsewhere: the page, the model and onnxruntime-web are all served here.
"""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["ORT_WEB", "find_ort", "make_server"]

#: The onnxruntime-web that the page is tested with.
ORT_WEB = "1.30.0"

_HERE = Path(__file__).parent
_LOADER = "ort.wasm.min.mjs"
_ORT_FILE = re.compile(r"ort[\w.-]*\.(?:mjs|wasm)")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


def find_ort(folder: Path | None, cache: Path) -> Path:
    """Find the files of onnxruntime-web, or have npm fetch them once.

    Parameters
    ----------
    folder : path, optional
        The ``dist`` folder of an onnxruntime-web that is there already.
    cache : path
        Where npm puts it otherwise, once.

    Returns
    -------
    path

    Raises
    ------
    FileNotFoundError
        ``folder`` holds no onnxruntime-web; or there is no npm to fetch it.
    OSError
        npm failed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nbgather.web import find_ort
    >>> with tempfile.TemporaryDirectory() as name:
    ...     dist = pathlib.Path(name)
    ...     _ = (dist / "ort.wasm.min.mjs").write_text("")
    ...     find_ort(dist, dist) == dist
    True
    """
    if folder is not None:
        if not (folder / _LOADER).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {_LOADER}: the dist folder of onnxruntime-web is needed"
            )
        return folder
    home = cache / f"onnxruntime-web-{ORT_WEB}"
    dist = home / "node_modules" / "onnxruntime-web" / "dist"
    if (dist / _LOADER).is_file():
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
        # Whole or not at all; whoever was first has the same files.
        if not home.exists():
            Path(aside).rename(home)
            Path(aside).mkdir()
    return dist


def make_server(ort: Path, port: int = 8000) -> http.server.ThreadingHTTPServer:
    """Make the page's server, for this machine alone; ``serve_forever`` runs it.

    Parameters
    ----------
    ort : path
        The ``dist`` folder of onnxruntime-web.
    port : int
        Where it listens on 127.0.0.1; 0 for any free port.

    Returns
    -------
    http.server.ThreadingHTTPServer

    Raises
    ------
    OSError
        The port is taken.

    Examples
    --------
    >>> import pathlib
    >>> from nbgather.web import make_server
    >>> with make_server(pathlib.Path("."), port=0) as server:
    ...     server.server_address[0]
    '127.0.0.1'
    """

    class Page(_Page):
        folder = ort

    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), Page)
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen on port {port} of 127.0.0.1: {error}") from None


class _Page(http.server.BaseHTTPRequestHandler):
    """Serves a handful of known names, so no path of a request reaches the disk."""

    folder: Path

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].lstrip("/") or "index.html"
        found = self._content(name)
        if found is None:
            self.send_error(404)
            return
        kind, data = found
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(data)

    def _content(self, name: str) -> tuple[str, bytes] | None:
        kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
        if name in ("index.html", "page.mjs"):
            return kind, (_HERE / name).read_bytes()
        if name == "model.onnx":
            return kind, _model()
        if name == "sample":
            photo = _sample()
            return None if photo is None else ("image/jpeg", photo)
        folder, _, file = name.rpartition("/")
        if folder == "ort" and _ORT_FILE.fullmatch(file) and (self.folder / file).is_file():
            return kind, (self.folder / file).read_bytes()
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: whoever serves the page has a line of their own."""


@lru_cache(maxsize=1)
def _model() -> bytes:
    from nbgather.onnx import masking_model

    return bytes(masking_model(noise="seed", ratio_input=True).SerializeToString())


def _sample() -> bytes | None:
    """A photo to begin with, where matplotlib has one."""
    try:
        from matplotlib import cbook
    except ImportError:
        return None
    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).read_bytes()
