"""One KEY=VALUE of a command line, read by Hydra's grammar: its key, its value, and what it sweeps over.

Everything that has to know what an argument says asks here. The grammar gives `= , : ( ) [ ] { }`, quotes and letters
outside ASCII a meaning or none; for a key that takes a path the value is quoted first, so that the path of a multirun's
cell, `sw1/inner_lr=0.1_seed=0`, is a value like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from metarun.experiment.choices import GROUPS, SEVERAL, names
from metarun.plain_text import one_line
from metarun.run_folder import PLACE

ONE_FOLDER = ("run.resume", "sweep.resume", "hydra.run.dir", "hydra.sweep.dir")  # a comma is part of the name
FOLDERS = (*ONE_FOLDER, "run.evaluate", "run.init_from")
PATH_NAMES = ("root", "path", "dir", "folder", "file")  # what other keys of paths are called, such as data.root
_ARGUMENT = re.compile(r"(?P<prefix>\+\+|\+|~|)(?P<key>[^=]*)=(?P<value>.*)", re.DOTALL)


class UsageError(HydraException):
    """A command that cannot be read, or that makes no sense; the message is for people, whole."""


def read(argument: str) -> Override:
    """An argument as Hydra understands it, paths and letters outside ASCII quoted.

    Raises:
        UsageError: it cannot be read; the message marks where.
    """
    return _parsed(quote_where_needed(argument))


def key_of(override: Override) -> str:
    """Its key or group, without `+`, `++` or `~`."""
    package = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{package}"


def value_text(override: Override) -> str:
    """Its one value as it stands on a command line."""
    return override.get_value_element_as_str() if override.value_type is not None else ""


def same_value(one: Override, other: Override) -> bool:
    """Whether two say the same, however they are written."""
    if one.is_delete() != other.is_delete() or one.is_sweep_override() != other.is_sweep_override():
        return False
    if one.is_choice_sweep() and other.is_choice_sweep():
        return list(one.sweep_string_iterator()) == list(other.sweep_string_iterator())
    return one.value() == other.value()


def is_place(key: str) -> bool:
    """Whether a key says where data lies, which is no part of what a run is."""
    return PLACE.fullmatch(key) is not None


def lines_of(override: Override) -> list[str]:
    """The override with each of its values, for a grid.

    Raises:
        UsageError: a sweep over nothing.
    """
    if override.is_delete() or not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in choices_of(override)]


def first_choice(override: Override) -> str:
    """The override with one value: of a sweep its first.

    Raises:
        UsageError: the sweep is over nothing.
    """
    return lines_of(override)[0]


def choices_of(override: Override) -> list[str]:
    """The values of an override, as they stand on a command line; of an interval its two ends.

    Raises:
        UsageError: there are none.
    """
    value = override._value
    if not override.is_sweep_override():
        return [value_text(override)]
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    if isinstance(value, Glob):
        found = value.filter(names(override.key_or_group))
    else:
        try:
            found = list(override.sweep_string_iterator())
        except (HydraException, ArithmeticError) as error:
            raise UsageError(f"cannot read {override.input_line}: {error}") from error
    if not found:
        raise UsageError(f"{key_of(override)} must be at least one value; got {override.input_line}")
    return found


def quoted(text: str) -> str:
    """A value in quotes, whatever it holds."""
    return QuotedString(text, Quote.single).with_quotes()


def written(value: Any) -> str:
    """A value of a configuration as it stands on a command line; interpolations stay."""
    return Override._get_value_element_as_str(_with_quotes(value))


def _with_quotes(value: Any) -> Any:
    if isinstance(value, str):
        return QuotedString(value, Quote.single)
    if isinstance(value, Mapping):
        return {key: _with_quotes(entry) for key, entry in value.items()}  # keys have no quotes
    return [_with_quotes(entry) for entry in value] if isinstance(value, list) else value


@contextmanager
def in_our_words(lines: Iterable[str]) -> Iterator[None]:
    """Inside, Hydra composes these settings; what it chokes on is refused as what it says is.

    Raises:
        UsageError: a choice that cannot be one, or anything else that is no error of Hydra's own.
    """
    for override in map(read, lines):
        key, value = key_of(override), override.value()
        is_name = isinstance(value, str | list | dict) or override.is_delete() or override.is_hydra_override()
        if not is_name and names(key):
            got = "null" if value is None else shortened(str(value))
            raise UsageError(f"{key} must be one of {', '.join(names(key))}; got {got}")
        if key in SEVERAL and isinstance(value, list) and not (value and all(name in names(key) for name in value)):
            raise UsageError(
                f"{key} must be one of {', '.join(names(key))}, or a list of them, as {key}=[wandb,tensorboard]; "
                f"got {shortened(value_text(override))}"
            )
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, OSError, RecursionError) as error:
        if isinstance(error, OmegaConfBaseException | HydraException):  # some are OSError, too
            raise
        raise UsageError(f"{shortened(' '.join(lines))} cannot be composed: {shortened(str(error))}") from error


# ------------------------------------------------------------------------------------------------------ quotes


def quote_where_needed(argument: str) -> str:
    """The argument, with quotes around a path, and around letters that the grammar does not know."""
    match = _ARGUMENT.fullmatch(argument)
    if match is None:
        return argument
    key, value = match["key"], match["value"]
    if key in (*GROUPS, "hydra/launcher", "hydra/sweeper") and match["prefix"] != "~":
        argument = f"{key}={value}"  # these groups have a choice in any case, and Hydra knows no `++` for groups
    if key in FOLDERS or key.rpartition(".")[2] in PATH_NAMES:
        prefix = "++" if match["prefix"] == "+" and key in FOLDERS else match["prefix"]  # it is there already
        return f"{prefix}{key}={_path(key, value)}"
    if value.isascii() or "\\" in value:
        return argument
    plain = _understood(f"{key}=" + re.sub(r"[^\x00-\x7f]", "a", value))  # would it be one word in ASCII?
    one_word = plain is not None and isinstance(plain._value, str)
    return f"{match['prefix']}{key}={quoted(value)}" if one_word else argument


def _path(key: str, value: str) -> str:
    """The value of a key that takes a path, quoted; sweeps over paths stay sweeps."""
    if value.strip().lower() == "null":
        return value
    if _exists(value):
        return quoted(expanded(value))
    override = _understood(f"{key}={value}")
    if override is not None and override.value_type == ValueType.ELEMENT:
        path = override.value()
        if isinstance(path, str):
            return quoted(expanded(path))
        return quoted(value) if key in FOLDERS or is_place(key) else value
    if key in ONE_FOLDER:
        return quoted(expanded(value))
    if override is not None:
        return value
    parts = value.split(",")  # the grammar knows no list of cells, `sw1/seed=0,sw1/seed=1`
    if len(parts) > 1 and all(map(_exists, parts)):
        return ",".join(quoted(expanded(part)) for part in parts)
    return quoted(expanded(value))


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(expanded(path)).exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        return False


def expanded(path: str) -> str:
    """`~/x` as the shell would have it, which leaves it alone behind a `=`."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:  # no such user
        return path


