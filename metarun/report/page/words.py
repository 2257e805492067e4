"""How the page writes numbers, intervals, durations and settings.

Numbers are rounded half up on their exact binary value, as JavaScript's `toFixed` does; Python's `format` would round
half to even.
"""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from metarun.report.numbers import is_percent

NOTHING = "–"
SAMPLES = {  # what a curve of metrics.jsonl is the mean of: short, and in a sentence
    "train/loss": (
        ", all steps",
        "mean over the meta-batches of all steps since the last point",
    ),
    "train": (", one meta-batch", "mean over the tasks of one meta-batch, that of the iteration, after adaptation"),
    "val": (", all tasks", "mean over all validation tasks, after adaptation"),
}
METRICS = {
    "mse": "mean squared error",
    "nll": "negative log-likelihood",
    "auc": "area under the ROC curve, of telling pairs of one class from pairs of two",
}
LONGEST_TEXT = 300  # letters of an error or a source that are shown
EXACT = Context(prec=1000, rounding=ROUND_HALF_UP)  # more digits than a float has before and after its point
THOUSANDTH = Decimal("0.001")


def in_percent(key: str) -> bool:
    """Whether a metric, or a curve of it as in `val/accuracy`, is shown in percent."""
    return is_percent(key.rpartition("/")[2])


def scale_of(key: str) -> int:
    """The factor from a metric, or a curve of it, to what the page shows."""
    return 100 if in_percent(key) else 1


def axis_name(key: str) -> str:
    """The title of an axis: `val/accuracy (%)`."""
    return f"{key} (%)" if in_percent(key) else key


def curve_name(key: str) -> str:
    """A learning curve with what it is the mean of: `train/mse, one meta-batch`."""
    return f"{axis_name(key)}{SAMPLES[sample_of(key)][0]}" if key else key


def curve_note(key: str) -> str:
    """A sentence on what the points of a learning curve are means of."""
    return f"{key}: {SAMPLES[sample_of(key)][1]}." if key else ""


def sample_of(key: str) -> str:
    """What a learning curve's points are means of, as a key of `SAMPLES`."""
    return key if key == "train/loss" else key.partition("/")[0]


def metrics_note(metrics: Iterable[str]) -> str:
    """What the abbreviations of some metrics stand for; empty where there are none."""
    return "; ".join(f"{name}: {METRICS[name]}" for name in metrics if name in METRICS)


def escaped(text: str) -> str:
    """Text for plotly, which reads tags and entities in it."""
    return html.escape(text, quote=False)


def glued(text: str) -> str:
    """A sentence in which no line ends between a number and its `±` or its `%`."""
    return text.replace("± ", "±\u00a0").replace(" %", "\u00a0%")


def is_number(value: Any) -> bool:
    """Whether a value is a number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value: Any) -> float | None:
    """A number that JSON and JavaScript can hold, else None."""
    return value if is_number(value) and abs(value) <= sys.float_info.max else None


def text_of(value: Any) -> str:
    """Any value in a table; a dash where there is none."""
    if value is None or value == "":
        return NOTHING
    return str(value).lower() if isinstance(value, bool) else str(value)


def beginning(value: Any) -> str | None:
    """The beginning of any value as text."""
    return None if value is None else str(value)[:LONGEST_TEXT]


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals; one of 22 digits or more with an exponent instead."""
    if not abs(value) < 1e21:
        return repr(float(value))
    return f"{_exact(value).quantize(Decimal(1).scaleb(-decimals), context=EXACT):f}"


def exponential(value: float) -> str:
    """A number with two decimals and an exponent: `1.23e-7`."""
    if not math.isfinite(value):
        return repr(value)
    digits, exponent = f"{_rounded(value, 3):.2e}".split("e") if value else ("0.00", 0)
    return f"{digits}e{int(exponent)}"


def grouped(value: float) -> str:
    """A number with at most three decimals, its thousands set apart: `60,000`."""
    return f"{Decimal(repr(value)).quantize(THOUSANDTH, context=EXACT).normalize(EXACT):,f}"


def short(value: Any) -> str:
    """A setting or a rate: a number to four digits, anything else as text."""
    if not is_number(value) or not math.isfinite(value):
        return text_of(value)
    size = abs(value)
    if value == int(value) and size >= 1e4:
        return f"{int(value):,}"
    if value != 0 and (size < 1e-3 or size >= 1e6):
        digits, exponent = exponential(value).split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{exponent}"
    return f"{_rounded(value, 4).normalize():f}"


def measure(value: float | None, metric: str, ci95: float | None = None) -> str:
    """A metric and half its 95 % interval, if it has one, to the same decimals."""
    if value is None:
        return NOTHING
    scale = scale_of(metric)
    number, width = value * scale, None if ci95 is None else ci95 * scale
    decimals = 2 if in_percent(metric) else 3 - max(0, min(3, math.floor(math.log10(abs(number) or 1))))
    extreme = number != 0 and not 1e-3 <= abs(number) < 1e5

    def written(part: float) -> str:
        return exponential(part) if extreme else fixed(part, decimals)

    interval = ""
    if width is not None:
        vanishes = not extreme and width != 0 and width < 0.5 * 10**-decimals  # only zeros would be left of it
        interval = f" ± {f'<{10**-decimals:g}' if vanishes else written(width)}"
    return f"{written(number)}{interval}{' %' if in_percent(metric) else ''}"


def duration(seconds: float | None) -> str:
    """`42.3 s`, `3 min 5 s` or `2 h 3 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{fixed(seconds, 1)} s"
    minutes = math.floor(seconds / 60)
    if minutes < 60:
        return f"{minutes} min {math.floor(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: int, word: str) -> str:
    """`1 run`, `9 runs`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def bad(statuses: dict[str, int], runs: int) -> str:
    """Runs that did not complete: `2 of 3 diverged`."""
    return ", ".join(f"{number} of {runs} {status}" for status, number in statuses.items())


def decades(width: float | None) -> str:
    """A robustness."""
    return NOTHING if width is None else f"{short(width)} decade{'' if width == 1 else 's'}"


class ShortKeys:
    """The last part of a dotted key, unless another of the keys ends in it.

    Args:
        keys: all keys that the page shows.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.last = [key.rpartition(".")[2] for key in dict.fromkeys(keys)]

    def __getitem__(self, key: str) -> str:
        last = key.rpartition(".")[2]
        return last if self.last.count(last) <= 1 else key

    def setting(self, pairs: Sequence[tuple[str, Any]]) -> str:
        """`data omniglot, shots 5`."""
        return ", ".join(f"{self[key]} {short(value)}" for key, value in pairs) or "as configured"


def _exact(value: float) -> Decimal:
    return Decimal(value if value != 0 else 0)  # -0 is written as 0


def _rounded(value: float, digits: int) -> Decimal:
    return Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(_exact(value))
