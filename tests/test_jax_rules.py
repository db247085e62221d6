"""JAX's transformations: gradients as torch has them, bit for bit, and batches as one call each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads
from test_jax_compiled import CASES, IMAGES, INDEX, MADE, RESTORE, RNG, X, as_jax, same

import nbgather
import nbgather.jax
from nbgather.containers import jax_rules
from nbgather.operations.indexing import ScatterAdd

#: Calls with a gradient: of JAX's arrays, or of torch's tensors.
GRADIENTS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    **{
        name: (CASES[name][0], (X, CASES[name][1][1]))
        for name in (
            "gather", "gather, clip", "gather, wrap", "gather, NaN", "gather, uint8", "along",
            "tokens", "tokens, fill", "scatter, number", "scatter_add",
        )
    },
    "scatter": (lambda x, i, s: nbgather.scatter(x, 1, i, s), (X, INDEX, X[:, :8] * 2)),
    "scatter_add, src": (lambda x, i, s: nbgather.scatter_add(x, 1, i, s), (X, INDEX, X[:, :8])),
    "along, broadcast": (
        lambda x, i: nbgather.take_along_axis(x, i, 1), (X[:, :, :1], INDEX - 16)
    ),
    "masking": (lambda x: nbgather.random_masking(x, 0.6, seed=3)[0], (X,)),
    "masking, counts": (lambda x: nbgather.random_masking(x, seed=3, num_keep=[1, 5, 0])[0], (X,)),
    "restore": (
        lambda x, i, t: nbgather.restore_tokens(x, i, t),
        (MADE.x_masked, RESTORE, np.arange(4, dtype=np.float32)),
    ),
    "restore, number": (CASES["restore, number"][0], (MADE.x_masked, RESTORE)),
    "patchify": (CASES["patchify"][0], (IMAGES,)),
    "masked patches": (lambda i: nbgather.masked_patchify(i, 4, 0.5, seed=1)[0], (IMAGES,)),
}  # fmt: skip


def floats(operands: tuple[Any, ...]) -> list[int]:
    return [k for k, o in enumerate(operands) if o.dtype == np.float32]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_torch(name: str) -> None:
    call, operands = GRADIENTS[name]
    moving = floats(operands)
    tensors = [torch.tensor(o) for o in operands]
    for k in moving:
        tensors[k].requires_grad_()
    out = call(*tensors)
    cotangent = np.random.default_rng(1).random(out.shape, np.float32)
    want = torch.autograd.grad(
        out, [tensors[k] for k in moving], torch.tensor(cotangent), allow_unused=True
    )
    given = as_jax(operands)

    def moved(*values: Any) -> Any:
        arrays = list(given)
        for k, value in zip(moving, values, strict=True):
            arrays[k] = value
        return call(*arrays)

    def pulled(cotangent: Any, *values: Any) -> Any:
        return jax.vjp(moved, *values)[1](cotangent)

    primals = [given[k] for k in moving]
    for pull in (pulled, jax.jit(pulled)):
        for got, other in zip(pull(jnp.asarray(cotangent), *primals), want, strict=True):
            plain = np.zeros(got.shape, np.float32) if other is None else other.numpy()
            if got.shape == (4,):  # the mask token's, which each library sums up as it does
                np.testing.assert_allclose(np.asarray(got), plain, rtol=1e-6)
            else:
                same(got, plain)
    tangents = tuple(p + 1 for p in primals)
    made, tangent = jax.jit(lambda *a: jax.jvp(moved, *a))(tuple(primals), tangents)
    same(made, out.detach().numpy())
    # Of what is linear in a cotangent and in a tangent, the two must agree.
    pulled_back = pulled(jnp.asarray(cotangent), *primals)
    forward = (np.asarray(tangent, np.float64) * cotangent).sum()
    back = sum((np.asarray(t, np.float64) * b).sum() for t, b in zip(tangents, pulled_back))
    if name != "scatter":  # of several values for one place, each gets its whole cotangent
        np.testing.assert_allclose(forward, back, rtol=1e-5)


@pytest.mark.parametrize("name", ["gather, wrap", "along", "tokens, fill", "scatter_add, src"])
def test_numbers_agree_to_the_second_order(name: str) -> None:
    call, operands = GRADIENTS[name]
    given = as_jax(operands)

    def of_floats(*values: Any) -> Any:
        arrays = list(given)
        for k, value in zip(floats(operands), values, strict=True):
            arrays[k] = jnp.asarray(value)
        return call(*arrays)

    primals = tuple(given[k] for k in floats(operands))
    check_grads(of_floats, primals, 2, modes=("fwd", "rev"), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_one_call_for_each(name: str) -> None:
    call, operands = CASES[name]
    given = as_jax(operands)
    first, rest = given[0], given[1:]
    batch = jnp.stack([first, first[::-1], first])
    want = [call(one, *rest) for one in batch]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *want)
    unmapped = (None,) * len(rest)
    same(jax.vmap(call, (0, *unmapped))(batch, *rest), stacked)
    last = jnp.moveaxis(batch, 0, -1)
    same(jax.jit(jax.vmap(call, (-1, *unmapped)))(last, *rest), stacked)
    if len(given) > 1:
        axes = (None, 0, *unmapped[1:])
        second = jnp.stack([rest[0]] * 2)
        got = jax.jit(jax.vmap(call, axes))(first, second, *rest[1:])
        same(jax.tree.map(lambda a: a[1], got), want[0])


def test_transformations_of_transformations() -> None:
    x, index = as_jax((X, INDEX))

    def loss(x: Any, i: Any) -> Any:
        return (nbgather.gather(x, 1, i) ** 2).sum()

    want = jax.grad(loss)(x, index)
    same(jax.jit(jax.grad(jax.checkpoint(loss)))(x, index), want)
    same(jax.jit(jax.vmap(jax.grad(loss)))(x[None], index[None])[0], want)
    same(jax.grad(lambda x: jax.vmap(lambda a, i: (nbgather.gather(a, 0, i) ** 2).sum())(
        x, index).sum())(x), want)  # fmt: skip
    wide, along = x[0, :6, 0], index[0, :3, 0] % 6
    tangent = jax.jacfwd(lambda a: nbgather.gather(a, 0, along))(wide)
    same(tangent, np.eye(6, dtype=np.float32)[np.asarray(along)])
    same(jax.jit(jax.jacrev(lambda a: nbgather.gather(a, 0, along)))(wide), np.asarray(tangent))
    hessian = jax.hessian(lambda a: (nbgather.gather(a, 0, along) ** 2).sum())(wide)
    same(hessian, np.diag(2.0 * np.bincount(along, minlength=6)).astype(np.float32))

    def step(carried: Any, i: Any) -> Any:
        added = nbgather.scatter_add(carried, 1, i, carried[:, :5])
        return added, nbgather.gather(added, 1, i)

    indices = jnp.stack([index, index[:, ::-1], index])
    carried, outs = jax.jit(lambda x: jax.lax.scan(step, x, indices))(x)
    plain, each = x, []
    for i in indices:
        plain, out = step(plain, i)
        each.append(out)
    same(carried, np.asarray(plain))
    same(outs, np.stack(each))
    rolled = jax.jit(jax.grad(lambda x: jax.lax.scan(step, x, indices)[1].sum()))(x)
    unrolled = jax.grad(lambda x: jax.lax.scan(step, x, indices, unroll=3)[1].sum())(x)
    assert np.allclose(rolled, unrolled)
    shape = jax.eval_shape(lambda x: nbgather.random_masking(x, 0.5, seed=1), x)
    assert type(shape).__name__ == "MaskedTokens"
    assert [s.shape for s in shape] == [(3, 8, 4), (3, 16), (3, 16)]


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (-1, -1)])
def test_gradients_of_a_batch_are_a_batch_of_gradients(axes: tuple[int | None, ...]) -> None:
    """The index that a gradient broadcasts is a batch too, or is not."""
    for call, index in (
        (nbgather.gather_tokens, INDEX[..., 0]),
        (lambda x, i: nbgather.take_along_axis(x, i, 1), INDEX[:, :, :1] - 16),
    ):
        grad = jax.grad(lambda x, i, call=call: (call(x, i) ** 2).sum())
        batches = [np.stack([a, a[::-1]]) for a in (X, index)]
        given = [
            a if axis is None else np.moveaxis(b, 0, axis)
            for a, b, axis in zip((X, index), batches, axes, strict=True)
        ]
        got = jax.jit(jax.vmap(grad, axes))(*as_jax(tuple(given)))
        for n in range(2):
            parts = (
                a if axis is None else b[n]
                for a, b, axis in zip((X, index), batches, axes, strict=True)
            )
            same(got[n], grad(*as_jax(tuple(parts))))


def test_no_memory_is_filled_with_a_broadcast_index() -> None:
    x, ids = jnp.asarray(X), jnp.asarray(INDEX[..., 0])
    text = str(jax.make_jaxpr(jax.grad(lambda x: nbgather.gather_tokens(x, ids).sum()))(x))
    assert "in_place=True" in text
    assert "i32[3,5,4]" not in text
    batch = jnp.stack([x, x])
    text = str(jax.make_jaxpr(jax.vmap(lambda x: nbgather.gather(x, 1, jnp.asarray(INDEX))))(batch))
    assert "i32[2,3,5,4]" not in text


def test_a_scatter_in_place_keeps_what_is_used_again() -> None:
    """XLA copies an operand whose memory is given away and which it reads again."""
    x, index = as_jax((X, INDEX))

    def scattered(x: Any, i: Any) -> Any:
        operation = ScatterAdd(1)
        return x * 1, jax_rules.bind(operation, (x * 1, i, x[:, :5]), True)

    kept, added = jax.jit(scattered)(x, index)
    same(kept, X)
    same(added, nbgather.scatter_add(X, 1, INDEX, X[:, :5]))


def test_numbers_that_are_equal_are_told_apart_by_their_bits() -> None:
    """0.0 equals -0.0, and what is compiled once is found by what is equal."""
    x, index = as_jax((X, INDEX - 8))

    @jax.jit
    def both(x: Any, i: Any) -> Any:
        return tuple(
            nbgather.gather(x, 1, i, mode="fill", fill_value=value) for value in (0.0, -0.0, 0)
        )

    signs = [np.signbit(np.asarray(r)).any() for r in both(x, index)]
    assert signs == [False, True, False]

    @jax.jit
    def cuts(images: Any) -> Any:
        return tuple(
            nbgather.masked_patchify(images, 4, 0.5, seed=1, mean=mean)[0] for mean in (0.0, -0.0)
        )

    images = jnp.full((2, 3, 8, 8), -0.0)
    signs = [np.signbit(np.asarray(r)).any() for r in cuts(images)]
    assert signs == [True, False]


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
import nbgather
from jax.sharding import NamedSharding, PartitionSpec as P
shard_map = getattr(jax, "shard_map", None)
if shard_map is None:
    from jax.experimental.shard_map import shard_map
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
rng = np.random.default_rng(0)
x = jnp.asarray(rng.random((8, 16, 4), np.float32))
i = jnp.asarray(rng.integers(0, 16, (8, 5, 4)).astype(np.int32))

def over(call, ins, outs=P("d")):
    return jax.jit(shard_map(call, mesh=mesh, in_specs=ins, out_specs=outs))

def same(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()

both = P("d"), P("d")
gather = lambda x, i: nbgather.gather(x, 1, i)
grad = jax.grad(lambda x, i: (gather(x, i) ** 2).sum())
mask = lambda x, i: tuple(nbgather.random_masking(x, 0.5, seed=1, sample_ids=i))
same(over(gather, both)(x, i), gather(x, i))
same(over(gather, (P(None, None, "d"),) * 2, P(None, None, "d"))(x, i), gather(x, i))
same(over(gather, (P("d"), P()))(x, i[:2]), gather(x, jnp.tile(i[:2], (4, 1, 1))))
same(over(gather, (P(), P("d")))(x[:2], i), gather(jnp.tile(x[:2], (4, 1, 1)), i))
same(over(grad, both)(x, i), grad(x, i))
same(jax.jit(jax.grad(lambda x: (over(gather, both)(x, i) ** 2).sum()))(x), grad(x, i))
same(over(jax.vmap(lambda x, i: nbgather.gather(x, 0, i)), both)(x, i), gather(x, i))
same(over(mask, both, (P("d"),) * 3)(x, jnp.arange(8)), mask(x, jnp.arange(8)))
same(over(lambda x, i: nbgather.scatter(x, 1, i, 2.5), both)(x, i), nbgather.scatter(x, 1, i, 2.5))
sharded = [jax.device_put(a, NamedSharding(mesh, P("d"))) for a in (x, i)]
same(jax.jit(gather)(*sharded), gather(x, i))
same(gather(*sharded), gather(x, i))
same(grad(*sharded), grad(x, i))
same(jax.pmap(gather)(x.reshape(4, 2, 16, 4), i.reshape(4, 2, 5, 4)).reshape(8, 5, 4), gather(x, i))
second = [jax.device_put(a, jax.devices()[1]) for a in (x, i)]
assert gather(*second).devices() == jax.jit(gather)(*second).devices() == {jax.devices()[1]}
explicit = getattr(getattr(jax.sharding, "AxisType", None), "Explicit", None)
if explicit is not None and hasattr(jax, "set_mesh"):  # shardings belong to types then
    typed = jax.make_mesh((4,), ("d",), axis_types=(explicit,))
    wanted = gather(x, i), grad(x, i)
    with jax.set_mesh(typed):
        a, b = (jax.device_put(z, NamedSharding(typed, P("d"))) for z in (x, i))
        same((jax.jit(gather)(a, b), jax.jit(grad)(a, b)), wanted)
try:
    over(gather, (P(), P("d")), P())(x[:2], i)  # which varies with the index
    raise SystemExit("no error")
except ValueError:
    pass
try:
    jax.block_until_ready(over(gather, both)(x, i.at[5, 2, 1].set(99)))
    raise SystemExit("no error")
except Exception as error:
    assert "index 99 at (1, 2, 1) is out of bounds for dimension 1 with size 16" in str(error)
"""


