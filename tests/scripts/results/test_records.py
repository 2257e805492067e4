"""Records are read whole, or refused by what is wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest
from recorded import RECORD

from scripts.results.records import load, parse, path_of, write


def content(**changes) -> dict:
    return {**json.loads(json.dumps(dataclasses.asdict(RECORD))), **changes}


def test_what_is_written_is_read(tmp_path):
    path = write(RECORD, tmp_path)
    assert path == tmp_path / "small" / "protonet_5-way_1-shot.json"
    assert load(tmp_path) == [RECORD]
    assert RECORD.measure("nll").mean == 2.5 and RECORD.measure("accuracy").published is RECORD.published
    with pytest.raises(KeyError, match="no nll after step 3"):
        RECORD.measure("nll", 3)


def without(key: str) -> dict:
    return {name: value for name, value in content().items() if name != key}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ([], "a record must be a mapping"),
        (without("note"), r"fields must be complete: these are missing; got \['note'\]"),
        (content(bar=0.9), r"fields must be known: these are not; got \['bar'\]"),
        (content(tasks="200"), "tasks must be of type int"),
        (content(tasks=True), "tasks must be of type int"),
        (content(transductive=1), "transductive must be of type bool"),
        (content(better="more"), "better must be one of higher, lower"),
        (content(runs=[]), "runs must be at least one run"),
        (content(runs=[{"seed": 0, "mean": 0.5}]), r"runs\[0\].fields must be complete"),
        (content(runs=[RUN := {"seed": 0, "mean": 0.625, "ci95": 0.1, "seconds": 1.0}] * 2), "one run a seed"),
        (content(runs=[{**RUN, "ci95": -0.1}], measures=[]), "ci95 must be at least 0"),
        (content(runs=[{**RUN, "mean": 62.5}], mean=62.5, measures=[]), "fractions"),
        (content(mean=0.626), "accuracy, mean must be the mean of the runs"),
        (content(mean=None), "accuracy, mean must be the mean of the runs"),
        (content(runs=[RUN]), "nll must be of the record's seeds"),
        (content(command="metarun algo=maml seed=0"), "without a seed"),
        (content(date="21 November"), "YYYY-MM-DD"),
        (content(config=None), "config must be there"),
        (content(cell="a/b"), "cell must be"),
    ],
)
def test_what_is_no_record_is_refused(wrong, why):
    with pytest.raises(ValueError, match=why):
        parse(wrong)


def test_rounded_figures_are_taken_where_they_were_written_down():
    runs = [{"seed": seed, "mean": mean, "ci95": 0.01, "seconds": None} for seed, mean in enumerate((0.930, 0.923))]
    assert parse(content(origin="transcribed", runs=runs, mean=0.927, measures=[])).mean == 0.927
    with pytest.raises(ValueError, match="mean of the runs"):
        parse(content(origin="transcribed", runs=runs, mean=0.94, measures=[]))


def test_a_run_that_is_not_finite_leaves_no_mean():
    runs = [{"seed": 0, "mean": None, "ci95": None, "seconds": None}]
    assert parse(content(runs=runs, mean=None, measures=[])).mean is None


def test_a_record_in_another_place_is_refused(tmp_path):
    write(RECORD, tmp_path).rename(tmp_path / "small" / "maml.json")
    with pytest.raises(ValueError, match=r"maml\.json: its place must be .*protonet_5-way_1-shot\.json"):
        load(tmp_path)


def test_every_record_of_the_project_is_whole():
    records = load()
    assert len({path_of(record.target, record.cell) for record in records}) == len(records)
