"""The mixture is half sinusoids, half lines, and its oracle stream tells which."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metarun.data.sinusoid_line import SinusoidLine


def mixture(**changes: Any) -> SinusoidLine:
    numbers: dict[str, Any] = {"lines": 0.5, "amplitude": (0.1, 5.0), "phase": (0.0, 3.14159), "noise": 0.0}
    numbers |= {"slope": (-3.0, 3.0), "intercept": (-3.0, 3.0), "x": (-5.0, 5.0)}
    numbers |= {"shots": 5, "queries": 20, "train_queries": 15, "device": "cpu"}
    return SinusoidLine(**(numbers | changes))


def draw(stream: str = "episodes", tasks: int = 2000, split: str = "train", **changes):
    return mixture(**changes).sample(split, stream, tasks, torch.Generator().manual_seed(0))


def test_y_is_what_the_oracles_parameters_say():
    task = draw("oracle")
    for x, y in (task.support, task.query):
        at, u, amplitude, phase, slope, intercept = x.split(1, dim=-1)
        torch.testing.assert_close(y, torch.where(u < 0.5, slope * at + intercept, amplitude * torch.sin(at - phase)))


def straight(task) -> torch.Tensor:
    """Which tasks' query points lie on a line."""
    x, y = task.query
    basis = torch.cat([x, torch.ones_like(x)], -1).double()
    fitted = basis @ torch.linalg.lstsq(basis, y.double()).solution
    return (fitted - y).abs().amax((1, 2)) < 1e-4


@pytest.mark.parametrize("lines", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_lines_is_as_asked_for(lines):
    assert straight(draw(lines=lines)).double().mean().item() == pytest.approx(lines, abs=0.03)


def test_parameters_fill_their_ranges():
    x = draw("oracle", tasks=5000).support.x[:, 0]  # [T, 6]
    low, high = torch.tensor([[-5.0, 0.0, 0.1, 0.0, -3.0, -3.0], [5.0, 1.0, 5.0, 3.14159, 3.0, 3.0]])
    torch.testing.assert_close(x.min(0).values, low, rtol=0, atol=0.02)
    torch.testing.assert_close(x.max(0).values, high, rtol=0, atol=0.02)


def test_noise_is_on_the_targets_of_lines_and_sinusoids_alike():
    clean, noisy = draw(), draw(noise=0.3)
    for a, b in zip(clean, noisy, strict=True):
        assert torch.equal(a.x, b.x)
        for kind in (straight(clean), ~straight(clean)):
            assert (a.y - b.y)[kind].std().item() == pytest.approx(0.3, rel=0.05)


def test_shapes_and_streams():
    assert [leaf.shape for leaf in (*draw(tasks=3).support, *draw(tasks=3).query)] == [(3, 5, 1)] * 2 + [(3, 15, 1)] * 2
    assert draw(tasks=3, split="test").query.x.shape == (3, 20, 1)
    plain, oracle = draw(), draw("oracle")
    assert torch.equal(plain.support.x, oracle.support.x[..., :1]) and torch.equal(plain.query.y, oracle.query.y)
    assert mixture().in_shape("oracle") == (6,) and mixture().in_shape() == (1,)


def test_titles_say_which_curve_it_is():
    task, titles = mixture().curves(40, 50, torch.Generator().manual_seed(0))
    for line, title in zip(straight(task).tolist(), titles, strict=True):
        assert title.startswith("slope " if line else "amplitude ")


@pytest.mark.parametrize(("change", "named"), [
    ({"lines": 1.5}, "data.lines"), ({"lines": -0.1}, "data.lines"), ({"slope": (1.0, -1.0)}, "data.slope"),
    ({"intercept": (1.0,)}, "data.intercept"), ({"shots": 0}, "data.shots"), ({"noise": -1.0}, "data.noise"),
])  # fmt: skip
def test_bad_values_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        mixture(**change)
