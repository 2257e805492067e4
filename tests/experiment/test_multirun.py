"""What a command knows of its runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metarun.experiment.multirun import Multirun, SweepJob, worst
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
    sweep = tmp_path / "above" / "sweep"
    multirun = Multirun()
    with multirun.planning(sweep, []):
        jobs = [SweepJob(n, [], sweep, sweep / str(n)) for n in (0, 1)]
        multirun.make_folders(jobs)
        (sweep / "multirun.yaml").write_text("")
    multirun.jobs = jobs
    for one in jobs:
        write_json(one.folder / "result.json", {"status": "failed", "refused": True})
        (one.folder / ".hydra").mkdir()
    assert multirun.all_refused() and multirun.exit_status() == 2
    multirun.remove_refused()
    assert not list(tmp_path.iterdir())
    multirun.clear()
    assert multirun == Multirun() and not multirun.all_refused()


def test_what_was_there_before_a_refused_multirun_stays(tmp_path):
    cell = tmp_path / "sweep" / "0"
    cell.mkdir(parents=True)
    multirun = Multirun()
    with multirun.planning(tmp_path / "sweep", []):
        multirun.jobs = [SweepJob(0, [], tmp_path / "sweep", cell)]
        multirun.make_folders(multirun.jobs)
    write_json(cell / "result.json", {"status": "failed", "refused": True})
    multirun.remove_refused()
    assert cell.is_dir() and not (tmp_path / "sweep" / ".lock").exists()


def test_where_a_cell_can_have_no_folder_nothing_is_left(tmp_path):
    sweep = tmp_path / "sweep"
    jobs = [SweepJob(n, [], sweep, sweep / name) for n, name in enumerate(("a/b", "c", "x" * 300))]
    multirun = Multirun()
    with pytest.raises(ValueError, match="hydra.sweep.dir must be a folder .+File name too long"):
        with multirun.planning(sweep, []):
            multirun.make_folders(jobs)
    assert not list(tmp_path.iterdir())


SAVED = "hydra: {overrides: {task: ['algo=maml', 'seed=0,1'], hydra: []}}"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("multirun.yaml", SAVED, "holds another multirun (algo=maml seed=0,1)"),
        ("multirun.yaml", "[", "multirun.yaml is damaged"),
        ("result.json", "{}", "holds a run"),
        (".hydra/config.yaml", "seed: 0", "holds a run"),
        ("checkpoint/last.json", "{}", "holds a run"),
    ],
)
def test_a_multirun_does_not_start_in_the_folder_of_another(file, text, words, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    multirun = Multirun()
    with pytest.raises(ValueError, match=re.escape(words)), multirun.planning(tmp_path, ["algo=maml", "seed=2,3"]):
        pytest.fail("it was planned")
    assert not multirun.claims and not (tmp_path / ".lock").exists()


def test_the_same_multirun_goes_on_in_its_folder(tmp_path):
    (tmp_path / "multirun.yaml").write_text(SAVED)
    multirun = Multirun()
    with multirun.planning(tmp_path, ["seed=0,1", "algo=maml"]):
        assert multirun.holds(tmp_path)
    assert multirun.holds(tmp_path)
    multirun.release()
    assert not multirun.holds(tmp_path) and (tmp_path / "multirun.yaml").is_file()
