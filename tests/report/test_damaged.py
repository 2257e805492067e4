"""Runs whose files are damaged: shown as broken with a reason beside those that are whole, never a traceback."""

from __future__ import annotations

import io
import shutil

import pytest
from damage import CONFIG, EPISODES, METRICS, ODD_CONFIG, ODD_METRICS, RESULT
from runs import write_run

from metarun.report import main
from metarun.report.compare import over_rates, tabulate
from metarun.report.console import PlainConsole
from metarun.report.page import markup
from metarun.report.page.build import embedded, page_data
from metarun.report.page.content import Content
from metarun.report.tables import latex, markdown, print_comparison
from metarun.run_folder import Run, read_runs


@pytest.fixture
def folder(tmp_path):
    """Two whole runs and one to harm."""
    for name, seed in (("whole", 0), ("other", 1), ("harmed", 2)):
        write_run(tmp_path / "runs" / name, seed=seed, mean=0.5 + 0.01 * seed)
    yield tmp_path / "runs"
    shutil.rmtree(tmp_path)


def reported(folder) -> tuple[Run, str, Content]:
    """All that a report and its page say of a folder: the harmed run, the terminal, the page's content."""
    runs = read_runs([folder])
    console = PlainConsole(file=io.StringIO(), width=400)
    table = tabulate(runs)
    panels = over_rates(table)
    print_comparison(table, panels, console)
    console.print(main.list_of(runs, console))
    by_name = {run.name: run for run in runs}
    main.show_comparison(console, [by_name["whole"], by_name["harmed"], by_name["other"]])
    markdown(table, panels), latex(table)
    content = Content(runs)
    embedded(page_data(content)), markup.parts(content)
    whole = next(entry for entry in table.entries.values() if by_name["whole"] in entry.runs)
    assert whole.values[:2] == [0.5, 0.51]
    return by_name["harmed"], console.file.getvalue(), content


UNDER_WAY = [METRICS[name] for name in ("empty", "half", "zeros")]  # a last line that is being written


def line_of(run: Run, printed: str) -> str:
    return next(line for line in printed.splitlines() if line.strip().startswith(run.name))


@pytest.mark.parametrize("harm", RESULT.values(), ids=RESULT)
def test_a_damaged_result_is_a_broken_run(harm, folder):
    harm(folder / "harmed" / "result.json")
    run, printed, content = reported(folder)
    assert run.status == "broken"
    assert "result.json cannot be read: " in line_of(run, printed) and " broken " in line_of(run, printed)
    assert "result.json cannot be read: " in content.problems[run.folder]


@pytest.mark.parametrize("harm", CONFIG.values(), ids=CONFIG)
def test_a_damaged_configuration_is_a_broken_run(harm, folder):
    harm(folder / "harmed" / ".hydra" / "config.yaml")
    run, printed, content = reported(folder)
    assert run.status == "broken" and run.mean is None
    assert ".hydra/config.yaml cannot be read: " in line_of(run, printed) and " broken " in line_of(run, printed)
    assert ".hydra/config.yaml cannot be read: " in content.problems[run.folder]


@pytest.mark.parametrize("harm", ODD_CONFIG.values(), ids=ODD_CONFIG)
def test_a_configuration_of_another_kind_is_another_setting(harm, folder):
    harm(folder / "harmed" / ".hydra" / "config.yaml")
    run, printed, _ = reported(folder)
    assert run.status == "completed" and "0.520" in line_of(run, printed)


@pytest.mark.parametrize("harm", METRICS.values(), ids=METRICS)
def test_damaged_metrics_are_said_on_the_page_and_the_result_stands(harm, folder):
    harm(folder / "harmed" / "metrics.jsonl")
    run, printed, content = reported(folder)
    assert run.status == "completed" and "0.520" in line_of(run, printed)
    if harm not in UNDER_WAY:
        assert run.history() == [] and content.problems[run.folder].startswith("metrics.jsonl")


@pytest.mark.parametrize("harm", ODD_METRICS.values(), ids=ODD_METRICS)
def test_metrics_that_are_no_numbers_are_gaps(harm, folder):
    harm(folder / "harmed" / "metrics.jsonl")
    run, _, content = reported(folder)
    assert run.status == "completed" and run.folder not in content.problems


@pytest.mark.parametrize("harm", EPISODES.values(), ids=EPISODES)
def test_damaged_tasks_are_not_compared_and_the_reason_is_said(harm, folder):
    harm(folder / "harmed" / "episodes.npz")
    run, printed, _ = reported(folder)
    assert run.status == "completed"
    compared = printed.partition("against whole")[2]
    reasons = ("has no held-out tasks to compare: ", "diverged on ", "were tested on different tasks")
    assert any(f"harmed {reason}" in compared for reason in reasons)
    assert "other" in compared and "nan ±" not in compared


@pytest.mark.slow
def test_all_of_them_at_once_are_a_report_and_a_page(tmp_path, capsys):
    harms = {"result.json": RESULT, ".hydra/config.yaml": CONFIG, "metrics.jsonl": METRICS, "episodes.npz": EPISODES}
    write_run(tmp_path / "runs" / "whole")
    for file, kinds in harms.items():
        for name, harm in kinds.items():
            harm(write_run(tmp_path / "runs" / f"{file.rpartition('/')[2]} {name}", seed=1) / file)
    with pytest.raises(SystemExit) as ended:
        main.main([str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert f"{len(RESULT) + len(CONFIG)} broken" in out and (tmp_path / "page.html").stat().st_size > 1e5
