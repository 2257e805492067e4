"""Several processes that train one learner: each has the weights, and some of the tasks of every meta-batch.

`torchrun --nproc-per-node=2 -m metarun ...` starts them. All draw the whole meta-batch and its noise by the same
generators, and each takes its share of the tasks; gradients are averaged by torch's DistributedDataParallel, so every
process takes the same outer step. A run is the same as in one process, but for the order in which floats are added.

Process 0 does all else: it validates, tests, writes the run's folder and tracks. The others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from metarun.learner.learner import Learner, slice_tasks
from metarun.training.ranks import ranks

PATIENCE = timedelta(hours=24)  # that processes wait for the first one's validation


class SingleProcess:
    """One process: what `fit` asks of several, for one."""

    rank, size = 0, 1

    def shard(self, of: Any, tasks: int) -> Any:
        """This process's tasks of a batch or its noise."""
        del tasks
        return of

    def wrap(self, learner: Learner, program: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The learner's forward pass, whose backward pass leaves the mean of gradients over processes."""
        del learner
        return program

    def no_sync(self, program: Callable[..., Tensor]) -> AbstractContextManager[None]:
        """Inside, gradients are kept for the next backward pass."""
        del program
        return nullcontext()

    def all_reduce_sum(self, value: float) -> float:
        """Sum over processes."""
        return value

    def all_reduce_any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag

    def sync_running_stats(self, learner: Learner) -> None:
        """What modules gathered of their tasks becomes what all processes' gathered, in the order of tasks."""
        del learner


class ProcessGroup(SingleProcess):
    """This process among others.

    Args:
        device: where it computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def shard(self, of: Any, tasks: int) -> Any:
        return slice_tasks(of, *bounds(self.rank, self.size, tasks))

    def wrap(self, learner: Learner, program: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # A parameter that has no part in an objective, or in a stage, gets no gradient there.
        partial = sum(len(stage.objectives) for stage in learner.stages) > 1
        module = program if isinstance(program, nn.Module) else learner
        return DistributedDataParallel(module, forward_sync_buffers=False, find_unused_parameters=partial)

    def no_sync(self, program: Callable[..., Tensor]) -> AbstractContextManager[None]:
        return cast(DistributedDataParallel, program).no_sync()

    def all_reduce_sum(self, value: float) -> float:
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.item()

    def all_reduce_any(self, flag: bool) -> bool:
        return self.all_reduce_sum(float(flag)) > 0

    def sync_running_stats(self, learner: Learner) -> None:
        with_running_stats = [module for module in learner.modules() if hasattr(module, "gathered")]
        if not with_running_stats:
            return
        own = pytree.tree_map_only(Tensor, Tensor.cpu, [module.gathered for module in with_running_stats])
        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, own)
        for number, module in enumerate(with_running_stats):
            entries = [entry for each in everyones for entry in each[number]]
            module.gathered = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), entries)


def bounds(rank: int, size: int, tasks: int) -> tuple[int, int]:
    """First and last plus one of a process's tasks: all in turn, as many for each as can be."""
    return rank * tasks // size, (rank + 1) * tasks // size


@contextmanager
def process_group(device: torch.device) -> Iterator[SingleProcess]:
    """Inside, the processes that torchrun started know each other."""
    if ranks().world_size == 1:
        yield SingleProcess()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield ProcessGroup(device)
    finally:
        dist.destroy_process_group()
