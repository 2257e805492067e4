"""What runs say together: the table of learners by settings, sensitivity to the inner learning rate, paired tests.

A *setting* is everything the runs of one learner on one data set differ in, but for the seed and for what changes no
number (`IGNORED`): so what a learner's own file brings along does not count, what a sweep varies does.

An *entry* of the table is a learner at a setting. Its interval is over seeds, 95 % by Student's t; where there is one
seed only it is that run's interval over tasks. The best of a setting is the best mean of an entry all of whose runs
completed; an entry ties with it if their intervals overlap.

*Robustness* of a learner is the width, in decades, of the range of inner learning rates within 10 % of its best:
from the rate with the best mean over seeds to both sides, as far as every rate of the grid has a mean of at most 1.1
times the best (at least 0.9 times, where more is better) and no run that diverged or failed. A grid of one rate per
decade makes it a whole number; it is a lower bound, for nothing is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metarun.run_folder import Run, as_number

Setting = tuple[tuple[str, Any], ...]

# Numbers do not depend on these, or they follow from what does.
IGNORED = ("seed", "paper", "tracker", "device", "sweep", "run.resume", "run.checkpoint_seconds", "run.log_every")
IGNORED_KEYS = ("data.root", "data._target_", "algo._target_", "backbone._target_")
TOLERANCE = 0.1  # of the best, for robustness


@dataclass
class Entry:
    """A learner at a setting, over seeds.

    Attributes:
        runs: that count, one a seed.
        mean: over the completed runs; None where none is.
        ci95: half the width of the 95 % interval; None where there is none.
        over: what the interval is over: `seeds` or `tasks`.
        bad: runs that did not complete, by status.
        best, tie: the best of its setting; an entry whose interval overlaps the best's.
    """

    algo: str
    setting: Setting
    runs: list[Run]
    mean: float | None
    ci95: float | None
    over: str
    bad: dict[str, int]
    best: bool = False
    tie: bool = False

    @property
    def metric(self) -> str:
        return next((run.metric for run in self.runs if run.metric), "")

    @property
    def values(self) -> list[float]:
        """Of the completed runs, in the order of their seeds."""
        return [run.mean for run in self.runs if run.mean is not None]

    @property
    def paper(self) -> dict[str, Any] | None:
        """The published figure, where the runs name one."""
        return next((run.result["paper"] for run in self.runs if run.result.get("paper")), None)

    @property
    def higher_is_better(self) -> bool:
        return next((run.higher_is_better for run in self.runs if run.metric), True)


@dataclass
class Table:
    """Entries by learner and setting, both in the order of first appearance (numbers: ascending)."""

    algos: list[str]
    settings: list[Setting]
    entries: dict[tuple[str, Setting], Entry]
    left_out: int  # runs of a learner, setting and seed of which a newer one counts

    def row(self, algo: str) -> list[Entry | None]:
        return [self.entries.get((algo, setting)) for setting in self.settings]

    def column(self, setting: Setting) -> list[Entry | None]:
        return [self.entries.get((algo, setting)) for algo in self.algos]


class Rates(NamedTuple):
    """A learner over the inner learning rates, all else equal.

    Attributes:
        rates: ascending.
        entries: at each of them.
        width: robustness in decades; None where no rate has a mean.
        best_rate: the rate of the best mean.
    """

    algo: str
    rates: list[float]
    entries: list[Entry]
    width: float | None
    best_rate: float | None

    @property
    def metric(self) -> str:
        return next((entry.metric for entry in self.entries if entry.metric), "")


METHOD = "paired t-test over the held-out tasks that both runs share; it says nothing about other seeds"


class Paired(NamedTuple):
    """The difference of two runs (second minus first) on the tasks that both were tested on.

    Attributes:
        ci95: half the width of the 95 % interval of the mean difference, Student's t over tasks.
        p: two-sided, of the paired t-test.
    """

    difference: float
    ci95: float
    p: float
    tasks: int


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Each run's setting: (key, value) for every key that varies within one learner on one data set."""
    many_data = len({run.data for run in runs}) > 1
    varying: dict[str, None] = {}
    for group in grouped(runs, lambda run: (run.algo, run.data)).values():
        for key in dict.fromkeys(key for run in group for key in run.settings):
            if not ignored(key) and len({repr(run.settings.get(key)) for run in group}) > 1:
                varying[key] = None
    keys = without_followers(list(varying), runs)
    found = []
    for run in runs:
        own = [(key, plain(run.settings[key])) for key in keys if key in run.settings]
        found.append(tuple([("data", run.data), *own] if many_data else own))
    return found


