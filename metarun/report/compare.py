"""Comparison of runs: the table of learners by settings, sensitivity to the inner learning rate, paired tests.

A *setting* is everything that the runs of one learner on one data set differ in, except the seed and keys that change
no number (`IGNORED`). So what a sweep varies counts, and what a learner's own configuration file sets does not. Of the
device only the precision counts, unless runs of one seed differ in more: they are no repetitions of each other.

Data of one name may differ: another folder of images, or a folder whose content has changed. `result.json` has a
fingerprint of the held-out tasks. Folders (`data.root`) of which no two runs have the same fingerprint are different
data, each with the last part of its path in the setting. Runs whose configuration is the same, with the folder, and
whose fingerprints differ have it in their setting, as `tasks`.

An *entry* of the table is a learner at a setting. Its interval is over seeds, 95 % by Student's t; with a single seed
it is that run's interval over tasks. The best of a setting is the entry with the best mean among those whose runs all
completed; an entry ties with it if their intervals overlap.

*Robustness* of a learner is the width, in decades, of the range of inner learning rates within 10 % of its best. The
range extends from the rate with the best mean over seeds to both sides, as long as every rate of the grid has a mean
of at most 1.1 times the best (at least 0.9 times, where higher is better) and no run that diverged or failed. With a
grid of one rate per decade it is an integer; it is a lower bound, because nothing is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metarun.run_files import read_episodes
from metarun.run_folder import Run, as_number, result_mtime

Setting = tuple[tuple[str, Any], ...]

# Numbers do not depend on these keys, or these follow from keys on which they do.
IGNORED = ("seed", "paper", "tracker", "device", "sweep", "run.resume", "run.checkpoint_seconds", "run.log_every")
IGNORED_KEYS = ("data.root", "data._target_", "algo._target_", "backbone._target_")
COUNTED = ("device.precision",)
TOLERANCE = 0.1  # of the best, for robustness


@dataclass
class Entry:
    """A learner at a setting, over seeds.

    Attributes:
        algo, setting: of all its runs.
        runs: one a seed.
        mean: over the completed runs; None if there is none.
        ci95: half the width of the 95 % interval; None if there is none.
        over: what the interval is over, `seeds` or `tasks`.
        bad: number of runs that did not complete, by status.
        best: whether it is the best of its setting.
        tie: whether its interval overlaps that of the best.
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
        """The headline metric; empty if no run has one."""
        return next((run.metric for run in self.runs if run.metric), "")

    @property
    def values(self) -> list[float]:
        """The headline of each completed run, in the order of seeds."""
        return [run.mean for run in self.runs if run.mean is not None]

    @property
    def paper(self) -> dict[str, Any] | None:
        """The published figure that all runs that have one name; None if there is none, or several."""
        figures = [paper for run in self.runs if (paper := published_figure(run))]
        return figures[0] if figures and all(paper == figures[0] for paper in figures) else None

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return next((run.higher_is_better for run in self.runs if run.metric), True)


@dataclass
class Table:
    """Learners by settings, both in the order of first appearance (numbers: ascending).

    Attributes:
        entries: by learner and setting.
        left_out: number of runs that a newer run of the same configuration and seed replaces.
        values: each run's setting as a mapping, by the run's `id`.
    """

    algos: list[str]
    settings: list[Setting]
    entries: dict[tuple[str, Setting], Entry]
    left_out: int
    values: dict[int, dict[str, Any]]

    def row(self, algo: str) -> list[Entry | None]:
        """The entries of a learner, a setting each."""
        return [self.entries.get((algo, setting)) for setting in self.settings]

    def column(self, setting: Setting) -> list[Entry | None]:
        """The entries of a setting, a learner each."""
        return [self.entries.get((algo, setting)) for algo in self.algos]


class Rates(NamedTuple):
    """A learner over the inner learning rates, all else equal.

    Attributes:
        rates: ascending.
        entries: one a rate.
        width: robustness in decades; None if no rate has a mean.
        best_rate: the rate with the best mean.
    """

    algo: str
    rates: list[float]
    entries: list[Entry]
    width: float | None
    best_rate: float | None

    @property
    def metric(self) -> str:
        """The headline metric; empty if no run has one."""
        return next((entry.metric for entry in self.entries if entry.metric), "")


