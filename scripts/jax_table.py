"""What works inside of JAX, found out by trying it: the tables of scripts/docs/jax.md.

    python scripts/jax_table.py            write them
    python scripts/jax_table.py --check    fail if they say something else

Each call is compiled, differentiated, batched and sharded, and what comes is compared with the same
call outside of ``jit``, bit for bit; what is refused is told by the error.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import nbgather.jax
from nbgather import strategies

PAGE = Path(__file__).resolve().parent / "docs" / "jax.md"
Call = tuple[Callable[..., Any], tuple[Any, ...]]

X = jnp.asarray(np.random.default_rng(0).random((2, 8, 4), np.float32))
INDEX = jnp.asarray(np.random.default_rng(1).integers(0, 8, (2, 3, 4)), jnp.int32)
IDS = jnp.arange(2)
NOISE = X[..., 0]
IMAGES = X.reshape(2, 1, 8, 4)
MADE = nbgather.random_masking(X, 0.5, seed=0)

CALLS: dict[str, Call] = {
    "gather": (lambda x, i: nbgather.gather(x, 1, i), (X, INDEX)),
    "take_along_axis": (lambda x, i: nbgather.take_along_axis(x, i, 1), (X, INDEX - 8)),
    "gather_tokens": (nbgather.gather_tokens, (X, INDEX[..., 0])),
    "scatter": (lambda x, i: nbgather.scatter(x, 1, i, x[:, :3]), (X, INDEX)),
    "scatter_add": (lambda x, i: nbgather.scatter_add(x, 1, i, x[:, :3]), (X, INDEX)),
    "scatter_reduce": (
        lambda x, i: nbgather.scatter_reduce(x, 1, i, x[:, :3], "amax"), (X, INDEX)
    ),
    "segment_reduce": (
        lambda x, i: nbgather.segment_reduce(x[0], "sum", ids=i[0], num_segments=4),
        (X, jnp.asarray([[0, 1, 3, 1, 0, 2, 2, 3]] * 2, jnp.int32)),
    ),
    "gather_reduce": (lambda x, i: nbgather.gather_reduce(x[0], i, "sum"), (X, INDEX[..., 0])),
    "token_noise": (lambda ids: nbgather.token_noise(0, ids, 8), (IDS,)),
    "jax.seeded_noise": (
        lambda ids, seed, epoch: nbgather.jax.seeded_noise(seed, ids, 8, epoch=epoch),
        (IDS, jnp.int32(3), jnp.int32(1)),
    ),
    "rank_tokens": (lambda scores: nbgather.rank_tokens(scores, 3), (NOISE,)),
    "random_masking, noise": (lambda x, n: nbgather.random_masking(x, noise=n), (X, NOISE)),
    "random_masking, seed": (
        lambda x, ids: nbgather.random_masking(x, seed=0, sample_ids=ids), (X, IDS)
    ),
    "random_masking, neither": (lambda x: nbgather.random_masking(x), (X,)),
    "restore_tokens": (
        lambda x, ids: nbgather.restore_tokens(x, ids, 0.0), (MADE.x_masked, MADE.ids_restore)
    ),
    "patchify": (lambda images: nbgather.patchify(images, 2), (IMAGES,)),
    "unpatchify": (lambda p: nbgather.unpatchify(p, 2, (8, 4)), (nbgather.patchify(IMAGES, 2),)),
    "masked_patchify": (
        lambda images, ids: nbgather.masked_patchify(images, 2, seed=0, sample_ids=ids),
        (IMAGES, IDS),
    ),
    **{
        f"strategies.{name}": (
            lambda ids, name=name: getattr(strategies, name)(0, ids, (2, 4)), (IDS,)
        )
        for name in strategies.__all__
    },
    "infer_gather": (lambda x: nbgather.infer_gather(x, x), (X,)),
}  # fmt: skip

#: Dtypes of JAX without x64, and some that it has no plain memory for.
DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16",
    "float32", "complex64", "float8_e4m3fn", "float8_e4m3b11fnuz", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "int4", "uint4",
)  # fmt: skip


def _require_same(got: Any, want: Any) -> None:
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(one), np.asarray(other)
        if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
            raise AssertionError("other bits")


def _compile(call: Callable[..., Any], operands: Any) -> None:
    _require_same(jax.jit(call)(*operands), call(*operands))


def _first_float(call: Callable[..., Any], rest: Sequence[Any]) -> Callable[[Any], Any]:
    return lambda x: next(
        r for r in jax.tree.leaves(call(x, *rest)) if jnp.issubdtype(r.dtype, jnp.inexact)
    )


def _differentiate(call: Callable[..., Any], operands: Any) -> bool | None:
    first, rest = operands[0], operands[1:]
    if not jnp.issubdtype(first.dtype, jnp.inexact):
        return None
    function = _first_float(call, rest)
    out = jax.jit(function)(first)
    (pulled,) = jax.jit(lambda x, c: jax.vjp(function, x)[1](c))(first, out)
    (plain,) = jax.vjp(function, first)[1](out)
    _require_same(pulled, plain)
    jax.jit(lambda x: jax.jvp(function, (x,), (x,)))(first)
    return bool(np.asarray(pulled).any())


def _batch(call: Callable[..., Any], operands: Any) -> None:
    first, rest = operands[0], operands[1:]
    got = jax.jit(jax.vmap(call, (0, *(None,) * len(rest))))(jnp.stack([first] * 2), *rest)
    _require_same(jax.tree.map(lambda r: r[1], got), call(*operands))


def _shard(call: Callable[..., Any], operands: Any) -> None:
    shard_map = getattr(jax, "shard_map", None)
    if shard_map is None:
        from jax.experimental.shard_map import shard_map
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
    spec = jax.sharding.PartitionSpec("d")
    mapped = shard_map(call, mesh=mesh, in_specs=(spec,) * len(operands), out_specs=spec)
    _require_same(jax.jit(mapped)(*operands), call(*operands))


def _export(call: Callable[..., Any], operands: Any) -> None:
    meant = jax.export.DisabledSafetyCheck.custom_call("nbgather")
    exported = jax.export.export(jax.jit(call), disabled_checks=[meant])(*operands)
    loaded = jax.export.deserialize(exported.serialize())
    _require_same(loaded.call(*operands), call(*operands))


WAYS: dict[str, Callable[[Callable[..., Any], Any], bool | None]] = {
    "jit": _compile,
    "grad, jvp": _differentiate,
    "vmap": _batch,
    "shard_map": _shard,
    "export": _export,
}  # type: ignore[dict-item]


def _cell(way: Callable[..., Any], call: Callable[..., Any], operands: Any) -> str:
    """What came: yes; a dash where there is nothing to differentiate; or the error."""
    try:
        answer = way(call, operands)
    except AssertionError:
        raise
    except Exception as error:
        return f"{type(error).__name__}"
    if way is _differentiate:
        return "–" if answer is None else "yes" if answer else "0"
    return "yes"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def calls_table() -> str:
    """The calls by what is done with them."""
    lines = [_row(["", *WAYS]), _row(["---"] * (1 + len(WAYS)))]
    for name, (call, operands) in CALLS.items():
        lines.append(_row([f"`{name}`", *(_cell(w, call, operands) for w in WAYS.values())]))
    return "\n".join(lines)


def _dtype_cells(name: str) -> list[str]:
    dtype = getattr(ml_dtypes, name, None) or np.dtype(name)
    x = (X * 5).astype(dtype)
    calls: dict[str, Call] = {
        "gather": (lambda a, i: nbgather.gather(a, 1, i), (x, INDEX)),
        "fill": (lambda a, i: nbgather.gather(a, 1, i, mode="fill", fill_value=1), (x, INDEX - 4)),
        "scatter": (lambda a, i: nbgather.scatter(a, 1, i, a[:, :3]), (x, INDEX)),
        "scatter_add": (lambda a, i: nbgather.scatter_add(a, 1, i, a[:, :3]), (x, INDEX)),
        "ranks": (lambda a, i: nbgather.rank_tokens(a[..., 0], 3), (x, INDEX)),
    }
    return [_cell(_compile, *call) for call in calls.values()]


def dtypes_table() -> str:
    """The dtypes by what can be done with their items, under jit."""
    head = ["", "gather", "mode `fill`", "scatter", "scatter_add", "rank_tokens"]
    lines = [_row(head), _row(["---"] * len(head))]
    lines += [_row([f"`{name}`", *_dtype_cells(name)]) for name in DTYPES]
    return "\n".join(lines)


def filled(text: str) -> str:
    """The page with its tables."""
    for name, table in (("calls", calls_table()), ("dtypes", dtypes_table())):
        pattern = rf"(<!-- {name}: scripts/jax_table.py -->\n).*?(\n<!-- end -->)"
        text, count = re.subn(pattern, lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"{PAGE.name} has no place for the table of {name}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or check them; the exit code: 0 done, 1 stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if the tables are stale")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = PAGE.read_text()
        after = filled(before)
    if options.check:
        print(f"{PAGE.name} is", "up to date" if before == after else "stale: run this script")
        return 0 if before == after else 1
    PAGE.write_text(after)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
