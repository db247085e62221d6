"""The main job from end to end: mask a photo by kernels, ONNX and torch, and compare the bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbgather import files
from nbgather.indexing import gather, infer_gather
from nbgather.masking import random_masking, restore_tokens, token_noise
from nbgather.patches import patchify

__all__ = ["Comparison", "load_frames", "load_photo", "run_demo"]

IMAGE_SIZE = 224
PATCH_SIZE = 16
MODEL = "mae_masking.onnx"
PICTURE = "masking.png"
PEERS = ("torch", "onnxruntime")
#: Seconds to spend on timing one call; the first call, which compiles, is not timed.
BUDGET = 0.1


class Comparison(NamedTuple):
    """One array as nbgather, torch and onnxruntime gave it.

    Attributes
    ----------
    name, call : str
        The array, and the call that gave it.
    shape : tuple of int
    dtype : str
    nbytes : int
        Bytes of the array by nbgather.
    equal : dict of str to int
        For each peer, how many of those bytes it gave too; -1 if shape or dtype differ.
    seconds : dict of str to float
        For each way the shortest time of the call; empty where the call gave an earlier array too.
    """

    name: str
    call: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    equal: dict[str, int]
    seconds: dict[str, float]

    @property
    def same(self) -> bool:
        """Whether every peer gave the same bytes."""
        return all(count == self.nbytes for count in self.equal.values())


def load_photo(path: str | os.PathLike[str] | None = None, size: int = IMAGE_SIZE) -> np.ndarray:
    """Read a photo, cut its middle square out, and resize it.

    Parameters
    ----------
    path : path, optional
        PNG, JPEG or whatever else Pillow reads; by default the photo among matplotlib's samples.
    size : int
        Pixels of each side of the result.

    Returns
    -------
    array of float32, shape [1, 3, size, size]
        Values 0 to 1.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not an image that Pillow reads.

    Examples
    --------
    >>> from nbgather.apps.demo import load_photo
    >>> load_photo(size=32).shape
    (1, 3, 32, 32)
    """
    return load_frames(path, size)[:, :, 0]


def load_frames(path: str | os.PathLike[str] | None = None, size: int = IMAGE_SIZE) -> np.ndarray:
    """Read all the frames of a picture: one of a photo, several of an animated GIF.

    Parameters
    ----------
    path, size
        As in :func:`load_photo`.

    Returns
    -------
    array of float32, shape [1, 3, T, size, size]
        Values 0 to 1.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`load_photo`.

    Examples
    --------
    >>> from nbgather.apps.demo import load_frames
    >>> load_frames(size=32).shape
    (1, 3, 1, 32, 32)
    """
    from PIL import Image, ImageOps, ImageSequence

    if path is None:
        from matplotlib import cbook

        path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"there is no file {source}")
    frames = []
    try:
        with Image.open(source) as opened:
            for frame in ImageSequence.Iterator(opened):
                photo = ImageOps.exif_transpose(frame).convert("RGB")
                square = ImageOps.fit(photo, (size, size), Image.Resampling.BICUBIC)
                frames.append(np.asarray(square, np.float32) / np.float32(255))
    except Exception as error:  # Pillow's readers raise what they please on a broken file
        raise ValueError(f"{source} cannot be read as an image: {error}") from error
    return np.ascontiguousarray(np.stack(frames).transpose(3, 0, 1, 2))[None]


def run_demo(
    image: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "nbgather_demo",
    *,
    seed: int = 0,
    mask_ratio: float = 0.75,
) -> list[Comparison]:
    """Mask a photo by the CPU kernels, by ONNX and by torch, and compare every byte.

    Writes the exported model and a picture to ``out``.

    Parameters
    ----------
    image : path, optional
        As in :func:`load_photo`.
    out : path
        The folder to write to.
    seed : int
        Of the mask.
    mask_ratio : float
        The part of the patches to remove.

    Returns
    -------
    list of Comparison

    Raises
    ------
    ValueError, OSError
        A ratio or seed out of range; an image that cannot be read; a folder that cannot be
        written.

    Examples
    --------
    >>> import tempfile
    >>> from nbgather.apps.demo import run_demo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     all(comparison.same for comparison in run_demo(out=folder))
    True
    """
    from nbgather import figures, onnx

    folder = Path(out)
    photo = load_photo(image)
    patches = patchify(photo, PATCH_SIZE)
    noise = token_noise(seed, 1, patches.shape[1])

    model = onnx.masking_model(mask_ratio)
    path = files.write(folder / MODEL, model.SerializeToString(deterministic=True))
    session = onnx.Session(path)

    def by_kernels() -> tuple[np.ndarray, ...]:
        return tuple(random_masking(patches, mask_ratio, seed=seed))

    def by_onnx() -> tuple[np.ndarray, ...]:
        given = session.run(x=patches, noise=noise)
        return given["x_masked"], given["mask"], given["ids_restore"]

    def by_torch() -> tuple[np.ndarray, ...]:
        return _paper_masking(patches, noise, mask_ratio)

    masking_rows = _compare(
        "random_masking",
        ["x_masked", "mask", "ids_restore"],
        by_kernels,
        {"torch": by_torch, "onnxruntime": by_onnx},
    )
    x_masked, mask, ids_restore = by_kernels()
    token = _mask_token(x_masked)
    restore = onnx.Session(onnx.restore_model())
    restored_rows = _compare(
        "restore_tokens",
        ["restored"],
        lambda: (restore_tokens(x_masked, ids_restore, token),),
        {
            "torch": lambda: (_paper_restore(x_masked, ids_restore, token),),
            "onnxruntime": lambda: (
                restore.run(x_visible=x_masked, ids_restore=ids_restore, mask_token=token)["x"],
            ),
        },
    )
    restored = restore_tokens(x_masked, ids_restore, token)
    figure = figures.masking_figure(photo[0], x_masked[0], mask[0], restored[0], PATCH_SIZE)
    files.write(folder / PICTURE, figures.png_bytes(figure))
    return [*_worked_examples(), *masking_rows, *restored_rows]


def _worked_examples() -> list[Comparison]:
    """Gathers small enough to do by hand, and the inverse of one of them."""
    import torch

    from nbgather import onnx

    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    indices = (
        np.array([[[1, 0, 1, 0]] * 3]),
        np.array([[[0] * 4, [2] * 4]] * 2),
        np.array([[[3, 0], [2, 2], [1, 3]]] * 2),
    )

    def gather_rows(dim: int, index: np.ndarray) -> list[Comparison]:
        session = onnx.Session(onnx.gather_model(dim))
        tensors = torch.from_numpy(x), torch.from_numpy(index)
        return _compare(
            f"gather, dim {dim}",
            [f"gather, dim {dim}"],
            lambda: (gather(x, dim, index),),
            {
                "torch": lambda: (torch.gather(tensors[0], dim, tensors[1]).numpy(),),
                "onnxruntime": lambda: (session.run(data=x, indices=index)["output"],),
            },
        )

    rows = [row for dim, index in enumerate(indices) for row in gather_rows(dim, index)]
    output = gather(x, 1, indices[1])
    return rows + _compare(
        "infer_gather",
        ["infer_gather, dim 1"],
        lambda: tuple(solution.index for solution in infer_gather(x, output)),
        {"torch": lambda: (_search_dim1(x, output),)},
    )


def _search_dim1(x: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The lowest index along dim 1 of a 3-d input, by comparing everything with everything."""
    import torch

    source, wanted = torch.from_numpy(x), torch.from_numpy(output)
    found = source.unsqueeze(1) == wanted.unsqueeze(2)
    return found.to(torch.uint8).argmax(dim=2).numpy()


