"""What the README shows is what its examples print."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
from helpers import ROOT

README = (ROOT / "README.md").read_text()


def block(language: str, after: str) -> str:
    """The first fenced block of this language after some text."""
    match = re.search(rf"```{language}\n(.*?)```", README[README.index(after) :], re.DOTALL)
    assert match is not None
    return match.group(1)


def test_the_library_example_prints_what_the_readme_says():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block("python", "## As a library"), {})
    assert printed.getvalue() == block("text", "## As a library")


def test_compare_prints_what_the_readme_says():
    testing = pytest.importorskip("typer.testing")
    from llmsched.cli.main import app

    result = testing.CliRunner().invoke(app, ["compare"])
    assert result.exit_code == 0
    assert result.stdout == block("text", "main job:")


def test_every_link_of_the_readme_leads_somewhere():
    root = ROOT
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (root / target).exists(), target
