"""iMAML against the exact implicit gradient of a ridge regression, dense Hessians, and a hand-written loop."""

import copy

import pytest
import torch
import torch.nn.functional as F
import toy
from torch import nn
from toy import score

from metarun.algos.imaml import IMAML
from metarun.algos.maml import MAML
from metarun.tasks import Examples, Task

KINDS = ["mlp", "conv4"]


def arguments(steps=3, lam=10.0, cg=5, **changes):
    defaults = {"inner_lr": 0.01, "inner_steps": steps, "eval_steps": steps, "cg_steps": cg, "cg_damping": 0.0}
    return defaults | {"regularization": lam, "eval_regularization": lam} | changes


def ridge(lam=1.0, width=30, shots=10):
    """A linear model's task, and its exact meta-gradient: (I + H / lambda)^-1 grad L(phi*, D') at the exact phi*.

    Returns:
        The task, theta, the meta-gradient, and the query gradient grad L(phi*, D').
    """
    generator = torch.Generator().manual_seed(0)
    x, test = torch.randn(2, shots, width, generator=generator, dtype=torch.float64)
    true = torch.randn(width, 1, generator=generator, dtype=torch.float64)
    task = Task(Examples(x, x @ true), Examples(test, test @ true))
    theta = torch.randn(width, 1, generator=generator, dtype=torch.float64)
    hessian = 2 * x.T @ x / shots
    identity = torch.eye(width, dtype=torch.float64)
    phi = torch.linalg.solve(hessian + lam * identity, 2 * x.T @ task.support.y / shots + lam * theta)
    query = 2 * test.T @ (test @ phi - task.query.y) / shots
    return task, theta, torch.linalg.solve(identity + hessian / lam, query), query


