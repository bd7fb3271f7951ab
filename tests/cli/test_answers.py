"""What a command says of its own answer: what is known of lengths, what the requests run on, what was left out."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, PLAIN, Refused, compared, run

import llmsched as ls
from llmsched.metrics import knowledge

BIG = "llama2-70b-8xh100"
TIMED = "arrival_s,prompt_tokens,output_tokens\n0,5,20\n1,3,8\n3,2,30\n"
CLOCK_FILE = 'unit = "ms"\nbase = 50\n'


@pytest.fixture
def timed(tmp_path: Path) -> str:
    """A trace with arrival times."""
    file = tmp_path / "timed.csv"
    file.write_text(TIMED)
    return str(file)


# What is known of lengths ---------------------------------------------------------------------------------------------


def test_the_header_says_what_the_intervals_are_made_from() -> None:
    out = run("compare", "--limit", "20", "--policy", "amin", "--intervals", "constant:1,1000")
    assert "\nintervals constant:1,1000, no knowledge: 1 to 1,000 for everybody\n" in out


def test_a_comparison_tells_what_a_prediction_is_worth() -> None:
    args = ["--limit", "300", "--rate", "8", "--memory", "2000", "--machine", CLOCK, "--policy", "amin",
            "--policy", "mcsf", "--policy", "vllm", "--policy", "hsf"]  # fmt: skip
    told = {level["name"]: level for level in compared(*args)["knowledge"]}
    assert list(told) == ["nothing", "predictor", "truth"]
    workload = ls.generate.poisson(ls.generate.lmsys(300), 8)
    rules = {
        "nothing": ls.intervals.constant(1, int(workload.output.max())),
        "predictor": ls.intervals.realistic(0),
        "truth": ls.intervals.exact(),
    }
    for name, rule in rules.items():
        requests = workload.with_intervals(rule).replace(point=rule.point(workload.output))
        rows = {row["policy"]: row["mean_latency"] for row in told[name]["policies"]}
        assert set(rows) == {"amin", "mcsf", "vllm"}
        for policy, mean in rows.items():
            assert ls.simulate(requests, policy, memory=2000, clock=CLOCK).mean_latency == mean
        assert list(rows.values()) == sorted(rows.values())
    out = run("compare", *args)
    best = [told[name]["policies"][0]["policy"] for name in told]
    verdict = next(line for line in out.splitlines() if line.startswith("verdict: "))
    assert compared(*args)["verdict"] in verdict
    assert all(policy in verdict for policy in best)


def test_the_verdict_names_who_is_best_by_p99_where_it_is_another() -> None:
    args = [
        "--limit",
        "600",
        "--rate",
        "9",
        "--memory",
        "2000",
        "--machine",
        CLOCK,
        "--policy",
        "amin",
        "--policy",
        "vllm",
    ]
    verdict = compared(*args, "--seed", "1")["verdict"]
    assert "by p99 vllm" in str(verdict)


def test_own_predictions_and_policies_that_read_none_need_no_second_table(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("prompt_tokens,output_tokens,lower,upper\n0,10,2,20\n0,3,1,3\n")
    assert compared(str(file), "--memory", "40", "--policy", "amin")["knowledge"] == []
    out = run("compare", "--limit", "30", "--policy", "fcfs")
    assert "verdict" not in out


def test_of_many_requests_only_the_best_policies_run_again() -> None:
    workload = ls.generate.lmsys(knowledge.FEW + 1).with_intervals(ls.intervals.buckets(100))
    policies = {name: ls.policies[name] for name in ("hsf", "amin", "amax", "amin-doubling", "fcfs")}
    chosen = knowledge.candidates(ls.compare(workload, policies, memory=60_000), policies)
    assert "hsf" not in chosen
    assert "fcfs" in chosen
    assert len(chosen) < 5


def test_where_nothing_waits_knowing_lengths_changes_nothing() -> None:
    verdict = str(compared("--limit", "20", "--policy", "amin", "--policy", "mcsf", "--policy", "vllm")["verdict"])
    assert "changes nothing" in verdict
    (winner,) = re.findall(r"rounds \((.*?)\)", verdict)
    others = sorted({"amin", "mcsf", "vllm"} - {winner})
    assert sorted(verdict.split("; within 0.5 % of it: ")[1].split(", ")) == others


def test_policies_that_are_as_good_as_the_best_are_named_with_it() -> None:
    def level(name: str, **means: float) -> knowledge.Level:
        workload = ls.generate.lmsys(20).with_intervals(ls.intervals.exact())
        row = ls.compare(workload, ["amin"], memory=16_492)["amin"]
        assert row.result is not None
        scaled = {who: row.result.completion * (mean / row.result.mean_latency) for who, mean in means.items()}
        rows = [
            dataclasses.replace(row, policy=who, result=dataclasses.replace(row.result, completion=completion))
            for who, completion in scaled.items()
        ]
        return knowledge.Level(name, name, ls.intervals.exact(), tuple(rows))

    found = [level("nothing", a=10, b=10.04, c=10.06), level("truth", a=8, c=8.01, b=8.02)]
    said = knowledge.verdict(found, "{:.1f}".format)
    assert (
        said
        == "a has the smallest mean at every level (s): 10.0 told nothing, 8.0 told the truth; within 0.5 % of it: b"
    )


# Machines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--machine", "--clock"])
def test_a_named_clock_has_the_cache_and_limits_of_its_machine(option: str) -> None:
    machine = ls.machines[BIG]
    out = compared("--limit", "50", "--rate", "5", "--policy", "fcfs", option, BIG)
    assert (out["machine"], out["memory"], out["block"], out["max_batch"]) == (BIG, machine.memory, 16, 256)
    requests = ls.generate.poisson(ls.generate.lmsys(50), 5)
    assert out["policies"][0]["mean_latency"] == ls.simulate(requests, "fcfs", **machine.options()).mean_latency


def test_options_replace_what_a_machine_has_and_are_told() -> None:
    out = run("compare", "--limit", "50", "--policy", "fcfs", "--machine", BIG, "--memory", "8000", "--max-batch", "8")
    assert f"\nmachine {BIG} with --memory 8,000, --max-batch 8; KV cache 8,000 tokens in blocks of 16; " in out
    assert "; at most 8 at once; seed 0; times in seconds\n" in out


def test_capacity_uses_the_cache_of_the_machine() -> None:
    args = ["capacity", "--slo", "ttft=1", "--requests", "60", "--replications", "2", "--json"]
    (answer,) = json.loads(run(*args, "--clock", BIG))["answers"]
    assert answer["memory"] == ls.machines[BIG].memory
    (answer,) = json.loads(run(*args))["answers"]
    assert answer["memory"] == 16_492


def test_a_machine_file_and_a_clock_file_that_asks_for_a_cache(tmp_path: Path, refused: Refused) -> None:
    clock, machine = tmp_path / "mine.toml", tmp_path / "ours.toml"
    clock.write_text(CLOCK_FILE)
    machine.write_text('clock = "mine.toml"\nmemory = 900\nmax_batch = 3\n')
    out = compared("--limit", "20", "--policy", "fcfs", "--machine", str(machine))
    assert (out["machine"], out["memory"], out["max_batch"]) == ("ours", 900, 3)
    said = refused("compare", "--limit", "20", "--clock", str(clock))
    assert "has no cache: add --memory" in said
    assert "--machine" in said
    assert "has no cache" in refused("capacity", "--slo", "ttft=1", "--clock", str(clock))
    assert compared("--limit", "20", "--policy", "fcfs", "--clock", str(clock), "--memory", "900")["memory"] == 900


def test_machines_are_listed() -> None:
    out = run("machines")
    assert all(name in out for name in (*ls.machines, *ls.serving.clocks))
    assert f"{ls.machines[BIG].memory:,}" in out
    assert json.loads(run("machines", "--json")) == [machine.fields() for machine in ls.machines.values()]


def test_power_can_be_that_of_the_machine(refused: Refused) -> None:
    args = ["compare", "--limit", "20", "--policy", "fcfs", "--power", "machine", "--machine"]
    assert "J/token" in run(*args, CLOCK)
    assert "says nothing of power" in refused(*args, BIG)


# Arrivals -------------------------------------------------------------------------------------------------------------


def test_a_trace_with_arrival_times_is_answered_in_seconds(timed: str, refused: Refused) -> None:
    out = run("compare", timed, "--policy", "fcfs")
    assert f"\nmachine {CLOCK}; the default, as TRACE has arrival times: --rounds counts rounds; KV cache 16,492" in out
    assert "times in seconds" in out
    for rounds in (["--rounds"], ["--round-seconds", "1"]):
        assert "times in rounds" in run("compare", timed, "--policy", "fcfs", *rounds)
        assert f"{rounds[0]} and --machine both" in refused("compare", timed, "--machine", CLOCK, *rounds)


def test_an_overload_in_rounds_names_every_policy_and_what_it_does_to_means() -> None:
    args = ["compare", "--limit", "1000", "--rate", "2", "--memory", "6000", "--policy", "hsf", "--policy", "amin"]
    (note,) = [line for line in run(*args).splitlines() if "load above capacity" in line]
    assert "requests/round arrive" in note
    assert "means are larger the longer the trace" in note
    assert "hsf " in note
    assert "amin " in note


def test_a_cache_that_never_fills_is_told(timed: str) -> None:
    args = ["compare", timed, "--policy", "vllm", "--policy", "amin", "--memory"]
    (note,) = [line for line in run(*args, "400k").splitlines() if "of the cache is ever in use" in line]
    workload, machine = ls.traces.load(timed), ls.machines[CLOCK].options() | {"memory": 400_000}
    told = workload.with_intervals(ls.intervals.buckets(100))
    peak = max(ls.simulate(told, policy, **machine).peak_share for policy in ("vllm", "amin"))
    assert note == f"note: at most {peak:.0%} of the cache is ever in use: it is not what requests wait for"
    longest = int((workload.prompt + workload.output).max())
    assert "ever in use" not in run(*args, str(longest))
    assert "ever in use" not in run(*args, "400k", "--rounds")


def test_an_overload_of_some_policies_is_theirs() -> None:
    args = ["--limit", "1000", "--rate", "0.6", "--memory", "6000", "--policy", "amin", "--policy", "aell"]
    (note,) = [line for line in run("compare", *args).splitlines() if "load above capacity" in line]
    assert note.startswith("note: load above capacity under aell: 0.59 ")


# Long requests --------------------------------------------------------------------------------------------------------


def test_long_requests_are_left_out_or_cut_off_and_counted(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "5,5\n5,50\n60,5\n")
    args = [str(file), "--memory", "40", "--policy", "fcfs"]
    assert "--too-long drop" in refused("compare", *args)
    dropped = compared(*args, "--too-long", "drop")
    assert dropped["workload"]["output_tokens"] == 5
    assert "requests longer than 40 tokens: 2 left out, 0 cut off there" in dropped["notes"]
    clipped = compared(*args, "--max-model-len", "30")
    assert clipped["workload"]["output_tokens"] == 5 + 25
    assert "requests longer than 30 tokens: 1 left out, 1 cut off there" in clipped["notes"]
    said = refused("compare", *args, "--max-model-len", "30", "--too-long", "error")
    assert "request 1 has prompt 5 + output 50 = 55 tokens, more than the 30" in said
    assert "2 in all" in said
    assert "did you mean 'drop'" in refused("compare", *args, "--too-long", "drp")
    for command in (["compare", *args], ["bound", str(file), "--memory", "40"]):
        said = refused(*command, "--max-model-len", "1", "--too-long", "drop")
        assert "no requests are left: all 3 have more than the 1 tokens allowed" in said


@pytest.mark.parametrize("command", ["compare --limit 100", "sweep --requests 100 --replications 2 --rate 1:2"])
def test_published_clocks_are_known_by_their_names(command: str, refused: Refused) -> None:
    args = [*command.split(), "--clock", "llama-3.1-8b-1xrtx4090-vllm"]
    assert "has no cache: add --memory" in refused(*args)
    assert "did you mean 'llama-3.1-8b-1xrtx4090-vllm'" in refused(*args[:-1], "llama-3.1-8b-1xrtx4090")
    run(*args, "--memory", "41408", "--policy", "vllm")


# Policies -------------------------------------------------------------------------------------------------------------


def test_policies_are_composed_and_read_from_files(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "vllm"\nmargin = 0.1\n')
    args = ["--limit", "200", "--memory", "1500", "--policy", "amin,margin=0.05", "--policy", "amin,beta=1,name=other"]
    rows = {row["policy"]: row for row in compared(*args, "--policy", str(file))["policies"]}
    assert set(rows) == {"amin,margin=0.05", "other", "mine"}
    workload = ls.generate.lmsys(200).with_intervals(ls.intervals.buckets(100))
    expected = ls.simulate(workload, ls.Policy(margin=0.05), memory=1500)
    assert rows["amin,margin=0.05"]["mean_latency"] == expected.mean_latency
    assert "did you mean 'margin'" in refused("compare", "--policy", "amin,margn=0.05")
    assert "did you mean 'amin'" in refused("compare", "--policy", "amn,margin=0.05")
    assert "out of range" in refused("compare", "--policy", "amin,margin=5")
    file.write_text("margin = [1]\n")
    assert f"policy file {file}: " in refused("compare", "--policy", str(file))
    assert "two policies are called 'x'" in refused("compare", "--policy", "amin,name=x", "--policy", "amax,name=x")


# Sizing, and traces to try --------------------------------------------------------------------------------------------


def test_size_finds_what_the_library_finds() -> None:
    args = ["size", "--machine", BIG, "--slo", "ttft=1,tpot=0.15", "--rate", "4", "--requests", "0.08k",
            "--replications", "2", "--model", "llama-2-70b", "--gpu", "h100", "--policy", "vllm"]  # fmt: skip
    workload = ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100))
    expected = ls.size(workload, "vllm", machine=BIG, slo={"ttft": 1, "tpot": 0.15}, rate=4, requests=80,
                       replications=2, model="llama-2-70b", gpu="h100")  # fmt: skip
    (answer,) = json.loads(run(*args, "--json"))["answers"]
    assert answer["value"] == expected.tokens
    assert answer["fits"][0]["gpu"] == "h100"
    out = run(*args)
    assert f"{expected.tokens:,.0f}" in out
    assert f"{expected.fits[0].count} x h100" in out
    assert f"of the {ls.machines[BIG].memory:,} there" in out


def test_size_refuses_what_it_cannot_use(refused: Refused) -> None:
    assert "did you mean 'llama-2-70b'" in refused("size", "--slo", "ttft=1", "--rate", "1", "--model", "llama-2-70")
    assert "give the model, too" in refused("size", "--slo", "ttft=1", "--rate", "1", "--gpu", "h100")
    assert "--rounds" in refused("size", "--slo", "ttft=1", "--rounds")


def test_generate_writes_a_trace_that_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    run("generate", "-n", "50", "--rate", "2", "--seed", "3", "-o", str(file))
    read, made = ls.traces.load(file), ls.generate.lmsys(50, 3)
    assert read.output.tolist() == made.output.tolist()
    assert read.arrival.min() == 0
    assert "arriving over" in run("compare", str(file), "--policy", "fcfs")
    run("generate", "uniform:3,9", "-n", "10", "--rate", "1", "--burstiness", "3", "-o", str(file))
    assert len(ls.traces.load(file)) == 10
