"""`hydra/sweeper=optuna`: what is searched, by which number, and how a search goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml
from commands import SMALL, Outcome, metarun

from metarun.experiment import session as run
from metarun.run_folder import read_result

optuna = pytest.importorskip("optuna", reason="the extra metarun[optuna] is not installed")

QUICK = (*(word for word in SMALL if not word.startswith("run.iterations")), "run.iterations=20")
RATE = "algo.inner_lr=tag(log,interval(1e-4,1))"


def search(*arguments: str, folder: Path, trials: int = 3) -> Outcome:
    return metarun(
        "-m",
        *QUICK,
        "hydra/sweeper=optuna",
        f"hydra.sweeper.n_trials={trials}",
        *arguments,
        "hydra.sweep.dir=search",
        folder=folder,
    )


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="metarun", storage=f"sqlite:///{folder / 'search' / 'optuna.db'}")


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in study(folder).trials]


@pytest.mark.slow
def test_it_searches_ranges_by_the_mean_validation_over_seeds(tmp_path):
    outcome = search(RATE, "algo.inner_steps=range(1,3)", "backbone.init=torch,xavier", "seed=0,1", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    best = yaml.safe_load((tmp_path / "search" / "optimization_results.yaml").read_text())
    trials = study(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    for number, trial in enumerate(trials):
        results = [read_result(tmp_path / "search" / f"trial_{number:03}_seed={seed}") for seed in (0, 1)]
        assert trial.value == pytest.approx(sum(r["validation"]["best"] for r in results) / 2)
        assert trial.user_attrs["test"] == [r["mean"] for r in results]
        assert 1e-4 <= trial.params["algo.inner_lr"] <= 1 and trial.params["algo.inner_steps"] in (1, 2)
        assert f"algo.inner_lr={trial.params['algo.inner_lr']}" in results[0]["overrides"]
    assert best["best_value"] == min(trial.value for trial in trials)
    assert "6 of 6 cells completed" in outcome.out


@pytest.mark.slow
def test_accuracies_are_maximized(tmp_path):
    data = ("data=synthetic", "data.ways=2", "data.queries=2", "backbone=conv4", "backbone.filters=4")
    assert search("algo.inner_lr=0.1,0.4", *data, "run.iterations=2", folder=tmp_path, trials=1).status == 0
    assert study(tmp_path).direction == optuna.study.StudyDirection.MAXIMIZE


@pytest.mark.slow
def test_a_trial_that_diverges_fails_and_the_search_goes_on(tmp_path):
    outcome = search("algo.inner_lr=1e20,0.01", "hydra.sweeper.sampler=random", folder=tmp_path, trials=6)
    assert outcome.status == 3
    assert set(states(tmp_path)) == {"FAIL", "COMPLETE"}
    assert study(tmp_path).best_params == {"algo.inner_lr": "0.01"}


@pytest.mark.slow
def test_stopped_it_goes_on_with_the_trial_under_way(tmp_path, monkeypatch):
    record = run.Experiment.record_step

    def stopping(self, number, seconds, loss):
        record(self, number, seconds, loss)
        if self.folder.name == "trial_001" and self.state.iteration == 10:
            self.received_signals.append(signal.SIGTERM)

    monkeypatch.setattr(run.Experiment, "record_step", stopping)
    assert search(RATE, folder=tmp_path).status == 143
    assert states(tmp_path) == ["COMPLETE", "RUNNING"]
    monkeypatch.undo()
    before = (tmp_path / "search" / "trial_000" / "result.json").stat().st_mtime_ns

    outcome = metarun("sweep.resume=search", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "1 of 3 trials are done, 1 go on" in outcome.out
    assert states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    again = study(tmp_path).trials
    assert again[1].params == again[2].params and again[2].user_attrs["folder"] == "trial_001"
    assert (tmp_path / "search" / "trial_000" / "result.json").stat().st_mtime_ns == before
    assert read_result(tmp_path / "search" / "trial_001")["status"] == "completed"


@pytest.mark.slow
def test_several_trials_at_once_are_one_program_of_the_fused_launcher(tmp_path):
    outcome = search(RATE, "hydra.sweeper.n_jobs=3", "hydra/launcher=fused", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert [read_result(tmp_path / "search" / f"trial_{n:03}")["replicas"] for n in range(3)] == [3, 3, 3]


REFUSED = {
    "nothing to search": (["algo=maml"], ["nothing to search", "interval"]),
    "a sampler": ([RATE, "hydra.sweeper.sampler=foo"], ["hydra.sweeper.sampler", "tpe", "'foo'"]),
    "no trials": ([RATE, "hydra.sweeper.n_trials=0"], ["n_trials must be at least 1"]),
    "a grid": ([RATE, "sweep=lr_sensitivity"], ["sweep.inner_lr is a grid"]),
    "a mistyped key": ([RATE, "algo.inner_lrr=1"], ["algo.inner_lrr"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "wanted"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(arguments, wanted, tmp_path):
    outcome = search(*arguments, folder=tmp_path)
    assert outcome.status == 2
    for word in wanted:
        assert word in outcome.err
    assert "Traceback" not in outcome.err and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["algo.inner_lr=tag(log,interval(-1,1))"],
            ["interval(-1,1)) must be a range to search"],
        ),
        (["algo.inner_lr=interval(2,1)"], ["algo.inner_lr=interval(2,1) must be a range"]),
        (["algo.inner_steps=range(0)"], ["must be at least one value"]),
        (["algo=maml,mamml"], ["there is no algo=mamml", "did you mean maml?"]),
        ([RATE, "data=omniglot,sinusoid", "data.ways=5"], ["there is no setting data.ways with data=sinusoid"]),
        ([RATE, "hydra.sweeper.storage=foo"], ["hydra.sweeper.storage must be an Optuna URL", "foo"]),
        ([RATE, "hydra.sweeper.storage=sqlite:////no/such/folder/x.db"], ["hydra.sweeper.storage", "/no/such/folder"]),
        ([RATE, "hydra.sweeper.sampler=best"], ["hydra.sweeper.sampler must be one of tpe"]),
        ([RATE, "hydra.sweeper.n_trials=many"], ["hydra.sweeper.n_trials=many", "Integer"]),
        (["seed=0,1"], ["nothing to search"]),
        ([RATE, "seed=interval(0,1)"], ["seed=interval(0,1)"]),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(arguments, words, tmp_path):
    outcome = search(*arguments, folder=tmp_path)
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words)
    assert not list(tmp_path.rglob("trial_*"))


@pytest.mark.slow
def test_without_optuna_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("metarun.sweeps.optuna_search.find_spec", lambda _: None)
    outcome = search(RATE, folder=tmp_path)
    assert outcome.status == 2
    assert outcome.err == "metarun: hydra/sweeper=optuna needs Optuna, which is not installed: pip install optuna\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep.seed=[]"], "sweep.seed must be null or a list of at least one integer"),
        (["data._target_=os.getcwd"], "data._target_ must be of metarun or torch.optim"),
        (["seed=range(0)"], "seed must be at least one value"),
    ],
)
def test_values_that_make_no_sense_and_foreign_code_are_refused_before_the_first_trial(arguments, message, tmp_path):
    outcome = search(RATE, *arguments, folder=tmp_path)
    assert outcome.status == 2
    assert outcome.err.startswith(f"metarun: {message}")
    assert not (tmp_path / "search").exists()
