"""The documentation site: what every page says, an entry for every public name, nothing from elsewhere."""

from __future__ import annotations

import functools
import html.parser
import http.server
import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from helpers.workers import made_once

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
HEAD = re.compile(r"^# [^\n]+\n\n> \*\*Answers:\*\* [^\n]+[.?] \*\*Takes:\*\* ([^\n]+)\.\n\n", re.MULTILINE)
WORDS = "a two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
NUMBERS = {word: number for number, word in enumerate(WORDS.split(), 1)}


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "README.md"], ids=lambda p: str(p.relative_to(DOCS)))
def test_a_page_says_what_it_answers_and_how_long_it_takes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    head = HEAD.search(text)
    assert head is not None, "under the title: > **Answers:** ... **Takes:** ...."
    if (said := re.fullmatch(r"(\w+) minutes? to read", head[1])) and page.name not in ("index.md", "site.md"):
        words = len(re.findall(r"[A-Za-z]{2,}", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)))
        assert words / 350 < NUMBERS[said[1]] < 1 + words / 110, f"{words} words"


def public_names() -> list[str]:
    """From the extension of Sphinx that makes the entries, which needs Sphinx."""
    spec = importlib.util.spec_from_file_location("public_api", DOCS / "_ext" / "public_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = list(module.public_names())
    assert {"llmsched.simulate", "llmsched.generate.lmsys", "llmsched.live.Scheduler"} <= set(names)
    return names


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as CONTRIBUTING.md says: no warning."""
    for name in ("sphinx", "myst_parser", "pydata_sphinx_theme", "sphinx_design", "sphinx_copybutton"):
        pytest.importorskip(name, reason="the site needs the dependency group `docs`: pip install --group docs")
    return made_once(tmp_path_factory, "site", build_site) / "html"


def build_site(out: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(out / "doctrees")]
    done = subprocess.run([*command, str(DOCS), str(out / "html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(600)
def test_every_public_name_has_an_entry(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    entries = {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}
    assert not set(public_names()) - entries


@pytest.mark.timeout(600)
def test_every_page_is_in_the_site(site: Path) -> None:
    there = {str(page.relative_to(site).with_suffix("")) for page in site.rglob("*.html")}
    assert {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES} - {"README"} <= there


class Sources(html.parser.HTMLParser):
    """Addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "link") and values.get("rel") not in ("next", "prev", "search"):
            self.found += [address for key in ("src", "href") if (address := values.get(key))]


@pytest.mark.timeout(600)
def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for page in [page for page in site.rglob("*.html") if "_static" not in page.parts]:
        parser = Sources()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found, page
        for address in parser.found:
            assert not re.match(r"(\w+:)?//", address), f"{page.name}: {address}"
            local = (page.parent / address.partition("?")[0].partition("#")[0]).resolve()
            assert local.exists(), f"{page.name}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?https?:", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.mark.timeout(600)
def test_search_finds_a_name_and_the_console_has_no_errors(browser: Any, address: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get_log("browser")
    browser.get(f"{address}/search.html?q=simulate_fleet")
    hits = "return [...document.querySelectorAll('#search-results a')].map(a => a.textContent)"
    found = WebDriverWait(browser, 60, 0.1).until(lambda it: it.execute_script(hits))
    assert any("simulate_fleet" in text for text in found)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(browser: Any, address: str, site: Path, scheme: str) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for page in ("index", "gallery", "background/performance", "reference/policies", "reference/api/llmsched"):
        browser.get(f"{address}/{page}.html")
        assert browser.execute_script("return document.documentElement.dataset.theme") == scheme
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page


def test_the_moving_picture_is_what_its_tool_makes() -> None:
    from importlib.machinery import SourceFileLoader

    loader = SourceFileLoader("cache_picture", str(ROOT / "tools" / "cache-picture"))
    spec = importlib.util.spec_from_loader("cache_picture", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    picture = (DOCS / "images" / "cache.svg").read_text(encoding="utf-8")
    assert module.picture() == picture
    assert len(picture) < 500_000
