"""GNN: a graph neural network propagates the labels of the support set to a query.

Garcia, Bruna: Few-Shot Learning with Graph Neural Networks, ICLR 2018, arXiv 1711.04043. Official code: github
vgsatorras/few-shot-gnn (models/gnn_iclr.py, models/models.py).

Inner problem, solved at once; one graph for each query x, its nodes the n support examples and the query:
    v_i = [f(x_i), one-hot(y_i)],   v_query = [f(x), 0]
    A_ij = softmax over j /= i of MLP(| v_i - v_j |)                                 (edges; each layer has its own)
    v <- [v, rho(norm( v B + (A v) C ))]                                             (a graph layer, two of them)
    p(y = k | x) = softmax_k of (v B + (A v) C)_query                                (the last layer)
Outer problem, over tasks with query sets D':
    min_{f, edges, layers}  mean_i mean_{(x, y) in D'_i}  - log p(y | x)

    symbol   code             shape / unit
    f        self.net         the backbone with a linear last layer and a norm, to [n, embedding]
    v        v                [m, n + 1, width], m graphs; the query is the last node
    MLP      EdgeWeights.mlp  widths 2, 2, 1, 1 times `features`; norm and leaky ReLU after each; linear to one number
    A        edges(v)         [m, n + 1, n + 1]; rows sum to one, zeros on the diagonal
    B, C     GraphLayer       one linear layer on [v, A v]; to features / 2, the last one to ways
    rho      F.leaky_relu     slope 0.01

Differences from the paper
    - The query's label is zeros, as in the official code; the paper is said to have 1 / ways everywhere (not verified).
    - f is the run's backbone; the official ones have leaky ReLU, and for mini-ImageNet 64 to 256 filters and dropout.
    - There is one form of the graph network, that of the official code for mini-ImageNet. For Omniglot the official
      edge networks have other widths, the last one has dropout, and the last layer has a norm.
    - The norms see a task's graphs together in training and use running statistics at test; the official norms see a
      batch of tasks. The graphs of a task's queries share nothing else.
    - The official code has one query per task; here each query of a task has its own graph. Unlabelled images and
      active learning are not implemented.
    - Optimizer and schedule are the run's; the official code uses a weight decay of 1e-6 on mini-ImageNet.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.checks import require, require_choice, require_int
from metarun.layers.norm import make_norm
from metarun.learner.embedding import Embedding, one_hot, with_output_width
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss

NORMS = ("running", "layer", "none")


class EdgeWeights(nn.Module):
    """A of nodes v `[m, N, width]`: `[m, N, N]`, each row a distribution over the other nodes."""

    def __init__(self, width: int, features: int, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out in (2 * features, 2 * features, features, features):
            # A bias before a norm has no effect, nor has one before the softmax.
            layers += [nn.Linear(width, out, bias=norm == "none"), make_norm(norm, out), nn.LeakyReLU()]
            width = out
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1, bias=False))

    def forward(self, v: Tensor) -> Tensor:
        m, nodes, width = v.shape
        differences = (v[:, :, None] - v[:, None]).abs()
        scores = self.mlp(differences.reshape(-1, width)).view(m, nodes, nodes)
        diagonal = torch.eye(nodes, dtype=torch.bool, device=v.device)
        return scores.masked_fill(diagonal, -torch.inf).softmax(2)


class GraphLayer(nn.Module):
    """`v B + (A v) C`, then a norm: from nodes `[m, N, width]` and their edges `[m, N, N]` to `[m, N, out]`."""

    def __init__(self, width: int, out: int, norm: str) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, out, bias=norm == "none")
        self.norm = make_norm(norm, out)

    def forward(self, v: Tensor, edges: Tensor) -> Tensor:
        out = self.linear(torch.cat([v, edges @ v], 2))
        return self.norm(out.flatten(0, 1)).view(out.shape)


class GNN(Embedding):
    """A graph network over the support set and one query outputs the class scores at the query's node.

    Args:
        backbone: makes f, `backbone(outputs=embedding)`.
        outputs: ways. Labels are part of a node, so training and test tasks must have the same number of classes.
        loss: the task loss.
        embedding: width of f(x).
        features: width of the edge networks; a graph layer adds half as many features to each node. Even.
        layers: number of graph layers before the last one.
        norm: `running`, `layer` or `none`. Its batches are nodes or pairs of nodes, so the modes that separate support
            from query rows do not apply.

    Raises:
        ValueError: another norm, odd features, or a count that is not an integer of at least 1 (layers: of at least 0).
    """

    def __init__(
        self, backbone: Backbone, outputs: int, loss: TaskLoss, embedding: int, features: int, layers: int, norm: str
    ) -> None:
        require_int("algo", minimum=1, embedding=embedding, features=features)
        require_int("algo", layers=layers)
        require("algo.features", features, features % 2 == 0, "even, as a graph layer has half as many")
        require_choice("algo.norm", norm, NORMS)

        super().__init__(with_output_width(embedding, backbone), outputs, loss)
        self.net = nn.Sequential(self.net, make_norm(norm, embedding))
        self.edges, self.layers = nn.ModuleList(), nn.ModuleList()
        for index in range(layers + 1):
            width = embedding + outputs + index * (features // 2)
            self.edges.append(EdgeWeights(width, features, norm))
            last = index == layers
            self.layers.append(GraphLayer(width, outputs if last else features // 2, "none" if last else norm))

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        support_nodes = torch.cat([support.x, one_hot(support.y, self.ways, support.x.dtype)], 1)

        def predict(z: Tensor) -> Tensor:
            query_nodes = F.pad(z, (0, self.ways))  # zeros for the unknown label
            v = torch.cat([support_nodes.expand(len(z), *support_nodes.shape), query_nodes[:, None]], 1)
            *layers, last = zip(self.edges, self.layers, strict=True)
            for edges, layer in layers:
                v = torch.cat([v, F.leaky_relu(layer(v, edges(v)))], 2)
            edges, layer = last
            return layer(v, edges(v))[:, -1]

        return predict
