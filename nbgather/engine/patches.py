"""Images to patches and back, all of them or those that are kept, by kernels that copy once."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from nbgather.engine import apart, backends, device_errors, masking, memo, small_masking
from nbgather.engine.out import check_match, check_out
from nbgather.kernels import small
from nbgather.kernels.plans import PatchPlan
from nbgather.operations.base import (
    FLOAT32,
    INT64,
    Options,
    Spec,
    contiguous_strides,
    is_contiguous,
)
from nbgather.operations.patches import (
    CutPatches,
    MaskedPatchify,
    Patchify,
    Unpatchify,
    cut_sides,
)

#: Bytes of neighbours in a row that are moved at once.
VECTOR_BYTES = 64
#: Channels that are interleaved as one block, and pixels of it at most.
PACKED_CHANNELS, PACKED_PIXELS = (2, 3, 4), 16
#: Of more channels a block has this many of each, and of pixels that are patches of their own.
BLOCK = 8
#: Images from which on, or bytes below which, an image is not kept in parts for threads.
MIN_MERGED, MERGED_BYTES = 16, 1 << 17
#: Bytes of one way of a first-level cache, and how many lines of patches may share a place of it.
CACHE_WAY_BYTES, PATCHES_IN_A_WAY = 1 << 12, 4
#: Bytes of items that kernels move.
_ITEM_BYTES = (1, 2, 4, 8, 16)


def patchify(
    container: Any, operation: Patchify, operands: tuple[Any, ...], options: Options
) -> Any:
    """Cut images into patches."""
    return _move(container, operation, operands[0], options)


def unpatchify(
    container: Any, operation: Unpatchify, operands: tuple[Any, ...], options: Options
) -> Any:
    """Put patches together again."""
    return _move(container, operation, operands[0], options)


def _move(container: Any, operation: Patchify | Unpatchify, array: Any, options: Options) -> Any:
    spec = container.spec(array)
    backend = backends.serving(options.backend, container.home, spec.device)
    if "moved patches" not in backend.DOES or spec.dtype.itemsize not in _ITEM_BYTES:
        return NotImplemented
    shape, plan = _plan_all(operation, spec)
    address = container.address(array)
    if plan is None or (plan.patches and address % plan.itemsize):
        array = apart.copy(container, array)
        shape, plan = _plan_all(operation, container.spec(array))
        address = container.address(array)
    assert plan is not None
    result = container.empty(shape, array)
    if plan.patches:
        backend.move_patches(plan, container.address(result), address)
        if options.backend is None and container.home == "cpu":
            _keep(container, backend, operation, array, shape)
    return result


def _keep(
    container: Any,
    backend: Any,
    operation: Patchify | Unpatchify,
    array: Any,
    shape: tuple[int, ...],
) -> None:
    """Keep a small call that went well; ``shape`` is its result's."""
    sizes = operation.patch_size
    if isinstance(operation, Unpatchify):
        sizes = *sizes, *operation.image_size
    head, spec = memo.head(type(operation), *sizes), container.spec(array)
    plan = _plan_all(operation, spec)[1]
    if type(array) not in container.exact_types or not memo.again(container, head, spec):
        return
    step = backend.move_patches(plan, small.result(0), small.operand(0), run=backend.step)
    memo.keep(container, backend, head, (array,), [memo.Result(shape, array.dtype)], [step])


def step_of_all(backend: Any, operation: Patchify | Unpatchify, array: Spec) -> Any:
    """The steps, one or none, that move all patches of a dense array; None without a kernel."""
    if array.dtype.itemsize not in _ITEM_BYTES:
        return None
    plan = _plan_all(operation, array)[1]
    if plan is None or not plan.patches:
        return None if plan is None else ()
    return (backend.move_patches(plan, small.result(0), small.operand(0), run=backend.step),)


@functools.lru_cache(maxsize=1024)
def _plan_all(
    operation: Patchify | Unpatchify, spec: Spec
) -> tuple[tuple[int, ...], PatchPlan | None]:
    """The result's shape, and a plan; None where no kernel can walk the array as it is."""
    (result,) = operation.result(spec)
    item = spec.dtype.itemsize
    if not math.prod(result.shape):
        return result.shape, PatchPlan(np.zeros(0, np.int64), 0, 0, item, (False, 1, 1, True))
    if any(s % item for s in spec.strides):
        return result.shape, None
    if isinstance(operation, Patchify):
        return result.shape, _plan(operation.patch_size, spec, result, False, True)
    if spec.strides[2] != item and spec.shape[2] > 1:
        return result.shape, None
    return result.shape, _plan(operation.patch_size, result, spec, True, True)


