"""The tables of the page as HTML: their texts, what they are sorted by, and that texts of runs stay texts."""

from __future__ import annotations

import pytest
from html_elements import Elements, Tables
from runs import config_of, write_config, write_run

from metarun.report.page.content import Content
from metarun.report.page.markup import comparison_note, comparison_table, element, options, parts, runs_table
from metarun.run_folder import read_runs

HOSTILE = "</td></table><script>alert(1)</script>\"'&amp;"
PAPER = {"source": "A paper, table 1", "value": 0.45, "ci95": 0.01, "read": "the PDF"}


def content_of(folder, **cells) -> Content:
    for name, cell in cells.items():
        write_run(folder / name, **cell)
    return Content(read_runs([folder]))


def test_an_element_escapes_its_attributes_and_leaves_out_what_is_empty():
    assert element("td", "<b>", class_="", title='"<', data_order="") == '<td title="&quot;&lt;" data-order=""><b></td>'
    assert (
        element("input", type="checkbox", checked=True, disabled=False, hidden=None)
        == '<input type="checkbox" checked>'
    )


def test_a_list_of_choices_has_the_chosen_one_selected():
    made = options([("", "any"), ("a&", "<a>")], "a&")
    assert made == '<option value="">any</option><option value="a&amp;" selected>&lt;a&gt;</option>'


def test_the_table_of_runs_shows_numbers_and_is_sorted_by_their_values(tmp_path):
    content = content_of(
        tmp_path,
        a={"mean": 0.5, "paper": PAPER, "train_seconds": 7385.2, "inner_lr": 0.1, "iterations": 60000},
        b={"mean": 1234.5, "ci95": None, "seed": 1},
        c={"mean": None, "status": "diverged", "error": "the loss is NaN", "seed": None},
    )
    table = Tables(runs_table(content))
    assert table.rows[0] == [
        *("selected", "run", "mse ± 95 %", "published", "learner", "status", "problem"),
        *("data", "inner_lr", "seed", "iterations", "training time"),
    ]
    assert table.column("run") == ["a", "b", "c"]
    assert table.column("mse ± 95 %") == ["0.500 ± 0.020", "1235", "–"]
    assert table.orders("mse ± 95 %") == ["0.5", "1234.5", ""]
    assert table.column("published") == ["0.450 ± 0.010", "–", "–"]
    assert table.orders("published") == ["0.45", "", ""]
    assert table.column("iterations") == ["60,000", "1,000", "1,000"]
    assert (table.column("training time")[0], table.orders("training time")[0]) == ("2 h 3 min", "7385.2")
    assert table.column("problem") == ["", "", "the loss is NaN"]
    assert (table.column("seed"), table.orders("seed")) == (["0", "1", "–"], ["0", "1", ""])
    assert table.orders("inner_lr") == ["0.1", "0.01", "0.01"]


def test_columns_that_tell_nothing_are_left_out(tmp_path):
    table = Tables(runs_table(content_of(tmp_path, a={}, b={"metric": "accuracy", "mean": 0.5, "seed": 1})))
    assert "published" not in table.rows[0] and "problem" not in table.rows[0]
    assert table.column("metric") == ["mse", "accuracy"]
    assert table.column("result ± 95 %") == ["0.500 ± 0.020", "50.00 ± 2.00 %"]


def test_broken_and_running_runs_are_listed_with_what_is_wrong(tmp_path):
    write_run(tmp_path / "failed", status="failed", mean=None, error="out of memory")
    (write_run(tmp_path / "broken") / "result.json").write_text('{"status": "comp')
    write_config(tmp_path / "going", config_of("maml", 3, 0.01, "sinusoid"))
    (write_run(tmp_path / "torn") / ".hydra" / "config.yaml").write_text("algo: [1,\n")
    write_run(tmp_path / "whole")
    table = Tables(runs_table(Content(read_runs([tmp_path]))))
    assert dict(zip(table.column("run"), table.column("status"), strict=True)) == {
        "whole": "completed",
        "failed": "failed",
        "broken": "broken",
        "going": "unfinished",
        "torn": "broken",
    }
    problems = dict(zip(table.column("run"), table.column("problem"), strict=True))
    assert problems["whole"] == ""
    assert problems["failed"] == "out of memory"
    assert "result.json cannot be read" in problems["broken"]
    assert "no result.json" in problems["going"]
    assert "config.yaml cannot be read" in problems["torn"]


def test_folders_of_images_have_a_column_that_tells_them_apart(tmp_path):
    cells = {
        name: {"data": "imagefolder", "config": {"data": {"root": f"/home/me/{name}"}}, "episodes": name}
        for name in ("birds", "flowers")
    }
    content = content_of(tmp_path, **cells)
    assert Tables(runs_table(content)).column("root") == ["birds", "flowers"]
    assert Tables(comparison_table(content)).column("root") == ["birds", "flowers"]


def test_each_run_has_a_box_of_its_name_that_is_checked_where_it_is_selected(tmp_path):
    content = content_of(tmp_path, **{f"run_{seed:02}": {"seed": seed} for seed in range(31)})
    boxes = [attributes for tag, attributes in Elements(runs_table(content)).tags if tag == "input"]
    assert [box["aria-label"] for box in boxes] == [f"plot run_{seed:02}" for seed in range(31)]
    assert ["checked" in box for box in boxes] == [True] * 30 + [False]


