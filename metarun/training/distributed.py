"""Several processes that train one learner: each holds the weights, and a shard of the tasks of every meta-batch.

`torchrun --nproc-per-node=2 -m metarun ...` starts them. All sample the whole meta-batch and its random inputs from the
same generators, and each takes its shard of the tasks; torch's DistributedDataParallel averages the gradients, so that
every process takes the same outer step. A run equals one in a single process up to the order in which floats are added.

Process 0 does everything else: it validates, tests, writes the run's folder and tracks. The others wait for it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from metarun.learner.learner import Learner, slice_tasks
from metarun.training.ranks import ranks

TIMEOUT = timedelta(hours=24)  # of a collective operation: processes wait while the first one validates
MEETINGS = itertools.count()  # of this process; those of one number meet
START_TIMEOUT = timedelta(minutes=5)  # until all processes are there
# DistributedDataParallel's argument, by the name that this version of torch has for it.
NAMES = ("forward_sync_buffers", "broadcast_buffers")
SYNC_BUFFERS = next(name for name in NAMES if name in signature(DistributedDataParallel.__init__).parameters)


class MissingProcessError(RuntimeError):
    """The processes of a run did not find each other.

    Attributes:
        first_missing: it is process 0 that is not there, which would tell the user.
    """

    def __init__(self, why: str, first_missing: bool) -> None:
        super().__init__(why)
        self.first_missing = first_missing


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
        options: dict[str, Any] = {SYNC_BUFFERS: False, "find_unused_parameters": some_unused}
        return DistributedDataParallel(module, **options)

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
    """Connect the processes that torchrun started; inside, they are a group.

    Raises:
        MissingProcessError: some did not come.
    """
    if ranks().world_size == 1:
        yield SingleProcess()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank, size, _ = ranks()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=meet(rank, size), rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield ProcessGroup(device)
    finally:
        dist.destroy_process_group()


def meet(rank: int, size: int) -> dist.Store:
    """The store that all processes of the run share, once all are there.

    Raises:
        MissingProcessError: some are not, after `START_TIMEOUT`; or two have one rank.
    """
    minutes = f"within {START_TIMEOUT.total_seconds() / 60:.3g} minutes"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun does
    try:
        store = dist.TCPStore(host, port, size, serves, START_TIMEOUT, wait_for_workers=False, multi_tenant=True)
    except (RuntimeError, OSError) as error:
        cause = str(error).splitlines()[0][:200]
        at = f"MASTER_ADDR:MASTER_PORT={host}:{port}"
        why = f"cannot serve at {at}" if serves else f"found no process 0 at {at} {minutes}"
        raise MissingProcessError(f"process {rank} of {size} {why} ({cause})", first_missing=not serves) from error
    meeting = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}.{next(MEETINGS)}"
    names = [f"metarun/{meeting}/{number}" for number in range(size)]
    if store.add(names[rank], 1) > 1:
        raise MissingProcessError(f"two processes have RANK={rank}", first_missing=False)
    try:
        store.wait(names, START_TIMEOUT)
    except (RuntimeError, OSError) as error:
        missing = [number for number, name in enumerate(names) if not store.check([name])]
        who = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {size}"
        raise MissingProcessError(f"{who} did not start {minutes}", 0 in missing) from error
    return store
