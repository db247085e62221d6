"""Compile the usual kernels for the usual processors: nbgather/kernels/cpu/objects.

    python scripts/build_kernels.py            compile what changed (all of it takes minutes)
    python scripts/build_kernels.py --check    fail if something would change
    python scripts/build_kernels.py --list     print what is compiled

Which kernels that are is found out: the calls of `usual_calls` are made with kernels that do
nothing, and what they ask for is written down. The same sources, numba and llvmlite give the same
bytes on every x86-64 machine, since nothing is asked of the processor at hand.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import functools
import itertools
import multiprocessing
import os
import sys
from typing import Any

# Before numba is imported: what it does before LLVM knows the target is for any processor.
os.environ.update(NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="", NBGATHER_SHIPPED_KERNELS="0")

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from kernel_sources import imported_sources

from nbgather.kernels import machine, small

# Nor may it depend on the caches at hand which kernels are asked for: plans read their sizes once.
machine.cache_sizes = lambda: {1: 32 << 10, 2: 1 << 20, 3: 1 << 25}  # type: ignore[assignment]

import nbgather
from nbgather.engine import memo, plan
from nbgather.kernels.constants import METHODS, RAISE
from nbgather.kernels.cpu import build, cache, compiler, launch, openmp, programs, shipped, variants
from nbgather.kernels.cpu.builtins import FASTCALL_TYPES as FASTCALL
from nbgather.kernels.cpu.compiler import Function
from nbgather.kernels.plans import STREAM_BYTES

#: Kernels that are called to call others, and so must be what they are.
REAL = ("team", "repeat")
#: Kernels that there are for each way to move items.
STAGED = ("gather", "gather_staged")
TOOLCHAIN = f"numba-{numba.__version__} llvmlite-{llvmlite.__version__}"
SPAWN = multiprocessing.get_context("spawn")
MODES = (("raise", {}), ("clip", {}), ("wrap", {}), ("fill", {"fill_value": 0}))
INDICES = ("i4", "i8")
Sources = dict[str, tuple[str, tuple[str, ...]]]
#: Patches and channels that models have.
PATCHES, CHANNELS, PIXELS = (4, 8, 14, 16, 32), (1, 3, 4), ("u1", "f4")


def gather_items() -> None:
    """Gather items: every form, in the caches and beyond them."""
    for item, index, (mode, fill) in itertools.product((1, 2, 4, 8), INDICES, MODES):
        dtype = np.dtype(f"u{item}")

        def both(x: np.ndarray, shape: tuple[int, ...], dim: int) -> None:
            i = np.empty(shape, index)  # noqa: B023
            nbgather.gather(x, dim, i, mode=mode, **fill)  # noqa: B023
            nbgather.take_along_axis(x, i, dim, mode=mode, **fill)  # noqa: B023

        both(np.empty((64, 512), dtype), (64, 128), 1)  # last
        both(np.empty((4, 64, 128), dtype), (4, 16, 128), 1)  # middle
        both(
            np.empty((STREAM_BYTES // item // 512, 64, 8), dtype),
            (STREAM_BYTES // item // 512, 64, 8),
            1,
        )
        both(np.empty((512, 64), dtype).T, (64, 128), 1)  # strided
        many = STREAM_BYTES // item // 512
        both(np.empty((many, 1024), dtype), (many, 512), 1)
        both(np.empty((1024, many), dtype), (512, many), 0)
        both(np.empty((512, many), dtype).T, (many, 512), 1)
        if mode != "raise":  # see `_is_shipped`
            continue
        for size, n in ((1 << 10, (1 << 13) // item), (1 << 12, many)):  # what is staged
            both(np.empty((size, n), dtype), (size, n), 0)
            both(np.empty((size, n), dtype).T, (n, size), 1)


def gather_rows() -> None:
    """Gather rows, and restore tokens."""
    for index, (mode, fill) in itertools.product(INDICES, MODES):
        for width in (3, 5, 6, 12, 24, 48, 96, 768, 3072):
            x, ids = np.empty((8, 32, width), "u1"), np.empty((8, 16), index)
            nbgather.gather_tokens(x, ids, mode=mode, **fill)
            nbgather.take_along_axis(x, ids[:, :, None], 1, mode=mode, **fill)
    for dtype, width in itertools.product(("f2", "f4", "f8"), (1, 8, 64, 768)):
        x, ids = np.empty((8, 16, width), dtype), np.empty((8, 32), "i8")
        nbgather.restore_tokens(x, ids, mask_token=np.zeros(width, dtype))


def scatter() -> None:
    """Scatter and add, also as the gradient of a gather."""
    for dtype, index in itertools.product(("u1", "u2", "u4", "u8", "f4", "f8"), INDICES):
        for columns in (1, 8, 64):
            for size in (4, 32, 1 << 14):
                x, src = np.empty((8, size, columns), dtype), np.empty((8, 32, columns), dtype)
                i = np.empty(src.shape, index)
                for call in (nbgather.scatter, nbgather.scatter_add):
                    if call is nbgather.scatter or dtype not in ("u1", "u2"):
                        call(x, 1, i, src)
                        call(x[0, :, 0], 0, i[0, :, 0], src[0, :, 0])
        x, i = np.empty((8, 64), dtype), np.empty((8, 64), index)
        nbgather.scatter(x, 1, i, x.copy(), out=x.copy())
        x, i = np.empty(1 << 22, dtype), np.empty(1 << 22, index)
        nbgather.scatter(x, 0, i, x)
        if dtype not in ("u1", "u2"):
            nbgather.scatter_add(x, 0, i, x)
            nbgather.scatter_add(x[: 1 << 17], 0, i[: 1 << 17], x[: 1 << 17])  # of far places


def reductions() -> None:
    """Reduce floats by int64: lanes, columns, rows of one index, few lanes, segments, bags."""
    for reduce, own in itertools.product(("mean", "amax", "amin"), (True, False)):
        x, src = np.empty((8, 32, 64), np.float32), np.empty((8, 32, 64), np.float32)
        i, flat = np.empty(src.shape, np.int64), np.empty(1 << 20, np.float32)
        for args in (
            (x[0], 1, i[0], src[0]),
            (x, 1, i, src),
            (x, 1, np.broadcast_to(i[:, :, :1], i.shape), src),
            (flat, 0, np.empty(flat.shape, np.int64), flat),
        ):
            nbgather.scatter_reduce(*args, reduce, include_self=own)
        if not own:
            continue
        nbgather.set_num_threads(8)  # as many share the places of one lane
        nbgather.scatter_reduce(*args, reduce, include_self=own)
        nbgather.set_num_threads(2)
    for dtype, index in itertools.product(("f4", "f8"), INDICES):  # sums of rows
        x, i = np.empty((8, 32, 64), dtype), np.empty((8, 32, 1), index)
        nbgather.scatter_add(x, 1, np.broadcast_to(i, x.shape), x)
    for reduce in ("sum", "mean", "amax", "amin"):
        nbgather.segment_reduce(np.empty((8, 4), np.float32), reduce, counts=[4, 4])
    for reduce in ("sum", "mean"):
        x, ids = np.empty((8, 4), np.float32), np.empty((2, 3), np.int64)
        nbgather.gather_reduce(x, ids, reduce)
        nbgather.gather_reduce(x, ids.ravel(), reduce, offsets=np.array([0, 3, 6]))


def masking() -> None:
    """Mask, rank and draw."""
    x = np.zeros((2, 196, 16), np.float32)
    for source in ({"seed": 1}, {"noise": x[..., 0]}, {"noise": x[..., 0].astype("f8")}):
        nbgather.random_masking(x, 0.75, **source)
    nbgather.token_noise(1, 2, 196)
    long = np.zeros((1, 1 << 17), np.float32)
    for noise in (long, long.astype("f8")):
        nbgather.rank_tokens(noise, 1 << 16)
    nbgather.random_masking(long[..., None], 0.75, seed=1)
    for strategy in ("grid", "block", "time_frequency"):
        getattr(nbgather.strategies, strategy)(1, 2, (14, 14))


def patches() -> None:
    """Cut images into patches, put them together, and cut those that are kept."""
    for dtype, channels, size in itertools.product(PIXELS, CHANNELS, PATCHES):
        for samples in (1, 64):
            side = 4 * size
            first = np.empty((samples, channels, side, side), dtype)
            last = np.empty((samples, side, side, channels), dtype).transpose(0, 3, 1, 2)
            for images in (first, last):
                cut = nbgather.patchify(images, size)
                nbgather.unpatchify(cut, size, (side, side))
                nbgather.masked_patchify(images, size, 0.75, seed=1)
                nbgather.masked_patchify(images, size, 0.75, seed=1, scale=1 / 255)


def usual_calls() -> None:
    """Every call whose kernels come with the package."""
    gather_items()
    gather_rows()
    scatter()
    reductions()
    patches()
    masking()


def asked_for() -> list[Function]:
    """The functions that the usual calls ask for, whichever way of moving items is the fastest."""
    functions: dict[Function, None] = {}
    nothing = ctypes.CFUNCTYPE(ctypes.c_int64)(int)
    found = compiler._find

    def note(function: Function) -> int:
        functions[function] = None
        if function.module in REAL:
            return found(function)
        return ctypes.cast(nothing, ctypes.c_void_p).value or 0

    compiler._find = note
    nbgather.set_num_threads(2)
    usual_calls()
    for item in variants.MEASURED_ITEMS:
        variants._measure(item)
    for method in METHODS:
        os.environ["NBGATHER_VARIANT"] = method
        plan.plan_gather.cache_clear()  # plans keep what they asked for, and small calls
        memo.entries.clear()
        gather_items()
    functions[openmp.BODY] = functions[Function("repeat", "make_repeat", (16,), FASTCALL)] = None
    functions[programs.HANDLER] = None  # of what XLA compiles
    for of_pages in (launch.advise, launch.clear):
        of_pages(small.result(0), 0, run=launch.step)
    return sorted((f for f in functions if _is_shipped(f)), key=repr)


def _is_shipped(function: Function) -> bool:
    """Of kernels that there are for each way to move items, not all come with the package.

    Nor do those that stream, or stage a large input, but in the usual mode: to compile them takes
    no longer than a few of their calls, and archives are to be small.
    """
    if function.module not in STAGED or function.traits is None:
        return True
    mode, _, itemsize, method, streams = function.traits[:5]
    return method in variants.shipped_methods(int(itemsize)) and (mode == RAISE or not streams)


def group_of(function: Function) -> tuple[Any, ...]:
    """Functions with much in common: of those that small calls take, few to a group."""
    if function.module == "gather" and function.traits is not None and not function.traits[4]:
        return function.module, function.types, function.traits[0]
    if function.module in (*STAGED, "gather_rows", "patches"):
        return function.module, function.types[:1]
    return (function.module if function.module == "team" else function.name,)


def kinds() -> list[shipped.Kind]:
    """All kinds of processors."""
    return [kind for kinds in shipped.KINDS.values() for kind in kinds]


@functools.cache
def machines() -> dict[str, Any]:
    """A target machine of LLVM for each kind of processor, by its name."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return {
        kind.name: llvm.Target.from_triple(kind.triple).create_target_machine(
            cpu=kind.cpu,
            features=kind.features,
            opt=3,
            reloc="static" if kind.triple.startswith("x86") else "default",  # as numba has them
            codemodel="jitdefault",
            jit=True,
        )
        for kind in kinds()
    }


