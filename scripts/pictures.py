"""Make the README's picture of the strategies: ``python scripts/pictures.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbgather import _files, rank_tokens, strategies
from nbgather.demo import load_photo
from nbgather.figures import png_bytes, strategies_figure

PICTURE = Path(__file__).parent / "pictures" / "strategies.png"


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
    kept = {"grid": 49}
    masks: dict[str, np.ndarray] = {}
    for name, score in scores.items():
        masks[name] = rank_tokens(score, kept.get(name, 78)).mask[0]
    print(_files.write(PICTURE, png_bytes(strategies_figure(photo, masks, 16))))


if __name__ == "__main__":
    main()
