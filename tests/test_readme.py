"""The README is true: its commands compose and fit, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toy
from pages import OTHERS, blocks_of, commands_of, compose_and_build, settings_of
from PIL import Image

from metarun.algos.maml import MAML
from metarun.data.image_tasks import ImageTasks
from metarun.report.main import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINES = [words for _, words in commands_of(blocks_of(README))]
COMMANDS = [settings for words in LINES if (settings := settings_of(words)) is not None]
REPORTS = [words[1:] for words in LINES if words[0] == "metarun-report"]


def test_it_is_short():
    assert len(README.splitlines()) <= 200
    assert [line for line in README.splitlines() if len(line) > 120] == []
    assert len(COMMANDS) >= 15 and len(REPORTS) >= 3


def test_it_opens_with_what_the_program_looks_like():
    """A picture, a command, its output, on the first screen."""
    opening = "\n".join(README.splitlines()[:40])
    picture, command, output = (opening.find(words) for words in ("![", "```bash\nmetarun algo=maml", "held-out tasks"))
    assert -1 < picture < command < output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_composes_and_fits(command):
    compose_and_build(command)


@pytest.mark.parametrize("command", REPORTS, ids=" ".join)
def test_a_report_command_is_understood(command):
    assert parser().parse_intermixed_args(command).paths


def test_every_other_line_is_of_a_program_that_is_known():
    assert {words[0] for words in LINES if settings_of(words) is None} <= {*OTHERS, "metarun-report"}


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#\s]+)\)", README)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    flat = re.sub(r"`make\s+", "`make ", README)
    wanted = set(re.findall(r"make ([a-z-]+)`", flat)) | set(re.findall(r"^make ([a-z-]+)", README, re.M))
    assert len(wanted) >= 7
    measured = {
        f"reproduce-{name}"
        for name in re.findall(r'^    "(\w+)": \[', (ROOT / "scripts/reproduce/cells.py").read_text(), re.M)
    }
    assert "reproduce-small" in measured and "reproduce-%:" in makefile
    wanted -= measured
    assert {target for target in wanted if not re.search(rf"^[a-z -]*\b{target}\b.*:", makefile, re.M)} == set()


def test_the_table_of_results_is_marked():
    """For whoever renders it from the records."""
    (table,) = re.findall(r"<!-- table: readme -->\n(.*?)<!-- end -->", README, re.S)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert 4 <= len(rows) <= 12


def test_the_python_it_shows_runs(tmp_path, monkeypatch, capsys):
    """The example as it stands on the page, with drawn images for Omniglot and a few iterations."""
    if not hasattr(ImageTasks, "preparation"):
        pytest.skip("image data sets have no preparation yet")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "metarun.train" in block)
    small = '"data=synthetic", "tracker=none", "backbone.filters=4", "data.queries=2", "run.eval_tasks=4"'
    for words, others in {'"data=omniglot", "data.root=data"': small, "1000": "2"}.items():
        assert words in example
        example = example.replace(words, others)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarun.experiment.run.draw_result", lambda *_, **__: None)
    for grey, name in enumerate(re.findall(r"\w+\.png", example)):
        Image.new("L", (28, 28), 50 + 40 * grey).save(name)
    page: dict = {}
    exec(example, page)
    assert page["adapted"].classes == ["ant", "bee"] and "5-way 5-shot" in capsys.readouterr().out


def test_the_algorithm_it_shows_is_maml():
    """The example as it stands on the page, run on a task, against metarun's own."""
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class MAML" in block)
    page: dict = {}
    exec(example, page)
    numbers = {"inner_lr": 0.1, "inner_steps": 3, "eval_steps": 3}
    theirs = page["MAML"](toy.mlp(), 1, F.mse_loss, **numbers)
    ours = MAML(toy.mlp(), 1, F.mse_loss, **numbers, first_order=False)
    theirs.load_state_dict(ours.state_dict())
    batch = toy.sinusoid().sample("train", "episodes", 4, torch.Generator().manual_seed(0))
    assert torch.equal(theirs(batch), ours(batch))
    assert theirs.hyperparameters == ours.hyperparameters
