"""One self-contained HTML page of runs: tables, curves and differences, opened from disk without a network.

The page is `page.html` filled with tables (`markup`), with the data and the figures as JSON (`content`, `figures`),
with `page.css` and `page.js`, and with the scripts of plotly.js and of itables' DataTables. These scripts are JSON text
as well, in which no `<` is left, so that nothing in them can end the element they stand in; `page.js` makes blobs of
them. The page's policy allows `page.js` by its hash, and blobs, and no request at all.

What of plotly's and itables' Python interfaces is not used, and why:

`plotly.io.to_html` draws a figure once, as it is when the page opens. Here the selected runs, the curve, the smoothing
and the theme decide what is drawn, so traces and layouts come from `plotly.graph_objects` and `page.js` draws them.

`itables.to_html_datatable` needs a data frame, so pandas or polars. It sorts a formatted number by its value only with
a function that the browser evaluates from text, which the policy forbids; it sorts what is missing first, gives a row
no heading and its box no name, and links to its web site. So `markup` writes the table, and DataTables, out of
itables' bundle, sorts, searches and pages it, with options that are set in Python.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from metarun.files import write_atomically
from metarun.report.page import figures, markup
from metarun.report.page.content import Content, document
from metarun.run_folder import Run
from metarun.version import __version__

FILES = Path(__file__).parent


def write_page(runs: Sequence[Run], path: Path, title: str = "metarun report") -> None:
    """Write the page of some runs, complete or not at all; where `path` is a link, what it leads to.

    Raises:
        OSError: the page cannot be written, something that is no regular file has its name, or itables is not
            installed.
    """
    content = Content(runs)
    script = (FILES / "page.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    style = packaged("itables", "html/dt_bundle.css") + (FILES / "page.css").read_text(encoding="utf-8")
    parts = markup.parts(content) | {
        "title": html.escape(title),
        "made": f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by metarun {html.escape(__version__)}.",
        "policy": policy(script),
        "style": style.replace("</", "<\\/"),
        "data": embedded(page_data(content)),
        "plotly": embedded(get_plotlyjs()),
        "datatables": embedded(packaged("itables", "html/dt_bundle.js")),
        "script": script,
    }
    page = filled((FILES / "page.html").read_text(encoding="utf-8"), parts)
    write_atomically(path.resolve(), lambda file: file.write(page.encode("utf-8", "replace")))


def page_data(content: Content) -> dict[str, Any]:
    """All that `page.js` reads."""
    return document(content) | {"figures": figures.figures(content), "table": markup.DATATABLE}


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with every `{{name}}` replaced, once: braces in a part are left as they are."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def policy(script: str) -> str:
    """The Content-Security-Policy: no request, and no script but this one and the blobs that it makes."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' blob:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> str:
    """JSON that can stand in a script element whatever it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def packaged(package: str, name: str) -> str:
    """A text file of an installed package, which is not imported for it.

    Raises:
        FileNotFoundError: there is no such package, or no such file in it.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the page needs the package {package}, which is not installed")
    return (Path(spec.submodule_search_locations[0]) / name).read_text(encoding="utf-8")
