"""Why a run does not start, or stops."""

from __future__ import annotations

import signal


class ConfigError(ValueError):
    """The configuration makes no sense; raised before anything starts."""


class InterruptedRun(Exception):
    """Stopped by a signal; the run can be resumed."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_status = 128 + signum