METHOD = "paired t-test over the held-out tasks that both runs share; it says nothing about other seeds"


class Paired(NamedTuple):
    """The difference of two runs (second minus first) on the held-out tasks that they share.

    Attributes:
        difference: mean over tasks.
        ci95: half the width of its 95 % interval, Student's t over tasks.
        p: two-sided, of the paired t-test.
        tasks: their number.
    """

    difference: float
    ci95: float
    p: float
    tasks: int


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Each run's setting: (key, value) for every key that varies among the runs of one learner on one data set."""
    folders = data_folders(runs)
    keys = varying_keys(runs)
    settings = [setting_at(run, keys, folder) for run, folder in zip(runs, folders, strict=True)]
    if more := colliding_keys(runs, settings):
        settings = [setting_at(run, [*keys, *more], folder) for run, folder in zip(runs, folders, strict=True)]
    if len({run.data for run in runs}) > 1:
        settings = [(("data", run.data), *setting) for run, setting in zip(runs, settings, strict=True)]
    return with_fingerprints(runs, settings)


def varying_keys(runs: Sequence[Run]) -> list[str]:
    """The keys that count and vary among the runs of one learner on one data set."""
    varying: dict[str, None] = {}
    for group in grouped(runs, lambda run: (run.algo, run.data)).values():
        if len({run.backbone for run in group} - {"?"}) > 1:
            varying["backbone"] = None
        for key in dict.fromkeys(key for run in group for key in run.settings):
            if not ignored(key) and len({repr(run.settings.get(key)) for run in group}) > 1:
                varying[key] = None
    return without_followers(list(varying), runs)


def setting_at(run: Run, keys: Sequence[str], folder: str | None) -> Setting:
    """A run's setting of some keys, and the name of the folder of its data where that tells data apart."""
    values = {"backbone": run.backbone} | run.settings
    pairs = [(key, plain(values[key])) for key in keys if key in values]
    return tuple(pairs if folder is None else [("data.root", folder), *pairs])


def colliding_keys(runs: Sequence[Run], settings: Sequence[Setting]) -> list[str]:
    """The keys of the device in which runs of the same learner, setting and seed differ."""
    cases = list(zip(runs, settings, strict=True))
    found: dict[str, None] = {}
    for group in grouped(cases, lambda case: (case[0].algo, case[0].data, case[1], plain(case[0].seed))).values():
        for key in dict.fromkeys(key for run, _ in group for key in run.settings if key.startswith("device.")):
            if len({repr(run.settings.get(key)) for run, _ in group}) > 1:
                found[key] = None
    return list(found)


def data_folders(runs: Sequence[Run]) -> list[str | None]:
    """Of each run the name of its data's folder, where runs of the same data set have different data; else None."""
    names: dict[tuple[str, str], str] = {}
    for data, group in grouped(runs, lambda run: run.data).items():
        classes = same_folders(group)
        firsts = list(dict.fromkeys(classes.values()))
        if len(firsts) > 1:
            tails = dict(zip(firsts, shortest_tails(firsts), strict=True))
            names |= {(data, root): tails[first] for root, first in classes.items()}
    return [names.get((run.data, root_of(run))) for run in runs]


def same_folders(runs: Sequence[Run]) -> dict[str, str]:
    """By folder of data the first folder that holds the same, as the fingerprints of runs show."""
    first = {root: root for root in dict.fromkeys(map(root_of, runs))}
    for group in grouped((run for run in runs if run.fingerprint), lambda run: run.fingerprint).values():
        roots = [first[root_of(run)] for run in group]
        first = {root: roots[0] if of in roots else of for root, of in first.items()}
    return first


def root_of(run: Run) -> str:
    """The folder of a run's data as it is configured."""
    root = run.settings.get("data.root")
    return "null" if root is None else str(root).rstrip("/")


def shortest_tails(paths: Sequence[str]) -> list[str]:
    """The last parts of different paths, as few of them as tell the paths apart."""
    parts = [path.split("/") for path in paths]
    for length in range(1, max(map(len, parts))):
        tails = ["/".join(part[-length:]) for part in parts]
        if len(set(tails)) == len(tails):
            return tails
    return list(paths)


