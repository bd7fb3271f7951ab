"""`llmsched bound`: what no schedule can beat, on the command line."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import Refused, run

import llmsched as ls

SMALL = ["bound", "--generate", "two_point:5,20,0.8", "--limit", "12", "--memory", "30", "--seed", "1"]


def test_the_numbers_are_those_of_the_library() -> None:
    found = json.loads(run(*SMALL, "--search", "0", "--json"))
    workload = ls.generate.parse("two_point:5,20,0.8", 12, 1)
    bound = ls.lower_bound(workload, memory=30)
    assert found["bound"]["total_latency"] == bound.value
    assert found["bound"]["keeping_tokens"] == bound.preemptive
    assert found["bound"]["each"] == bound.each
    hsf = ls.simulate(workload, "hsf", memory=30, seed=1).total_latency
    assert {"schedule": "hsf", "total_latency": hsf, "gap": bound.gap(hsf)} in found["schedules"]
    assert [row["schedule"] for row in found["schedules"]] == ["svf", "hsf"]


def test_the_table_names_what_is_known() -> None:
    out = run(*SMALL, "--search", "0.2")
    assert out.startswith("12 requests from the two_point generator")
    for expected in ("no less, by busy", "no less, by price", "hsf", "svf", "gap: latency is at most so far above"):
        assert expected in out
    assert "best_known" in out or "optimal" in out


def test_exact_proves_the_optimum() -> None:
    pytest.importorskip("highspy", reason="the exact optimum needs highspy (the extra 'optimum')")
    found = json.loads(run(*SMALL, "--exact", "--search", "60", "--json"))
    workload = ls.generate.parse("two_point:5,20,0.8", 12, 1)
    best = ls.optimal(workload, memory=30, time_limit=None)
    assert found["schedules"][0] == {"schedule": "optimal", "total_latency": best.total_latency, "gap": 0.0}
    assert found["bound"]["total_latency"] == best.total_latency
    assert "optimal" in run(*SMALL, "--exact", "--search", "60")


def test_the_schedule_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "schedule.csv"
    run(*SMALL, "--search", "0.1", "--csv", str(file))
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert len(rows) == 12
    assert all(float(row["completion"]) == float(row["start"]) + int(row["output"]) for row in rows)
    printed = run(*SMALL, "--search", "0.1", "--csv", "-")
    assert next(csv.DictReader(io.StringIO(printed))).keys() == rows[0].keys()


def test_arrivals_are_those_of_the_trace_or_as_asked(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n0,2,5\n10,2,5\n")
    args = ["bound", str(file), "--memory", "7", "--search", "0", "--rounds", "--json"]
    apart, at_once = json.loads(run(*args)), json.loads(run(*args, "--at-once"))
    assert apart["bound"]["total_latency"] == 10
    assert at_once["bound"]["total_latency"] == 15
    faster = json.loads(run(*(one for one in args if one != "--rounds"), "--round-seconds", "10"))
    assert faster["bound"]["total_latency"] == 14


def test_an_optimum_in_whole_rounds_is_not_called_the_optimum(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n0,2,3\n0.5,1,6\n1,3,2\n")
    printed = run("bound", str(file), "--memory", "8", "--exact", "--rounds")
    assert "optimal in whole rounds 15.50 5.17 12.2%" in printed
    assert "note: requests arrive between rounds" in printed
    assert "no less, by price       13.81" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--memory", "4"], "try --memory 20"),
        (["--search", "-1"], "--search must be a number of seconds"),
        (["--at-once", "--rate", "1"], "give one of them"),
        (["--search", "0", "--csv", "x.csv"], "--search 0 looks for none"),
        (["--search", "0", "--exact"], "--search 0 looks for none"),
        (["trace.csv"], "TRACE (trace.csv) and --generate both"),
        (["--json", "--csv", "-"], "give the CSV a file name"),
        (["--csv", "no/such/place.csv"], "there is no directory"),
        (["--exact", "--limit", "51"], "at most 50 requests, not 51"),
    ],
)
def test_bad_input_is_told_in_a_line(refused: Refused, args: list[str], message: str) -> None:
    kept = [word for pair in zip(SMALL[1::2], SMALL[2::2], strict=True) if pair[0] not in args for word in pair]
    assert message in refused("bound", *kept, *args)


def test_a_missing_solver_is_told_with_its_extra(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    assert "pip install 'llmsched[optimum]'" in refused(*SMALL, "--exact")


def test_a_machine_bounds_latency_in_seconds() -> None:
    machine = ls.machines["llama2-70b-8xh100"]
    asked = ["bound", "--generate", "two_point:5,20,0.8", "--limit", "60", "--rate", "4", "--machine", machine.name]
    found = json.loads(run(*asked, "--json"))
    workload = ls.generate.poisson(ls.generate.parse("two_point:5,20,0.8", 60, 0), 4.0, 0)
    bound = ls.lower_bound(workload, memory=machine.memory, clock=machine.clock)
    assert found["bound"]["each"] == bound.each
    assert (found["machine"], found["memory"]) == (machine.name, machine.memory)
    hsf = ls.simulate(workload, "hsf", **machine.options()).total_latency
    assert {"schedule": "hsf", "total_latency": hsf, "gap": bound.gap(hsf)} in found["schedules"]
    said = run(*asked)
    assert f"machine {machine.name}; KV cache" in said
    assert "times in seconds" in said
    assert "--rounds" in said  # what looks for a schedule


def test_a_trace_with_arrival_times_is_bounded_in_seconds_unless_in_rounds(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n0,2,5\n10,2,5\n")
    assert json.loads(run("bound", str(file), "--json"))["machine"] == "llama2-70b-2xa100"
    assert json.loads(run("bound", str(file), "--search", "0", "--rounds", "--json"))["clock"] is None


@pytest.mark.parametrize("option", [["--exact"], ["--csv", "s.csv"], ["--search", "5"]])
def test_schedules_are_looked_for_in_rounds_only(option: list[str], refused: Refused) -> None:
    said = refused("bound", "--limit", "9", "--machine", "llama2-70b-2xa100", *option)
    assert option[0] in said
    assert "--rounds" in said
