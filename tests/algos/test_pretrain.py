"""Baseline, Baseline++, and the nearest centroid on a pre-trained network, against both layers by hand."""

import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks
from torch import nn

from metarun.algos.baselines.nearest_centroid import NearestCentroid
from metarun.algos.pretrain import Pretrain
from metarun.evaluation.evaluate import evaluate
from metarun.layers.norm import batch_norms
from metarun.learner.pretrained import layer, scores
from metarun.sampling import stream_generator
from metarun.tasks import Examples
from metarun.training.loop import TrainState, fit

ARGS = {"base_classes": 7, "classifier": "linear", "head": "linear", "train_scale": 10.0, "scale": 2.0}
ARGS |= {"normalise": False, "start": "random", "inner_lr": 0.25, "eval_steps": 4}
CONV4 = {"features": "flatten", "downsample": "max_pool", "norm": "running"}


def pretrain(backbone=None, ways=3, seed=0, **changes):
    torch.manual_seed(seed)
    return Pretrain(backbone or toy.mlp((4,), hidden=[8]), ways, F.cross_entropy, **(ARGS | changes)).double()


def sample_inputs(learner, batch, seed=0):
    return learner.to_dtype(learner.random_inputs(batch, 4, stream_generator("cpu", "test", seed)))


def mini_batches(shape=(4,), tasks=3, b=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, b, *shape, generator=generator, dtype=torch.float64)
    return Examples(x, torch.randint(7, (tasks, b), generator=generator))


# ------------------------------------------------------------------------------------- the training classes


def test_a_linear_classifier_is_softmax_regression_on_the_embeddings():
    learner, batch = pretrain(), mini_batches()
    w, b = learner.classifier["weight"], learner.classifier["bias"]
    expected = []
    for x, y in zip(*batch, strict=True):
        logits = learner.net(x) @ w.T + b
        expected.append(-logits.log_softmax(1)[torch.arange(6), y].mean())
    torch.testing.assert_close(learner(batch), torch.stack(expected), rtol=1e-12, atol=0)
    assert w.shape == (7, 8) and (b == 0).all()
    assert 0.3 < float(w.detach().abs().max()) <= 8**-0.5  # initialised as torch's linear layers are


