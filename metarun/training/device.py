"""Device of a run: threads, precision, compilation, determinism, memory."""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from metarun.checks import Count, is_int, require, require_choice
from metarun.learner.learner import Learner
from metarun.training.compilation import compiler_problem, warn_uncompiled
from metarun.training.ranks import ranks

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
COMPILE_FROM = {"embedding": 300, "convolutional": 2_500, "other": 15_000}  # iterations, see compile_pays


@dataclass
class Device:
    """The group `device` of the configuration.

    Args:
        name: `auto` (CUDA if available, else MPS, else CPU), `cpu`, `cuda`, `mps`, or torch's `cuda:1`.
        threads: CPU threads of torch; None: torch's default.
        precision: `float32` or `float64` for weights, data and gradients.
        compile: True, False, or `auto` (a rule: `compile_pays`).
        deterministic: ask torch for deterministic kernels.
        task_micro_batch: largest number of tasks in one forward pass, to bound memory; None: all.

    Raises:
        ValueError: a value is out of its range, or this machine has no such device.
    """

    name: str
    threads: Count | None
    precision: Literal["float32", "float64"]
    compile: bool | Literal["auto"]
    deterministic: bool
    task_micro_batch: Count | None

    def __post_init__(self) -> None:
        require_choice("device.precision", self.precision, PRECISIONS)
        require("device.compile", self.compile, self.compile in (True, False, "auto"), "true, false or auto")
        for name, value in {"threads": self.threads, "task_micro_batch": self.task_micro_batch}.items():
            require(f"device.{name}", value, value is None or is_int(value, 1), "an integer of at least 1, or null")
        self.torch_device = _torch_device(self.name)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, data and gradients."""
        return PRECISIONS[self.precision]

    def set_up(self) -> None:
        """Set threads and determinism for this process."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        keep_freed_memory()
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        # Filling every uninitialised tensor costs time, and no code reads one.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not self.deterministic

    def compiles(self, learner: Learner, iterations: int, replicas: int = 1, fixed_shapes: bool = True) -> bool:
        """Whether to compile the learner: by a rule, not by timing, since compiling changes the last digits.

        Args:
            learner: the learner that would be compiled.
            iterations: outer steps.
            replicas: runs in one program.
            fixed_shapes: all training batches have the same shapes; every further shape would be recompiled.

        Raises:
            ValueError: it must be compiled, and this machine cannot.
        """
        if not self.compile or (
            self.compile == "auto" and not (fixed_shapes and compile_pays(learner, iterations, replicas))
        ):
            return False
        if (problem := compiler_problem(self.torch_device.type)) is None:
            return True
        if self.compile != "auto":
            raise ValueError(f"device.compile must be false or auto where {problem}; got true")
        warn_uncompiled(problem)
        return False

    def replicas_at_once(self, learner: Learner, replicas: int, micro_batch: int | str | None = "auto") -> int:
        """Number of fused replicas in one forward and backward pass, from 1 to all of them.

        Args:
            learner: one of the replicas.
            replicas: how many there are.
            micro_batch: the largest number; None: all; `auto`, a rule: 1 for convolutional networks on a CPU, else all.
                Mapped over replicas, each with its own weights, a convolution becomes a grouped one, which fills a GPU.
        """
        if micro_batch == "auto":
            micro_batch = 1 if self.torch_device.type == "cpu" and is_convolutional(learner) else None
        return replicas if micro_batch is None else min(int(micro_batch), replicas)


def is_convolutional(module: nn.Module) -> bool:
    """Whether a module contains a convolution of images."""
    return any(isinstance(submodule, nn.Conv2d) for submodule in module.modules())


def _torch_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and ranks().world_size > 1:
        name = f"cuda:{ranks().local_rank}"  # a GPU for each process
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device.name must be auto, cpu, cuda or mps; got {name!r}") from error
    number = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= number.get(device.type, 0):
        raise ValueError(f"device.name must be a device that this machine has; got {name!r}. device=auto chooses one")
    return device


def compile_pays(learner: Learner, iterations: int, replicas: int = 1) -> bool:
    """Whether compilation saves clearly more time than it takes.

    Measured on two cores (REPLICATION.md): MAML on the sinusoid takes 4 to 7 seconds to compile and saves 2 ms a step,
    with five inner steps 15 to 26 seconds and 7 ms; conv4 on Omniglot about 20 seconds and 20 to 35 ms. Without an
    unrolled inner loop it saves half (conv4 with pooling, 360 images: .60 to .23 s). Programs that take longer to
    compile save more. In a program of several replicas each further one adds a tenth to what is saved.
    """
    if not learner.vectorized or not learner.stages:
        return False
    kind = "convolutional" if is_convolutional(learner) else "other"
    if kind == "convolutional" and not (learner.inner_steps or learner.eval_steps):
        kind = "embedding"
    return iterations * (1 + 0.1 * (replicas - 1)) >= COMPILE_FROM[kind]


def keep_freed_memory() -> bool:
    """Let glibc reuse the freed memory of large tensors instead of returning it to the system; False without glibc.

    By default each large tensor is mapped anew, and the system clears its pages at the first touch: almost half the
    time of a compiled step of conv4 with 360 images, .25 instead of .15 s on two cores. The process keeps its peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h: never trim, map nothing
    return bool(mallopt(trim_threshold, -1) and mallopt(mmap_max, 0))


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process: on the GPU if that is its device, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts in bytes
