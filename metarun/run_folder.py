"""The one reader of a run's folder: `result.json`, `.hydra/`, its status, and whether it can be resumed.

`Run` reads whatever is there, and says what is missing or broken; it never raises. The functions below it are for who
needs one thing, and raise where that is missing. Folders of earlier versions are read by today's names.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from metarun import old_names
from metarun.checks import require
from metarun.run_files import MOST_DEEP, bounded, checked_result, parse_json, read_bytes, read_episodes
from metarun.tracking.jsonl import read_metrics

if TYPE_CHECKING:
    import numpy as np

ENDED = ("completed", "diverged", "failed", "interrupted")
STATUSES = (*ENDED, "unfinished", "broken")
LOWER_IS_BETTER = ("mse", "nll", "ece", "eer", "loss")
GROUPS = ("run", "device", "data", "algo", "backbone", "optimizer", "tracker")  # of every configuration
PLACE = re.compile(r"data\.(.+\.)?root")  # keys that say where data lies, which is no part of what a run is
CONFIG, HYDRA, OVERRIDES = Path(".hydra/config.yaml"), Path(".hydra/hydra.yaml"), Path(".hydra/overrides.yaml")
NESTED = 20_000  # characters of YAML that can be nested so deeply that its parser dies
EXTENDED = "extended.json"  # `run.iterations` of a run that was made longer; its configuration stays as it was started
VAL_TASKS = 200
FORMAT = 1  # of result.json and checkpoints; absent: 0, with the names of old_names.py


@dataclass
class Run:
    """One run's folder.

    Attributes:
        folder: where it lies.
        name: its folder relative to the path that was asked for, what tells it from the others.
        result: `result.json`; empty where there is none or it cannot be read.
        config: `.hydra/config.yaml`, interpolations as they are written; empty where it cannot be read.
        overrides: `.hydra/overrides.yaml`.
        problem: what is missing or broken, for people; None for a run that is whole.
        damaged: which of `result`, `config` and `overrides` are there and cannot be read.
    """

    folder: Path
    name: str
    result: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    problem: str | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """One of `STATUSES`; `unfinished` has no result yet, or its process was killed.

        A run whose configuration is damaged is broken too: nobody knows what its result is of.
        """
        if {"result", "config"} & set(self.damaged):
            return "broken"
        status = self.result.get("status") if self.result else "unfinished"
        return status if status in STATUSES else "broken"

    @property
    def algo(self) -> str:
        return str(self.result.get("algo") or self.choices.get("algo", "?"))

    @property
    def data(self) -> str:
        return str(self.result.get("data") or self.choices.get("data", "?"))

    @property
    def backbone(self) -> str:
        return str(self.result.get("backbone") or self.choices.get("backbone", "?"))

    @property
    def fingerprint(self) -> str:
        """Of the held-out tasks; empty where the run was not tested."""
        return str(self.result.get("episodes") or "")

    @cached_property
    def choices(self) -> dict[str, Any]:
        """Each group's choice, as Hydra wrote them; empty where it did not."""
        try:
            return read_choices(self.folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            return {}

    @property
    def seed(self) -> Any:
        return self.result.get("seed", self.config.get("seed"))

    @property
    def metric(self) -> str:
        return str(self.result.get("metric") or "")

    @property
    def mean(self) -> float | None:
        """The headline metric of a completed run."""
        mean = self.result.get("mean")
        return float(mean) if self.status == "completed" and isinstance(mean, int | float) else None

    @property
    def why(self) -> str:
        """Why it did not complete, or what is wrong with its folder."""
        return "; ".join(filter(None, (self.result.get("error"), self.problem)))

    @property
    def higher_is_better(self) -> bool:
        return bool(self.result.get("higher_is_better", self.metric not in LOWER_IS_BETTER))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration as `{dotted key: value}`; `algo.inner_lr` also where a learner has another name for it."""
        flat = dict(leaves(self.config))
        rate = self.inner_lr
        if rate is not None and "algo.inner_lr" not in flat:
            flat = {key: value for key, value in flat.items() if key != "algo.initial_rates"}
            flat["algo.inner_lr"] = rate
        return flat

    @property
    def inner_lr(self) -> float | None:
        """The inner learning rate, or what learned rates all begin as; None where there is no such number."""
        algo = self.config.get("algo")
        algo = algo if isinstance(algo, dict) else {}
        rate, rates = algo.get("inner_lr"), algo.get("initial_rates")
        if isinstance(rates, list) and len(rates) == 2 and rates[0] == rates[1]:
            rate = rates[0]
        return as_number(rate)

    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; none where it is missing or damaged."""
        try:
            return read_metrics(self.folder / "metrics.jsonl")
        except (OSError, ValueError):
            return []

    def episodes(self) -> np.ndarray | None:
        """The headline metric of each held-out task `[tasks]` at the headline's step; None where there is none."""
        if not is_as_written(self.folder, "episodes.npz", self.result):
            return None
        try:
            return read_episodes(self.folder / "episodes.npz", self.metric)
        except ValueError:
            return None


def as_number(value: Any) -> float | None:
    """A number, also one that YAML 1.1 takes for text: `1e-05` has no dot."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything below a mapping; lists count as values."""
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))


