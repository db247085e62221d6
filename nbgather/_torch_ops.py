"""``torch.ops.nbgather``: the calls as operators that torch can trace, differentiate and batch.

Eager calls on plain tensors go straight to the kernels; these are what ``torch.compile``,
``torch.export``, ``torch.func`` and the ONNX exporter see. Backward passes are made of
differentiable torch operations, so second derivatives follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nbgather import _validate, indexing, masking, patches
from nbgather._torch_grad import (
    along_grad,
    expanded,
    gather_grad,
    restore_grad,
    scatter_grads,
)

_library = torch.library.Library("nbgather", "FRAGMENT")
_MODES = "*, str mode='raise', Scalar fill_value=0"

Fake = Callable[..., Any]


def _define(schema: str, run: Fake, fake: Fake) -> Any:
    name = schema.partition("(")[0]
    _library.define(schema)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        # The gradient is the operator's own affair, and has been seen to above this level.
        with torch.no_grad():
            return run(*args, **kwargs)

    for device in ("CPU", "CUDA"):
        _library.impl(name, kernel, device)
    torch.library.register_fake(f"nbgather::{name}", fake, lib=_library)
    return getattr(torch.ops.nbgather, name).default


def _differentiable(op: Any, setup: Fake, backward: Fake) -> None:
    torch.library.register_autograd(op, backward, setup_context=setup, lib=_library)


def _batched(op: Any, rule: Fake) -> None:
    torch.library.register_vmap(op, rule, lib=_library)


def _broadcast(shape: Any, other: Any, axis: int) -> list[Any]:
    """The shape of take_along_axis: off the axis sizes broadcast."""
    return [
        other[d] if d == axis else (other[d] if _is_one(shape[d]) else shape[d])
        for d in range(len(other))
    ]


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _keep(length: Any, mask_ratio: float) -> Any:
    share = length * (1 - mask_ratio)
    return torch.sym_int(share) if isinstance(length, torch.SymInt) else int(share)


gather = _define(
    f"gather(Tensor input, int dim, Tensor index, {_MODES}) -> Tensor",
    indexing.gather,
    lambda input, dim, index, mode="raise", fill_value=0: input.new_empty(index.shape),
)
take_along_axis = _define(
    f"take_along_axis(Tensor arr, Tensor indices, int axis=-1, {_MODES}) -> Tensor",
    indexing.take_along_axis,
    lambda arr, indices, axis=-1, mode="raise", fill_value=0: arr.new_empty(
        _broadcast(arr.shape, indices.shape, axis % arr.ndim)
    ),
)
gather_tokens = _define(
    f"gather_tokens(Tensor x, Tensor ids, {_MODES}) -> Tensor",
    indexing.gather_tokens,
    lambda x, ids, mode="raise", fill_value=0: x.new_empty((*ids.shape, *x.shape[2:])),
)
scatter = _define(
    "scatter(Tensor input, int dim, Tensor index, Tensor src) -> Tensor",
    indexing.scatter,
    lambda input, dim, index, src: input.new_empty(input.shape),
)
scatter_add = _define(
    "scatter_add(Tensor input, int dim, Tensor index, Tensor src) -> Tensor",
    indexing.scatter_add,
    lambda input, dim, index, src: input.new_empty(input.shape),
)
token_noise = _define(
    "token_noise(int seed, Tensor sample_ids, SymInt num_tokens, *, SymInt epoch=0) -> Tensor",
    masking.token_noise,
    lambda seed, sample_ids, num_tokens, epoch=0: sample_ids.new_empty(
        (sample_ids.shape[0], num_tokens), dtype=torch.float32
    ),
)


seeded_noise = _define(
    # The same with seed and epoch as tensors of one int64, which a graph takes as they come.
    "seeded_noise(Tensor seed, Tensor epoch, Tensor sample_ids, SymInt num_tokens) -> Tensor",
    lambda seed, epoch, sample_ids, num_tokens: masking.token_noise(
        int(seed), sample_ids, num_tokens, epoch=int(epoch)
    ),
    lambda seed, epoch, sample_ids, num_tokens: sample_ids.new_empty(
        (sample_ids.shape[0], num_tokens), dtype=torch.float32
    ),
)


def _fake_ranks(scores: torch.Tensor, kept: Any) -> tuple[torch.Tensor, ...]:
    n, length = scores.shape
    return (
        scores.new_empty((n, kept), dtype=torch.int64),
        scores.new_empty((n, length), dtype=torch.int64),
        scores.new_empty((n, length), dtype=torch.float32),
    )


rank_tokens = _define(
    "rank_tokens(Tensor scores, SymInt num_keep) -> (Tensor, Tensor, Tensor)",
    lambda scores, num_keep: tuple(masking.rank_tokens(scores, num_keep)),
    _fake_ranks,
)


def _run_masking(
    x: torch.Tensor, noise: torch.Tensor, mask_ratio: float
) -> tuple[torch.Tensor, ...]:
    ids_keep, ids_restore, mask = masking.rank_tokens(noise, _keep(x.shape[1], mask_ratio))
    return indexing.gather_tokens(x, ids_keep), mask, ids_restore, ids_keep


def _fake_masking(
    x: torch.Tensor, noise: torch.Tensor, mask_ratio: float
) -> tuple[torch.Tensor, ...]:
    kept = _keep(x.shape[1], mask_ratio)
    ids_keep, ids_restore, mask = _fake_ranks(noise, kept)
    return x.new_empty((x.shape[0], kept, *x.shape[2:])), mask, ids_restore, ids_keep


random_masking = _define(
    "random_masking(Tensor x, Tensor noise, float mask_ratio)"
    " -> (Tensor x_masked, Tensor mask, Tensor ids_restore, Tensor ids_keep)",
    _run_masking,
    _fake_masking,
)
restore_tokens = _define(
    "restore_tokens(Tensor x_visible, Tensor ids_restore, Tensor mask_token) -> Tensor",
    masking.restore_tokens,
    lambda x_visible, ids_restore, mask_token: x_visible.new_empty(
        (*ids_restore.shape, *x_visible.shape[2:])
    ),
)


# Gradients


def _keep_index(ctx: Any, inputs: Any, output: Any, keyword_only_inputs: Any = None) -> None:
    x, *rest = inputs
    index = next(r for r in rest if isinstance(r, torch.Tensor))
    ctx.save_for_backward(index)
    ctx.shape = x.shape
    ctx.dim = next((r for r in rest if isinstance(r, int)), -1)
    ctx.mode = (keyword_only_inputs or {}).get("mode", "raise")


def _gather_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (index,) = ctx.saved_tensors
    return gather_grad(grad, ctx.shape, ctx.dim, index, ctx.mode), None, None


def _along_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (index,) = ctx.saved_tensors
    return along_grad(grad, ctx.shape, ctx.dim, index, ctx.mode), None, None


def _tokens_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (ids,) = ctx.saved_tensors
    return gather_grad(grad, ctx.shape, 1, expanded(ids, ctx.shape), ctx.mode), None


_differentiable(gather, _keep_index, _gather_backward)
_differentiable(take_along_axis, _keep_index, _along_backward)
_differentiable(gather_tokens, _keep_index, _tokens_backward)


def _keep_ids(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(output[3])
    ctx.shape = inputs[0].shape
    ctx.mark_non_differentiable(*output[1:])


def _masking_backward(ctx: Any, grad: Any, *others: Any) -> tuple[Any, ...]:
    (ids,) = ctx.saved_tensors
    return gather_grad(grad, ctx.shape, 1, expanded(ids, ctx.shape), "raise"), None, None


_differentiable(random_masking, _keep_ids, _masking_backward)


def _keep_scatter(ctx: Any, inputs: Any, output: Any) -> None:
    _, ctx.dim, index, src = inputs
    ctx.save_for_backward(index)
    ctx.src_shape = src.shape


def _scatter_backward(add: bool) -> Fake:
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (index,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        to_input, to_src = scatter_grads(grad, ctx.dim, index, ctx.src_shape, add, wanted)
        return to_input, None, None, to_src

    return backward


_differentiable(scatter, _keep_scatter, _scatter_backward(add=False))
_differentiable(scatter_add, _keep_scatter, _scatter_backward(add=True))


def _keep_restore(ctx: Any, inputs: Any, output: Any) -> None:
    x_visible, ids_restore, mask_token = inputs
    ctx.save_for_backward(ids_restore)
    ctx.shapes = x_visible.shape, mask_token.shape


def _restore_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (ids,) = ctx.saved_tensors
    wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
    to_x, to_token = restore_grad(grad, ids, ctx.shapes, wanted)
    return to_x, None, to_token


_differentiable(restore_tokens, _keep_restore, _restore_backward)


# Batches of torch.func.vmap


def _front(tensor: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    """The batch in front, expanded where there is none."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)


