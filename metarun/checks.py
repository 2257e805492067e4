"""Checks of configuration values. Every message has one form: `KEY must be WHAT; got VALUE`.

Checks of single numbers take them by the last part of their keys, and `group`, the part before it:
`require_int("algo", inner_steps=-1)` raises `algo.inner_steps must be an integer of at least 0; got -1`.
All checks raise ValueError, which the command line prints without a traceback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Only:
    """In `Annotated[T, Only(what, holds)]`: of the values of T, those for which `holds` does; `what` says which."""

    what: str
    holds: Callable[[Any], object]


Positive = Annotated[float, Only("a number above 0", lambda value: value > 0)]
NonNegative = Annotated[float, Only("a number of at least 0", lambda value: value >= 0)]
Fraction = Annotated[float, Only("a number in [0, 1)", lambda value: 0 <= value < 1)]
Count = Annotated[int, Only("an integer of at least 1", lambda value: value >= 1)]
Index = Annotated[int, Only("an integer of at least 0", lambda value: value >= 0)]


def require(key: str, value: object, holds: object, what: str) -> None:
    """Require that a condition holds: the general check, for conditions that have none of their own.

    Args:
        key: the full key that the user typed, e.g. `backbone.norm`.
        value: its value, for the message.
        holds: the condition.
        what: what the value must be.

    Raises:
        ValueError: the condition does not hold.
    """
    if not holds:
        raise ValueError(f"{key} must be {what}; got {value!r}")


def is_int(value: object, minimum: int = 0) -> bool:
    """Whether a value is an integer (not a bool) of at least `minimum`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: object) -> bool:
    """Whether a value is a finite number (not a bool)."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1000  # beyond 2^1024 it is no float
    return isinstance(value, float) and math.isfinite(value)


def require_int(group: str, minimum: int = 0, **values: object) -> None:
    """Require integers of at least `minimum`.

    Raises:
        ValueError: a value is not.
    """
    for name, value in values.items():
        require(f"{group}.{name}", value, is_int(value, minimum), f"an integer of at least {minimum}")


def require_int_or_none(group: str, minimum: int = 0, **values: object) -> None:
    """Require integers of at least `minimum`, or None.

    Raises:
        ValueError: a value is neither.
    """
    for name, value in values.items():
        holds = value is None or is_int(value, minimum)
        require(f"{group}.{name}", value, holds, f"null or an integer of at least {minimum}")


def require_positive(group: str, **values: object) -> None:
    """Require finite numbers above 0.

    Raises:
        ValueError: a value is not.
    """
    for name, value in values.items():
        require(f"{group}.{name}", value, is_number(value) and value > 0, "above 0")  # type: ignore[operator]


def require_non_negative(group: str, **values: object) -> None:
    """Require finite numbers of at least 0.

    Raises:
        ValueError: a value is not.
    """
    for name, value in values.items():
        require(f"{group}.{name}", value, is_number(value) and value >= 0, "at least 0")  # type: ignore[operator]


def require_interval(group: str, interval: str, **values: object) -> None:
    """Require finite numbers in an interval, written as in mathematics: `[0, 1)` includes 0 and excludes 1.

    Raises:
        ValueError: a value is not.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        holds = is_number(value) and low <= value <= high  # type: ignore[operator]
        excluded = (interval[0] == "(" and value == low) or (interval[-1] == ")" and value == high)
        require(f"{group}.{name}", value, holds and not excluded, f"in {interval}")


def require_choice(key: str, value: object, choices: Iterable[Any]) -> None:
    """Require one of the choices.

    Raises:
        ValueError: the value is none of them.
    """
    allowed = list(choices)
    require(key, value, value in allowed, f"one of {', '.join(map(str, allowed))}")


def require_range(key: str, value: Sequence[float], strict: bool = False) -> None:
    """Require a pair of finite numbers [lowest, highest]; if `strict`, they must differ.

    Raises:
        ValueError: the value is not such a pair.
    """
    holds = _is_pair(value) and (value[0] < value[1] if strict else value[0] <= value[1])
    require(key, value, holds, f"a range [lowest, highest]{' with lowest < highest' if strict else ''}")


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))
