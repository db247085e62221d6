"""Compiled kernels in files: found by what they were compiled from, with a checksum in each.

The folder is the user's, not one beside the sources, and is named by a digest of those sources. So
a second checkout, or the package installed again, finds what the first one compiled, and another
version never reads it. A file's name is a digest of all else that decides about the machine code:
function, types, options, processor, and the versions of Python, numba and llvmlite.

What is read goes to LLVM and is run, where one flipped bit can abort the process, at this start and
at every later one. A file whose checksum does not match therefore counts as missing, and is
compiled and written again. Where nothing can be written, kernels are compiled without a cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import llvmlite

from nbgather.kernels.cpu import loader

#: The sources that kernels are compiled from, beside this file.
SOURCES = (
    "../constants.py", "../program.py", "../scalar.py", "../small.py", "../split.py", "bags.py",
    "blocks.py", "bounds.py", "build.py", "counting.py", "facts.py", "ffi.py", "ffi_errors.py",
    "floats.py", "folds.py", "gather.py", "gather_rows.py", "gather_staged.py", "halves.py",
    "interleave.py", "intrinsics.py", "masking.py", "objects.py", "pages.py", "patches.py",
    "phases.py", "philox.py", "probe.py", "ranking.py", "reduce.py", "reduce_shared.py",
    "reduce_wide.py", "repeat.py",
    "scatter.py", "scatter_wide.py", "segments.py", "split_sample.py", "strategies.py", "team.py",
    "words.py",
)  # fmt: skip
#: How many sources' kernels are kept, and how much of them: the least recently used go first.
KEPT_FOLDERS = 5
KEPT_BYTES = 256 << 20

#: What changes the machine code that numba makes, of the environment, and its file of settings.
_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO")
_SETTINGS_FILE = Path(".numba_config.yaml")
_CHECKSUM_BYTES = 32
#: Of every file in the folder.
SUFFIX = ".nbc"
_FOLDER_NAME = re.compile(r"[0-9a-f]{32}")


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=16).hexdigest()


@functools.cache
def source_digest() -> str:
    """The digest of the sources that kernels are compiled from."""
    state = hashlib.blake2s(digest_size=16)
    for name in SOURCES:
        text = (Path(__file__).parent / name).read_bytes()
        state.update(len(text).to_bytes(8, "little") + text)
    return state.hexdigest()


def folder() -> Path | None:
    """The folder of these sources' kernels, which need not exist; None if there is no home."""
    return folder_of(source_digest())


def folder_of(sources: str) -> Path | None:
    """The folder of the kernels of some sources, by their digest; a GPU's have one too."""
    try:
        return _user_folder() / "nbgather" / "kernels" / sources
    except (OSError, RuntimeError):
        return None


def _user_folder() -> Path:
    """Where the user wants caches to be: ``NUMBA_CACHE_DIR``, or the system's usual place."""
    chosen = os.environ.get("NUMBA_CACHE_DIR", "")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        path = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        path = "~/Library/Caches"
    else:
        path = os.environ.get("XDG_CACHE_HOME", "")
        # The specification of this variable says to ignore relative paths.
        path = path if os.path.isabs(path) else "~/.cache"
    return Path(path).expanduser()


def _checksum(name: str, payload: bytes) -> bytes:
    # With the name, which is a digest of what was compiled: a renamed file must not pass either.
    return hashlib.blake2b(name.encode() + b"\0" + payload, digest_size=_CHECKSUM_BYTES).digest()


