"""Relation network: a small convolutional network is taught to say how alike two images are.

Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning, CVPR 2018,
arXiv 1711.06025. Official code: github floodsung/LearningToCompare_FSL (omniglot/omniglot_train_few_shot.py).

Inner problem, solved at once:
    s_k = sum of f(x) over the support examples of class k
    r_k(x) = g([s_k, f(x)])  in (0, 1)                                               (eq. 1)
Outer problem, over tasks with query sets D':
    min_{f, g}  mean_i mean_{(x, y) in D'_i} mean_k (r_k(x) - 1[y = k])^2            (eq. 2)

A query's class is that of the largest r.

    symbol   code             shape / unit
    f        self.net         the backbone without a last layer, to maps [n, c, h, w] (vectors [n, c] are maps of 1x1)
    s        sums             [ways, c, h, w]
    g        self.comparator  two blocks of convolution, norm, ReLU, pooling; linear to `hidden`, ReLU, linear, sigmoid
    log r    head's scores    [m, ways]

Differences from the paper
    - Batch norm has running statistics; the official code's, of momentum 1, are those of the last batch, which at test
      is the query batch's own where its networks stay in training mode, as they do.
    - All convolutions are padded; in the official code the embedding's first two are not, and for mini-ImageNet the
      comparator's are not. Its maps are 5x5 (28x28 images) and 19x19 (84x84), ours 7x7 and 21x21.
    - Pooling is left out where a map has become smaller than 2x2.
    - Weights start as torch's; the official code has He's, and linear layers of standard deviation 0.01 with bias 1.
    - Scores are log r, so that their softmax is r over its sum: accuracies are the paper's, `nll` is of that softmax.
    - `run.meta_batch_size` tasks an outer step; the paper takes one. Optimizer and schedule are the run's.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.layers.norm import make_norm
from metarun.learner.embedding import Embedding, feature_dim, one_hot
from metarun.learner.learner import Backbone, require_counts, require_positive
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
            # A bias would vanish in the norm.
            layers += [nn.Conv2d(channels, c, 3, padding=1, bias=norm == "none"), make_norm(norm, c), nn.ReLU()]
            if min(size) >= 2:
                layers.append(nn.MaxPool2d(2))
                size = [side // 2 for side in size]
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Sequential(nn.Linear(c * size[0] * size[1], hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        return self.linear(self.blocks(pairs).flatten(1)).squeeze(1)


class RelationNet(Embedding):
    """Class scores are the logarithms of a learned relation between a query's map and the sum of the class's maps.

    Args:
        backbone, ways, loss: as in `Embedding`; the loss is not used, the paper has its own.
        hidden: units of the comparator's first linear layer.
        norm: of the comparator: `running`, `layer`, `group` or `none`. Its batches are pairs, so the modes that tell
            support from query rows have no meaning.

    Raises:
        ValueError: no hidden unit, another norm.
    """

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss, hidden: int, norm: str) -> None:
        require_counts(hidden=hidden)
        require_positive(hidden=hidden)
        if norm not in NORMS:
            raise ValueError(f"norm of the comparator must be one of {', '.join(NORMS)}; got {norm!r}")
        super().__init__(backbone, ways, loss)
        self.comparator = Comparator(self._map_shape(backbone), hidden, norm)

    def _map_shape(self, backbone: Backbone) -> tuple[int, int, int]:
        shape = getattr(self.net, "out_shape", None)
        if shape is None:  # of a network that ends in vectors
            shape = (feature_dim(backbone),)
        return (*shape, 1, 1)[:3]

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        maps = _as_maps(support.x)
        sums = torch.einsum("nk,nchw->kchw", one_hot(support.y, self.ways, maps.dtype), maps)

        def predict(z: Tensor) -> Tensor:
            asked = _as_maps(z)
            # One pass over all pairs, so that a running norm sees them once.
            shape = (len(asked), len(sums), *sums.shape[1:])
            pairs = torch.cat([sums.expand(shape), asked[:, None].expand(shape)], 2)
            return F.logsigmoid(self.comparator(pairs.flatten(0, 1))).view(shape[:2])

        return predict

    def query_loss(self, prediction: Prediction, y: Tensor) -> Tensor:
        relations = cast(Tensor, prediction).exp()
        return F.mse_loss(relations, one_hot(y, self.ways, relations.dtype))

    def parameter_groups(self) -> list[dict]:
        """Embedding and comparator apart: gradients are clipped by each one's norm, as in the official code."""
        return [{"name": name, "params": list(getattr(self, name).parameters())} for name in ("net", "comparator")]


def _as_maps(z: Tensor) -> Tensor:
    """Vectors `[n, c]` as maps of one position; maps as they are."""
    return z if z.dim() == 4 else z[:, :, None, None]
