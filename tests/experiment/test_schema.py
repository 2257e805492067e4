"""Types and ranges of all keys, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, reduce
from operator import getitem
from typing import Annotated, Any, Literal

import pytest
from commands import SMALL, metarun
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from metarun.checks import Count, Only
from metarun.experiment.build import build
from metarun.experiment.choices import CONF, describe, names
from metarun.experiment.errors import ConfigError
from metarun.experiment.schema import (
    RunConfig,
    SweepConfig,
    arguments_of,
    checked,
    described,
    fits,
    group_problems,
    node_problems,
    words,
)
from metarun.experiment.targets import class_at
from metarun.training.device import Device

BAD = ("abc", True, None, math.nan, math.inf, -1, 1.5, [], [1, 2, 3], ["abc"], [True], {"a": 1}, 10**18, 10**30)


@cache
def composed(*overrides: str) -> tuple[DictConfig, dict[str, str]]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["tracker=none", "device=cpu", *overrides], return_hydra_config=True)
    choices = {str(group): str(name) for group, name in cfg.hydra.runtime.choices.items()}
    cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    if "filters" in cfg.backbone:
        cfg.backbone.filters = 4
    return cfg, choices


def changed(cfg: DictConfig, key: str, value: Any) -> DictConfig:
    """A copy in which one key holds something else."""
    copy = OmegaConf.create(OmegaConf.to_container(cfg))
    OmegaConf.update(copy, key, value, merge=False, force_add=True)
    return copy


def keys_of(node: Any, prefix: str) -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}.{name}")
        elif name not in ("_target_", "_partial_"):
            yield f"{prefix}.{name}"


def refusal(cfg: DictConfig) -> str | None:
    try:
        checked(cfg)
    except ConfigError as error:
        return str(error)
    return None


def groups_of(group: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each choice of a group with what it holds, uninterpolated."""
    if group in ("run", "sweep"):
        yield group, OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))[group]
    for name in names(group) if group != "sweep" else ():
        if content := describe(group, name):
            yield name, content


def problems_of(group: str, content: dict[str, Any]) -> dict[str, str]:
    """What is wrong with a group, by key."""
    kinds = {"run": RunConfig, "sweep": SweepConfig, "device": Device}
    if group in kinds:
        return dict(group_problems(group, content, kinds[group]))
    if group == "tracker":
        return {key: text for name, node in content.items() for key, text in node_problems(f"tracker.{name}", node)}
    inner = node_problems("optimizer.optimizer", content["optimizer"]) if group == "optimizer" else ()
    return dict([*node_problems(group, content), *inner])


