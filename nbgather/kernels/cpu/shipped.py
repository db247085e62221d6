"""Object code that comes with the package: the usual kernels, for the usual processors.

There is one archive for each kind of processor, made by ``scripts/build_kernels.py``. It says which
sources each module's kernels were made from, and those are ignored where the sources here are
others. Kernels lie in groups, which are compressed as a whole: those of a group have much in
common.

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
import sys
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nbgather.kernels.cpu import cache, loader

KERNELS = Path(__file__).parent.parent
FOLDER = KERNELS / "objects"
SUFFIX = ".kernels"


class Kind(NamedTuple):
    """A kind of processors that kernels are compiled for."""

    name: str
    triple: str
    cpu: str
    #: What a processor of the kind has, by LLVM's names.
    has: tuple[str, ...]
    #: How kernels are compiled, besides.
    features: str = ""


_V2 = ("cx16", "popcnt", "sse4.2", "ssse3")
_V3 = (*_V2, "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_LINUX = "x86_64-unknown-linux-gnu"
#: By the machine's name, the best first. Vectors of the fourth kind are as long as they can be, and
#: the third has the instruction that gathers: whether that is faster is measured.
KINDS = {
    "x86_64": (
        Kind("linux-x86-64-v4", _LINUX, "x86-64-v4", _V4, "-prefer-256-bit"),
        Kind("linux-x86-64-v3", _LINUX, "x86-64-v3", _V3, "+fast-gather"),
        Kind("linux-x86-64-v2", _LINUX, "x86-64-v2", _V2),
    ),
    "aarch64": (Kind("linux-aarch64", "aarch64-unknown-linux-gnu", "generic", ("neon",)),),
}

_MAGIC = b"nbgather kernels"
_CHECKSUM_BYTES = 16
#: Magic, checksum of the tables, how many functions and groups, and the length of the last table.
_HEAD = struct.Struct("<16s16sIII")
_FUNCTION = struct.Struct("<16sIII")
_GROUP = struct.Struct("<QII16s")


class Archive(NamedTuple):
    """An archive's tables."""

    path: Path
    #: Group, offset and length by a function's digest.
    functions: dict[bytes, tuple[int, int, int]]
    #: Offset in the file, length, length of what it holds, and checksum.
    groups: tuple[tuple[int, int, int, bytes], ...]
    #: By module: the digest of the sources, and their paths from the folder of all kernels.
    sources: dict[str, tuple[str, tuple[str, ...]]]
    #: What compiled them.
    toolchain: str


def digest(function: Hashable) -> bytes:
    """What a function is found by."""
    return hashlib.blake2b(repr(function).encode(), digest_size=16).digest()


def symbol(function: Hashable) -> str:
    """A function's name in its object code."""
    return f"nbgather_{digest(function).hex()}"


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES).digest()


def is_allowed() -> bool:
    """Whether the user has no wish of how kernels are compiled."""
    if os.environ.get("NBGATHER_SHIPPED_KERNELS", "1").strip() == "0":
        return False
    return not any((*loader.told(), *cache.settings()))


def kind() -> Kind | None:
    """The best kind of processors that this one belongs to; None where nothing comes for it."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    for candidate in KINDS.get(os.uname().machine, ()):
        if loader.has_features(candidate.has):
            return candidate
    return None


def path_of(kind: Kind) -> Path:
    """The archive of a kind."""
    return FOLDER / (kind.name + SUFFIX)


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
def _is_fresh(made_from: str, paths: tuple[str, ...]) -> bool:
    try:
        return digest_of_sources(paths) == made_from
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _own_archive() -> Archive | None:
    own = kind()
    return None if own is None else opened(path_of(own))


def in_use() -> Archive | None:
    """The archive that kernels are taken from in this process, if there is one."""
    return _own_archive() if is_allowed() else None


@functools.lru_cache(maxsize=4)
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
    """The object code of a function in an archive."""
    numbers = archive.functions.get(digest(function))
    if numbers is None:
        return None
    group, offset, length = numbers
    held = _group(archive.path, *archive.groups[group])
    return None if held is None else held[offset : offset + length]


def read(function: Any) -> bytes | None:
    """The object code of a function for this processor, or None if it does not come with us."""
    archive = in_use()
    if archive is None or not _is_fresh(*archive.sources.get(function.module, ("", ()))):
        return None
    return read_from(archive, function)


def pack(
    groups: Iterable[dict[bytes, bytes]],
    sources: dict[str, tuple[str, tuple[str, ...]]],
    toolchain: str,
) -> bytes:
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
