"""Points about centres: shapes, laws, and the numbers that say how hard the task is."""

import pytest
import torch

from metarun.data.clusters import Clusters
from metarun.sampling import stream_generator


def clusters(**changes):
    numbers = {"dimension": 32, "noise": 0.4, "ways": 3, "shots": 1, "queries": 5, "instances": 6, "device": "cpu"}
    return Clusters(**(numbers | changes))


def generator(seed=0):
    return stream_generator("cpu", seed)


def test_episodes():
    task = clusters(shots=2).sample("train", "episodes", 4, generator())
    assert task.support.x.shape == (4, 6, 32) and task.query.x.shape == (4, 15, 32)
    assert task.support.y[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_points_lie_about_the_centre_of_their_class():
    task = clusters(ways=2, shots=500, queries=500, noise=0.4, instances=501).sample(
        "test", "episodes", 20, generator()
    )
    for way in range(2):
        support, query = (examples.x[:, examples.y[0] == way] for examples in (task.support, task.query))
        assert (support.mean(1) - query.mean(1)).abs().max() < 0.15  # one centre
        assert support.std(1).mean().item() == pytest.approx(0.4, rel=0.02)
        assert support.mean(1).std().item() == pytest.approx(1.0, rel=0.1)


def test_sequences_show_every_class_equally_often():
    batch = clusters().sample("train", "sequences", 50, generator())
    assert batch.x.shape == (50, 18, 32)
    for x, y, scored in zip(*batch, strict=True):
        assert torch.bincount(y).tolist() == [6, 6, 6] and scored.sum() == 3
        for way in range(3):
            members, others = x[y == way], x[y != way]
            assert torch.cdist(members, members).max() < torch.cdist(members, others).max()
            assert scored[y == way].nonzero().item() == 1  # the second instance: after one shot
    assert len({tuple(y.tolist()) for y in batch.y}) > 40


def test_the_seed_decides_and_the_splits_differ():
    one, same, other = (clusters().sample("train", "sequences", 3, generator(s)).x for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    val, test = (clusters().eval_block(split, "sequences", 0).x for split in ("val", "test"))
    assert not torch.equal(val, test)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ways": 1}, "data.ways must be an integer of at least 2; got 1"),
        ({"dimension": 0}, "data.dimension"),
        ({"noise": -1}, "data.noise must be at least 0; got -1"),
        ({"instances": 1}, "data.instances"),
        ({"shots": 6}, "data.instances must be an integer of at least 7; got 6"),
        ({"queries": 1.5}, "data.queries"),
    ],
)
def test_bad_values_are_named(change, named):
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        clusters(**change)


def test_streams_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="stream must be one of episodes, sequences; got 'batches'"):
        clusters().sample("train", "batches", 1, generator())
