"""Where a GPU's kernels come from: the package, the user's cache, the compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cuda.bindings import driver as bindings
from script_modules import SCRIPTS, script_module
from stub_driver import OK, StubDriver, installed

from nbgather.kernels import archive
from nbgather.kernels.cpu import cache
from nbgather.kernels.cuda import contexts, gather, images, masking
from nbgather.kernels.cuda import driver as our_driver

ROOT = SCRIPTS.parent
SCRIPT = SCRIPTS / "build_cuda.py"
#: Few of all kernels: what is packed for the tests.
ONLY = "'rows', 1, 16, 'i8'"
COPY = images.kernel(("copy", 1, 8, False), 2, 6)


def make_copy(memory: Any) -> Any:
    return gather.make_copy(memory, 1, 8, False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of few kernels, made by a process of its own."""
    path = tmp_path_factory.mktemp("images")
    done = run_script("--only", ONLY, "--folder", str(path), "--processes", "1")
    assert done.returncode == 0, done.stderr
    return path


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def build_cuda() -> Iterator[ModuleType]:
    """The script; what the usual calls ask for is found out once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
        patch.setenv("NBGATHER_SHIPPED_KERNELS", "0")  # which the script sets
        script = script_module("build_cuda")
        asked = script.asked_for()
        patch.setattr(script, "_builds", lambda: asked)
        yield script


@pytest.fixture
def shipped_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Makes archives of a folder those of the package."""

    def use(path: Path) -> None:
        monkeypatch.setattr(images, "FOLDER", path)
        images.shipped.cache_clear()

    monkeypatch.setenv("NBGATHER_SHIPPED_KERNELS", "1")
    yield use
    monkeypatch.undo()
    images.shipped.cache_clear()


def origins(kernel: images.Kernel, build: Any, cc: tuple[int, int] = (9, 0)) -> list[str]:
    return [image.origin for image in images.find(kernel, build, cc)]


CHILD = """
import json, sys, time
import numpy
begun, cpu = time.perf_counter(), time.process_time()
for name in ("numba", "numba_cuda", "numba.cuda", "llvmlite"):
    sys.modules[name] = None  # an import of it fails
from pathlib import Path
import nbgather
from nbgather.kernels.cuda import images
images.FOLDER = Path({folder!r})
sys.path.insert(0, {scripts!r})
import cuda_stub
installed = cuda_stub.installed()
stub = installed.__enter__()
seen = {{"images": [], "names": [], "launches": []}}
def note(name, arguments):
    if name == "cuLibraryLoadData":
        seen["images"].append(arguments[0][:4].hex())
        seen["code"] = arguments[0]
    if name == "cuLibraryGetKernel":
        seen["names"].append(arguments[1] in seen["code"])
    if name == "cuLaunchKernel":
        seen["launches"].append([time.perf_counter() - begun, time.process_time() - cpu])
stub.seen = note
x, ids = cuda_stub.empty((1024, 768)), cuda_stub.spread((128, 1), 128, 768)
{calls}
del seen["code"]
seen["loaded"] = [n for n in sys.modules if n.startswith(("numba", "llvmlite")) and sys.modules[n]]
print(json.dumps(seen))
"""


