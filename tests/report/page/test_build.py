"""The page of `metarun-report --html`, read without a browser: what is in it, and that nothing leaves its place."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import BY_STEP, config_of, write_config, write_run

from metarun.report.page import build as module
from metarun.report.page.build import POINTS, document, embedded, packaged, write_page
from metarun.run_folder import Run, read_runs

HOSTILE = "</script><script>alert(1)</script><!--"
ODD = (
    None,
    "text",
    True,
    -1,
    float("inf"),
    float("nan"),
    [1],
    [],
    {},
    {"a": 1},
    [{"step": 1}],
    {"value": "x"},
    "1e-05",
)


class Elements(HTMLParser):
    """Every element with its attributes, and the text that directly follows its start."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")
        self.open = True

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.texts[-1] += data

    def text(self, tag: str, **attributes: str) -> str:
        (found,) = (
            text
            for (name, own), text in zip(self.tags, self.texts, strict=True)
            if name == tag and attributes.items() <= own.items()
        )
        return found


def runs_in(folder: Path) -> list[Run]:
    """Three runs of two learners."""
    write_run(folder / "maml" / "0", "maml", 0, mean=0.5, paper={"source": "A paper", "value": 0.45, "ci95": None})
    write_run(folder / "maml" / "1", "maml", 1, mean=0.6)
    write_run(folder / "tnet" / "0", "tnet", 0, mean=0.4)
    return read_runs([folder])


def written(runs: Sequence[Run], path: Path, **more: str) -> Elements:
    write_page(runs, path, **more)
    return Elements(path.read_text())


def data_of(page: Elements) -> dict:
    return json.loads(page.text("script", id="data"))


def test_the_page_is_one_file_that_names_no_address(tmp_path):
    page = written(runs_in(tmp_path / "runs"), tmp_path / "out" / "page.html")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["page.html"]
    assert not {tag for tag, _ in page.tags} & {
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
    }
    for _, attributes in page.tags:
        assert not [name for name in attributes if name in ("src", "srcset", "action", "ping") or name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
        assert "://" not in "".join(value or "" for value in attributes.values())
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", page.text("style"))


def test_the_policy_allows_only_the_pages_own_script_and_blobs(tmp_path):
    page = written(runs_in(tmp_path / "runs"), tmp_path / "page.html")
    (policy,) = (own["content"] for _, own in page.tags if own.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(page.text("script", type="module").encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}' blob:"
    assert "connect-src" not in rules
    assert rules["img-src"] == "data: blob:"


def test_the_data_reads_back(tmp_path):
    data = data_of(written(runs_in(tmp_path / "runs"), tmp_path / "page.html", title="A title"))
    assert data["title"] == "A title"
    assert [run["name"] for run in data["runs"]] == ["maml/0", "maml/1", "tnet/0"]
    assert [run["mean"] for run in data["runs"]] == [0.5, 0.6, 0.4]
    assert data["runs"][0]["paper"] == {"value": 0.45, "ci95": None, "source": "A paper", "status": None}
    assert data["runs"][2]["steps"] == [[step, pytest.approx(0.4 * times), 0.02] for step, times in enumerate(BY_STEP)]
    grid, values = data["runs"][0]["curves"]["val/mse"]
    assert data["grids"][grid] == [250, 500, 750, 1000]
    assert values == [pytest.approx(0.5 * (1 + 3 / at), rel=1e-3) for at in (5, 10, 15, 20)]
    (row,) = data["comparison"]["rows"]
    assert [entry["mean"] for entry in row["entries"]] == [0.55, 0.4]
    seeds = data["config"]["seed"]
    assert [seeds["values"][at] for at in seeds["at"]] == ["0", "1", "0"]


def test_what_is_in_the_page_of_the_packages_is_their_own_text(tmp_path):
    page = written(runs_in(tmp_path / "runs"), tmp_path / "page.html")
    assert json.loads(page.text("script", id="plotly")) == packaged("plotly", "package_data/plotly.min.js")
    assert json.loads(page.text("script", id="datatables")) == packaged("itables", "html/dt_bundle.js")


def test_no_text_ends_the_element_it_stands_in(tmp_path, monkeypatch):
    scripts = {"plotly": "plot" + HOSTILE, "itables": "table" + HOSTILE}
    monkeypatch.setattr(
        module, "packaged", lambda package, name: scripts[package] + ("</style>" if "css" in name else "")
    )
    write_run(
        tmp_path / "runs" / "a",
        HOSTILE.replace("/", "\\"),
        data=HOSTILE,
        metric=HOSTILE,
        paper={"source": HOSTILE, "value": 1},
    )
    runs = read_runs([tmp_path / "runs"])
    runs[0].name = HOSTILE + "\u2028\ud800"
    page = written(runs, tmp_path / "page.html", title=HOSTILE)
    kinds = [own.get("type") for tag, own in page.tags if tag == "script"]
    assert kinds == ["application/json", "application/json", "application/json", "module"]
    assert page.text("title") == page.text("h1") == HOSTILE
    assert data_of(page)["runs"][0]["name"] == runs[0].name
    assert json.loads(page.text("script", id="plotly")) == scripts["plotly"]
    for name in ("data", "plotly", "datatables"):
        assert not set("<>&\u2028") & set(page.text("script", id=name))


def test_braces_in_a_name_are_not_filled_in(tmp_path):
    runs = runs_in(tmp_path / "runs")
    runs[0].name = "{{plotly}}"
    page = written(runs, tmp_path / "page.html", title="{{data}}")
    assert page.text("h1") == "{{data}}"
    assert data_of(page)["runs"][0]["name"] == "{{plotly}}"


def test_broken_and_half_written_runs_are_listed_as_such(tmp_path):
    write_run(tmp_path / "whole")
    write_run(tmp_path / "failed", status="failed", mean=None, error="out of memory")
    broken = write_run(tmp_path / "broken")
    (broken / "result.json").write_text('{"status": "comp')
    going = write_config(tmp_path / "going", config_of("maml", 3, 0.01, "sinusoid"))
    (going / "metrics.jsonl").write_text(
        '{"iteration": 1, "train/mse": 2.0}\n{"iteration": 2, "train/mse": 1.0}\n{"itera'
    )
    torn = write_run(tmp_path / "torn")
    (torn / ".hydra" / "config.yaml").write_text("algo: [1,\n")
    (torn / "metrics.jsonl").write_text(
        '{"iteration": 1, "train/mse": 2.0}\n\x00\x00\n[]\n{"iteration": 3, "train/mse": null}\n'
    )
    runs = {run["name"]: run for run in data_of(written(read_runs([tmp_path]), tmp_path / "page.html"))["runs"]}
    assert {name: run["status"] for name, run in runs.items()} == {
        "whole": "completed",
        "failed": "failed",
        "broken": "broken",
        "going": "unfinished",
        "torn": "completed",
    }
    assert runs["whole"]["problem"] is None
    assert runs["failed"]["problem"] == "out of memory"
    assert "result.json cannot be read" in runs["broken"]["problem"]
    assert "no result.json" in runs["going"]["problem"]
    assert "config.yaml cannot be read" in runs["torn"]["problem"]
    assert runs["going"]["curves"]["train/mse"][1] == [2.0, 1.0]
    assert runs["torn"]["curves"]["train/mse"][1] == [2.0, None]


@pytest.mark.parametrize(
    "key",
    (
        "status",
        "error",
        "algo",
        "data",
        "seed",
        "metric",
        "mean",
        "ci95",
        "steps",
        "iterations",
        "paper",
        "higher_is_better",
    ),
)
def test_whatever_a_result_holds_there_is_a_page(key, tmp_path):
    write_run(tmp_path / "b", seed=1, inner_lr=0.1)
    write_run(tmp_path / "c", algo="tnet")
    for number, odd in enumerate(ODD):
        write_run(tmp_path / f"odd{number}", mean=0.5 + number)
        path = tmp_path / f"odd{number}" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: odd}))
    data = json.loads(embedded(document(read_runs([tmp_path]))))
    assert len(data["runs"]) == len(ODD) + 2


