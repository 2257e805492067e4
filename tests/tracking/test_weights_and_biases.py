"""What W&B recorded, read back from the file of the run; no mock and no network.

A separate process writes the runs, as a user's process would: with a home folder that cannot be written, without an
account, and with its output checked. `wandb leet inspect --json` prints the records of a `.wandb` file, one JSON
object a line.
"""

import json
import logging
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from metarun.tracking.weights_and_biases import WandbTracker

SETTINGS = {"project": "metarun", "entity": None, "tags": ["few-shot"], "group": None, "log_model": False}
CONFIG = {"algo": {"name": "maml", "inner_lr": 0.01}, "data": {"hidden": [40, 40], "root": None}, "seed": 3}
ROWS = [{"step": step, "mean": 0.2 + 0.1 * step, "ci95": 0.01, "median": None} for step in range(3)]
RESULT = {
    "status": "completed",
    "metric": "accuracy",
    "mean": 0.95,
    "ci95": 0.01,
    "median": None,
    "tasks": 600,
    "steps": ROWS,
    "metrics": {"nll": {"mean": 0.25, "ci95": 0.02, "median": 0.2}},
    "paper": {"source": "table 1", "value": 0.987, "ci95": None},
    "versions": {"torch": "2"},
}

WRITER = f"""
import json, sys
from pathlib import Path
from metarun.tracking.jsonl import MetricsFile
from metarun.tracking.weights_and_biases import WandbTracker
SETTINGS, CONFIG, ROWS, RESULT = {SETTINGS!r}, {CONFIG!r}, {ROWS!r}, {RESULT!r}
folder, run_id, first, last = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3]), int(sys.argv[4])
metrics = MetricsFile(folder / "metrics.jsonl")
metrics.cut(first - 1)
tracker = WandbTracker(mode="offline", **{{**SETTINGS, "log_model": True}})
tracker.start(folder, CONFIG, "maml on omniglot", "lr sweep", ["quick"], run_id)
(folder / "run_id").write_text(tracker.run_id)
for iteration in range(first, last + 1, 100):
    for record in (metrics, tracker):
        record.log({{"train/loss": 1 / iteration, "train/accuracy": 0.5}}, iteration)
    if iteration % 200 == 0:
        tracker.log({{"val/accuracy": iteration / 1000, "learner/alpha": float("nan")}}, iteration)
tracker.curve("accuracy", ROWS)
tracker.figure("step_curve", folder / "figure.png")
tracker.summary(RESULT)
tracker.artifact(folder / "checkpoint")
tracker.finish(3)
tracker.finish(0)
"""


