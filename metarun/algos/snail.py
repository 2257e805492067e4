"""SNAIL: the support set and a query are read as one sequence, by causal convolutions and attention in turn.

Mishra, Rohaninejad, Chen, Abbeel: A Simple Neural Attentive Meta-Learner, ICLR 2018, arXiv 1707.03141. No official
code was found; read: github eambutu/snail-pytorch (src/snail.py, blocks.py, train.py), "the port".

Inner problem, no optimisation; for each query x a sequence of T = n + 1 items, the n support examples in random order:
    [f(x_1), y_1], ..., [f(x_n), y_n], [f(x), 0]
    -> attention -> temporal convolutions -> attention -> temporal convolutions -> attention -> s = W (item T) + b
  and an item sees itself and those before it:
    attention:              add sum_j a_tj v_j,    a_t = softmax over j <= t of q_t . k_j / sqrt(width of k)
    temporal convolutions:  for d = 1, 2, 4, ... below T,    add tanh(V_d [x_{t-d}, x_t]) * sigma(U_d [x_{t-d}, x_t])
Outer problem, over tasks with query sets D':
    min  mean_i mean_{(x, y) in D'_i}  CE(s(x, D_i), y)                               (of item T alone)

    symbol       code                      shape / unit
    f            self.net                  the backbone with a last layer of `embedding` units, [n, d]
    [f(x), y]    x, in head                [n + m, d + ways], m queries: the end of a sequence each, the start is shared
    the layers   self.layers               backbones/causal.py; each adds channels to those it is given
    q, k; v      attention                 widths of each attention: of q and k, and of v
    V, U         filters                   channels that one convolution adds
    the order    noise                     permutations [T, n], drawn in training and at test
    W, b         self.classifier           to ways

Differences from the paper
    - All queries of a task, a sequence each; the paper has one a task. The loss is of the last item only, as there.
    - Dilations start at 1 and just span the sequence. The port's start at 2: its convolutions skip the item before.
    - The port's softmax goes over the asking items, the wrong axis; here it goes over the items that are asked.
    - f is the run's backbone and a linear layer; the paper's for mini-ImageNet is a residual network of its own.
    - Without noise (`adapt(support)`) the order is that of the support set; training has them shuffled.
    - Optimizer and schedule are the run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.layers.causal import CausalAttention, TemporalConvolution
from metarun.learner.embedding import Embedding, one_hot, with_output_width
from metarun.learner.learner import Backbone, require_counts
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Task, TaskLoss


class SNAIL(Embedding):
    """Reads labelled examples and then a query, whose class scores are made of the last item.

    Args:
        backbone: makes f, `backbone(outputs=embedding)`.
        outputs: ways. Labels are part of an item, so training and test tasks must have equally many classes.
        loss: the task loss.
        embedding: width of f(x).
        attention: widths of keys and of values of each attention; temporal convolutions stand between them.
        filters: channels that each convolution adds.
        shots: support examples of a class, for which the convolutions span a whole sequence. Other numbers will do too:
            of a longer sequence the start is seen by attention alone.

    Raises:
        ValueError: counts that are no whole numbers of at least 1, no attention, or one that is not two counts.
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
        require_counts(least=1, embedding=embedding, filters=filters, shots=shots)
        if not attention or any(len(widths) != 2 for widths in attention):
            raise ValueError(f"attention must be a list of [keys, values], at least one; got {attention}")
        for keys, values in attention:
            require_counts(least=1, attention_keys=keys, attention_values=values)

        super().__init__(with_output_width(embedding, backbone), outputs, loss)
        spanning = (outputs * shots).bit_length()  # the smallest number whose power of 2 is at least T
        self.layers, channels = nn.ModuleList(), embedding + outputs
        for number, (keys, values) in enumerate(attention):
            if number:
                self.layers.append(TemporalConvolution(channels, filters, spanning))
                channels += spanning * filters
            self.layers.append(CausalAttention(channels, keys, values))
            channels += values
        self.classifier = nn.Linear(channels, outputs)

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """The order in which support examples are shown, `[T, n]`."""
        shape = cast(Task, batch).support.y.shape
        return torch.rand(shape, device=generator.device, generator=generator).argsort(1)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        told, n = torch.cat([support.x, one_hot(support.y, self.ways, support.x.dtype)], 1), len(support.y)
        if isinstance(random_inputs, Tensor):
            told = told[random_inputs]

        def predict(z: Tensor) -> Tensor:
            x = torch.cat([told, F.pad(z, (0, self.ways))])  # queries have zeros for a label
            for layer in self.layers:
                x = layer(x, n)
            return self.classifier(x[n:])

        return predict
