"""The progress bar is silent without a terminal and cheap at every step; the result fits 80 columns."""

import io
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from metarun.report.console import Progress, print_line, print_result, shown

RESULT = {
    "status": "completed",
    "algo": "maml",
    "data": "omniglot",
    "ways": 5,
    "shots": 1,
    "queries": 15,
    "partition": "maml",
    "seed": 0,
    "metric": "accuracy",
    "mean": 0.9512,
    "ci95": 0.0034,
    "median": 0.96,
    "tasks": 600,
    "steps": [{"step": step, "mean": 0.2 + step / 4, "ci95": 0.003, "median": 0.2} for step in range(4)],
    "metrics": {"nll": {"mean": 0.22341, "ci95": 0.0123, "median": None}},
    "iterations": 5000,
    "train_seconds": 2512.3,
    "test_seconds": 65.2,
    "iterations_per_second": 5.123,
    "peak_memory_mb": 1823.2,
    "parameters": 112005,
    "paper": {"source": "Finn et al. 2017, table 1", "value": 0.987, "ci95": 0.004},
}


def terminal(width: int = 80) -> Console:
    return Console(force_terminal=True, file=io.StringIO(), width=width, color_system=None)


def piped() -> Console:
    return Console(file=io.StringIO(), width=80)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_lines_go_to_the_log_now_and_then(monkeypatch, caplog, capsys):
    clock = [0.0]
    monkeypatch.setattr("metarun.report.console.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    console = piped()
    with caplog.at_level("INFO"), Progress(1000, "maml on sinusoid", "mse", console=console) as progress:
        progress.begin("compiling")
        for iteration in range(1, 201):  # two steps a second
            clock[0] = iteration / 2
            progress.update(iteration, 1.0, 0.5, milestone=iteration in (10, 30, 40, 150))
    assert caplog.messages == [
        "maml on sinusoid: 0 of 1,000, compiling",
        "maml on sinusoid: 30 of 1,000, loss 1, val mse 0.5, 2 it/s",  # 10 is too soon after the first
        "maml on sinusoid: 150 of 1,000, loss 1, val mse 0.5, 2 it/s",  # a minute; 40 was too soon after 30
    ]
    assert text(console) == "" and capsys.readouterr() == ("", "")


def test_a_terminal_shows_what_a_run_waits_for_until_it_goes_on():
    console = terminal(100)
    with Progress(200, "maml on omniglot", "accuracy", console=console) as progress:
        progress.begin("compiling")
        time.sleep(0.3)
        progress.update(10, loss=0.75)
    shown = text(console)
    assert "compiling" in shown and "compiling" not in shown.split("\r")[-1]


def test_progress_shows_loss_metric_count_and_time():
    console = terminal(100)
    with Progress(200, "maml on omniglot", "accuracy", console=console) as progress:
        progress.update(10, loss=torch.tensor(0.75), metric=0.5)
        progress.update(200, loss=0.25)  # the metric stands from before; the last call is always shown
    last = text(console).split("\r")[-1]
    assert all(word in last for word in ("maml on omniglot", "200/200", "loss 0.25", "val accuracy 50.0%", "it/s"))


def test_progress_fits_one_line_of_80_columns():
    console = terminal(80)
    with Progress(60000, "maml on omniglot", "accuracy", start=100, console=console) as progress:
        progress.update(12345, loss=0.012345, metric=0.9512)
        time.sleep(0.3)
        progress.update(12400, loss=0.012345)
    frames = [line for line in text(console).replace("\x1b", "\r").split("\r") if "loss" in line]
    assert frames and all("val accuracy 95.1%" in frame and "/60000" in frame for frame in frames)
    assert "\n" not in frames[-1].strip("\n")


def test_steps_done_before_a_resume_are_no_speed():
    console = terminal(120)
    with Progress(2000, "maml", "mse", start=1000, console=console) as progress:
        assert "1000/2000" in text(console)
        progress.update(1001, loss=1.0)
        time.sleep(0.25)
        progress.update(1002, loss=1.0)
    speed = float(text(console).split("\r")[-1].split(" it/s")[0].split()[-1])
    assert speed < 50  # 1002 steps in a quarter of a second would be 4000


def test_progress_reads_a_loss_only_when_it_shows_it():
    reads = 0

    class Loss:
        def __float__(self):
            nonlocal reads
            reads += 1
            return 1.0

    with Progress(10**6, "maml", "mse", console=terminal()) as progress:
        loss = Loss()
        started = time.perf_counter()
        for iteration in range(20_000):
            progress.update(iteration, loss=loss)
        seconds = time.perf_counter() - started
    assert reads <= 2 + seconds / 0.2 + 1
    assert seconds / 20_000 < 50e-6  # about 0.5 microseconds; an outer step takes 700


@pytest.mark.parametrize("make", [terminal, piped])
def test_result_names_everything_within_80_columns(make):
    console = make()
    print_result(RESULT, Path("outputs") / "run", console)
    shown = text(console)
    for words in (
        "maml on omniglot  5-way 1-shot, 15 queries, partition maml, seed 0",
        "95.12% ± 0.34   600 held-out tasks",
        "98.70% ± 0.40   Finn et al. 2017, table 1",
        "45.00% ± 0.30",
        "0.223 ± 0.012",
        "5,000 iterations · training 41:52, with validation · test 1:05",
        "5.12 it/s · peak memory 1,823 MB · 112,005 parameters",
        "outputs/run",
    ):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 80
    if make is piped:
        assert "\x1b" not in shown


@pytest.mark.parametrize(("steps", "rows"), [(20, range(21)), (60, [0, 1, 2, 5, 10, 20, 33, 50, 60])])
def test_a_long_curve_is_shown_at_a_few_steps_with_the_headline_s_and_the_last(steps, rows):
    console = terminal()
    curve = [{"step": step, "mean": 0.5, "ci95": 0.003, "median": 0.5} for step in range(steps + 1)]
    print_result({**RESULT, "steps": curve, "step": 33}, None, console)
    shown = [line.split() for line in text(console).splitlines() if "50.00% ± 0.30" in line]
    assert [int(words[0]) for words in shown] == list(rows)


def test_result_in_ascii():
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80)
    print_result(RESULT, None, console)
    console.file.seek(0)
    assert "95.12% +/- 0.34" in console.file.read()


