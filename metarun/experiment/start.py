"""Where a run starts that goes on from another: from the weights of one that may have another network, or longer."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from metarun.experiment.errors import ConfigError
from metarun.files import write_json
from metarun.layers.drop_block import drop_blocks
from metarun.learner.learner import Learner
from metarun.run_folder import EXTENDED, read_config

log = logging.getLogger(__name__)


def take_weights(learner: Learner, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Start a learner from another run's weights: the tensors of the same name and shape; what is left out is said.

    Args:
        learner: changed in place.
        weights: of the other run's learner, which may be of another algorithm.
        source: its folder, for messages.

    Raises:
        ConfigError: none of its parameters is among them.
    """
    state = learner.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name in state
        and state[name].shape == value.shape
        and state[name].is_floating_point() == value.is_floating_point()
    }
    learned = {name for name, _ in learner.named_parameters()}
    if not learned & set(fitting):
        raise ConfigError(
            f"run.init_from={source} has no weights for this learner: no tensor of the same name and shape. "
            f"It has {_listed(weights)}; wanted are {_listed(state)}"
        )
    learner.load_state_dict(fitting, strict=False)
    learner.progress.zero_()
    if initial := {name: value for name, value in state.items() if name not in fitting}:
        log.warning(f"run.init_from={source}: {len(fitting)} taken; initial values keep {_listed(initial)}")
    if unused := {name: value for name, value in weights.items() if name not in fitting}:
        log.warning(f"run.init_from={source}: not used are {_listed(unused)}")


def _listed(tensors: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items()) or "none"


def refuse_other_schedule(learner: Learner, iterations: int) -> None:
    """Refuse to make a run longer whose first part would then have been another.

    Raises:
        ConfigError: the learner's training depends on how many iterations there are in all.
    """
    reason = None
    if len(learner.stages) > 1:
        reason = "its stages take shares of run.iterations"
    elif learner.uses_progress or drop_blocks(learner):
        reason = "what it does depends on the fraction of run.iterations that is done"
    if reason:
        raise ConfigError(
            f"run.iterations={iterations} would change the iterations that are done already: {reason}. "
            "Start a new run from its weights: run.init_from=FOLDER"
        )


def iterations_of(folder: Path) -> int:
    """`run.iterations` that the run in a folder was started with, or extended to."""
    return int(read_config(folder)["run"]["iterations"])


def extend(folder: Path, iterations: int) -> None:
    """Note in a run's folder that it has more iterations now, so that it is resumed with them.

    What it was started with stays as it is, for checkpoints and result are bound to it by digests.
    """
    write_json(folder / EXTENDED, {"iterations": iterations})
