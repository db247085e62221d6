"""The kernel that cuts kept patches out of images, copied or normalised."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbgather.kernels.cuda.deferred import cuda
from nbgather.kernels.cuda.positions import divide_narrow, u32, u64

#: What is done to a pixel.
COPY, NORMALISE = range(2)

#: ``numbers``: patches kept of an image, channels, strides of image, channel, frame, row and column
#: in items, the grid's rows and columns, and a patch's frames, rows and columns.
PATCHES_NUMBERS = 12


def make_patches(memory: Any, operation: int, pixel: str) -> Any:
    """A block writes a kept patch, a thread an item; what is removed is never read.

    ``affine`` is the address of float32: the scale, then the means and deviations of the channels.
    """
    normalise = operation == NORMALISE
    item = int(pixel[1:])
    out_item = 4 if normalise else item
    load_id, load_f4 = memory.LOAD["i8"], memory.LOAD["f4"]
    load, store = memory.LOAD[pixel], memory.STORE["f4" if normalise else pixel]
    multiply, subtract, divide = memory.MULTIPLY, memory.SUBTRACT, memory.DIVIDE
    zero = np.float32(0) if normalise else ((u64(0), u64(0)) if item == 16 else u64(0))

    def patches(out, src, idx, affine, numbers):
        kept, channels = u64(numbers[0]), u64(numbers[1])
        sn, sc, st = u64(numbers[2]), u64(numbers[3]), u64(numbers[4])
        sh, sw = u64(numbers[5]), u64(numbers[6])
        gh, gw = u32(numbers[7]), u32(numbers[8])
        ph, pw = u32(numbers[10]), u32(numbers[11])
        size = u32(u64(numbers[9]) * u64(ph) * u64(pw) * channels)
        p = u64(cuda.blockIdx.x)
        token = load_id(u64(idx + p * u64(8)))
        k = u32(cuda.threadIdx.x)
        threads = u32(cuda.blockDim.x)
        target = u64(out + p * u64(size) * u64(out_item))
        if token < 0:
            while k < size:
                store(target + u64(k) * u64(out_item), zero)
                k = u32(k + threads)
            return
        row, column = divide_narrow(u64(token), u64(gw))
        slab, row = divide_narrow(row, u64(gh))
        n, _slot = divide_narrow(p, kept)
        x = n * sn + column * u64(pw) * sw + row * u64(ph) * sh + slab * u64(numbers[9]) * st
        while k < size:
            rest, c = divide_narrow(u64(k), channels)
            rest, b = divide_narrow(rest, u64(pw))
            a, h = divide_narrow(rest, u64(ph))
            value = load(u64(src + (x + a * st + h * sh + b * sw + c * sc) * u64(item)))
            if normalise:
                # Each step is rounded by itself: no multiply-add.
                scaled = multiply(np.float32(value), load_f4(affine))
                centred = subtract(scaled, load_f4(u64(affine + (u64(1) + c) * u64(4))))
                deviation = load_f4(u64(affine + (u64(1) + channels + c) * u64(4)))
                normalised = divide(centred, deviation)
                store(target + u64(k) * u64(out_item), normalised)
            else:
                store(target + u64(k) * u64(out_item), value)
            k = u32(k + threads)

    return patches