def read(path: str | Path) -> bytes | None:
    """What `write` wrote to a file, or None if the file is missing, unreadable or changed."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    payload = data[_CHECKSUM_BYTES:]
    valid = bool(payload) and _checksum(path.name, payload) == data[:_CHECKSUM_BYTES]
    return payload if valid else None


def write(path: Path, payload: bytes) -> None:
    """Write a file in one step: other processes see all of it or nothing."""
    _make_folder(path.parent)
    temporary = path.with_name(f"{path.name}.tmp.{os.urandom(8).hex()}")
    try:
        temporary.write_bytes(_checksum(path.name, payload) + payload)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        # Only a new folder can make them too many.
        trim(path)


def trim(own: Path) -> None:
    """Remove the folders beside ``own`` that were not used for longest, down to the limits.

    Another process may use, write or remove the same folders meanwhile: what it then does not find,
    it compiles.
    """
    count, size = 1, 0
    for path in _others_by_use(own):
        files = list(_files(path))
        count += 1
        size += sum(nbytes for _, nbytes in files)
        if count > KEPT_FOLDERS or size > KEPT_BYTES:
            for name, _ in files:
                with contextlib.suppress(OSError):
                    (path / name).unlink()
            with contextlib.suppress(OSError):
                path.rmdir()  # which fails if it contains other files


def usage() -> tuple[int, int]:
    """How many files the cache has, of all sources' kernels, and how many bytes."""
    sizes = [nbytes for path in _every_folder() for _, nbytes in _files(path)]
    return len(sizes), sum(sizes)


def clear() -> int:
    """Remove the kernels of all sources; how many bytes that were.

    What this process has loaded stays usable.
    """
    removed = 0
    for path in _every_folder():
        for name, nbytes in list(_files(path)):
            with contextlib.suppress(OSError):
                (path / name).unlink()
                removed += nbytes
        with contextlib.suppress(OSError):
            path.rmdir()  # which fails if it contains other files
    _mark_used.cache_clear()
    return removed


def _every_folder() -> list[Path]:
    own = folder()
    return [] if own is None else [own, *_others_by_use(own)]


def _others_by_use(own: Path) -> list[Path]:
    """Folders of other sources' kernels, the last used first."""
    times: dict[Path, float] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(own.parent):
            if _FOLDER_NAME.fullmatch(entry.name) and entry.name != own.name:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        times[Path(entry.path)] = entry.stat().st_mtime
    return sorted(times, key=lambda path: times[path], reverse=True)


def _files(path: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of kernels' files in a folder, unfinished ones too."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            if SUFFIX in entry.name:
                with contextlib.suppress(OSError):
                    yield entry.name, entry.stat(follow_symlinks=False).st_size


@functools.cache
def _mark_used(path: Path) -> None:
    """Note, once in a process, that a folder is in use."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _numba_version() -> str:
    """What says which numba it is, without its import."""
    spec = importlib.util.find_spec("numba")
    if spec is None or not spec.origin:
        return ""
    with contextlib.suppress(OSError):
        return _digest((Path(spec.origin).parent / "_version.py").read_text())
    return str(importlib.import_module("numba").__version__)


@functools.cache
def _toolchain() -> tuple[str, ...]:
    python = sys.implementation.cache_tag or "", getattr(sys, "abiflags", "")
    return (*python, _numba_version(), llvmlite.__version__)


def settings() -> list[str]:
    """What numba is told about how to compile."""
    told = [os.environ.get(f"NUMBA_{name}", "") for name in _SETTINGS]
    with contextlib.suppress(OSError):
        told.append(_SETTINGS_FILE.read_text())
    return told


class Entry(NamedTuple):
    """The object code of one function in the cache."""

    #: The function's name in the object code.
    symbol: str
    #: None where there is no folder.
    path: Path | None

    def read(self) -> bytes | None:
        """The object code, or None if it has to be compiled."""
        code = None if self.path is None else read(self.path)
        if code is not None:
            _mark_used(self.path.parent)  # type: ignore[union-attr]
        return code

    def write(self, code: bytes) -> None:
        """Keep object code, if it can be kept."""
        if self.path is not None:
            with contextlib.suppress(OSError):  # a full disk, or a folder that cannot be written
                write(self.path, code)


def entry(module: str, name: str, parameters: Hashable) -> Entry:
    """The entry of a function of a module, with all else that says what is compiled."""
    toolchain = loader.processor(), _toolchain(), settings()
    digest = _digest(repr((source_digest(), module, name, parameters, toolchain)))
    directory = folder()
    path = None if directory is None else directory / f"{module}.{name}-{digest}{SUFFIX}"
    return Entry(f"nbgather_{digest}", path)
