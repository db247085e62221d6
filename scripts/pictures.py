"""Make the README's pictures of the strategies and of a gather: ``python scripts/pictures.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbgather import files, rank_tokens, strategies
from nbgather.apps.photos import load_photo
from nbgather.explain import explain_gather, worked_example
from nbgather.figures import png_bytes, strategies_figure

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """Mask the sample photo by each strategy, ratio 0.6, and write the picture."""
    photo = load_photo()[0]
    grid = (14, 14)
    scores = {
        "random": strategies.random(3, 1, grid),
        "block": strategies.block(3, 1, grid),
        "grid": strategies.grid(3, 1, grid),
        "time_frequency": strategies.time_frequency(3, 1, grid),
    }
    num_keep = {"grid": 49}
    masks: dict[str, np.ndarray] = {}
    for name, score in scores.items():
        masks[name] = rank_tokens(score, num_keep.get(name, 78)).mask[0]
    pictures = {
        "strategies.png": strategies_figure(photo, masks, 16),
        "explain.png": explain_gather(*worked_example()).figure(),
    }
    for name, figure in pictures.items():
        print(files.write(PICTURES / name, png_bytes(figure)))


if __name__ == "__main__":
    main()