@pytest.mark.parametrize("group", ("seed", "run", "data", "algo"))
def test_whatever_a_configuration_holds_there_is_a_page(group, tmp_path):
    write_run(tmp_path / "a")
    for number, odd in enumerate(ODD):
        write_run(tmp_path / f"odd{number}", config={group: odd})
    data = json.loads(embedded(document(read_runs([tmp_path]))))
    assert len(data["runs"]) == len(ODD) + 1


def test_long_curves_are_thinned_to_their_end(tmp_path):
    rows = [{"iteration": at, "train/mse": at / 7} for at in range(1, 1001)]
    rows[499:499] = [{"iteration": 500, "val/mse": 1.5}]
    write_run(tmp_path / "runs" / "a", history=rows)
    data = document(read_runs([tmp_path / "runs"]))
    curves = data["runs"][0]["curves"]
    iterations = data["grids"][curves["train/mse"][0]]
    assert POINTS / 2 < len(iterations) <= POINTS
    assert iterations[-1] == 1000
    assert len({second - first for first, second in zip(iterations, iterations[1:], strict=False)}) == 1
    assert curves["train/mse"][1][-1] == float(f"{1000 / 7:.4g}")
    assert curves["val/mse"][1] == [1.5]


def test_runs_share_the_iterations_of_their_curves(tmp_path):
    data = document(runs_in(tmp_path / "runs"))
    assert len(data["grids"]) == 2  # of training and of validation


def test_sensitivity_is_there_only_where_there_is_one(tmp_path):
    runs = runs_in(tmp_path / "runs")
    assert document(runs)["rates"] == []
    write_run(tmp_path / "runs" / "maml" / "2", "maml", 0, inner_lr=0.1, mean=0.7)
    write_run(tmp_path / "runs" / "maml" / "3", "maml", 0, inner_lr=1.0, mean=None, status="diverged")
    (plot,) = document(read_runs([tmp_path / "runs"]))["rates"]
    (line,) = plot["lines"]
    assert line["rates"] == [0.01, 0.1, 1.0]
    assert line["means"] == [0.55, 0.7, None]
    assert line["values"] == [[0.5, 0.6], [0.7], []]
    assert line["bad"] == [{}, {}, {"diverged": 1}]
    assert (line["width"], line["bestRate"]) == (0.0, 0.01)


def test_the_page_is_the_same_every_time_but_for_its_date(tmp_path):
    runs = runs_in(tmp_path / "runs")
    pages = []
    for name in ("first", "second"):
        write_page(runs, tmp_path / name)
        pages.append(re.sub(r'"made":"[^"]*"', "", (tmp_path / name).read_text()))
    assert pages[0] == pages[1]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "out" / "page.html"
    runs = runs_in(tmp_path / "runs")
    target.parent.mkdir()
    target.write_text("old")

    def fails(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        write_page(runs, target)
    assert [(file.name, file.read_text()) for file in target.parent.iterdir()] == [("page.html", "old")]


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="no_such_package"):
        packaged("no_such_package", "file.js")


def test_no_runs_make_a_page_too(tmp_path):
    assert data_of(written([], tmp_path / "page.html"))["runs"] == []


def test_writing_a_page_imports_neither_plotly_nor_itables_nor_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from metarun.report.page.build import write_page; "
        "write_page([], Path(sys.argv[1])); print({'plotly', 'itables', 'torch'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "page.html")]
    assert subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "set()"
