"""One compiled program of losses and gradient equals autograd, micro-batch by micro-batch, and is traced whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metarun.training.gradients import compiled_gradient_of, gradient_of


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (3, 4), "shift": (3,), "twin": (3,), "unused": (2,)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in shapes.items()
    }


def losses(p: dict[str, nn.Parameter], x: torch.Tensor) -> torch.Tensor:
    """`[T]`; `shift` and `twin` have the same gradient, which is the same in all entries."""
    return (x @ p["w"].T).tanh().sum(1) + (p["shift"] + p["twin"]).sum()


@pytest.fixture(params=["eager", "compiled"])
def gradients(request):
    """Gradients by name, summed over micro-batches of x; None: there is none."""

    def compute(micro_batches):
        p = parameters()
        of_x = gradient_of(lambda x: losses(p, x))
        if request.param == "compiled":
            torch._dynamo.reset()
            of_x = compiled_gradient_of(lambda x: losses(p, x), p.values())
        values = [of_x(6, x) for x in micro_batches]
        assert not any(value.requires_grad for value in values)
        return torch.cat(values), {name: value.grad for name, value in p.items()}

    return compute


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("size", [6, 2])
def test_micro_batches_add_up_to_the_gradient_of_the_mean(gradients, size):
    values, by_name = gradients(X.split(size))
    p = parameters()
    losses(p, X).mean().backward()
    torch.testing.assert_close(values, losses(p, X).detach(), rtol=1e-12, atol=0)
    assert by_name.pop("unused") is None  # an optimizer with weight decay leaves it alone, too
    for name, gradient in by_name.items():
        torch.testing.assert_close(gradient, p[name].grad, rtol=1e-12, atol=1e-14)


def test_gradients_can_be_changed_in_place(gradients):
    """Clipping does: two parameters' gradients that share memory would be clipped twice."""
    _, by_name = gradients([X])
    by_name["shift"].mul_(0.5)
    torch.testing.assert_close(by_name["twin"], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(by_name["shift"], torch.full((3,), 0.5, dtype=torch.float64))


def test_a_gradient_lies_in_memory_as_its_parameter():
    """Of a network in channels last; a fused Adam would step the wrong entries."""

    def trained(compiled: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3)).double()
        net = net.to(memory_format=torch.channels_last)
        adam = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
        scores = lambda x: net(x).square().mean((1, 2, 3))  # noqa: E731
        gradient = compiled_gradient_of(scores, net.parameters()) if compiled else gradient_of(scores)
        x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
        for _ in range(3):
            adam.zero_grad()
            gradient(3, x)
            adam.step()
        assert all(p.grad.stride() == p.stride() for p in net.parameters())
        return [p.detach() for p in net.parameters()]

    torch._dynamo.reset()
    for ours, theirs in zip(trained(compiled=True), trained(compiled=False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_gradient_is_traced_with_the_losses(monkeypatch):
    """One graph, in which autograd has nothing left to do."""
    p = parameters()
    graphs = []
    backend = lambda graph, _inputs, **_options: graphs.append(graph) or graph  # noqa: E731
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, **options, backend=backend))
    torch._dynamo.reset()
    values = compiled_gradient_of(lambda x: losses(p, x), p.values())(6, X)
    assert len(graphs) == 1 and values.grad_fn is None
    assert any("grad" in str(node.target) for node in graphs[0].graph.nodes)


def test_parameters_that_are_frozen_stay_without_gradient():
    p = parameters()
    p["w"].requires_grad_(False)
    torch._dynamo.reset()
    compiled_gradient_of(lambda x: losses(p, x), p.values())(6, X)
    assert p["w"].grad is None and p["shift"].grad is not None


def test_what_cannot_be_traced_costs_time_only():
    p = parameters()
    seen = []

    def opaque(x):
        torch._dynamo.graph_break()
        seen.append(float(x.sum()))
        return losses(p, x)

    torch._dynamo.reset()
    values = compiled_gradient_of(opaque, p.values())(6, X)
    q = parameters()
    losses(q, X).mean().backward()
    assert len(seen) == 1
    torch.testing.assert_close(values, losses(q, X).detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(p["w"].grad, q["w"].grad, rtol=1e-12, atol=1e-14)