def test_each_shard_is_a_call() -> None:
    # Devices are counted when JAX begins.
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    environment = {**os.environ, **flags}
    subprocess.run([sys.executable, "-c", SHARDED], check=True, timeout=200, env=environment)


def test_gradients_of_large_arrays_are_added_to_zeros_of_ours() -> None:
    """In large pages, and as often as it is differentiated, batched or called alone."""
    x = RNG.integers(-9, 9, (4, 64, 1 << 12)).astype(np.float32)
    ids = RNG.integers(0, 64, (4, 9)).astype(np.int32)

    def loss(x: Any, ids: Any) -> Any:
        return (nbgather.gather_tokens(x, ids) ** 2).sum()

    counts = np.stack([np.bincount(row, minlength=64) for row in ids])[..., None]
    want = (2 * counts * x + 0.0).astype(np.float32)  # no zero is -0.0
    jx, ji = jnp.asarray(x), jnp.asarray(ids)
    gradient = jax.jit(jax.grad(loss))
    if nbgather.jax.why_not() is None:
        assert gradient.lower(jx, ji).as_text().count("Cleared") == 1
    for call in (gradient, jax.grad(loss)):
        assert np.asarray(call(jx, ji)).tobytes() == want.tobytes()
    batched = jax.jit(jax.vmap(jax.grad(loss)))(jnp.stack([jx, jx + 1]), jnp.stack([ji, ji]))
    assert np.asarray(batched[0]).tobytes() == want.tobytes()
    assert np.array_equal(batched[1], 2 * counts * (x + 1))
    second = jax.jit(jax.jvp, static_argnums=0)(lambda a: gradient(a, ji), (jx,), (jx,))[1]
    assert np.array_equal(second, want)
    few = jax.jit(jax.grad(loss)).lower(jx[..., :9], ji).as_text()
    assert "Cleared" not in few
