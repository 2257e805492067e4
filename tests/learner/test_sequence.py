"""What learners that see examples one by one share, tested with the plain LSTM."""

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.lstm import LSTM
from metarun.backbones.pixels import Pixels
from metarun.data.clusters import Clusters
from metarun.evaluation.evaluate import evaluate
from metarun.learner.sequence import Recurrent
from metarun.sampling import stream_generator
from metarun.tasks import Examples
from metarun.training.loop import TrainState, fit


def clusters(**changes):
    kwargs = {"dimension": 8, "noise": 0.3, "ways": 3, "shots": 1, "queries": 4, "instances": 5, "device": "cpu"}
    return Clusters(**(kwargs | changes))


def learner(units=24, seed=0, ways=3):
    torch.manual_seed(seed)
    return LSTM(lambda outputs: Pixels((8,), outputs, None), ways, F.cross_entropy, units=units)


def batch(tasks=4, **changes):
    return clusters(**changes).sample("train", "sequences", tasks, stream_generator("cpu", "recurrent"))


class Shown(Recurrent):
    """Scores are the label it gets at this step, for a test to see."""

    def start(self, rows, like):
        return like.new_zeros(rows, 1)

    def present(self, z, label, state):
        return label * 10, state + 1


def test_labels_come_one_step_late_and_none_at_first():
    shown = batch()
    scores = Shown(lambda outputs: Pixels((8,), outputs, None), 3, F.cross_entropy).predict_sequence(shown)
    assert torch.equal(scores[:, 0], torch.zeros(4, 3))
    assert torch.equal(scores[:, 1:].argmax(-1), shown.y[:, :-1])
    assert torch.equal(scores[:, 1:].sum(-1), torch.full((4, 14), 10.0))


def test_rows_do_not_mix():
    ours, shown = learner(), batch()
    batched = ours.predict_sequence(shown)
    for t in range(4):
        single = ours.predict_sequence(type(shown)(*(leaf[t : t + 1] for leaf in shown)))
        torch.testing.assert_close(single[0], batched[t])


def test_the_loss_is_the_mean_over_all_presentations():
    ours, shown = learner(), batch()
    expected = [F.cross_entropy(scores, y) for scores, y in zip(ours.predict_sequence(shown), shown.y, strict=True)]
    torch.testing.assert_close(ours(shown), torch.stack(expected))


def test_adapting_is_a_sequence_of_the_support_set_and_one_query():
    ours = learner().eval()
    shown = batch(1)
    support = Examples(shown.x[0, :6], shown.y[0, :6])
    predicted = ours.adapt(support)(shown.x[0, 6:9])
    torch.testing.assert_close(predicted[0], ours.predict_sequence(shown)[0, 6])
    swapped = shown._replace(x=shown.x.clone())
    swapped.x[0, 6] = shown.x[0, 8]
    torch.testing.assert_close(predicted[2], ours.predict_sequence(swapped)[0, 6])  # queries do not affect each other


def test_evaluation_takes_the_headline_after_the_shots():
    ours = learner()
    for shots in (1, 3):
        scores = evaluate(ours, clusters(shots=shots), "test", 25, 0)
        assert scores.values["accuracy"].shape == (25, 1)
        assert (scores.values["accuracy"] == scores.values[f"instance_{shots + 1}"]).all()
        assert [name for name in scores.metrics if name.startswith("instance_")] == [
            f"instance_{k}" for k in range(1, 6)
        ]


def test_micro_batches_change_nothing():
    ours = learner().double()
    whole, sliced = (evaluate(ours, clusters(), "test", 23, 0, task_micro_batch=c).values["nll"] for c in (None, 3))
    assert abs(whole - sliced).max() < 1e-12


@pytest.mark.slow
def test_it_learns_and_untrained_it_fails():
    data, meta_optimizer = clusters(ways=2, instances=6, noise=0.1, dimension=8), toy.adam(lr=5e-3)
    ours = learner(units=64, ways=2)
    before, after = toy.score(ours, data, 700, meta_optimizer, meta_batch_size=16, tasks=100)
    assert before < 0.62
    assert after > 0.80  # of the second instance


def test_units_must_be_a_count():
    with pytest.raises(ValueError, match="units"):
        learner(units=0)


def test_it_is_trained_on_sequences():
    ours, meta_optimizer = learner(), toy.adam()
    for step in fit(TrainState.create(ours, meta_optimizer, torch.device("cpu"), 0), clusters(), meta_optimizer, 2, 3):
        assert step.batch.x.shape == (3, 15, 8) and step.loss > 0
