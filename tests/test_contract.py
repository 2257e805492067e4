"""The laws that every algorithm in conf/algo obeys: a new one is tested by existing.

Each runs on the first small data set that it can use; nothing here names an algorithm. A law that holds for some
algorithms only is parametrised with those, by what their classes say; the others have a law of their own.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from small import components_of, configured, on_synthetic
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun.evaluation.evaluate import evaluate_batch
from metarun.evaluation.metrics import METRICS
from metarun.experiment.build import build
from metarun.experiment.choices import describe, names
from metarun.experiment.errors import ConfigError
from metarun.layers.norm import MODES, BatchNorm, batch_norms
from metarun.learner.learner import Learner, Stage, slice_tasks
from metarun.sampling import stream_generator
from metarun.tasks import TaskSet

TASKS = 3
EXACT = {"rtol": 0, "atol": 0, "equal_nan": True}
CLOSE = {"rtol": 1e-9, "atol": 1e-10}

# Hyperparameters that only some choice of their algorithm uses, and that choice.
CHOICES: dict[str, dict[str, str]] = {
    "gradient_scale": {"gradient_input": "scale"},
    "inner_lr": {"head": "linear"},
    "leader_lr": {"ensemble": "false"},
    "precision_rate": {"ensemble": "false"},
    "regularization": {"variant": "ridge"},
    "scale": {"head": "cosine"},
    "temperature": {"mask": "row"},
    "train_scale": {"classifier": "cosine"},
}


def learner_class(algo: str) -> type[Learner]:
    return get_class(describe("algo", algo)["_target_"])


def registers_hyperparameters(cls: type[Learner]) -> bool:
    bases = [base for base in cls.__mro__ if issubclass(base, Learner) and base is not Learner]
    return any("self.register_hyperparameter(" in inspect.getsource(base) for base in bases)


ALGOS = {algo: learner_class(algo) for algo in names("algo")}


def algorithms_where(holds: Any) -> list[str]:
    """The algorithms for whose class a condition holds; both these and the others must exist."""
    chosen = [algo for algo, cls in ALGOS.items() if holds(cls)]
    assert 0 < len(chosen) < len(ALGOS)
    return chosen


every_algorithm = pytest.mark.parametrize("algo", ALGOS)
every_trained_one = pytest.mark.parametrize("algo", algorithms_where(lambda cls: cls.stages))
every_untrained_one = pytest.mark.parametrize("algo", algorithms_where(lambda cls: not cls.stages))
every_one_with_hyperparameters = pytest.mark.parametrize("algo", algorithms_where(registers_hyperparameters))
every_one_without_hyperparameters = pytest.mark.parametrize(
    "algo", algorithms_where(lambda c: not registers_hyperparameters(c))
)
every_order_sensitive_one = pytest.mark.parametrize("algo", algorithms_where(lambda cls: cls.order_sensitive))
every_order_insensitive_one = pytest.mark.parametrize("algo", algorithms_where(lambda cls: not cls.order_sensitive))
every_one_with_diagnostics = pytest.mark.parametrize(
    "algo", algorithms_where(lambda c: c.diagnostics is not Learner.diagnostics)
)
every_one_of_sequences = pytest.mark.parametrize(
    "algo", algorithms_where(lambda cls: cls.evaluation_stream == "sequences")
)
every_one_that_takes_running_statistics = pytest.mark.parametrize(
    "algo", algorithms_where(lambda cls: cls.stages and "running" in cls.batch_norm_modes)
)
every_mode_of_batch_norm = pytest.mark.parametrize("mode", MODES)
every_classifier = pytest.mark.parametrize("algo", algorithms_where(lambda cls: "classification" in cls.task_types))
every_init_only_argument = pytest.mark.parametrize(
    ("algo", "argument"), [(algo, argument) for algo, cls in ALGOS.items() for argument in cls.init_only_args]
)


class Case(NamedTuple):
    """A fresh learner and its data set, with tasks of its evaluation stream, their random inputs and their `ways`."""

    learner: Learner
    data: TaskSet
    batch: Any
    random_inputs: Any
    steps: int
    ways: int


def make(algo: str, seed: int = 0, *overrides: str) -> Case:
    components = components_of(algo, seed, overrides)
    learner, data = copy.deepcopy(components.learner), components.data
    stream = learner.evaluation_stream_for(data)
    stream = "episodes" if stream == "sequences" else stream  # what predicts sequences can adapt to a support set too
    steps = max(learner.eval_steps, learner.inner_steps)
    batch, random_inputs = sampled(learner, data, stream, steps)
    return Case(learner, data, batch, random_inputs, steps, learner.ways)


def normalised(algo: str, mode: str) -> Learner:
    """The learner of an algorithm whose network has batch norms of that mode."""
    config, choices = configured(algo)
    return build(OmegaConf.merge(config, {"backbone": {"norm": mode}}), choices).learner  # type: ignore[arg-type]


def sampled(learner: Learner, data: TaskSet, stream: str, steps: int) -> tuple[Any, Any]:
    """Training tasks of a stream and their random inputs; `ways` is set as the training loop sets it."""
    learner.ways = data.outputs("train", stream)
    batch = data.sample("train", stream, TASKS, stream_generator("cpu", "contract"))
    random_inputs = learner.random_inputs(batch, steps, stream_generator("cpu", "contract random inputs"))
    return learner.to_dtype((batch, random_inputs))


def training(case: Case) -> Iterator[tuple[Stage, Any, Any]]:
    """Batches of all stages with their random inputs: what a learner trains on may differ from what it is tested on."""
    case.learner.train()
    for stage in case.learner.stages:
        yield stage, *sampled(case.learner, case.data, stage.stream, case.learner.inner_steps)


def one(tree: Any, t: int = 0) -> Any:
    return pytree.tree_map(lambda leaf: leaf[t], tree)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def predictions(learner: Learner, task: Any, random_inputs: Any, steps: int) -> list[Tensor]:
    """The predictions of queries after each step; a distribution consists of several tensors."""
    return tensors([predict(task.query.x) for predict in learner.trajectory(task.support, steps, random_inputs)])


def state(learner: Learner) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, including those that are not saved."""
    return {name: tensor.detach().clone() for name, tensor in (*learner.named_parameters(), *learner.named_buffers())}


