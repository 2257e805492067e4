"""Which runs share a program, kept beside their checkpoints: a program that is resumed is the one that was begun.

The last digits of a replica depend on how many go through the program with it, and on its place, not on what the others
are. So a run that has ended leaves its place to a stand-in, and every other one goes on digit for digit.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.experiment.session import Experiment
from metarun.files import write_json
from metarun.fused.replicas import initial_rate
from metarun.tasks import TaskSet
from metarun.training.loop import TrainState

FILE = Path("checkpoint") / "program.json"


@dataclass(frozen=True)
class Group:
    """The places of a program.

    Args:
        members: of each place, the run's folder.
        rates: of each place, the initial learning rate of each optimizer.
        data: of each place, the number of its data set: those of one number share it.
    """

    members: list[Path]
    rates: list[dict[str, float]]
    data: list[int]

    def __len__(self) -> int:
        return len(self.rates)

    @classmethod
    def of(cls, runs: Sequence[Experiment]) -> Group:
        """A new group of runs, in their order."""
        data = [run.data for run in runs]
        rates = [{name: initial_rate(o) for name, o in run.state.optimizers.items()} for run in runs]
        return cls([run.folder.resolve() for run in runs], rates, [data.index(own) for own in data])

    def write(self, folder: Path, place: int) -> None:
        """Keep the group in the folder of one of its runs."""
        members = [os.path.relpath(member, folder.resolve()) for member in self.members]  # a multirun may be moved
        write_json(folder / FILE, {"place": place, "members": members, "rates": self.rates, "data": self.data})

    def trainings(self, runs: Mapping[int, Experiment]) -> tuple[list[TrainState], list[TaskSet]]:
        """Of each place a training and its tasks: a run's own, or a stand-in's, which draws and steps for nothing."""
        first = runs[min(runs)]
        shared = {self.data[place]: run.data for place, run in runs.items()}
        for number in self.data:
            shared.setdefault(number, copy.copy(first.data))
        trainings = [
            runs[place].state if place in runs else stand_in(first.state, rates)
            for place, rates in enumerate(self.rates)
        ]
        return trainings, [shared[number] for number in self.data]


def read_group(folder: Path) -> Group | None:
    """The group of a run; None: it has none, or none that can be read."""
    try:
        saved: dict[str, Any] = json.loads((folder / FILE).read_text())
        rates = [{name: float(rate) for name, rate in of_place.items()} for of_place in saved["rates"]]
        group = Group(
            [(folder / member).resolve() for member in saved["members"]], rates, list(map(int, saved["data"]))
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return group if len(group) == len(group.data) == len(set(group.members)) > 0 else None


def places_in(folders: Iterable[Path]) -> dict[Path, tuple[Group, int]]:
    """By their folders the runs that have a group, and their places in it; whichever of its runs has kept it."""
    folders = [folder.resolve() for folder in folders]
    groups = [group for folder in folders if (group := read_group(folder)) is not None and folder in group.members]
    places = {member: (group, place) for group in groups for place, member in enumerate(group.members)}
    return {folder: places[folder] for folder in folders if folder in places}


def stand_in(training: TrainState, rates: Mapping[str, float]) -> TrainState:
    """A copy of a training, with other learning rates."""
    learner, optimizers = copy.deepcopy((training.learner, training.optimizers))
    for name, optimizer in optimizers.items():
        for settings in optimizer.param_groups:
            settings["initial_lr"] = rates[name]
    generators = {name: generator.clone_state() for name, generator in training.generators.items()}
    return TrainState(learner, optimizers, generators, training.iteration)
