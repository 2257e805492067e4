"""metarun: train, sweep and compare few-shot learners.

From Python (metarun/api.py): `metarun.train(...)` trains and tests a run, `metarun.evaluate(RUN, ...)` tests it again,
`metarun.load(RUN)` is its trained learner, ready for `adapt(x, y)` and `predict(x)`, and `metarun.preparation(RUN)`
prepares images for it. What is refused is a `metarun.ConfigError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from metarun.version import __version__ as __version__

__all__ = ["ConfigError", "FinishedRun", "evaluate", "load", "preparation", "train"]  # types: __init__.pyi


def __getattr__(name: str) -> Any:
    """What Python programs use, imported when it is asked for: the command line must not wait for it."""
    if name in __all__:
        return getattr(import_module("metarun.api"), name)
    raise AttributeError(f"module 'metarun' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
