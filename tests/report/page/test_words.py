"""How the page writes numbers: as JavaScript's toFixed, toPrecision and toLocaleString did, which a browser gave."""

from __future__ import annotations

import pytest

from metarun.report.page import words

MEASURES = {
    "an accuracy": (0.9512, "accuracy", 0.0034, "95.12 ± 0.34 %"),
    "half a hundredth is rounded up": (0.000625, "accuracy", None, "0.06 %"),
    "an interval that two decimals cannot show": (0.9, "accuracy", 1e-7, "90.00 ± <0.01 %"),
    "an interval of nothing": (0.6041, "accuracy", 0.0, "60.41 ± 0.00 %"),
    "a part of an accuracy": (0.5, "accuracy_inductive", None, "50.00 %"),
    "an instance of a class": (0.36, "instance_1", 0.02, "36.00 ± 2.00 %"),
    "an error": (0.5, "mse", 0.02, "0.500 ± 0.020"),
    "a tie is rounded up": (0.0625, "mse", None, "0.063"),
    "tens": (12.0, "mse", 0.02, "12.00 ± 0.02"),
    "hundreds": (126.94, "mse", 352.41, "126.9 ± 352.4"),
    "thousands": (4583.2, "mse", 0.4, "4583 ± <1"),
    "a large error": (123456.0, "mse", 12.0, "1.23e5 ± 1.20e1"),
    "a small error": (-0.00013321970958845563, "mse", 0.0, "-1.33e-4 ± 0.00e0"),
    "zero": (0.0, "mse", 0.1, "0.000 ± 0.100"),
    "no value": (None, "mse", 0.1, "–"),
    "a value beyond what a float holds in percent": (1.7e308, "accuracy", 0.1, "inf ± 1.00e1 %"),
}


@pytest.mark.parametrize(("value", "metric", "ci95", "text"), MEASURES.values(), ids=MEASURES)
def test_a_metric_with_its_interval(value, metric, ci95, text):
    assert words.measure(value, metric, ci95) == text


SHORT = {
    0: "0",
    0.01: "0.01",
    1 / 3: "0.3333",
    1234.5: "1235",  # toPrecision rounds half up
    1e-3: "0.001",
    0.000123456: "1.23e-4",
    1.5e-7: "1.5e-7",
    60000: "60,000",
    1e20: "100,000,000,000,000,000,000",
    123456.7: "123500",
    1234567.8: "1.23e6",
    -2.5: "-2.5",
    "text": "text",
    "": "–",
    None: "–",
}


@pytest.mark.parametrize(("value", "text"), SHORT.items())
def test_a_setting_is_short(value, text):
    assert words.short(value) == text


def test_a_setting_that_is_a_bool_is_in_lower_case_and_one_that_is_no_number_is_text():
    assert (words.short(True), words.short(False), words.short(float("inf"))) == ("true", "false", "inf")


def test_there_is_no_minus_zero():
    assert (words.short(-0.0), words.measure(-0.0, "mse"), words.grouped(0)) == ("0", "0.000", "0")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (12.5, "12.5 s"),
        (0.05, "0.1 s"),
        (59.96, "60.0 s"),
        (60, "1 min 0 s"),
        (3599.9, "59 min 59 s"),
        (7385.2, "2 h 3 min"),
    ],
)
def test_durations(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1000, "1,000"), (60000.0, "60,000"), (190.2925, "190.293"), (9.9995, "10"), (-1, "-1"), (0, "0")],
)
def test_counts_are_grouped(value, text):
    assert words.grouped(value) == text


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("train/loss", "train/loss, all steps"),
        ("train/accuracy", "train/accuracy (%), one meta-batch"),
        ("val/mse", "val/mse, all tasks"),
    ],
)
def test_a_curve_is_named_with_what_it_is_the_mean_of(key, name):
    assert words.curve_name(key) == name


def test_metrics_are_spelt_out_where_they_are_abbreviations():
    assert words.metrics_note(["accuracy"]) == ""
    assert words.metrics_note(["mse", "accuracy", "nll"]) == "mse: mean squared error; nll: negative log-likelihood"


def test_a_count_has_a_plural():
    assert [words.count(number, "run") for number in (0, 1, 2, 1500)] == ["0 runs", "1 run", "2 runs", "1,500 runs"]


@pytest.mark.parametrize(
    ("value", "finite"),
    [(1, 1), (0.5, 0.5), (True, None), ("1", None), (None, None), (float("nan"), None), (float("inf"), None)],
)
def test_what_json_can_hold(value, finite):
    assert words.finite(value) == finite


def test_only_the_last_part_of_a_key_makes_it_a_metric_in_percent():
    assert [words.axis_name(key) for key in ("val/accuracy", "accuracy", "train/loss", "in/accuracy/mse")] == [
        "val/accuracy (%)",
        "accuracy (%)",
        "train/loss",
        "in/accuracy/mse",
    ]
    assert (words.scale_of("train/accuracy"), words.scale_of("train/mse")) == (100, 1)


def test_keys_are_short_unless_two_end_alike():
    keys = words.ShortKeys(["algo.inner_lr", "data.shots", "data.train.shots", "data"])
    assert [keys[key] for key in ("algo.inner_lr", "data.shots", "data.train.shots", "seed")] == [
        "inner_lr",
        "data.shots",
        "data.train.shots",
        "seed",
    ]
    assert keys.setting([("algo.inner_lr", 0.01), ("data", "omniglot")]) == "inner_lr 0.01, data omniglot"
    assert keys.setting([]) == "as configured"


def test_runs_that_did_not_complete():
    assert words.bad({"diverged": 2, "failed": 1}, 5) == "2 of 5 diverged, 1 of 5 failed"


def test_text_for_plotly_has_no_tags():
    assert words.escaped("<b>&\"'") == "&lt;b&gt;&amp;\"'"
