"""Normalisation that is correct under `vmap(grad(...))`, with a choice of the statistics that batch norm uses.

torch's own batch norm and instance norm with batch statistics give a silently WRONG second-order gradient under
vmap (2 to 7 % off for three to five blocks; tests/algos/test_maml.py shows it). The batch norm of this module uses
plain mean and variance operations, folded into one scale and one shift per channel, and is exact to rounding.

Modes of batch norm
    batch    statistics of the rows of the input: support rows in adaptation, query rows in prediction. MAML's choice;
             it makes predictions transductive.
    support  queries are normalised by the statistics of the support set under the same weights: each query's prediction
             is the same alone as among others.
    running  as in torch: batch statistics in training, a running average of them in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metarun.checks import require_choice

MODES = ("batch", "support", "running")
STATELESS = ("layer", "group", "none")  # the other kinds of `make_norm`, which treat each example alone


class BatchNorm(nn.Module):
    """Batch norm over all dimensions of `x [n, channels, ...]` except the channels.

    Args:
        channels: number of channels.
        mode: which statistics to use; see the module's docstring.
        momentum: weight of a new batch in the running average (mode `running`).
        eps: added to the variance.

    Attributes:
        inductive: if True, mode `batch` behaves as `support`; for the second figure of evaluation.
        reference_rows: take statistics from this many leading rows only; None: from all.
        tasks: number of tasks that the rows belong to, the same number of consecutive rows each; each task has its own
            statistics.
        recorded: the statistics of each forward pass, inside `recording` (mode `running`).
        gathered: statistics collected in this outer step, with their numbers of tasks; processes merge theirs
            (metarun/training/distributed.py).

    Raises:
        ValueError: an unknown mode.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, mode: str = "batch", momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        require_choice("backbone.norm", mode, MODES)
        self.mode, self.momentum, self.eps = mode, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if mode == "running":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
        self.inductive = False
        self.reference_rows: int | None = None
        self.tasks = 1
        self.recorded: list[tuple[Tensor, Tensor]] | None = None
        self.gathered: list[tuple[Tensor, Tensor, int]] = []

    @property
    def uses_support(self) -> bool:
        """Whether queries need the support set in the same forward pass."""
        return self.mode == "support" or (self.mode == "batch" and self.inductive)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "running" and not self.training:
            mean, var = self.running_mean, self.running_var
        else:
            mean, var = self._statistics(x)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        positions = (1,) * (x.dim() - 2)
        if mean.dim() == 1:
            return x * scale.view(-1, *positions) + shift.view(-1, *positions)
        by_task = x.unflatten(0, (self.tasks, -1))
        broadcast = (self.tasks, 1, -1, *positions)
        return (by_task * scale.view(broadcast) + shift.view(broadcast)).flatten(0, 1)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, `[channels]`, or `[T, channels]` for several tasks."""
        if self.tasks == 1:
            rows = x[: self.reference_rows]
            var, mean = torch.var_mean(rows, dim=(0, *range(2, x.dim())), correction=0)
        else:
            rows = x.unflatten(0, (self.tasks, -1))[:, : self.reference_rows]
            var, mean = torch.var_mean(rows, dim=(1, *range(3, rows.dim())), correction=0)
        if self.recorded is not None:
            n = rows.numel() // mean.numel()
            self.recorded.append((mean, var * (n / (n - 1) if n > 1 else 1)))
        return mean, var

    def per_step(self, steps: int) -> None:
        """Give scale and shift a leading dimension `steps`; callers pass the entry of one step."""
        for name, value in list(self.named_parameters()):
            setattr(self, name, nn.Parameter(value.detach().repeat(steps, 1)))

    def collect_stats(self, mean: Tensor, var: Tensor) -> None:
        """Collect the statistics `[T, channels]` of a micro-batch of tasks, until the outer step ends."""
        self.gathered.append((mean.detach().mean(0), var.detach().mean(0), len(mean)))

    def pop_stats(self) -> list[tuple[Tensor, Tensor]]:
        """Remove and return the collected statistics, without their numbers of tasks.

        Inside vmap, where nothing can be stored, the caller returns them as an output.
        """
        statistics = [(mean, var) for mean, var, _ in self.gathered]
        self.gathered.clear()  # in place: a compiled program would restore an old list with what it held while traced
        return statistics

    def update_running_stats(self) -> None:
        """Move the running statistics towards the mean over all tasks of the outer step.

        Micro-batches count by their numbers of tasks, so that their sizes do not matter.
        """
        if not self.gathered:
            return
        tasks = sum(count for *_, count in self.gathered)
        with torch.no_grad():
            for running, index in ((self.running_mean, 0), (self.running_var, 1)):
                weighted = [(means[index], count / tasks) for *means, count in self.gathered]
                mean = torch.stack([value * weight for value, weight in weighted]).sum(0)
                running.lerp_(mean, self.momentum)
        self.gathered.clear()

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, mode={self.mode}"


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """The batch norms of a network, in the order of its modules."""
    return [m for m in module.modules() if isinstance(m, BatchNorm)]


def uses_support_statistics(net: nn.Module) -> bool:
    """Whether predicting queries needs the support set in the same forward pass."""
    return any(norm.uses_support for norm in batch_norms(net))


@contextmanager
def rows_of_tasks(net: nn.Module, tasks: int) -> Iterator[None]:
    """Inside, batch norms treat rows as those of several tasks, one after the other, each with its own statistics.

    For weights that all tasks share this is what vmap over tasks computes, without its cost.
    """
    norms = batch_norms(net)
    for norm in norms:
        norm.tasks = tasks
    try:
        yield
    finally:
        for norm in norms:
            norm.tasks = 1


@contextmanager
def statistics_of_first(net: nn.Module, rows: int) -> Iterator[None]:
    """Inside, batch norms take their statistics from the first `rows` rows, the support set, for all rows."""
    norms = batch_norms(net)
    for norm in norms:
        norm.reference_rows = rows
    try:
        yield
    finally:
        for norm in norms:
            norm.reference_rows = None


@contextmanager
def inductive(net: nn.Module) -> Iterator[None]:
    """Inside, no query's prediction depends on other queries: mode `batch` behaves as `support`."""
    norms = batch_norms(net)
    for norm in norms:
        norm.inductive = True
    try:
        yield
    finally:
        for norm in norms:
            norm.inductive = False


