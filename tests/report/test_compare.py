"""The table, robustness and paired tests, against numbers worked out by hand or by scipy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import yaml
from referees import stats
from runs import write_run

from metarun.report.compare import over_rates, over_seeds, paired, paired_values, settings_of, tabulate
from metarun.run_folder import read_run, read_runs


def runs_of(folder, *cells):
    """Runs, each written by `write_run` with the arguments of a cell."""
    for number, cell in enumerate(cells):
        write_run(folder / f"run_{number}", **cell)
    return read_runs([folder])


def test_the_interval_is_student_s_over_seeds(tmp_path):
    values = [0.5, 0.6, 0.9]
    table = tabulate(runs_of(tmp_path, *({"seed": seed, "mean": value} for seed, value in enumerate(values))))
    (entry,) = table.entries.values()
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert entry.mean == pytest.approx(np.mean(values))
    assert entry.ci95 == pytest.approx((high - low) / 2)
    assert (entry.over, entry.values, entry.best) == ("seeds", values, True)


def test_one_seed_has_its_interval_over_tasks_and_none_has_none(tmp_path):
    (entry,) = tabulate(runs_of(tmp_path, {"mean": 0.5, "ci95": 0.07})).entries.values()
    assert (entry.mean, entry.ci95, entry.over) == (0.5, 0.07, "tasks")
    assert over_seeds([]) == (None, None) and over_seeds([2.0]) == (2.0, None)


def test_what_one_learner_s_runs_differ_in_is_the_setting_and_the_rest_is_not(tmp_path):
    five, cosine = {"data": {"shots": 5}}, {"data": {"shots": 5}, "optimizer": {"schedule": "cosine"}}
    runs = runs_of(
        tmp_path,
        {"algo": "maml", "inner_lr": 0.1, "config": five},
        {"algo": "maml", "inner_lr": 0.01, "seed": 1, "config": five},
        # what a learner brings along, and what changes no number, makes no setting
        {"algo": "maml_pp", "inner_lr": 0.1, "config": cosine},
        {"algo": "maml_pp", "inner_lr": 0.1, "seed": 1, "config": {**cosine, "device": {"threads": 7}}},
    )
    assert settings_of(runs) == [(("algo.inner_lr", rate),) for rate in (0.1, 0.01, 0.1, 0.1)]


def test_data_sets_are_told_apart_and_numbers_ascend(tmp_path):
    cells = [{"data": "omniglot", "metric": "accuracy", "inner_lr": rate} for rate in (10, 0.4, 9)]
    table = tabulate(runs_of(tmp_path, *cells, {"data": "sinusoid"}))
    assert [dict(setting) for setting in table.settings] == [
        *({"data": "omniglot", "algo.inner_lr": rate} for rate in (0.4, 9, 10)),
        {"data": "sinusoid", "algo.inner_lr": 0.01},
    ]


def test_the_best_is_the_least_error_or_the_most_accurate_and_overlap_is_a_tie(tmp_path):
    cells = [
        {"algo": "a", "mean": 0.50, "ci95": 0.05},
        {"algo": "b", "mean": 0.56, "ci95": 0.02},
        {"algo": "c", "mean": 0.60, "ci95": 0.02},
    ]
    runs = runs_of(tmp_path / "errors", *cells)
    marks = {entry.algo: (entry.best, entry.tie) for entry in tabulate(runs).entries.values()}
    assert marks == {"a": (True, False), "b": (False, True), "c": (False, False)}
    runs = runs_of(tmp_path / "accuracies", *({**cell, "metric": "accuracy"} for cell in cells))
    marks = {entry.algo: (entry.best, entry.tie) for entry in tabulate(runs).entries.values()}
    assert marks == {"a": (False, False), "b": (False, True), "c": (True, False)}


def test_an_entry_of_which_a_seed_diverged_says_so_and_is_never_best(tmp_path):
    cells = [
        {"algo": "a", "seed": 0, "mean": 0.1},
        {"algo": "a", "seed": 1, "mean": None, "status": "diverged"},
        {"algo": "b", "seed": 0, "mean": 0.9},
        {"algo": "c", "seed": 0, "mean": None, "status": "completed"},  # its held-out tasks blew up
    ]
    entries = {entry.algo: entry for entry in tabulate(runs_of(tmp_path, *cells)).entries.values()}
    assert (entries["a"].bad, entries["a"].best, entries["b"].best) == ({"diverged": 1}, False, True)
    assert (entries["c"].mean, entries["c"].bad) == (None, {"diverged": 1})


def test_a_seed_counts_once_by_its_newest_run(tmp_path):
    import os

    runs = runs_of(tmp_path, {"mean": 0.1}, {"mean": 0.2}, {"mean": 0.3, "seed": 1})
    os.utime(runs[0].folder / "result.json", (2e9, 2e9))
    table = tabulate(runs)
    (entry,) = table.entries.values()
    assert entry.values == [0.1, 0.3] and table.left_out == 1


def rows_of(folder, *cells):
    """What the table says: the setting, means and bad runs of each entry."""
    table = tabulate(runs_of(folder, *cells))
    return [(dict(entry.setting), entry.values, entry.bad) for entry in table.entries.values()], table.left_out


def on(root, fingerprint, **cell):
    return {"data": "imagefolder", "config": {"data": {"root": root}}, "episodes": fingerprint, **cell}


def test_two_folders_of_images_are_two_rows_with_names_that_tell_them_apart(tmp_path):
    cells = [on("/home/a/flowers", "f1", mean=0.9), on("/home/a/birds/", "f2", mean=0.4, seed=1)]
    rows = [({"data.root": "flowers"}, [0.9], {}), ({"data.root": "birds"}, [0.4], {})]
    assert rows_of(tmp_path / "few", *cells) == (rows, 0)
    same = [on("/a/images", "f1", mean=0.9), on("/b/images", "f2", mean=0.4), on(None, "f3", mean=0.1)]
    assert [setting for setting, *_ in rows_of(tmp_path / "same", *same)[0]] == [
        {"data.root": "a/images"},
        {"data.root": "b/images"},
        {"data.root": "null"},
    ]


def test_a_folder_that_has_moved_is_the_same_data(tmp_path):
    cells = [on("/old/flowers", "f1", mean=0.9), on("/new/flowers", "f1", mean=0.7, seed=1)]
    assert rows_of(tmp_path / "moved", *cells) == ([({}, [0.9, 0.7], {})], 0)
    # another learner shows it, too: what is on a row is compared across learners
    others = [on("/new/flowers", "f2", algo="gnn", mean=0.5), on("/old/flowers", "f2", algo="imp", mean=0.5)]
    table = tabulate(runs_of(tmp_path / "learners", cells[0], *others))
    assert table.settings == [()]


def test_a_run_of_another_folder_that_failed_is_not_taken_for_this_one(tmp_path):
    cells = [on("/a/A", "f1", mean=0.9), on("/a/B", None, mean=None, status="failed")]
    wanted = [({"data.root": "A"}, [0.9], {}), ({"data.root": "B"}, [], {"failed": 1})]
    assert rows_of(tmp_path, *cells) == (wanted, 0)


def test_a_folder_whose_content_has_changed_is_other_data(tmp_path):
    cells = [on("A", "0123456789", mean=0.9), on("A", "abcdefabcd", mean=0.4), on("A", "0123456789", mean=0.8, seed=1)]
    cells.append(on("A", "0123456789", mean=0.7, algo="protonet"))
    assert rows_of(tmp_path, *cells) == (
        [
            ({"tasks": "01234567"}, [0.9, 0.8], {}),
            ({"tasks": "abcdefab"}, [0.4], {}),
            ({"tasks": "01234567"}, [0.7], {}),
        ],
        0,
    )


def test_data_that_follow_from_the_seed_are_repetitions(tmp_path):
    seeded = {"config": {"data": {"split_seed": "${seed}"}}}
    cells = [{**seeded, "seed": seed, "episodes": f"f{seed}", "mean": 0.5} for seed in range(3)]
    assert rows_of(tmp_path, *cells) == ([({}, [0.5] * 3, {})], 0)


def test_learners_on_other_streams_of_the_same_data_stay_on_one_row(tmp_path):
    table = tabulate(runs_of(tmp_path, {"algo": "maml"}, {"algo": "mann", "episodes": "of sequences"}))
    assert table.settings == [()]


def test_only_runs_of_one_configuration_are_older_ones_of_the_same_seed(tmp_path):
    device = [{"config": {"device": device}} for device in ({"precision": "float32"}, {"precision": "float64"})]
    rows, left_out = rows_of(tmp_path / "precision", *device)
    assert [setting for setting, *_ in rows] == [{"device.precision": name} for name in ("float32", "float64")]
    assert left_out == 0
    compiled = [{"config": {"device": {"compile": flag}}} for flag in (True, False)]
    rows, left_out = rows_of(tmp_path / "compile", *compiled)
    assert ([setting for setting, *_ in rows], left_out) == ([{"device.compile": True}, {"device.compile": False}], 0)
    seeds = [{**cell, "seed": seed} for seed, cell in enumerate(compiled)]
    assert rows_of(tmp_path / "seeds", *seeds) == ([({}, [0.5, 0.5], {})], 0)
    nets = [
        {"backbone": name, "config": {"backbone": {"_target_": name, "hidden": size}}}
        for name, size in (("mlp", 40), ("linear", 8))
    ]
    rows, left_out = rows_of(tmp_path / "backbone", *nets)
    assert ([setting for setting, *_ in rows], left_out) == ([{"backbone": "mlp"}, {"backbone": "linear"}], 0)


def test_a_run_whose_configuration_is_damaged_is_in_no_row(tmp_path):
    runs_of(tmp_path, {"mean": 0.1}, {"mean": 0.9, "seed": 1})
    (tmp_path / "run_1" / ".hydra" / "config.yaml").write_text("{")
    (entry,) = tabulate(read_runs([tmp_path])).entries.values()
    assert entry.values == [0.1]


PAPER = {"source": "table 1", "value": 0.487, "ci95": 0.018}
BORROWED = {
    "of these data, ways and shots": (PAPER | {"data": "omniglot", "ways": 5, "shots": 1}, "omniglot/maml", True),
    "that names no data": (PAPER, "omniglot/maml", True),
    "without a setting": (PAPER, None, True),
    "of other data": (PAPER | {"data": "miniimagenet"}, "omniglot/maml", False),
    "of other ways": (PAPER | {"ways": 20}, "omniglot/maml", False),
    "of other shots": (PAPER | {"shots": 5}, "omniglot/maml", False),
    "borrowed with a setting": (PAPER, "miniimagenet/maml", False),
}


@pytest.mark.parametrize(("paper", "setting", "stands"), BORROWED.values(), ids=BORROWED)
def test_a_published_figure_stands_only_beside_what_it_was_published_for(paper, setting, stands, tmp_path):
    write_run(tmp_path / "run", data="omniglot", metric="accuracy", ways=5, shots=1, paper=paper)
    choices = {"data": "omniglot", "algo": "maml"} | ({"setting": setting} if setting else {})
    hydra = yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}})
    (tmp_path / "run" / ".hydra" / "hydra.yaml").write_text(hydra)
    (entry,) = tabulate(read_runs([tmp_path])).entries.values()
    assert entry.paper == (paper if stands else None)


def test_runs_that_name_different_figures_have_none(tmp_path):
    cells = [{"seed": seed, "paper": PAPER | {"value": value}} for seed, value in enumerate((0.4, 0.5))]
    (entry,) = tabulate(runs_of(tmp_path, *cells)).entries.values()
    assert entry.paper is None


def rates_of(folder, metric, means, **more):
    cells = [
        {"inner_lr": rate, "mean": mean, "metric": metric, "status": "completed" if mean else "diverged", **more}
        for rate, mean in means.items()
    ]
    ((_, (line,)),) = over_rates(tabulate(runs_of(folder, *cells))).items()
    return line


WIDTHS = {
    "errors up to 1.1 times the best": ("mse", {1e-3: 1.11, 1e-2: 1.0, 1e-1: 1.09, 1: 1.1}, 2.0, 1e-2),
    "accuracies from 0.9 times the best": ("accuracy", {1e-3: 0.8, 1e-2: 0.72, 1e-1: 0.71}, 1.0, 1e-3),
    "a rate in between that is worse ends it": ("mse", {1e-3: 1.0, 1e-2: 2.0, 1e-1: 1.0}, 0.0, 1e-3),
    "so does one that diverges": ("mse", {1e-3: 1.0, 1e-2: None, 1e-1: 1.0}, 0.0, 1e-3),
    "on either side": ("mse", {1e-3: 1.0, 1e-2: None, 1e-1: 0.99}, 0.0, 1e-1),
    "not in whole decades": ("mse", {0.01: 1.0, 0.03: 1.0, 0.5: 9.0}, math.log10(3), 0.01),
    "nothing completed": ("mse", {0.01: None, 0.1: None}, None, None),
}


@pytest.mark.parametrize(("metric", "means", "width", "best"), WIDTHS.values(), ids=WIDTHS)
def test_robustness_is_the_width_in_decades_around_the_best_rate(metric, means, width, best, tmp_path):
    line = rates_of(tmp_path, metric, means)
    assert line.rates == sorted(means)
    assert line.width == (None if width is None else pytest.approx(width))
    assert line.best_rate == best


def test_a_seed_that_diverges_ends_the_range_too(tmp_path):
    cells = [{"inner_lr": rate, "mean": 1.0} for rate in (0.01, 0.1, 1)]
    bad = {"inner_lr": 0.1, "seed": 1, "mean": None, "status": "diverged"}
    ((_, (line,)),) = over_rates(tabulate(runs_of(tmp_path, *cells, bad))).items()
    assert (line.width, line.entries[1].bad) == (0.0, {"diverged": 1})


def test_rates_are_compared_where_all_else_is_equal(tmp_path):
    cells = [{"inner_lr": rate, "config": {"data": {"shots": shots}}} for rate in (0.1, 1) for shots in (5, 10)]
    panels = over_rates(tabulate(runs_of(tmp_path, *cells)))
    assert [dict(setting) for setting in panels] == [{"data.shots": 5}, {"data.shots": 10}]


def test_the_paired_test_is_scipy_s(tmp_path):
    rng = np.random.default_rng(0)
    first = rng.normal(size=600)
    second = first + rng.normal(0.1, 0.5, size=600)
    result = paired_values(first, second)
    referee = stats.ttest_rel(second, first)
    low, high = referee.confidence_interval(0.95)
    assert result.difference == pytest.approx((second - first).mean())
    assert result.p == pytest.approx(referee.pvalue)
    assert (result.difference - result.ci95, result.difference + result.ci95) == pytest.approx((low, high))
    assert result.tasks == 600


def test_equal_runs_differ_by_nothing_and_too_few_tasks_are_refused():
    assert paired_values(np.ones(5), np.ones(5))[:3] == (0.0, 0.0, 1.0)
    assert paired_values(np.ones(5), np.ones(5) + 1)[:3] == (1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="two tasks"):
        paired_values(np.ones(1), np.ones(1))


def test_runs_are_paired_by_their_episodes_only_where_those_are_the_same(tmp_path):
    for name in ("a", "b", "other", "none", "accuracy", "blown"):
        write_run(tmp_path / name, metric="accuracy" if name == "accuracy" else "mse")
    a, b = tmp_path / "a", tmp_path / "b"
    values = np.stack([np.zeros(20), np.arange(20.0)], axis=1)
    np.savez(a / "episodes.npz", headline_step=1, mse=values)
    np.savez(b / "episodes.npz", headline_step=1, mse=values + np.arange(20.0)[:, None])
    result = paired(read_run(a), read_run(b))
    assert result.difference == pytest.approx(9.5) and result.tasks == 20
    other = json.loads((tmp_path / "other" / "result.json").read_text())
    (tmp_path / "other" / "result.json").write_text(json.dumps(other | {"episodes": "another hash"}))
    (tmp_path / "none" / "episodes.npz").unlink()
    blown = np.where(np.arange(20)[:, None] < 3, np.nan, values)
    np.savez(tmp_path / "blown" / "episodes.npz", headline_step=1, mse=blown)
    for name, words in (
        ("other", "a and other were tested on different tasks"),
        ("none", "none has no held-out tasks"),
        ("blown", "blown diverged on 3 of its 20 held-out tasks"),
        ("accuracy", "a measures mse, accuracy accuracy"),
    ):
        with pytest.raises(ValueError, match=words):
            paired(read_run(a), read_run(tmp_path / name))
