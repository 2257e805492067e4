"""The site's generated pages: every choice and public name has one, in one order, and every link leads somewhere."""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys

import pytest
from commands import ROOT
from hydra.utils import get_class
from small import components_of

import metarun
from metarun.experiment.choices import describe, names
from metarun.learner.learner import Learner
from scripts.docs import algorithms, api, configuration, datasets, gallery
from scripts.docs.configuration import keys, section
from scripts.docs.families import FAMILIES
from scripts.docs.metrics import diagnostics, matches
from scripts.docs.nav import flat, navigation
from scripts.docs.pages import DOCS, generated, written
from scripts.docs.sources import SOURCES

PICTURE, ALL_PICTURES = 150_000, 3_000_000  # bytes
WITH_DIAGNOSTICS = [
    algo
    for algo in names("algo")
    if get_class(describe("algo", algo)["_target_"]).diagnostics is not Learner.diagnostics
]


@pytest.fixture(scope="module")
def pages():
    return generated()


def sections(text):
    """Headings of the second level, outside blocks of code."""
    return re.findall(r"^## ([^{\n]*)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)


def anchors(text):
    """What a link can lead to: headings, as mkdocs names them, and explicit ones."""
    slugs = {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in sections(text)}
    return slugs | set(re.findall(r'(?:id="|\{ #)([\w-]+)', text))


# --------------------------------------------------------------------------------------- everything has its page


@pytest.mark.parametrize("algo", names("algo"))
def test_an_algorithm_has_a_page_in_the_order_of_all(pages, algo):
    text = pages[algorithms.page_of(algo)]
    assert tuple(sections(text)) == algorithms.SECTIONS
    assert text.startswith(f"# {algo}\n")
    for key in describe("algo", algo):
        assert key == "_target_" or f"<code>algo.<wbr>{key}</code>" in text


@pytest.mark.parametrize("data", names("data"))
def test_a_data_set_has_a_page_in_the_order_of_all(pages, data):
    text = pages[datasets.page_of(data)]
    assert tuple(sections(text)) == datasets.SECTIONS
    assert "**Licence.**" in text


def test_every_data_set_has_a_source_and_a_place():
    assert sorted(SOURCES) == names("data")
    assert sorted(name for members in datasets.GROUPS.values() for name in members) == names("data")


def test_every_algorithm_is_in_one_family():
    assert sorted(name for members in FAMILIES.values() for name in members) == names("algo")


@pytest.mark.parametrize("group", [group for group in configuration.GROUPS if configuration.choices(group)])
def test_every_choice_has_a_section_of_the_reference(pages, group):
    text = pages[f"configuration/{group}.md"]
    for name in names(group):
        assert f"## {group}={name} {{ #{section(group, name)} }}" in text


def test_every_key_is_in_the_reference_and_says_what_it_is(pages):
    for key in keys():
        assert key.comment, f"conf/ says nothing of {key.name} of {key.choice}"
        page = f"configuration/{key.name.partition('.')[0] if key.name != 'seed' else 'run'}.md"
        assert f"<code>{key.name.replace('.', '.<wbr>')}</code>" in pages[page]


@pytest.mark.parametrize("name", metarun.__all__)
def test_every_public_name_has_a_place_in_the_reference(pages, name):
    documented = [identifier for _, _, identifiers in api.PAGES.values() for identifier in identifiers]
    assert f"metarun.{name}" in documented


@pytest.mark.parametrize(
    "module", ["metarun.learner.learner", "metarun.tasks", *(f"metarun.backbones.{name}" for name in ("conv4", "mlp"))]
)
def test_what_plug_ins_build_on_is_in_the_reference(pages, module):
    assert any(f"::: {module}\n" in f"{text}\n" for path, text in pages.items() if path.startswith("api/"))


@pytest.mark.parametrize("algo", WITH_DIAGNOSTICS)
def test_what_a_learner_logs_of_itself_is_explained(algo):
    learner = components_of(algo).learner
    explained = diagnostics(type(learner))
    for name in learner.diagnostics():
        assert any(matches(name, pattern) for pattern in explained), f"{algo}: {name} is in no docstring"
    if algo != "lr_d2":
        assert explained, algo


# -------------------------------------------------------------------------------------------- navigation and links


def test_the_navigation_has_every_page_once(pages):
    every = [*written(), *pages]
    assert sorted(flat(navigation(every))) == sorted(every)


def test_a_new_hand_written_page_is_listed_by_itself(pages):
    every = ["index.md", "guides/new_guide.md", "another.md", *pages]
    assert {"guides/new_guide.md", "another.md"} < set(flat(navigation(every)))


def test_no_generated_page_is_written_by_hand_too(pages):
    assert not set(written()) & set(pages)


def test_links_of_generated_pages_lead_to_pages_and_anchors(pages):
    texts = {**{path: (DOCS / path).read_text() for path in written()}, **pages}
    for path, text in pages.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)):
            target, _, anchor = link.partition("#")
            if target.startswith("http"):
                continue
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
            if place.endswith(".md"):
                assert place in texts, f"{path} links to {link}"
                assert not anchor or anchor in anchors(texts[place]), f"{path} links to {link}"
            else:
                assert (DOCS / place).is_file(), f"{path} shows {link}"


# -------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (DOCS / "images").rglob("*.png")}
    assert all(size <= PICTURE for size in sizes.values()), sizes
    assert sum(sizes.values()) <= ALL_PICTURES


def test_no_picture_of_data_that_may_not_be_shown_is_committed():
    shown = {path.stem for path in (DOCS / "images" / "data").glob("*.png")}
    assert shown <= {name for name, source in SOURCES.items() if source.public}
    assert all(SOURCES[entry.data].public for entry in gallery.ENTRIES.values())


# ----------------------------------------------------------------------------------------------------------- mkdocs


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    text = (tmp_path / "site" / "algos" / "maml.html").read_text()
    assert "Differences from the paper" in text
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)\b[^>]*(?:src|href)=[\"']?(https?:[^\"'\s>]*)", page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"
