"""The packages that a run needs, imported at once, in an order and a way that cost least.

Torch, W&B and matplotlib make half a million objects that last as long as the process. Python's collector walks
through them again and again while they come in, and once more when the process ends: a quarter of a short run's time.
So it rests meanwhile, and never looks at those objects again.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from metarun.tracking.wandb_settings import wandb_mode
from metarun.training.compiler_cache import cache_problem


def import_for(cfg: Mapping[str, Any]) -> None:
    """Import what a run needs, the first time in a process only; never fails: whoever needs it says what is wrong.

    Torch's compiler, which any optimizer imports, is collected again: Triton complains at the end of a process where
    its objects were not.
    """
    if "metarun.experiment.run" in sys.modules:
        return
    with suppress(OSError):
        cache_problem()  # before torch is there, which dies of a folder that it cannot make
    collects = gc.isenabled()
    gc.disable()
    try:
        with suppress(Exception):
            for name in packages(cfg["tracker"]):
                import_module(name)
            gc.freeze()
            import_module("torch._dynamo")
    finally:
        if collects:
            gc.enable()


def packages(tracker: Mapping[str, Any]) -> Iterator[str]:
    """Names in their order: W&B defines classes with pydantic, which for each of them looks through every module that
    is there, and with torch there are three thousand."""
    if "wandb" in tracker and wandb_mode(tracker["wandb"]["mode"], os.environ)[0] != "disabled":
        yield from ("wandb", "wandb.apis.public")  # the second by `wandb.init`
    yield from ("matplotlib.figure", "matplotlib.backends.backend_agg", "metarun.experiment.run")
