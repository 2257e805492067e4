"""The base class of learners that see examples one by one and their labels one step late, as in Santoro et al. (2016).

At step t such a learner sees x_t and the label y_{t-1} of the example before it, and predicts the label of x_t. It can
recognise a class only if it remembers x_{t-1} until its label arrives.

    (s_t, state_t) = present(f(x_t), y_{t-1}, state_{t-1}),    y_0: none (zeros);    L = mean_t CE(s_t, y_t)

No image may see later ones, so of batch norm only the mode `running` is allowed. In training it normalises an image
with its whole sequence, later images too; in validation and test by the running statistics alone.

All tasks of a batch run side by side, one row each: recurrent networks are batched by themselves, vmap only costs time.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun.learner.embedding import Embedding, one_hot
from metarun.learner.learner import Backbone, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Presentations, TaskLoss

State = Any  # tensors whose leading dimension is the row


class Recurrent(Embedding):
    """A network with a state, which gets labels one step late. Its weights fix the number of ways.

    Args:
        backbone: makes f, from inputs `[n, ...]` to what is presented, `[n, d]`.
        outputs: ways.
        loss: the task loss.
    """

    stages = (Stage("sequences"),)
    evaluation_stream: ClassVar[str | None] = "sequences"
    batch_norm_modes: ClassVar[tuple[str, ...]] = ("running",)
    supports_dropblock: ClassVar[bool] = False
    order_sensitive: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss) -> None:
        super().__init__(backbone, outputs, loss)

    @abstractmethod
    def start(self, rows: int, like: Tensor) -> State:
        """The state before the first example, for a number of rows, on the device and of the type of `like`."""

    @abstractmethod
    def present(self, z: Tensor, label: Tensor, state: State) -> tuple[Tensor, State]:
        """Present an example of each row, and the label of the example before it.

        Args:
            z: embeddings `[m, d]`.
            label: of the step before, one-hot `[m, ways]`; zeros: none.
            state: from the step before.

        Returns:
            The class scores of z `[m, ways]`, and the new state.
        """

    def predict_sequence(self, batch: Presentations, random_inputs: Any = ()) -> Tensor:
        del random_inputs  # draws nothing
        z = self.embed(batch.x)
        tasks, n = batch.y.shape
        labels = one_hot(batch.y.flatten(), self.ways, z.dtype).unflatten(0, (tasks, n))
        previous = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], 1)
        state, scores = self.start(tasks, z), []
        for t in range(n):
            score, state = self.present(z[:, t], previous[:, t], state)
            scores.append(score)
        return torch.stack(scores, 1)

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        if not isinstance(batch, Presentations):
            return super().forward(batch, random_inputs, objective)
        scores = self.predict_sequence(batch, random_inputs)
        return torch.stack([self.loss(s, y) for s, y in zip(scores, batch.y, strict=True)])

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """Present the support set in its order, then each query as the next example, with the last label."""
        del random_inputs
        labels = one_hot(support.y, self.ways, support.x.dtype)
        state, previous = self.start(1, support.x), torch.zeros_like(labels[:1])
        for t in range(len(labels)):
            _, state = self.present(support.x[t : t + 1], previous, state)
            previous = labels[t : t + 1]

        def predict(z: Tensor) -> Tensor:
            rows = pytree.tree_map(lambda leaf: leaf.expand(len(z), *leaf.shape[1:]), state)
            return self.present(z, previous.expand(len(z), -1), rows)[0]

        return predict
