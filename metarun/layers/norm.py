"""Normalisation that is right under `vmap(grad(...))`, and says whose statistics it uses.

torch's own batch norm and instance norm with batch statistics give a silently WRONG second-order gradient under
vmap (2 to 7 % off for three to five blocks; tests/algos/test_maml.py shows it). The one here is plain mean and
variance operations, folded into one scale and one shift per channel, and right to rounding.

Modes of batch norm
    batch    statistics of the rows it is given: support rows when adapting, query rows when predicting. This is
             MAML's, and makes prediction transductive.
    support  queries are normalised with the statistics that the support set has under the same weights: one query
             at a time gives the same answer as all at once.
    running  as torch: batch statistics when training, a running average of them when evaluating.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MODES = ("batch", "support", "running")


class BatchNorm(nn.Module):
    """Batch norm over all dimensions but the channels', dimension 1, of `x [n, channels, ...]`.

    Args:
        channels: number of channels.
        mode: whose statistics normalise, see the module's docstring.
        momentum: weight of a new batch in the running average (mode `running`).
        eps: added to the variance.

    Raises:
        ValueError: an unknown mode.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, mode: str = "batch", momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"batch norm mode must be one of {', '.join(MODES)}; got {mode!r}")
        self.mode, self.momentum, self.eps = mode, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if mode == "running":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
        self.inductive = False  # while True, mode `batch` behaves as `support` (evaluation's second figure)
        self.reference_rows: int | None = None  # statistics of the first so many rows only
        self.tasks = 1  # whose rows come one after the other, as many of each: statistics are each task's own
        self.recorded: list[tuple[Tensor, Tensor]] | None = None
        self.gathered: list[tuple[Tensor, Tensor, int]] = []

    @property
    def uses_support(self) -> bool:
        """Whether queries need the support set beside them."""
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
        """Mean and variance, `[channels]`, or of several tasks `[T, channels]`."""
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
        """Give every parameter and running statistic a leading dimension `steps`; a caller hands in one step's."""
        for values in (self._parameters, self._buffers):
            for name, value in values.items():
                assert value is not None
                repeated = value.detach().repeat(steps, 1)
                setattr(self, name, nn.Parameter(repeated) if isinstance(value, nn.Parameter) else repeated)

    def collect_stats(self, mean: Tensor, var: Tensor) -> None:
        """Keep the statistics `[T, channels]` of a chunk of tasks until the step is over."""
        self.gathered.append((mean.detach().mean(0), var.detach().mean(0), len(mean)))

    def pop_stats(self) -> list[tuple[Tensor, Tensor]]:
        """What was gathered, without the numbers of tasks, and forget it: out of `vmap`, where nothing can be kept."""
        found = [(mean, var) for mean, var, _ in self.gathered]
        self.gathered.clear()  # the very list: a compiled program would fill it with what it held on the way
        return found

    def update_running_stats(self) -> None:
        """Move the running statistics towards the mean over all tasks of the step, however it was chunked."""
        if not self.gathered:
            return
        tasks = sum(count for *_, count in self.gathered)
        with torch.no_grad():
            for running, which in ((self.running_mean, 0), (self.running_var, 1)):
                shares = [(means[which], count / tasks) for *means, count in self.gathered]
                mean = torch.stack([value * share for value, share in shares]).sum(0)
                running.lerp_(mean, self.momentum)
        self.gathered.clear()

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, mode={self.mode}"


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """All batch norms of a network, in the order of its modules."""
    return [m for m in module.modules() if isinstance(m, BatchNorm)]


def uses_support_statistics(net: nn.Module) -> bool:
    """Whether predicting queries needs the support set in the same forward pass."""
    return any(norm.uses_support for norm in batch_norms(net))


@contextmanager
def rows_of_tasks(net: nn.Module, tasks: int) -> Iterator[None]:
    """Inside, rows belong to so many tasks, one after the other; each task has batch statistics of its own.

    What vmap over tasks would give for weights that all tasks share, without its cost.
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
    """Inside, batch norms take their statistics from the first `rows` rows (the support set) and apply them to all."""
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
    """Inside, no query's prediction depends on another query: mode `batch` behaves as `support`."""
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
    """Inside, batch norms of mode `running` record the statistics they use; yields those norms.

    The last record of each is that of the outermost forward pass, which under `torch.func.grad` is the only one
    that is not wrapped in a finished transform: read it with `last_statistics` before leaving.
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
    """Mean and unbiased variance `[channels]` of each norm's last forward pass inside `recording`."""
    return [norm.recorded[-1] for norm in norms if norm.recorded]


def make_norm(kind: str, channels: int) -> nn.Module:
    """A normalisation layer by name: `batch`, `support`, `running` (batch norm's modes), `layer`, `group`, `none`.

    `layer` is over channels and positions of one example (group norm of one group), `group` of eight groups.

    Raises:
        ValueError: an unknown name.
    """
    if kind in MODES:
        return BatchNorm(channels, mode=kind)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "group":
        return nn.GroupNorm(8, channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(MODES)}, layer, group, none; got {kind!r}")