def read_run(folder: Path, name: str | None = None) -> Run:
    """One run's folder, however little of it is there."""
    run = Run(folder, name or folder.name)
    problems = []
    for attribute, kind, path, parse, translate in (
        ("result", dict, folder / "result.json", _parse_result, lambda content: content),
        ("config", dict, folder / CONFIG, load_yaml, old_names.new_config),
        ("overrides", list, folder / OVERRIDES, load_yaml, old_names.new_overrides),
    ):
        try:
            content = bounded(parse(read_bytes(path).decode("utf-8")))
            if not isinstance(content, kind):
                raise ValueError(f"it holds no {'mapping' if kind is dict else 'list'}")
            setattr(run, attribute, translate(content))  # type: ignore[arg-type]
        except FileNotFoundError:
            if attribute == "result":
                problems.append("no result.json: it is running, or its process was killed")
            elif attribute == "config":
                problems.append("no .hydra/config.yaml")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            problems.append(f"{path.relative_to(folder)} cannot be read: {lines[0]}")
            run.damaged.append(attribute)
    if not is_as_written(folder, str(CONFIG), run.result):
        problems.append(f"{CONFIG} was changed after the run")
        run.damaged.append("config")
    run.problem = "; ".join(problems) or None
    return run


def is_as_written(folder: Path, file: str, result: Mapping[str, Any]) -> bool:
    """Whether a file is the one that a run's result was written with; also where that says nothing of it."""
    digests = result.get("sha256")
    wanted = digests.get(file) if isinstance(digests, dict) else None
    try:
        return wanted is None or wanted == hashlib.sha256(read_bytes(folder / file)).hexdigest()
    except (OSError, ValueError):  # whoever needs it says what is wrong
        return True


def _parse_result(text: str) -> dict[str, Any]:
    return old_names.new_result(checked_result(parse_json(text)))


def load_yaml(text: str) -> Any:
    """YAML as OmegaConf reads it: `1e-05`, which YAML 1.1 takes for text, is a number.

    Raises:
        ValueError, yaml.YAMLError: it is none.
    """
    try:
        if len(text) > NESTED:
            _refuse_deep(text)
        return yaml.load(text, Loader=_loader())
    except (LookupError, AttributeError, TypeError, RecursionError) as error:  # PyYAML's for `!!int ""` and its like
        raise ValueError(f"it is no YAML ({type(error).__name__}: {error})") from error


def _refuse_deep(text: str) -> None:
    """Refuse a nesting at which the parser's stack would end, and the process with it.

    Raises:
        ValueError: it is nested too deeply.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_loader()):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEEP:
            raise ValueError("it is nested too deeply")


@cache
def _loader() -> Any:
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    loader: Any = type("Loader", (base,), {})
    number = re.compile(r"^[-+]?\d[\d_]*\.?[\d_]*[eE][-+]?\d+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return loader


def is_run(folder: Path) -> bool:
    return (folder / "result.json").is_file() or (folder / CONFIG).is_file()


def run_folders(path: Path) -> Iterator[Path]:
    """Every run's folder at or below a path, in the order of their names."""
    for found, folders, _ in os.walk(path):
        here = Path(found)
        if is_run(here):
            folders.clear()  # nothing but its own files is below a run
            yield here
        folders.sort(key=natural)


def natural(text: str) -> list[Any]:
    """A key that sorts `cell_9` before `cell_10`."""
    words = []
    digits = ""
    for letter in text:
        if letter.isdigit():
            digits += letter
            continue
        if digits:
            words.append((0, int(digits), ""))
            digits = ""
        words.append((1, 0, letter))
    return [*words, (0, int(digits), "")] if digits else words


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """All runs at or below the paths, each once.

    Raises:
        FileNotFoundError: a path that is not there, or that holds no run.
    """
    found: dict[Path, Run] = {}
    titles = _titles(paths)
    for path, title in zip(paths, titles, strict=True):
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is no folder" if path.exists() else f"there is no {path}")
        folders = list(run_folders(path))
        if not folders:
            raise FileNotFoundError(f"{path} holds no run: no result.json and no .hydra/config.yaml in or below it")
        for folder in folders:
            name = str(folder.relative_to(path)) if folder != path else title
            name = name if len(paths) == 1 or folder == path else f"{title}/{name}"
            found.setdefault(folder.resolve(), read_run(folder, name))
    return list(found.values())