def cut_patches(
    container: Any, operation: CutPatches, operands: tuple[Any, ...], options: Options
) -> Any:
    """Cut the patches that ``ids_keep`` names, and normalise their pixels on the way."""
    images, ids_keep, _ = operands
    spec, ids_spec = container.spec(images), container.spec(ids_keep)
    backend = backends.serving(options.backend, container.home, spec.device)
    if "patches" not in backend.DOES:
        return NotImplemented
    cut = _plan_cut(operation, spec, ids_spec)
    if cut.must_copy or container.address(images) % spec.dtype.itemsize:
        images = _plain_images(container, images, operation.affine is not None)
        spec = container.spec(images)
        cut = _plan_cut(operation, spec, ids_spec)
    result = options.out
    if result is None:
        result = container.empty(cut.shape, images, None if operation.affine is None else FLOAT32)
    else:
        out = check_out(container, result, [("images", images, spec)])
        (wanted,) = operation.result(spec, ids_spec)
        check_match(out, wanted)
        if not is_contiguous(out):
            raise ValueError(f"out has strides {out.strides}: a contiguous array is needed")
    if not cut.patches:
        return result
    addresses = container.address(result), container.address(images), container.address(ids_keep)
    place, table = container.place(images), _table_of(operation)
    if cut.plan is not None and "moved patches" in backend.DOES:
        backend.move_patches(cut.plan, *addresses)
    elif not place:
        backend.normal_patches(cut.numbers, cut.patches, *addresses, cut.pixel, table)
    else:
        device_errors.poll(backend, *place)
        held = None if table is None else container.constant(table, images)
        affine = None if held is None else container.address(held)
        item = cut.pixel or spec.dtype.itemsize
        backend.patches(cut.numbers, cut.patches, *addresses, item, affine, *place)
    return result


class _Cut(NamedTuple):
    """Kept patches: what the result is like, and how a kernel makes it."""

    shape: tuple[int, ...]
    patches: int
    must_copy: bool  # the images first, for they are in the other byte order, or not aligned
    numbers: tuple[int, ...]
    plan: PatchPlan | None  # where pixels are copied bit by bit
    pixel: str  # the name of their dtype, where they are normalised


@functools.lru_cache(maxsize=1024)
def _plan_cut(operation: CutPatches, images: Spec, ids: Spec) -> _Cut:
    (result,) = operation.result(images, ids)
    item, affine = images.dtype.itemsize, operation.affine
    must_copy = any(s % item for s in images.strides)
    must_copy |= affine is not None and not images.dtype.native
    count = math.prod(ids.shape) if result.shape[2] else 0
    numbers = result.shape[1], *_numbers(operation.patch_size, images)
    if affine is None:
        plan = _plan(operation.patch_size, images, result, False)
        return _Cut(result.shape, count, must_copy, numbers, plan, "")
    pixel = np.dtype(images.dtype.plain).name
    return _Cut(result.shape, count, must_copy, numbers, None, pixel)


def _table_of(operation: CutPatches) -> np.ndarray | None:
    """The numbers that normalise; not kept by the operation, since -0.0 equals 0.0 there."""
    return None if operation.affine is None else np.array(operation.affine, np.float32)


def _plain_images(container: Any, images: Any, in_native_order: bool) -> Any:
    """A contiguous copy, in this machine's byte order where pixels are computed with."""
    images = apart.copy(container, images)
    if in_native_order and not container.spec(images).dtype.native:
        xp = container.namespace(images)
        images = xp.astype(images, images.dtype.newbyteorder("="))
    return images


