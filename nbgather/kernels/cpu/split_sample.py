"""The kernel of a masking of few long samples: each is ranked by several threads.

Position p of the range is a task: `PHASES` times ``parts`` of them for each sample, whose tokens,
places and ranks are cut in ``parts``. The steps are those of :mod:`nbgather.kernels.cpu.ranking`.
What tasks share is in memory of the caller, `shared_bytes` for each sample, whose counters
must be zero.
"""

from __future__ import annotations

import numpy as np

from nbgather.kernels.constants import (
    BLOCK_KEYS,
    CROWDED,
    EXTREMES,
    FLOAT32,
    FLOAT64,
    MAX_PARTS,
    PHASES,
    SEED,
    SPLIT_ARGS,
)
from nbgather.kernels.cpu.intrinsics import (
    address,
    fence,
    float32_at,
    float64_at,
    int32_at,
    int64_at,
    uint32_at,
    uint64_at,
)
from nbgather.kernels.cpu.masking import copy_visible
from nbgather.kernels.cpu.phases import finish_task, wait_for_tasks
from nbgather.kernels.cpu.philox import draw
from nbgather.kernels.cpu.ranking import (
    MAX_CROWDED_KEYS,
    NEGATIVE_4,
    NEGATIVE_8,
    POSITIVE_4,
    POSITIVE_8,
    count_slots,
    fill_later,
    finite_keys,
    order_by_digits,
    place_in_slots,
    rank_slots,
    signed_key_f4,
    signed_key_f8,
    slots_of_values,
    slots_of_words,
    value_of_key_f4,
    value_of_key_f8,
)

U = np.uint64

SHARED, PARTS = SPLIT_ARGS.index("shared"), SPLIT_ARGS.index("parts")

#: The phases of a part.
KEYS, SLOTS, PLACES, RANKS, TOKENS = range(5)