def without_followers(keys: list[str], runs: Sequence[Run]) -> list[str]:
    """Without keys that are written as another's value (`${algo.inner_steps}`): they vary because it does."""
    return [key for key in keys if not all(str(run.settings.get(key)).startswith("${") for run in runs)]


def ignored(key: str) -> bool:
    return key in IGNORED_KEYS or any(key == entry or key.startswith(f"{entry}.") for entry in IGNORED)


def plain(value: Any) -> Any:
    """A value that can be a key, numbers as numbers."""
    number = as_number(value)
    if number is not None and math.isfinite(number):
        return int(number) if number == int(number) and abs(number) < 1e15 and not isinstance(value, float) else number
    return value if isinstance(value, str | bool | None) else str(value)


def grouped(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def tabulate(runs: Sequence[Run]) -> Table:
    """The table of learners by settings; runs of which no learner is known are left out."""
    known = [run for run in runs if run.algo != "?"]
    settings = dict(zip(map(id, known), settings_of(known), strict=True))
    groups = grouped(known, lambda run: (run.algo, settings[id(run)]))
    counting = {key: newest_by_seed(group) for key, group in groups.items()}
    entries = {(algo, setting): entry_of(algo, setting, group) for (algo, setting), group in counting.items()}
    table = Table(
        list(dict.fromkeys(run.algo for run in known)),
        sorted(dict.fromkeys(settings[id(run)] for run in known), key=setting_order(known, settings)),
        entries,
        len(known) - sum(map(len, counting.values())),
    )
    for setting in table.settings:
        mark_best([entry for (_, own), entry in entries.items() if own == setting])
    return table


def setting_order(runs: Sequence[Run], settings: dict[int, Setting]) -> Any:
    """Numbers ascend, words come in the order of first appearance."""
    words: dict[Any, int] = {}
    for run in runs:
        for pair in settings[id(run)]:
            words.setdefault(pair, len(words))
    return lambda setting: [
        (key, 0, value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else (key, 1, words[key, value])
        for key, value in setting
    ]


def newest_by_seed(runs: list[Run]) -> list[Run]:
    """One run a seed, in the order of seeds: the one whose result was written last."""
    chosen: dict[Any, Run] = {}
    for run in runs:
        seed = plain(run.seed)
        if seed not in chosen or written(run) > written(chosen[seed]):
            chosen[seed] = run
    return sorted(chosen.values(), key=lambda run: (as_number(run.seed) is None, as_number(run.seed) or 0))


def written(run: Run) -> float:
    try:
        return (run.folder / "result.json").stat().st_mtime
    except OSError:
        return 0.0


def entry_of(algo: str, setting: Setting, runs: list[Run]) -> Entry:
    values = [run.mean for run in runs if run.mean is not None]
    bad: dict[str, int] = {}
    for run in runs:
        if run.mean is None:
            # A completed run whose mean is no number: some of its held-out tasks blew up while adapting.
            status = "diverged" if run.status == "completed" else run.status
            bad[status] = bad.get(status, 0) + 1
    mean, ci95 = over_seeds(values)
    over = "seeds"
    if len(values) == 1:
        ci95 = next(as_number(run.result.get("ci95")) for run in runs if run.mean is not None)
        over = "tasks"
    return Entry(algo, setting, runs, mean, ci95, over, bad)


def over_seeds(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and half the width of its 95 % interval by Student's t; None where too few values are there."""
    if not values:
        return None, None
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, t95(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def t95(freedom: int) -> float:
    """The two-sided 95 % point of Student's t."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    return float(stdtrit(freedom, 0.975))


def mark_best(entries: list[Entry]) -> None:
    """Mark the best of one setting, and those whose interval overlaps its."""
    eligible = [entry for entry in entries if entry.mean is not None and not entry.bad]
    for metric in dict.fromkeys(entry.metric for entry in eligible):
        same = [entry for entry in eligible if entry.metric == metric]
        best = max(same, key=goodness)
        best.best = True
        for entry in same:
            if entry is not best and entry.ci95 is not None and best.ci95 is not None:
                entry.tie = abs(goodness(entry) - goodness(best)) <= entry.ci95 + best.ci95


def goodness(entry: Entry) -> float:
    """Its mean, negative where less is better."""
    assert entry.mean is not None
    return entry.mean if entry.higher_is_better else -entry.mean


# ------------------------------------------------------------------------------------ the inner learning rate


def over_rates(table: Table) -> dict[Setting, list[Rates]]:
    """Learners over the inner learning rate, by what else varies; only those with at least two rates."""
    found: dict[Setting, list[Rates]] = {}
    for algo in table.algos:
        own = [(rate, entry) for entry in table.row(algo) if entry and (rate := rate_of(entry)) is not None]
        for rest, pairs in grouped(own, lambda pair: without_rate(pair[1].setting)).items():
            pairs.sort(key=lambda pair: pair[0])
            rates, entries = [rate for rate, _ in pairs], [entry for _, entry in pairs]
            if len(rates) > 1:
                found.setdefault(rest, []).append(Rates(algo, rates, entries, *robustness(rates, entries)))
    return found


def rate_of(entry: Entry) -> float | None:
    return as_number(dict(entry.setting).get("algo.inner_lr"))


def without_rate(setting: Setting) -> Setting:
    return tuple(pair for pair in setting if pair[0] != "algo.inner_lr")


def robustness(rates: Sequence[float], entries: Sequence[Entry]) -> tuple[float | None, float | None]:
    """Width in decades of the range of rates within `TOLERANCE` of the best, and the best's rate; see the head."""
    scores = {
        at: goodness(entry)
        for at, entry in enumerate(entries)
        if entry.mean is not None and not entry.bad and rates[at] > 0
    }
    if not scores:
        return None, None
    best_at = max(scores, key=lambda at: scores[at])
    limit = scores[best_at] - TOLERANCE * abs(scores[best_at])
    low = high = best_at
    while scores.get(low - 1, -math.inf) >= limit:
        low -= 1
    while scores.get(high + 1, -math.inf) >= limit:
        high += 1
    return math.log10(rates[high] / rates[low]), rates[best_at]


# ------------------------------------------------------------------------------------------------ paired tests


def paired(first: Run, second: Run) -> Paired:
    """Compare two runs task by task.

    Raises:
        ValueError: they do not share their held-out tasks, or one has no episodes.npz; the message says which.
    """
    values = []
    for run in (first, second):
        episodes = run.episodes()
        if episodes is None:
            raise ValueError(f"{run.name} has no held-out tasks to compare (no episodes.npz, or none of {run.metric})")
        values.append(episodes)
    if first.metric != second.metric:
        raise ValueError(f"{first.name} measures {first.metric}, {second.name} {second.metric}")
    hashes = [run.result.get("episodes") for run in (first, second)]
    if hashes[0] != hashes[1] or hashes[0] is None or values[0].shape != values[1].shape:
        raise ValueError(f"{first.name} and {second.name} were tested on different tasks")
    return paired_values(*values)


def paired_values(first: np.ndarray, second: np.ndarray) -> Paired:
    """The paired t-test of two metrics `[tasks]` of the same tasks.

    Raises:
        ValueError: fewer than two tasks.
    """
    from scipy.special import stdtr

    tasks = len(first)
    if tasks < 2:
        raise ValueError("a paired test needs at least two tasks")
    difference = np.asarray(second, float) - np.asarray(first, float)
    mean = float(difference.mean())
    error = float(difference.std(ddof=1)) / math.sqrt(tasks)
    if error == 0:
        return Paired(mean, 0.0, 1.0 if mean == 0 else 0.0, tasks)
    return Paired(mean, t95(tasks - 1) * error, float(2 * stdtr(tasks - 1, -abs(mean) / error)), tasks)