def _compare(
    call: str,
    names: Sequence[str],
    ours: Callable[[], tuple[np.ndarray, ...]],
    peers: dict[str, Callable[[], tuple[np.ndarray, ...]]],
) -> list[Comparison]:
    """Run a call and its peers, and compare each of the arrays they give."""
    given = ours()
    by_peer = {peer: run() for peer, run in peers.items()}
    seconds = {"nbgather": _shortest(ours)} | {peer: _shortest(run) for peer, run in peers.items()}
    return [
        Comparison(
            name,
            call,
            array.shape,
            array.dtype.name,
            array.nbytes,
            {peer: _equal_bytes(array, arrays[k]) for peer, arrays in by_peer.items()},
            seconds if k == 0 else {},
        )
        for k, (name, array) in enumerate(zip(names, given, strict=True))
    ]


def _equal_bytes(a: np.ndarray, b: np.ndarray) -> int:
    if a.shape != b.shape or a.dtype != b.dtype:
        return -1
    ours, theirs = (np.frombuffer(array.tobytes(), np.uint8) for array in (a, b))
    return int((ours == theirs).sum())


def _shortest(call: Callable[[], Any]) -> float:
    call()
    end, best = time.perf_counter() + BUDGET, float("inf")
    while (begun := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - begun)
    return best


def _mask_token(x_masked: np.ndarray) -> np.ndarray:
    """A patch of the visible pixels' mean colour."""
    colour = x_masked.reshape(-1, 3).mean(0) if x_masked.size else np.full(3, 0.5)
    return np.tile(colour.astype(x_masked.dtype), x_masked.shape[2] // 3)


def _paper_masking(x: np.ndarray, noise: np.ndarray, mask_ratio: float) -> tuple[np.ndarray, ...]:
    """The paper's random_masking, on given noise and with a stable sort."""
    import torch

    tokens, scores = torch.from_numpy(x), torch.from_numpy(noise)
    n, length, width = tokens.shape
    keep = int(length * (1 - mask_ratio))
    ids_shuffle = torch.argsort(scores, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep = ids_shuffle[:, :keep]
    x_masked = torch.gather(tokens, 1, ids_keep.unsqueeze(-1).expand(-1, -1, width))
    mask = torch.ones([n, length])
    mask[:, :keep] = 0
    mask = torch.gather(mask, 1, ids_restore)
    return x_masked.numpy(), mask.numpy(), ids_restore.numpy()


def _paper_restore(x: np.ndarray, ids_restore: np.ndarray, token: np.ndarray) -> np.ndarray:
    """The decoder's unshuffle as the paper's code has it."""
    import torch

    visible, ids = torch.from_numpy(x), torch.from_numpy(ids_restore)
    missing = ids.shape[1] - visible.shape[1]
    tokens = torch.from_numpy(token).expand(visible.shape[0], missing, -1)
    joined = torch.cat([visible, tokens], dim=1)
    return torch.gather(joined, 1, ids.unsqueeze(-1).expand(-1, -1, visible.shape[2])).numpy()
