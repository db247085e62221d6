"""The usual calls on a GPU: those whose kernels come with the package.

They are made on arrays that nobody reads, so only shapes, dtypes and strides matter.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from cuda_stub import STREAM, StubArray, empty, spread

import nbgather.cuda
from nbgather.kernels.cuda import launch_scatter
from nbgather.kernels.cuda.contexts import Place

INDICES = ("i4", "i8")
#: What models and tables are made of, and what else has a kernel of its own size.
USUAL, OTHERS = ("f4", "f2"), ("u1", "f8", "c16")
#: Modes besides that which a call has if it is not told.
MODES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clip", {}), ("wrap", {}), ("fill", {"fill_value": 0}),
)  # fmt: skip
#: Of images, and patches that models have.
PIXELS, PATCHES = ("u1", "f2", "f4"), (8, 14, 16)


def gather_elements() -> None:
    """Elements along each dim of one, two and three dimensions."""
    for dtype, index in itertools.product(USUAL + OTHERS, INDICES):
        shapes = [((64, 512), 1, (64, 128)), ((512, 64), 0, (128, 64)),
                  ((4096,), 0, (512,)), ((8, 64, 32), 1, (8, 16, 32))]  # fmt: skip
        for shape, dim, part in shapes if dtype in USUAL else shapes[:3]:
            x, i = empty(shape, dtype), empty(part, index)
            nbgather.gather(x, dim, i)
            nbgather.take_along_axis(x, i, dim)
            if dtype in USUAL and index == "i8":
                for mode, fill in MODES:
                    nbgather.gather(x, dim, i, mode=mode, **fill)
                nbgather.take_along_axis(x, i, dim, mode="fill", fill_value=0)
    for dtype in USUAL:  # a transposed input, and one pick of each row
        nbgather.gather(empty((512, 64), dtype).transpose((1, 0)), 1, empty((64, 128), "i8"))
        nbgather.gather(empty((64, 512), dtype), 1, empty((64, 1), "i8"))
    for dtype, index in itertools.product(USUAL, INDICES):  # far apart: by panels of columns
        nbgather.gather(empty((8192, 8192), dtype), 0, empty((8192, 8192), index))


def gather_rows() -> None:
    """Rows of tokens and of tables."""
    for width, index in itertools.product((16, 8, 4, 2, 1), INDICES):
        for nbytes in (3 * width, 768 * width):
            x, ids = empty((8, 196, nbytes), "u1"), empty((8, 49), index)
            table = empty((1024, nbytes), "u1")
            picked = spread((128, 1), 128, nbytes, dtype=index)
            nbgather.gather_tokens(x, ids)
            nbgather.take_along_axis(x, StubArray(ids.array[:, :, None]), 1)
            nbgather.gather(table, 0, picked)
            if index == "i8":
                for mode, fill in MODES if width >= 4 else MODES[:1]:
                    nbgather.gather_tokens(x, ids, mode=mode, **fill)
                    nbgather.gather(table, 0, picked, mode=mode, **fill)
        many, short = empty((8192, 49), index), empty((8192, 196, 3 * width), "u1")
        if width >= 8:  # several of them for each thread
            nbgather.gather_tokens(short, many)
            nbgather.gather(table[:, :48], 0, spread((1 << 18, 1), 1 << 18, 48, dtype=index))
            whole = empty((8192, 196), index)
            nbgather.restore_tokens(empty((8192, 49, 3 * width), "u1"), whole, 0)
        narrow = empty((8, 3 * width, 196), "u1").transpose((0, 2, 1))
        nbgather.gather_tokens(narrow, empty((8, 49), index))


def scatters() -> None:
    """Sums and moves of elements and of rows, of few and many."""
    shapes: tuple[tuple[Any, Any, int, Any], ...] = (
        ((1 << 20,), (1 << 21,), 0, None), ((1 << 10,), (1 << 12,), 0, None),
        ((64,), (1 << 20,), 0, None), ((1 << 18, 128), (1 << 19, 128), 0, (1 << 19, 1)),
        ((4096, 768), (1024, 768), 0, (1024, 1)), ((64, 196, 768), (64, 49, 768), 1, (64, 49, 1)),
        ((4096, 4096), (4096, 4096), 0, None), ((4096, 4096), (4096, 4096), 1, None),
        ((10, 10, 512, 512), (10, 10, 512, 512), 3, None), ((8, 64, 32), (8, 128, 32), 1, None),
        ((64, 512), (64, 128), 1, None),
    )  # fmt: skip
    for dtype, index in itertools.product(("f4", "f2", bfloat16(), "f8", "i4", "i8"), INDICES):
        if dtype is None or (index == "i4" and dtype not in ("f4", "i4")):
            continue
        for into, shape, dim, part in shapes:
            x, src = empty(into, dtype), empty(shape, dtype)
            i = empty(shape, index) if part is None else spread(part, *shape, dtype=index)
            nbgather.scatter_add(x, dim, i, src)
            if dtype in ("f4", "f2", "i8"):
                nbgather.scatter(x, dim, i, src)


def reductions() -> None:
    """Means and extremes of float32, as graphs have them: of nodes, of edges, of segments."""
    shapes: tuple[tuple[Any, Any, int, Any], ...] = (
        ((1 << 20,), (1 << 21,), 0, None), ((1 << 10,), (1 << 12,), 0, None),
        ((1 << 18, 128), (1 << 19, 128), 0, (1 << 19, 1)),
        ((64, 196, 768), (64, 49, 768), 1, (64, 49, 1)), ((4096, 4096), (4096, 4096), 1, None),
    )  # fmt: skip
    for reduce, own in itertools.product(("mean", "amax", "amin"), (True, False)):
        for into, shape, dim, part in shapes:
            x, src = empty(into, "f4"), empty(shape, "f4")
            i = empty(shape, "i8") if part is None else spread(part, *shape)
            nbgather.scatter_reduce(x, dim, i, src, reduce, include_self=own)
    with nbgather.cuda.deferred():
        for by, index in itertools.product(("offsets", "counts"), INDICES):
            given: dict[str, Any] = {by: empty((9,), index)}
            nbgather.segment_reduce(empty((64, 4), "f4"), "sum", **given)
    for reduce, kind in itertools.product(("sum", "mean", "amax", "amin"), ("f4", "f2", "b2")):
        if kind != "f4" and reduce in ("amax", "amin"):
            kind = {"f2": "half", "b2": "brain"}[kind]
        for row in (512, 4):  # whose offsets nobody could read here
            launch_scatter.segment_reduce(
                (reduce, kind, False), 256, 256, 256, (8, 64, row), Place(0, STREAM)
            )


def bfloat16() -> Any:
    """The dtype, where something knows it."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


