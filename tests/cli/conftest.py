"""What the tests of the command line may use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.command_line import Refused


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace of four requests with arrivals."""
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,20\n1,3,8\n3,2,30\n9,1,1\n")
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs what must be refused, and returns what is said on stderr."""
    from helpers.command_line import Refused  # needs typer

    return Refused(capsys)
