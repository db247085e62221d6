"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file aside and rename it: no reader sees half of one, and a failure leaves the old.

    A missing folder is created. A device or a pipe is written to, never replaced.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        target.write_bytes(data)  # a folder raises IsADirectoryError here
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(aside, 0o644)
        os.replace(aside, target)
    except BaseException:
        os.unlink(aside)
        raise
    return target
