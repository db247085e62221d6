"""The models that are published as files, each with the call that makes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbgather import files
from nbgather.onnx._build import ModelProto, onnx, to_bytes
from nbgather.onnx.card import port_text
from nbgather.onnx.gathering import gather_model
from nbgather.onnx.masking import masking_model
from nbgather.onnx.restoring import restore_model

__all__ = ["CATALOG", "Entry", "export_all", "stale_files"]

#: The oldest onnxruntime on which every file was run.
OLDEST_ONNXRUNTIME = "1.16.3"

README = "README.md"


@dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes
    ----------
    file : str
        The file's name.
    about : str
        What it does, in one line.
    maker : callable
        The function of :mod:`nbgather.onnx` that makes it.
    args, options : tuple, dict
        What it is called with.
    """

    file: str
    about: str
    maker: Callable[..., ModelProto]
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> str:
        """The call as one would type it."""
        arguments = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.options.items()]
        return f"{self.maker.__name__}({', '.join(arguments)})"

    def build(self) -> ModelProto:
        """The model."""
        return self.maker(*self.args, **self.options)


CATALOG: tuple[Entry, ...] = (
    Entry("mae_masking.onnx", "Masks x by noise.", masking_model, (0.75,)),
    Entry(
        "mae_masking_nd.onnx",
        "The same with GatherND: faster.",
        masking_model,
        (0.75,),
        {"gather": "nd"},
    ),
    Entry(
        "mae_masking_seeded.onnx",
        "Masks x by seed, sample id and epoch.",
        masking_model,
        (0.75,),
        {"noise": "seed"},
    ),
    Entry(
        "mae_masking_seeded_words.onnx",
        "The same, by seeds and ids of 64 bits as words of 32.",
        masking_model,
        (0.75,),
        {"noise": "seed", "seed_words": True},
    ),
    Entry(
        "mae_mask_only.onnx",
        "The mask without the tokens, and the ids to keep.",
        masking_model,
        (0.75,),
        {"with_x": False, "ids_keep": True},
    ),
    Entry("mae_restore.onnx", "Visible tokens back in their places.", restore_model),
    *(
        Entry(f"gather_elements_dim{d}.onnx", f"torch.gather along dim {d}.", gather_model, (d,))
        for d in range(3)
    ),
)


def export_all(folder: str | os.PathLike[str], only: Iterable[str] | None = None) -> list[Path]:
    """Write every published model, and a README that lists them.

    Each file is written under another name and then renamed: no reader sees a part of one.

    Parameters
    ----------
    folder : path
        Created where it does not exist.
    only : iterable of str, optional
        Names of files to write; the README is written in any case.

    Returns
    -------
    list of pathlib.Path
        The files written.

    Raises
    ------
    ValueError
        A name in ``only`` is not in the catalog.

    Examples
    --------
    >>> import tempfile
    >>> from nbgather.onnx import export_all
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export_all(folder, ["mae_restore.onnx"])]
    ['mae_restore.onnx', 'README.md']
    """
    selected = None if only is None else set(only)
    unknown = (selected or set()) - {entry.file for entry in CATALOG}
    if unknown:
        raise ValueError(
            f"no published model is called {', '.join(sorted(unknown))}: there are"
            f" {', '.join(entry.file for entry in CATALOG)}"
        )
    target = Path(folder)
    written = []
    for name, data in _contents().items():
        if selected is None or name in selected or name == README:
            files.write(target / name, data)
            written.append(target / name)
    return written


def stale_files(folder: str | os.PathLike[str]) -> list[str]:
    """The files of a folder that differ from what :func:`export_all` writes, byte for byte.

    Parameters
    ----------
    folder : path
        It need not exist.

    Returns
    -------
    list of str
        One line for each file that is stale, missing, or extra; empty if there is none.

    Examples
    --------
    >>> from nbgather.onnx import stale_files
    >>> stale_files("/no/such/folder")[0]
    'missing: mae_masking.onnx'
    """
    target = Path(folder)
    expected = _contents()
    present = {path.name: path for path in target.iterdir()} if target.is_dir() else {}
    lines = []
    for name, data in expected.items():
        if name not in present:
            lines.append(f"missing: {name}")
        elif not present[name].is_file() or present[name].read_bytes() != data:
            lines.append(f"stale: {name}")
    return lines + [f"extra: {name}" for name in sorted(set(present) - set(expected))]


def _contents() -> dict[str, bytes]:
    models = {entry.file: entry.build() for entry in CATALOG}
    contents = {name: to_bytes(model) for name, model in models.items()}
    return contents | {README: _readme(models).encode()}


def _readme(models: dict[str, ModelProto]) -> str:
    rows = [
        "| file | what it does | inputs | outputs | opset | IR | onnxruntime | nodes | bytes |"
        " made by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in CATALOG:
        model = models[entry.file]
        cells = (
            f"`{entry.file}`",
            entry.about,
            _ports(model.graph.input),
            _ports(model.graph.output),
            str(model.opset_import[0].version),
            str(model.ir_version),
            f"≥ {OLDEST_ONNXRUNTIME}",
            str(len(model.graph.node)),
            f"{len(to_bytes(model)):,}",
            f"`{entry.call}`",
        )
        rows.append(f"| {' | '.join(cells)} |")
    table = "\n".join(rows)
    return f"""# ONNX models

Generated by nbgather {models[CATALOG[0].file].producer_version}: do not edit.

    python scripts/export_onnx.py                          # all of them, and this file
    python scripts/export_onnx.py --only mae_masking.onnx  # one of them
    python scripts/export_onnx.py --check                  # are these files up to date?

The last column is the call in `nbgather.onnx` that makes the file. Every size is dynamic. In
`mask` 0 is keep, 1 is remove; `x_masked` is what stays visible. The column onnxruntime gives the
oldest version on which the file was run.

Nothing is float64, and no integer leaves 32 bits, so that runtimes without 64-bit numbers
give the same masks. A sample with L or a seed that is too large for that fails in the graph, at a
node whose name ends in `_checked`, as sizes do that do not fit.

- `mae_masking_seeded.onnx` takes seeds, sample ids and epochs from 0 to 2**31 - 1, as int64.
  Whatever is larger or negative fails in the graph. A runtime that narrows int64 on the way in,
  as OpenVINO does, hides what is 2**32 or more from the graph: give such ids as words.
- `mae_masking_seeded_words.onnx` takes all 64 bits of seeds and ids, and all 32 of an epoch, on
  every runtime: as int32 words, the low one first. `numpy.asarray(ids,
  numpy.int64).view(numpy.int32)` are the words of ids, as `[N, 2]` after `.reshape(-1, 2)`.
- `masking_model(..., optional_epoch=True)` gives the epoch a default of 0. The files have none:
  onnxruntime-node ignores an input that has a default, onnxruntime-web and OpenVINO refuse it,
  and tools that simplify models remove it.
- Equal scores are ordered by the graph and not by TopK, whose order of equals is not everywhere
  the one that ONNX says.
- Where integers have 32 bits, L is at most 46,340.
- The graphs are flat, without functions: few runtimes but onnxruntime take a model's own.

{table}
"""


def _ports(ports: Iterable[onnx.ValueInfoProto]) -> str:
    return "<br>".join(f"`{name}` {kind}" for name, kind in map(port_text, ports))
