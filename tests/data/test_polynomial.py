"""The polynomials are MT-net's, and their oracle stream tells the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import toy

from metarun.data.polynomial import Polynomial
from metarun.evaluation.evaluate import evaluate
from metarun.training.loop import TrainState, fit


def polynomial(**changes: Any) -> Polynomial:
    numbers: dict[str, Any] = {"order": 2, "coefficients": (-1.0, 1.0), "x": (-2.0, 2.0)}
    numbers |= {"shots": 10, "queries": 20, "train_queries": 10, "device": "cpu"}
    return Polynomial(**(numbers | changes))


def draw(stream: str = "episodes", tasks: int = 2000, split: str = "train", **changes):
    return polynomial(**changes).sample(split, stream, tasks, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_y_is_the_polynomial_of_the_oracles_coefficients(order):
    task = draw("oracle", tasks=20, order=order)
    for x, y in (task.support, task.query):
        assert x.shape == (20, 10, 1 + order + 1)
        for points, values in zip(x.double().numpy(), y.double().numpy(), strict=True):
            expected = np.polynomial.polynomial.polyval(points[:, 0], points[0, 1:])
            np.testing.assert_allclose(values[:, 0], expected, rtol=0, atol=1e-6)


def test_the_oracle_sees_the_same_tasks():
    plain, oracle = draw(), draw("oracle")
    assert torch.equal(plain.support.x, oracle.support.x[..., :1])
    assert torch.equal(plain.query.y, oracle.query.y)


def test_a_power_more_halves_the_range_of_its_coefficient():
    x = draw("oracle", tasks=5000, order=3).support.x[:, 0]  # [T, 5]: x, c_0 ... c_3
    edge = torch.tensor([2.0, 1.0, 0.5, 0.25, 0.125])
    torch.testing.assert_close(x.min(0).values, -edge, rtol=0.01, atol=0)
    torch.testing.assert_close(x.max(0).values, edge, rtol=0.01, atol=0)
    torch.testing.assert_close(x.std(0), edge / 3**0.5, rtol=0.03, atol=0)  # uniform


@pytest.mark.parametrize("order", [0, 1, 2])
def test_tasks_have_one_degree_of_freedom_more_than_their_order(order):
    """The values on a grid span exactly `order` + 1 directions."""
    drawn = polynomial(order=order).curves(40, 30, torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(drawn[0].query.y[..., 0].double())
    assert (singular > 1e-4 * singular[0]).sum() == order + 1


def test_shapes_and_train_queries():
    assert [leaf.shape for leaf in (*draw(tasks=3).support, *draw(tasks=3).query)] == [(3, 10, 1)] * 4
    assert draw(tasks=3, split="test").query.x.shape == (3, 20, 1)
    data = polynomial(order=3)
    assert data.in_shape() == (1,) and data.in_shape("oracle") == (5,) and data.outputs("test") == 1


@pytest.mark.parametrize(("change", "named"), [
    ({"order": -1}, "data.order"), ({"order": 1.0}, "data.order"), ({"order": True}, "data.order"),
    ({"coefficients": (1.0, -1.0)}, "data.coefficients"), ({"coefficients": (1.0,)}, "data.coefficients"),
    ({"x": (2.0, -2.0)}, "data.x"), ({"shots": 0}, "data.shots"), ({"queries": "5"}, "data.queries"),
])  # fmt: skip
def test_bad_values_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        polynomial(**change)


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="stream must be one of episodes, oracle; got 'pairs'"):
        draw("pairs")


def test_curves_are_lines_through_the_tasks_and_titles_say_which():
    task, titles = polynomial().curves(4, 50, torch.Generator().manual_seed(0))
    assert task.query.x.shape == (4, 50, 1) and (task.query.x.diff(dim=1) > 0).all()
    for (x, y), (grid, truth), title in zip(
        zip(*task.support, strict=True), zip(*task.query, strict=True), titles, strict=True
    ):
        fitted = np.polynomial.Polynomial.fit(grid[:, 0].double(), truth[:, 0].double(), 2).convert()
        np.testing.assert_allclose(y[:, 0], fitted(x[:, 0].double().numpy()), atol=1e-5)
        c = fitted.coef
        assert title == f"{c[0]:.2f} {'-' if c[1] < 0 else '+'} {abs(c[1]):.2f} x " + (
            f"{'-' if c[2] < 0 else '+'} {abs(c[2]):.2f} x^2"
        )


@pytest.mark.slow
def test_its_tasks_can_be_learned():
    """What a learner of one step does on them: constants, for which the biases alone suffice, and lines."""
    torch.manual_seed(0)
    data, meta_optimizer = polynomial(order=1), toy.adam(lr=3e-3)
    learner = toy.maml(toy.mlp(hidden=[32, 32], activation="relu"), inner_lr=0.05, eval_steps=1)
    before = evaluate(learner, data, "test", 60, 0).estimate().mean
    for _ in fit(TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), data, meta_optimizer, 400, 10):
        pass
    after = evaluate(learner, data, "test", 60, 0).estimate().mean
    constant = float(data.eval_block("test", "episodes", 0).query.y.var(dim=1).mean())  # the best answer that is flat
    assert before > constant and after < 0.5 * constant