def _dim_rule(op: Any) -> Fake:
    """A rule for operators with a dim: the batch is one dimension more, in front."""

    def rule(info: Any, in_dims: Any, input: Any, dim: int, *others: Any, **kwargs: Any) -> Any:
        ndim = input.ndim - (in_dims[0] is not None)
        if ndim == 0:
            raise ValueError("vmap over a 0-d gather: the input needs a dimension of its own")
        dims = in_dims[0], *in_dims[2:]
        moved = [_front(t, d, info.batch_size) for t, d in zip((input, *others), dims, strict=True)]
        return op(moved[0], dim % ndim + 1, *moved[1:], **kwargs), 0

    return rule


def _along_rule(
    info: Any, in_dims: Any, arr: Any, indices: Any, axis: int = -1, **kwargs: Any
) -> Any:
    ndim = arr.ndim - (in_dims[0] is not None)
    moved = [
        _front(t, d, info.batch_size) for t, d in zip((arr, indices), in_dims[:2], strict=True)
    ]
    return take_along_axis(*moved, axis % ndim + 1, **kwargs), 0


_batched(take_along_axis, _along_rule)
for _op in (gather, scatter, scatter_add):
    _batched(_op, _dim_rule(_op))


def _sample_rule(op: Any, tensors: int) -> Fake:
    """A rule for operators over samples: the batch is more samples."""

    def rule(info: Any, in_dims: Any, *args: Any, **kwargs: Any) -> Any:
        size = info.batch_size
        given = [
            _front(a, d, size).flatten(0, 1) if k < tensors else a
            for k, (a, d) in enumerate(zip(args, in_dims, strict=True))
        ]
        made = op(*given, **kwargs)
        if isinstance(made, torch.Tensor):
            return made.unflatten(0, (size, -1)), 0
        return tuple(m.unflatten(0, (size, -1)) for m in made), (0,) * len(made)

    return rule


_batched(gather_tokens, _sample_rule(gather_tokens, 2))
_batched(rank_tokens, _sample_rule(rank_tokens, 1))
_batched(random_masking, _sample_rule(random_masking, 2))


def _noise_rule(info: Any, in_dims: Any, seed: int, ids: Any, tokens: Any, **kwargs: Any) -> Any:
    flat = _front(ids, in_dims[1], info.batch_size)
    made = token_noise(seed, flat.flatten(), tokens, **kwargs)
    return made.unflatten(0, flat.shape), 0


_batched(token_noise, _noise_rule)


def _restore_rule(info: Any, in_dims: Any, x: Any, ids: Any, token: Any) -> Any:
    if in_dims[2] is not None:
        raise ValueError("vmap over mask_token: one mask token for all is needed")
    size = info.batch_size
    flat = [_front(a, d, size).flatten(0, 1) for a, d in ((x, in_dims[0]), (ids, in_dims[1]))]
    return restore_tokens(*flat, token).unflatten(0, (size, -1)), 0


_batched(restore_tokens, _restore_rule)


# What the public functions do when torch traces them


def _no_options(out: Any, backend: Any) -> None:
    if out is not None or backend is not None:
        raise ValueError(
            "out= or backend= was given where torch traces the call (torch.compile, torch.export,"
            " torch.func): neither is an operator's"
        )


def via_gather(
    kind: str, input: Any, dim: int, index: Any, mode: str, fill: Any, out: Any, backend: Any
) -> Any:
    """A gather of the house as its operator; ``kind`` as in :mod:`nbgather._plan`."""
    _no_options(out, backend)
    if kind == "tokens":
        return gather_tokens(input, index, mode=mode, fill_value=fill)
    if kind == "along":
        return take_along_axis(input, index, dim, mode=mode, fill_value=fill)
    return gather(input, dim, index, mode=mode, fill_value=fill)


def via_scatter(
    input: Any, dim: int, index: Any, src: Any, add: bool, out: Any, backend: Any
) -> Any:
    """A scatter as its operator; a number for ``src`` is one for all."""
    _no_options(out, backend)
    if not isinstance(src, torch.Tensor):
        src = torch.full_like(index, src, dtype=input.dtype)
    return (scatter_add if add else scatter)(input, dim, index, src)


