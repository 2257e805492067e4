"""What this process knows of the command under way: the jobs of a multirun, and how runs have ended.

Hydra calls sweepers, launchers, jobs and callbacks one by one and lets them share nothing: they share `multirun`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metarun.run_folder import result_or_empty, status_of

EXIT_STATUSES = {"completed": 0, "diverged": 3}  # of a multirun's job, by its result's status; else 1
HYDRAS_OWN = (".hydra", "metarun.log", "multirun.yaml")


@dataclass
class SweepJob:
    """One run of a multirun.

    Attributes:
        number: its place in the grid, from 0; Hydra's job number.
        overrides: `key=value`, as on a command line.
        sweep: the multirun's folder.
        folder: where it runs.
        state: `new`, `resumable` (it resumes from its checkpoint) or `done`.
    """

    number: int
    overrides: list[str]
    sweep: Path
    folder: Path = Path()
    state: Literal["new", "resumable", "done"] = "new"


@dataclass
class Multirun:
    """The command under way.

    Attributes:
        jobs: of the multirun; empty for a single run.
        exit_statuses: of the runs that ended in this process, and of what failed beside them.
    """

    jobs: list[SweepJob] = field(default_factory=list)
    exit_statuses: list[int] = field(default_factory=list)

    def clear(self) -> None:
        """Forget an earlier command of this process."""
        self.jobs.clear()
        self.exit_statuses.clear()

    def note_failure(self) -> None:
        """Something beside the runs failed: the command's exit status is to say so."""
        self.exit_statuses.append(1)

    def done(self) -> int:
        """How many jobs have ended and will not run again."""
        return sum(status_of(job.folder) in EXIT_STATUSES for job in self.jobs)

    def all_refused(self) -> bool:
        """Whether there are jobs and none of them could start."""
        return bool(self.jobs) and all(result_or_empty(job.folder).get("refused") for job in self.jobs)

    def exit_status(self) -> int:
        """Of the command: the run's; of a multirun 1 if a job failed, else 3 if one diverged, 2 if none could start.

        Jobs may have run in other processes: what counts is what they left.
        """
        if not self.jobs:
            return self.exit_statuses[0] if len(self.exit_statuses) == 1 else worst(self.exit_statuses)
        if self.all_refused():
            return 2
        left = [EXIT_STATUSES.get(str(status_of(job.folder)), 1) for job in self.jobs]
        return worst([*left, *self.exit_statuses])

    def remove_refused(self) -> None:
        """Remove the folders of a multirun none of whose jobs could start."""
        for job in self.jobs:
            (job.folder / "result.json").unlink()
            remove_unused(job.folder)
        if self.jobs[0].sweep.is_dir():
            remove_unused(self.jobs[0].sweep)


multirun = Multirun()


def worst(statuses: Sequence[int]) -> int:
    """1 if any run failed (or left no result), else 3 if any diverged."""
    return 1 if set(statuses) - {0, 3} else max(statuses, default=0)


def remove_unused(folder: Path) -> None:
    """Remove the folder that Hydra made for what was refused, if nothing but Hydra's own files is in it."""
    if all(entry.name in HYDRAS_OWN for entry in folder.iterdir()):
        shutil.rmtree(folder)
        for parent in folder.resolve().parents:  # those that Hydra made on the way
            if parent == Path.cwd() or any(parent.iterdir()):
                break
            parent.rmdir()
