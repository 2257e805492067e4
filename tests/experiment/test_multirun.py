"""What a command knows of its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarun.experiment.multirun import Multirun, SweepJob, remove_unused, worst
from metarun.files import write_json


def job(folder: Path, number: int, **result) -> SweepJob:
    where = folder / str(number)
    where.mkdir(parents=True)
    if result:
        write_json(where / "result.json", result)
    return SweepJob(number, [], folder, where)


@pytest.mark.parametrize(("statuses", "total"), [([], 0), ([0, 0], 0), ([0, 3], 3), ([3, 1], 1), ([0, 130], 1)])
def test_the_worst_status(statuses, total):
    assert worst(statuses) == total


def test_a_single_runs_status_is_the_commands():
    assert Multirun(exit_statuses=[130]).exit_status() == 130


@pytest.mark.parametrize(
    ("results", "status"),
    [
        (["completed", "completed"], 0),
        (["completed", "diverged"], 3),
        (["diverged", "failed"], 1),
        (["completed", None], 1),  # it left no result
    ],
)
def test_what_counts_of_a_multirun_is_what_its_jobs_left(results, status, tmp_path):
    jobs = [job(tmp_path, n, **({"status": s} if s else {})) for n, s in enumerate(results)]
    multirun = Multirun(jobs)
    assert multirun.exit_status() == status
    assert multirun.done() == sum(s in ("completed", "diverged") for s in results)
    multirun.note_failure()
    assert multirun.exit_status() == 1


def test_a_multirun_of_which_nothing_could_start_is_refused_and_removed(tmp_path):
    sweep = tmp_path / "sweep"
    multirun = Multirun([job(sweep, n, status="failed", refused=True) for n in (0, 1)])
    (sweep / "multirun.yaml").write_text("")
    assert multirun.all_refused() and multirun.exit_status() == 2
    multirun.remove_refused()
    assert not sweep.exists()
    multirun.clear()
    assert multirun == Multirun() and not multirun.all_refused()


def test_a_folder_that_holds_anything_else_stays(tmp_path):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "mine.txt").write_text("")
    remove_unused(folder)
    assert (folder / "mine.txt").is_file()
