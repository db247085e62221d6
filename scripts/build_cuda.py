"""Compile the usual kernels for the usual GPUs: nbgather/kernels/images.

    python scripts/build_cuda.py            compile what changed (all of it takes minutes)
    python scripts/build_cuda.py --check    fail if something would change
    python scripts/build_cuda.py --list     print what is compiled

Which kernels that are is found out: the calls of `cuda_calls` are made with a driver that does
nothing, and what they ask for is written down. Each is compiled once, to PTX for the oldest
architecture, and assembled for each; the PTX comes along for architectures to come. No GPU is
needed, and the same sources and compilers give the same bytes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib.metadata
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS.parent), str(SCRIPTS)]
os.environ["NBGATHER_SHIPPED_KERNELS"] = "0"

import cuda_calls  # noqa: E402
import cuda_stub  # noqa: E402
from kernel_sources import imported_sources  # noqa: E402

from nbgather import files  # noqa: E402
from nbgather.kernels import archive  # noqa: E402
from nbgather.kernels.archive import KERNELS, Sources  # noqa: E402
from nbgather.kernels.cuda import compiler, images  # noqa: E402

#: What compiles, apart from numba: its wheels' names.
COMPILERS = ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")
#: Multiprocessors of the devices whose calls are listened to, and bytes of their second-level
#: cache, by which paths are chosen. One has none, so that all results are beyond it.
DEVICES = ((108, 40 << 20), (132, 50 << 20), (170, 0))
SPAWN = multiprocessing.get_context("spawn")

Build = Callable[[Any], Any]
#: What makes each kernel that is asked for, by what it is known by.
Asked = dict[images.Kernel, Build]
#: The code of each kernel, by the name of an archive.
Codes = dict[str, dict[images.Kernel, bytes]]


@functools.cache
def toolchain() -> str:
    """The compilers and their versions."""
    return " ".join(f"{name}-{importlib.metadata.version(name)}" for name in COMPILERS)


def asked_for() -> Asked:
    """The kernels that the usual calls ask for, in a fixed order."""
    asked: Asked = {}

    def find(kernel: images.Kernel, build: Build, cc: tuple[int, int]) -> Any:
        asked[kernel] = build
        yield images.Image(b"nothing", "stub")

    found = images.find
    images.find = find
    try:
        for device in DEVICES:
            with cuda_stub.installed(images.ARCHITECTURES[1], *device):
                cuda_calls.usual_calls()
    finally:
        images.find = found
    return dict(sorted(asked.items(), key=repr))


@functools.cache
def _builds() -> Asked:
    return asked_for()


def compiled(kernel: images.Kernel) -> tuple[str, dict[str, bytes]]:
    """The module of a kernel, and its code for each archive."""
    function = _builds()[kernel](compiler.memory())
    name = images.entry_name(kernel)
    oldest = images.OLDEST
    ptx = compiler.compile_ptx(function, kernel.addresses, kernel.numbers, oldest, name)
    codes = {images.PTX_NAME: ptx.encode() + b"\0"}
    for cc in images.ARCHITECTURES:
        codes[f"sm_{cc[0]}{cc[1]}"] = compiler.linked(ptx, cc)
    return function.__module__.rpartition(".")[2], codes


def module_of(build: Build) -> str:
    """The module that makes a kernel: nothing is compiled for it."""
    return str(build(compiler.memory()).__module__.rpartition(".")[2])


def sources_of(module: str) -> tuple[str, ...]:
    """The paths of a module of kernels, of what it imports, and of what compiles it."""
    first = [KERNELS / f"cuda/{name}.py" for name in (module, "memory", "compiler")]
    return imported_sources(first, Path.exists)


def all_sources(modules: set[str]) -> Sources:
    """What each module's kernels are made from."""
    paths = {module: sources_of(module) for module in sorted(modules)}
    return {module: (archive.digest_of_sources(p), p) for module, p in paths.items()}


