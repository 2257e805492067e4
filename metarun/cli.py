"""The command line: Hydra's, with our words where it is mistyped, and runs that go on or are tested again.

Exit status: 0 completed, 1 failed, 2 refused before starting, 3 diverged, 130 and 143 interrupted; a multirun
1 if any cell failed, else 3 if any diverged.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun import grid
from metarun.conf_files import CONF, GROUPS, names
from metarun.imports import import_for
from metarun.ranks import ranks
from metarun.results import write_json

HELP = """metarun: train, evaluate and sweep few-shot learners.

Usage
  metarun algo=maml data=omniglot               train one learner, test it on held-out tasks
  metarun -m algo=maml,fomaml seed=0,1,2        the same for a grid, ending in a table and a figure
  metarun sweep=lr_sensitivity algo=maml,mtnet  a grid of inner learning rates and seeds
  metarun sweep.resume=outputs/sweeps/...       run what is missing of an interrupted multirun
  metarun run.resume=outputs/omniglot/maml/...  go on with an interrupted run

Choices (GROUP=NAME)
{choices}

Common numbers (GROUP.KEY=VALUE; `--cfg job` prints all)
  seed  run.iterations  run.meta_batch  run.eval_tasks  run.resume=PATH  run.init_from=PATH  run.evaluate=PATH
  data.root=PATH  data.ways  data.shots  data.queries  data.split
  algo.inner_lr  algo.inner_steps  algo.eval_steps
  optimizer.lr  optimizer.schedule  backbone.init  device.threads  device.compile  tracker.mode=offline|online

Hydra's own
  -m/--multirun  sweep over comma-separated values      --cfg job  print the configuration, run nothing
  --info         what was composed from which file      -sc install=bash  shell completion (also zsh, fish)
  --hydra-help   all of Hydra's flags
"""

MULTIRUN = {"-m", "--multirun"}
SHOWING = {"-c", "--cfg", "-i", "--info", "-h", "--help", "--hydra-help", "-sc", "--shell-completion"}
HYDRAS_OWN = (".hydra", "metarun.log", "multirun.yaml")

EXTRAS = {f"hydra/launcher/{name}": name for name in ("joblib", "ray")}  # what of Hydra's comes with which extra
EXTRAS |= {f"hydra/launcher/submitit_{name}": "submitit" for name in ("local", "slurm")}

_exit_statuses: list[int] = []  # of the jobs run in this process
EXIT_STATUSES = {"completed": 0, "diverged": 3}  # of a multirun's cells, by what their result says; else 1


def help_text() -> str:
    """What `metarun --help` prints: the choices of every group are read from conf/."""
    width = max(map(len, GROUPS))
    lines = []
    for group in GROUPS:
        line = f"  {group:<{width}} "
        for name in listed(group):
            if len(line) + len(name) > 110:
                lines.append(line)
                line = " " * (width + 3)
            line += f" {name}"
        lines.append(line)
    return HELP.format(choices="\n".join(lines))


def listed(group: str) -> list[str]:
    """A group's choices, for people: a folder of many files, as a paper's table has them, in one entry."""
    found: dict[str, list[str]] = {}
    for name in names(group):
        folder = name.rpartition("/")[0]
        found.setdefault(folder if folder.count("/") else name, []).append(name)
    return [f"{key}/... ({len(own)})" if len(own) > 1 else own[0] for key, own in found.items()]


OmegaConf.register_new_resolver("metarun_name", lambda name: name.replace("/", "-"), replace=True)


@dataclass
class Cell:
    """One run as the command line composed it; see `metarun.run.run` for what they mean."""

    cfg: DictConfig
    choices: dict[str, str]
    folder: Path
    overrides: list[str]
    group: str | None


def cell_of(cfg: DictConfig) -> Cell:
    """The run that Hydra has just composed."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    context = HydraConfig.get()
    group = Path(context.sweep.dir).name if context.mode == RunMode.MULTIRUN else None
    choices = {str(group): str(name) for group, name in context.runtime.choices.items()}
    folder = Path(context.runtime.output_dir)
    if group is not None and grid.goes_on(folder):
        cfg.run.resume = str(folder)
    return Cell(cfg, choices, folder, list(context.overrides.task), group)


