"""Pictures of one colour, with noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}


def picture(path: Path, colour: str, seed: int = 0) -> Path:
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).integers(-25, 25, (14, 18, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLOURS[colour]) + noise).astype(np.uint8)).save(path)
    return path
