"""What functions that numba compiles can do with ours: a table made by trying it.

``python scripts/compiled_table.py`` writes it into the documentation; ``--check`` exits with
1 if the page has another.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numba.core.errors import NumbaError

import nbgather
from nbgather import numba_ext

PAGE = Path(__file__).parent / "docs" / "compiled.md"
START, END = "<!-- table:start -->", "<!-- table:end -->"

X = np.arange(24.0).reshape(2, 4, 3)
INDEX = np.array([[[0, 1, 2]], [[3, 2, 1]]])
IDS = np.array([[1, 0], [3, 3]])
SCORES = np.array([[0.5, 0.1, 0.4, 0.2]] * 2)
IMAGES = np.arange(96, dtype=np.uint8).reshape(1, 6, 4, 4)
VISIBLE, _, RESTORE = nbgather.random_masking(X, noise=SCORES)
MANY, OFFSETS = np.array([1, 2]), np.array([0, 2])
FEW = nbgather.random_masking(X, seed=1, num_keep=MANY)

#: Each function, and what it is tried with: a name, the call, its operands.
TRIED: dict[str, list[tuple[str, str, tuple[Any, ...]]]] = {
    "gather": [
        ("", "f(x, 1, i)", (X, INDEX)),
        ("`dim` at run time", "f(x, int(i[0, 0, 1]), i)", (X, INDEX)),
        ("`mode`", "f(x, 1, i, mode='clip')", (X, INDEX)),
        ("`fill_value`", "f(x, 1, i, mode='fill', fill_value=7)", (X, INDEX)),
        ("`out`", "f(x, 1, i, out=o)", (X, INDEX, np.empty(INDEX.shape))),
    ],
    "take_along_axis": [
        ("", "f(x, i % 3)", (X, INDEX)),
        ("`axis` at run time", "f(x, i, int(i[0, 0, 1]))", (X, INDEX)),
        ("`axis=None`", "f(x, i[0, 0], None)", (X, INDEX)),
        ("`mode`", "f(x, i, 1, mode='wrap')", (X, INDEX)),
        ("`out`", "f(x, i % 3, out=o)", (X, INDEX, np.empty((2, 4, 3)))),
    ],
    "gather_tokens": [
        ("", "f(x, i)", (X, IDS)),
        ("`mode`", "f(x, i, mode='fill')", (X, IDS)),
    ],
    "scatter": [
        ("", "f(x, 1, i, x)", (X, INDEX)),
        ("a number as `src`", "f(x, 1, i, 7)", (X, INDEX)),
        ("`out`", "f(x, 1, i, x, out=o)", (X, INDEX, np.empty(X.shape))),
    ],
    "scatter_add": [
        ("", "f(x, 1, i, x)", (X, INDEX)),
        ("`out`", "f(x, 1, i, x, out=o)", (X, INDEX, np.empty(X.shape))),
    ],
    "scatter_reduce": [
        ("by a constant", "f(x, 1, i, x, 'mean')", (X, INDEX)),
        ("`include_self`", "f(x, 1, i, x, 'amax', include_self=False)", (X, INDEX)),
        ("`out`", "f(x, 1, i, x, 'prod', out=o)", (X, INDEX, np.empty(X.shape))),
    ],
    "segment_reduce": [
        ("by `ids` with `num_segments`", "f(x, 'sum', ids=i, num_segments=4)", (X, MANY)),
        ("by `offsets`", "f(x, 'mean', offsets=i)", (X, OFFSETS)),
        ("by `counts`", "f(x, 'amax', counts=i)", (X, OFFSETS)),
        ("`out`", "f(x, 'sum', counts=i, out=o)", (X, OFFSETS, X.copy())),
        ("by `ids` alone", "f(x, 'sum', ids=i)", (X, MANY)),
    ],
    "gather_reduce": [
        ("", "f(x, i, 'mean')", (X, IDS % 2)),
        ("`offsets`", "f(x, i, 'sum', offsets=o)", (X, MANY - 1, OFFSETS)),
        ("`counts`", "f(x, i, 'amin', counts=o)", (X, MANY - 1, OFFSETS)),
        ("`mode`", "f(x, i, 'sum', mode='fill', fill_value=1)", (X, IDS % 2)),
        ("`out`", "f(x, i, 'sum', out=o)", (X, IDS % 2, X.copy())),
    ],
    "token_noise": [
        ("", "f(1, i, 4)", (MANY,)),
        ("a number as `sample_ids`", "f(1, 3, 4)", ()),
        ("`epoch`", "f(1, i, 4, epoch=2)", (MANY,)),
    ],
    "rank_tokens": [
        ("", "f(s, 2)", (SCORES,)),
        ("`num_keep` for each sample", "f(s, i)", (SCORES, MANY)),
    ],
    "random_masking": [
        ("with `noise`", "f(x, 0.5, noise=s)", (X, SCORES)),
        ("with `seed`", "f(x, 0.5, seed=1)", (X,)),
        ("`sample_ids`, `epoch`", "f(x, seed=1, sample_ids=i, epoch=2)", (X, MANY)),
        ("`num_keep`", "f(x, seed=1, num_keep=2)", (X,)),
        ("neither", "f(x, 0.5)", (X,)),
        ("`num_keep` for each sample", "f(x, seed=1, num_keep=i)", (X, MANY)),
    ],
    "restore_tokens": [
        ("a number as `mask_token`", "f(x, i, 0)", (VISIBLE, RESTORE)),
        ("an array", "f(x, i, t)", (VISIBLE, RESTORE, np.zeros(3))),
        ("`valid`", "f(x, i, 0, valid=v)", (FEW.x_masked, FEW.ids_restore, FEW.valid)),
    ],
    "patchify": [("", "f(x, 2)", (IMAGES,)), ("a tuple", "f(x, (2, 4))", (IMAGES,))],
    "unpatchify": [("", "f(x, 2, 4)", (nbgather.patchify(IMAGES, 2),))],
    "masked_patchify": [("", "f(x, 2, seed=1)", (IMAGES,))],
    "infer_gather": [("", "f(x, x)", (X,))],
}  # fmt: skip


def compiled(name: str, call: str) -> Any:
    """A function of the operands of a call that makes it."""
    scope: dict[str, Any] = {"nbgather": nbgather}
    body = call.replace("f(", f"nbgather.{name}(", 1)
    arguments = ", ".join(operand_names(call))
    exec(f"def tried({arguments}):\n    return {body}", scope)
    return njit(scope["tried"])


def operand_names(call: str) -> list[str]:
    """The one-letter names of a call in the order of their first use."""
    found: list[str] = []
    words = "".join(c if c.isalnum() or c == "_" else " " for c in call).split()
    for word in words:
        if len(word) == 1 and word.isalpha() and word != "f" and word not in found:
            found.append(word)
    return found


def works(name: str, call: str, operands: tuple[Any, ...]) -> bool:
    """Whether a call compiles, and gives what it gives from Python."""
    tried = compiled(name, call)
    try:
        got = tried(*operands)
    except NumbaError:
        return False
    want = tried.py_func(*operands)
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    return all(one.tobytes() == other.tobytes() for one, other in pairs)


def table() -> str:
    """The table as Markdown."""
    lines = ["| function | works | refused when it is compiled |", "|---|---|---|"]
    for name, tries in TRIED.items():
        if not hasattr(nbgather, name):
            continue
        answers: dict[bool, list[str]] = {True: [], False: []}
        for what, call, operands in tries:
            answers[works(name, call, operands)].append(what or "yes")
        no = ["all" if what == "yes" else what for what in answers[False]]
        lines.append(f"| `{name}` | {', '.join(answers[True])} | {', '.join(no)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__ or ""))
    parser.add_argument("--check", action="store_true", help="compare with the page")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    numba_ext.init()
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    made = f"{head}{START}\n{table()}\n{END}{tail}"
    if arguments.check:
        return int(made != text)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
