"""The collate function in every kind of worker, on every kind of picture; ranks that differ."""

from __future__ import annotations

import io
import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import nbgather
from nbgather import strategies
from nbgather.sending import SentPair
from nbgather.torch import MaskingCollate, RandomMasking, require_same_masks

OWN: dict[str, Any] = {"scale": 1 / 255, "mean": (0.1, 0.2, 0.3), "std": 0.5}
SIZES = [(16, 24), (24, 16), (8, 8), (16, 24)]


def pixels(number: int, side: tuple[int, int] = (16, 24)) -> np.ndarray:
    """An image `[H, W, C]`."""
    return np.random.default_rng(number).integers(0, 256, (*side, 3), np.uint8)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, kind: str = "tensor", count: int = 12) -> None:
        self.kind, self.count = kind, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[int, Any]:
        array = pixels(number)
        if self.kind == "tensor":
            return number, torch.from_numpy(array).permute(2, 0, 1)
        picture = PIL.Image.fromarray(array)
        if self.kind == "PIL":
            return number, picture
        file = io.BytesIO()
        picture.save(file, "PNG")
        return number, file.getvalue()


class SharedOrNot(MaskingCollate):
    """Tells beside the batch whether its patches were made in shared memory."""

    def __call__(self, samples: Any) -> Any:
        pair = super().__call__(samples)
        return *pair, isinstance(pair, SentPair) or pair[1].x_masked.is_shared()


def expected(numbers: Any, **options: Any) -> Any:
    batch = np.stack([pixels(n) for n in numbers]).transpose(0, 3, 1, 2)
    return nbgather.masked_patchify(batch, 8, 0.5, sample_ids=np.array(numbers), **OWN, **options)


