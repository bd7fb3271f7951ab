"""--quiet and --verbose, on every command: the answer alone, and the log; bars on a terminal alone."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

import typer
from helpers.command_line import COMMAND, run, spawn
from helpers.terminal import on_a_terminal

from llmsched import progress
from llmsched.cli import console
from llmsched.cli.main import app, main

#: A command that takes two seconds, whatever the machine.
SLOW = ["bound", "--generate", "uniform:1,20", "--limit", "100", "--memory", "60", "--search", "2"]


def commands(group: Any, *before: str) -> dict[str, Any]:
    """Every command by the words that call it."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= commands(command, *before, name) if inner else {" ".join([*before, name]): command}
    return found


COMMANDS = commands(typer.main.get_command(app))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both_options(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--quiet", "-q", "--verbose", "-v"} <= options


def quiet_and_not(*args: str) -> tuple[list[str], list[str]]:
    """The lines of a command with --quiet, and without."""
    return run(*args, "--quiet").splitlines(), run(*args).splitlines()


ANSWERS = {
    "compare": ["compare", "--limit", "60"],
    "compare on a trace": ["compare", "TRACE", "--slo", "ttft=1", "--power", "machine"],
    "fleet": ["compare", "TRACE", "--replicas", "2"],
    "capacity": ["capacity", "TRACE", "--slo", "ttft=2", "--requests", "200", "--replications", "2"],
    "size": ["size", "TRACE", "--slo", "ttft=2", "--replications", "2", "--model", "llama-2-70b"],
    "sweep": ["sweep", "TRACE", "--rate", "1:3:2", "--requests", "100", "--replications", "2", "--slo", "ttft=1"],
    "bound": ["bound", "--limit", "20", "--search", "0"],
    "theory": ["theory"],
    "machines": ["machines"],
    "policies": ["policies"],
    "routers": ["routers"],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_quiet_prints_the_answer_and_nothing_that_explains_it(name: str, trace: Path) -> None:
    """The lines of the answer as they are without it, in that order; the tables begin and end it."""
    quiet, whole = quiet_and_not(*(str(trace) if word == "TRACE" else word for word in ANSWERS[name]))
    rest = iter(whole)
    assert all(line in rest for line in quiet)
    rules = [line for line in whole if line and set(line) == {"─"}]
    assert [line for line in quiet if line and set(line) == {"─"}] == rules
    assert not [line for line in quiet if re.match(r"note:|gap:|Wrote|intervals |KV cache|\d+ requests? from", line)]
    assert quiet[0]
    assert quiet[-1]


def test_quiet_is_exactly_the_table(trace: Path) -> None:
    asked = ["sweep", str(trace), "--rate", "1:2:2", "--policy", "fcfs", "--requests", "100", "--replications", "2"]
    quiet, whole = quiet_and_not(*asked)
    begin = next(k for k, line in enumerate(whole) if line.startswith("policy"))
    table = whole[begin : begin + 4]
    end = next(k for k, line in enumerate(whole) if line.startswith("Knee"))
    assert quiet == [*table, "", *whole[end : end + 4]]
    _, compared = quiet_and_not("compare", "--limit", "30", "--intervals", "exact", "--policy", "hsf")
    assert (
        run("compare", "--limit", "30", "--intervals", "exact", "--policy", "hsf", "-q").splitlines()[:3]
        == (compared[compared.index(next(line for line in compared if line.startswith("policy "))) :][:3])
    )


def test_quiet_changes_no_json_and_no_csv() -> None:
    for form in (["--json"], ["--csv", "-"]):
        asked = ["compare", "--limit", "30", "--policy", "amin", *form]
        assert run(*asked, "-q") == run(*asked)
    json.loads(run("compare", "--limit", "30", "--json", "-q"))


def test_quiet_writes_files_and_says_nothing(tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    assert run("generate", "--requests", "5", "--rate", "1", "--out", str(out), "-q") == ""
    assert out.exists()
    assert run("study", "new", str(tmp_path / "study.toml"), "--quiet") == ""
    asked = ["study", "run", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out"), "--quick"]
    done = spawn(*asked, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_quiet_still_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--memory", "3", "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")


def test_verbose_tells_the_log_on_stderr_with_times(tmp_path: Path) -> None:
    asked = ["compare", "--limit", "30", "--policy", "amin", "--policy", "fcfs"]
    plain, told = spawn(*asked), spawn(*asked, "--verbose")
    assert told.stdout == plain.stdout
    assert plain.stderr == ""
    lines = told.stderr.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line) for line in lines)
    assert [line.split()[1] for line in lines][:3] == ["amin:", "fcfs:", "hsf:"]


def test_quiet_and_verbose_are_about_different_streams() -> None:
    asked = ["compare", "--limit", "30", "--policy", "amin"]
    both = spawn(*asked, "-q", "-v")
    assert both.stdout == spawn(*asked, "-q").stdout
    assert "amin: mean latency" in both.stderr


def test_a_command_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("llmsched")
    before = log.level, list(log.handlers)
    for args in (["compare", "--limit", "5", "-q", "-v"], ["compare", "--memory", "1", "-q", "-v"]):
        main(args)
        assert (log.level, list(log.handlers)) == before
        assert not console.is_quiet()
        assert progress._bars is None


def test_names_in_the_log_cannot_reach_the_terminal(tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text('name = "\\u001b[2Jevil"\norder = "arrival"\n')
    done = spawn("compare", "--limit", "5", "--policy", str(policy), "-v")
    assert "\x1b" not in done.stderr + done.stdout


# Bars -----------------------------------------------------------------------------------------------------------------


def bars(args: Sequence[str]) -> tuple[str, str]:
    """What a command prints on stdout, a pipe, and shows on a terminal that is its stderr."""
    return on_a_terminal([*COMMAND, *args])


def test_a_terminal_shows_a_bar_and_a_pipe_none() -> None:
    printed, shown = bars(SLOW)
    assert "of 2 seconds" in shown
    piped = spawn(*SLOW)
    assert piped.stderr == ""
    assert "no less, by" in piped.stdout
    assert "━" not in printed + piped.stdout


def test_quiet_shows_no_bar() -> None:
    assert bars([*SLOW, "--quiet"])[1] == ""


def test_the_log_stands_above_the_bar() -> None:
    shown = bars([*SLOW, "--verbose"])[1]
    assert "of 2 seconds" in shown
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3} plan: ", shown)


def test_reading_a_long_trace_shows_a_bar(tmp_path: Path) -> None:
    """What a command does beside simulating has one too, and no command knows of it."""
    trace = tmp_path / "long.csv"
    trace.write_text("prompt_tokens,output_tokens\n" + "10,20\n" * 6_000_000)
    shown = bars(["compare", str(trace), "--rounds", "--limit", "5", "--policy", "fcfs", "--intervals", "exact"])[1]
    assert re.search(r"reading .* requests", shown)


def test_a_study_shows_how_it_goes_on_a_terminal_alone(tmp_path: Path) -> None:
    pytest.importorskip("pydantic", reason="studies are the extra `study`")
    file = tmp_path / "s.toml"
    file.write_text(
        'name = "s"\nreplications = 400\nmemories = [3000]\npolicies = ["hsf", "amin"]\n'
        '[[workloads]]\ngenerator = "lmsys"\nrequests = 200\n'
    )
    shown = bars(["study", "run", str(file), "--out", str(tmp_path / "a"), "--workers", "1"])[1]
    assert "simulations" in shown
    assert bars(["study", "run", str(file), "--out", str(tmp_path / "b"), "--workers", "1", "-q"])[1] == ""
