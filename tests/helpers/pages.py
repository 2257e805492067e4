"""Markdown pages that tests execute: their blocks, in order, with everything that is long made short.

A fenced block of Bash, Python or YAML is executed. `title="PATH"` in its first line makes it a file of that name. A
comment on the line above it changes what the test does:

    <!-- test: compose -->   needs a cluster, an account or a long time: commands are composed, Python is compiled
    <!-- test: refused -->   every command ends with exit status 2, and at last prints the text of the next block
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from commands import ROOT, SMALL, metarun
from hydra import compose, initialize_config_dir

import metarun as package
from metarun.api import overrides_of
from metarun.cli.command import Command
from metarun.experiment.build import build
from metarun.experiment.choices import CONF, names
from metarun.experiment.overrides import key_of, lines_of, read
from metarun.predict import main as predict
from metarun.report import main as report

FENCE = re.compile(r"(?:^<!-- test: (\w+) -->\n)?^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Other programs: their lines are for the reader.
OTHERS = ("pip", "uv", "make", "source", "cd", "git", "wandb", "optuna-dashboard", "metarun-download", "nvidia-smi")
OTHERS += ("tensorboard",)
TOOLS: dict[str, Callable[[list[str]], object]] = {"metarun-report": report.main, "metarun-predict": predict.main}
DATA = {"omniglot": "synthetic", "miniimagenet": "synthetic", "omniglot_pairs": "synthetic_pairs"}
GONE = ("data.root", "data.partition", "data.split_seed", "backbone")  # with the data, whose they are
LENGTHS = ("run.iterations", "run.eval_tasks", "run.val_tasks", "hydra.sweeper.n_trials")
SHORT = {"iterations": 12, "validate_every": 6, "eval_tasks": 10, "val_tasks": 10}
LONGER = 18  # iterations of a run that is made longer
KEPT = ("run.resume=", "sweep.resume=")  # a run that goes on as it was started


class Block(NamedTuple):
    """A fenced block: its language, the file that it is, its text, the word of the comment above, the line."""

    language: str
    title: str
    text: str
    mark: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in FENCE.finditer(text):
        mark, language, rest, content = match.groups()
        title = re.search(r'title="([^"]+)"', rest)
        line = text[: match.start(4)].count("\n")
        found.append(Block(language, title[1] if title else "", content, mark or "", line))
    return found


def commands_of(blocks: list[Block]) -> Iterator[tuple[Block, list[str]]]:
    """The commands of the Bash blocks; a line that ends in a backslash goes on."""
    for block in blocks:
        if block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield block, words


def settings_of(words: list[str]) -> list[str] | None:
    """What a line asks metarun for, through torchrun too; None: it is another program's."""
    words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "metarun":
        return words[1:]
    if words[0] == "torchrun":
        assert words[-len(words) :].count("metarun") == 1 and "-m" in words
        return words[words.index("metarun") + 1 :]
    return None


# ------------------------------------------------------------------------------------------------------ composed


def cells_of(command: list[str]) -> list[list[str]]:
    """The settings of every cell of a command; of its seeds the first, for nothing depends on them here."""
    settings = [read(word) for word in command if "=" in word and not word.startswith("-")]
    swept = [lines_of(o) if not o.is_interval_sweep() else [] for o in settings]
    swept = [lines[:1] if key_of(o) == "seed" else lines for o, lines in zip(settings, swept, strict=True)]
    return [list(cell) for cell in product(*(lines for lines in swept if lines))]


def compose_and_build(command: list[str], most: int | None = None) -> None:
    """What the command asks for is a configuration whose parts fit; touches no data.

    Args:
        command: flags and settings. Of one that names a folder, of a run or of choices, only its grammar is checked.
        most: cells that are built; None: all.
    """
    if "--config-dir" in command or any(
        word.startswith((*KEPT, "run.evaluate=", "run.init_from=")) for word in command
    ):
        assert "--config-dir" in command or Command.parse(command).overrides
        return
    for cell in cells_of(command)[:most]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", cell, return_hydra_config=True)
        choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items()}
        del cfg.hydra
        build(cfg, choices)


# ------------------------------------------------------------------------------------------------------ shortened


def shortened(words: list[str]) -> list[str]:
    """The same command as a matter of a second: drawn data, few iterations and tasks, a small network."""
    if any(word.startswith(KEPT) for word in words):
        return [re.sub(r"^run\.iterations=.*", f"run.iterations={LONGER}", word) for word in words]
    if any(word in ("--help", "--version", "--cfg", "--info") for word in words):
        return words
    words = list(map(_without_data, words))
    if any(word in (f"data={name}" for name in DATA.values()) for word in words):
        words = [word for word in words if word.partition("=")[0] not in GONE]
    keys = {word.partition("=")[0] for word in words}
    small = [word for word in SMALL if word.partition("=")[0] not in keys or word.startswith("run.")]
    small = [word for word in small if word.partition("=")[0].removeprefix("run.") not in SHORT]
    small += [f"run.{key}={value}" for key, value in SHORT.items()]
    small += [word for word in ("hydra.sweeper.n_trials=2",) if word.partition("=")[0] in keys]
    if "sweep=lr_sensitivity" in words:
        small += ["sweep.inner_lr=[0.01,0.1]", "sweep.seed=[0,1]"]
    replaced = {word.partition("=")[0] for word in small if word.startswith("run.")} | set(LENGTHS)
    kept = [word for word in words if word.partition("=")[0] not in replaced]
    return [*kept, *(word for word in [*small, "backbone.filters=4"] if _fits(word, kept))]


