"""`llmsched paper`: its figures and numbers, and what it refuses."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import PLAIN, Refused, run

from llmsched.experiments import paper


def test_paper_writes_figures_and_numbers_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = run("paper", "--subsets", "2", "--seed", "3")
    assert {file.name for file in (tmp_path / "paper").iterdir()} == {
        "average_latency.png",
        "average_latency.svg",
        "average_latency.csv",
    }
    rows = paper.reproduce(subsets=2, seed=3)
    flat = " ".join(out.split())
    for finding in paper.findings(rows):
        assert " ".join(finding.split()) in flat
    with (tmp_path / "paper" / "average_latency.csv").open(newline="") as lines:
        written = list(csv.DictReader(lines))
    assert [float(row["mean_latency"]) for row in written] == [row.mean_latency for row in rows]
    shown = out.partition("(a proven bound):")[2].splitlines()[4:9]
    last = [row.gap for row in rows if row.requests == max(row.requests for row in rows)]
    assert [cell for line in shown for cell in line.split()[-3:]] == [f"{math.ceil(100 * gap):,}%" for gap in last]
    assert f"Wrote {Path('paper') / 'average_latency.png'}" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith(("note", "Wrote"))) <= 80


def test_paper_on_a_real_trace(tmp_path: Path, data_file: Callable[[str], Path]) -> None:
    out = run("paper", str(data_file("lmsys_lengths.csv")), "--subsets", "2", "--out", str(tmp_path / "deep" / "er"))
    assert "from the 1,024 requests of" in out
    assert (tmp_path / "deep" / "er" / "average_latency.svg").exists()


def test_paper_needs_requests_and_a_folder_it_can_make(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "empty.csv"
    file.write_text(PLAIN)
    assert "requests" in refused("paper", str(file), "--out", str(tmp_path / "out"))
    assert "cannot make the directory" in refused("paper", "--out", str(file))
