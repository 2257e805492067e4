"""What learners that compare embeddings share."""

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.protonet import ProtoNet
from metarun.layers.norm import inductive
from metarun.learner.embedding import class_means, feature_dim, one_hot, squared_distances, with_output_width
from metarun.learner.learner import slice_tasks
from metarun.tasks import Examples, Task


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_squared_distances_are_those_of_differences():
    a, b = normal(7, 4), normal(3, 4, seed=1)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b) ** 2)
    far = squared_distances((a + 1e4).float(), (b + 1e4).float())  # far from the origin float32 has few digits left
    torch.testing.assert_close(far.double(), torch.cdist(a, b) ** 2, rtol=1e-2, atol=1e-2)


def test_class_means_in_any_order_and_of_any_size():
    z, y = normal(6, 4), torch.tensor([2, 0, 1, 0, 2, 2])
    expected = torch.stack([z[[1, 3]].mean(0), z[2], z[[0, 4, 5]].mean(0)])
    torch.testing.assert_close(class_means(z, y, 3), expected)
    assert class_means(z, y, 4)[3].isnan().all()  # a class without examples has no mean


def test_labels_are_one_hot():
    y = torch.tensor([2, 0, 1])
    assert torch.equal(one_hot(y, 4, torch.float64), F.one_hot(y, 4).double())


def test_the_width_of_features_and_of_a_last_layer():
    backbone = toy.mlp((4,), hidden=[8, 6])
    assert feature_dim(backbone) == 6
    x = torch.zeros(2, 4)
    assert backbone(outputs=None)(x).shape == (2, 6)
    assert with_output_width(3, backbone)(outputs=None)(x).shape == (2, 3)


def batch(tasks=3, n=6, m=10, seed=0):
    x = normal(tasks, n + m, 1, 16, 16, seed=seed)
    y = torch.arange(n + m).remainder(2).expand(tasks, -1)
    return Task(Examples(x[:, :n], y[:, :n]), Examples(x[:, n:], y[:, n:]))


def protonet(norm):
    torch.manual_seed(0)
    return ProtoNet(toy.conv4((1, 16, 16), blocks=3, norm=norm), 2, F.cross_entropy).double()


@pytest.mark.parametrize("norm", ["batch", "support", "running", "none"])
def test_a_batch_of_tasks_is_each_task_alone(norm, loss_and_gradient):
    """With batch norm each task has its own statistics, in a batch of any size; a single task goes without vmap."""
    learner, tasks = protonet(norm), batch()
    losses, gradient = loss_and_gradient(learner, tasks)
    singles = [loss_and_gradient(learner, slice_tasks(tasks, t, t + 1)) for t in range(3)]
    torch.testing.assert_close(losses, torch.cat([loss for loss, _ in singles]))
    torch.testing.assert_close(gradient, torch.stack([g for _, g in singles]).mean(0))


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_the_gradient_agrees_with_finite_differences(norm, slopes_agree):
    slopes_agree(protonet(norm), batch())


def test_running_statistics_are_those_of_support_and_queries_together():
    learner, tasks = protonet("running"), batch(1)
    learner(tasks)
    learner.after_step()
    first = learner.net.blocks.norm1
    x = learner.net.blocks.conv1(torch.cat([tasks.support.x[0], tasks.query.x[0]]))
    torch.testing.assert_close(first.running_mean, 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, 0.9 + 0.1 * x.transpose(0, 1).flatten(1).var(1))


def test_queries_are_normalised_by_the_support_set_in_mode_support():
    learner, tasks = protonet("support"), batch(1)
    task = Task(*(Examples(*(leaf[0] for leaf in examples)) for examples in tasks))
    learner.meta_loss(task).backward()
    other = protonet("batch")
    with inductive(other):
        torch.testing.assert_close(learner.adapt(task.support)(task.query.x), other.adapt(task.support)(task.query.x))
        torch.testing.assert_close(learner.meta_loss(task), other.meta_loss(task))


@pytest.mark.parametrize("size", [1, 3])
def test_masks_are_inputs_of_training_tasks(size, loss_and_gradient):
    """Each task has its own masks, in micro-batches as in the whole batch; nothing is dropped in evaluation."""
    torch.manual_seed(0)
    backbone = toy.dropping((1, 16, 16), rate=0.3, size=size)
    learner, tasks = ProtoNet(backbone, 2, F.cross_entropy).double(), batch()
    learner.progress.fill_(1)
    random_inputs = learner.to_dtype(learner.random_inputs(tasks, 0, torch.Generator().manual_seed(1)))
    other = learner.random_inputs(tasks, 0, torch.Generator().manual_seed(2))
    assert random_inputs.masks[0].shape[:2] == (3, 16)
    whole = learner(tasks, random_inputs)
    singles = [learner(*slice_tasks((tasks, random_inputs), t, t + 1)) for t in range(3)]
    torch.testing.assert_close(whole, torch.cat(singles), rtol=1e-12, atol=0)
    gradients = [
        loss_and_gradient(learner, part, lambda part: learner(*part))[1]
        for part in ((tasks, random_inputs), *(slice_tasks((tasks, random_inputs), t, t + 1) for t in range(3)))
    ]
    torch.testing.assert_close(gradients[0], torch.stack(gradients[1:]).mean(0), rtol=1e-10, atol=1e-14)
    assert not torch.allclose(whole, learner(tasks, other)) and not torch.allclose(whole, learner(tasks))
    learner.eval()
    task = Task(*(Examples(*(leaf[0] for leaf in examples)) for examples in tasks))
    assert learner.random_inputs(tasks, 0, torch.Generator()) == ()
    assert torch.equal(
        learner.adapt(task.support, random_inputs)(task.query.x), learner.adapt(task.support)(task.query.x)
    )
