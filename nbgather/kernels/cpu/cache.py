"""Compiled kernels in files: found by what they were compiled from, with a checksum in each.

The folder is the user's, not one beside the sources, and is named by a digest of those sources. So
a second checkout, or the package installed again, finds what the first one compiled, and another
version never reads it. A file's name is a digest of all else that decides about the machine code:
function, types, options, processor, and the versions of Python, numba and llvmlite.

What is read goes to pickle and to LLVM, where one flipped bit can abort the process, at this start
and at every later one. A file whose checksum does not match therefore counts as missing, and is
compiled and written again. Where nothing can be written, kernels are compiled without a cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

#: The sources that kernels are compiled from, beside this file.
SOURCES = (
    "../scalar.py", "../small.py", "blocks.py", "bounds.py", "chunks.py", "counting.py",
    "drivers.py", "facts.py", "gather.py", "gather_rows.py", "gather_staged.py", "interleave.py",
    "intrinsics.py", "masking.py", "objects.py", "patches.py", "phases.py", "philox.py",
    "ranking.py", "repeat.py", "scatter.py", "scatter_wide.py", "split_sample.py", "strategies.py",
    "variants.py",
)  # fmt: skip
#: How many sources' kernels are kept, and how much of them: the least recently used go first.
KEPT_FOLDERS = 5
KEPT_BYTES = 256 << 20

#: numba's settings that change the machine code.
_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")
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
    try:
        return _user_folder() / "nbgather" / "kernels" / source_digest()
    except (OSError, RuntimeError):
        return None


def _user_folder() -> Path:
    """Where the user wants caches to be: ``NUMBA_CACHE_DIR``, or the system's usual place."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR)
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
    temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:16]}")
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


def _closure_of(function: FunctionType) -> list[str]:
    """What a function closes over, as text that is the same in every process.

    Of a compiled function that is its name and what it closes over itself.
    """
    texts = []
    for cell in function.__closure__ or ():
        value = getattr(cell.cell_contents, "py_func", cell.cell_contents)
        if isinstance(value, FunctionType):
            text = repr((value.__module__, value.__qualname__, _closure_of(value)))
        else:
            text = repr(value)
        if " at 0x" in text:
            raise ValueError(f"{text}: a kernel is known by the values that it closes over")
        texts.append(text)
    return texts


class KernelCache(NullCache):
    """The cache of one function, as numba's compilers use it; `NullCache` keeps nothing."""

    def __init__(self, function: FunctionType, options: dict[str, Any]) -> None:
        closure = _closure_of(function)
        code = function.__module__, function.__qualname__, closure, sorted(options.items())
        #: A digest of what is compiled: the sources, the function, its closure, numba's options.
        self.variant = _digest(f"{source_digest()} {code!r}")
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        settings = [str(getattr(config, name, None)) for name in _SETTINGS]
        python = sys.implementation.cache_tag, getattr(sys, "abiflags", "")
        versions = *python, numba.__version__, llvmlite.__version__
        key = self.variant, str(signature), codegen.magic_tuple(), versions, settings
        directory = folder()
        return directory and directory / f"{self._name}-{_digest(repr(key))}{SUFFIX}"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled function, or None if it has to be compiled."""
        target_context.refresh()
        path = self._path(signature, target_context.codegen())
        payload = None if path is None else read(path)
        if path is None or payload is None:
            return None
        _mark_used(path.parent)
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None  # stored in an environment that differs in something the key lacks

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled function, if it can be kept."""
        path = self._path(signature, result.codegen)
        if path is not None and not result.library.has_dynamic_globals:
            with contextlib.suppress(OSError):  # a full disk, or a folder that cannot be written
                write(path, dumps(result._reduce()))