def masking() -> None:
    """Mask, rank, draw and restore, short and long."""
    for length, width in itertools.product((196, 1568, 4096, 65536), (16, 8, 4, 2, 1)):
        x = empty((2, length, 3 * width), "u1")
        for source in ({"seed": 1}, {"noise": empty((2, length), "f4")},
                       {"noise": empty((2, length), "f8")}):  # fmt: skip
            nbgather.random_masking(x, 0.75, **source)
            if width == 16:
                nbgather.random_masking(x, num_keep=[3, 9], **source)
                if "noise" in source:
                    nbgather.rank_tokens(source["noise"], 9)
    nbgather.rank_tokens(empty((1, 1 << 20), "f4"), 9)
    nbgather.rank_tokens(empty((64, 65536), "f4"), 9)
    nbgather.token_noise(1, empty((8,), "i8"), 196)
    for dtype, width in itertools.product(("f4", "f2", "f8"), (1, 2, 3, 768)):
        visible, ids = empty((8, 49, width), dtype), empty((8, 196), "i8")
        nbgather.restore_tokens(visible, ids, empty((width,), dtype))
        nbgather.restore_tokens(visible, ids, 0.0)


def strategies() -> None:
    """Grids of images, videos and spectrograms."""
    ids = empty((8,), "i8")
    for grid in ((14, 14), (8, 14, 14), (64, 64), (128, 128)):
        for name in ("random", "grid", "block", "tube", "time_frequency", "multiblock"):
            getattr(nbgather.strategies, name)(1, ids, grid)
        nbgather.strategies.stripes(1, ids, grid, ratios=(0.7, 0.3, 0.5)[: len(grid)])
        nbgather.strategies.multiblock_ids(1, ids, grid)


def patches() -> None:
    """Cut kept patches out of images, as they are and normalised."""
    affine = {"scale": 1 / 255, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    for dtype, size in itertools.product(PIXELS, PATCHES):
        images = empty((2, 3, 4 * size, 4 * size), dtype)
        nbgather.masked_patchify(images, size, 0.75, seed=1)
        if dtype != "f2":
            nbgather.masked_patchify(images, size, 0.75, seed=1, **affine)


def copies() -> None:
    """What is not contiguous is copied first, a gradient that is one number expanded too."""
    for size in (1, 2, 4, 8, 16):
        dtype = "c16" if size == 16 else f"u{size}"
        i = empty((8, 16, 64), "i8")
        for whole in (
            empty((8, 64, 32), dtype).transpose((0, 2, 1)),
            StubArray(empty((8, 32, 128), dtype).array[..., ::2]),
            StubArray(empty((9, 32, 66), dtype).array[1:, :, 1:65]),
            spread((1,), 8, 32, 64, dtype=dtype), spread((64,), 8, 32, 64, dtype=dtype),
        ):  # fmt: skip
            nbgather.scatter(whole, 1, i, empty((8, 16, 64), dtype))


def usual_calls() -> None:
    """Every call."""
    gather_elements()
    gather_rows()
    scatters()
    reductions()
    masking()
    strategies()
    patches()
    copies()
