"""Try every function of nbgather in every world of torch, and write the table of the docs.

    python scripts/torch_worlds.py                  tries all, and prints what is refused or wrong
    python scripts/torch_worlds.py --write          and writes scripts/docs/torch_worlds.md
    python scripts/torch_worlds.py --write --quick  but the worlds that take minutes

The worlds are those of ``scripts/torch_ways.py``, the cases those of ``scripts/torch_cases.py``:
each a call of ours and the same by torch's own operators. What the table says is found out by
trying it: results, and derivatives, are those of torch's operators, bit for bit, or the call is
refused with a reason.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_cases import CASES, Case, flat
from torch_derivatives import Call, each, grad_vmap, hessian, vmap_grad
from torch_ways import SEED, WORLDS, World, Wrong, expect

TABLE = Path(__file__).resolve().parent / "docs" / "torch_worlds.md"


def attempt(case: Case, world: World) -> str:
    """Try a call in a world: "" where all is right, else the error that it was refused with."""
    torch.manual_seed(SEED)
    try:
        got = world.run(case.ours, case.args)
    except Wrong:
        raise
    except Exception as error:
        return _reason(error)
    torch.manual_seed(SEED)
    if world.expects == "world":
        want = world.run(case.theirs, case.args)
    elif world.expects == "stacked":
        want = EACH[world.run](case.ours, case.args)
    elif world.expects == "hessian":
        want = hessian(case.theirs, case.args)
    else:
        want = case.theirs(*case.args)
    expect(got, want, world.expects == "shapes")
    return ""


_one_vmap = WORLDS["`func.vmap`"].run
_grad = WORLDS["`func.grad`"].run


def _grad_of_all(call: Call, args: tuple[Any, ...]) -> Any:
    """As `grad_vmap`, whose factor is one for all samples."""
    parts = [flat(_grad(call, args)), flat(_grad(call, tuple(a.flip(0) for a in args)))]
    return parts[0][0] + parts[1][0], *(torch.stack(p) for p in list(zip(*parts))[1:])


def _twice(call: Call, args: tuple[Any, ...]) -> Any:
    return tuple(torch.stack([r, r]) for r in flat(call(*args)))


EACH = {
    WORLDS["`vmap` of `vmap`"].run: each(_twice),
    _one_vmap: each(lambda call, args: call(*args)),
    vmap_grad: each(_grad),
    grad_vmap: _grad_of_all,
}


#: What is worth telling of an error in which torch wraps the one that counts.
_WORDS = (
    r"infer_gather cannot be traced by torch: call it outside",
    r"vmap: called random operation while in randomness error mode",
)


def _reason(error: BaseException) -> str:
    """The words of nbgather's own error, also where torch wraps it in another."""
    for words in _WORDS:
        if re.search(words, str(error)):
            return words
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def attempt_all(title: str, before: Callable[[Case], None] = lambda case: None) -> dict[str, str]:
    """What each case is refused with in a world; ``before`` is called before each is tried."""
    refused = {}
    for name, case in CASES.items():
        before(case)
        try:
            reason = attempt(case, WORLDS[title])
        except Exception as error:
            raise Wrong(f"{name} in {title}: {error!r}") from error
        if reason:
            refused[name] = reason
    return refused


HEAD = """| World | Functions | Refused, and why |
|---|---|---|
"""


def row(title: str, refused: dict[str, str]) -> str:
    """The line of a world in the table."""
    world = WORLDS[title]
    if world.refuses:
        wrong = [n for n in CASES if world.refuses not in refused.get(n, "")]
        if wrong:
            raise Wrong(f"{title} does not refuse {wrong} with {world.refuses!r}")
        return f"| {title} | none | {refused['gather']} |\n"
    reasons: dict[str, list[str]] = {}
    for name, reason in refused.items():
        reasons.setdefault(reason, []).append(name)
    parts = [f"{', '.join(f'`{n}`' for n in names)}: {why}" for why, names in reasons.items()]
    works = "all" if not refused else f"all but {len(refused)}"
    return f"| {title} | {works} | {'; '.join(parts)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="every function in every world of torch")
    parser.add_argument("--write", action="store_true", help="write the table of the docs")
    parser.add_argument("--only", default="", help="worlds whose name has this part")
    parser.add_argument("--quick", action="store_true", help="not those that take minutes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    before, _, after = TABLE.read_text(encoding="utf-8").partition(HEAD)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in after.splitlines(True)}
    for title, world in WORLDS.items():
        if options.only in title and not (options.quick and world.weekly):
            rows[title] = row(title, attempt_all(title))
            print(rows[title], end="", flush=True)
    if options.write:
        text = "".join(rows[title] for title in WORLDS if title in rows)
        TABLE.write_text(before + HEAD + text, encoding="utf-8")


if __name__ == "__main__":
    main()
