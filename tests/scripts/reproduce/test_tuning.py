"""A tuned optimizer's rate is chosen on validation tasks, whatever the test tasks say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import SMALL, metarun

from scripts.reproduce.cells import RATES, run_folder
from scripts.reproduce.tuning import curves, tune, validation_loss


def write_curve(folder, loss: float, status: str = "completed") -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"format": 1, "status": status, "metric": "loss"}))
    np.savez(folder / "episodes.npz", loss=loss / np.arange(1, 102) * np.ones((2, 1)))


@pytest.fixture
def folder(tmp_path):
    """Runs of which the last rate is best on test tasks, and the second on validation tasks; the first did not end."""
    write_curve(run_folder(tmp_path, "digits-relu learned", 0), 1.0)
    for index, rate in enumerate(RATES["adam"]):
        write_curve(
            run_folder(tmp_path, f"digits-relu adam {rate}", 0), 10.0 - index, "failed" if not index else "completed"
        )
    return tmp_path


def by_validation(folder) -> float:
    rate = float(folder.name.partition("adam_")[2].partition("_")[0])
    return {RATES["adam"][0]: 0.1, RATES["adam"][1]: 0.2}.get(rate, 0.3)


def test_the_rate_of_the_lowest_validation_loss_is_taken(folder):
    (tuned,) = tune("digits-relu", folder, by_validation)
    assert (tuned.name, tuned.rate, tuned.cell.name) == ("adam", 0.01, "digits-relu adam 0.01")
    found = curves("digits-relu", folder, [tuned])
    assert list(found) == ["learned", "adam, 0.01"]
    assert found["learned"][100] == pytest.approx(1 / 101) and found["adam, 0.01"][0] == pytest.approx(9.0)


def test_an_optimizer_none_of_whose_runs_ended_is_left_out(tmp_path):
    assert tune("digits-relu", tmp_path, by_validation) == []


@pytest.mark.slow
def test_the_validation_loss_is_of_validation_tasks(tmp_path):
    words = [word for word in SMALL if not word.startswith(("run.curve_steps", "data.queries"))]
    overrides = ["algo=tuned_optimizer", "data=quadratics", *words, "run.curve_steps=5", "algo.eval_steps=5"]
    ended = metarun(*overrides, "algo.inner_lr=0.01", f"hydra.run.dir={tmp_path / 'run'}", folder=tmp_path)
    assert ended.status == 0, ended.err
    tested = json.loads((tmp_path / "run" / "result.json").read_text())["mean"]
    loss = validation_loss(tmp_path / "run")
    assert loss != pytest.approx(tested) and 0.2 * tested < loss < 5 * tested
