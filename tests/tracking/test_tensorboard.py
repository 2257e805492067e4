"""What TensorBoard shows, read back by its own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import SMALL, metarun, small
from tracked import ITERATIONS, VALIDATED, killed_and_resumed

from metarun.tracking.jsonl import MetricsFile
from metarun.tracking.tensorboard import TensorBoardTracker


def reader(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder: Path, key: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in reader(folder).Scalars(key)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("tensorboard") / "a run"
    return killed_and_resumed(run, "metarun.tracking.tensorboard", "TensorBoardTracker()")


@pytest.mark.slow
def test_of_a_run_that_was_killed_and_resumed_no_point_is_lost_or_doubled(folder):
    assert len(list((folder / "tensorboard").iterdir())) == 2
    assert scalars(folder, "train/loss") == [(i, pytest.approx(1 / i)) for i in ITERATIONS]
    assert scalars(folder, "val/accuracy") == [(i, pytest.approx(i / 1000)) for i in VALIDATED]
    assert [step for step, _ in scalars(folder, "time/train_seconds")] == ITERATIONS


@pytest.mark.slow
def test_result_figures_and_tables(folder):
    read = reader(folder)
    assert scalars(folder, "test/accuracy") == [(800, pytest.approx(0.95))]
    assert scalars(folder, "curve/accuracy") == [
        (0, pytest.approx(0.2)),
        (1, pytest.approx(0.3)),
        (2, pytest.approx(0.4)),
    ]
    (figure,) = read.Images("figures/step_curve")
    assert (figure.width, figure.height, figure.step) == (4, 6, 800)
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert texts["instances/text_summary"].splitlines()[2:] == ["| 1 | 0.2 |", "| 2 | 0.9 |"]
    assert "| pairs | 0.0 | 0.5 |" in texts["curve/roc/text_summary"]
    assert '"inner_lr": 0.01' in texts["config/text_summary"]
    assert "| result/tasks | 600 |" in texts["result/text_summary"]


@pytest.mark.slow
def test_the_page_of_hyperparameters_has_the_configuration(folder):
    from tensorboard.plugins.hparams import metadata

    content = reader(folder).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["algo.inner_lr"].number_value == 0.01
    assert hparams["choices.algo"].string_value == "maml"


def test_points_are_there_at_once(tmp_path):
    tracker = TensorBoardTracker()
    tracker.start(tmp_path, {"seed": 0}, "name", None, [], None)
    tracker.log({"train/loss": 0.5}, 10)
    assert scalars(tmp_path, "train/loss") == [(10, 0.5)]  # before it is closed
    tracker.finish(1)


def test_a_run_that_begins_anew_in_its_folder_shows_nothing_of_the_old_one(tmp_path):
    for rows in ((10, 20, 30), (10,)):
        tracker = TensorBoardTracker()
        tracker.start(tmp_path, {}, "name", None, [], None)
        for iteration in rows:
            tracker.log({"train/loss": float(len(rows))}, iteration)
        tracker.finish(0)
    assert scalars(tmp_path, "train/loss") == [(10, 1.0)]


def test_not_finite_values_of_metrics_are_replayed(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.log({"train/loss": float("nan"), "train/mse": 2.0}, 10)
    tracker = TensorBoardTracker()
    tracker.start(tmp_path, {}, "name", None, [], None)
    tracker.finish(0)
    assert scalars(tmp_path, "train/mse") == [(10, 2.0)]
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == [10]


def test_a_command_records_what_metrics_jsonl_has(tmp_path):
    small("tracker=tensorboard", folder=tmp_path)
    assert [step for step, _ in scalars(tmp_path / "run", "val/mse")] == [20, 40, 60]
    assert scalars(tmp_path / "run", "test/mse")[0][0] == 60


def test_without_its_package_the_command_says_which_extra_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    outcome = metarun(*SMALL, "tracker=tensorboard", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 2 and "pip install 'metarun[tensorboard]'" in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("a file")
    outcome = metarun(*SMALL, "tracker=tensorboard", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 2 and "tracker=tensorboard cannot write to" in outcome.err
