"""Runs as they lie on the disk, whole and broken."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import write_config, write_run

from metarun.run_folder import (
    DamagedFileError,
    can_resume,
    has_whole_config,
    holds_checkpoint,
    is_same_config,
    load_yaml,
    natural,
    read_choices,
    read_config,
    read_multirun,
    read_overrides,
    read_result,
    read_run,
    read_runs,
    read_tracker_ids,
    result_mtime,
    result_or_empty,
    run_folders,
    status_of,
)
from metarun.tracking.trackers import write_run_ids


def test_a_run_is_read_whole(tmp_path):
    write_run(tmp_path / "run", algo="mtnet", seed=3, inner_lr=0.1, mean=0.25)
    run = read_run(tmp_path / "run")
    assert (run.algo, run.seed, run.mean, run.metric, run.status, run.problem) == (
        *("mtnet", 3, 0.25, "mse", "completed"),
        None,
    )
    assert run.inner_lr == 0.1 and run.settings["algo.inner_lr"] == 0.1
    assert len(run.history()) > 20 and run.history()[-1]["iteration"] == 1000
    assert run.episodes().shape == (20,)
    assert not run.higher_is_better


RATES = {
    "a number": ({"inner_lr": 0.1}, 0.1),
    "text, as YAML 1.1 reads 1e-05": ({"inner_lr": "1e-05"}, 1e-5),
    "rates that all begin alike": ({"inner_lr": None, "initial_rates": [0.2, 0.2]}, 0.2),
    "rates drawn from a range": ({"inner_lr": None, "initial_rates": [0.005, 0.1]}, None),
    "none": ({"inner_lr": None}, None),
    "an interpolation": ({"inner_lr": "${algo.other}"}, None),
}


@pytest.mark.parametrize(("algo", "wanted"), RATES.values(), ids=RATES)
def test_the_inner_rate_whatever_it_is_called(algo, wanted, tmp_path):
    write_run(tmp_path / "run", config={"algo": algo})
    assert read_run(tmp_path / "run").inner_lr == wanted


def broken_json(folder):
    (folder / "result.json").write_text('{"status": "comp')


def list_json(folder):
    (folder / "result.json").write_text("[1, 2]")


def unknown_status(folder):
    (folder / "result.json").write_text('{"status": 3, "algo": "maml"}')


def binary(folder):
    (folder / "result.json").write_bytes(b"\xff\xfe\x00")


def broken_yaml(folder):
    (folder / ".hydra" / "config.yaml").write_text("a: [1\nb: {")


def no_result(folder):
    (folder / "result.json").unlink()


def no_config(folder):
    (folder / ".hydra" / "config.yaml").unlink()


DAMAGE = {
    broken_json: ("broken", "result.json cannot be read"),
    list_json: ("broken", "result.json cannot be read"),
    unknown_status: ("broken", "status must be one of completed, diverged, failed, interrupted; got 3"),
    binary: ("broken", "result.json cannot be read"),
    broken_yaml: ("broken", "config.yaml cannot be read"),
    no_result: ("unfinished", "no result.json"),
    no_config: ("completed", "no .hydra/config.yaml"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_broken_run_is_listed_as_such(damage, tmp_path):
    write_run(tmp_path / "run")
    damage(tmp_path / "run")
    (run,) = read_runs([tmp_path])
    status, problem = DAMAGE[damage]
    assert run.status == status
    assert problem in run.problem
    assert run.settings is not None and run.inner_lr in (0.01, None)


def test_damaged_metrics_and_episodes_are_none(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{\n{}\n{}")
    (tmp_path / "run" / "episodes.npz").write_bytes(b"PK half")
    run = read_run(tmp_path / "run")
    assert run.history() == [] and run.episodes() is None


def test_runs_are_found_at_any_depth_each_once_in_natural_order(tmp_path):
    for name in ("b/cell_10", "b/cell_9", "a"):
        write_run(tmp_path / name)
    write_run(tmp_path / "a" / "wandb" / "not_a_run")  # below a run is only its own
    assert [str(path.relative_to(tmp_path)) for path in run_folders(tmp_path)] == ["a", "b/cell_9", "b/cell_10"]
    assert [run.name for run in read_runs([tmp_path])] == ["a", "b/cell_9", "b/cell_10"]
    assert [run.name for run in read_runs([tmp_path / "b", tmp_path, tmp_path / "a"])][:2] == ["b/cell_9", "b/cell_10"]
    assert len(read_runs([tmp_path, tmp_path / "a"])) == 3


def test_paths_without_runs_are_refused(tmp_path):
    write_config(tmp_path / "begun", {"seed": 0})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert read_runs([tmp_path / "begun"])[0].status == "unfinished"
    for name, words in (("empty", "holds no run"), ("file", "is no folder"), ("nowhere", "there is no")):
        with pytest.raises(FileNotFoundError, match=words):
            read_runs([tmp_path / name])


def test_numbers_in_names_sort_as_numbers():
    assert sorted(["a10", "a9", "b1", "a", "10", "9"], key=natural) == ["9", "10", "a", "a9", "a10", "b1"]


def test_a_mean_that_is_no_number_is_none(tmp_path):
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mean": None}))
    assert read_run(tmp_path / "run").mean is None


def test_a_run_without_a_result_is_known_by_what_hydra_wrote(tmp_path):
    write_config(tmp_path / "run", {"seed": 0})
    assert (read_run(tmp_path / "run").algo, read_run(tmp_path / "run").data) == ("?", "?")
    choices = "hydra: {runtime: {choices: {algo: learn2learn/maml, data: omniglot}}}"
    (tmp_path / "run" / ".hydra" / "hydra.yaml").write_text(choices)
    run = read_run(tmp_path / "run")
    assert (run.algo, run.data, run.status) == ("learn2learn/maml", "omniglot", "unfinished")


# ---------------------------------------------------------------------------------------- one thing of a folder

FIXTURES = Path(__file__).parent / "fixtures" / "format_0"


def test_numbers_are_read_as_omegaconf_reads_them():
    text = "a: 1e-05\nb: 1.5e3\nc: 1e5x\nd: -2E+3\ne: .5e1\nf: 12\ng: 1_000e2\nh: e5\n"
    assert load_yaml(text) == OmegaConf.to_container(OmegaConf.create(text))
    assert load_yaml(text)["a"] == 1e-05 and load_yaml(text)["c"] == "1e5x"


def test_a_run_of_an_earlier_version_is_read_by_todays_names():
    folder = FIXTURES / "completed"
    assert read_result(folder)["partition"] is None and status_of(folder) == "completed"
    assert read_choices(folder)["algo"] == "mtnet"
    assert read_config(folder)["run"]["meta_batch_size"] == 4
    assert read_config(folder)["scheduler"]["step_size"] == 200
    assert "device.task_micro_batch=3" in read_overrides(folder)


def test_what_can_be_resumed(tmp_path):
    assert can_resume(FIXTURES / "interrupted") and not can_resume(FIXTURES / "completed")
    assert holds_checkpoint(FIXTURES / "completed") and not holds_checkpoint(tmp_path)
    assert not can_resume(tmp_path) and status_of(tmp_path) is None and result_mtime(tmp_path) is None
    assert result_mtime(FIXTURES / "completed") == (FIXTURES / "completed" / "result.json").stat().st_mtime_ns


def test_a_damaged_result_is_no_result(tmp_path):
    for text in ("{", "[1]", ""):
        (tmp_path / "result.json").write_text(text)
        assert result_or_empty(tmp_path) == {} and status_of(tmp_path) is None


def test_a_multirun_is_read(tmp_path):
    saved = read_multirun(FIXTURES / "sweep")
    assert "seed=0,1" in saved["task"] and "scheduler=step" in saved["task"]
    assert not any("optimizer.schedule" in word for word in saved["task"])
    with pytest.raises(FileNotFoundError, match="is no multirun's folder"):
        read_multirun(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no run's folder"):
        read_config(tmp_path)


def test_the_services_names_of_a_run(tmp_path):
    assert read_tracker_ids(tmp_path / "tracker.json") == {}
    (tmp_path / "tracker.json").write_text("abc123")  # as earlier versions wrote it
    assert read_tracker_ids(tmp_path / "tracker.json") == {"wandb": "abc123"}
    write_run_ids(tmp_path / "tracker.json", {"wandb": "x", "other": "y"})
    assert read_tracker_ids(tmp_path / "tracker.json") == {"wandb": "x", "other": "y"}


# ------------------------------------------------------------------------------------------------ damaged files


NO_MAPPING = {
    "empty": b"",
    "cut off": b"a: [1\nb: {",
    "binary": b"\xff\xfe\x00\x80",
    "a list": b"- 1",
    "a number": b"3",
}
CUT_JSON = {"empty": b"", "cut off": b'{"status": "comp', "binary": b"\xff\xfe\x00", "a list": b"[1]", "null": b"null"}
WRONG = {
    "status a number": {"status": 3},
    "mean text": {"mean": "0.5"},
    "mean a list": {"mean": [0.5]},
    "steps a mapping": {"steps": {}},
    "metrics a list": {"metrics": []},
    "overrides text": {"overrides": "seed=1"},
    "paper text": {"paper": "0.5"},
}
RESULT = {name: json.dumps({"status": "completed"} | wrong).encode() for name, wrong in WRONG.items()}
CHOICES = {
    "no hydra": b"a: 1",
    "no choices": b"hydra: {runtime: {}}",
    "choices a list": b"hydra: {runtime: {choices: [maml]}}",
    "no algo": b"hydra: {runtime: {choices: {data: sinusoid}}}",
    "algo a number": b"hydra: {runtime: {choices: {algo: 1, data: sinusoid}}}",
}
TEXTS = {"a mapping": b"a: 1", "numbers": b"[1, 2]", "null": b"null", "text": b"seed=1"}
MULTIRUN = {"no overrides": b"hydra: {}", "numbers": b"hydra: {overrides: {task: [1], hydra: []}}"}


def read_ids(folder):
    return read_tracker_ids(folder / "checkpoint" / "tracker.json")


KINDS = {
    "result.json": (read_result, CUT_JSON | RESULT),
    ".hydra/config.yaml": (read_config, NO_MAPPING | {"a group is no mapping": b"run: 3", "a bomb": b"a: &a [*a]"}),
    ".hydra/hydra.yaml": (read_choices, NO_MAPPING | CHOICES),
    ".hydra/overrides.yaml": (read_overrides, {"cut off": b"[seed=1,", "binary": b"\xff\xfe\x00"} | TEXTS),
    "multirun.yaml": (read_multirun, NO_MAPPING | MULTIRUN),
    "checkpoint/tracker.json": (read_ids, {"cut off": b'{"wandb', "a list": b'{"wandb": []}'}),
}
CASES = [(file, kind) for file, (_, kinds) in KINDS.items() for kind in [*kinds, "a folder", "missing"]]


@pytest.mark.parametrize(("file", "kind"), CASES, ids=[f"{file}: {kind}" for file, kind in CASES])
def test_a_damaged_file_is_named_in_one_line_that_says_what_can_be_done(file, kind, tmp_path):
    read, kinds = KINDS[file]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(kinds[kind])
    lenient = kind in ("missing", "a folder") and "checkpoint" in file  # as if there were none
    absent = kind in ("missing", "a folder") and file in (".hydra/config.yaml", "multirun.yaml")
    if lenient:
        assert read(tmp_path) == {}
        return
    error = FileNotFoundError if absent or (kind, file) == ("missing", "result.json") else DamagedFileError
    with pytest.raises(error) as raised:
        read(tmp_path)
    message = str(raised.value)
    assert "\n" not in message and (file in message or absent or kind == "missing")
    if error is DamagedFileError:
        assert re.search(r"[Dd]elete|[Rr]epeat", message), message
    assert not has_whole_config(tmp_path)


def test_what_is_left_of_a_run_decides_what_can_be_done(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: [")
    with pytest.raises(DamagedFileError, match="never began: repeat its command"):
        read_config(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(DamagedFileError, match="cannot go on: repeat its command with another folder"):
        read_config(tmp_path)


def test_a_configuration_is_the_same_wherever_its_data_lies(tmp_path):
    one = {"seed": 0, "data": {"root": "a", "ways": 5}, "run": {"resume": None}, "sweep": {"seed": [0, 1]}}
    assert is_same_config(one, {"seed": 0, "data": {"root": "b", "ways": 5}, "run": {"resume": "x"}})
    assert not is_same_config(one, {"seed": 0, "data": {"root": "b", "ways": 2}, "run": {"resume": "x"}})


def test_files_that_were_changed_after_the_run_are_told(tmp_path):
    folder = write_run(tmp_path / "run")
    digests = {
        file: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for file in (".hydra/config.yaml", "episodes.npz")
    }
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"sha256": digests}))
    assert read_run(folder).status == "completed" and read_run(folder).episodes() is not None
    with (folder / "episodes.npz").open("ab") as file:
        file.write(b"more")
    assert read_run(folder).episodes() is None
    with (folder / ".hydra" / "config.yaml").open("a") as file:
        file.write("more: 1\n")
    run = read_run(folder)
    assert run.status == "broken" and run.problem == ".hydra/config.yaml was changed after the run"


def test_a_folder_without_an_eval_seed_is_of_the_first_stream():
    before = {"run": {"eval_tasks": 600}}
    assert is_same_config(before, {"run": {"eval_tasks": 600, "eval_seed": 0}})
    assert not is_same_config(before, {"run": {"eval_tasks": 600, "eval_seed": 1}})


@pytest.mark.parametrize(("eval_tasks", "saved", "same"), [(600, 200, True), (600, 100, False), (20, 20, True)])
def test_a_number_of_validation_tasks_that_follows_is_the_one_that_was_written_once(eval_tasks, saved, same):
    before = {"run": {"eval_tasks": eval_tasks, "val_tasks": saved}}
    assert is_same_config(before, {"run": {"eval_tasks": eval_tasks, "val_tasks": None}}) is same
