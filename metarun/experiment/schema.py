"""The types and ranges of all keys, checked before anything starts, with the key as it was typed.

A node with a `_target_` is checked against the constructor of that class: its arguments are the keys, their annotations
the types. The other groups are dataclasses. What an annotation cannot say, the constructors check (metarun/checks.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.checks import Count, Fraction, Index, NonNegative, Only, Positive, is_int, is_number
from metarun.experiment.choices import CONF, GROUPS, describe, files_of, names
from metarun.experiment.errors import ConfigError
from metarun.experiment.targets import SPECIAL, class_at, place_of, refuse_foreign_targets
from metarun.run_folder import default_val_tasks

# What metarun hands to the constructor of each place; not for a configuration to set.
HANDED: dict[str, tuple[str, ...]] = {
    "data": ("device",),
    "algo": ("backbone", "outputs", "ways", "loss"),
    "backbone": ("in_shape", "outputs"),
    "optimizer": ("scheduler",),
    "optimizer.optimizer": ("params", "lr"),
    "scheduler": ("optimizer", "last_epoch"),
    "tracker.*": (),
}
# Ranges of arguments of torch's classes, by the part of the key after the place; our own check theirs.
TORCH_RANGES: dict[str, Any] = {
    "optimizer.optimizer.betas": tuple[Fraction, Fraction],
    "optimizer.optimizer.eps": NonNegative,
    "optimizer.optimizer.weight_decay": NonNegative,
    "optimizer.optimizer.momentum": NonNegative,
    **{f"scheduler.{name}": Count for name in ("T_max", "T_0", "T_mult", "step_size", "total_iters", "total_steps")},
    "scheduler.max_lr": Positive,
    "scheduler.milestones": Annotated[Sequence[Count], Only("a list of at least one integer of at least 1", len)],
    "scheduler.start_factor": Annotated[float, Only("a number in (0, 1]", lambda value: 0 < value <= 1)],
    "scheduler.end_factor": Annotated[float, Only("a number in [0, 1]", lambda value: 0 <= value <= 1)],
    # torch takes no integer
    "scheduler.pct_start": Annotated[
        float, Only("a number in [0.0, 1.0]", lambda v: isinstance(v, float) and 0 <= v <= 1)
    ],
}
BITS = 2**63  # torch and NumPy count in 64 bits
MOST = 2**31  # of what is made or looped over: no memory holds as many

CountOrNull = Annotated[Any, Only("null or an integer of at least 1", lambda value: value is None or is_int(value, 1))]
Seed = Annotated[int, Only("an integer from 0 to 2^63 - 1", lambda value: value >= 0)]


@dataclass
class RunConfig:
    """The group `run`. Units and meanings stand in conf/config.yaml.

    `val_tasks` may be given as None (`default_val_tasks`).
    """

    iterations: Count
    meta_batch_size: Count
    eval_tasks: Count
    val_tasks: CountOrNull
    validate_every: Count
    log_every: Count
    curve_steps: Index
    checkpoint_seconds: NonNegative
    test_weights: Literal["best", "last"]
    resume: str | None
    init_from: str | None
    evaluate: str | None
    eval_seed: Seed = 0

    def __post_init__(self) -> None:
        if self.val_tasks is None:
            self.val_tasks = default_val_tasks(self.eval_tasks)


@dataclass
class SweepConfig:
    """The group `sweep`: a multirun's own keys."""

    inner_lr: Annotated[Sequence[float], Only("a list of at least one number", len)] | None
    seed: Annotated[Sequence[Seed], Only("a list of at least one integer from 0 to 2^63 - 1", len)] | None
    resume: str | None


@dataclass
class PublishedFigure:
    """An entry of `paper`: a figure that was read in a text which is named.

    Attributes:
        source: who published it, e.g. `Finn et al. 2017`.
        table: where in that publication.
        value: in the unit of the metric; an accuracy is a fraction.
        read: the text that it was read in: the paper itself, the authors' repository, or a text that quotes it.
        ways, shots: of the test tasks; None: of any.
        ci95: the half-width that is printed beside it.
    """

    source: str
    table: str
    value: float
    read: str
    ways: int | None = None
    shots: int | None = None
    ci95: float | None = None


