"""The graph network against the official code's procedure, graph by graph and edge by edge, and its pitfalls."""

import pytest
import torch
import torch.nn.functional as F
import toy
from hydra import compose, initialize_config_dir

from metarun.algos.gnn import GNN, EdgeWeights
from metarun.experiment.build import build
from metarun.experiment.choices import CONF
from metarun.experiment.errors import ConfigError
from metarun.layers.norm import batch_norms
from metarun.tasks import Examples, Task

WIDTH, WAYS = 5, 3
LABELS = torch.tensor([2, 0, 1, 0, 1, 2])


def learner(norm="running", seed=0, embedding=WIDTH, features=4, layers=2):
    torch.manual_seed(seed)
    return GNN(toy.mlp((4,), hidden=[7]), WAYS, F.cross_entropy, embedding, features, layers, norm).double()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch():
    """Two 3-way 2-shot tasks with 4 queries."""
    y = torch.stack([LABELS, LABELS.flip(0)])
    return Task(Examples(random(2, 6, 4), y), Examples(random(2, 4, 4, seed=1), y[:, 1:5]))


def embedded_support():
    return Examples(random(6, WIDTH), LABELS)


def settled(ours):
    """The learner in evaluation mode, with running statistics of a few training steps."""
    for _ in range(3):
        ours(batch())
        ours.after_step()
    return ours.eval()


def edges_by_hand(edges, v):
    """A `[N, N]`, pair of nodes by pair of nodes."""
    rows = []
    for i in range(len(v)):
        scores = {j: edges.mlp((v[i] - v[j]).abs()[None]).squeeze().exp() for j in range(len(v)) if j != i}
        total = sum(scores.values())
        zero = torch.zeros((), dtype=v.dtype)
        rows.append(torch.stack([scores[j] / total if j in scores else zero for j in range(len(v))]))
    return torch.stack(rows)


def scores_by_hand(ours, support, queries):
    """One graph for each query, in evaluation mode, where norms do not depend on other nodes."""
    rows = []
    for q in queries:
        v = [torch.cat([z, F.one_hot(y, WAYS).to(z)]) for z, y in zip(support.x, support.y, strict=True)]
        v = torch.stack([*v, torch.cat([q, torch.zeros(WAYS, dtype=q.dtype)])])
        for index, (edges, layer) in enumerate(zip(ours.edges, ours.layers, strict=True)):
            adjacency = edges_by_hand(edges, v)
            gathered = torch.stack([sum(a * u for a, u in zip(row, v, strict=True)) for row in adjacency])
            out = layer.norm(layer.linear(torch.cat([v, gathered], 1)))
            last = index == len(ours.layers) - 1
            v = out if last else torch.cat([v, torch.where(out > 0, out, 0.01 * out)], 1)
        rows.append(v[-1])
    return torch.stack(rows)


@pytest.mark.parametrize("norm", ["running", "layer", "none"])
@pytest.mark.parametrize("layers", [0, 2])
def test_scores_are_those_of_the_official_procedure_query_by_query(layers, norm):
    ours, queries = settled(learner(norm, layers=layers)), random(4, WIDTH, seed=1)
    expected = scores_by_hand(ours, embedded_support(), queries)
    torch.testing.assert_close(ours.head(embedded_support())(queries), expected, rtol=1e-9, atol=1e-11)


def test_edges_are_distributions_over_the_other_nodes():
    torch.manual_seed(0)
    v = 3 * random(2, 6, 4)
    edges = EdgeWeights(4, 4, "none").double()(v)
    torch.testing.assert_close(edges.sum(2), torch.ones(2, 6, dtype=torch.float64))
    assert (edges.diagonal(dim1=1, dim2=2) == 0).all()
    assert (edges[:, ~torch.eye(6, dtype=torch.bool)] > 0).all()
    assert not torch.allclose(edges.sum(1), torch.ones(2, 6, dtype=torch.float64), rtol=1e-3)
    torch.testing.assert_close(
        EdgeWeights(4, 4, "none").double()(v[:, :2]), 1 - torch.eye(2).double().expand(2, 2, 2)
    )  # with two nodes, each has one neighbour


