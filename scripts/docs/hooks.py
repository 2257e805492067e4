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

sys.path.insert(0, str(Path(__file__).parents[2]))  # mkdocs as a command does not know the checkout

from scripts.docs.nav import navigation  # noqa: E402
from scripts.docs.pages import generated, written  # noqa: E402

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
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


def _mathml(match: re.Match[str]) -> str:
    return convert(html.unescape(match[3]).strip(), display="block" if match[2] == "[" else "inline")
