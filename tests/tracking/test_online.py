"""`tracker.wandb.mode=online`: what the command really sends to a W&B server, and what it does when there is none.

The client is wandb's own, the server is `tests/helpers/wandb_server.py`, which says what that proves and what not.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import ROOT, SMALL, Outcome, metarun, start
from PIL import Image
from wandb_server import ACCOUNT, Run, WandbServer

from metarun.experiment.session import Experiment
from metarun.run_folder import read_result, read_tracker_ids
from metarun.tracking import weights_and_biases
from metarun.tracking.jsonl import MetricsFile, read_metrics
from metarun.tracking.weights_and_biases import WandbTracker

KEY = "0123456789" * 4
ONLINE = (
    *SMALL,
    "tracker=wandb",
    "tracker.wandb.mode=online",
    "tracker.wandb.project=warm-up",
    "tracker.wandb.entity=our-team",
)
NAMED = (
    "tracker.wandb.group=rates",
    "tracker.wandb.tags=[thesis]",
    "tracker.wandb.log_model=true",
    "algo.inner_lr=0.02",
)


def settings(url: str, home: Path) -> dict[str, str]:
    """The environment variables of a user with an account at `url`."""
    return {"HOME": str(home), "NETRC": os.devnull, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}


def sync(*words: str, folder: Path) -> None:
    """Run `wandb sync`, without the error reports that it would send over the network."""
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *words],
        cwd=folder,
        env={**os.environ, "WANDB_ERROR_REPORTING": "false"},
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture(scope="module", autouse=True)
def no_settings_of_the_user():
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("WANDB_")]:
            patch.delenv(key)
        yield


@pytest.fixture
def account(tmp_path, monkeypatch):
    """Make this process that of a user with an account at a URL; wandb keeps its settings until it is torn down."""
    import wandb

    def use(url: str, **environment: str) -> None:
        wandb.teardown()
        for key, value in {**settings(url, tmp_path / "home"), **environment}.items():
            monkeypatch.setenv(key, value)

    yield use
    wandb.teardown()


def only_run(server: WandbServer) -> Run:
    (received,) = server.runs.values()
    return received


def iterations(received: Run) -> list[int]:
    return [row["iteration"] for row in received.history]


def of_user(row: dict) -> dict:
    """A row without W&B's own columns and without files."""
    return {key: value for key, value in row.items() if key[0] != "_" and not isinstance(value, dict)}


def logged(folder: Path) -> list[dict]:
    """The rows that W&B should have: those of metrics.jsonl, with the lines of one iteration merged."""
    rows: dict[int, dict] = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        rows.setdefault(row["iteration"], {}).update(row)
    return [rows[iteration] for iteration in sorted(rows)]


def at_33(monkeypatch, act: Callable[[], None]) -> tuple[str, ...]:
    """Act after the checkpoint of iteration 33 in the runs of this process; returns the arguments that they need."""
    save = Experiment.save

    def save_and_act(self, name):
        save(self, name)
        if self.state.iteration == 33:
            act()

    monkeypatch.setattr(Experiment, "save", save_and_act)
    return (*ONLINE, "run.checkpoint_seconds=0", "hydra.run.dir=run")


# ---------------------------------------------------------------------------------------------- a run from end to end


class Sent(NamedTuple):
    """The output of a process, its run's folder, and what the server received."""

    output: str
    folder: Path
    server: WandbServer
    received: Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_settings_of_the_user) -> Sent:
    parent = tmp_path_factory.mktemp("online")
    with WandbServer() as server:
        environment = settings(server.url, parent / "home")
        process = start(*ONLINE, *NAMED, "hydra.run.dir=a run", folder=parent, **environment)
        try:
            output = "".join(process.communicate(timeout=200))
        finally:
            process.kill()
    assert process.returncode == 0, output
    return Sent(output, parent / "a run", server, only_run(server))


@pytest.mark.slow
def test_nothing_but_the_result_is_printed_and_no_error_report_sent(finished):
    printed = [line for line in finished.output.splitlines() if "[INFO]" not in line]  # a log, where no terminal is
    assert printed[0].startswith("maml on sinusoid") and "wandb" not in finished.output.lower()
    assert {path.split("/")[1] for _, path, *_ in finished.server.requests} == {"graphql", "files", "upload"}


@pytest.mark.slow
def test_the_run_lies_under_the_given_project_and_entity(finished):
    assert (finished.received.entity, finished.received.project) == ("our-team", "warm-up")
    assert {request.key for request in finished.server.requests if request.method == "POST"} == {KEY}
    assert not finished.server.unknown, "this wandb asks what the test's server has no answer for"


