"""PLATIPUS against its two algorithms written out sample by sample, and against wrong objectives."""

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
ARGS = {"inner_lr": 0.05, "inner_steps": 2, "eval_steps": 2, "first_order": False, "gamma": 0.02, "kl_weight": 0.7}
ARGS |= {"likelihood_std": 0.5, "log_variance": [-9.0, -3.0], "train_samples": 3, "samples": 4}


@pytest.fixture
def learner(make):
    """learner(kind): variances differ between parameters; variances and step sizes between prior and posterior."""

    def build(kind, **changes):
        ours = make(PLATIPUS, kind, **(ARGS | changes))
        generator = torch.Generator().manual_seed(5)
        for variances in (ours.prior_variance, ours.posterior_variance):
            for raw in variances.parameters():
                raw.data = torch.randn(raw.shape, generator=generator).double()
        ours.log_gamma_q.data -= 0.5
        return ours

    return build


def sample_inputs(ours, batch, seed=0):
    return ours.to_dtype(ours.random_inputs(batch, 2, stream_generator("cpu", "test", seed)))


def with_inputs(ours, random_inputs):
    """The learner with fixed random inputs: called with a batch alone."""
    ours.forward = lambda batch: type(ours).forward(ours, batch, random_inputs)
    return ours


def stepped(ours, weights, examples, rate):
    """weights - rate grad L(weights, examples), by autograd; differentiable."""
    loss = ours.loss(torch.func.functional_call(ours.net, weights, (examples.x,)), examples.y)
    gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return {name: w - rate * g for (name, w), g in zip(weights.items(), gradient, strict=True)}


def pieces(ours, random_inputs):
    """The random inputs of one sample by parameter."""
    parameters = dict(ours.net.named_parameters())
    flat = random_inputs.split([p.numel() for p in parameters.values()])
    return {name: piece.view_as(p) for (name, p), piece in zip(parameters.items(), flat, strict=True)}


def by_hand(ours, task, random_inputs):
    """Algorithm 1 on one task, sample by sample: the log-likelihood and the divergence."""
    mu, n = dict(ours.net.named_parameters()), len(random_inputs)
    mean_q = stepped(ours, mu, task.query, ours.log_gamma_q.exp())
    mean_p = stepped(ours, mu, task.support, ours.log_gamma_p.exp())
    v_q, v_p = ours.posterior_variance(), ours.prior_variance()
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
    kl = [kl_divergence(Normal(mean_q[k], v_q[k].sqrt()), Normal(mean_p[k], v_p[k].sqrt())).sum() for k in mu]
    return log_p, sum(kl)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradient_are_those_of_algorithm_1(learner, draw, one, kind, loss_and_gradient):
    ours, batch = learner(kind), draw(kind)
    random_inputs, task = sample_inputs(ours, batch), one(batch)
    log_p, kl = by_hand(ours, task, random_inputs[0])
    expected = -log_p + 0.7 * kl
    assert kl > 1 and abs(log_p) > 1
    loss, gradient = loss_and_gradient(ours, batch, lambda batch: ours(batch, random_inputs)[:1])
    torch.testing.assert_close(loss[0], expected.detach(), rtol=1e-7, atol=0)
    expected_gradient = torch.autograd.grad(expected, list(ours.parameters()))
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected_gradient]), rtol=1e-5, atol=1e-5)