def check(made: Any, want: Any) -> None:
    for mine, theirs in zip(made, want, strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
        assert np.asarray(mine).shape == np.asarray(theirs).shape


@pytest.mark.parametrize(
    ("method", "persistent"),
    [("fork", False), ("fork", True), ("spawn", True), ("forkserver", True)],
)
def test_in_every_kind_of_worker(method: str, persistent: bool) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no start method {method}")
    collate = SharedOrNot(8, 0.5, seed=3, **OWN)
    loader = DataLoader(
        Pictures("PIL" if method == "fork" else "tensor"), 5, shuffle=True, num_workers=1,
        collate_fn=collate, persistent_workers=persistent, multiprocessing_context=method,
    )  # fmt: skip
    for epoch in (0, 3):
        collate.epoch = epoch
        seen = []
        for ids, made, shared in loader:
            assert shared
            assert type(made) is nbgather.MaskedTokens  # and none of its tensors was copied apart
            seen += ids.tolist()
            check(made, expected(ids.tolist(), seed=3, epoch=epoch))
        assert sorted(seen) == list(range(12))


def test_pinned_memory_gets_the_named_tuple() -> None:
    # Without a GPU torch pins nothing, but it walks the batch.
    made = MaskingCollate(8, 0.5, packed=True)([Pictures()[0]])
    pinned = torch.utils.data._utils.pin_memory.pin_memory
    if torch.cuda.is_available():
        assert type(pinned(made)[1]) is nbgather.PackedTokens
    ids, packed = torch.utils.data._utils.collate.default_convert(made)
    assert type(packed) is nbgather.PackedTokens
    assert ids.tolist() == [0]


@pytest.mark.parametrize("kind", ["tensor", "PIL", "bytes", "array", "last", "grey", "palette"])
def test_every_kind_of_picture(kind: str) -> None:
    collate = MaskingCollate(8, 0.5, seed=3, **(OWN if kind != "grey" else {"scale": 0.5}),
                             channels="last" if kind in ("array", "last") else "first")  # fmt: skip
    numbers = [4, 7, 2]
    if kind in ("tensor", "PIL", "bytes"):
        samples = [Pictures(kind)[n] for n in numbers]
    elif kind == "array":
        samples = [(n, pixels(n)) for n in numbers]
    elif kind == "last":
        samples = [(n, torch.from_numpy(pixels(n))) for n in numbers]
    else:
        mode = {"grey": "L", "palette": "P"}[kind]
        samples = [(n, PIL.Image.fromarray(pixels(n)).convert(mode)) for n in numbers]
    ids, made = collate(samples)
    assert (ids.tolist(), ids.dtype) == (numbers, torch.int64)
    if kind in ("grey", "palette"):
        mode = "L" if kind == "grey" else "RGB"
        batch = np.stack([np.asarray(p.convert(mode)) for _, p in samples])
        batch = batch.reshape(3, 16, 24, -1)
        own = OWN if kind == "palette" else {"scale": 0.5}
        want = nbgather.masked_patchify(
            batch, 8, 0.5, seed=3, sample_ids=ids.numpy(), channels="last", **own
        )
    else:
        want = expected(numbers, seed=3)
    check(made, want)


@pytest.mark.parametrize("strategy", ["random", "block"])
def test_packed_batches(strategy: str) -> None:
    collate = MaskingCollate(8, 0.5, seed=3, strategy=strategy, packed=True, **OWN)
    _, made = collate([Pictures()[n] for n in (4, 7)])
    choice: Any = {"seed": 3}
    if strategy == "block":
        choice = {"noise": strategies.block(3, np.array([4, 7]), (2, 3))}
    batch = np.stack([pixels(n) for n in (4, 7)]).transpose(0, 3, 1, 2)
    if strategy == "random":
        choice["sample_ids"] = [4, 7]
    want = nbgather.masked_patchify(batch, 8, 0.5, packed=True, **choice, **OWN)
    assert type(made) is nbgather.PackedTokens
    check(made, want)
    several = [(n, torch.from_numpy(pixels(n, s)).permute(2, 0, 1)) for n, s in enumerate(SIZES)]
    _, made = collate(several)
    assert type(made) is nbgather.PackedImages
    for n, (number, image) in enumerate(several):
        _, one = collate([(number, image)])
        rows = slice(*made.cu_seqlens[n : n + 2])
        assert torch.equal(made.x_masked[rows], one.x_masked)
        places = slice(*made.cu_tokens[n : n + 2])
        assert torch.equal(made.mask[places], one.mask[0])
    with pytest.raises(ValueError, match="samples have images of 3 shapes"):
        MaskingCollate(8, 0.5, seed=3)(several)


@pytest.mark.parametrize(
    ("samples", "kind", "text"),
    [
        ([(0, b"no picture")], ValueError, "the bytes of samples[0] are no picture"),
        ([(0, np.zeros((4, 4)))], ValueError, "the image of samples[0] has shape (4, 4)"),
        ([(0, np.zeros((3, 9, 8), np.uint8))], ValueError, "sides (9, 8) cannot be cut"),
        ([], ValueError, "samples is empty: at least one sample is needed"),
        ([(0, np.zeros((3, 8, 8))), (1,)], TypeError, "samples must be pairs"),
        ([("a", np.zeros((3, 8, 8)))], TypeError, "the id of samples[0] is 'a' of type str"),
        ([(1.5, np.zeros((3, 8, 8)))], TypeError, "the id of samples[0] is 1.5 of type float"),
        ([(2**63, np.zeros((3, 8, 8)))], ValueError, "the id of samples[0] is 9223372036854775808"),
        (
            [(0, np.zeros((3, 8, 8))), (1, np.zeros((3, 8, 8), np.uint8))],
            TypeError,
            "images[1] has dtype torch.uint8 and images[0] torch.float64: one is needed",
        ),
        ([5], TypeError, "samples must be pairs"),
    ],
)
def test_refusals(samples: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as raised:
        MaskingCollate(8, 0.5)(samples)
    assert text in str(raised.value)


@pytest.mark.parametrize("part", [1, 2500, 1 << 20])
def test_images_are_brought_together_in_parts(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbgather.loading.PART_BYTES", part)
    numbers = [4, 7, 2, 9, 1]
    collate = MaskingCollate(8, 0.5, seed=3, channels="last", **OWN)
    _, made = collate([(n, pixels(n)) for n in numbers])
    check(made, expected(numbers, seed=3))
    clips = [torch.from_numpy(np.stack([pixels(n), pixels(n + 50)])) for n in numbers]
    _, made = MaskingCollate((1, 8, 8), 0.5, seed=3, channels="last")(list(zip(numbers, clips)))
    want = nbgather.masked_patchify(
        torch.stack(clips), (1, 8, 8), 0.5, seed=3, sample_ids=numbers, channels="last"
    )
    check(made, want)


@pytest.mark.parametrize("kind", ["bfloat16", "conjugate"])
def test_images_that_numpy_does_not_have(kind: str) -> None:
    whole = torch.arange(384.0).reshape(2, 3, 8, 8)
    images = whole.bfloat16() if kind == "bfloat16" else torch.complex(whole, whole).conj()
    _, made = MaskingCollate(4, 0.5, seed=3)(list(enumerate(images)))
    want = nbgather.masked_patchify(images.resolve_conj(), 4, 0.5, seed=3)
    assert made.x_masked.dtype == images.dtype
    assert all(map(torch.equal, made, want))


def test_ids_may_repeat_and_be_of_any_kind_of_number() -> None:
    """As a sampler has it that fills up the last batch: the same id, the same mask."""
    image = pixels(3)
    numbers = (4, np.uint16(4), torch.tensor(4), 9)
    collate = MaskingCollate(8, 0.5, seed=3, channels="last")
    ids, made = collate([(number, image) for number in numbers])
    assert ids.tolist() == [4, 4, 4, 9]
    for part in made:
        assert torch.equal(part[0], part[1])
        assert torch.equal(part[0], part[2])
    assert not torch.equal(made.ids_restore[0], made.ids_restore[3])


# Ranks


def ask(rank: int, meeting: str, answers: Any) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=3,
        timeout=timedelta(seconds=100),
    )  # fmt: skip
    found = []
    for masking in (
        MaskingCollate(16, seed=3),
        RandomMasking(seed=4),
        MaskingCollate(16, seed=3 if rank != 2 else 8),
        RandomMasking(0.5 if rank else 0.75),
    ):
        try:
            require_same_masks(masking)
            found.append("")
        except ValueError as error:
            found.append(str(error))
    answers.put(found)
    dist.barrier()


def test_ranks_that_mask_apart_are_told_on_every_rank(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = str(tmp_path / "meeting"), answers
    ranks = [context.Process(target=ask, args=(rank, *arguments)) for rank in range(3)]
    for process in ranks:
        process.start()
    found = [answers.get(timeout=200) for _ in ranks]
    for process in ranks:
        process.join(100)
        assert process.exitcode == 0
    want = [
        "",
        "",
        "ranks mask apart: seed is 3 on rank 0 of the group and 8 on rank 2",
        "ranks mask apart: mask_ratio is 0.75 on rank 0 of the group and 0.5 on rank 1",
    ]
    assert found == [want] * 3


def test_a_group_is_needed() -> None:
    with pytest.raises(RuntimeError, match="no process group was made"):
        require_same_masks(MaskingCollate(4))
