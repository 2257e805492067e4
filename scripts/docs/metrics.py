"""What a run of a learner logs, in words: the metrics of its kind of task, and the learner's own diagnostics."""

from __future__ import annotations

import inspect
import re

from metarun.learner.learner import Learner
from metarun.tasks import HEADLINES, Kind
from scripts.docs.markdown import code, paragraphs, prose, table

HEADLINE = {
    "accuracy": "share of queries whose class is right",
    "mse": "mean squared error of the prediction, in squared units of y",
    "auc": "area under the ROC curve: share of (same, different) pairs of pairs that the scores order rightly",
}
TESTED: dict[Kind, dict[str, str]] = {
    "classification": {
        "nll": "negative log-likelihood of the right class, in nats",
        "accuracy_inductive": "accuracy where each query is predicted by itself; only where batch norm over the query "
        "set makes `accuracy` transductive",
        "ece": "expected calibration error: mean distance of confidence and accuracy, over 15 bins of confidence",
    },
    "regression": {
        "nll": "negative log-likelihood of the targets, in nats; a point prediction counts as normal, with the "
        "variance of the validation errors",
        "coverage": "share of targets within the central 95 % interval of the prediction",
        "calibration_error": "mean distance of nominal and observed coverage, over 19 levels",
    },
    "verification": {
        "eer": "equal error rate, at which both kinds of error are equally frequent",
    },
}
SEQUENCES = {
    "nll": "negative log-likelihood of the right class, in nats",
    "accuracy_all": "accuracy of all items, the first of a class included, which can only be guessed",
    "instance_K": "accuracy where a class is shown for the K-th time",
}
TRAINING = {
    "train/loss": "mean outer loss of the steps since the last line",
    "train/METRIC": "the headline metric on the tasks of that step",
    "val/METRIC": "the headline metric over `run.val_tasks` held-out tasks; the best decides `run.test_weights=best`",
    "time/iterations_per_second": "outer steps a second, from the median duration of a step",
    "time/train_seconds": "seconds since training began, those before a resumption included",
}


def metrics_of(cls: type[Learner]) -> str:
    """The section of a learner's page."""
    kinds = ["sequences"] if cls.evaluation_stream == "sequences" else list(cls.task_types)
    rows = [[code(name), prose(meaning)] for name, meaning in _during(cls).items()]
    parts = ["In `metrics.jsonl` and the trackers, every `run.log_every` or `run.validate_every` outer steps:"]
    parts.append(table(["Metric", "Meaning"], rows))
    parts.append("In `result.json`, of the final test on `run.eval_tasks` held-out tasks:")
    parts.append(table(["Tasks", "Metric", "Meaning"], [row for kind in kinds for row in _after(kind)]))
    return paragraphs(*parts)


def _during(cls: type[Learner]) -> dict[str, str]:
    names = " or ".join(dict.fromkeys(f"`{HEADLINES[kind]}`" for kind in cls.task_types))
    lines = TRAINING if cls.stages else {}
    found = {name: text.replace("the headline metric", f"{names}") for name, text in lines.items()}
    return found | {f"learner/{name}": text for name, text in diagnostics(cls).items()}


def _after(kind: str) -> list[list[str]]:
    if kind == "sequences":
        metrics = {"accuracy": "accuracy where a class was shown `data.shots` times before"} | SEQUENCES
        kind = "classification, one by one"
    else:
        headline = HEADLINES[kind]  # type: ignore[index]
        metrics = {headline: HEADLINE[headline]} | TESTED[kind]  # type: ignore[index]
    return [[kind if number == 0 else "", code(n), prose(text)] for number, (n, text) in enumerate(metrics.items())]


def diagnostics(cls: type[Learner]) -> dict[str, str]:
    """Name and meaning of what the learner logs of itself, from the docstring of its `diagnostics`.

    A part in capitals stands for any name: `rate/PARAMETER`.
    """
    if cls.diagnostics is Learner.diagnostics:
        return {}
    lines = (inspect.getdoc(cls.diagnostics) or "").splitlines()
    matches = (re.match(r"([\w/]+): (.*)", line) for line in lines[1:])
    return {match[1]: match[2] for match in matches if match}


def matches(name: str, pattern: str) -> bool:
    """Whether a logged name is what a pattern stands for: `rate/step1` of `rate/stepK`."""
    return re.fullmatch(re.sub(r"[A-Z]+", r"[\\w./]+", re.escape(pattern)), name) is not None
