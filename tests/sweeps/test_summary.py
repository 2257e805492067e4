"""What a multirun ends in: table, figure, files, and the W&B run read back from its own file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, Outcome, metarun
from omegaconf import OmegaConf
from PIL import Image
from runs import write_run

from metarun.report.compare import over_rates, tabulate
from metarun.run_folder import read_runs
from metarun.sweeps import summary as sweep

SIZES = (*(word for word in SMALL if not word.startswith(("run.iterations", "tracker"))), "run.iterations=4")
GRID = ("algo=maml,mtnet,meta_sgd", "sweep=lr_sensitivity", "sweep.inner_lr=[0.01,1e20]", "sweep.seed=[0,1]")


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("sweep")
    outcome = metarun(*SIZES, *GRID, "hydra/launcher=fused", "tracker=wandb", "hydra.sweep.dir=mine", folder=folder)
    assert outcome.status == 3, outcome.err  # at 1e20 all diverge
    return folder / "mine", outcome


@pytest.mark.slow
def test_the_terminal_shows_table_robustness_and_what_diverged(ended):
    _, outcome = ended
    for word in ("inner_lr=0.01", "2 of 2 diverged", "decades within 10% of the best", "6 of 12 cells completed"):
        assert word in outcome.out
    assert outcome.out.count("the loss became") >= 6


@pytest.mark.slow
def test_sweep_json_has_cells_table_and_robustness(ended):
    folder, _ = ended
    found = json.loads((folder / "sweep.json").read_text())
    assert found["launcher"] == "fused" and found["seconds"] > 0
    assert [cell["status"] for cell in found["cells"]].count("diverged") == 6
    entry = next(e for e in found["table"] if e["algo"] == "meta_sgd" and e["setting"] == {"algo.inner_lr": 0.01})
    results = [json.loads((folder / c["folder"] / "result.json").read_text()) for c in found["cells"]]
    means = [r["mean"] for r in results if r["algo"] == "meta_sgd" and r["status"] == "completed"]
    assert entry["seeds"] == means and entry["mean"] == pytest.approx(sum(means) / 2)
    assert entry["interval_over"] == "seeds"
    assert {r["replicas"] for r in results} == {4}  # a learner's rates and seeds are one program, Meta-SGD's too
    assert [line["decades"] for line in found["robustness"]] == [0.0, 0.0, 0.0]
    assert sum(e["best"] for e in found["table"]) == 1


@pytest.mark.slow
def test_the_tables_are_markdown_and_latex(ended):
    folder, _ = ended
    text = (folder / "table.md").read_text()
    assert "| setting | maml | mtnet | meta\\_sgd |" not in text  # two settings, three learners: settings across
    assert text.startswith("| learner | inner\\_lr=0.01 | inner\\_lr=1e+20 |")
    assert "† 2 of 2 diverged" in text
    latex = (folder / "table.tex").read_text()
    assert "meta\\_sgd" in latex and "\\dagger" in latex and latex.count("\\\\") == 4


@pytest.mark.slow
def test_the_figure_is_a_picture_and_a_pdf(ended):
    folder, _ = ended
    with Image.open(folder / "figure.png") as image:
        assert min(image.size) > 300
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")


def records(folder: Path) -> list[dict]:
    """What W&B wrote, a record a line."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    out = subprocess.run(
        [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(path)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [json.loads(line) for line in out.splitlines()]


def of_type(found: list[dict], kind: str) -> dict:
    return next(record[kind] for record in found if kind in record)


@pytest.mark.slow
def test_the_wandb_summary_run_is_in_the_cells_group_with_tables_and_plots(ended):
    folder, _ = ended
    summary, cell = (records(path) for path in (folder, folder / "maml_inner_lr=0.01_seed=0"))
    assert of_type(summary, "run")["run_group"] == of_type(cell, "run")["run_group"] == "mine"
    assert of_type(summary, "run")["display_name"] == "mine/summary"
    (file,) = (folder / "wandb").glob("offline-run-*/files/media/table/sweep/table_*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"][:4] == ["algo", "setting", "metric", "mean"]
    assert {tuple(row[:2]) for row in table["data"]} == {
        (algo, f"inner_lr={rate}") for algo in ("maml", "mtnet", "meta_sgd") for rate in ("0.01", "1e+20")
    }
    keys = json.dumps(summary)
    assert "sweep/sensitivity" in keys and "figures/figure" in keys and "sweep/robustness" in keys


@pytest.mark.slow
def test_a_sweep_of_no_rates_ends_in_bars(tmp_path):
    outcome = metarun("-m", *SIZES, "tracker=none", "algo=maml,joint", "hydra.sweep.dir=mine", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "decades" not in outcome.out
    assert (tmp_path / "mine" / "figure.png").is_file()
    assert not (tmp_path / "mine" / "wandb").exists()


@pytest.mark.slow
def test_a_summary_that_fails_is_said_and_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "tabulate", lambda runs: 1 / 0)
    outcome = metarun("-m", *SIZES, "tracker=none", "seed=0", "hydra.sweep.dir=mine", folder=tmp_path)
    assert outcome.status == 1
    assert "the multirun's summary failed (ZeroDivisionError" in outcome.err


@pytest.mark.slow
def test_hydra_s_own_sweeper_ends_in_the_same(tmp_path):
    outcome = metarun(
        "-m", *SIZES, "tracker=none", "hydra/sweeper=basic", "seed=0,1", "hydra.sweep.dir=mine", folder=tmp_path
    )
    assert outcome.status == 0, outcome.err
    assert len(json.loads((tmp_path / "mine" / "sweep.json").read_text())["cells"]) == 2


@pytest.mark.slow
def test_each_metric_has_a_figure_and_a_rate_of_zero_is_no_error(tmp_path):
    for number, (data, metric) in enumerate((("omniglot", "accuracy"), ("sinusoid", "mse"))):
        for rate in (0.0, 0.1):
            write_run(tmp_path / f"{number}_{rate}", inner_lr=rate, data=data, metric=metric)
    table = tabulate(read_runs([tmp_path]))
    for panels in (over_rates(table), {}):
        names = [path.name for path in sweep.draw(tmp_path, table, panels)]
        assert names == ["figure.png", "figure.pdf", "figure_mse.png", "figure_mse.pdf"]
    lines = next(iter(over_rates(table).values()))
    assert (lines[0].rates, lines[0].width) == ([0.0, 0.1], 0.0)


@pytest.mark.slow
def test_a_tracker_of_a_multirun_is_no_foreign_code(tmp_path):
    config = OmegaConf.create({"tracker": {"mine": {"_target_": "os.mkdir", "path": str(tmp_path / "mark")}}})
    with pytest.raises(ValueError, match=r"^tracker.mine._target_ must be of metarun"):
        sweep.record(config, tmp_path, None, None, [])
    assert list(tmp_path.iterdir()) == []
