"""Small learners and data sets for tests of shared code."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.algos.maml import MAML
from metarun.backbones.conv4 import Conv4
from metarun.backbones.mlp import MLP
from metarun.data.sinusoid import Sinusoid
from metarun.evaluation.evaluate import evaluate
from metarun.layers.drop_block import DropBlock
from metarun.learner.learner import Learner, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, Split, Task, TaskSet
from metarun.training.loop import TrainState, fit
from metarun.training.meta_optimizer import MetaOptimizer

CPU = torch.device("cpu")


def sinusoid(**changes: Any) -> Sinusoid:
    """MAML's sinusoid."""
    kwargs: dict[str, Any] = {
        "amplitude": (0.1, 5.0),
        "phase": (0.0, 3.14159),
        "frequency": (1.0, 1.0),
        "x": (-5.0, 5.0),
        "noise": 0.0,
        "shots": 10,
        "queries": 20,
        "train_queries": 10,
        "device": "cpu",
    }
    return Sinusoid(**(kwargs | changes))


class Blobs(TaskSet):
    """Classification of Gaussian blobs in the plane; each class is a centre on the first axis."""

    kind = "classification"
    streams = ("episodes", "batches")
    WAYS, CLASSES = 3, 12

    def __init__(self) -> None:
        self.device = CPU
        self.centres = torch.linspace(-6, 6, self.CLASSES).unsqueeze(1) * torch.tensor([1.0, 0.0])
        self.stretch = torch.ones(2)

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        return (2,)

    def outputs(self, split: Split, stream: str = "episodes") -> int:
        return self.CLASSES if stream == "batches" else self.WAYS

    def describe(self) -> dict[str, Any]:
        return {"ways": self.WAYS, "shots": 2, "queries": 4, "partition": None}

    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        if stream == "batches":
            y = torch.randint(self.CLASSES, (tasks, 8), generator=generator)
            return Examples(self.centres[y] + 0.3 * self.stretch * torch.randn(tasks, 8, 2, generator=generator), y)
        classes = torch.rand(tasks, self.CLASSES, generator=generator).topk(self.WAYS).indices  # [T, ways]
        y = torch.arange(self.WAYS).repeat(tasks, 6)
        noise = 0.3 * self.stretch * torch.randn(tasks, 6 * self.WAYS, 2, generator=generator)
        x = self.centres[classes.gather(1, y)] + noise
        n = 2 * self.WAYS
        return Task(Examples(x[:, :n], y[:, :n]), Examples(x[:, n:], y[:, n:]))


def mlp(in_shape: tuple[int, ...] = (1,), **changes: Any) -> partial:
    """A factory of small MLPs; `backbone(outputs=...)`."""
    kwargs = {"hidden": [16, 16], "activation": "tanh", "norm": "none", "init": "torch"} | changes
    return partial(MLP, in_shape, **kwargs)


def conv4(in_shape: tuple[int, ...] = (1, 28, 28), **changes: Any) -> partial:
    """A factory of small conv4s."""
    kwargs = {"filters": 8, "blocks": 4, "downsample": "stride", "features": "mean", "norm": "batch", "init": "torch"}
    return partial(Conv4, in_shape, **(kwargs | changes))


class Dropping(nn.Module):
    """One convolution and a DropBlock; the features are ten times the means over positions."""

    def __init__(self, in_shape: tuple[int, int, int], outputs: int | None, rate: float, size: int) -> None:
        super().__init__()
        assert outputs is None
        self.conv = nn.Conv2d(in_shape[0], 4, 3, padding=1)
        self.drop = DropBlock((4, *in_shape[1:]), rate, size)

    def forward(self, x: Tensor) -> Tensor:
        return 10 * self.drop(self.conv(x)).mean((-2, -1))


def dropping(in_shape: tuple[int, int, int] = (1, 28, 28), rate: float = 0.3, size: int = 3) -> partial:
    """A factory of small networks with a DropBlock; `backbone(outputs=None)`."""
    return partial(Dropping, in_shape, rate=rate, size=size)


def maml(backbone: Any = None, outputs: int = 1, **changes: Any) -> MAML:
    """A small MAML, for the sinusoid by default."""
    kwargs: dict[str, Any] = {"inner_lr": 0.01, "inner_steps": 1, "eval_steps": 2, "first_order": False}
    loss = F.mse_loss if outputs == 1 else F.cross_entropy
    return MAML(backbone or mlp(), outputs, loss, **(kwargs | changes))


def adam(lr: float = 1e-3, **changes: Any) -> MetaOptimizer:
    """Adam at a constant rate."""
    kwargs: dict[str, Any] = {
        "scheduler": None,
        "max_grad_norm": None,
        "max_grad_value": None,
    }
    return MetaOptimizer(torch.optim.Adam, lr, **(kwargs | changes))


def sgd(lr: float = 0.1, **changes: Any) -> MetaOptimizer:
    """Plain SGD, whose step is the gradient: it shows what Adam's scaling would hide."""
    kwargs: dict[str, Any] = {
        "scheduler": None,
        "max_grad_norm": None,
        "max_grad_value": None,
    }
    return MetaOptimizer(torch.optim.SGD, lr, **(kwargs | changes))


def cosine(iterations: int) -> partial:
    """The factory of a scheduler: half a cosine wave, to 0."""
    return partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=iterations)


