"""metarun from Python: train, test again, load; what the command line does, without its words and exits.

    result = metarun.train("algo=protonet", "data=omniglot", "data.root=data", run={"iterations": 1000})
    learner = result.learner                       # or metarun.load(FOLDER), later
    again = metarun.evaluate(result, "data.shots=5")

Settings have the names of the command line: as its overrides, `"algo.inner_lr=0.1"`, or as keywords, nested or not,
`algo={"inner_lr": 0.1}`, `seed=3`. Whatever is refused is a `ConfigError`. A run says on the terminal what it says on
the command line, and leaves the same folder; Hydra prints nothing. Every call composes its configuration anew, also
where the calling program uses Hydra itself, and leaves the state of Hydra, torch and the environment as it was.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from metarun.cli.command import Command
from metarun.cli.errors import explain
from metarun.cli.resume import prepared
from metarun.experiment.cell import RunSpec, begin, take_saved_configuration
from metarun.experiment.choices import keep_several
from metarun.experiment.claim import claim, unusable
from metarun.experiment.errors import ConfigError, InterruptedRun
from metarun.experiment.interpolations import resolve_calls
from metarun.experiment.overrides import key_of, quoted
from metarun.run_folder import CONFIG, HYDRA, OVERRIDES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from metarun.experiment.trained import TrainedLearner

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")  # needs no quotes


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended.

    Attributes:
        folder: what it left.
        result: the content of its result.json; `result["status"]` is `completed` or `diverged`.
    """

    folder: Path
    result: dict[str, Any]

    @cached_property
    def learner(self) -> TrainedLearner:
        """The learner with the weights that were tested, as `load` gives it.

        Raises:
            FileNotFoundError: the run diverged before its first checkpoint.
        """
        return load(self.folder)


def train(*overrides: str, **settings: Any) -> FinishedRun:
    """Train and test one run, as `metarun OVERRIDES` does. `run.resume=FOLDER` goes on with one that was interrupted.

    Args:
        *overrides: as on the command line; `hydra.run.dir=FOLDER` names the run's folder.
        **settings: the same as keywords: `run={"iterations": 100}`, `seed=3`, `algo="maml"`.

    Returns:
        The run that has ended. One that diverged is returned too, and its result says why.

    Raises:
        ConfigError: the run cannot start.
        RuntimeError: it failed; `metarun.log` in its folder has the traceback.
        KeyboardInterrupt: it was stopped by SIGINT, and has left a checkpoint; by SIGTERM: `InterruptedRun`.
    """
    return _run([*overrides, *overrides_of(settings)])


def evaluate(run: FinishedRun | str | Path, /, *overrides: str, **settings: Any) -> FinishedRun:
    """Test a finished run again, as `metarun run.evaluate=RUN OVERRIDES` does, in a folder of its own.

    Args:
        run: the run, or its folder.
        *overrides, **settings: as in `train`: other data, more tasks.

    Raises:
        As `train`.
    """
    folder = run.folder if isinstance(run, FinishedRun) else Path(run)
    return _run([f"run.evaluate={_value(str(folder))}", *overrides, *overrides_of(settings)])


def load(path: str | Path) -> TrainedLearner:
    """The trained learner of a run's folder; see `metarun.experiment.trained`."""
    from metarun.experiment.trained import load as load_run  # torch takes seconds

    return load_run(path)


def preparation(path: str | Path) -> Callable[[Any], Tensor]:
    """What turns images (paths, PIL images, arrays of bytes) into inputs `[n, C, H, W]` as those of a run were.

    Args:
        path: the run's folder; neither its weights nor its data need be there.

    Raises:
        ConfigError: no run there.
        ValueError: its data are no images.
    """
    from metarun.experiment.build import saved_components
    from metarun.experiment.trained import preparation_of

    saved, choices = saved_components(Path(path))
    return preparation_of(saved.data, choices["data"])


# ------------------------------------------------------------------------------------------------- settings


