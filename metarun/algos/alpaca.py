"""ALPaCA: Bayesian linear regression on learned features, with a learned prior.

Harrison, Sharma, Pavone: Meta-learning Priors for Efficient Online Bayesian Regression, WAFR 2018, arXiv 1807.08912.
Official code: github StanfordASL/ALPaCA (main/alpaca.py, configs/sinusoid-config.yml).

Inner problem, solved at once: y = K^T phi(x) + noise of variance sigma^2, K normal about K0 with precision Lambda0.
After n examples Phi = [phi(x_i)], Y:
    Lambda_n = Phi^T Phi + Lambda0,    K_n = Lambda_n^-1 (Phi^T Y + Lambda0 K0)
    p(y | x) = N( K_n^T phi(x),  (1 + phi(x)^T Lambda_n^-1 phi(x)) sigma^2 )
Outer problem, over tasks i with query sets D'_i, for the posterior after the first k of the n examples, k uniform from
0 to n for each task:
    min_{phi, K0, Lambda0}  mean_i E_k mean_{(x, y) in D'_i}  - log p(y | x)

So it learns a prior (k = 0), and to weigh it against any amount of evidence. At test the whole support set is used.

    symbol     code                   shape / unit
    phi        self.net               the backbone without a last layer, to features [n, d]
    K0         self.K0                [d, outputs]
    Lambda0    prior_precision()      [d, d], L L^T + 1e-4 I with L `self.L`
    K_n        K                      [d, outputs]
    Lambda_n   root                   its lower Cholesky factor
    sigma^2    self.noise_variance    0-dim, the same for every target dimension; fixed
    k          seen                   [n], 1 for the first k examples, else 0

Differences from the paper
    - The loss is the whole negative log-likelihood, mean over target dimensions; the code's lacks 1/2 and 2 pi.
    - 1e-4 I keeps Lambda0 invertible; the code has L L^T alone.
    - sigma^2 is the same for all target dimensions; the paper allows a matrix.
    - Tasks, their noise and how many a step are the run's; the code draws from a fixed set, with horizons 10 and 20.
"""

from __future__ import annotations

from math import pi
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from metarun.checks import require, require_positive
from metarun.layers.norm import MODES
from metarun.learner.learner import Backbone, Learner, count_tasks
from metarun.learner.prediction import Gaussian, Predictor
from metarun.tasks import Batch, Examples, Kind, Task, TaskLoss

JITTER = 1e-4


class ALPaCA(Learner):
    """Learns features, and a prior over the last layer that a support set updates in closed form.

    Args:
        backbone: makes phi, `backbone(outputs=None)`, from inputs `[n, ...]` to features `[n, d]`.
        outputs: dimension of the target.
        loss: the task loss; not used, since predictions are distributions.
        noise_variance: sigma^2, the square of the noise's standard deviation.

    Raises:
        ValueError: a noise variance that is not above 0, or a backbone whose features are not vectors.
    """

    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES
    task_types: ClassVar[tuple[Kind, ...]] = ("regression",)
    noise_variance: Tensor

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss, noise_variance: float) -> None:
        super().__init__(loss)
        require_positive("algo", noise_variance=noise_variance)
        self.net = backbone(outputs=None)
        linear = [m for m in self.net.modules() if isinstance(m, nn.Linear)]
        what = "a network that ends in a vector of features, such as backbone=mlp"
        require("backbone", type(self.net).__name__, linear, what)
        width = linear[-1].out_features
        self.K0 = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, outputs)))
        self.L = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, width)))
        self.register_hyperparameter("noise_variance", noise_variance)

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Any:
        """Which support examples count in training, `[T, n]` of 0 and 1: the first k, k uniform from 0 to n."""
        del steps
        support = cast(Task, batch).support
        n, device = support.x.shape[1], generator.device
        k = torch.randint(n + 1, (count_tasks(batch), 1), generator=generator, device=device)
        return (torch.arange(n, device=device) < k).to(torch.float32)

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """The posterior predictive after the whole support set; `random_inputs` are for training."""
        del random_inputs
        return self.posterior(support, torch.ones_like(support.y[:, 0]))

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        """Mean negative log-likelihood of the queries after the examples that `random_inputs` mark; () marks all."""
        seen = random_inputs if isinstance(random_inputs, Tensor) else torch.ones_like(task.support.y[:, 0])
        prediction = cast(Gaussian, self.posterior(task.support, seen)(task.query.x))
        square = (task.query.y - prediction.mean).square() / prediction.variance
        return 0.5 * (square + (2 * pi * prediction.variance).log()).mean()

    def posterior(self, support: Examples, seen: Tensor) -> Predictor:
        """The predictive distribution after the support examples where `seen [n]` is 1; the others do not count."""
        features = self.functional_predictor(self.net, dict(self.net.named_parameters()), support)
        phi = cast(Tensor, features(support.x)) * seen[:, None]
        prior = self.prior_precision()
        root = torch.linalg.cholesky_ex(phi.T @ phi + prior).L
        K = torch.cholesky_solve(phi.T @ support.y + prior @ self.K0, root)

        def predict(x: Tensor) -> Gaussian:
            phi = cast(Tensor, features(x))
            spread = torch.linalg.solve_triangular(root, phi.T, upper=False).square().sum(0)
            mean = phi @ K
            return Gaussian(mean, ((1 + spread) * self.noise_variance)[:, None].expand_as(mean))

        return predict

    def prior_precision(self) -> Tensor:
        """Lambda0, `[d, d]`."""
        return self.L @ self.L.T + JITTER * torch.eye(len(self.L), dtype=self.L.dtype, device=self.L.device)
