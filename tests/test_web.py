"""The server of the page; what the page does in a browser is scripts/js_check's."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nbgather
from nbgather.onnx import run
from nbgather.web import ORT_WEB, find_ort, make_server


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
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
    made = run(
        get(f"{address}model.onnx")[1],
        x=x, seed=7, sample_ids=np.array([0]), epoch=2, mask_ratio=0.5,
    )  # fmt: skip
    want = nbgather.random_masking(x, 0.5, seed=7, epoch=2)
    assert made["x_masked"].tobytes() == want.x_masked.tobytes()


@pytest.mark.parametrize(
    "name",
    ["nothing", "ort/secret.txt", "ort/../secret.txt", "ort/%2e%2e/dist/ort.wasm.min.mjs", "ort/",
     "__init__.py", "../pyproject.toml", "ort/sub/ort.wasm.min.mjs", "%00", "ort/ort.none.mjs"],
)  # fmt: skip
def test_nothing_else_is_served(address: str, name: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(address + name)


def test_find_ort(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_ort(dist, tmp_path) == dist
    with pytest.raises(FileNotFoundError, match=r"holds no ort\.wasm\.min\.mjs"):
        find_ort(tmp_path, tmp_path)
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
    found = find_ort(None, tmp_path / "cache")
    assert (found / "ort.wasm.min.mjs").read_text() == "x\n"
    npm.unlink()
    assert find_ort(None, tmp_path / "cache") == found  # fetched once
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
    command = [sys.executable, "-c", "from nbgather.cli import main; main()"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "web", "--port", "0", "--ort", str(dist)],
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
    done = subprocess.run(
        [*command, "web", "--ort", str(dist / "no")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
