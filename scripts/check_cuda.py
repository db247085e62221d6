"""Compile every CUDA kernel, without a GPU or a driver, and look at the machine code.

    python scripts/check_cuda.py [WORDS]     all, or those whose name holds WORDS
    python scripts/check_cuda.py --quick     one of each kind, and of each set of demands

Prints a table of registers, shared memory and wide accesses for sm_80 and sm_90. Exit status 1 if a
kernel spills, has a stack, touches local memory, calls a division, fuses what is rounded twice,
copies rows by less than 128 bits at a time, or takes more registers than its bound.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from numba import cuda, types  # noqa: E402

from nbgather.cuda import device  # noqa: E402
from nbgather.kernels.constants import MODES  # noqa: E402
from nbgather.kernels.cuda import (  # noqa: E402
    blocks,
    compiler,
    folds,
    gather,
    masking,
    patches,
    radix,
    ranking,
    reports,
    scatter,
    scatter_rows,
    scatter_shared,
    strategies,
    writes,
)
from nbgather.kernels.cuda.positions import NUMBERS_PER_AXIS  # noqa: E402

ARCHITECTURES = ((8, 0), (9, 0))
RAISE, CLIP, WRAP, FILL = range(len(MODES))
U = np.uint64
#: What is out of bounds in the mode raise is filled, too: there is no kernel of its own.
KERNEL_MODES = (FILL, CLIP, WRAP, FILL)


class Kernel(NamedTuple):
    """What to compile, and what is asked of it."""

    name: str
    make: Callable[[Any], Any]
    addresses: int
    numbers: int
    registers: int = 64
    wide: bool = False  # 128-bit loads and stores
    calls: bool = False  # may call a subroutine
    divides: bool = False  # may divide integers, by a conversion to float
    pairs: bool = False  # two indices for each load
    streams: bool = False  # stores past the caches
    fuses: bool = True  # may multiply and add in one step, rounded once


def _gathers() -> list[Kernel]:
    kernels = []
    for axes, item, index, mode, from_end, wide in (
        (1, 4, "i8", RAISE, False, False),
        (2, 4, "i8", RAISE, False, False),
        (3, 1, "i4", RAISE, True, False),
        (3, 2, "u1", CLIP, False, False),
        (2, 8, "i8", FILL, False, False),
        (3, 16, "i8", RAISE, False, False),
        (3, 4, "i8", RAISE, False, True),
        (5, 4, "i8", RAISE, False, False),
    ):
        pairs, streams = index == "i8" and item in (4, 8) and axes < 5, axes in (2, 3)
        key = (axes, item, index, KERNEL_MODES[mode], from_end, wide, item == 8, pairs, streams)
        name = f"gather elements, {axes} axes, {item} B, {index}, {MODES[mode]}"
        kernels.append(
            Kernel(
                name + (", 64-bit" if wide else "") + (", panels" if item == 8 else ""),
                lambda memory, key=key: gather.make_gather_elements(memory, *key),
                5,
                gather.ELEMENTS_FIRST_AXIS + NUMBERS_PER_AXIS * axes,
                72,
                item == 16,
                pairs=pairs,
                streams=streams,
            )
        )
    # Out of bounds, wrap takes a remainder of 64 bits, which is a subroutine.
    kernels.append(
        Kernel(
            "gather elements, 2 axes, 4 B, i8, wrap",
            lambda memory: gather.make_gather_elements(
                memory, 2, 4, "i8", WRAP, False, False, False, False, False
            ),
            5,
            gather.ELEMENTS_FIRST_AXIS + 2 * NUMBERS_PER_AXIS,
            80,
            calls=True,
            divides=True,
        )
    )
    for width, mode, wide, row in (
        (16, RAISE, False, False),
        (8, RAISE, False, False),
        (4, FILL, False, False),
        (1, CLIP, False, False),
        (16, RAISE, True, False),
        (16, FILL, False, True),
    ):
        rows = (2, width, "i8", KERNEL_MODES[mode], False, wide, row, width > 4)
        name = f"gather rows, {width} B, {MODES[mode]}" + (", from a row" if row else "")
        kernels.append(
            Kernel(
                name + (", 64-bit" if wide else ""),
                lambda memory, rows=rows: gather.make_gather_rows(memory, *rows),
                6,
                gather.ROWS_FIRST_AXIS + 2 * NUMBERS_PER_AXIS,
                48,
                width == 16,
            )
        )
    for width, mode, row in ((16, RAISE, False), (4, FILL, True)):
        rows = (2, width, "i8", KERNEL_MODES[mode], False, False, row, width > 4)
        kernels.append(
            Kernel(
                f"gather short rows, {width} B, {MODES[mode]}",
                lambda memory, rows=rows: gather.make_gather_short_rows(memory, *rows),
                6,
                gather.ROWS_FIRST_AXIS + 2 * NUMBERS_PER_AXIS,
                72,
                width == 16,
            )
        )
    return kernels


def _others() -> list[Kernel]:
    """What looks for a bad index, and what writes a few bytes of the host."""
    find = (2, "i8", False, False)
    numbers = reports.FIND_FIRST_AXIS + 2 * NUMBERS_PER_AXIS
    return [
        Kernel("first bad index", lambda memory: reports.make_find(memory, *find), 3, numbers, 40),
        Kernel("bytes of the host", writes.make_write, 1, 2 + writes.WORDS, 80),
    ]


def _told(how: folds.How) -> str:
    """A reduction in a few words."""
    reduce, kind, own = how
    return f"{reduce} {kind}" + ("" if own else ", input apart")


def _scatters() -> list[Kernel]:
    per_axis = NUMBERS_PER_AXIS
    kernels = [
        Kernel("zeros", scatter.make_zeros, 1, 1, 16),
        Kernel("scatter bounds", scatter_rows.make_bounds, 3, 2, 24),
    ]
    for how, kind, item in ((scatter.SET, "u16", 16), (scatter.ADD, "f4", 4)):
        lines = (2, how, kind, item, "i8", False)
        kernels.append(
            Kernel(
                f"scatter lines, {('set', 'add')[how]} {kind}",
                lambda memory, key=lines: scatter.make_scatter_lines(memory, *key),
                4,
                scatter.LINES_FIRST_AXIS + 2 * per_axis,
                48,
            )
        )
    for kind, item in (("f4", 4), ("half", 2)):
        reduced = (2, scatter.REDUCE, kind, item, "i8", True, ("amax", kind, True))
        kernels.append(
            Kernel(
                f"scatter lines, {_told(reduced[-1])}, 64-bit",
                lambda memory, key=reduced: scatter.make_scatter_lines(memory, *key),
                4,
                scatter.LINES_FIRST_AXIS + 2 * per_axis,
                64,
            )
        )
    kernels += [
        Kernel(
            f"segment bounds by {by}, {index}",
            lambda memory, b=by, i=index: scatter_rows.make_segment_bounds(memory, b, i),
            4,
            3,
            40,
        )
        for by, index in (("offsets", "i8"), ("counts", "i4"), ("sums", "u4"))
    ]
    for how, item in ((scatter.ADD, 4), (scatter.ADD, 8), (scatter.ANY, 1)):
        atomic = (2, how, item, "i8", False)
        kernels.append(
            Kernel(
                f"scatter atomic, {('set', 'add', 'any')[how]} {item} B",
                lambda memory, key=atomic: scatter.make_scatter_atomic(memory, *key),
                4,
                scatter.ELEMENTS_FIRST_AXIS + 2 * per_axis,
                40,
            )
        )
    kernels.append(
        Kernel(
            "scatter claim",
            lambda memory: scatter.make_scatter_claim(memory, 2, "i8"),
            3,
            scatter.ELEMENTS_FIRST_AXIS + 2 * per_axis,
            32,
        )
    )
    kernels += [
        Kernel(
            f"scatter pick, {width} B",
            lambda memory, w=width: scatter.make_scatter_pick(memory, 2, w),
            4,
            scatter.PICK_FIRST_AXIS + 2 * per_axis,
            40,
            width == 16,
        )
        for width in (16, 4)
    ]
    for how, width in (
        *((folds.sum_of(k), 16) for k in ("f4", "b2", "f2", "c16")),
        (folds.sum_of("u1"), 4),
        (("mean", "f4", True), 16),
        (("mean", "i1", False), 16),
        (("amax", "f4", False), 16),
        (("amin", "half", True), 16),
        (("amax", "i1", True), 16),
        (("prod", "f2", True), 16),
        (("prod", "c16", True), 16),
    ):
        sums = (2, how, width, how[0] == "amax")
        kernels.append(
            Kernel(
                f"scatter rows, {_told(how)}, {width} B",
                lambda memory, key=sums: scatter_rows.make_row_sums(memory, *key),
                6,
                scatter_rows.SUMS_FIRST_AXIS + 2 * per_axis,
                80,
                width == 16,
                calls=how[0] == "mean",  # a division
                divides=how[0] == "mean",
                fuses=how[0] != "prod",
            )
        )
    for how in (folds.sum_of("f4"), ("amin", "f4", False)):
        kernels.append(
            Kernel(
                f"scatter row looks, {_told(how)}, 16 B",
                lambda memory, h=how: scatter_rows.make_row_looks(memory, 1, h, "i8", 16),
                5,
                scatter_rows.LOOKS_FIRST_AXIS + per_axis,
                64,
                True,
                divides=True,
            )
        )
    for how, beside in (
        (folds.sum_of("f4"), False),
        (folds.sum_of("f4"), True),
        (folds.sum_of("b2"), True),
        (folds.sum_of("c16"), False),
        (("amax", "f4", False), True),
        (("mean", "f4", True), False),
        (("prod", "c8", True), True),
    ):
        shared = (1, how, "i8", beside)
        kernels.append(
            Kernel(
                f"scatter shared lines, {_told(how)}" + (", beside" if beside else ""),
                lambda memory, key=shared: scatter_shared.make_shared_lines(memory, *key),
                5,
                scatter_shared.LINES_FIRST_AXIS + per_axis,
                64,
                calls=how[0] == "mean",
                divides=True,
                fuses=how[0] != "prod",
            )
        )
    for how in (
        *map(folds.sum_of, ("f4", "f8", "f2")),
        ("mean", "i8", True),
        ("amax", "half", False),
    ):
        kernels.append(
            Kernel(
                f"scatter buckets, {_told(how)}",
                lambda memory, h=how: scatter_shared.make_shared_buckets(memory, 2, h),
                7,
                scatter_shared.BUCKETS_FIRST_AXIS + 2 * per_axis,
                64,
                calls=how[0] == "mean",
                divides=how[0] == "mean",
            )
        )
    return kernels


def _sorts() -> list[Kernel]:
    index = scatter_rows.INDEX_FIRST_AXIS + 2 * NUMBERS_PER_AXIS
    sources: list[tuple[str, Callable[[Any], Any], int]] = [
        ("carried", radix.make_carried, radix.SOURCE_NUMBERS),
        ("index", lambda m: scatter_rows.make_index_source(m, 2, "i8", 0), index),
        ("index and f4", lambda m: scatter_rows.make_index_source(m, 2, "i8", 4), index),
    ]
    kernels = [Kernel("radix scan", radix.make_radix_scan, 2, 1, 32)]
    for name, source, numbers in sources:
        if name != "index and f4":
            kernels.append(
                Kernel(
                    f"radix count, {name}",
                    lambda memory, s=source: radix.make_radix_count(memory, s),
                    5,
                    numbers,
                    48,
                    divides=True,
                )
            )
        kernels.append(
            Kernel(
                f"radix sort, {name}",
                lambda memory, s=source: radix.make_radix_sort(memory, s, radix.make_pass_on),
                11,
                numbers,
                64,
                divides=True,
            )
        )
    return kernels


def _rankings() -> list[Kernel]:
    kernels = []
    for name, sources in ranking.WHOLE_SOURCES.items():
        kernels.append(
            Kernel(
                f"ranks by {name}, whole",
                lambda memory, s=sources: radix.make_radix_whole(memory, s, ranking.make_rank_sink),
                6,
                ranking.RANKING_NUMBERS,
                64,
            )
        )
    kernels.append(
        Kernel(
            "radix count, noise",
            lambda memory: radix.make_radix_count(memory, ranking.make_noise_source),
            5,
            ranking.RANKING_NUMBERS,
            64,
            divides=True,
        )
    )
    for name, source, sink in (
        ("noise", ranking.make_noise_source, radix.make_pass_on),
        ("f8 by token", lambda m: ranking.make_f8_source(m, 32, True), radix.make_pass_on),
        ("carried to ranks", radix.make_carried, ranking.make_rank_sink),
    ):
        kernels.append(
            Kernel(
                f"radix sort, {name}",
                lambda memory, s=source, k=sink: radix.make_radix_sort(memory, s, k),
                11,
                ranking.RANKING_NUMBERS,
                64,
                divides=True,
            )
        )
    return kernels


def _strategies() -> list[Kernel]:
    """Keys, and the sorts that make scores of them."""
    kernels = [
        Kernel(
            f"keys of {name}, {axes} axes",
            make,
            addresses,
            strategies.FIRST_SIZE + axes,
            64,
            calls=name == "block",  # roots and divisions of float64, which are made of such steps
            divides=True,
            fuses=name == "block",
        )
        for name, axes, addresses, make in (
            ("grid", 2, 2, lambda memory: strategies.make_grid_keys(memory, 2)),
            ("lines", 2, 3, lambda memory: strategies.make_line_keys(memory, 2)),
            ("block", 4, 3, strategies.make_block_keys),
        )
    ]
    for name, make, addresses, numbers in (
        ("stripes", lambda m: blocks.make_stripes(m, 2), 3, strategies.FIRST_SIZE + 4),
        ("scores of blocks", blocks.make_block_scores, 2, blocks.SCORE_NUMBERS),
        ("ids of blocks", blocks.make_block_ids, 5, blocks.IDS_NUMBERS),
    ):
        # A product is rounded before its whole part is taken; what adds to noise loses nothing.
        kernels.append(Kernel(name, make, addresses, numbers, 64, divides=True))

    def line_sources(memory: Any) -> Any:
        return (strategies.make_line_source(memory),)

    def word_sources(memory: Any) -> Any:
        return (blocks.make_word_source(memory),)

    def key_sources(memory: Any) -> Any:
        return tuple(strategies.make_key_source(memory, shift, False) for shift in (0, 32))

    for name, sources, numbers in (
        ("lines", line_sources, strategies.LINE_NUMBERS),
        ("words", word_sources, blocks.WORD_NUMBERS),
        ("keys", key_sources, radix.SOURCE_NUMBERS),
    ):

        def sink(memory: Any, scores: bool = name == "keys") -> Any:
            return strategies.make_place_sink(memory, scores)

        kernels.append(
            Kernel(
                f"places by {name}, whole",
                lambda memory, s=sources, k=sink: radix.make_radix_whole(memory, s, k),
                6,
                numbers,
                64,
            )
        )
    kernels.append(
        Kernel(
            "radix sort, high keys to scores",
            lambda memory: radix.make_radix_sort(
                memory,
                lambda m: strategies.make_key_source(m, 32, True),
                lambda m: strategies.make_place_sink(m, True),
            ),
            11,
            radix.SOURCE_NUMBERS,
            64,
            divides=True,
        )
    )
    return kernels


def _maskings() -> list[Kernel]:
    kernels = [Kernel("token noise", masking.make_token_noise, 2, 7, 40, divides=True)]
    for name, source, narrow in (
        ("seed", 0, True),
        ("seed", 0, False),
        ("float32", 1, False),
        ("float64", 2, False),
    ):
        for width in (16, 1) if narrow else (16,):
            kernels.append(
                Kernel(
                    f"masking by {name}, {width} B" + (", few tokens" if narrow else ""),
                    lambda memory, s=source, w=width, n=narrow: masking.make_masking(
                        memory, s, w, n
                    ),
                    8,
                    masking.MASKING_NUMBERS,
                    64,
                    width == 16,
                    divides=True,
                )
            )
    for how, pixel in ((0, "u1"), (0, "u4"), (0, "u16"), (1, "u1"), (1, "f4")):
        kernels.append(
            Kernel(
                f"patches, {('copied', 'normalised')[how]} {pixel}",
                lambda memory, h=how, p=pixel: patches.make_patches(memory, h, p),
                # A correctly rounded division of float32 is a subroutine for rare operands.
                4,
                patches.PATCHES_NUMBERS,
                48,
                calls=how == 1,
                divides=True,
            )
        )
    for item in (1, 4, 16):
        kernels.append(
            Kernel(
                f"copy of strides, {item} B",
                lambda memory, i=item: gather.make_copy(memory, 3, i, False),
                2,
                gather.COPY_FIRST_AXIS + 3 * NUMBERS_PER_AXIS,
                40,
            )
        )
    return kernels


def _of_device_functions() -> list[Kernel]:
    """Kernels as users write them, of the functions of ``nbgather.cuda.device``."""

    def masks(memory: Any) -> Any:
        """A thread draws a token's noise, and tells its rank among those of its sample."""
        store = memory.STORE["i8"]

        def kernel(out: Any, numbers: Any) -> None:
            scores = cuda.shared.array(1024, types.float32)
            token, tokens = cuda.threadIdx.x, numbers[0]
            scores[token] = device.token_noise(numbers[1], numbers[2], cuda.blockIdx.x, token)
            cuda.syncthreads()
            at = U(cuda.blockIdx.x) * U(tokens) + U(token)
            store(U(out + at * U(8)), device.rank(scores, tokens, token))

        return kernel

    def takes(mode: int) -> Any:
        """A thread takes an item of a row in shared memory, and tells where it was."""

        def make(memory: Any) -> Any:
            load, read = memory.LOAD["i8"], memory.LOAD["f4"]
            store, tell = memory.STORE["f4"], memory.STORE["i8"]

            def kernel(out: Any, positions: Any, row: Any, index: Any, numbers: Any) -> None:
                items = cuda.shared.array(1024, types.float32)
                k = U(cuda.threadIdx.x)
                items[cuda.threadIdx.x] = read(U(row + k * U(4)))
                cuda.syncthreads()
                wanted = load(U(index + k * U(8)))
                store(U(out + k * U(4)), device.take(items, wanted, mode, types.float32(0)))
                tell(U(positions + k * U(8)), device.position(wanted, numbers[0], mode))

            return kernel

        return make

    kernels = [Kernel("device.token_noise and rank", masks, 1, 3, 48)]
    for mode, name in enumerate(MODES):
        # Out of bounds, wrap takes a remainder of 64 bits, which is a subroutine.
        wraps = mode == WRAP
        kernels.append(
            Kernel(f"device.take, {name}", takes(mode), 4, 1, 48, calls=wraps, divides=wraps)
        )
    return kernels


