"""The page scripts/docs/runtimes.md: every word of its tables comes from the kept results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbgather.onnx import CATALOG
from nbgather.onnx._build import ModelProto, to_bytes
from onnx_conformance_parts import functions
from onnx_conformance_parts.vectors import REFUSED, TOO_WIDE, models

PAGE = Path(__file__).resolve().parents[1] / "docs" / "runtimes.md"
MODELS = tuple(entry.file for entry in CATALOG)
#: The groups that must be refused.
REFUSALS = (REFUSED, TOO_WIDE)
Kept = Mapping[str, Any]

HEAD = """# ONNX on other runtimes

<!-- Written by scripts/onnx_conformance.py: do not edit. -->

Each published model on each runtime that installs from a package index: all lengths from 1 to 300
and a few large ones, ties, NaN, -0, the largest numbers, empty batches, all and no tokens kept,
seeds, ids and epochs of all their bits; every byte of every output is compared with the kernels'.

**equal**: every case. **equal but**: every case that the runtime takes; what it refuses, with an
error of its own, stands below. **refused**: it takes none. Other bytes without an error would
stand here as **WRONG**.

"""

TIES = """
## Ties in TopK

Of equal keys the standard puts the lower index first; not every runtime does. Keys of four values,
ascending, rows of 2 to 1,568. The models here do not depend on it.

"""

FUNCTIONS = """
## Functions of a model's own domain

Rounds of Philox and the ranking would read well as functions of a domain of this library. The
graphs are flat instead, each node with a name and a text that says what it is for, since few
runtimes take functions; this was tried with one of a single Add, called by another.

"""

SIZE = """
## How large they are

Before: in integers of 64 bits, the count in float64, ties left to TopK; that is wrong on OpenVINO.

"""

#: Nodes and bytes of the models as they were with integers of 64 bits.
BEFORE = {
    "mae_masking.onnx": (34, 3961),
    "mae_masking_nd.onnx": (29, 3482),
    "mae_masking_seeded.onnx": (238, 24608),
    "mae_mask_only.onnx": (19, 2539),
    "mae_restore.onnx": (33, 3351),
    "gather_elements_dim0.onnx": (1, 389),
    "gather_elements_dim1.onnx": (1, 389),
    "gather_elements_dim2.onnx": (1, 389),
}

REST = """
## What to take care of

- Seeds, ids and epochs beyond 31 bits: a runtime without integers of 64 bits narrows them before
  `mae_masking_seeded` can refuse them, and takes them for others ("numbers beyond 31 bits" above).
  `mae_masking_seeded_words` takes them as words of 32 bits.
- In onnxruntime-web's WebGPU bundle a session that refused its inputs answers no call after that:
  make a new one.
- MNN computes as if there were no NaN and no infinity. It refuses IsNaN, which every model that
  takes scores has; do not put another test in its place.
- IREE compiles no TopK of sizes that are not fixed, and none of the masks if they are.
- OpenVINO makes constants fit for bfloat16 on a CPU that has it. The models hold none that is
  larger than that, nor any that would be folded into one.
