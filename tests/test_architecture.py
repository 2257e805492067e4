"""Imports point one way, and only the door knows Hydra."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "metarun"
FILES = sorted(PACKAGE.rglob("*.py"))

# what each layer may import of the package, by prefix
LAYERS = {
    "tasks": ("metarun.tasks", "metarun.files"),
    "backbones": ("metarun.backbones",),
    "algos": ("metarun.algos", "metarun.tasks", "metarun.backbones"),
    "tracking": ("metarun.tracking", "metarun.files", "metarun.report.run_figures"),
    "loop": ("metarun.algos", "metarun.tasks", "metarun.training.distributed", "metarun.training.gradients"),
    "gradients": (),
    "distributed": ("metarun.algos", "metarun.tasks", "metarun.training.ranks"),
    "ranks": (),
    "imports": (),
    "metrics": ("metarun.algos", "metarun.tasks"),
    "calibration": ("metarun.evaluation.metrics", "metarun.files"),
    "evaluate": ("metarun.algos", "metarun.tasks", "metarun.backbones", "metarun.files", "metarun.evaluation.metrics"),
    "replicas": (
        "metarun.algos",
        "metarun.tasks",
        "metarun.backbones",
        "metarun.training.loop",
        "metarun.evaluation.evaluate",
        "metarun.training.gradients",
    ),
    "checkpoint": ("metarun.files",),
    "verification": ("metarun.files",),
    "report": ("metarun.report", "metarun.files", "metarun.tracking.jsonl"),
    "results": (),
    "figures": ("metarun.files", "metarun.tracking.jsonl"),
}
DOOR = {"run", "fused", "cli", "__main__", "grid", "launch", "sweep", "search"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    if layer(path) in LAYERS:
        ours = {name for name in imports(path) if name.startswith("metarun.")}
        assert {name for name in ours if not name.startswith(LAYERS[layer(path)] or ("none",))} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_door_knows_hydra(path):
    if layer(path) not in DOOR:
        assert not {n for n in imports(path) if n.split(".")[0] in ("hydra", "omegaconf")}


def test_the_command_line_starts_without_torch():
    assert not {n for n in imports(PACKAGE / "cli.py") if n.split(".")[0] in ("torch", "wandb", "learn2learn")}


# not algorithms
SHARED = ("__init__", "learner", "embedding", "inner_loop", "conjugate_gradients", "quadratic_program", "recurrent")
SHARED += ("gradient_input", "update_rule", "kfac", "normal", "particles", "precisions", "svgd")


@pytest.mark.parametrize(
    "path", [p for p in FILES if layer(p) == "algos" and p.stem not in SHARED], ids=lambda p: p.stem
)
def test_an_algorithm_says_where_it_comes_from_and_how_it_differs(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "Differences from the paper" in text
    assert "Inner problem" in text and "Outer problem" in text
    assert len(path.read_text().splitlines()) <= 150
