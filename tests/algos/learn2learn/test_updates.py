"""learn2learn's ANIL, Meta-SGD, Meta-Curvature and KFO: against our own learners, and against the formulas by hand."""

import pytest
import torch
import toy
from torch.func import functional_call
from torch_batch_norm import exchange_for_torch

from metarun.algos.anil import ANIL
from metarun.algos.learn2learn.gradient_based import Learn2LearnANIL
from metarun.algos.learn2learn.updates import Learn2LearnKFO, Learn2LearnMetaCurvature, Learn2LearnMetaSGD
from metarun.algos.maml import MAML
from metarun.algos.meta_sgd import MetaSGD
from metarun.data.polynomial import Polynomial
from metarun.evaluation.evaluate import evaluate
from metarun.training.loop import TrainState, fit

KINDS = ["mlp", "conv4"]
PAIRS = {
    "anil": (ANIL, Learn2LearnANIL, {"inner_lr": 0.1, "first_order": False}),
    "anil, first order": (ANIL, Learn2LearnANIL, {"inner_lr": 0.1, "first_order": True}),
    "meta_sgd": (MetaSGD, Learn2LearnMetaSGD, {"initial_rates": (-0.05, 0.1)}),
}
TRANSFORMED = [Learn2LearnMetaCurvature, Learn2LearnKFO]


def steps(count):
    return {"inner_steps": count, "eval_steps": count}


@pytest.fixture
def build(backbones):
    """build(cls, kind, **numbers): as `make`, for constructors without `inner_lr`."""

    def of(cls, kind, seed=0, **numbers):
        torch.manual_seed(seed)
        loss = torch.nn.functional.mse_loss if kind == "mlp" else torch.nn.functional.cross_entropy
        return cls(backbone=backbones[kind], outputs=1 if kind == "mlp" else 5, loss=loss, **numbers).double()

    return of


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", PAIRS)
def test_ours_agrees_with_learn2learn(pair, kind, count, build, draw, loss_and_gradient, relative):
    """Only weights are shared: learn2learn's side has torch's own batch norm, which is right in a loop."""
    (ours, theirs), numbers = (cls for cls in PAIRS[pair][:2]), PAIRS[pair][2] | steps(count)
    ours, theirs = build(ours, kind, **numbers), build(theirs, kind, seed=1, **numbers)
    theirs.load_state_dict(ours.state_dict())
    exchange_for_torch(theirs)
    batch = draw(kind)
    losses, gradient = loss_and_gradient(ours, batch)
    by_name = {name: p.grad for name, p in ours.named_parameters()}
    their_losses, _ = loss_and_gradient(theirs, batch)
    theirs_in_order = torch.cat([dict(theirs.named_parameters())[name].grad.flatten() for name in by_name])
    assert relative(losses, their_losses) < 1e-10
    assert relative(gradient, theirs_in_order) < 1e-8


@pytest.mark.parametrize("pair", PAIRS)
def test_evaluates_without_gradients_as_ours(pair, build, draw, one):
    task, numbers = one(draw("conv4")), PAIRS[pair][2] | steps(2)
    ours, theirs = (build(cls, "conv4", **numbers).eval() for cls in PAIRS[pair][:2])
    with torch.no_grad():
        predictions = [[p(task.query.x) for p in learner.trajectory(task.support, 2)] for learner in (ours, theirs)]
    torch.testing.assert_close(predictions[1], predictions[0], rtol=1e-10, atol=1e-12)
    assert not any(prediction.requires_grad for prediction in predictions[1])


# ------------------------------------------------------------------------------ transforms, against their formulas


def curvature(gradient, m):
    """Meta-Curvature's update by index: every dimension has its factor (the last two are positions, as one)."""
    if gradient.dim() == 1:
        return m["mc"] * gradient
    if gradient.dim() == 2:
        return torch.einsum("pr,rs,sq->pq", m["mc_in"], gradient, m["mc_out"])
    update = torch.einsum("pr,fg,rsg,sq->pqf", m["mc_in"], m["mc_f"], gradient.flatten(2), m["mc_out"])
    return update.view_as(gradient)


