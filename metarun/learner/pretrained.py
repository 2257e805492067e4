"""What learners share whose network is first taught to tell the training classes apart, on mini-batches of images.

Outer problem of that stage (stream `batches`), over mini-batches F_i of images with their training classes:
    min_{f, C}  mean_i L(s_C(f(x)), y; F_i)
Inner problem: stated by the algorithms that use it. A head on the embeddings goes in steps; f does not move in them, so
    images are embedded once: support set D -> z = f(D) -> heads H_0, H_1, ...;   class scores of a query x: s_H(f(x))

The scores of a layer, of C or of a head, are
    linear  s(z)_k = w_k . z + b_k               cosine  s(z)_k = tau g_k cos(w_k, z)

    symbol   code              shape / unit
    f        self.net          the backbone without a last layer, to embeddings [n, d]
    C        self.classifier   weight w [base_classes, d], and bias b or length g [base_classes]
    tau      scale             0-dim; of C `train_scale`
    L        self.loss         mean over a set's examples

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.layers.norm import uses_support_statistics
from metarun.learner.embedding import Embedding, feature_dim
from metarun.learner.learner import Backbone, Learner, Stage, require_counts, require_positive
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, TaskLoss

Layer = Mapping[str, Tensor]
LAYERS = ("linear", "cosine")


class Pretrained(Embedding):
    """An embedding that a classifier of the training classes teaches, and a head on it that goes in steps.

    Args:
        backbone, ways, loss: as in `Embedding`.
        base_classes: units of the classifier C, at least as many as the training part has classes.
        classifier: `linear` or `cosine`.
        train_scale: tau of a cosine classifier.

    Raises:
        ValueError: no unit, another classifier, a scale that is not above zero; in training, more classes than units.
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
        require_counts(least=1, base_classes=base_classes)
        require_positive(train_scale=train_scale)
        require_one_of(LAYERS, classifier=classifier)
        super().__init__(backbone, ways, loss)
        self.register_hyperparameter("train_scale", train_scale)
        self.width = feature_dim(backbone)
        weight = (2 * torch.rand(base_classes, self.width) - 1) * init_bound(self.width)
        self.classifier = nn.ParameterDict(layer(classifier, weight))

    @abstractmethod
    def heads(self, known: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        """Class scores of embeddings `[m, d]` after 0, 1, ..., `steps` steps on the embedded support set."""

    def head(self, known: Examples, random_inputs: Any = ()) -> Predictor:
        *_, last = self.heads(known, self.inner_steps if self.training else self.eval_steps, random_inputs)
        return last

    def features(self, support: Examples) -> Predictor:
        """From images to embeddings, as tasks are solved with."""
        return self.functional_predictor(self.net, dict(self.net.named_parameters()), support)

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        return Learner.adapt(self, support, random_inputs)  # in steps, by `features`

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        embed = self.memoized(self.features(support))
        for head in self.heads(Examples(embed(support.x), support.y), steps, random_inputs):
            yield lambda x, head=head: head(embed(x))  # type: ignore[misc]

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """Losses `[T]` of flat mini-batches; in batch norm each has statistics of its own."""
        del random_inputs, objective
        if self.ways > (units := len(self.classifier["weight"])):  # of a flat stream `ways` are all its classes
            raise ValueError(
                f"algo.base_classes must be at least {self.ways}, as many as there are training classes; got {units}"
            )
        flat = cast(Examples, batch)
        return self.map_tasks(self.base_loss, super().embed(flat.x), flat.y)

    def base_loss(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of one mini-batch of embeddings `[b, d]` and their training classes."""
        return self.loss(scores(dict(self.classifier.items()), z, self.train_scale), y)

    def memoized(self, embed: Predictor) -> Callable[[Tensor], Tensor]:
        """`embed` without a second pass where it is asked of the same tensor again, as an evaluation of steps does."""
        last: list[Any] = [None, None, None]

        def call(x: Tensor) -> Tensor:
            if x.is_inference():  # whether it was written to in between, such a tensor does not tell
                return cast(Tensor, embed(x))
            how = (x._version, torch.is_grad_enabled(), uses_support_statistics(self.net))
            if last[0] is not x or last[1] != how:
                last[:] = x, how, embed(x)
            return last[2]

        return call


def init_bound(width: int) -> float:
    """Weights of a layer of so many inputs start uniform between minus and plus this, torch's own default."""
    return 1 / math.sqrt(width)


def layer(kind: str, weight: Tensor) -> dict[str, Tensor]:
    """A layer's parameters from a drawn weight `[k, d]`: biases start at zero, lengths at those of the weights."""
    if kind == "linear":
        return {"weight": weight, "bias": weight.new_zeros(len(weight))}
    return {"weight": weight, "length": weight.norm(dim=1)}


def scores(layer: Layer, z: Tensor, scale: Tensor) -> Tensor:
    """Class scores `[n, k]` of embeddings `[n, d]`; a layer that has lengths compares directions."""
    if "bias" in layer:
        return F.linear(z, layer["weight"], layer["bias"])
    weight = F.normalize(layer["weight"], dim=1) * layer["length"][:, None]
    return scale * F.linear(F.normalize(z, dim=1), weight)


def require_one_of(choices: tuple[str, ...], **values: str) -> None:
    """Refuse a word that is none of the choices, naming the argument."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
