"""What the benchmark times on its sides is the same: losses and meta-gradient of the same tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import benchmark
from benchmark import ROWS, SIDES, fixed_batch, make_side, task_list

SCRIPTS = Path(benchmark.__file__).parent
DISTINCT = ["sinusoid-5", "maml", "fomaml", "anil-data", "protonet-data", "mini"]


def computed(name: str, side: str, tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    row = ROWS[name]._replace(tasks=2, drawn=False)
    library, batch = make_side(row, side, None, tmp_path), fixed_batch(row)
    losses = library.losses(task_list(batch) if side == "learn2learn" else batch)
    return losses, torch.cat([p.grad.flatten() for p in library.parameters])


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("side", ["limit", "learn2learn"])
@pytest.mark.parametrize("name", DISTINCT)
def test_every_side_computes_what_ours_does(name, side, tmp_path):
    ours, gradient = computed(name, "eager", tmp_path)
    losses, slopes = computed(name, side, tmp_path)
    assert losses.shape == (2,) and gradient.norm() > 0
    torch.testing.assert_close(losses, ours, rtol=1e-9, atol=1e-12)
    assert (slopes - gradient).norm() < 1e-9 * gradient.norm()


def test_a_row_is_measured_and_written(tmp_path):
    told = tmp_path / "told.json"
    command = [sys.executable, SCRIPTS / "benchmark.py", "--quick", "--only", "sinusoid-1", "--threads", "1"]
    printed = subprocess.run([*command, "--json", told], capture_output=True, text=True, check=True, timeout=300).stdout
    assert ROWS["sinusoid-1"].title in printed
    found = json.loads(told.read_text())
    assert found["conditions"]["gflops"] > 0 and found["conditions"]["threads"] == 1
    (row,) = found["rows"]
    assert set(row["sides"]) == set(SIDES) and row["gflop"] > 0
    for side in row["sides"].values():
        assert side["median_ms"] > 0 and side["repetitions"] >= 3
        assert side["losses_relative_difference"] < 1e-5 and side["gradient_relative_difference"] < 1e-4


def test_a_process_that_fails_says_why():
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); import benchmark as b; b.Worker(1, b.fixed_batch, None).next()"
    )
    done = subprocess.run([sys.executable, "-c", command, SCRIPTS], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "'NoneType' object has no attribute 'data'" in done.stderr


@pytest.mark.parametrize(
    ("ratio", "bar", "most", "words"),
    [(31.0, 30, False, "reaches"), (29.0, 30, False, "MISSES"), (1.2, 1.3, True, "within"), (1.4, 1.3, True, "MISSES")],
)
def test_a_verdict(ratio, bar, most, words):
    assert words in benchmark.verdict(ratio, bar, most)
