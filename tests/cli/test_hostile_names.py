"""Names and paths from files of strangers: terminals, spreadsheets and readers of errors see no more than text."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmsched.cli.main import app, main
from llmsched.study import Study, report

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


def study(tmp_path, **fields):
    values = {
        "workloads": [{"name": "w", "generator": "lmsys", "requests": 5}],
        "policies": [{"name": "=cmd|' /C calc'!A0", "base": "amin"}],
        "replications": 2,
        "metrics": ["mean_latency"],
    }
    made = Study.from_dict({**values, **fields})
    made.run(tmp_path / "out")
    return tmp_path / "out"


def test_no_name_reaches_the_terminal_as_a_command(tmp_path):
    out = study(tmp_path, policies=[{"name": f"a{ESCAPE}", "base": "amin"}, "hsf"])
    said = CliRunner().invoke(app, ["study", "results", str(out)]).output
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "a\\x1b]0;owned" in said


def test_no_error_reaches_the_terminal_as_a_command(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text(f"prompt_tokens,output_tokens\n1,{ESCAPE}\n")
    assert main(["compare", str(path), "--memory", "10"]) == 2
    path.write_text(f"{ESCAPE}\n")
    assert main(["compare", str(path)]) == 2
    assert main(["compare", f"no{ESCAPE}"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_text_in_csv_is_no_formula(tmp_path):
    out = study(tmp_path)
    CliRunner().invoke(app, ["study", "results", str(out), "--csv", str(tmp_path / "rows.csv")])
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["policy"][0] for row in rows} == {"'"}
    assert all(float(row["mean_latency"]) > 0 for row in rows)


def test_a_study_prints_nothing_of_a_file_elsewhere(tmp_path, capsys):
    (tmp_path / "secret").write_text("root:x:0:0:a password\n")
    (tmp_path / "here").mkdir()
    file = tmp_path / "here" / "study.toml"
    file.write_text('workloads = [{trace = "../secret"}]\npolicies = ["amin"]\n')
    assert main(["study", "check", str(file)]) == 2
    said = capsys.readouterr().err
    assert "is no trace that can be read" in said
    assert "password" not in said
    assert "workloads[0].trace" in said


@pytest.mark.parametrize(
    "name", ["study.json.part", "study.toml.part", "manifest.json.part", "report.html", "study.toml"]
)
def test_a_link_in_the_directory_of_results_is_not_followed(tmp_path, name):
    out = study(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (out / name).unlink(missing_ok=True)
    os.symlink(victim, out / name)
    study(tmp_path)
    report.write(out, out / "report.html")
    assert victim.read_text() == "precious"
    assert not Path(out / name).is_symlink()
    assert json.loads((out / "study.json").read_text())["sha256"]
