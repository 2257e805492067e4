"""Runs as data: chosen by settings, written so that other programs read them, compared by what differs."""

from __future__ import annotations

import csv
import json

import pytest
from runs import write_config, write_run

from metarun.report.main import main
from metarun.report.rows import Condition, differences, minutes_to, row, select, value_of
from metarun.run_folder import read_runs

HISTORY = [
    {"iteration": 10, "train/loss": 1.0, "time/train_seconds": 30.0},
    {"iteration": 20, "val/mse": 0.9, "time/train_seconds": 60.0},
    {"iteration": 30, "val/mse": None, "time/train_seconds": 80.0},
    {"iteration": 40, "val/mse": 0.4, "time/train_seconds": 90.0},
    {"iteration": 50, "val/mse": 0.6, "time/train_seconds": 120.0},
]


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    write_run(folder / "a", seed=0, inner_lr=0.1, history=HISTORY)
    write_run(folder / "b", seed=1, inner_lr=0.01, config={"data": {"shots": 5, "ways": "${data.shots}"}})
    write_run(folder / "c", algo="mtnet", mean=None, status="diverged", config={"data": {"names": ["x", "y"]}})
    write_config(folder / "d", {"seed": 3})
    return folder


def names(chosen) -> list[str]:
    return [run.name for run in chosen]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["algo=maml"], ["a", "b"]),
        (["algo=m*", "seed!=0"], ["b"]),
        (["algo.inner_lr=1e-1"], ["a"]),
        (["algo=maml algo.inner_lr=0.010"], ["b"]),
        (["data.ways=5"], ["b"]),
        (["data.shots=null", "status=completed"], []),
        (["status!=completed"], ["c", "d"]),
        (["data.names=[x,y]"], []),
        (["'data.names=[[]x,y]'"], ["c"]),
        (["name=?", "seed=3"], ["d"]),
    ],
)
def test_conditions_choose(words, wanted, runs):
    found = read_runs([runs])
    if not wanted:
        with pytest.raises(LookupError, match="none of 4 runs fits --where"):
            select(found, words)
        return
    assert names(select(found, words)) == wanted


def test_what_is_no_condition_is_refused(runs):
    found = read_runs([runs])
    with pytest.raises(LookupError, match=r"no run has the key data.shot. Nearest: data.shots"):
        select(found, ["data.shot=1"])
    for word in ("algo", "=maml", "!=3"):
        with pytest.raises(ValueError, match="--where must be conditions KEY=VALUE or KEY!=VALUE"):
            select(found, [word])


def test_values_are_those_that_keys_refer_to(runs):
    b = read_runs([runs])[1]
    assert (value_of(b, "data.ways"), value_of(b, "algo"), value_of(b, "nothing")) == (5, "maml", None)
    write_run(runs / "circle", config={"data": {"ways": "${data.ways}"}})
    assert Condition.read("data.ways=5").holds(read_runs([runs / "circle"])[0]) is False


def test_minutes_until_validation_is_there(runs):
    a = read_runs([runs])[0]
    assert minutes_to(a, 0.5) == 1.5 and minutes_to(a, 0.9) == 1 and minutes_to(a, 0.1) is None
    write_run(
        runs / "up",
        metric="accuracy",
        higher_is_better=True,
        history=[{**line, "val/accuracy": line.get("val/mse")} for line in HISTORY],
    )
    up = next(run for run in read_runs([runs]) if run.name == "up")
    assert minutes_to(up, 0.5) == 1 and minutes_to(up, 0.95) is None


def test_only_what_differs_is_shown(runs):
    found = read_runs([runs])
    assert differences(found[:1]) == {}
    assert differences(found[:2]) == {
        "seed": ["0", "1"],
        "algo.inner_lr": ["0.1", "0.01"],
        "data.shots": ["10", "5"],
        "data.ways": ["", "5"],
    }


def test_files_hold_every_run_and_are_read_by_others(runs, tmp_path):
    target = (tmp_path / "r.json", tmp_path / "r.csv")
    with pytest.raises(SystemExit) as ended:
        main([str(runs), "--json", str(target[0]), "--csv", str(target[1]), "--minutes-to", "0.5", "--differences"])
    assert ended.value.code == 0
    rows = json.loads(target[0].read_text())
    assert [(entry["name"], entry["status"]) for entry in rows] == [
        ("a", "completed"),
        ("b", "completed"),
        ("c", "diverged"),
        ("d", "unfinished"),
    ]
    assert rows[0]["minutes_to_target"] == 1.5 and rows[0]["algo.inner_lr"] == 0.1 and rows[1]["data.ways"] == 5
    assert rows[2]["mean"] is None and rows[2]["problem"] == "it diverged" and rows[2]["data.names"] == ["x", "y"]
    table = list(csv.DictReader(target[1].open()))
    assert float(table[0]["mean"]) == 0.5 and table[2]["data.names"] == "[x,y]" and table[3]["mean"] == ""


def test_the_terminal_shows_minutes_and_differences(runs, capsys):
    with pytest.raises(SystemExit):
        main([str(runs), "--where", "algo=maml", "--minutes-to", "0.5", "--differences"])
    out = capsys.readouterr().out
    assert "minutes" in out and "1.5" in out and "algo.inner_lr" in out and "2 runs: 2 completed" in out


def test_metrics_beside_the_headline_have_columns(runs):
    run = read_runs([runs])[0]
    run.result["metrics"] = {"nll": {"mean": 1.0, "ci95": 0.1}, "odd": 3}
    found = row(run)
    assert (found["nll.mean"], found["nll.ci95"], found["odd.mean"]) == (1.0, 0.1, None)
    assert "minutes_to_target" not in found
