"""What pre-trained learners share: a classifier of the training classes, and heads whose images are embedded once."""

import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks
from torch import nn

from metarun.layers.norm import batch_norms
from metarun.learner.embedding import class_means
from metarun.learner.pretrained import Pretrained, init_bound, layer, scores
from metarun.tasks import Examples


class Scaled(Pretrained):
    """After k steps the scores are k times the products with the class means."""

    inner_steps, eval_steps = 1, 3

    def heads(self, support, steps, random_inputs=()):
        means = class_means(support.x, support.y, self.ways)
        for step in range(steps + 1):
            yield lambda z, step=step: step * z @ means.T


def learner(backbone=None, seed=0, **changes):
    torch.manual_seed(seed)
    kwargs = {"base_classes": 7, "train_scale": 10.0} | changes
    return Scaled(backbone or toy.mlp((4,), hidden=[8]), 3, F.cross_entropy, **kwargs).double()


def mini_batches(shape=(4,), count=3, size=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, size, *shape, generator=generator, dtype=torch.float64)
    return Examples(x, torch.randint(7, (count, size), generator=generator))


def test_a_linear_classifier_is_torchs():
    ours, batch = learner(), mini_batches()
    theirs = nn.Linear(8, 7).double()
    theirs.load_state_dict(dict(ours.classifier.items()))
    expected = [F.cross_entropy(theirs(ours.net(x)), y) for x, y in zip(*batch, strict=True)]
    torch.testing.assert_close(ours(batch), torch.stack(expected))


def test_a_cosine_classifier_compares_directions():
    ours, batch = learner(classifier="cosine"), mini_batches()
    w, length = ours.classifier["weight"], ours.classifier["length"]
    torch.testing.assert_close(length.float(), w.float().norm(dim=1))
    with torch.no_grad():
        length.mul_(torch.rand(7) + 0.5)
    expected = []
    for x, y in zip(*batch, strict=True):
        cosines = F.cosine_similarity(ours.net(x)[:, None], w, dim=2)
        expected.append(F.cross_entropy(10.0 * length * cosines, y))
    torch.testing.assert_close(ours(batch), torch.stack(expected))


def test_initial_weights_are_uniform_as_torchs():
    assert init_bound(16) == 0.25
    torch.manual_seed(0)
    weight = learner(base_classes=2000).classifier["weight"].detach()
    assert weight.abs().max() <= init_bound(8) and weight.abs().max() > 0.999 * init_bound(8)
    assert float(weight.std()) == pytest.approx(init_bound(8) / 3**0.5, rel=0.02)
    theirs = nn.Linear(8, 2000).weight.detach()
    assert float(weight.std()) == pytest.approx(float(theirs.std()), rel=0.03)


def test_each_mini_batch_has_its_own_statistics_and_running_ones_are_kept():
    backbone = toy.conv4((1, 16, 16), features="flatten", downsample="max_pool", norm="running")
    ours, batch = learner(backbone), mini_batches((1, 16, 16))
    singles = [learner(backbone)(Examples(x[None], y[None])) for x, y in zip(*batch, strict=True)]
    torch.testing.assert_close(ours(batch), torch.cat(singles), rtol=1e-9, atol=0)
    before = batch_norms(ours)[0].running_mean.clone()
    ours.after_step()
    assert (batch_norms(ours)[0].running_mean - before).abs().max() > 1e-3


def test_classes_without_a_unit_are_an_error():
    ours = learner()
    ours.ways = 7  # as the training loop sets it: all classes of the stream
    ours(mini_batches())
    ours.ways = 8
    message = "^algo.base_classes must be at least 8, as many as there are training classes; got 7$"
    with pytest.raises(ValueError, match=message):
        ours(mini_batches())


def test_adapting_is_the_last_head_on_the_embeddings():
    ours, task = learner(), one(tasks(ways=3))
    z, queries = ours.net(task.support.x), ours.net(task.query.x)
    product = queries @ class_means(z, task.support.y, 3).T
    steps = [predict(task.query.x) for predict in ours.trajectory(task.support, 2)]
    torch.testing.assert_close(steps, [0 * product, product, 2 * product])
    for mode, factor in ((True, 1), (False, 3)):
        ours.train(mode)
        torch.testing.assert_close(ours.adapt(task.support)(task.query.x), factor * product)
        torch.testing.assert_close(ours.head(Examples(z, task.support.y))(queries), factor * product)


def test_images_are_embedded_once_for_all_steps():
    ours, task, passes = learner().eval(), one(tasks(ways=3)), []
    ours.net.register_forward_hook(lambda *_: passes.append(1))
    x = task.query.x
    predictors = list(ours.trajectory(task.support, 30))
    first = [predict(x) for predict in predictors]
    assert len(passes) == 2  # support and query
    x.mul_(2.0)  # what changed in place is another input
    again = [predict(x) for predict in predictors]
    assert len(passes) == 3 and not torch.allclose(first[1], again[1])


def test_what_is_memoized_has_a_gradient_if_asked_for_and_is_right_in_inference_mode():
    ours, task = learner().eval(), one(tasks(ways=3))
    x, predictors = task.query.x, list(ours.trajectory(task.support, 1))
    with torch.no_grad():
        assert not predictors[1](x).requires_grad
    assert predictors[1](x).requires_grad
    with torch.inference_mode():
        y = x.clone()
        before = predictors[1](y)
        y.mul_(2.0)
        assert not torch.allclose(predictors[1](y), before)


def test_layers():
    w = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert layer("cosine", w)["length"].tolist() == [5.0, 2.0] and layer("linear", w)["bias"].tolist() == [0.0, 0.0]
    z = torch.tensor([[0.0, 7.0]])
    assert scores(layer("cosine", w), z, torch.tensor(2.0)).tolist() == [pytest.approx([8.0, 4.0])]
    assert scores(layer("linear", w), z, torch.tensor(2.0)).tolist() == [[28.0, 14.0]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"base_classes": 0}, "algo.base_classes must be an integer of at least 1; got 0"),
        ({"classifier": "cos"}, "algo.classifier must be one of linear, cosine; got 'cos'"),
        ({"train_scale": -1.0}, "algo.train_scale must be above 0; got -1.0"),
    ],
)
def test_refuses_what_makes_no_sense(bad, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        learner(**bad)
