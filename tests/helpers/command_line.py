"""Running the command line: through its own runner, through `main`, and as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli.main import app, main

COMMAND = [sys.executable, "-m", "llmsched"]
PLAIN = "prompt_tokens,output_tokens\n"
#: A clock that has a name.
CLOCK = "llama2-70b-2xa100"


def run(*args: str) -> str:
    """What a command prints, if it ends well."""
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def compared(*args: str) -> dict[str, Any]:
    """What `llmsched compare --json` prints."""
    value = json.loads(run("compare", "--json", *args))
    assert isinstance(value, dict)
    return value


def spawn(*args: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own."""
    return subprocess.run([*COMMAND, *args], **{"capture_output": True, "text": True, "timeout": 60, **how})


def served(rate: float, n: int = 200) -> ls.Workload:
    """What `--limit n --rate rate` simulates."""
    return ls.generate.poisson(ls.generate.lmsys(n), rate).with_intervals(ls.intervals.buckets(100))


class Refused:
    """Runs `main` on something it must refuse, and returns what it said on stderr: a line or two, and no more."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str) -> str:
        assert main(args) == 2
        said = self.capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") in (1, 2)
        return said.err
