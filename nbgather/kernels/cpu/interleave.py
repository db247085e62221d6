"""Blocks of a few rows of items, interleaved or taken apart in registers, as intrinsics."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I32 = ir.IntType(32)


def _load(builder: Any, pointer: Any, offset: Any, kind: Any) -> Any:
    first = builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())
    value = builder.load(first)
    value.align = kind.element.width // 8
    return value


def _store(builder: Any, value: Any, pointer: Any, offset: Any) -> None:
    first = builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())
    builder.store(value, first).align = value.type.element.width // 8


def _shuffle(builder: Any, first: Any, second: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(
        first, second, ir.Constant(ir.VectorType(_I32, len(order)), order)
    )


def _joined(builder: Any, vectors: list[Any]) -> Any:
    """All items of some vectors of one length, as one vector."""
    each = vectors[0].type.count
    joined = vectors[0]
    for number, vector in enumerate(vectors[1:], 1):
        # Both sides of a shuffle have one type.
        longer = [k if k < each else each for k in range(number * each)]
        undefined = ir.Constant(vector.type, ir.Undefined)
        wide = vector if number == 1 else _shuffle(builder, vector, undefined, longer)
        joined = _shuffle(builder, joined, wide, list(range((number + 1) * each)))
    return joined


@functools.cache
def make_block_mover(rows: int, pixels: int, packed: bool, inverse: bool) -> Any:
    """Make an intrinsic ``(patch, o, step, image, x, plane)`` that moves a block of items.

    ``patch[o + k * step + r] = image[x + r * plane + k]`` for r below ``rows`` and k below
    ``pixels``, or with ``inverse`` the other way. ``packed``: ``step`` is ``rows``. Items of 16
    bytes are no vector's: for them it does nothing.
    """

    @intrinsic
    def move_block(typingctx, patch, o, step, image, x, plane):
        integer = types.uint64
        signature = types.void(patch, integer, integer, image, integer, integer)

        def codegen(context, builder, sig, values):
            patch, o, step, image, x, plane = values
            item = patch.type.pointee
            if not isinstance(item, ir.IntType):
                return context.get_dummy_value()

            def at(start, number, stride):
                return builder.add(start, builder.mul(stride, ir.Constant(stride.type, number)))

            row, column = ir.VectorType(item, pixels), ir.VectorType(item, rows)
            if inverse:
                if packed:
                    block = _load(builder, patch, o, ir.VectorType(item, rows * pixels))
                else:
                    columns = [_load(builder, patch, at(o, k, step), column) for k in range(pixels)]
                    block = _joined(builder, columns)
                for r in range(rows):
                    order = [k * rows + r for k in range(pixels)]
                    _store(builder, _shuffle(builder, block, block, order), image, at(x, r, plane))
                return context.get_dummy_value()
            loaded = [_load(builder, image, at(x, r, plane), row) for r in range(rows)]
            block = _joined(builder, loaded)
            if packed:
                order = [r * pixels + k for k in range(pixels) for r in range(rows)]
                _store(builder, _shuffle(builder, block, block, order), patch, o)
                return context.get_dummy_value()
            for k in range(pixels):
                order = [r * pixels + k for r in range(rows)]
                _store(builder, _shuffle(builder, block, block, order), patch, at(o, k, step))
            return context.get_dummy_value()

        return signature, codegen

    return move_block