def test_the_divergence_is_from_the_prior_shifted_by_the_support_set(learner, draw, one):
    """It is not from N(0, 1), nor from the prior before the shift."""
    ours, batch = learner("mlp"), draw("mlp")
    random_inputs, task = sample_inputs(ours, batch)[0], one(batch)

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
    other_support = task._replace(support=Examples(task.support.x, task.support.y + 1))
    assert abs(kl(other_support) - kl(task)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_is_that_of_algorithm_2(learner, draw, one, kind):
    ours, batch = learner(kind).eval(), draw(kind)
    random_inputs, task = sample_inputs(ours, batch)[0], one(batch)
    assert random_inputs.shape == (4, sum(p.numel() for p in ours.net.parameters()))
    mean_p = stepped(ours, dict(ours.net.named_parameters()), task.support, ours.log_gamma_p.exp())
    predictions = [predict(task.query.x) for predict in ours.trajectory(task.support, 2, random_inputs)]
    assert len(predictions) == 3 and all(isinstance(p, Samples) and p.variance == 0.25 for p in predictions)
    for m, row in enumerate(random_inputs):
        phi = {n: v + ours.prior_variance()[n].sqrt() * pieces(ours, row)[n] for n, v in mean_p.items()}
        for k in range(3):
            expected = torch.func.functional_call(ours.net, phi, (task.query.x,))
            torch.testing.assert_close(predictions[k].values[m], expected, rtol=1e-7, atol=1e-9)
            phi = stepped(ours, phi, task.support, ours.inner_lr)


def test_training_samples_too(learner, draw):
    """If only the test sampled, the loss would not depend on random inputs, and the variances would get no gradient."""
    ours, batch = learner("mlp"), draw("mlp")
    first, other = (ours(batch, sample_inputs(ours, batch, seed)) for seed in (0, 1))
    assert ((first - other).abs() > 1e-3).all()
    (first - other).sum().backward()  # the divergence is the same in both
    for variances, has_gradient in ((ours.posterior_variance, True), (ours.prior_variance, False)):
        assert all((p.grad.abs().max() > 1e-6) == has_gradient for p in variances.parameters())


def test_the_loss_reaches_both_variances_and_both_step_sizes(learner, draw):
    ours, batch = learner("mlp"), draw("mlp")
    ours(batch, sample_inputs(ours, batch)).sum().backward()
    assert all(p.grad.abs().max() > 1e-6 for p in ours.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_without_variance_and_shift_it_equals_maml(learner, make, draw, kind, loss_and_gradient):
    ours, batch = learner(kind), draw(kind)
    maml = make(MAML, kind, inner_lr=0.05, inner_steps=2, eval_steps=2, first_order=False)
    torch.nn.init.constant_(ours.log_gamma_p, -math.inf)
    torch.nn.init.constant_(ours.log_gamma_q, -math.inf)
    zeros = torch.zeros_like(sample_inputs(ours, batch))
    ours.eval(), maml.eval()
    name, task_type = ("mse", "regression") if kind == "mlp" else ("nll", "classification")
    values, expected = (evaluate_batch(a, task_type, batch, n, 3)[name] for a, n in ((ours, zeros), (maml, ())))
    torch.testing.assert_close(torch.tensor(values), torch.tensor(expected), rtol=1e-9, atol=1e-11)
    ours.train(), maml.train()
    _, expected_gradient = loss_and_gradient(maml, batch)
    ours(batch, zeros).mean().backward()
    scale = 10 / (2 * 0.25) if kind == "mlp" else 15  # normal log-densities summed over 10 points; over 15 images
    gradient = torch.cat([p.grad.flatten() for p in ours.net.parameters()])
    torch.testing.assert_close(gradient, scale * expected_gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_agrees_with_finite_differences(learner, draw, kind, slopes_agree):
    batch = draw(kind)
    ours = learner(kind, train_samples=1, log_variance=[-9.0, -5.0])
    slopes_agree(with_inputs(ours, sample_inputs(ours, batch)), batch, rtol=1e-4)


def test_first_order_treats_gradients_as_constants(learner, draw, loss_and_gradient):
    batch = draw("mlp")
    random_inputs = sample_inputs(learner("mlp"), batch)
    exact, constant = (
        loss_and_gradient(with_inputs(learner("mlp", first_order=o), random_inputs), batch) for o in (False, True)
    )
    torch.testing.assert_close(exact[0], constant[0])
    assert (exact[1] - constant[1]).norm() > 1e-2 * exact[1].norm()


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_a_loop(learner, draw, kind, loss_and_gradient):
    batch = draw(kind)
    random_inputs = sample_inputs(learner(kind), batch)
    results = []
    for vectorized in (True, False):
        ours = learner(kind)
        ours.vectorized = vectorized
        results.append(loss_and_gradient(with_inputs(ours, random_inputs), batch))
    for vectorized, looped in zip(*results, strict=True):
        torch.testing.assert_close(vectorized, looped, rtol=1e-7, atol=1e-8)


def test_random_inputs_depend_on_shapes_only(learner, draw):
    ours, batch = learner("mlp"), draw("mlp")
    other = Task(*(Examples(examples.x + 1, examples.y * 2) for examples in batch))
    random_inputs = sample_inputs(ours, batch)
    assert torch.equal(random_inputs, sample_inputs(ours, other)) and random_inputs.shape[1] == 3
    assert sample_inputs(ours.eval(), batch).shape[1] == 4


def test_without_random_inputs_theta_is_the_priors_mean(learner, draw, one):
    ours, task = learner("mlp"), one(draw("mlp"))
    prediction = ours.adapt(task.support)(task.query.x)
    zeros = torch.zeros(1, sum(p.numel() for p in ours.net.parameters())).double()
    assert prediction.values.shape == (1, 10, 1)
    torch.testing.assert_close(prediction.values, ours.adapt(task.support, zeros)(task.query.x).values)


def test_it_loads_the_weights_of_a_maml(learner, make):
    maml = make(MAML, "mlp", seed=7, inner_steps=1, eval_steps=1, first_order=False)
    ours = learner("mlp", gamma=0.3)
    before = {name: p.clone() for name, p in ours.state_dict().items()}
    ours.load_state_dict(maml.state_dict())
    for name, value in ours.state_dict().items():
        expected = maml.state_dict().get(name, before[name])
        assert torch.equal(value, expected), name
    another = learner("mlp")
    another.load_state_dict(ours.state_dict())  # from a PLATIPUS it loads everything
    assert another.log_gamma_p.exp().item() == pytest.approx(0.3)
    weights = maml.state_dict()
    weights.pop("net.head.bias")
    with pytest.raises(RuntimeError, match="net.head.bias"):
        ours.load_state_dict(weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_steps": -1}, "algo.inner_steps must be an integer of at least 0; got -1"),
        ({"samples": 0}, "algo.samples must be an integer of at least 1; got 0"),
        ({"train_samples": 1.5}, "algo.train_samples must be an integer of at least 1; got 1.5"),
        ({"gamma": 0.0}, "algo.gamma must be above 0; got 0.0"),
        ({"kl_weight": -1.0}, "algo.kl_weight must be above 0; got -1.0"),
        ({"likelihood_std": 0.0}, "algo.likelihood_std must be above 0; got 0.0"),
        ({"log_variance": [0.0]}, r"log_variance must be .*; got \[0.0\]"),
    ],
)
def test_rejects_invalid_arguments(learner, changes, message):
    with pytest.raises(ValueError, match=message):
        learner("conv4", **changes)


@pytest.mark.slow
def test_it_learns():
    torch.manual_seed(0)
    changes = {"inner_lr": 0.3, "inner_steps": 1, "eval_steps": 1, "gamma": 0.01, "kl_weight": 1.0, "train_samples": 1}
    ours = PLATIPUS(toy.mlp((2,)), 3, F.cross_entropy, **(ARGS | changes))
    before, after = toy.score(ours, toy.Blobs(), 120, toy.adam(lr=1e-2), meta_batch_size=6, tasks=60)
    assert before < 0.65
    assert after > 0.78
