"""How a comparison is written: terminal, Markdown, LaTeX."""

from __future__ import annotations

import io
import re

import pytest
from runs import write_run

from metarun.report import tables
from metarun.report.compare import Paired, over_rates, tabulate
from metarun.report.console import PlainConsole
from metarun.run_folder import read_runs


def table_of(folder, *cells):
    for number, cell in enumerate(cells):
        write_run(folder / f"run_{number}", **cell)
    return tabulate(read_runs([folder]))


PAPER = {"source": "A 2017", "table": "table 1", "value": 0.7, "ci95": 0.1, "read": "the PDF"}


def two_by_two(folder):
    return table_of(
        folder,
        {"algo": "a_b", "inner_lr": 0.1, "mean": 0.5, "paper": PAPER},
        {"algo": "a_b", "inner_lr": 1.0, "mean": 0.6},
        {"algo": "c|d", "inner_lr": 0.1, "mean": 0.51},
        {"algo": "c|d", "inner_lr": 1.0, "mean": None, "status": "diverged"},
    )


def test_markdown_has_best_ties_failures_published_figures_and_says_what_they_mean(tmp_path):
    table = two_by_two(tmp_path)
    lines = tables.markdown(table, over_rates(table)).splitlines()
    assert lines[:4] == [
        "| learner | inner\\_lr=0.1 | inner\\_lr=1 |",
        "| --- | ---: | ---: |",
        "| a\\_b | **0.500 ± 0.020** (published 0.70 ± 0.10) | **0.600 ± 0.020** |",
        "| c\\|d | 0.510 ± 0.020 ~ | † 1 of 1 diverged |",
    ]
    text = "\n".join(lines)
    for word in (
        "overlaps the best's",
        "published: A 2017, table 1 (read: the PDF)",
        "decades within 10%",
        "| a\\_b | 0 | 0.1 |",
    ):
        assert word in text


def test_latex_is_a_tabular_with_everything_escaped(tmp_path):
    text = tables.latex(two_by_two(tmp_path))
    assert r"a\_b & \textbf{0.500 $\pm$ 0.020} (0.70 $\pm$ 0.10) & \textbf{0.600 $\pm$ 0.020} \\" in text
    assert r"c\textbar{}d & 0.510 $\pm$ 0.020 $\sim$ & $\dagger$ 1 of 1 diverged \\" in text
    assert text.count("\\begin{tabular}{lrr}") == text.count("\\end{tabular}") == 1


def test_results_of_several_metrics_are_named(tmp_path):
    table = table_of(tmp_path, {"algo": "a"}, {"algo": "b", "data": "omniglot", "metric": "accuracy", "mean": 0.9})
    assert "mse 0.500 ± 0.020" in printed(table, "utf-8") and "accuracy 90.00% ± 2.00" in printed(table, "utf-8")
    assert "**accuracy 90.00% ± 2.00**" in tables.markdown(table, {}) and "accuracy 90.00\\%" in tables.latex(table)
    assert "mse 0." not in printed(two_by_two(tmp_path / "one"), "utf-8")  # one metric needs no name


def test_it_is_turned_where_there_are_more_settings_than_learners(tmp_path):
    table = table_of(tmp_path, *({"inner_lr": rate} for rate in (0.1, 1, 10)))
    first, heads, rows = tables.rows(table)
    assert (first, heads, [name for name, _ in rows]) == (
        "setting",
        ["maml"],
        ["inner_lr=0.1", "inner_lr=1", "inner_lr=10"],
    )
    many = table_of(
        tmp_path / "many", *({"algo": f"a{n}", "inner_lr": rate} for n in range(8) for rate in range(1, 10))
    )
    first, heads, rows = tables.rows(many)
    assert (first, heads, len(rows), rows[0][0]) == ("learner", ["mse"], 72, "a0, inner_lr=1")


def test_keys_are_short_where_that_tells_them_apart(tmp_path):
    names = tables.setting_names([(("algo.lr", 0.1), ("optimizer.lr", 2)), (("data.shots", 5),)])
    assert names == ["algo.lr=0.1, optimizer.lr=2", "shots=5"]


def printed(table, encoding):
    console = PlainConsole(file=io.TextIOWrapper(io.BytesIO(), encoding), width=100)
    console.print(tables.rich_table(table, console))
    for line in tables.legend(table):
        console.print(tables.printable(line, console))
    console.file.seek(0)
    return console.file.read()


