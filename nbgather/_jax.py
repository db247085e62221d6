"""JAX arrays on the CPU: read where they lie, and results handed over where they lie.

The kernels run on NumPy views of the arrays. A result that begins on a cache line, as those of a
megabyte and more do, becomes a JAX array without a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nbgather import _run, indexing, masking, patches
from nbgather._arrays import Adapter


def view(array: Any) -> Any:
    """A NumPy view of a JAX array; anything else as it is."""
    return np.asarray(array) if isinstance(array, jax.Array) else array


def ids_view(ids: Any) -> Any:
    """Sample ids as int64: without x64 JAX has none of its own."""
    seen = view(ids)
    return seen.astype(np.int64) if getattr(seen, "dtype", None) == np.int32 else seen


def back(array: np.ndarray) -> Any:
    """A JAX array of a result; int64 becomes int32 where JAX has x64 turned off."""
    if array.dtype == np.int64 and not jax.config.jax_enable_x64:
        array = array.astype(np.int32)
    return jax.device_put(array, jax.devices("cpu")[0])


def _no_out(out: Any) -> None:
    if out is not None:
        raise ValueError("out= was given for JAX arrays: they cannot be written to")


def via_gather(
    kind: str, input: Any, dim: int, index: Any, mode: str, fill: Any, out: Any, backend: Any
) -> Any:
    _no_out(out)
    return back(_run.gather(kind, view(input), dim, view(index), mode, view(fill), None, backend))


def via_scatter(
    input: Any, dim: int, index: Any, src: Any, add: bool, out: Any, backend: Any
) -> Any:
    _no_out(out)
    views = view(input), dim, view(index), view(src)
    return back(_run.scatter(*views, add=add, out=None, backend=backend))


def via_masking(
    x: Any,
    mask_ratio: float,
    noise: Any,
    seed: int | None,
    ids: Any,
    epoch: int,
    num_keep: Any,
    backend: Any,
) -> Any:
    made = masking.random_masking(
        view(x),
        mask_ratio,
        noise=view(noise),
        seed=seed,
        sample_ids=ids_view(ids),
        epoch=epoch,
        num_keep=view(num_keep),
        backend=backend,
    )
    return type(made)(*map(back, made))


def via_ranks(scores: Any, num_keep: Any, backend: Any) -> Any:
    made = masking.rank_tokens(view(scores), view(num_keep), backend=backend)
    return type(made)(*map(back, made))


def via_noise(seed: int, ids: Any, num_tokens: Any, epoch: Any, backend: Any) -> Any:
    return back(masking.token_noise(seed, ids_view(ids), num_tokens, epoch=epoch, backend=backend))


def via_restore(x_visible: Any, ids_restore: Any, mask_token: Any, valid: Any, backend: Any) -> Any:
    views = view(x_visible), view(ids_restore), view(mask_token)
    return back(masking.restore_tokens(*views, valid=view(valid), backend=backend))


def via_infer(input: Any, output: Any) -> Any:
    return [
        solution._replace(index=back(solution.index))
        for solution in indexing.infer_gather(view(input), view(output))
    ]


def via_patches(images: Any, patch_size: Any, mask_ratio: Any, options: dict[str, Any]) -> Any:
    options = {name: view(value) for name, value in options.items()}
    options["sample_ids"] = ids_view(options["sample_ids"])
    made = patches.masked_patchify(view(images), patch_size, mask_ratio, **options)
    return type(made)(*map(back, made))


def via_strategy(order: Callable[[Any], Any], ids: Any) -> Any:
    return back(order(ids_view(ids)))


class JaxAdapter(Adapter):
    """What is known of a JAX array before its call goes on to NumPy views."""

    name = "JAX"
    detours = True
    takes = frozenset({"NumPy"})

    def __init__(self) -> None:
        #: None: whether an array is on one CPU device is looked up every time.
        self.plain = frozenset()

    def detour(self, *arrays: Any, operator: bool = True) -> Any:
        return sys.modules[__name__]

    def permute(self, array: Any, order: tuple[int, ...]) -> Any:
        return array.transpose(order)

    def tile(self, array: Any, times: int) -> Any:
        return jax.numpy.tile(array, (1, times))


#: The one adapter of JAX's arrays.
adapter = JaxAdapter()