def test_result_of_a_run_that_failed_says_why_and_shows_no_number():
    console = piped()
    result = {"status": "diverged", "iteration": 421, "error": "the loss is NaN"}
    print_result({**RESULT, **result, "mean": None, "steps": [], "metrics": {}}, None, console)
    shown = text(console)
    assert "diverged" in shown and "at iteration 421: the loss is NaN" in shown
    assert "%" not in shown


def test_result_without_paper_interval_or_ways():
    console = piped()
    result = {
        "metric": "mse",
        "mean": 0.25,
        "ci95": None,
        "ways": None,
        "shots": 10,
        "paper": None,
        "metrics": {},
    }
    print_result(
        {**RESULT, **result, "steps": [{"step": 0, "mean": None, "ci95": None, "median": None}]},
        None,
        console,
    )
    assert (
        "10 shots" in text(console) and "published" not in text(console) and "mse               0.25" in text(console)
    )


def test_a_learner_that_adapts_at_once_has_no_table_of_adaptation_steps():
    console = piped()
    print_result({**RESULT, "steps": RESULT["steps"][:1]}, None, console)  # type: ignore[index]
    lines = [line.split() for line in text(console).splitlines()]
    assert "adaptation" not in text(console)
    assert ["accuracy", "20.00%", "±", "0.30", "20.00%"] in lines  # with the median, beside the other metrics
    assert ["nll", "0.223", "±", "0.012", "-"] in lines


def test_a_result_of_a_multirun_is_one_line():
    console = piped()
    print_line(RESULT, Path("multirun") / "maml_seed=0", console)
    print_line({**RESULT, "status": "diverged", "mean": None, "error": "the loss is NaN"}, Path("b"), console)
    assert text(console).splitlines() == [
        "completed  maml_seed=0  accuracy 95.12% ± 0.34  training 41:52",
        "diverged  b  the loss is NaN  training 41:52",
    ]


def test_the_time_of_fused_runs_is_said_to_be_of_all_of_them():
    console = piped()
    print_line({**RESULT, "replicas": 6}, Path("a"), console)
    print_result({**RESULT, "replicas": 6}, None, console)
    shown = text(console).splitlines()
    assert shown[0].endswith("training 41:52 (6 runs together)")
    assert shown[-2] == "5,000 iterations · training 41:52, with validation · test 1:05 (6 runs together)"


def test_a_result_on_pairs_names_them_and_their_partition():
    console = piped()
    print_result(
        {**RESULT, "ways": None, "shots": None, "queries": None, "pairs": 10, "partition": "glyphs"}, None, console
    )
    assert "10 pairs, partition glyphs, seed 0" in text(console)


def test_tasks_that_are_not_finite_are_counted_where_the_mean_would_be():
    console = piped()
    steps = [*RESULT["steps"][:3], {"step": 3, "mean": None, "ci95": None, "median": None, "not_finite": 12}]  # type: ignore[index]
    print_result(RESULT | {"steps": steps}, console=console)
    (line,) = [line for line in text(console).splitlines() if "12 tasks not finite" in line]
    assert line.split()[0] == "3" and line.split()[-1] == "-"


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_no_value_is_a_dash(missing):
    assert shown("accuracy", missing) == shown("mse", missing) == "-"