def with_fingerprints(runs: Sequence[Run], settings: Sequence[Setting]) -> list[Setting]:
    """Settings with the fingerprint of the tasks, where those differ among runs of one learner at one setting.

    Runs whose data follow from their seed (`data.split_seed=${seed}`) differ on purpose.
    """
    cases = [case for case in zip(runs, settings, strict=True) if case[0].fingerprint and not seeded_data(case[0])]
    split: set[tuple[Setting, str]] = set()
    for (_, setting), group in grouped(cases, lambda case: (case[0].algo, case[1])).items():
        fingerprints = {run.fingerprint for run, _ in group}
        if len(fingerprints) > 1:
            split |= {(setting, fingerprint) for fingerprint in fingerprints}
    return [
        (*setting, ("tasks", run.fingerprint[:8])) if (setting, run.fingerprint) in split else setting
        for run, setting in zip(runs, settings, strict=True)
    ]


def seeded_data(run: Run) -> bool:
    """Whether a run's data are configured to follow from its seed."""
    return any(key.startswith("data.") and "${seed}" in str(value) for key, value in run.settings.items())


def published_figure(run: Run) -> dict[str, Any] | None:
    """The published figure beside a run; None where it names none, or one of other data, ways or shots.

    An older version could borrow the figure with the setting of another data set (`setting=DATA/ALGO`).
    """
    paper = run.result.get("paper")
    if not paper or any(paper.get(key) not in (None, run.result.get(key)) for key in ("data", "ways", "shots")):
        return None
    data, slash, _ = str(run.choices.get("setting") or "").partition("/")
    return None if slash and data != run.data else paper


def without_followers(keys: list[str], runs: Sequence[Run]) -> list[str]:
    """The keys without those that vary only because another does: written as its value (`${algo.inner_steps}`), or
    the same in all runs of a backbone."""
    kept = [key for key in keys if not all(str(run.settings.get(key)).startswith("${") for run in runs)]
    if "backbone" not in kept:
        return kept
    by_backbone = grouped(runs, lambda run: (run.algo, run.data, run.backbone)).values()
    return [
        key
        for key in kept
        if not key.startswith("backbone.")
        or any(len({repr(run.settings.get(key)) for run in group}) > 1 for group in by_backbone)
    ]


def ignored(key: str) -> bool:
    """Whether a key is no part of a setting."""
    if key in COUNTED:
        return False
    return key in IGNORED_KEYS or any(key == entry or key.startswith(f"{entry}.") for entry in IGNORED)


def plain(value: Any) -> Any:
    """A value as a hashable one, numbers as numbers."""
    number = as_number(value)
    if number is not None and math.isfinite(number):
        return int(number) if number == int(number) and abs(number) < 1e15 and not isinstance(value, float) else number
    return value if isinstance(value, str | bool | None) else str(value)


