"""Which way to move items is the fastest on this processor: measured once, and kept.

The ways of :mod:`nbgather.kernels.cpu.blocks` give the same bits. A large call whose items are of a
size that was not measured yet measures it, in a few milliseconds beside the compilation; a small
call never does, and takes the default meanwhile. What was measured is kept with the kernels, in a
file for this processor, and is read by the next process.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nbgather.kernels import constants, forks, machine
from nbgather.kernels.constants import METHODS, SINGLE, VECTOR
from nbgather.kernels.cpu import cache, compiler, loader, shipped, threads
from nbgather.kernels.memory import memory_address

#: Sizes of items in bytes that are moved in more than one way.
MEASURED_ITEMS = (1, 2, 4, 8)
#: Moved where nothing was measured.
DEFAULT = SINGLE
#: Bytes of work of a call that may measure first.
MEASURE_MIN_BYTES = 1 << 23
#: What is measured: rows gathered from rows of as many items, each way so many times in turn.
ROWS, ROW_ITEMS, ROUNDS = 256, constants.PROBED_ITEMS, 8


class Choice(NamedTuple):
    """A way that was chosen, and seconds of the measurement for each that could be."""

    method: int
    seconds: dict[str, float]


_choices: dict[int, Choice] = {}
#: Folders whose file this process has read: once is enough, other than before it writes.
_read: set[Path] = set()


def method(itemsize: int, work: int = 0) -> int:
    """The way to move items of a size in a call that moves so many bytes.

    Raises
    ------
    ValueError
        ``NBGATHER_VARIANT`` is no way there is.
    """
    forced = _forced()
    if itemsize not in MEASURED_ITEMS:
        return SINGLE
    if forced is not None:
        return forced
    choice = _choices.get(itemsize)
    if choice is None:
        folder = cache.folder()
        if folder is not None and folder not in _read:
            _choices.update(_known())
            _read.add(folder)
            choice = _choices.get(itemsize)
    if choice is None:
        if work < MEASURE_MIN_BYTES:
            return DEFAULT
        choice = measured(itemsize)
    return choice.method


def _forced() -> int | None:
    name = os.environ.get("NBGATHER_VARIANT", "")
    if not name:
        return None
    if name not in METHODS:
        raise ValueError(f"NBGATHER_VARIANT is {name!r}: it must be one of {', '.join(METHODS)}")
    return METHODS.index(name)


def choices() -> dict[int, Choice]:
    """What was chosen on this processor so far, by the size of items in bytes."""
    return {**_known(), **_choices}


def measured(itemsize: int) -> Choice:
    """Measure the ways to move items of a size, and keep the fastest."""
    with forks.lock:
        choice = _measure(itemsize)
        try:
            _keep({**_known(), itemsize: choice})
        except OSError:  # a folder that cannot be written: no kernel can be kept there either
            if shipped.in_use() is not None:
                choice = _fastest(
                    {METHODS[m]: choice.seconds[METHODS[m]] for m in shipped_methods(itemsize)}
                )
        _choices[itemsize] = choice
        return choice


def shipped_methods(itemsize: int) -> tuple[int, ...]:
    """The ways whose kernels come with the package."""
    return (VECTOR, SINGLE) if itemsize >= 4 else (SINGLE,)


def _fastest(seconds: dict[str, float]) -> Choice:
    return Choice(METHODS.index(min(seconds, key=lambda name: seconds[name])), seconds)


def _measure(itemsize: int) -> Choice:
    kernels = {
        name: _probe(itemsize, number)
        for number, name in enumerate(METHODS)
        if itemsize >= 4 or number != VECTOR
    }
    # Odd multiples give every position once, far apart.
    items = np.arange(ROWS * ROW_ITEMS)
    index = items % ROW_ITEMS * 211 % ROW_ITEMS
    source = items.astype(f"u{itemsize}")
    result = np.empty_like(source)
    args = np.zeros(1, np.int64)
    out, src, idx = (memory_address(a) for a in (result, source, index))
    seconds = dict.fromkeys(kernels, float("inf"))
    for _ in range(ROUNDS):
        for name, kernel in kernels.items():
            begun = time.perf_counter()
            threads.run(kernel, out, src, idx, src, args, ROWS, 0)
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    return _fastest(seconds)


def _probe(itemsize: int, method: int) -> int:
    """The address of the compiled kernel that gathers rows in one way."""
    bits = compiler.BITS[itemsize]
    return compiler.range_kernel("probe", "make_probe", (method,), (bits, bits, "i8", bits))


def _path() -> Path | None:
    """The file of this processor; it is named by all that decides which way is the fastest."""
    traits = loader.processor(), machine.processor()
    text = repr((traits, sorted(machine.cache_sizes().items())))
    digest = hashlib.blake2s(text.encode(), digest_size=16).hexdigest()
    folder = cache.folder()
    return folder and folder / f"variants-{digest}{cache.SUFFIX}"


def _known() -> dict[int, Choice]:
    """What another process measured; nothing where the file is missing or damaged."""
    path = _path()
    payload = None if path is None else cache.read(path)
    if payload is None:
        return {}
    try:
        stored = json.loads(payload)
        return {
            int(item): Choice(METHODS.index(name), {str(k): float(v) for k, v in seconds.items()})
            for item, (name, seconds) in stored.items()
            if int(item) in MEASURED_ITEMS
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def _keep(choices: dict[int, Choice]) -> None:
    path = _path()
    if path is not None:
        stored = {item: (METHODS[c.method], c.seconds) for item, c in sorted(choices.items())}
        cache.write(path, json.dumps(stored).encode())
