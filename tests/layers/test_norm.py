"""Our batch norm against torch's, alone (where torch's is right) and under vmap (where only a loop is)."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from metarun.layers.norm import (
    BatchNorm,
    batch_norms,
    inductive,
    last_statistics,
    make_norm,
    recording,
    statistics_of_first,
)


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


def paired(mode, theirs):
    """Our batch norm and torch's, with the same weights."""
    ours, theirs = BatchNorm(len(theirs.weight), mode=mode).double(), theirs.double()
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(images(len(p)))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    return ours, theirs


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
def test_batch_mode_is_torchs_with_batch_statistics(shape):
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3, track_running_stats=False)
    ours, theirs = paired("batch", theirs)
    results = []
    for norm in (ours, theirs):
        x = images(*shape).requires_grad_()
        y = norm(x)
        (y**3).sum().backward()
        results.append((y, x.grad, norm.weight.grad, norm.bias.grad))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    x = images(*shape)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-12)


def test_running_mode_updates_as_torch_does():
    """For one task: the mean, and the unbiased variance, move by the momentum."""
    ours, theirs = paired("running", nn.BatchNorm2d(3))
    for seed in range(3):
        x = images(6, 3, 4, 4, seed=seed)
        with recording(ours) as norms:
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-12)
            ((mean, var),) = last_statistics(norms)
        ours.collect_stats(mean[None], var[None])
        ours.update_running_stats()
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-12, atol=1e-14)
    x = images(2, 3, 4, 4, seed=9)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-12)


def test_micro_batches_of_tasks_count_by_their_size():
    whole, sliced = BatchNorm(2, mode="running").double(), BatchNorm(2, mode="running").double()
    mean, var = images(5, 2), images(5, 2, seed=1).exp()
    whole.collect_stats(mean, var)
    sliced.collect_stats(mean[:1], var[:1])
    sliced.collect_stats(mean[1:], var[1:])
    for norm in (whole, sliced):
        norm.update_running_stats()
    torch.testing.assert_close(whole.running_mean, mean.mean(0) * 0.1, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(whole.running_var, 0.9 + var.mean(0) * 0.1, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(sliced.state_dict(), whole.state_dict(), rtol=1e-12, atol=1e-14)


def test_statistics_of_the_first_rows_are_used_for_all():
    norm = BatchNorm(3).double()
    x = images(6, 3, 4, 4)
    with statistics_of_first(norm, 4):
        y = norm(x)
    torch.testing.assert_close(y[:4], norm(x[:4]))
    scale, shift = x[:4].var((0, 2, 3), correction=0), x[:4].mean((0, 2, 3))
    expected = (x - shift.view(-1, 1, 1)) / (scale.view(-1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(norm(x), BatchNorm(3).double()(x))  # afterwards: those of all rows again


def test_contexts_end_after_an_error_too():
    net = nn.Sequential(BatchNorm(2), BatchNorm(2, mode="running"))
    for context in (inductive(net), statistics_of_first(net, 1), recording(net)):
        with pytest.raises(KeyError), context:
            raise KeyError
    for norm in batch_norms(net):
        assert not norm.inductive and norm.reference_rows is None and norm.recorded is None


@pytest.mark.parametrize(
    ("mode", "usually", "if_inductive"), [("batch", False, True), ("support", True, True), ("running", False, False)]
)
def test_who_needs_the_support_set(mode, usually, if_inductive):
    norm = BatchNorm(2, mode=mode)
    assert norm.uses_support is usually
    with inductive(norm):
        assert norm.uses_support is if_inductive


@pytest.mark.parametrize("kind", ["batch", "support", "running", "layer", "group", "none"])
def test_second_order_under_vmap_is_that_of_a_loop(kind):
    """The gradient of a gradient step, for two blocks; torch's batch norm fails such a test."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), make_norm(kind, 8), nn.Tanh(), nn.Conv2d(8, 8, 3), make_norm(kind, 8), nn.Tanh()
    ).double()
    x = images(3, 4, 1, 7, 7)

    def after_a_step(params, x):
        def loss(params):
            return functional_call(net, params, (x,)).pow(2).sum((1, 2, 3)).exp().mean().log()

        gradient = grad(loss)(params)
        return loss({name: p - 0.3 * gradient[name] for name, p in params.items()})

    params = dict(net.named_parameters())
    results = []
    batched = vmap(after_a_step, (None, 0))(params, x)
    for losses in (batched, torch.stack([after_a_step(params, t) for t in x])):
        results.append((losses, torch.autograd.grad(losses.sum(), list(params.values()))))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def test_unknown_names_are_refused():
    kinds = "batch, support, running, layer, group, none"
    with pytest.raises(ValueError, match=f"^backbone.norm must be one of {kinds}; got 'bach'$"):
        make_norm("bach", 4)
    with pytest.raises(ValueError, match="^backbone.norm must be one of batch, support, running; got 'x'$"):
        BatchNorm(4, mode="x")


def test_collected_statistics_can_be_taken_out_of_vmap():
    norm = BatchNorm(2, mode="running").double()
    mean, var = images(3, 2), images(3, 2, seed=1).exp()

    def taken(mean, var):
        norm.collect_stats(mean[None], var[None])
        return norm.pop_stats()

    assert norm.pop_stats() == []
    statistics = vmap(taken)(mean, var)
    torch.testing.assert_close(statistics, [(mean, var)])
    assert norm.gathered == []


def test_per_step_gives_scale_and_shift_a_step_dimension():
    norm, plain = BatchNorm(3), BatchNorm(3)
    norm.per_step(4)
    assert {n: v.shape for n, v in norm.state_dict().items()} == {n: (4, 3) for n in plain.state_dict()}
    assert [n for n, _ in norm.named_parameters()] == ["weight", "bias"]
    x = torch.randn(5, 3, 2, 2)
    first = {name: value[0] for name, value in norm.state_dict().items()}
    torch.testing.assert_close(functional_call(norm, first, (x,)), plain(x))
