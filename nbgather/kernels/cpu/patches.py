"""The kernel that cuts kept patches out of images; removed patches are never read.

``args`` = [K, C, strides of N, C, T, H, W in items, grid of H, W, patch of T, H, W]: an image is a
video of one frame. ``idx`` holds the kept patches `[N, K]`, -1 for none; position p of the range is
the kept patch p. ``aux`` holds [scale, mean of each channel, std of each channel], or a zero.
"""

from __future__ import annotations

import numpy as np
from numba import njit

U = np.uint64

#: What is done with pixels: copied bit by bit, or (pixel * scale - mean) / std in float32.
COPY, NORMALISE = range(2)


@njit(inline="always")
def pixel(src, x, aux, c, channels, conversion):
    value = src[x]
    if conversion == NORMALISE:
        # Each step is rounded to float32, as in NumPy and torch.
        scaled = np.float32(value) * aux[U(0)]
        return (scaled - aux[U(1) + c]) / aux[U(1) + channels + c]
    return value


def make_patches(conversion, planes):
    """``planes`` is 3 for a kernel of exactly 3 channels, 0 for one of any number."""

    def patches(out, src, idx, aux, args, lo, hi):
        kept, channels = U(args[0]), U(args[1])
        sn, sc, st, sh, sw = U(args[2]), U(args[3]), U(args[4]), U(args[5]), U(args[6])
        gh, gw = U(args[7]), U(args[8])
        pt, ph, pw = U(args[9]), U(args[10]), U(args[11])
        row_items = pw * channels
        size = pt * ph * row_items
        contiguous = conversion == COPY and (
            (channels == U(1) and sw == U(1)) or (sc == U(1) and sw == channels)
        )
        for p in range(U(lo), U(hi)):
            o = p * size
            token = idx[p]
            if token < 0:
                for k in range(size):
                    out[o + k] = np.float32(0) if conversion == NORMALISE else aux[U(0)]
                continue
            t = U(token)
            row = t // gw
            x = (p // kept) * sn + (t - row * gw) * pw * sw
            x += (row - row // gh * gh) * ph * sh + row // gh * pt * st
            for a in range(pt):
                for b in range(ph):
                    line = x + a * st + b * sh
                    if contiguous:
                        for k in range(row_items):
                            out[o + k] = src[line + k]
                    elif planes == 3:
                        for k in range(pw):
                            out[o + U(3) * k] = pixel(
                                src, line + k * sw, aux, U(0), U(3), conversion
                            )
                            out[o + U(3) * k + U(1)] = pixel(
                                src, line + k * sw + sc, aux, U(1), U(3), conversion
                            )
                            out[o + U(3) * k + U(2)] = pixel(
                                src, line + k * sw + U(2) * sc, aux, U(2), U(3), conversion
                            )
                    else:
                        for k in range(pw):
                            for c in range(channels):
                                out[o + k * channels + c] = pixel(
                                    src, line + k * sw + c * sc, aux, c, channels, conversion
                                )
                    o += row_items
        return 0

    return patches
