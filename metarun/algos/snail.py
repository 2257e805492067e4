"""SNAIL: support set and query form one sequence, processed by alternating causal convolutions and attention.

Mishra, Rohaninejad, Chen, Abbeel: A Simple Neural Attentive Meta-Learner, ICLR 2018, arXiv 1707.03141. No official code
was found; "the port" is github eambutu/snail-pytorch (src/snail.py, blocks.py, train.py).

Inner problem, without optimisation; for each query x a sequence of T = n + 1 items, the n support examples in random
order and the query:
    [f(x_1), y_1], ..., [f(x_n), y_n], [f(x), 0]
    -> attention -> temporal convolutions -> attention -> temporal convolutions -> attention -> s = W (item T) + b
  where an item sees itself and earlier items:
    attention:              add sum_j a_tj v_j,    a_t = softmax over j <= t of q_t . k_j / sqrt(width of k)
    temporal convolutions:  for d = 1, 2, 4, ... below T,    add tanh(V_d [x_{t-d}, x_t]) * sigma(U_d [x_{t-d}, x_t])
Outer problem, over tasks with query sets D':
    min  mean_i mean_{(x, y) in D'_i}  CE(s(x, D_i), y)                               (of item T alone)

    symbol       code                      shape / unit
    f            self.net                  the backbone with a last layer of `embedding` units, [n, d]
    [f(x), y]    x, in head                [n + m, d + ways]: m queries end a sequence each, which share the first n
    layers       self.layers               layers/causal.py; each concatenates channels to its input
    q, k; v      attention                 widths of each attention: of q and k, and of v
    V, U         filters                   channels that one convolution adds
    order        random_inputs             permutations [tasks, n], sampled in training and at test
    W, b         self.classifier           to ways

Differences from the paper
    - Each query of a task has its own sequence; the paper has one query per task. The loss is that of the last item
      only, as in the paper.
    - Dilations start at 1 and just span the sequence. The port's start at 2: its convolutions skip the previous item.
    - The port's softmax runs over the items of the queries q, the wrong axis; here it runs over those of the keys k.
    - f is the run's backbone and a linear layer; for mini-ImageNet the paper has a special residual network.
    - Batch norm normalises the images of a task together, whatever their order. Only the last item is predicted, so no
      prediction sees a later item; in mode `batch` it sees the task's other queries.
    - Without random inputs (`adapt(support)`) the order is that of the support set; in training it is shuffled.
    - Optimizer and schedule are the run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.checks import is_int, require, require_int
from metarun.layers.causal import CausalAttention, TemporalConvolution
from metarun.learner.embedding import Embedding, one_hot, with_output_width
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Task, TaskLoss


class SNAIL(Embedding):
    """Reads labelled examples and then a query, whose class scores are computed from the last item.

    Args:
        backbone: makes f, `backbone(outputs=embedding)`.
        outputs: ways. Labels are part of an item, so training and test tasks must have the same number of classes.
        loss: the task loss.
        embedding: width of f(x).
        attention: widths [keys, values] of each attention; temporal convolutions stand between two of them.
        filters: channels that each convolution adds.
        shots: support examples per class for which the convolutions span a whole sequence. Tasks may have other
            numbers of shots; the start of a longer sequence is seen by attention alone.

    Raises:
        ValueError: a count that is not an integer of at least 1, no attention, or one that is not two such counts.
    """

    order_sensitive: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        embedding: int,
        attention: Sequence[Sequence[int]],
        filters: int,
        shots: int,
    ) -> None:
        require_int("algo", minimum=1, embedding=embedding, filters=filters, shots=shots)
        are_pairs = len(attention) > 0 and all(_is_pair_of_widths(widths) for widths in attention)
        require("algo.attention", attention, are_pairs, "a list of at least one [keys, values], integers of at least 1")

        super().__init__(with_output_width(embedding, backbone), outputs, loss)
        blocks = (outputs * shots).bit_length()  # the smallest number whose power of 2 is at least T
        self.layers, channels = nn.ModuleList(), embedding + outputs
        for index, (keys, values) in enumerate(attention):
            if index:
                self.layers.append(TemporalConvolution(channels, filters, blocks))
                channels += blocks * filters
            self.layers.append(CausalAttention(channels, keys, values))
            channels += values
        self.classifier = nn.Linear(channels, outputs)

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """The order of the support examples in each task's sequences, `[tasks, n]`."""
        shape = cast(Task, batch).support.y.shape
        return torch.rand(shape, device=generator.device, generator=generator).argsort(1)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        n = len(support.y)
        support_items = torch.cat([support.x, one_hot(support.y, self.ways, support.x.dtype)], 1)
        if isinstance(random_inputs, Tensor):
            support_items = support_items[random_inputs]

        def predict(z: Tensor) -> Tensor:
            x = torch.cat([support_items, F.pad(z, (0, self.ways))])  # zeros for the unknown labels of queries
            for layer in self.layers:
                x = layer(x, n)
            return self.classifier(x[n:])

        return predict


def _is_pair_of_widths(widths: Any) -> bool:
    return isinstance(widths, Sequence) and len(widths) == 2 and all(is_int(width, 1) for width in widths)
