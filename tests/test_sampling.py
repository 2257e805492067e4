"""Seeded streams of random numbers; samples without replacement: distinct, in range, all ordered choices alike."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_images import ODDS, generator
from referees import chisquare

from metarun.sampling import draw_below, draw_distinct, stream_generator, stream_seed


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
    assert drawn.shape == (len(counts), 3) and drawn.dtype == torch.int64 and drawn.min() >= 0
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


def test_every_ordered_choice_below_a_count_is_equally_likely():
    """A row of 4 among rows of 9: what is beyond its count is never drawn."""
    counts = torch.tensor([4, 9]).repeat(30_000)
    drawn = draw_below(counts, 9, 2, generator(1))[::2]
    seen = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16).view(4, 4)
    assert seen.shape == (4, 4) and seen.diagonal().sum() == 0
    assert chisquare(seen[~torch.eye(4, dtype=torch.bool)].numpy()).pvalue > ODDS


def test_rows_are_independent():
    drawn = draw_distinct(40_000, 6, 1, generator(2)).flatten()
    pairs = torch.bincount(drawn[:-1] * 6 + drawn[1:], minlength=36)
    assert chisquare(pairs.numpy()).pvalue > ODDS


@pytest.mark.parametrize("draw", [
    lambda g: draw_distinct(5, 7, 3, g), lambda g: draw_distinct(50, 300, 3, g),
    lambda g: draw_below(torch.tensor([5, 3]), 5, 3, g),
], ids=["few", "many", "below"])  # fmt: skip
def test_random_numbers_come_from_the_generator_alone(draw):
    before = torch.get_rng_state()
    assert torch.equal(draw(generator(4)), draw(generator(4)))
    assert not torch.equal(draw(generator(4)), draw(generator(5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_have_seeds_of_their_own():
    seeds = {stream_seed(*names) for names in [(0, "noise"), (1, "noise"), (0, "tasks/flat"), (0, "n", "oise")]}
    assert len(seeds) == 4
    assert stream_seed(0, "noise") == stream_seed("0", "noise") < 2**63


def test_a_seed_is_the_first_eight_bytes_of_a_hash_of_the_names():
    """So that it is the same on every machine: Python's own hash of a string differs from process to process."""
    first = hashlib.sha256(b"0/tasks/episodes").digest()[:8]
    assert stream_seed(0, "tasks/episodes") == int.from_bytes(first, "little") // 2


def test_a_stream_repeats():
    draws = [torch.rand(3, generator=stream_generator("cpu", 7, "tasks")) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(3, generator=stream_generator("cpu", 8, "tasks")))
