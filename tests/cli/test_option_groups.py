"""Groups of options: what typer sees of them, and what the command gets."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

import typer
from typer.testing import CliRunner

from llmsched.cli.option_groups import expand_groups


@dataclass(frozen=True)
class Plain:
    first: int
    second: Annotated[str, typer.Option("--second", help="Of all.")] = "b"


@dataclass(frozen=True)
class Special(Plain):
    second: Annotated[str, typer.Option("--second", help="Of this command.")] = "c"
    third: float = 0.5


def names(command: object) -> list[str]:
    return list(inspect.signature(command).parameters)


def test_a_group_is_listed_at_its_place_unless_an_order_is_given() -> None:
    def command(group: Special, own: int = 1) -> None: ...

    assert names(expand_groups()(command)) == ["first", "second", "third", "own"]
    assert names(expand_groups("own third first second")(command)) == ["own", "third", "first", "second"]


def test_what_an_order_leaves_out_follows_the_one_before_it() -> None:
    def command(group: Special, own: int = 1) -> None: ...

    assert names(expand_groups("own first third")(command)) == ["own", "first", "second", "third"]
    assert names(expand_groups("first")(command)) == ["first", "second", "third", "own"]


def test_the_command_gets_objects_with_what_was_typed() -> None:
    got = []
    small = typer.Typer()

    @small.command()
    @expand_groups("own first")
    def command(group: Special, own: int = 1) -> None:
        got.append((group, own))

    assert CliRunner().invoke(small, ["--second", "x", "7", "--own", "2"]).exit_code == 0
    assert CliRunner().invoke(small, ["7"]).exit_code == 0
    assert got == [(Special(7, "x", 0.5), 2), (Special(7, "c", 0.5), 1)]
    assert CliRunner().invoke(small, []).exit_code == 2
    shown = CliRunner().invoke(small, ["--help"]).stdout
    assert "Of this command." in shown
    assert "Of all." not in shown


def test_a_mistake_in_a_command_is_found_at_import() -> None:
    def command(group: Plain, first: int = 1) -> None: ...
    def other(group: Plain) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'first'"):
        expand_groups()(command)
    with pytest.raises(TypeError, match="no such parameters to order: frist"):
        expand_groups("frist second")(other)
