"""Is it PLATIPUS? Against its two algorithms written out draw by draw, and the objectives it must not have."""

import math

import pytest
import torch
import torch.nn.functional as F
import toy
from torch.distributions import Normal, kl_divergence

from metarun.algos.maml import MAML
from metarun.algos.platipus import PLATIPUS
from metarun.evaluation.evaluate import evaluate_batch
from metarun.learner.prediction import Samples
from metarun.sampling import stream_generator
from metarun.tasks import Examples, Task

KINDS = ["mlp", "conv4"]
NUMBERS = {"inner_lr": 0.05, "inner_steps": 2, "eval_steps": 2, "first_order": False, "gamma": 0.02, "kl_weight": 0.7}
NUMBERS |= {"likelihood_std": 0.5, "log_variance": [-9.0, -3.0], "train_samples": 3, "samples": 4}


@pytest.fixture
def learner(make):
    """learner(kind): with variances that differ between parameters; they and step sizes between prior and posterior."""

    def build(kind, **changes):
        ours = make(PLATIPUS, kind, **(NUMBERS | changes))
        generator = torch.Generator().manual_seed(5)
        for variances in (ours.prior_variance, ours.posterior_variance):
            for raw in variances.parameters():
                raw.data = torch.randn(raw.shape, generator=generator).double()
        ours.log_gamma_q.data -= 0.5
        return ours

    return build


def drawn(ours, batch, seed=0):
    return ours.to_dtype(ours.random_inputs(batch, 2, stream_generator("cpu", "test", seed)))


def with_noise(ours, random_inputs):
    """The learner with this noise as its own: called with a batch alone."""
    ours.forward = lambda batch: type(ours).forward(ours, batch, random_inputs)
    return ours


def stepped(ours, weights, examples, rate):
    """weights - rate grad L(weights, examples), by autograd; differentiable."""
    loss = ours.loss(torch.func.functional_call(ours.net, weights, (examples.x,)), examples.y)
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return {name: w - rate * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}


def pieces(ours, random_inputs):
    """The noise of each parameter."""
    names = dict(ours.net.named_parameters())
    split = random_inputs.split([p.numel() for p in names.values()])
    return {name: piece.view_as(p) for (name, p), piece in zip(names.items(), split, strict=True)}


def by_hand(ours, task, random_inputs):
    """Algorithm 1 of one task, a draw at a time: the likelihood's sum and the divergence."""
    mu, n = dict(ours.net.named_parameters()), len(random_inputs)
    mean_q = stepped(ours, mu, task.query, ours.log_gamma_q.exp())
    mean_p = stepped(ours, mu, task.support, ours.log_gamma_p.exp())
    v_q, s_p = ours.posterior_variance(), ours.prior_variance()
    log_p = 0.0
    for row in random_inputs:
        phi = {name: m + v_q[name].sqrt() * pieces(ours, row)[name] for name, m in mean_q.items()}
        for _ in range(ours.inner_steps):
            phi = stepped(ours, phi, task.support, ours.inner_lr)
        output = torch.func.functional_call(ours.net, phi, (task.query.x,))
        if task.query.y.is_floating_point():
            log_p = log_p + Normal(output, ours.likelihood_std).log_prob(task.query.y).sum() / n
        else:
            log_p = log_p - F.cross_entropy(output, task.query.y) * len(task.query.y) / n
    kl = [kl_divergence(Normal(mean_q[k], v_q[k].sqrt()), Normal(mean_p[k], s_p[k].sqrt())).sum() for k in mu]
    return log_p, sum(kl)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradient_are_algorithm_1s(learner, draw, one, kind, loss_and_gradient):
    ours, batch = learner(kind), draw(kind)
    random_inputs, task = drawn(ours, batch), one(batch)
    log_p, kl = by_hand(ours, task, random_inputs[0])
    expected = -log_p + 0.7 * kl
    assert kl > 1 and abs(log_p) > 1
    found, gradient = loss_and_gradient(ours, batch, lambda batch: ours(batch, random_inputs)[:1])
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-7, atol=0)
    slopes = torch.autograd.grad(expected, list(ours.parameters()))
    torch.testing.assert_close(gradient, torch.cat([s.flatten() for s in slopes]), rtol=1e-5, atol=1e-5)


