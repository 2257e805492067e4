"""Command lines made by a grammar: choices, keys and values, good and bad, in all of Hydra's spellings."""

from __future__ import annotations

import random
from collections.abc import Sequence

from metarun.experiment.choices import GROUPS, names

KEYS = (
    *("seed", "run.iterations", "run.meta_batch_size", "run.eval_tasks", "run.val_tasks", "run.validate_every"),
    *("run.log_every", "run.curve_steps", "run.checkpoint_seconds", "run.test_weights", "run.resume", "run.init_from"),
    *("run.evaluate", "sweep.inner_lr", "sweep.seed", "sweep.resume", "paper", "data.ways", "data.shots"),
    *("data.queries", "data.train_shots", "data.root", "data.augment", "data.noise", "data._target_", "algo._target_"),
    *("algo.inner_lr", "algo.inner_steps", "algo.eval_steps", "algo.first_order", "backbone.hidden", "backbone.norm"),
    *("backbone.init", "backbone.filters", "optimizer.lr", "optimizer.optimizer.betas", "optimizer.max_grad_norm"),
    *("device.threads", "device.compile", "device.precision", "device.task_micro_batch", "device.deterministic"),
    *("scheduler.step_size", "tracker.wandb.mode", "hydra.job.chdir", "hydra.output_subdir", "hydra.launcher.n_jobs"),
    *("algo", "data", "backbone", "no.such.key", "run", "optimizer", "größe", ""),
)
VALUES = (
    *("0", "1", "2", "-1", "0.5", "1e-3", "1e300", "1e-320", "1e999", "10000000000000000000000000000000", "nan"),
    *("inf", "-inf", "null", "true", "false", "abc", "é", "数", "''", '""', "'a b'", '"a=b"', "", " ", "[]", "[1]"),
    *("[1,2]", "[0.9]", "[a,b]", "[[1],[2]]", "{}", "{a:1}", "{a:{b:[1]}}", "~/x", "/no/such/place", "a/b=c", "\\"),
    *("1,2", "maml,fomaml", "range(0)", "range(1,3)", "choice(1,2)", "interval(0,1)", "glob(*)", "sort(1,2)"),
    *("tag(log,interval(1e-4,1))", "${seed}", "${no.such}", "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${", "$"),
    *("'", '"', "[", "]", "(", "a:b", "%s", "#", "\x1b[31m", "\t", "x" * 300, "__import__('os')", "!!python/x", "*"),
)
FLAGS = (
    *("-m", "--multirun", "--cfg job", "--cfg", "-c all", "--info config", "--resolve", "--package run", "-h"),
    *("--hydra-help", "--version", "--config-dir no_such_folder", "--config-name other", "--no-such-flag"),
    *("--algo=maml", "-x", "--", "=", "==", "+", "~", "++", "~seed", "~algo", "+algo", "maml"),
)
PREFIXES = ("", "", "", "", "+", "++", "~")


def command_line(draw: random.Random) -> list[str]:
    """The words of a command, most of which no one should type."""
    return [word for _ in range(draw.randint(1, 5)) for word in part(draw)]


def part(draw: random.Random) -> list[str]:
    kind = draw.random()
    if kind < 0.25:
        group = draw.choice(GROUPS)
        return [f"{draw.choice(PREFIXES)}{group}={choice(draw, names(group))}"]
    if kind < 0.85:
        return [f"{draw.choice(PREFIXES)}{draw.choice(KEYS)}={draw.choice(VALUES)}"]
    return draw.choice(FLAGS).split(" ")


def choice(draw: random.Random, there: Sequence[str]) -> str:
    """One of the choices, most often as it is written."""
    name = draw.choice(there) if there else "x"
    spellings = (name, name, name, name.upper(), name[:-1], f"{name},{draw.choice(there)}", f"'{name}'", f"[{name}]")
    return draw.choice(spellings)
