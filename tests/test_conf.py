"""Every file under conf/ composes and fits what it configures: nothing unknown, nothing missing, nothing dead."""

from __future__ import annotations

import itertools
import re
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import Tensor

from metarun.backbones.linear import Linear
from metarun.experiment.build import RunConfig, build
from metarun.experiment.choices import CONF, describe, names
from metarun.experiment.errors import ConfigError
from metarun.layers.transform import transformed
from metarun.learner.learner import Learner
from metarun.tasks import Examples, TaskSet

ALGOS, DATA, BACKBONES = names("algo"), names("data"), names("backbone")
SETTINGS = sorted(path for path in (CONF / "setting").rglob("*.yaml"))
# What `build` hands over beside the keys of the YAML; a learner takes of it what it needs.
HANDED = {"algo": {"backbone", "outputs", "ways", "loss"}, "data": {"device"}, "backbone": {"in_shape", "outputs"}}


@pytest.fixture(scope="module", autouse=True)
def hydra_conf():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> tuple[Any, dict[str, str]]:
    """A configuration as the command line composes it, and the choices in it."""
    cfg = compose("config", list(overrides), return_hydra_config=True)
    choices = {str(group): str(name) for group, name in cfg.hydra.runtime.choices.items()}
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), choices


def class_of(group: str, name: str) -> Any:
    return get_class(describe(group, name)["_target_"])


def arguments_of(cls: Any) -> set[str]:
    """Its constructor's arguments, and where it hands `**others` on, those of the next class that they reach."""
    arguments: set[str] = set()
    for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
        parameters = signature(base.__init__).parameters.values()
        arguments |= {p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD and p.name != "self"}
        if all(p.kind is not Parameter.VAR_KEYWORD for p in parameters):
            break
    return arguments


def direct_arguments_of(cls: Any) -> set[str]:
    """Its constructor's arguments, without what it hands on."""
    return {p.name for p in signature(cls).parameters.values() if p.kind is not Parameter.VAR_KEYWORD}


def fits(algo: str, data: str) -> bool:
    learner, tasks = class_of("algo", algo), class_of("data", data)
    streams = {stage.stream for stage in learner.stages} | {learner.evaluation_stream_for(tasks)}
    return tasks.kind in learner.task_types and streams <= set(tasks.streams)


# One for all that offer the same kind of task and streams, and another image size: all pairs would take a minute more.
PAIRED = ("sinusoid", "omniglot", "miniimagenet", "omniglot_pairs")


@pytest.mark.parametrize("data", DATA)
def test_every_data_set_is_like_one_that_is_paired(data):
    tasks = class_of("data", data)
    paired = [class_of("data", name) for name in PAIRED]
    assert any(tasks.kind == like.kind and set(tasks.streams) <= set(like.streams) for like in paired)


@pytest.mark.parametrize("data", PAIRED)
@pytest.mark.parametrize("algo", ALGOS)
def test_every_pair_is_built_or_refused_with_data_that_fit(algo, data):
    cfg, choices = composed(f"algo={algo}", f"data={data}", "tracker=none")
    if "filters" in cfg.backbone:
        cfg.backbone.filters = 4
    if fits(algo, data):
        components = build(cfg, choices)
        assert isinstance(components.learner, Learner)
        assert isinstance(components.data, TaskSet)
        components.meta_optimizer.build(components.learner)
    else:
        with pytest.raises(ConfigError, match=f"algo={algo} cannot run on data={data}") as refusal:
            build(cfg, choices)
        fitting = str(refusal.value).split("It runs on ")[1].rstrip(".").split(", ")
        assert fitting == [name for name in DATA if fits(algo, name)]


@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm_fits_some_data(algo):
    assert any(fits(algo, data) for data in DATA)


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("algo", "data", "backbone") for name in names(group)]
)
def test_a_files_keys_are_its_constructors_arguments(group, name):
    """No key that nothing reads, and no argument that nothing sets."""
    keys = set(describe(group, name)) - {"_target_"}
    assert keys <= arguments_of(class_of(group, name)), "keys that the constructor does not know"
    assert direct_arguments_of(class_of(group, name)) - keys <= HANDED[group], "arguments that the file does not set"


@pytest.mark.parametrize(("group", "name"), [("optimizer", n) for n in names("optimizer")])
def test_an_optimizers_keys_are_arguments(group, name):
    content = dict(describe(group, name))
    inner = content.pop("optimizer")
    assert set(content) - {"_target_"} == set(signature(get_class(content["_target_"])).parameters) - {
        "optimizer",
        "scheduler",
    }
    assert set(inner) - {"_target_", "_partial_"} <= set(signature(get_class(inner["_target_"])).parameters)


