"""DEML, deep meta-learning: meta-learning in a concept space that is learned jointly.

Zhou, Wu, Li: Deep Meta-Learning: Learning to Learn in the Concept Space, 2018, arXiv 1802.03596. Its code is said to be
at github huawei-noah/deep-meta-learning (not verified).

Inner problem, one step of Meta-SGD on the features of the support set D that moves the meta-learner alone:
    phi' = phi - alpha o grad_phi L(phi, theta_G; D)
Outer problem, over tasks with query sets D' and mini-batches F of images with their training classes:
    min_{theta_G, theta_D, phi, alpha}  mean_i [ L(phi'(D_i), theta_G; D'_i) + lambda CE(D(G(x)), y; F_i) ]

    symbol   code                   shape / unit
    G        self.generator         the backbone up to its last layer: from images to concepts `[n, width]`
    D        self.discriminator     linear, concepts to `[n, base_classes]`: scores of the training classes
    phi      self.learner           the meta-learner M: the backbone's last layer, linear, concepts to ways
    alpha    self.rates             one tensor for each tensor of phi, of its shape; any sign
    lambda   self.concept_weight    0-dim; 0: Meta-SGD on concepts that are learned from tasks alone
    L, CE    self.loss              mean over a set's examples

Both terms train G in the same outer step. F is sampled together with the tasks (stream `episodes_and_batches`), from
the train split: D never sees a test class. D is not used at test.

Differences from the paper
    - D is trained on images of the train split; the paper adds an external set of 200 ImageNet classes.
    - G is the run's backbone; the paper's is ResNet-50.
    - M is Meta-SGD on a linear layer; the paper also has MAML and matching networks.
    - Further steps use the same alpha again, as in meta_sgd.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from metarun.algos.meta_sgd import draw_rates, rates_by_name, start_equal_rates_exactly
from metarun.checks import require_int, require_non_negative
from metarun.layers.norm import MODES
from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner, Stage
from metarun.learner.prediction import Predictor
from metarun.learner.pretrained import require_base_classes
from metarun.tasks import Examples, TaskAndBatch, TaskLoss, TaskSet


class DEML(Learner):
    """Learns features by classifying the training classes, and jointly a meta-learner on these features.

    Args:
        backbone: makes the network, `backbone(outputs=...)`, whose last layer is its `head`.
        outputs: ways.
        loss: the task loss L.
        base_classes: units of D, at least as many as there are training classes (more of them do no harm).
        concept_weight: lambda.
        initial_rates: (lowest, highest), the uniform range of alpha at initialisation.
        inner_steps: steps in training; the paper takes 1.
        eval_steps: steps at which the headline is measured.

    Raises:
        ValueError: a count out of range, a range that is not (lowest, highest), or lambda below 0.
    """

    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES
    stages = (Stage("episodes_and_batches"),)
    task_types = ("classification",)
    init_only_args = ("initial_rates",)
    concept_weight: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        base_classes: int,
        concept_weight: float,
        initial_rates: tuple[float, float],
        inner_steps: int,
        eval_steps: int,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        require_int("algo", minimum=1, base_classes=base_classes)
        require_non_negative("algo", concept_weight=concept_weight)
        self.generator = backbone(outputs=outputs)
        self.learner = cast(nn.Linear, self.generator.head)
        self.generator.head = nn.Identity()  # the generator ends in concepts
        self.discriminator = nn.Linear(self.learner.in_features, base_classes)
        self.rates = draw_rates(self.learner, initial_rates)
        start_equal_rates_exactly(self, initial_rates)
        self.register_hyperparameter("concept_weight", concept_weight)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        generate = self.functional_predictor(self.generator, dict(self.generator.named_parameters()), support)
        concepts = Examples(cast(Tensor, generate(support.x)), support.y)
        for predict in descend(self, self.learner, concepts, steps, rates_by_name(self.learner, self.rates)):
            yield lambda x, predict=predict: predict(generate(x))  # type: ignore[misc]

    def meta_loss(self, task: TaskAndBatch, random_inputs: Any = ()) -> Tensor:
        base_loss = self.loss(self.discriminator(self.generator(task.batch.x)), task.batch.y)
        return super().meta_loss(task, random_inputs) + self.concept_weight * base_loss

    def check_data(self, data: TaskSet) -> None:
        require_base_classes(self.discriminator.out_features, data.outputs("train", "batches"))

    def diagnostics(self) -> dict[str, Tensor]:
        """Mean of alpha over the weights and over the biases of the meta-learner.

        rate/weight: mean learned rate of the weights.
        rate/bias: mean learned rate of the biases.
        """
        return {"rate/weight": self.rates[0].mean(), "rate/bias": self.rates[1].mean()}
