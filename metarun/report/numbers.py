"""How metrics, their intervals, durations and published figures are written in a terminal, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_percent(metric: str) -> bool:
    """Whether a metric lies between 0 and 1 and is shown in percent."""
    return metric.startswith(("accuracy", "instance_"))


def decimals_of(width: float) -> int:
    """As many decimals as half an interval has when it is written with two digits."""
    return max(0, 1 - math.floor(math.log10(width)))


def number(metric: str, value: float | None) -> str:
    """`95.12%`, or three significant digits; `-` where there is none."""
    if value is None:
        return "-"
    if is_percent(metric):
        return f"{100 * value:.2f}%"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1 else f"{value:.3g}"


def estimate(metric: str, mean: float | None, ci95: float | None, alone: str | None = None) -> str:
    """`95.12% ± 0.34`, `0.235 ± 0.012`: half the width of the 95 % interval, where there is one.

    Args:
        alone: how the mean is written where the interval does not set its decimals; None: as `number` does.
    """
    alone = number(metric, mean) if alone is None else alone
    if mean is None or ci95 is None:
        return alone
    if is_percent(metric):
        return f"{100 * mean:.2f}% ± {100 * ci95:.2f}"
    if not 1e-6 < ci95 < 10:
        return f"{alone} ± {ci95:.2g}"
    decimals = decimals_of(ci95)  # for both
    return f"{mean:.{decimals}f} ± {ci95:.{decimals}f}"


def duration(seconds: float) -> str:
    """`42.3 s`, `3:05` or `2:03:05`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def origin(paper: Mapping[str, Any]) -> str:
    """Where a published figure is from, as far as it says so: `Finn et al. 2017, table 1 (read: the paper)`."""
    where = ", ".join(str(paper[key]) for key in ("source", "table") if paper.get(key))
    return where + (f" (read: {paper['read']})" if paper.get("read") else "")
