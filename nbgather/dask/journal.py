"""How far a dataset on disk is: a folder while it is written, an attribute once it is complete.

The folder, ``.nbgather`` in the zarr group, holds the settings and an empty file for each chunk
that is done; files are renamed into place, so a process may be killed at any time. A finished group
has nothing in it that is not zarr's, since zarr warns of it at every listing: its attribute
``nbgather`` says what it was made with.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import zarr

from nbgather import files

FOLDER = ".nbgather"
ATTRIBUTE = "nbgather"
#: The files of zarr's that describe a group or an array, in its formats 3 and 2.
METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray")

#: Metadata that was consolidated earlier may be older than the attribute; zarr 2 does not read it.
AS_IT_IS: dict[str, Any] = {} if zarr.__version__.startswith("2.") else {"use_consolidated": False}


class Journal:
    """The journal of one dataset.

    Parameters
    ----------
    group : path
        The zarr group.
    settings : dict
        All that the result depends on, of what JSON can hold.
    arrays : tuple of str
        The names of its arrays.
    """

    def __init__(self, group: Path, settings: dict[str, Any], arrays: tuple[str, ...]) -> None:
        self.group, self.arrays = group, arrays
        self.folder = group / FOLDER
        self.settings = json.loads(json.dumps(settings))

    def is_complete(self) -> bool:
        """Whether all was done before; a ValueError if with other settings."""
        held = self._attribute()
        if held is None:
            return False
        self._require(held.get("settings"), f"its attribute {ATTRIBUTE!r}")
        return bool(held.get("complete"))

    def is_begun(self) -> bool:
        """Whether there are arrays to go on with; a ValueError if with other settings."""
        path = self.folder / "settings.json"
        if not path.exists():
            return False
        self._require(json.loads(path.read_text(encoding="utf-8")), str(path))
        return True

    def may_begin(self) -> bool:
        """Whether nothing is lost by a new beginning."""
        if not self.group.exists() or self.folder.is_dir():
            return True
        # 0.1.0 made the arrays before the folder; cut short between, it left them without data.
        named = all(p.name in (*METADATA, *self.arrays) for p in self.group.iterdir())
        return named and all(p.name in METADATA for p in self.group.rglob("*") if not p.is_dir())

    def reserve(self) -> None:
        """Say that what is made from now on is ours."""
        (self.folder / "done").mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        """Say that the arrays are there; without it nothing has been begun."""
        text = json.dumps(self.settings, indent=1)
        files.write(self.folder / "settings.json", text.encode())

    def done(self) -> set[int]:
        """The chunks that are done."""
        return {int(p.name) for p in (self.folder / "done").iterdir() if p.name.isdigit()}

    def mark(self, number: int) -> None:
        """Say that a chunk is done."""
        files.write(self.folder / "done" / str(number), b"")

    def complete(self, group: zarr.Group) -> None:
        """Say that all chunks are done, and leave nothing in the group but zarr's own."""
        group.attrs[ATTRIBUTE] = {"complete": True, "settings": self.settings}
        self.clear()

    def clear(self) -> None:
        """Remove what a complete group has no more use for."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)
        for path in self.group.glob("*.partial"):  # zarr's, of a process that was killed
            if path.name.startswith(("zarr.", ".zgroup.", ".zattrs.")):
                path.unlink()

    def _attribute(self) -> dict[str, Any] | None:
        if not any((self.group / name).is_file() for name in METADATA):
            return None
        try:
            group = zarr.open_group(str(self.group), mode="r", **AS_IT_IS)
            held = group.attrs.get(ATTRIBUTE)
        except Exception:  # zarr's readers raise what they please; no group of ours
            return None
        return dict(held) if isinstance(held, dict) else None

    def _require(self, settings: Any, where: str) -> None:
        if settings != self.settings:
            raise ValueError(
                f"{self.group} was begun with other settings, which {where} holds: choose another"
                " target, or remove it"
            )
