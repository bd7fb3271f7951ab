"""The examples run, and what they print is what the library says."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import llmsched as ls
from llmsched.experiments import paper

EXAMPLES = ROOT / "examples"


def run(*args: object) -> str:
    # Not what an old Matplotlib asks of a new pyparsing: "'parseString' deprecated".
    command = [sys.executable, "-W", "error", "-W", "ignore:':DeprecationWarning", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_what_servers_are_compared_by_is_of_one_seed_each() -> None:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import vllm_server
    finally:
        sys.path.remove(str(EXAMPLES))
    rows = {
        "fcfs": [{"mean latency, steps": 10.0, "steps": 4.0}, {"mean latency, steps": 40.0, "steps": 9.0}],
        "sjf": [{"mean latency, steps": 5.0, "steps": 4.0}, {"mean latency, steps": 20.0, "steps": 6.0}],
    }
    apart = vllm_server.differences(rows)
    assert apart == {"sjf": [{"mean latency, steps": -0.5, "steps": 0.0}, {"mean latency, steps": -0.5, "steps": -3.0}]}
    assert "| sjf | -50.0% ± 0.0% |" in vllm_server.table(apart, signed=True)


def test_recompute(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    few = ["--requests", 60, "--replications", 3, "--memory", 2500, "--load", 0.9, "--out", tmp_path]
    printed = run("recompute.py", *few)
    with (tmp_path / "recompute.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * (1 + 7 * 3)  # times, loads, intervals; hsf, and policies in three ways
    at = {tuple(row[k] for k in ("time", "load", "intervals", "policy", "resume")): float(row["ratio"]) for row in rows}
    drawn = [ls.generate.lmsys(60, k).with_intervals(ls.intervals.buckets(100)) for k in range(3)]
    policy = ls.policies["amin-recompute"]
    ratios = [
        ls.simulate(w, policy, memory=2500, seed=k).mean_latency
        / ls.simulate(w, "hsf", memory=2500, seed=k).mean_latency
        for k, w in enumerate(drawn)
    ]
    found = at["rounds", "", "buckets:100", "amin", "recompute"]
    assert found == pytest.approx(sum(ratios) / 3)
    assert f"{found:.2f} ± " in printed
    for key, value in at.items():  # without a clock a moved cache is as good as one computed again
        if key[0] == "rounds" and key[-1] == "swap":
            assert value == at[(*key[:-1], "recompute")]
    for figure in ("rounds.png", "seconds.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")


def test_energy(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    printed = run("energy.py", "--requests", 80, "--rate", 20, "--out", tmp_path)
    w = ls.generate.poisson(ls.generate.lmsys(80), 20, 0).with_intervals(ls.intervals.buckets(100))
    result = ls.simulate(w, "amin-recompute", memory=6000, clock="llama2-70b-2xa100", record="tokens")
    spent = ls.energy.metrics(result, "example-2xa100")
    (row,) = (line for line in printed.splitlines() if line.split()[:2] == ["amin-recompute", "6,000"])
    assert row.split()[3] == f"{spent.joules_per_token:.2f}"
    assert {file.name for file in tmp_path.iterdir()} == {"batch.png", "memory.png"}


@pytest.mark.parametrize("rounds", ["o", "o+1"])
def test_table1(rounds: str) -> None:
    printed = run("table1.py", "--requests", 150, "--replications", 2, "--rounds", rounds)
    lines = {line[:20].strip(): line for line in printed.splitlines()}
    latencies = []
    for k in range(2):
        w = ls.generate.lmsys(150, k)
        if rounds == "o+1":
            w = w.replace(prompt=w.prompt - 1, output=w.output + 1)
        w = ls.generate.poisson(w.replace(point=w.output), 50, k)
        latencies.append(ls.simulate(w, "mcsf", memory=16492, seed=k, clock="llama2-70b-2xa100").mean_latency)
    assert f"{sum(latencies) / 2:.2f} ± " in lines["MC-SF"]
    assert "32.1" in lines["MC-SF"]
    assert "2 of 2" in lines["alpha 0.1, beta 0.2"]


def test_a_trace_is_drawn_from(tmp_path: Path) -> None:
    trace = tmp_path / "lengths.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,7\n")
    printed = run("table1.py", trace, "--requests", 1, "--replications", 2)
    only = ls.simulate(ls.Workload([5], [7]), "fcfs", memory=16492, clock="llama2-70b-2xa100").mean_latency
    assert printed.count(f"{only:.2f} ± 0.00") == 8


def test_two_lengths_show_where_aell_belongs() -> None:
    header, *rows = (line.split() for line in run("two_lengths.py").splitlines())
    assert len(rows) == 2
    for row in rows:
        ratio = dict(zip(header[1:], map(float, row[1:]), strict=True))
        assert ratio["hsf"] == 1 < ratio["aell"] == ratio["auto"] < 1.05
        assert ratio["aell"] < ratio["amin"] < ratio["amax"]


def test_own_policies(tmp_path: Path) -> None:
    drawn = ls.generate.poisson(ls.generate.lmsys(200), 3, 0)
    ls.traces.write(drawn, tmp_path / "trace.csv")
    printed = run("own_policies.py", tmp_path / "trace.csv")
    rows = {line[:28].strip(): line[28:].split() for line in printed.splitlines()[1:]}
    assert len(rows) == 9
    arrival = drawn.arrival * (len(drawn) / float(drawn.arrival[-1]) / 3)
    w = drawn.replace(arrival=arrival).with_intervals(ls.intervals.buckets(100))
    machine = {"memory": 60_000, "block": 16, "clock": "llama2-70b-8xh100"}
    for name, policy in (("shortest first", "amin-recompute"), ("first come", "amin-recompute,order=arrival")):
        assert rows[name][0] == f"{ls.simulate(w, policy, **machine).mean_latency:.1f}"


def test_the_fit_of_the_cache_says_what_holds() -> None:
    printed = run("fit_memory.py", "--memory", 3000, 9000, "--subsets", 1, "--sizes", 60)
    rows = [line.split() for line in printed.splitlines()[2:]]
    assert [row[0] for row in rows] == ["3,000", "9,000"]
    subset = paper.reproduce(memory=3000, clock="llama2-70b-2xa100", subsets=1, sizes=[60])
    ratios = {(row.intervals, row.policy): row.ratio for row in subset}
    one = str(paper.EXPERIMENTS[0].rule)
    assert rows[0][1:3] == [f"{ratios[one, policy]:.2f}" for policy in ("amin", "amax")]


def test_guarantees_are_measured_beside_a_lower_bound() -> None:
    printed = run("guarantees.py", "--requests", 50, "--factors", 2)
    w = ls.generate.lmsys(50)
    memory = 2 * int((w.prompt + w.output).max())
    ratio = ls.simulate(w, "svf", memory=memory).total_latency / ls.lower_bound(w, memory=memory).value
    assert f"svf {ratio:.2f}" in printed
    assert "route" in printed
    assert "response, s < o" in printed
