"""The figures of `make reproduce-mtnet` show what the folders hold."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.reproduce.mtnet.figures import draw, lines
from scripts.reproduce.mtnet.results import Results


def write(folder: Path, mean: float, alpha: float) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(f"algo:\n  inner_lr: {alpha}\nbackbone:\n  init: torch\n")
    result = {"format": 1, "status": "completed", "mean": mean, "paper": {"value": 0.49, "ci95": None}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "adapted_curves.png").write_bytes(b"curves")


def test_a_line_has_each_seed_and_the_published_figure(tmp_path):
    for index, (mean, alpha) in enumerate([(0.5, 0.01), (0.54, 0.01), (7.0, 1.0)]):
        write(tmp_path / "learning_rate_mtnet" / str(index), mean, alpha)
    *_, line = lines(Results(tmp_path), "learning_rate", ("1", "0.1", "0.01"), {}, published=True)
    assert (line.name, line.x) == ("MT-net", [1.0, 0.1, 0.01])
    assert line.seeds == [[7.0], [], [0.5, 0.54]] and line.published == [0.49, None, 0.49]
    *_, line = lines(Results(tmp_path), "learning_rate", ("1",), {"backbone.init": "xavier"}, published=False)
    assert line.seeds == [[]] and line.published == [None]


def test_what_has_no_result_is_not_drawn(tmp_path):
    write(tmp_path / "learning_rate_mtnet" / "0", 0.5, 0.01)
    draw(Results(tmp_path), {}, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["adapted_curves_mtnet.png", "learning_rates.png"]