def all_kernels() -> list[Kernel]:
    """One of each kind of kernel, and what differs most within a kind."""
    return [
        *_gathers(), *_others(), *_scatters(), *_sorts(), *_rankings(), *_strategies(),
        *_maskings(), *_of_device_functions(),
    ]  # fmt: skip


def some_of_each_kind(kernels: list[Kernel]) -> list[Kernel]:
    """The last of those named alike up to "by" or a comma, and one for every set of demands.

    Within a kind the last does most; what none of them is asked for, the first that is has.
    """
    kinds = {re.split(",| by ", kernel.name)[0]: kernel for kernel in kernels}
    chosen = {kernel.name for kernel in kinds.values()}
    asked = {_demands(kernel) for kernel in kinds.values()}
    for kernel in kernels:
        if _demands(kernel) not in asked:
            asked.add(_demands(kernel))
            chosen.add(kernel.name)
    return [kernel for kernel in kernels if kernel.name in chosen]


def _demands(kernel: Kernel) -> tuple[bool, ...]:
    return kernel.wide, kernel.pairs, kernel.streams, kernel.divides, kernel.fuses


def _tool(name: str) -> str:
    """A tool of the CUDA toolkit, from its wheels or the PATH."""
    from cuda import pathfinder

    path = pathfinder.find_nvidia_binary_utility(name) or shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not installed: pip install -e '.[dev]' brings it")
    return str(path)