def grouped(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    """Items by their key, in the order of first appearance."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def tabulate(runs: Sequence[Run]) -> Table:
    """The table of learners by settings; runs whose learner or configuration cannot be read are left out."""
    named = [run for run in runs if run.algo != "?" and "config" not in run.damaged]
    settings = dict(zip(map(id, named), settings_of(named), strict=True))
    groups = grouped(named, lambda run: (run.algo, settings[id(run)]))
    newest = {key: newest_by_seed(group) for key, group in groups.items()}
    entries = {(algo, setting): entry_of(algo, setting, group) for (algo, setting), group in newest.items()}
    table = Table(
        list(dict.fromkeys(run.algo for run in named)),
        sorted(dict.fromkeys(settings[id(run)] for run in named), key=setting_order(named, settings)),
        entries,
        len(named) - sum(map(len, newest.values())),
        {key: dict(setting) for key, setting in settings.items()},
    )
    for setting in table.settings:
        mark_best([entry for (_, group), entry in entries.items() if group == setting])
    return table


def setting_order(runs: Sequence[Run], settings: dict[int, Setting]) -> Any:
    """A key that sorts settings: numbers ascending, words in the order of first appearance."""
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
    """One run a seed, the one whose result was written last, in the order of seeds."""
    chosen: dict[Any, Run] = {}
    for run in runs:
        seed = plain(run.seed)
        if seed not in chosen or mtime(run) > mtime(chosen[seed]):
            chosen[seed] = run
    return sorted(chosen.values(), key=lambda run: (as_number(run.seed) is None, as_number(run.seed) or 0))


def mtime(run: Run) -> int:
    """When a run's result was written, in ns; 0 if there is none."""
    return result_mtime(run.folder) or 0


def entry_of(algo: str, setting: Setting, runs: list[Run]) -> Entry:
    """A learner at a setting, from its runs of different seeds."""
    values = [run.mean for run in runs if run.mean is not None]
    bad: dict[str, int] = {}
    for run in runs:
        if run.mean is None:
            # A completed run without a finite mean: the loss blew up on some of its held-out tasks while adapting.
            status = "diverged" if run.status == "completed" else run.status
            bad[status] = bad.get(status, 0) + 1
    mean, ci95 = over_seeds(values)
    over = "seeds"
    if len(values) == 1:
        ci95 = next(as_number(run.result.get("ci95")) for run in runs if run.mean is not None)
        over = "tasks"
    return Entry(algo, setting, runs, mean, ci95, over, bad)


def over_seeds(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and half the width of its 95 % interval by Student's t; None with too few values for either."""
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
    """Mark the best entry of one setting, a metric each, and those whose interval overlaps its."""
    eligible = [entry for entry in entries if entry.mean is not None and not entry.bad]
    for metric in dict.fromkeys(entry.metric for entry in eligible):
        same = [entry for entry in eligible if entry.metric == metric]
        best = max(same, key=goodness)
        best.best = True
        for entry in same:
            if entry is not best and entry.ci95 is not None and best.ci95 is not None:
                entry.tie = abs(goodness(entry) - goodness(best)) <= entry.ci95 + best.ci95


def goodness(entry: Entry) -> float:
    """An entry's mean, negated where lower is better."""
    assert entry.mean is not None
    return entry.mean if entry.higher_is_better else -entry.mean


# ------------------------------------------------------------------------------------ the inner learning rate


def over_rates(table: Table) -> dict[Setting, list[Rates]]:
    """Learners over the inner learning rate, by the rest of the setting; only those with at least two rates."""
    panels: dict[Setting, list[Rates]] = {}
    for algo in table.algos:
        points = [(rate, entry) for entry in table.row(algo) if entry and (rate := rate_of(entry)) is not None]
        for rest, pairs in grouped(points, lambda pair: without_rate(pair[1].setting)).items():
            pairs.sort(key=lambda pair: pair[0])
            rates, entries = [rate for rate, _ in pairs], [entry for _, entry in pairs]
            if len(rates) > 1:
                panels.setdefault(rest, []).append(Rates(algo, rates, entries, *robustness(rates, entries)))
    return panels


def metric_of(lines: Sequence[Rates]) -> str:
    """The metric of learners at one setting; empty if no run has one."""
    return next((line.metric for line in lines if line.metric), "")


def rate_of(entry: Entry) -> float | None:
    """The inner learning rate of an entry; None if its setting names none."""
    return as_number(dict(entry.setting).get("algo.inner_lr"))


def without_rate(setting: Setting) -> Setting:
    """A setting without its inner learning rate."""
    return tuple(pair for pair in setting if pair[0] != "algo.inner_lr")


def robustness(rates: Sequence[float], entries: Sequence[Entry]) -> tuple[float | None, float | None]:
    """Width in decades of the range of rates within `TOLERANCE` of the best, and the best rate; see the module."""
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
        ValueError: they do not share their held-out tasks, or those of one cannot be read.
    """
    values = [tasks_of(run) for run in (first, second)]
    if first.metric != second.metric:
        raise ValueError(f"{first.name} measures {first.metric}, {second.name} {second.metric}")
    hashes = [run.result.get("episodes") for run in (first, second)]
    if hashes[0] != hashes[1] or hashes[0] is None or values[0].shape != values[1].shape:
        raise ValueError(f"{first.name} and {second.name} were tested on different tasks")
    return paired_values(*values)


def tasks_of(run: Run) -> np.ndarray:
    """The headline metric of a run's held-out tasks `[tasks]`.

    Raises:
        ValueError: it cannot be read, or is NaN or infinite on some of them.
    """
    try:
        values = read_episodes(run.folder / "episodes.npz", run.metric)
    except ValueError as error:
        raise ValueError(f"{run.name} has no held-out tasks to compare: {error}") from error
    bad = int(np.sum(~np.isfinite(values)))
    if bad:
        raise ValueError(f"{run.name} diverged on {bad:,} of its {len(values):,} held-out tasks")
    return values


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
