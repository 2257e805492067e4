"""A run again agrees with its record, or is said not to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from recorded import RECORD

from scripts.results import verify
from scripts.results.records import SeedRun

RUN = RECORD.runs[0]  # 0.5 ± 0.01; the other seed has 0.75 ± 0.02


@pytest.mark.parametrize(
    ("mean", "compiled", "device", "exact", "agrees"),
    [
        (0.504, False, "a machine", True, True),  # two digits were recorded
        (0.506, False, "a machine", True, False),
        (0.506, True, "a machine", False, True),
        (0.506, False, "another", False, True),
        (0.765, True, "a machine", False, True),  # within the other seed's interval
        (0.775, True, "a machine", False, False),
        (0.485, True, "a machine", False, False),
        (None, True, "a machine", False, False),
    ],
)
def test_a_figure_is_compared(mean, compiled, device, exact, agrees):
    result = {"metric": "accuracy", "mean": mean, "compiled": compiled}
    check = verify.compare(RECORD, RUN, result, device)
    assert (check.exact, check.agrees) == (exact, agrees)
    assert ("DIFFERS" in verify.line(check)) == (not agrees)


def test_a_run_of_full_precision_has_to_come_out_to_the_last_digit():
    run = SeedRun(0, 0.503217, 0.01, 84.0)
    record = dataclasses.replace(RECORD, runs=[run], mean=0.503217, measures=[])
    same, other = ({"metric": "accuracy", "mean": mean} for mean in (0.503217, 0.503218))
    assert verify.compare(record, run, same, "a machine").agrees
    assert not verify.compare(record, run, other, "a machine").agrees


def test_without_a_recorded_interval_the_new_one_counts():
    run = SeedRun(0, 1.318, None, None)
    record = dataclasses.replace(RECORD, metric="mse", runs=[run], mean=1.318, measures=[])
    for mean, agrees in ((1.31803, True), (1.4, True), (1.6, False)):
        result = {"metric": "mse", "mean": mean, "ci95": 0.2, "compiled": True}
        assert verify.compare(record, run, result, "another").agrees == agrees
    assert verify.compare(record, run, {"metric": "mse", "mean": 1.31803}, "another").agrees


def test_a_metric_beside_the_headline_is_found():
    record = dataclasses.replace(RECORD, metric="nll")
    assert verify.figure_of({"metric": "accuracy", "mean": 0.5, "metrics": {"nll": {"mean": 2.0}}}, record) == 2.0
    assert verify.figure_of({}, record) is None


def test_only_what_is_cheap_and_stands_alone_is_drawn():
    slow = dataclasses.replace(RECORD, cell="slow", runs=[SeedRun(0, 0.625, None, 500.0)], measures=[])
    unknown = dataclasses.replace(RECORD, cell="unknown", runs=[SeedRun(0, 0.625, None, None)], measures=[])
    later = dataclasses.replace(RECORD, cell="later", command="metarun run.evaluate=x")
    untrained = dataclasses.replace(unknown, cell="untrained", iterations=0)
    drawn = verify.draw([RECORD, slow, unknown, later, untrained], 5, seed=0)
    assert {record.cell for record in drawn} == {RECORD.cell, "untrained"}


def test_a_record_is_run_by_its_own_command():
    record = dataclasses.replace(RECORD, command="metarun -m hydra/launcher=fused algo=maml device.threads=1")
    assert verify.command(record, SeedRun(2, 0.5, None, None), Path("/f")) == [
        "algo=maml", "device.threads=1", "seed=2", "tracker=none", "hydra.run.dir=/f"
    ]  # fmt: skip


def test_a_difference_is_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(verify, "load", lambda: [RECORD])
    monkeypatch.setattr(verify.sys, "argv", ["verify", "--cells", "1", "--seed", "7"])
    for mean, status in ((0.5, 0), (0.6, 1)):
        result = {"metric": "accuracy", "mean": mean}
        monkeypatch.setattr(verify, "verify", lambda record, r=result: verify.compare(record, RUN, r, "a machine"))
        with pytest.raises(SystemExit) as ended:
            verify.main()
        assert ended.value.code == status
    assert "draw: seed 7" in capsys.readouterr().out
