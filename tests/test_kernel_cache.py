"""The cache of compiled kernels: where it is, who shares it, and what a damaged file does."""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbgather
from nbgather.kernels.cpu import build, cache, compiler, loader, shipped

PACKAGE = Path(nbgather.__file__).parent

#: Calls of a few kernels, on one thread and on several; prints what was compiled.
CALLS = """
import sys
from nbgather.kernels.cpu import compiler

compiled, build = [], compiler._build

def counted(function, entry):
    compiled.append(f"{function.module}.{function.name}")
    return build(function, entry)

compiler._build = counted
import numpy as np, nbgather
x = np.arange(2_000_000.0).reshape(1000, 2000)
index = np.arange(2000) * np.ones((1000, 1), int)
assert (nbgather.gather(x, 1, index[:, ::-1]) == x[:, ::-1]).all()
assert nbgather.token_noise(0, 1, 1).tolist() == [[0.3990464210510254]]
assert bool(compiled) == ("numba" in sys.modules)
print(nbgather.__file__, *compiled, sep=chr(10))
"""


def run(folder: Path, package: Path = PACKAGE) -> list[str]:
    """Call kernels in a new process with this cache; the functions it compiled."""
    result = subprocess.run(
        [sys.executable, "-c", CALLS],
        env={
            **os.environ,
            "NUMBA_CACHE_DIR": str(folder),
            "PYTHONPATH": str(package.parent),
            "NBGATHER_SHIPPED_KERNELS": "0",
            "NBGATHER_VARIANT": "single",  # nothing is measured, which has a file of its own
        },
        cwd=package.parent,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    path, *compiled = result.stdout.splitlines()
    assert Path(path).parent == package
    return compiled


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in files(folder)}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with what the calls need, compiled once for all tests; not to be written to."""
    folder = tmp_path_factory.mktemp("cache")
    assert len(run(folder)) == len(files(folder)) > 2
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
    generator = random.Random(0)
    paths = files(warm)
    assert {path.suffix for path in paths} == {".nbc"}
    for path in paths:
        data, copy = path.read_bytes(), tmp_path / path.name
        assert cache.read(str(path)) == data[32:]
        for _ in range(200):
            changed = damage(data, generator)
            if changed != data:
                copy.write_bytes(changed)
                assert cache.read(str(copy)) is None
    assert cache.read(str(tmp_path / "missing")) is None


def test_a_file_under_the_name_of_another_is_refused(warm: Path, tmp_path: Path) -> None:
    first, second = files(warm)[:2]
    copy = tmp_path / second.name
    shutil.copy(first, copy)
    assert cache.read(copy) is None
    shutil.copy(second, copy)
    assert cache.read(copy) is not None


def test_a_whole_cache_is_read_and_not_written(warm: Path) -> None:
    before = stamps(warm)
    assert run(warm) == []
    assert stamps(warm) == before


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_made_anew(warm: Path, tmp_path: Path, seed: int) -> None:
    """Nothing is aborted, and the next start finds whole files again, as the test above says."""
    folder = tmp_path / "cache"
    shutil.copytree(warm, folder)
    generator = random.Random(seed)
    before, damaged = stamps(folder), []
    for path in before:
        if generator.randrange(2):
            # Anywhere in what LLVM reads.
            changed = bytearray(path.read_bytes())
            changed[generator.randrange(32, len(changed))] ^= 1 << generator.randrange(8)
            path.write_bytes(changed)
            damaged.append(path)
    assert len(run(folder)) == len(damaged)
    after = stamps(folder)
    assert after.keys() == before.keys()
    for path in before:
        assert cache.read(path) is not None, path
        assert path in damaged or after[path] == before[path]


def copied(tmp_path: Path) -> Path:
    """A second copy of the package, with files of other times."""
    package = tmp_path / "elsewhere" / "nbgather"
    shutil.copytree(
        PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copy
    )
    return package


def sources(package: Path) -> set[Path]:
    """What kernels are compiled from."""
    return {(package / "kernels" / "cpu" / name).resolve() for name in cache.SOURCES}


def test_a_second_copy_compiles_nothing_whatever_is_edited_but_kernels(
    warm: Path, tmp_path: Path
) -> None:
    package = copied(tmp_path)
    edited = {path.resolve() for path in package.rglob("*.py")} - sources(package)
    assert package / "kernels" / "cpu" / "launch.py" in edited
    for path in edited:
        path.write_text(path.read_text() + "\n# Another line.\n")
    before = stamps(warm)
    assert run(warm, package) == []
    assert stamps(warm) == before


def test_an_edit_of_a_kernel_compiles_it_elsewhere(warm: Path, tmp_path: Path) -> None:
    folder, package = tmp_path / "cache", copied(tmp_path)
    shutil.copytree(warm, folder)
    path = package / "kernels" / "cpu" / "intrinsics.py"
    path.write_text(path.read_text() + "\n# Another line.\n")
    before = stamps(folder)
    assert len(run(folder, package)) == len(before)
    after = stamps(folder)
    assert len(after) == 2 * len(before)
    assert after.items() >= before.items()


def test_the_sources_import_none_that_is_not_among_them() -> None:
    """A helper that kernels call and that the digest does not cover would leave old code behind."""
    listed = sources(PACKAGE)
    # These decide about no machine code that the key of a file does not tell apart.
    other = {f"nbgather.kernels.{name}" for name in ("cpu.compiler", "cpu.loader")}
    for path in listed:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
            else:
                continue
            for name in names:
                file = PACKAGE.parent / (name.replace(".", "/") + ".py")
                if file.is_file():  # neither a package nor a name within a module
                    assert file in listed or name in other, f"{path.name} imports {name}"


def test_every_compiled_function_is_in_the_sources() -> None:
    """`njit`, `intrinsic` and kernels' makers stand in no other module beside them."""
    listed = sources(PACKAGE)
    for path in (PACKAGE / "kernels" / "cpu").glob("*.py"):
        decorated = "@njit" in path.read_text() or "@intrinsic" in path.read_text()
        assert not decorated or path in listed, path