def test_a_cosine_classifier_equals_torchs_weight_norm_on_directions():
    """As in the official code: a linear layer without bias, split into direction and length, times a factor."""
    learner, batch = pretrain(classifier="cosine"), mini_batches()
    theirs = nn.Linear(8, 7, bias=False).double()
    theirs.weight.data.copy_(learner.classifier["weight"].detach())
    theirs = nn.utils.parametrizations.weight_norm(theirs, dim=0)
    length = theirs.parametrizations.weight.original0[:, 0]
    learner.classifier["length"].data.copy_(length)  # ours was computed in float32
    losses = []
    for x, y in zip(*batch, strict=True):
        z = learner.net(x)
        losses.append(F.cross_entropy(10.0 * theirs(z / z.norm(dim=1, keepdim=True)), y))
    ours, expected = learner(batch), torch.stack(losses)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=0)
    classifier = learner.classifier
    gradient = torch.autograd.grad(ours.mean(), [classifier["length"], classifier["weight"], *learner.net.parameters()])
    g, v = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
    reference = torch.autograd.grad(expected.mean(), [g, v, *learner.net.parameters()])
    torch.testing.assert_close(gradient[0][:, None], reference[0], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(gradient[1:], reference[1:], rtol=1e-9, atol=1e-14)


def test_batch_norm_sees_each_mini_batch_separately_and_keeps_running_statistics():
    learner, batch = pretrain(toy.conv4((1, 16, 16), **CONV4)), mini_batches((1, 16, 16))
    losses = learner(batch)
    one_by_one = [learner(Examples(x[None], y[None])) for x, y in zip(*batch, strict=True)]
    torch.testing.assert_close(losses, torch.cat(one_by_one), rtol=1e-9, atol=0)
    (before, *_) = (norm.running_mean.clone() for norm in batch_norms(learner))
    learner.after_step()
    assert (batch_norms(learner)[0].running_mean - before).abs().max() > 1e-3


def test_the_training_gradient_reaches_everything():
    for kind in ("linear", "cosine"):
        learner = pretrain(classifier=kind)
        learner(mini_batches()).mean().backward()
        assert all(p.grad.abs().max() > 0 for p in learner.parameters())


def test_more_classes_than_units_are_an_error():
    learner = pretrain()
    learner.ways = 8  # as the loop sets it for a stream `batches` of eight classes
    with pytest.raises(
        ValueError, match="algo.base_classes must be at least 8, as many as there are training classes; got 7"
    ):
        learner(mini_batches())


# ------------------------------------------------------------------------------------------ heads at test


def by_hand(z, y, x, w, scale=None, steps=4, rate=0.25):
    """Scores of embedded queries `x` after 0..steps steps; cosine scores if `scale` is given. Gradients by autograd."""
    second = torch.zeros(3).double() if scale is None else torch.stack([row.norm() for row in w])  # biases or lengths
    scores = []
    for _ in range(steps + 1):
        w, second = w.detach().requires_grad_(), second.detach().requires_grad_()

        def layer(z, w=w, second=second):
            if scale is None:
                return torch.stack([z @ w[k] + second[k] for k in range(3)], 1)
            cosines = [z @ w[k] / (z.norm(dim=1) * w[k].norm()) for k in range(3)]
            return scale * torch.stack([c * second[k] for k, c in enumerate(cosines)], 1)

        scores.append(layer(x).detach())
        loss = -layer(z).log_softmax(1)[torch.arange(len(y)), y].mean()
        gradient = torch.autograd.grad(loss, [w, second])
        w, second = w - rate * gradient[0], second - rate * gradient[1]
    return scores


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("start", ["random", "deterministic"])
@pytest.mark.parametrize("normalise", [False, True])
def test_a_head_descends_on_the_whole_support_set(kind, start, normalise):
    learner, batch = pretrain(head=kind, normalise=normalise).eval(), tasks(shots=3)
    random_inputs = sample_inputs(learner, batch)
    assert random_inputs.shape == (4, 3, 8) and 0.3 < float(random_inputs.abs().max()) <= 8**-0.5
    for t in range(2):
        task = one(batch, t)
        z, x = (learner.net(examples.x).detach() for examples in task)
        if normalise:
            z, x = (F.normalize(embeddings, dim=1) for embeddings in (z, x))
        if start == "random":
            w, inputs = random_inputs[t], random_inputs[t]
        else:
            means = torch.stack([z[task.support.y == k].mean(0) for k in range(3)])
            w, inputs = (torch.zeros(3, 8).double() if kind == "linear" else means), ()
        expected = by_hand(z, task.support.y, x, w, None if kind == "linear" else 2.0)
        predictions = [p(task.query.x) for p in learner.trajectory(task.support, 4, inputs)]
        torch.testing.assert_close(predictions, expected, rtol=1e-9, atol=1e-12)
        last = learner.adapt(task.support, inputs)(task.query.x)
        torch.testing.assert_close(last, expected[-1], rtol=1e-9, atol=1e-12)


def test_a_linear_head_may_start_at_zero():
    learner, batch = pretrain(start="zero").eval(), tasks()
    assert learner.random_inputs(batch, 4, torch.Generator()) == ()
    task = one(batch)
    first = next(iter(learner.trajectory(task.support, 2)))
    assert (first(task.query.x) == 0).all()


def test_the_centroid_head_equals_nearest_centroid_on_the_embeddings():
    batch = tasks(shots=3)
    for normalise in (False, True):
        learner = pretrain(head="centroid", normalise=normalise).eval()
        (predict,) = learner.trajectory(one(batch).support, 4)
        z, x = (learner.net(examples.x) for examples in one(batch))
        if normalise:
            z, x = (embeddings / embeddings.norm(dim=1, keepdim=True) for embeddings in (z, x))
        reference = NearestCentroid(None, 3, F.cross_entropy).adapt(Examples(z, one(batch).support.y))(x)
        torch.testing.assert_close(predict(one(batch).query.x), reference, rtol=1e-9, atol=1e-12)
        assert learner.eval_steps == 0 and learner.random_inputs(batch, 4, torch.Generator()) == ()


@pytest.mark.parametrize("head", ["centroid", "linear", "cosine"])
def test_any_number_of_ways_and_shots(head):
    learner = pretrain(head=head)
    for ways, shots in ((2, 1), (5, 4)):
        learner.ways = ways
        batch = tasks(shots, ways=ways)
        random_inputs = () if head == "centroid" else sample_inputs(learner, batch)[0]
        assert learner.adapt(one(batch).support, random_inputs)(one(batch).query.x).shape[1] == ways


def test_heads_leave_the_network_alone_and_do_not_depend_on_other_queries():
    learner = pretrain(toy.conv4((1, 16, 16), **CONV4), ways=5).eval()
    generator = torch.Generator().manual_seed(1)
    support = Examples(torch.rand(5, 1, 16, 16, generator=generator).double(), torch.arange(5))
    x = torch.rand(6, 1, 16, 16, generator=generator).double()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    predict = learner.adapt(support)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    torch.testing.assert_close(predict(x)[2:3], predict(x[2:3]), rtol=1e-9, atol=1e-12)


def test_training_samples_no_random_inputs():
    generator = torch.Generator()
    before = generator.get_state()
    assert pretrain().random_inputs(mini_batches(), 0, generator) == ()
    assert torch.equal(generator.get_state(), before)


def test_vmap_equals_a_loop():
    for head in ("centroid", "linear", "cosine"):
        learner, batch = pretrain(head=head).eval(), tasks()
        random_inputs = sample_inputs(learner, batch)

        def predictions(task, random_inputs, learner=learner):
            return torch.stack([p(task.query.x) for p in learner.trajectory(task.support, 3, random_inputs)])

        learner.vectorized = False
        loop = learner.map_tasks(predictions, batch, random_inputs)
        learner.vectorized = True
        torch.testing.assert_close(learner.map_tasks(predictions, batch, random_inputs), loop, rtol=1e-10, atol=1e-12)


def test_a_hundred_steps_embed_queries_once():
    learner, batch = pretrain().eval(), tasks()
    passes = []
    learner.net.register_forward_hook(lambda *_: passes.append(1))
    x = one(batch).query.x
    predictors = list(learner.trajectory(one(batch).support, 30, sample_inputs(learner, batch)[0]))
    first = [p(x) for p in predictors]
    assert len(passes) == 2  # support and query
    x.mul_(2.0)  # a tensor that changed in place is embedded anew
    second = [p(x) for p in predictors]
    assert len(passes) == 3 and not torch.allclose(first[0], second[0])
    with torch.no_grad():
        assert not predictors[0](x).requires_grad
    assert predictors[0](x).requires_grad  # and so is one for which a gradient is now required
    with torch.inference_mode():
        y = x.clone()
        before = predictors[0](y)
        y.mul_(2.0)
        assert not torch.allclose(predictors[0](y), before)


def test_layers():
    w = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert layer("cosine", w)["length"].tolist() == [5.0, 2.0] and layer("linear", w)["bias"].tolist() == [0.0, 0.0]
    z = torch.tensor([[0.0, 7.0]])
    assert scores(layer("cosine", w), z, torch.tensor(2.0)).tolist() == [pytest.approx([8.0, 4.0])]
    assert scores(layer("linear", w), z, torch.tensor(2.0)).tolist() == [[28.0, 14.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_classes": 0}, "base_classes must be .* of at least 1[;,] got 0"),
        ({"classifier": "cos"}, "classifier must be one of linear, cosine; got 'cos'"),
        ({"head": "nearest"}, "algo.head must be one of centroid, linear, cosine; got 'nearest'"),
        ({"start": "one"}, "algo.start must be one of random, zero; got 'one'"),
        ({"head": "cosine", "start": "zero"}, "algo.start must be random for algo.head=cosine, .*; got 'zero'"),
        ({"scale": 0.0}, "algo.scale must be above 0; got 0.0"),
        ({"train_scale": -1.0}, "train_scale must be above 0[;,] got -1.0"),
        ({"eval_steps": -1}, "algo.eval_steps must be an integer of at least 0; got -1"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(**changes)


@pytest.mark.slow
def test_pretraining_learns_features_for_new_classes(glyphs):
    """On unseen glyphs all three heads are better on the pre-trained network than on a random one."""
    data = glyphs(queries=10, batch_size=32)
    torch.manual_seed(0)
    kwargs = ARGS | {"base_classes": 60, "inner_lr": 1.0, "eval_steps": 30, "normalise": True, "scale": 10.0}

    def with_head(head):
        return Pretrain(toy.conv4(filters=16, **CONV4), 5, F.cross_entropy, **(kwargs | {"head": head}))

    learner, meta_optimizer = with_head("centroid"), toy.adam(lr=1e-2)
    start = {name: value.clone() for name, value in learner.state_dict().items()}
    for _ in fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), data, meta_optimizer, 240, 1):
        pass
    accuracies = {}
    for head in ("centroid", "linear", "cosine"):
        evaluated = with_head(head)
        for when, state in (("before", start), ("after", learner.state_dict())):
            evaluated.load_state_dict(state)
            accuracies[head, when] = evaluate(evaluated, data, "test", 20, 0).estimate().mean
    assert all(accuracies[head, "before"] < 0.55 for head in ("centroid", "linear", "cosine")), accuracies
    assert all(accuracies[head, "after"] > 0.65 for head in ("centroid", "linear", "cosine")), accuracies
