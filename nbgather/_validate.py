"""Every check and every message: what came, what is allowed, and where."""

from __future__ import annotations

import math
import operator
import re
from typing import Any

import numpy as np

MODES = ("raise", "clip", "wrap", "fill")


def integer(value: Any, what: str) -> int:
    """``value`` as an int; bool and float are a TypeError."""
    if isinstance(value, bool) or type(value).__name__ == "bool":
        raise TypeError(f"{what} is {value!r}: a whole number is needed, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{what} is {value!r} of type {type(value).__name__}: a whole number is needed"
        ) from None


def mode(value: Any) -> str:
    if not isinstance(value, str) or value not in MODES:
        raise ValueError(f"mode is {value!r}: it must be one of {', '.join(map(repr, MODES))}")
    return MODES[MODES.index(value)]


def axis(value: int, ndim: int) -> int:
    """An axis counted from the front; NumPy's own IndexError if there is none."""
    if not -ndim <= value < ndim:
        allowed = f"{-ndim} to {ndim - 1}" if ndim else "there is none"
        raise np.exceptions.AxisError(
            f"axis {value} is out of range for {ndim} dimensions: {allowed}"
        )
    return value + ndim if value < 0 else value


def dim(value: int, ndim: int, what: str = "dim") -> int:
    """A dimension counted from the front; 0-d counts as 1-d."""
    n = max(ndim, 1)
    if not -n <= value < n:
        raise IndexError(f"{what} {value} is out of range for {ndim} dimensions: {-n} to {n - 1}")
    return value + n if value < 0 else value


def itemsize(name: str, size: int, sizes: tuple[int, ...], what: str) -> None:
    if size not in sizes:
        raise TypeError(
            f"{what} has dtype {name} of {size} bytes: items of {', '.join(map(str, sizes))} bytes"
            " are moved"
        )


def index_dtype(name: str, code: str | None, what: str, error: type[Exception] = TypeError) -> str:
    if code is None:
        raise error(f"{what} has dtype {name}: an integer dtype is needed")
    return code


def gather_shapes(input_shape: tuple[int, ...], index_shape: tuple[int, ...], dim: int) -> None:
    if max(len(input_shape), 1) != max(len(index_shape), 1):
        raise ValueError(
            f"index has {len(index_shape)} dimensions (shape {index_shape}) and input"
            f" {len(input_shape)} (shape {input_shape}): both must have the same number"
        )
    for d, (n, limit) in enumerate(zip(index_shape, input_shape, strict=False)):
        if d != dim and n > limit:
            raise ValueError(
                f"index has size {n} at dimension {d}, input only {limit} (index shape"
                f" {index_shape}, input shape {input_shape}): off dim {dim} the index must not be"
                " larger than the input"
            )


def along_shape(
    arr_shape: tuple[int, ...], indices_shape: tuple[int, ...], axis: int
) -> tuple[int, ...]:
    """The result's shape of take_along_axis: off the axis the shapes broadcast."""
    if max(len(arr_shape), 1) != max(len(indices_shape), 1):
        raise ValueError(
            f"indices has {len(indices_shape)} dimensions (shape {indices_shape}) and arr"
            f" {len(arr_shape)} (shape {arr_shape}): both must have the same number"
        )
    shape = []
    for d, (n, m) in enumerate(zip(indices_shape, arr_shape, strict=False)):
        if d != axis and n != m and 1 not in (n, m):
            raise ValueError(
                f"indices has size {n} at dimension {d}, arr {m} (indices shape"
                f" {indices_shape}, arr shape {arr_shape}): off axis {axis} the sizes must be"
                " equal, or one of them 1"
            )
        shape.append(n if d == axis or m == 1 else m)
    return tuple(shape)


def flat_indices(indices_ndim: int) -> None:
    if indices_ndim != 1:
        raise ValueError(f"indices has {indices_ndim} dimensions: with axis=None it must have 1")


def scatter_shapes(
    input_shape: tuple[int, ...],
    index_shape: tuple[int, ...],
    src_shape: tuple[int, ...],
    dim: int,
) -> None:
    gather_shapes(input_shape, index_shape, dim)
    if max(len(src_shape), 1) != max(len(index_shape), 1):
        raise ValueError(
            f"src has {len(src_shape)} dimensions (shape {src_shape}) and index"
            f" {len(index_shape)} (shape {index_shape}): both must have the same number"
        )
    for d, (n, limit) in enumerate(zip(index_shape, src_shape, strict=False)):
        if n > limit:
            raise ValueError(
                f"index has size {n} at dimension {d}, src only {limit} (index shape"
                f" {index_shape}, src shape {src_shape}): the index must not be larger than src"
            )


