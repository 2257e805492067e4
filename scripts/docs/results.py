"""The page of all results, and the page that compares learners by them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from metarun.experiment.choices import names
from scripts.docs.algorithms import learner_class
from scripts.docs.markdown import escaped, paragraphs, table
from scripts.docs.records import anchor, interval, measured, provenance, records, result_table, seeds, task
from scripts.results.records import Record


def pages() -> dict[str, str]:
    return {"records.md": every_record(), "which_learner.md": which_learner()}


def by_target() -> dict[str, list[Record]]:
    targets: dict[str, list[Record]] = defaultdict(list)
    for record in records():
        targets[record.target].append(record)
    return targets


def every_record() -> str:
    """Every record, by the target that makes it again."""
    parts = [
        "# Records",
        "Every result is a record, a file in `docs/results`, with its command, machine, date, commit and, where runs "
        "wrote it themselves, its whole configuration. Intervals are 95 %: over held-out tasks of one run, over seeds "
        "(Student's t) of several. What is published stands beside it where it was read in its source.",
    ]
    for target, chosen in by_target().items():
        text = f"`make reproduce-{target.split('/')[0]}` measures these again."
        parts += [f"## {target}", text, result_table(chosen), *map(provenance, chosen)]
    return paragraphs(*parts)


# ------------------------------------------------------------------------------------------- which learner for what

# Of a data set's configuration, what changes training only: two learners tested on the same tasks may differ in it.
TRAINING = (
    "train_ways",
    "train_shots",
    "train_queries",
    "batch_size",
    "pair_batch_size",
    "root",
    "augment",
    "instances",
)
SWEPT = ("init ", "sensitivity ", "polynomial ")  # cells of MT-net's paper that vary what is compared


def which_learner() -> str:
    """Learners beside each other where they were tested on the same tasks, and what each can."""
    comparisons = compared(records())
    parts = [
        "# Which learner for what",
        "By what was measured: learners stand in one table where they were tested on the same tasks by the same "
        "metric, the best first. Bold: the best, and all whose 95 % interval overlaps with its own. **Training "
        "differs from row to row**, as the columns and the commands say; it was short, for two cores. So a table "
        "says what was reached there, not what a learner can reach. The figure links to how it was measured.",
    ]
    if comparisons:
        rows = [[name, _winners(rows)] for name, rows in comparisons.items()]
        parts += ["## In short", table(["Tasks and metric", "Best, or not told apart from it"], rows)]
    else:
        parts.append("No two learners have been recorded on the same tasks yet (`docs/results`).")
    for name, chosen in comparisons.items():
        parts += [f"## {name}", comparison(chosen)]
    return paragraphs(*parts, "## What each can do", abilities())


def eligible(record: Record) -> bool:
    """Whether a cell shows a learner as it is meant to be used: not one that a sweep made worse on purpose."""
    if record.algo == "oracle":
        return False  # it is told what the others have to find
    if record.cell.startswith("learning_rate "):
        return record.cell.endswith(" 0.01")  # the paper's own rate
    return not (record.target == "mtnet" and record.cell.startswith(SWEPT))


def compared(cells: Iterable[Record]) -> dict[str, list[Record]]:
    """Comparisons of at least two learners by name, each sorted from best to worst."""
    groups: dict[str, list[Record]] = defaultdict(list)
    titles: dict[str, str] = {}
    for record in filter(eligible, cells):
        key = json.dumps([_tested_on(record), record.metric, record.tasks], sort_keys=True)
        groups[key].append(record)
        titles[key] = title(record)
    several = {key: rows for key, rows in groups.items() if len({record.algo for record in rows}) > 1}
    twice = {name for name, count in Counter(titles[key] for key in several).items() if count > 1}
    found: dict[str, list[Record]] = {}
    for key, rows in sorted(several.items(), key=lambda item: titles[item[0]]):
        name = titles[key] + (f" ({rows[0].tasks} tasks)" if titles[key] in twice else "")
        while name in found:
            name += f", {rows[0].target}"
        found[name] = sorted(rows, key=_rank)
    return found


def _tested_on(record: Record) -> dict[str, Any]:
    """What decides a record's test tasks."""
    data = (record.config or {}).get("data", {"cell": record.cell})
    return {"name": record.data, **{key: value for key, value in data.items() if key not in TRAINING}}


def title(record: Record) -> str:
    """The tasks and the metric of a record in words."""
    return f"{task(record)}: {escaped(record.metric)}"


def _winners(rows: list[Record]) -> str:
    chosen = [record for record in rows if overlap(record, rows[0])]
    links = dict.fromkeys(f"[`{record.algo}`](/algos/{record.algo}.md)" for record in chosen)
    return f"{', '.join(links)}: {measured(rows[0])}"


def _rank(record: Record) -> float:
    if record.mean is None:
        return float("inf")
    return record.mean if record.better == "lower" else -record.mean


def comparison(rows: list[Record]) -> str:
    """The rows of one comparison."""
    lines = []
    for record in rows:
        figure = f"[{measured(record)}](/records.md#{anchor(record)})"
        lines.append(
            [
                f"[`{record.algo}`](/algos/{record.algo}.md)",
                escaped(record.cell),
                f"**{figure}**" if overlap(record, rows[0]) else figure,
                "" if record.step is None else str(record.step),
                f"{record.iterations:,}",
                seeds(record),
            ]
        )
    return table(["Learner", "Cell", "Measured", "Steps at test", "Iterations", "Seeds"], lines)


def overlap(one: Record, best: Record) -> bool:
    """Whether the intervals of two figures overlap; a figure without an interval is a point."""
    if one.mean is None or best.mean is None:
        return one is best
    return abs(one.mean - best.mean) <= (interval(one) or 0.0) + (interval(best) or 0.0)


def abilities() -> str:
    """What the classes say of themselves, a row for each algorithm."""
    rows = []
    for algo in names("algo"):
        cls = learner_class(algo)
        signs = [kind in cls.task_types for kind in ("classification", "regression", "verification")]
        signs += [cls.any_ways() and "classification" in cls.task_types, not cls.stages, cls.fusable]
        rows.append([f"[`{algo}`](/algos/{algo}.md)", *("yes" if sign else "" for sign in signs)])
    head = ["Learner", "Classes", "Curves", "Pairs", "Other ways at test", "Untrained", "Fused replicas"]
    return table(head, rows)