def ptx_of(kernel: Kernel, cc: tuple[int, int] = ARCHITECTURES[0]) -> str:
    """A kernel as PTX.

    It is compiled for the oldest architecture and assembled for each: the texts for both are the
    same but for the target and the names, which tests/test_cuda_driver.py checks, and numba takes a
    second for each.
    """
    function = kernel.make(compiler.memory())
    return compiler.compile_ptx(function, kernel.addresses, kernel.numbers, cc)


def _facts(kernel: Kernel, ptx: str, cc: tuple[int, int], folder: Path) -> dict[str, int]:
    """What ptxas says of a kernel, and what is in its machine code."""
    parameters = len(re.findall(r"\.param \.\w+ \w+_param_\d+", ptx.split("{", 1)[0]))
    source, image = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(ptx)
    command = [_tool("ptxas"), "-v", f"-arch=sm_{cc[0]}{cc[1]}", str(source), "-o", str(image)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{kernel.name}: ptxas failed: {result.stderr.strip()}")
    text = result.stderr + result.stdout
    code = subprocess.run(
        [_tool("nvdisasm"), "-c", str(image)], capture_output=True, text=True, check=True
    ).stdout
    lines = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]+)", code, re.M)

    def total(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, text)))

    def count(pattern: str) -> int:
        return sum(bool(re.match(pattern, line)) for line in lines)

    return {
        "registers": max(map(int, re.findall(r"Used (\d+) registers", text))),
        "shared": total(r"(\d+) bytes smem"),
        "instructions": len(lines),
        "loads": count(r"LDG\b.*\.128"),
        "streamed": count(r"STG\b.*\.EF"),
        "stores": count(r"STG\b.*\.128"),
        # Arithmetic that is a subroutine; a call within the kernel only brings threads together.
        "reciprocals": count(r"MUFU\.RCP"),
        "calls": len(re.findall(r"CALL\S* `\(\S*__cuda_sm\S*\)", code)),
        "fused": count("FFMA|DFMA"),
        "local": count("LDL|STL"),
        "stack": total(r"(\d+) bytes stack frame"),
        "spills": total(r"(\d+) bytes spill"),
        "parameters": parameters,
    }


