"""A call as a text, by which another process can plan it again: operation, operands, and an item.

The text goes into what XLA compiles, and so into its caches and into executables that are kept. It
holds no address and nothing of this process.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from typing import Any

from nbgather.engine.programs import Specs, program_of
from nbgather.kernels.program import KEY_BYTES, Program
from nbgather.operations import cleared, indexing, patches, reducing, scores, tokens
from nbgather.operations.base import DType, Operation, Spec
from nbgather.operations.keep import Keep

#: What a text begins with; another number where the same words mean something else.
FORMAT = 1
#: The operations that a text may name.
_KINDS: dict[str, type[Operation]] = {
    kind.__name__: kind
    for kind in (
        indexing.Gather, indexing.TakeAlongAxis, indexing.GatherTokens, indexing.Scatter,
        indexing.ScatterAdd, reducing.ScatterReduce, tokens.TokenNoise, tokens.SeededNoise,
        tokens.RankTokens, tokens.ChooseTokens, tokens.RandomMasking, tokens.RestoreTokens,
        patches.Patchify, patches.Unpatchify, patches.CutPatches, scores.Score, cleared.Cleared,
    )
}  # fmt: skip


def text_of(operation: Operation, specs: Specs, item: bytes) -> str:
    """A call of dense arrays as a text of ASCII."""
    fields = {f.name: getattr(operation, f.name) for f in dataclasses.fields(operation)}  # type: ignore[arg-type]
    if "keep" in fields:
        fields["keep"] = dataclasses.asdict(fields["keep"])
    described = [None if s is None else [s.shape, s.strides, *s.dtype[:3]] for s in specs]
    call = [FORMAT, type(operation).__name__, fields, described, item.hex()]
    return json.dumps(call, separators=(",", ":"))


def key_of(text: str) -> str:
    """What a call is found by: so many characters of ASCII that no other text has them."""
    digest = hashlib.blake2b(text.encode(), digest_size=KEY_BYTES * 3 // 4).digest()
    return base64.b64encode(digest).decode()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def program_of_text(text: str) -> Program:
    """The program of a call that came as a text.

    Raises
    ------
    ValueError
        The text is of another version of this package, or of something else.
    """
    try:
        written, name, fields, described, item = json.loads(text)
        if written != FORMAT:
            raise ValueError(f"format {written}")
        if "keep" in fields:
            fields["keep"] = Keep(**{k: _tuples(v) for k, v in fields["keep"].items()})
        operation = _KINDS[name](**{k: _tuples(v) for k, v in fields.items()})
        specs = tuple(None if d is None else _spec(*d) for d in described)
        program = program_of(operation, specs, bytes.fromhex(item))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"a call came that another version of nbgather compiled ({error}): compile it again"
        ) from None
    if program is None:
        raise ValueError("a call came that this version of nbgather does not compile")
    return program


def _spec(
    shape: list[int], strides: list[int], name: str, itemsize: int, integer: str | None
) -> Spec:
    return Spec(tuple(shape), tuple(strides), DType(name, itemsize, integer))
