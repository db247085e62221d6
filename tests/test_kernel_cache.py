"""Damaged files of the kernels' cache: found by their checksum, and made anew."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbgather.kernels.cpu import cache

CALLS = """
import numpy as np, nbgather
x = np.arange(2_000_000.0).reshape(1000, 2000)
index = np.arange(2000) * np.ones((1000, 1), int)
assert (nbgather.gather(x, 1, index[:, ::-1]) == x[:, ::-1]).all()
assert nbgather.token_noise(0, 1, 1).tolist() == [[0.3990464210510254]]
print("right")
"""


def run(cache: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CALLS],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "right\n", "")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    run(folder)
    return folder


def damage(data: bytes, generator: random.Random) -> bytes:
    """Flip bits, cut, lengthen or empty."""
    way = generator.randrange(6)
    if way == 0:
        return data[: generator.randrange(len(data))]
    if way == 1:
        return data + bytes([generator.randrange(256)])
    if way == 2:
        return bytes(len(data)) if generator.randrange(2) else b""
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 8])):
        changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def test_every_damage_is_seen(warm: Path, tmp_path: Path) -> None:
    generator, copy = random.Random(0), tmp_path / "copy"
    files = sorted(warm.rglob("*.nb?"))
    assert {f.suffix for f in files} == {".nbi", ".nbc"}
    for path in files:
        data = path.read_bytes()
        assert cache.read(str(path)) == data[32:]
        for _ in range(200):
            changed = damage(data, generator)
            if changed != data:
                copy.write_bytes(changed)
                assert cache.read(str(copy)) is None
    assert cache.read(str(tmp_path / "missing")) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_made_anew(warm: Path, tmp_path: Path, seed: int) -> None:
    """Nothing is aborted, and the next start finds whole files again."""
    folder = tmp_path / "cache"
    shutil.copytree(warm, folder)
    generator = random.Random(seed)
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*.nb?"))}
    # In the machine code, which LLVM reads, as well as in the index.
    for path, data in whole.items():
        if generator.randrange(2):
            changed = bytearray(data)
            changed[generator.randrange(32, len(data))] ^= 1 << generator.randrange(8)
            path.write_bytes(changed)
    run(folder)
    for path in whole:
        assert cache.read(str(path)) is not None, path
    stamps = {path: path.stat().st_mtime_ns for path in whole}
    run(folder)
    assert stamps == {path: path.stat().st_mtime_ns for path in whole}
