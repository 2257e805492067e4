"""Where a run computes: device, threads, precision, compilation, determinism."""

from __future__ import annotations

import ctypes
import resource
import shutil
import sys
from dataclasses import dataclass

import torch
from torch import nn

from metarun.learner.learner import Learner
from metarun.training.ranks import ranks

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
COMPILE_FROM = {"embedding": 300, "convolutional": 2_500, "other": 15_000}  # iterations, see compile_pays


@dataclass
class Device:
    """The device group of the configuration.

    Args:
        name: `auto` (CUDA where there is one, then MPS, then CPU), `cpu`, `cuda`, `mps`, or torch's `cuda:1`.
        threads: CPU threads of torch; None leaves torch's own choice.
        precision: `float32` or `float64` for weights, data and gradients.
        compile: True, False, or `auto` (a rule: `compile_pays`).
        deterministic: ask torch for deterministic kernels.
        task_chunk: at most so many tasks in one forward pass, to bound memory; None: all at once.

    Raises:
        ValueError: an unknown precision or device, or one that this machine lacks.
    """

    name: str
    threads: int | None
    precision: str
    compile: bool | str
    deterministic: bool
    task_micro_batch: int | None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"device.precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"device.compile must be true, false or auto; got {self.compile!r}")
        for name, value in {"threads": self.threads, "task_chunk": self.task_micro_batch}.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"device.{name} must be a whole number of at least 1, or null; got {value!r}")
        self.torch_device = _find(self.name)

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def set_up(self) -> None:
        """Set threads and determinism for this process."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        keep_freed_memory()
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        # Filling every uninitialised tensor costs time and hides nothing that is tested here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not self.deterministic

    def compiles(self, learner: Learner, iterations: int, replicas: int = 1, fixed_shapes: bool = True) -> bool:
        """Whether to compile the learner; a rule, never a stopwatch, since compiling changes the last digits.

        Args:
            learner: what would be compiled.
            iterations: outer steps.
            replicas: runs in one program.
            steady: all training batches have the same shapes; each other shape would be compiled anew.
        """
        if self.compile != "auto":
            return bool(self.compile)
        return fixed_shapes and compile_pays(learner, iterations, replicas)

    def replicas_at_once(self, learner: Learner, replicas: int, wanted: int | str | None = "auto") -> int:
        """How many fused replicas go through one forward and backward pass: 1 to all of them.

        Args:
            learner: one of them.
            replicas: how many there are.
            wanted: at most so many; None: all; `auto`, a rule: on a CPU convolutional networks go one by one. Mapped
                over replicas, each with weights of its own, a convolution is one in groups, which fill a GPU.
        """
        if wanted == "auto":
            wanted = 1 if self.torch_device.type == "cpu" and is_convolutional(learner) else None
        return replicas if wanted is None else min(int(wanted), replicas)


def is_convolutional(module: nn.Module) -> bool:
    """Whether there is a convolution of images in it."""
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _find(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and ranks().world_size > 1:
        name = f"cuda:{ranks().local_rank}"  # a GPU for each process
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device.name must be auto, cpu, cuda or mps; got {name!r}") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise ValueError(f"device.name={name}: this machine has no such device; device=auto takes what there is")
    return device


def compile_pays(learner: Learner, iterations: int, replicas: int = 1) -> bool:
    """Whether compilation is earned back by a margin.

    Measured on two cores (REPLICATION.md): MAML on the sinusoid takes 4 to 7 seconds to compile and saves 2 ms a step,
    with five inner steps 15 to 26 seconds and 7 ms; conv4 on Omniglot about 20 seconds and 20 to 35 ms. Where nothing
    is unrolled it saves half (conv4 with pooling, 360 images: .60 to .23 s). What costs more to compile saves more. In
    a program of several replicas each one more adds a tenth to what is saved.
    """
    if not learner.vectorized or not learner.stages or shutil.which("c++") is None:
        return False
    kind = "convolutional" if is_convolutional(learner) else "other"
    if kind == "convolutional" and not (learner.inner_steps or learner.eval_steps):
        kind = "embedding"
    return iterations * (1 + 0.1 * (replicas - 1)) >= COMPILE_FROM[kind]


def keep_freed_memory() -> bool:
    """Have glibc reuse freed memory for large tensors too, in place of returning it to the system; False: no glibc.

    By default each large tensor is mapped anew, and the system clears its pages at the first touch: near half the time
    of a compiled step of conv4 with 360 images, .25 against .15 s on two cores. The process stays at its peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_max = -1, -4  # malloc.h's names for the two; never trim, map nothing
    return bool(mallopt(trim_threshold, -1) and mallopt(mmap_max, 0))


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held so far: on the GPU where it computes there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts in bytes