def environment() -> dict[str, str]:
    """An environment without an account or settings of W&B, and with a home folder that cannot be created."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return {**others, "HOME": os.devnull + "/none", "NETRC": os.devnull}


def records(run_folder: Path) -> list[dict]:
    """The records of the one `.wandb` file in an offline run's folder."""
    (file,) = run_folder.glob("run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_type(run: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in run if record["type"] == kind]


def history(run: list[dict]) -> list[dict]:
    return [row["item"] for row in of_type(run, "history")]


def metrics(run: list[dict]) -> list[dict]:
    """The history without W&B's own columns."""
    return [{key: value for key, value in row.items() if key[0] != "_"} for row in history(run)]


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run that stopped after iteration 500 and was resumed from 300, in a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "weights.safetensors").write_bytes(b"weights")
    Image.new("RGB", (4, 4)).save(folder / "figure.png")
    run_id = ""
    for first, last in ((100, 500), (400, 800)):
        command = [sys.executable, "-c", WRITER, str(folder), run_id, str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
        run_id = (folder / "run_id").read_text()
    return folder


@pytest.fixture(scope="module")
def first(folder) -> list[dict]:
    return records(offline_runs(folder)[0])


@pytest.fixture(scope="module")
def resumed(folder) -> list[dict]:
    return records(offline_runs(folder)[1])


@pytest.mark.slow
def test_config_name_group_and_tags(first):
    (run,) = of_type(first, "run")
    config = run["config"]["update"]
    assert {key: config[key] for key in CONFIG} == CONFIG
    assert (run["display_name"], run["project"], run["run_group"]) == (
        "maml on omniglot",
        "metarun",
        "lr sweep",
    )
    assert sorted(run["tags"]) == ["few-shot", "quick"]


@pytest.mark.slow
def test_history_has_the_keys_of_the_design_against_iteration(first):
    rows = [row for row in metrics(first) if "train/loss" in row]
    assert [row["iteration"] for row in rows] == [100, 200, 300, 400, 500]
    assert [row["train/loss"] for row in rows] == pytest.approx([1 / row["iteration"] for row in rows])
    assert rows[0] == {"iteration": 100, "train/loss": 0.01, "train/accuracy": 0.5}
    assert rows[1] == {  # two calls for one iteration are one row
        "iteration": 200,
        "train/loss": 0.005,
        "train/accuracy": 0.5,
        "val/accuracy": 0.2,
        "learner/alpha": "NaN",
    }
    glob = next(metric for metric in of_type(first, "metric") if metric.get("glob_name") == "*")
    assert glob["step_metric"] == "iteration"


def test_curve_is_a_table_and_a_plot(folder, first):
    (file,) = (offline_runs(folder)[0] / "files" / "media" / "table" / "curve").glob("accuracy_table*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["step", "mean", "ci95", "median"]
    assert table["data"] == [[row[column] for column in table["columns"]] for row in ROWS]
    last = metrics(first)[-1]
    assert last["curve/accuracy_table._type"] == "table-file" and last["iteration"] == 500
    plots = [config["update"] for config in of_type(first, "config") if "update" in config]
    plot = next(update for update in plots if any("visualize.curve/accuracy" in key for key in update))
    (panel,) = plot.values()
    assert panel["panel_config"]["fieldSettings"] | {"x": "step", "y": "mean"} == panel["panel_config"]["fieldSettings"]


def test_figure_is_in_the_run(folder, first):
    row = metrics(first)[-1]
    assert row["figures/step_curve._type"] == "image-file"
    copy = offline_runs(folder)[0] / "files" / row["figures/step_curve.path"]
    with Image.open(copy) as image:
        assert image.size == (4, 4)


def test_summary_has_the_result(first):
    summary: dict = {}
    for record in of_type(first, "summary"):
        summary |= record["update"]
    wanted = {
        "test/accuracy": 0.95,
        "test/accuracy_ci95": 0.01,
        "test/nll": 0.25,
        "test/nll_ci95": 0.02,
        "test/nll_median": 0.2,
        "result/status": "completed",
        "result/tasks": 600,
        "paper/value": 0.987,
        "paper/source": "table 1",
        "iteration": 500,
    }
    assert {key: summary.get(key) for key in wanted} == wanted
    assert "test/accuracy_median" not in summary  # null in result.json


def test_checkpoint_is_an_artifact_that_is_not_copied(folder, first):
    (model,) = [artifact for artifact in of_type(first, "artifact") if artifact["type"] == "model"]
    (file,) = model["manifest"]["contents"]
    assert file["path"] == "weights.safetensors"
    assert Path(file["local_path"]) == folder / "checkpoint" / "weights.safetensors"


def test_exit_code_is_the_run_s(first):
    assert [record["exit_code"] for record in of_type(first, "exit")] == [3]  # a slow run has a runtime beside it


def test_a_resumed_run_goes_on_with_the_id_and_above_the_steps_of_its_checkpoint(folder, first, resumed):
    (before,), (after,) = of_type(first, "run"), of_type(resumed, "run")
    assert after["run_id"] == before["run_id"] == (folder / "run_id").read_text()
    assert after["resume"] is True and "resume" not in before  # what `wandb sync` goes by to append
    # The rows before the checkpoint are there again, with the same steps: W&B takes either.
    wanted = [100, 200, 300, 400, 500, 600, 700, 800]
    assert [row["iteration"] for row in metrics(resumed)] == wanted
    assert [row["_step"] for row in history(resumed)] == wanted


def test_everything_lies_in_the_run_s_folder_and_can_be_uploaded_from_there(folder, first):
    for artifact in of_type(first, "artifact"):
        for file in artifact["manifest"]["contents"]:
            assert Path(file["local_path"]).is_relative_to(folder) and Path(file["local_path"]).is_file()
    assert {entry.name for entry in folder.iterdir()} == {
        "wandb",
        "checkpoint",
        "figure.png",
        "metrics.jsonl",
        "run_id",
    }


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to see every process's connections")
def test_offline_asks_nobody_on_the_network(folder, tmp_path):
    trace = tmp_path / "trace"
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    command = ["strace", "-f", "-e", "trace=connect,sendto", "-o", str(trace), sys.executable, "-c", WRITER]
    subprocess.run([*command, str(tmp_path / "run"), "", "100", "200"], env=environment(), check=True, timeout=60)
    calls = trace.read_text()
    assert "AF_UNIX" in calls  # wandb's own service: the trace sees something
    assert not re.findall(r"AF_INET6?[^_\w].*", calls)


def test_online_without_a_key_is_one_clear_error_and_no_question(tmp_path):
    """At a terminal wandb would ask for an account and wait."""
    script = """
import sys
from pathlib import Path
from metarun.tracking.weights_and_biases import WandbTracker
from metarun.tracking.tracker import TrackerError
tracker = WandbTracker("online", "metarun", None, [], None, False)
try:
    tracker.start(Path(sys.argv[1]), {}, "name", None, [], None)
except TrackerError as error:
    print(error)
"""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert "tracker.wandb.mode=online" in done.stdout and "No API key configured" in done.stdout
    assert "tracker.wandb.mode=offline" in done.stdout  # what to do instead


@pytest.mark.slow
def test_a_run_killed_right_after_its_checkpoint_and_resumed_has_every_row(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "figure.png")
    killed = WRITER.replace(
        'tracker.curve("accuracy", ROWS)', "import os, time; time.sleep(2.5); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", killed, str(tmp_path), "", "100", "500"], env=environment(), timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    run_id = (tmp_path / "run_id").read_text()
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), run_id, "600", "800"], env=environment(), check=True)
    before, after = (records(run_folder) for run_folder in offline_runs(tmp_path))
    assert of_type(before, "run")[0]["run_id"] == of_type(after, "run")[0]["run_id"] == run_id
    # On disk a moment after they were logged; the last row W&B still held open.
    assert [row["iteration"] for row in history(before)] == [100, 200, 300, 400]
    assert {row["iteration"] for row in [*history(before), *history(after)]} == set(range(100, 900, 100))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A tracker that records in this process."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)

    def start(name: str = "run") -> WandbTracker:
        tracker = WandbTracker(mode="offline", **SETTINGS)
        tracker.start(tmp_path / name, CONFIG, name, None, [], None)
        return tracker

    return start