@contextmanager
def recording(*nets: nn.Module) -> Iterator[list[BatchNorm]]:
    """Inside, batch norms of mode `running` record the statistics they use; yields these batch norms.

    The last record of each is that of the outermost forward pass. Under `torch.func.grad` it is the only one that is
    not wrapped in a finished transform. Read it by `last_statistics` before leaving.
    """
    norms = [norm for net in nets for norm in batch_norms(net) if norm.mode == "running"]
    for norm in norms:
        norm.recorded = []
    try:
        yield norms
    finally:
        for norm in norms:
            norm.recorded = None


def last_statistics(norms: list[BatchNorm]) -> list[tuple[Tensor, Tensor]]:
    """Mean and unbiased variance `[channels]` of each batch norm's last forward pass inside `recording`."""
    return [norm.recorded[-1] for norm in norms if norm.recorded]


def make_norm(kind: str, channels: int) -> nn.Module:
    """Make a normalisation layer.

    Args:
        kind: `batch`, `support` or `running` (modes of batch norm), `layer` (over channels and positions of one
            example: group norm with one group), `group` (eight groups), or `none`.
        channels: number of channels.

    Raises:
        ValueError: an unknown kind.
    """
    require_choice("backbone.norm", kind, (*MODES, *STATELESS))
    if kind in MODES:
        return BatchNorm(channels, mode=kind)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "group":
        return nn.GroupNorm(8, channels)
    return nn.Identity()
