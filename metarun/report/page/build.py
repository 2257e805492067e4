"""One self-contained HTML page of runs: tables, curves and differences, opened from disk without a network.

The page is `page.html` filled with `page.css`, `page.js`, the data as JSON, and the scripts of plotly.js and DataTables
out of the packages `plotly` and `itables`. The scripts lie in it as JSON text as well, in which no `<` is left, so that
nothing in them can end the element they stand in; `page.js` makes blobs of them. The page's policy allows `page.js` by
its hash, and blobs, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metarun.files import write_atomically
from metarun.report.compare import Entry, Rates, Setting, Table, over_rates, plain, tabulate
from metarun.run_folder import Run, leaves

SPLITS = Path(__file__).parent
POINTS = 300  # of a curve, at most
ALL_POINTS = 60_000  # of all runs' curves, roughly, as long as each has at least a third of POINTS
OWN_COLUMNS = ("data", "run.iterations")  # settings that the table of runs shows anyway


def write_page(runs: Sequence[Run], path: Path, title: str = "metarun report") -> None:
    """Write the page of some runs, whole or not at all.

    Raises:
        OSError: the page cannot be written, or a script's package is not installed.
    """
    script = (SPLITS / "page.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    parts = {
        "title": html.escape(title),
        "policy": policy(script),
        "style": (packaged("itables", "html/dt_bundle.css") + (SPLITS / "page.css").read_text("utf-8")).replace(
            "</", "<\\/"
        ),
        "data": embedded(document(runs, title)),
        "plotly": embedded(packaged("plotly", "package_data/plotly.min.js")),
        "datatables": embedded(packaged("itables", "html/dt_bundle.js")),
        "script": script,
    }
    page = filled((SPLITS / "page.html").read_text(encoding="utf-8"), parts)
    write_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with every `{{name}}` replaced, once: what is filled in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def policy(script: str) -> str:
    """The Content-Security-Policy: no request, and no script but the given one and what it makes of the page's text."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' blob:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> str:
    """JSON that can stand in a script element whatever it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def packaged(package: str, name: str) -> str:
    """A text file out of an installed package, which is not imported for it.

    Raises:
        FileNotFoundError: there is no such package, or no such file in it.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the page needs the package {package}, which is not installed")
    return (Path(spec.submodule_search_locations[0]) / name).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------- the data