@pytest.mark.parametrize("name", names("scheduler"))
def test_a_schedulers_keys_are_arguments_and_its_rate_ends_as_the_file_says(name):
    """Lengths are the run's. Two have a number without a default: they are refused by its name until it is given."""
    content = describe("scheduler", name)
    numbers = {"step": "step_size=30", "multi_step": "milestones=[60,90]"}
    if content:
        known = set(signature(get_class(content["_target_"])).parameters)
        assert set(content) - {"_target_", "_partial_"} <= known
    overrides = [f"scheduler={name}", "run.iterations=100", "tracker=none"]
    if name in numbers:
        with pytest.raises(ConfigError, match=f"scheduler.{numbers[name].partition('=')[0]} must be .*; got None"):
            build(*composed(*overrides))
        overrides.append(f"scheduler.{numbers[name]}")
    meta_optimizer = build(*composed(*overrides)).meta_optimizer
    ends = {"constant": 1.0, "step": 0.125, "multi_step": 0.01, "one_cycle": 1 / 25 / 10000, "exponential": 0.9995**99}
    assert meta_optimizer.factor(0) == pytest.approx(1 / 25 if name == "one_cycle" else 1.0)
    assert meta_optimizer.factor(99) == pytest.approx(ends.get(name, 0.0), abs=1e-15 if name in ends else 0.011)


def test_a_scheduler_in_a_folder_is_a_settings_or_chosen_by_an_experiment():
    chosen = {
        entry["override /scheduler"]
        for path in (CONF / "experiment").rglob("*.yaml")
        for entry in yaml.safe_load(path.read_text()).get("defaults", [])
        if "override /scheduler" in entry
    }
    nested = {str(p.relative_to(CONF / "scheduler").with_suffix("")) for p in (CONF / "scheduler").rglob("*/*.yaml")}
    settings = {str(path.relative_to(CONF / "setting").with_suffix("")) for path in SETTINGS}
    assert nested - settings <= chosen <= nested | set(names("scheduler"))


@pytest.mark.parametrize(
    ("overrides", "choice", "keys"),
    [
        ([], "constant", {}),
        (["data=omniglot"], "omniglot/maml", {"T_max": 12000, "eta_min": 0.0}),
        (["data=omniglot", "algo=mnet_full"], "omniglot/maml", {"T_max": 12000, "eta_min": 0.0}),
        (["data=sinusoid_bmaml", "algo=emaml"], "sinusoid_bmaml/bmaml", {"step_size": 3400, "gamma": 0.5}),
        (
            ["data=omniglot", "algo=protonet", "scheduler.step_size=7"],
            "omniglot/protonet",
            {"step_size": 7, "gamma": 0.5},
        ),
        (["data=omniglot", "scheduler=constant"], "constant", {}),
        (["algo=reptile", "run.iterations=9"], "linear", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 9}),
        (["algo=reptile", "scheduler=exponential"], "exponential", {"gamma": 0.9995}),
        (["experiment=gnn/omniglot/5way1shot"], "omniglot/gnn_paper", {"step_size": 10000, "gamma": 0.5}),
        (["experiment=gnn/omniglot/5way1shot", "scheduler=cosine"], "cosine", {"T_max": 100000, "eta_min": 0.0}),
        (["experiment=versa/omniglot/5way1shot"], "constant", {}),
    ],
)
def test_the_command_line_goes_before_experiment_algorithm_and_setting(overrides, choice, keys):
    """A scheduler that is chosen brings all its keys, and none of the one in its place."""
    cfg, choices = composed(*overrides)
    assert choices["scheduler"] == choice
    content = OmegaConf.to_container(cfg.scheduler, resolve=True)
    assert {key: content[key] for key in content if key not in ("_target_", "_partial_")} == keys


TRACKERS = {
    f"{choice}: {name}": node for choice in names("tracker") for name, node in describe("tracker", choice).items()
}


@pytest.mark.parametrize("node", TRACKERS.values(), ids=TRACKERS)
def test_a_trackers_keys_are_its_constructors_arguments(node):
    assert set(node) - {"_target_"} == set(signature(get_class(node["_target_"])).parameters)


def test_a_choice_without_trackers_is_empty():
    assert describe("tracker", "none") == describe("tracker", "jsonl") == {}


def test_the_run_group_is_what_the_run_reads():
    assert set(composed()[0].run) == set(signature(RunConfig).parameters)


