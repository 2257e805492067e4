"""A page for every data set of conf/data."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path

from hydra.utils import get_class

from metarun.experiment.choices import describe, names
from metarun.tasks import TaskSet
from scripts.docs import conf
from scripts.docs.configuration import key_table
from scripts.docs.heads import ROOT, docstring, rendered
from scripts.docs.markdown import bullets, code, fenced, paragraphs, prose, table
from scripts.docs.records import records, result_table
from scripts.docs.sources import SOURCES

SECTIONS = ("Use", "Tasks", "Source and licence", "On disk", "Splits", "Streams", "Settings", "Algorithms")
FOLDER = "data"
PICTURES = ROOT / "docs" / "images" / "data"
DRAW = "make gallery"
STREAMS = {
    "episodes": "tasks of a support and a query set",
    "batches": "mini-batches of examples with the classes of the split",
    "episodes_and_batches": "a task and a mini-batch of the same split",
    "episodes_of_classes": "tasks whose classes the learner chooses",
    "pairs": "mini-batches of pairs, half of them of one class",
    "sequences": "examples one by one, each label one step late",
    "oracle": "the tasks of `episodes`, with their true parameters beside x",
}
GROUPS = {
    "Images": (
        *("omniglot", "miniimagenet", "tiered_imagenet", "cifar_fs", "fc100", "cub"),
        *("imagefolder", "union", "digits", "synthetic"),
    ),
    "Verification: pairs": ("omniglot_pairs", "imagefolder_pairs", "synthetic_pairs"),
    "Curves": ("sinusoid", "sinusoid_varied", "sinusoid_line", "sinusoid_bmaml", "polynomial"),
    "Points and functions": ("clusters", "quadratics"),
}


def page_of(data: str) -> str:
    return f"{FOLDER}/{data}.md"


def pages() -> dict[str, str]:
    """All pages by their path below docs/, with the list of them."""
    return {f"{FOLDER}/index.md": index(), **{page_of(data): page(data) for data in names("data")}}


def index() -> str:
    parts = [
        "# Data sets",
        "One page for each choice of `data`: what a task is, where the data is from and under which terms, how it "
        "lies on disk, and which algorithms have numbers for it. Your own data: [the guide](/guides/own_data.md).",
    ]
    for group, members in GROUPS.items():
        rows = [[f"[`{name}`](/{page_of(name)})", prose(conf.lead(conf.file_of("data", name)))] for name in members]
        parts += [f"## {group}", table(["`data=`", "What it is"], rows)]
    return paragraphs(*parts)


def page(data: str) -> str:
    """The page of one data set."""
    source = SOURCES[data]
    bodies = (
        use(data),
        tasks(data),
        paragraphs(prose(source.origin), f"**Licence.** {prose(source.licence)}"),
        _linked(source.layout),
        _linked(source.splits),
        streams(data),
        key_table(f"data={data}"),
        algorithms(data),
    )
    sections = [f"## {title}\n\n{body}" for title, body in zip(SECTIONS, bodies, strict=True)]
    return paragraphs(f"# {data}", f"**{prose(conf.lead(conf.file_of('data', data)))}**", *sections)


def _linked(text: str) -> str:
    """Prose that may hold links to other pages as Markdown."""
    pieces = re.split(r"(\[\w+\]\(/data/\w+\.md\))", text)
    return "".join(
        piece if re.fullmatch(r"\[\w+\]\(/data/\w+\.md\)", piece) else _keep_spaces(prose, piece) for piece in pieces
    )


def _keep_spaces(write: object, text: str) -> str:
    assert callable(write)
    before, after = (" " if text[:1] == " " else ""), (" " if text[-1:] == " " else "")
    return f"{before}{write(text)}{after}"


@cache
def data_class(data: str) -> type[TaskSet]:
    return get_class(describe("data", data)["_target_"])


def use(data: str) -> str:
    kind = data_class(data).kind
    algo = {"regression": "maml", "classification": "protonet", "verification": "siamese"}[kind]
    if data in ("quadratics",):
        algo = "l2l_optimizer"
    if data in ("clusters",):
        algo = "mann"
    root = " data.root=FOLDER" if "root" in describe("data", data) else ""
    return fenced(f"metarun algo={algo} data={data}{root}", "bash")


def tasks(data: str) -> str:
    """What a task is, by the head of the module and of the class, and a picture of some."""
    cls = data_class(data)
    head = docstring(Path(inspect.getfile(cls))).split("\n\n")
    own = (inspect.getdoc(cls) or "").split("\n\n")
    own = [block for block in own if not re.match(r"(Args|Raises|Attributes|Returns):", block)]
    texts = [prose(head[0]), *map(rendered, head[1:])]
    return paragraphs(*texts, *map(_with_list, own), picture(data))


def _with_list(block: str) -> str:
    """A paragraph, or one that ends in a list `    name: text`."""
    first, *lines = block.splitlines()
    if not any(re.match(r" {4}\w+: ", line) for line in lines):
        return rendered(block)
    items: list[str] = []
    for line in lines:
        if match := re.match(r" {4}(\w+): (.*)", line):
            items.append(f"{code(match[1])}: {match[2]}")
        else:
            items[-1] += f" {line.strip()}"
    return paragraphs(prose(first), bullets(map(prose, items)))


def picture(data: str) -> str:
    """The picture that `make gallery` draws; where the terms forbid to publish it, how to draw it."""
    path = PICTURES / f"{data}.png"
    if path.is_file() and SOURCES[data].public:
        return f"![Tasks drawn from {data}](/images/data/{data}.png)"
    if SOURCES[data].public:
        return f"`{DRAW}` draws a picture of some tasks."
    local = " With `data.root` at your own images, it is of those." if "imagefolder" in data else ""
    return (
        f"The terms of the data, or that it is yours, keep pictures of it off this site: `{DRAW}` draws them on your "
        f"machine, into `outputs/gallery/data/{data}.png`, where the data is there.{local}"
    )


def streams(data: str) -> str:
    cls = data_class(data)
    rows = [
        [code(name) + (" (validation and test)" if name == cls.evaluation_stream else ""), prose(STREAMS[name])]
        for name in cls.streams
    ]
    return paragraphs(
        "A stream is a form in which tasks are drawn; the algorithm says which it is trained on. "
        "See [Streams](/concepts/streams.md).",
        table(["Stream", "What a batch holds"], rows),
    )


def algorithms(data: str) -> str:
    """Which algorithms have numbers for it, and what was measured on it."""
    with_setting = [algo for algo in names("algo") if data in conf.settings_of(algo)]
    links = ", ".join(f"[`{algo}`](/algos/{algo}.md)" for algo in with_setting)
    measured = [record for record in records() if record.data == data]
    return paragraphs(
        f"With numbers of their own for it (`conf/setting/{data}/`): {links}."
        if links
        else f"None has numbers of its own for it (`conf/setting/{data}/`); all that solve its kind of task, "
        f"{data_class(data).kind}, run with their defaults.",
        "Measured:" if measured else "",
        result_table(measured, page="/records.md") if measured else "",
    )
