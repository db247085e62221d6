"""numba's file cache with a checksum in every file.

numba hands what it reads to pickle and to LLVM, and a flipped bit there can abort the process, at
this start and at every one after it. A file whose checksum does not match counts as missing, and is
written anew.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

_DIGEST_BYTES = 32


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()


def read(path: str) -> bytes | None:
    """What was written to a file, or None if it is not there or not as it was written."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    payload = data[_DIGEST_BYTES:]
    return payload if payload and _digest(payload) == data[:_DIGEST_BYTES] else None


class CheckedCacheFile(IndexDataCacheFile):
    """The index and the data files of one function's cache."""

    def _write(self, path: str, payload: bytes) -> None:
        with self._open_for_write(path) as file:  # aside, and renamed
            file.write(_digest(payload) + payload)

    def _load_index(self) -> dict[Any, str]:
        payload = read(self._index_path)
        if payload is None:
            return {}
        version, stamp, overloads = pickle.loads(payload)
        fresh = version == self._version and stamp == self._source_stamp
        return overloads if fresh else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        stored = self._version, self._source_stamp, overloads
        self._write(self._index_path, self._dump(stored))

    def _load_data(self, name: str) -> Any:
        payload = read(self._data_path(name))
        if payload is None:
            raise FileNotFoundError(name)  # which numba takes for a reason to compile
        return pickle.loads(payload)

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), self._dump(data))


class CheckedCache(FunctionCache):
    """The cache of one function, in such files."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = CheckedCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )
