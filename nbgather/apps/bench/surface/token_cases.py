"""Cases of rank_tokens, token_noise, random_masking and restore_tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.contest import Call
from nbgather.apps.bench.operands import installed
from nbgather.apps.bench.surface.case import Case, Traffic, calls_of
from nbgather.apps.bench.surface.draws import MOST_ITEMS, Generator, choice, log_uniform, values
from nbgather.apps.bench.surface.peers import jax_call, tensors
from nbgather.operations.keep import kept_tokens

MOST_SAMPLES, MOST_TOKENS, MOST_WIDTH = 630, 10_000, 1250
SCORES = {"random": 4, "ties": 1, "sorted": 1}


def _sizes(rng: Generator, most: int) -> tuple[int, int]:
    samples, length = log_uniform(rng, 1, MOST_SAMPLES), log_uniform(rng, 2, MOST_TOKENS)
    return samples, max(2, min(length, most // samples))


def _scores(rng: Generator, samples: int, length: int, dtype: str, order: str) -> np.ndarray:
    scores = rng.random((samples, length), np.float32)
    if order == "ties":
        scores = np.floor(scores * 7)
    elif order == "sorted":
        scores.sort(1)
    return scores.astype(dtype)


def numpy_ranks(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of the tokens, and each token's rank: one argsort and its inverse."""
    ids_shuffle = np.argsort(scores, 1, kind="stable")
    ids_restore = np.empty_like(ids_shuffle)
    places = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    np.put_along_axis(ids_restore, ids_shuffle, places, 1)
    return ids_shuffle, ids_restore


def torch_ranks(scores: Any, twice: bool) -> tuple[Any, Any]:
    """The same by torch: by a second argsort, as published, or by the scatter that inverts it."""
    import torch

    ids_shuffle = torch.argsort(scores, dim=1, stable=True)
    if twice:
        return ids_shuffle, torch.argsort(ids_shuffle, dim=1)
    places = torch.arange(scores.shape[1]).expand(scores.shape)
    return ids_shuffle, torch.empty_like(ids_shuffle).scatter_(1, ids_shuffle, places)


def _jax_ranks(scores: Any) -> tuple[Any, Any]:
    import jax

    ids_shuffle = jax.numpy.argsort(scores, axis=1, stable=True)
    return ids_shuffle, jax.numpy.argsort(ids_shuffle, axis=1)


def rank_tokens_case(rng: Generator) -> Case:
    """``rank_tokens`` of scores; the peers sort."""
    samples, length = _sizes(rng, MOST_ITEMS // 10)
    dtype = choice(rng, {"float32": 5, "float64": 1, "float16": 1})
    order = choice(rng, SCORES)
    kept = int(rng.integers(0, length + 1))
    scores = _scores(rng, samples, length, dtype, order)

    def by_numpy() -> tuple[Any, ...]:
        ids_shuffle, ids_restore = numpy_ranks(scores)
        return ids_shuffle[:, :kept], ids_restore, (ids_restore >= kept).astype(np.float32)

    operands: dict[str, Any] = {"numpy": (scores, kept)}
    peers: dict[str, Call] = {"numpy": by_numpy}
    if installed("torch"):
        (tensor,) = tensors(scores)
        operands["torch"] = (tensor, kept)

        def by_torch(twice: bool) -> tuple[Any, ...]:
            ids_shuffle, ids_restore = torch_ranks(tensor, twice)
            return ids_shuffle[:, :kept], ids_restore, (ids_restore >= kept).float()

        peers["torch, two argsorts"] = lambda: by_torch(True)
        peers["torch, one argsort"] = lambda: by_torch(False)
    if installed("jax"):
        import jax

        def by_jax(a: Any) -> tuple[Any, ...]:
            ids_shuffle, ids_restore = _jax_ranks(a)
            return (
                ids_shuffle[:, :kept], ids_restore, (ids_restore >= kept).astype(jax.numpy.float32)
            )  # fmt: skip

        peers["jax"] = jax_call(by_jax, scores)
    written = samples * (8 * kept + 12 * length)
    return Case(
        f"{dtype}{[samples, length]} {order}, {kept} kept",
        length,
        Traffic(0, scores.nbytes, written, scores.size, 12 * length),
        calls_of(nbgather.rank_tokens, operands),
        peers,
    )


def token_noise_case(rng: Generator) -> Case:
    """``token_noise`` against generators of as many float32."""
    samples, length = _sizes(rng, MOST_ITEMS)
    ids = np.sort(rng.integers(0, 1_000_000, samples))
    bits = np.random.Generator(np.random.Philox(1))
    shape = (samples, length)
    operands: dict[str, Any] = {"numpy": (1, ids, length)}
    peers: dict[str, Call] = {"numpy": lambda: bits.random(shape, np.float32)}
    if installed("torch"):
        import torch

        operands["torch"] = (1, *tensors(ids), length)
        peers["torch"] = lambda: torch.rand(shape)
    written = 4 * samples * length
    return Case(
        f"{samples} ids, {length} tokens",
        length,
        Traffic(ids.nbytes, 0, written, 0, 0),
        calls_of(nbgather.token_noise, operands),
        peers,
        "shape",
    )


def random_masking_case(rng: Generator) -> Case:
    """``random_masking`` by a seed or of noise that is there, against the paper's recipe."""
    samples, length = _sizes(rng, MOST_ITEMS // 10)
    width = max(1, min(log_uniform(rng, 1, MOST_WIDTH), MOST_ITEMS // (samples * length)))
    dtype = choice(rng, {"float32": 5, "float16": 1, "float64": 1})
    ratio = float(rng.uniform(0.1, 0.95))
    kept = int(kept_tokens(length, ratio))
    seeded = bool(rng.random() < 0.5)
    x = values(rng, (samples, length, width), dtype)
    noise = _scores(rng, samples, length, "float32", "random")
    options: dict[str, Any] = {"numpy": {"noise": noise}}
    bits = np.random.Generator(np.random.Philox(1))
    batch = np.arange(samples)[:, None]

    def by_numpy() -> tuple[Any, ...]:
        drawn = bits.random(noise.shape, np.float32) if seeded else noise
        ids_shuffle, ids_restore = numpy_ranks(drawn)
        return (
            x[batch, ids_shuffle[:, :kept]],
            (ids_restore >= kept).astype(np.float32),
            ids_restore,
        )

    operands: dict[str, Any] = {"numpy": x}
    peers: dict[str, Call] = {"numpy": by_numpy}
    if installed("torch"):
        tx, tn = tensors(x, noise)
        operands["torch"], options["torch"] = tx, {"noise": tn}
        peers |= _torch_maskings(lambda: tx, (samples, length), None if seeded else tn, kept)
    if installed("jax") and not seeded:
        peers["jax"] = jax_call(_jax_masking(kept), x, noise)

    def masked(name: str) -> Call:
        how = {"seed": 1} if seeded else options[name]
        return partial(nbgather.random_masking, operands[name], ratio, **how)

    return Case(
        f"{dtype}{[samples, length, width]} at {ratio:.2f}, {'seed' if seeded else 'noise'}",
        width,
        _masking_traffic(x, kept, noise, seeded),
        {name: masked(name) for name in operands},
        peers,
        "shape" if seeded else "bits",
    )


def _masking_traffic(x: np.ndarray, kept: int, noise: np.ndarray, seeded: bool) -> Traffic:
    visible = x.shape[0] * kept * x.shape[2] * x.itemsize
    return Traffic(
        0 if seeded else noise.nbytes, visible, visible + 12 * noise.size, x.shape[0] * kept,
        x.nbytes,
    )  # fmt: skip


def _torch_maskings(
    tokens: Callable[[], Any], shape: tuple[int, int], noise: Any, kept: int
) -> dict[str, Call]:
    """Torch's recipes: as published, the index expanded, and as short as torch allows.

    The short one has one argsort, inverts it by a scatter, and takes rows of the flattened tokens.
    """
    import torch

    first = (torch.arange(shape[0]) * shape[1])[:, None]

    def ranked(twice: bool) -> tuple[Any, Any, Any]:
        ids_shuffle, ids_restore = torch_ranks(torch.rand(shape) if noise is None else noise, twice)
        return ids_shuffle[:, :kept], ids_restore, (ids_restore >= kept).float()

    def published() -> tuple[Any, ...]:
        x = tokens()
        ids_keep, ids_restore, mask = ranked(True)
        return (
            torch.gather(x, 1, ids_keep[:, :, None].expand(-1, -1, x.shape[2])),
            mask,
            ids_restore,
        )

    def shortest() -> tuple[Any, ...]:
        x = tokens()
        ids_keep, ids_restore, mask = ranked(False)
        rows = (ids_keep + first).view(-1)
        picked = torch.index_select(x.reshape(-1, x.shape[2]), 0, rows)
        return picked.view(shape[0], kept, x.shape[2]), mask, ids_restore

    return {"torch, published": published, "torch, shortest": shortest}


def _jax_masking(kept: int) -> Callable[..., Any]:
    import jax

    def masked(x: Any, noise: Any) -> tuple[Any, ...]:
        ids_shuffle, ids_restore = _jax_ranks(noise)
        picked = jax.numpy.take_along_axis(
            x, ids_shuffle[:, :kept, None], 1, mode="promise_in_bounds"
        )
        return picked, (ids_restore >= kept).astype(jax.numpy.float32), ids_restore

    return masked


def restore_tokens_case(rng: Generator) -> Case:
    """``restore_tokens``: a decoder's unshuffle, by joining and gathering elsewhere."""
    samples, length = _sizes(rng, MOST_ITEMS // 10)
    width = max(1, min(log_uniform(rng, 1, MOST_WIDTH), MOST_ITEMS // (samples * length)))
    width = 1 if rng.random() < 0.1 else width
    dtype = choice(rng, {"float32": 5, "float16": 1, "float64": 1})
    kept = max(1, int(kept_tokens(length, float(rng.uniform(0.1, 0.95)))))
    visible, token = values(rng, (samples, kept, width), dtype), values(rng, (width,), dtype)
    ids = numpy_ranks(_scores(rng, samples, length, "float32", "random"))[1]
    batch = np.arange(samples)[:, None]

    def by_numpy() -> np.ndarray:
        joined = np.empty((samples, length, width), dtype)
        joined[:, :kept], joined[:, kept:] = visible, token
        return joined[batch, ids]

    operands: dict[str, Any] = {"numpy": (visible, ids, token)}
    peers: dict[str, Call] = {"numpy": by_numpy}
    if installed("torch"):
        operands["torch"] = tuple(tensors(visible, ids, token))
        peers |= _torch_restore(*operands["torch"])
    if installed("jax"):
        peers["jax"] = jax_call(_jax_restore(kept), visible, ids, token)
    written = samples * length * width * visible.itemsize
    return Case(
        f"{dtype}{[samples, kept, width]} to {length}",
        width,
        Traffic(ids.nbytes, visible.nbytes, written, ids.size, visible.nbytes),
        calls_of(nbgather.restore_tokens, operands),
        peers,
    )


def _torch_restore(visible: Any, ids: Any, token: Any) -> dict[str, Call]:
    """By joining and gathering with the index expanded; and by rows of one more than are there."""
    import torch

    samples, kept, width = visible.shape
    length = ids.shape[1]
    first = (torch.arange(samples) * kept)[:, None]

    def joined() -> Any:
        tokens = token.expand(samples, length - kept, width)
        whole = torch.cat([visible, tokens], dim=1)
        return torch.gather(whole, 1, ids[:, :, None].expand(-1, -1, width))

    def rows() -> Any:
        source = torch.cat([visible.view(-1, width), token[None]])
        places = torch.where(ids < kept, ids + first, samples * kept)
        return torch.index_select(source, 0, places.view(-1)).view(samples, length, width)

    return {"torch, joined": joined, "torch, rows": rows}


def _jax_restore(kept: int) -> Callable[..., Any]:
    import jax

    def restored(visible: Any, ids: Any, token: Any) -> Any:
        places = jax.numpy.minimum(ids, kept - 1)[:, :, None]
        rows = jax.numpy.take_along_axis(visible, places, 1, mode="promise_in_bounds")
        return jax.numpy.where((ids < kept)[:, :, None], rows, token)

    return restored
