"""What data loaders of torch call: a collate function, and a check that all ranks mask alike."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from nbgather import dispatch, sending, strategies
from nbgather.operations import checks, keep
from nbgather.operations import patches as patch_rules
from nbgather.operations.base import FLOAT32
from nbgather.operations.patches import CutPatches
from nbgather.operations.tokens import ChooseTokens, RankTokens
from nbgather.patches import masked_patchify
from nbgather.results import MaskedTokens, PackedImages, PackedTokens, PaddedTokens

__all__ = ["MaskingCollate", "require_same_masks"]

Strategy = Callable[..., Any]
Masked = (
    MaskedTokens[torch.Tensor] | PaddedTokens[torch.Tensor] | PackedTokens[torch.Tensor]
    | PackedImages[torch.Tensor]
)  # fmt: skip


def strategy_of(name: str | Strategy) -> Strategy | None:
    """A strategy by name or as it is; None for the random one, which needs no scores."""
    if callable(name):
        return name
    if name not in strategies.__all__:
        known = ", ".join(map(repr, strategies.__all__))
        raise ValueError(f"strategy is {name!r}: it must be one of {known}, or a callable")
    return None if name == "random" else getattr(strategies, name)


#: Bytes of images that are brought together at a time: they stay in a cache until they are cut.
PART_BYTES = 5 << 19


class MaskingCollate:
    """A ``collate_fn`` that turns images into visible patches, in the loader's workers.

    In a worker the patches are written into the shared memory that they are sent by, which on Linux
    is used again when the batch is no longer referenced.

    Parameters
    ----------
    patch_size : int or sequence of int
        As in :func:`nbgather.patchify`.
    mask_ratio : float
        The part to remove, 0 to 1.
    strategy : str or callable
        As in :class:`nbgather.torch.RandomMasking`; the grid follows from the images.
    seed : int
        64 bits, signed or unsigned.
    scale, mean, std : float or sequence of float, optional
        As in :func:`nbgather.masked_patchify`.
    channels : {"first", "last"}
        Where the channels of arrays are; those of pictures come last.
    packed : bool
        Give packed patches: images may then be of different sizes.

    Attributes
    ----------
    epoch : int
        Set it before each epoch; workers that persist see it too.

    Raises
    ------
    TypeError, ValueError
        An argument out of range or of the wrong kind.

    Examples
    --------
    >>> import torch
    >>> from nbgather.torch import MaskingCollate
    >>> collate = MaskingCollate(16, 0.75, seed=3, scale=1 / 255)
    >>> images = [(k, torch.zeros(3, 32, 32, dtype=torch.uint8)) for k in (7, 4)]
    >>> ids, (patches, mask, ids_restore) = collate(images)
    >>> ids.tolist(), patches.shape, patches.dtype
    ([7, 4], torch.Size([2, 1, 768]), torch.float32)
    """

    def __init__(
        self,
        patch_size: int | Sequence[int],
        mask_ratio: float = 0.75,
        *,
        strategy: str | Strategy = "random",
        seed: int = 0,
        scale: float | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        channels: Literal["first", "last"] = "first",
        packed: bool = False,
    ) -> None:
        keep.ratio(mask_ratio)
        checks.bits64(seed, "seed")
        self.patch_size, self.mask_ratio, self.seed = patch_size, mask_ratio, seed
        self.strategy = strategy
        self.channels = patch_rules.checked_channels(channels)
        self.packed = checks.flag(packed, "packed")
        self._score = strategy_of(strategy)
        self._affine: dict[str, Any] = {"scale": scale, "mean": mean, "std": std}
        self._epoch = torch.tensor(0).share_memory_()
        self._name = uuid.uuid4().hex
        self._inbox = sending.Inbox.named(self._name)
        self._sender: sending.Sender | None = None
        #: Memory that images are stacked in, which is kept: to get it anew takes longer than that.
        self._rooms: list[torch.Tensor] = []

    @property
    def epoch(self) -> int:
        """The epoch, the same in this process and in every worker."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(checks.epoch(value))

    def __call__(self, samples: Sequence[tuple[int, Any]]) -> tuple[torch.Tensor, Any]:
        """Collate ``(sample id, image)`` pairs.

        Parameters
        ----------
        samples : sequence of (int, Tensor, array, PIL image or bytes)
            Images `[C, H, W]` or `[C, T, H, W]`, of one shape unless they are packed; with
            ``channels="last"`` `[H, W, C]` or `[T, H, W, C]`. A picture of PIL, or the bytes of a
            file that PIL reads, is RGB or, where it is grey, has one channel.

        Returns
        -------
        sample_ids : Tensor of int64, shape [N]
        result : MaskedTokens, PackedTokens or PackedImages
            As :func:`nbgather.masked_patchify`.

        Raises
        ------
        TypeError, ValueError
            As :func:`nbgather.masked_patchify`; samples that are no such pairs, or none.
        """
        if not len(samples):
            raise ValueError("samples is empty: at least one sample is needed")
        try:
            numbers, images = zip(*samples, strict=True)
        except (TypeError, ValueError):
            raise TypeError("samples must be pairs of a sample id and an image") from None
        ids = _ids(numbers)
        pixels = [self._pixels(image, n) for n, image in enumerate(images)]
        shapes = {tuple(p.shape) for p in pixels}
        if len(shapes) > 1 and not self.packed:
            raise ValueError(
                f"samples have images of {len(shapes)} shapes, {sorted(shapes)[:2]} among them: one"
                " is needed, or packed=True"
            )
        if len(shapes) > 1 or len({p.dtype for p in pixels}) > 1:
            return self._posted(ids, self._of_sizes(pixels, ids))
        return self._alike(pixels, ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rooms": [], "_sender": None, "_inbox": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _inbox=sending.Inbox.named(state["_name"]))

    def _parcel(self, *tensors: tuple[tuple[int, ...], torch.dtype]) -> sending.Parcel | None:
        """In a worker of a loader, shared memory for tensors of these shapes and dtypes."""
        if torch.utils.data.get_worker_info() is None:
            return None
        if self._sender is None or self._sender.pid != os.getpid():
            self._sender = sending.Sender(self._name)
            self._inbox.blocks.clear()  # of the process that this one was forked from
        return self._sender.parcel(sending.size_of(*tensors))

    def _posted(self, ids: torch.Tensor, result: Any) -> tuple[torch.Tensor, Any]:
        """Ids and result, in shared memory where they are to be sent."""
        tensors = [t for t in (ids, *result) if isinstance(t, torch.Tensor)]
        parcel = self._parcel(*((tuple(t.shape), t.dtype) for t in tensors))
        return (ids, result) if parcel is None else parcel.pair(ids, result)

    def _pixels(self, image: Any, n: int) -> torch.Tensor:
        """An image as a tensor, channels first."""
        last = self.channels == "last"
        if isinstance(image, (bytes, bytearray, memoryview)):
            image = _decoded(image, n)
        if type(image).__module__.partition(".")[0] == "PIL":
            image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
            image, last = (image[..., None] if image.ndim == 2 else image), True
        if not isinstance(image, torch.Tensor):
            array = np.asarray(image)
            image = torch.from_numpy(array if array.flags.writeable else array.copy())
        if image.ndim not in (3, 4):
            raise ValueError(
                f"the image of samples[{n}] has shape {tuple(image.shape)}: 3 dimensions are"
                " needed, or 4 of a clip"
            )
        return image.movedim(-1, 0) if last else image

    def _of_sizes(self, pixels: list[torch.Tensor], ids: torch.Tensor) -> Any:
        choice: dict[str, Any] = {"seed": self.seed, "sample_ids": ids, "epoch": self.epoch}
        if self._score is not None:
            choice = {"noise": [
                self._score(self.seed, ids[n : n + 1], self._grid(p)[1], epoch=self.epoch)[0]
                for n, p in enumerate(pixels)
            ]}  # fmt: skip
        return masked_patchify(
            pixels, self.patch_size, self.mask_ratio, packed=True, **choice, **self._affine
        )

    def _grid(self, pixels: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The patch size, and the number of patches along each side."""
        shape = (1, *pixels.shape)
        sizes = patch_rules.patch_size(self.patch_size, shape)
        return sizes, patch_rules.image_grid(shape, sizes)

    def _alike(self, pixels: list[torch.Tensor], ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Images of one shape and dtype."""
        samples, first = len(pixels), pixels[0]
        sizes, grid = self._grid(first)
        length, epoch = int(np.prod(grid)), self.epoch
        kept = keep.Keep(ratio=float(self.mask_ratio))
        if self._score is None:
            key = checks.bits64(self.seed, "seed")
            ranked = dispatch.execute(ChooseTokens(kept, key, epoch, length), ids, ids)
        else:
            scores = self._score(self.seed, ids, grid, epoch=epoch)
            ranked = dispatch.execute(RankTokens(kept), scores)
        ids_keep, ids_restore, mask = ranked
        affine = patch_rules.affine(**self._affine, channels=first.shape[0])
        cut, number = CutPatches(sizes, affine), kept.of(length)
        dtype = first.dtype if affine is None else torch.float32
        width = first.shape[0] * int(np.prod(sizes))
        shape = samples, number, width
        ends = torch.arange(samples + 1, dtype=torch.int32) * number
        small = ids, mask, ids_restore, *((ends,) if self.packed else ())
        parcel = self._parcel((shape, dtype), *((tuple(t.shape), t.dtype) for t in small))
        out = _shared(shape, dtype) if parcel is None else parcel.empty(shape, dtype)
        if out is None:
            kind = None if affine is None else FLOAT32
            out = dispatch.container_of(first, "samples[0]").empty(shape, first, kind)
        room = self._rooms.pop() if self._rooms else None
        part = max(PART_BYTES // max(first.nbytes, 1), 1)
        for n in range(0, samples, part):
            some = slice(n, n + part)
            batch, room = _stacked(pixels[some], room)
            dispatch.execute(cut, batch, ids_keep[some], ids_restore[some], out=out[some])
        self._rooms.append(room)
        result: Any = MaskedTokens(out, mask, ids_restore)
        if self.packed:
            rows = out.reshape(samples * number, width)
            result = PackedTokens(rows, mask, ids_restore, ends, number)
        return (ids, result) if parcel is None else parcel.pair(ids, result)


def _stacked(
    pixels: list[torch.Tensor], room: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in one array `[N, C, ...]`, in their own order in memory; and the memory it is in."""
    plain = [p.detach() for p in pixels]
    last = all(p.stride(0) == 1 and p.movedim(0, -1).is_contiguous() for p in plain)
    if last and plain[0].shape[0] > 1:
        plain = [p.movedim(0, -1) for p in plain]
    else:
        last = False
    nbytes = len(plain) * plain[0].numel() * plain[0].itemsize
    if room is None or room.numel() < nbytes:
        room = torch.empty(nbytes, dtype=torch.uint8)
    batch = room[:nbytes].view(plain[0].dtype).reshape(len(plain), *plain[0].shape)
    # Not by torch, whose threads would be those of OpenMP, and ours wait for their cores.
    try:
        np.stack([p.numpy() for p in plain], out=batch.numpy())
    except (RuntimeError, TypeError):  # a dtype or a view that NumPy does not have
        torch.stack(plain, out=batch)
    return (batch.movedim(-1, 1) if last else batch), room


def _ids(numbers: Sequence[Any]) -> torch.Tensor:
    """Sample ids, each a whole number of 64 bits."""
    ids = [checks.integer(number, f"the id of samples[{n}]") for n, number in enumerate(numbers)]
    for n, number in enumerate(ids):
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"the id of samples[{n}] is {number}: it must fit in 64 bits")
    return torch.tensor(ids)


def _decoded(data: Any, n: int) -> Any:
    """The picture of a file's bytes."""
    import PIL.Image

    try:
        picture = PIL.Image.open(io.BytesIO(data))
        picture.load()
    except (PIL.UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the bytes of samples[{n}] are no picture: {error}") from None
    return picture


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
    """In a worker of a loader a tensor in the shared memory that torch will send it by."""
    if torch.utils.data.get_worker_info() is None:
        return None
    # As torch's own collate function has it.
    nbytes = int(np.prod(shape)) * dtype.itemsize
    storage = torch.UntypedStorage._new_shared(nbytes, device="cpu")
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)


def require_same_masks(masking: Any, group: Any = None) -> None:
    """Refuse to go on where the ranks of a group would mask apart: a checksum over the group.

    Every rank of the group must call it, after ``torch.distributed.init_process_group``; best once
    an epoch.

    Parameters
    ----------
    masking : MaskingCollate or RandomMasking
        What this rank masks by.
    group : ProcessGroup, optional
        All ranks by default.

    Raises
    ------
    ValueError
        On every rank, if one has another seed, epoch, ratio, patch size or strategy than the first.
    RuntimeError
        No process group was made.

    Examples
    --------
    >>> from nbgather.torch import MaskingCollate, require_same_masks
    >>> import torch.distributed as dist
    >>> if dist.is_available() and dist.is_initialized():
    ...     require_same_masks(MaskingCollate(16, seed=3))
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise RuntimeError(
            "no process group was made: call torch.distributed.init_process_group before"
        )
    own = {
        name: _shown(getattr(masking, name))
        for name in ("seed", "epoch", "mask_ratio", "num_keep", "strategy", "patch_size", "grid")
        if hasattr(masking, name)
    }
    every: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(every, own, group=group)
    for rank, other in enumerate(every):
        for name in {**every[0], **other}:
            if every[0].get(name) != other.get(name):
                raise ValueError(
                    f"ranks mask apart: {name} is {every[0].get(name)} on rank 0 of the group and"
                    f" {other.get(name)} on rank {rank}"
                )


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        value = int(value)
    return getattr(value, "__qualname__", None) or repr(value)
