"""A page for every algorithm of conf/algo, from the head of its module, its YAML, its settings and its records."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from metarun.experiment.choices import describe, files_of, names
from metarun.learner.learner import Learner
from scripts.docs import conf
from scripts.docs.configuration import key_table
from scripts.docs.families import FAMILIES
from scripts.docs.heads import ROOT, Head, difference_list, read_head, rendered, symbol_table
from scripts.docs.markdown import code, fenced, folded, paragraphs, prose, table
from scripts.docs.metrics import metrics_of
from scripts.docs.records import provenance, records, result_table

# In this order, as CleanRL's pages; `tests/scripts/docs` holds every page to it.
SECTIONS = (
    "Paper",
    "Use",
    "Settings",
    "Experiments",
    "Logged metrics",
    "Details and differences from the paper",
    "Results",
)
FOLDER = "algos"
MANY = 20  # records, above which the commands stand on the page of all results


def page_of(algo: str) -> str:
    return f"{FOLDER}/{algo}.md"


def pages() -> dict[str, str]:
    """All pages by their path below docs/, with the list of them."""
    return {f"{FOLDER}/index.md": index(), **{page_of(algo): page(algo) for algo in names("algo")}}


def index() -> str:
    """The algorithms by family."""
    parts = [
        "# Algorithms",
        "One page for each choice of `algo`, in one order: the paper with the problem it solves, how to use it, its "
        "settings, the metrics that a run logs, differences from the paper, and results beside the published figures. "
        "[Which learner for what](/which_learner.md) compares them.",
    ]
    for family, members in FAMILIES.items():
        rows = [[f"[`{algo}`](/{page_of(algo)})", prose(conf.lead(conf.file_of("algo", algo)))] for algo in members]
        parts += [f"## {family}", table(["`algo=`", "What it is"], rows)]
    return paragraphs(*parts)


def page(algo: str) -> str:
    """The page of one algorithm."""
    head = read_head(module_file(algo))
    bodies = (
        paper(head),
        use(algo),
        settings(algo),
        experiments(algo),
        metrics_of(learner_class(algo)),
        details(algo, head),
        results(algo),
    )
    sections = [f"## {title}\n\n{body}" for title, body in zip(SECTIONS, bodies, strict=True)]
    return paragraphs(f"# {algo}", f"**{prose(conf.lead(conf.file_of('algo', algo)))}**", *sections)


@cache
def learner_class(algo: str) -> type[Learner]:
    return get_class(describe("algo", algo)["_target_"])


def module_file(algo: str) -> Path:
    return Path(inspect.getfile(learner_class(algo)))


def paper(head: Head) -> str:
    symbols = symbol_table(head)
    return paragraphs(
        prose(head.title),
        *map(rendered, head.paper),
        *map(rendered, head.problem),
        symbols,
    )


# ------------------------------------------------------------------------------------------------------------- use


def use(algo: str) -> str:
    """Commands, and what the class says of itself."""
    cls = learner_class(algo)
    target = describe("algo", algo)["_target_"]
    role = conf.override("algo", algo, "role") or "network"
    scheduler, optimizer = (conf.override("algo", algo, group) for group in ("scheduler", "optimizer"))
    rows = [
        ["Tasks", ", ".join(cls.task_types)],
        ["Role of the backbone", f"`{role}`: `backbone=NAME`, else the one that the data set offers for it"],
        ["Class", f"`{target}`"],
        ["Stages of training", _stages(cls)],
        ["Batch norm (`backbone.norm`)", ", ".join(f"`{mode}`" for mode in cls.batch_norm_modes)],
        ["Trains as [fused replicas](/concepts/fused_replicas.md)", "yes" if cls.fusable else "no"],
        ["Order of the support set counts", "yes" if cls.order_sensitive else "no"],
    ]
    if optimizer or scheduler:
        chosen = [f"`{group}={name}`" for group, name in (("optimizer", optimizer), ("scheduler", scheduler)) if name]
        rows.append(["Chooses", " ".join(chosen)])
    notes = []
    if algo.startswith("learn2learn/"):
        notes.append("It needs the extra `learn2learn`, which plain pip cannot build: [Installing](/install.md).")
    return paragraphs(fenced("\n".join(commands(algo)), "bash"), *notes, table(["", ""], rows))


def _stages(cls: type[Learner]) -> str:
    stages = cls.stages
    if not isinstance(stages, tuple):
        return "decided by its settings"
    if not stages:
        return "none: it is not trained"
    texts = [f"stream `{s.stream}`" + (f", {s.share:.0%} of `run.iterations`" if s.share < 1 else "") for s in stages]
    return "; ".join(texts)


DEFAULT_DATA = {
    "regression": "sinusoid",
    "classification": "synthetic",
    "verification": "synthetic_pairs",
}


def commands(algo: str) -> list[str]:
    """What to type: each data set with a setting, else one that fits."""
    data = list(conf.settings_of(algo)) or [DEFAULT_DATA[kind] for kind in learner_class(algo).task_types]
    lines = [f"metarun algo={algo} data={name}" for name in data]
    chosen = [name for name, choices in conf.experiments().items() if choices.get("algo") == algo]
    if chosen:
        lines.append(f"metarun experiment={chosen[0]}")
    return lines


# -------------------------------------------------------------------------------------------------------- settings


def settings(algo: str) -> str:
    """Its keys, and the numbers that go with each data set."""
    parts = ["### Keys", key_table(f"algo={algo}")]
    if not conf.settings_of(algo):
        parts.append("No data set has numbers of its own for this algorithm: the defaults above hold everywhere.")
    for data in conf.settings_of(algo):
        path = conf.file_of("setting", f"{data}/{algo}")
        files = files_of("setting", f"{data}/{algo}")
        yaml = "\n\n".join(
            ("" if file == path else f"# from conf/{file.relative_to(conf.CONF)}\n") + conf.body(file)
            for file in reversed(files)
            if conf.body(file)
        )
        parts += [
            f"### On {data}",
            prose(conf.lead(path)),
            figures(conf.published("setting", f"{data}/{algo}")),
            folded(f"conf/setting/{data}/{algo}.yaml", fenced(yaml, "yaml")) if yaml else "",
        ]
    return paragraphs(*parts)


def figures(entries: list[dict[str, Any]]) -> str:
    """Published figures as a table; empty where there is none."""
    if not entries:
        return ""
    rows = [
        [
            "" if entry.get("ways") is None else str(entry["ways"]),
            "" if entry.get("shots") is None else str(entry["shots"]),
            _published(entry),
            prose(str(entry["source"])),
            prose(str(entry.get("status") or "")),
        ]
        for entry in entries
    ]
    return paragraphs("Published:", table(["Ways", "Shots", "Figure", "Source", "Note"], rows))


def _published(entry: dict[str, Any]) -> str:
    text = f"{entry['value']:g}"
    return text if entry.get("ci95") is None else f"{text} ± {entry['ci95']:g}"


def experiments(algo: str) -> str:
    """The cells of papers' tables, with the paper's full schedule."""
    chosen = [name for name, choices in conf.experiments().items() if choices.get("algo") == algo]
    if not chosen:
        return "No file of `conf/experiment` is of this algorithm."
    rows = []
    for name in chosen:
        entries = conf.published("experiment", name)
        rows.append(
            [
                code(f"metarun experiment={name}"),
                prose(conf.lead(conf.file_of("experiment", name))),
                "; ".join(_published(entry) for entry in entries),
            ]
        )
    text = "Each file is one cell of a paper's table with the paper's own schedule, which is long for two cores."
    return paragraphs(text, table(["Command", "What it is", "Published"], rows))


# ----------------------------------------------------------------------------------------------------- the rest


def details(algo: str, head: Head) -> str:
    """Remarks, differences, and what a person wrote about it in docs/notes."""
    note = ROOT / "docs" / "notes" / f"{algo}.md"
    module = f"`{module_file(algo).relative_to(ROOT)}`"
    return paragraphs(
        *(rendered(remark.replace("This file", module)) for remark in head.remarks),
        "### Differences from the paper",
        difference_list(head),
        f"### Notes\n\n{note.read_text()}" if note.is_file() else "",
    )


def results(algo: str) -> str:
    chosen = [record for record in records() if record.algo == algo]
    if not chosen:
        return "No result of this algorithm is recorded in `docs/results` yet."
    intro = (
        "Intervals are 95 %: over held-out tasks of one run, over seeds (Student's t) of several. `docs/results` "
        "holds the records with their whole configuration."
    )
    if len(chosen) > MANY:
        return paragraphs(intro, result_table(chosen, page="/records.md"))
    return paragraphs(intro, result_table(chosen), *map(provenance, chosen))
