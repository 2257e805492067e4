"""Relation network: a small convolutional network learns to score the similarity of two images.

Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning, CVPR 2018,
arXiv 1711.06025. Official code: github floodsung/LearningToCompare_FSL (omniglot/omniglot_train_few_shot.py).

Inner problem, solved at once:
    s_k = sum of f(x) over the support examples of class k
    r_k(x) = g([s_k, f(x)])  in (0, 1)                                               (eq. 1)
Outer problem, over tasks with query sets D':
    min_{f, g}  mean_i mean_{(x, y) in D'_i} mean_k (r_k(x) - 1[y = k])^2            (eq. 2)

A query is assigned the class with the largest r.

    symbol   code             shape / unit
    f        self.net         the backbone without a last layer, to maps [n, c, h, w] (vectors [n, c] are maps of 1x1)
    s        sums             [ways, c, h, w]
    g        self.comparator  two blocks of convolution, norm, ReLU, pooling; linear to `hidden`, ReLU, linear, sigmoid
    log r    head's scores    [m, ways]

Differences from the paper
    - Batch norm has running statistics. In the official code (momentum 1) they are those of the last batch; as its
      networks stay in training mode, these are the query batch's own at test.
    - All convolutions are padded; in the official code the embedding's first two are not, nor, for mini-ImageNet, the
      comparator's. The official maps are 5x5 (28x28 images) and 19x19 (84x84), ours 7x7 and 21x21.
    - Maps smaller than 2x2 are not pooled.
    - Weights are initialised as in torch; the official code uses He's initialisation, and in linear layers a standard
      deviation of 0.01 and bias 1.
    - Scores are log r, so that their softmax is r divided by its sum: accuracies are those of the paper, `nll` is that
      of the softmax.
    - An outer step takes `run.meta_batch_size` tasks, the paper's takes one. Optimizer and schedule are the run's.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.checks import require_choice, require_int
from metarun.layers.norm import make_norm
from metarun.learner.embedding import Embedding, feature_dim, one_hot
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Prediction, Predictor
from metarun.tasks import Examples, TaskLoss

NORMS = ("running", "layer", "group", "none")


class Comparator(nn.Module):
    """g before its sigmoid: from pairs of maps `[n, 2 c, h, w]` to one number each, `[n]`.

    Args:
        in_shape: (c, h, w) of one of the two maps.
        hidden: units of the first linear layer.
        norm: a name of `metarun.layers.norm.make_norm`.
    """

    def __init__(self, in_shape: tuple[int, int, int], hidden: int, norm: str) -> None:
        super().__init__()
        c, *size = in_shape
        layers: list[nn.Module] = []
        for channels in (2 * c, c):
            # A bias before a norm has no effect.
            layers += [nn.Conv2d(channels, c, 3, padding=1, bias=norm == "none"), make_norm(norm, c), nn.ReLU()]
            if min(size) >= 2:
                layers.append(nn.MaxPool2d(2))
                size = [side // 2 for side in size]
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Sequential(nn.Linear(c * size[0] * size[1], hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        return self.linear(self.blocks(pairs).flatten(1)).squeeze(1)


class RelationNet(Embedding):
    """A class score is the logarithm of a learned relation between a query's map and the sum of the class's maps.

    Args:
        backbone, ways, loss: as in `Embedding`; the loss is not used, as the paper has its own.
        hidden: units of the comparator's first linear layer.
        norm: of the comparator: `running`, `layer`, `group` or `none`. Its batches are pairs, so the modes that
            separate support from query rows do not apply.

    Raises:
        ValueError: `hidden` is not an integer of at least 1, or another norm.
    """

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss, hidden: int, norm: str) -> None:
        require_int("algo", minimum=1, hidden=hidden)
        require_choice("algo.norm", norm, NORMS)
        super().__init__(backbone, ways, loss)
        self.comparator = Comparator(self._map_shape(backbone), hidden, norm)

    def _map_shape(self, backbone: Backbone) -> tuple[int, int, int]:
        shape = getattr(self.net, "out_shape", None)
        if shape is None:  # the network ends in vectors
            shape = (feature_dim(backbone),)
        return (*shape, 1, 1)[:3]

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        maps = _as_maps(support.x)
        sums = torch.einsum("nk,nchw->kchw", one_hot(support.y, self.ways, maps.dtype), maps)

        def predict(z: Tensor) -> Tensor:
            queries = _as_maps(z)
            # One pass over all pairs, so that a running norm sees them once.
            shape = (len(queries), len(sums), *sums.shape[1:])
            pairs = torch.cat([sums.expand(shape), queries[:, None].expand(shape)], 2)
            return F.logsigmoid(self.comparator(pairs.flatten(0, 1))).view(shape[:2])

        return predict

    def query_loss(self, prediction: Prediction, y: Tensor) -> Tensor:
        relations = cast(Tensor, prediction).exp()
        return F.mse_loss(relations, one_hot(y, self.ways, relations.dtype))

    def parameter_groups(self) -> list[dict]:
        """Separate groups for embedding and comparator: each is clipped by its own norm, as in the official code."""
        return [{"name": name, "params": list(getattr(self, name).parameters())} for name in ("net", "comparator")]


def _as_maps(z: Tensor) -> Tensor:
    """Vectors `[n, c]` as maps of one position; maps unchanged."""
    return z if z.dim() == 4 else z[:, :, None, None]
