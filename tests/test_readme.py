"""The README is true: its commands compose and fit, its choices are the choices there are."""

from __future__ import annotations

import re
import shlex
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toy
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from metarun.algos.maml import MAML
from metarun.data.image_tasks import ImageTasks
from metarun.experiment.build import build
from metarun.experiment.choices import CONF, GROUPS, names
from metarun.report.main import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
]
COMMANDS = [words[1:] for words in LINES if words and words[0] == "metarun"]
REPORTS = [words[1:] for words in LINES if words and words[0] == "metarun-report"]


def test_it_is_short():
    assert len(README.splitlines()) <= 200
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_composes_and_fits(command):
    overrides = [word for word in command if "=" in word]
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [
        [f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] if o.is_discrete_sweep() else [o.input_line]
        for o in parsed
    ]
    for cell in product(*swept):
        if any("interval(" in word for word in cell):  # not a value: a range to search in
            cell = [word for word in cell if "interval(" not in word]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", list(cell), return_hydra_config=True)
        choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items()}
        del cfg.hydra
        build(cfg, choices)


@pytest.mark.parametrize("command", REPORTS, ids=" ".join)
def test_a_report_command_is_understood(command):
    assert parser().parse_intermixed_args(command).paths


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    wanted = set(re.findall(r"make ([a-z-]+)`", README)) | set(re.findall(r"^make ([a-z-]+)", README, re.M))
    assert wanted
    measured = {
        f"reproduce-{name}"
        for name in re.findall(r'^    "(\w+)": \[', (ROOT / "scripts/reproduce/cells.py").read_text(), re.M)
    }
    assert "reproduce-small" in measured and "reproduce-%:" in makefile
    wanted -= measured
    assert {target for target in wanted if not re.search(rf"^[a-z -]*\b{target}\b.*:", makefile, re.M)} == set()


@pytest.mark.parametrize("group", GROUPS)
def test_the_choices_it_lists_are_the_choices(group):
    for name in names(group):
        listed = f"{name.rpartition('/')[0]}/" if group == "experiment" else name  # a table's cells by their folder
        assert f"`{listed}`" in README, f"README.md does not list {group}={listed}"


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
