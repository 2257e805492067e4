"""What all optimizers are given: random weights that are the task's, a network that is nobody's, mini-batches."""

import pytest
import torch
import torch.nn.functional as F
import toy
from torch.func import functional_call

from metarun.algos.baselines.tuned_optimizer import TunedOptimizer
from metarun.algos.l2l_optimizer import LearnedOptimizer
from metarun.layers.norm import batch_norms, inductive
from metarun.tasks import Examples, Task

LEARNED = {"units": 3, "gradient_input": "log", "gradient_scale": 1.0, "log_p": 10.0, "output_scale": 0.1}
LEARNED |= {"inner_steps": 4, "unroll": 2}
COMMON = {"init_std": 0.5, "batch": None, "eval_steps": 3}


def hand(backbone=None, outputs=1, loss=F.mse_loss, rule="sgd", **changes):
    numbers = COMMON | {"inner_optimizer": rule, "inner_lr": 0.01} | changes
    return TunedOptimizer(backbone or toy.mlp(), outputs, loss, **numbers).double()


def learned(backbone=None, outputs=1, loss=F.mse_loss, **changes):
    torch.manual_seed(changes.pop("seed", 0))
    return LearnedOptimizer(backbone or toy.mlp(), outputs, loss, **(COMMON | LEARNED | changes)).double()


def drawn(learner, batch, steps=3, seed=0):
    return learner.to_dtype(learner.random_inputs(batch, steps, torch.Generator().manual_seed(seed)))


def at(random_inputs, t):
    return {"start": random_inputs["start"][t], "rows": random_inputs["rows"][t] if len(random_inputs["rows"]) else ()}


def test_the_network_starts_at_the_noise_times_its_deviation(draw, one):
    batch = draw("mlp")
    learner = hand()
    random_inputs = drawn(learner, batch)
    net = toy.mlp()(outputs=1).double()
    torch.nn.utils.vector_to_parameters(0.5 * random_inputs["start"][0], net.parameters())
    first = next(learner.trajectory(one(batch).support, 0, at(random_inputs, 0)))
    torch.testing.assert_close(first(one(batch).query.x), net(one(batch).query.x))
    many = drawn(learner, Task(*(Examples(*(leaf.repeat(50, 1, 1) for leaf in part)) for part in batch)))["start"]
    assert many.shape == (200, len(learner.start))
    assert many.mean().abs() < 0.01 and abs(many.std() - 1) < 0.01
    assert not torch.equal(many[0], many[1])


def test_scales_of_normalisation_start_about_one_and_nothing_else_does():
    learner = hand(toy.mlp(norm="layer", hidden=[16]), init_std=1e-6)
    pieces = dict(
        zip(learner.shapes, learner.first(()).split([s.numel() for s in learner.shapes.values()]), strict=True)
    )
    for name, piece in pieces.items():
        assert (piece - (1.0 if name == "features.norm1.weight" else 0.0)).abs().max() < 1e-5, name


def test_learned_and_hand_made_get_the_same_weights_and_mini_batches(draw):
    batch = draw("mlp")
    noises = [drawn(learner, batch) for learner in (hand(batch=4), learned(batch=4), learned(batch=4, seed=1))]
    for other in noises[1:]:
        assert torch.equal(noises[0]["start"], other["start"]) and torch.equal(noises[0]["rows"], other["rows"])
    assert noises[0]["rows"].shape == (4, 4, 4)  # one more than steps: the last step is judged on it
    assert all(torch.equal(hand().first(()), learner.first(())) for learner in (learned(), learned(seed=1)))


def test_the_network_is_not_the_learners_to_train_or_to_save():
    learner = learned()
    assert all(name.startswith(("cells", "head")) for name, _ in learner.named_parameters())
    assert not [name for name in learner.state_dict() if name.startswith(("net", "start", "mean", "init_std"))]
    assert [name for name, _ in hand().named_parameters()] == []
    assert {b.dtype for name, b in learner.named_buffers()} == {torch.float64}  # but it goes where the learner goes


def test_without_noise_the_start_is_always_the_same(draw, one):
    task = one(draw("mlp"))
    torch.manual_seed(5)
    first = list(hand().trajectory(task.support, 2))
    torch.manual_seed(6)
    second = list(hand().trajectory(task.support, 2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a(task.query.x), b(task.query.x))


def test_step_t_sees_the_mini_batch_t_alone(draw, one):
    batch, learner = draw("mlp"), hand(batch=4)
    random_inputs, support = at(drawn(learner, batch), 0), one(batch).support
    theta = learner.first(random_inputs)
    for step in range(4):
        rows = random_inputs["rows"][step]
        gradient, value = learner.slope(theta, support, step, random_inputs)
        own = Examples(support.x[rows], support.y[rows])
        torch.testing.assert_close((gradient, value), learner.slope(theta, own, 0, ()))
        changed = support.y.clone()
        changed[[i for i in range(10) if i not in rows]] += 1
        torch.testing.assert_close(learner.slope(theta, Examples(support.x, changed), step, random_inputs)[1], value)
    predict = learner.predictor(theta, support)
    gradient, value = learner.slope(theta, support, 0, ())
    torch.testing.assert_close(value, F.mse_loss(predict(support.x), support.y))
    size = 1e-6
    higher, lower = (learner.slope(theta + step * torch.ones_like(theta), support, 0, ())[1] for step in (size, -size))
    torch.testing.assert_close(gradient.sum(), (higher - lower) / (2 * size), rtol=1e-6, atol=1e-8)


def test_batch_norms_are_found_by_evaluation(draw, backbones):
    """Queries are normalised together; under `inductive`, which goes through the learner, each by itself."""
    batch = draw("conv4")
    learner = hand(backbones["conv4"], 5, F.cross_entropy, rule="adam", inner_lr=0.05, eval_steps=8).eval()
    random_inputs = drawn(learner, batch, 8)
    task = Task(*(Examples(part.x[0], part.y[0]) for part in batch))
    *_, last = learner.trajectory(task.support, 8, at(random_inputs, 0))
    together, alone = last(task.query.x), torch.cat([last(x.unsqueeze(0)) for x in task.query.x])
    assert (together - alone).abs().max() > 0.01
    assert len(batch_norms(learner)) == 3
    with inductive(learner):
        together, alone = last(task.query.x), torch.cat([last(x.unsqueeze(0)) for x in task.query.x])
    torch.testing.assert_close(together, alone)


def test_predictors_are_the_network_with_those_weights(draw, one):
    learner, task = hand(toy.mlp(norm="layer")), one(draw("mlp"))
    theta = torch.randn(len(learner.start)).double()
    net = toy.mlp(norm="layer")(outputs=1).double()
    weights = {}
    for (name, p), piece in zip(
        net.named_parameters(), theta.split([p.numel() for p in net.parameters()]), strict=True
    ):
        weights[name] = piece.view(p.shape)
    expected = functional_call(net, weights, (task.query.x,))
    torch.testing.assert_close(learner.predictor(theta, task.support)(task.query.x), expected)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"init_std": 0.0}, "init_std must be above 0, got 0.0"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"eval_steps": -1}, "eval_steps must be a whole number of at least 0, got -1"),
        ({"backbone": toy.mlp(norm="running")}, "backbone.norm must be of one task.*got running"),
    ],
)
@pytest.mark.parametrize("make", [hand, learned])
def test_refuses_what_makes_no_sense(make, bad, says):
    with pytest.raises(ValueError, match=says):
        make(**bad)
