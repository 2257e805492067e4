"""Roles of a backbone: an algorithm names the one it needs, a data set the backbone that plays it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from commands import SMALL, metarun
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.build import build
from metarun.experiment.choices import CONF, UNOFFERED, names, roles
from metarun.experiment.errors import ConfigError
from metarun.run_folder import read_result

RELATION_ON_CLUSTERS = (
    "algo=relation needs a backbone in the role map; data=clusters offers network=mlp, embedding=mlp, raw=pixels. "
    "Choose one yourself: backbone=NAME"
)


def composed(*overrides: str) -> tuple[DictConfig, dict[str, Any]]:
    """A configuration as the command line composes it, and the choices in it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["tracker=none", *overrides], return_hydra_config=True)
    choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), choices  # type: ignore[return-value]


def test_the_roles_are_those_of_the_root():
    assert roles() == ["network", "embedding", "map", "raw"]


@pytest.mark.parametrize("name", names("algo"))
def test_an_algorithm_names_a_role_and_no_backbone(name):
    text = (CONF / "algo" / f"{name}.yaml").read_text()
    assert "/backbone" not in text
    assert set(re.findall(r"override /role: (\w+)", text)) <= set(roles())


@pytest.mark.parametrize("name", names("data"))
def test_a_data_set_offers_a_network_and_only_backbones_that_exist(name):
    assert "/backbone" not in (CONF / "data" / f"{name}.yaml").read_text()
    choices = composed(f"data={name}")[1]
    assert {choices[role] for role in roles()} <= {*names("backbone"), UNOFFERED}
    assert choices["backbone"] == choices["network"] != UNOFFERED


@pytest.mark.parametrize(
    ("words", "backbone"),
    [
        ("algo=maml data=sinusoid", "mlp"),
        ("algo=maml data=sinusoid_varied", "mlp"),
        ("algo=maml data=omniglot", "conv4"),
        ("algo=maml data=miniimagenet", "conv4_32"),
        ("algo=tuned_optimizer data=quadratics", "linear"),
        ("algo=l2l_optimizer data=digits", "mlp_sigmoid"),
        ("algo=alpaca data=sinusoid", "mlp_tanh"),
        ("algo=protonet data=omniglot", "conv4_embedding"),
        ("algo=baseline data=miniimagenet", "conv4_embedding"),  # named by algo=pretrain, its base
        ("algo=relation data=miniimagenet", "conv4_map"),
        ("algo=mann data=omniglot", "pixels"),
        ("algo=mann data=clusters", "pixels"),
        ("algo=nearest_centroid data=omniglot_pairs", "conv4_embedding"),
        ("experiment=mtl/miniimagenet/5way1shot", "resnet12"),
        ("experiment=protonet/omniglot/5way1shot", "conv4_embedding"),
        ("algo=relation data=clusters backbone=conv4_map", "conv4_map"),
        ("algo=protonet data=omniglot backbone=conv4_pool", "conv4_pool"),
        ("experiment=mtl/miniimagenet/5way1shot backbone=conv4_embedding", "conv4_embedding"),
    ],
)
def test_the_backbone_is_the_one_of_the_role_unless_it_is_named(words, backbone):
    cfg, choices = composed(*words.split())
    assert choices["backbone"] == backbone
    assert cfg.backbone._target_ == OmegaConf.load(CONF / "backbone" / f"{backbone}.yaml")._target_
    assert not {"role", *roles()} & set(cfg), "a role is a choice; it leaves nothing in the configuration"


@pytest.mark.parametrize("data", ["clusters", "digits"])  # neither is a pair of tests/test_conf.py
@pytest.mark.parametrize("algo", [n for n in names("algo") if "/role" in (CONF / f"algo/{n}.yaml").read_text()])
def test_a_pair_is_built_or_refused_by_its_data_or_its_role(algo, data):
    cfg, choices = composed(f"algo={algo}", f"data={data}")
    try:
        build(cfg, choices)
    except ConfigError as error:
        assert f"algo={algo} cannot run on" in str(error) or str(error) == RELATION_ON_CLUSTERS


def test_an_unoffered_role_is_refused_by_name_and_a_backbone_that_is_named_is_not(tmp_path):
    outcome = metarun("algo=relation", "data=clusters", "tracker=none", folder=tmp_path)
    assert (outcome.status, outcome.err) == (2, f"metarun: {RELATION_ON_CLUSTERS}\n")
    assert not list(tmp_path.rglob("result.json"))
    with pytest.raises(ConfigError, match="which are not images"):
        build(*composed("algo=relation", "data=clusters", "backbone=conv4_map"))


def test_an_unoffered_role_composes_with_any_key_of_a_backbone():
    """As `-m algo=relation data=omniglot,miniimagenet backbone.filters=8` is at first, with the default data set."""
    cfg, choices = composed("algo=relation", "backbone.filters=8")
    assert (choices["data"], choices["backbone"], cfg.backbone) == ("sinusoid", UNOFFERED, {"filters": 8})


@pytest.mark.slow
def test_a_multirun_refuses_only_the_cells_without_a_backbone(tmp_path):
    places = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra:runtime.choices.algo}")
    outcome = metarun("-m", *SMALL, "algo=relation,protonet", "data=clusters", *places, folder=tmp_path)
    assert outcome.status == 1 and RELATION_ON_CLUSTERS in outcome.err
    assert {name: read_result(tmp_path / "sweep" / name)["status"] for name in ("relation", "protonet")} == {
        "relation": "failed",
        "protonet": "completed",
    }
