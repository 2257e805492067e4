"""The configuration reference: every key with its type, default and meaning, from conf/ and its schema."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from metarun.experiment.choices import names
from metarun.experiment.schema import Key, described
from scripts.docs import conf
from scripts.docs.markdown import code, paragraphs, prose, table

FOLDER = "configuration"
# What each group is, in the order of the pages. Those without choices are in conf/config.yaml.
GROUPS = {
    "run": "How long a run trains, what it tests, what it starts from. Every configuration has these keys.",
    "data": "The distribution of tasks. [Data sets](/data/index.md) has a page for each.",
    "algo": "The learner. [Algorithms](/algos/index.md) has a page for each.",
    "backbone": "The network. The data set chooses one for the role that the algorithm names; `backbone=NAME` wins.",
    "optimizer": "The meta-optimizer, of the outer problem.",
    "scheduler": "How the meta-optimizer's learning rate changes. A setting may choose one.",
    "device": "Where and how a run computes.",
    "tracker": "Where metrics go beside `metrics.jsonl`.",
    "sweep": "A multirun's own keys, and ready-made grids.",
}


def pages() -> dict[str, str]:
    """All pages of the reference, by their path below docs/."""
    groups = {f"{FOLDER}/{group}.md": group_page(group) for group in GROUPS}
    return {f"{FOLDER}.md": index(), **groups}


@cache
def keys() -> tuple[Key, ...]:
    return tuple(described())


def index() -> str:
    """The groups, and all keys in one table that can be filtered."""
    groups = [[f"[`{group}`](/{FOLDER}/{group}.md)", text] for group, text in GROUPS.items()]
    rows = [
        [_key(key.name), code(key.choice) if key.choice else "all", _default(key.default), _meaning(key)]
        for key in keys()
    ]
    return paragraphs(
        "# Configuration",
        "Every key, generated from `conf/` and the schema that a configuration is checked against before anything "
        "starts. `GROUP=NAME` takes a choice, `GROUP.KEY=VALUE` sets a key; `metarun algo=maml --cfg job` prints what "
        "would run. Units stand with the meaning; learning rates and other numbers without one have none.",
        "[Choices](/choices.md) lists what each group can be.",
        table(["Group", "What it is"], groups),
        "## All keys",
        '<input class="key-filter" type="search" placeholder="Filter: inner_lr, seconds, wandb ..." '
        'aria-label="Filter the keys">',
        '<div class="all-keys" markdown="1">',
        table(["Key", "Of", "Default", "Meaning"], rows),
        "</div>",
    )


def section(group: str, name: str) -> str:
    """The anchor of a choice on its group's page."""
    return f"{group}-{name}".replace("/", "-")


def choices(group: str) -> list[str]:
    """The choices of a group; none for `run`."""
    return [] if group == "run" else names(group)


def group_page(group: str) -> str:
    """The page of a group: a section for each choice."""
    parts = [f"# {group}", GROUPS[group]]
    common = [key for key in keys() if key.choice is None and (key.name.partition(".")[0] == group)]
    if group == "run":
        common = [key for key in keys() if key.name == "seed"] + common
    if common:
        parts.append(_table(common))
    for name in choices(group):
        parts += [
            f"## {group}={name} {{ #{section(group, name)} }}",
            prose(conf.lead(conf.file_of(group, name))),
            key_table(f"{group}={name}"),
        ]
    return paragraphs(*parts)


def key_table(choice: str) -> str:
    """The keys of a choice, `algo=maml`."""
    chosen = [key for key in keys() if key.choice == choice]
    return _table(chosen) if chosen else "It has no keys of its own."


def _table(chosen: Iterable[Key]) -> str:
    rows = [[_key(key.name), _default(key.default), _meaning(key), prose(key.type)] for key in chosen]
    return table(["Key", "Default", "Meaning", "Type"], rows)


def _key(name: str) -> str:
    """A key, which may break after a dot where the screen is narrow."""
    return f"<code>{name.replace('.', '.<wbr>')}</code>"


def _meaning(key: Key) -> str:
    return prose(key.comment)


def _default(value: Any) -> str:
    if isinstance(value, str):
        return code(value)
    return code(json.dumps(value))
