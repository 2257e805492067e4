"""Draws without replacement: distinct, in range, all ordered choices equally likely."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_images import ODDS, generator
from scipy.stats import chisquare

from metarun.sampling import draw_below, draw_distinct


@given(
    rows=st.integers(1, 40),
    population=st.integers(1, 300),
    k=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_drawn_numbers_are_distinct_and_in_range(rows, population, k, seed):
    k = min(k, population)
    drawn = draw_distinct(rows, population, k, generator(seed))
    assert drawn.shape == (rows, k) and drawn.dtype == torch.int64
    assert drawn.min() >= 0 and drawn.max() < population
    assert all(len(set(row)) == k for row in drawn.tolist())


@given(counts=st.lists(st.integers(3, 20), min_size=1, max_size=30), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_drawn_numbers_stay_below_their_rows_count(counts, seed):
    drawn = draw_below(torch.tensor(counts), max(counts), 3, generator(seed))
    assert (drawn < torch.tensor(counts)[:, None]).all()
    assert all(len(set(row)) == 3 for row in drawn.tolist())


@pytest.mark.parametrize("population", [5, 7, 8, 12])  # 2 * 2 * 2 = 8 divides the two ways to draw
def test_every_ordered_choice_is_equally_likely(population):
    drawn = draw_distinct(60_000, population, 2, generator(1))
    seen = torch.bincount(drawn[:, 0] * population + drawn[:, 1], minlength=population**2)
    seen = seen.view(population, population)
    assert seen.diagonal().sum() == 0
    pairs = seen[~torch.eye(population, dtype=torch.bool)]
    assert chisquare(pairs.numpy()).pvalue > ODDS


def test_rows_are_independent():
    drawn = draw_distinct(40_000, 6, 1, generator(2)).flatten()
    pairs = torch.bincount(drawn[:-1] * 6 + drawn[1:], minlength=36)
    assert chisquare(pairs.numpy()).pvalue > ODDS
