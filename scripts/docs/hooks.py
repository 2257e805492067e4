"""mkdocs hooks: the generated pages, the navigation, and LaTeX as MathML, which browsers draw by themselves."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

sys.path.insert(0, str(Path(__file__).parents[2]))  # mkdocs as a command does not know the checkout

from scripts.docs.nav import navigation  # noqa: E402
from scripts.docs.pages import generated, written  # noqa: E402

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
SHIM, OWN_SHIM = "https://unpkg.com/iframe-worker/shim", "javascripts/file_worker.js"
_made: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    _made.clear()
    _made.update(generated())
    config.nav = navigation([*written(), *_made])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, content in _made.items():
        if (existing := files.get_file_from_path(path)) is not None:
            raise ValueError(f"docs/{path} is generated, and must not be there: {existing.abs_src_path}")
        files.append(File.generated(config, path, content=content))
    return files


def on_page_content(text: str, **_: Any) -> str:
    return FORMULA.sub(_mathml, text)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Load no script from a network: the plug-in `offline` names one, in whose place is a short one of our own."""
    return output.replace(SHIM, get_relative_url(OWN_SHIM, page.url))


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page 404.html, which may be shown at any address."""
    return output_content.replace(SHIM, f"/{OWN_SHIM}")


def _mathml(match: re.Match[str]) -> str:
    return convert(html.unescape(match[3]).strip(), display="block" if match[2] == "[" else "inline")
