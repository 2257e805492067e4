"""Checks of values from a configuration; one form of message: `KEY must be WHAT; got VALUE`.

Each takes the values by the last part of their keys, and `group`, the part before it: `require_int("algo", steps=-1)`
says `algo.steps must be an integer of at least 0; got -1`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


def require(key: str, value: object, holds: object, what: str) -> None:
    """Raise unless `holds`.

    Raises:
        ValueError: `KEY must be WHAT; got VALUE`.
    """
    if not holds:
        raise ValueError(f"{key} must be {what}; got {value!r}")


def is_int(value: object, minimum: int = 0) -> bool:
    """Whether a value is an integer (and no bool) of at least `minimum`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def require_int(group: str, minimum: int = 0, **values: object) -> None:
    """Integers of at least `minimum`.

    Raises:
        ValueError: one is not.
    """
    for name, value in values.items():
        require(f"{group}.{name}", value, is_int(value, minimum), f"an integer of at least {minimum}")


def require_positive(group: str, **values: object) -> None:
    """Numbers above 0.

    Raises:
        ValueError: one is not.
    """
    for name, value in values.items():
        require(f"{group}.{name}", value, is_number(value) and value > 0, "above 0")  # type: ignore[operator]


def require_non_negative(group: str, **values: object) -> None:
    """Numbers of at least 0.

    Raises:
        ValueError: one is not.
    """
    for name, value in values.items():
        require(f"{group}.{name}", value, is_number(value) and value >= 0, "at least 0")  # type: ignore[operator]


def require_choice(key: str, value: object, choices: Iterable[Any]) -> None:
    """One of some values.

    Raises:
        ValueError: it is none of them.
    """
    allowed = list(choices)
    require(key, value, value in allowed, f"one of {', '.join(map(str, allowed))}")


def require_range(key: str, value: Sequence[float]) -> None:
    """A pair of numbers (lowest, highest).

    Raises:
        ValueError: it is none.
    """
    holds = len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]
    require(key, value, holds, "a range [lowest, highest]")
