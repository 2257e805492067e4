"""The LSTM against torch's own; tests/learner/test_sequence.py covers what it shares with other sequence learners."""

import torch
import torch.nn.functional as F
from torch import nn

from metarun.algos.lstm import LSTM
from metarun.backbones.pixels import Pixels
from metarun.data.clusters import Clusters
from metarun.sampling import stream_generator


def learner(units=6):
    torch.manual_seed(0)
    return LSTM(lambda outputs: Pixels((4,), outputs, None), 3, F.cross_entropy, units).double()


def sequences(seed=0):
    data = Clusters(dimension=4, noise=0.3, ways=3, shots=1, queries=2, instances=3, device="cpu")
    batch = data.sample("train", "sequences", 4, stream_generator("cpu", "lstm", seed))
    return batch._replace(x=batch.x.double())


def test_scores_are_those_of_torchs_lstm_with_the_previous_label_as_input():
    ours, batch = learner(), sequences()
    theirs = nn.LSTM(4 + 3, 6, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.cell.weight_ih)
        theirs.weight_hh_l0.copy_(ours.cell.weight_hh)
        theirs.bias_ih_l0.copy_(ours.cell.bias)
        theirs.bias_hh_l0.zero_()
    previous_y = F.one_hot(batch.y, 3).double().roll(1, 1)
    previous_y[:, 0] = 0
    expected = ours.classifier(theirs(torch.cat([batch.x, previous_y], 2))[0])
    torch.testing.assert_close(ours.predict_sequence(batch), expected, rtol=1e-10, atol=1e-12)


def test_no_state_carries_over_between_sequences():
    ours, batch = learner(), sequences()
    before = ours.predict_sequence(batch)
    ours.predict_sequence(sequences(seed=1))
    assert torch.equal(ours.predict_sequence(batch), before)


def test_the_gradient_is_right_and_reaches_everything(slopes_agree):
    ours = learner()
    slopes_agree(ours, sequences())
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())