@pytest.mark.slow
def test_a_lower_iteration_loses_no_row(started, tmp_path):
    tracker = started()
    for iteration in (10, 5, 5, 10, 20):
        tracker.log({"train/loss": float(iteration)}, iteration)
    tracker.finish(0)
    rows = history(records(offline_runs(tmp_path / "run")[0]))
    assert [(row["iteration"], row["train/loss"]) for row in rows] == [(10, 10), (5, 5), (10, 10), (20, 20)]


@pytest.mark.slow
def test_runs_of_one_process_are_recorded_apart_and_it_keeps_its_environment(started, tmp_path):
    before = dict(os.environ)
    for name in ("one", "two"):
        tracker = started(name)
        tracker.log({"train/loss": 1.0}, 100)
        tracker.finish(0)
        (run,) = of_type(records(offline_runs(tmp_path / name)[0]), "run")
        assert run["display_name"] == name and run["run_id"] == tracker.run_id
    assert dict(os.environ) == before


@pytest.mark.slow
def test_the_environment_names_a_run_and_what_is_typed_wins(tmp_path, monkeypatch):
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    theirs = {
        "WANDB_PROJECT": "theirs",
        "WANDB_NAME": "their name",
        "WANDB_TAGS": "one,two",
        "WANDB_RUN_GROUP": "their group",
        "WANDB_NOTES": "their notes",
        "WANDB_RUN_ID": "theirid1",
    }
    for key, value in theirs.items():
        monkeypatch.setenv(key, value)
    config = {"tracker": {"wandb": {"mode": None, "project": None}}}
    typed = WandbTracker(None, "typed", None, None, None, False)
    for name, tracker in (("typed", typed), ("all", WandbTracker(None, None, None, None, None, False))):
        tracker.start(tmp_path / name, config, "ours", None, ["maml"], None)
        tracker.finish(0)
        (run,) = of_type(records(offline_runs(tmp_path / name)[0]), "run")
        assert run["project"] == ("typed" if name == "typed" else "theirs")
        assert (run["display_name"], run["run_group"], run["notes"]) == ("their name", "their group", "their notes")
        assert run["run_id"] == tracker.run_id == "theirid1" and sorted(run["tags"]) == ["maml", "one", "two"]
        assert run["config"]["update"]["tracker"]["wandb"] == {
            "mode": "offline",
            "project": run["project"],
            "entity": None,
        }
        assert tracker.describe() == {
            "mode": "offline",
            "project": run["project"],
            "entity": None,
            "run_id": "theirid1",
        }
    cells = [WandbTracker(None, None, None, None, None, False) for _ in range(2)]
    for number, tracker in enumerate(cells):
        tracker.start(tmp_path / f"cell_{number}", {}, "ours", "sweep", [], None)
        tracker.finish(0)
        (run,) = of_type(records(offline_runs(tmp_path / f"cell_{number}")[0]), "run")
        assert (run["display_name"], run["run_id"]) == (f"their name/cell_{number}", tracker.run_id)
    assert len({"theirid1", *(tracker.run_id for tracker in cells)}) == 3
    assert os.environ["WANDB_RUN_ID"] == "theirid1"


