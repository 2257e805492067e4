"""The base class of learners whose network is first trained to classify the training classes, in mini-batches.

Outer problem of that stage (stream `batches`), over mini-batches F_i of images with their training classes:
    min_{f, C}  mean_i L(s_C(f(x)), y; F_i)
Inner problem: stated by the algorithms that use it. A head on the embeddings is adapted in steps, f is not, so that
    images are embedded once: support set D -> z = f(D) -> heads H_0, H_1, ...;   class scores of a query x: s_H(f(x))

The scores of a layer, of C or of a head, are
    linear  s(z)_k = w_k . z + b_k               cosine  s(z)_k = tau g_k cos(w_k, z)

    symbol   code              shape / unit
    f        self.net          the backbone without a last layer, to embeddings [n, d]
    C        self.classifier   weight w [base_classes, d], and bias b or length g [base_classes]
    tau      scale             0-dim; of C `train_scale`
    L        self.loss         mean over a set's examples

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.checks import require_choice, require_int, require_positive
from metarun.layers.norm import uses_support_statistics
from metarun.learner.embedding import Embedding, feature_dim
from metarun.learner.learner import Backbone, Learner, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, DataError, Examples, TaskLoss, TaskSet

Layer = Mapping[str, Tensor]
LAYERS = ("linear", "cosine")


class Pretrained(Embedding):
    """An embedding trained by a classifier of the training classes, and a head on it that is adapted in steps.

    Args:
        backbone, ways, loss: as in `Embedding`.
        base_classes: units of the classifier C, at least the number of classes of the training split.
        classifier: `linear` or `cosine`.
        train_scale: tau of a cosine classifier.

    Raises:
        ValueError: an argument out of range; in training, fewer units than classes.
    """

    stages: tuple[Stage, ...] = (Stage("batches"),)
    supports_dropblock: ClassVar[bool] = False
    train_scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        loss: TaskLoss,
        base_classes: int,
        classifier: str = "linear",
        train_scale: float = 1.0,
    ) -> None:
        require_int("algo", minimum=1, base_classes=base_classes)
        require_positive("algo", train_scale=train_scale)
        require_choice("algo.classifier", classifier, LAYERS)
        super().__init__(backbone, ways, loss)
        self.register_hyperparameter("train_scale", train_scale)
        self.width = feature_dim(backbone)
        weight = (2 * torch.rand(base_classes, self.width) - 1) * init_bound(self.width)
        self.classifier = nn.ParameterDict(layer(classifier, weight))

    @abstractmethod
    def heads(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        """Yield the predictors of embeddings `[m, d]` after 0, 1, ..., `steps` steps on the embedded support set."""

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        *_, last = self.heads(support, self.inner_steps if self.training else self.eval_steps, random_inputs)
        return last

    def features(self, support: Examples) -> Predictor:
        """Make the function from images to embeddings that tasks are solved with."""
        return self.functional_predictor(self.net, dict(self.net.named_parameters()), support)

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        return Learner.adapt(self, support, random_inputs)  # by `trajectory`

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        embed = self.memoized(self.features(support))
        for head in self.heads(Examples(embed(support.x), support.y), steps, random_inputs):
            yield lambda x, head=head: head(embed(x))  # type: ignore[misc]

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """Losses `[T]` of mini-batches of images; batch norm normalises each with its own statistics."""
        del random_inputs, objective
        require_base_classes(len(self.classifier["weight"]), self.ways)  # ways of the stream `batches`: all its classes
        mini_batch = cast(Examples, batch)
        return self.map_tasks(self.base_loss, super().embed(mini_batch.x), mini_batch.y)

    def check_data(self, data: TaskSet) -> None:
        require_base_classes(len(self.classifier["weight"]), data.outputs("train", "batches"))

    def base_loss(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of one mini-batch of embeddings `[b, d]` and their training classes."""
        return self.loss(scores(dict(self.classifier.items()), z, self.train_scale), y)

    def memoized(self, embed: Predictor) -> Callable[[Tensor], Tensor]:
        """Wrap `embed` so that repeated calls with the same tensor, as in an evaluation of every step, run it once."""
        last: list[Any] = [None, None, None]  # input, conditions, output of the last call

        def call(x: Tensor) -> Tensor:
            if x.is_inference():  # such a tensor has no version that shows whether it was written to in between
                return cast(Tensor, embed(x))
            conditions = (x._version, torch.is_grad_enabled(), uses_support_statistics(self.net))
            if last[0] is not x or last[1] != conditions:
                last[:] = x, conditions, embed(x)
            return last[2]

        return call


def require_base_classes(units: int, classes: int) -> None:
    """A unit for each training class.

    Raises:
        DataError: there are fewer.
    """
    if units < classes:
        raise DataError(
            f"algo.base_classes must be at least {classes}, as many as there are training classes; got {units}"
        )


def init_bound(width: int) -> float:
    """The bound of the uniform distribution of a layer's initial weights, by its number of inputs; torch's default."""
    return 1 / math.sqrt(width)


def layer(kind: str, weight: Tensor) -> dict[str, Tensor]:
    """The parameters of a layer, from its initial weight `[k, d]`: biases of zero, or the lengths of the weights."""
    if kind == "linear":
        return {"weight": weight, "bias": weight.new_zeros(len(weight))}
    return {"weight": weight, "length": weight.norm(dim=1)}


def scores(layer: Layer, z: Tensor, scale: Tensor) -> Tensor:
    """Class scores `[n, k]` of embeddings `[n, d]`; a layer with lengths compares directions."""
    if "bias" in layer:
        return F.linear(z, layer["weight"], layer["bias"])
    weight = F.normalize(layer["weight"], dim=1) * layer["length"][:, None]
    return scale * F.linear(F.normalize(z, dim=1), weight)