def _numbers(sizes: tuple[int, ...], spec: Spec) -> tuple[int, ...]:
    """Channels, strides in items, grid and patch of images; an image is a video of one frame."""
    steps = [s // spec.dtype.itemsize for s in spec.strides]
    grid = cut_sides(spec.shape[2:], sizes)
    time = (steps[2], sizes[0]) if len(sizes) == 3 else (0, 1)
    return spec.shape[1], *steps[:2], time[0], *steps[-2:], *grid[-2:], time[1], *sizes[-2:]


def _plan(
    sizes: tuple[int, ...], images: Spec, patches: Spec, inverse: bool, in_order: bool = False
) -> PatchPlan:
    """Plan to move patches `[N, K, ...]` of images, out of them or with ``inverse`` into them.

    ``in_order``: they are all patches of an image, one after the other.
    """
    item, (samples, kept, width) = images.dtype.itemsize, patches.shape
    channels, sn, sc, st, sh, sw, gh, gw, pt, ph, pw = _numbers(sizes, images)
    pn, pk = (s // item for s in patches.strides[:2])
    if channels == 1 or (sc == 1 and sw == channels):
        # The items of a row of a patch are neighbours: one channel of so many pixels.
        pw, channels, sc, sw = pw * channels, 1, 0, sw if channels == 1 else 1
    nbytes = samples * kept * width * item
    if in_order and pk == width:
        # Patches that follow each other in the image as they do here are one larger patch.
        if pt == ph == 1:
            pw, gw = pw * gw, 1
        if gw == 1 and pt == 1 and (samples >= MIN_MERGED or nbytes < MERGED_BYTES):
            ph, gh = ph * gh, 1
            pt *= kept * width // (ph * pw * channels)
        kept = kept * width // (pt * ph * pw * channels)
        width = pt * ph * pw * channels
        pk = width
    if ph > 1 and gw == 1 and sh == pw * sw:  # as wide as the image
        pw, ph, sh = pw * ph, 1, sh * ph
    if pt > 1 and ph == gw == gh == 1 and st == pw * sw:
        pw, pt, st = pw * pt, 1, st * pt
    if channels == pt == ph == kept == sw == 1 and in_order and (samples == 1 or sn == pn == pw):
        args = np.array([item], np.int64)
        args.flags.writeable = False
        return PatchPlan(args, samples * pw, 2 * nbytes, item, (inverse, 0, 0, False))
    rows = channels if channels in (1, *PACKED_CHANNELS) else min(BLOCK, channels)
    across = in_order and pw == 1
    packed = rows == channels and not across
    pixels = 1
    if across and sw == 1 and item < 16:
        pixels = 1 << min(gw, BLOCK).bit_length() - 1
    elif sw == 1 and item < 16:
        most = VECTOR_BYTES // item if rows == 1 else PACKED_PIXELS if packed else BLOCK
        pixels = 1 << max(min(pw, most).bit_length() - 1, 0)
    together = _together(pk * item, gw) if channels == 1 and not across else gw
    numbers = kept, channels, sn, sc, st, sh, sw, gh, gw, pt, ph, pw, pn, pk, together
    args = np.array(numbers, np.int64)
    args.flags.writeable = False
    return PatchPlan(args, samples * kept, 2 * nbytes, item, (inverse, rows, pixels, packed))


def _together(stride: int, most: int) -> int:
    """How many patches may be moved line by line, so many bytes apart.

    Bytes that are multiples of `CACHE_WAY_BYTES` apart share a few places of the first-level cache:
    lines of more patches would push one another out before they are full. (Where channels are
    interleaved, that costs less than shorter lines do.)
    """
    apart = CACHE_WAY_BYTES // math.gcd(stride, CACHE_WAY_BYTES)
    return max(min(most, apart * PATCHES_IN_A_WAY), 1)


def masked_patchify(
    container: Any, operation: MaskedPatchify, operands: tuple[Any, ...], options: Options
) -> Any:
    """Mask, and cut what stays: what it is made of, and kept where it is small."""
    backend = backends.serving(options.backend, container.home, container.spec(operands[0]).device)
    specs: Any = [None if o is None else container.spec(o) for o in operands]
    operation.check(*specs)
    results = operation.lower(container.apply(operands[0], options.backend), *operands)
    if options.backend is None and container.home == "cpu":
        small_masking.keep_masked_patches(container, backend, operation, operands, _step_of_kept)
    return masking.with_valid(container, operation, operands[0], results)


def _step_of_kept(
    backend: Any, operation: MaskedPatchify, images: Spec, patches: Spec
) -> tuple[Any, Any]:
    """The step that cuts kept patches, by the ids of a result of its own; and memory it refers to.

    None instead of the step where the images would have to be copied first.
    """
    shape = patches.shape[:2]
    ids = Spec(shape, contiguous_strides(shape, 8), INT64)
    places = small.result(0), small.operand(0), small.result(3)
    return step_of_cut(backend, operation.cut, images, ids, places)


def step_of_cut(
    backend: Any, operation: CutPatches, images: Spec, ids: Spec, places: tuple[Any, Any, Any]
) -> tuple[Any, Any]:
    """The step that cuts kept patches, and memory it refers to; None where it would have to copy.

    ``places`` are those of the patches, the images and the ids.
    """
    cut = _plan_cut(operation, images, ids)
    if cut.must_copy:
        return None, None
    if cut.plan is not None:
        return backend.move_patches(cut.plan, *places, run=backend.step), None
    table = _table_of(operation)
    step = backend.normal_patches(
        cut.numbers, cut.patches, *places, cut.pixel, table, run=backend.step
    )
    return step, table
