"""Is it T-net, MT-net, M-net? Against the paper's equations written out with plain autograd."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import toy
from torch.func import functional_call
from toy import score
from written_out import DTYPES, KINDS, STEPS, assert_is_descend, backbone_of

from metarun.algos.maml import MAML
from metarun.algos.mtnet import MTNet
from metarun.backbones.resnet12 import ResNet12
from metarun.layers.transform import transformed
from metarun.learner.gradient_descent import descend
from metarun.sampling import stream_generator

VARIANTS = {"tnet": (True, "none"), "mtnet": (True, "row"), "mtnet_full": (True, "weight")}
VARIANTS |= {"mnet": (False, "row"), "mnet_full": (False, "weight")}


@pytest.fixture
def build(make):
    def construct(variant, kind="mlp", steps=1, shake=0.1, **numbers):
        transform, mask = VARIANTS[variant]
        defaults = {"transform": transform, "mask": mask, "temperature": 0.7, "inner_steps": steps, "eval_steps": steps}
        learner = make(MTNet, kind, **defaults | numbers)
        generator = torch.Generator().manual_seed(9)
        for parameter in learner.parameters():  # off the identity and off even odds
            parameter.data += shake * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return learner

    return construct


def random_inputs_of(learner, batch, steps, seed=4):
    return learner.to_dtype(learner.random_inputs(batch, steps, torch.Generator().manual_seed(seed)))


def take(tree, t):
    return tree[t] if isinstance(tree, torch.Tensor) else tree


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_written_out_is_descend(kind, variant, dtype, build, draw, backbones):
    kind, backbone = backbone_of(kind, backbones)
    learner = build(variant, kind, steps=STEPS, dtype=dtype, backbone=backbone, inner_lr=0.05)
    batch = draw(kind, dtype)

    def shared(support, random_inputs):
        if learner.mask == "none":
            rates = {name: learner.inner_lr for name, _ in learner.net.named_parameters() if ".layer." in name}
        elif learner.mask == "row":
            rates = learner.masked_rates(random_inputs[0])
        else:
            rates = lambda step: learner.masked_rates(random_inputs[step])  # noqa: E731
        return descend(learner, learner.net, support, STEPS, rates)

    assert_is_descend(learner, batch, shared, random_inputs_of(learner, batch, STEPS))


# --------------------------------------------------------------------------------- the paper, with plain autograd


def layers_of(learner):
    return [(m.layer.weight, m.layer.bias, m.transform) for _, m in transformed(learner.net)]


def network(x, layers):
    """h_out = relu(T (W h + b)), the last layer without relu and with its T."""
    for number, (weight, bias, transform) in enumerate(layers, 1):
        x = x @ weight.T + bias
        if transform is not None:
            x = x @ transform.T
        x = torch.relu(x) if number < len(layers) else x
    return x


def masks_by_hand(learner, draw):
    """(mask of W, mask of b) of each layer: hard forward, soft backward."""
    masks, at, logits = [], 0, list(learner.logits)
    for weight, bias, _ in layers_of(learner):
        pair = []
        for shape in [bias.shape] if learner.mask == "row" else [weight.shape, bias.shape]:
            zeta = logits.pop(0)
            g = draw[at : at + zeta.numel()].reshape(shape)
            at += zeta.numel()
            soft = torch.softmax(torch.stack([zeta + g, torch.zeros_like(zeta)], -1) / learner.temperature, -1)
            hard = F.one_hot(soft.argmax(-1), 2).to(soft.dtype)
            pair.append(((hard - soft).detach() + soft)[..., 0])
        m = (pair[0][:, None].expand(weight.shape), pair[0]) if learner.mask == "row" else tuple(pair)
        masks.append(m)
    return masks


def meta_loss_by_hand(learner, task, random_inputs, steps):
    layers = layers_of(learner)
    for step in range(steps):
        loss = F.mse_loss(network(task.support.x, layers), task.support.y)
        moving = [p for weight, bias, _ in layers for p in (weight, bias)]
        gradients = torch.autograd.grad(loss, moving, create_graph=True)
        if learner.mask == "none":
            masks = [(1.0, 1.0)] * len(layers)
        else:
            masks = masks_by_hand(learner, random_inputs[0] if learner.mask == "row" else random_inputs[step])
        layers = [
            (w - learner.inner_lr * mw * gw, b - learner.inner_lr * mb * gb, t)
            for (w, b, t), (mw, mb), gw, gb in zip(layers, masks, gradients[::2], gradients[1::2], strict=True)
        ]
    return F.mse_loss(network(task.query.x, layers), task.query.y)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_meta_gradient_are_the_papers(variant, steps, build, draw, one):
    learner, batch = build(variant, steps=steps, inner_lr=0.02), draw("mlp")
    random_inputs = random_inputs_of(learner, batch, steps)
    ours = learner.meta_loss(one(batch), take(random_inputs, 0))
    ours.backward()
    gradients = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    expected = meta_loss_by_hand(learner, one(batch), take(random_inputs, 0), steps)
    expected.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    for (name, p), gradient in zip(learner.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.abs().max() > 0, f"nothing reaches {name}"


@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_with_the_identity_for_a_metric_t_net_is_maml(kind, build, make, draw, loss_and_gradient):
    learner = build("tnet", kind, shake=0.0, steps=2)
    maml = make(MAML, kind, inner_steps=2, eval_steps=2, first_order=False)
    if kind == "conv4":  # T-net's inner loop leaves batch norm's own scale and shift alone
        maml.net.blocks.requires_grad_(True)
        expected = maml_without_norms(maml, draw(kind))
        torch.testing.assert_close(learner(draw(kind)), expected, rtol=1e-12, atol=1e-13)
        return
    losses, _ = loss_and_gradient(learner, draw(kind))
    torch.testing.assert_close(losses, loss_and_gradient(maml, draw(kind))[0], rtol=1e-13, atol=0)
    ours = {n.replace(".layer", ""): p.grad for n, p in learner.named_parameters()}
    for name, p in maml.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-11, atol=1e-14)


def maml_without_norms(maml, batch):
    """Losses of MAML's descent on everything but batch norm's parameters."""

    def meta_loss(task):
        rates = {n: maml.inner_lr for n, _ in maml.net.named_parameters() if "norm" not in n}
        *_, last = descend(maml, maml.net, task.support, 2, rates)
        return maml.loss(last(task.query.x), task.query.y)

    return torch.func.vmap(meta_loss)(batch)


# ------------------------------------------------------------------------------------------------- what moves


def weights_after(learner, task, random_inputs, steps):
    """Fast weights after `steps` steps: those that the last predictor is made with."""
    seen = {}

    def remember(net, params, support):
        seen.update(params)
        return lambda x: functional_call(net, params, (x,))

    learner.functional_predictor = remember
    *_, _last = learner.trajectory(task.support, steps, random_inputs)
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_inner_loop_leaves_the_metric_alone_and_moves_the_rest(variant, build, draw, one):
    learner, batch = build(variant, steps=2), draw("mlp")
    before = {n: p.detach().clone() for n, p in learner.net.named_parameters()}
    after = weights_after(learner, one(batch), take(random_inputs_of(learner, batch, 2), 0), 2)
    transforms = [n for n in before if n.endswith("transform")]
    assert len(transforms) == (3 if VARIANTS[variant][0] else 0)
    assert all(torch.equal(after[n], before[n]) for n in transforms)
    moving = [n for n, p in before.items() if n not in transforms and p.numel() > 1]  # a lone bias may be masked out
    assert all(not torch.equal(after[n], before[n]) for n in moving)


def test_a_row_moves_whole_or_not_at_all_its_bias_with_it_and_the_same_in_all_steps(build, draw, one):
    learner, batch = build("mtnet", steps=3), draw("mlp")
    random_inputs = random_inputs_of(learner, batch, 3)
    before = dict(learner.net.named_parameters())
    after = weights_after(learner, one(batch), random_inputs[0], 3)
    still = 0
    at = 0
    for (name, module), zeta in zip(transformed(learner.net), learner.logits, strict=True):
        m = (zeta + random_inputs[0, 0, at : at + len(zeta)]) > 0
        at += len(zeta)
        moved = (after[f"{name}.layer.weight"] != before[f"{name}.layer.weight"]).any(1)
        bias_moved = after[f"{name}.layer.bias"] != before[f"{name}.layer.bias"]
        assert not moved[~m].any() and not bias_moved[~m].any()
        assert module.layer.bias.shape == m.shape
        still += int((~m).sum())
    assert 10 < still < 71  # of 81 units


def test_each_task_has_a_mask_of_its_own(build, draw):
    learner, batch = build("mtnet"), draw("mlp")
    random_inputs = random_inputs_of(learner, batch, 1)
    assert random_inputs.shape == random_inputs_of(learner, batch, 5).shape == (4, 1, 81)  # one draw for all steps
    masks = (random_inputs > 0).flatten(1)
    assert all((masks[0] != masks[t]).any() for t in range(1, 4))
    # the same task with the random inputs of another gives another prediction
    same = type(batch)(*(type(s)(*(leaf[:1].expand_as(leaf) for leaf in s)) for s in batch))
    losses = learner(same, random_inputs)
    assert len({float(loss.detach()) for loss in losses}) == 4


def test_weights_masks_are_drawn_at_every_step(build, draw):
    learner, batch = build("mtnet_full", steps=3), draw("mlp")
    random_inputs = random_inputs_of(learner, batch, 3)
    assert random_inputs.shape == (4, 3, 1761)  # as many as weights and biases of 1-40-40-1
    assert ((random_inputs[:, 0] > 0) != (random_inputs[:, 1] > 0)).any()


def test_a_unit_moves_with_the_probability_of_its_logit():
    learner = MTNet(toy.mlp(hidden=[1], activation="tanh"), 1, F.mse_loss, True, "row", 1.0, 0.1, 1, 1)
    learner.logits[0].data.fill_(1.2)
    generator = torch.Generator().manual_seed(0)
    batch = torch.zeros(20000, 1)
    random_inputs = learner.random_inputs(batch, 1, generator)
    share = float((learner.logits[0][0] + random_inputs[:, 0, 0] > 0).float().mean())
    assert share == pytest.approx(torch.sigmoid(torch.tensor(1.2)).item(), abs=4 * (0.25 / 20000) ** 0.5)


# ------------------------------------------------------------------------------------ any backbone, diagnostics


def test_the_metric_of_a_convolution_mixes_channels_and_the_bias_is_inside(build):
    learner = build("tnet", "conv4")
    (_, first), *_ = transformed(learner.net)
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    inside = F.conv2d(x, first.layer.weight, first.layer.bias, stride=2, padding=1)
    assert first.layer.bias.abs().max() > 0
    torch.testing.assert_close(first(x), torch.einsum("ij,njhw->nihw", first.transform, inside))


def test_resnet12_gets_a_metric_after_every_convolution_and_on_the_logits():
    backbone = partial(ResNet12, in_shape=(3, 16, 16), wider=False, norm="batch", init="torch")
    learner = MTNet(backbone, 5, F.cross_entropy, True, "row", 1.0, 0.1, 1, 1)
    shapes = [tuple(m.transform.shape) for _, m in transformed(learner.net)]
    assert shapes == [(w, w) for w in (64, 128, 256, 512) for _ in range(4)] + [(5, 5)]


def test_diagnostics_are_masks_and_spectra(build):
    learner = build("mtnet", shake=0.0)
    learner.logits[1].data.fill_(2.0)
    (_, last) = list(transformed(learner.net))[-1]
    last.transform.data.fill_(3.0)
    values = {name: float(value) for name, value in learner.diagnostics().items()}
    assert values["mask/features.linear1"] == pytest.approx(0.5)
    assert values["mask/features.linear2"] == pytest.approx(0.8808, abs=1e-4)
    assert values["metric/head/largest"] == pytest.approx(9.0)
    assert values["metric/features.linear1/smallest"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask": "rows"}, r"^algo\.mask must be one of none, row, weight; got 'rows'$"),
        ({"temperature": 0.0}, r"^algo\.temperature must be above 0; got 0\.0$"),
        ({"inner_steps": -1}, r"^algo\.inner_steps must be an integer of at least 0; got -1$"),
    ],
)
def test_refuses(wrong, message, build):
    with pytest.raises(ValueError, match=message):
        build("mtnet", **wrong)


# -------------------------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("variant", ["mtnet", "tnet"])
def test_it_learns_the_sinusoid(variant):
    torch.manual_seed(0)
    transform, mask = VARIANTS[variant]
    net = toy.mlp(hidden=[40, 40], activation="relu")
    learner = MTNet(net, 1, F.mse_loss, transform, mask, 1.0, 0.01, 1, 1)
    before, after = score(learner, toy.sinusoid(), 1300, toy.adam(lr=3e-3), meta_batch_size=8)
    assert before > 2.4  # no adaptation: predicting nearly zero
    assert after < 1.3  # the best answer that does not adapt costs 3.1


@pytest.mark.reproduce
def test_the_metric_makes_a_tiny_step_enough():
    """T-net's claim: with alpha = 1e-4 the metric makes up for the small step, where MAML cannot adapt."""
    after = {}
    for transform in (True, False):
        torch.manual_seed(0)
        net = toy.mlp(hidden=[40, 40], activation="relu", init="truncated_normal")
        learner = MTNet(net, 1, F.mse_loss, transform, "none", 1.0, 1e-4, 1, 1)
        varied = toy.sinusoid(frequency=(0.8, 1.2))
        after[transform] = score(learner, varied, 20_000, toy.adam(), meta_batch_size=4)[1]
    assert after[False] >= 2.3
    assert after[True] <= 1.3


