"""Is it Alpha MAML? Both rules against the products of gradients that they are, through `fit`."""

import copy

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.alpha_maml import AlphaMAML
from metarun.algos.maml import MAML
from metarun.evaluation.evaluate import evaluate
from metarun.training import checkpoint
from metarun.training.loop import TrainState, fit

KINDS = ["mlp", "conv4"]
CPU = torch.device("cpu")


def numbers(steps=1, first_order=False, alpha_rate=1e-3, beta_rate=1e-3, **changes):
    defaults = {"inner_steps": steps, "eval_steps": steps, "first_order": first_order}
    return defaults | {"alpha_rate": alpha_rate, "beta_rate": beta_rate} | changes


def task_gradients(net, loss, examples):
    return torch.autograd.grad(loss(net(examples.x), examples.y), list(net.parameters()))


def alpha_slope_by_hand(learner, batch):
    """-mean_i grad L(theta'_i, D'_i) . grad L(theta, D_i), one product over all weights of the network."""
    products = []
    for t in range(len(batch.support.x)):
        support, query = (type(examples)(*(leaf[t] for leaf in examples)) for examples in batch)
        net = copy.deepcopy(learner.net)
        inner = task_gradients(net, learner.loss, support)
        with torch.no_grad():
            for p, g in zip(net.parameters(), inner, strict=True):
                p -= learner.alpha * g
        outer = task_gradients(net, learner.loss, query)
        products.append(sum((a * b).sum() for a, b in zip(outer, inner, strict=True)))
    return -torch.stack(products).mean()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_alpha_is_the_product_of_both_gradients(kind, first_order, make, draw, loss_and_gradient):
    learner, batch = make(AlphaMAML, kind, **numbers(1, first_order)), draw(kind)
    loss_and_gradient(learner, batch)
    torch.testing.assert_close(learner.alpha.grad, alpha_slope_by_hand(learner, batch), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_alpha_agrees_with_finite_differences(kind, steps, make, draw):
    learner, batch = make(AlphaMAML, kind, **numbers(steps)), draw(kind)
    learner(batch).mean().backward()
    with torch.no_grad():
        losses = []
        for step in (1e-6, -2e-6):
            learner.alpha += step
            losses.append(learner(batch).mean())
    torch.testing.assert_close(learner.alpha.grad, (losses[0] - losses[1]) / 2e-6, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_of_theta_are_mamls(kind, make, draw, loss_and_gradient):
    batch = draw(kind)
    ours, theirs = make(AlphaMAML, kind, **numbers(2)), make(MAML, kind, inner_steps=2, eval_steps=2, first_order=False)
    losses, gradient = loss_and_gradient(ours, batch)
    assert next(name for name, _ in ours.named_parameters()) == "alpha"
    expected = loss_and_gradient(theirs, batch)
    torch.testing.assert_close((losses, gradient[1:]), expected, rtol=1e-9, atol=1e-12)


def test_three_outer_steps_follow_the_equations(make):
    """theta, alpha and beta after each outer step, beta's product being with the meta-gradient of the step before."""
    learner = make(AlphaMAML, "mlp", **numbers(1, alpha_rate=1e-4, beta_rate=1e-5, inner_lr=0.01))
    meta_optimizer, data = toy.sgd(lr=1e-3, scheduler=toy.linear(3)), toy.sinusoid()
    reference = copy.deepcopy(learner)
    beta, previous = 1e-3, None
    for number, step in enumerate(fit(TrainState.create(learner, meta_optimizer, CPU, 0), data, meta_optimizer, 3, 5)):
        names = [name for name, _ in reference.named_parameters()]
        slopes = torch.autograd.grad(reference(step.batch).mean(), list(reference.parameters()))
        slopes = dict(zip(names, slopes, strict=True))
        flat = torch.cat([g.flatten() for name, g in slopes.items() if name != "alpha"])
        if previous is not None:
            beta = beta + 1e-5 * float(flat @ previous)
        previous, factor = flat, 1 - number / 3
        with torch.no_grad():
            for name, p in reference.named_parameters():
                p -= factor * (1e-4 if name == "alpha" else beta) * slopes[name]
        assert float(learner.beta) == pytest.approx(beta, rel=1e-9)
        for ours, expected in zip(learner.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-14)
    assert beta != pytest.approx(1e-3, rel=1e-3)
    assert learner.alpha.item() != pytest.approx(0.01, rel=1e-3)


def test_both_rates_stop_at_zero(make):
    """Rates of change so large that a first wrong step would go far below."""
    learner = make(AlphaMAML, "mlp", **numbers(1, alpha_rate=10.0, beta_rate=0.0, inner_lr=0.05))
    learner.alpha.register_hook(lambda _gradient: torch.tensor(1.0, dtype=torch.float64))
    meta_optimizer = toy.sgd(lr=1e-5)
    next(fit(TrainState.create(learner, meta_optimizer, CPU, 0), toy.sinusoid(), meta_optimizer, 1, 5))
    assert learner.alpha.item() == 0

    learner = make(AlphaMAML, "mlp", **numbers(1, alpha_rate=0.0, beta_rate=10.0))
    training = TrainState.create(learner, meta_optimizer, CPU, 0)
    steps = fit(training, toy.sinusoid(), meta_optimizer, 2, 5)
    next(steps)
    for state in training.optimizers["theta"].state.values():
        state["previous"].neg_()  # the last step now seems to have gone the wrong way
    next(steps)
    assert float(learner.beta) == 0


def test_both_rates_are_diagnostics_and_saved_and_a_resumed_run_is_the_unbroken_one(make, tmp_path):
    meta_optimizer, data = toy.sgd(lr=1e-4), toy.sinusoid()

    def begin():
        learner = make(AlphaMAML, "mlp", **numbers(1, alpha_rate=1e-5, beta_rate=1e-6, inner_lr=0.01))
        return TrainState.create(learner, meta_optimizer, CPU, 0)

    whole, broken, resumed = begin(), begin(), begin()
    list(fit(whole, data, meta_optimizer, 6, 5))
    for step in fit(broken, data, meta_optimizer, 6, 5):
        if step.iteration == 3:
            break
    checkpoint.save(tmp_path, "last", 3, broken.learner.state_dict(), broken.state_dict(), {})
    saved = checkpoint.load(tmp_path, "last")
    resumed.learner.load_state_dict(saved.weights)
    resumed.load_state_dict(saved.state)
    list(fit(resumed, data, meta_optimizer, 6, 5))
    rates = whole.learner.diagnostics()
    assert set(rates) == {"alpha", "beta"} and {"alpha", "beta"} <= set(saved.weights)
    assert rates["beta"] > 1e-4 and rates["alpha"] != 0.01
    for ours, theirs in zip(resumed.learner.state_dict().values(), whole.learner.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_compiled_is_eager(make, draw, loss_and_gradient, compiled_loss_and_gradient):
    learner, batch = make(AlphaMAML, "mlp", **numbers(1)), draw("mlp")
    eager = loss_and_gradient(learner, batch)
    torch._dynamo.reset()
    compiled = compiled_loss_and_gradient(learner, batch)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["alpha_rate", "beta_rate"])
def test_refuses_rates_below_zero(name, make):
    with pytest.raises(ValueError, match=f"^algo.{name} must be at least 0; got -1$"):
        make(AlphaMAML, "mlp", **numbers(**{name: -1}))


@pytest.mark.slow
@pytest.mark.parametrize("flipped", [None, "alpha", "theta"])
def test_it_learns_from_rates_that_are_a_hundred_times_too_small_and_with_a_flipped_sign_it_does_not(flipped):
    """Frozen rates learn nothing from there; nor does either rule downhill instead of up."""
    torch.manual_seed(0)
    backbone = toy.mlp(hidden=[40, 40], activation="relu")
    rates = numbers(alpha_rate=1e-6, beta_rate=1e-4, inner_lr=1e-4)
    learner = AlphaMAML(backbone, 1, F.mse_loss, **rates)
    before = evaluate(learner, toy.sinusoid(), "test", 100, 0).estimate().mean
    meta_optimizer = toy.sgd(lr=1e-5)
    training = TrainState.create(learner, meta_optimizer, CPU, 0)
    if flipped == "alpha":
        learner.alpha.register_hook(torch.neg)
    if flipped == "theta":
        training.optimizers["theta"].rate *= -1
    for _ in fit(training, toy.sinusoid(), meta_optimizer, 1000, 25):
        pass
    after = evaluate(learner, toy.sinusoid(), "test", 100, 0).estimate().mean
    print(flipped, before, after, learner.diagnostics())
    assert before > 2.4  # no adaptation: predicting nearly zero
    if flipped is None:
        assert after < 2.6 and learner.alpha > 1e-3 and learner.beta > 1e-3
    else:
        assert after > 3.0