def test_the_files_lie_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    tracker = WandbTracker("offline", None, None, None, None, False)
    tracker.start(tmp_path / "run", {}, "name", None, [], None)
    tracker.finish(0)
    assert len(offline_runs(tmp_path / "elsewhere")) == 1 and not offline_runs(tmp_path / "run")


def test_an_error_of_wandb_is_one_warning_and_the_run_goes_on(started, tmp_path, monkeypatch, caplog):
    tracker = started()
    tracker.log({"train/loss": 1.0}, 100)

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(tracker.run, "log", fail)
    with caplog.at_level(logging.WARNING):
        tracker.log({"train/loss": 1.0}, 200)
        tracker.log({"train/loss": 1.0}, 300)
        tracker.curve("accuracy", ROWS)
        tracker.summary(RESULT)
    (warning,) = [record for record in caplog.records if record.name.startswith("metarun")]
    assert "from iteration 200 on" in warning.message and "no space left" in warning.message
    assert "metrics.jsonl" in warning.message
    tracker.finish(1)
    run = records(offline_runs(tmp_path / "run")[0])
    assert [row["iteration"] for row in history(run)] == [100]
    assert of_type(run, "exit") == [{"exit_code": 1}]


def test_ctrl_c_is_not_swallowed(started, monkeypatch):
    tracker = started()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracker.run, "log", interrupt)
        tracker.log({"train/loss": 1.0}, 1)
    tracker.finish(130)


def test_a_result_without_numbers_and_no_log_at_all(started, tmp_path):
    tracker = started()
    tracker.curve("mse", [{"step": 0, "mean": 1.0, "ci95": 0.1, "median": 1.0}])
    tracker.summary({"status": "failed", "metric": None, "paper": None, "error": "out of memory"})
    tracker.artifact(tmp_path / "nowhere")  # log_model is false
    tracker.finish(1)
    run = records(offline_runs(tmp_path / "run")[0])
    summary = {key: value for record in of_type(run, "summary") for key, value in record["update"].items()}
    assert summary["result/status"] == "failed" and not any(key.startswith("test/") for key in summary)


def test_disabled_and_unstarted_record_nothing_and_import_nothing(tmp_path):
    script = """
import sys
from pathlib import Path
from metarun.tracking.weights_and_biases import WandbTracker
tracker = WandbTracker("disabled", "metarun", None, [], None, True)
tracker.start(Path(sys.argv[1]), {}, "name", None, [], None)
tracker.log({"train/loss": 1.0}, 1)
tracker.curve("mse", [])
tracker.figure("name", Path("none.png"))
tracker.summary({})
tracker.artifact(Path("none"))
tracker.finish(0)
assert tracker.run_id is None and "wandb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert not list(tmp_path.iterdir())


def test_an_unknown_mode_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="tracker.wandb.mode must be one of online, offline, disabled; got 'ofline'"):
        WandbTracker(mode="ofline", **SETTINGS)
