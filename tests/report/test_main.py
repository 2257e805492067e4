"""The `metarun-report` command."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from runs import write_config, write_run

from metarun.report.main import find, main
from metarun.run_folder import read_runs


@pytest.fixture
def runs(tmp_path):
    for algo, mean in (("maml", 0.5), ("mtnet", 0.3)):
        for seed in (0, 1):
            write_run(tmp_path / "runs" / f"{algo}_seed={seed}", algo=algo, seed=seed, mean=mean + 0.01 * seed)
    return tmp_path / "runs"


def report(capsys, *arguments):
    """Exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code, *capsys.readouterr()


def test_it_prints_a_comparison(runs, capsys):
    status, out, _ = report(capsys, runs)
    assert status == 0
    assert "maml" in out and "0.305 ± 0.064" in out and "4 runs: 4 completed" in out
    assert "maml_seed=0" not in out  # only what did not complete is listed
    assert "maml_seed=0" in report(capsys, runs, "--list")[1]


def test_broken_and_running_runs_are_listed_and_the_rest_is_shown(runs, capsys):
    write_run(runs / "half")
    (runs / "half" / "result.json").write_text("{")
    write_config(runs / "running", {"seed": 0})
    status, out, _ = report(capsys, runs)
    assert status == 0
    assert "half" in out and "running" in out and "4 completed, 1 unfinished, 1 broken" in out


def test_a_paired_test_gives_difference_interval_and_method(runs, capsys):
    status, out, _ = report(capsys, runs, "--compare", "maml_seed=0", "mtnet_seed=0", "mtnet_seed=1")
    assert status == 0
    assert "against maml_seed=0" in out and "paired" in out and "-0.2" in out
    assert "not corrected for the number of comparisons" in out.replace("\n", " ")


WRONG = {
    "no such path": (["nowhere"], "there is no nowhere"),
    "one run": (["{runs}", "--compare", "maml_seed=0"], "at least two"),
    "no such run": (["{runs}", "--compare", "foo", "maml_seed=0"], "there is no run foo. Runs: maml_seed=0, "),
    "several runs": (["{runs}", "--compare", "seed=0", "maml_seed=0"], "seed=0 is the name of 2 runs"),
}


def names_of(folder, *names):
    for name in names:
        write_run(folder / name, mean=0.5)
    return folder


EXACT = {
    "another name ends in it": (("maml_seed=0", "fomaml_seed=0"), "maml_seed=0", "maml_seed=0"),
    "so does the last folder of another": (("a/maml", "a/fomaml"), "maml", "a/maml"),
    "after a number": (("0_sinusoid_maml_seed0", "1_sinusoid_fomaml_seed0"), "maml_seed0", "0_sinusoid_maml_seed0"),
    "it begins another": (("lr=0.1", "lr=0.10"), "lr=0.1", "lr=0.1"),
    "it is inside another": (("1_maml_x", "2_mtnet_x"), "maml", "1_maml_x"),
    "a blank and a sign": (("my run (1)", "my run"), "run (1)", "my run (1)"),
}


@pytest.mark.parametrize(("names", "asked", "wanted"), EXACT.values(), ids=EXACT)
def test_an_exact_name_wins_then_an_end_that_no_other_has(names, asked, wanted, tmp_path):
    runs = read_runs([names_of(tmp_path, *names)])
    assert find(asked, runs).name == wanted
    assert find(str(tmp_path / wanted), runs).name == wanted


def test_runs_of_several_paths_whose_folders_share_a_name_are_told_apart(tmp_path):
    paths = [names_of(tmp_path / place / "runs", "maml") for place in ("one", "two")]
    assert [run.name for run in read_runs(paths)] == ["one/runs/maml", "two/runs/maml"]


def test_a_package_that_is_missing_is_said_in_one_line(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "metarun.report.page.build", None)  # as where plotly is not installed
    status, _, err = report(capsys, runs, "--html", tmp_path / "page.html")
    assert status == 2 and err.startswith("metarun-report: ") and err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "wanted"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(arguments, wanted, runs, capsys):
    status, _, err = report(capsys, *(argument.format(runs=runs) for argument in arguments))
    assert status == 2
    assert err.startswith("metarun-report: ") and wanted in err and err.count("\n") == 1


def test_it_writes_a_page(runs, tmp_path, capsys):
    status, out, _ = report(capsys, runs, "--html", tmp_path / "page.html")
    assert status == 0
    assert (tmp_path / "page.html").stat().st_size > 1e5 and "page.html" in out.replace("\n", "")


def test_a_page_replaces_files_only_and_not_the_link_to_one(runs, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to a device").symlink_to(os.devnull)
    for name in ("pipe", "to a device", "runs"):
        before = os.lstat(tmp_path / name)[:2]
        status, _, err = report(capsys, runs, "--html", tmp_path / name)
        assert (status, err.count("\n")) == (2, 1) and "is not a regular file, and is not replaced" in err
        assert os.lstat(tmp_path / name)[:2] == before
    (tmp_path / "page.html").write_text("old")
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    assert report(capsys, runs, "--html", tmp_path / "link.html")[0] == 0
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "page.html").stat().st_size > 1e5


def test_names_of_folders_act_on_nothing(tmp_path, capsys):
    name = "\x1b[2J\x1b]0;title\a[red]x[/red]\n" + os.fsdecode(b"\xff")
    for seed, text in enumerate((name, "other")):
        write_run(tmp_path / "runs" / text, seed=seed, algo=name, data=name, error=name, status="failed", mean=None)
    status, out, err = report(capsys, tmp_path / "runs", "--list", "--compare", name, "other")
    assert status == 0 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\udc80-\udcff]", out + err)
    assert "[red]x[/red]" in out
    status, out, err = report(capsys, tmp_path / "runs", "--compare", "\x1b[31m", "other")
    assert status == 2 and err.count("\n") == 1 and "\x1b" not in err


def test_without_a_page_it_needs_none_of_the_large_packages(runs):
    script = (
        "import sys; from metarun.report.main import parser, report;"
        "words = [sys.argv[1], '--compare', 'maml_seed=0', 'mtnet_seed=0', '--list', '--differences'];"
        "report(parser().parse_intermixed_args(words));"
        "large = {'torch', 'hydra', 'wandb', 'matplotlib', 'plotly', 'itables', 'scipy.stats'};"
        "print(sorted(large & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(runs)], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
