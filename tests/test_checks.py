"""Each check: what it lets through, and its message to the letter."""

from __future__ import annotations

import math

import pytest

from metarun.checks import (
    is_int,
    is_number,
    require,
    require_choice,
    require_int,
    require_int_or_none,
    require_interval,
    require_non_negative,
    require_positive,
    require_range,
)


def message(check, *args, **kwargs) -> str:
    """The text of the error that a check raises."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (its whole text is what is compared)
        check(*args, **kwargs)
    assert type(caught.value) is ValueError
    return str(caught.value)


def test_the_general_check_says_key_what_and_value():
    require("data.split", "x", True, "anything")
    assert message(require, "data.split", "x", False, "y or z") == "data.split must be y or z; got 'x'"
    assert message(require, "seed", None, [], "an integer") == "seed must be an integer; got None"  # any false value


@pytest.mark.parametrize("value", [0, 1, -3, 10**20])
def test_an_integer_is_a_number(value):
    assert is_number(value) and is_int(value, minimum=-3)


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1], 1 + 0j])
def test_what_is_no_integer(value):
    assert not is_int(value)


@pytest.mark.parametrize("value", [True, "1", None, [1.0], math.nan, math.inf, -math.inf, 1 + 0j])
def test_what_is_no_number(value):
    assert not is_number(value)


@pytest.mark.parametrize(
    ("value", "shown"), [(-1, "-1"), (1.0, "1.0"), (True, "True"), (None, "None"), ("2", "'2'"), ([1], "[1]")]
)
def test_integers(value, shown):
    require_int("algo", steps=0, units=7)
    assert message(require_int, "algo", steps=value) == f"algo.steps must be an integer of at least 0; got {shown}"


def test_integers_from_a_minimum_or_none():
    require_int("data", minimum=1, ways=1)
    assert message(require_int, "data", minimum=1, ways=0) == "data.ways must be an integer of at least 1; got 0"
    require_int_or_none("backbone", minimum=1, size=None, width=1)
    expected = "backbone.size must be null or an integer of at least 1; got 0"
    assert message(require_int_or_none, "backbone", minimum=1, size=0) == expected


def test_the_first_value_that_is_wrong_is_the_one_named():
    assert message(require_int, "run", a=1, b=-2, c=-3) == "run.b must be an integer of at least 0; got -2"
    assert message(require_positive, "run", a=1, b=-2.0, c=-3) == "run.b must be above 0; got -2.0"


@pytest.mark.parametrize("value", [0, -0.0, -1e-9, math.nan, math.inf, True, None, "1"])
def test_positive_numbers(value):
    require_positive("algo", inner_lr=1e-300, C=3)
    assert message(require_positive, "algo", inner_lr=value) == f"algo.inner_lr must be above 0; got {value!r}"


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, False, None, "1"])
def test_non_negative_numbers(value):
    require_non_negative("run", checkpoint_seconds=0, other=0.0)
    expected = f"run.checkpoint_seconds must be at least 0; got {value!r}"
    assert message(require_non_negative, "run", checkpoint_seconds=value) == expected


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.0, 0.999], [-0.1, 1, 1.0, math.nan, False, None, "0.5"]),
        ("(0, 1]", [1e-9, 1], [0, 0.0, 1.1, math.inf]),
        ("[0, 1]", [0, 1], [-1e-9, 2, True]),
        ("(-1.5, 2)", [-1.4, 1.9], [-1.5, 2]),
    ],
)
def test_intervals(interval, inside, outside):
    for value in inside:
        require_interval("backbone", interval, drop_rate=value)
    for value in outside:
        expected = f"backbone.drop_rate must be in {interval}; got {value!r}"
        assert message(require_interval, "backbone", interval, drop_rate=value) == expected


def test_choices():
    require_choice("run.test_weights", "last", ("best", "last"))
    require_choice("algo.order", 2, {1: "a", 2: "b"})
    expected = "run.test_weights must be one of best, last; got 'lst'"
    assert message(require_choice, "run.test_weights", "lst", ("best", "last")) == expected
    assert message(require_choice, "algo.order", [1], range(3)) == "algo.order must be one of 0, 1, 2; got [1]"
    assert message(require_choice, "algo.order", 5, iter((0, 1))) == "algo.order must be one of 0, 1; got 5"


@pytest.mark.parametrize("value", [[2.0, 1.0], [1.0], [1, 2, 3], [0, math.inf], [0, None], ["0", "1"], "01", 3, None])
def test_ranges(value):
    require_range("data.amplitude", [1, 1])
    require_range("data.amplitude", (-1.5, 2))
    expected = f"data.amplitude must be a range [lowest, highest]; got {value!r}"
    assert message(require_range, "data.amplitude", value) == expected


@pytest.mark.parametrize("value", [[1, 1], [2.0, 1.0], [1.0]])
def test_ranges_whose_ends_differ(value):
    require_range("algo.log_variance", [-6.0, -2.0], strict=True)
    expected = f"algo.log_variance must be a range [lowest, highest] with lowest < highest; got {value!r}"
    assert message(require_range, "algo.log_variance", value, strict=True) == expected
