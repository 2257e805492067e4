"""The navigation: hand-written pages in a chosen order, new ones of a folder after them, and the generated pages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from scripts.docs import algorithms, api, configuration, datasets
from scripts.docs.families import FAMILIES

START = ("index.md", "install.md", "gallery.md", "which_learner.md", "pitfalls.md", "faq.md", "glossary.md")
GUIDES = (
    *("own_data", "own_learner", "python", "sweeps", "comparing", "resume", "processes_and_gpus", "clusters"),
    *("weights_and_biases", "trackers", "reproducing_a_paper"),
)
CONCEPTS = ("task", "learner", "streams", "random_inputs", "transductive", "fused_replicas", "intervals")


def navigation(pages: Collection[str]) -> list[Any]:
    """The tree of mkdocs' `nav`, of those pages that there are.

    Args:
        pages: all Markdown files below docs/, generated ones included.
    """
    sections: list[tuple[str, list[Any]]] = [
        ("Start", [name for name in START if name in pages]),
        ("Guides", [*_folder("guides", GUIDES, pages), *_there(["plugins.md"], pages)]),
        ("Concepts", _folder("concepts", CONCEPTS, pages)),
        ("Algorithms", _algorithms()),
        ("Data sets", _data()),
        ("Results", _there(["results.md", "speed.md", "records.md"], pages)),
        ("Reference", _reference(pages)),
    ]
    listed = set(flat([entries for _, entries in sections]))
    rest = sorted(name for name in pages if name not in listed)
    sections[-1][1].extend(rest)
    return [{title: entries} for title, entries in sections if entries]


def _there(names: list[str], pages: Collection[str]) -> list[Any]:
    return [name for name in names if name in pages]


def _folder(folder: str, order: tuple[str, ...], pages: Collection[str]) -> list[Any]:
    first = [f"{folder}/{name}.md" for name in order]
    more = sorted(name for name in pages if name.startswith(f"{folder}/") and name not in first)
    return [name for name in [*first, *more] if name in pages]


def _algorithms() -> list[Any]:
    families = [{family: [algorithms.page_of(algo) for algo in members]} for family, members in FAMILIES.items()]
    return ["algos/index.md", *families]


def _data() -> list[Any]:
    groups = [{group: [datasets.page_of(data) for data in members]} for group, members in datasets.GROUPS.items()]
    return ["data/index.md", *groups]


def _reference(pages: Collection[str]) -> list[Any]:
    groups = [f"{configuration.FOLDER}/{group}.md" for group in configuration.GROUPS]
    return [
        *_there(["choices.md"], pages),
        {"Configuration": ["configuration.md", *groups]},
        {"Python": [f"{api.FOLDER}/{name}.md" for name in api.PAGES]},
        *_there(["run_folder.md", "old_names.md", "changelog.md"], pages),
    ]


def flat(tree: Any) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(tree, str):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [page for entry in tree for page in flat(entry)]
