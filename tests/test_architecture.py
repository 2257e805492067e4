"""The house: every module has a room, imports go down, in no circle, and only the door knows Hydra.

`ROOMS` is the whole law. A file on no row fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "metarun"


class Room(NamedTuple):
    """A folder or a module of the top floor.

    Attributes:
        floor: it imports rooms of lower floors only, and itself.
        hydra: it may import Hydra and OmegaConf.
        torch: it may import torch as it is imported itself; False: only inside functions, for whoever must not wait.
    """

    floor: int
    hydra: bool = False
    torch: bool = True


ROOMS = {
    "__main__": Room(8, torch=False),
    "api": Room(8, hydra=True, torch=False),
    "cli": Room(7, hydra=True, torch=False),
    "predict": Room(6),
    "predict/main": Room(6, torch=False),
    "sweeps": Room(6, hydra=True, torch=False),
    "fused": Room(6),
    "fused/launcher": Room(6, hydra=True),
    "experiment": Room(5, hydra=True),
    "algos": Room(4),
    "training": Room(4),
    "evaluation": Room(4),
    "report": Room(4, torch=False),
    "data": Room(4),
    "learner": Room(3),
    "images": Room(3),
    "run_folder": Room(3, torch=False),
    "run_files": Room(1, torch=False),
    "backbones": Room(2),
    "tasks": Room(2),
    "tracking": Room(2, torch=False),
    "layers": Room(1),
    "numerics": Room(1),
    "sampling": Room(1),
    "checks": Room(0, torch=False),
    "files": Room(0, torch=False),
    "old_names": Room(0, torch=False),
    "plain_text": Room(0, torch=False),
    "version": Room(0, torch=False),
    "__init__": Room(1, torch=False),  # it imports metarun/api.py when that is asked for
}
# In a room that loads torch: what the command line imports before it knows that there is anything to run.
LIGHT = (
    *(
        "experiment/cell",
        "experiment/claim",
        "experiment/choices",
        "experiment/errors",
        "experiment/hydra_groups",
        "experiment/interpolations",
    ),
    *("experiment/multirun", "experiment/overrides", "experiment/plugins", "experiment/schema", "experiment/targets"),
    *("training/compiler_cache", "training/ranks"),
)
TORCH = ("torch", "torchvision", "wandb", "tensorboard", "mlflow", "trackio", "learn2learn", "sklearn", "matplotlib")
HYDRA = ("hydra", "omegaconf")


@cache
def sources() -> dict[str, str]:
    """The text of every module by its path below metarun/, without the suffix."""
    return {str(path.relative_to(PACKAGE).with_suffix("")): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str | None:
    """The row that a module stands on; its own, else its folder's."""
    return next((row for row in (module, module.partition("/")[0]) if row in ROOMS), None)


