"""Records as tables: figures with their intervals, and which learners are compared with which."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from metarun.experiment.choices import CONF
from scripts.docs import gallery
from scripts.docs.records import anchor, interval, measured, provenance, published, result_table, task
from scripts.docs.results import compared, eligible, overlap
from scripts.results.records import Published, Record, SeedRun


def record(algo="maml", mean=0.9, ci95=0.01, seeds=1, ways=5, train_ways=5, **changes):
    values = {
        "cell": f"{algo} 5-way 1-shot",
        "target": "small",
        "algo": algo,
        "data": "omniglot",
        "experiment": None,
        "command": f"metarun algo={algo} data=omniglot",
        "metric": "accuracy",
        "better": "higher",
        "step": None,
        "runs": [SeedRun(seed, mean, ci95, 60.0) for seed in range(seeds)],
        "mean": mean,
        "tasks": 200,
        "iterations": 2000,
        "threads": 1,
        "device": "a machine",
        "commit": "25ff4b5",
        "date": "2026-11-21",
        "config": {"data": {"ways": ways, "shots": 1, "partition": "small", "train_ways": train_ways}},
        "origin": "run",
    }
    return Record(**(values | changes))


def test_a_figure_has_its_interval_in_its_own_unit():
    assert measured(record()).replace("\u00a0", " ") == "90.00 ± 1.00 %"
    assert measured(record(metric="mse", better="lower", mean=0.4013)).replace("\u00a0", " ") == "0.401 ± 0.01"


def test_the_interval_of_several_seeds_is_students_over_them():
    runs = [SeedRun(seed, mean, 0.5, None) for seed, mean in enumerate((0.8, 0.9, 1.0))]
    assert interval(record(runs=runs)) == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert interval(record(mean=0.8, runs=runs[:1])) == 0.5


def test_what_is_not_finite_is_said():
    assert measured(record(mean=None, runs=[SeedRun(0, None, None, None)])) == "not finite"


def test_a_published_figure_names_its_source_and_table():
    text = published(record(published=Published(0.988, None, "Snell et al. 2017", "table 1")))
    assert text.replace("\u00a0", " ") == "98.80 % (Snell et al. 2017, table 1)"
    assert published(record()) == ""


def test_a_row_links_to_how_it_was_measured():
    cell = record(data="omniglot")
    assert f"](/records.md#{anchor(cell)})" in result_table([cell], page="/records.md")
    text = provenance(cell)
    assert f'id="{anchor(cell)}"' in text and cell.command in text and "commit `25ff4b5`" in text
    assert "commit not recorded" in provenance(record(commit="not recorded"))


def test_learners_are_compared_on_the_same_tasks_only():
    cells = [
        record("maml", 0.80),
        record("protonet", 0.92, train_ways=60),  # training may differ
        record("imp", 0.95, ways=20),  # other tasks
        record("gnn", 0.99, tasks=600),
    ]
    ((title, rows),) = compared(cells).items()
    assert title == "omniglot, small, 5-way 1-shot: accuracy"
    assert [row.algo for row in rows] == ["protonet", "maml"]
    assert task(cells[2]) == "omniglot, small, 20-way 1-shot"


def test_the_best_error_is_the_least():
    cells = [record(algo, mean, metric="mse", better="lower") for algo, mean in (("maml", 0.4), ("cavia", 0.2))]
    assert [row.algo for row in next(iter(compared(cells).values()))] == ["cavia", "maml"]


def test_overlapping_intervals_are_not_told_apart():
    best = record(mean=0.95)
    assert overlap(record(mean=0.931), best) and not overlap(record(mean=0.929), best)
    assert not overlap(record(mean=None, runs=[SeedRun(0, None, None, None)]), best)


def test_what_a_sweep_spoils_and_who_is_told_the_answer_is_not_compared():
    sweep = {"target": "mtnet", "cell": "sensitivity maml 10"}
    assert eligible(record()) and not eligible(record(**sweep)) and not eligible(record("oracle"))
    assert eligible(record(target="mtnet", cell="learning_rate maml 0.01"))
    assert not eligible(record(target="mtnet", cell="learning_rate maml 10"))


@pytest.mark.parametrize("name", gallery.ENTRIES)
def test_a_run_of_the_gallery_composes(name):
    words = [word.split(",")[0] for word in gallery.ENTRIES[name].command if word != "-m"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", words)
    assert cfg.data._target_
    assert gallery.ENTRIES[name].picture or gallery.ENTRIES[name].draw


def test_the_gallery_shows_each_run_with_its_command():
    text = gallery.page().replace(" \\\n    ", " ")
    shown = {name: entry for name, entry in gallery.ENTRIES.items() if gallery.picture_of(name).is_file()}
    assert shown
    for entry in shown.values():
        assert f"## {entry.title}" in text and f"metarun {' '.join(entry.command)}" in text
