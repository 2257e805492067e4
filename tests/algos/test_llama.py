"""LLAMA against MAML where eta is 0, its loss term by term, and the curvature that a positive eta lowers."""

import pytest
import torch
import torch.nn.functional as F
import toy
from torch.func import functional_call

from metarun.algos.llama import LLAMA
from metarun.algos.maml import MAML
from metarun.layers.norm import batch_norms
from metarun.numerics.kfac import log_determinant
from metarun.tasks import Examples

KINDS = ["mlp", "conv4"]
STEPS = {"inner_lr": 0.1, "inner_steps": 2, "eval_steps": 2, "first_order": False}
ARGS = STEPS | {"eta": 0.05, "damping": 0.01}
PLAIN = toy.conv4((1, 16, 16), filters=6, blocks=3, norm="none")


@pytest.mark.parametrize(("kind", "changes"), [("mlp", {}), ("conv4", {"backbone": PLAIN})])
@pytest.mark.parametrize("first_order", [True, False])
def test_without_eta_it_equals_maml(make, draw, kind, changes, first_order, loss_and_gradient):
    common = changes | {"first_order": first_order}
    maml, ours = make(MAML, kind, **(STEPS | common)), make(LLAMA, kind, **(ARGS | common | {"eta": 0.0}))
    for a, b in zip(loss_and_gradient(ours, draw(kind)), loss_and_gradient(maml, draw(kind)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def adapted(ours, support):
    """phi, by autograd: all parameters except those of batch norms adapt."""
    fixed = {id(p) for norm in batch_norms(ours.net) for p in norm.parameters()}
    phi = dict(ours.net.named_parameters())
    names = [name for name, p in phi.items() if id(p) not in fixed]
    for _ in range(2):
        loss = ours.loss(functional_call(ours.net, phi, (support.x,)), support.y)
        gradient = torch.autograd.grad(loss, [phi[name] for name in names], create_graph=True)
        phi = phi | {name: phi[name] - 0.1 * g for name, g in zip(names, gradient, strict=True)}
    return phi


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_query_loss_plus_the_query_curvature(make, draw, one, kind):
    ours, task = make(LLAMA, kind, **ARGS), one(draw(kind))
    ours.inner_lr.fill_(0.1)
    phi = adapted(ours, task.support)
    assert len(phi) > len(ours.adapted_names) or kind == "mlp"

    def predict(x):
        return functional_call(ours.net, phi, (x,))

    classification = kind == "conv4"
    log_det = log_determinant(lambda: predict(task.query.x), ours.taps, classification, ours.damping)
    expected = ours.loss(predict(task.query.x), task.query.y) + 0.05 * log_det
    torch.testing.assert_close(ours.meta_loss(task), expected, rtol=1e-7, atol=0)
    on_support = log_determinant(lambda: predict(task.support.x), ours.taps, classification, ours.damping)
    assert abs(log_det - on_support) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_agrees_with_finite_differences(make, draw, kind, slopes_agree):
    slopes_agree(make(LLAMA, kind, **(ARGS | {"inner_lr": 0.02})), draw(kind), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_a_loop(make, draw, kind, loss_and_gradient):
    results = []
    for vectorized in (True, False):
        ours = make(LLAMA, kind, **ARGS)
        ours.vectorized = vectorized
        results.append(loss_and_gradient(ours, draw(kind)))
    for vectorized, looped in zip(*results, strict=True):
        torch.testing.assert_close(vectorized, looped, rtol=1e-7, atol=1e-9)


def test_batch_norms_do_not_adapt(make, draw, one):
    ours, task = make(LLAMA, "conv4", **ARGS), one(draw("conv4"))
    assert not any("norm" in name for name in ours.adapted_names)
    assert set(ours.taps) == {"blocks.conv1", "blocks.conv2", "blocks.conv3", "head"}
    maml = make(MAML, "conv4", **STEPS)
    assert (ours.adapt(task.support)(task.query.x) - maml.adapt(task.support)(task.query.x)).abs().max() > 1e-6


def test_running_statistics_are_updated(make, draw):
    """The passes of the curvature, which run within transforms, leak nothing into the running statistics."""
    backbone = toy.conv4((1, 16, 16), blocks=3, norm="running")
    ours = make(LLAMA, "conv4", backbone=backbone, **ARGS)
    ours(draw("conv4")).sum().backward()
    ours.after_step()
    for norm in batch_norms(ours.net):
        assert norm.running_mean.abs().max() > 0 and norm.running_mean.isfinite().all()


def test_predictions_are_point_estimates(make, draw, one):
    ours, task = make(LLAMA, "mlp", **ARGS), one(draw("mlp"))
    predictions = [predict(task.query.x) for predict in ours.trajectory(task.support, 3)]
    assert len(predictions) == 4 and all(isinstance(p, torch.Tensor) for p in predictions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_steps": -1}, "inner_steps must be "),
        ({"eval_steps": 0.5}, "eval_steps must be "),
        ({"damping": 0.0}, "algo.damping must be above 0; got 0.0"),
    ],
)
def test_rejects_invalid_values(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(LLAMA, "mlp", **(ARGS | changes))


def test_it_learns_and_eta_makes_it_flatter():
    data, curvature = toy.Blobs(), {}
    batch = data.sample("test", "episodes", 20, torch.Generator().manual_seed(1))
    for eta in (0.0, 1e-3):
        torch.manual_seed(0)
        kwargs = ARGS | {"inner_lr": 0.3, "inner_steps": 1, "eval_steps": 1, "eta": eta}
        ours = LLAMA(toy.mlp((2,)), 3, F.cross_entropy, **kwargs)
        before, after = toy.score(ours, data, 120, toy.adam(lr=1e-2), meta_batch_size=6, tasks=60)
        assert before < 0.65 and after > 0.75
        values = []
        for t in range(20):
            support, query = (Examples(*(leaf[t] for leaf in examples)) for examples in batch)
            predict = ours.adapt(support)
            values.append(log_determinant(lambda p=predict, x=query.x: p(x), ours.taps, True, ours.damping).detach())
        curvature[eta] = torch.stack(values).mean().item()
    assert curvature[1e-3] < curvature[0.0] - 8