@pytest.mark.parametrize("change", ["+{0}.bogus=1", "~{0}.{1}"], ids=["unknown", "missing"])
@pytest.mark.parametrize(
    ("group", "key"),
    [("algo", "inner_lr"), ("data", "shots"), ("backbone", "hidden"), ("optimizer", "lr"), ("run", "test_weights")],
)
def test_an_unknown_and_a_missing_argument_are_refused_by_name(change, group, key):
    cfg, choices = composed(change.format(group, key), "tracker=none")
    with pytest.raises(ConfigError, match="bogus" if "bogus" in change else key):
        build(cfg, choices)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_built_for_images(backbone):
    algo = "protonet" if describe("backbone", backbone).get("features") == "map" else "maml"  # maps have no last layer
    norm = ["backbone.norm=batch"] if "norm" in describe("backbone", backbone) else []  # MAML refuses `running`
    cfg, choices = composed("data=synthetic", f"algo={algo}", f"backbone={backbone}", "tracker=none", *norm)
    assert build(cfg, choices).learner.net is not None


@pytest.mark.parametrize("group", ["device", "optimizer", "scheduler", "tracker"])
def test_every_choice_of_the_other_groups_composes(group):
    for name in names(group):
        assert composed(f"{group}={name}")[1][group] == name


def keys_of(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict) or not node:
        return [prefix]
    return list(itertools.chain.from_iterable(keys_of(v, f"{prefix}.{k}".lstrip(".")) for k, v in node.items()))


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(CONF / "setting")))
def test_a_setting_is_of_an_existing_pair_and_changes_existing_keys(path: Path):
    data, _, algo = str(path.relative_to(CONF / "setting").with_suffix("")).partition("/")
    assert data in DATA
    assert algo in ALGOS
    assert fits(algo, data)
    content = yaml.safe_load(path.read_text())
    package, against, *_ = path.read_text().splitlines()
    assert package == "# @package _global_", "a setting reaches data, algo and run"
    assert against.startswith("# Against the paper: "), "its first line says what it shortens"
    if base := re.search(r"as setting/([\w/]+)", against):
        assert (CONF / "setting" / f"{base[1]}.yaml").exists()
    for named in re.findall(r"experiment=([\w/]+)", against):
        assert (CONF / "experiment" / named).is_dir() or named in names("experiment")
    assert set(content) <= {"defaults", "run", "data", "backbone", "algo", "optimizer", "paper"}
    cfg = composed(f"data={data}", f"algo={algo}")[0]
    for key in keys_of({group: content.get(group, {}) for group in ("run", "data", "backbone", "algo", "optimizer")}):
        assert OmegaConf.select(cfg, key, default="none") != "none", f"{key} is no key of {algo} on {data}"
    for key, arguments in (("algo", class_of("algo", algo)), ("data", class_of("data", data))):
        assert set(content.get(key, {})) <= arguments_of(arguments)
    for published in cfg.paper:
        assert {"source", "table", "value", "read"} <= set(published)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_a_published_figure_says_who_published_it_where_and_in_which_text_it_was_read(path):
    """And none is from memory: what could not be read in a text that is named is not there."""
    for figure in (yaml.safe_load(path.read_text()) or {}).get("paper") or ():
        texts = [figure[key] for key in ("source", "table", "read")]
        assert all(texts) and not re.search(r"\b(memory|verified|unknown)\b", " ".join(texts)), figure
        assert re.search(r"(19|20)\d\d", figure["source"]), "the year of its publication"
        assert 0 <= figure.get("ci95", 0) < figure["value"]


@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiment_composes_is_built_and_starts_with_its_command(name):
    cfg, choices = composed(f"experiment={name}", "tracker=none")
    build(cfg, choices)
    first = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert any(f"experiment={name}" in line for line in first[:4])


# The inner rate that a paper's official code has for an experiment: a step on the gradient of `official_loss`.
OFFICIAL_RATES = {
    **{f"{algo}/omniglot/5way{shots}shot": 0.4 for algo in ("maml", "fomaml") for shots in (1, 5)},
    **{f"maml/omniglot/no_conv_5way{shots}shot": 0.4 for shots in (1, 5)},
    **{f"{algo}/omniglot/20way{shots}shot": 0.1 for algo in ("maml", "fomaml", "anil") for shots in (1, 5)},
    **{f"{algo}/miniimagenet/5way{shots}shot": 0.01 for algo in ("maml", "fomaml", "anil") for shots in (1, 5)},
    "mtnet/omniglot/mtnet_5way1shot": 0.4,
    "mtnet/omniglot/mtnet_20way1shot": 0.1,
    "mtnet/omniglot/tnet_20way1shot": 0.1,
    "mtnet/miniimagenet/mtnet_5way1shot": 0.01,
    "mtnet/miniimagenet/tnet_5way1shot": 0.01,
    "llama/miniimagenet/5way1shot": 0.01,
    "platipus/miniimagenet/5way1shot": 0.01,
}


