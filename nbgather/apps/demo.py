"""The main job from end to end: mask a photo by kernels, ONNX and torch, and compare the bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbgather import figures, files
from nbgather.apps.photos import load_photo
from nbgather.apps.published import published_masking, published_restoring
from nbgather.indexing import gather, infer_gather
from nbgather.masking import random_masking, restore_tokens, token_noise
from nbgather.patches import patchify

__all__ = ["Comparison", "run_demo"]

#: Pixels of a patch's side.
PATCH_SIZE = 16
MODEL = "mae_masking.onnx"
PICTURE = "masking.png"
PEERS = ("torch", "onnxruntime")
#: What is spent on timing one call; the first call, which compiles, is not timed.
TIMING_SECONDS = 0.1


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
        As in :func:`nbgather.apps.photos.load_photo`.
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
    from nbgather import onnx

    folder = Path(out)
    photo = load_photo(image)
    patches = patchify(photo, PATCH_SIZE)
    noise = token_noise(seed, 1, patches.shape[1])

    model = onnx.masking_model(mask_ratio)
    path = files.write(folder / MODEL, model.SerializeToString(deterministic=True))
    session = onnx.Session(path)

    def by_kernels() -> tuple[np.ndarray, ...]:
        return tuple(random_masking(patches, mask_ratio, seed=seed))

    x_masked, mask, ids_restore = by_kernels()
    masking_rows = _compare(
        "random_masking",
        ["x_masked", "mask", "ids_restore"],
        by_kernels,
        {
            "torch": lambda: _paper_masking(patches, noise, x_masked.shape[1]),
            "onnxruntime": lambda: _by_names(
                session.run(x=patches, noise=noise), "x_masked", "mask", "ids_restore"
            ),
        },
    )
    token = _mask_token(x_masked)
    restore = onnx.Session(onnx.restore_model())
    restored_rows = _compare(
        "restore_tokens",
        ["restored"],
        lambda: (restore_tokens(x_masked, ids_restore, token),),
        {
            "torch": lambda: (_paper_restoring(x_masked, ids_restore, token),),
            "onnxruntime": lambda: _by_names(
                restore.run(x_visible=x_masked, ids_restore=ids_restore, mask_token=token), "x"
            ),
        },
    )
    restored = restore_tokens(x_masked, ids_restore, token)
    figure = figures.masking_figure(photo[0], x_masked[0], mask[0], restored[0], PATCH_SIZE)
    files.write(folder / PICTURE, figures.png_bytes(figure))
    return [*_worked_examples(), *masking_rows, *restored_rows]


def _by_names(outputs: Mapping[str, np.ndarray], *names: str) -> tuple[np.ndarray, ...]:
    return tuple(outputs[name] for name in names)


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

    source, target = torch.from_numpy(x), torch.from_numpy(output)
    equal = source.unsqueeze(1) == target.unsqueeze(2)
    return equal.to(torch.uint8).argmax(dim=2).numpy()


def _compare(
    call: str,
    names: Sequence[str],
    ours: Callable[[], tuple[np.ndarray, ...]],
    peers: dict[str, Callable[[], tuple[np.ndarray, ...]]],
) -> list[Comparison]:
    """Run a call and its peers, and compare each of the arrays they give."""
    results = ours()
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
        for k, (name, array) in enumerate(zip(names, results, strict=True))
    ]


def _equal_bytes(a: np.ndarray, b: np.ndarray) -> int:
    if a.shape != b.shape or a.dtype != b.dtype:
        return -1
    ours, theirs = (np.frombuffer(array.tobytes(), np.uint8) for array in (a, b))
    return int((ours == theirs).sum())


def _shortest(call: Callable[[], Any]) -> float:
    call()
    end, best = time.perf_counter() + TIMING_SECONDS, float("inf")
    while (begun := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - begun)
    return best


def _mask_token(x_masked: np.ndarray) -> np.ndarray:
    """A patch of the visible pixels' mean colour."""
    colour = x_masked.reshape(-1, 3).mean(0) if x_masked.size else np.full(3, 0.5)
    return np.tile(colour.astype(x_masked.dtype), x_masked.shape[2] // 3)


def _paper_masking(x: np.ndarray, noise: np.ndarray, num_keep: int) -> tuple[np.ndarray, ...]:
    """The paper's random_masking, on noise that all share."""
    import torch

    outputs = published_masking(
        torch.from_numpy(x), num_keep, noise=torch.from_numpy(noise), expand=True
    )
    return tuple(output.numpy() for output in outputs)


def _paper_restoring(x: np.ndarray, ids_restore: np.ndarray, token: np.ndarray) -> np.ndarray:
    import torch

    operands = (torch.from_numpy(array) for array in (x, ids_restore, token))
    restored: np.ndarray = published_restoring(*operands).numpy()
    return restored
