"""Links that lead out of docs/, made for the repository, lead to the page of the site that has the same text."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

#: File of the repository -> page of the site.
PAGES = {
    "CONTRIBUTING.md": "development/contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/README.md": "index.md",
}


def lead_to_pages(app: Sphinx, docname: str, text: list[str]) -> None:
    """Replace the targets in one page; any other file of the repository is a download."""
    docs = Path(app.srcdir)
    here = (docs / docname).parent

    def replaced(link: re.Match[str]) -> str:
        target = os.path.relpath(os.path.normpath(here / link[1]), docs.parent)
        if target in PAGES:
            return f"]({os.path.relpath(docs / PAGES[target], here)}{link[2] or ''})"
        outside = target.endswith(".md") and not target.startswith("docs/") and (docs.parent / target).exists()
        return f"](path:{link[1]})" if outside else link[0]  # Markdown that is no page of the site: a download

    text[0] = re.sub(r"\]\(([^)#:\s]+)(#[^)]*)?\)", replaced, text[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", lead_to_pages)
    app.connect("include-read", lambda app, path, docname, text: lead_to_pages(app, docname, text))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