def test_the_divergence_is_from_the_prior_that_the_support_set_shifts(learner, draw, one):
    """And not from N(0, 1), nor from the prior before the shift."""
    ours, batch = learner("mlp"), draw("mlp")
    random_inputs, task = drawn(ours, batch)[0], one(batch)

    def kl(task):
        losses = []
        for weight in (1.0, 2.0):
            ours.kl_weight.fill_(weight)
            losses.append(ours.meta_loss(task, random_inputs).detach())
        return losses[1] - losses[0]

    mean_q = stepped(ours, dict(ours.net.named_parameters()), task.query, ours.log_gamma_q.exp())
    std = {name: v.sqrt() for name, v in ours.posterior_variance().items()}
    standard = sum(kl_divergence(Normal(mean_q[n], std[n]), Normal(0.0, 1.0)).sum() for n in std).detach()
    assert abs(kl(task) - standard) > 0.1 * standard
    elsewhere = task._replace(support=Examples(task.support.x, task.support.y + 1))
    assert abs(kl(elsewhere) - kl(task)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_is_algorithm_2s(learner, draw, one, kind):
    ours, batch = learner(kind).eval(), draw(kind)
    random_inputs, task = drawn(ours, batch)[0], one(batch)
    assert random_inputs.shape == (4, sum(p.numel() for p in ours.net.parameters()))
    mean_p = stepped(ours, dict(ours.net.named_parameters()), task.support, ours.log_gamma_p.exp())
    found = [predict(task.query.x) for predict in ours.trajectory(task.support, 2, random_inputs)]
    assert len(found) == 3 and all(isinstance(p, Samples) and p.variance == 0.25 for p in found)
    for m, row in enumerate(random_inputs):
        phi = {n: v + ours.prior_variance()[n].sqrt() * pieces(ours, row)[n] for n, v in mean_p.items()}
        for k in range(3):
            expected = torch.func.functional_call(ours.net, phi, (task.query.x,))
            torch.testing.assert_close(found[k].values[m], expected, rtol=1e-7, atol=1e-9)
            phi = stepped(ours, phi, task.support, ours.inner_lr)


def test_training_draws_too(learner, draw):
    """What samples at test only would give the same loss for any noise, and leave the variances alone."""
    ours, batch = learner("mlp"), draw("mlp")
    first, other = (ours(batch, drawn(ours, batch, seed)) for seed in (0, 1))
    assert ((first - other).abs() > 1e-3).all()
    (first - other).sum().backward()  # the divergence is the same in both
    for variances, moved in ((ours.posterior_variance, True), (ours.prior_variance, False)):
        assert all((p.grad.abs().max() > 1e-6) == moved for p in variances.parameters())


def test_the_loss_reaches_both_variances_and_both_step_sizes(learner, draw):
    ours, batch = learner("mlp"), draw("mlp")
    ours(batch, drawn(ours, batch)).sum().backward()
    assert all(p.grad.abs().max() > 1e-6 for p in ours.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_without_spread_and_shift_it_is_maml(learner, make, draw, kind, loss_and_gradient):
    ours, batch = learner(kind), draw(kind)
    maml = make(MAML, kind, inner_lr=0.05, inner_steps=2, eval_steps=2, first_order=False)
    torch.nn.init.constant_(ours.log_gamma_p, -math.inf)
    torch.nn.init.constant_(ours.log_gamma_q, -math.inf)
    none = torch.zeros_like(drawn(ours, batch))
    ours.eval(), maml.eval()
    name, what = ("mse", "regression") if kind == "mlp" else ("nll", "classification")
    found, expected = (evaluate_batch(a, what, batch, n, 3)[name] for a, n in ((ours, none), (maml, ())))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-9, atol=1e-11)
    ours.train(), maml.train()
    _, gradient = loss_and_gradient(maml, batch)
    ours(batch, none).mean().backward()
    scale = 10 / (2 * 0.25) if kind == "mlp" else 15  # a sum over 10 points of a normal's; over 15 images
    found = torch.cat([p.grad.flatten() for p in ours.net.parameters()])
    torch.testing.assert_close(found, scale * gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_what_finite_differences_say(learner, draw, kind, slopes_agree):
    batch = draw(kind)
    ours = learner(kind, train_samples=1, log_variance=[-9.0, -5.0])
    slopes_agree(with_noise(ours, drawn(ours, batch)), batch, rtol=1e-4)


def test_first_order_takes_gradients_for_constants(learner, draw, loss_and_gradient):
    batch = draw("mlp")
    random_inputs = drawn(learner("mlp"), batch)
    exact, constant = (
        loss_and_gradient(with_noise(learner("mlp", first_order=o), random_inputs), batch) for o in (False, True)
    )
    torch.testing.assert_close(exact[0], constant[0])
    assert (exact[1] - constant[1]).norm() > 1e-2 * exact[1].norm()


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_is_a_loop(learner, draw, kind, loss_and_gradient):
    batch = draw(kind)
    random_inputs = drawn(learner(kind), batch)
    results = []
    for vectorized in (True, False):
        ours = learner(kind)
        ours.vectorized = vectorized
        results.append(loss_and_gradient(with_noise(ours, random_inputs), batch))
    for together, alone in zip(*results, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-7, atol=1e-8)


def test_noise_knows_shapes_only(learner, draw):
    ours, batch = learner("mlp"), draw("mlp")
    other = Task(*(Examples(part.x + 1, part.y * 2) for part in batch))
    assert torch.equal(drawn(ours, batch), drawn(ours, other)) and drawn(ours, batch).shape[1] == 3
    assert drawn(ours.eval(), batch).shape[1] == 4


def test_without_noise_it_is_the_priors_mean(learner, draw, one):
    ours, task = learner("mlp"), one(draw("mlp"))
    plain = ours.adapt(task.support)(task.query.x)
    zero = torch.zeros(1, sum(p.numel() for p in ours.net.parameters())).double()
    assert plain.values.shape == (1, 10, 1)
    torch.testing.assert_close(plain.values, ours.adapt(task.support, zero)(task.query.x).values)


def test_a_mamls_weights_will_do_to_start_from(learner, make):
    maml = make(MAML, "mlp", seed=7, inner_steps=1, eval_steps=1, first_order=False)
    ours = learner("mlp", gamma=0.3)
    before = {name: p.clone() for name, p in ours.state_dict().items()}
    ours.load_state_dict(maml.state_dict())
    for name, value in ours.state_dict().items():
        expected = maml.state_dict().get(name, before[name])
        assert torch.equal(value, expected), name
    another = learner("mlp")
    another.load_state_dict(ours.state_dict())  # and of its own kind it takes all
    assert another.log_gamma_p.exp().item() == pytest.approx(0.3)
    weights = maml.state_dict()
    weights.pop("net.head.bias")
    with pytest.raises(RuntimeError, match="net.head.bias"):
        ours.load_state_dict(weights)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"inner_steps": -1}, "inner_steps must be a whole number"),
        ({"samples": 0}, "samples must be a whole number of at least 1, got 0"),
        ({"train_samples": 1.5}, "train_samples must be a whole number of at least 1, got 1.5"),
        ({"gamma": 0.0}, "gamma must be above 0"),
        ({"kl_weight": -1.0}, "kl_weight must be above 0"),
        ({"likelihood_std": 0.0}, "likelihood_std must be above 0"),
        ({"log_variance": [0.0]}, "log_variance must be two numbers"),
        ({"backbone": toy.conv4((1, 16, 16), norm="running")}, "backbone.norm must not be running for algo=platipus"),
    ],
)
def test_refuses_what_makes_no_sense(learner, bad, says):
    with pytest.raises(ValueError, match=says):
        learner("conv4", **bad)


def test_it_learns():
    torch.manual_seed(0)
    numbers = {"inner_lr": 0.3, "inner_steps": 1, "eval_steps": 1, "gamma": 0.01, "kl_weight": 1.0, "train_samples": 1}
    ours = PLATIPUS(toy.mlp((2,)), 3, F.cross_entropy, **(NUMBERS | numbers))
    before, after = toy.score(ours, toy.Blobs(), 120, toy.adam(lr=1e-2), meta_batch_size=6, tasks=60)
    assert before < 0.65
    assert after > 0.78