def _titles(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as few of them as tell the paths apart."""
    whole = [path.resolve() for path in paths]
    for length in range(1, max((len(path.parts) for path in whole), default=0)):
        titles = ["/".join(path.parts[-length:]) for path in whole]
        if len(set(titles)) == len(set(whole)):
            return titles
    return list(map(str, whole))


# ------------------------------------------------------------------------------------------ one thing of a folder


class DamagedFileError(ValueError):
    """A file of a run's folder is missing or damaged; the message names it, and says what can be done."""


def read_result(folder: Path) -> dict[str, Any]:
    """`result.json` of a run's folder.

    Raises:
        FileNotFoundError: the run left none (yet).
        DamagedFileError: it is damaged.
    """
    advice = f"Delete it, and run.resume={folder} goes on from the last checkpoint"
    return _read(folder / "result.json", _parse_result, advice)


def result_or_empty(folder: Path) -> dict[str, Any]:
    """`result.json`; empty where there is none, or none that can be read."""
    try:
        return read_result(folder)
    except (OSError, ValueError):
        return {}


def status_of(folder: Path) -> str | None:
    """`status` of a run's result; None where there is none, or none that can be read."""
    return result_or_empty(folder).get("status")


def result_mtime(folder: Path) -> int | None:
    """When a run's result was written, in ns; None where there is none."""
    try:
        return (folder / "result.json").stat().st_mtime_ns
    except OSError:
        return None


def holds_checkpoint(folder: Path) -> bool:
    """Whether a run has left a checkpoint folder here."""
    return os.path.isdir(folder / "checkpoint")  # unlike pathlib's, also of a name that is too long


def can_resume(folder: Path) -> bool:
    """Whether a run that starts in this folder resumes from a checkpoint there."""
    return holds_checkpoint(folder) and status_of(folder) not in ("completed", "diverged")


def holds_result(folder: Path) -> bool:
    """Whether something is here that a run has worked for: a checkpoint, or how it ended, unless it failed before."""
    if holds_checkpoint(folder):
        return True
    return os.path.exists(folder / "result.json") and status_of(folder) not in ("failed", "interrupted")


def has_config(folder: Path) -> bool:
    """Whether a run's configuration is here."""
    return os.path.isfile(folder / CONFIG)


def has_whole_config(folder: Path) -> bool:
    """Whether all that a run was composed of is here and can be read; else the run that was to be here never began."""
    try:
        return bool(read_config(folder) and read_choices(folder)) and read_overrides(folder) is not None
    except (OSError, ValueError):
        return False


def is_same_config(saved: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two configurations are of the same run: the multirun's part, where the run resumes, and where its data
    lies do not count."""

    def counted(config: dict[str, Any]) -> dict[str, Any]:
        own = {key: value for key, value in config.items() if key not in ("hydra", "sweep")}
        flat = {key: value for key, value in leaves(own) if key != "run.resume" and not PLACE.fullmatch(key)}
        flat.setdefault("run.eval_seed", 0)  # earlier versions had no other stream
        if flat.get("run.val_tasks", 0) is None:  # earlier versions wrote the number
            flat["run.val_tasks"] = default_val_tasks(flat["run.eval_tasks"])
        return flat

    return counted(saved) == counted(wanted)


def default_val_tasks(eval_tasks: Any) -> int:
    """Tasks of a validation, where nobody says how many: `VAL_TASKS`, or those of the test if these are fewer."""
    return min(VAL_TASKS, eval_tasks) if isinstance(eval_tasks, int) else VAL_TASKS


def config_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that says what a run was composed of, by its name in the folder; those that are there."""
    found = {}
    for file in (CONFIG, HYDRA, OVERRIDES):
        if (folder / file).is_file():
            found[str(file)] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration a run was started with, interpolations unresolved.

    Raises:
        FileNotFoundError: there is no run in that folder; the message says so.
        DamagedFileError: it is damaged.
    """
    if not has_config(folder):
        raise FileNotFoundError(f"{folder} is no run's folder: it has no {CONFIG}")
    config = _read(folder / CONFIG, _parse_config, _advice(folder))
    if (folder / EXTENDED).is_file():
        config.setdefault("run", {})["iterations"] = _read(folder / EXTENDED, _parse_extended, _advice(folder))
    return config


def read_choices(folder: Path) -> dict[str, str]:
    """The chosen name of each group.

    Raises:
        DamagedFileError: they are missing or damaged.
    """
    choices = _read(folder / HYDRA, _parse_choices, _advice(folder))
    if "scheduler" in choices or not has_config(folder):
        return choices
    return old_names.new_choices(choices, _read(folder / CONFIG, _parse_old_config, _advice(folder)))


def read_overrides(folder: Path) -> list[str]:
    """What the run's command line changed.

    Raises:
        DamagedFileError: it is missing or damaged.
    """
    return _read(folder / OVERRIDES, _parse_overrides, _advice(folder))


def read_multirun(folder: Path) -> dict[str, list[str]]:
    """What a multirun's command line changed: `task`, the cells' overrides, and `hydra`, Hydra's own.

    Raises:
        FileNotFoundError: there is no multirun in that folder; the message says so.
        DamagedFileError: multirun.yaml is damaged.
    """
    file = folder / "multirun.yaml"
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{folder} is no multirun's folder: it has no multirun.yaml")
    advice = f"Delete it, and repeat the command that the multirun was started with, with hydra.sweep.dir={folder}"
    return _read(file, _parse_multirun, advice)


def read_tracker_ids(file: Path) -> dict[str, str]:
    """The services' names of a run, by tracker, as `tracking.trackers.write_run_ids` wrote them; empty: no file.

    Raises:
        DamagedFileError: it is damaged.
    """
    if not file.is_file():
        return {}
    return _read(file, _parse_tracker_ids, "Delete it, and the trackers start a new record")


def _read(path: Path, parse: Callable[[str], Any], advice: str) -> Any:
    """The content of a file.

    Raises:
        FileNotFoundError: result.json is not there.
        DamagedFileError: it cannot be read, or another file is not there.
    """
    try:
        return parse(read_bytes(path).decode("utf-8"))
    except FileNotFoundError as error:
        if path.name == "result.json":
            raise
        raise DamagedFileError(f"{path} is missing. {advice}") from error
    # LookupError and so on: of old_names, for what looks like an earlier version's
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise DamagedFileError(f"{path} is damaged ({lines[0]}). {advice}") from error


def _advice(folder: Path) -> str:
    """What can be done where nobody knows what a run was composed of."""
    if holds_checkpoint(folder) or os.path.exists(folder / "result.json"):
        return f"The run cannot go on: repeat its command with another folder, or delete {folder} first"
    return f"The run in {folder} never began: repeat its command"


def _parse_config(text: str) -> dict[str, Any]:
    config = bounded(load_yaml(text))
    require("its content", type(config).__name__, isinstance(config, dict) and config, "a mapping")
    config = old_names.new_config(config)
    for group in GROUPS:
        if group in config:
            require(group, config[group], isinstance(config[group], dict), "a mapping")
    return config


def _parse_old_config(text: str) -> dict[str, Any]:
    config = bounded(load_yaml(text))
    require("its content", type(config).__name__, isinstance(config, dict), "a mapping")
    return config


def _parse_extended(text: str) -> int:
    iterations = parse_json(text).get("iterations")
    require("iterations", iterations, type(iterations) is int and iterations > 0, "a positive integer")
    return iterations


def _parse_choices(text: str) -> dict[str, str]:
    chosen = bounded(load_yaml(text))["hydra"]["runtime"]["choices"]
    holds = isinstance(chosen, dict) and isinstance(chosen.get("algo"), str) and isinstance(chosen.get("data"), str)
    require("hydra.runtime.choices", chosen, holds, "a mapping with algo and data")
    return old_names.new_choices({str(group): str(name) for group, name in chosen.items()})


def _parse_overrides(text: str) -> list[str]:
    return old_names.new_overrides(_texts("its content", bounded(load_yaml(text))))


def _parse_multirun(text: str) -> dict[str, list[str]]:
    saved = bounded(load_yaml(text))["hydra"]["overrides"]
    return {kind: old_names.new_overrides(_texts(f"hydra.overrides.{kind}", saved[kind])) for kind in ("task", "hydra")}


def _parse_tracker_ids(text: str) -> dict[str, str]:
    text = text.strip()
    if not text.startswith("{"):
        return {"wandb": text} if text else {}
    ids = parse_json(text)
    require("its content", ids, all(isinstance(name, str) for name in ids.values()), "a mapping of names to texts")
    return ids


def _texts(key: str, value: Any) -> list[str]:
    require(key, value, isinstance(value, list) and all(isinstance(entry, str) for entry in value), "a list of texts")
    return value
