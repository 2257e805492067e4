"""The memory of hard classes: what it remembers, when the next tasks are hard, and of which classes they are."""

import pytest
import torch
from referees import chisquare

from metarun.learner.hard_classes import HardClassMemory


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def step(failures, classes, right=None):
    """An outer step on tasks of these classes; by default the last way of each is the worst."""
    classes = torch.tensor(classes)
    right = torch.tensor(right) if right is not None else torch.arange(classes.shape[1], 0, -1).expand(classes.shape)
    failures.collect(classes, right)
    failures.update()


def test_the_worst_class_of_each_task_is_remembered_the_latest_first():
    failures = HardClassMemory(every=5, memory=4)
    assert failures.classes.tolist() == [-1] * 4
    step(failures, [[7, 3, 9], [2, 8, 4]], [[0.5, 0.2, 0.4], [0.1, 1.0, 0.9]])
    assert failures.classes.tolist() == [3, 2, -1, -1]
    step(failures, [[5, 6, 1], [0, 6, 5]], [[1.0, 1.0, 1.0], [0.3, 0.2, 0.2]])  # in a tie the first
    assert failures.classes.tolist() == [5, 6, 3, 2]
    step(failures, [[11, 10], [12, 13], [15, 14]])
    assert failures.classes.tolist() == [10, 13, 14, 5]


def test_more_tasks_than_it_remembers():
    failures = HardClassMemory(every=1, memory=2)
    step(failures, [[0, 1], [2, 3], [4, 5]])
    assert failures.classes.tolist() == [1, 3]


def test_micro_batches_are_what_the_whole_batch_is():
    whole, sliced = HardClassMemory(every=3, memory=5), HardClassMemory(every=3, memory=5)
    classes, right = torch.arange(12).view(4, 3), torch.rand(4, 3, generator=generator())
    whole.collect(classes, right)
    for rows in (slice(0, 3), slice(3, 4)):
        sliced.collect(classes[rows], right[rows])
    for failures in (whole, sliced):
        failures.update()
        failures.update()  # each step's classes count once
    assert torch.equal(whole.classes, sliced.classes) and whole.since == sliced.since == 1


def test_a_step_that_collected_nothing_does_not_count():
    failures = HardClassMemory(every=1, memory=5)
    failures.update()
    assert failures.since == 0


def test_after_every_few_steps_the_tasks_are_of_remembered_classes_alone():
    failures, hard = HardClassMemory(every=3, memory=6), []
    for number in range(12):
        sample = failures.sample(4, 2, generator(number))
        if sample is None:
            step(failures, [[100, number], [101, number + 50]])
        else:
            hard.append(number)
            remembered = failures.classes.clone()
            assert sample.shape == (4, 2) and sample.dtype == torch.int64
            assert set(sample.flatten().tolist()) <= {number - k for k in (1, 2, 3)} | {
                number + 50 - k for k in (1, 2, 3)
            }
            assert all(len(set(row)) == 2 for row in sample.tolist())
            step(failures, sample.tolist())
            assert torch.equal(failures.classes, remembered)  # classes of hard tasks are not remembered
    assert hard == [3, 7, 11]


def test_all_remembered_classes_are_equally_likely_however_often_they_failed():
    failures = HardClassMemory(every=1, memory=8)
    step(failures, [[9, 1], [9, 2], [9, 3], [9, 3], [9, 3], [9, 5]])
    drawn = failures.sample(5000, 2, generator(3))
    seen = torch.bincount(drawn.flatten(), minlength=6)
    assert seen[[0, 4]].sum() == 0
    assert chisquare(seen[[1, 2, 3, 5]].numpy()).pvalue > 1e-6


def test_tasks_are_not_hard_before_enough_classes_have_failed():
    failures = HardClassMemory(every=1, memory=8)
    step(failures, [[0, 1], [2, 1]])
    assert failures.sample(2, 2, generator()) is None and failures.since == 1
    step(failures, [[0, 4]])
    assert failures.sample(2, 3, generator()) is None
    assert sorted(failures.sample(1, 2, generator())[0].tolist()) == [1, 4]
    assert failures.since == -1


def test_switched_off_tasks_are_never_hard():
    failures = HardClassMemory(every=0, memory=8)
    for number in range(9):
        step(failures, [[0, number], [1, 10 + number]])
        assert failures.sample(2, 2, generator()) is None


def test_random_numbers_come_from_the_generator_alone_and_the_memory_is_saved():
    failures = HardClassMemory(every=1, memory=8)
    step(failures, [[9, k] for k in range(6)])
    other = HardClassMemory(every=1, memory=8)
    other.load_state_dict(failures.state_dict())
    before = torch.get_rng_state()
    classes = [f.sample(5, 3, generator(seed)) for f, seed in ((failures, 1), (other, 1))]
    assert torch.equal(*classes) and torch.equal(torch.get_rng_state(), before)
    other.load_state_dict(failures.state_dict())
    assert other.since == -1  # also between a sample and its step
    failures.since.fill_(1)
    assert not torch.equal(failures.sample(5, 3, generator(2)), classes[0])


def test_no_random_number_is_drawn_unless_the_tasks_are_hard():
    failures, source = HardClassMemory(every=2, memory=8), generator(4)
    step(failures, [[9, k] for k in range(6)])
    before = source.get_state()
    assert failures.sample(5, 3, source) is None
    assert torch.equal(source.get_state(), before)


def test_the_memory_is_of_a_fixed_size():
    failures = HardClassMemory(every=1, memory=3)
    shapes = {name: value.shape for name, value in failures.state_dict().items()}
    assert shapes == {"classes": (3,), "since": ()}
    step(failures, [[0, 1]] * 7)
    assert {name: value.shape for name, value in failures.state_dict().items()} == shapes
    with pytest.raises(RuntimeError, match="size mismatch"):
        HardClassMemory(every=1, memory=4).load_state_dict(failures.state_dict())
