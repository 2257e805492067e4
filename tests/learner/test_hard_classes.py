"""The memory of failures: what it remembers, when it wishes for hard tasks, and of which classes they are."""

import pytest
import torch
from scipy.stats import chisquare

from metarun.learner.hard_classes import HardClassMemory


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def step(failures, classes, right=None):
    """An outer step on tasks of these classes; of all the last way is the worst, if nothing else is said."""
    classes = torch.tensor(classes)
    right = torch.tensor(right) if right is not None else torch.arange(classes.shape[1], 0, -1).expand(classes.shape)
    failures.collect(classes, right)
    failures.update()


def test_the_worst_class_of_each_task_is_remembered_the_latest_first():
    failures = HardClassMemory(every=5, memory=4)
    assert failures.classes.tolist() == [-1] * 4
    step(failures, [[7, 3, 9], [2, 8, 4]], [[0.5, 0.2, 0.4], [0.1, 1.0, 0.9]])
    assert failures.classes.tolist() == [3, 2, -1, -1]
    step(failures, [[5, 6, 1], [0, 6, 5]], [[1.0, 1.0, 1.0], [0.3, 0.2, 0.2]])  # of equals the first
    assert failures.classes.tolist() == [5, 6, 3, 2]
    step(failures, [[11, 10], [12, 13], [15, 14]])
    assert failures.classes.tolist() == [10, 13, 14, 5]


def test_more_tasks_than_it_remembers():
    failures = HardClassMemory(every=1, memory=2)
    step(failures, [[0, 1], [2, 3], [4, 5]])
    assert failures.classes.tolist() == [1, 3]


def test_chunks_are_what_the_whole_is():
    whole, chunked = HardClassMemory(every=3, memory=5), HardClassMemory(every=3, memory=5)
    classes, right = torch.arange(12).view(4, 3), torch.rand(4, 3, generator=generator())
    whole.collect(classes, right)
    for part in (slice(0, 3), slice(3, 4)):
        chunked.collect(classes[part], right[part])
    for failures in (whole, chunked):
        failures.update()
        failures.update()  # what is taken in is gone
    assert torch.equal(whole.classes, chunked.classes) and whole.since == chunked.since == 1


def test_a_step_that_gathered_nothing_does_not_count():
    failures = HardClassMemory(every=1, memory=5)
    failures.update()
    assert failures.since == 0


def test_every_so_many_steps_the_tasks_are_of_remembered_classes_alone():
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
            assert torch.equal(failures.classes, remembered)  # of hard tasks nothing is remembered
    assert hard == [3, 7, 11]


def test_all_remembered_classes_are_equally_likely_however_often_they_failed():
    failures = HardClassMemory(every=1, memory=8)
    step(failures, [[9, 1], [9, 2], [9, 3], [9, 3], [9, 3], [9, 5]])
    drawn = failures.sample(5000, 2, generator(3))
    seen = torch.bincount(drawn.flatten(), minlength=6)
    assert seen[[0, 4]].sum() == 0
    assert chisquare(seen[[1, 2, 3, 5]].numpy()).pvalue > 1e-6


def test_there_is_no_wish_before_enough_classes_have_failed():
    failures = HardClassMemory(every=1, memory=8)
    step(failures, [[0, 1], [2, 1]])
    assert failures.sample(2, 2, generator()) is None and failures.since == 1
    step(failures, [[0, 4]])
    assert failures.sample(2, 3, generator()) is None
    assert sorted(failures.sample(1, 2, generator())[0].tolist()) == [1, 4]
    assert failures.since == -1


def test_switched_off_there_is_never_a_wish():
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
    request_classes = [f.sample(5, 3, generator(seed)) for f, seed in ((failures, 1), (other, 1))]
    assert torch.equal(*request_classes) and torch.equal(torch.get_rng_state(), before)
    other.load_state_dict(failures.state_dict())
    assert other.since == -1  # between a wish and its step, too
    failures.since.fill_(1)
    assert not torch.equal(failures.sample(5, 3, generator(2)), request_classes[0])


def test_no_random_number_is_drawn_without_a_wish():
    failures, own = HardClassMemory(every=2, memory=8), generator(4)
    step(failures, [[9, k] for k in range(6)])
    before = own.get_state()
    assert failures.sample(5, 3, own) is None
    assert torch.equal(own.get_state(), before)


def test_the_memory_is_of_a_fixed_size():
    failures = HardClassMemory(every=1, memory=3)
    shapes = {name: value.shape for name, value in failures.state_dict().items()}
    assert shapes == {"classes": (3,), "since": ()}
    step(failures, [[0, 1]] * 7)
    assert {name: value.shape for name, value in failures.state_dict().items()} == shapes
    with pytest.raises(RuntimeError, match="size mismatch"):
        HardClassMemory(every=1, memory=4).load_state_dict(failures.state_dict())