def official_loss(scores: Tensor, y: Tensor, shots: int) -> Tensor:
    """MAML's and MT-net's `xent`: a vector, of each example's cross-entropy divided by the shots; they differentiate
    it as TensorFlow does, which is its sum's derivative."""
    return ((scores.exp().sum(1).log() - scores[torch.arange(len(y)), y]) / shots).sum()


@pytest.mark.parametrize("name", OFFICIAL_RATES)
def test_an_experiments_inner_step_is_the_official_codes(name):
    cfg, _ = composed(f"experiment={name}")
    ways, shots, d = cfg.data.ways, cfg.data.shots, 3
    torch.manual_seed(0)
    x, query = torch.randn(ways * shots, d).double(), torch.randn(4, d).double()
    support = Examples(x, torch.arange(ways * shots) % ways)
    own = any(kind in cfg.algo["_target_"] for kind in (".mtnet.", ".maml."))
    algo = cfg.algo if own else {**describe("algo", "maml"), "inner_lr": cfg.algo.inner_lr}
    backbone = partial(Linear, in_shape=(d,), bias=True)
    learner = instantiate(algo, backbone=backbone, outputs=ways, loss=F.cross_entropy, eval_steps=1).double()
    learner.inner_lr.fill_(cfg.algo.inner_lr)  # not rounded to float32
    weight, bias = next(p for p in learner.parameters() if p.shape == (ways, d)), torch.zeros(ways).double()
    for parameter in learner.parameters():
        if parameter.dim() == 1:
            parameter.data.zero_()
    weight = weight.detach().clone().requires_grad_()
    bias.requires_grad_()
    loss = official_loss(x @ weight.T + bias, support.y, shots)
    steps = torch.autograd.grad(loss, (weight, bias))
    weight, bias = (p - OFFICIAL_RATES[name] * g for p, g in zip((weight, bias), steps, strict=True))
    all_move = torch.full((1, ways), 50.0).double()  # MT-net's masks: every unit moves
    predicted = learner.eval().adapt(support, all_move)(query)
    torch.testing.assert_close(predicted, query @ weight.T + bias, rtol=1e-9, atol=1e-12)


# Those whose official code has a mean over the support set too: the inner rate is the paper's as it is.
MEAN_RATES = {
    **{f"imaml/omniglot/{ways}way{shots}shot": 0.1 for ways in (5, 20) for shots in (1, 5)},
    **{f"maml_pp/omniglot/{ways}way{shots}shot": 0.1 for ways in (5, 20) for shots in (1, 5)},
    **{f"maml_pp/miniimagenet/5way{shots}shot": 0.01 for shots in (1, 5)},
}


@pytest.mark.parametrize("name", MEAN_RATES)
def test_an_inner_step_is_the_official_codes_where_that_takes_the_mean(name):
    cfg, _ = composed(f"experiment={name}")
    ways, shots, d = cfg.data.ways, cfg.data.shots, 3
    torch.manual_seed(0)
    support = Examples(torch.randn(ways * shots, d).double(), torch.arange(ways * shots) % ways)
    learner = instantiate(
        cfg.algo, backbone=partial(Linear, in_shape=(d,), bias=True), outputs=ways, loss=F.cross_entropy, eval_steps=1
    ).double()
    weight, bias = (p.detach().clone().requires_grad_() for p in learner.net.parameters())
    scores = support.x @ weight.T + bias
    mean = (scores.exp().sum(1).log() - scores[torch.arange(len(scores)), support.y]).mean()
    steps = torch.autograd.grad(mean, (weight, bias))
    weight, bias = (p - MEAN_RATES[name] * g for p, g in zip((weight, bias), steps, strict=True))
    query = torch.randn(4, d).double()
    predicted = learner.eval().adapt(support)(query)
    torch.testing.assert_close(predicted, query @ weight.T + bias, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in names("experiment") if name.startswith("reptile/")])