def child(folder: Path, calls: str) -> subprocess.CompletedProcess[str]:
    code = CHILD.format(folder=str(folder), scripts=str(SCRIPTS), calls=calls)
    environment = {**os.environ, "NBGATHER_SHIPPED_KERNELS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


def test_a_kernel_of_the_package_needs_the_driver_alone(folder: Path) -> None:
    """No numba, no numba-cuda and no LLVM can be imported, and calls are launched soon."""
    done = child(folder, 'nbgather.gather(x, 0, ids); nbgather.gather(x, 0, ids, mode="clip")')
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["images"] == [b"\x7fELF".hex()] * 2
    assert seen["names"] == [True] * 2
    assert seen["loaded"] == []
    (wall, cpu), _ = seen["launches"]
    print(f"from nbgather's import to the launch: {wall:.3f} s, {cpu:.3f} s of the CPU")
    assert cpu < 0.5  # it was 0.12, the import of the bindings most of it


def test_without_a_compiler_a_rare_kernel_is_one_clear_error(folder: Path) -> None:
    done = child(folder, "nbgather.gather(x, 0, cuda_stub.empty((3, 768), 'u2'))")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the kernel ('elements', ")
    assert last.endswith(
        "does not come with nbgather for a device of compute capability 9.0, and numba-cuda, which"
        " compiles it, is not installed: pip install 'nbgather[cuda]'"
    )


def test_compiled_again_they_are_the_same(folder: Path, build_cuda: ModuleType) -> None:
    """Byte for byte, in another process, after other kernels."""
    masking.make_token_noise(build_cuda.compiler.memory())
    images.compiled(COPY, make_copy, (9, 0))
    kernels = [kernel for kernel in build_cuda._builds() if ONLY in repr(kernel.key)]
    assert len(kernels) > 1
    for kernel in (kernels[-1],):
        module, codes = build_cuda.compiled(kernel)
        assert module == "gather"
        assert codes.keys() == set(images.every_name())
        for name, code in codes.items():
            held = archive.opened(images.path_of(name, folder))
            assert held is not None
            assert archive.read_from(held, tuple(kernel)) == code


def test_what_is_up_to_date_is_not_compiled_again(
    folder: Path, tmp_path: Path, build_cuda: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    where = ["--folder", str(tmp_path)]

    def wrong(only: str = ONLY) -> str:
        with pytest.raises(SystemExit) as ended:
            build_cuda.main(["--check", "--only", only, *where])
        return str(ended.value)

    build_cuda.main(["--only", ONLY, *where])
    assert ", 0 to compile" in capsys.readouterr().out
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    build_cuda.main(["--check", "--only", ONLY, *where])
    assert "is of other sources: other calls" in wrong(ONLY[:-6])
    path = images.path_of("sm_90", tmp_path)
    held = archive.opened(path)
    assert held is not None
    others = {module: ("0" * 32, paths) for module, (_, paths) in held.sources.items()}
    path.write_bytes(archive.pack([], others, held.toolchain))
    assert "sm_90.kernels is of other sources: gather" in wrong()
    path.unlink()
    assert "sm_90.kernels is missing" in wrong()


@pytest.mark.skipif(not images.path_of("sm_90").exists(), reason="no archives are kept")
def test_they_are_of_these_sources_and_of_all_usual_calls() -> None:
    done = run_script("--check")
    assert (done.returncode, done.stderr) == (0, "")
    sizes = [images.path_of(name).stat().st_size for name in images.every_name()]
    assert sum(sizes) < 4_000_000


def test_archives_of_other_sources_are_ignored(
    folder: Path, tmp_path: Path, shipped_from: Any, build_cuda: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("NBGATHER_SHIPPED_KERNELS", "1")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(images, "can_compile", lambda: False)
    shipped_from(folder)
    assert images.are_shipped()
    (held,) = (archive.opened(p) for p in folder.iterdir() if p.name == "sm_90.kernels")
    assert held is not None
    found = [k for k in build_cuda._builds() if archive.digest(tuple(k)) in held.functions]
    monkeypatch.setenv("NBGATHER_SHIPPED_KERNELS", "1")
    finding = images.find(found[0], make_copy, (9, 0))
    assert [next(finding).origin, next(finding).origin] == ["sm_90", "compute_80"]
    monkeypatch.setenv("NBGATHER_SHIPPED_KERNELS", "0")
    with pytest.raises(ImportError):
        origins(found[0], make_copy)
    monkeypatch.setenv("NBGATHER_SHIPPED_KERNELS", "1")
    sources = {"gather": ("0" * 32, ("constants.py",))}
    data = archive.pack([{archive.digest(tuple(COPY)): b"code"}], sources, "nobody")
    for name in images.every_name():
        images.path_of(name, tmp_path).write_bytes(data)
    shipped_from(tmp_path)
    assert not images.are_shipped()
    with pytest.raises(ImportError, match="does not come with nbgather"):
        origins(COPY, make_copy)


def test_every_device_is_served_by_what_runs_on_it() -> None:
    serves = {
        (7, 5): (), (8, 0): ("sm_80", "compute_80"), (8, 9): ("sm_80", "compute_80"),
        (9, 0): ("sm_90", "compute_80"), (10, 0): ("sm_100", "compute_80"),
        (10, 3): ("sm_100", "compute_80"), (11, 0): ("compute_80",),
        (12, 1): ("sm_120", "compute_80"), (13, 0): ("compute_80",),
    }  # fmt: skip
    assert {cc: images.names_for(cc) for cc in serves} == serves


def test_a_rare_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NBGATHER_SHIPPED_KERNELS", "0")
    (first,) = images.find(COPY, make_copy, (9, 0))
    assert first.origin == "compiler"
    assert first.code.startswith(b"\x7fELF")
    assert images.entry_name(COPY).encode() in first.code
    (path,) = tmp_path.rglob(f"*{cache.SUFFIX}")
    assert path.name.startswith("cuda.copy-")
    assert next(images.find(COPY, make_copy, (9, 0))) == images.Image(first.code, "cache")
    assert next(images.find(COPY, make_copy, (8, 0))).origin == "compiler"
    assert cache.usage()[0] == 2
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert origins(COPY, make_copy) == ["compiler"]
    assert next(images.find(COPY, make_copy, (9, 0))).origin == "cache"
    # A driver that refuses what was kept gets what is compiled anew.
    assert origins(COPY, make_copy) == ["cache", "compiler"]
    assert cache.clear() > 0
    assert not list(tmp_path.rglob(f"*{cache.SUFFIX}"))


def test_a_folder_that_cannot_be_written_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    monkeypatch.setenv("NBGATHER_SHIPPED_KERNELS", "0")
    monkeypatch.setattr(images, "compiled", lambda *a: b"code")
    assert origins(COPY, make_copy) == ["compiler"]


class Refusing(StubDriver):
    """A driver that takes some images only."""

    takes: tuple[bytes, ...] = ()

    def cuLibraryLoadData(self, image: bytes, *options: Any) -> Any:
        if image not in self.takes:
            return bindings.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU, None
        return super().cuLibraryLoadData(image, *options)


def test_an_image_that_the_driver_refuses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = installed(monkeypatch, Refusing())
    stub.make_current(100)
    three = [images.Image(code, origin) for code, origin in
             ((b"1", "sm_90"), (b"2", "compute_80"), (b"3", "compiler"))]  # fmt: skip
    monkeypatch.setattr(images, "find", lambda *kernel: iter(three))
    place = our_driver.Place(0, 5)

    def launch(key: str) -> None:
        our_driver.launch(key, make_copy, (1, 1), (32, 1), place, (1, 2), (3, 4))

    stub.takes = (b"2", b"3")
    launch("one")
    assert stub.images == [b"2"]
    stub.takes = ()
    told = r"no image of the kernel 'two' \(sm_90: CUDA_ERROR_NO_BINARY_FOR_GPU, compute_80: CUDA_"
    with pytest.raises(RuntimeError, match=told):
        launch("two")

    def nothing_more(*kernel: Any) -> Iterator[images.Image]:
        yield three[0]
        raise ImportError("no compiler")

    monkeypatch.setattr(images, "find", nothing_more)
    with pytest.raises(
        RuntimeError, match=r"\(sm_90: CUDA_ERROR_NO_BINARY_FOR_GPU\); one for CUDA"
    ):
        launch("three")
    assert OK == bindings.CUresult.CUDA_SUCCESS
    contexts.capability.cache_clear()


def test_the_backend_asks_for_a_compiler_only_where_it_is_needed(
    folder: Path, tmp_path: Path, shipped_from: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(our_driver, "_no_device", lambda: "no device")
    monkeypatch.setattr(images, "can_compile", lambda: False)
    shipped_from(folder)
    assert our_driver.why_not() == "no device"
    shipped_from(tmp_path)
    assert our_driver.why_not() == "numba-cuda is not installed: pip install 'nbgather[cuda]'"
    monkeypatch.setattr(images, "can_compile", lambda: True)
    assert our_driver.why_not() == "no device"


def test_no_name_stands_for_numbas_when_kernels_are_built() -> None:
    code = """if True:
        import sys
        from nbgather.kernels.cuda import backend, deferred
        assert "numba" not in sys.modules
        from nbgather.kernels.cuda import compiler
        compiler.memory()
        for name, module in sys.modules.items():
            if name.startswith("nbgather.kernels.cuda") and module is not deferred:
                for key, value in vars(module).items():
                    assert "_Later" not in type(value).__name__, (name, key)
        from numba import cuda
        assert sys.modules["nbgather.kernels.cuda.gather"].cuda is cuda
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_numbers_of_a_key_are_numbers() -> None:
    import numpy as np

    plain = images.kernel(("rows", 1, 16, "i8", False), 5, 9)
    assert images.kernel(("rows", np.int64(1), np.uint8(16), "i8", np.bool_(False)), 5, 9) == plain
    assert images.entry_name(plain) != images.entry_name(plain._replace(numbers=8))