def test_learners_are_compared_with_best_ties_failures_and_published_figures(tmp_path):
    content = content_of(
        tmp_path,
        a={"algo": "a", "mean": 0.5, "paper": PAPER},
        b={"algo": "b", "mean": 0.51},
        c={"algo": "c", "mean": 0.9},
        d={"algo": "c", "mean": None, "status": "diverged", "seed": 1},
        e={"algo": "a", "mean": 0.7, "inner_lr": 1.0},
    )
    table = Tables(comparison_table(content))
    assert table.rows == [
        ["inner_lr", "a", "b", "c"],
        ["0.01", "★ 0.500 ± 0.020published 0.450 ± 0.010", "≈ 0.510 ± 0.020", "0.900 ± 0.0201 of 2 diverged"],
        ["1", "★ 0.700 ± 0.020", "", ""],
    ]
    assert comparison_note(content).endswith("overlaps the best's.")


def test_errors_are_named_where_there_are_several_metrics(tmp_path):
    content = content_of(tmp_path, a={}, b={"metric": "accuracy", "data": "omniglot"})
    assert [row[1] for row in Tables(comparison_table(content)).rows[1:]] == ["★ 0.500 ± 0.020 mse", "★ 50.00 ± 2.00 %"]


def test_older_runs_that_are_left_out_are_counted(tmp_path):
    assert "1 older run of the same configuration and seed" in comparison_note(content_of(tmp_path, a={}, b={}))


def test_sensitivity_has_a_table_for_each_setting(tmp_path):
    rates = {"a": 0.01, "b": 0.1}
    cells = {
        f"{name}_{shots}": {"inner_lr": rate, "mean": rate * shots, "config": {"data": {"shots": shots}}}
        for name, rate in rates.items()
        for shots in (5, 10)
    }
    made = parts(content_of(tmp_path, **cells))
    assert Tables(made["rates"]).rows == [
        ["learner", "best rate", "best mse", "robustness"],
        ["maml", "0.01", "0.050", "0 decades"],
        ["learner", "best rate", "best mse", "robustness"],
        ["maml", "0.01", "0.100", "0 decades"],
    ]
    tables = [attributes for tag, attributes in Elements(made["rates"]).tags if tag == "table"]
    assert [table["data-setting"] for table in tables] == ["0", "1"] and all("hidden" in table for table in tables)
    assert made["rates_settings"] == '<option value="0" selected>shots 5</option><option value="1">shots 10</option>'
    assert (made["no_rates"], made["rates_log"]) == ("", "checked")


def test_without_rates_the_section_is_hidden(tmp_path):
    made = parts(content_of(tmp_path, a={"metric": "accuracy"}))
    assert (made["no_rates"], made["rates"], made["rates_settings"]) == ("hidden", "", "")
    assert (made["curve_log"], made["metric_log"]) == ("", "")  # an accuracy is on a linear axis


def test_no_run_makes_all_parts():
    made = parts(Content([]))
    assert made["summary"] == "0 runs" and made["comparison_note"] == "No run names its learner."


def test_the_summary_and_the_sources(tmp_path):
    made = parts(content_of(tmp_path, a={"paper": PAPER}, b={"mean": None, "status": "diverged"}))
    assert made["summary"] == "2 runs · 1 completed · 1 diverged"
    assert made["runs_note"].replace("\u00a0", " ") == (
        "mse: mean squared error. ± 95 %: half the 95 % interval of the mean over held-out tasks. "
        "Training time: with validations and checkpoints, without the test; of fused runs, that of all together. "
        "Published figures: A paper, table 1 (read: the PDF)."
    )
    assert "± " not in made["runs_note"] and " %" not in made["runs_note"]  # no line ends there


def test_the_time_of_fused_runs_is_that_of_all_of_them(tmp_path):
    table = Tables(runs_table(content_of(tmp_path, a={"train_seconds": 12.5, "replicas": 6}, b={"replicas": 1})))
    assert table.column("training time") == ["12.5 s (6 together)", "12.5 s"]


@pytest.mark.parametrize("name", ["runs", "comparison", "runs_note", "algos", "curves", "metrics", "rates"])
def test_texts_of_runs_are_no_markup(name, tmp_path):
    algo = metric = HOSTILE.replace("/", "\\")
    paper = {"source": HOSTILE, "table": HOSTILE, "value": 1, "read": HOSTILE}
    cell = {"data": HOSTILE, "metric": metric, "paper": paper}
    write_run(tmp_path / "0", algo, HOSTILE, 0.01, **cell)
    write_run(tmp_path / "1", algo, HOSTILE, 0.1, **cell)
    write_run(tmp_path / "2", algo, 0, 0.1, None, "failed", error=HOSTILE, config={"run": {"note": HOSTILE}}, **cell)
    runs = read_runs([tmp_path])
    for run in runs:
        run.name = HOSTILE
    markup = parts(Content(runs))[name]
    assert "<script" not in markup and "&lt;script&gt;" in markup
    assert {tag for tag, _ in Elements(markup).tags} <= {
        *("table", "thead", "tbody", "tr", "th", "td", "span", "input", "option")
    }