class Key(NamedTuple):
    """One key of the configuration, for documentation.

    Attributes:
        choice: the choice that has it, `algo=maml`; None for a key that every configuration has.
        name: as it is typed, `algo.inner_lr`.
        type: what its value may be, in words.
        default: its value, uninterpolated.
        comment: what conf says of it; empty where it says nothing.
    """

    choice: str | None
    name: str
    type: str
    default: Any
    comment: str


class Argument(NamedTuple):
    """An argument of a constructor, or a field of a dataclass.

    Attributes:
        hint: its type.
        required: it has no default.
    """

    hint: Any
    required: bool


class Problem(NamedTuple):
    """A value that is not what its key must be."""

    key: str
    message: str


# ------------------------------------------------------------------------------------------------------ checking


def checked(cfg: DictConfig) -> DictConfig:
    """A configuration with all interpolations resolved, all of whose keys are known and hold what they must.

    Raises:
        ConfigError: a key is unknown or missing, a value is of another type, or a class is not allowed.
    """
    if "hydra" in cfg:
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    config, raw = _resolved(cfg), OmegaConf.to_container(cfg)
    try:
        refuse_foreign_targets(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        problems = list(_problems(config, raw))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if problems:  # what was typed goes before what follows it by interpolation
        raise ConfigError(min(problems, key=lambda problem: "${" in str(_select(raw, problem.key))).message)
    return OmegaConf.create(config)


def check_multirun(cfg: DictConfig) -> None:
    """Check what a multirun reads before it composes its cells.

    Args:
        cfg: the multirun's configuration, Hydra's own keys included.

    Raises:
        ConfigError: one is unknown, or its value is of another type.
    """
    check_output(cfg.hydra.output_subdir)
    group = cfg.get("sweep")
    for problem in group_problems("sweep", _resolved(group) if isinstance(group, DictConfig) else group, SweepConfig):
        raise ConfigError(problem.message)


def check_output(folder: str | None) -> None:
    """Refuse to let Hydra write a run's configuration, which metarun does itself, once and whole.

    Raises:
        ConfigError: `hydra.output_subdir` is not null.
    """
    if folder is not None:
        raise ConfigError(
            f"hydra.output_subdir must be null: metarun itself keeps a run's configuration, in .hydra; got {folder!r}"
        )


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = (error.msg or str(error)).splitlines()[0]
        key = error.full_key or "the configuration"
        raise ConfigError(f"{key} must be a value that can be resolved; got {reason}") from error
    except RecursionError as error:
        raise ConfigError("the configuration must be without circles; got a value that is made of itself") from error
    for key, value in _texts(config, ""):
        if "${" in value:  # resolved once more, it could become anything
            raise ConfigError(f"{key} must be text without interpolations of interpolations; got {value!r}")
    return config


def _problems(config: Mapping[str, Any], raw: Any) -> Iterator[Problem]:
    """Everything that is wrong, in the order of the places that are built first."""
    from metarun.training.device import Device  # imports torch

    yield from _value("seed", config.get("seed"), Seed)
    yield from group_problems("run", config.get("run"), RunConfig)
    yield from group_problems("device", config.get("device"), Device)
    if "sweep" in config:
        yield from group_problems("sweep", config["sweep"], SweepConfig)
    yield from _published(config.get("paper"))
    for place in ("data", "algo", "backbone", "optimizer", "optimizer.optimizer", "scheduler"):
        node = _select(config, place)
        # A scheduler may be none, and a backbone's role one that the data does not offer, which is refused by its name.
        if not (place == "scheduler" and not node or place == "backbone" and _has_no_target(node)):
            yield from node_problems(place, node)
    trackers = config.get("tracker")
    if isinstance(trackers, Mapping):
        for name, node in trackers.items():
            yield from node_problems(f"tracker.{name}", node)
    else:
        yield Problem("tracker", _must_be("tracker", _choices("tracker"), trackers))
    yield from _unknown("", config, ["seed", "run", "paper", *GROUPS], used=str(raw))


def _published(entries: Any) -> Iterator[Problem]:
    """What is wrong with the published figures; None is as none."""
    if isinstance(entries, list):
        for number, entry in enumerate(entries):
            yield from group_problems(f"paper[{number}]", entry, PublishedFigure)
    elif entries is not None:
        yield Problem("paper", _must_be("paper", "a list of published figures, {source, table, value, read}", entries))


def _has_no_target(node: Any) -> bool:
    return isinstance(node, Mapping) and "_target_" not in node


def node_problems(prefix: str, node: Any) -> Iterator[Problem]:
    """What is wrong with a node that stands for an object."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        yield Problem(prefix, _must_be(prefix, _choices(prefix), node))
        return
    values = {key: value for key, value in node.items() if key not in SPECIAL}
    yield from _mapping(prefix, values, arguments_at(prefix, node["_target_"]))
    if prefix in ("data", "algo", "backbone"):
        for name, value in values.items():
            if not name.endswith("seed") and _largest(value) >= MOST:
                yield Problem(f"{prefix}.{name}", _must_be(f"{prefix}.{name}", "below 2^31, as all sizes", value))


def _largest(value: Any) -> int:
    """The largest integer in a value; 0: there is none."""
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int) else 0


def group_problems(prefix: str, node: Any, kind: type) -> Iterator[Problem]:
    """What is wrong with a group that is a dataclass."""
    if not isinstance(node, Mapping):
        yield Problem(prefix, _must_be(prefix, "a mapping", node))
        return
    hints = get_type_hints(kind, include_extras=True)
    required = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    yield from _mapping(prefix, node, {name: Argument(hints[name], required[name]) for name in required})


def _mapping(prefix: str, node: Mapping[str, Any], arguments: Mapping[str, Argument]) -> Iterator[Problem]:
    for name, argument in arguments.items():
        key = f"{prefix}.{name}"
        if name in node:
            yield from _value(key, node[name], argument.hint)
        elif argument.required:
            yield Problem(key, f"{key} must be {words(argument.hint)}; it is missing")
    yield from _unknown(prefix, node, arguments)


def _value(key: str, value: Any, hint: Any) -> Iterator[Problem]:
    """What is wrong with one value."""
    if not fits(value, hint):
        yield Problem(key, _must_be(key, words(hint), value))


def _unknown(prefix: str, node: Mapping[str, Any], known: Collection[str], used: str = "") -> Iterator[Problem]:
    """Keys that nothing reads, but those that another value names (`${key}`)."""
    for name in node:
        if name not in known and f"${{{name}" not in used:
            key = f"{prefix}.{name}" if prefix else str(name)
            near = get_close_matches(str(name), known, n=3, cutoff=0.5) or list(known)
            listing = ", ".join(f"{prefix}.{other}" if prefix else other for other in near) or "none"
            yield Problem(key, f"there is no setting {key}. Nearest: {listing}")


def _must_be(key: str, what: str, value: Any) -> str:
    if isinstance(value, int) and value >= BITS and "2^63" not in what:
        what += " below 2^63"
    text = repr(value)
    hint = f". As text: \"{key}='{value}'\"" if "text" in what and isinstance(value, int | float) else ""
    return f"{key} must be {what}; got {text if len(text) <= 200 else f'{text[:200]}...'}{hint}"


def _choices(group: str) -> str:
    return f"one of {', '.join(names(group))}" if group in GROUPS else "a mapping with a _target_"


def _texts(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Every text in a configuration, keys included, with its dotted key."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _texts(value, f"{prefix}[{number}]")
    elif isinstance(node, str):
        yield prefix, node


def _select(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


# --------------------------------------------------------------------------------------------------- documentation


def described() -> Iterator[Key]:
    """Every key of the configuration, group by group and choice by choice."""
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    comments = _comments(CONF / "config.yaml", dotted=True)
    yield Key(None, "seed", words(Seed), config["seed"], comments["seed"])
    for group, kind in (("run", RunConfig), ("sweep", SweepConfig)):
        for name, hint in get_type_hints(kind, include_extras=True).items():
            yield Key(None, f"{group}.{name}", words(hint), config[group][name], comments.get(f"{group}.{name}", ""))
    for group in ("device", "data", "algo", "backbone", "optimizer", "scheduler", "tracker"):
        for name in names(group):
            comments = {key: text for path in files_of(group, name) for key, text in _comments(path).items()}
            for key, hint, value in _described_node(group, describe(group, name)):
                yield Key(f"{group}={name}", key, words(hint), value, comments.get(key.rpartition(".")[2], ""))


def _described_node(prefix: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Key, type and value of everything in a choice."""
    from metarun.training.device import Device

    hints = get_type_hints(Device, include_extras=True) if prefix == "device" else {}
    if "_target_" in node:
        hints = {name: argument.hint for name, argument in arguments_at(prefix, node["_target_"]).items()}
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _described_node(f"{prefix}.{name}", value)
        elif name not in SPECIAL:
            yield f"{prefix}.{name}", hints[name], value


def _comments(path: Path, dotted: bool = False) -> dict[str, str]:
    """What a file of conf/ says of each key, behind its value.

    Args:
        path: the file.
        dotted: name a key below another `GROUP.KEY`; else by itself.
    """
    comments, group = {}, ""
    for line in path.read_text().splitlines():
        if match := re.match(r"( *)(\w+):(?:[^#]*#\s*(.*))?", line):
            indent, name, text = match.groups()
            group = group if indent else f"{name}."
            if text:
                comments[f"{group if indent and dotted else ''}{name}"] = text
    return comments


# --------------------------------------------------------------------------------------------------------- types


def arguments_at(prefix: str, target: str) -> dict[str, Argument]:
    """What a configuration may set of a node, given its place and its class."""
    place = place_of(prefix)
    return {
        name: Argument(TORCH_RANGES.get(f"{place}.{name}", argument.hint), argument.required)
        for name, argument in arguments_of(class_at(prefix, target)).items()
        if name not in HANDED[place]
    }


@cache
def arguments_of(kind: type) -> dict[str, Argument]:
    """The constructor's arguments, and where it hands `**others` on, those of the next class that they reach.

    Those are not required: the constructor may set them itself.
    """
    arguments: dict[str, Argument] = {}
    handed_on = False
    for base in (base for base in kind.__mro__ if "__init__" in vars(base)):
        scope = getattr(base.__init__, "__globals__", {})  # type: ignore[misc]
        parameters = list(signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        for parameter in parameters:
            if parameter.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
                required = not handed_on and parameter.default is Parameter.empty
                arguments.setdefault(parameter.name, Argument(_hint(parameter.annotation, scope), required))
        handed_on = True
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return arguments


def _hint(annotation: Any, scope: Mapping[str, Any]) -> Any:
    """An annotation as an object; Any for one that is absent, or names what its module imports for type checkers."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(scope))
        except Exception:
            return Any
    return Any if annotation is Parameter.empty else annotation


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration is of a type: an int is a float, but a bool is no number."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, parts[0]) and all(only.holds(value) for only in parts[1:] if isinstance(only, Only))
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin is tuple and Ellipsis not in parts:
        return isinstance(value, list) and len(value) == len(parts) and all(map(fits, value, parts))
    if isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        return isinstance(value, list) and all(fits(entry, parts[0]) for entry in value)
    return _fits_plain(value, origin or hint)


def _fits_plain(value: Any, hint: Any) -> bool:
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < BITS
    if hint is float:
        return is_number(value) and (isinstance(value, float) or abs(value) < BITS)
    if hint is Any or isinstance(hint, type) and issubclass(hint, Callable):  # type: ignore[arg-type]
        return True
    return isinstance(hint, type) and isinstance(value, hint)


def words(hint: Any) -> str:
    """A type in words: `null or a list of integers`."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    alternatives = list(dict.fromkeys(_alternatives(hint)))
    alternatives.sort(key=lambda name: name != "null")
    return " or ".join(filter(None, (", ".join(alternatives[:-1]), alternatives[-1]))) if alternatives else "anything"


def _alternatives(hint: Any) -> Iterator[str]:
    """What a value may be, each in words; nothing for a class that no configuration can hold."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        only = [part.what for part in parts if isinstance(part, Only)]
        yield from only[:1] or _alternatives(parts[0])
    elif origin in (Union, UnionType):
        for part in parts:
            yield from _alternatives(part)
    elif origin is Literal:
        yield from map(str, parts)
    elif isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        count = f"{len(parts)} " if origin is tuple and Ellipsis not in parts else ""
        yield f"a list of {count}{_plural(words(parts[0]))}"
    else:
        yield from PLAIN.get(hint, ())


PLAIN: dict[Any, tuple[str, ...]] = {
    NoneType: ("null",),
    bool: ("true", "false"),
    int: ("an integer",),
    float: ("a number",),
    str: ("text",),
}
PLURALS = {"an integer": "integers", "a number": "numbers", "a list": "lists", "text": "texts"}


def _plural(what: str) -> str:
    return next((several + what.removeprefix(one) for one, several in PLURALS.items() if what.startswith(one)), what)
