"""Plans: the shapes and strides of a call as the loops and the numbers that a kernel takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbgather.kernels import machine

#: An output from this size up is written with non-temporal stores, since no cache would hold it.
STREAM_BYTES = machine.last_level_bytes()


class GatherPlan:
    """A gather as numbers: one plan for each layout of its operands.

    Attributes
    ----------
    shape : tuple of int
        Shape of the result.
    dim, size : int
        The gathered dimension and its length in the input.
    limit : int
        An index that is not below it is an error; -1 if no value is.
    input_strides, index_strides : tuple of int
        In bytes, for views of input and index that have the shape of the result.
    form : str
        The kernel: ``last``, ``middle``, ``strided``, ``panel``, ``lanes`` or ``rows``.
    width : int
        Of a panel or a group of lanes, in items; else 0, and the kernel is told whether index and
        input are prefetched.
    row, row_nbytes : int
        Items and bytes in a row of the form ``rows``, else 0.
    as_items : GatherPlan or None
        Of the form ``rows``: the same gather by elements, each of which is a row. It asks for more
        of the addresses.
    args, count, work, nbytes : ndarray, int, int, int
        The kernel's integers, the length of its range, the bytes it moves, those of the result.
    item_mask, index_mask : int
        The low bits that must be 0 in the addresses of input and result, and of the index.
    needs_copy : bool
        No kernel takes these operands as they are: copy them first.
    indices : int
        How many indices are to be looked at where the result is then the input, byte for byte,
        since the dimension's length is 1; else 0.
    kernel : int or dict or None
        What the backend keeps: the kernel's address, or on a device its launches.
    """

    __slots__ = (
        "args",
        "as_items",
        "count",
        "dim",
        "form",
        "from_end",
        "index",
        "index_mask",
        "index_strides",
        "indices",
        "input_strides",
        "item_mask",
        "itemsize",
        "kernel",
        "limit",
        "mode",
        "nbytes",
        "needs_copy",
        "row",
        "row_nbytes",
        "shape",
        "size",
        "width",
        "work",
    )

    args: np.ndarray
    as_items: GatherPlan | None
    count: int
    dim: int
    form: str
    from_end: bool
    index: str
    index_mask: int
    index_strides: tuple[int, ...]
    indices: int
    input_strides: tuple[int, ...]
    item_mask: int
    itemsize: int
    kernel: Any
    limit: int
    mode: str
    nbytes: int
    needs_copy: bool
    row: int
    row_nbytes: int
    shape: tuple[int, ...]
    size: int
    width: int
    work: int


class ScatterPlan:
    """A scatter as numbers: the values of a place come in row-major order of the index.

    Attributes
    ----------
    shape, dim, size : tuple of int, int, int
        Of the result, which has the input's shape.
    index_shape, index_strides, src_strides : tuple of int
        The index, and the part of src that is read, which has the index's shape; in bytes.
    itemsize, index : int, str
        Of the input, and the index's dtype as ``i8``, ``u1``, ...
    rows : bool
        The lanes are contiguous and walked one by one; else they are walked in turns.
    args, count, work : ndarray, int, int
        Of a kernel that walks lanes of any strides: its integers, the number of lanes, the bytes
        that are moved.
    form : str
        The kernel of the CPU, see :mod:`nbgather.kernels.cpu.scatter`.
    copies : bool
        Whether that kernel copies the input, which is contiguous, as it goes.
    walk, walk_count : ndarray or None, int
        Their integers, and the length of their range.
    can_share : bool
        Where lanes are few, threads may share the places of each: form ``shared``, by the same
        integers.
    needs_copy : bool
        No kernel takes these operands as they are: copy them first.
    """

    __slots__ = (
        "args",
        "can_share",
        "copies",
        "count",
        "dim",
        "form",
        "index",
        "index_mask",
        "index_shape",
        "index_strides",
        "item_mask",
        "itemsize",
        "nbytes",
        "needs_copy",
        "rows",
        "shape",
        "size",
        "src_strides",
        "walk",
        "walk_count",
        "work",
    )

    args: np.ndarray
    can_share: bool
    copies: bool
    count: int
    dim: int
    form: str
    index: str
    index_mask: int
    index_shape: tuple[int, ...]
    index_strides: tuple[int, ...]
    item_mask: int
    itemsize: int
    nbytes: int
    needs_copy: bool
    rows: bool
    shape: tuple[int, ...]
    size: int
    src_strides: tuple[int, ...]
    walk: np.ndarray | None
    walk_count: int
    work: int


class PatchPlan(NamedTuple):
    """Patches cut out of images, or put into them, as numbers.

    Attributes
    ----------
    args, patches, work : ndarray, int, int
        The kernel's integers, the length of its range, the bytes that are moved. Patches that
        follow each other in images as they do in memory count as one; 0 if there are none.
    itemsize : int
        Of a pixel.
    block : tuple of (bool, int, int, bool)
        Whether patches are put into images; how many channels of how many neighbours in a row are
        moved at once, single items where the latter is 1; whether these are all channels, so that
        their items are neighbours in the patch. No channels: patches lie as the images do, and
        items are copied.
    """

    args: np.ndarray
    patches: int
    work: int
    itemsize: int
    block: tuple[bool, int, int, bool]
