"""The commands of docs/how-to/fleet.md print what it shows."""

from __future__ import annotations

import re
import shlex

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")

from helpers import ROOT
from typer.testing import CliRunner

from llmsched.cli.main import app

PAGE = (ROOT / "docs" / "how-to" / "fleet.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- not run[^\n]*-->\n```sh\n(llmsched .*?)\n```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
TRACE = "AzureLLMInferenceTrace_conv.csv"


def test_the_page_shows_outputs() -> None:
    assert len(SHOWN) == 2
    assert all(output for _, output in SHOWN)


@pytest.mark.parametrize("at", range(2))
def test_a_command_prints_what_the_page_shows(at: int, data_file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_file(TRACE).parent)
    monkeypatch.delenv("COLUMNS", raising=False)  # as into a file: lines as long as they are
    command, output = SHOWN[at]
    words = shlex.split(command.replace("\\\n", " "))
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == output
