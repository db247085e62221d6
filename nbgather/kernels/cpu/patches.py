"""The kernels between images and patches: all of them, or those that a mask keeps.

An image is a video of one frame. What is removed is never read.

``args`` = [K, C, strides of N, C, T, H, W in items, grid of H, W, patch of T, H, W], and for
`make_patch_mover` the strides of N and K of the patches, in items: the items of one are
neighbours; last, how many patches of a row are moved together. ``idx`` holds the kept patches
`[N, K]`, -1 for none; position p of the range is the kept patch p.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.cpu.interleave import make_block_mover
from nbgather.kernels.cpu.intrinsics import copy_bytes

U = np.uint64


@njit(inline="always")
def move_item(patch, o, image, x, inverse):
    if inverse:
        image[x] = patch[o]
    else:
        patch[o] = image[x]


def make_patch_mover(by_ids, inverse, rows, pixels, packed):
    """The kernel that copies patches bit by bit: from images, or with ``inverse`` into them.

    Where ``pixels`` is more than 1, pixels of a row are neighbours, and a block of ``rows``
    channels of so many goes at once; the last blocks of a row and of the channels may overlap those
    before. ``by_ids``: those that ``idx`` names, and ``aux[0]`` for none; else all K. No ``rows``:
    patches are what the images are, and are copied.
    """
    if not rows:
        return copy_items
    if not by_ids:
        return _make_row_mover(inverse, rows, pixels, packed)
    move_block = make_block_mover(rows, pixels, packed, inverse)

    def move_patches(out, src, idx, aux, args, lo, hi):
        patch, image = (src, out) if inverse else (out, src)
        kept, channels = U(args[0]), U(args[1])
        sn, sc, st, sh, sw = U(args[2]), U(args[3]), U(args[4]), U(args[5]), U(args[6])
        gh, gw = U(args[7]), U(args[8])
        pt, ph, pw = U(args[9]), U(args[10]), U(args[11])
        pn, pk = U(args[12]), U(args[13])
        row_items = pw * channels
        step = U(rows) if packed else channels
        n = U(lo) // kept
        k = U(lo) - n * kept
        for p in range(U(lo), U(hi)):
            o = n * pn + k * pk
            token = idx[p]
            if token < 0:
                for e in range(pt * ph * row_items):
                    patch[o + e] = aux[U(0)]
            row = U(token) // gw
            column = U(token) - row * gw
            frame = row // gh
            row -= frame * gh
            x = n * sn + frame * pt * st + row * ph * sh + column * pw * sw
            for a in range(pt if token >= 0 else U(0)):
                for b in range(ph):
                    line = x + a * st + b * sh
                    if pixels > 1:
                        first = U(0)
                        while first < channels:
                            first = min(first, channels - U(rows))
                            left = U(0)
                            while left < pw:
                                left = min(left, pw - U(pixels))
                                move_block(
                                    patch, o + left * step + first, step,
                                    image, line + first * sc + left, sc,
                                )  # fmt: skip
                                left += U(pixels)
                            first += U(rows)
                    else:
                        for e in range(pw):
                            for c in range(channels):
                                move_item(
                                    patch, o + e * channels + c, image, line + e * sw + c * sc,
                                    inverse,
                                )  # fmt: skip
                    o += row_items
            k += U(1)
            if k == kept:
                k = U(0)
                n += U(1)
        return 0

    return move_patches


def _make_row_mover(inverse, rows, pixels, packed):
    """The kernel that moves all patches: some of a row at a time, line by line of the image.

    Lines of the image are so walked from end to end, and what is done for one patch is little more
    than to move it. Where a patch is one pixel wide, the pixels of a block are those of neighbours,
    and it is not ``packed``.
    """
    move_block = make_block_mover(rows, pixels, packed, inverse)

    def move_all_patches(out, src, idx, aux, args, lo, hi):
        patch, image = (src, out) if inverse else (out, src)
        kept, channels = U(args[0]), U(args[1])
        sn, sc, st, sh, sw = U(args[2]), U(args[3]), U(args[4]), U(args[5]), U(args[6])
        gh, gw = U(args[7]), U(args[8])
        pt, ph, pw = U(args[9]), U(args[10]), U(args[11])
        pn, pk, together = U(args[12]), U(args[13]), U(args[14])
        row_items = pw * channels
        step = U(rows) if packed else channels
        blocks = pixels > 1 and channels == U(rows)
        one_block = blocks and pw == U(pixels)
        two_blocks = blocks and pw > U(pixels) and pw <= U(2 * pixels)
        p = U(lo)
        while p < U(hi):
            n = p // kept
            k = p - n * kept
            row = k // gw
            column = k - row * gw
            columns = min(gw - column, U(hi) - p, together)
            p += columns
            frame = row // gh
            row -= frame * gh
            corner = n * sn + frame * pt * st + row * ph * sh + column * pw * sw
            o = n * pn + k * pk
            for a in range(pt):
                for b in range(ph):
                    line = corner + a * st + b * sh
                    if one_block:
                        for e in range(columns):
                            move_block(patch, o + e * pk, step, image, line + e * pw, sc)
                    elif two_blocks:
                        left = pw - U(pixels)
                        for e in range(columns):
                            to, x = o + e * pk, line + e * pw
                            move_block(patch, to, step, image, x, sc)
                            move_block(patch, to + left * step, step, image, x + left, sc)
                    elif pixels > 1 and pw == U(1) and columns >= U(pixels):
                        first = U(0)
                        while first < channels:
                            first = min(first, channels - U(rows))
                            left = U(0)
                            while left < columns:
                                left = min(left, columns - U(pixels))
                                move_block(
                                    patch, o + left * pk + first, pk,
                                    image, line + left + first * sc, sc,
                                )  # fmt: skip
                                left += U(pixels)
                            first += U(rows)
                    elif pixels > 1 and pw >= U(pixels):
                        first = U(0)
                        while first < channels:
                            first = min(first, channels - U(rows))
                            for e in range(columns):
                                to, x = o + e * pk + first, line + e * pw + first * sc
                                left = U(0)
                                while left < pw:
                                    left = min(left, pw - U(pixels))
                                    move_block(patch, to + left * step, step, image, x + left, sc)
                                    left += U(pixels)
                            first += U(rows)
                    else:
                        for e in range(columns):
                            for f in range(pw):
                                to, x = o + e * pk + f * channels, line + (e * pw + f) * sw
                                for c in range(channels):
                                    move_item(patch, to + c, image, x + c * sc, inverse)
                    o += row_items
        return 0

    return move_all_patches


def copy_items(out, src, idx, aux, args, lo, hi):
    """Patches that lie as the images do: a position of the range is one of ``args[0]`` bytes."""
    copy_bytes(out, U(lo), src, U(lo), U(hi - lo) * U(args[0]))
    return 0


@njit(inline="always")
def normal(value, scale, mean, std):
    """(pixel * scale - mean) / std, each step rounded to float32, as in NumPy and torch."""
    return (np.float32(value) * scale - mean) / std


def make_normal_patches(planes):
    """The kernel that normalises pixels: ``aux`` = [scale, means, stds] of the channels.

    ``planes`` is 1 or 3 for a kernel of exactly so many channels, 0 for one of any number.
    """

    def normal_patches(out, src, idx, aux, args, lo, hi):
        kept, channels = U(args[0]), U(args[1])
        sn, sc, st, sh, sw = U(args[2]), U(args[3]), U(args[4]), U(args[5]), U(args[6])
        gh, gw = U(args[7]), U(args[8])
        pt, ph, pw = U(args[9]), U(args[10]), U(args[11])
        row_items = pw * channels
        size = pt * ph * row_items
        means, stds = U(1), U(1) + channels
        scale, m0, s0 = aux[U(0)], aux[means], aux[stds]
        m1 = m2 = m0
        s1 = s2 = s0
        if planes == 3:
            m1, s1 = aux[means + U(1)], aux[stds + U(1)]
            m2, s2 = aux[means + U(2)], aux[stds + U(2)]
        for p in range(U(lo), U(hi)):
            o = p * size
            token = idx[p]
            if token < 0:
                for k in range(size):
                    out[o + k] = np.float32(0)
                continue
            t = U(token)
            row = t // gw
            x = (p // kept) * sn + (t - row * gw) * pw * sw
            x += (row - row // gh * gh) * ph * sh + row // gh * pt * st
            for a in range(pt):
                for b in range(ph):
                    line = x + a * st + b * sh
                    if planes == 3:
                        for k in range(pw):
                            first = line + k * sw
                            to = o + U(3) * k
                            out[to] = normal(src[first], scale, m0, s0)
                            out[to + U(1)] = normal(src[first + sc], scale, m1, s1)
                            out[to + U(2)] = normal(src[first + U(2) * sc], scale, m2, s2)
                    elif planes == 1 and sw == U(1):
                        for k in range(pw):
                            out[o + k] = normal(src[line + k], scale, m0, s0)
                    else:
                        for k in range(pw):
                            for c in range(channels):
                                out[o + k * channels + c] = normal(
                                    src[line + k * sw + c * sc],
                                    scale,
                                    aux[means + c],
                                    aux[stds + c],
                                )
                    o += row_items
        return 0

    return normal_patches
