"""How metrics, intervals and durations are written."""

from __future__ import annotations

import pytest

from metarun.report.numbers import decimals_of, duration, estimate, is_percent, number

NUMBERS = {
    "an accuracy": ("accuracy", 0.9512, 0.0034, "95.12% ± 0.34"),
    "an error": ("mse", 0.2346, 0.0123, "0.235 ± 0.012"),
    "a wide interval": ("mse", 4583.2, 4501.0, "4.58e+03 ± 4.5e+03"),
    "no interval": ("mse", 0.2346, None, "0.235"),
    "an accuracy alone": ("accuracy_inductive", 0.5, None, "50.00%"),
    "nothing": ("mse", None, None, "-"),
    "a difference": ("mse", -0.21, 0.0341, "-0.210 ± 0.034"),
    "a large number": ("mse", 164.04, 0.8, "164.04 ± 0.80"),
}


@pytest.mark.parametrize(("metric", "mean", "ci95", "wanted"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_with_their_intervals(metric, mean, ci95, wanted):
    assert estimate(metric, mean, ci95) == wanted


def test_a_mean_whose_interval_sets_no_decimals_is_written_as_the_caller_does():
    assert estimate("mse", 4583.2, 4501.0, "4583") == "4583 ± 4.5e+03"
    assert estimate("mse", 4583.2, None, "4583") == "4583"
    assert estimate("mse", 0.2346, 0.0123, "0.2346") == "0.235 ± 0.012"


@pytest.mark.parametrize(
    ("metric", "value", "wanted"),
    [("mse", 0.5, "0.500"), ("mse", 0.0001234, "0.000123"), ("mse", 12.345, "12.3"), ("instance_1", 0.36, "36.00%")],
)
def test_a_number_alone(metric, value, wanted):
    assert number(metric, value) == wanted


@pytest.mark.parametrize(("width", "decimals"), [(0.0123, 3), (0.5, 2), (1.0, 1), (9.9, 1), (10.0, 0), (4501.0, 0)])
def test_an_interval_is_written_with_two_digits(width, decimals):
    assert decimals_of(width) == decimals


@pytest.mark.parametrize(("seconds", "shown"), [(4.21, "4.2 s"), (185, "3:05"), (59.99, "60.0 s"), (7385.2, "2:03:05")])
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_accuracies_are_in_percent():
    assert [is_percent(metric) for metric in ("accuracy", "accuracy_inductive", "instance_2", "mse", "nll")] == [
        *(True, True, True),
        *(False, False),
    ]