def test_reptiles_inner_step_is_the_papers_whatever_the_losss_unit(name):
    """Adam without momentum: the first step is the rate times the gradient's sign, of a mean and of a sum alike."""
    cfg, _ = composed(f"experiment={name}")
    ways, shots, d = cfg.data.ways, cfg.data.shots, 3
    torch.manual_seed(0)
    support = Examples(torch.randn(ways * shots, d).double(), torch.arange(ways * shots) % ways)
    learner = instantiate(
        cfg.algo, backbone=partial(Linear, in_shape=(d,), bias=True), outputs=ways, loss=F.cross_entropy, eval_steps=1
    ).double()
    weight, bias = (p.detach().clone().requires_grad_() for p in learner.net.parameters())
    steps = torch.autograd.grad(official_loss(support.x @ weight.T + bias, support.y, shots), (weight, bias))
    rate = {5: 0.001, 20: 0.0005}[ways]
    weight, bias = (p - rate * g.sign() for p, g in zip((weight, bias), steps, strict=True))
    query = torch.randn(4, d).double()
    torch.testing.assert_close(learner.eval().adapt(support)(query), query @ weight.T + bias, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in OFFICIAL_RATES if "miniimagenet" in name])
def test_an_experiments_meta_gradient_is_clipped_where_the_official_code_clips_it(name):
    """To 10, entry by entry, of the gradient of the official loss on the queries."""
    cfg, _ = composed(f"experiment={name}")
    ways, queries = cfg.data.ways, cfg.data.train_queries
    torch.manual_seed(0)
    scores = (3 * torch.randn(ways * queries, ways)).double().requires_grad_()
    y = torch.arange(ways * queries) % ways
    (official,) = torch.autograd.grad(official_loss(scores, y, cfg.data.shots), scores)
    # PLATIPUS' own outer loss is the sum of log-likelihoods.
    ours = F.cross_entropy(scores, y, reduction="sum" if "platipus" in name else "mean")
    (gradient,) = torch.autograd.grad(ours, scores)
    unit = (official / gradient).mean()
    assert float(cfg.optimizer.max_grad_value * unit) == pytest.approx(10, rel=1e-4)


SEEDS = {
    "maml/omniglot": 6, "maml/miniimagenet": 2, "maml/sinusoid": 4, "fomaml/omniglot": 4, "fomaml/miniimagenet": 2,
    "reptile/omniglot": 4, "reptile/miniimagenet": 2, "anil/omniglot": 2, "anil/miniimagenet": 2,
    "meta_sgd/omniglot": 4, "meta_sgd/miniimagenet": 2, "meta_sgd/sinusoid": 3, "cavia/miniimagenet": 6,
    "cavia/sinusoid": 1, "imaml/omniglot": 4, "maml_pp/omniglot": 4, "maml_pp/miniimagenet": 2,
}  # fmt: skip


@pytest.mark.parametrize("folder", SEEDS)
def test_a_seed_papers_experiments_have_its_cells_and_their_own_figures(folder):
    algo, data = folder.split("/")
    cells = [name for name in names("experiment") if name.startswith(f"{folder}/")]
    assert len(cells) == SEEDS[folder]
    for name in cells:
        cfg, choices = composed(f"experiment={name}")
        assert (choices["data"].partition("_")[0], cfg.run.iterations >= 20000) == (data, True)
        own = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text()).get("paper", [])
        assert len(own) <= 1 and all(figure["value"] for figure in own)
        if own and data != "sinusoid":
            assert (own[0]["ways"], own[0]["shots"]) == (cfg.data.ways, cfg.data.shots)
            assert f"{cfg.data.ways}way{cfg.data.shots}shot" in name


@pytest.mark.parametrize("name", [name for name in OFFICIAL_RATES if name.startswith("mtnet/")])
def test_mt_nets_networks_on_images_start_as_the_official_ones(name):
    cfg, choices = composed(f"experiment={name}", "tracker=none")
    layers = {n: m.layer for n, m in transformed(build(cfg, choices).learner.net)}
    head = layers.pop("head")
    for layer in layers.values():  # Glorot's uniform rule
        bound = (6 / (9 * (layer.in_channels + layer.out_channels))) ** 0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound and (layer.bias == 0).all()
    if "omniglot" in name:
        assert float(head.weight.detach().std()) == pytest.approx(1, abs=0.15)
    else:
        assert head.weight.abs().max() <= (6 / sum(head.weight.shape)) ** 0.5
    assert (head.bias == 0).all()


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_a_file_starts_with_what_it_is(path):
    assert path.read_text().startswith("#") or path.relative_to(CONF).parts[0] in (
        *("device", "optimizer"),
        "config.yaml",
    )
