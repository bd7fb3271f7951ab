"""What the tutorials, how-tos and two pages of the background show is what is printed; every link leads somewhere.

Blocks run in the order of the page, in an empty directory: `python` blocks in one namespace, the lines of `sh` blocks
that start with `llmsched`, which must end well or, before `|| echo ...`, fail. A `text` block that follows such a block
is what it prints. A block after the comment `<!-- not run: why -->` is left alone.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

import llmsched as ls

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EXECUTED = [page for kind in ("tutorial", "how-to") for page in sorted((DOCS / kind).glob("*.md"))]
EXECUTED += [DOCS / "background" / name for name in ("guarantees.md", "paper.md")] + [DOCS / "gallery.md"]
BLOCK = re.compile(
    r"^(?P<mark><!-- not run[^\n]*-->\n)?```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE
)


def ids(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(DOCS)) for page in pages]


def runs_of(page: Path) -> Iterator[tuple[int, str, str, str | None]]:
    """(line, language, code, what it prints if the page says) of each block that runs."""
    text = page.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    for block, after in zip(blocks, [*blocks, None][1:], strict=True):
        if block["mark"] or block["language"] not in ("python", "sh"):
            continue
        shown = None
        if after is not None and after["language"] == "text" and not text[block.end() : after.start()].strip():
            shown = after["body"]
        yield text.count("\n", 0, block.start()) + 1, block["language"], block["body"], shown


def run_python(code: str, namespace: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_shell(code: str) -> str:
    from typer.testing import CliRunner

    from llmsched.cli.main import app

    printed = ""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["llmsched"]:
            end = words.index("||") if "||" in words else len(words)
            result = CliRunner().invoke(app, words[1:end])
            assert result.exit_code in ((0,) if end == len(words) else (1, 3)), f"{line}\n{result.output}"
            printed += result.stdout + "".join(f"{' '.join(words[end + 2 :])}\n" if words[end:] else "")
    return printed


@pytest.mark.parametrize("page", EXECUTED, ids=ids(EXECUTED))
def test_the_examples_of_a_page_print_what_it_says(page, tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line is the extra `cli`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, language, code, shown in runs_of(page):
        printed = run_python(code, namespace) if language == "python" else run_shell(code)
        if shown is not None:
            assert printed == shown, f"{page.name}, line {line}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=[*ids(PAGES), "README.md"])
def test_calls_of_the_library_have_the_arguments_that_it_takes(page: Path) -> None:
    """In every `python` block, those too that take too long to run here."""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["language"] != "python":
            continue
        for call in ast.walk(ast.parse(block["body"])):
            if not isinstance(call, ast.Call) or not (name := ast.unparse(call.func)).startswith("ls."):
                continue
            starred = any(isinstance(one, ast.Starred) for one in call.args) or any(
                k.arg is None for k in call.keywords
            )
            if re.fullmatch(r"ls(\.\w+)+", name) and not starred:
                function = functools.reduce(getattr, name.split(".")[1:], ls)
                if inspect.isbuiltin(function):  # of a mapping
                    continue
                inspect.signature(function).bind(*call.args, **{str(k.arg): k.value for k in call.keywords})