class Ridge(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.head = nn.Linear(30, outputs, bias=False)

    def forward(self, x):
        return self.head(x)


def implicit_gradient(cg, steps=2000, lam=1.0):
    task, theta, exact, query = ridge(lam)
    learner = IMAML(Ridge, 1, F.mse_loss, **arguments(steps, lam, cg, inner_lr=0.05)).double()
    learner.net.head.weight.data = theta.T.clone()
    learner.meta_loss(task).backward()
    return learner.net.head.weight.grad.T, exact, query


@pytest.mark.parametrize(("cg", "bound"), [(5, 0.01), (10, 1e-4), (30, 1e-8)])
def test_on_a_ridge_regression_the_gradient_is_exact(cg, bound, relative):
    gradient, exact, _ = implicit_gradient(cg)
    assert relative(gradient, exact) < bound


@pytest.mark.slow
def test_without_conjugate_gradients_it_is_far_from_exact(relative):
    """The identity in place of the inverse gives the query gradient at phi*, which is 30 % or more off."""
    gradient, exact, query = implicit_gradient(0)
    torch.testing.assert_close(gradient, query, rtol=1e-6, atol=1e-9)
    assert relative(gradient, exact) > 0.3
    few, more = (relative(implicit_gradient(cg)[0], exact) for cg in (2, 4))
    assert more < few / 2


def test_it_is_the_limit_of_maml_through_the_regularised_inner_loop(relative):
    """Unrolling 400 proximal steps by autograd gives the same gradient."""
    task, theta, _, _ = ridge()
    start = theta.clone().requires_grad_()
    phi = start
    for _ in range(400):
        loss = F.mse_loss(task.support.x @ phi, task.support.y) + 0.5 * (phi - start).square().sum()
        (slope,) = torch.autograd.grad(loss, phi, create_graph=True)
        phi = phi - 0.05 * slope
    (unrolled,) = torch.autograd.grad(F.mse_loss(task.query.x @ phi, task.query.y), start)
    assert relative(implicit_gradient(30)[0], unrolled) < 1e-6


def by_hand(learner, task, steps, lam):
    """The network at phi after proximal gradient descent with torch's SGD."""
    net, start = copy.deepcopy(learner.net), [p.detach().clone() for p in learner.net.parameters()]
    sgd = torch.optim.SGD(net.parameters(), lr=float(learner.inner_lr))
    for _ in range(steps):
        sgd.zero_grad()
        distance = sum((p - s).square().sum() for p, s in zip(net.parameters(), start, strict=True))
        (learner.loss(net(task.support.x), task.support.y) + lam / 2 * distance).backward()
        sgd.step()
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_the_inner_loop_pulls_towards_theta_with_the_lambda_of_its_mode(kind, make, draw, one):
    learner, task = make(IMAML, kind, **arguments(4, eval_regularization=0.0)), one(draw(kind))
    for mode, lam in ((True, 10.0), (False, 0.0)):
        expected = by_hand(learner, task, 4, lam)(task.query.x)
        ours = learner.train(mode).adapt(task.support)(task.query.x)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("damping", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_solves_the_dense_system(kind, damping, make, draw, one):
    """v of the paper from the full Hessian, at a lambda so large that a few CG steps solve the system."""
    learner, task = make(IMAML, kind, **arguments(3, lam=50.0, cg=25, cg_damping=damping)), one(draw(kind))
    net = by_hand(learner, task, 3, 50.0)
    names = [name for name, _ in net.named_parameters()]
    sizes = [p.numel() for p in net.parameters()]

    def loss_at(vector, examples):
        pieces = vector.split(sizes)
        params = {n: v.view_as(p) for n, v, p in zip(names, pieces, net.parameters(), strict=True)}
        return learner.loss(torch.func.functional_call(net, params, (examples.x,)), examples.y)

    phi = nn.utils.parameters_to_vector(net.parameters()).detach()
    hessian = torch.func.jacrev(torch.func.grad(lambda v: loss_at(v, task.support)))(phi)
    slope = torch.func.grad(lambda v: loss_at(v, task.query))(phi)
    matrix = (1 + damping) * torch.eye(len(phi), dtype=phi.dtype) + hessian / 50.0
    expected = torch.linalg.solve(matrix, slope)
    loss = learner.meta_loss(task)
    loss.backward()
    torch.testing.assert_close(loss.detach(), loss_at(phi, task.query), rtol=1e-10, atol=0)
    gradient = torch.cat([p.grad.flatten() for p in learner.net.parameters()])
    assert (gradient - expected).norm() < 1e-6 * expected.norm()
    assert (slope / (1 + damping) - expected).norm() > 1e-3 * expected.norm()


def graph_size(loss):
    """Nodes that autograd keeps for the backward pass."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_for_backward_does_not_grow_with_the_inner_steps(kind, make, draw):
    batch = draw(kind)
    sizes = {steps: graph_size(make(IMAML, kind, **arguments(steps))(batch).sum()) for steps in (1, 16)}
    assert sizes[1] == sizes[16]
    unrolled = {"inner_lr": 0.01, "eval_steps": 1, "first_order": False}
    grown = [graph_size(make(MAML, kind, inner_steps=steps, **unrolled)(batch).sum()) for steps in (1, 16)]
    assert grown[1] > 5 * grown[0]  # the measure detects an unrolled graph


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_a_loop(kind, make, draw, loss_and_gradient):
    learner, batch = make(IMAML, kind, **arguments()), draw(kind)
    vectorized = loss_and_gradient(learner, batch)
    learner.vectorized = False
    torch.testing.assert_close(loss_and_gradient(learner, batch), vectorized, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_compiled_equals_eager(make, draw, loss_and_gradient, compiled_loss_and_gradient):
    learner, batch = make(IMAML, "mlp", **arguments(2, cg=2)), draw("mlp")
    eager = loss_and_gradient(learner, batch)
    torch._dynamo.reset()
    compiled = compiled_loss_and_gradient(learner, batch)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cg_steps": -1}, "algo.cg_steps must be an integer of at least 0; got -1"),
        ({"regularization": 0.0}, "algo.regularization must be above 0; got 0.0"),
    ],
)
def test_rejects_invalid_values(change, message, make):
    with pytest.raises(ValueError, match=message):
        make(IMAML, "mlp", **(arguments() | change))


@pytest.mark.slow
def test_it_learns_the_sinusoid_and_beats_joint_training():
    torch.manual_seed(0)
    backbone = toy.mlp(hidden=[40, 40], activation="relu")
    learner = IMAML(backbone, 1, F.mse_loss, **arguments(16, inner_lr=0.005, eval_steps=10))
    before, after = score(
        learner, toy.sinusoid(), 700, toy.adam(lr=2e-3, max_grad_norm=1.0, scheduler=toy.cosine(700)), meta_batch_size=8
    )
    assert before > 2.4  # no adaptation
    assert after < 1.2  # joint training with the same fine-tuning: 1.5
