"""Terminals of 60, 80 and 120 columns: no line of any command is wider, and data does not depend on the width."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, COMMAND, Refused, run
from typer.testing import CliRunner

from llmsched.cli import console
from llmsched.cli.app import app

WIDTHS = (60, 80, 120)
SLO = ["--slo", "ttft=1,tpot=0.1"]
#: Every command that prints a table and needs no files.
TABLES = {
    "policies": ["policies"],
    "theory": ["theory"],
    "compare": ["compare", "--limit", "60", "--memory", "3k"],
    "compare stopped": ["compare", "--limit", "60", "--memory", "3k", "--max-rounds", "900"],
    "compare timed": [
        "compare",
        "--limit",
        "60",
        "--memory",
        "3k",
        "--clock",
        CLOCK,
        *SLO,
        "--power",
        "example-2xa100",
    ],
    "capacity": ["capacity", *SLO, "--requests", "60", "--replications", "2", "--policy", "amin-recompute"],
    "bound": ["bound", "--limit", "40", "--memory", "3k", "--search", "0.1"],
    "sweep": ["sweep", "--rate", "2:6:2", "--requests", "100", "--replications", "2", *SLO],
    "disaggregate": ["disaggregate", "--pools", "1:2", "--limit", "60", "--rate", "4", *SLO],
}


def too_wide(out: str, width: int) -> list[str]:
    """Lines wider than that, but for what cannot be broken: a path."""
    return [line for line in out.splitlines() if len(line) > width and " " in line.strip()]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_fits_the_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {}
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        out = run(*TABLES[name])
        assert too_wide(out, width) == []
        lines[width] = out.splitlines()
    assert len(lines[60]) >= len(lines[120])


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_of_predictors_paper_and_studies_fit_too(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    pytest.importorskip("pyarrow", reason="studies need the extra study")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    assert too_wide(run("paper", "--subsets", "2", "--memory", "9k"), width) == []
    Path("f.csv").write_text(
        "prompt_tokens,output_tokens,kind\n" + "".join(f"{k % 7},{1 + k % 90},{k % 3}\n" for k in range(240))
    )
    small = ["--requests", "30", "--replications", "2", "--memory", "300"]
    pytest.importorskip("sklearn", reason="predictors need the extra predict")
    assert too_wide(run("predictors", "--features", "f.csv", *small), width) == []
    study = (
        'name = "s"\nreplications = 2\nworkloads = [{name = "w", generator = "lmsys", requests = 20}]\n'
        'intervals = ["buckets:100"]\n'
        'policies = ["amin-recompute", "hsf"]\nmemories = [3000, 4000]\nmetrics = ["mean_latency"]\n'
    )
    Path("s.toml").write_text(study)
    for words in (["check", "s.toml"], ["run", "s.toml", "--out", "r"], ["results", "r"]):
        assert too_wide(run("study", *words), width) == []


def test_json_and_csv_do_not_depend_on_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for how in (["--json"], ["--csv", "-"]):
        said = set()
        for width in WIDTHS:
            monkeypatch.setenv("COLUMNS", str(width))
            said.add(run("compare", "--limit", "30", *how))
        assert len(said) == 1


def test_a_pipe_gets_the_whole_table() -> None:
    header = next(line for line in run(*TABLES["compare timed"]).splitlines() if line.startswith("policy"))
    assert len(header) > 80
    assert {"p99", "gap", "evicted", "wasted"} < set(header.split())


def table(monkeypatch: pytest.MonkeyPatch, width: int, rows: list[list[str]], **how: Any) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    monkeypatch.setattr(console.sys, "stdout", out)
    console.print_table(["policy", "first", "second"], rows, **how)
    return out.getvalue().splitlines()


def test_columns_go_in_the_stated_order_and_no_more_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["amin", "1" * 12, "2" * 12]]
    headings = [table(monkeypatch, width, rows, drop=["second", "first"])[0].split() for width in (40, 20, 10)]
    assert headings == [["policy", "first", "second"], ["policy", "first"], ["policy"]]
    said = " ".join(table(monkeypatch, 20, rows, drop=["second", "first"])[-4:])
    assert "(no room for second: a wider terminal shows more)" in said


def test_a_table_that_may_drop_nothing_turns_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, 22, [["amin", "1" * 12, "2" * 12], ["hsf", "cannot run at all here"]])
    assert lines == [
        "policy  amin", "first   111111111111", "second  222222222222", "",
        "policy  hsf", "first   cannot run at", "        all here",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [[], ["compare"], ["study"], ["study", "run"], ["sweep"]])
def test_short_and_long_help_are_the_same(words: list[str]) -> None:
    pages = [CliRunner().invoke(app, [*words, flag]) for flag in ("-h", "--help")]
    assert pages[0].exit_code == pages[1].exit_code == 0
    assert pages[0].stdout == pages[1].stdout != ""


def test_the_shell_completes_commands() -> None:
    env = {"_LLMSCHED_COMPLETE": "complete_bash", "COMP_WORDS": "llmsched comp", "COMP_CWORD": "1"}
    done = subprocess.run(COMMAND, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["compare"], done.stderr
    assert done.returncode == 0
    assert sys.executable in COMMAND


@pytest.mark.parametrize(
    ("written", "meant"),
    [("16492", 16492), ("16,492", 16492), ("16_492", 16492), ("16k", 16000), ("1.5K", 1500), ("1M", 10**6),
     ("2G", 2 * 10**9), ("1e6", 10**6), ("1.2e3", 1200)],
)  # fmt: skip
def test_counts_are_read_as_people_write_them(written: str, meant: int) -> None:
    from llmsched.cli.options import whole_number

    assert whole_number(written) == meant


@pytest.mark.parametrize("written", ["", "k", "many", "1.5", "16q", "1e99", "nan", "inf", "1kk"])
def test_other_counts_are_refused_with_the_forms(refused: Refused, written: str) -> None:
    assert "16492, 16k, 1.5M or 1e6" in refused("compare", "--memory", written)