def via_masking(
    x: Any,
    mask_ratio: Any,
    noise: Any,
    seed: int | None,
    ids: Any,
    epoch: int,
    num_keep: Any,
    backend: Any,
) -> masking.MaskedTokens | masking.PaddedTokens:
    """A masking by operators, under the checks of the eager one."""
    _no_options(None, backend)
    noise = _noise_for(x, "x", (x.shape[0], x.shape[1]), noise, seed, ids, epoch)
    return _masked(x, mask_ratio, noise, num_keep)


def seeded_masking(
    x: Any, mask_ratio: float, seed: Any, epoch: Any, ids: Any, num_keep: int | None
) -> masking.MaskedTokens:
    """A masking whose seed and epoch are tensors, so that a graph serves every epoch."""
    _validate.ids_of(tuple(ids.shape), x.shape[0], "x")
    noise = seeded_noise(seed, epoch, ids, x.shape[1])
    return _masked(x, mask_ratio, noise, num_keep)  # type: ignore[return-value]


def drawn_seed() -> Any:
    """A seed from torch's generator of the CPU, as a tensor."""
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")


def _noise_for(
    x: Any, what: str, pair: tuple[Any, Any], noise: Any, seed: Any, ids: Any, epoch: Any
) -> Any:
    """The scores of a masking: as they were given, or drawn."""
    _validate.one_source(noise, seed, ids)
    if noise is not None:
        _validate.noise(tuple(noise.shape), pair, tuple(x.shape), what)
        return noise
    at = _validate.epoch(epoch)
    if ids is None:
        ids = torch.arange(pair[0], device=x.device)
    _validate.ids_of(tuple(ids.shape), pair[0], what)
    if seed is None:
        zero = torch.zeros((), dtype=torch.int64, device="cpu")
        return seeded_noise(drawn_seed(), zero + at, ids, pair[1])
    return via_noise(_validate.bits64(seed, "seed"), ids, pair[1], at, None)


def _counts(num_keep: Any, samples: Any, tokens: Any) -> Any:
    if isinstance(num_keep, torch.Tensor):
        raise TypeError(
            "num_keep is a tensor where torch traces the call, which does not know its values:"
            " an int is needed, or a list of them"
        )
    return _validate.keep_counts(num_keep, samples, tokens)


def _masked(
    x: Any, mask_ratio: Any, noise: Any, num_keep: Any
) -> masking.MaskedTokens | masking.PaddedTokens:
    samples, tokens = x.shape[0], x.shape[1]
    counts = _counts(num_keep, samples, tokens)
    if counts is not None:
        ids_keep, ids_restore, mask = _ranked_by_counts(noise, counts)
        x_masked = gather_tokens(x, ids_keep, mode="fill", fill_value=0)
        valid = _valid(counts, x.device)
        return masking.PaddedTokens(x_masked, mask, ids_restore, valid)
    if num_keep is None:
        made = random_masking(x, noise, _validate.ratio(mask_ratio))
        return masking.MaskedTokens(*made[:3])
    ids_keep, ids_restore, mask = rank_tokens(noise, _validate.len_keep(tokens, None, num_keep))
    return masking.MaskedTokens(gather_tokens(x, ids_keep), mask, ids_restore)


def _valid(counts: list[int], device: Any) -> Any:
    """Which slots hold a token where sample n keeps ``counts[n]``: bool `[N, max K]`."""
    kept = torch.tensor(counts, dtype=torch.int64, device=device)[:, None]
    return torch.arange(max(counts, default=0), device=device) < kept


def _ranked_by_counts(scores: Any, counts: Any) -> masking.TokenMask:
    """Ranks where each sample keeps a number of its own."""
    most = max(counts, default=0)
    ids_keep, ids_restore, _ = rank_tokens(scores, most)
    kept = torch.tensor(counts, dtype=torch.int64, device=scores.device)[:, None]
    ids_keep = torch.where(_valid(counts, scores.device), ids_keep, -1)
    return masking.TokenMask(ids_keep, ids_restore, (ids_restore >= kept).to(torch.float32))


def via_ranks(scores: Any, num_keep: Any, backend: Any) -> masking.TokenMask:
    """Ranks by their operator."""
    _no_options(None, backend)
    _validate.scores(tuple(scores.shape), str(scores.dtype).removeprefix("torch."))
    counts = _counts(num_keep, scores.shape[0], scores.shape[1])
    if counts is not None:
        return _ranked_by_counts(scores, counts)
    keep = _validate.len_keep(scores.shape[1], None, num_keep)
    return masking.TokenMask(*rank_tokens(scores, keep))


