"""A small masked autoencoder on scikit-learn's handwritten digits, on the CPU, in a minute.

It trains, checks that the loss falls, that a run which stops and resumes from its checkpoint ends
with the same weights as one that does not, and that the number of loader workers does not matter;
then it draws what it makes of digits it has never seen.

    python examples/train_mae.py --out digits.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import nbgather
from nbgather.torch import RandomMasking

SIDE, PATCH, WIDTH = 8, 2, 64
GRID = (SIDE // PATCH, SIDE // PATCH)
TOKENS, PIXELS = GRID[0] * GRID[1], PATCH * PATCH
HELD_OUT = 197


class Digits(Dataset):
    """1,600 digits to train on; a sample comes with its id."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        return number, self.images[number]


def blocks(depth: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        WIDTH, 4, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class Autoencoder(nn.Module):
    """Encode the visible patches, put them back among mask tokens, and predict the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PIXELS, WIDTH)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.1)
        self.masking = RandomMasking(0.5, seed=1)
        self.encoder, self.decoder = blocks(3), blocks(2)
        self.mask_token = nn.Parameter(torch.zeros(WIDTH))
        self.predict = nn.Linear(WIDTH, PIXELS)

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The loss on removed patches, the prediction, and the mask."""
        patches = nbgather.patchify(images, PATCH)
        visible, mask, ids_restore = self.masking(self.embed(patches) + self.position, ids)
        whole = nbgather.restore_tokens(self.encoder(visible), ids_restore, self.mask_token)
        predicted = self.predict(self.decoder(whole + self.position))
        error = ((predicted - patches) ** 2).mean(2)
        return (error * mask).sum() / mask.sum(), predicted, mask


def train(
    images: torch.Tensor, epochs: int, workers: int = 0, checkpoint: dict | None = None
) -> tuple[Autoencoder, list[float], dict]:
    """Train up to an epoch, from a checkpoint if there is one."""
    torch.manual_seed(0)
    model = Autoencoder()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    begun = 0
    if checkpoint is not None:
        model.load_state_dict(checkpoint["model"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        begun = int(model.masking.epoch) + 1
    losses = []
    for epoch in range(begun, epochs):
        model.masking.set_epoch(epoch)
        order = torch.Generator().manual_seed(epoch)
        total = 0.0
        loader = DataLoader(Digits(images), 64, shuffle=True, generator=order, num_workers=workers)
        for ids, batch in loader:
            optimiser.zero_grad()
            loss, _, _ = model(batch, ids)
            loss.backward()
            optimiser.step()
            total += loss.item() * len(ids)
        losses.append(total / len(images))
    # What a file would hold: torch.save of this, and torch.load.
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    return model, losses, {k: _copied(v) for k, v in state.items()}


def _copied(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def draw(model: Autoencoder, images: torch.Tensor, path: Path) -> None:
    """Digits that were held out: whole, masked, and reconstructed."""
    from matplotlib.figure import Figure

    model.eval()
    with torch.no_grad():
        _, predicted, mask = model(images, torch.arange(len(images)))
    patches = nbgather.patchify(images, PATCH)
    gone = mask.bool().unsqueeze(-1)
    rows = {
        "digit": patches,
        "masked": torch.where(gone, torch.nan, patches),
        "reconstructed": torch.where(gone, predicted.clamp(0, 1), patches),
    }
    figure = Figure(figsize=(len(images), 3.4), dpi=110, layout="constrained")
    grid = figure.subplots(3, len(images))
    for axes_row, (name, tokens) in zip(grid, rows.items(), strict=True):
        pictures = nbgather.unpatchify(tokens, PATCH, SIDE)[:, 0]
        for axes, picture in zip(axes_row, pictures, strict=True):
            axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
            axes.set_facecolor("#e8d9a8")
            axes.set_xticks([])
            axes.set_yticks([])
        axes_row[0].set_ylabel(name)
    figure.suptitle("digits that were not trained on; half of the patches removed", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Run all of it; exit status 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30, help="at least 4")
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="the picture")
    options = parser.parse_args()
    images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
    training, held_out = images[:-HELD_OUT], images[-HELD_OUT:]

    model, losses, _ = train(training, options.epochs)
    print(f"loss: {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last")
    whole, _, _ = train(training, 2)
    half, _, checkpoint = train(training, 1)
    resumed, _, _ = train(training, 2, checkpoint=checkpoint)
    print(f"resumed from a checkpoint: same weights {same_weights(resumed, whole)}")
    workers, _, _ = train(training, 1, workers=2)
    print(f"two loader workers: same weights {same_weights(workers, half)}")
    draw(model, held_out[:10], options.out)
    print(f"wrote {options.out}")
    learned = losses[-1] < 0.7 * losses[0]
    if not (learned and same_weights(resumed, whole) and same_weights(workers, half)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
