"""A finite set of training tasks, with fixed points, noise and support set; held-out tasks are new."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metarun.data.finite_sinusoid import FiniteSinusoid
from metarun.tasks import DataError


def finite(**changes: Any) -> FiniteSinusoid:
    numbers: dict[str, Any] = {"amplitude": (0.1, 5.0), "phase": (0.0, 6.28318), "frequency": (0.5, 2.0)}
    numbers |= {"x": (-5.0, 5.0), "noise": 0.01, "tasks": 20, "tasks_seed": 0}
    numbers |= {"shots": 5, "queries": 30, "train_queries": 4, "device": "cpu"}
    return FiniteSinusoid(**(numbers | changes))


def draw(data: FiniteSinusoid, tasks: int = 8, split: str = "train", stream: str = "episodes", seed: int = 0):
    return data.sample(split, stream, tasks, torch.Generator().manual_seed(seed))


def identities(batch) -> set[tuple[float, ...]]:
    return {tuple(torch.cat([s, q]).flatten().tolist()) for s, q in zip(batch.support.x, batch.query.x, strict=True)}


def test_training_sees_the_same_tasks_again_and_no_others():
    data = finite()
    seen = [identities(draw(data, seed=s)) for s in range(40)]
    assert all(len(batch) == 8 for batch in seen)  # none twice in a step
    assert len(set.union(*seen)) == 20
    assert seen[0] != seen[1]


def test_targets_and_the_support_set_are_fixed_too():
    data, targets = finite(), {}
    for seed in range(20):
        batch = draw(data, seed=seed)
        for t in range(8):
            rest = (batch.support.y[t], batch.query.x[t], batch.query.y[t])
            before = targets.setdefault(tuple(batch.support.x[t].flatten().tolist()), rest)
            assert all(torch.equal(a, b) for a, b in zip(before, rest, strict=True))
    assert len(targets) == 20


def test_the_seed_says_which_tasks():
    both = [identities(draw(finite(tasks_seed=s), tasks=20)) for s in (0, 0, 1)]
    assert both[0] == both[1] and not both[0] & both[2]


def test_there_are_as_many_tasks_as_asked_for():
    data = finite(tasks=100)
    assert len(set.union(*(identities(draw(data, tasks=50, seed=s)) for s in range(20)))) == 100
    with pytest.raises(DataError, match=r"data\.tasks must be at least run\.meta_batch_size=21, .*; got 20"):
        draw(finite(), tasks=21)


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_tasks_are_new_each_time(split):
    data = finite()
    training = identities(draw(data, tasks=20))
    assert len(set.union(*(identities(draw(data, split=split, seed=s)) for s in range(10)))) == 80
    assert not identities(draw(data, split=split)) & training
    assert draw(data, split=split).query.x.shape == (8, 30, 1)


def test_noise_is_a_share_of_the_amplitude_and_held_out_queries_have_none():
    data = finite(noise=0.1, tasks=2000, train_queries=10)
    for split, noisy in (("train", (True, True)), ("test", (True, False))):
        batch = draw(data, tasks=2000, split=split, stream="oracle")
        for (x, y), has in zip(batch, noisy, strict=True):
            at, amplitude, phase, frequency = x.split(1, dim=-1)
            error = (y - amplitude * torch.sin(frequency * at - phase)) / amplitude
            assert error.std().item() == pytest.approx(0.1 if has else 0.0, rel=0.05, abs=1e-4)


def test_parameters_fill_their_ranges():
    x = draw(finite(tasks=5000), tasks=5000, stream="oracle").support.x[:, 0]
    low, high = torch.tensor([[-5.0, 0.1, 0.0, 0.5], [5.0, 5.0, 6.28318, 2.0]])
    torch.testing.assert_close(x.min(0).values, low, rtol=0, atol=0.02)
    torch.testing.assert_close(x.max(0).values, high, rtol=0, atol=0.02)


def test_the_oracle_sees_the_same_tasks():
    plain, oracle = draw(finite()), draw(finite(), stream="oracle")
    assert torch.equal(plain.support.x, oracle.support.x[..., :1]) and torch.equal(plain.query.y, oracle.query.y)


@pytest.mark.parametrize("split", ["train", "test"])
def test_replicas_get_what_each_would_get_alone(split):
    data = finite()
    together = data.sample_replicas(split, "episodes", 4, [torch.Generator().manual_seed(s) for s in range(3)])
    for r in range(3):
        one = draw(data, tasks=4, split=split, seed=r)
        for a, b in zip((*together.support, *together.query), (*one.support, *one.query), strict=True):
            assert torch.equal(a[r], b)


def test_a_caller_may_change_what_it_was_given():
    data = finite()
    batch = draw(data)
    batch.support.y.add_(100.0)
    assert draw(data).support.y.abs().max() < 10


@pytest.mark.parametrize(("change", "named"), [
    ({"tasks": 0}, "data.tasks"), ({"tasks": 1.5}, "data.tasks"), ({"frequency": (2.0, 0.5)}, "data.frequency"),
    ({"noise": -0.1}, "data.noise"), ({"shots": 0}, "data.shots"),
])  # fmt: skip
def test_bad_values_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        finite(**change)


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="stream must be one of episodes, oracle; got 'pairs'"):
        draw(finite(), stream="pairs")