def via_noise(seed: int, ids: Any, num_tokens: Any, epoch: Any, backend: Any) -> Any:
    """Noise by its operator, whose integers are signed."""
    _no_options(None, backend)
    seed = _validate.bits64(seed, "seed")
    signed = seed - 2**64 if seed >= 2**63 else seed
    return token_noise(signed, ids, num_tokens, epoch=_validate.epoch(epoch))


@torch.compiler.assume_constant_result
def _can_cast(dtype: Any, other: Any) -> bool:
    return torch.can_cast(dtype, other)


def via_restore(x_visible: Any, ids_restore: Any, mask_token: Any, valid: Any, backend: Any) -> Any:
    """Restore tokens by their operator; the mask token may broadcast."""
    _no_options(None, backend)
    shape = x_visible.shape[2:]
    _validate.token_shapes(
        tuple(x_visible.shape), tuple(ids_restore.shape), "x_visible", "ids_restore"
    )
    _validate.restore_shapes(tuple(x_visible.shape), tuple(ids_restore.shape))
    if isinstance(mask_token, torch.Tensor):
        castable = _can_cast(mask_token.dtype, x_visible.dtype)
        _validate.castable_token(castable, mask_token.dtype, x_visible.dtype)
        _validate.one_token(tuple(mask_token.shape), tuple(shape))
        token = mask_token.to(x_visible.dtype)
        while token.ndim > len(shape):
            token = token[0]
    else:
        token = torch.full((), mask_token, dtype=x_visible.dtype, device=x_visible.device)
    if valid is not None:
        _validate.valid_tokens(tuple(valid.shape), str(valid.dtype), tuple(x_visible.shape))
        visible = valid.reshape(*valid.shape, *(1,) * len(shape))
        x_visible = torch.where(visible, x_visible, token)
    return restore_tokens(x_visible, ids_restore, token.expand(shape))


def via_infer(input: Any, output: Any) -> Any:
    """There is no operator for it: its result is data, not a tensor of known shape."""
    raise NotImplementedError("infer_gather cannot be traced by torch: call it outside")


def via_strategy(order: Any, ids: Any) -> Any:
    """There is no operator for it: scores are made where the samples are loaded."""
    raise NotImplementedError(
        "a strategy cannot be traced by torch: score the tokens outside, and give them as noise"
    )


@torch.compiler.assume_constant_result
def _affine_or_message(
    scale: Any, mean: Any, std: Any, channels: int
) -> tuple[tuple[float, ...] | None, bool, str]:
    """What :func:`_affine` gives, computed once; else whether a kind was wrong, and what."""
    try:
        numbers = _validate.affine(scale, mean, std, channels)
    except (TypeError, ValueError) as error:
        return None, isinstance(error, TypeError), str(error)
    return (None if numbers is None else tuple(numbers.tolist())), False, ""


def _affine(scale: Any, mean: Any, std: Any, channels: int) -> tuple[float, ...] | None:
    """Scale, means and stds as numbers of float32, computed while the call is traced."""
    numbers, of_kind, message = _affine_or_message(scale, mean, std, channels)
    if message and of_kind:
        raise TypeError(message)
    if message:
        raise ValueError(message)
    return numbers


def via_patches(
    images: Any, patch_size: Any, mask_ratio: Any, options: dict[str, Any]
) -> masking.MaskedTokens | masking.PaddedTokens:
    """All patches, of which the masking's operator keeps some."""
    _no_options(None, options["backend"])
    affine = _affine(options["scale"], options["mean"], options["std"], images.shape[1])
    if affine is not None:
        _validate.pixels(str(images.dtype))
    tokens = patches.patchify(images, patch_size)
    pair = (tokens.shape[0], tokens.shape[1])
    given = (options[k] for k in ("noise", "seed", "sample_ids", "epoch"))
    made = _masked(
        tokens, mask_ratio, _noise_for(images, "images", pair, *given), options["num_keep"]
    )
    if affine is None:
        return made
    pixels = tokens.shape[2] // images.shape[1]
    numbers = torch.tensor(affine, dtype=torch.float32, device=images.device)
    scale, mean, std = numbers.split([1, images.shape[1], images.shape[1]])
    kept = (made.x_masked.float() * scale - mean.repeat(pixels)) / std.repeat(pixels)
    if isinstance(made, masking.PaddedTokens):
        kept = torch.where(made.valid[..., None], kept, 0.0)
    return made._replace(x_masked=kept)
