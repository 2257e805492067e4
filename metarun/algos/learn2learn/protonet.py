"""Reference learner: learn2learn's prototypical classifier as a `Learner`, one task at a time.

Arnold, Mahajan, Datta, Bunner, Zarkias: learn2learn: A Library for Meta-Learning Research, 2020, arXiv 2008.12284.
Official code: github learnables/learn2learn (learn2learn/nn/protonet.py). The algorithm is Snell, Swersky, Zemel,
NeurIPS 2017, arXiv 1703.05175.

Inner problem:      classifier = PrototypicalClassifier(f(D), y)
Outer problem:      min_f  mean_i CE(classifier_i(f(x)), y) over the queries of task i

    symbol   code         shape / unit
    f        self.net     the backbone without a last layer, to embeddings [n, d]
    D        support      embedded: x [n, d], y [n]
    CE       self.loss    cross-entropy, mean over the queries

Differences from the paper (here: from the loop of learn2learn's example)
    - Its example embeds one task an outer step, support and queries together; here each of `run.meta_batch_size` tasks.
    - Classes are numbered in the order of their labels, as `torch.unique` returns them.

For comparison only: `algo=protonet` is the same algorithm, faster. It does not work with `torch.compile`.
"""

from __future__ import annotations

from typing import Any

from metarun.algos.learn2learn import require_learn2learn
from metarun.learner.embedding import Embedding
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class Learn2LearnProtoNet(Embedding):
    """`l2l.nn.PrototypicalClassifier`; weights (`state_dict`) are those of `metarun.algos.protonet.ProtoNet`.

    Args:
        backbone, ways, loss: as in `Embedding`.

    Raises:
        ValueError: learn2learn is not installed.
    """

    vectorized = False

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss) -> None:
        require_learn2learn()
        super().__init__(backbone, ways, loss)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # samples nothing
        from learn2learn.nn import PrototypicalClassifier  # takes seconds to import

        return PrototypicalClassifier(support.x, support.y)
