"""The one abstraction: a learner says how it uses a support set, and what it minimises over tasks.

Both are written for ONE task, in the paper's symbols; batching over tasks is shared (`over_tasks`). See
`metarun/algos/maml.py` for the smallest complete example.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from metarun.layers.norm import batch_norms, last_statistics, recording, statistics_of_first, uses_support_statistics
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Kind, Presentations, TaskLoss, TaskSet

Backbone = Callable[..., nn.Module]  # backbone(outputs=ways) ends in a linear layer, outputs=None in an embedding


class Stage(NamedTuple):
    """A stretch of training: the stream it draws from, its share of `run.iterations`, its objectives in turn."""

    stream: str = "episodes"
    share: float = 1.0
    objectives: tuple[str, ...] = ("all",)


class Learner(nn.Module, ABC):
    """A few-shot learner. Subclasses define `adapt`, or `trajectory` where adaptation goes in steps.

    Attributes
        stages: what it trains on, in order; shares sum to one. Empty: it is not trained.
        evaluation_stream: the stream it is validated and tested on; None: the data set's own.
        takes: the kinds of task it makes sense for.
        ways: classes of the tasks at hand (or what else `TaskSet.outputs` says). Loop and evaluation set it, for it
            may differ between training and test; learners whose weights do not depend on it read it.
        inner_steps, eval_steps: adaptation steps in training, and where the headline is measured.
        vectorized: False runs task after task (for `nn.LSTM` and whatever else fails under vmap).
        replicable: False keeps it out of fused programs (metarun/fused/replicas.py): it has state that is neither parameter
            nor buffer, or changes its state outside the outer step.
        draws_masks: it draws what the DropBlocks of its backbone drop (backbones/drop_block.py).
        numbers: names of its 0-dim numbers (`number`), which may differ between fused replicas.
        starts: constructor arguments that only say where parameters start, which may differ too.
        ordered: the order of a support set matters to it.
        residual_variance: 0-dim buffer, the variance of its validation errors in a regression, by which predictions of
            points are judged as distributions (metarun/evaluation/metrics.py); set before the test, NaN: unknown.
        progress: 0-dim buffer, iteration / iterations, set by the loop. Blend with it; an `if` on it breaks
            compiled and fused runs.
    """

    stages: tuple[Stage, ...] = (Stage(),)
    evaluation_stream: ClassVar[str | None] = None
    task_types: ClassVar[tuple[Kind, ...]] = ("classification", "regression")
    ways: int = 0
    inner_steps: int = 0
    eval_steps: int = 0
    vectorized: bool = True
    fusable: bool = True
    supports_dropblock: ClassVar[bool] = False
    order_sensitive: ClassVar[bool] = False
    hyperparameters: tuple[str, ...] = ()
    init_only_args: ClassVar[tuple[str, ...]] = ()
    progress: Tensor
    residual_variance: Tensor

    def __init__(self, loss: TaskLoss) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("progress", torch.zeros(()))
        self.register_buffer("residual_variance", torch.tensor(torch.nan), persistent=False)

    # ------------------------------------------------------------------------------- the paper: for one task

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """The inner problem: from a support set to a predictor of queries.

        Takes `inner_steps` steps in training mode and `eval_steps` in evaluation mode.
        """
        steps = self.inner_steps if self.training else self.eval_steps
        *_, last = self.trajectory(support, steps, random_inputs)
        return last

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        """The predictors after 0, 1, ..., `steps` steps. One that adapts at once has just the one."""
        del steps  # no steps to count
        yield self.adapt(support, random_inputs)

    def score_pairs(self, x: Tensor, random_inputs: Any = ()) -> Tensor:
        """How alike the two of each pair are, scores `[b]` of any scale, larger is more alike; `x [b, 2, ...]`.

        Only of learners that take the kind `verification`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not compare pairs")

    def predict_sequence(self, batch: Presentations, random_inputs: Any = ()) -> Tensor:
        """Class scores `[T, n, ways]` of examples shown one by one, each from what was shown and told before it.

        Only of learners whose evaluation stream is `sequences`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not follow sequences")

    def meta_loss(self, task: Any, random_inputs: Any = ()) -> Tensor:
        """The outer problem: what is minimised over tasks, a scalar. Default: the task loss on the query set."""
        return self.loss(self.adapt(task.support, random_inputs)(task.query.x), task.query.y)

    # -------------------------------------------------------------------------------- shared, seldom overridden

    @classmethod
    def evaluation_stream_for(cls, data: TaskSet | type[TaskSet]) -> str:
        """The stream it is validated and tested on, on this data set."""
        return cls.evaluation_stream or data.evaluation_stream

    def map_tasks(self, f: Callable, *batched: Any) -> Any:
        """`f` of each task; every leaf of the arguments and of the result leads with T.

        Random numbers inside `f` are an error: they come in as `noise` (metarun/training/loop.py says why).
        """
        if self.vectorized and count_tasks(batched) > 1:  # vmap of one task only costs
            return torch.func.vmap(f, randomness="error")(*batched)
        return self.map_tasks_sequentially(f, *batched)

    def map_tasks_sequentially(self, f: Callable, *batched: Any) -> Any:
        """`over_tasks` without vmap."""
        results = [f(*pytree.tree_map(lambda leaf, t=t: leaf[t], batched)) for t in range(count_tasks(batched))]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """Meta-losses `[T]` of a batch of tasks, for one of the stage's objectives.

        Batch norms in mode `running` hand out their statistics, which are gathered here, outside vmap, and
        taken in by `after_step`.
        """
        del objective  # only learners with several objectives look at it
        return self.with_running_stats([self], self.meta_loss, batch, random_inputs)

    def with_running_stats(self, nets: Sequence[nn.Module], f: Callable, *batched: Any) -> Tensor:
        """`over_tasks`, and the running statistics of all batch norms of `nets`, which `f` calls, are gathered."""
        running = [norm for net in nets for norm in batch_norms(net) if norm.mode == "running" and norm.training]
        if not running:
            return self.map_tasks(f, *batched)

        def with_statistics(*one: Any) -> tuple[Tensor, list]:
            with recording(*nets) as norms:
                return f(*one), last_statistics(norms)

        losses, statistics = self.map_tasks(with_statistics, *batched)
        for norm, (mean, var) in zip(running, statistics, strict=True):
            norm.collect_stats(mean, var)
        return losses

    def after_step(self) -> None:
        """Follows each outer step: running statistics take in what the step's forward passes gathered.

        Fused replicas have it done to stacks `[R, ...]` of their tensors, entry by entry.
        """
        for norm in batch_norms(self):
            norm.update_running_stats()

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Any:
        """All that one outer step (or evaluation) draws at random, every leaf `[T, ...]`; drawn outside vmap.

        It may depend on the batch's shapes, not on its values: fused replicas draw by one batch for all.
        """
        del batch, steps, generator
        return ()

    def request_classes(self, tasks: int, generator: torch.Generator) -> Tensor | None:
        """Classes of the tasks that it wants next, `[tasks, ways]`; None: whatever is drawn. Asked before every draw.

        Numbered as in the flat stream. Only of learners whose stage has the stream `episodes_of_classes`, and that are
        not `replicable`; drawn by the generator of the stage's tasks, and by nothing that a checkpoint does not hold.
        """
        del tasks, generator
        return None

    def parameter_groups(self) -> list[dict]:
        """`name`, `params`, and optionally `lr` and `optimizer` (a factory). One optimizer each.

        An objective steps the group of its name; `all` steps every group, and a group `all` is stepped by each.
        """
        return [{"name": "meta", "params": list(self.parameters())}]

    def diagnostics(self) -> dict[str, Tensor]:
        """What it has to tell of itself (mask probabilities, learned rates), 0-dim; logged as `learner/NAME`."""
        return {}

    def to_dtype(self, batch: Any) -> Any:
        """Floating-point leaves of a batch in the learner's precision; all others as they are."""
        dtype = self.progress.dtype
        return pytree.tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, batch)

    # --------------------------------------------------------------------------------------- for its subclasses

    def register_hyperparameter(self, name: str, value: float) -> None:
        """Register a number that sweeps may vary, as a 0-dim buffer.

        A Python float would be compiled into the program and could not differ between fused replicas. It is
        not saved with the weights, so loading another run's weights does not bring its `inner_lr`.
        """
        self.register_buffer(name, torch.tensor(float(value)), persistent=False)
        self.hyperparameters = (*self.hyperparameters, name)

    def functional_predictor(self, net: nn.Module, params: dict[str, Tensor], support: Examples) -> Predictor:
        """The network under `params`; queries are normalised as its batch norms' mode says (backbones/norm.py)."""

        def predict(x: Tensor) -> Tensor:
            if uses_support_statistics(net):
                with statistics_of_first(net, len(support.x)):
                    return functional_call(net, params, (torch.cat([support.x, x]),))[len(support.x) :]
            return functional_call(net, params, (x,))

        return predict


def count_tasks(batch: Any) -> int:
    """T: the leading dimension that all leaves of a batch share."""
    return pytree.tree_leaves(batch)[0].shape[0]


def slice_tasks(batch: Any, start: int, stop: int) -> Any:
    """Tasks `start` to `stop` of a batch."""
    return pytree.tree_map(lambda leaf: leaf[start:stop], batch)


def require_positive(**values: float) -> None:
    """Refuse values that are not above zero, naming the argument and what came."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def require_counts(least: int = 0, **values: int) -> None:
    """Refuse values that are not whole numbers of at least zero (or `least`)."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
