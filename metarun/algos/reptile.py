"""Reptile: the initialisation moves towards the weights that training on each task reaches.

Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018, arXiv 1803.02999. Official code: github
openai/supervised-reptile (reptile.py, models.py, args.py).

Inner problem, k steps of an optimizer U on mini-batches B_1, B_2, ... of ALL of a task's examples D:
    W_0 = theta,    W_{j+1} = U(W_j, grad L(W_j, B_{j+1}))
Outer step, over tasks (it is not the gradient of a loss):
    theta <- theta + epsilon mean_i (W_k(D_i) - theta)
Outer problem, as the meta-optimizer sees it: a loss with gradient theta - W_k, so that plain SGD with learning rate
epsilon takes this step. (k = 1 with plain SGD as U is joint training on the pooled tasks.)

U is plain SGD, or Adam without momentum (beta_1 = 0):
    v <- beta_2 v + (1 - beta_2) g^2,    W <- W - alpha g / (sqrt(v / (1 - beta_2^j)) + 1e-8)

    symbol   code               shape / unit
    theta    self.net           the backbone's parameters
    alpha    self.inner_lr      0-dim
    k        inner_steps        steps in training; `eval_steps` at test
    |B|      inner_batch        examples; `eval_batch` at test; None: the whole set
    epsilon  optimizer.lr       the run's; `scheduler=linear` lowers it to zero
    L        self.loss          mean over a mini-batch; L of W_k on the query set is logged

As in the official code, mini-batches are taken from one shuffle of the set after the other. They are random inputs:
indices `[T, steps, |B|]`, of the pooled support and query set in training, of the support set at test. Without random
inputs (`adapt(support)` from Python) every step takes the whole set.

Differences from the paper
    - Every task starts with v = 0. In the official code v carries over from task to task, and from training to test.
    - epsilon scales a step of `optimizer=sgd`; another meta-optimizer rescales the step, which is then not Reptile's.
    - Batch norm normalises queries according to the backbone's mode, by default all together ("transductive" in the
      paper).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from metarun.checks import NonNegative, is_int, require, require_choice, require_int
from metarun.learner.gradient_descent import mini_batches
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Task, TaskLoss

OPTIMIZERS = ("sgd", "adam")
BETA_2, EPS = 0.999, 1e-8


class Reptile(Learner):
    """Learns an initialisation that lies close to the weights that training on each task reaches.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_optimizer: U, `sgd` or `adam`.
        inner_steps: k in training.
        eval_steps: steps at which the headline is measured.
        inner_batch: examples in a mini-batch in training; None: all.
        eval_batch: examples in a mini-batch at test; None: all.

    Raises:
        ValueError: an unknown optimizer, steps that are not an integer of at least 0, or a batch that is neither an
            integer of at least 1 nor None.
    """

    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_optimizer: str,
        inner_steps: int,
        eval_steps: int,
        inner_batch: int | None,
        eval_batch: int | None,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        for name, size in {"inner_batch": inner_batch, "eval_batch": eval_batch}.items():
            require(f"algo.{name}", size, size is None or is_int(size, 1), "null or an integer of at least 1")
        require_choice("algo.inner_optimizer", inner_optimizer, OPTIMIZERS)
        self.net = backbone(outputs=outputs)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.inner_batch, self.eval_batch = inner_batch, eval_batch
        self.inner_optimizer = inner_optimizer

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> dict[str, Any]:
        assert isinstance(batch, Task)
        tasks, shots, queries = *batch.support.y.shape[:2], batch.query.y.shape[1]
        return {
            "pool": mini_batches(tasks, shots + queries, self.inner_steps, self.inner_batch, generator),
            "support": mini_batches(tasks, shots, steps, self.eval_batch, generator),
        }

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        for weights in self._inner_loop(support, steps, random_inputs["support"] if random_inputs else ()):
            yield self.functional_predictor(self.net, weights, support)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        """L of W_k on the query set (which W_k was trained on too), with the gradient theta - W_k."""
        pool = Examples(*map(torch.cat, zip(task.support, task.query, strict=True)))
        *_, adapted = self._inner_loop(pool, self.inner_steps, random_inputs["pool"] if random_inputs else ())
        value = self.loss(self.functional_predictor(self.net, adapted, task.support)(task.query.x), task.query.y)
        zeros = [((p - p.detach()) * (p.detach() - adapted[n])).sum() for n, p in self.net.named_parameters()]
        return value + torch.stack(zeros).sum()

    def _inner_loop(self, examples: Examples, steps: int, rows: Any) -> Iterator[dict[str, Tensor]]:
        """W_0, W_1, ..., W_steps, each a constant to autograd; `rows [steps, |B|]`, or () for the whole set."""
        weights = {name: p.detach() for name, p in self.net.named_parameters()}
        v = {name: torch.zeros_like(w) for name, w in weights.items()}
        yield weights
        for step in range(steps):
            batch = Examples(*(leaf[rows[step]] for leaf in examples)) if len(rows) else examples

            def batch_loss(weights: dict[str, Tensor], batch: Examples = batch) -> Tensor:
                return self.loss(self.functional_predictor(self.net, weights, batch)(batch.x), batch.y)

            gradient = grad(batch_loss)(weights)
            if self.inner_optimizer == "adam":
                v = {name: BETA_2 * v[name] + (1 - BETA_2) * g.square() for name, g in gradient.items()}
                bias_correction = 1 - BETA_2 ** (step + 1)
                gradient = {name: g / ((v[name] / bias_correction).sqrt() + EPS) for name, g in gradient.items()}
            weights = {name: w - self.inner_lr * gradient[name] for name, w in weights.items()}
            yield weights
