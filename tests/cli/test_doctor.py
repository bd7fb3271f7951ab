"""`llmsched doctor`: a good installation is well, and a bad one is not."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli import doctor
from llmsched.cli.main import app


def run(*words):
    return CliRunner().invoke(app, ["doctor", *words])


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(doctor, "_CASES", 20)


def test_a_good_installation_is_well():
    found = run()
    assert found.exit_code == 0, found.output
    assert "All is well." in found.output
    assert ls.__version__ in found.output
    assert "engines agree     ok: 20 cases" in found.output


def test_it_is_there_for_programs_too():
    found = json.loads(run("--json").output)
    assert found["llmsched"] == ls.__version__
    assert set(found["checks"]) == {"engines agree", "threads agree", "clock", "limits"}
    assert all(check["good"] for check in found["checks"].values())


def test_engines_that_differ_are_found(monkeypatch):
    really = doctor.simulate

    def wrong(workload, *rest, engine, **options):
        return really(workload.head(1) if engine == "compiled" else workload, *rest, engine=engine, **options)

    monkeypatch.setattr(doctor, "simulate", wrong)
    found = run()
    assert found.exit_code == 1
    assert "WRONG: they differ in" in found.output
    assert "Something is wrong: engines agree." in found.output


def test_limits_that_cannot_be_read_are_found(monkeypatch):
    monkeypatch.setenv("LLMSCHED_LIMITS", "files=3")
    assert run().exit_code == 1
    monkeypatch.setenv("LLMSCHED_LIMITS", "file=1k")
    assert "LLMSCHED_LIMITS sets file=1024" in run().output
