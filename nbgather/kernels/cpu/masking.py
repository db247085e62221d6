"""The kernels of a whole masking: scores, ranks, mask and visible tokens, sample by sample."""

from __future__ import annotations

import numpy as np
from numba import njit

from nbgather.kernels.constants import BLOCK_KEYS, FLOAT32, FLOAT64, SEED
from nbgather.kernels.cpu.gather_rows import INPUT_PREFETCH_BYTES, INPUT_PREFETCH_ROWS, copy_row
from nbgather.kernels.cpu.intrinsics import (
    address,
    allocate,
    fence,
    float32_at,
    float64_at,
    int32_at,
    int64_at,
    prefetch,
    release,
    uint32_at,
    uint64_at,
)
from nbgather.kernels.cpu.philox import FEW_TOKENS, draw, draw_rows
from nbgather.kernels.cpu.ranking import (
    MAX_CROWDED_KEYS,
    NEGATIVE_4,
    NEGATIVE_8,
    POSITIVE_4,
    POSITIVE_8,
    SHORT_BYTES,
    fill_later,
    finite_keys,
    is_ascending,
    order_by_digits,
    rank_rows,
    rank_slots,
    signed_key_f4,
    signed_key_f8,
    slots_of_keys,
    slots_of_values,
    slots_of_words,
    sort_into_slots,
    value_of_key_f4,
    value_of_key_f8,
)

U = np.uint64

#: Keys of short samples that are ranked before anything is written: they stay in the caches.
BATCH_KEYS = 512


@njit(inline="always")
def copy_visible(out, src, order, n, begin, end, visible, kept, row, x_n, x_l, nt):
    """Copy a sample's tokens of the ranks ``begin`` to ``end``; zeros for what is not visible."""
    stop = min(end, visible)
    for r in range(begin, stop):
        later = r + U(INPUT_PREFETCH_ROWS)
        if later < stop:
            ahead = n * x_n + U(order[later]) * x_l
            for line in range(U(0), min(row, U(INPUT_PREFETCH_BYTES)), U(64)):
                prefetch(src, ahead + line)
        copy_row(out, (n * kept + r) * row, src, n * x_n + U(order[r]) * x_l, row, nt)
    for b in range((n * kept + max(begin, stop)) * row, (n * kept + end) * row):
        out[b] = np.uint8(0)


