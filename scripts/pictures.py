"""Make the README's pictures of strategies and of a gather: ``python scripts/pictures.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbgather import files, rank_tokens, strategies
from nbgather.apps.photos import load_photo
from nbgather.explain import explain_gather, worked_example
from nbgather.figures import png_bytes, show_masking, strategies_figure

PICTURES = Path(__file__).parent / "pictures"


def moving_picture() -> np.ndarray:
    """A video `[3, 6, 112, 112]`: the camera moves over the sample photo."""
    photo = load_photo()[0]
    return np.stack([photo[:, 4 * t : 4 * t + 112, 20 * t : 20 * t + 112] for t in range(6)], 1)


def melody() -> np.ndarray:
    """The spectrogram `[1, 128, 256]` of four tones, high frequencies above; 0 to 1."""
    rate, step, window = 8000, 64, 256
    time = np.arange(step * 255 + window) / rate
    tones = np.array([440.0, 660.0, 550.0, 880.0])[(time * 2).astype(int) % 4]
    phase = 2 * np.pi * np.cumsum(tones * (1 + 0.02 * np.sin(2 * np.pi * 5 * time))) / rate
    fading = np.exp(-3 * (time * 2 % 1))
    sound = sum(np.sin(k * phase) / k for k in range(1, 5)) * fading
    sound += 0.003 * np.random.default_rng(0).standard_normal(len(time))
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::step]
    power = np.log10(np.abs(np.fft.rfft(frames * np.hanning(window))[:, :128]) + 1e-2).T[::-1]
    return ((power - power.min()) / np.ptp(power))[None]


def video_figure() -> object:
    """The same tubes through every frame of a video."""
    scores = strategies.tube(0, 1, (6, 7, 7))
    mask = rank_tokens(scores, int(6 * 49 * 0.25)).mask[0]
    return show_masking(
        moving_picture(), mask, (1, 16, 16), title="tube: the same patches go in every frame"
    )


def spectrogram_figure() -> object:
    """A spectrogram, and what two strategies for sound leave of it."""
    grid = 8, 16
    masks = {
        "spectrogram": np.zeros(128, np.float32),
        "time_frequency": rank_tokens(strategies.time_frequency(3, 1, grid), 38).mask[0],
        "stripes": rank_tokens(strategies.stripes(3, 1, grid, ratios=(0.3, 0.5)), 40).mask[0],
    }
    return strategies_figure(melody(), masks, 16)


def main() -> None:
    """Mask the sample photo by each strategy, ratio 0.6, a video and a spectrogram, and write."""
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
        "video.png": video_figure(),
        "spectrogram.png": spectrogram_figure(),
        "explain.png": explain_gather(*worked_example()).figure(),
    }
    for name, figure in pictures.items():
        print(files.write(PICTURES / name, png_bytes(figure)))


if __name__ == "__main__":
    main()
