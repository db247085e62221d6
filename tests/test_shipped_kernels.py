"""The kernels that come with the package: up to date, whole, right, and enough for usual calls."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_kernel_cache import damage

from nbgather.apps import info
from nbgather.kernels import archive as archives
from nbgather.kernels.cpu import cache, loader, shipped

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "build_kernels.py"
ON_X86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="scripts/build_kernels.py runs on x86-64 machines",
)
#: Of all results of scripts/usual_calls.py, on every machine.
DIGEST = "3d241451bba01d151f7d3d6ada2f49fef7963ecefa74f3200dc17b4a019314a4"
KINDS = [kind for kinds in shipped.KINDS.values() for kind in kinds]


def usable() -> list[shipped.Kind]:
    """The kinds that this processor belongs to."""
    machine = os.uname().machine if sys.platform == "linux" else ""
    return [kind for kind in shipped.KINDS.get(machine, ()) if loader.has_features(kind.has)]


class Made(NamedTuple):
    """What the calls of scripts/usual_calls.py gave."""

    digest: str
    compiled: list[str]
    numba: bool


def calls(kind: str, folder: Path, package: Path = ROOT, **environment: str) -> Made:
    """Make usual calls in a new process, by the kernels for a kind of processors."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "usual_calls.py", kind],
        env={
            **os.environ,
            "NUMBA_CACHE_DIR": str(folder),
            "PYTHONPATH": str(package),
            "NBGATHER_SHIPPED_KERNELS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Made(**json.loads(done.stdout))


@ON_X86
def test_they_are_of_these_sources_and_of_all_usual_calls() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_they_are_small() -> None:
    assert sum(shipped.path_of(kind).stat().st_size for kind in KINDS) < 5_100_000


def test_what_the_users_cache_is_named_by_has_all_sources() -> None:
    for kind in KINDS:
        archive = shipped.opened(shipped.path_of(kind))
        assert archive is not None
        for _, paths in archive.sources.values():
            names = {p.removeprefix("cpu/") if p.startswith("cpu/") else f"../{p}" for p in paths}
            assert names <= set(cache.SOURCES)


@ON_X86
def test_compiled_again_they_are_the_same() -> None:
    """A few of them for every kind: byte for byte, on whatever processor this is."""
    archives = [shipped.opened(shipped.path_of(kind)) for kind in KINDS]
    (toolchain,) = {archive.toolchain for archive in archives if archive is not None}
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import build_kernels as build
from nbgather.kernels.cpu import shipped
functions = build.asked_for()
if build.TOOLCHAIN != {toolchain!r}:
    sys.exit(build.TOOLCHAIN)
archives = {{kind.name: shipped.opened(shipped.path_of(kind)) for kind in build.kinds()}}
for function in functions[:: len(functions) // 6]:
    for name, code in build.compiled(function).items():
        assert code == shipped.read_from(archives[name], function), (name, function)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.stderr.startswith("numba-"):
        pytest.skip(f"they were compiled by {toolchain}, here is {done.stderr}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", usable(), ids=lambda kind: kind.name)
def test_usual_calls_compile_nothing_on_a_cold_machine(kind: shipped.Kind, tmp_path: Path) -> None:
    blocked = tmp_path / "nothing can be written below a file"
    blocked.write_text("")
    assert calls(kind.name, blocked) == Made(DIGEST, [], False)


@pytest.mark.large
def test_without_them_kernels_are_compiled(tmp_path: Path) -> None:
    made = calls("none", tmp_path)
    assert made.digest == DIGEST
    assert len(made.compiled) > 50
    assert made.numba
    own = shipped.kind()
    if own is not None:
        # Of the cache that was filled without them.
        again = calls(own.name, tmp_path, NBGATHER_SHIPPED_KERNELS="0")
        assert again == Made(DIGEST, [], False)


@pytest.mark.parametrize(
    "variable", ["NUMBA_OPT=3", "NUMBA_CPU_NAME=generic", "NUMBA_BOUNDSCHECK=1"]
)
def test_who_tells_numba_how_to_compile_gets_that(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NBGATHER_SHIPPED_KERNELS", raising=False)
    assert shipped.is_allowed()
    monkeypatch.setenv(*variable.split("="))
    assert not shipped.is_allowed()


def test_an_edit_of_a_kernel_leaves_the_others(tmp_path: Path) -> None:
    package = tmp_path / "nbgather"
    shutil.copytree(ROOT / "nbgather", package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / "kernels" / "cpu" / "strategies.py"
    path.write_text(path.read_text() + "\n# Another line.\n")
    own = shipped.kind()
    if own is None:
        pytest.skip("nothing comes for this processor")
    made = calls(own.name, tmp_path / "cache", tmp_path)
    assert len(made.compiled) == 3
    assert all("module='strategies'" in function for function in made.compiled)


def test_the_best_kind_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for machine, kinds in shipped.KINDS.items():
        monkeypatch.setattr(os, "uname", lambda machine=machine: UName(machine))
        for kind in kinds:
            monkeypatch.setattr(
                loader, "_features", lambda kind=kind: dict.fromkeys(kind.has, True)
            )
            assert shipped.kind() == kind
        monkeypatch.setattr(loader, "_features", dict)  # as LLVM has it under an emulator
        assert shipped.kind() == (kinds[-1] if machine == "aarch64" else None)
    monkeypatch.setattr(os, "uname", lambda: UName("riscv64"))
    assert shipped.kind() is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert shipped.kind() is None


class UName:
    def __init__(self, machine: str) -> None:
        self.machine = machine


def read(archive: shipped.Archive, key: bytes) -> Any:
    group, offset, length = archive.functions[key]
    held = archives._group.__wrapped__(archive.path, *archive.groups[group])
    return None if held is None else held[offset : offset + length]


def test_every_damage_is_seen(tmp_path: Path) -> None:
    """A changed archive is missing, or what is read of it is what was written."""
    path = tmp_path / "small"
    generator = random.Random(0)
    groups = [
        {generator.randbytes(16): generator.randbytes(100) * 3 for _ in range(3)} for _ in range(4)
    ]
    sources = {"gather": ("00" * 16, ("cpu/gather.py",))}
    data = shipped.pack(groups, sources, "a b")
    path.write_bytes(data)
    whole = {key: code for group in groups for key, code in group.items()}
    archive = shipped.opened(path)
    assert archive is not None
    assert (archive.sources, archive.toolchain) == (sources, "a b")
    assert {key: read(archive, key) for key in archive.functions} == whole
    seen = 0
    for _ in range(2000):
        path.write_bytes(damage(data, generator))
        archive = shipped.opened(path)
        codes = {} if archive is None else {k: read(archive, k) for k in archive.functions}
        assert all(code is None or code == whole[key] for key, code in codes.items())
        seen += len(codes) == 0 or None in codes.values()
    assert seen > 1500  # else a byte was added at the end
    assert shipped.opened(tmp_path / "missing") is None


def test_a_python_without_lzma_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = shipped.in_use()
    if archive is None:
        pytest.skip("nothing comes for this processor")
    group = archive.groups[0]
    assert archives._group.__wrapped__(archive.path, *group) is not None
    monkeypatch.setitem(sys.modules, "lzma", None)
    assert archives._group.__wrapped__(archive.path, *group) is None


def test_a_damaged_head_asks_for_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "small"
    data = shipped.pack([{b"1" * 16: b"code"}], {"gather": ("00" * 16, ("a.py",))}, "a")
    for at in range(32, archives._HEAD.size):
        changed = bytearray(data)
        changed[at] = 0xFF
        path.write_bytes(changed)
        assert shipped.opened(path) is None


def test_info_tells_of_them() -> None:
    own = shipped.in_use()
    said = info.facts()["shipped kernels"]
    assert said == (f"{own.path.stem}, {len(own.functions)} functions" if own else "none")
