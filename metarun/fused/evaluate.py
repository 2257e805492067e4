"""Metrics of replicas, which go through the evaluation together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from metarun.evaluation.evaluate import Evaluation, batch_metrics, evaluate_with, max_steps
from metarun.fused.replicas import Replicas, over_replicas, stacked
from metarun.learner.learner import Learner
from metarun.tasks import Batch, Split


class CallableModule(nn.Module):
    """A module around a learner whose `forward` calls any function: `functional_call` knows no other method."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, function: Callable, *args: Any) -> Any:
        return function(*args)


def score_replicas(
    replicas: Replicas,
    members: Sequence[int],
    batch: Batch,
    random_inputs: Any,
    steps: int,
    curve: bool,
    task_micro_batch: int | None = None,
    shared: bool = False,
) -> dict[int, dict[str, np.ndarray]]:
    """Metrics of the active ones of replicas, `[T, columns]` each, as `evaluate_batch` gives them.

    Args:
        replicas: all of them.
        members: which go together; also those that are not active, since their number changes the last digits.
        batch, random_inputs: each replica's own, `[R, T, ...]`, of all; or `shared`: the same for all, `[T, ...]`.
        steps, curve, task_micro_batch: as in `evaluate_batch`.
        shared: see `batch`.
    """
    learner, kind = replicas.learner, replicas.data[0].kind
    module = CallableModule(learner)

    def one(state: dict[str, Tensor], batch: Batch, random_inputs: Any) -> dict[str, Tensor]:
        inside = {f"learner.{name}": tensor for name, tensor in state.items()}
        return functional_call(module, inside, (batch_metrics, learner, kind, batch, random_inputs, steps, curve))

    def of_some(some: Sequence[int], at: slice) -> dict[str, Tensor]:
        state = {name: stacked([tensor[r] for r in some]) for name, tensor in replicas.state().items()}
        if shared:
            inputs = pytree.tree_map(lambda leaf: leaf[at], (batch, random_inputs))
            return over_replicas(lambda state: one(state, *inputs), state)
        return over_replicas(one, state, *pytree.tree_map(lambda leaf: leaf[some, at], (batch, random_inputs)))

    tasks = pytree.tree_leaves(batch)[0].shape[0 if shared else 1]
    size = task_micro_batch or tasks
    values: dict[int, dict[str, np.ndarray]] = {}
    was_training = learner.training
    learner.eval()
    with torch.no_grad():
        for first in range(0, len(members), replicas.size):
            some = members[first : first + replicas.size]
            if not replicas.active & set(some):
                continue
            parts = [of_some(some, slice(at, at + size)) for at in range(0, tasks, size)]
            joined = {name: torch.cat([c[name] for c in parts], 1).double().cpu().numpy() for name in parts[0]}
            each = {r: {name: v[place] for name, v in joined.items()} for place, r in enumerate(some)}
            values |= {r: scores for r, scores in each.items() if r in replicas.active}
    learner.train(was_training)
    return values


def evaluate_replicas(
    replicas: Replicas,
    split: Split,
    tasks: int,
    steps: int,
    curve: bool = True,
    on_block: Callable[[int], object] = lambda _done: None,
    task_micro_batch: int | None = None,
) -> dict[int, Evaluation]:
    """`metarun.evaluation.evaluate.evaluate` of every active replica, on held-out tasks.

    Replicas with the same data set share the tasks.
    """
    steps = max_steps(replicas.learner, steps)
    evaluations: dict[int, Evaluation] = {}
    for data, together in replicas.by_data():
        if not (members := [r for r in together if r in replicas.active]):
            continue

        def score(
            batch: Batch, random_inputs: Any, together: list[int] = together, members: list[int] = members
        ) -> dict[str, np.ndarray]:
            replicas.learner.ways = replicas.trainings[members[0]].learner.ways
            each = score_replicas(replicas, together, batch, random_inputs, steps, curve, task_micro_batch, shared=True)
            return {name: np.stack([each[r][name] for r in members]) for name in each[members[0]]}

        # Random inputs are drawn by a learner that knows its own shapes, not by the stack of all.
        learner = replicas.trainings[members[0]].learner
        scores = evaluate_with(score, learner, data, split, tasks, steps, on_block)
        for place, r in enumerate(members):
            evaluations[r] = replace(scores, values={n: v[place] for n, v in scores.values.items()})
    return evaluations


def diagnostics(replicas: Replicas) -> dict[str, Tensor]:
    """Each replica's `Learner.diagnostics`, `[R]` by name."""
    learner = replicas.learner
    module = CallableModule(learner)

    def one(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return functional_call(module, {f"learner.{n}": t for n, t in state.items()}, (learner.diagnostics,))

    with torch.no_grad():
        return {} if type(learner).diagnostics is Learner.diagnostics else vmap(one)(replicas.state())