def kronecker(gradient, m):
    """KFO's update by index; a bias is a matrix of one column, a convolution a matrix for each filter."""
    left, right = m["transform.left"], m["transform.right"]
    matrices = gradient.reshape(-1, len(left), len(right))
    return torch.einsum("ap,aq,kqr,bs,br->kps", left, left, matrices, right, right).reshape(gradient.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("cls", "formula"), list(zip(TRANSFORMED, (curvature, kronecker), strict=True)))
def test_loss_and_meta_gradient_are_those_of_the_formula(cls, formula, kind, build, draw, one, loss_and_gradient):
    learner, task = build(cls, kind, inner_lr=0.1, **steps(2)), one(draw(kind))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in learner.update.parameters():  # away from the identity
            p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    theta = dict(learner.net.named_parameters())
    for _ in range(2):
        loss = learner.loss(functional_call(learner.net, theta, (task.support.x,)), task.support.y)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        transforms = [dict(module.named_parameters()) for module in learner.update.transforms_modules]
        theta = {
            name: weight - learner.inner_lr * formula(gradient, m)
            for (name, weight), gradient, m in zip(theta.items(), gradients, transforms, strict=True)
        }
    expected = learner.loss(functional_call(learner.net, theta, (task.query.x,)), task.query.y)
    expected_gradients = torch.autograd.grad(expected, list(learner.parameters()))
    loss = learner.meta_loss(task)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for p, gradient in zip(learner.parameters(), expected_gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-7, atol=1e-12)
    assert all(p.grad.abs().max() > 0 for p in learner.update.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", TRANSFORMED)
def test_at_the_start_it_is_maml(cls, kind, build, draw, loss_and_gradient, relative):
    batch = draw(kind)
    maml = build(MAML, kind, inner_lr=0.1, first_order=False, **steps(2))
    learner = build(cls, kind, inner_lr=0.1, **steps(2))
    (losses, gradient), (their_losses, _) = loss_and_gradient(maml, batch), loss_and_gradient(learner, batch)
    assert relative(their_losses, losses) < 1e-10
    assert relative(torch.cat([p.grad.flatten() for p in learner.net.parameters()]), gradient) < 1e-8


@pytest.mark.parametrize("cls", TRANSFORMED)
def test_evaluates_without_gradients_and_without_changing(cls, build, draw, one):
    learner, task = build(cls, "mlp", inner_lr=0.1, **steps(3)), one(draw("mlp"))
    trained = [predict(task.query.x).detach() for predict in learner.trajectory(task.support, 3)]
    learner.eval()
    with torch.no_grad():
        evaluated = [predict(task.query.x) for predict in learner.trajectory(task.support, 3)]
    torch.testing.assert_close(evaluated, trained, rtol=1e-12, atol=0)
    assert not torch.allclose(evaluated[2], evaluated[3])
    assert all(p.grad is None for p in learner.parameters())


# -------------------------------------------------------------------------------------------------------- learning

LINES = Polynomial(
    order=1, coefficients=(-1.0, 1.0), x=(-2.0, 2.0), shots=10, queries=20, train_queries=10, device="cpu"
)
RATE = {"inner_lr": 0.05}
LEARNERS = [
    (Learn2LearnANIL, RATE | {"first_order": False}),
    (Learn2LearnMetaSGD, {"initial_rates": (0.02, 0.08)}),
    (Learn2LearnMetaCurvature, RATE),
    (Learn2LearnKFO, RATE),
]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "numbers"), LEARNERS, ids=lambda value: getattr(value, "__name__", ""))
def test_learns_lines(cls, numbers):
    torch.manual_seed(0)
    learner, meta_optimizer = (
        cls(toy.mlp(activation="relu"), 1, torch.nn.functional.mse_loss, **numbers, **steps(1)),
        toy.adam(5e-3),
    )
    before = evaluate(learner, LINES, "test", 40, 0).estimate().mean
    for _ in fit(TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), LINES, meta_optimizer, 250, 5):
        pass
    after = evaluate(learner, LINES, "test", 40, 0).estimate().mean
    flat = 1 / 12 * 4 / 3  # what the best constant of each task costs: the variance of c_1 x
    assert before > 1.5 * flat
    assert after < 0.5 * flat
