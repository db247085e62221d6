"""The server of the page; what the page does in a browser is scripts/js_check's."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbgather
from nbgather.apps.web import ORT_WEB, find_ort, make_server
from nbgather.onnx import run


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "ort.wasm.min.mjs").write_text("export {};")
    (folder / "ort-wasm-simd-threaded.wasm").write_bytes(b"\0asm")
    (folder / "secret.txt").write_text("not to be served")
    return folder


@pytest.fixture
def address(dist: Path) -> Iterator[str]:
    with make_server(dist, port=0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def get(url: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read()


def test_what_is_served(address: str) -> None:
    kind, page = get(address)
    assert kind == "text/html; charset=utf-8"
    assert b"page.mjs" in page
    assert b"http" not in page  # nothing from a CDN
    assert get(f"{address}page.mjs")[0] == "text/javascript; charset=utf-8"
    assert get(f"{address}ort/ort.wasm.min.mjs?v=1")[1] == b"export {};"
    assert get(f"{address}ort/ort-wasm-simd-threaded.wasm")[0] == "application/wasm"
    assert get(f"{address}sample")[1][:3] == b"\xff\xd8\xff"


def test_the_model_that_is_served(address: str) -> None:
    x = np.random.default_rng(0).random((1, 16, 3), np.float32)
    outputs = run(
        get(f"{address}model.onnx")[1],
        x=x, seed_words=np.array([7, -2], np.int32), sample_id_words=np.zeros((1, 2), np.int32),
        epoch_word=np.array(2, np.int32), mask_ratio=0.5,
    )  # fmt: skip
    want = nbgather.random_masking(x, 0.5, seed=7 - 2**33, epoch=2)
    assert outputs["x_masked"].tobytes() == want.x_masked.tobytes()


@pytest.mark.parametrize(
    "name",
    ["nothing", "ort/secret.txt", "ort/../secret.txt", "ort/%2e%2e/dist/ort.wasm.min.mjs", "ort/",
     "__init__.py", "../pyproject.toml", "ort/sub/ort.wasm.min.mjs", "%00", "ort/ort.none.mjs"],
)  # fmt: skip
def test_nothing_else_is_served(address: str, name: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(address + name)


def headers(url: str, method: str = "GET") -> tuple[int, Any, bytes]:
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("name", ["", "page.mjs", "page.css", "model.onnx", "ort/no.mjs"])
def test_every_answer_says_what_a_browser_may_do(address: str, name: str, method: str) -> None:
    _, answered, _ = headers(address + name, method)
    policy = dict(part.split(" ", 1) for part in answered["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'", "script-src": "'self' 'wasm-unsafe-eval'", "style-src": "'self'",
        "connect-src": "'self'", "img-src": "'self'", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'",
    }  # fmt: skip
    assert answered["X-Content-Type-Options"] == "nosniff"


def test_the_page_has_nothing_inline(address: str) -> None:
    page = get(address)[1].decode()
    assert "<style" not in page
    assert " style=" not in page
    assert re.findall(r"<script[^>]*>[^<]", page) == []
    assert re.findall(r"\son\w+=", page) == []
    assert 'href="page.css"' in page
    assert get(f"{address}page.css")[0] == "text/css; charset=utf-8"


@pytest.mark.parametrize("name", ["", "page.mjs", "model.onnx", "ort/ort.wasm.min.mjs", "sample"])
def test_head_is_get_without_the_body(address: str, name: str) -> None:
    code, answered, body = headers(address + name, "HEAD")
    assert (code, body) == (200, b"")
    _, to_get, data = headers(address + name)
    assert answered["Content-Length"] == to_get["Content-Length"] == str(len(data))
    assert answered["Content-Type"] == to_get["Content-Type"]
    code, _, body = headers(f"{address}nothing", "HEAD")
    assert (code, body) == (404, b"")


def test_links_and_what_is_no_file_are_not_served(address: str, dist: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.mjs").write_text("not to be served")
    (dist / "ort.outside.mjs").symlink_to(tmp_path / "outside.mjs")
    (dist / "ort.inside.mjs").symlink_to(dist / "ort.wasm.min.mjs")
    (dist / "ort.broken.mjs").symlink_to(tmp_path / "nowhere")
    (dist / "ort.loop.mjs").symlink_to(dist / "ort.loop.mjs")
    (dist / "ort.folder.mjs").mkdir()
    os.mkfifo(dist / "ort.fifo.mjs")
    for name in ("outside", "inside", "broken", "loop", "folder", "fifo"):
        for method in ("GET", "HEAD"):
            code, _, body = headers(f"{address}ort/ort.{name}.mjs", method)
            assert (code, b"not to be" in body) == (404, False), name
    assert get(f"{address}ort/ort.wasm.min.mjs")[1] == b"export {};"


def port_of(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


def raw(address: str, request: bytes) -> bytes:
    """An answer to what no client would send."""
    with socket.create_connection(("127.0.0.1", port_of(address)), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize(
    "path",
    [
        "/ort/../secret.txt", "/ort/..%2fsecret.txt", "/ort/%2e%2e/%2e%2e/etc/passwd",
        "/ort/..%5csecret.txt", "/ort/..\\secret.txt", "/ort/%252e%252e%252fsecret.txt",
        "/../../../../etc/passwd", "//etc/passwd", "/ort//etc/passwd", "/ort/ort.mjs%00.txt",
        "/ort/ort.\xc0\xae\xc0\xae/secret.txt", "file:///etc/passwd", "/ort/ort/../secret.txt",
        "/%2e%2e/__init__.py", "/ort/./ort.wasm.min.mjs", "/ORT/ort.wasm.min.mjs", "*",
        "http://elsewhere/ort/ort.wasm.min.mjs", "/ort/ort.wasm.min.mjs/",
        "/ort/ort.wasm.min.mjs%0a",
    ],
)  # fmt: skip
def test_no_path_leads_out(address: str, path: str, dist: Path) -> None:
    (dist.parent / "secret.txt").write_text("not to be served")
    answer = raw(address, b"GET " + path.encode("latin-1") + b" HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 404 "), answer
    for secret in (b"root:", b"not to be served", b"export"):
        assert secret not in answer


def ends(connection: socket.socket, feed: bytes = b"") -> float:
    """Seconds until the server hangs up, while it is fed a byte at a time."""
    begun = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() < begun + 20:
        try:
            if feed:
                connection.send(feed)
            if connection.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("begin", [b"", b"GET /", b"GET / HTTP/1.1\r\nX-Slow: "])
@pytest.mark.parametrize("feed", [b"", b"a"])
def test_a_slow_client_is_let_go(
    address: str, monkeypatch: pytest.MonkeyPatch, begin: bytes, feed: bytes,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("nbgather.apps.web.server._REQUEST_SECONDS", 0.7)
    with socket.create_connection(("127.0.0.1", port_of(address))) as connection:
        connection.sendall(begin)
        assert b"<title>" in get(address)[1]  # others are served
        assert 0.3 < ends(connection, feed) < 5
    assert capfd.readouterr().err == ""


def test_a_client_that_takes_nothing_is_let_go(
    address: str, dist: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nbgather.apps.web.server._ANSWER_SECONDS", 0.5)
    (dist / "ort.large.wasm").write_bytes(bytes(64 << 20))
    before = threading.active_count()
    with socket.create_connection(("127.0.0.1", port_of(address))) as connection:
        connection.sendall(b"GET /ort/ort.large.wasm HTTP/1.0\r\n\r\n")
        until = time.monotonic() + 10
        seen = 0
        while time.monotonic() < until:
            seen = max(seen, threading.active_count())
            if seen > before and threading.active_count() == before:
                break
            time.sleep(0.01)
        assert seen > before
        assert threading.active_count() == before
    # And one that goes away in the middle.
    with socket.create_connection(("127.0.0.1", port_of(address))) as connection:
        connection.sendall(b"GET /ort/ort.large.wasm HTTP/1.0\r\n\r\n")
        connection.recv(10)
    assert b"<title>" in get(address)[1]
    assert capfd.readouterr().err == ""


def test_find_ort(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_ort(dist, tmp_path) == dist
    with pytest.raises(FileNotFoundError, match=r"holds no ort\.wasm\.min\.mjs"):
        find_ort(tmp_path, tmp_path)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "ort.wasm.min.mjs").symlink_to(dist / "ort.wasm.min.mjs")
    with pytest.raises(FileNotFoundError, match=f"is a symbolic link, .* leads to, {dist}"):
        find_ort(linked, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nor npm to fetch it"):
        find_ort(None, tmp_path / "cache")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho first >&2\necho 'no network' >&2\nexit 1\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(OSError, match=f"could not fetch onnxruntime-web {ORT_WEB}: no network"):
        find_ort(None, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    npm.write_text(
        '#!/bin/sh\nd=$3/node_modules/onnxruntime-web/dist\n/bin/mkdir -p "$d"\n'
        'echo x > "$d/ort.wasm.min.mjs"\n'
    )
    fetched = find_ort(None, tmp_path / "cache")
    assert (fetched / "ort.wasm.min.mjs").read_text() == "x\n"
    npm.unlink()
    assert find_ort(None, tmp_path / "cache") == fetched  # once
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_taken_port_is_one_line(dist: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on port {port}"):
            make_server(dist, port)
    with pytest.raises(OSError, match="cannot listen on port 99999"):
        make_server(dist, 99999)


def test_the_command_ends_cleanly(dist: Path) -> None:
    start = [sys.executable, "-c", "from nbgather.apps.cli import main; main()"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*start, "web", "--port", "0", "--ort", str(dist)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        # A shell's background jobs have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving http://127.0.0.1:"), line
            assert b"<title>" in get(line.split()[1])[1]
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=20)
            assert (process.returncode, error) == (0, "")
        finally:
            process.kill()


def test_a_folder_without_the_runtime_is_one_line(dist: Path, command: Any) -> None:
    done = command("web", "--ort", dist / "no")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
