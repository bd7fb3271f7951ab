"""Fleets on the command line: `llmsched routers`, `compare --replicas --router`, `capacity --replicas`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import Refused, compared, run

import llmsched as ls

LIMITED = ["--limit", "150", "--rate", "0.5", "--memory", "3000"]
W = ls.generate.poisson(ls.generate.lmsys(150), 0.5).with_intervals(ls.intervals.buckets(100))


def test_routers_lists_all_of_them_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("routers").splitlines()
    assert max(map(len, lines)) <= 80
    for name in ls.routers:
        assert sum(line.split()[:1] == [name] for line in lines) == 2


def test_routers_as_json_make_the_same_routers_again() -> None:
    for entry in json.loads(run("routers", "--json")):
        fields = {key: entry[key] for key in ls.Router().fields()}
        assert ls.Router(**fields) == ls.routers[entry["router"]]
        assert entry["description"]
        assert tuple(entry["needs"]) == ls.routers[entry["router"]].needs


def test_compare_on_a_fleet_says_what_the_library_says() -> None:
    args = [*LIMITED, "--policy", "fcfs", "--policy", "amin", "--replicas", "3", "--router", "least-work,work=upper"]
    out = compared(*args)
    expected = ls.compare(W, ["fcfs", "amin"], memory=3000, replicas=3, router="least-work,work=upper")
    records = [{name: row[name] for name in expected.records()[0]} for row in out["policies"]]
    assert records == expected.records()
    assert records[0]["replicas"] == out["replicas"] == 3
    assert records[0]["router"] == "least-work,work=upper"
    assert ls.Router(**out["routers"]["least-work,work=upper"]) == ls.routers["least-work"].replace(work="upper")
    text = run("compare", *args)
    assert "\n3 replicas, router least-work,work=upper; each KV cache 3,000 tokens; seed 0; times in rounds\n" in text
    assert "policies are told" not in text  # the router is told as well


def test_compare_has_a_row_for_each_router() -> None:
    args = [*LIMITED, "--policy", "fcfs", "--replicas", "3", "--router", "random", "--router", "least-requests"]
    out = run("compare", *args)
    assert "\n3 replicas; each KV cache 3,000 tokens" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    assert rows["router"][:5] == ["router", "mean", "p50", "p99", "vs"]
    assert "vs random: ratio of mean latencies" in out
    for name in ("random", "least-requests"):
        fleet = ls.simulate_fleet(W, "fcfs", replicas=3, memory=3000, router=name)
        assert rows[name][1] == f"{fleet.mean_latency:,.2f}"
        assert rows[name][-1] == f"{fleet.busy.min() * 100:.0f}-{fleet.busy.max() * 100:.0f}%"


def test_a_condition_can_read_what_a_fleet_has() -> None:
    args = [*LIMITED, "--policy", "fcfs", "--replicas", "3", "--router", "random", "--router", "least-requests"]
    out = run("compare", *args, "--fail-if", "least-requests.most_busy > 1.5")
    assert "least-requests.most_busy > 1.5" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--router", "random"], "--router chooses among replicas: say how many, as in --replicas 8"),
        (["--replicas", "0"], "replicas must be a whole number from 1"),
        (["--replicas", "3", "--router", "randm"], "did you mean 'random'?"),
        (["--replicas", "3", "--router", "random", "--router", "session"], "compared under one policy: add --policy"),
        (["--replicas", "3", "--router", "session"], "router session reads the column 'session'"),
        (["--fail-if", "fcfs.most_busy > 1"], "--replicas"),
    ],
)
def test_compare_refuses_what_is_no_fleet(args: list[str], said: str, refused: Refused) -> None:
    assert said in refused("compare", "--limit", "20", *args)


ASK = ["capacity", "--slo", "ttft=1,tpot=0.1", "--rate", "30", "--requests", "300", "--replications", "3"]


def test_capacity_finds_the_fewest_replicas_that_the_library_finds(tmp_path: Path) -> None:
    workload = ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100))
    asked: dict[str, Any] = {"slo": {"ttft": 1.0, "tpot": 0.1}, "rate": 30.0, "requests": 300, "replications": 3}
    asked |= ls.machines["llama2-70b-2xa100"].options()
    expected = ls.capacity.fewest_replicas(workload, "fcfs", router="random", most=40, **asked)
    args = [*ASK, "--replicas", "1:40", "--router", "random"]
    (found,) = json.loads(run(*args, "--json"))["answers"]
    assert found == expected.record()
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    out = run(*args, "--plot", str(tmp_path / "figure.png"))
    assert "\nreplicas behind random; each machine llama2-70b-2xa100; KV cache 16,492 tokens; " in out
    assert "Fewest replicas with 0.9 of requests within ttft <= 1, tpot <= 0.1:" in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("fcfs")]
    assert row[1:4] == [f"{value:,.0f}" for value in (expected.value, expected.low, expected.high)]
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_capacity_has_a_row_for_each_router_or_policy() -> None:
    out = run(*ASK, "--router", "random", "--router", "power-of-two")
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("router ", "random", "power"))] == [
        "router", "random", "power-of-two"
    ]  # fmt: skip
    out = run(*ASK, "--find", "replicas", "--policy", "fcfs", "--policy", "amin")
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("policy ", "fcfs", "amin"))] == [
        "policy", "fcfs", "amin"
    ]  # fmt: skip
    assert "note: fcfs: the targets do not hold with 2 replicas either: allow more" in run(*ASK, "--replicas", "1:2")


def test_too_few_replicas_for_ever_are_said_to_be_with_what_to_ask() -> None:
    asked = ["capacity", "--slo", "ttft=1,tpot=0.1", "--rate", "60", "--requests", "60", "--replications", "3"]
    out = run(*asked, "--find", "replicas")
    told = out.partition("note: fcfs: this does not hold for ever: 60 requests/s arrive, and about ")[2]
    assert float(told.split()[0]) < 60
    assert told.endswith("Ask again with longer ones: --requests 600\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--replicas", "8"], "--replicas 8 does not have the form 1:64"),
        (["--replicas", "8:2"], "--replicas 8:2 does not have the form 1:64"),
        (["--replicas", "0:2"], "--replicas 0:2 does not have the form 1:64"),
        (["--replicas", "1:4", "--find", "rate"], "--replicas and --router are for --find replicas, not rate"),
        (["--router", "random", "--router", "session", "--policy", "fcfs", "--policy", "hsf"], "give one --policy"),
        (["--find", "replica"], "did you mean 'replicas'"),
    ],
)
def test_capacity_refuses_what_is_no_search_for_replicas(args: list[str], said: str, refused: Refused) -> None:
    assert said in refused(*ASK, *args)


def test_sweep_has_a_line_for_each_router(tmp_path: Path) -> None:
    args = ["sweep", "--rate", "5,20", "--requests", "150", "--replications", "2", "--replicas", "3"]
    out = run(*args, "--policy", "fcfs", "--router", "random", "--router", "least-requests")
    assert "\n3 replicas; each machine llama2-70b-2xa100; KV cache" in out
    assert sum(line.startswith("router ") for line in out.splitlines()) == 2
    assert sum(line.startswith(("random ", "least-requests ")) for line in out.splitlines()) == 6
    both = json.loads(run(*args, "--policy", "fcfs", "--router", "power-of-two", "--json"))
    assert (both["replicas"], list(both["routers"])) == (3, ["power-of-two"])
    assert {point["policy"] for point in both["points"]} == {"fcfs"}


def test_sweep_refuses_several_routers_with_several_policies(refused: Refused) -> None:
    said = refused("sweep", "--rate", "5", "--replicas", "3", "--router", "random", "--router", "session")
    assert "several --router are compared under one policy: add --policy" in said


def test_capacity_finds_the_cheapest_mix_that_the_library_finds() -> None:
    small, large = "llama2-70b-2xa100", "llama2-70b-4xa100"
    workload = ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100))
    kinds = {small: ls.Replica.of(ls.machines[small], price=1.0), large: ls.Replica.of(ls.machines[large], price=2.6)}
    asked: dict[str, Any] = {"slo": {"ttft": 1.0, "tpot": 0.1}, "rate": 30.0, "requests": 300, "replications": 3}
    expected = ls.cheapest_mix(workload, "fcfs", kinds=kinds, most=8, **asked)
    args = [*ASK, "--mix", f"{small}=1", "--mix", f"{large}=2.6", "--replicas", "1:8"]
    (found,) = json.loads(run(*args, "--json"))["answers"]
    assert found == expected.record()
    out = run(*args)
    (row,) = [line.split() for line in out.splitlines() if line.startswith("fcfs")]
    assert row[1:4] == [str(expected.counts[small]), str(expected.counts[large]), f"{expected.price:.2f}"]
    assert "Cheapest mix with 0.9 of requests within ttft <= 1, tpot <= 0.1:" in out
    none = run(*ASK, "--rate", "30", "--mix", f"{small}=1", "--replicas", "1:1")
    assert "note: fcfs: the targets do not hold with 1 replica of any mix" in none


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--mix", "llama2-70b-2xa100"], "does not have the form MACHINE=PRICE"),
        (["--mix", "llama2-70b-2xa100=0"], "does not have the form MACHINE=PRICE"),
        (["--mix", "llama2-70b-2xa10=1"], "did you mean 'llama2-70b-2xa100'"),
        (["--mix", "llama2-70b-2xa100=1", "--mix", "llama2-70b-2xa100=2"], "llama2-70b-2xa100 twice"),
        (["--mix", "llama2-70b-2xa100=1", "--memory", "9000"], "--mix says which machines there are"),
        (["--mix", "llama2-70b-2xa100=1", "--find", "replicas"], "leave --find and --plot out"),
        (["--mix", "llama2-70b-2xa100=1", "--router", "random", "--router", "session"], "--mix is for one --router"),
    ],
)
def test_capacity_refuses_what_is_no_mix(args: list[str], said: str, refused: Refused) -> None:
    assert said in refused(*ASK, *args)


def test_prefixes_are_kept_by_a_field_of_the_policy(tmp_path: Path) -> None:
    """There is no option for it: the policy says so, and the table has the share that was in the cache."""
    rows = [(0, [1, 2]), (9, [1, 3]), (30, [1, 2])]
    lines = [
        json.dumps({"timestamp": 1000 * at, "input_length": 1024, "output_length": 20, "hash_ids": ids})
        for at, ids in rows
    ]
    trace = tmp_path / "blocks.jsonl"
    trace.write_text("\n".join(lines) + "\n")
    machine = ls.machines["llama2-70b-8xh100"].options()
    expected = ls.simulate(ls.traces.load(trace), "vllm, prefixes=cached", **machine)
    args = ["--policy", "vllm,prefixes=cached", "--policy", "vllm", "--machine", "llama2-70b-8xh100", "--json"]
    cached, plain = sorted(compared(str(trace), *args)["policies"], key=lambda row: row["hit_share"] is None)
    assert cached["hit_share"] == expected.hit_share > 0.4
    assert cached["mean_latency"] == expected.mean_latency < plain["mean_latency"]
    assert "hits" in run("compare", str(trace), *args[:-1])