@pytest.mark.slow
def test_name_group_tags_and_config_are_sent(finished):
    about = finished.received.about
    assert about["displayName"] == "sinusoid/maml/a run"
    assert about["groupName"] == "rates"
    assert sorted(about["tags"]) == ["maml", "mlp", "sinusoid", "thesis"]
    config = finished.received.config
    assert config["algo"]["inner_lr"] == 0.02
    assert (config["run"]["iterations"], config["seed"], config["choices"]["algo"]) == (60, 0, "maml")


@pytest.mark.slow
def test_the_history_is_metrics_jsonl_against_iteration(finished):
    rows = finished.received.history
    assert [of_user(row) for row in rows] == logged(finished.folder)
    assert [row["iteration"] for row in rows if "train/mse" in row and "train/loss" in row] == [*range(7, 60, 7), 60]
    assert [row["iteration"] for row in rows if "val/mse" in row] == [20, 40, 60]
    own = json.loads(finished.received.about["config"])["_wandb"]["value"]
    assert any(metric.get("1") == "iteration" for metric in own["m"])  # the x axis is defined


@pytest.mark.slow
def test_the_summary_is_the_result(finished):
    result, summary = read_result(finished.folder), finished.received.summary
    assert (summary["test/mse"], summary["test/mse_ci95"]) == (result["mean"], result["ci95"])
    assert (summary["result/status"], summary["iteration"]) == ("completed", 60)
    assert json.loads(finished.received.files["wandb-summary.json"])["test/mse"] == result["mean"]


@pytest.mark.slow
def test_the_curve_and_the_figures_are_uploaded(finished):
    last, files = finished.received.history[-1], finished.received.files
    table = json.loads(files[last["curve/mse_table"]["path"]])
    assert table["columns"] == ["step", "mean", "ci95", "median"]
    wanted = [[row[column] for column in table["columns"]] for row in read_result(finished.folder)["steps"]]
    assert table["data"] == wanted
    for path in finished.folder.glob("*.png"):
        assert files[last[f"figures/{path.stem}"]["path"]] == path.read_bytes()
    assert {"figures/step_curve", "figures/learning_curve", "figures/adapted_curves"} <= set(last)


@pytest.mark.slow
def test_the_checkpoint_is_uploaded_where_it_is_asked_for(finished):
    (model,) = [artifact for artifact in finished.received.artifacts if artifact.type == "model"]
    assert model.name == f"checkpoint-{finished.received.id}" and model.committed
    manifest = json.loads(model.files.pop("wandb_manifest.json"))["contents"]
    assert set(manifest) == set(model.files)
    assert model.files == {path.name: path.read_bytes() for path in (finished.folder / "checkpoint").iterdir()}


@pytest.mark.slow
def test_the_run_is_closed_with_its_exit_status(finished):
    assert finished.received.exit_codes == [0]
    assert read_tracker_ids(finished.folder / "checkpoint" / "tracker.json") == {"wandb": finished.received.id}


# ------------------------------------------------------------------------------------------------- under wandb agent

AGENT = {
    "WANDB_SWEEP_ID": "sweep1",
    "WANDB_RUN_ID": "agents",
    "WANDB_PROJECT": "warm-up",
    "WANDB_ENTITY": "our-team",
}
TINY = (*SMALL[:2], "run.iterations=3", *SMALL[3:], "tracker=wandb")


