"""The server of the page: a handful of known names, to this machine alone."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import socket
import stat
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from nbgather.apps.photos import sample_photo
from nbgather.apps.web.runtime import FILE_NAME

__all__ = ["make_server"]

_HERE = Path(__file__).parent
_PAGE = ("index.html", "page.css", "page.mjs")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}

#: Only what this server sends is run, shown or asked for; the model's runtime is WebAssembly.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
#: The time that a client has for all of its request, and then to take the answer.
_REQUEST_SECONDS = 10.0
_ANSWER_SECONDS = 60.0


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
    >>> from nbgather.apps.web import make_server
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


class _Request(io.RawIOBase):
    """What a client sends, until a time at which all of it must have come.

    A timeout of the socket alone would begin anew with each byte.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._connection = connection
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request was not complete in time")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Page(http.server.BaseHTTPRequestHandler):
    """Serves a handful of known names: what a request names is no path on the disk."""

    folder: Path

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Request(self.connection, _REQUEST_SECONDS))

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client has gone
            super().handle()

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        name = self.path.partition("?")[0].lstrip("/") or "index.html"
        content = self._content(name)
        self.connection.settimeout(_ANSWER_SECONDS)
        if content is None:
            self.send_error(404)
            return
        kind, data = content
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _content(self, name: str) -> tuple[str, bytes] | None:
        kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
        if name in _PAGE:
            return kind, (_HERE / name).read_bytes()
        if name == "model.onnx":
            return kind, _model()
        if name == "sample":
            photo = _sample()
            return None if photo is None else ("image/jpeg", photo)
        folder, _, file = name.rpartition("/")
        if folder != "ort" or not FILE_NAME.fullmatch(file):
            return None
        data = _regular_file(self.folder / file)
        return None if data is None else (kind, data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the command prints a line of its own."""


def _regular_file(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none to read, or a link to one that may be anywhere."""
    if path.is_symlink():  # where the system cannot refuse to follow one
        return None
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # a pipe without a writer must not block
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


@lru_cache(maxsize=1)
def _model() -> bytes:
    from nbgather.onnx import masking_model

    model = masking_model(noise="seed", seed_words=True, ratio_input=True)
    return bytes(model.SerializeToString())


def _sample() -> bytes | None:
    """The bytes of a photo to begin with; None where matplotlib is not installed."""
    try:
        return sample_photo().read_bytes()
    except ImportError:
        return None
