"""What :mod:`simulator` stands on: memory that checks every access, and threads that run in turn.

A kernel runs as Python, all threads of a block in one thread of the host. A kernel without barriers
is called once for each thread. One with barriers is compiled anew with ``yield`` in the place of
``cuda.syncthreads()``, and so are the functions that it calls by name which have some: each thread
is a generator that runs up to the barrier, and the block goes on when all have reached it. So
nothing waits, nothing is left to chance, and a barrier that only some threads reach is an error.
Threads run in ascending order in one block and in descending order in the next, so what depends on
a barrier that is missing meets it unready in one of them.
"""

from __future__ import annotations

import ast
import bisect
import functools
import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda as numba_cuda

U64 = np.uint64
_DTYPES = {f"{k}{n}": np.dtype(f"{k}{n}") for k in "ui" for n in (1, 2, 4, 8)}
_DTYPES |= {"f4": np.dtype("f4"), "f8": np.dtype("f8")}
#: The kinds that kernels load and store; ``u16`` is a pair of uint64.
KINDS = (*_DTYPES, "u16")
#: What memory holds before anything is written to it.
POISON = 0xA5


class Block:
    """Memory from ``start`` up to ``end`` that may be touched, and views of it by kind."""

    __slots__ = ("content", "end", "start", "views")

    def __init__(self, start: int, content: np.ndarray) -> None:
        self.start, self.end, self.content = start, start + content.nbytes, content
        self.views: dict[str, tuple[int, np.ndarray]] = {}

    def view(self, kind: str) -> tuple[int, np.ndarray]:
        """The address of the first aligned item, and the items from it on."""
        view = self.views.get(kind)
        if view is None:
            size = int(kind[1:])
            skipped = -self.start % size
            count = max(self.end - self.start - skipped, 0) // size
            items = self.content[skipped : skipped + count * size]
            items = items.view("u8").reshape(-1, 2) if kind == "u16" else items.view(_DTYPES[kind])
            view = self.views[kind] = self.start + skipped, items
        return view


