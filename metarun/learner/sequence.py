"""What learners share that are shown examples one by one and told their labels one step late, as Santoro et al. do.

At step t such a learner sees x_t and the label y_{t-1} of the example before, and says what x_t's label is. Only by
keeping x_{t-1} in mind until its label comes can it know the class when it meets it again.

    (s_t, state_t) = present(f(x_t), y_{t-1}, state_{t-1}),    y_0: none (zeros);    L = mean_t CE(s_t, y_t)

All tasks of a batch go side by side, a row each: recurrent networks are batched by nature, and vmap only costs.

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.learner.embedding import Embedding, one_hot
from metarun.learner.learner import Backbone, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Presentations, TaskLoss

State = Any  # tensors that lead with the row


class Recurrent(Embedding):
    """A network with a state that is told labels late. Its weights hold it to one number of ways.

    Args:
        backbone: makes f, from inputs `[n, ...]` to what is presented, `[n, d]`.
        outputs: ways.
        loss: the task loss.
    """

    stages = (Stage("sequences"),)
    evaluation_stream: ClassVar[str | None] = "sequences"
    supports_dropblock: ClassVar[bool] = False
    order_sensitive: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss) -> None:
        super().__init__(backbone, outputs, loss)

    @abstractmethod
    def start(self, rows: int, like: Tensor) -> State:
        """The state before anything is shown, of so many rows, on the device and of the type of `like`."""

    @abstractmethod
    def present(self, z: Tensor, told: Tensor, state: State) -> tuple[Tensor, State]:
        """Show z `[m, d]` and tell the labels of the step before, one-hot `[m, ways]` (zeros: none).

        Returns:
            The class scores of z `[m, ways]`, and the new state.
        """

    def predict_sequence(self, batch: Presentations, random_inputs: Any = ()) -> Tensor:
        del random_inputs  # draws nothing
        z = self.embed(batch.x)
        tasks, n = batch.y.shape
        hot = one_hot(batch.y.flatten(), self.ways, z.dtype).unflatten(0, (tasks, n))
        told = torch.cat([torch.zeros_like(hot[:, :1]), hot[:, :-1]], 1)
        state, scores = self.start(tasks, z), []
        for t in range(n):
            describe_job, state = self.present(z[:, t], told[:, t], state)
            scores.append(describe_job)
        return torch.stack(scores, 1)

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        if not isinstance(batch, Presentations):
            return super().forward(batch, random_inputs, objective)
        scores = self.predict_sequence(batch, random_inputs)
        return torch.stack([self.loss(s, y) for s, y in zip(scores, batch.y, strict=True)])

    def head(self, known: Examples, random_inputs: Any = ()) -> Predictor:
        """Shows the support set in its order; each query is then shown as the next example, with the last label."""
        del random_inputs
        told = one_hot(known.y, self.ways, known.x.dtype)
        state, late = self.start(1, known.x), torch.zeros_like(told[:1])
        for t in range(len(told)):
            _, state = self.present(known.x[t : t + 1], late, state)
            late = told[t : t + 1]

        def predict(z: Tensor) -> Tensor:
            rows = torch.utils._pytree.tree_map(lambda leaf: leaf.expand(len(z), *leaf.shape[1:]), state)
            return self.present(z, late.expand(len(z), -1), rows)[0]

        return predict