def kept(held: archive.Archive | None, sources: Sources) -> set[str]:
    """The modules whose kernels in an archive are up to date."""
    if held is None or held.toolchain != toolchain():
        return set()
    return {m for m, made_from in sources.items() if held.sources.get(m) == made_from}


def build_all(
    asked: Asked, modules: dict[images.Kernel, str], sources: Sources, folder: Path, processes: int
) -> Codes:
    """The code of all kernels for each archive; what is up to date in a folder is kept."""
    names = images.every_name()
    codes: Codes = {name: {} for name in names}
    held = {name: archive.opened(images.path_of(name, folder)) for name in names}
    fresh = set.intersection(*(kept(one, sources) for one in held.values()))
    for name, one in held.items():
        for kernel in asked:
            code = archive.read_from(one, tuple(kernel)) if modules[kernel] in fresh else None
            if code is not None:
                codes[name][kernel] = code
    missing = [k for k in asked if any(k not in one for one in codes.values())]
    print(f"{len(asked)} kernels, {len(missing)} to compile", flush=True)
    for number, (kernel, (_, made)) in enumerate(_compiled(missing, processes)):
        for name, code in made.items():
            codes[name][kernel] = code
        if number % 20 == 19:
            print(f"{number + 1} compiled", flush=True)
    return codes


def _compiled(kernels: list[images.Kernel], processes: int) -> Any:
    if processes == 1 or len(kernels) < 2:
        yield from ((kernel, compiled(kernel)) for kernel in kernels)
        return
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=SPAWN) as pool:
        yield from zip(kernels, pool.map(compiled, kernels, chunksize=4), strict=True)


def group_of(kernel: images.Kernel) -> Any:
    """Kernels with much in common; few to a group, for a first call unpacks one."""
    key = kernel.key if isinstance(kernel.key, tuple) else (kernel.key,)
    return key[:3] if key[0] in ("elements", "rows") else key[:1]


def pack(codes: dict[images.Kernel, bytes], sources: Sources) -> bytes:
    """One archive."""
    groups: dict[Any, dict[bytes, bytes]] = {}
    for kernel in sorted(codes, key=repr):
        group = groups.setdefault(group_of(kernel), {})
        group[archive.digest(tuple(kernel))] = codes[kernel]
    return archive.pack(groups.values(), sources, toolchain())


def check(asked: Asked, sources: Sources, folder: Path) -> None:
    """Exit with what is missing, or was made from other sources."""
    wanted = {archive.digest(tuple(kernel)) for kernel in asked}
    for name in images.every_name():
        path = images.path_of(name, folder)
        held = archive.opened(path)
        if held is None:
            sys.exit(f"{path} is missing or damaged: run scripts/build_cuda.py")
        stale = sources.keys() - kept(held, sources)
        if stale or held.functions.keys() != wanted:
            sys.exit(
                f"{path} is of other sources: {', '.join(sorted(stale)) or 'other calls'} (made by"
                f" {held.toolchain}, here is {toolchain()}); run scripts/build_cuda.py"
            )
    print(f"{len(asked)} kernels in {len(images.every_name())} archives are up to date")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print what is compiled, and end")
    parser.add_argument("--check", action="store_true", help="fail if something would change")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many compile")
    parser.add_argument("--only", default="", help="only kernels whose key holds this")
    parser.add_argument("--folder", type=Path, default=images.FOLDER, help="of the archives")
    options = parser.parse_args(arguments)
    asked = {k: build for k, build in _builds().items() if options.only in repr(k.key)}
    if options.list:
        for kernel in asked:
            print(*kernel)
        print(f"{len(asked)} kernels")
        return
    modules = {kernel: module_of(build) for kernel, build in asked.items()}
    sources = all_sources(set(modules.values()))
    if options.check:
        check(asked, sources, options.folder)
        return
    codes = build_all(asked, modules, sources, options.folder, options.processes)
    for name, one in codes.items():
        path = files.write(images.path_of(name, options.folder), pack(one, sources))
        print(f"{path.name}: {path.stat().st_size} bytes, {sum(map(len, one.values()))} unpacked")


if __name__ == "__main__":
    main()
