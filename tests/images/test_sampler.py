"""The laws of the sampler. Images here are two bytes that say which image they are."""

import numpy as np
import pytest
import torch
from numbered_images import ODDS, class_of, generator, numbers, stored
from referees import chisquare

from metarun.images.sampler import GroupSampler, Sampler

COUNTS = pytest.mark.parametrize("counts", [[10] * 8, [4, 10, 6, 10, 5, 10, 8, 7]], ids=["equal", "unequal"])
PAIR_COUNTS = pytest.mark.parametrize("counts", [[10] * 8, [4, 10, 6, 2, 5, 10, 8, 7]], ids=["equal", "unequal"])


@pytest.mark.parametrize("counts", [[20] * 30, [7, 20, 9, 300, 8, 11, 50, 7, 9, 12]], ids=["equal", "unequal"])
@pytest.mark.parametrize("shots, queries, ways", [(1, 1, 2), (1, 6, 5), (5, 2, 10), (6, 1, 3)])
def test_an_episode(counts, shots, queries, ways):
    tasks = 40
    task = Sampler(stored(counts)).episodes(tasks, ways, shots, queries, generator(3))
    assert task.support.x.shape == (tasks, ways * shots, 1, 1, 2) and task.support.x.dtype == torch.float32
    assert task.query.x.shape == (tasks, ways * queries, 1, 1, 2)
    assert task.support.y.dtype == task.query.y.dtype == torch.int64
    assert task.support.y.is_contiguous() and task.query.y.is_contiguous()
    support, query = numbers(task.support.x), numbers(task.query.x)
    for t in range(tasks):
        assert task.support.y[t].tolist() == [way for way in range(ways) for _ in range(shots)]
        assert task.query.y[t].tolist() == [way for way in range(ways) for _ in range(queries)]
        drawn = support[t].tolist() + query[t].tolist()
        assert len(set(drawn)) == len(drawn)  # no image twice: support and query are disjoint
        of = class_of(support[t], counts)[::shots]
        assert len(of.unique()) == ways
        assert torch.equal(class_of(support[t], counts), of[task.support.y[t]])
        assert torch.equal(class_of(query[t], counts), of[task.query.y[t]])


@COUNTS
def test_classes_and_images_are_uniform(counts):
    sampler = Sampler(stored(counts))
    task = sampler.episodes(20_000, 2, 1, 2, generator(4))
    for x in (task.support.x, task.query.x):
        drawn = numbers(x).flatten()
        classes = torch.bincount(class_of(drawn, counts), minlength=8)
        # Both of a task's classes differ, and so do a class's two queries: the counts vary less than those of
        # independent draws, and the test is on the safe side.
        assert chisquare(classes.numpy()).pvalue > ODDS
        seen = torch.bincount(drawn, minlength=sum(counts))
        expected = len(drawn) / 8 / torch.tensor(counts, dtype=torch.float64)
        assert chisquare(seen.numpy(), expected.repeat_interleave(torch.tensor(counts)).numpy()).pvalue > ODDS


@COUNTS
def test_batches(counts):
    sampler = Sampler(stored(counts))
    batch = sampler.batches(500, 40, generator(5))
    assert batch.x.shape == (500, 40, 1, 1, 2) and batch.y.shape == (500, 40) and batch.y.dtype == torch.int64
    drawn = numbers(batch.x)
    assert torch.equal(batch.y, class_of(drawn, counts))
    assert chisquare(torch.bincount(drawn.flatten(), minlength=sum(counts)).numpy()).pvalue > ODDS


def sampled(counts, tasks=40, batch=12, seed=3):
    return Sampler(stored(counts)).pairs(tasks, batch, generator(seed))


@PAIR_COUNTS
def test_half_of_the_pairs_are_of_one_class(counts):
    pairs = sampled(counts)
    assert pairs.x.shape == (40, 12, 2, 1, 1, 2) and pairs.x.dtype == torch.float32
    assert pairs.y.shape == (40, 12) and pairs.y.dtype == torch.int64
    assert pairs.y.sum(1).tolist() == [6] * 40  # in every task, not on average
    first, second = class_of(numbers(pairs.x), counts).unbind(-1)
    assert torch.equal(pairs.y, (first == second).long())


@PAIR_COUNTS
def test_no_pair_holds_an_image_twice(counts):
    first, second = numbers(sampled(counts, tasks=500).x).unbind(-1)
    assert (first != second).all()


@PAIR_COUNTS
def test_classes_and_images_of_pairs_are_uniform(counts):
    pairs = sampled(counts, tasks=2000, batch=20)
    drawn = numbers(pairs.x)
    same, different = drawn[pairs.y == 1], drawn[pairs.y == 0]
    assert len(same) == len(different) == 20_000
    assert chisquare(torch.bincount(class_of(same[:, 0], counts), minlength=8).numpy()).pvalue > ODDS
    cells = class_of(different, counts) @ torch.tensor([8, 1])
    seen = torch.bincount(cells, minlength=64).view(8, 8)
    assert chisquare(seen[~torch.eye(8, dtype=torch.bool)].numpy()).pvalue > ODDS  # ordered choices of two classes
    for images in (same[:, 0], same[:, 1], different[:, 0], different[:, 1]):
        seen = torch.bincount(images, minlength=sum(counts)).numpy()
        expected = np.repeat(len(images) / 8 / np.array(counts), counts)
        assert chisquare(seen, expected).pvalue > ODDS


GROUPS = [3, 1, 4]  # classes of each group


def group_of(classes):
    return torch.searchsorted(torch.tensor(GROUPS).cumsum(0), classes, right=True)


def test_a_task_is_of_one_group_and_groups_and_their_classes_are_uniform():
    sampler = GroupSampler(stored([10] * 8), [3, 5])
    classes = sampler.choose(20_000, 3, generator(8))
    groups = (classes >= 3).long()
    assert (groups == groups[:, :1]).all() and (classes.sort(1).values.diff(dim=1) > 0).all()
    assert chisquare(torch.bincount(groups[:, 0]).numpy()).pvalue > ODDS
    of_second = torch.bincount(classes[groups[:, 0] == 1].flatten() - 3, minlength=5)
    assert chisquare(of_second.numpy()).pvalue > ODDS


def test_groups_take_turns_where_they_are_told_to():
    sampler = GroupSampler(stored([10] * 8), GROUPS)
    sampler.turn = 4
    assert group_of(sampler.choose(7, 1, generator(9)).flatten()).tolist() == [1, 2, 0, 1, 2, 0, 1]
