"""Chunked images to patches and back, a chunk of samples at a time."""

from __future__ import annotations

from typing import Any

from nbgather.containers.dask import patch_graph, sides
from nbgather.operations.patches import Patchify, Unpatchify
from nbgather.operations.patches import image_size as sides_of
from nbgather.operations.patches import patch_size as sizes_of


def patchify(images: Any, patch_size: Any) -> Any:
    """Cut chunked images or video into patches; :func:`nbgather.patchify`.

    Parameters
    ----------
    images : dask.array.Array, shape [N, C, H, W] or [N, C, T, H, W]
        Chunked in any way; unknown chunk sizes along N are taken too. What is chunked off N is
        brought into one chunk.
    patch_size : int or sequence of int
        As in :func:`nbgather.patchify`.

    Returns
    -------
    dask.array.Array, shape [N, L, prod(patch_size) * C]
        Chunked over N as ``images`` is.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.patchify`, when the graph is built; unknown chunk sizes off N.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbgather.dask import patchify
    >>> images = da.zeros((4, 3, 32, 32), chunks=(2, 1, 16, 16), dtype="uint8")
    >>> patches = patchify(images, 8)
    >>> patches.shape, patches.chunks[0], patches.dtype
    ((4, 16, 192), (2, 2), dtype('uint8'))
    """
    images = sides.chunked(images, "images")
    return patch_graph.patchify(Patchify(sizes_of(patch_size, tuple(images.shape))), images)


def unpatchify(patches: Any, patch_size: Any, image_size: Any) -> Any:
    """Put chunked patches together again; :func:`nbgather.unpatchify`.

    Parameters
    ----------
    patches : dask.array.Array, shape [N, L, prod(patch_size) * C]
        Chunked in any way; unknown chunk sizes along N are taken too. What is chunked off N is
        brought into one chunk.
    patch_size, image_size : int or sequence of int
        As in :func:`nbgather.unpatchify`.

    Returns
    -------
    dask.array.Array, shape [N, C, H, W] or [N, C, T, H, W]
        Chunked over N as ``patches`` is.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.unpatchify`, when the graph is built; unknown chunk sizes off N.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbgather.dask import patchify, unpatchify
    >>> images = da.arange(96, chunks=96).reshape(2, 3, 4, 4).rechunk((1, 2, 4, 3))
    >>> bool((unpatchify(patchify(images, 2), 2, 4) == images).all().compute())
    True
    """
    shape = sides_of(image_size)
    operation = Unpatchify(sizes_of(patch_size, (0, 0, *shape)), shape)
    return patch_graph.unpatchify(operation, sides.chunked(patches, "patches"))
