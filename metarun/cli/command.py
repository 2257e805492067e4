"""What a command asks for: flags and settings, wherever they stand and however they are written.

The one place that knows the arguments. Everything else gets a `Command`, or the configuration that it composes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.choices import CONF, own_folders
from metarun.experiment.overrides import UsageError, expanded, first_choice, in_our_words, key_of, read
from metarun.experiment.plugins import package_folder
from metarun.experiment.targets import allow
from metarun.plain_text import one_line

INFORMATION = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # of --info


class _Parser(argparse.ArgumentParser):
    """Hydra's flags; what is wrong is raised instead of printed with thirty lines of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(one_line(message))


@dataclass(frozen=True)
class Command:
    """A command: `metarun [FLAG | KEY=VALUE]...`.

    Attributes:
        flags: Hydra's.
        overrides: the settings, in their order.
    """

    flags: argparse.Namespace
    overrides: tuple[Override, ...] = ()

    @classmethod
    def typed(cls) -> Command:
        """The command that this process was started with."""
        return cls.parse(sys.argv[1:])

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Command:
        """Arguments in any order.

        Raises:
            UsageError: a flag that there is not, flags that exclude each other, or a setting that cannot be read.
        """
        flags, unknown = _parser().parse_known_intermixed_args(_with_kind_of_information(arguments))
        if unknown:
            raise UsageError(_no_such_flag(unknown[0]))
        _refuse_flags(flags)
        command = cls(flags, tuple(map(read, flags.overrides)))
        command.name_own_folders()
        command.allow_packages()
        return command

    # -------------------------------------------------------------------------------------------- what it says

    @property
    def lines(self) -> list[str]:
        """The settings as Hydra takes them."""
        return [str(override.input_line) for override in self.overrides]

    @property
    def first_cell(self) -> list[str]:
        """The settings of a multirun's first cell; of another command they are its own.

        Raises:
            UsageError: a sweep over nothing.
        """
        return [first_choice(override) for override in self.overrides]

    @property
    def task_lines(self) -> list[str]:
        """The settings without Hydra's own."""
        return [str(override.input_line) for override in self.overrides if not override.is_hydra_override()]

    @property
    def prints_only(self) -> bool:
        """Whether it is to print something, and to run nothing."""
        flags = self.flags
        return bool(flags.cfg or flags.info or flags.hydra_help or flags.shell_completion)

    @property
    def config_name(self) -> str:
        return self.flags.config_name or "config"

    def override(self, key: str) -> Override | None:
        """The setting of a key that counts, the last one; None: it is not said."""
        return next((found for found in reversed(self.overrides) if key_of(found) == key), None)

    def value(self, key: str) -> Any:
        """The value of a key; None where it is not said, or null, or deleted."""
        override = self.override(key)
        return None if override is None or override.is_delete() else override.value()

    # ------------------------------------------------------------------------------------- another one instead

    def with_settings(self, lines: Sequence[str]) -> Command:
        """The same flags with other settings."""
        return replace(self, overrides=tuple(map(read, lines)))

    def with_flags(self, **flags: Any) -> Command:
        """The same settings with other flags."""
        return replace(self, flags=argparse.Namespace(**{**vars(self.flags), **flags}))

    # --------------------------------------------------------------------------------------- its configuration

    def name_own_folders(self) -> None:
        """Say where else choices are to be found.

        Raises:
            UsageError: there is no such folder.
        """
        config_dir = self.flags.config_dir and Path(expanded(self.flags.config_dir)).absolute()
        if config_dir and not config_dir.is_dir():
            raise UsageError(f"--config-dir must be a folder of configurations; got {config_dir}")
        paths = self.value("hydra.searchpath")
        if paths is not None and not (isinstance(paths, list) and all(isinstance(path, str) for path in paths)):
            raise UsageError(f"hydra.searchpath must be a list of folders or packages, as [pkg://NAME]; got {paths}")
        own_folders.name(config_dir, tuple(_folder(path) for path in paths or ()))

    def allow_packages(self) -> None:
        """Let configurations name classes of the packages that `--allow` names.

        Raises:
            UsageError: that is no name of a package.
        """
        for packages in self.flags.allow:
            try:
                allow(packages)
            except ValueError as error:
                raise UsageError(str(error)) from error

    def compose(self, overrides: Sequence[str] | None = None) -> DictConfig:
        """The configuration, with Hydra's own part; of a multirun its first cell's.

        Args:
            overrides: others instead.

        Raises:
            HydraException: it cannot be composed.
        """
        lines = self.first_cell if overrides is None else list(overrides)
        with started_hydra() as started, in_our_words(lines):
            return started.compose_config(
                config_name=self.config_name, overrides=lines, run_mode=RunMode.RUN, with_log_configuration=False
            )


@contextmanager
def started_hydra() -> Iterator[Any]:
    """Hydra, which searches metarun's folders."""
    with hydra.initialize_config_dir(str(CONF), job_name="metarun", version_base="1.3"):
        yield GlobalHydra.instance().hydra


def is_set(config: DictConfig, key: str) -> bool:
    """Whether a key of a configuration is neither missing nor null."""
    return OmegaConf.select(config, key, throw_on_missing=False) is not None


def _parser() -> _Parser:
    parser = _Parser(prog="metarun", parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE")
    return parser


def _with_kind_of_information(arguments: Sequence[str]) -> list[str]:
    """`--info` takes a word or none, and would take the setting behind it for that word."""
    following = [*arguments[1:], ""]
    return [
        f"--info={after if after in INFORMATION else 'all'}" if word in ("--info", "-i") else word
        for word, after, before in zip(arguments, following, ["", *arguments], strict=False)
        if not (before in ("--info", "-i") and word in INFORMATION)
    ]


def _no_such_flag(word: str) -> str:
    name = one_line(word.lstrip("-"))
    setting = name if "=" in name else f"{name}=VALUE"
    return f"there is no flag {one_line(word)}; settings have no dashes: write {setting} (--help lists both)"


def _refuse_flags(flags: argparse.Namespace) -> None:
    """Flags that exclude each other, and Hydra's that metarun has no use for."""
    if flags.experimental_rerun:
        raise UsageError("--experimental-rerun is not metarun's: it resumes by run.resume=FOLDER")
    if flags.config_path:
        raise UsageError("--config-path would hide metarun's own configuration: add a folder by --config-dir=FOLDER")
    if (flags.resolve or flags.package) and not flags.cfg:
        raise UsageError("--resolve and --package go with --cfg job")
    shown = [name for name in ("cfg", "info", "shell_completion", "hydra_help") if getattr(flags, name)]
    if len(shown) > 1 or (flags.run and flags.multirun):
        raise UsageError("only one of --run, --multirun, --cfg, --info, --hydra-help and --shell-completion at once")


def _folder(path: str) -> Path:
    """The folder of an entry of `hydra.searchpath`."""
    scheme, _, rest = path.rpartition("://")
    if scheme != "pkg":
        return Path(rest)
    package, _, below = rest.replace("/", ".").partition(".")
    return (package_folder(package) or Path(package)) / below.replace(".", "/")