def document(runs: Sequence[Run], title: str = "metarun report") -> dict[str, Any]:
    """All that the page shows."""
    table = tabulate(runs)
    keys = setting_keys(table.settings)
    shown = [key for key in keys if key not in OWN_COLUMNS]
    grids: dict[tuple[float, ...], int] = {}
    points = max(POINTS // 3, min(POINTS, ALL_POINTS // max(1, len(runs))))
    names = {run.metric for run in runs if run.metric} or {"mse", "accuracy"}
    curves = ["train/loss", *(f"{split}/{name}" for name in sorted(names) for split in ("train", "val"))]
    return {
        "title": title,
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "version": own_version(),
        "settingKeys": shown,
        "runs": [
            described(run)
            | {"setting": [plain(run.settings.get(key)) for key in shown]}
            | {"curves": thinned_curves(run, curves, points, grids)}
            for run in runs
        ],
        "grids": list(map(list, grids)),  # the iterations of the curves, which many runs share
        "comparison": comparison(table, keys),
        "rates": [rates_of(rest, lines) for rest, lines in over_rates(table).items()],
        "config": columns([configuration(run) for run in runs]),
    }


def own_version() -> str:
    try:
        return version("metarun")
    except PackageNotFoundError:
        return "unknown"


def setting_keys(settings: Iterable[Setting]) -> list[str]:
    return list(dict.fromkeys(key for setting in settings for key, _ in setting))


def described(run: Run) -> dict[str, Any]:
    """A run's line in the table of runs, and its steps."""
    result = run.result
    steps = result.get("steps")
    return {
        "name": run.name,
        "status": run.status,
        "problem": "; ".join(filter(None, (run.problem, as_text(result.get("error"))))) or None,
        "algo": run.algo,
        "data": run.data,
        "seed": plain(run.seed),
        "metric": run.metric,
        "higher": run.higher_is_better,
        "mean": finite(run.mean),
        "ci95": finite(result.get("ci95")),
        "iterations": finite(result.get("iterations")),
        "seconds": finite(result.get("train_seconds")),
        "paper": published(result.get("paper")),
        "steps": [
            [finite(row.get(key)) for key in ("step", "mean", "ci95")]
            for row in (steps if isinstance(steps, list) else [])
            if isinstance(row, dict)
        ],
    }


def as_text(value: Any) -> str | None:
    """In words, of which a page needs no more than these."""
    return None if value is None else str(value)[:300]


def finite(value: Any) -> float | None:
    """A number that JSON knows, else None."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None


def published(paper: Any) -> dict[str, Any] | None:
    """The published figure a result names, and where it is from."""
    if not isinstance(paper, dict) or finite(paper.get("value")) is None:
        return None
    numbers = {key: finite(paper.get(key)) for key in ("value", "ci95")}
    return numbers | {key: as_text(paper.get(key)) for key in ("source", "status")}


def comparison(table: Table, keys: Sequence[str]) -> dict[str, Any]:
    """The table of learners by settings, a row a setting."""
    return {
        "keys": list(keys),
        "algos": table.algos,
        "rows": [
            {
                "setting": [dict(setting).get(key) for key in keys],
                "entries": [entry_of(table.entries.get((algo, setting))) for algo in table.algos],
            }
            for setting in table.settings
        ],
        "leftOut": table.left_out,
    }


def entry_of(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "metric": entry.metric,
        "mean": finite(entry.mean),
        "ci95": finite(entry.ci95),
        "over": entry.over,
        "count": len(entry.runs),
        "bad": entry.bad,
        "best": entry.best,
        "tie": entry.tie,
        "paper": published(entry.paper),
    }


def rates_of(rest: Setting, lines: Sequence[Rates]) -> dict[str, Any]:
    """One sensitivity plot: its setting, and each learner over the rates."""
    return {
        "setting": [list(pair) for pair in rest],
        "metric": next((line.metric for line in lines if line.metric), ""),
        "lines": [
            {
                "algo": line.algo,
                "rates": [finite(rate) for rate in line.rates],
                "means": [finite(entry.mean) for entry in line.entries],
                "values": [[value for value in entry.values if math.isfinite(value)] for entry in line.entries],
                "bad": [entry.bad for entry in line.entries],
                "counts": [len(entry.runs) for entry in line.entries],
                "width": finite(line.width),
                "bestRate": finite(line.best_rate),
            }
            for line in lines
        ],
    }


def configuration(run: Run) -> dict[str, Any]:
    """By dotted key, without the published figures."""
    return dict(leaves({key: value for key, value in run.config.items() if key != "paper"}))


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """By key the different values, as text, and for each row which of them it has; -1: none."""
    found: dict[str, dict[str, list[Any]]] = {}
    for at, row in enumerate(rows):
        for key, value in row.items():
            column = found.setdefault(key, {"values": [], "at": [-1] * len(rows)})
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            if text not in column["values"]:
                column["values"].append(text)
            column["at"][at] = column["values"].index(text)
    return found


# ------------------------------------------------------------------------------------------------- the curves


def thinned_curves(
    run: Run, keys: Sequence[str], points: int, grids: dict[tuple[float, ...], int]
) -> dict[str, list[Any]]:
    """By key of metrics.jsonl: which of the `grids` its iterations are (a new one is added), and its values."""
    rows = thinned_rows(run.folder / "metrics.jsonl", points)
    found = {}
    for key in keys:
        own = [row for row in rows if key in row]
        if own:
            grid = tuple(row["iteration"] for row in own)
            found[key] = [grids.setdefault(grid, len(grids)), [rounded(row[key]) for row in own]]
    return found


def thinned_rows(path: Path, points: int) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, evenly taken: at most `points` with validation and as many without, always the last.

    Only these are parsed. A damaged line is passed over.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    validations = [line for line in lines if b'"val/' in line]
    others = [line for line in lines if b'"val/' not in line]
    rows = parsed([*evenly(others, points), *evenly(validations, points)])
    whole = [row for row in rows if isinstance(row, dict) and finite(row.get("iteration")) is not None]
    return sorted(whole, key=lambda row: row["iteration"])


def evenly(lines: Sequence[bytes], points: int) -> Sequence[bytes]:
    stride = math.ceil(len(lines) / points) or 1
    return lines[::-1][::stride][::-1]


def parsed(lines: Sequence[bytes]) -> list[Any]:
    """What each line of JSON says, without the damaged ones; all at once, which is faster, if none is."""
    try:
        return list(json.loads(b"[%b]" % b",".join(lines)))
    except ValueError:
        return [row for line in lines if (row := parsed_line(line)) is not None]


def parsed_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def rounded(value: Any) -> float | None:
    """Four digits are finer than a screen."""
    return None if finite(value) is None else float(f"{value:.4g}")