def compiled(function: Function) -> dict[str, bytes]:
    """The object code of a function for each kind of processor."""
    symbol = shipped.symbol(function)
    module = build.linked(function, symbol)
    return {
        name: build.emitted(module.clone(), symbol, machine) for name, machine in machines().items()
    }


def sources_of(module: str) -> tuple[str, ...]:
    """The paths of a module of kernels, of what it imports, and of what compiles it."""
    every = {(shipped.KERNELS / "cpu" / name).resolve() for name in cache.SOURCES}
    first = [shipped.KERNELS / f"cpu/{name}.py" for name in (module, "build")]
    return imported_sources(first, every.__contains__)


def all_sources(functions: list[Function]) -> Sources:
    """What each module's kernels are made from."""
    paths = {module: sources_of(module) for module in sorted({f.module for f in functions})}
    return {module: (shipped.digest_of_sources(p), p) for module, p in paths.items()}


def kept(archive: shipped.Archive | None, sources: Sources) -> set[str]:
    """The modules whose kernels in an archive are up to date."""
    if archive is None or archive.toolchain != TOOLCHAIN:
        return set()
    return {m for m, made_from in sources.items() if archive.sources.get(m) == made_from}


Codes = dict[str, dict[Function, bytes]]


def build_all(functions: list[Function], sources: Sources, processes: int) -> Codes:
    """The object code of all functions for each kind of processor; what is up to date is kept."""
    codes: Codes = {name: {} for name in machines()}
    archives = {kind.name: shipped.opened(shipped.path_of(kind)) for kind in kinds()}
    fresh = set.intersection(*(kept(archive, sources) for archive in archives.values()))
    for name, archive in archives.items():
        for function in functions:
            code = shipped.read_from(archive, function) if function.module in fresh else None
            if code is not None:
                codes[name][function] = code
    missing = [f for f in functions if any(f not in one for one in codes.values())]
    print(f"{len(functions)} functions, {len(missing)} to compile", flush=True)
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=SPAWN) as pool:
        results = pool.map(compiled, missing, chunksize=8)
        for number, (function, code) in enumerate(zip(missing, results, strict=True)):
            for name, one in code.items():
                codes[name][function] = one
            if number % 50 == 49:
                print(f"{number + 1} compiled", flush=True)
    return codes


