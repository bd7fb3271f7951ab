"""Pages on the Azure trace, which is not part of the project: their commands print what they show, where it is."""

from __future__ import annotations

import re
import shlex

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")

from helpers import ROOT
from typer.testing import CliRunner

from llmsched.cli.main import app

TRACE = "AzureLLMInferenceTrace_conv.csv"
#: Page of docs/how-to -> how many of its commands read the trace.
PAGES = {"azure": 3, "fleet": 2}


def shown(page: str) -> list[tuple[str, str]]:
    """The commands that read the trace, with the output that follows them."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(llmsched .*?)\n```\n\n```text\n(.*?)```", text, re.DOTALL)
    return [(command, output) for command, output in found if TRACE in command]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_outputs(page: str) -> None:
    assert len(shown(page)) == PAGES[page]
    assert all(output for _, output in shown(page))


@pytest.mark.parametrize(("page", "at"), [(page, k) for page, count in PAGES.items() for k in range(count)])
def test_a_command_prints_what_the_page_shows(page: str, at: int, data_file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_file(TRACE).parent)
    monkeypatch.delenv("COLUMNS", raising=False)  # as into a file: lines as long as they are
    command, output = shown(page)[at]
    words = shlex.split(command.replace("\\\n", " "))
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == output
