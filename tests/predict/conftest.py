"""Pictures of three colours, and a learner that tells them apart without training."""

from __future__ import annotations

from pathlib import Path

import pytest
from coloured import COLOURS, picture
from commands import small


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A finished run of the nearest centroid of pixels; its data is there."""
    folder = tmp_path_factory.mktemp("run")
    for split in ("train", "val", "test"):
        for colour in COLOURS:
            for number in range(6):
                picture(folder / "data" / split / colour / f"{number}.png", colour, number)
    small(
        *("algo=nearest_centroid", "data=imagefolder", f"data.root={folder}/data", "data.size=8", "data.ways=3"),
        *("data.queries=2", "run.eval_tasks=4", "run.val_tasks=4"),
        folder=folder,
    )
    return folder / "run"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """`support/CLASS`, unequal classes, and `asked/CLASS`, two of each."""
    for colour, count in {"red": 3, "green": 1, "blue": 2}.items():
        for number in range(count):
            picture(tmp_path / "support" / colour / f"{number}.png", colour, 100 + number)
        for number in range(2):
            picture(tmp_path / "asked" / colour / f"{number}.png", colour, 200 + number)
    return tmp_path
