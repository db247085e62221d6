"""Compiled kernels in one file: the tables of what is in it, and groups that are compressed.

An archive says which sources each module's kernels were made from, so that it can be ignored where
the sources are others. Kernels lie in groups, which are compressed as a whole: those of a group
have much in common.

An archive begins with a head; tables follow, and then the groups::

    functions   (digest, group, offset in the group, length) * functions
    groups      (offset in the data, length, length of what it holds, checksum) * groups
    sources     lines of text: what compiled them; and for each module its name, the digest of its
                sources, and their paths
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import NamedTuple

KERNELS = Path(__file__).parent
SUFFIX = ".kernels"

_MAGIC = b"nbgather kernels"
_CHECKSUM_BYTES = 16
#: Magic, checksum of the tables, how many functions and groups, and the length of the last table.
_HEAD = struct.Struct("<16s16sIII")
_FUNCTION = struct.Struct("<16sIII")
_GROUP = struct.Struct("<QII16s")

#: By module: the digest of the sources, and their paths from the folder of all kernels.
Sources = dict[str, tuple[str, tuple[str, ...]]]


class Archive(NamedTuple):
    """An archive's tables."""

    path: Path
    #: Group, offset and length by a function's digest.
    functions: dict[bytes, tuple[int, int, int]]
    #: Offset in the file, length, length of what it holds, and checksum.
    groups: tuple[tuple[int, int, int, bytes], ...]
    sources: Sources
    #: What compiled them.
    toolchain: str


def digest(function: Hashable) -> bytes:
    """What a function is found by."""
    return hashlib.blake2b(repr(function).encode(), digest_size=16).digest()


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES).digest()


def opened(path: Path) -> Archive | None:
    """An archive's tables; None where it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            magic, checksum, functions, groups, text = _HEAD.unpack(file.read(_HEAD.size))
            if magic != _MAGIC:
                return None
            split = functions * _FUNCTION.size
            end = split + groups * _GROUP.size
            if _HEAD.size + end + text > os.fstat(file.fileno()).st_size:
                return None
            tables = file.read(end + text)
    except (OSError, struct.error):
        return None
    if _checksum(tables) != checksum:
        return None
    data = _HEAD.size + len(tables)
    toolchain, *lines = tables[end:].decode().splitlines()
    return Archive(
        path,
        {key: (a, b, c) for key, a, b, c in _FUNCTION.iter_unpack(tables[:split])},
        tuple((data + at, *rest) for at, *rest in _GROUP.iter_unpack(tables[split:end])),
        {
            module: (made_from, tuple(paths))
            for module, made_from, *paths in (line.split() for line in lines)
        },
        toolchain,
    )


def digest_of_sources(paths: Iterable[str]) -> str:
    """The digest of sources by their paths from the folder of all kernels."""
    state = hashlib.blake2b(digest_size=16)
    for path in paths:
        text = (KERNELS / path).read_bytes()
        state.update(len(text).to_bytes(8, "little") + text)
    return state.hexdigest()


@functools.cache
def is_fresh(made_from: str, paths: tuple[str, ...]) -> bool:
    """Whether sources are still what their digest was made from."""
    try:
        return digest_of_sources(paths) == made_from
    except OSError:
        return False


@functools.lru_cache(maxsize=8)
def _group(archive: Path, at: int, length: int, full_length: int, checksum: bytes) -> bytes | None:
    try:
        import lzma
    except ImportError:  # a Python that was built without
        return None
    try:
        with open(archive, "rb") as file:
            file.seek(at)
            data = file.read(length)
        if _checksum(data) != checksum:
            return None
        held = lzma.decompress(data)
    except (OSError, lzma.LZMAError):
        return None
    return held if len(held) == full_length else None


def read_from(archive: Archive, function: Hashable) -> bytes | None:
    """The code of a function in an archive."""
    numbers = archive.functions.get(digest(function))
    if numbers is None:
        return None
    group, offset, length = numbers
    held = _group(archive.path, *archive.groups[group])
    return None if held is None else held[offset : offset + length]


def pack(groups: Iterable[dict[bytes, bytes]], sources: Sources, toolchain: str) -> bytes:
    """An archive of groups of functions, by their digests, and of what they were made from."""
    import lzma

    functions: list[tuple[bytes, int, int, int]] = []
    table, data = b"", b""
    for number, group in enumerate(groups):
        held = b""
        for key, code in group.items():
            functions.append((key, number, len(held), len(code)))
            held += code
        packed = lzma.compress(held, lzma.FORMAT_XZ, lzma.CHECK_NONE, 9 | lzma.PRESET_EXTREME)
        table += _GROUP.pack(len(data), len(packed), len(held), _checksum(packed))
        data += packed
    lines = (" ".join((name, one, *paths)) for name, (one, paths) in sorted(sources.items()))
    text = "\n".join((toolchain, *lines)).encode()
    tables = b"".join(_FUNCTION.pack(*f) for f in sorted(functions)) + table + text
    count = len(table) // _GROUP.size
    head = _HEAD.pack(_MAGIC, _checksum(tables), len(functions), count, len(text))
    return head + tables + data
