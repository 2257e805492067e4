"""The sinusoid is MAML's and Meta-SGD's, and its oracle stream tells the truth."""

from __future__ import annotations

import math
import re

import pytest
import torch
import toy


def draw(stream: str = "episodes", tasks: int = 2000, split: str = "train", **changes):
    return toy.sinusoid(**changes).sample(split, stream, tasks, torch.Generator().manual_seed(0))


def test_y_is_the_sine_of_the_oracles_parameters():
    task = draw("oracle", frequency=(0.8, 1.2))
    for x, y in (task.support, task.query):
        amplitude, phase, frequency = x[..., 1:2], x[..., 2:3], x[..., 3:4]
        torch.testing.assert_close(y, amplitude * torch.sin(frequency * x[..., :1] - phase))


def test_the_oracle_sees_the_same_tasks():
    plain, oracle = draw(), draw("oracle")
    assert torch.equal(plain.support.x, oracle.support.x[..., :1])
    assert torch.equal(plain.query.y, oracle.query.y)


def test_parameters_fill_their_ranges():
    x = draw("oracle", frequency=(0.8, 1.2)).support.x[:, 0]  # [T, 4]: x, A, phi, f
    low, high = x.min(0).values, x.max(0).values
    torch.testing.assert_close(low, torch.tensor([-5.0, 0.1, 0.0, 0.8]), rtol=0, atol=0.02)
    torch.testing.assert_close(high, torch.tensor([5.0, 5.0, 3.14159, 1.2]), rtol=0, atol=0.02)
    # E[y^2] of MAML's setting: predicting zero costs about 4.3
    assert 3.9 < draw().query.y.square().mean().item() < 4.8


def test_shapes_and_train_queries():
    assert [leaf.shape for leaf in (*draw(tasks=3).support, *draw(tasks=3).query)] == [(3, 10, 1)] * 4
    assert draw(tasks=3, split="test").query.x.shape == (3, 20, 1)


def test_noise_is_on_y_only():
    clean, noisy = draw(), draw(noise=0.5)
    assert torch.equal(clean.support.x, noisy.support.x)
    assert (clean.query.y - noisy.query.y).std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("change", "named"), [
    ({"amplitude": (5.0, 0.1)}, "data.amplitude"), ({"x": (1.0,)}, "data.x"), ({"shots": 0}, "data.shots"),
    ({"noise": -1.0}, "data.noise"), ({"train_queries": 1.5}, "data.train_queries"),
])  # fmt: skip
def test_bad_values_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        toy.sinusoid(**change)


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="stream must be one of episodes, oracle; got 'pairs'"):
        draw("pairs")


def test_curves_are_noise_free_lines_through_the_tasks_and_titles_say_which():
    task, titles = toy.sinusoid(noise=1.0).curves(4, 50, torch.Generator().manual_seed(0))
    assert task.query.x.shape == (4, 50, 1) and (task.query.x.diff(dim=1) > 0).all()

    def waves(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.sin(), x.cos()], dim=-1)  # of frequency 1

    weights = torch.linalg.lstsq(waves(task.query.x), task.query.y).solution  # A cos(phi), -A sin(phi)
    for x, y in task:
        torch.testing.assert_close(waves(x) @ weights, y, rtol=0, atol=1e-4)
    for (a, b), title in zip(weights[..., 0].tolist(), titles, strict=True):
        amplitude, phase = (a * a + b * b) ** 0.5, math.atan2(-b, a)
        assert title == f"amplitude {amplitude:.1f}, phase {phase:.1f}"  # the frequency of all is 1


def test_the_title_of_a_curve_says_its_frequency_where_that_varies():
    _, titles = toy.sinusoid(frequency=(0.8, 1.2)).curves(4, 50, torch.Generator().manual_seed(0))
    assert all(re.fullmatch(r"amplitude \d\.\d, phase \d\.\d, frequency (0\.[89]|1\.[0-2])", title) for title in titles)