def test_a_graph_holds_the_support_sets_labels_and_zeros_for_its_one_query(one):
    ours, task, graphs = learner(), one(batch()), []
    ours.edges[0].register_forward_hook(lambda _module, inputs, _out: graphs.append(inputs[0].detach()))
    ours.meta_loss(task)
    (v,) = graphs
    assert v.shape == (4, 7, WIDTH + WAYS)
    assert (v[:, -1, WIDTH:] == 0).all()
    assert (v[:, :-1, WIDTH:] == F.one_hot(LABELS, WAYS)).all()
    assert not torch.allclose(v[0, -1], v[1, -1])
    assert torch.equal(v[0, :-1], v[1, :-1])


def test_queries_and_their_labels_do_not_reach_predictions(one):
    ours, task, predictions = learner(), one(batch()), []
    ours.query_loss = lambda prediction, y: predictions.append(prediction) or ours.loss(prediction, y)
    losses = [ours.meta_loss(task), ours.meta_loss(task._replace(query=Examples(task.query.x, task.query.y.flip(0))))]
    assert torch.equal(*predictions)
    assert losses[0] != losses[1]
    predict = settled(ours).adapt(task.support)
    one_by_one = torch.cat([predict(x[None]) for x in task.query.x])
    torch.testing.assert_close(one_by_one, predict(task.query.x), rtol=1e-10, atol=1e-12)


def test_predictions_depend_on_the_support_labels_and_not_on_the_support_order():
    ours, support, queries = settled(learner()), embedded_support(), random(4, WIDTH, seed=1)
    scores, order = ours.head(support)(queries), torch.tensor([3, 0, 1, 5, 2, 4])
    torch.testing.assert_close(ours.head(Examples(support.x[order], support.y[order]))(queries), scores)
    assert not torch.allclose(ours.head(support._replace(y=support.y.flip(0)))(queries), scores, rtol=1e-3)


def test_every_norm_sees_each_batch_once_and_running_statistics_cover_all_graphs(one):
    ours, task = learner(), one(batch())
    calls = {norm: [] for norm in batch_norms(ours)}
    handles = [norm.register_forward_hook(lambda m, inputs, _: calls[m].append(inputs[0].detach())) for norm in calls]
    ours.meta_loss(task)
    assert len(calls) == 1 + 3 * 4 + 2 and all(len(inputs) == 1 for inputs in calls.values())
    for handle in handles:
        handle.remove()
    first = ours.edges[0].mlp[1]
    (inputs,) = calls[first]
    assert len(inputs) == 4 * 7 * 7
    ours(Task(*(Examples(*(leaf[:1] for leaf in examples)) for examples in batch())))
    ours.after_step()
    torch.testing.assert_close(first.running_mean, 0.1 * inputs.mean(0))


@pytest.mark.parametrize("norm", ["running", "layer", "none"])
def test_vmap_equals_a_loop_and_the_gradient_is_right_and_reaches_everything(norm, loss_and_gradient, slopes_agree):
    ours = learner(norm)
    vectorized = loss_and_gradient(ours, batch())
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch()), vectorized, rtol=1e-9, atol=1e-11)
    slopes_agree(ours, batch())


def test_it_memorises_a_task_from_labels_alone(one):
    """The queries are the support examples themselves."""
    ours, task = learner(features=8), one(batch())
    task = Task(*(Examples(*(leaf[None] for leaf in task.support)),) * 2)
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = ours(task).sum()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_widths_are_the_official_codes():
    ours = learner(embedding=64, features=96)
    widths = [layer.linear.in_features // 2 for layer in ours.layers]
    assert widths == [64 + WAYS, 64 + WAYS + 48, 64 + WAYS + 96]
    assert [layer.linear.out_features for layer in ours.layers] == [48, 48, WAYS]
    assert [m.out_features for m in ours.edges[0].mlp if isinstance(m, torch.nn.Linear)] == [192, 192, 96, 96, 1]


def test_train_ways_that_differ_from_test_ways_are_rejected_at_build_time():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["algo=gnn", "data=synthetic", "data.train_ways=6", "tracker=none"])
    with pytest.raises(ConfigError, match="data.train_ways must be data.ways=5 for algo=gnn"):
        build(cfg, {"algo": "gnn", "data": "synthetic", "backbone": "conv4_embedding"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": 5}, "algo.features must be even, .*; got 5"),
        ({"embedding": 0}, "algo.embedding must be an integer of at least 1; got 0"),
        ({"layers": -1}, "algo.layers must be an integer of at least 0; got -1"),
        ({"norm": "batch"}, "algo.norm must be one of running, layer, none; got 'batch'"),
    ],
)
def test_rejects_invalid_values(change, message):
    with pytest.raises(ValueError, match=message):
        learner(**change)
