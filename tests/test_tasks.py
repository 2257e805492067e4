"""What all data sets share: held-out tasks, loss and metric by kind, and what not every one has."""

from __future__ import annotations

import pytest
import torch
import toy
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.utils import _pytree as pytree

from metarun.experiment.choices import CONF
from metarun.sampling import stream_generator
from metarun.tasks import BLOCK, pair_loss


def test_held_out_blocks_are_fixed_and_different():
    a, b = toy.sinusoid(), toy.sinusoid()
    assert torch.equal(a.eval_block("test", "episodes", 3).query.y, b.eval_block("test", "episodes", 3).query.y)
    blocks = {(p, i): a.eval_block(p, "episodes", i).support.x.sum().item() for p in ("val", "test") for i in range(3)}
    assert len(set(blocks.values())) == 6
    assert len(a.eval_block("test", "episodes", 0).support.x) == BLOCK


def test_another_eval_seed_draws_other_test_tasks_and_the_same_validation_tasks():
    default, other = toy.sinusoid(), toy.sinusoid()
    other.eval_seed = 1

    def inputs(data, split):
        return data.eval_block(split, "episodes", 0).query.x

    assert not torch.equal(inputs(default, "test"), inputs(other, "test"))
    assert torch.equal(inputs(default, "val"), inputs(other, "val"))
    names = ("held-out", "test", 0)  # of the tasks that every figure before was measured on
    drawn = default.sample("test", "episodes", BLOCK, stream_generator("cpu", *names))
    assert torch.equal(inputs(default, "test"), drawn.query.x)


@pytest.mark.parametrize(
    "name",
    [
        *("sinusoid", "sinusoid_line", "sinusoid_bmaml", "polynomial", "quadratics", "clusters"),
        *("digits", "synthetic", "synthetic_pairs"),
    ],
)
def test_held_out_tasks_are_drawn_on_the_cpu_wherever_training_tasks_are(name):
    """A GPU's generator makes other numbers of the same seed; what is on the device `meta` has no numbers at all."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"data={name}"])
    data = instantiate(cfg.data, device="cpu", _convert_="all")
    held_out = set(data.streams) & {"episodes", "oracle", "sequences", "pairs"}
    held_out -= {"sequences"} if name == "digits" else set()  # too few instances of a class
    blocks = {stream: data.eval_block("test", stream, 1) for stream in held_out}
    data.device = torch.device("meta")
    for stream, block in blocks.items():
        again = data.eval_block("test", stream, 1)
        assert all(map(torch.equal, pytree.tree_leaves(block), pytree.tree_leaves(again)))
    curves = data.curves(2, 5, torch.Generator())
    assert curves is None or all(leaf.device.type == "cpu" for leaf in pytree.tree_leaves(curves[0]))


def test_loss_and_metric_go_with_the_kind():
    assert (toy.sinusoid().metric, toy.Blobs().metric) == ("mse", "accuracy")
    assert toy.Blobs().higher_is_better and not toy.sinusoid().higher_is_better
    y = torch.tensor([[1.0], [3.0]])
    assert toy.sinusoid().loss(torch.zeros(2, 1), y) == 5
    assert toy.Blobs().loss(torch.zeros(2, 4), torch.tensor([0, 3])).item() == pytest.approx(1.386294)


def test_the_loss_of_pairs_is_the_mean_cross_entropy_of_logits():
    scores, y = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64), torch.tensor([1, 1, 0])
    p = scores.sigmoid()
    expected = -(p[0].log() + p[1].log() + (1 - p[2]).log()) / 3
    torch.testing.assert_close(pair_loss(scores, y), expected)


def test_batches_of_several_generators_are_those_of_each():
    data = toy.Blobs()
    generators = [stream_generator("cpu", seed, "replicas") for seed in range(3)]
    batch = data.sample_replicas("train", "episodes", 2, generators)
    for seed in range(3):
        single = data.sample("train", "episodes", 2, stream_generator("cpu", seed, "replicas"))
        expected = pytree.tree_map(lambda leaf, seed=seed: leaf[seed], batch)
        torch.testing.assert_close(expected, single, rtol=0, atol=0)


def test_what_a_data_set_need_not_have():
    data = toy.Blobs()
    assert data.fixed_shapes and data.prepare() is None
    assert data.curves(1, 5, torch.Generator()) is None
    with pytest.raises(NotImplementedError, match="^Blobs draws no tasks of given classes$"):
        data.sample_classes("train", torch.zeros(1, 2, dtype=torch.int64), torch.Generator())
