"""The tables of `make reproduce-mtnet` say what the folders hold."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.reproduce.mtnet.results import Results
from scripts.reproduce.mtnet.tables import entry, rounded, step_table


def write(folder: Path, mean: float | None, status: str = "completed", alpha: float = 0.01) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(f"algo:\n  inner_lr: {alpha}\nseed: 0\n")
    paper = {"value": 0.49, "ci95": 0.05}
    steps = [{"step": k, "mean": mean, "median": 0.1 * k} for k in range(11)]
    result = {"format": 1, "status": status, "mean": mean, "ci95": 0.02, "paper": paper, "steps": steps}
    (folder / "result.json").write_text(json.dumps(result))


def test_an_entry_shows_published_beside_measured(tmp_path):
    for number, (mean, alpha) in enumerate([(0.5, 0.01), (0.54, 0.01), (7.0, 1.0)]):
        write(tmp_path / "learning_rate_mtnet" / str(number), mean, alpha=alpha)
    runs = Results(tmp_path).select("learning_rate_mtnet", {"algo.inner_lr": 0.01})
    assert entry(runs) == "0.490 ± 0.05 → **0.520** (0.500 ± 0.020, 0.540 ± 0.020)"
    assert entry([]) == "not run"
    diverged = runs[0]._replace(result={**runs[0].result, "mean": None})
    assert entry([diverged]).split("→")[1].startswith(" **diverged**")


def test_steps_that_one_seed_diverged_at_say_so_and_keep_the_median(tmp_path):
    write(tmp_path / "learning_rate_mtnet" / "0", 0.5)
    write(tmp_path / "learning_rate_mtnet" / "1", None)
    row = step_table(Results(tmp_path)).splitlines()[-1]
    assert row.startswith("| MT-net | diverges (median 0.100) |")


def test_numbers_have_three_digits():
    assert [rounded(value) for value in (None, 0.1234, 1.234, 123.4)] == ["-", "0.123", "1.23", "123"]
