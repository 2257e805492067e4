"""The rate of each tuned optimizer, chosen on validation tasks, and its curve on test tasks beside the learned one.

Test tasks choose nothing: of `RATES` the one is taken whose loss on validation tasks is lowest after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metarun.run_folder import result_or_empty
from scripts.reproduce.cells import PROBLEMS, RATES, Cell, optimizing, run_folder

Curve = dict[int, float]  # loss after each step
Loss = Callable[[Path], float]


class Tuned(NamedTuple):
    """A tuned optimizer on a problem.

    Attributes:
        name: of the optimizer.
        rate: the chosen one.
        cell: whose run has that rate.
    """

    name: str
    rate: float
    cell: Cell


def validation_loss(folder: Path) -> float:
    """The mean loss of a run's learner on its validation tasks after the last step; infinite where it is not finite."""
    from metarun.evaluation.evaluate import evaluate  # torch takes seconds
    from metarun.experiment.build import load_components

    loaded, _ = load_components(folder)
    tasks, steps = loaded.config.val_tasks, loaded.learner.eval_steps
    values = evaluate(loaded.learner, loaded.data, "val", tasks, steps, curve=False).values
    loss = float(values["nll" if loaded.data.kind == "classification" else loaded.data.metric].mean())
    return loss if math.isfinite(loss) else math.inf


def tune(problem: str, folder: Path, loss: Loss = validation_loss) -> list[Tuned]:
    """Each optimizer of a problem at the rate that is best on validation tasks; none of whose runs no one completed.

    Args:
        problem: key of `PROBLEMS`.
        folder: of the target's runs.
        loss: of a run's folder.
    """
    cells = {cell.name: cell for cell in optimizing(problem)}
    tuned = []
    for optimizer in PROBLEMS[problem][1]:
        names = {rate: f"{problem} {optimizer} {rate}" for rate in RATES[optimizer]}
        ended = {rate: name for rate, name in names.items() if _completed(run_folder(folder, name, 0))}
        if ended:
            losses = {rate: loss(run_folder(folder, name, 0)) for rate, name in ended.items()}
            rate = min(losses, key=lambda rate: losses[rate])
            tuned.append(Tuned(optimizer, rate, cells[ended[rate]]))
    return tuned


def curves(problem: str, folder: Path, tuned: list[Tuned]) -> dict[str, Curve]:
    """The learned optimizer's loss on test tasks after each step, and each tuned one's."""
    found = {"learned": read_curve(run_folder(folder, f"{problem} learned", 0))}
    found |= {f"{entry.name}, {entry.rate}": read_curve(run_folder(folder, entry.cell.name, 0)) for entry in tuned}
    return {name: curve for name, curve in found.items() if curve}


def read_curve(folder: Path) -> Curve:
    """The mean loss (the headline, or beside an accuracy the NLL) of test tasks after each step; empty: no result."""
    if not _completed(folder):
        return {}
    result = result_or_empty(folder)
    with np.load(folder / "episodes.npz") as values:
        name = "nll" if result["metric"] == "accuracy" else result["metric"]
        return dict(enumerate(values[name].mean(0).tolist()))


def _completed(folder: Path) -> bool:
    return result_or_empty(folder).get("status") == "completed"
