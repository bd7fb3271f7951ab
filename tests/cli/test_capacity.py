"""`llmsched capacity`: what it finds, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, Refused, run

import llmsched as ls
from llmsched.metrics import capacity

ASK = ["capacity", "--slo", "ttft=1,tpot=0.1", "--requests", "120", "--replications", "3"]


def answer(out: str) -> Any:
    return json.loads(out)["answers"]


def test_capacity_finds_what_the_library_finds() -> None:
    workload = ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100))
    asked: dict[str, Any] = {"slo": {"ttft": 1.0, "tpot": 0.1}, "clock": CLOCK, "requests": 120, "replications": 3}
    expected = capacity.highest_rate(workload, "fcfs", memory=16492, **asked)
    (found,) = answer(run(*ASK, "--json"))
    assert found == expected.record()
    out = run(*ASK, "--policy", "fcfs", "--policy", "amin")
    assert "Highest rate with 0.9 of requests within ttft <= 1, tpot <= 0.1:" in out
    assert "3 replications of 120 requests" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("fcfs", "amin"))]
    assert [row[0] for row in rows] == ["fcfs", "amin"]
    assert rows[0][1:4] == [f"{value:,.2f}" for value in (expected.value, expected.low, expected.high)]
    smallest = capacity.smallest_memory(workload, "fcfs", rate=3.0, **asked)
    (found,) = answer(run(*ASK, "--json", "--find", "memory", "--rate", "3"))
    assert found == smallest.record()
    assert f"{smallest.value:,.0f}" in run(*ASK, "--find", "memory", "--rate", "3")


def test_capacity_says_why_there_is_no_number() -> None:
    out = run("capacity", "--slo", "e2e=1e9", "--requests", "30", "--replications", "2")
    assert "note: fcfs: the targets hold even if all requests come at once" in out
    out = run("capacity", "--slo", "ttft=0.001", "--requests", "30", "--replications", "2")
    assert "note: fcfs: the targets do not hold even if requests come one by one" in out
    out = run("capacity", "--slo", "ttft=0.001", "--requests", "30", "--replications", "2", "--find", "memory",
              "--rate", "1")  # fmt: skip
    assert "do not hold with any cache" in out
    assert "Try a lower --rate, another --machine, or several of them" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--slo", "ttft=1", "--find", "rates"], "did you mean 'rate'"),
        (["--slo", "ttft=1", "--rate", "3"], "--rate is what --find rate finds"),
        (["--slo", "ttft=1", "--find", "memory", "--memory", "3"], "--memory is what --find memory finds"),
        (["--slo", "ttft=1", "--attainment", "2"], "attainment=2.0 must be"),
        (["--slo", "ttf=1"], "did you mean 'ttft'"),
        ([], "--slo"),
    ],
)
def test_bad_input(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused("capacity", *args)
