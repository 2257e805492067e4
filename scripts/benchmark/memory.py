"""The third table: memory against the meta-batch, inner steps, and `device.task_micro_batch`."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from typing import Any

from metarun.learner.learner import slice_tasks
from metarun.training.gradients import gradient_of
from scripts.benchmark.sides import ROWS, fixed_batch, our_learner
from scripts.benchmark.worker import Worker, peak_mb, timed


def memory_of_step(tasks: int, steps: int, micro_batch: int) -> Iterator[dict[str, Any]]:
    """Memory (MB) and time (ms) of an outer step of MAML with conv4-64 and 5 queries, in micro-batches of tasks."""
    row = ROWS["maml"]._replace(tasks=tasks, steps=steps, queries=5)
    batch = fixed_batch(row)
    learner = our_learner(row)
    gradient = gradient_of(learner)
    before = peak_mb()

    def step() -> None:
        learner.zero_grad()
        for start in range(0, tasks, micro_batch):
            gradient(tasks, slice_tasks(batch, start, start + micro_batch))

    ms = 1000 * statistics.median(timed(step, 0.5, 2))
    growth = peak_mb() - before
    yield {"tasks": tasks, "inner_steps": steps, "micro_batch": micro_batch, "growth_mb": growth, "ms": ms}


def memory(threads: int) -> list[dict[str, Any]]:
    """Every combination of inner steps, tasks and micro-batch, each in a process of its own."""
    results = []
    for steps in (1, 5):
        for tasks in (4, 16, 32):
            for micro_batch in sorted({4, tasks}, reverse=True):
                print(f"memory: {tasks} tasks, {steps} steps, micro-batches of {micro_batch}", file=sys.stderr)
                worker = Worker(threads, memory_of_step, tasks, steps, micro_batch)
                try:
                    results.append(worker.next())
                finally:
                    worker.end()
    return results
