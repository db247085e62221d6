"""Rows of what XLA compiles: our kernels called by it, beside the gathers of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import NARROW, Call, Contest, Row
from nbgather.apps.bench.operands import floats, generator, installed

__all__ = ["JAX_ROWS"]

#: Calls in a turn where one is too short to be timed.
SMALL_CALLS = 2000


def _call(function: Callable[..., Any], *operands: np.ndarray) -> Call:
    """A compiled function on JAX's arrays, waited for."""
    import jax

    compiled, given = jax.jit(function), [jax.numpy.asarray(o) for o in operands]
    return lambda: jax.block_until_ready(compiled(*given))


def _contest(
    ours: Callable[..., Any],
    theirs: dict[str, Callable[..., Any]],
    x: np.ndarray,
    index: np.ndarray,
    batch: int = 1,
) -> Contest | None:
    """The same work by all, with an index of int64 and of int32."""
    if not installed("jax"):
        return None
    peers = {name: _call(function, x, index) for name, function in theirs.items()}
    small = index.astype(np.int32)
    narrow = {f"nbgather{NARROW}": _call(ours, x, small)}
    narrow[f"jax{NARROW}"] = _call(theirs["jax"], x, small)
    nbytes = index.nbytes + 2 * index.size * x.itemsize
    return Contest(_call(ours, x, index), peers, nbytes, narrow=narrow, batch=batch, scales=False)


def _gather(x: np.ndarray, dim: int, index: np.ndarray, batch: int = 1) -> Contest | None:
    """Along a dimension; JAX's with the check of its own, and without any."""

    def unchecked(mode: str | None) -> Callable[..., Any]:
        def take(a: Any, i: Any) -> Any:
            import jax

            return jax.numpy.take_along_axis(a, i, dim, mode=mode)

        return take

    theirs = {"jax": unchecked("promise_in_bounds"), "jax, mode fill": unchecked(None)}
    return _contest(lambda a, i: nbgather.take_along_axis(a, i, dim), theirs, x, index, batch)


def _square(dim: int, dtype: str = "float32") -> Contest | None:
    x = (floats((4096, 4096)) * 100).astype(dtype)
    return _gather(x, dim, np.random.default_rng(1).integers(0, 4096, x.shape))


def _kept_ids() -> np.ndarray:
    ids: np.ndarray = np.argsort(generator().random((64, 196)), 1)[:, :49]
    return ids


def _token_gradient() -> Contest | None:
    """Of a loss on tokens that are kept: a scatter_add of rows."""

    def ours(x: Any, ids: Any) -> Any:
        import jax

        return jax.grad(lambda a: (nbgather.gather_tokens(a, ids) ** 2).sum())(x)

    def theirs(x: Any, ids: Any) -> Any:
        import jax

        def loss(a: Any) -> Any:
            picked = jax.numpy.take_along_axis(a, ids[..., None], 1, mode="promise_in_bounds")
            return (picked**2).sum()

        return jax.grad(loss)(x)

    return _contest(ours, {"jax": theirs}, floats((64, 196, 768)), _kept_ids())


def _scatter_add() -> Contest | None:
    def theirs(x: Any, index: Any) -> Any:
        import jax

        places = jax.numpy.indices(index.shape, sparse=True)
        return jax.numpy.zeros_like(x).at[(*places[:-1], index)].add(x)

    shape = (10, 10, 512, 512)
    return _contest(
        lambda x, i: nbgather.scatter_add(x * 0, 3, i, x),
        {"jax": theirs},
        # Whole numbers, whose sums are the same in any order.
        np.round(floats(shape) * 8),
        generator().integers(0, 512, shape),
    )


JAX_ROWS: tuple[Row, ...] = (
    Row("jit: MAE rows, repeated", "jit", "x[64,196,768] dim 1, index [64,49,768]",
        lambda: _gather(floats((64, 196, 768)), 1,
                        np.repeat(_kept_ids()[:, :, None], 768, 2))),
    Row("jit: MAE rows, expanded", "jit", "the same, index [64,49,1]",
        lambda: _gather(floats((64, 196, 768)), 1, _kept_ids()[:, :, None])),
    Row("jit: square, dim 1", "jit", "x[4096,4096]", lambda: _square(1)),
    Row("jit: square, dim 0", "jit", "x[4096,4096]", lambda: _square(0)),
    Row("jit: float16, dim 1", "jit", "x[4096,4096] float16", lambda: _square(1, "float16")),
    Row("jit: int8, dim 1", "jit", "x[4096,4096] int8", lambda: _square(1, "int8")),
    Row("jit: attention", "jit", "x[10,10,512,512] dim -1",
        lambda: _gather(floats((10, 10, 512, 512)), 3,
                        generator().integers(0, 512, (10, 10, 512, 512)))),
    Row("jit: graph rows", "jit", "x[100000,128], 500,000 rows",
        lambda: _gather(floats((100_000, 128)), 0,
                        generator().integers(0, 100_000, (500_000, 1)))),
    Row("jit: log-prob pick", "jit", "x[4096,50257], index [4096,1]",
        lambda: _gather(floats((4096, 50257)), 1,
                        generator().integers(0, 50257, (4096, 1)), 20)),
    Row("jit: tiny", "jit", "x[2,3,4]",
        lambda: _gather(floats((2, 3, 4)), 1,
                        generator().integers(0, 3, (2, 2, 4)), SMALL_CALLS)),
    Row("jit: gradient of tokens", "jit", "x[64,196,768], ids [64,49]", _token_gradient),
    Row("jit: scatter_add", "jit", "[10,10,512,512], indices below 512", _scatter_add),
)  # fmt: skip