def with_value(content: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    return content | {path[0]: with_value(content[path[0]], path[1:], value) if path[1:] else value}


@pytest.mark.parametrize(
    "group", ["run", "sweep", "device", "data", "algo", "backbone", "optimizer", "scheduler", "tracker"]
)
def test_a_bad_value_of_any_key_of_any_choice_is_refused_by_its_key(group):
    """Never another exception; a text, a mapping, a list of a text and a huge number are no value of a number."""
    for name, content in groups_of(group):
        for key in keys_of(content, group):
            path = key.split(".")[1:]
            held = reduce(getitem, path, content)
            for bad in BAD:
                message = problems_of(group, with_value(content, path, bad)).get(key)
                assert message is None or message.startswith(f"{key} must be "), (name, key, bad, message)
                if isinstance(held, int | float):
                    assert message or bad not in ("abc", ["abc"], {"a": 1}, [True], [], 10**30), (name, key, bad)
                    assert message or not (isinstance(bad, float) and not math.isfinite(bad)), (name, key, bad)


def test_the_other_keys():
    cfg, _ = composed()
    for key, bad in (("seed", -1), ("seed", 2**63), ("seed", True), ("paper", 3), ("paper", {}), ("scheduler", "x")):
        assert refusal(changed(cfg, key, bad)).startswith(f"{key} must be ")
    figure = {"source": "A 2017", "table": "table 1", "value": 0.5, "read": "the paper"}
    assert refusal(changed(cfg, "paper", [figure, figure | {"ways": 5, "shots": 1, "ci95": 0.01}])) is None
    bad = [3, *({key: figure[key] for key in figure if key != missing} for missing in figure)]
    for entry in (*bad, figure | {"value": "y"}, figure | {"source": 1}, figure | {"status": "verified"}):
        assert refusal(changed(cfg, "paper", [entry])).startswith(("paper[0]", "there is no setting paper[0].status"))
    for group in ("seed", "run", "device", "data", "algo", "backbone", "optimizer", "tracker"):
        assert refusal(OmegaConf.masked_copy(cfg, [key for key in cfg if key != group])).startswith(f"{group} must be ")
    assert refusal(changed(cfg, "paper", None)) is None
    assert refusal(changed(cfg, "seed", 2**63 - 1)) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algo.inner_lr=true"], "algo.inner_lr must be a number of at least 0; got True"),
        (["optimizer.lr=null"], "optimizer.lr must be a number; got None"),
        (["optimizer.optimizer.betas=[0.9]"], r"optimizer.optimizer.betas must be a list of 2 numbers in [0, 1); got"),
        (["backbone.hidden=x"], "backbone.hidden must be a list of integers of at least 1; got 'x'"),
        (["run.checkpoint_seconds=nan"], "run.checkpoint_seconds must be a number of at least 0; got nan"),
        (["run.test_weights=lst"], "run.test_weights must be one of best, last; got 'lst'"),
        (["device.compile=abc"], "device.compile must be true, false or auto; got 'abc'"),
        (["device.threads=true"], "device.threads must be null or an integer of at least 1; got True"),
        (["run.evaluate=2024"], """run.evaluate must be null or text; got 2024. As text: "run.evaluate='2024'\""""),
        (["sweep.inner_lr=0.1"], "sweep.inner_lr must be null or a list of at least one number; got 0.1"),
        (["sweep.seed=[]"], "sweep.seed must be null or a list of at least one integer from 0 to 2^63 - 1; got []"),
        (["+algo.inner_lrr=1"], "there is no setting algo.inner_lrr. Nearest: algo.inner_lr, algo.inner_steps"),
        (["+data.device=cpu"], "there is no setting data.device. "),  # metarun's to set
        (["+optimizer.optimizer.lr=1"], "there is no setting optimizer.optimizer.lr. "),
        (["+foo=3"], "there is no setting foo. "),
        (["~run.iterations"], "run.iterations must be an integer of at least 1; it is missing"),
        (["~algo.inner_lr"], "algo.inner_lr must be a number of at least 0; it is missing"),
        (["data.noise=${nope}"], "data.noise must be a value that can be resolved; got Interpolation key 'nope'"),
        (["data.noise=???"], "data.noise must be a value that can be resolved; got Missing mandatory value"),
        # what was typed is named, not what follows it
        (["data=sinusoid_bmaml", "data.shots=x"], "data.shots must be an integer; got 'x'"),
        (["scheduler=cosine", "run.iterations=x"], "run.iterations must be an integer of at least 1; got 'x'"),
        (["scheduler=linear", "scheduler.start_factor=0"], "scheduler.start_factor must be a number in (0, 1]; got 0"),
    ],
)
def test_messages(overrides, message):
    assert refusal(composed(*overrides)[0]).startswith(message)


def test_a_key_that_another_value_names_is_the_users_own():
    assert refusal(composed("+mine=0.3", "data.noise=${mine}")[0]) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data=synthetic", "~data.batch_size"],
            "data.batch_size must be set",
        ),  # of the class that the data set hands it on to
        (["data=synthetic", "+data.channels=3"], "data.channels must be left out"),  # the data set sets it itself
        (
            ["data=synthetic", "data.train_shots=[1,2,3]"],
            "data.train_shots must be an integer of at least 1, or a range",
        ),
        (
            ["data=synthetic", "backbone=mlp", "backbone.hidden=[2000000000]"],
            "backbone.hidden=[2000000000] cannot be made: ",
        ),
        (
            ["optimizer.optimizer._target_=torch.optim.SparseAdam", "~optimizer.optimizer.fused"],
            "optimizer.optimizer must",
        ),
    ],
)
def test_what_only_a_constructor_can_refuse_is_refused_by_its_key(overrides, message):
    with pytest.raises(ConfigError) as error:
        build(*composed(*overrides))
    assert str(error.value).startswith(message)


