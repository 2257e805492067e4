"""What becomes of a run, whichever launcher runs it."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress

import pytest
from commands import SMALL, metarun
from omegaconf import OmegaConf

from metarun.experiment.cell import RunSpec, holding, record_exit, record_failure, refuse
from metarun.experiment.choices import CONF
from metarun.experiment.claim import FolderError, claim
from metarun.experiment.multirun import multirun
from metarun.run_folder import has_whole_config


@pytest.fixture(autouse=True)
def no_command():
    multirun.clear()
    yield
    multirun.clear()


def spec(folder, sweep=None, resume=None) -> RunSpec:
    (folder / ".hydra").mkdir(parents=True)
    cfg = OmegaConf.create({"seed": 3, "run": {"resume": resume}})
    return RunSpec(cfg, {"algo": "maml", "data": "sinusoid", "backbone": "mlp"}, folder, ["seed=3"], sweep)


def test_the_exit_status_is_kept_and_the_value_returned(tmp_path):
    assert record_exit(spec(tmp_path / "run"), {"exit_status": 3, "mean": 0.5}) == 0.5
    assert multirun.exit_statuses == [3]


def test_a_signal_is_for_the_whole_multirun(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record_exit(spec(tmp_path / "run", sweep="sweep"), {"exit_status": 143, "mean": None})
    assert record_exit(spec(tmp_path / "alone"), {"exit_status": 143, "mean": None}) is None
    assert multirun.exit_statuses == [143, 143]


def test_a_refused_run_leaves_nothing_and_a_refused_job_says_why(tmp_path, capsys):
    folder = tmp_path / "above" / "run"
    multirun.claim(folder, "hydra.run.dir")
    assert refuse(spec(folder), "no such thing") == {"exit_status": 2, "mean": None}
    assert capsys.readouterr().err == "metarun: no such thing\n" and not list(tmp_path.iterdir())
    refuse(spec(tmp_path / "job", sweep="sweep"), "no such thing", silent=True)
    assert capsys.readouterr().err == ""
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert (result["status"], result["refused"], result["error"]) == ("failed", True, "no such thing")


def test_a_refused_resume_keeps_the_folder(tmp_path, capsys):
    own = spec(tmp_path / "run", resume="here")
    multirun.claim(own.folder, "hydra.run.dir")
    refuse(own, "no")
    assert [path.name for path in own.folder.iterdir()] == [".hydra"] and capsys.readouterr().err


def test_a_job_is_not_written_over_what_another_process_has_there(tmp_path, capsys):
    refuse(spec(tmp_path / "job", sweep="sweep"), FolderError("in use by process 7"))
    assert "process 7" in capsys.readouterr().err and not (tmp_path / "job" / "result.json").exists()


# ------------------------------------------------------------------------------------ a folder, and what is in it

FILES = {
    ".hydra/config.yaml": "seed: 3\nrun: {resume: null}\n",
    ".hydra/hydra.yaml": "hydra: {runtime: {choices: {algo: maml, data: sinusoid, backbone: mlp}}}\n",
    ".hydra/overrides.yaml": "[seed=3]\n",
}


def new(folder, **changes) -> RunSpec:
    folder.mkdir(parents=True, exist_ok=True)
    cfg = OmegaConf.create({"seed": 3, "run": {"resume": None}} | changes)
    return RunSpec(cfg, {"algo": "maml", "data": "sinusoid", "backbone": "mlp"}, folder, ["seed=3"], None, FILES)


def left(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_a_run_was_composed_of_is_kept_once(tmp_path):
    with holding(new(tmp_path / "run")):
        assert left(tmp_path / "run").items() >= FILES.items()
    own = new(tmp_path / "run")
    own.files = {name: text + "# again\n" for name, text in FILES.items()}
    with holding(own):
        assert left(tmp_path / "run").items() >= FILES.items()


@pytest.mark.parametrize("survives", range(8))
def test_killed_while_it_is_written_the_run_never_began_and_may_begin(survives, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def dying(call):
        def wrapped(*arguments, **keywords):
            if len(calls) == survives:
                raise Killed
            calls.append(call)
            return call(*arguments, **keywords)

        return wrapped

    calls: list = []
    for name in ("replace", "fsync"):
        monkeypatch.setattr(f"os.{name}", dying(getattr(os, name)))
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # a killed process removes nothing
    with suppress(Killed), holding(new(tmp_path / "run")):
        pass
    whole = has_whole_config(tmp_path / "run")
    assert whole is (len(calls) == 7) and (tmp_path / "run" / ".hydra").exists() is whole
    monkeypatch.undo()
    with holding(new(tmp_path / "run")):
        assert left(tmp_path / "run").items() >= FILES.items()
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".hydra", ".lock"}


def test_a_half_written_configuration_of_an_earlier_version_is_no_run(tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("seed: 3\nrun: {resu")
    with holding(new(tmp_path / "run")):
        assert left(tmp_path / "run").items() >= FILES.items()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"result.json": '{"status": "completed"}'}, "holds a run already"),
        ({"result.json": "{"}, "holds a run already"),
        ({"checkpoint/last.json": "{}"}, "holds a run already"),
        (FILES | {".hydra/config.yaml": "seed: 4\nrun: {resume: null}"}, "holds a run already"),
        ({"multirun.yaml": ""}, "holds a multirun"),
    ],
)
def test_a_folder_that_holds_anything_else_is_not_written_to(files, words, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(FolderError, match=words), holding(new(tmp_path)):
        pytest.fail("it was held")
    assert {name: text for name, text in left(tmp_path).items() if name != ".lock"} == files


def test_what_failed_before_it_came_to_anything_may_begin_again(tmp_path):
    with holding(new(tmp_path)):
        (tmp_path / "result.json").write_text('{"status": "failed"}')
    with holding(new(tmp_path)):
        pass


def test_a_full_disk_is_a_refusal(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with (
        pytest.raises(FolderError, match=r"must be a folder that can be written to \(No space left"),
        holding(new(tmp_path / "run")),
    ):
        pytest.fail("it was held")
    record_failure(spec(tmp_path / "job", sweep="sweep"), {"error": "no"})  # says so, and goes on


def test_a_job_that_could_not_write_its_result_has_one(tmp_path):
    record_failure(spec(tmp_path / "job", sweep="sweep"), {"error": "killed"})
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert result == {
        **{"format": 1, "status": "failed", "algo": "maml", "data": "sinusoid", "backbone": "mlp"},
        **{"seed": 3, "overrides": ["seed=3"], "mean": None, "error": "killed"},
    }


# ------------------------------------------------------------------------------------------------- whole commands


def everything(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture
def run(tmp_path):
    """A folder that holds a run, as the command left it that is asked for again below."""
    with holding(new(tmp_path / "run")):
        (tmp_path / "run" / "checkpoint").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize(
    "arguments",
    [
        ["hydra.run.dir='run'"],
        ['hydra.run.dir="run"'],
        ["++hydra.run.dir=run"],
        ["hydra.run.dir=./run/"],
        ["algo=maml", "hydra.run.dir=${hydra:runtime.cwd}/run"],
        ["-m", "seed=0", "hydra.sweep.dir=run"],
        ["-m", "seed=0", "hydra.sweep.dir=.", "hydra.sweep.subdir=run"],
    ],
    ids=" ".join,
)
def test_a_folder_that_holds_a_run_is_not_written_to_however_it_is_named(arguments, run):
    before = everything(run.parent)
    outcome = metarun(*SMALL, *arguments, folder=run.parent)
    assert outcome.status == 2 and "holds a run" in outcome.err, outcome
    assert outcome.err.count("\n") == 1 and everything(run.parent) == before


@pytest.mark.parametrize(
    ("arguments", "key"), [(["hydra.run.dir=run"], "run"), (["-m", "seed=0,1", "hydra.sweep.dir=run"], "sweep")]
)
def test_a_second_process_is_refused_and_told_who_works_there(arguments, key, tmp_path):
    own = claim(tmp_path / "run", "hydra.run.dir")
    outcome = metarun(*SMALL, *arguments, folder=tmp_path)
    own.release()
    assert outcome.status == 2
    assert f"metarun: {tmp_path / 'run'} is in use by process {os.getpid()} on" in outcome.err
    assert outcome.err.count("\n") == 1 and not everything(tmp_path)


@pytest.mark.slow
def test_a_cell_that_another_process_works_on_is_left_alone(tmp_path):
    own = claim(tmp_path / "sweep" / "seed=1", "hydra.sweep.dir")
    outcome = metarun("-m", *SMALL, "run.iterations=2", "seed=0,1", "hydra.sweep.dir=sweep", folder=tmp_path)
    own.release()
    assert outcome.status == 1 and f"seed=1 is in use by process {os.getpid()}" in outcome.err
    assert (tmp_path / "sweep" / "seed=0" / "result.json").is_file()
    assert {path.name for path in (tmp_path / "sweep" / "seed=1").iterdir()} == {".lock"}


@pytest.mark.parametrize("place", ["file", "file/run", "x" * 300, "-m"])
def test_a_place_where_no_folder_can_be_is_refused_in_one_line(place, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["-m", "seed=0,1", "hydra.sweep.dir=file"] if place == "-m" else [f"hydra.run.dir={place}"]
    outcome = metarun(*SMALL, *arguments, folder=tmp_path)
    assert outcome.status == 2 and "must be a folder that can be written to" in outcome.err
    assert outcome.err.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("more", [[], ["hydra.job.chdir=true"]], ids=["", "chdir"])
def test_a_refused_command_removes_only_what_it_made(more, tmp_path):
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    outcome = metarun(*SMALL, "run.iterations=0", "hydra.run.dir=mine/empty/a/b", *more, folder=tmp_path)
    assert outcome.status == 2 and "run.iterations must be" in outcome.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "mine"]
    assert metarun(*SMALL, "run.iterations=0", "hydra.run.dir=mine/empty", *more, folder=tmp_path).status == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "mine"]


def test_two_multiruns_of_one_second_have_two_folders():
    """Hydra resolves the time once a process: microseconds tell two processes apart."""
    config = OmegaConf.load(CONF / "config.yaml")
    for place in ("run", "sweep"):
        assert "%S-%f" in OmegaConf.to_container(config)["hydra"][place]["dir"]