def overrides_of(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings as overrides of the command line: `{"run": {"iterations": 5}}` is `["run.iterations=5"]`."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += overrides_of(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={_value(value)}")
    return lines


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_value(entry)}' for key, entry in value.items())}}}"
    text = str(value)
    return text if not isinstance(value, str | Path) or (text and set(text) <= PLAIN) else quoted(text)


# ------------------------------------------------------------------------------------------------- one run


def _run(overrides: list[str]) -> FinishedRun:
    with _own_hydra():
        spec = _composed(overrides)
    from metarun.experiment.run import run  # torch takes seconds

    with _torch_as_it_was(), _quiet_services():
        held = claim(spec.folder, "hydra.run.dir")
        try:
            begin(spec)
            result = run(spec)
        except ConfigError:
            held.withdraw()
            raise
        except OSError as error:
            held.withdraw()
            raise unusable(spec.folder, "hydra.run.dir", error) from error
        finally:
            held.release()
    status = result.pop("exit_status")
    if status > 128:
        interrupted = InterruptedRun(status - 128)
        raise KeyboardInterrupt(str(interrupted)) if status == 128 + signal.SIGINT else interrupted
    if status not in (0, 3):
        raise RuntimeError(f"the run in {spec.folder} failed: {result['error'] or 'its result could not be written'}")
    return FinishedRun(spec.folder, result)


def _composed(overrides: list[str]) -> RunSpec:
    """The run that overrides ask for.

    Raises:
        ConfigError: they ask for none.
    """
    command = None
    try:
        if flags := [entry for entry in overrides if entry.startswith("-")]:
            raise ConfigError(f"overrides must ask for one run, and have no flags; got {' '.join(flags)}")
        command = prepared(Command.parse(overrides))
        if command.flags.multirun:
            raise ConfigError("overrides must ask for one run, not for a multirun")
        cfg = command.compose()
        HydraConfig.instance().set_config(cfg)  # the folder's name is made of the choices
        folder = Path(cfg.hydra.run.dir).resolve()
        resolve_calls(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, command)) from error
    hydra = cfg.hydra
    keep_several(hydra, cfg, {key_of(o): o.value() for o in command.overrides})
    with open_dict(cfg):
        del cfg["hydra"]
    choices = {str(group): str(name) for group, name in hydra.runtime.choices.items()}
    spec = RunSpec(cfg, choices, folder, list(hydra.overrides.task))
    if not cfg.run.resume:
        spec.files = _files(spec, hydra)
        return spec
    take_saved_configuration(spec)
    return spec


def _files(spec: RunSpec, hydra: DictConfig) -> dict[str, str]:
    """What the run was composed of, as the command line keeps it, which can thus resume the run and test it again."""
    content: Any = OmegaConf.to_container(hydra)
    content["runtime"]["output_dir"] = str(spec.folder)
    whole = OmegaConf.create({"hydra": content})
    contents = {HYDRA: whole, OVERRIDES: spec.overrides, CONFIG: spec.cfg}
    return {str(name): OmegaConf.to_yaml(content) for name, content in contents.items()}


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Inside, Hydra is not initialised; afterwards it is as the calling program had it."""
    instances: dict[type, Any] = Singleton._instances  # as Hydra's own initialize does
    kinds: tuple[type, ...] = (GlobalHydra, HydraConfig, VersionBase)
    callers = {kind: instances.pop(kind) for kind in kinds if kind in instances}
    try:
        yield
    finally:
        for kind in kinds:
            instances.pop(kind, None)
        instances.update(callers)


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Inside, a run seeds and sets up torch; afterwards random numbers, threads and determinism are the caller's."""
    import torch

    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@contextmanager
def _quiet_services() -> Iterator[None]:
    """Inside, W&B says nothing on the terminal, unless the environment has it otherwise."""
    if "WANDB_SILENT" in os.environ:
        yield
        return
    os.environ["WANDB_SILENT"] = "true"
    try:
        yield
    finally:
        os.environ.pop("WANDB_SILENT", None)