def same_dtype(input_dtype: str, src_dtype: str) -> None:
    if input_dtype != src_dtype:
        raise TypeError(f"input has dtype {input_dtype} and src {src_dtype}: one is needed")


def addable(name: str, kind: str | None) -> str:
    if kind is None:
        raise TypeError(
            f"input has dtype {name}: scatter_add adds bool, integers, float16, bfloat16, float32,"
            " float64 and complex numbers, in this machine's byte order"
        )
    return kind


def token_shapes(
    x_shape: tuple[int, ...], ids_shape: tuple[int, ...], x_name: str, ids_name: str
) -> None:
    if len(x_shape) < 2 or len(ids_shape) != 2 or x_shape[0] != ids_shape[0]:
        raise ValueError(
            f"{x_name} has shape {x_shape} and {ids_name} {ids_shape}: [N, L, ...] and [N, K] with"
            " the same N are needed"
        )


def one_token(came: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """A mask token broadcasts to one token; leading dimensions of 1 do not count."""
    sizes = came
    while len(sizes) > len(shape) and sizes[0] == 1:
        sizes = sizes[1:]
    paired = zip(reversed(sizes), reversed(shape), strict=False)
    if len(sizes) > len(shape) or any(n not in (1, m) for n, m in paired):
        raise ValueError(
            f"mask_token has shape {came}: it must broadcast to one token of shape {shape}"
        )


def castable_token(safe: bool, token_dtype: Any, dtype: Any) -> None:
    if not safe:
        raise TypeError(f"mask_token has dtype {token_dtype}: it must go into {dtype} without loss")


def restore_shapes(x_shape: tuple[int, ...], ids_shape: tuple[int, ...]) -> None:
    if x_shape[1] > ids_shape[1]:
        raise ValueError(
            f"x_visible has {x_shape[1]} tokens (shape {x_shape}) and ids_restore only"
            f" {ids_shape[1]} (shape {ids_shape}): no more can be visible than there are"
        )


def valid_tokens(shape: tuple[int, ...], dtype: str, x_shape: tuple[int, ...]) -> None:
    if dtype.rpartition(".")[2] not in ("bool", "|b1"):
        raise TypeError(f"valid has dtype {dtype}: bool is needed")
    if shape != x_shape[:2]:
        raise ValueError(
            f"valid has shape {shape} and x_visible {x_shape}: valid must be [N, K] = {x_shape[:2]}"
        )


#: The scores of an order are its places, which float32 holds exactly up to here.
MOST_TOKENS = 2**24


def token_grid(value: Any) -> tuple[int, ...]:
    sizes = _sizes(value, "grid")
    if not sizes:
        raise ValueError(f"grid is {value}: at least one side is needed")
    if math.prod(sizes) > MOST_TOKENS:
        raise ValueError(f"grid is {value}: at most 2**24 tokens can be scored")
    return sizes


def block_grid(value: Any) -> tuple[int, ...]:
    sizes = token_grid(value)
    if len(sizes) > 4 or math.prod(sizes) > 2**20 or max(sizes) > 2**16:
        raise ValueError(
            f"grid is {value}: block takes at most 4 axes, 2**20 tokens and 65536 along an axis"
        )
    return sizes


def stride(value: Any) -> int:
    number = integer(value, "stride")
    if not 1 <= number < 2**32:
        raise ValueError(f"stride is {number}: it must be at least 1")
    return number


def areas(least: Any, most: Any, tokens: int) -> tuple[int, int]:
    """The bounds of a block's area, in tokens."""
    high = max(1, tokens * 2 // 5) if most is None else integer(most, "max_area")
    low = max(1, min(tokens * 4 // 49, high)) if least is None else integer(least, "min_area")
    if not 1 <= low <= high <= tokens:
        raise ValueError(
            f"min_area is {low} and max_area {high}:"
            f" 1 <= min_area <= max_area <= {tokens} tokens is needed"
        )
    return low, high


def aspect(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"min_aspect is {value!r}: a number is needed") from None
    if not 1e-6 <= number <= 1:
        raise ValueError(f"min_aspect is {number}: it must be above 0 and at most 1")
    return number


def axes(value: Any, ndim: int) -> tuple[int, ...]:
    """Axes of a grid, negative ones counted from the end; None for all."""
    if value is None:
        return tuple(range(ndim))
    many = value if isinstance(value, (tuple, list)) else (value,)
    chosen = tuple(integer(v, "axes") for v in many)
    if not chosen or any(not -ndim <= d < ndim for d in chosen):
        raise ValueError(f"axes is {value}: axes of a grid of {ndim} are needed, at least one")
    return tuple(sorted({d % ndim for d in chosen}))


def first_bad_index(index: np.ndarray, size: int, from_end: bool) -> tuple[int, int] | None:
    """The flat row-major position and value of the first index that is out of bounds."""
    low = -size if from_end else 0
    flags = ["external_loop", "buffered", "zerosize_ok"]
    at = 0
    # A buffered walk: a broadcast index of 2**31 elements is never made real.
    for chunk in np.nditer(index, flags=flags, order="C", buffersize=1 << 16):  # type: ignore[call-overload]
        bad = (chunk < low) | (chunk >= size)
        if bad.any():
            k = int(bad.argmax())
            return at + k, int(chunk[k])
        at += chunk.size
    return None


def raise_bad_index(index: np.ndarray, size: int, dim: int, from_end: bool) -> None:
    """Raise the IndexError that names the first bad position of ``index`` in row-major order."""
    found = first_bad_index(index, size, from_end)
    if found is None:
        # The kernel saw a value that is no longer there: somebody writes to the index meanwhile.
        raise IndexError(f"an index was out of bounds for dimension {dim} with size {size}")
    position, value = found
    where = tuple(int(p) for p in np.unravel_index(position, index.shape)) if index.ndim else ()
    raise IndexError(
        f"index {value} at {where} is out of bounds for dimension {dim} with size {size}"
    )


def no_position(dim: int, mode: str) -> None:
    raise IndexError(f"dimension {dim} has size 0: mode {mode!r} has no position to choose")


def out_matches(
    shape: tuple[int, ...], dtype: str, want_shape: tuple[int, ...], want_dtype: str
) -> None:
    if shape != want_shape:
        raise ValueError(f"out has shape {shape}: the result has shape {want_shape}")
    if dtype != want_dtype:
        raise ValueError(f"out has dtype {dtype}: the result has dtype {want_dtype}")


def out_writeable(writeable: bool) -> None:
    if not writeable:
        raise ValueError("out is read-only: it must be writable")


def out_apart(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> None:
    """Refuse an ``out`` that overlaps itself."""
    if _overlaps_itself(shape, strides, itemsize):
        raise ValueError(
            f"out overlaps itself (shape {shape}, strides {strides} bytes): every element"
            " must have a place of its own"
        )


def out_alone(out: np.ndarray, operand: np.ndarray, name: str) -> None:
    """Refuse an ``out`` that shares an element with an operand whose extent it meets."""
    try:
        shared = np.shares_memory(out, operand, max_work=10_000)  # type: ignore[arg-type]
    except (np.exceptions.TooHardError, ValueError):
        shared = True  # telling them apart is too much work
    if shared:
        raise ValueError(f"out overlaps {name} in memory: it must overlap no operand")


def _overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    if math.prod(shape) < 2:
        return False
    axes = sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1)
    # Sufficient, not necessary: each stride steps over all that the smaller ones reach.
    reach = itemsize
    for stride, n in axes:
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False


def len_keep(num_tokens: int, mask_ratio: Any, num_keep: Any) -> int:
    """How many tokens stay: ``int(L * (1 - mask_ratio))`` in float64, or ``num_keep``."""
    if num_keep is not None:
        keep = integer(num_keep, "num_keep")
        if not 0 <= keep <= num_tokens:
            raise ValueError(f"num_keep is {keep}: it must be between 0 and L = {num_tokens}")
        return keep
    return int(num_tokens * (1 - ratio(mask_ratio)))


def keep_counts(num_keep: Any, samples: int, num_tokens: int) -> list[int] | None:
    """A number of kept tokens for each of the samples; None where it is one for all."""
    if num_keep is None or isinstance(num_keep, (int, float, np.integer, np.floating)):
        return None
    values = num_keep
    if not isinstance(num_keep, (list, tuple)):
        array = np.asarray(num_keep)
        if array.ndim == 0 and array.dtype.kind in "iu":
            return None
        if array.dtype.kind not in "iu":
            raise TypeError(f"num_keep has dtype {array.dtype}: whole numbers are needed")
        values = array.tolist() if array.ndim == 1 else [array.shape]
    if len(values) != samples or any(isinstance(v, tuple) for v in values):
        raise ValueError(
            f"num_keep has shape {np.shape(num_keep)}: a number for each of the {samples} samples"
            " is needed, or one for all"
        )
    counts = [integer(v, f"num_keep[{n}]") for n, v in enumerate(values)]
    for n, keep in enumerate(counts):
        if not 0 <= keep <= num_tokens:
            raise ValueError(f"num_keep[{n}] is {keep}: it must be between 0 and L = {num_tokens}")
    return counts


def ratio(mask_ratio: Any) -> float:
    """A number between 0 and 1 as a float; text and bools are none."""
    kind = type(mask_ratio).__name__
    if isinstance(mask_ratio, (str, bytes, bytearray, bool)) or "bool" in str(
        getattr(mask_ratio, "dtype", "")
    ):
        raise TypeError(f"mask_ratio is {mask_ratio!r} of type {kind}: a number is needed")
    if getattr(mask_ratio, "shape", ()) != ():
        raise TypeError(
            f"mask_ratio has shape {tuple(mask_ratio.shape)}: one number for all is needed"
        )
    try:
        value = float(mask_ratio)
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError):
        raise TypeError(
            f"mask_ratio is {mask_ratio!r} of type {kind}: a number is needed"
        ) from None
    if math.isnan(value) or not 0 <= value <= 1:
        raise ValueError(f"mask_ratio is {value}: it must be between 0 and 1")
    return value


def bits64(value: Any, what: str) -> int:
    """A 64-bit integer, signed or unsigned, as the unsigned number of the same bits."""
    number = integer(value, what)
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{what} is {number}: it must fit in 64 bits")
    return number & (2**64 - 1)


def epoch(value: Any) -> int:
    number = integer(value, "epoch")
    if not 0 <= number < 2**32:
        raise ValueError(f"epoch is {number}: it must be between 0 and 2**32 - 1")
    return number


def count(value: Any, what: str) -> int:
    number = integer(value, what)
    if number < 0:
        raise ValueError(f"{what} is {number}: it must be at least 0")
    return number


def sample_ids(shape: tuple[int, ...], dtype: str) -> None:
    if re.fullmatch(r"[<>=|]?(u?int(8|16|32|64)|[iu][1248])", dtype) is None:
        raise TypeError(f"sample_ids has dtype {dtype}: an integer dtype is needed")
    if len(shape) != 1:
        raise ValueError(f"sample_ids has shape {shape}: [N] is needed")


SCORES = ("float16", "bfloat16", "float32", "float64")


def scores(shape: tuple[int, ...], dtype: str, what: str = "scores") -> None:
    plain = {"f2": "float16", "f4": "float32", "f8": "float64"}.get(dtype.lstrip("<>="), dtype)
    if plain not in SCORES:
        raise TypeError(f"{what} has dtype {dtype}: one of {', '.join(SCORES)} is needed")
    if len(shape) != 2:
        raise ValueError(f"{what} has shape {shape}: [N, L] is needed")


def tokens(shape: tuple[int, ...], what: str = "x") -> None:
    if len(shape) < 2:
        raise ValueError(f"{what} has shape {shape}: [N, L, ...] is needed")


def noise(
    shape: tuple[int, ...], pair: tuple[int, ...], x_shape: tuple[int, ...], what: str
) -> None:
    if shape != pair:
        raise ValueError(
            f"noise has shape {shape} and {what} {x_shape}: noise must be [N, L] = {pair}"
        )


def one_source(noise: Any, seed: Any, sample_ids: Any) -> None:
    """Scores are given as noise, or drawn by a seed for sample ids."""
    if noise is not None and seed is not None:
        raise ValueError("both noise and seed were given: give one of them")
    if noise is not None and sample_ids is not None:
        raise ValueError("sample_ids was given with noise: it goes with seed")
    if seed is None and sample_ids is not None:
        raise ValueError("sample_ids was given without seed: it goes with seed")


def ids_of(shape: tuple[int, ...], samples: int, what: str) -> None:
    if shape != (samples,):
        raise ValueError(
            f"sample_ids has shape {shape}: one id for each of the {samples} samples of {what} is"
            " needed"
        )


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    many = value if isinstance(value, (tuple, list)) else (value,)
    sizes = tuple(integer(v, what) for v in many)
    if any(s < 1 for s in sizes):
        raise ValueError(f"{what} is {value}: every size must be at least 1")
    return sizes


def patch_size(value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A patch size for each side of images of this shape."""
    if len(shape) not in (4, 5):
        raise ValueError(f"images has shape {shape}: [N, C, H, W] or [N, C, T, H, W] is needed")
    sizes = _sizes(value, "patch_size")
    sides = len(shape) - 2
    if len(sizes) == 1 and sides == 2:
        sizes = sizes * 2
    if len(sizes) != sides:
        raise ValueError(f"patch_size is {value}: {sides} numbers are needed for {sides} sides")
    return sizes


def image_size(value: Any) -> tuple[int, ...]:
    sides = _sizes(value, "image_size")
    if len(sides) == 1:
        sides = sides * 2
    if len(sides) not in (2, 3):
        raise ValueError(f"image_size is {value}: (H, W) or (T, H, W) is needed")
    return sides


PIXELS = ("uint8", "float32")


def pixels(dtype: str) -> None:
    name = np.dtype(dtype).name if dtype[:1] in "<>=|" else dtype.rpartition(".")[2]
    if name not in PIXELS:
        raise TypeError(f"images has dtype {dtype}: {' or '.join(PIXELS)} can be normalised")


def affine(scale: Any, mean: Any, std: Any, channels: int) -> np.ndarray | None:
    """[scale, mean of each channel, std of each channel] as float32; None without any."""
    if scale is None and mean is None and std is None:
        return None
    parts = [_floats(1.0 if scale is None else scale, 1, "scale")]
    parts += [_floats(0.0 if mean is None else mean, channels, "mean")]
    parts += [_floats(1.0 if std is None else std, channels, "std")]
    if not parts[2].all():
        raise ValueError(f"std is {std}: none may be 0 in float32")
    return np.concatenate(parts)


def _floats(value: Any, count: int, what: str) -> np.ndarray:
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {value!r}: numbers are needed") from None
    if values.shape not in ((), (count,)):
        raise ValueError(
            f"{what} has shape {values.shape}: one number is needed"
            + (f", or {count}, one for each channel of [N, C, ...]" if what != "scale" else "")
        )
    with np.errstate(over="ignore"):
        narrow = np.broadcast_to(values, (count,)).astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ValueError(f"{what} is {value}: finite numbers of float32 are needed")
    return narrow


def grid(sides: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each side."""
    if any(s % p for s, p in zip(sides, sizes, strict=True)):
        raise ValueError(f"sides {sides} cannot be cut into patches of {sizes}: each must divide")
    return tuple(s // p for s, p in zip(sides, sizes, strict=True))


#: Numbers of channels that images have, to tell channels from sides in a message.
_CHANNELS = (1, 3, 4)


def image_grid(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each side of images of this shape."""
    try:
        return grid(shape[2:], sizes)
    except ValueError as error:
        order = "[N, C, H, W]" if len(shape) == 4 else "[N, C, T, H, W]"
        hint = ""
        if shape[-1] in _CHANNELS and shape[1] not in _CHANNELS:
            last = "[N, H, W, C]" if len(shape) == 4 else "[N, T, H, W, C]"
            hint = f"; it looks like {last}, whose channels must go to dimension 1"
        raise ValueError(f"images has shape {shape}, taken as {order}: {error}{hint}") from None


def patches(shape: tuple[int, ...], grid: tuple[int, ...], sizes: tuple[int, ...]) -> int:
    """The number of channels of patches of this shape."""
    area, count = math.prod(sizes), math.prod(grid)
    if len(shape) != 3 or shape[1] != count or shape[2] % area:
        raise ValueError(
            f"patches has shape {shape}: [N, {count}, {area} * C] is needed for a grid of {grid}"
            f" patches of {sizes}"
        )
    return shape[2] // area
