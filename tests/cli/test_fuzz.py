"""Command lines that no one should type are run or refused; none ends in a traceback.

METARUN_FUZZ=N tries N of them (default 20), METARUN_FUZZ_SEED=K others. Training itself is left out: a command that
gets as far is stopped there, as by Ctrl-C.
"""

from __future__ import annotations

import os
import random
import shlex
import signal

import pytest
from command_grammar import command_line
from commands import SMALL, metarun

from metarun.experiment.errors import InterruptedRun
from metarun.experiment.trainer import Trainer

SEED = int(os.environ.get("METARUN_FUZZ_SEED", "1"))
COUNT = int(os.environ.get("METARUN_FUZZ", "20"))
STATUSES = {0, 1, 2, 130}


@pytest.mark.parametrize("number", range(COUNT))
def test_no_command_line_ends_in_a_traceback(number, tmp_path, monkeypatch):
    def stop(_: Trainer) -> None:
        raise InterruptedRun(signal.SIGINT)

    monkeypatch.setattr(Trainer, "train", stop)
    monkeypatch.setenv("METARUN_DATA", str(tmp_path / "no_data"))
    words = command_line(random.Random(f"{SEED}/{number}"))
    typed = f"seed {SEED}/{number}: metarun {shlex.join(words)}"
    print(typed)
    base = [word for word in SMALL if not word.startswith("data.")]
    outcome = metarun(*base, *words, folder=tmp_path)
    assert outcome.status in STATUSES, typed
    assert "Traceback" not in outcome.out + outcome.err, f"{typed}\n{outcome.err}"
    if outcome.status == 2:
        assert outcome.err.strip(), f"{typed}: refused in silence"
        places = sum(line.startswith("    ") for line in outcome.err.splitlines())  # where data were looked for
        assert len(outcome.err.splitlines()) <= 6 + places, f"{typed}\n{outcome.err}"