def trained(case: Case) -> list[Tensor]:
    """Losses and gradients of all stages and objectives, a quarter into training; then `after_step`."""
    learner, results = case.learner, []
    learner.progress.fill_(0.25)
    for stage, batch, random_inputs in training(case):
        for objective in stage.objectives:
            learner.zero_grad()
            losses = learner(batch, random_inputs, objective)
            losses.sum().backward()
            results += [losses.detach(), *(p.grad.clone() for p in learner.parameters() if p.grad is not None)]
    learner.after_step()
    return results


def evaluated(case: Case) -> list[Tensor]:
    """Predictions of the first task's queries after up to three steps, in evaluation mode."""
    learner = case.learner.eval()
    learner.ways = case.ways
    made = predictions(learner, one(case.batch), one(case.random_inputs), min(case.steps, 3))
    assert made
    return [prediction.detach() for prediction in made]


def outcome(case: Case) -> list[Tensor]:
    """Everything that training and evaluation compute, without the hyperparameters themselves."""
    learner, losses = case.learner, trained(case)
    kept = [tensor for name, tensor in state(learner).items() if name not in learner.hyperparameters]
    return [*losses, *kept, *evaluated(case), *learner.diagnostics().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal to the last bit."""
    return [t.shape for t in a] == [t.shape for t in b] and all(
        torch.allclose(x.double(), y.double(), **EXACT) for x, y in zip(a, b, strict=True)
    )


# -------------------------------------------------------------------------------------------------- adaptation


@every_algorithm
def test_adapting_leaves_all_state_alone(algo):
    learner, data, batch, random_inputs, steps, _ = make(algo)
    before = state(learner)
    learner.adapt(one(batch).support, one(random_inputs))(one(batch).query.x)
    evaluate_batch(learner, data.kind, batch, random_inputs, steps)
    torch.testing.assert_close(state(learner), before, **EXACT)


@every_algorithm
def test_a_batch_of_tasks_gives_what_single_tasks_give(algo):
    learner, _, batch, random_inputs, steps, _ = make(algo)

    def query_predictions(task, random_inputs):
        return predictions(learner, task, random_inputs, steps)

    batched = learner.map_tasks(query_predictions, batch, random_inputs)
    for t in range(TASKS):
        for whole, single in zip(batched, query_predictions(one(batch, t), one(random_inputs, t)), strict=True):
            torch.testing.assert_close(whole[t], single, **CLOSE)


@every_algorithm
def test_micro_batches_are_evaluated_as_the_whole_batch(algo):
    learner, data, batch, random_inputs, steps, _ = make(algo)
    learner.eval()

    def metrics(start, stop):
        tasks = slice_tasks((batch, random_inputs), start, stop)
        return evaluate_batch(learner, data.kind, *tasks, steps, curve=False)

    whole, part = metrics(0, TASKS), metrics(1, TASKS)
    assert set(whole) == set(part) and data.metric in whole
    for name, values in whole.items():
        torch.testing.assert_close(torch.as_tensor(values[1:]), torch.as_tensor(part[name]), equal_nan=True, **CLOSE)


@every_order_insensitive_one
def test_the_order_of_the_support_set_is_irrelevant(algo):
    for straight, shuffled in zip(*shuffling(algo), strict=True):
        torch.testing.assert_close(straight, shuffled, **CLOSE)


@every_order_sensitive_one
def test_the_order_of_the_support_set_matters_to_one_that_says_so(algo):
    straight, shuffled = shuffling(algo)
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(straight, shuffled, strict=True))


def shuffling(algo: str) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions of a task, and of the same task with its support set in another order."""
    learner, _, batch, random_inputs, steps, _ = make(algo)
    task = one(batch)
    order = torch.randperm(len(task.support.y), generator=torch.Generator().manual_seed(3))
    assert not torch.equal(order, torch.arange(len(order)))
    shuffled = task._replace(support=pytree.tree_map(lambda leaf: leaf[order], task.support))
    straight, other = (predictions(learner, t, one(random_inputs), steps) for t in (task, shuffled))
    return straight, other


@every_algorithm
def test_steps_help_on_the_support_set_and_one_that_takes_none_has_one_predictor(algo):
    learner, data, batch, random_inputs, steps, _ = make(algo)
    task = one(batch)
    predictors = list(learner.trajectory(task.support, steps or 7, one(random_inputs)))
    if not steps:
        assert learner.inner_steps == learner.eval_steps == 0 and len(predictors) == 1
        return
    assert len(predictors) == steps + 1
    name = "mse" if data.kind == "regression" else "nll"  # the task loss, also of samples
    errors = [METRICS[data.kind](p(task.support.x), task.support.y, learner.residual_variance) for p in predictors]
    assert errors[-1][name] < errors[0][name]


@every_one_of_sequences
def test_a_label_changes_no_earlier_score(algo):
    learner, data, *_ = make(algo)
    batch, _ = sampled(learner, data, "sequences", 0)
    scores = learner.predict_sequence(batch)
    n = batch.y.shape[1]
    for at in (0, n // 2, n - 2):
        later = batch._replace(y=batch.y.clone(), x=batch.x.clone())
        later.y[:, at:] = (later.y[:, at:] + 1) % learner.ways  # also its own label, which comes one step late
        later.x[:, at + 1 :] += 1
        other = learner.predict_sequence(later)
        torch.testing.assert_close(other[:, : at + 1], scores[:, : at + 1])
        assert (other[:, at + 1] - scores[:, at + 1]).abs().max() > 1e-6


# ------------------------------------------------------------------------------------------------- normalisation


@every_mode_of_batch_norm
@every_algorithm
def test_a_batch_norm_that_it_cannot_use_is_refused_with_those_that_it_can(algo, mode):
    allowed = ALGOS[algo].batch_norm_modes
    if mode in allowed:
        normalised(algo, mode)
        return
    names = ", ".join([*(name for name in MODES if name in allowed), "layer", "group"])
    message = rf"^backbone.norm must be {names} or none for algo={algo}, (which|in which) .*; got '{mode}'$"
    with pytest.raises(ConfigError, match=message):
        normalised(algo, mode)


@every_one_that_takes_running_statistics
def test_with_running_statistics_it_is_evaluated_as_it_is_trained(algo, monkeypatch):
    """For a task whose queries are its support set, and statistics that are that task's.

    Where an inner loop moves weights below a norm it cannot be: the statistics of its passes differ.
    """
    monkeypatch.setattr(BatchNorm, "_statistics", recording_as_used(BatchNorm._statistics))
    case = make(algo, 0, "backbone.norm=running")
    for _, batch, random_inputs in training(case):
        batch, random_inputs = slice_tasks((batch, random_inputs), 0, 1)
        if hasattr(batch, "support"):
            batch = batch._replace(query=batch.support)
        trained, evaluated = in_both_modes(case.learner, batch, random_inputs)
        torch.testing.assert_close(evaluated, trained, **CLOSE)


def recording_as_used(statistics: Any) -> Any:
    """Batch norm's statistics, which records the variance that it uses, in place of the unbiased one."""

    def recorded(norm: BatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        used = statistics(norm, x)
        if norm.recorded is not None:
            norm.recorded[-1] = used
        return used

    return recorded


def in_both_modes(learner: Learner, batch: Any, random_inputs: Any) -> tuple[Tensor, Tensor]:
    """Predictions of the one task's queries, or the loss of what has none, in training and in evaluation mode."""
    learner.eval_steps = learner.inner_steps
    for norm in batch_norms(learner):
        norm.momentum = 1.0
    results = []
    for mode in (True, False):
        learner.train(mode)
        if hasattr(batch, "support"):
            predicted = learner.adapt(one(batch).support, one(random_inputs))(one(batch).query.x)
            results.append(torch.cat([tensor.flatten() for tensor in tensors(predicted)]).detach())
        else:
            results.append(learner(batch, random_inputs).detach())
        if mode:
            learner(batch, random_inputs)
            learner.after_step()
    return results[0], results[1]


@every_algorithm
def test_without_random_inputs_it_adapts_by_definite_ones(algo):
    """As who serves a learner has it: the same finite answer every time."""
    learner, _, batch, *_ = make(algo)
    task = one(batch)
    learner.eval()
    first, again = (tensors(learner.adapt(task.support)(task.query.x)) for _ in range(2))
    assert first and same(first, again) and all(prediction.isfinite().all() for prediction in first)


@every_classifier
def test_weights_depend_on_the_number_of_classes_where_the_constructor_takes_outputs(algo):
    """One that takes `ways` adapts to any number of classes; the others have other weights for another number."""
    three, four = (on_synthetic(algo, f"data.ways={ways}", f"data.train_ways={ways}") for ways in (3, 4))
    shapes = [{name: tensor.shape for name, tensor in state(c.learner).items()} for c in (three, four)]
    assert (shapes[0] == shapes[1]) is three.learner.any_ways()
    if three.learner.any_ways():
        learner = three.learner.eval()
        task = one(learner.to_dtype(four.data.sample("val", "episodes", 1, stream_generator("cpu", "contract"))))
        learner.ways = 4
        (scores,) = tensors(learner.adapt(task.support)(task.query.x))
        assert scores.shape == (len(task.query.y), 4) and scores.isfinite().all()


# ---------------------------------------------------------------------------------------------------- training


@every_trained_one
def test_the_meta_gradient_reaches_every_meta_parameter(algo):
    case = make(algo)
    learner = case.learner
    for _, batch, random_inputs in training(case):
        learner(batch, random_inputs).sum().backward()
    untouched = [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not untouched
    assert list(learner.parameters())


@every_untrained_one
def test_one_that_is_not_trained_says_that_it_has_no_outer_problem(algo):
    assert make(algo).learner.stages == ()
    assert re.search(r"Outer problem:\s+none", sys.modules[ALGOS[algo].__module__].__doc__ or "")


@every_trained_one
def test_slices_of_a_batch_are_batches(algo):
    case = make(algo)
    for _, batch, random_inputs in training(case):
        whole = case.learner(batch, random_inputs).detach()
        part = case.learner(*slice_tasks((batch, random_inputs), 1, TASKS)).detach()
        torch.testing.assert_close(part, whole[1:TASKS], **CLOSE)


@every_trained_one
def test_stages_share_the_iterations_and_their_objectives_have_parameters(algo):
    learner = make(algo).learner
    assert sum(stage.share for stage in learner.stages) == pytest.approx(1)
    groups = {group["name"] for group in learner.parameter_groups()}
    for objective in (objective for stage in learner.stages for objective in stage.objectives):
        assert objective == "all" or groups & {objective, "all"}


@every_algorithm
def test_each_parameter_is_in_one_group(algo):
    learner = make(algo).learner
    groups = learner.parameter_groups()
    assert len({group["name"] for group in groups}) == len(groups) > 0
    entries = [entry for group in groups for entry in group["params"]]
    grouped = [p for entry in entries for p in (entry["params"] if isinstance(entry, dict) else [entry])]
    assert sorted(map(id, grouped)) == sorted(map(id, learner.parameters()))


@every_one_with_diagnostics
def test_diagnostics_are_finite_numbers(algo):
    case = make(algo)
    trained(case)
    diagnostics = case.learner.diagnostics()
    assert diagnostics
    for name, value in diagnostics.items():
        assert isinstance(value, Tensor) and value.shape == () and value.isfinite(), name


# ---------------------------------------------------------------------------------------------- random numbers


@every_algorithm
def test_all_random_numbers_come_in_from_outside(algo):
    """Twice the same with the same inputs, whatever the global generator's state; and that is not touched."""
    results = []
    for seed in (0, 1):
        case = make(algo)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(outcome(case))
        assert same(evaluated(case), evaluated(case))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*results)


@every_algorithm
def test_random_inputs_depend_on_the_shapes_of_tasks_and_on_the_generator_alone(algo):
    case = make(algo)
    batches = [case.batch, *(batch for _, batch, _ in training(case))]
    for batch in batches:
        zeros = pytree.tree_map(torch.zeros_like, batch)
        first, again, other = (
            case.learner.random_inputs(tasks, 2, stream_generator("cpu", "contract", seed))
            for tasks, seed in ((batch, 0), (zeros, 0), (batch, 1))
        )
        assert same(tensors(first), tensors(again))
        if not tensors(first):
            assert first == again == other == ()  # it draws nothing
        else:
            assert all(len(leaf) == TASKS for leaf in tensors(first))
            assert not same(tensors(first), tensors(other))


@every_algorithm
def test_another_seed_starts_from_other_weights_if_there_is_anything_to_train(algo):
    weights = [[p.detach() for p in make(algo, seed).learner.parameters()] for seed in (0, 0, 1)]
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2]) if weights[0] else not ALGOS[algo].stages


# --------------------------------------------------------------------------------------------- hyperparameters


def unsaved_numbers(learner: Learner) -> set[str]:
    """Names of the learner's own 0-dim buffers that are not saved."""
    numbers = {name for name, buffer in learner.named_buffers() if buffer.shape == () and "." not in name}
    return numbers - set(learner.state_dict())


@every_one_with_hyperparameters
def test_hyperparameters_are_numbers_of_the_configuration_in_buffers_that_are_not_saved(algo):
    learner, config = make(algo).learner, configured(algo)[0].algo
    assert learner.hyperparameters and len(set(learner.hyperparameters)) == len(learner.hyperparameters)
    assert unsaved_numbers(learner) == {*learner.hyperparameters, "residual_variance"}
    for name in learner.hyperparameters:
        assert getattr(learner, name).is_floating_point()
        if name in config:
            assert float(getattr(learner, name)) == float(config[name])  # of a run in float64, to the last bit
        else:  # a constant of its base class, which no user can set
            assert name not in inspect.signature(ALGOS[algo]).parameters


@pytest.mark.parametrize(
    ("algo", "key", "parameters", "transform"),
    [
        ("maml_pp", "inner_lr", ["rates"], float),
        ("alpha_maml", "inner_lr", ["alpha"], float),
        ("r2d2", "scale", ["scale"], float),
        ("r2d2", "regularization", ["log_lambda"], math.log),
        ("metaoptnet", "scale", ["scale"], float),
        ("imp", "sigma", ["log_sigma"], math.log),
        ("platipus", "gamma", ["log_gamma_p", "log_gamma_q"], math.log),
        ("bmaml", "weight_precision", ["precisions.log.log_lambda"], lambda values: math.log(values[0])),
    ],
)
def test_a_learned_number_starts_from_the_configured_one_to_the_last_bit(algo, key, parameters, transform):
    """In a run in float64; it was rounded to float32 first."""
    value = OmegaConf.to_container(configured(algo)[0]["algo"])[key]
    other = [0.3, *value[1:]] if isinstance(value, list) else 0.3
    learned = ["algo.learn_lambda=true"] if key == "regularization" else []
    learner = make(algo, 0, f"algo.{key}={other}", *learned).learner
    for name in parameters:
        assert (learner.get_parameter(name) == transform(other)).all()


@every_one_without_hyperparameters
def test_one_without_hyperparameters_has_no_buffer_that_should_be_one(algo):
    learner = make(algo).learner
    assert learner.hyperparameters == ()
    assert unsaved_numbers(learner) == {"residual_variance"}


@every_one_with_hyperparameters
def test_every_hyperparameter_changes_training_or_evaluation(algo):
    """With the algorithm's default choices, or with the choice that the hyperparameter is for (`CHOICES`)."""
    config = configured(algo)[0].algo
    settable = [name for name in make(algo).learner.hyperparameters if name in config]
    assert settable
    expected: dict[tuple[str, ...], list[Tensor]] = {}
    for name in settable:
        choice = tuple(f"algo.{key}={value}" for key, value in CHOICES.get(name, {}).items() if key in config)
        if choice not in expected:
            expected[choice] = outcome(make(algo, 0, *choice))
        assert has_effect(algo, name, choice, expected[choice]), name


def has_effect(algo: str, name: str, choice: tuple[str, ...], expected: list[Tensor]) -> bool:
    """Whether another value of a hyperparameter, near or far, changes anything."""
    for factor, offset in ((1.5, 0.1), (0.01, 0.0), (100.0, 1.0)):
        case = make(algo, 0, *choice)
        getattr(case.learner, name).mul_(factor).add_(offset)
        if not same(outcome(case), expected):
            return True
    return False


@every_algorithm
def test_weights_of_another_run_bring_everything_but_the_hyperparameters(algo):
    """A learner that loads them keeps its own hyperparameters; with the other's it is the other."""
    source, case = make(algo), make(algo, seed=1)
    trained(source)
    saved, values = source.learner.state_dict(), {name: 3.5 for name in case.learner.hyperparameters}
    for name, value in values.items():
        getattr(case.learner, name).fill_(value)
    case.learner.load_state_dict(saved)
    assert {name: float(getattr(case.learner, name)) for name in case.learner.hyperparameters} == values
    for name in values:
        getattr(case.learner, name).copy_(getattr(source.learner, name))
    torch.testing.assert_close(case.learner.state_dict(), saved, **EXACT)
    assert same(evaluated(case), evaluated(source))


@every_init_only_argument
def test_an_init_only_argument_changes_initial_parameters_and_nothing_else(algo, argument):
    value = OmegaConf.to_container(configured(algo)[0]["algo"])[argument]
    other = [2 * number for number in value] if isinstance(value, list) else 2 * value
    case, changed = make(algo), make(algo, 0, f"algo.{argument}={other}")
    parameters = [[p.detach() for p in c.learner.parameters()] for c in (case, changed)]
    assert [p.shape for p in parameters[0]] == [p.shape for p in parameters[1]]
    assert not same(*parameters)
    changed.learner.load_state_dict(case.learner.state_dict())
    torch.testing.assert_close(state(changed.learner), state(case.learner), **EXACT)
    assert same(outcome(changed), outcome(case))
