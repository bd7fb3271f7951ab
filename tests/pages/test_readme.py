"""What the README shows is what its examples print."""

from __future__ import annotations

import contextlib
import io
import re
import shlex

import pytest
from helpers import ROOT

import llmsched as ls

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


def test_the_example_with_a_trace_prints_what_the_readme_says(tmp_path, monkeypatch):
    testing = pytest.importorskip("typer.testing")
    from llmsched.cli.main import app

    monkeypatch.chdir(tmp_path)
    printed = ""
    for line in block("sh", "## Your own trace").splitlines():
        result = testing.CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, line
        printed += result.stdout
    assert printed == block("text", "## Your own trace")


def test_every_command_on_a_trace_that_the_readme_shows_runs(tmp_path, monkeypatch):
    testing = pytest.importorskip("typer.testing")
    pytest.importorskip("matplotlib")
    from llmsched.cli.main import app

    monkeypatch.chdir(tmp_path)
    ls.traces.write(ls.generate.poisson(ls.generate.lmsys(60), 7), "trace.csv")
    for line in block("sh", "**What it runs on.**").splitlines():
        short = ["--replications", "2"] if line.split()[1] in ("capacity", "size") else []
        result = testing.CliRunner().invoke(app, shlex.split(line, comments=True)[1:] + short)
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_every_link_of_the_readme_leads_somewhere():
    root = ROOT
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (root / target).exists(), target
