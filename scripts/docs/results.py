"""The page of all results, and the page that compares learners by them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from scripts.docs.markdown import code, paragraphs, prose, table
from scripts.docs.records import anchor, interval, measured, provenance, records, result_table
from scripts.results.records import Record


def pages() -> dict[str, str]:
    return {"results.md": results(), "which_learner.md": which_learner()}


def by_target() -> dict[str, list[Record]]:
    targets: dict[str, list[Record]] = defaultdict(list)
    for record in records():
        targets[record.target].append(record)
    return targets


def results() -> str:
    """Every record, by the target that makes it again."""
    parts = [
        "# Results",
        "Every result is a record, a file in `docs/results`, with its command, machine, date, commit and, where runs "
        "wrote it themselves, its whole configuration. Intervals are 95 %: over held-out tasks of one run, over seeds "
        "(Student's t) of several. What is published stands beside it where it was read in its source.",
    ]
    for target, chosen in by_target().items():
        text = f"`make reproduce-{target.split('/')[0]}` measures these again."
        parts += [f"## {target}", text, result_table(chosen), *map(provenance, chosen)]
    return paragraphs(*parts)


# ------------------------------------------------------------------------------------------- which learner for what


def condition(record: Record) -> str:
    """What a record measures, apart from the learner: cells of one condition stand in one comparison."""
    words = [word for word in record.cell.split() if word != record.algo]
    step = f", {record.step} steps" if record.step is not None and not words else ""
    return " ".join(words) + step or record.data


def which_learner() -> str:
    """Learners beside each other where they were measured alike."""
    parts = [
        "# Which learner for what",
        "By what was measured: learners stand in one table where data, tasks and metric were the same, the best first. "
        "Bold: the best, and those whose 95 % interval overlaps with its own. Training differs from row to row where "
        "the columns say so; the name links to the algorithm's page, the figure to how it was measured.",
    ]
    comparisons = [(target, name, rows) for target, cells in by_target().items() for name, rows in alike(cells)]
    if not comparisons:
        parts.append("No two learners have been recorded on the same tasks yet (`docs/results`).")
    last = None
    for target, name, rows in comparisons:
        if target != last:
            parts.append(f"## {target}")
            last = target
        parts += [f"### {name}", comparison(rows)]
    return paragraphs(*parts)


def alike(cells: Iterable[Record]) -> list[tuple[str, list[Record]]]:
    """Comparisons of at least two learners, each sorted from best to worst."""
    groups: dict[tuple[str, str, str, int], list[Record]] = defaultdict(list)
    for record in cells:
        groups[condition(record), record.data, record.metric, record.tasks].append(record)
    chosen = []
    for (name, data, metric, _), rows in groups.items():
        if len({record.algo for record in rows}) > 1:
            title = f"{name}, {metric}" if name == data else f"{data}, {name}, {metric}"
            chosen.append((title, sorted(rows, key=_rank)))
    return chosen


def _rank(record: Record) -> float:
    if record.mean is None:
        return float("inf")
    return record.mean if record.better == "lower" else -record.mean


def comparison(rows: list[Record]) -> str:
    best = rows[0]
    lines = []
    for record in rows:
        figure = f"[{measured(record)}](/results.md#{anchor(record)})"
        link = f"[`{record.algo}`](/algos/{record.algo}.md)"
        name = record.cell.split()[0] if record.cell.split()[0] != record.algo else ""
        lines.append(
            [
                link + (f" {code(name)}" if name else ""),
                f"**{figure}**" if overlap(record, best) else figure,
                f"{record.iterations:,}",
                prose(record.note),
            ]
        )
    return table(["Learner", "Measured", "Iterations", "Note"], lines)


def overlap(one: Record, best: Record) -> bool:
    """Whether the intervals of two figures overlap; a figure without an interval is a point."""
    if one.mean is None or best.mean is None:
        return one is best
    return abs(one.mean - best.mean) <= (interval(one) or 0.0) + (interval(best) or 0.0)