@cache
def imports(text: str) -> tuple[tuple[str, bool], ...]:
    """Every dotted name that a module imports, and whether it does as it is imported itself."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, at_once: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level and child.module, "imports are absolute"
                found.extend((f"{child.module}.{alias.name}", at_once) for alias in child.names)
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, at_once and not typing_only and not function)

    visit(ast.parse(text), True)
    return tuple(found)


def dependencies(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """The modules of the package that each imports, anywhere in it."""
    graph: dict[str, set[str]] = {}
    for module, text in texts.items():
        graph[module] = set()
        for name, _ in imports(text):
            parts = name.split(".")
            if parts[0] == "metarun":
                candidates = ("/".join(parts[1:end]) for end in range(len(parts), 1, -1))
                hit = next((c for name in candidates for c in (name, f"{name}/__init__") if c in texts), "__init__")
                graph[module].add(hit)
    return graph


def violations(texts: Mapping[str, str]) -> list[str]:
    """What the house forbids."""
    graph = dependencies(texts)
    broken = [f"{module} stands on no row of ROOMS" for module in graph if room_of(module) is None]
    for module, targets in graph.items():
        if (row := room_of(module)) is not None:
            broken += upward(module, row, targets)
            broken += forbidden_packages(module, row, texts[module])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        broken.append(f"a circle: {' <- '.join(error.args[1])}")
    return broken


def upward(module: str, row: str, targets: set[str]) -> Iterator[str]:
    """Imports of another room that is not below."""
    for target in sorted(targets):
        other = room_of(target)
        elsewhere = other is not None and other.partition("/")[0] != row.partition("/")[0]
        if elsewhere and ROOMS[other].floor >= ROOMS[row].floor:  # type: ignore[index]
            yield f"{module} imports {target}, which is not below it"


def forbidden_packages(module: str, row: str, text: str) -> Iterator[str]:
    """Hydra where it is not known, heavy packages where they are not waited for."""
    for name, at_once in imports(text):
        top = name.partition(".")[0]
        if top in HYDRA and not ROOMS[row].hydra:
            yield f"{module} knows {top}"
        if top in TORCH and at_once and (not ROOMS[row].torch or module in LIGHT):
            yield f"{module} loads {top} as it is imported"


def test_the_house_holds():
    assert violations(sources()) == []


def test_every_row_names_a_room():
    modules = set(sources())
    assert [row for row in ROOMS if row not in modules and not any(m.startswith(f"{row}/") for m in modules)] == []


@pytest.mark.parametrize("module", sorted(sources()))
def test_a_circle_put_into_any_module_is_found(module):
    """Whatever a module imports, made to import it in turn."""
    texts = sources()
    name = "metarun." + module.replace("/", ".")
    for target in sorted(dependencies(texts)[module]):
        broken = violations(texts | {target: f"from {name} import anything\n{texts[target]}"})
        assert any("a circle" in line or "is not below it" in line for line in broken), (module, target)
    hydra = violations(texts | {module: f"import hydra\nimport torch\n{texts[module]}"})
    row = ROOMS[room_of(module)]
    assert any("knows hydra" in line for line in hydra) is not row.hydra
    assert any("loads torch" in line for line in hydra) is (not row.torch or module in LIGHT)


def test_a_module_without_a_room_is_found():
    assert violations(sources() | {"utils": ""}) == ["utils stands on no row of ROOMS"]
    assert violations(sources() | {"helpers/more": ""}) == ["helpers/more stands on no row of ROOMS"]


def test_the_command_line_starts_without_torch():
    """Everything that is loaded with metarun.cli.main, however far away."""
    texts = sources()
    waiting, reached = ["cli/main"], set()
    while waiting:
        module = waiting.pop()
        reached.add(module)
        for name, at_once in imports(texts[module]):
            parts = name.split(".")
            if at_once and parts[0] == "metarun":
                candidates = ["/".join(parts[1:end]) for end in range(len(parts), 1, -1)]
                waiting += [c for c in candidates if c in texts and c not in reached]
            assert not (at_once and parts[0] in TORCH), f"{module} loads {parts[0]}"
    assert {"cli/resume", "sweeps/plan", "experiment/multirun", "run_folder"} <= reached


@pytest.mark.parametrize("module", [m for m in sources() if m.startswith("algos/") and not m.endswith("__init__")])
def test_an_algorithm_says_where_it_comes_from_and_how_it_differs(module):
    text = ast.get_docstring(ast.parse(sources()[module])) or ""
    assert "Differences from the paper" in text
    assert "Inner problem" in text and "Outer problem" in text


@pytest.mark.parametrize("group, folder", [("algo", "algos"), ("data", "data"), ("backbone", "backbones")])
def test_a_choice_is_a_file_of_its_room(group, folder):
    """`algo=NAME` is algos/NAME.py or a variant of one: its `_target_` is a class of that room."""
    for path in (ROOT / "conf" / group).rglob("*.yaml"):
        targets = [line.split("_target_:")[1].strip() for line in path.read_text().splitlines() if "_target_:" in line]
        assert all(target.startswith(f"metarun.{folder}.") for target in targets), path


def test_modules_have_a_mirror_in_the_tests():
    """tests/ROOM/test_MODULE.py for metarun/ROOM/MODULE.py."""
    missing = [
        module
        for module in sources()
        if not module.endswith(("__init__", "__main__"))
        and not (ROOT / "tests" / Path(module).parent / f"test_{Path(module).name}.py").is_file()
    ]
    assert missing == []