def test_the_terminal_table_in_unicode_and_in_ascii(tmp_path):
    table = two_by_two(tmp_path)
    assert "0.510 ± 0.020 ~" in printed(table, "utf-8") and "† 1 of 1 diverged" in printed(table, "utf-8")
    assert "0.510 +/- 0.020 ~" in printed(table, "ascii") and "! 1 of 1 diverged" in printed(table, "ascii")


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("learners", [2, 5, 8])
def test_no_sign_is_parted_from_its_number_however_narrow_the_terminal_is(width, learners, tmp_path):
    """Many learners at two rates on data of a long name: too wide for 80 columns, however it is laid out."""
    learner = {"data": "mini_imagenet_of_long_name", "ci95": 0.1, "paper": PAPER}
    cells = [
        learner | {"algo": f"learner_{number}", "inner_lr": rate, "seed": seed, "mean": 0.5 + rate / 100 + seed / 10}
        for number in range(learners)
        for rate in (0.1, 1.0)
        for seed in (0, 1)
    ]
    table = table_of(tmp_path, *cells[:-1], cells[-1] | {"mean": None, "status": "diverged"}, {"data": "sinusoid"})
    console = PlainConsole(file=io.StringIO(), width=width)
    tables.print_comparison(table, over_rates(table), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for line in lines[: next(at for at, line in enumerate(lines) if line.startswith("± is half"))]:
        assert line.count("±") == len(re.findall(r"\d\.\d+ ± \d", line)), line
        assert line.count("~") == len(re.findall(r" ± \d\.\d+ ~", line)), line
    assert sum(line.count("~") for line in lines) == 2 * (
        learners - 1
    )  # all but the best, one that diverged, and one in the legend


def test_differences_keep_their_interval_in_one_line_beside_a_long_reason(tmp_path):
    first, second = read_runs([write_run(tmp_path / "first"), write_run(tmp_path / f"second{'_long' * 8}")])
    why = "they were tested on different tasks, " * 5
    console = PlainConsole(file=io.StringIO(), width=80)
    results = [(second, Paired(0.1234, 0.0123, 0.01, 600)), (first, why)]
    console.print(tables.paired_table(first, results, console))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0.123 ± 0.012" in text and max(map(len, text.splitlines())) <= 80 and text.count("different") == 5


def test_a_note_keeps_a_number_and_its_sign_in_one_line():
    for width in range(12, 40):
        console = PlainConsole(file=io.StringIO(), width=width)
        tables.print_note("difference: run minus maml, ± half the 95 % interval of the mean", console)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "± half" in text and "95 %" in text and max(map(len, text.splitlines())) <= width


def test_names_that_look_like_rich_markup_are_text(tmp_path):
    assert "[red]x[/red]" in printed(table_of(tmp_path, {"algo": "[red]x[/red]"}), "utf-8")


EVIL = "a|b\n| c\\$x$ [1] *b* <i>&lt; ~~s~~ `d` -- \x1b[2J%#{}^"
SOURCE = {"source": "p. 1\n\\input{x}|<b>\x1b]0;t\x07", "table": "_t_", "value": 0.7, "ci95": 0.1, "read": "_s_"}


def test_every_field_of_table_md_is_one_cell_of_plain_text(tmp_path):
    table = table_of(tmp_path, {"algo": EVIL, "paper": SOURCE}, {"algo": "b", "mean": 0.51, "data": EVIL})
    text = tables.markdown(table, over_rates(table))
    assert "\x1b" not in text and "\x07" not in text
    assert "published: p. 1 \\\\input{x}\\|\\<b\\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {4}  # three cells each
    assert r"a\|b \| c\\\$x\$ \[1\] \*b\* \<i\>\&lt; \~\~s\~\~ \`d\` --" in rows[2]


def test_robustness_in_table_md_is_escaped_too(tmp_path):
    table = table_of(tmp_path, *({"algo": "a|b\n<i>", "inner_lr": rate} for rate in (0.1, 1.0)))
    assert r"| a\|b \<i\> | 1 | 0.1 | 0.1 to 1 |" in tables.markdown(table, over_rates(table)).splitlines()


def test_every_field_of_table_tex_is_plain_text_on_its_line(tmp_path):
    table = table_of(tmp_path, {"algo": EVIL, "paper": SOURCE}, {"algo": "[b]--*", "mean": 0.51})
    lines = tables.latex(table).splitlines()
    assert len([line for line in lines if line.endswith("\\\\")]) == 3
    assert [line for line in lines if "input" in line][0].startswith("% published: p. 1 ")
    evil = next(line for line in lines if line.startswith("a"))
    assert evil.startswith(
        r"a\textbar{}b \textbar{} c\textbackslash{}\$x\$ {[}1{]} {*}b{*} \textless{}i\textgreater{}\&lt; "
    )
    assert r"-{}-" in evil and r"\%\#\{\}\textasciicircum{} &" in evil
    assert any(line.startswith("{[}b{]}-{}-{*} & ") for line in lines)  # no argument of the row before


def test_escape_sequences_never_reach_the_terminal(tmp_path):
    table = table_of(tmp_path, {"algo": EVIL, "paper": SOURCE, "data": "d\x1b[31m"}, {"algo": "[red]x[/red] :smile:"})
    for encoding in ("utf-8", "ascii"):
        text = printed(table, encoding)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
        assert "[red]x[/red]" in text and ":smile:" in text
