"""`llmsched theory`: tables, JSON, figure, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import run

import llmsched as ls
from llmsched.cli.main import main
from llmsched.experiments import theory_tables
from llmsched.optimum import theory


def theory_prints(*args: str) -> str:
    return run("theory", *args)


def row(out: str, first: str) -> list[str]:
    return next(line.split() for line in out.splitlines() if line.split()[:1] == [first])


def test_the_tables_hold_what_the_library_says() -> None:
    out = theory_prints()
    assert row(out, "1/4") == ["1/4", "10.0000", "6.0000", "4.5298", "1.3750", "1.1667", "aell"]
    assert row(out, "1/2")[-1] == "amin"
    assert row(out, "200") == ["200", "2.5121", f"{theory.amin_rho_fit(200):.4f}", f"{theory.amin_trace(200):.4f}"]
    assert row(out, "0.5") == ["0.5", "1.5561", f"{theory.amin_linear_geometric(0.5):.4f}"]
    assert "below alpha = 0.382" in out


@pytest.mark.parametrize("columns", ["80", "120"])  # 60: tests/cli/test_widths.py
def test_no_line_is_cut_and_tables_fit_80_columns(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = theory_prints().splitlines()
    assert not any("…" in line for line in lines)
    tables = [line for line in lines if line[:1].isdigit() or line.startswith("─")]
    assert len(tables) == len(theory_tables.ALPHAS) + len(theory_tables.UPPERS) + len(theory_tables.QS) + 3
    assert max(map(len, tables)) <= 80


def test_json_is_the_library_in_numbers() -> None:
    out = json.loads(theory_prints("--json"))
    assert out["llmsched"] == ls.__version__
    assert out["alpha_star"] == theory.ALPHA_STAR
    assert out["guarantees"] == theory_tables.guarantees()
    assert out["worst"] == theory_tables.worst()
    assert out["geometric"] == theory_tables.geometric()


def test_alphas_of_ones_own() -> None:
    out = json.loads(theory_prints("--json", "--alpha", "0.3", "--alpha", "1/3"))
    assert [entry["alpha"] for entry in out["guarantees"]] == ["0.3", "1/3"]
    assert out["guarantees"][1]["amax_bound"] == pytest.approx(6)


@pytest.mark.parametrize("alpha", ["0", "1.5", "-1", "nan", "x", "1/0"])
def test_alpha_outside_its_domain_is_refused(alpha: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "--alpha", alpha]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: alpha must be lower/upper, a number above 0 and at most 1, not")
    assert said.err.count("\n") == 1


def test_the_figure_has_a_curve_for_every_statement(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    file = tmp_path / "theory.svg"
    theory_prints("--plot", str(file))
    assert file.read_bytes().startswith(b"<?xml")
    panels = theory_tables.figure()
    assert [len(panel.get_lines()) for panel in panels] == [3, 3, 3, 2]
    assert all(panel.get_ylabel() == "ratio to hsf" and panel.get_xlabel() for panel in panels)
    line = panels[2].get_lines()[-1]
    assert list(line.get_ydata()) == [entry["amin_rho"] for entry in theory_tables.worst()]


def test_a_figure_that_cannot_be_written_is_refused_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["theory", "--plot", str(tmp_path / "a.jpg")]) == 2
    assert main(["theory", "--plot", str(tmp_path / "none" / "a.png")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "there is no directory" in said.err
