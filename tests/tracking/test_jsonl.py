"""metrics.jsonl stays readable after NaN, a kill in the middle of a line, a full disk, and a resume."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from metarun.tracking.jsonl import MetricsFile, read_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def written(path: Path, iterations: range) -> MetricsFile:
    file = MetricsFile(path)
    for iteration in iterations:
        file.log({"train/loss": iteration / 8}, iteration)
    return file


def test_a_line_per_call_on_disk_at_once(path):
    file = MetricsFile(path)
    file.log({"train/loss": 0.5, "val/accuracy": torch.tensor(0.25)}, 100)
    assert path.read_text() == '{"iteration": 100, "train/loss": 0.5, "val/accuracy": 0.25}\n'  # nothing buffered
    file.log({"train/loss": np.float32(0.125)}, 200)
    file.close()
    assert read_metrics(path)[1] == {"iteration": 200, "train/loss": 0.125}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), torch.tensor(float("nan"))])
def test_json_holds_no_nan_and_no_infinity(path, value):
    with MetricsFile(path) as file:
        file.log({"train/loss": value}, 1)

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(path.read_text(), parse_constant=refuse) == {"iteration": 1, "train/loss": None}


def test_what_is_no_number_is_refused_and_leaves_no_line(path):
    with MetricsFile(path) as file:
        with pytest.raises(ValueError):
            file.log({"train/loss": "low"}, 1)
    assert path.read_bytes() == b""


def test_cut_drops_what_came_after_and_the_file_goes_on(path):
    file = written(path, range(0, 50, 10))
    file.cut(20)
    assert [row["iteration"] for row in read_metrics(path)] == [0, 10, 20]
    file.log({"train/loss": 7.0}, 30)
    file.close()
    assert read_metrics(path)[-1] == {"iteration": 30, "train/loss": 7.0}
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.jsonl"]  # no temporary file


def test_cut_replaces_the_file_whole(path, monkeypatch):
    file = written(path, range(5))
    before = path.read_bytes()

    def full(*_):
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="full"):
            file.cut(2)
    assert path.read_bytes() == before
    file.log({"train/loss": 1.0}, 5)  # still open
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("half", ['{"iteration": 30, "train/lo', '{"iteration": 30}', "{", "\0\0\0"])
def test_a_half_written_line_is_dropped_when_the_run_goes_on(path, half):
    written(path, range(0, 30, 10)).close()
    with path.open("a") as file:
        file.write(half)
    file = MetricsFile(path)
    file.log({"train/loss": 1.0}, 30)
    file.close()
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [0, 10, 20, 30]


def test_a_reader_passes_over_a_half_written_line_but_not_over_damage(path):
    path.write_text('{"iteration": 1}\n{"iteration": 2, "tr')
    assert read_metrics(path) == [{"iteration": 1}]
    path.write_text('{"iteration": 1}\nrubbish\n{"iteration": 3}\n')
    with pytest.raises(ValueError, match="line 2 must be a JSON object of numbers with an iteration; got b'rubbish'"):
        read_metrics(path)


def test_a_full_disk_leaves_whole_lines(path):
    """RLIMIT_FSIZE gives the short write of a disk that fills in the middle of a line."""
    script = """
import resource, signal, sys
from pathlib import Path
from metarun.tracking.jsonl import MetricsFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
file = MetricsFile(Path(sys.argv[1]))
try:
    for i in range(10):
        file.log({"train/loss": 0.5}, i)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "metrics.jsonl" in done.stdout
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_killed_process_loses_no_logged_line(path):
    script = """
import os, signal, sys
from pathlib import Path
from metarun.tracking.jsonl import MetricsFile
file = MetricsFile(Path(sys.argv[1]))
for i in range(1000):
    file.log({"train/loss": 0.5}, i)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert len(read_metrics(path)) == 1000
