"""`llmsched timeline`: the figure, and the trace for Perfetto."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, PLAIN, Refused, run, served

import llmsched as ls
from llmsched.cli import console


def test_one_is_singular(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trace = tmp_path / "one.csv"
    trace.write_text(f"{PLAIN}5,3\n")
    out = run("timeline", str(trace), "--policy", "fcfs", "--memory", "100", "--out", str(tmp_path / "t.png"))
    assert out.startswith(f"1 request from {trace}: 5 prompt + 3 output tokens, all arriving at 0\n")
    trace.write_text(f"{PLAIN}5,3\n5,10\n7,4\n")
    again = run("timeline", str(trace), "--policy", "fcfs", "--memory", "100", "--out", str(tmp_path / "t.png"))
    assert "fcfs: mean latency 5.67, makespan 10, 0 evictions\n" in again
    assert [console.number_of(n, "query") for n in (0, 1, 2000)] == ["0 queries", "1 query", "2,000 queries"]


def test_timeline_draws_and_writes_a_trace(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    out, trace = tmp_path / "run.png", tmp_path / "run.json"
    said = run("timeline", "--limit", "40", "--memory", "1500", "--clock", CLOCK, "--rate", "5",
               "--policy", "amin", "--out", str(out), "--perfetto", str(trace))  # fmt: skip
    result = ls.simulate(served(5, 40), "amin", memory=1500, clock=CLOCK)
    assert f"mean latency {result.mean_latency:.2f}" in said
    assert said.endswith(f"Wrote {out} and {trace}.\n")
    assert out.read_bytes().startswith(b"\x89PNG")
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 40 + result.total_evictions


def test_timeline_of_a_trace_in_rounds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,20\n1,3,8\n3,2,30\n")
    said = run("timeline", str(file), "--rounds", "--policy", "fcfs", "--out", str(tmp_path / "a.svg"))
    assert said.startswith("3 requests from")
    assert "times in rounds" in said


def test_bad_input(refused: Refused, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    assert "the extension must be one of" in refused("timeline", "--out", "a.jpg")
    assert "did you mean 'amin'" in refused("timeline", "--policy", "amn", "--out", str(tmp_path / "a.png"))
    assert "there is no directory" in refused(
        "timeline", "--out", str(tmp_path / "a.png"), "--perfetto", str(tmp_path / "no" / "b.json")
    )


def test_timeline_draws_one_policy(refused: Refused) -> None:
    assert "takes one value" in refused("timeline", "--policy", "amin", "--policy", "hsf")


def test_the_name_of_a_trace_is_checked_before_the_run(tmp_path: Path, refused: Refused) -> None:
    said = refused("timeline", "--out", str(tmp_path / "t.png"), "--perfetto", str(tmp_path / "x.txt"))
    assert "must end in .json or .json.gz" in said
    assert not (tmp_path / "t.png").exists()
