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
from metarun.tasks import Examples, Task

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
    coupled = kind == "conv4"  # by batch norm
    log_det = log_determinant(lambda: predict(task.query.x), ours.taps, classification, ours.damping, coupled)
    expected = ours.loss(predict(task.query.x), task.query.y) + 0.05 * log_det
    torch.testing.assert_close(ours.meta_loss(task), expected, rtol=1e-7, atol=0)
    on_support = log_determinant(lambda: predict(task.support.x), ours.taps, classification, ours.damping, coupled)
    assert abs(log_det - on_support) > 1e-2


def log_det_by_hand(net, support, query, norm, damping):
    """Of a network linear1, norm, tanh, linear2: row by row and class by class, with plain autograd."""
    x = torch.cat([support, query]) if norm == "support" else query
    h1 = net.features.linear1(x)
    rows = h1[: len(support)] if norm == "support" else h1
    z = (h1 - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt()
    a2 = (z * net.features.norm1.weight + net.features.norm1.bias).tanh()
    h2 = net.head(a2)
    p, G = h2.softmax(1), [torch.zeros(h.shape[1], h.shape[1]).double() for h in (h1, h2)]
    for n in range(len(x) - len(query), len(x)):
        for c in range(h2.shape[1]):
            s = p[n, c].sqrt() * (F.one_hot(torch.tensor(c), h2.shape[1]) - p[n])
            for factor, g in zip(G, torch.autograd.grad(h2[n] @ s.detach(), (h1, h2), retain_graph=True), strict=True):
                factor += sum(torch.outer(row, row) for row in g) / len(x)
    total = 0.0
    for a, factor in zip((x, a2), G, strict=True):
        A = sum(torch.outer(row, row) for row in torch.cat([a, torch.ones(len(a), 1)], 1)) / len(a)
        for matrix, times in ((A, len(factor)), (factor, len(A))):
            total += times * torch.linalg.slogdet(matrix + damping**0.5 * torch.eye(len(matrix)).double()).logabsdet
    return total


def normal(n):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["batch", "support"])
def test_under_batch_norm_the_log_determinant_is_exact_and_jointly_it_is_not(norm):
    task = Task(*(Examples(normal(n), torch.arange(n).remainder(3)) for n in (6, 9)))
    values = {}
    for curvature in ("exact", "joint"):
        torch.manual_seed(0)
        kwargs = ARGS | {"inner_steps": 0, "eta": 1.0, "curvature": curvature}
        ours = LLAMA(toy.mlp((2,), hidden=[4], norm=norm), 3, F.cross_entropy, **kwargs).double()
        values[curvature] = ours.meta_loss(task) - ours.loss(ours.adapt(task.support)(task.query.x), task.query.y)
    expected = log_det_by_hand(ours.net, task.support.x, task.query.x, norm, float(ours.damping))
    torch.testing.assert_close(values["exact"], expected, rtol=1e-8, atol=0)
    assert abs(values["joint"] - expected) > 0.1


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
        ({"curvature": "diagonal"}, "algo.curvature must be one of exact, joint; got 'diagonal'"),
    ],
)
def test_rejects_invalid_values(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(LLAMA, "mlp", **(ARGS | changes))


@pytest.mark.slow
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