# ----------------------------------------------------------------------------------------------------- grammar


def _understood(argument: str) -> Override | None:
    try:
        return _parsed(argument)
    except UsageError:
        return None


@cache
def _parsed(argument: str) -> Override:
    try:
        override = OverridesParser.create().parse_rule(argument, "override")
    except HydraException as error:
        raise UsageError(_what_is_wrong(argument, error)) from error
    except (RecursionError, OverflowError, ValueError) as error:
        raise UsageError(f"cannot read {shortened(argument)}: {error}") from error
    if not key_of(override):
        raise UsageError(f"{one_line(argument)} needs a key: KEY=VALUE")
    return override


def shortened(text: str) -> str:
    """For a message."""
    text = one_line(text)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _what_is_wrong(argument: str, error: HydraException) -> str:
    match = _ARGUMENT.fullmatch(argument)
    if match is None:
        return f"{shortened(argument)} is no setting: write KEY=VALUE{_group_of(argument)}"
    key = f"{match['prefix']}{match['key']}"
    if evaluated := re.search(r"while evaluating .*?: (.*)", str(error), re.DOTALL):
        return f"cannot read {shortened(argument)}: {evaluated.group(1)}"
    at = _position(error.__cause__)
    if len(argument) > 100:
        return f"cannot read the value of {shortened(key)}; quote it: \"{shortened(key)}='...'\""
    mark = f"\n  {one_line(argument)}\n  {' ' * at}^" if at is not None else f": {one_line(argument)}"
    if at is not None and at < len(key):
        return f"cannot read this key from the mark on{mark}"
    quotes = one_line(f"{key}={quoted(match['value'].strip(chr(39) + chr(34)))}")
    return (
        f'cannot read this value{" from the mark on" if at is not None else ""}; in quotes it is text: "{quotes}"{mark}'
    )


def _position(cause: BaseException | None) -> int | None:
    """Where the grammar gave up; None: it does not say."""
    start = getattr(cause, "startIndex", None)
    return start if start is not None else getattr(getattr(cause, "offendingToken", None), "start", None)


def _group_of(word: str) -> str:
    """`, such as algo=maml`, where the word is a choice of some group."""
    groups: Iterable[str] = (group for group in GROUPS if word in names(group))
    return next((f", such as {group}={word}" for group in groups), "")
