"""What this process knows of the command under way: the jobs of a multirun, and how runs have ended.

Hydra calls sweepers, launchers, jobs and callbacks one by one and lets them share nothing: they share `multirun`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metarun.experiment.claim import Claim, FolderError, claim, make_folders, remove_ours, unusable
from metarun.run_folder import PLACE, has_config, holds_checkpoint, read_multirun, result_or_empty, status_of

EXIT_STATUSES = {"completed": 0, "diverged": 3}  # of a multirun's job, by its result's status; else 1


@dataclass
class SweepJob:
    """One run of a multirun.

    Attributes:
        number: its place in the grid, from 0; Hydra's job number.
        overrides: `key=value`, as on a command line.
        sweep: the multirun's folder.
        folder: where it runs.
        state: `new`, `resumable` (it resumes from its checkpoint) or `done`.
        made: the folders that this command made for it, the outermost first.
    """

    number: int
    overrides: list[str]
    sweep: Path
    folder: Path = Path()
    state: Literal["new", "resumable", "done"] = "new"
    made: list[Path] = field(default_factory=list)


@dataclass
class Multirun:
    """The command under way.

    Attributes:
        jobs: of the multirun; empty for a single run.
        exit_statuses: of the runs that ended in this process, and of what failed beside them.
        claims: folders that the command holds until it ends: a single run's, or the multirun's.
        refusals: what was said of cells that were refused, each once.
    """

    jobs: list[SweepJob] = field(default_factory=list)
    exit_statuses: list[int] = field(default_factory=list)
    claims: dict[Path, Claim] = field(default_factory=dict)
    refusals: set[str] = field(default_factory=set)

    def clear(self) -> None:
        """Forget an earlier command of this process."""
        self.jobs.clear()
        self.exit_statuses.clear()
        self.refusals.clear()
        self.release()

    def claim(self, folder: Path, key: str) -> None:
        """Hold a folder until `release`; see `metarun.experiment.claim.claim`.

        Raises:
            FolderError: it cannot be had.
        """
        self.claims[folder.resolve()] = claim(folder, key)

    def holds(self, folder: Path) -> bool:
        """Whether the command holds this folder."""
        return folder.resolve() in self.claims

    def withdraw(self, folder: Path) -> None:
        """Remove what this command made in and above a folder that it holds, and let it go."""
        if own := self.claims.pop(folder.resolve(), None):
            own.withdraw()

    def release(self) -> None:
        """Let all folders go."""
        while self.claims:
            self.claims.popitem()[1].release()

    @contextmanager
    def planning(self, folder: Path, overrides: Sequence[str]) -> Iterator[None]:
        """Inside, a multirun is planned in a folder that is held until the command ends.

        Args:
            folder: the multirun's.
            overrides: of its cells, as they were typed.

        Raises:
            FolderError: the folder is another's, or cannot be written.
        """
        self.claim(folder, "hydra.sweep.dir")
        try:
            refuse_other_multirun(folder, overrides)
            yield
        except OSError as error:
            self.withdraw(folder)
            raise unusable(folder, "hydra.sweep.dir", error) from error
        except BaseException:
            self.withdraw(folder)
            raise

    def make_folders(self, jobs: Sequence[SweepJob]) -> None:
        """Make the folders of jobs: where that cannot be, nothing has begun yet.

        Raises:
            OSError: one cannot be made.
        """
        try:
            for job in jobs:
                job.made = make_folders(job.folder.absolute())
        except OSError:
            for folder in reversed([folder for job in jobs for folder in job.made]):
                with suppress(OSError):
                    folder.rmdir()
            raise

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
        """Remove what was made for a multirun none of whose jobs could start."""
        for job in self.jobs:
            if job.made:
                with suppress(OSError):
                    (job.folder / "result.json").unlink()
                remove_ours(job.folder)
                for folder in reversed(job.made):
                    with suppress(OSError):
                        folder.rmdir()
        if self.jobs:
            self.withdraw(self.jobs[0].sweep)


multirun = Multirun()


def worst(statuses: Sequence[int]) -> int:
    """1 if any run failed (or left no result), else 3 if any diverged."""
    return 1 if set(statuses) - {0, 3} else max(statuses, default=0)


def refuse_other_multirun(folder: Path, overrides: Sequence[str]) -> None:
    """Refuse a multirun in the folder of a run, or of a multirun that was started with something else.

    Raises:
        FolderError: there is one.
        DamagedFileError: nobody knows what the multirun there was started with.
    """
    if has_config(folder) or holds_checkpoint(folder) or (folder / "result.json").exists():
        raise FolderError(f"hydra.sweep.dir={folder} holds a run. Name another folder")
    if not (folder / "multirun.yaml").exists():
        return
    before = read_multirun(folder)["task"]
    if plain(before) != plain(overrides):
        raise FolderError(
            f"hydra.sweep.dir={folder} holds another multirun ({' '.join(before)}). Name another folder, or resume it: "
            f"sweep.resume={folder}"
        )


def plain(overrides: Sequence[str]) -> list[str]:
    """Overrides to be compared: in whatever order and quotes, and wherever the data lies."""
    bare = [re.sub(r"[\"'\\]", "", line).lstrip("+") for line in overrides]
    return sorted(line for line in bare if not PLACE.fullmatch(line.partition("=")[0]))
