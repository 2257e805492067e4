"""ProtoNet and learn2learn's classifier: from the same weights the same losses and meta-gradient."""

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.learn2learn.protonet import Learn2LearnProtoNet
from metarun.algos.protonet import ProtoNet
from metarun.learner.learner import slice_tasks


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_ours_agrees_with_learn2learn(norm, draw, loss_and_gradient):
    backbone = toy.conv4((1, 16, 16), blocks=3, downsample="max_pool", norm=norm)
    ours, theirs = (cls(backbone, 5, F.cross_entropy).double() for cls in (ProtoNet, Learn2LearnProtoNet))
    theirs.load_state_dict(ours.state_dict())
    batch = draw("conv4")
    for tasks in (batch, slice_tasks(batch, 0, 1)):
        (loss, gradient), (their_loss, their_gradient) = (loss_and_gradient(each, tasks) for each in (ours, theirs))
        torch.testing.assert_close(loss, their_loss)
        torch.testing.assert_close(gradient, their_gradient)