def linear(iterations: int) -> partial:
    """The factory of a scheduler: a straight line, to 0."""
    return partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=iterations)


def score(
    learner: Learner,
    data: TaskSet,
    iterations: int,
    meta_optimizer: MetaOptimizer,
    meta_batch_size: int = 25,
    tasks: int = 100,
) -> tuple[float, float]:
    """The headline metric before and after training, on the same held-out tasks."""
    before = evaluate(learner, data, "test", tasks, 0).estimate().mean
    for _ in fit(TrainState.create(learner, meta_optimizer, CPU, 0), data, meta_optimizer, iterations, meta_batch_size):
        pass
    return before, evaluate(learner, data, "test", tasks, 0).estimate().mean


# ------------------------------------------------- a learner for each hook that a paper may need beyond the defaults


class Noisy(Learner):
    """Draws a dropout mask for each task, as a random input."""

    def __init__(self) -> None:
        super().__init__(F.mse_loss)
        self.net = mlp()(outputs=1)
        self.mixing = nn.Parameter(torch.ones(1))

    def random_inputs(self, batch: Any, steps: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"mask": torch.rand(len(batch.support.x), 1, generator=generator) * 2}

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        offset = support.y.mean()
        return lambda x: self.net(x) * random_inputs["mask"] * self.mixing + offset


class Scheduled(Learner):
    """Blends two losses with `progress`, as MAML++ does with its per-step weights."""

    def __init__(self) -> None:
        super().__init__(F.mse_loss)
        self.net = mlp()(outputs=1)

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        return self.net

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        late, early = self.loss(self.net(task.query.x), task.query.y), self.net(task.support.x).square().mean()
        return self.progress * late + (1 - self.progress) * early


class Adversaries(Learner):
    """Two objectives in turn, each for the parameter group of its name, with its own optimizer and rate."""

    stages = (Stage(objectives=("first", "second")),)

    def __init__(self) -> None:
        super().__init__(F.mse_loss)
        self.first, self.second = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0]))

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        return lambda x: self.first * x + self.second

    def forward(self, batch: Any, random_inputs: Any = (), objective: str = "all") -> Tensor:
        both = self.first.square() * self.second if objective == "first" else -self.second * self.first
        return self.map_tasks(lambda x: both.sum() + 0 * x, batch.query.x[:, 0, 0])

    def parameter_groups(self) -> list[dict]:
        return [
            {"name": "first", "params": [self.first], "lr": 0.5, "optimizer": torch.optim.SGD},
            {"name": "second", "params": [self.second]},
        ]


class Surrogate(Learner):
    """First-order Reptile of one step: its value is the query loss, its gradient theta - W of a step written here."""

    def __init__(self, inner_lr: float) -> None:
        super().__init__(F.mse_loss)
        self.net = nn.Linear(1, 1)
        self.register_hyperparameter("inner_lr", inner_lr)

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        return self.net

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        theta = dict(self.net.named_parameters())

        def support_loss(theta: dict[str, Tensor]) -> Tensor:
            return self.loss(torch.func.functional_call(self.net, theta, (task.support.x,)), task.support.y)

        gradient = torch.func.grad(support_loss)(theta)
        displacement = sum((theta[n] * (self.inner_lr * gradient[n]).detach()).sum() for n in theta)
        value = self.loss(self.net(task.query.x), task.query.y).detach()
        return value + displacement - displacement.detach()


class Pretrained(Learner):
    """A stage of the stream `batches`, then one of episodes; the type of a batch shows which."""

    stages = (Stage("batches", 0.25), Stage("episodes", 0.75))
    task_types = ("classification",)

    def __init__(self) -> None:
        super().__init__(F.cross_entropy)
        self.body = nn.Sequential(nn.Linear(2, 16), nn.ReLU())
        self.classifier = nn.Linear(16, Blobs.CLASSES)
        self.seen: list[str] = []

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        hot = F.one_hot(support.y, Blobs.WAYS).to(support.x.dtype)
        centres = hot.T @ self.body(support.x) / hot.sum(0).unsqueeze(1)
        return lambda x: -torch.cdist(self.body(x), centres).square()

    def meta_loss(self, task: Any, random_inputs: Any = ()) -> Tensor:
        if isinstance(task, Examples):
            self.seen.append("batches")
            return self.loss(self.classifier(self.body(task.x)), task.y)
        self.seen.append("episodes")
        return super().meta_loss(task, random_inputs)


class Recurrent(Learner):
    """An LSTM over the support set, which fails under vmap: tasks are sequential."""

    vectorized = False

    def __init__(self) -> None:
        super().__init__(F.mse_loss)
        self.lstm = nn.LSTM(2, 24, batch_first=True)
        self.head = nn.Sequential(nn.Linear(25, 24), nn.Tanh(), nn.Linear(24, 1))

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        _, (hidden, _) = self.lstm(torch.cat([support.x, support.y], 1).unsqueeze(0))
        context = hidden[0, 0]
        return lambda x: self.head(torch.cat([x, context.expand(len(x), -1)], 1))


def seeded(make, *arguments, **keywords) -> Learner:
    """The learner that `make` returns, in float64 and always with the same weights."""
    torch.manual_seed(0)
    return make(*arguments, **keywords).double()