def settle(cell: Cell, result: dict[str, Any]) -> float | None:
    """Keep the exit status of a run that has ended; returns its headline metric on the test tasks."""
    _exit_statuses.append(result["exit_status"])
    if cell.group is not None and result["exit_status"] > 128:
        raise KeyboardInterrupt  # a signal is for the whole sweep, not for the cell it happened to hit
    return result["mean"]


def refused(cell: Cell, why: object, say: bool = True) -> dict[str, Any]:
    """Say why a run is refused, and drop what Hydra made for it. The error is not raised on, for Hydra would print
    more, and end a multirun."""
    if say:
        print(f"metarun: {why}", file=sys.stderr)
    if cell.group is not None:
        record_failure(cell, {"error": str(why), "refused": True})
    elif not cell.cfg.run.resume:
        _remove_unused(cell.folder)
    return {"exit_status": 2, "mean": None}


def record_failure(cell: Cell, facts: dict[str, Any]) -> None:
    """The `result.json` of a multirun's cell that did not come so far as to write one."""
    known: dict[str, Any] = {name: cell.choices.get(name) for name in ("algo", "data", "backbone")}
    known |= {"seed": cell.cfg.get("seed"), "overrides": cell.overrides, "mean": None}
    write_json(cell.folder / "result.json", {"status": "failed", **known, **facts})


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> float | None:
    """One run."""
    cell = cell_of(cfg)
    import_for(cfg)
    from metarun.run import Refused, follow, run, saved_config  # imports torch, which --help must not wait for

    try:
        if ranks().rank and cfg.run.resume:
            cell.folder = Path(cfg.run.resume)  # Hydra's is a place of this process's own
        if (path := cfg.run.resume) and cell.group is None:
            cell.cfg, cell.choices = saved_config(cell.folder)
            cell.overrides = [entry for entry in _saved_overrides(cell.folder) if not entry.startswith("run.resume=")]
            cell.cfg.run.resume = path
        if ranks().rank:
            result = follow(cell.cfg, cell.choices, cell.folder)
        else:
            result = run(cell.cfg, cell.choices, cell.folder, cell.overrides, cell.group)
    except Refused as error:
        result = refused(cell, error, say=not ranks().rank)
    except Exception as error:  # of a single run Hydra shows it; a multirun's other cells go on
        if cell.group is None:
            raise
        logging.getLogger(__name__).exception("the cell failed")
        record_failure(cell, {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
        result = {"exit_status": 1, "mean": None}
    return settle(cell, result)


def note_failure() -> None:
    """Something beside the cells failed: the command's exit status is to say so."""
    _exit_statuses.append(1)


def _remove_unused(folder: Path) -> None:
    """Drop the folder that Hydra made for what was refused, if nothing but Hydra's own files is in it."""
    if all(entry.name in HYDRAS_OWN for entry in folder.iterdir()):
        shutil.rmtree(folder)
        for parent in folder.resolve().parents:  # those that Hydra made on the way
            if parent == Path.cwd() or any(parent.iterdir()):
                break
            parent.rmdir()


def main() -> NoReturn:
    """Entry point of the console script; never returns."""
    show_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and what is printed is ours to say
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    _exit_statuses.clear()
    grid.planned.clear()
    if {"-h", "--help"} & set(sys.argv[1:]):  # Hydra would first list every file of conf/, which takes seconds
        print(help_text())
        sys.exit(0)
    terminate = signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.argv[1:] = _with_saved_overrides(sys.argv[1:])
        with _own_place():
            _job()
    except KeyboardInterrupt:
        _say_how_to_go_on()
        sys.exit(max([130, *_exit_statuses]))
    except Exception as error:
        if show_traceback or not _is_refusal(error):
            raise
        if not ranks().rank:
            print(f"metarun: {explain(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, terminate)
    sys.exit(_status())


@contextmanager
def _own_place() -> Iterator[None]:
    """Of the processes that torchrun started the first has the run's folder; inside, another has one that goes away.

    Raises:
        HydraException: a multirun.
    """
    if ranks().processes > 1 and _is_multirun(sys.argv[1:]):
        raise HydraException(
            "torchrun shares the tasks of one run. Cells of a multirun run side by side with hydra/launcher=joblib"
        )
    if not ranks().rank:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        others = [entry for entry in sys.argv[1:] if not entry.startswith("hydra.run.dir=")]
        sys.argv[1:] = [*others, f"hydra.run.dir={grid.quoted(folder)}"]
        yield


def _terminated(*_: object) -> None:
    """SIGTERM outside a run, which takes note of its own: processes of a launcher end with this one."""
    _exit_statuses.append(128 + signal.SIGTERM)
    raise KeyboardInterrupt


def _status() -> int:
    """The exit status of what ran. Cells of a multirun may have run elsewhere: what counts is what they left."""
    if not grid.planned:
        return _exit_statuses[0] if len(_exit_statuses) == 1 else _total(_exit_statuses)
    if grid.all_refused():
        for cell in grid.planned:
            (cell.folder / "result.json").unlink()
            _remove_unused(cell.folder)
        if grid.planned[0].sweep.is_dir():
            _remove_unused(grid.planned[0].sweep)
        return 2
    return _total([*(EXIT_STATUSES.get(str(grid.status_of(c.folder)), 1) for c in grid.planned), *_exit_statuses])


def _total(statuses: list[int]) -> int:
    """1 if any cell failed (or left no result), else 3 if any diverged."""
    return 1 if set(statuses) - {0, 3} else max(statuses, default=0)


def _say_how_to_go_on() -> None:
    if grid.planned:
        done = sum(grid.status_of(cell.folder) in EXIT_STATUSES for cell in grid.planned)
        print(
            f"metarun: interrupted; {done} of {len(grid.planned)} cells are done. "
            f"Go on: metarun sweep.resume={grid.planned[0].sweep}",
            file=sys.stderr,
        )


def _is_refusal(error: BaseException) -> bool:
    """Whether it is the user's input that is at fault."""
    return isinstance(error, HydraException | OmegaConfBaseException)


# ------------------------------------------------------------------------------------------- going on, again


def _with_saved_overrides(arguments: list[str]) -> list[str]:
    """Arguments of a command that goes on with a run, a multirun, or tests a run again: what it was started with comes
    first.

    Raises:
        HydraException: no run there, or an override contradicts what the run was started with.
    """
    values = {key: value for key, value in map(_split, arguments) if value is not None}
    named = {key: path for key in ("run.resume", "sweep.resume", "run.evaluate") if (path := values.get(key))}
    named = {key: path for key, path in named.items() if path != "null"}
    if path := named.get("sweep.resume"):
        return _with_saved_sweep(arguments, values, Path(path))
    if not named:
        _refuse_used_folder(values)
        shorthand = values.get("sweep", "null") not in ("null", "") and not SHOWING & set(arguments)
        if _is_multirun(arguments) or shorthand:
            # Hydra takes the flag at the front only
            return ["--multirun", *(entry for entry in arguments if entry not in MULTIRUN)]
        return arguments
    path = named.get("run.resume") or named["run.evaluate"]
    folder = Path(path)
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise HydraException(f"{path} is no run's folder: it has no .hydra/config.yaml")
    saved = [e for e in _saved_overrides(folder) if not e.startswith(("run.resume=", "run.evaluate=", "hydra."))]
    if "run.resume" not in named:
        return [*(entry for entry in saved if _split(entry)[0].lstrip("+~") not in values), *arguments]
    _refuse_contradiction(folder, {k: v for k, v in values.items() if k != "run.resume"})
    if _is_multirun(arguments):
        raise HydraException("run.resume goes on with one run; it cannot be part of a multirun (sweep.resume can)")
    flags = [entry for entry in arguments if entry.startswith("-")]
    where = grid.quoted(path)
    return [*flags, *saved, f"run.resume={where}", f"hydra.run.dir={where}", "hydra.output_subdir=null"]


def _split(argument: str) -> tuple[str, str | None]:
    """(key, value) of an override; (argument, None) of a flag."""
    key, equals, value = argument.partition("=")
    return (key, value) if equals and not argument.startswith("-") else (argument, None)


def _is_multirun(arguments: list[str]) -> bool:
    return bool(MULTIRUN & set(arguments))


def _with_saved_sweep(arguments: list[str], values: dict[str, str], folder: Path) -> list[str]:
    """Arguments that go on with the multirun in a folder; another launcher may do so."""
    if not (folder / "multirun.yaml").is_file():
        raise HydraException(f"{folder} is no multirun's folder: it has no multirun.yaml")
    saved: Any = OmegaConf.to_container(OmegaConf.load(folder / "multirun.yaml").hydra.overrides)
    before = dict(map(_split, saved["task"]))
    for key, value in values.items():
        free = key == "sweep.resume" or key.startswith(("hydra.launcher.", "hydra/launcher"))
        if not free and before.get(key) != value:
            had = f"{key}={before[key]}" if key in before else " ".join(saved["task"])
            raise HydraException(
                f"{key}={value} contradicts the multirun in {folder}, which was started with {had}. "
                "It goes on as it was started"
            )
    other_launcher = "hydra/launcher" in values
    kept = [
        entry
        for entry in saved["hydra"]
        if not entry.startswith(("hydra.mode=", "hydra.sweep.dir="))
        and not (other_launcher and entry.startswith(("hydra/launcher=", "hydra.launcher.")))
        and _split(entry)[0] not in values
    ]
    own = [entry for entry in arguments if entry.startswith(("hydra/", "hydra."))]
    flags = [entry for entry in arguments if entry.startswith("-") and entry not in MULTIRUN]
    return ["--multirun", *flags, *kept, *own, *saved["task"], f"hydra.sweep.dir={grid.quoted(str(folder))}"]


def _refuse_used_folder(values: dict[str, str]) -> None:
    """Hydra would write over the configuration of the run in a folder that is named once more."""
    folder = values.get("hydra.run.dir")
    if folder and not ranks().rank and (Path(folder) / "checkpoint").is_dir():
        raise HydraException(
            f"hydra.run.dir={folder} holds a run already. Name another folder, or go on with it: run.resume={folder}"
        )


def _saved_overrides(folder: Path) -> list[str]:
    return list(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))


def _refuse_contradiction(folder: Path, given: dict[str, str]) -> None:
    """A resumed run is the run that was started: an override may repeat its values, not change them."""
    saved = OmegaConf.load(folder / ".hydra" / "config.yaml")
    chosen = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime.choices
    for key, text in given.items():
        had = chosen[key] if key in chosen else OmegaConf.select(saved, key)
        wanted = OverridesParser.create().parse_override(f"{key}={text}").value()
        if had != wanted:
            raise HydraException(
                f"{key}={text} contradicts the run in {folder}, which has {key}={had}. "
                "A resumed run goes on as it was started; other settings need a new one, with run.init_from"
            )


# ------------------------------------------------------------------------------------------ what is at fault


def explain(error: BaseException, arguments: list[str]) -> str:
    """One message for a refused command: what came, and what there is to choose from."""
    text = str(error)
    missing = re.search(r"(?:Could not find|In '[^']*': Could not find) '([\w./-]+)'", text)
    if missing and "/" in missing.group(1):
        group, _, name = missing.group(1).partition("/")
        if group in GROUPS:
            hint = _nearest(name, names(group))
            return f"there is no {group}={name}{hint}\nChoices of {group}: {', '.join(names(group))}"
        if extra := EXTRAS.get(missing.group(1)):
            return f"{missing.group(1)} needs more than metarun's own packages: pip install 'metarun[{extra}]'"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if key:
        keys = _all_keys(arguments)
        near = difflib.get_close_matches(key.group(1), keys, n=4, cutoff=0.5)
        listing = ", ".join(near) or ", ".join(sorted({k.split(".")[0] for k in keys}))
        return f"there is no setting {key.group(1)}. Nearest: {listing}. `metarun --cfg job` prints all"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        return f"{text}\n{error.__cause__}"
    return text


def _nearest(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""


def _all_keys(arguments: list[str]) -> list[str]:
    """Dotted keys of the configuration that the command's valid group choices compose."""
    groups = [a for a in arguments if a.partition("=")[0] in GROUPS and "," not in a]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", overrides=groups)
    except HydraException:
        return list(GROUPS)
    return list(_leaves(OmegaConf.to_container(cfg, resolve=False), ""))


def _leaves(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    found = [prefix] if prefix else []
    for key, value in node.items():
        if key == "_target_":  # a class is chosen by its group
            continue
        found += _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found
