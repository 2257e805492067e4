"""What all optimizers share: random weights of each task, a network that is not trained, mini-batches."""

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
    kwargs = COMMON | {"inner_optimizer": rule, "inner_lr": 0.01} | changes
    return TunedOptimizer(backbone or toy.mlp(), outputs, loss, **kwargs).double()


def learned(backbone=None, outputs=1, loss=F.mse_loss, **changes):
    torch.manual_seed(changes.pop("seed", 0))
    return LearnedOptimizer(backbone or toy.mlp(), outputs, loss, **(COMMON | LEARNED | changes)).double()


def drawn(learner, batch, steps=3, seed=0):
    return learner.to_dtype(learner.random_inputs(batch, steps, torch.Generator().manual_seed(seed)))


def at(random_inputs, t):
    return {"start": random_inputs["start"][t], "rows": random_inputs["rows"][t] if len(random_inputs["rows"]) else ()}


def test_the_network_starts_at_the_random_inputs_times_their_deviation(draw, one):
    batch = draw("mlp")
    learner = hand()
    random_inputs = drawn(learner, batch)
    net = toy.mlp()(outputs=1).double()
    torch.nn.utils.vector_to_parameters(0.5 * random_inputs["start"][0], net.parameters())
    first = next(learner.trajectory(one(batch).support, 0, at(random_inputs, 0)))
    torch.testing.assert_close(first(one(batch).query.x), net(one(batch).query.x))
    repeated = Task(*(Examples(*(leaf.repeat(50, 1, 1) for leaf in examples)) for examples in batch))
    many = drawn(learner, repeated)["start"]
    assert many.shape == (200, len(learner.start))
    assert many.mean().abs() < 0.01 and abs(many.std() - 1) < 0.01
    assert not torch.equal(many[0], many[1])


def test_scales_of_normalisation_start_near_one_and_nothing_else_does():
    learner = hand(toy.mlp(norm="layer", hidden=[16]), init_std=1e-6)
    pieces = dict(
        zip(learner.shapes, learner.first(()).split([s.numel() for s in learner.shapes.values()]), strict=True)
    )
    for name, piece in pieces.items():
        assert (piece - (1.0 if name == "features.norm1.weight" else 0.0)).abs().max() < 1e-5, name


def test_learned_and_hand_made_get_the_same_weights_and_mini_batches(draw):
    batch = draw("mlp")
    first, *others = (drawn(learner, batch) for learner in (hand(batch=4), learned(batch=4), learned(batch=4, seed=1)))
    for other in others:
        assert torch.equal(first["start"], other["start"]) and torch.equal(first["rows"], other["rows"])
    assert first["rows"].shape == (4, 4, 4)  # one more than steps, for the loss after the last
    assert all(torch.equal(hand().first(()), learner.first(())) for learner in (learned(), learned(seed=1)))


def test_the_network_is_not_the_learners_to_train_or_to_save():
    learner = learned()
    assert all(name.startswith(("cells", "head")) for name, _ in learner.named_parameters())
    assert not [name for name in learner.state_dict() if name.startswith(("net", "start", "mean", "init_std"))]
    assert [name for name, _ in hand().named_parameters()] == []
    assert {b.dtype for _, b in learner.named_buffers()} == {torch.float64}  # it is converted with the learner


def test_without_random_inputs_the_start_is_always_the_same(draw, one):
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
        mini_batch = Examples(support.x[rows], support.y[rows])
        torch.testing.assert_close((gradient, value), learner.slope(theta, mini_batch, 0, ()))
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
    task = Task(*(Examples(examples.x[0], examples.y[0]) for examples in batch))
    *_, last = learner.trajectory(task.support, 8, at(random_inputs, 0))
    batched, single = last(task.query.x), torch.cat([last(x.unsqueeze(0)) for x in task.query.x])
    assert (batched - single).abs().max() > 0.01
    assert len(batch_norms(learner)) == 3
    with inductive(learner):
        batched, single = last(task.query.x), torch.cat([last(x.unsqueeze(0)) for x in task.query.x])
    torch.testing.assert_close(batched, single)


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
    ("bad", "message"),
    [
        ({"init_std": 0.0}, "algo.init_std must be above 0; got 0.0"),
        ({"batch": 0}, "algo.batch must be null or an integer of at least 1; got 0"),
        ({"eval_steps": -1}, "algo.eval_steps must be an integer of at least 0; got -1"),
    ],
)
@pytest.mark.parametrize("make", [hand, learned])
def test_refuses_what_makes_no_sense(make, bad, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(**bad)
