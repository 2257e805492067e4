"""What the benchmark prints: the conditions it ran under, and its tables as Markdown."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.benchmark.sides import SETTINGS, SIDES


def processor() -> str:
    """The processor's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def conditions(threads: int) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "threads": threads,
        "cores": os.cpu_count(),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("metarun", "torch", "learn2learn")},
    }


def verdict(ratio: float, bar: float | None, maximum: bool = False) -> str:
    """A ratio, and whether it reaches the bar, or stays within it where the bar is a `maximum`."""
    if bar is None:
        return f"{ratio:.2f}x"
    good = ratio <= bar if maximum else ratio >= bar
    return f"{ratio:.2f}x ({('within' if maximum else 'reaches') if good else 'MISSES'} {bar:g}x)"


def table(rows: list[dict[str, Any]]) -> str:
    """The first table: all sides of each row."""
    lines = [
        "| what | learn2learn, ms | limit, ms | eager, ms | compiled, ms | faster | of the limit (eager) "
        "| of the floor | first call compiled, s | difference of losses, gradient | memory growth, MB: each side |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        sides = row["sides"]
        cells = [row["title"], *[f"{sides[s]['median_ms']:.2f}" if s in sides else "" for s in SIDES]]
        cells.append(verdict(row["faster"], row["bar"]))
        if "limit" in sides:
            cells.append(f"{verdict(row['of_limit'], 1.3, maximum=True)} ({row['of_limit_eager']:.2f}x)")
            cells.append(verdict(row["of_floor"], row["floor"], maximum=True))
            cells.append(f"{sides['compiled']['first_call_seconds']:.0f}")
        else:
            cells += ["", "", ""]
        cells.append("" if row["name"] == "sampling" else differences(sides))
        cells.append(", ".join(f"{side['growth_mb']:.0f}" for side in sides.values()))
        lines.append(_line(cells))
    return "\n".join(lines)


def differences(sides: dict[str, dict[str, Any]]) -> str:
    """The largest relative difference from learn2learn's losses, and from its meta-gradient."""
    others = [side for name, side in sides.items() if name != "learn2learn"]
    worst = [max(side[f"{what}_relative_difference"] for side in others) for what in ("losses", "gradient")]
    return ", ".join(f"{value:.0e}" for value in worst)


def learners_table(results: list[dict[str, Any]]) -> str:
    """The second table: for each setting the step with its data, the sampling alone, and the memory."""
    by_cell = {(result["algo"], result["setting"]): result for result in results}
    algos = list(dict.fromkeys(result["algo"] for result in results))
    head = [
        "learner",
        *[f"{setting}: step, ms (data; MB)" for setting in SETTINGS],
        "times faster than learn2learn's own",
    ]
    lines = [_line(head), "|---|" + "---:|" * (len(head) - 1)]
    for algo in algos:
        cells, faster = [algo], []
        for setting in SETTINGS:
            ours, theirs = by_cell[algo, setting], by_cell.get((f"learn2learn/{algo}", setting), {})
            if "step_ms" in ours:
                cells.append(f"{ours['step_ms']:.1f} ({ours['sample_ms']:.1f}; {ours['growth_mb']:.0f})")
            else:
                cells.append("FAILED" if "failed" in ours else "")
            if "step_ms" in theirs and "step_ms" in ours:
                faster.append(f"{theirs['step_ms'] / ours['step_ms']:.1f}")
        if any(cells[1:]):
            lines.append(_line([*cells, ", ".join(faster)]))
    return "\n".join(lines)


def memory_table(results: list[dict[str, Any]]) -> str:
    """The third table: memory and time against tasks, inner steps and micro-batch."""
    lines = [
        "| MAML, conv4-64, 5 queries: tasks | inner steps | tasks in a micro-batch | memory, MB | ms |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['tasks']} | {r['inner_steps']} | {r['micro_batch']} | {r['growth_mb']:.0f} | {r['ms']:.0f} |"
        for r in results
    ]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