def make_masking(source):
    item = 8 if source == FLOAT64 else 4

    def masking(out, src, idx, aux, args, lo, hi):
        # out: x_masked, src: x, both in bytes; idx: the sample ids, aux: the scores' bits.
        length, kept = U(args[0]), U(args[1])
        low = U(0xFFFFFFFF)
        epoch, k0, k1 = U(args[2]) & low, U(args[3]) & low, U(args[4]) & low
        row, x_n, x_l = U(args[5]), U(args[6]), U(args[7])
        keep, restore, mask = int64_at(U(args[8])), int64_at(U(args[9])), float32_at(U(args[10]))
        bits, nt = U(args[11]), U(args[12])
        kept_counts = int64_at(U(args[13]))
        short = length <= U(SHORT_BYTES // item)
        rows_at_once = U(BATCH_KEYS) // length if short else U(1)
        # One allocation; blocks of keys and words of noise reach beyond the last key.
        room = (rows_at_once * length + U(BLOCK_KEYS) + U(3)) & ~U(3)
        slots_count = max(U(1) << bits, U(256))
        memory = allocate(
            uint64_at(U(0)),
            U(2 * item + 16) * room + U(4) * slots_count + U(item * BLOCK_KEYS * BLOCK_KEYS),
        )
        start = address(memory)
        if start == U(0):
            return 1
        keys_at, sorted_at = start, start + U(item) * room
        rest_at = sorted_at + U(item) * room
        ranks, tokens = int32_at(rest_at), uint32_at(rest_at + U(4) * room)
        slots, order = uint32_at(rest_at + U(8) * room), uint32_at(rest_at + U(12) * room)
        counts = uint32_at(rest_at + U(16) * room)
        later_at = rest_at + U(16) * room + U(4) * slots_count
        if source == FLOAT64:
            keys, sorted_keys, later = int64_at(keys_at), int64_at(sorted_at), int64_at(later_at)
        else:
            keys, sorted_keys, later = int32_at(keys_at), int32_at(sorted_at), int32_at(later_at)
        fill_later(later)
        first = U(lo)
        while first < U(hi):
            rows = min(rows_at_once, U(hi) - first)
            base = first * length
            if source == SEED and length <= U(FEW_TOKENS):
                words = uint32_at(keys_at)
                draw_rows(
                    words, length, idx, first, rows, args[14] != 0, epoch, k0, k1, U(8)
                )  # fmt: skip
            elif source == SEED:
                for i in range(rows):
                    sample = first + i if args[14] != 0 else U(idx[first + i])
                    words = uint32_at(keys_at + U(4) * i * length)
                    draw(words, U(0), length, sample, epoch, k0, k1, U(8))
            elif source == FLOAT32:
                for k in range(rows * length):
                    keys[k] = signed_key_f4(aux[base + k])
            else:
                for k in range(rows * length):
                    keys[k] = signed_key_f8(aux[base + k])
            if short:
                rank_rows(ranks, keys, rows, length, later)
                for k in range(rows * length):
                    restore[base + k] = np.int64(ranks[k])
            elif source != SEED and is_ascending(keys, length):
                for t in range(length):
                    restore[base + t] = np.int64(t)
                    order[t] = np.uint32(t)
            else:
                least, largest = keys[0], keys[0]
                if source == SEED:
                    slots_of_words(slots, uint32_at(keys_at), length, bits)
                elif source == FLOAT32:
                    values = float32_at(address(aux) + U(4) * base)
                    least, largest = finite_keys(keys, length, NEGATIVE_4, POSITIVE_4)
                    low_end, high_end = value_of_key_f4(least), value_of_key_f4(largest)
                    slots_of_values(slots, values, length, bits, low_end, high_end, np.float32)
                else:
                    values = float64_at(address(aux) + U(8) * base)
                    least, largest = finite_keys(keys, length, NEGATIVE_8, POSITIVE_8)
                    low_end, high_end = value_of_key_f8(least), value_of_key_f8(largest)
                    slots_of_values(slots, values, length, bits, low_end, high_end, np.float64)
                crowd = sort_into_slots(tokens, sorted_keys, slots, keys, counts, length, bits)
                crowded = source != SEED and crowd > U(MAX_CROWDED_KEYS) * length
                if crowded and is_ascending(sorted_keys, length):
                    crowded = False
                if crowded:
                    slots_of_keys(slots, keys, length, bits, least, largest)
                    crowd = sort_into_slots(tokens, sorted_keys, slots, keys, counts, length, bits)
                    crowded = crowd > U(MAX_CROWDED_KEYS) * length
                if crowded:
                    ranked, other = uint64_at(sorted_at), uint64_at(sorted_at + U(8) * length)
                    if source == FLOAT64:
                        bits_of_keys = uint64_at(keys_at)
                        order_by_digits(order, ranked, other, bits_of_keys, counts, length, True)
                    else:
                        bits_of_keys = uint32_at(keys_at)
                        order_by_digits(order, ranked, other, bits_of_keys, counts, length, False)
                    for r in range(length):
                        restore[base + U(order[r])] = np.int64(r)
                else:
                    rank_slots(ranks, tokens, sorted_keys, slots, counts, U(0), length, later)
                    for i in range(length):
                        rank, token = ranks[i], tokens[i]
                        restore[base + U(token)] = np.int64(rank)
                        order[U(rank)] = token
            if args[13] == 0:
                for k in range(base, base + rows * length):
                    mask[k] = np.float32(0) if restore[k] < np.int64(kept) else np.float32(1)
            for i in range(rows):
                n = first + i
                visible = kept
                if args[13] != 0:
                    visible = U(kept_counts[n])
                    for k in range(n * length, (n + U(1)) * length):
                        mask[k] = np.float32(0) if restore[k] < np.int64(visible) else np.float32(1)
                if short and (args[8] != 0 or row != U(0)):
                    for t in range(length):
                        order[U(ranks[i * length + t])] = np.uint32(t)
                if args[8] != 0:
                    for r in range(kept):
                        keep[n * kept + r] = np.int64(order[r]) if r < visible else np.int64(-1)
                if row != U(0):
                    copy_visible(out, src, order, n, U(0), kept, visible, kept, row, x_n, x_l, nt)
            first += rows
        release(memory)
        if nt:
            fence()
        return 0

    return masking
