"""Memory and time of an outer step in micro-batches."""

from __future__ import annotations

from scripts.benchmark.memory import memory_of_step


def test_a_step_in_micro_batches_is_measured():
    (result,) = memory_of_step(2, 1, 1)
    assert (result["tasks"], result["inner_steps"], result["micro_batch"]) == (2, 1, 1)
    assert result["ms"] > 0 and result["growth_mb"] >= 0
