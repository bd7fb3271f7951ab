"""The command line with a clock: compare, timeline and capacity."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli.main import app, main
from llmsched.metrics import capacity, service

PRESET = "llama2-70b-2xa100"


def run(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") in (1, 2)
    return said.err


def served(rate: float, n: int = 200) -> ls.Workload:
    return ls.generate.poisson(ls.generate.lmsys(n), rate).with_intervals(ls.intervals.buckets(100))


# compare --------------------------------------------------------------------------------------------------------------


def test_with_a_clock_the_table_says_what_users_feel() -> None:
    out = run("compare", "--limit", "200", "--clock", PRESET, "--rate", "5", "--slo", "ttft=1,tpot=0.1",
              "--policy", "fcfs", "--policy", "hsf", "--memory", "4000")  # fmt: skip
    assert "Poisson arrivals, 5 per second" in out
    assert f"clock {PRESET}; intervals buckets:100; seed 0; times in seconds" in out
    assert "good: share of requests with ttft <= 1, tpot <= 0.1; good/s: such requests per second" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    for policy in ("fcfs", "hsf"):
        result = ls.simulate(served(5), policy, memory=4000, clock=PRESET, record="tokens")
        seen = service.metrics(result, {"ttft": 1, "tpot": 0.1})
        _, mean, p99, _, gap, first50, first99, per50, per99, good, rate, tokens, evicted, _ = rows[policy]
        assert float(mean) == pytest.approx(result.mean_latency, abs=0.06)
        assert float(p99) == pytest.approx(seen.percentile("e2e", 99), abs=0.06)
        assert float(gap.rstrip("%")) >= 100 * ls.lower_bound(served(5), 4000, clock=PRESET).gap(result.total_latency)
        assert float(first50) == pytest.approx(seen.percentile("ttft", 50), abs=0.06)
        assert float(first99) == pytest.approx(seen.percentile("ttft", 99), abs=0.06)
        assert float(per50) == pytest.approx(seen.percentile("tpot", 50), abs=6e-4)
        assert float(per99) == pytest.approx(seen.percentile("tpot", 99), abs=6e-4)
        assert float(good.rstrip("%")) == pytest.approx(100 * seen.goodput, abs=0.06)
        assert float(rate) == pytest.approx(seen.goodput_rate, abs=0.006)
        assert float(tokens) == pytest.approx(seen.tokens_rate, abs=0.06)
        assert int(evicted) == result.total_evictions


def test_json_and_csv_hold_the_service_metrics(tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    args = ["compare", "--json", "--limit", "100", "--clock", PRESET, "--rate", "4", "--slo", "e2e=20",
            "--policy", "amin", "--max-batch", "8", "--block", "16", "--prefill-budget", "64",
            "--warmup", "2", "--drain", "3", "--csv", str(file)]  # fmt: skip
    out = json.loads(run(*args))
    machine = {"clock": PRESET, "max_batch": 8, "block": 16, "prefill_budget": 64}
    result = ls.simulate(served(4, 100), "amin", memory=16492, record=("tokens", "timeline"), **machine)
    expected = service.metrics(result, {"e2e": 20}, warmup=2, drain=3).summary()
    (record,) = out["policies"]
    assert {name: record[name] for name in expected if name != "stable_rate"} == {
        name: value for name, value in expected.items() if name != "stable_rate"
    }
    assert record["stable_rate"] is None
    assert record["mean_latency"] == result.mean_latency
    assert (out["rate"], out["slo"]) == (4, {"e2e": 20})
    assert (out["max_batch"], out["block"], out["prefill_budget"]) == (8, 16, 64)
    assert out["clock"]["name"] == PRESET
    assert out["clock"]["base"] == 0.0446
    with file.open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["ttft_p99"]) == expected["ttft_p99"]
    assert row["mean_latency"] == str(result.mean_latency)


def test_with_a_power_model_the_table_has_joules(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["compare", "--limit", "150", "--clock", PRESET, "--rate", "20", "--memory", "2500", "--power",
            "example-2xa100", "--policy", "amin", "--policy", "hsf"]  # fmt: skip
    rows = {line.split()[0]: line.split() for line in run(*args).splitlines() if line.split()}
    records = {record["policy"]: record for record in json.loads(run(*args, "--json"))["policies"]}
    for policy in ("amin", "hsf"):
        result = ls.simulate(served(20, 150), policy, memory=2500, clock=PRESET, record="tokens")
        spent = ls.energy.metrics(result, "example-2xa100")
        assert rows[policy][-2:] == [f"{spent.joules_per_token:.2f}", f"{spent.wasted_share * 100:.1f}%"]
        assert {k: records[policy][f"energy_{k}"] for k in spent.summary()} == spent.summary()
    assert "--power needs --clock" in refused(capsys, "compare", "--power", "example-2xa100")
    assert "did you mean 'example-2xa100'" in refused(capsys, "compare", "--clock", PRESET, "--power", "2xa100")


def test_a_clock_from_a_file_and_a_load_above_capacity(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('unit = "ms"\nbase = 50\n')
    out = run("compare", "--limit", "400", "--clock", str(file), "--rate", "100", "--memory", "3000",
              "--policy", "fcfs", "--policy", "hsf")  # fmt: skip
    assert f"clock {file}" in out
    assert "note: load above capacity: 1" in out
    assert "about: hsf" in out or "about: fcfs" in out
    assert "good" not in out


def test_without_a_clock_times_are_in_rounds_and_targets_too() -> None:
    out = run("compare", "--limit", "50", "--slo", "ttft=30", "--policy", "fcfs", "--memory", "3000")
    assert "times in rounds" in out
    assert "good/r: such requests per round" in out
    machine = ["--max-batch", "4", "--block", "16", "--prefill-budget", "2048"]
    plain = run("compare", "--limit", "50", *machine, "--policy", "fcfs")
    assert (
        "KV cache 16,492 tokens in blocks of 16 (12 tokens left over); at most 4 at once; at most 2,048 tokens a round;"
        in plain
    )
    assert "wasted: share of generated tokens" in plain


def test_priorities_come_from_the_trace_and_their_absence_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "urgent.csv"
    file.write_text("prompt_tokens,output_tokens,priority\n8,5,1\n8,2,0\n")
    args = ("compare", "--json", "--policy", "vllm-priority", "--memory", "13", str(file))
    (row,) = json.loads(run(*args))["policies"]
    assert row["total_latency"] == 2 + 7  # request 1 first, and only one at a time
    file.write_text("prompt_tokens,output_tokens\n8,5\n8,2\n")
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 1
    assert "needs the column 'priority'" in json.loads(result.stdout)["policies"][0]["error"]


def test_a_figure_of_a_comparison_in_seconds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    file = tmp_path / "compared.svg"
    run("compare", "--limit", "50", "--clock", PRESET, "--policy", "fcfs", "--plot", str(file))
    assert file.stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--clock", "llama2-70b"], "did you mean"),
        (["--clock", "none.toml"], "none.toml: No such file"),
        (["--clock", PRESET, "--round-seconds", "2"], "--round-seconds and --clock"),
        (["--clock", PRESET, "--slo", "tfft=1"], "did you mean 'ttft'"),
        (["--clock", PRESET, "--slo", "ttft"], "does not have the form ttft=1,tpot=0.1"),
        (["--clock", PRESET, "--rate", "0"], "rate must be greater than 0"),
        (["--clock", PRESET, "--warmup", "1e9"], "leave nothing of a run"),
        (["--max-batch", "0"], "max_batch must be"),
        (["--block", "2000"], "block must be"),
        (["--prefill-budget", "0"], "prefill_budget must be"),
    ],
)
def test_bad_input_of_compare(capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert said in refused(capsys, "compare", "--limit", "10", "--policy", "fcfs", *args)


# timeline -------------------------------------------------------------------------------------------------------------


def test_timeline_draws_and_writes_a_trace(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    out, trace = tmp_path / "run.png", tmp_path / "run.json"
    said = run("timeline", "--limit", "40", "--memory", "1500", "--clock", PRESET, "--rate", "5",
               "--policy", "amin", "--out", str(out), "--perfetto", str(trace))  # fmt: skip
    result = ls.simulate(served(5, 40), "amin", memory=1500, clock=PRESET)
    assert f"mean latency {result.mean_latency:.2f}" in said
    assert said.endswith(f"Wrote {out} and {trace}.\n")
    assert out.read_bytes().startswith(b"\x89PNG")
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 40 + result.total_evictions


def test_timeline_of_a_trace_in_rounds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,20\n1,3,8\n3,2,30\n")
    said = run("timeline", str(file), "--policy", "fcfs", "--out", str(tmp_path / "a.svg"))
    assert said.startswith("3 requests from")
    assert "times in rounds" in said


def test_bad_input_of_timeline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    assert "the extension must be one of" in refused(capsys, "timeline", "--out", "a.jpg")
    assert "did you mean 'amin'" in refused(capsys, "timeline", "--policy", "amn", "--out", str(tmp_path / "a.png"))
    assert "there is no directory" in refused(
        capsys, "timeline", "--out", str(tmp_path / "a.png"), "--perfetto", str(tmp_path / "no" / "b.json")
    )


# capacity -------------------------------------------------------------------------------------------------------------

ASK = ["capacity", "--slo", "ttft=1,tpot=0.1", "--requests", "120", "--replications", "3"]


def answer(out: str) -> Any:
    return json.loads(out)["answers"]


def test_capacity_finds_what_the_library_finds() -> None:
    workload = ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100))
    asked: dict[str, Any] = {"slo": {"ttft": 1.0, "tpot": 0.1}, "clock": PRESET, "requests": 120, "replications": 3}
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
def test_bad_input_of_capacity(capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert said in refused(capsys, "capacity", *args)