def _without_data(word: str) -> str:
    key, _, value = word.partition("=")
    return f"data={DATA[value]}" if key == "data" and value in DATA else word


def _fits(word: str, words: list[str]) -> bool:
    """Whether the command's configuration has the key: not all data have queries, not all networks filters."""
    key = word.partition("=")[0]
    if key.startswith(("run.", "tracker", "device.", "hydra.", "sweep.")):
        return True
    if any(word.startswith("run.evaluate=") for word in words):
        return False
    choices = [word for word in words if re.match(r"(data|backbone|experiment|role)=", word)]
    choices += [word for word in words if word.startswith("algo=") and not _is_of_the_page(word)]
    for cell in cells_of(choices):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", cell)
        group, _, name = key.partition(".")
        if name not in cfg[group]:
            return False
    return True


def _is_of_the_page(choice: str) -> bool:
    return not set(choice.partition("=")[2].split(",")) <= set(names("algo"))


# ------------------------------------------------------------------------------------------------------- executed


def execute(blocks: list[Block], folder: Path) -> None:
    """Execute a page in a folder, block after block; Python blocks share their names.

    Raises:
        AssertionError: a command does not end as the page says.
    """
    variables: dict[str, Any] = {"__name__": "page"}
    with contextlib.chdir(folder), _short_python(), patch.dict(os.environ, METARUN_CACHE=str(folder / "cache")):
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            if block.title:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.text)
            elif block.language == "python":
                _python(block, variables)
            for _, words in commands_of([block]):
                _command(block, words, following, variables)


def _python(block: Block, variables: dict[str, Any]) -> None:
    code = compile("\n" * block.line + block.text, "the page", "exec")
    if block.mark != "compose":
        linecache.cache["the page"] = (0, None, ("\n" * block.line + block.text).splitlines(keepends=True), "the page")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, variables)


def _command(block: Block, words: list[str], following: Block | None, variables: dict[str, Any]) -> None:
    os.environ.update(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    settings = settings_of(words)
    where = f"line {block.line}: {' '.join(words)}"
    if block.mark == "refused":
        assert settings is not None and following is not None, where
        outcome = metarun(*settings, folder=Path.cwd())
        assert outcome.status == 2 and outcome.err.endswith(following.text), f"{where}\n{outcome.err}"
    elif block.mark == "compose" and settings is not None:
        compose_and_build(settings, most=2)
    elif settings is not None:
        outcome = metarun(*shortened(settings), folder=Path.cwd())
        assert outcome.status == 0, f"{where}\n{outcome.out}{outcome.err}"
    elif words[0] in TOOLS:
        assert _ended(TOOLS[words[0]], words[1:]) == 0, where
    elif words[0] == "python":
        exec(compile(Path(words[1]).read_text(), words[1], "exec"), dict(variables, __name__="__main__"))
    else:
        assert words[0] in OTHERS, f"{where}: no test knows {words[0]}"
        _known_target(words)


def _known_target(words: list[str]) -> None:
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in words[1:] if "=" not in word]
        for target in targets:
            rule = "reproduce-%" if target.startswith("reproduce-") else re.escape(target)
            assert re.search(rf"^{rule}:", makefile, re.MULTILINE), f"there is no make {target}"


def _ended(main: Callable[[list[str]], object], arguments: list[str]) -> int:
    """The exit status of a tool in this process; what it printed is shown where that is not 0."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            main(arguments)
        except SystemExit as stopped:
            if stopped.code:
                print(out.getvalue())
            return int(stopped.code or 0)
    return 0


@contextlib.contextmanager
def _short_python() -> Iterator[None]:
    """Inside, `metarun.train` and `metarun.evaluate` take the time of a small command."""

    train, evaluate = package.train, package.evaluate

    def short_train(*overrides: str, **settings: Any) -> Any:
        return train(*shortened([*overrides, *overrides_of(settings)]))

    def short_evaluate(run: Any, /, *overrides: str, **settings: Any) -> Any:
        return evaluate(run, *overrides, *overrides_of(settings), "run.eval_tasks=20", "tracker=none")

    with (
        patch.object(package, "train", short_train, create=True),
        patch.object(package, "evaluate", short_evaluate, create=True),
        patch("metarun.experiment.run.draw_result", lambda *_, **__: None),
    ):
        yield
