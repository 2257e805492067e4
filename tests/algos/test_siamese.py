"""Siamese networks: the paper's score, a shared network, one-shot classification by the best match, and learning."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.baselines.nearest_centroid import NearestCentroid
from metarun.algos.siamese import Siamese
from metarun.data.pairs import SyntheticPairs
from metarun.data.synthetic import Synthetic
from metarun.evaluation.evaluate import evaluate
from metarun.layers.norm import batch_norms, recording
from metarun.tasks import Examples, Pairs
from metarun.training.loop import TrainState, fit

CONV4 = {"downsample": "max_pool", "features": "flatten", "norm": "running"}


def siamese(backbone=None, ways=3, seed=0):
    torch.manual_seed(seed)
    learner = Siamese(backbone or toy.mlp((6,)), ways, F.cross_entropy).double()
    with torch.no_grad():  # a bias that matters
        learner.match.bias.fill_(0.7)
    return learner


def pairs(tasks=2, batch=8, shape=(6,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, batch, 2, *shape, generator=generator, dtype=torch.float64)
    return Pairs(x, torch.tensor([1, 0]).repeat_interleave(batch // 2).repeat(tasks, 1))


def test_the_score_is_the_papers():
    learner, x = siamese(), pairs().x[0]
    a, b = learner.match.weight[0], learner.match.bias[0]
    assert (a > 0).any() and (a < 0).any()
    for pair, score in zip(x, learner.score_pairs(x), strict=True):
        first, second = (learner.net(image.unsqueeze(0))[0] for image in pair)
        torch.testing.assert_close(score, sum(a[j] * (first[j] - second[j]).abs() for j in range(len(a))) + b)


def test_the_weights_of_the_features_are_learned():
    """With a plain distance no feature could be ignored."""
    learner, batch = siamese(), pairs()
    learner(batch).mean().backward()
    assert (learner.match.weight.grad.abs() > 0).all() and learner.match.bias.grad.abs() > 0
    before = learner.score_pairs(batch.x[0])
    with torch.no_grad():
        learner.match.weight.zero_()
    assert torch.equal(learner.score_pairs(batch.x[0]), torch.full_like(before, 0.7))


@pytest.mark.parametrize("norm", ["none", "running"])
def test_both_images_go_through_one_network(norm):
    learner, batch = siamese(toy.mlp((6,), norm=norm)), pairs()
    learner.train()
    torch.testing.assert_close(learner.score_pairs(batch.x[0]), learner.score_pairs(batch.x[0].flip(1)))
    identical = batch.x[0, :, :1].expand(-1, 2, -1)
    torch.testing.assert_close(learner.score_pairs(identical), torch.full((8,), 0.7, dtype=torch.float64))


def test_the_loss_is_the_cross_entropy_of_pairs():
    learner, batch = siamese(), pairs()
    p = torch.stack([learner.score_pairs(x) for x in batch.x]).sigmoid()
    by_hand = -(batch.y * p.log() + (1 - batch.y) * (1 - p).log()).mean(1)
    torch.testing.assert_close(learner(batch), by_hand)


def test_the_gradient_agrees_with_finite_differences(slopes_agree):
    slopes_agree(siamese(), pairs())


def test_batch_norm_sees_all_images_once():
    learner = siamese(toy.conv4((1, 16, 16), filters=4, blocks=3, **CONV4)).train()
    batch = pairs(1, shape=(1, 16, 16))
    with recording(learner) as norms:
        learner.meta_loss(Pairs(batch.x[0], batch.y[0]))
        assert [len(norm.recorded) for norm in norms] == [1, 1, 1]
    learner(batch)
    learner.after_step()
    features = learner.net.blocks.conv1(batch.x.flatten(0, 2))
    running = batch_norms(learner)[0].running_mean
    torch.testing.assert_close(running, 0.1 * features.mean((0, 2, 3)))


def episode(ways=3, shots=2, queries=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x, query = torch.randn(2, 20, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(ways).repeat(shots)[torch.randperm(ways * shots, generator=generator)]
    return Examples(x[: ways * shots], y), query[:queries]


def test_a_class_score_is_that_of_its_best_match():
    learner = siamese().eval()
    support, query = episode()
    scores = learner.adapt(support)(query)
    for q, row in zip(query, scores, strict=True):
        s = learner.score_pairs(torch.stack([torch.stack([q, x]) for x in support.x]))
        torch.testing.assert_close(row, torch.stack([s[support.y == k].max() for k in range(3)]))
    batch = torch.utils._pytree.tree_map(lambda leaf: leaf.expand(2, *leaf.shape), (support, query))
    vectorized = learner.map_tasks(lambda support, query: learner.adapt(support)(query), *batch)
    torch.testing.assert_close(vectorized[1], scores)


def test_the_evaluation_stream_is_that_of_the_data_set():
    assert Siamese.evaluation_stream_for(SyntheticPairs) == "pairs"
    assert Siamese.evaluation_stream_for(Synthetic) == "episodes"


def test_ways_may_change_after_construction():
    learner = siamese().eval()
    learner.ways = 5
    support, query = episode(ways=5, shots=1)
    assert learner.adapt(support)(query).shape == (4, 5)


@pytest.mark.slow
def test_it_learns_to_compare_unseen_glyphs():
    """Clearly better than distances between pixels, after seconds of training."""
    classes = {"train_classes": 100, "val_classes": 5, "test_classes": 30}
    sizes = {"drawings": 10, "partition": "glyphs", "pairs": 20, "pair_batch_size": 64}
    data = SyntheticPairs(glyph_seed=0, device="cpu", **classes, **sizes)
    torch.manual_seed(0)
    learner = Siamese(toy.conv4(filters=12, **CONV4), 1, data.loss)
    meta_optimizer = toy.adam(5e-3)
    for _ in fit(TrainState.create(learner, meta_optimizer, data.device, 0), data, meta_optimizer, 120, 1):
        pass
    pixels = NearestCentroid(backbone=partial(toy.mlp), ways=1, loss=data.loss)
    learned, by_pixels = (evaluate(one, data, "test", 40, 0).estimate().mean for one in (learner, pixels))
    assert 0.5 < by_pixels < 0.72
    assert learned > by_pixels + 0.08