- WebGPU promises eight tensors for a shader: no node of the models has more. onnxruntime's TopK
  there ([#27560](https://github.com/microsoft/onnxruntime/pull/27560)) fills rows up with the
  largest float32, before which +inf and that number itself are lost: the models' keys are less.
- Where subnormal scores are taken for 0, they are equal to it. No seed draws one.

## Not in the table

- **onnx2torch** 1.5.15 has no ScatterElements, which every mask needs.
- **tinygrad** 0.14.0 compiles by a clang of the machine's, which no package of it brings.
- **ncnn** 1.0.20261020 takes what pnnx converts, with sizes that are fixed, and has neither
  GatherElements nor ScatterND: it does not load the result.
- **CoreML** and **TensorRT** need a machine of their own.

MNN's command `mnnconvert` installs a package with the `pip` it finds, to report conversions to
its makers; what is run here calls the converter below it.

## Tools that change a model

Mask and ids stay the same, byte for byte, after onnxruntime's dynamic and static (QDQ)
quantisation, its float16 conversion (`onnxruntime.transformers.float16`, with and without
`keep_io_types`), its symbolic shape inference, onnxslim and onnxsim; the tests run these tools.
`onnxruntime.transformers.float16` leaves nodes out of order, so that onnx's checker refuses what
onnxruntime loads.

onnxconverter-common's float16 conversion makes invalid models of these, as of any graph with a
Cast to float32 in it: it declares the output float16 and leaves the Cast, since version 1.15
([onnxconverter-common#320](https://github.com/microsoft/onnxconverter-common/issues/320), open).
Use onnxruntime's.
"""

CHECK = """
## On your own machine

```sh
nbgather verify onnx_models/mae_masking_seeded.onnx --runtime openvino
```

runs the model on a runtime that is installed beside nbgather, in a process of its own, and exits
with 0 where every case is equal, 1 where one is not, 2 where the runtime is not installed or
refuses the model.

It knows maskings, restorings and gathers, and what `segment_reduce_model` and `gather_reduce_model`
make: these reduce rows by ScatterND, of which ONNX does not say in which order it adds.
"""


def text(kept: Kept) -> str:
    """The page."""
    rows = [(_title(row, made), made) for row, made in kept["rows"].items()]
    models = [f"`{name.removesuffix('.onnx')}`" for name in MODELS]
    cells = [
        [title, _count(made), *(_cell(made["models"].get(m, {})) for m in MODELS)]
        for title, made in rows
    ]
    dtypes = list(dict.fromkeys(dtype for _, made in rows for dtype in made["ties"]))
    ties = [[title, *(_escaped(made["ties"].get(d, "")) for d in dtypes)] for title, made in rows]
    return "".join(
        [
            HEAD,
            _table(["runtime", "cases", *models], cells),
            "\n## What is refused, and in which words\n\n",
            *(line for title, made in rows for line in _refusals(title, made)),
            TIES,
            _table(["runtime", *dtypes], ties),
            FUNCTIONS,
            *_functions(rows),
            SIZE,
            _table(["model", "nodes", "before", "bytes", "before"], _sizes()),
            REST,
            CHECK,
        ]
    )


def _functions(rows: Iterable[tuple[str, Kept]]) -> Iterator[str]:
    """A line for those that take functions, and one for each that does not."""
    said = {title: made.get("functions", "not tried") for title, made in rows}
    taken = [title for title, words in said.items() if words == functions.TAKEN]
    yield f"- taken by {', '.join(taken)}\n"
    for title, words in said.items():
        if title not in taken:
            kind, _, words = words.partition(": ")
            yield f"- {kind} by {title}: “{_escaped(words)}”\n"


def _sizes() -> list[list[str]]:
    """Nodes and bytes of each model, and what they were."""
    lines = []
    for entry in CATALOG:
        model = entry.build()
        nodes, size = map("{:,}".format, (len(model.graph.node), len(to_bytes(model))))
        before = map("{:,}".format, BEFORE.get(entry.file, ()))
        old_nodes, old_size = [*before] or ["", ""]
        lines.append([f"`{entry.file.removesuffix('.onnx')}`", nodes, old_nodes, size, old_size])
    return lines


def wrong(kept: Kept) -> list[str]:
    """A line for each runtime and model with other bytes than the kernels'."""
    return [
        f"WRONG: {row}, {model}, {group}: {counts['wrong']} cases, {counts['said']['wrong']}"
        for row, made in kept["rows"].items()
        for model, group, counts in _counts(made)
        if "wrong" in counts
    ]


def digests(made: Mapping[str, ModelProto]) -> dict[str, str]:
    """Of the graphs of each published model, whatever version of nbgather wrote them."""
    found = {}
    for entry in CATALOG:
        digest = hashlib.sha256()
        for name, model in made.items():
            if name.split("@")[0] == entry.file.removesuffix(".onnx") or name == entry.file:
                digest.update(model.graph.SerializeToString(deterministic=True))
        found[entry.file] = digest.hexdigest()[:16]
    return found


def stale(kept: Kept) -> list[str]:
    """The rows and models whose graph is another now."""
    now = digests(models())
    return [
        f"{row}, {file}"
        for row, made in kept["rows"].items()
        for file, digest in now.items()
        if made["digests"].get(file) != digest
    ]


def _count(made: Kept) -> str:
    """How many cases a row has."""
    total = sum(
        count for _, _, counts in _counts(made) for kind, count in counts.items() if kind != "said"
    )
    return f"{total:,}"


def _counts(made: Kept) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for model, groups in made["models"].items():
        for group, counts in groups.items():
            yield model, group, counts


def _title(row: str, made: Kept) -> str:
    return f"{row} ({made['version']})" if made["version"] else row


def _cell(groups: Mapping[str, Mapping[str, int]]) -> str:
    """One word for a model on a runtime."""
    kinds = {kind for counts in groups.values() for kind in counts} - {"said"}
    good = any("equal" in counts for group, counts in groups.items() if group not in REFUSALS)
    if "wrong" in kinds:
        return "**WRONG**"
    if not good:
        return "refused" if "crashed" not in kinds else "ends the process"
    return "equal" if kinds == {"equal"} else "equal but"


def _refusals(title: str, made: Kept) -> Iterator[str]:
    """Lines for what is not equal; models that are refused in the same words share one."""
    same: dict[tuple[str, str], dict[str, list[str]]] = {}
    for model, group, counts in _counts(made):
        for kind, said in counts.get("said", {}).items() or ():
            same.setdefault((kind, said), {}).setdefault(model, []).append(group)
        for kind in {"taken", "flushed"} & counts.keys():
            same.setdefault((kind, ""), {}).setdefault(model, []).append(group)
    if not same:
        return
    yield f"**{title}**\n\n"
    for (kind, said), where in same.items():
        names = "; ".join(
            f"`{model.removesuffix('.onnx')}` ({', '.join(_groups(made, model, groups))})"
            for model, groups in where.items()
        )
        what = {
            "refused": "refuses", "crashed": "ends its process", "wrong": "**WRONG**",
            "taken": "does not refuse what the model refuses elsewhere",
            "flushed": "takes subnormal scores, those below 1.2e-38, for 0, or some of them",
        }[kind]  # fmt: skip
        yield f"- {what}: {names}" + (f": “{_escaped(said)}”\n" if said else "\n")
    yield "\n"


def _groups(made: Kept, model: str, groups: list[str]) -> list[str]:
    """The groups' names, or that it is all of them."""
    every = [group for group in made["models"][model] if group not in REFUSALS]
    return ["all"] if set(every) <= {*groups} else list(dict.fromkeys(groups))


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(said: str) -> str:
    for mark in "\\`*_<>[]|":
        said = said.replace(mark, "\\" + mark)
    return said
