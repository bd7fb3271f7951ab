"""`llmsched sweep`: what it prints and writes, the machine it runs on, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, Refused, run

import llmsched as ls

SMALL = ["--requests", "100", "--replications", "2"]
ASK = ["sweep", "--rate", "1:40:3", "--slo", "ttft=1", *SMALL]


def test_the_sweep_is_that_of_the_library(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    workload = ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100))
    expected = ls.sweep(
        workload, ["fcfs", "amin"], rates=[1, 20.5, 40], slo={"ttft": 1.0}, requests=100, replications=2,
        **ls.machines[CLOCK].options(),
    )  # fmt: skip
    files = [str(tmp_path / name) for name in ("s.csv", "s.png")]
    policies = ["--policy", "fcfs", "--policy", "amin"]
    found = json.loads(run(*ASK, *policies, "--json", "--csv", files[0], "--plot", files[1]))
    assert found["points"] == expected.records()
    assert found["knees"] == {name: expected.knee(name) for name in ("fcfs", "amin")}
    with open(files[0], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["latency_mean"]) for row in rows] == [r["latency_mean"] for r in expected.records()]
    assert Path(files[1]).read_bytes().startswith(b"\x89PNG")
    table = run(*ASK, *policies)
    assert "Knee: requests/s that can be served for ever" in table
    assert f"{expected.knee('amin'):.3g}" in table


def ran_on(*args: str) -> dict[str, Any]:
    """What the JSON says of the machine, as arguments of `llmsched.sweep`."""
    found = json.loads(run("sweep", "--rate", "1", "--policy", "fcfs", *SMALL, *args, "--json"))
    said = {key: found[key] for key in ("memory", "max_batch", "block", "prefill_budget")}
    clock = found["clock"]
    return said | {"clock": None if clock is None else ls.Clock(**{k: v for k, v in clock.items() if k != "name"})}


def test_a_machine_sets_all_and_single_options_change_it(tmp_path: Path) -> None:
    named = ls.machines["llama2-70b-8xh100"]
    assert ran_on("--machine", "llama2-70b-8xh100") == named.options()
    assert (
        ran_on("--machine", "llama2-70b-8xh100", "--memory", "160k", "--max-batch", "1e2")
        == named.replace(memory=160_000, max_batch=100).options()
    )
    assert ran_on("--clock", "llama2-70b-8xh100") == named.options()
    assert ran_on() == ls.machines[CLOCK].options()
    named.write(tmp_path / "mine.toml")
    assert ran_on("--machine", str(tmp_path / "mine.toml")) == named.options()


def test_rounds_are_swept_if_asked_and_said() -> None:
    args = ["sweep", "--rate", "0.1", "--policy", "fcfs", *SMALL, "--rounds"]
    assert ran_on("--rounds")["clock"] is None
    assert "times in rounds" in run(*args)
    assert "Knee: requests/round that" in run(*args)


def test_the_header_says_the_machine_and_what_replaces_it() -> None:
    said = run("sweep", "--rate", "1", "--policy", "fcfs", *SMALL, "--machine", CLOCK, "--memory", "9k")
    assert f"machine {CLOCK} with --memory 9,000; KV cache 9,000 tokens" in said
    assert "made from the true lengths" in said


def test_composed_policies_are_swept_and_long_requests_cut() -> None:
    args = ["--policy", "amin,margin=0.05,name=careful", "--generate", "two_point:5,500,0.9"]
    found = json.loads(run("sweep", "--rate", "1", *args, "--max-model-len", "100", *SMALL, "--json"))
    assert [point["policy"] for point in found["points"]] == ["careful"]
    assert found["workload"]["source"]["too_long"]["limit"] == 100


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--rate", "3:1"], "FIRST:LAST, the smaller first"),
        (["--rate", "1", "--machine", "llama2"], "there is no machine"),
        (["--rate", "1", "--policy", "amni"], "did you mean 'amin'"),
        (["--rate", "1", "--slo", "ttf=1"], "did you mean 'ttft'"),
        (["--rate", "1", "--requests", "9"], "requests"),
        (["--rate", "1", "--json", "--csv", "-"], "both want the standard output"),
        (["--rate", "1", "--plot", "a.gif"], "the extension"),
        ([], "--rate"),
    ],
)
def test_bad_input(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused("sweep", *args)


def test_a_clock_file_asks_for_a_cache(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "clock.toml"
    file.write_text('unit = "s"\nbase = 0.02\n')
    assert "add --memory" in refused("sweep", "--rate", "1", "--clock", str(file))
    assert ran_on("--clock", str(file), "--memory", "9k")["memory"] == 9000


def test_capacity_draws_the_sweep_around_its_answer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    for find in (["rate"], ["memory", "--rate", "2"]):
        file = tmp_path / f"{find[0]}.svg"
        run("capacity", "--slo", "ttft=1,tpot=0.1", *SMALL, "--find", *find, "--plot", str(file))
        assert file.read_bytes().startswith(b"<?xml")
