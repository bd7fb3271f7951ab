"""`llmsched sweep`: what it prints and writes, the machine it runs on, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

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


def machine(*args: str) -> dict[str, object]:
    found = json.loads(run("sweep", "--rate", "1", "--policy", "fcfs", *SMALL, *args, "--json"))["machine"]
    assert isinstance(found, dict)
    return found


def test_a_machine_sets_all_and_single_options_change_it(tmp_path: Path) -> None:
    named = ls.machines["llama2-70b-8xh100"]
    assert machine("--machine", "llama2-70b-8xh100") == json.loads(json.dumps(named.fields()))
    assert machine("--machine", "llama2-70b-8xh100", "--memory", "160k", "--max-batch", "1e2") == json.loads(
        json.dumps(named.replace(memory=160_000, max_batch=100).fields())
    )
    assert machine("--clock", "llama2-70b-8xh100")["memory"] == named.memory
    named.write(tmp_path / "mine.toml")
    assert machine("--machine", str(tmp_path / "mine.toml"))["memory"] == named.memory


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--rate", "3:1"], "FIRST:LAST"),
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
    assert machine("--clock", str(file), "--memory", "9k")["memory"] == 9000


def test_capacity_draws_the_sweep_around_its_answer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    for find in (["rate"], ["memory", "--rate", "2"]):
        file = tmp_path / f"{find[0]}.svg"
        run("capacity", "--slo", "ttft=1,tpot=0.1", *SMALL, "--find", *find, "--plot", str(file))
        assert file.read_bytes().startswith(b"<?xml")