def test_arguments_of_an_optimizer_that_contradict_each_other_are_refused(tmp_path):
    outcome = metarun(*SMALL, "optimizer=sgd", "optimizer.optimizer.nesterov=true", folder=tmp_path)
    assert (outcome.status, list(tmp_path.iterdir())) == (2, [])
    assert (
        "metarun: optimizer.optimizer must be a class of torch.optim with arguments that it takes (Nesterov"
        in outcome.err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo=null"], "algo must be one of alpaca, "),
        (["hydra.output_subdir=x"], "hydra.output_subdir must be null"),
        (["-m", "hydra.output_subdir=x"], "hydra.output_subdir must be null"),
        (["-m", "seed=range(0)"], "seed must be at least one value; got seed=range(0)"),
        (["-m", "sweep.inner_lr=abc"], "sweep.inner_lr must be null or a list of at least one number; got 'abc'"),
        (["sweep=seeds", "sweep.seed=[]"], "sweep.seed must be null or a list of at least one integer"),
        (["paper=[1]"], "paper[0] must be a mapping; got 1"),
    ],
)
def test_a_command_is_refused_and_leaves_nothing(arguments, message, tmp_path):
    outcome = metarun(*SMALL, *arguments, folder=tmp_path)
    assert (outcome.status, outcome.out, list(tmp_path.iterdir())) == (2, "", [])
    assert outcome.err.startswith(f"metarun: {message}")


def test_without_published_figures_a_run_has_none(tmp_path):
    assert metarun(*SMALL, "paper=null", "run.iterations=1", "hydra.run.dir=run", folder=tmp_path).status == 0


# -------------------------------------------------------------------------------------------------------- types

TYPES = [
    (int, "an integer", [0, -3], [1.0, True, "1", None, [1], 2**63]),
    (float, "a number", [0, 0.5], [math.nan, math.inf, True, "1", None, 10**400, 2**63]),
    (bool, "true or false", [True], [0, 1, "true", None]),
    (str, "text", ["", "a"], [1, None, True]),
    (Any, "anything", [None, {}], []),
    (int | None, "null or an integer", [None, 1], ["a", 1.5]),
    (bool | Literal["auto"], "true, false or auto", [True, "auto"], [1, "Auto"]),
    (Literal["a", "b"], "one of a, b", ["a"], ["c", ["a"], None]),
    (Literal[1, 3], "one of 1, 3", [1], [True, 2, 1.0]),
    (Sequence[int], "a list of integers", [[], [1]], [1, "ab", ["a"], [True], {"a": 1}]),
    (tuple[float, float], "a list of 2 numbers", [[0, 1]], [[1], [1, 2, 3], 1, [1, None]]),
    (tuple[int, ...], "a list of integers", [[], [1, 2, 3]], [["a"]]),
    (Sequence[Sequence[int]], "a list of lists of integers", [[[1], []]], [[1]]),
    (int | Sequence[int] | None, "null, an integer or a list of integers", [None, 1, [1]], ["a"]),
    (Count, "an integer of at least 1", [1], [0, True, 1.0]),
    (list[Count], "a list of integers of at least 1", [[1]], [[0]]),
    (
        Annotated[Sequence[str], Only("a list of one", lambda value: len(value) == 1)] | None,
        "null or a list of one",
        [["a"], None],
        [[]],
    ),
]


@pytest.mark.parametrize(("hint", "text", "good", "bad"), TYPES)
def test_types(hint, text, good, bad):
    assert words(hint) == text
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []


@pytest.mark.parametrize("group", ["algo", "data", "backbone", "optimizer", "scheduler"])
def test_every_key_of_conf_has_a_type(group):
    """An argument without one, or whose type only type checkers can read, would hold anything."""
    keys = [key for key in described() if key.choice and key.choice.startswith(f"{group}=")]
    assert keys and [key for key in keys if key.type == "anything"] == []


def test_what_is_described():
    keys = {(key.choice, key.name): key for key in described()}
    assert keys[None, "run.iterations"][2:] == ("an integer of at least 1", 10000, "outer steps")
    assert keys["algo=fomaml", "algo.first_order"][2:4] == ("true or false", True)
    assert keys["algo=fomaml", "algo.inner_lr"][2:] == (
        "a number of at least 0",
        0.01,
        "alpha, step size of the inner loop",
    )
    assert keys["optimizer=adam", "optimizer.optimizer.fused"].comment == "one kernel for all parameters"
    assert keys["device=cpu", "device.threads"].type == "null or an integer of at least 1"


def test_arguments_that_a_constructor_hands_on_are_not_required():
    arguments = arguments_of(class_at("data", "metarun.data.synthetic.Synthetic"))
    assert arguments["glyph_seed"].required and not arguments["ways"].required
    assert "sizes" not in arguments
