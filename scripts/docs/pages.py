"""All generated pages."""

from __future__ import annotations

from scripts.docs import algorithms, api, configuration, datasets, gallery, results
from scripts.docs.heads import ROOT
from scripts.docs.markdown import relative

DOCS = ROOT / "docs"


def generated() -> dict[str, str]:
    """Markdown by path below docs/. It reads files only: no data set, no training, a few seconds."""
    made = {
        **algorithms.pages(),
        **datasets.pages(),
        **configuration.pages(),
        **api.pages(),
        **results.pages(),
        **gallery.pages(),
    }
    changelog = ROOT / "CHANGELOG.md"
    if changelog.is_file():
        made["changelog.md"] = changelog.read_text().replace("](docs/", "](/")
    return {path: relative(path, text) for path, text in made.items()}


def written() -> list[str]:
    """Hand-written pages, by path below docs/."""
    paths = (path.relative_to(DOCS) for path in DOCS.rglob("*.md"))
    return sorted(path.as_posix() for path in paths if path.parts[0] not in ("notes", "results"))
