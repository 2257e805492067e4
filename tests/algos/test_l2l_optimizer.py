"""The learned optimizer against torch's LSTM coordinate by coordinate, and the derivatives it must not take."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import toy
from commands import metarun
from torch import nn

from metarun.algos.l2l_optimizer import LearnedOptimizer
from metarun.backbones.linear import Linear
from metarun.data.quadratics import Quadratics
from metarun.numerics.gradient_input import preprocess
from metarun.run_folder import read_result
from metarun.tasks import Examples
from metarun.training.loop import TrainState, fit

ARGS = {"units": 5, "gradient_input": "scale", "gradient_scale": 0.1, "log_p": 10.0, "output_scale": 0.1}
ARGS |= {"inner_steps": 6, "unroll": 3, "init_std": 1.0, "batch": None, "eval_steps": 6}
DATA = Quadratics(10, "cpu")
LINEAR = partial(Linear, (10,), bias=False)


def make(backbone=LINEAR, seed=0, spread=0.6, **changes):
    """A learner in float64; `spread` perturbs its weights, so that errors are not hidden by small steps."""
    torch.manual_seed(seed)
    learner = LearnedOptimizer(backbone, 1, F.mse_loss, **(ARGS | changes)).double()
    with torch.no_grad():
        for p in learner.parameters():
            p += spread * torch.randn(p.shape).double()
    return learner


def functions(tasks=3, seed=0):
    """A batch of quadratics."""
    batch = DATA.sample("train", "episodes", tasks, torch.Generator().manual_seed(seed))
    return make().to_dtype(batch)


def sample_inputs(learner, batch, steps=6, seed=0):
    return learner.to_dtype(learner.random_inputs(batch, steps, torch.Generator().manual_seed(seed)))


def one_task(batch, random_inputs, t=0):
    """The support set and the random inputs of task t."""
    rows = random_inputs["rows"][t] if len(random_inputs["rows"]) else ()
    return Examples(*(leaf[t] for leaf in batch.support)), {"start": random_inputs["start"][t], "rows": rows}


def thetas(learner, support, random_inputs, steps=6):
    """theta_0, theta_1, ... of a linear network: its predictions of the unit vectors."""
    eye = torch.eye(10).double()
    return torch.stack([predict(eye)[:, 0] for predict in learner.trajectory(support, steps, random_inputs)])


def gradient_of(learner, losses):
    return torch.cat([g.flatten() for g in torch.autograd.grad(losses.sum(), list(learner.parameters()))])


def function(support, theta):
    return F.mse_loss(support.x @ theta.unsqueeze(1), support.y)


# ------------------------------------------------------------------------------------------------ the update rule


@pytest.mark.parametrize("kind", ["scale", "log"])
def test_it_equals_torchs_lstm_on_each_coordinate(kind):
    learner, batch = make(gradient_input=kind, output_scale=0.03), functions()
    support, random_inputs = one_task(batch, sample_inputs(learner, batch))
    lstm = nn.LSTM(2 if kind == "log" else 1, 5, num_layers=2).double()
    for layer, cell in enumerate(learner.cells):
        for name, value in {"weight_ih": cell.weight_ih, "weight_hh": cell.weight_hh, "bias_ih": cell.bias}.items():
            getattr(lstm, f"{name}_l{layer}").data.copy_(value)
        nn.init.zeros_(getattr(lstm, f"bias_hh_l{layer}"))
    theta, state = random_inputs["start"].clone(), None
    for ours in thetas(learner, support, random_inputs):
        torch.testing.assert_close(ours, theta, rtol=1e-10, atol=1e-12)
        gradient = 2 / 10 * support.x.T @ (support.x @ theta - support.y[:, 0])
        inputs = preprocess(gradient, 10.0) if kind == "log" else learner.gradient_scale * gradient.unsqueeze(1)
        output, state = lstm(inputs.unsqueeze(0), state)
        theta = (theta + learner.output_scale * (output[0] @ learner.head.weight.T + learner.head.bias)[:, 0]).detach()


def test_permuting_the_coordinates_permutes_the_trajectory():
    """Weights are shared by the coordinates, memories are not."""
    learner, batch = make(), functions()
    support, random_inputs = one_task(batch, sample_inputs(learner, batch))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    permuted = thetas(
        learner, Examples(support.x[:, order], support.y), random_inputs | {"start": random_inputs["start"][order]}
    )
    plain = thetas(learner, support, random_inputs)
    torch.testing.assert_close(permuted, plain[:, order], rtol=1e-10, atol=1e-12)
    assert (plain[1:] - plain[:-1]).abs().min() > 1e-6


def test_each_coordinate_remembers_its_own_gradients():
    learner = make()
    state = learner.begin(torch.zeros(3).double())
    _, state = learner.update(torch.tensor([5.0, -5.0, 5.0]).double(), state)
    change, _ = learner.update(torch.ones(3).double(), state)
    assert change[0] == change[2] and (change[0] - change[1]).abs() > 1e-3
    first, _ = learner.update(torch.ones(1).double(), learner.begin(torch.zeros(1).double()))
    assert (change[0] - first[0]).abs() > 1e-3 and (change[1] - first[0]).abs() > 1e-3


def test_memory_is_reset_for_each_task():
    learner, batch = make(), functions()
    random_inputs = sample_inputs(learner, batch)
    learner.vectorized = False
    sequential = learner(batch, random_inputs)
    for t in range(3):
        support, task_inputs = one_task(batch, random_inputs, t)
        expected = sum(function(support, theta) for theta in thetas(learner, support, task_inputs)[1:])
        torch.testing.assert_close(sequential[t], expected, rtol=1e-10, atol=0)
    learner.vectorized = True
    torch.testing.assert_close(learner(batch, random_inputs), sequential, rtol=1e-10, atol=0)


# -------------------------------------------------------------------------------------- what is differentiated


def unrolled(learner, support, theta, steps, gradients=None, through=False):
    """The sum of f over `steps` steps, by plain autograd, and the input gradients.

    Args:
        gradients: the input gradients, instead of those of f.
        through: differentiate through the input gradients too.
    """
    state, total, inputs = learner.begin(theta), 0.0, []
    for step in range(steps):
        if gradients is None:
            point = theta if through else theta.detach().requires_grad_()
            value = function(support, point)
            (gradient,) = torch.autograd.grad(value, point, create_graph=through, retain_graph=through)
        else:
            gradient = gradients[step]
        inputs.append(gradient if through else gradient.detach())
        change, state = learner.update(inputs[-1], state)
        theta = theta + change
        total = total + function(support, theta)
    return total, inputs


def test_input_gradients_are_constants():
    """The derivative is that of the loss with frozen inputs, by finite differences; through them it differs."""
    learner, batch = make(unroll=6), functions(1)
    random_inputs = sample_inputs(learner, batch)
    support, task_inputs = one_task(batch, random_inputs)
    theta = task_inputs["start"]
    ours = gradient_of(learner, learner(batch, random_inputs))
    value, gradients = unrolled(learner, support, theta, 6)
    torch.testing.assert_close(learner(batch, random_inputs)[0], value)
    weights = nn.utils.parameters_to_vector(learner.parameters()).detach()
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        direction = torch.randn(weights.shape, generator=generator).double()
        direction /= direction.norm()
        values = []
        for size in (1e-6, -1e-6):
            nn.utils.vector_to_parameters(weights + size * direction, learner.parameters())
            values.append(unrolled(learner, support, theta, 6, gradients)[0].detach())
        slope = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close(ours @ direction, slope, rtol=1e-5, atol=1e-7 * float(ours.norm()))
    nn.utils.vector_to_parameters(weights, learner.parameters())
    start = theta.clone().requires_grad_()
    through = gradient_of(learner, unrolled(learner, support, start, 6, through=True)[0])
    assert (through - ours).norm() / ours.norm() > 0.05


def test_the_surrogate_is_the_loss_on_each_steps_mini_batch():
    """f_t is L on mini-batch t: value and derivative, against plain autograd on a network with a hidden layer."""
    learner, batch = make(toy.mlp((10,), hidden=[4]), unroll=6, batch=3), functions(1)
    random_inputs = sample_inputs(learner, batch)
    support, task_inputs = one_task(batch, random_inputs)
    theta, total = learner.first(task_inputs), 0.0
    state = learner.begin(theta)
    for step in range(6):
        change, state = learner.update(learner.slope(theta, support, step, task_inputs)[0], state)
        theta = theta + change
        rows = task_inputs["rows"][step + 1]
        total = total + F.mse_loss(learner.predictor(theta, support)(support.x[rows]), support.y[rows])
    torch.testing.assert_close(learner(batch, random_inputs)[0], total)
    torch.testing.assert_close(gradient_of(learner, learner(batch, random_inputs)), gradient_of(learner, total))


@pytest.mark.parametrize("unroll", [2, 3, 4, 10])
def test_segments_add_up_to_the_episode(unroll):
    learner, batch = make(unroll=unroll, inner_steps=7), functions()
    random_inputs = sample_inputs(learner, batch, 7)
    (stage,) = learner.stages
    assert stage.stream == "episodes" and len(stage.objectives) == -(-7 // unroll)
    segments = torch.stack([learner(batch, random_inputs, name) for name in stage.objectives])
    whole = learner(batch, random_inputs)
    torch.testing.assert_close(segments.sum(0), whole)
    expected = [sum(function(*point) for point in points) for points in _points(learner, batch, random_inputs, 7)]
    torch.testing.assert_close(whole, torch.stack(expected))
    torch.testing.assert_close(
        sum(gradient_of(learner, learner(batch, random_inputs, name)) for name in stage.objectives),
        gradient_of(learner, whole),
    )


def _points(learner, batch, random_inputs, steps):
    """Support set and theta_1, theta_2, ... of each task."""
    for t in range(3):
        support, task_inputs = one_task(batch, random_inputs, t)
        yield [(support, theta) for theta in thetas(learner, support, task_inputs, steps)[1:]]


def test_the_names_of_segments():
    assert list(make(inner_steps=7, unroll=3).segments) == ["steps 0-2", "steps 3-5", "steps 6-6"]
    assert list(make(inner_steps=100, unroll=20).segments)[-1] == "steps 80-99"


def test_no_derivative_crosses_a_segments_start():
    """Steps before the segment are those of a copy of the optimizer: only steps in the segment are differentiated."""
    learner, batch = make(), functions(1)
    random_inputs = sample_inputs(learner, batch)
    support, task_inputs = one_task(batch, random_inputs)
    other, theta = copy.deepcopy(learner), task_inputs["start"]
    state, total = learner.begin(theta), 0.0
    for step in range(6):
        optimizer = other if step < 3 else learner
        change, state = optimizer.update(learner.slope(theta, support, 0, ())[0], state)
        theta = theta + change
        total = total + (function(support, theta) if step >= 3 else 0.0)
    ours = gradient_of(learner, learner(batch, random_inputs, "steps 3-5"))
    torch.testing.assert_close(ours, gradient_of(learner, total))
    untruncated = make(unroll=6)
    full = gradient_of(untruncated, untruncated(batch, random_inputs))
    truncated = gradient_of(learner, learner(batch, random_inputs))
    assert (full - truncated).norm() > 0.05 * ours.norm()


def test_each_segment_is_followed_by_an_outer_step():
    """Through `fit`, with SGD: the second segment's loss and gradient are those after the first outer step."""
    learner, meta_optimizer = make(spread=0.1), toy.sgd(lr=1e-4)
    by_hand = copy.deepcopy(learner)
    step = next(fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), DATA, meta_optimizer, 1, 4))
    losses = {}
    for name in by_hand.segments:
        loss = by_hand(step.batch, step.random_inputs, name).mean()
        losses[name] = loss.item()
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), gradients, strict=True):
                p -= 1e-4 * g
    assert step.losses == pytest.approx(losses, rel=1e-9)
    for (name, ours), theirs in zip(learner.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
    (group,) = learner.parameter_groups()
    assert group["name"] == "all" and len(group["params"]) == len(list(learner.parameters())) == 8


# ---------------------------------------------------------------------------------------------- initialisation


@pytest.mark.parametrize("kind", ["scale", "log"])
def test_untrained_it_makes_small_steps_against_a_constant_gradient(kind):
    for seed in range(10):
        learner = make(seed=seed, spread=0.0, gradient_input=kind)
        gradient = torch.tensor([10.0, -10.0]).double()
        state, moved = learner.begin(gradient), torch.zeros(2).double()
        for _ in range(20):
            change, state = learner.update(gradient, state)
            moved += change.detach()
            assert change.abs().max() < 0.1
        assert moved[0] < moved[1]
        assert all(set(cell.bias.tolist()) == {0.0, 1.0} and cell.bias[5:10].min() == 1 for cell in learner.cells)


# ------------------------------------------------------------------------------------------------- other networks


def test_an_optimizer_learned_on_one_network_runs_on_another():
    trained, batch = make(toy.mlp((10,))), functions()
    for changes in ({"hidden": [5]}, {"hidden": [40, 40], "activation": "relu"}, {"norm": "layer"}):
        other = make(toy.mlp((10,), **changes), seed=1)
        other.load_state_dict(trained.state_dict())
        random_inputs = sample_inputs(other, batch)
        assert random_inputs["start"].shape[1] != sample_inputs(trained, batch)["start"].shape[1]
        gradient, state = torch.ones(1).double(), other.begin(torch.zeros(1).double())
        assert torch.equal(other.update(gradient, state)[0], trained.update(gradient, state)[0])
        assert other(batch, random_inputs).isfinite().all()


def test_a_finished_run_is_evaluated_on_another_network_from_the_command_line(tmp_path):
    common = ["run.iterations=2", "run.meta_batch_size=2", "run.eval_tasks=4", "run.val_tasks=2"]
    common += ["run.validate_every=2", "run.curve_steps=4", "algo.inner_steps=4", "algo.unroll=2"]
    common += ["tracker=none", "device.threads=1"]
    sizes = ["algo=l2l_optimizer", "data=sinusoid", "backbone.hidden=[8]", "data.queries=5"]
    assert metarun(*sizes, *common, "hydra.run.dir=first", folder=tmp_path).status == 0
    changes = ["run.evaluate=first", "backbone.hidden=[12,12]", "backbone.activation=tanh", "hydra.run.dir=second"]
    outcome = metarun(*changes, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    first, second = (read_result(tmp_path / name) for name in ("first", "second"))
    assert second["iterations"] == 0 and first["parameters"] == second["parameters"]
    assert second["episodes"] == first["episodes"] and second["mean"] != first["mean"]


# ------------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_input": "sign"}, "algo.gradient_input must be one of scale, log; got 'sign'"),
        ({"units": 0}, "algo.units must be an integer of at least 1; got 0"),
        ({"inner_steps": 0}, "algo.inner_steps must be an integer of at least 1; got 0"),
        ({"unroll": 2.5}, "algo.unroll must be an integer of at least 1; got 2.5"),
        ({"gradient_scale": -1.0}, "algo.gradient_scale must be above 0; got -1.0"),
        ({"output_scale": 0.0}, "algo.output_scale must be above 0; got 0.0"),
        ({"log_p": 0.0}, "algo.log_p must be above 0; got 0.0"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.slow
def test_it_learns():
    """Quadratics, 20 steps: f falls from 110 to below 15 after a few seconds of training; untrained, not below 40."""
    torch.manual_seed(0)
    kwargs = ARGS | {"units": 20, "inner_steps": 20, "unroll": 10, "eval_steps": 20}
    learner = LearnedOptimizer(LINEAR, 1, F.mse_loss, **kwargs)
    before, after = toy.score(learner, DATA, 30, toy.adam(lr=5e-3), meta_batch_size=16, tasks=60)
    assert before > 40
    assert after < 15
