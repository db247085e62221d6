"""Kept patches of images, by the kernel that reads what is kept and no more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbgather.engine import backends, masking, small_masking
from nbgather.engine.plan import results_of
from nbgather.operations.base import FLOAT32, Options, Spec
from nbgather.operations.patches import CutPatches, MaskedPatchify, image_grid


def cut_patches(
    container: Any, operation: CutPatches, operands: tuple[Any, ...], options: Options
) -> Any:
    """Cut the patches that ``ids_keep`` names, and normalise their pixels on the way."""
    images, ids_keep = operands
    spec = container.spec(images)
    backend = backends.serving(options.backend, container.home, spec.device)
    if "patches" not in backend.DOES:
        return NotImplemented
    (result_spec,) = results_of(operation, spec, container.spec(ids_keep))
    affine, sizes = operation.affine, operation.patch_size
    item = spec.dtype.itemsize
    unaligned = container.address(images) % item or any(s % item for s in spec.strides)
    if unaligned or (affine is not None and not spec.dtype.native):
        images = _plain_images(container, images, affine is not None)
        spec = container.spec(images)
    shape = result_spec.shape
    result = container.empty(shape, images, None if affine is None else FLOAT32)
    if math.prod(shape) == 0:
        return result
    numbers = patch_numbers(spec, sizes, shape[1])
    place, table = container.place(images), None
    if affine is not None:
        table = np.array(affine, np.float32)
    if place and table is not None:
        table = container.address(container.constant(table, images))
    with container.device_context(images):
        backend.patches(
            numbers,
            shape[0] * shape[1],
            container.address(result),
            container.address(images),
            container.address(ids_keep),
            item if affine is None else np.dtype(spec.dtype.plain).name,
            table,
            *place,
        )
    return result


def patch_numbers(spec: Spec, sizes: tuple[int, ...], kept: int) -> tuple[int, ...]:
    """The numbers of a kernel that cuts so many patches out of each image."""
    steps = [s // spec.dtype.itemsize for s in spec.strides]
    grid = image_grid(spec.shape, sizes)
    # An image is a video of one frame.
    time = (steps[2], sizes[0]) if len(sizes) == 3 else (0, 1)
    return (
        kept, spec.shape[1], *steps[:2], time[0], *steps[-2:], *grid[-2:], time[1], *sizes[-2:],
    )  # fmt: skip


def masked_patchify(
    container: Any, operation: MaskedPatchify, operands: tuple[Any, ...], options: Options
) -> Any:
    """Mask, and cut what stays: what it is made of, and kept where it is small."""
    backend = backends.serving(options.backend, container.home, container.spec(operands[0]).device)
    specs: Any = [None if o is None else container.spec(o) for o in operands]
    operation.check(*specs)
    results = operation.lower(container.apply(operands[0], options.backend), *operands)
    if options.backend is None and container.home == "cpu":
        small_masking.keep_masked_patches(container, backend, operation, operands, patch_numbers)
    return masking.with_valid(container, operation, operands[0], results)


def _plain_images(container: Any, images: Any, in_native_order: bool) -> Any:
    """A contiguous copy, in this machine's byte order where pixels are computed with."""
    images = container.copy(images)
    if in_native_order and not container.spec(images).dtype.native:
        xp = container.namespace(images)
        images = xp.astype(images, images.dtype.newbyteorder("="))
    return images
