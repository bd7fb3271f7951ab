"""`llmsched policies`: the table, and the same as JSON."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import run

import llmsched as ls


def test_policies_lists_all_of_them_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("policies").splitlines()
    assert max(map(len, lines)) <= 80
    for name in ls.policies:
        assert sum(line.split()[:1] == [name] for line in lines) == 2
    assert "random 0.2" in "\n".join(lines)


def test_policies_as_json_make_the_same_policies_again() -> None:
    for entry in json.loads(run("policies", "--json")):
        fields = {key: entry[key] for key in ls.Policy().fields()}
        assert ls.Policy(**fields) == ls.policies[entry["policy"]]
        assert entry["description"]
        assert tuple(entry["needs"]) == ls.policies[entry["policy"]].needs
