"""GNN: a graph neural network passes the support set's labels on to a query.

Garcia, Bruna: Few-Shot Learning with Graph Neural Networks, ICLR 2018, arXiv 1711.04043. Official code: github
vgsatorras/few-shot-gnn (models/gnn_iclr.py, models/models.py).

Inner problem, solved at once; one graph for each query x, its nodes the n support examples and the query:
    v_i = [f(x_i), one-hot(y_i)],   v_query = [f(x), 0]
    A_ij = softmax over j /= i of MLP(| v_i - v_j |)                                 (edges, of each layer its own)
    v <- [v, rho(norm( v B + (A v) C ))]                                             (a graph layer, two of them)
    p(y = k | x) = softmax_k of (v B + (A v) C)_query                                (the last layer)
Outer problem, over tasks with query sets D':
    min_{f, edges, layers}  mean_i mean_{(x, y) in D'_i}  - log p(y | x)

    symbol   code             shape / unit
    f        self.net         the backbone with a last, linear layer and a norm, to [n, embedding]
    v        v                [m, n + 1, width], m graphs; the query is the last node
    MLP      EdgeWeights      widths 2, 2, 1, 1 times `features`; norm and leaky ReLU after each; linear to one number
    A        EdgeWeights      [m, n + 1, n + 1]; rows sum to one, zeros on the diagonal
    B, C     GraphLayer       one linear layer of [v, A v]; to features / 2, the last one to ways
    rho      leaky ReLU       slope 0.01

Differences from the paper
    - The query's label is zeros, as in the official code; the paper is said to have 1 / ways everywhere (not verified).
    - f is the run's backbone; the official ones have leaky ReLU, for mini-ImageNet 64 to 256 filters and dropout.
    - One form of the graph network, the official code's for mini-ImageNet; for Omniglot the code's edge networks are of
      other widths, its last has dropout, and its last layer a norm.
    - In training the norms see a task's graphs together, at test running statistics; the official code's see a batch of
      tasks. The graphs of a task's queries share nothing else.
    - The official code has one query a task; here all of them, a graph each. No unlabelled images, no active learning.
    - Optimizer and schedule are the run's; the official code decays weights by 1e-6 on mini-ImageNet.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.layers.norm import make_norm
from metarun.learner.embedding import Embedding, one_hot, with_output_width
from metarun.learner.learner import Backbone, require_counts, require_positive
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss

NORMS = ("running", "layer", "none")


class EdgeWeights(nn.Module):
    """A of nodes v `[m, N, width]`: `[m, N, N]`, each row a distribution over the other nodes."""

    def __init__(self, width: int, features: int, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out in (2 * features, 2 * features, features, features):
            # A bias would vanish in the norm, and the last one's in the softmax.
            layers += [nn.Linear(width, out, bias=norm == "none"), make_norm(norm, out), nn.LeakyReLU()]
            width = out
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1, bias=False))

    def forward(self, v: Tensor) -> Tensor:
        m, nodes, width = v.shape
        apart = (v[:, :, None] - v[:, None]).abs()
        scores = self.mlp(apart.reshape(-1, width)).view(m, nodes, nodes)
        itself = torch.eye(nodes, dtype=torch.bool, device=v.device)
        return scores.masked_fill(itself, -torch.inf).softmax(2)


class GraphLayer(nn.Module):
    """`v B + (A v) C`: from nodes `[m, N, width]` and their edges `[m, N, N]` to `[m, N, out]`; then a norm."""

    def __init__(self, width: int, out: int, norm: str) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, out, bias=norm == "none")
        self.norm = make_norm(norm, out)

    def forward(self, v: Tensor, edges: Tensor) -> Tensor:
        out = self.linear(torch.cat([v, edges @ v], 2))
        return self.norm(out.flatten(0, 1)).view(out.shape)


class GNN(Embedding):
    """Class scores of a query are what a graph network makes of its node, beside those of the support set.

    Args:
        backbone: makes f, `backbone(outputs=embedding)`.
        outputs: ways. Labels are part of a node, so training and test tasks must have equally many classes.
        loss: the task loss.
        embedding: width of f(x).
        features: of the edge networks; a graph layer adds half as many to each node. Even.
        layers: graph layers before the last one.
        norm: `running`, `layer` or `none`. Its batches are nodes or pairs of them, so the modes that tell support from
            query rows have no meaning.

    Raises:
        ValueError: another norm, odd features, or counts that are no whole numbers of at least one (layers: of zero).
    """

    def __init__(
        self, backbone: Backbone, outputs: int, loss: TaskLoss, embedding: int, features: int, layers: int, norm: str
    ) -> None:
        require_counts(embedding=embedding, features=features, layers=layers)
        require_positive(embedding=embedding, features=features)
        if features % 2:
            raise ValueError(f"features must be even, a graph layer has half as many; got {features}")
        if norm not in NORMS:
            raise ValueError(f"norm of the graph network must be one of {', '.join(NORMS)}; got {norm!r}")

        super().__init__(with_output_width(embedding, backbone), outputs, loss)
        self.net = nn.Sequential(self.net, make_norm(norm, embedding))
        self.edges, self.layers = nn.ModuleList(), nn.ModuleList()
        for number in range(layers + 1):
            width = embedding + outputs + number * (features // 2)
            self.edges.append(EdgeWeights(width, features, norm))
            last = number == layers
            self.layers.append(GraphLayer(width, outputs if last else features // 2, "none" if last else norm))

    def head(self, known: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        support = torch.cat([known.x, one_hot(known.y, self.ways, known.x.dtype)], 1)

        def predict(z: Tensor) -> Tensor:
            query = F.pad(z, (0, self.ways))  # its label: zeros
            v = torch.cat([support.expand(len(z), *support.shape), query[:, None]], 1)
            *layers, last = zip(self.edges, self.layers, strict=True)
            for edges, layer in layers:
                v = torch.cat([v, F.leaky_relu(layer(v, edges(v)))], 2)
            edges, layer = last
            return layer(v, edges(v))[:, -1]

        return predict