class Memory:
    """Which addresses may be touched."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.blocks: dict[int, Block] = {}

    def add(self, start: int, content: np.ndarray) -> Block:
        """Allow access to uint8 ``content``, whose first byte is at ``start``."""
        if start in self.blocks:
            self.remove(self.blocks[start])
        block = self.blocks[start] = Block(start, content)
        bisect.insort(self.starts, start)
        return block

    def remove(self, block: Block) -> None:
        """Allow access no longer."""
        if self.blocks.get(block.start) is block:
            del self.blocks[block.start]
            self.starts.remove(block.start)
            block.end = block.start  # whoever still holds it finds nothing in it

    def clear(self) -> None:
        for block in list(self.blocks.values()):
            self.remove(block)

    def block_of(self, address: int, nbytes: int) -> Block:
        """The block in which an access lies whole."""
        position = bisect.bisect_right(self.starts, address)
        # Blocks may overlap: an array and a part of it that were added each by itself.
        for start in reversed(self.starts[:position]):
            block = self.blocks[start]
            if address + nbytes <= block.end:
                return block
        raise AssertionError(f"an access of {nbytes} bytes at {address}: no array is there")

    def read(self, address: int, nbytes: int) -> np.ndarray:
        """A copy of some bytes."""
        block = self.block_of(address, nbytes)
        return block.content[address - block.start :][:nbytes].copy()


memory = Memory()
_NO_BLOCK = Block(0, np.empty(0, np.uint8))


def _finder(kind: str) -> Callable[[Any], tuple[np.ndarray, int]]:
    """A function from an address to all items of its block, and the position of the one at it."""
    size = int(kind[1:])
    block, first, items = _NO_BLOCK, 0, _NO_BLOCK.content

    def find(address: Any) -> tuple[np.ndarray, int]:
        nonlocal block, first, items
        address = int(address)
        if address % size:
            raise AssertionError(f"an access of {size} bytes at {address}: it is not aligned")
        if address < block.start or address + size > block.end:
            block = memory.block_of(address, size)
            first, items = block.view(kind)
        return items, (address - first) // size

    return find


def _loader(kind: str) -> Callable[[Any], Any]:
    find = _finder(kind)

    def load(address: Any) -> Any:
        items, position = find(address)
        return items[position]

    def load_pair(address: Any) -> Any:
        items, position = find(address)
        return tuple(items[position])

    return load_pair if kind == "u16" else load


def _storer(kind: str) -> Callable[[Any, Any], None]:
    unsigned = kind.replace("i", "u")
    find = _finder(unsigned)
    low_bits = (1 << 8 * int(kind[1:])) - 1

    def store(address: Any, value: Any) -> None:
        items, position = find(address)
        items[position] = int(value) & low_bits  # as a store does: the low bytes of what it gets

    def store_as_it_is(address: Any, value: Any) -> None:
        items, position = find(address)
        items[position] = value

    return store_as_it_is if kind[0] == "f" or kind == "u16" else store


def _changer(change: Callable[..., int]) -> Callable[..., Any]:
    """One step for all threads, of which one runs at a time."""
    load, store = _loader("u8"), _storer("u8")

    def step(address: Any, *values: Any) -> Any:
        before = load(address)
        store(address, change(int(before), *map(int, values)))
        return before

    return step


def _atomic(kind: str, combine: Callable[[int, int], int]) -> Callable[[Any, Any], None]:
    load, store = _loader(kind), _storer(kind)

    def update(address: Any, value: Any) -> None:
        store(address, combine(int(load(address)), int(value)))

    return update


_load = {kind: _loader(kind) for kind in KINDS}
#: The names of :mod:`nbgather.kernels.cuda.memory`.
KERNEL_MEMORY = types.SimpleNamespace(
    LOAD=_load,
    READ=_load,
    STREAM={f"u{size}": _storer(f"u{size}") for size in (1, 2, 4, 8, 16)},
    STORE={kind: _storer(kind) for kind in KINDS},
    SWAP_IF=_changer(lambda before, old, new: new if before == old else before),
    LOWER=_changer(min),
    COUNT=_changer(lambda before, value: before + value),
    INLINE=lambda function: function,
    AS_F4=lambda bits: np.uint32(bits).view(np.float32),
    AS_F8=lambda bits: np.uint64(bits).view(np.float64),
    F4_BITS=lambda value: np.float32(value).view(np.uint32),
    F8_BITS=lambda value: np.float64(value).view(np.uint64),
    F2_TO_F4=lambda bits: np.float32(np.uint16(bits).view(np.float16)),
    F4_TO_F2=lambda value: np.float16(np.float32(value)).view(np.uint16),
    ATOMIC_ADD={kind: _atomic(kind, int.__add__) for kind in ("u4", "u8")},
    ATOMIC_MAX={kind: _atomic(kind, max) for kind in ("u4", "u8")},
    MULTIPLY=lambda a, b: np.float32(a) * np.float32(b),
    SUBTRACT=lambda a, b: np.float32(a) - np.float32(b),
    DIVIDE=lambda a, b: np.float32(a) / np.float32(b),
    MULTIPLY_F8=lambda a, b: np.float64(a) * np.float64(b),
    ROOT_F8=lambda a: np.sqrt(np.float64(a)),
    DIVIDE_F8=lambda a, b: np.float64(a) / np.float64(b),
)


class _Dim3:
    __slots__ = ("x", "y", "z")

    def __init__(self, x: int, y: int, z: int = 1) -> None:
        self.x, self.y, self.z = x, y, z

    def __str__(self) -> str:
        return f"({self.x}, {self.y})"


class _SharedMemory:
    """The shared arrays of one block: one for each place in a kernel that asks for one.

    What asks for no items gets all the bytes that the launch came with, as whoever else asks so.
    """

    def __init__(self, nbytes: int) -> None:
        self.arrays: dict[int, np.ndarray] = {}
        self.launched = np.full(nbytes, POISON, np.uint8)

    def array(self, shape: int, dtype: Any) -> np.ndarray:
        if not shape:
            return self.launched.view(np.dtype(dtype.name))
        place = sys._getframe(1).f_lasti
        if place not in self.arrays:
            item = np.dtype(dtype.name)
            self.arrays[place] = np.full(shape * item.itemsize, POISON, np.uint8).view(item)
        return self.arrays[place]


class _SharedAtomics:
    """Atomics on shared arrays, which give the value before."""

    @staticmethod
    def add(array: np.ndarray, index: Any, value: Any) -> Any:
        before = array[index]
        array[index] = before + value
        return before

    @staticmethod
    def max(array: np.ndarray, index: Any, value: Any) -> Any:
        before = array[index]
        array[index] = max(before, value)
        return before


class _Cuda:
    """What a kernel finds under the name ``cuda`` while it runs."""

    def __init__(self, grid: tuple[int, int], block: tuple[int, int], shared: int) -> None:
        self.gridDim, self.blockDim = _Dim3(*grid), _Dim3(*block)
        self.blockIdx, self.threadIdx = _Dim3(0, 0, 0), _Dim3(0, 0, 0)
        self.shared = _SharedMemory(shared)
        self.atomic = _SharedAtomics

    def syncthreads(self) -> None:
        raise AssertionError("a barrier must be a statement of the kernel itself")


class _BarriersToYields(ast.NodeTransformer):
    """Barriers yield, and so do calls of functions that have some."""

    def __init__(self, waiting: frozenset[str]) -> None:
        self.waiting = waiting

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if ast.unparse(node.value) == "cuda.syncthreads()":
            node.value = ast.Yield(ast.Constant(node.lineno))
            return node
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        waits = isinstance(node.func, ast.Name) and node.func.id in self.waiting
        return ast.YieldFrom(node) if waits else node


@functools.cache
def _generator_code(code: types.CodeType, waiting: frozenset[str]) -> types.CodeType:
    """The code of a function whose barriers yield the numbers of their lines."""
    lines, first = inspect.getsourcelines(code)
    kernel = ast.parse(textwrap.dedent("".join(lines))).body[0]
    kernel.decorator_list = []
    kernel = _BarriersToYields(waiting).visit(ast.increment_lineno(kernel, first - 1))
    # Within a function that has what the kernel closes over, so that it closes over it too.
    names = ", ".join(code.co_freevars)
    module = ast.parse(f"def factory({names}): pass")
    module.body[0].body = [kernel]
    whole = compile(ast.fix_missing_locations(module), code.co_filename, "exec")
    factory = next(c for c in whole.co_consts if isinstance(c, types.CodeType))
    changed = next(c for c in factory.co_consts if isinstance(c, types.CodeType))
    assert changed.co_freevars == code.co_freevars
    return changed


def _callees(function: types.FunctionType) -> dict[str, types.FunctionType]:
    """The functions of Python that another one calls by name."""
    code, cells = function.__code__, function.__closure__ or ()
    named = {n: function.__globals__.get(n) for n in code.co_names}
    named |= {n: c.cell_contents for n, c in zip(code.co_freevars, cells, strict=True)}
    return {n: f for n, f in named.items() if isinstance(f, types.FunctionType)}


@functools.cache
def _waits(function: types.FunctionType) -> bool:
    """Whether there is a barrier in a function, or in one that it calls."""
    if "syncthreads" in function.__code__.co_names:
        return True
    return any(_waits(f) for f in _callees(function).values() if f is not function)


def _on(cuda: _Cuda, function: types.FunctionType) -> types.FunctionType:
    """A function that finds ``cuda`` under that name; a generator, if it waits."""
    names = {k: cuda if v is numba_cuda else v for k, v in function.__globals__.items()}
    waiting = {n: _on(cuda, f) for n, f in _callees(function).items() if _waits(f)}
    code, cells = function.__code__, function.__closure__ or ()
    if _waits(function):
        code = _generator_code(code, frozenset(waiting))
    names |= {n: f for n, f in waiting.items() if n in names}
    closure = tuple(
        types.CellType(waiting[n]) if n in waiting else cell
        for n, cell in zip(code.co_freevars, cells, strict=True)
    )
    return types.FunctionType(code, names, function.__name__, function.__defaults__, closure)


def _run_block(function: Any, arguments: Any, threads: list[tuple[int, int]], cuda: _Cuda) -> None:
    """Every thread of a block up to its end, without barriers."""
    for thread in threads:
        cuda.threadIdx.x, cuda.threadIdx.y = thread
        function(*arguments)


def _run_block_by_barriers(
    function: Any, arguments: Any, threads: list[tuple[int, int]], cuda: _Cuda
) -> None:
    """Every thread of a block up to the next barrier, until all have ended."""
    running = [(thread, function(*arguments)) for thread in threads]
    while True:
        barriers: list[int | None] = []
        for thread, generator in running:
            cuda.threadIdx.x, cuda.threadIdx.y = thread
            barriers.append(next(generator, None))
        if len(set(barriers)) > 1:
            counts = ", ".join(
                f"{barriers.count(line)} {'have ended' if line is None else f'wait in line {line}'}"
                for line in dict.fromkeys(barriers)
            )
            raise AssertionError(f"a barrier that not all threads reach: {counts}")
        if barriers[0] is None:
            return


def run(
    kernel: types.FunctionType,
    grid: tuple[int, int],
    block: tuple[int, int],
    arguments: Any,
    descending: bool = False,
    shared: int = 0,
) -> None:
    """Run a kernel as it would be launched, with so many bytes of shared memory.

    ``descending`` is the order of the first block.
    """
    cuda = _Cuda(grid, block, shared)
    function = _on(cuda, kernel)
    run_block = _run_block_by_barriers if _waits(kernel) else _run_block
    threads = [(x, y) for y in range(block[1]) for x in range(block[0])]
    with np.errstate(all="ignore"):  # numbers wrap around, as they are meant to
        for cuda.blockIdx.y in range(grid[1]):
            for cuda.blockIdx.x in range(grid[0]):
                cuda.shared = _SharedMemory(shared)
                try:
                    run_block(function, arguments, threads[::-1] if descending else threads, cuda)
                except Exception as error:
                    thread = f"thread {cuda.threadIdx} of block {cuda.blockIdx}"
                    error.args = (f"{error}, while {thread} ran",)
                    raise
                descending = not descending
