"""Processes that measure: each computes one thing, and sleeps while another has its turn."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from metarun.training.device import keep_freed_memory
from scripts.benchmark.sides import Row, fixed_batch, make_side, task_list

# Imports take seconds, which a fork saves. The benchmark's own process computes nothing: a fork would lack the threads
# of one that did. Every function and argument can be pickled, so "spawn" works too.
START_METHOD = "fork"


class Worker:
    """An iterator in a process of its own, which computes only while `next` waits for it.

    Args:
        threads: CPU threads of torch.
        function: makes the iterator from `arguments`.

    The iterator's values come through a pipe, so they must be picklable.
    """

    def __init__(self, threads: int, function: Callable[..., Iterator[Any]], *arguments: Any) -> None:
        context: Any = multiprocessing.get_context(START_METHOD)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, function, arguments), daemon=False)
        self.process.start()
        theirs.close()

    def next(self) -> Any:
        """The iterator's next value.

        Raises:
            RuntimeError: it failed (the message is its traceback), or the process is gone.
        """
        try:
            self.pipe.send("next")
            succeeded, value = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("a process of the benchmark ended without a message") from None
        if not succeeded:
            raise RuntimeError(value)
        return value

    def end(self) -> None:
        """Terminate the process."""
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, threads: int, function: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    values = function(*arguments)
    while True:
        try:
            pipe.recv()
            pipe.send((True, next(values)))
        except (EOFError, KeyboardInterrupt):
            return
        except BaseException:
            pipe.send((False, traceback.format_exc()))
            return


def peak_mb() -> float:
    """The most memory this process has held, in MB (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def timed(action: Callable[[], object], seconds: float, minimum: int) -> list[float]:
    """Times (s) of repetitions: at least `minimum` of them, and at least `seconds` in all."""
    times: list[float] = []
    while len(times) < minimum or sum(times) < seconds:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return times


def work(row: Row, side: str, seconds: float, data: str | None, folder: Path) -> Iterator[dict[str, Any]]:
    """First what a side computes on the fixed tasks, and what that costs; then, round by round, its times (s)."""
    library = make_side(row, side, data, folder)
    fixed: Any = task_list(fixed_batch(row)) if side == "learn2learn" else fixed_batch(row)
    flops = 0
    if side == "learn2learn":
        with FlopCounterMode(display=False) as counter:
            library.losses(fixed)
        flops = counter.get_total_flops()
        library.optimizer.zero_grad()
    before, start = peak_mb(), time.perf_counter()
    losses = library.losses(fixed)
    first_call = time.perf_counter() - start
    gradient = torch.cat([p.grad.flatten() for p in library.parameters if p.grad is not None])
    yield {"first_call": first_call, "flops": flops, "losses": losses.tolist(), "gradient": gradient.tolist()}

    def once() -> None:
        batch = library.sample() if row.sampled else fixed
        if row.algo != "sampling":
            library.step(batch)

    for _ in range(2):
        once()
    while True:
        yield {"times": timed(once, seconds, 3), "peak_mb": peak_mb(), "growth_mb": peak_mb() - before}


def matrix_rate() -> Iterator[float]:
    """Floating-point operations a second of matrix products in float32, the median of many."""
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    while True:
        yield 2 * 1024**3 / statistics.median(timed(lambda: a @ b, 1.0, 10))
