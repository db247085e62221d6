"""The kernel that cuts kept patches out of images: what is removed is never read.

``args`` = [K, C, strides of N, C, T, H, W in items, grid of H, W, patch of T, H, W]: an image is a
video of one frame. ``idx`` holds the kept patches `[N, K]`, -1 for none; position p of the range is
the kept patch p. ``aux`` holds [scale, mean of each channel, std of each channel], or a zero.
"""

from __future__ import annotations

import numpy as np
from numba import njit

U = np.uint64

#: Bits moved as they are, or pixels turned into (pixel * scale - mean) / std in float32.
COPY, NORMALISE = range(2)


@njit(inline="always")
def pixel(src, at, aux, c, channels, how):
    value = src[at]
    if how == NORMALISE:
        # Each step is rounded to float32 by itself, as in NumPy and torch.
        scaled = np.float32(value) * aux[U(0)]
        return (scaled - aux[U(1) + c]) / aux[U(1) + channels + c]
    return value


def make_patches(how, planes):
    """``planes``: how many channels there are where that is known, else 0."""

    def patches(out, src, idx, aux, args, lo, hi):
        kept, channels = U(args[0]), U(args[1])
        sn, sc, st, sh, sw = U(args[2]), U(args[3]), U(args[4]), U(args[5]), U(args[6])
        gh, gw = U(args[7]), U(args[8])
        pt, ph, pw = U(args[9]), U(args[10]), U(args[11])
        line = pw * channels
        size = pt * ph * line
        together = how == COPY and (
            (channels == U(1) and sw == U(1)) or (sc == U(1) and sw == channels)
        )
        for p in range(U(lo), U(hi)):
            o = p * size
            token = idx[p]
            if token < 0:
                for k in range(size):
                    out[o + k] = np.float32(0) if how == NORMALISE else aux[U(0)]
                continue
            t = U(token)
            row = t // gw
            x = (p // kept) * sn + (t - row * gw) * pw * sw
            x += (row - row // gh * gh) * ph * sh + row // gh * pt * st
            for a in range(pt):
                for b in range(ph):
                    at = x + a * st + b * sh
                    if together:
                        for k in range(line):
                            out[o + k] = src[at + k]
                    elif planes == 3:
                        for k in range(pw):
                            out[o + U(3) * k] = pixel(src, at + k * sw, aux, U(0), U(3), how)
                            out[o + U(3) * k + U(1)] = pixel(
                                src, at + k * sw + sc, aux, U(1), U(3), how
                            )
                            out[o + U(3) * k + U(2)] = pixel(
                                src, at + k * sw + U(2) * sc, aux, U(2), U(3), how
                            )
                    else:
                        for k in range(pw):
                            for c in range(channels):
                                out[o + k * channels + c] = pixel(
                                    src, at + k * sw + c * sc, aux, c, channels, how
                                )
                    o += line
        return 0

    return patches
