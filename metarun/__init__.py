"""metarun: train, sweep and compare few-shot learners.

From Python, `metarun.load(PATH)` gives the trained learner of a run's folder, ready for `adapt(support)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarun.version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from metarun.learner.learner import Learner


def load(path: str | Path) -> Learner:
    """The trained learner of a run's folder, in evaluation mode; see `metarun.experiment.build.load`."""
    from metarun.experiment.build import load as load_run  # torch takes seconds; the command line must not wait

    return load_run(path)
