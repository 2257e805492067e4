"""Several processes that train one learner: each holds the weights, and a shard of the tasks of every meta-batch.

`torchrun --nproc-per-node=2 -m metarun ...` starts them. All sample the whole meta-batch and its random inputs from the
same generators, and each takes its shard of the tasks; torch's DistributedDataParallel averages the gradients, so that
every process takes the same outer step. A run equals one in a single process up to the order in which floats are added.

Process 0 does everything else: it validates, tests, writes the run's folder and tracks. The others wait for it.
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

TIMEOUT = timedelta(hours=24)  # of a collective operation: processes wait while the first one validates


class SingleProcess:
    """The interface of a process group, for a single process.

    Attributes:
        rank: index of this process.
        size: number of processes.
    """

    rank, size = 0, 1

    def shard(self, batch: Any, tasks: int) -> Any:
        """This process's tasks of a batch, or of its random inputs."""
        del tasks
        return batch

    def wrap(self, learner: Learner, program: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap the learner's forward pass so that its backward pass leaves the mean of gradients over processes."""
        del learner
        return program

    def no_sync(self, program: Callable[..., Tensor]) -> AbstractContextManager[None]:
        """Inside, gradients accumulate in this process; the next backward pass outside averages them."""
        del program
        return nullcontext()

    def all_reduce_sum(self, value: float) -> float:
        """Sum over processes."""
        return value

    def all_reduce_any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def sync_running_stats(self, learner: Learner) -> None:
        """Replace the statistics that modules collected of this process's tasks by those of all, in task order."""
        del learner


class ProcessGroup(SingleProcess):
    """One of several processes.

    Args:
        device: of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def shard(self, batch: Any, tasks: int) -> Any:
        return slice_tasks(batch, *bounds(self.rank, self.size, tasks))

    def wrap(self, learner: Learner, program: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # A parameter that an objective, or a stage, does not depend on gets no gradient there.
        some_unused = sum(len(stage.objectives) for stage in learner.stages) > 1
        module = program if isinstance(program, nn.Module) else learner
        return DistributedDataParallel(module, forward_sync_buffers=False, find_unused_parameters=some_unused)

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
        local = pytree.tree_map_only(Tensor, Tensor.cpu, [module.gathered for module in with_running_stats])
        by_rank: list[Any] = [None] * self.size
        dist.all_gather_object(by_rank, local)
        for index, module in enumerate(with_running_stats):
            entries = [entry for statistics in by_rank for entry in statistics[index]]
            module.gathered = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), entries)


def bounds(rank: int, size: int, tasks: int) -> tuple[int, int]:
    """Start and stop of a process's tasks: contiguous, and as even as possible over processes."""
    return rank * tasks // size, (rank + 1) * tasks // size


@contextmanager
def process_group(device: torch.device) -> Iterator[SingleProcess]:
    """Connect the processes that torchrun started; inside, they are a group."""
    if ranks().world_size == 1:
        yield SingleProcess()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield ProcessGroup(device)
    finally:
        dist.destroy_process_group()
