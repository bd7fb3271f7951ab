"""An option that takes one value, given twice with two of them, is refused by every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

import typer
from helpers.command_line import Refused, run

from llmsched.cli.main import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, one in command.commands.items():
            yield from commands(one, (*path, name))
    else:
        yield path, command


SINGLE = [
    (*path, name)
    for path, command in commands(typer.main.get_command(app))
    for option in command.params
    if option.param_type_name == "option" and not option.multiple and not option.is_flag
    for name in option.opts
]


@pytest.mark.parametrize("words", SINGLE, ids=" ".join)
def test_two_values_of_one_option_are_refused(words: tuple[str, ...], refused: Refused) -> None:
    *command, option = words
    said = refused(*command, option, "4", option, "5")
    assert f"{option} is given as 4 and as 5" in said


def test_both_spellings_of_an_option_are_one(refused: Refused) -> None:
    assert "--memory is given as 4000 and as 5000" in refused("compare", "--memory=4000", "--memory", "5000")
    assert "-o is given as a and as b" in refused("study", "report", "x", "-oa", "--out", "b")


def test_the_same_value_twice_values_like_options_and_lists_pass() -> None:
    small = ["compare", "--limit", "20", "--memory", "2000"]
    assert run(*small, "--seed", "0", "--seed", "0") == run(*small)
    two = run(*small, "--policy", "amin", "--policy", "hsf")
    assert "amin" in two
    assert "hsf" in two
