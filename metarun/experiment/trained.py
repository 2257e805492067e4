"""A trained learner in a program of one's own: it adapts to labelled examples of any kind, and predicts in kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarun.checks import require
from metarun.evaluation.metrics import components, log_probabilities
from metarun.experiment.build import load_components
from metarun.images.preparation import Preparation
from metarun.learner.learner import Learner
from metarun.learner.prediction import Prediction, Predictor
from metarun.tasks import Examples, TaskSet

Label = Any  # an int, a bool, a string, or what else can be hashed; no float


class TrainedLearner:
    """The learner of a finished run, with the weights that the run was tested with, in evaluation mode.

    Nothing here computes gradients of the weights, or draws random numbers: a learner that draws masks, noise or
    mini-batches while it adapts uses what its own module says it does without random inputs.

    Args:
        learner: the learner itself, a torch module; its own `adapt` is that of metarun/learner/learner.py.
        data: the data set of its run; it need not be there.
        folder: the run's folder.
        choices: the chosen name of each group, `algo` and `data` among them.
    """

    def __init__(self, learner: Learner, data: TaskSet, folder: Path, choices: dict[str, str]) -> None:
        self.learner, self.data, self.folder, self.choices = learner, data, folder, choices

    def adapt(self, x: Any, y: Any = None) -> AdaptedLearner:
        """Adapt to a support set, as in the run's test.

        Args:
            x: inputs `[n, ...]`, a tensor, an array or a list, prepared as the run's were: `preparation()` does that
                with images.
            y: of each input its class, `[n]`: integers, strings or any other labels but floats; or in a regression its
                target, `[n, d]` or `[n]`. It may also come with x, as `adapt((x, y))` or `adapt(Examples(x, y))`.

        Raises:
            ValueError: shapes or labels do not fit; a learner whose weights depend on the number of classes says how
                many it wants, any other takes the classes from the labels.
        """
        if y is None:
            is_pair = isinstance(x, tuple | list) and len(x) == 2
            require("adapt", type(x).__name__, is_pair, "called with x and y, or with a pair (x, y)")
            x, y = x
        inputs = self.inputs(x, self.data.in_shape(self.learner.evaluation_stream_for(self.data)))
        if self.data.kind == "regression":
            targets, flat = self._targets(y, len(inputs))
            with torch.no_grad():
                return AdaptedLearner(self, self.learner.adapt(Examples(inputs, targets)), flat=flat)
        labels = self._labels(y, len(inputs))
        with torch.no_grad(), number_of_ways(self.learner, len(labels.classes)):
            return AdaptedLearner(self, self.learner.adapt(Examples(inputs, labels.numbers.to(inputs.device))), labels)

    def score_pairs(self, x: Any) -> Any:
        """Score how likely both inputs of each pair are of one class: `x [b, 2, ...]` to `[b]`, in the kind of x.

        Raises:
            ValueError: the learner does not compare pairs, or the shape does not fit.
        """
        name = self.choices["algo"]
        require("algo", name, "verification" in self.learner.task_types, "one that compares pairs, such as siamese")
        with torch.no_grad():
            scores = self.learner.score_pairs(self.inputs(x, (2, *self.data.in_shape(self.data.evaluation_stream))))
        return in_kind_of(x)(scores)

    def preparation(self) -> Preparation:
        """What turns images (paths, PIL images, arrays of bytes) into inputs `[n, C, H, W]` as the run's were.

        Raises:
            ValueError: its data are no images.
        """
        return preparation_of(self.data, self.choices["data"])

    def inputs(self, x: Any, shape: tuple[int, ...]) -> Tensor:
        """Inputs as the learner takes them, `[n, *shape]`, finite, on its device and in its precision.

        Raises:
            ValueError: they are not.
        """
        tensor = as_tensor("x", x)
        if shape == (1,) and tensor.dim() == 1:
            tensor = tensor.unsqueeze(1)
        wanted = f"of shape [n, {', '.join(map(str, shape))}] with n of at least 1"
        require("x", list(tensor.shape), tensor.dim() > 0 and len(tensor) and tensor.shape[1:] == shape, wanted)
        what = f"floats, prepared as the images of data={self.choices['data']} are (metarun.preparation does that)"
        require("x", tensor.dtype, tensor.is_floating_point() or len(shape) < 3, what)
        return self._finite("x", tensor)

    def _finite(self, key: str, tensor: Tensor) -> Tensor:
        infinite = tensor[~tensor.isfinite()]
        require(key, infinite[:1].tolist(), not len(infinite), "finite")
        return tensor.to(self.learner.progress.device, self.learner.progress.dtype)

    def _targets(self, y: Any, n: int) -> tuple[Tensor, bool]:
        """Targets of a regression `[n, d]`, and whether they came as `[n]`."""
        targets, width = as_tensor("y", y), self.data.outputs("test")
        flat = width == 1 and targets.dim() == 1
        fits = targets.shape == (n,) if flat else targets.shape == (n, width)
        require("y", list(targets.shape), fits, f"of shape {[n, width]}, a target of each input")
        return self._finite("y", targets.unsqueeze(1) if flat else targets), flat

    def _labels(self, y: Any, n: int) -> Labels:
        name = self.choices["algo"]
        require("algo", name, "classification" in self.learner.task_types, "one for classification, to take classes")
        labels = Labels.of(y)
        require("y", len(labels.numbers), len(labels.numbers) == n, f"{n} labels, one of each input")
        count = len(labels.classes)
        if self.learner.any_ways():
            require("y", count, count > 1, "labels of at least 2 classes")
        else:
            ways = self.data.outputs("test", self.learner.evaluation_stream_for(self.data))
            wanted = f"labels of {ways} classes, the number that the weights of algo={name} are made for"
            require("y", count, count == ways, wanted)
        return labels


class AdaptedLearner:
    """A learner adapted to one support set.

    Where the backbone normalises by the batch (`backbone.norm=batch`), the inputs of one call share their statistics:
    ask for all inputs at once, as the run's test does.

    Attributes:
        classes: the labels, in the order of the columns of scores and probabilities; of the kind that y was. Empty in a
            regression.
    """

    def __init__(
        self, trained: TrainedLearner, predictor: Predictor, labels: Labels | None = None, flat: bool = False
    ) -> None:
        self._trained, self._predictor, self._labels, self._flat = trained, predictor, labels, flat
        self.classes = [] if labels is None else labels.back(torch.arange(len(labels.classes)))

    def __call__(self, x: Any) -> Prediction:
        """What the learner itself predicts for x `[m, ...]`: class scores `[m, ways]` (logits), targets `[m, d]`, a
        `Gaussian` or `Samples`.

        Raises:
            ValueError: the shape does not fit, or x is not finite.
        """
        learner, data = self._trained.learner, self._trained.data
        inputs = self._trained.inputs(x, data.in_shape(learner.evaluation_stream_for(data)))
        with torch.no_grad(), number_of_ways(learner, len(self.classes) or learner.ways):
            return self._predictor(inputs)

    def predict(self, x: Any) -> Any:
        """The most probable class of each input, a label of the kind that y was; in a regression the mean, `[m, d]` or
        `[m]` as y was, in the kind of x.

        Raises:
            ValueError: the shape does not fit, or x is not finite.
            ArithmeticError: a prediction is NaN or infinite.
        """
        if self._labels is None:
            means, _ = self._components(x)
            return self._numbers(x, means.mean(0))
        return self._labels.back(self._probabilities(x).argmax(1).cpu())

    def predict_proba(self, x: Any) -> Any:
        """The probability of each class, `[m, ways]` in the order of `classes`, in the kind of x.

        Raises:
            ValueError: a regression, or x does not fit.
            ArithmeticError: a prediction is NaN or infinite.
        """
        if self._labels is None:
            raise ValueError("predict_proba is for classes; a regression has predict and deviation")
        return in_kind_of(x)(self._probabilities(x))

    def deviation(self, x: Any) -> Any:
        """The standard deviation of the predictive distribution of a regression, in the shape of `predict`.

        Of a learner that predicts points it is that of its errors on the run's validation tasks, as in the run's own
        `nll` and `coverage`.

        Raises:
            ValueError: classes, x does not fit, or the run has no validation to know its errors from.
            ArithmeticError: a prediction is NaN or infinite.
        """
        if self._labels is not None:
            raise ValueError("deviation is for a regression; classes have predict_proba")
        means, variances = self._components(x)
        if variances.isnan().any():
            raise ValueError(f"the errors of algo={self._trained.choices['algo']} are not known: it was not validated")
        return self._numbers(x, (variances.mean(0) + means.var(0, unbiased=False)).sqrt())

    def _components(self, x: Any) -> tuple[Tensor, Tensor]:
        """Means and variances `[S, m, d]`; of the means each is finite."""
        means, variances = components(self(x), self._trained.learner.residual_variance)
        return _finite_rows(means.transpose(0, 1)).transpose(0, 1), variances

    def _probabilities(self, x: Any) -> Tensor:
        return _finite_rows(log_probabilities(self(x))).exp()

    def _numbers(self, x: Any, values: Tensor) -> Any:
        return in_kind_of(x)(values.squeeze(1) if self._flat else values)


class Labels(NamedTuple):
    """The labels of a support set, numbered.

    Attributes:
        classes: each once: sorted, or where they cannot be sorted in the order of their first appearance.
        numbers: of each example's class, `[n]`.
        back: from numbers `[m]` to labels, of the kind that they came in: a tensor, an array or a list.
    """

    classes: Sequence[Label]
    numbers: Tensor
    back: Callable[[Tensor], Any]

    @classmethod
    def of(cls, y: Any) -> Labels:
        """Number labels `[n]`.

        Raises:
            ValueError: they are not one label of each example, or floats.
        """
        shape = list(getattr(y, "shape", [0]))
        require("y", shape, len(shape) == 1, "one label of each input, of shape [n]")
        is_list = isinstance(y, list | tuple)
        values = list(y) if is_list else y.tolist() if hasattr(y, "tolist") else list(y)
        values = [value.item() if isinstance(value, Tensor | np.generic) else value for value in values]
        floats = [value for value in values if isinstance(value, float | list | dict | set)]
        require("y", floats[0] if floats else y, not floats, "classes (integers, strings, ...), one of each input")
        classes = list(dict.fromkeys(values))
        try:
            classes = sorted(classes)
        except TypeError:
            pass  # of several types: no order but that of appearance
        number = {label: place for place, label in enumerate(classes)}
        return cls(classes, torch.tensor([number[value] for value in values]), _back(y, classes, is_list))


def _back(y: Any, classes: list[Label], is_list: bool) -> Callable[[Tensor], Any]:
    if isinstance(y, Tensor):
        values = torch.tensor(classes, dtype=y.dtype, device=y.device)
        return lambda index: values[index.to(y.device)]
    if is_list or not hasattr(y, "dtype"):
        return lambda index: [classes[place] for place in index.tolist()]
    array = np.empty(len(classes), dtype=np.asarray(y).dtype)
    array[:] = classes
    return lambda index: array[index.numpy()]


def load(path: str | Path) -> TrainedLearner:
    """The trained learner of a run's folder.

    Args:
        path: the run's folder. Its data need not be there.

    Raises:
        ConfigError: no run there.
        FileNotFoundError: the run has no checkpoint.
    """
    loaded, choices = load_components(Path(path))
    return TrainedLearner(loaded.learner, loaded.data, Path(path), choices)


def preparation_of(data: TaskSet, name: str) -> Preparation:
    """The image preparation of a data set.

    Raises:
        ValueError: it has none.
    """
    if not hasattr(data, "preparation"):
        raise ValueError(f"data must be a set of images, to have a preparation; got {name}")
    found: Preparation = data.preparation()
    return found


@contextmanager
def number_of_ways(learner: Learner, ways: int) -> Iterator[None]:
    """Inside, a learner's tasks have so many classes."""
    before, learner.ways = learner.ways, ways
    try:
        yield
    finally:
        learner.ways = before


def as_tensor(key: str, values: Any) -> Tensor:
    """Numbers as a tensor.

    Raises:
        ValueError: they are not numbers, or of different shapes.
    """
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
            return torch.stack(list(values)).detach()
        return values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = "a tensor, an array or a list of numbers, all examples of one shape"
        raise ValueError(f"{key} must be {wanted}; got {type(values).__name__}") from error


def in_kind_of(x: Any) -> Callable[[Tensor], Any]:
    """From a tensor to the kind of x: a tensor on its device, a list, or an array."""
    if isinstance(x, Tensor):
        return lambda values: values.to(x.device)
    if isinstance(x, list | tuple):
        return lambda values: values.tolist()
    return lambda values: values.cpu().numpy()


def _finite_rows(values: Tensor) -> Tensor:
    """The same values `[m, ...]`, all of them finite: the argmax of NaN would be a class.

    Raises:
        ArithmeticError: one is not.
    """
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ArithmeticError(
            f"{int((~finite).sum())} of {len(finite)} predictions are not finite: the learner diverged as it adapted"
        )
    return values
