"""Small multiruns."""

from __future__ import annotations

import signal
from pathlib import Path

from commands import SMALL, Outcome, metarun

from metarun.experiment import session as run
from metarun.run_folder import read_result

QUICK = (*(word for word in SMALL if not word.startswith("run.iterations")), "run.iterations=3")


def sweep(*arguments: str, folder: Path, sizes: tuple[str, ...] = QUICK) -> Outcome:
    return metarun(*sizes, *arguments, "hydra.sweep.dir=sweep", folder=folder)


def found(folder: Path) -> dict[str, str]:
    """Each cell's folder and what its result says."""
    return {path.parent.name: read_result(path.parent)["status"] for path in (folder / "sweep").glob("*/result.json")}


NAMES = {
    "learners, rates, seeds": (
        [["seed=0", "algo=maml", "algo.inner_lr=0.1"], ["seed=1", "algo=learn2learn/maml", "algo.inner_lr=0.1"]],
        ["maml_seed=0", "learn2learn-maml_seed=1"],
    ),
    "keys of one last word": ([["a.lr=1", "b.lr=2"], ["a.lr=2", "b.lr=2"], ["a.lr=1", "b.lr=3"]], None),
    "nothing varies": ([["algo=maml", "seed=3"]], ["maml"]),
    "nothing is said": ([[]], ["run"]),
    "a key of some": ([["algo=joint"], ["algo=maml", "algo.inner_lr=1"]], ["joint", "maml_inner_lr=1"]),
    "a sign": ([["a.steps=1"], ["a.steps=-1"]], ["steps=1", "steps=-1"]),
    "values that differ in what no folder can be called": ([["a.x='/'"], ["a.x='!'"]], None),
    "what no folder can be called": ([["+x.y='a/../b c'"], ["+x.y=[1,2]"]], ["y=a-..-b-c", "y=1,2"]),
}


REFUSED = {
    "twice": (["-m", "seed=0,0"], ["two cells would run in", "seed=0"]),
    "a range": (["-m", "algo.inner_lr=interval(0.01,0.1)"], ["interval(0.01,0.1)", "hydra/sweeper=optuna"]),
    "no multirun there": (["sweep.resume=nowhere"], ["nowhere is no multirun's folder"]),
    "an empty range": (["-m", "seed=range(0)"], ["seed must be at least one value"]),
    "no seeds": (["sweep.seed=[]"], ["sweep.seed must be null or a list of at least one integer", "got []"]),
    "a rate that is no list": (["sweep.inner_lr=0.1"], ["sweep.inner_lr must be", "got 0.1"]),
    "letters for rates": (["sweep.inner_lr=[a,b]"], ["sweep.inner_lr must be"]),
    "outside": (["-m", "seed=0,1", "hydra.sweep.subdir=../${seed}"], ["hydra.sweep.subdir must be a folder inside"]),
    "another sweep": (["sweep=lr"], ["sweep=lr", "lr_sensitivity"]),
}


LONGER = (*SMALL, "algo=maml", "seed=0,1,2")


def stop_the_second(monkeypatch) -> None:
    """SIGTERM in the second cell, at iteration 33."""
    record = run.Experiment.record_step

    def stopping(self, number, seconds, loss):
        record(self, number, seconds, loss)
        if self.seed == 1 and self.state.iteration == 33:
            self.received_signals.append(signal.SIGTERM)

    monkeypatch.setattr(run.Experiment, "record_step", stopping)
