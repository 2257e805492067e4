"""The page of `metarun-report --html`, read without a browser: its content, and that no text ends its element."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from html_elements import Elements, Tables
from plotly.offline import get_plotlyjs
from runs import BY_STEP, write_run

from metarun.report.page import build as module
from metarun.report.page import markup
from metarun.report.page.build import embedded, packaged, page_data, write_page
from metarun.report.page.content import Content
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


def tables_of(path: Path) -> list[Tables]:
    """The tables that are filled in Python."""
    return [Tables(text) for text in re.findall(r"<table[^>]*>(?=<thead)(.*?)</table>", path.read_text(), re.DOTALL)]


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
    name = "Content-Security-Policy"
    (policy,) = (attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv") == name)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(page.text("script", type="module").encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}' blob:"
    assert "connect-src" not in rules
    assert rules["img-src"] == "data: blob:"


def test_the_data_reads_back(tmp_path):
    page = tmp_path / "page.html"
    data = data_of(written(runs_in(tmp_path / "runs"), page, title="A title"))
    assert Elements(page.read_text()).text("title") == "A title"
    assert [run["name"] for run in data["runs"]] == ["maml/0", "maml/1", "tnet/0"]
    assert [run["mean"] for run in data["runs"]] == [0.5, 0.6, 0.4]
    assert data["runs"][2]["steps"] == [[step, pytest.approx(0.4 * times), 0.02] for step, times in enumerate(BY_STEP)]
    assert data["table"] == markup.DATATABLE
    assert set(data["figures"]["curves"]) == {"train/mse", "val/mse", "train/loss", ""}
    runs, comparison = tables_of(page)[:2]
    assert runs.column("mse ± 95 %") == ["0.500 ± 0.020", "0.600 ± 0.020", "0.400 ± 0.020"]
    assert runs.orders("published") == ["0.45", "", ""]
    assert comparison.rows == [["maml", "tnet"], ["≈ 0.550 ± 0.635published 0.450", "★ 0.400 ± 0.020"]]


def test_what_is_in_the_page_of_the_packages_is_their_own_text(tmp_path):
    page = written(runs_in(tmp_path / "runs"), tmp_path / "page.html")
    assert json.loads(page.text("script", id="plotly")) == get_plotlyjs()
    assert json.loads(page.text("script", id="datatables")) == packaged("itables", "html/dt_bundle.js")


def test_no_text_ends_the_element_it_stands_in(tmp_path, monkeypatch):
    scripts = {"plotly": "plot" + HOSTILE, "itables": "table" + HOSTILE}
    monkeypatch.setattr(module, "get_plotlyjs", lambda: scripts["plotly"])
    monkeypatch.setattr(module, "packaged", lambda package, name: scripts[package] + ("</style>" * ("css" in name)))
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
    kinds = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert kinds == ["application/json", "application/json", "application/json", "module"]
    assert page.text("title") == page.text("h1") == HOSTILE
    assert data_of(page)["runs"][0]["name"] == runs[0].name
    assert json.loads(page.text("script", id="plotly")) == scripts["plotly"]
    assert json.loads(page.text("script", id="datatables")) == scripts["itables"]
    for name in ("data", "plotly", "datatables"):
        assert not set("<>&\u2028") & set(page.text("script", id=name))


def test_braces_in_a_name_are_not_filled_in(tmp_path):
    runs = runs_in(tmp_path / "runs")
    runs[0].name = "{{plotly}}"
    page = written(runs, tmp_path / "page.html", title="{{data}}")
    assert page.text("h1") == "{{data}}"
    assert data_of(page)["runs"][0]["name"] == "{{plotly}}"


def data_and_table(runs: Sequence[Run]) -> tuple[dict, Tables]:
    """What page.js reads, and the table of runs."""
    content = Content(runs)
    return json.loads(embedded(page_data(content))), Tables(markup.parts(content)["runs"])


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
        "train_seconds",
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
    data, table = data_and_table(read_runs([tmp_path]))
    assert len(data["runs"]) == len(table.rows) - 1 == len(ODD) + 2


@pytest.mark.parametrize("group", ("seed", "run", "data", "algo"))
def test_whatever_a_configuration_holds_there_is_a_page(group, tmp_path):
    write_run(tmp_path / "a")
    for number, odd in enumerate(ODD):
        write_run(tmp_path / f"odd{number}", config={group: odd})
    data, table = data_and_table(read_runs([tmp_path]))
    assert len(data["runs"]) == len(table.rows) - 1 == len(ODD) + 1


def test_the_page_is_the_same_every_time_but_for_its_date(tmp_path):
    runs = runs_in(tmp_path / "runs")
    pages = []
    for name in ("first", "second"):
        write_page(runs, tmp_path / name)
        pages.append(re.sub(r"Made [-:\d ]*UTC", "", (tmp_path / name).read_text()))
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


def test_writing_a_page_imports_neither_itables_nor_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from metarun.report.page.build import write_page; "
        "write_page([], Path(sys.argv[1])); print({'itables', 'torch', 'pandas'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "page.html")]
    assert subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "set()"