def key_path(**changed: object) -> Path:
    """The file of a kernel that differs in something from another."""
    values = {"module": "gather", "name": "make_gather", "traits": (0, True), "types": ("i8",)}
    values |= changed
    function = compiler.Function(**values)  # type: ignore[arg-type]
    path = cache.entry(function.module, function.name, function[2:]).path
    assert path is not None
    return path


def test_what_the_name_of_a_file_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first = key_path()
    assert key_path() == first
    changes = {"module": "rows", "name": "make", "traits": (0, 1.5), "types": ("i4",)}
    paths = {key_path(**{name: value}) for name, value in changes.items()}
    for variable in ("NUMBA_OPT", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_BOUNDSCHECK"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            paths.add(key_path())
    for module, name, value in (
        (loader, "_host", ("x86_64", "skylake", "+avx2")),
        (cache, "_toolchain", ("cpython-311", "", "0.1", "0.1")),
        (cache, "source_digest", "0" * 32),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda value=value: value)
            paths.add(key_path())
    assert len(paths - {first}) == 11
    assert {path.parent for path in paths if path.parent != first.parent} == {
        first.parent.parent / ("0" * 32)
    }
    assert len({path.name.partition("-")[0] for path in paths}) == 3


def test_the_file_of_numbas_settings_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    first = key_path()
    (tmp_path / ".numba_config.yaml").write_text("opt: 1\n")
    assert key_path() != first


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inside = Path("nbgather") / "kernels" / cache.source_digest()
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(cache.sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == tmp_path / ".cache" / inside
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which is to be ignored
    assert cache.folder() == tmp_path / ".cache" / inside
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / inside
    monkeypatch.setattr(cache.sys, "platform", "darwin")
    assert cache.folder() == tmp_path / "Library" / "Caches" / inside
    monkeypatch.setattr(cache.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache.folder() == tmp_path / "local" / inside
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert cache.folder() == tmp_path / "numba" / inside


def test_no_folder_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert cache.folder() is None


def older(base: Path, count: int, nbytes: int = 10) -> list[Path]:
    """Folders of other sources, the last used first."""
    folders = [base / f"{number:032x}" for number in range(count)]
    for age, folder in enumerate(folders):
        folder.mkdir()
        (folder / "gather.gather-1.nbc").write_bytes(bytes(nbytes))
        (folder / "gather.gather-2.nbc.tmp.1").write_bytes(b"")
        os.utime(folder, (1e9 - age, 1e9 - age))
    return folders


def test_the_least_recently_used_folders_go(tmp_path: Path) -> None:
    folders = older(tmp_path, 7)
    own = tmp_path / ("f" * 32)
    cache.write(own / "gather.gather-3.nbc", b"machine code")
    assert [f.exists() for f in folders] == [True] * 4 + [False] * 3
    assert cache.read(own / "gather.gather-3.nbc") == b"machine code"
    assert [path.name for path in files(own)] == ["gather.gather-3.nbc"]
    # A folder that exists makes no more of them.
    (tmp_path / ("e" * 32)).mkdir()
    cache.write(own / "gather.gather-4.nbc", b"machine code")
    assert folders[3].exists()


def test_the_size_of_all_folders_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "KEPT_BYTES", 2500)
    folders = older(tmp_path, 4, 1000)
    cache.trim(tmp_path / ("f" * 32))
    assert [f.exists() for f in folders] == [True, True, False, False]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    folders = older(tmp_path, 6)
    (folders[5] / "notes.txt").write_text("not a kernel")
    os.utime(folders[5], (1e8, 1e8))
    others = [tmp_path / "own things", tmp_path / ("A" * 32), tmp_path / ("0" * 31)]
    for other in others:
        other.mkdir()
        (other / "x.nbc").write_text("not a kernel")
        os.utime(other, (1, 1))
    (tmp_path / ("b" * 32)).write_text("a file")
    (tmp_path / ("c" * 32)).symlink_to(others[0])
    cache.trim(tmp_path / ("f" * 32))
    assert all((other / "x.nbc").exists() for other in others)
    assert (tmp_path / ("b" * 32)).exists()
    assert files(folders[5]) == [folders[5] / "notes.txt"]
    assert not folders[4].exists()
    cache.trim(tmp_path / "missing" / ("f" * 32))  # nothing to do, and no error


def test_code_that_needs_numba_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM would end the process that loads it without."""
    source = compiler.Function("repeat", "make_repeat", (16,), ("i8",) * 3)

    def prints(a):
        print(a)
        return a

    module = types.ModuleType("nbgather.kernels.cpu.printing")
    module.prints = prints  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(RuntimeError, match="without numba"):
        build.object_code(compiler.Function("printing", "prints", None, ("i8",)), "refused")
    code, kept = build.object_code(source, "accepted")
    assert code
    assert kept


def test_the_cache_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    own = cache.folder()
    assert own is not None
    base = own.parent
    base.mkdir(parents=True)
    older(base, 2)
    (base / "notes.txt").write_text("not a kernel")
    cache.write(own / "gather.gather-1.nbc", b"machine code")
    assert cache.usage() == (5, 20 + 32 + 12)
    assert "kernels kept     5 files, 64 bytes" in command("info").out
    ended = command("cache", "clear")
    assert (ended.code, ended.out) == (0, f"64 bytes were removed from {own}\n")
    assert [path.name for path in base.iterdir()] == ["notes.txt"]
    assert cache.usage() == (0, 0)
    assert cache.clear() == 0


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        cache.write(tmp_path / "own" / "x.nbc", b"machine code")
    assert files(tmp_path) == []


def test_who_compiles_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads' calls of kernels that are there go on, large ones and those of new shapes."""
    x = np.arange(3_000_000.0).reshape(1000, 3000)
    index = np.zeros((1000, 3000), np.int64)
    nbgather.gather(x, 1, index)
    begun, may_end = threading.Event(), threading.Event()
    build = compiler._build

    def slow(function: compiler.Function, entry: cache.Entry) -> bytes:
        begun.set()
        assert may_end.wait(60)
        return build(function, entry)

    monkeypatch.setattr(compiler, "_build", slow)
    monkeypatch.setattr(shipped, "read", lambda function: None)
    monkeypatch.setattr(cache, "read", lambda path: None)
    # An index that no other test asks for.
    types = "*u8", "*u8", "*i1", "*u8", "*i8", "i8", "i8"
    function = compiler.Function("probe", "make_probe", (1,), types)
    thread = threading.Thread(target=compiler.address, args=(function,))
    thread.start()
    try:
        assert begun.wait(60)
        for rows in range(900, 1000):
            result = nbgather.gather(x[:rows], 1, index[:rows])
            assert (result == x[:rows, :1]).all()
    finally:
        may_end.set()
        thread.join()
    assert function in compiler._addresses
