"""Interpolations that call something, `${oc.env:HOME}`, `${now:%H}`: of the user's command, not of a run's folder.

They are resolved once, when a run begins, so that its configuration means the same on every machine and on every day;
what a folder brings may refer to its own keys, `${algo.inner_steps}`, and read nothing of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metarun.experiment.overrides import UsageError
from metarun.run_folder import leaves

CALL = re.compile(r"\$\{.*:", re.DOTALL)  # a name may be made of interpolations itself: what could be a call is one
NAMES = re.compile(r"\$\{(hydra|now|metarun_name):")  # what a cell and its folder are called by


def calls(value: Any) -> bool:
    """Whether a value, written as in a file, holds an interpolation that calls a resolver."""
    return any(isinstance(text, str) and CALL.search(text) is not None for text in _values(value))


def only_names(text: str) -> bool:
    """Whether a text calls nothing but what cells and their folders are called by: choices, date and time."""
    return not calls(NAMES.sub("{", text))


def resolve_calls(cfg: DictConfig) -> None:
    """Put values in the place of interpolations that call a resolver; those between keys stay.

    Raises:
        OmegaConfBaseException: one cannot be resolved.
    """
    raw: Any = OmegaConf.to_container(cfg)
    for key, value in leaves({node: content for node, content in raw.items() if node != "hydra"}):
        if calls(value):
            found = OmegaConf.select(cfg, key)
            plain = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
            OmegaConf.update(cfg, key, plain, force_add=True)


def refuse_calls(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a configuration from a run's folder that calls a resolver.

    Raises:
        UsageError: it does; the message names the key.
    """
    for key, value in leaves(dict(config)):
        if calls(value) or calls(key):
            raise UsageError(
                f"{file} has {key}={value}, which would read from this machine what a folder has no need to know. "
                "If the run is yours, write the value there"
            )


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _values(entry)
    else:
        yield value