def pack(codes: dict[Function, bytes], sources: Sources) -> bytes:
    """One archive."""
    groups: dict[tuple[Any, ...], dict[bytes, bytes]] = {}
    for function in sorted(codes, key=repr):
        groups.setdefault(group_of(function), {})[shipped.digest(function)] = codes[function]
    return shipped.pack(groups.values(), sources, TOOLCHAIN)


def check(functions: list[Function], sources: Sources) -> None:
    """Exit with what is missing, or was made from other sources."""
    wanted = {shipped.digest(f) for f in functions}
    for kind in kinds():
        archive = shipped.opened(shipped.path_of(kind))
        if archive is None:
            sys.exit(f"{shipped.path_of(kind)} is missing or damaged: run scripts/build_kernels.py")
        stale = sources.keys() - kept(archive, sources)
        if stale or archive.functions.keys() != wanted:
            sys.exit(
                f"{archive.path} is of other sources: {', '.join(sorted(stale)) or 'other calls'}"
                f" (made by {archive.toolchain}, here is {TOOLCHAIN});"
                " run scripts/build_kernels.py"
            )
    print(f"{len(functions)} functions for {len(kinds())} kinds of processors are up to date")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print what is compiled, and end")
    parser.add_argument("--check", action="store_true", help="fail if something would change")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many compile")
    options = parser.parse_args()
    functions = asked_for()
    if options.list:
        for function in functions:
            print(*function)
        return
    sources = all_sources(functions)
    if options.check:
        check(functions, sources)
        return
    shipped.FOLDER.mkdir(exist_ok=True)
    for name, codes in build_all(functions, sources, options.processes).items():
        path = shipped.FOLDER / (name + shipped.SUFFIX)
        path.write_bytes(pack(codes, sources))
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