def test_random_inputs_depend_on_their_generator_alone(build, draw):
    learner, batch = build("mtnet"), draw("mlp")
    one, again, other = (learner.random_inputs(batch, 1, stream_generator("cpu", s)) for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(("kind", "spread"), [("mlp", 0.1), ("conv4", 0.01)])
@pytest.mark.parametrize("variant", ["mtnet_full", "mnet_full"])
def test_logits_of_single_weights_start_as_the_official_codes(build, variant, kind, spread):
    """truncated_normal of .1 in its fully connected network, of .01 in its convolutional one, head and biases too."""
    logits = torch.cat([zeta.detach().flatten() for zeta in build(variant, kind, shake=0.0).logits])
    assert logits.abs().max() <= 2 * spread
    assert float(logits.std()) == pytest.approx(0.88 * spread, rel=0.1)  # of a normal cut off at two deviations
    for zeta in build(variant, kind, shake=0.0).logits:
        assert zeta.abs().max() <= 2 * spread


# --------------------------------------------------------------------------------------- without random inputs


@pytest.mark.parametrize("variant", ["mtnet", "mtnet_full", "mnet", "mnet_full"])
def test_without_random_inputs_the_mask_is_the_mean_over_masks(variant, build):
    learner = build(variant, shake=1.0)
    count = sum(zeta.numel() for zeta in learner.logits)
    draws = torch.rand(4000, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64).logit(eps=1e-6)
    with torch.no_grad():
        sums = torch.func.vmap(learner.masked_rates)(draws)
        for name, rate in learner.mean_rates().items():
            assert (
                sums[name].mean(0) - rate
            ).abs().max() < 0.1 * 4 * 0.5 / 4000**0.5  # four standard errors of alpha M


@pytest.mark.parametrize("variant", ["mtnet", "mtnet_full", "mnet", "mnet_full"])
def test_without_random_inputs_an_untrained_one_moves_too(variant, build, draw):
    """Its probabilities are one half: a threshold there would move nothing. `adapt(support)` was an index error."""
    learner = build(variant, shake=0.0).eval()
    task = toy.Task(*(toy.Examples(*(leaf[0] for leaf in examples)) for examples in draw("mlp")))
    before, after = (predict(task.query.x) for predict in learner.trajectory(task.support, 1))
    assert not torch.equal(before, after)
    torch.testing.assert_close(learner.adapt(task.support)(task.query.x), after, rtol=0, atol=0)