@pytest.mark.slow
def test_a_run_of_wandb_s_own_sweep_is_online_under_the_agent_s_id(tmp_path, account):
    with WandbServer() as server:
        account(server.url, **AGENT)
        outcome = metarun(*TINY, "hydra.run.dir=run", folder=tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    received = only_run(server)
    assert (received.id, received.entity, received.project) == ("agents", "our-team", "warm-up")
    assert received.about["sweep"] == "sweep1" and received.exit_codes == [0]
    record = {"mode": "online", "project": "warm-up", "entity": "our-team", "run_id": "agents"}
    assert read_result(tmp_path / "run")["trackers"] == {"wandb": record}
    assert received.config["tracker"]["wandb"]["mode"] == "online"


@pytest.mark.slow
def test_each_cell_of_a_multirun_has_an_id_of_its_own_there(tmp_path, account):
    with WandbServer() as server:
        account(server.url, **AGENT)
        outcome = metarun("-m", *TINY, "seed=0,1", "hydra.sweep.dir=mine", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.err == "metarun: WANDB_RUN_ID is ignored: each cell of a multirun has an id of its own\n"
    assert len(server.runs) == 3 and "agents" not in server.runs  # two cells and the summary
    assert {(run.entity, run.project, run.about["groupName"]) for run in server.runs.values()} == {
        ("our-team", "warm-up", "mine")
    }


@pytest.mark.slow
def test_what_is_said_by_the_environment_is_named_where_it_cannot_be(tmp_path, account):
    with WandbServer(refusal=401) as server:
        account(server.url, WANDB_MODE="online")
        outcome = metarun(*TINY, "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 2
    assert outcome.err.startswith("metarun: W&B cannot start with tracker.wandb.mode=online (by WANDB_MODE): ")


# ------------------------------------------------------------------------------------------------ stopped and resumed


@pytest.mark.slow
def test_a_stopped_run_goes_on_under_its_id_and_no_row_is_missing(tmp_path, account, monkeypatch):
    with WandbServer() as server:
        account(server.url)
        arguments = at_33(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
        assert metarun(*arguments, folder=tmp_path).status == 143
        received = only_run(server)
        assert received.exit_codes == [143] and received.asked_to_resume == 0
        assert iterations(received) == [7, 14, 20, 21, 28]
        account(server.url)  # with a service process of its own, as the resumed run of a user has
        assert metarun(f"run.resume={tmp_path / 'run'}", folder=tmp_path).status == 0
    assert only_run(server) is received  # one run id for both
    assert received.asked_to_resume == 1
    assert received.exit_codes == [143, 0]
    assert iterations(received) == sorted({*range(7, 60, 7), 20, 40, 60})  # none missing, none twice
    assert [row["_step"] for row in received.history] == iterations(received)
    assert [of_user(row) for row in received.history] == logged(tmp_path / "run")
    assert (received.entity, received.project) == ("our-team", "warm-up")
    assert received.summary["test/mse"] == read_result(tmp_path / "run")["mean"]


KILLED = """
import os, sys
from pathlib import Path
from metarun.tracking.jsonl import MetricsFile
from metarun.tracking.weights_and_biases import WandbTracker
folder = Path(sys.argv[1])
tracker = WandbTracker("online", "warm-up", None, [], None, False)
tracker.start(folder, {}, "name", None, [], None)
(folder / "run_id").write_text(tracker.run_id)
metrics = MetricsFile(folder / "metrics.jsonl")
for iteration in range(1, 301):
    for record in (metrics, tracker):
        record.log({"train/loss": 1 / iteration}, iteration)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_run_records_again_what_was_not_uploaded(tmp_path, account):
    """The client uploads every 15 s, and its service dies with the process."""
    with WandbServer() as server:
        account(server.url)
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert len(only_run(server).history) < 200  # more is missing than an offline run can miss
        tracker = WandbTracker("online", "warm-up", None, [], None, False)
        tracker.start(tmp_path, {}, "name", None, [], (tmp_path / "run_id").read_text())
        tracker.log({"train/loss": 0.0}, 301)
        tracker.finish(0)
    assert iterations(only_run(server)) == list(range(1, 302))
    assert only_run(server).entity == ACCOUNT  # tracker.wandb.entity=null


@pytest.mark.slow
def test_a_run_resumed_below_what_was_uploaded_loses_no_row(tmp_path, account):
    """Killed after an upload and before the next checkpoint: W&B drops rows whose own step is not above its last."""
    with WandbServer() as server:
        account(server.url)
        run_id = None
        for first, last in ((1, 10), (6, 12)):
            metrics = MetricsFile(tmp_path / "metrics.jsonl")
            metrics.cut(first - 1)
            tracker = WandbTracker("online", "warm-up", None, [], None, False)
            tracker.start(tmp_path, {}, "name", None, [], run_id)
            run_id = tracker.run_id
            for iteration in range(first, last + 1):
                for record in (metrics, tracker):
                    record.log({"train/loss": 1 / iteration}, iteration)
            metrics.close()
            tracker.finish(0)
    rows = only_run(server).history
    assert [row["iteration"] for row in rows] == [*range(1, 11), *range(6, 13)]
    assert all(row["train/loss"] == 1 / row["iteration"] for row in rows)
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))


# ---------------------------------------------------------------------------------------- no server, or one that dies


def assert_refused(outcome: Outcome, folder: Path) -> None:
    """The command printed one line that says what to do instead, and trained nothing."""
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1 and outcome.err.startswith(
        "metarun: W&B cannot start with tracker.wandb.mode=online"
    )
    assert "tracker.wandb.mode=offline needs no account" in outcome.err
    assert outcome.out == ""
    assert not (folder / "checkpoint").exists() and not (folder / "result.json").exists()


@pytest.mark.slow
def test_a_server_that_refuses_the_key_is_one_clear_error(tmp_path, account):
    with WandbServer(refusal=401) as server:
        account(server.url)
        began = time.monotonic()
        outcome = metarun(*ONLINE, "hydra.run.dir=run", folder=tmp_path)
    assert_refused(outcome, tmp_path / "run")
    assert "refused by the test" in outcome.err  # the server's own words
    assert time.monotonic() - began < 40


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_clear_error(tmp_path, account, monkeypatch):
    monkeypatch.setattr(weights_and_biases, "START_SECONDS", 1.0)
    WandbServer.close(server := WandbServer())
    account(server.url)
    began = time.monotonic()
    outcome = metarun(*ONLINE, "hydra.run.dir=run", folder=tmp_path)
    assert_refused(outcome, tmp_path / "run")
    assert "connection refused; WANDB_INIT_TIMEOUT=SECONDS waits longer" in outcome.err
    assert time.monotonic() - began < 40


@pytest.mark.slow
def test_a_server_that_never_answers_is_waited_for_as_long_as_the_user_says(tmp_path, account):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        account(f"http://127.0.0.1:{silent.getsockname()[1]}", WANDB_INIT_TIMEOUT="1")
        began = time.monotonic()
        outcome = metarun(*ONLINE, "hydra.run.dir=run", folder=tmp_path)
    assert_refused(outcome, tmp_path / "run")
    assert time.monotonic() - began < 40


@pytest.mark.slow
def test_a_server_that_dies_does_not_hurt_the_run_and_gets_the_rest_later(tmp_path, account, monkeypatch):
    server = WandbServer()
    arguments = at_33(monkeypatch, server.close)
    monkeypatch.setattr(weights_and_biases, "UPLOAD_SECONDS", 1.0)
    monkeypatch.setattr("wandb.apis.public.Api._HTTP_TIMEOUT", 1)  # wandb reads WANDB_HTTP_TIMEOUT at its import
    account(server.url)
    outcome = metarun(*arguments, "tracker.wandb.log_model=true", folder=tmp_path, pictures=True)
    ended = time.time()
    folder = tmp_path / "run"
    result = read_result(folder)
    assert (outcome.status, result["status"], outcome.err) == (0, "completed", "")
    assert only_run(server).exit_codes == []
    assert ended - (folder / "result.json").stat().st_mtime < 30
    (warning,) = [line for line in (folder / "metarun.log").read_text().splitlines() if "WARNING" in line]
    assert "W&B records nothing from iteration 60 on" in warning and "metrics.jsonl and result.json" in warning

    with WandbServer() as back:
        back.runs.update(server.runs)
        account(back.url)
        sync(*shlex.split(warning.partition("To upload it later: wandb sync ")[2]), folder=tmp_path)
    assert [of_user(row) for row in only_run(back).history] == logged(folder)
    assert only_run(back).summary["test/mse"] == result["mean"]


# -------------------------------------------------------------------------------------------- offline, uploaded later


@pytest.mark.slow
def test_wandb_sync_uploads_an_offline_run_and_what_was_resumed_as_one(tmp_path, account):
    Image.new("RGB", (4, 4)).save(tmp_path / "figure.png")
    run_id = None
    for first in (1, 5):
        tracker = WandbTracker("offline", "warm-up", "our-team", [], "rates", False)
        tracker.start(tmp_path, {"algo": {"inner_lr": 0.02}}, "name", None, [], run_id)
        run_id = tracker.run_id
        for iteration in range(first, first + 4):
            tracker.log({"train/loss": 1 / iteration}, iteration)
        tracker.figure("step_curve", tmp_path / "figure.png")
        tracker.finish(0)
    with WandbServer() as server:
        account(server.url)
        sync(*map(str, sorted((tmp_path / "wandb").glob("offline-run-*"))), folder=tmp_path)
    received = only_run(server)
    assert received.id == run_id and received.about["groupName"] == "rates"
    assert iterations(received) == list(range(1, 9))
    assert any(name.startswith("media/images/figures/step_curve") for name in received.files)