def _wrong(kernel: Kernel, facts: dict[str, int]) -> list[str]:
    """What is not as it was asked for."""
    problems = [name for name in ("local", "stack", "spills") if facts[name]]
    if facts["calls"] and not kernel.calls:
        problems.append("calls")
    if facts["reciprocals"] and not kernel.divides:
        problems.append("a division")
    if facts["fused"] and not kernel.fuses:
        problems.append("a multiply-add")
    if kernel.pairs and not facts["loads"]:
        problems.append("an index for each load")
    if kernel.streams and not facts["streamed"]:
        problems.append("no store past the caches")
    if kernel.wide and not (facts["loads"] and facts["stores"]):
        problems.append("no 128-bit access")
    if facts["registers"] > kernel.registers:
        problems.append(f"more than {kernel.registers} registers")
    if facts["parameters"] != kernel.addresses + kernel.numbers:
        problems.append("other parameters than are launched with")
    return problems


def main() -> int:
    """Check all kernels; the exit code."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    every = all_kernels()
    if wanted == "--quick":
        every = some_of_each_kind(every)
    else:
        every = [kernel for kernel in every if wanted in kernel.name]
    header = f"{'kernel':46} {'arch':6} regs shared  code ld128 st128 calls"
    print(header)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        for kernel in every:
            ptx = ptx_of(kernel)
            for cc in ARCHITECTURES:
                facts = _facts(kernel, ptx, cc, Path(name))
                problems = _wrong(kernel, facts)
                bad += bool(problems)
                print(
                    f"{kernel.name:46} sm_{cc[0]}{cc[1]}  {facts['registers']:4}"
                    f" {facts['shared']:6} {facts['instructions']:5} {facts['loads']:5}"
                    f" {facts['stores']:5} {facts['calls']:5}"
                    + (f"  WRONG: {', '.join(problems)}" if problems else ""),
                    flush=True,
                )
    print(f"{len(every)} kernels for {len(ARCHITECTURES)} architectures, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
