"""What the hand-written pages show is true: their commands and Python run, made short; their links lead somewhere."""

from __future__ import annotations

import re
import sys

import pytest
from commands import ROOT
from pages import blocks_of, commands_of, compose_and_build, execute, settings_of
from PIL import Image, ImageDraw

from metarun.experiment.choices import GROUPS, names

DOCS = ROOT / "docs"
GUIDES = ("own_data", "own_learner", "sweeps", "comparing", "resume", "processes_and_gpus", "clusters")
GUIDES += ("weights_and_biases", "trackers", "python", "reproducing_a_paper")
CONCEPTS = ("task", "learner", "streams", "random_inputs", "transductive", "fused_replicas", "intervals")
RUN = (
    "index",
    "choices",
    "pitfalls",
    *(f"guides/{name}" for name in GUIDES),
    *(f"concepts/{name}" for name in CONCEPTS),
)
WRITTEN = (*RUN, "faq", "glossary", "install", "plugins", "run_folder", "old_names")
# Made while the site is built.
GENERATED = re.compile(r"(algos/[\w/]+|data/\w+|configuration|gallery|which_learner)\.md")
TEXTS = {name: (DOCS / f"{name}.md").read_text() for name in WRITTEN}


def test_every_hand_written_page_is_tested():
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.glob("guides/*.md")} == {
        f"guides/{name}" for name in GUIDES
    }
    assert {page.stem for page in DOCS.glob("concepts/*.md")} == set(CONCEPTS)


@pytest.mark.parametrize("name", WRITTEN)
def test_links_lead_somewhere(name):
    """To a file of docs/, or to a page that is made while the site is built; never outside, where the site has none."""
    for link in re.findall(r"\]\(([^)#\s]+)[^)\s]*\)", re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)):
        if link.startswith("http"):
            continue
        target = (DOCS / f"{name}.md").parent.joinpath(link).resolve()
        assert target.is_relative_to(DOCS.resolve()), f"{name}: {link} leaves docs/"
        made = GENERATED.fullmatch(target.relative_to(DOCS.resolve()).as_posix())
        assert made or target.is_file(), f"{name}: there is no {link}"


@pytest.mark.parametrize("name", RUN)
def test_its_prose_has_lines_of_120_characters(name):
    prose = re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


COMPOSED = [(name, " ".join(words)) for name in RUN for _, words in commands_of(blocks_of(TEXTS[name]))]


def test_pages_show_commands():
    assert len(COMPOSED) > 60


@pytest.mark.parametrize("name", RUN)
def test_its_commands_fit(name):
    """Unshortened, as they stand there, but those that are shown to be refused and those of the page's own files."""
    for block, words in commands_of(blocks_of(TEXTS[name])):
        settings = settings_of(words)
        if settings is not None and block.mark != "refused":
            compose_and_build(settings, most=2)


@pytest.mark.parametrize("group", GROUPS)
def test_the_choices_it_lists_are_the_choices(group):
    for name in names(group):
        listed = f"{name.rpartition('/')[0]}/" if group == "experiment" else name  # a table's cells by their folder
        assert f"`{listed}`" in TEXTS["choices"], f"docs/choices.md does not list {group}={listed}"


# -------------------------------------------------------------------------------------------------------- executed


@pytest.fixture
def place(tmp_path):
    """A folder with the pictures that docs/guides/own_data.md speaks of."""
    kinds = {"train": 10, "val": 5, "test": 5}
    insects = ["ant", "bee", "beetle", "bug", "butterfly", "cicada", "cricket", "fly", "gnat", "hornet"]
    insects += ["locust", "louse", "mantis", "midge", "mite", "moth", "sawfly", "termite", "tick", "wasp"]
    for split, count in kinds.items():
        for name in [insects.pop(0) for _ in range(count)]:
            draw_class(tmp_path / "pictures" / split / name, 20)
            draw_class(tmp_path / "unsorted" / name, 20)
    for name in ("weevil", "aphid", "thrips", "earwig", "cockroach"):
        draw_class(tmp_path / "unsorted" / name, 20)
    for name in ("bee", "fly"):
        draw_class(tmp_path / "new", 3, name)
    return tmp_path


def draw_class(folder, images, prefix="", size=20):
    """Pictures of one class: a bar whose angle its name decides."""
    folder.mkdir(parents=True, exist_ok=True)
    name = prefix or folder.name
    shift = sum(map(ord, name)) % size
    for number in range(1, images + 1):
        picture = Image.new("RGB", (size, size), "white")
        ImageDraw.Draw(picture).line((shift, number % 5, size - shift, size - number % 5), fill="black", width=3)
        picture.save(folder / f"{prefix}{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_it_runs(name, place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    try:
        execute(blocks_of(TEXTS[name]), place)
    finally:
        for module in [module for module in sys.modules if module.partition(".")[0] == "mylab"]:
            del sys.modules[module]
