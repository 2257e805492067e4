"""The base class of all algorithms: how a learner uses a support set, and what it minimises over tasks.

Both are written for ONE task, in the paper's symbols. Batching over tasks is shared (`Learner.map_tasks`).
`metarun/algos/maml.py` is the smallest complete example.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from metarun.layers.norm import batch_norms, last_statistics, recording, statistics_of_first, uses_support_statistics
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Kind, Presentations, TaskLoss, TaskSet

Backbone = Callable[..., nn.Module]  # backbone(outputs=ways) ends in a linear layer, backbone(outputs=None) in features


class Stage(NamedTuple):
    """A stage of training.

    Attributes:
        stream: stream of the data set that its batches come from.
        share: fraction of `run.iterations` that it takes.
        objectives: what each outer step minimises, in order; `all` steps every parameter group.
    """

    stream: str = "episodes"
    share: float = 1.0
    objectives: tuple[str, ...] = ("all",)


class Learner(nn.Module, ABC):
    """A few-shot learner. Each subclass is one algorithm.

    A subclass defines the inner problem by `adapt`, or by `trajectory` if it adapts in steps. It overrides `meta_loss`
    if the outer problem is not the task loss on the query set. All other methods are hooks with a default.

    Args:
        loss: the task loss, a mean over examples.

    Attributes:
        stages: the stages of training, in order. Their shares sum to one. Empty: the learner is not trained.
        evaluation_stream: the stream that validation and test use; None: the data set's own.
        task_types: the kinds of task that it can solve.
        ways: the width of a prediction in the current tasks: their number of classes, or what else
            `TaskSet.outputs` returns. The training loop and evaluation set it, because it may differ between
            training and test. Learners whose weights do not depend on it read it.
        inner_steps: adaptation steps in training.
        eval_steps: adaptation steps after which the headline metric is measured.
        vectorized: whether `vmap` may batch its tasks. False adapts to one task after the other, for modules
            that fail under vmap (`nn.LSTM`).
        fusable: whether several runs can train as one program (metarun/fused/replicas.py). False for a learner with
            state that is neither parameter nor buffer, or that changes its state outside the outer step.
        batch_norm_modes: the modes of batch norm (metarun/layers/norm.py) that its networks may have. By default not
            `running`: where an inner loop moves weights below a norm, evaluation's inner loop would meet statistics
            that training's never saw. Learners that only embed with such a network allow it.
        supports_dropblock: whether it draws masks for the DropBlocks of its backbone (metarun/layers/drop_block.py).
        uses_progress: whether what it does in training depends on `progress`: such a run cannot be made longer.
        order_sensitive: whether the order of the support set affects its predictions.
        hyperparameters: names of the 0-dim buffers made by `register_hyperparameter`. Fused runs may differ in them.
        init_only_args: constructor arguments that only set initial values of parameters. Fused runs may differ in
            them too.
        progress: 0-dim buffer, iteration / iterations, set by the training loop. Use it in arithmetic only: an `if`
            on it breaks compiled and fused runs.
        residual_variance: 0-dim buffer, the variance of the validation errors in a regression. Set before the test, it
            makes a distribution of a point prediction (metarun/evaluation/metrics.py). NaN: unknown.
    """

    stages: tuple[Stage, ...] = (Stage(),)
    evaluation_stream: ClassVar[str | None] = None
    task_types: ClassVar[tuple[Kind, ...]] = ("classification", "regression")
    ways: int = 0
    inner_steps: int = 0
    eval_steps: int = 0
    vectorized: bool = True
    fusable: bool = True
    batch_norm_modes: ClassVar[tuple[str, ...]] = ("batch", "support")
    supports_dropblock: ClassVar[bool] = False
    uses_progress: ClassVar[bool] = False
    order_sensitive: ClassVar[bool] = False
    hyperparameters: tuple[str, ...] = ()
    init_only_args: ClassVar[tuple[str, ...]] = ()
    progress: Tensor
    residual_variance: Tensor

    def __init__(self, loss: TaskLoss) -> None:
        super().__init__()
        self.loss = loss
        self._starts: dict[str, tuple[float, float]] = {}
        self.register_buffer("progress", torch.zeros(()))
        self.register_buffer("residual_variance", torch.tensor(torch.nan), persistent=False)

    # ------------------------------------------------------------------------------- the paper: for one task

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """Solve the inner problem: return a predictor of queries, given a support set.

        The default takes the last predictor of `trajectory`, after `inner_steps` steps in training mode and
        `eval_steps` in evaluation mode.

        Args:
            support: the support set of one task.
            random_inputs: one task's entry of what `random_inputs()` returned; (): none, to predict deterministically.
        """
        steps = self.inner_steps if self.training else self.eval_steps
        *_, last = self.trajectory(support, steps, random_inputs)
        return last

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        """Yield the predictors after 0, 1, ..., `steps` adaptation steps.

        The default, for learners that do not adapt in steps, yields the predictor of `adapt` alone.
        """
        del steps  # no steps to count
        yield self.adapt(support, random_inputs)

    def score_pairs(self, x: Tensor, random_inputs: Any = ()) -> Tensor:
        """Score the similarity of the two inputs of each pair. Required of learners of the task type `verification`.

        Args:
            x: pairs, `[b, 2, ...]`.
            random_inputs: as in `adapt`.

        Returns:
            Scores `[b]` on any scale; larger is more similar.
        """
        raise NotImplementedError(f"{type(self).__name__} does not compare pairs")

    def predict_sequence(self, batch: Presentations, random_inputs: Any = ()) -> Tensor:
        """Predict the class of each example of a sequence, from the examples and labels before it.

        Required of learners whose evaluation stream is `sequences`.

        Returns:
            Class scores `[T, n, ways]`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not predict sequences")

    def meta_loss(self, task: Any, random_inputs: Any = ()) -> Tensor:
        """The outer problem: the loss of one task, 0-dim, whose mean over tasks is minimised.

        The default is the task loss on the query set after adaptation to the support set.
        """
        return self.loss(self.adapt(task.support, random_inputs)(task.query.x), task.query.y)

    # ----------------------------------------------------------------------------- hooks, with their defaults

    @classmethod
    def evaluation_stream_for(cls, data: TaskSet | type[TaskSet]) -> str:
        """The stream of this data set that validation and test use."""
        return cls.evaluation_stream or data.evaluation_stream

    @classmethod
    def any_ways(cls) -> bool:
        """Whether its weights do not depend on the number of classes: its constructor takes `ways`, not `outputs`."""
        return "outputs" not in signature(cls).parameters

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Any:
        """Draw all random numbers of one outer step or evaluation: noise, masks, indices of mini-batches.

        They are drawn here, outside vmap, and enter `adapt` and `meta_loss` as an input. Drawn inside, they would
        differ between a batch, its micro-batches and a loop over tasks (metarun/training/loop.py).

        Args:
            batch: the tasks. Only its shapes may be used, not its values: fused runs pass one batch for all of them.
            steps: adaptation steps.
            generator: the source of all random numbers, on the device of the batch.

        Returns:
            Any structure of tensors `[T, ...]`; (): the learner draws nothing.
        """
        del batch, steps, generator
        return ()

    def request_classes(self, tasks: int, generator: torch.Generator) -> Tensor | None:
        """Choose the classes of the next tasks, `[tasks, ways]`; None: any. Called before every batch is sampled.

        Classes are numbered as in the stream `batches`. Only for learners with a stage of the stream
        `episodes_of_classes`, which must not be `fusable`. Random numbers come from `generator`, that of the stage's
        tasks, and any other state must be saved in checkpoints.
        """
        del tasks, generator
        return None

    def check_data(self, data: TaskSet) -> None:
        """Refuse training data that the weights do not fit. Called once, when it is loaded, before the first step.

        Raises:
            DataError: they do not.
        """
        del data

    def after_step(self) -> None:
        """Update state after each outer step: running statistics, from what its forward passes collected.

        Fused runs call it on a learner whose tensors are stacked, `[R, ...]`, so it must work entry by entry.
        """
        for norm in batch_norms(self):
            norm.update_running_stats()

    def parameter_groups(self) -> list[dict]:
        """The groups of parameters, each with an optimizer of its own.

        Each group has a `name`, `params`, and optionally `lr` and `optimizer` (a factory). An objective steps the group
        of its name. The objective `all` steps every group, and every objective steps a group named `all`.
        """
        return [{"name": "meta", "params": list(self.parameters())}]

    def diagnostics(self) -> dict[str, Tensor]:
        """0-dim values that show how training goes (mask probabilities, learned rates), logged as `learner/NAME`."""
        return {}

    # ------------------------------------------------------------------------ batches of tasks, for all learners

    def map_tasks(self, f: Callable, *batched: Any) -> Any:
        """Apply `f` to each task, by `vmap` if the learner is `vectorized`.

        Args:
            f: a function of one task. Drawing random numbers inside is an error; see `random_inputs`.
            *batched: its arguments for all tasks, every leaf `[T, ...]`.

        Returns:
            What `f` returns, every leaf `[T, ...]`.
        """
        if self.vectorized and count_tasks(batched) > 1:  # for one task vmap only costs time
            return torch.func.vmap(f, randomness="error")(*batched)
        return self.map_tasks_sequentially(f, *batched)

    def map_tasks_sequentially(self, f: Callable, *batched: Any) -> Any:
        """Apply `f` to one task after the other; as `map_tasks`, without vmap."""
        results = [f(*pytree.tree_map(lambda leaf, t=t: leaf[t], batched)) for t in range(count_tasks(batched))]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """Meta-losses `[T]` of a batch of tasks.

        Args:
            batch: the tasks.
            random_inputs: what `random_inputs()` returned for them.
            objective: one of the stage's objectives; only learners with several use it.
        """
        del objective
        return self.with_running_stats([self], self.meta_loss, batch, random_inputs)

    def with_running_stats(self, nets: Sequence[nn.Module], f: Callable, *batched: Any) -> Tensor:
        """Apply `map_tasks`, and collect the statistics of all batch norms of mode `running`.

        Inside vmap nothing can be stored: `f` returns the statistics beside its result, the batch norms store them
        outside (`BatchNorm.collect_stats`), and `after_step` updates the running averages.

        Args:
            nets: the modules that `f` calls.
            f: as in `map_tasks`.
            *batched: as in `map_tasks`.
        """
        running = [norm for net in nets for norm in batch_norms(net) if norm.mode == "running" and norm.training]
        if not running:
            return self.map_tasks(f, *batched)

        def with_statistics(*task: Any) -> tuple[Tensor, list]:
            with recording(*nets) as norms:
                return f(*task), last_statistics(norms)

        losses, statistics = self.map_tasks(with_statistics, *batched)
        for norm, (mean, var) in zip(running, statistics, strict=True):
            norm.collect_stats(mean, var)
        return losses

    def to_dtype(self, batch: Any) -> Any:
        """Convert the floating-point leaves of a batch to the learner's precision; other leaves stay as they are."""
        dtype = self.progress.dtype
        return pytree.tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, batch)

    # ---------------------------------------------------------------------------------------- for subclasses

    def register_hyperparameter(self, name: str, value: float) -> None:
        """Register a number that sweeps may vary, as a 0-dim buffer `self.NAME`.

        A Python float would be a constant of the compiled program, and could not differ between fused runs. The
        buffer is not saved: a learner that loads the weights of another run keeps its own `inner_lr`.
        """
        self.register_buffer(name, exact(float(value)), persistent=False)
        self.hyperparameters = (*self.hyperparameters, name)

    def start_exactly(self, name: str, value: float) -> None:
        """Note the number that a parameter, already filled with it, starts from: float64 has it without rounding."""
        rounded = self.get_parameter(name).detach().flatten()[0].item()
        self._starts = {**self._starts, name: (rounded, float(value))}

    def _apply(self, fn: Callable, recurse: bool = True) -> Learner:
        super()._apply(fn, recurse)
        for name, (rounded, value) in self._starts.items():
            parameter = self.get_parameter(name).data
            if parameter.dtype == torch.float64 and (parameter == rounded).all():  # not trained since
                parameter.fill_(value)
        return self

    def functional_predictor(self, net: nn.Module, params: dict[str, Tensor], support: Examples) -> Predictor:
        """Make a predictor of a network and weights.

        Args:
            net: the network. Its batch norms normalise queries as their mode says (metarun/layers/norm.py).
            params: the weights by name, in place of its own.
            support: the support set, whose statistics batch norms of mode `support` use.
        """

        def predict(x: Tensor) -> Tensor:
            if uses_support_statistics(net):
                with statistics_of_first(net, len(support.x)):
                    return functional_call(net, params, (torch.cat([support.x, x]),))[len(support.x) :]
            return functional_call(net, params, (x,))

        return predict


def exact(values: Any) -> Tensor:
    """Numbers of the configuration as float64, until the learner is converted to its precision and rounds them once."""
    return torch.tensor(values, dtype=torch.float64)


def count_tasks(batch: Any) -> int:
    """T, the leading dimension of every leaf of a batch."""
    return pytree.tree_leaves(batch)[0].shape[0]


def to_device(batch: Any, device: torch.device) -> Any:
    """The same batch on a device."""
    return pytree.tree_map(lambda leaf: leaf.to(device), batch)


def slice_tasks(batch: Any, start: int, stop: int) -> Any:
    """The tasks from `start` up to `stop` of a batch."""
    return pytree.tree_map(lambda leaf: leaf[start:stop], batch)