def make_split_masking(source):
    def split_masking(out, src, idx, aux, args, lo, hi):
        # The pointers are those of a masking.
        length, kept = U(args[0]), U(args[1])
        low = U(0xFFFFFFFF)
        epoch, k0, k1 = U(args[2]) & low, U(args[3]) & low, U(args[4]) & low
        row, x_n, x_l = U(args[5]), U(args[6]), U(args[7])
        keep, restore, mask = int64_at(U(args[8])), int64_at(U(args[9])), float32_at(U(args[10]))
        bits, nt = U(args[11]), U(args[12])
        kept_counts = int64_at(U(args[13]))
        parts = U(args[PARTS])
        slots_count = max(U(1) << bits, U(256))
        room = (length + U(BLOCK_KEYS + 3)) & ~U(3)
        head_bytes = U(8 * (EXTREMES + 2 * MAX_PARTS))
        later_bytes = U(8 * BLOCK_KEYS * BLOCK_KEYS)
        sample_bytes = head_bytes + later_bytes + U(32) * room + U(8) * parts * slots_count
        # Blocks of keys, so that no two parts write the same ranks.
        step = ((length + parts - U(1)) // parts + U(BLOCK_KEYS - 1)) & ~U(BLOCK_KEYS - 1)
        for p in range(U(lo), U(hi)):
            n, phase, part = p // (U(PHASES) * parts), (p // parts) % U(PHASES), p % parts
            shared = U(args[SHARED]) + n * sample_bytes
            numbers = int64_at(shared)
            later_at = shared + head_bytes
            keys_at = later_at + later_bytes
            sorted_at = keys_at + U(8) * room
            ranks, tokens = int32_at(sorted_at + U(8) * room), uint32_at(sorted_at + U(12) * room)
            slots_at, order = sorted_at + U(16) * room, uint32_at(sorted_at + U(20) * room)
            slots = uint32_at(slots_at)
            counts_at = sorted_at + U(24) * room
            places_at = counts_at + U(4) * parts * slots_count
            own_counts = uint32_at(counts_at + U(4) * part * slots_count)
            own_places = uint32_at(places_at + U(4) * part * slots_count)
            first, last = min(part * step, length), min((part + U(1)) * step, length)
            count, base = last - first, n * length
            if source == FLOAT64:
                own_keys = int64_at(keys_at + U(8) * first)
                sorted_keys, later = int64_at(sorted_at), int64_at(later_at)
            else:
                own_keys = int32_at(keys_at + U(4) * first)
                sorted_keys, later = int32_at(sorted_at), int32_at(later_at)
            own_slots = uint32_at(slots_at + U(4) * first)
            visible = U(kept_counts[n]) if args[13] != 0 else kept
            if phase > U(KEYS):
                wait_for_tasks(shared + U(8) * (phase - U(1)), parts)
            if phase == U(KEYS):
                if part == U(0):
                    fill_later(later)
                if source == SEED:
                    sample = n if args[14] != 0 else U(idx[n])
                    words = uint32_at(keys_at + U(4) * first)
                    draw(words, first // U(4), count, sample, epoch, k0, k1, U(8))
                else:
                    if source == FLOAT32:
                        for t in range(count):
                            own_keys[t] = signed_key_f4(aux[base + first + t])
                        least, largest = finite_keys(own_keys, count, NEGATIVE_4, POSITIVE_4)
                    else:
                        for t in range(count):
                            own_keys[t] = signed_key_f8(aux[base + first + t])
                        least, largest = finite_keys(own_keys, count, NEGATIVE_8, POSITIVE_8)
                    numbers[U(EXTREMES) + U(2) * part] = np.int64(least)
                    numbers[U(EXTREMES + 1) + U(2) * part] = np.int64(largest)
            elif phase == U(SLOTS):
                least, largest = numbers[U(EXTREMES)], numbers[U(EXTREMES + 1)]
                for c in range(U(1), parts):
                    least = min(least, numbers[U(EXTREMES) + U(2) * c])
                    largest = max(largest, numbers[U(EXTREMES + 1) + U(2) * c])
                if source == SEED:
                    slots_of_words(own_slots, uint32_at(keys_at + U(4) * first), count, bits)
                elif source == FLOAT32:
                    values = float32_at(address(aux) + U(4) * (base + first))
                    low_end = value_of_key_f4(np.int32(least))
                    high_end = value_of_key_f4(np.int32(largest))
                    slots_of_values(own_slots, values, count, bits, low_end, high_end, np.float32)
                else:
                    values = float64_at(address(aux) + U(8) * (base + first))
                    low_end, high_end = value_of_key_f8(least), value_of_key_f8(largest)
                    slots_of_values(own_slots, values, count, bits, low_end, high_end, np.float64)
                count_slots(own_counts, own_slots, count, bits)
            elif phase == U(PLACES):
                # Each part finds its own places: before them are all of lower slots, and those of
                # the same slot in earlier parts.
                every = uint32_at(counts_at)
                total, crowd = U(0), U(0)
                for v in range(U(1) << bits):
                    before, whole = U(0), U(0)
                    for c in range(parts):
                        in_part = U(every[c * slots_count + v])
                        before += in_part if c < part else U(0)
                        whole += in_part
                    own_places[v] = np.uint32(total + before)
                    total += whole
                    crowd += whole * whole
                crowded = crowd > U(MAX_CROWDED_KEYS) * length
                if part == U(0):
                    numbers[U(CROWDED)] = 1 if crowded else 0
                if not crowded:
                    place_in_slots(
                        tokens, sorted_keys, own_places, own_slots, own_keys, first, count
                    )
            elif phase == U(RANKS):
                if numbers[U(CROWDED)] == 0:
                    ends = uint32_at(places_at + U(4) * (parts - U(1)) * slots_count)
                    rank_slots(ranks, tokens, sorted_keys, slots, ends, first, last, later)
                    for i in range(first, last):
                        order[U(ranks[i])] = tokens[i]
                elif part == U(0):
                    ranked, other = uint64_at(sorted_at), uint64_at(sorted_at + U(8) * room)
                    counts = uint32_at(counts_at)
                    if source == FLOAT64:
                        bits_of_keys = uint64_at(keys_at)
                        order_by_digits(order, ranked, other, bits_of_keys, counts, length, True)
                    else:
                        bits_of_keys = uint32_at(keys_at)
                        order_by_digits(order, ranked, other, bits_of_keys, counts, length, False)
            else:
                for r in range(first, last):
                    token = base + U(order[r])
                    restore[token] = np.int64(r)
                    mask[token] = np.float32(0) if r < visible else np.float32(1)
                if args[8] != 0:
                    for r in range(first, min(last, kept)):
                        keep[n * kept + r] = np.int64(order[r]) if r < visible else np.int64(-1)
                if row != U(0):
                    # In equal parts of what is kept, which the first ranks are.
                    begin, end = kept * part // parts, kept * (part + U(1)) // parts
                    copy_visible(out, src, order, n, begin, end, visible, kept, row, x_n, x_l, nt)
                    if nt:
                        fence()
            finish_task(shared + U(8) * phase)
        return 0

    return split_masking
