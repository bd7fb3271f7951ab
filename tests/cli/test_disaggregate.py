"""`llmsched disaggregate`: what it says is what the library says, and what it refuses."""

from __future__ import annotations

import csv
import io
import json

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, Refused, run, served

import llmsched as ls

ASK = ["disaggregate", "--limit", "200", "--rate", "20", "--pools", "1:2", "--pools", "2:2"]
MORE = ["--policy", "vllm", "--router", "round-robin", "--transfer", "1e-5", "--transfer-latency", "0.01"]


def test_disaggregate_says_what_the_library_says() -> None:
    out = json.loads(run(*ASK, *MORE, "--slo", "ttft=1,tpot=0.1", "--json"))
    machine = ls.machines[CLOCK].options() | {"router": "round-robin"}
    transfer = ls.Transfer(per_token=1e-5, latency=0.01)
    assert out["transfer"] == {"per_token": 1e-5, "latency": 0.01}
    assert [row["fleet"] for row in out["fleets"]] == ["1 + 2", "2 + 2", "3 that do both", "4 that do both"]
    for row in out["fleets"][:2]:
        sizes = {"prefill": row["prefill_replicas"], "decode": row["decode_replicas"]}
        apart = ls.simulate_disaggregated(served(20), "vllm", **sizes, transfer=transfer, **machine)
        assert row["mean_latency"] == apart.mean_latency
        assert row["tpot_p99"] == apart.percentile("tpot", 99)
        assert row["goodput"] == apart.goodput({"ttft": 1.0, "tpot": 0.1})
        assert row["evictions"] == apart.prefill.total_evictions + apart.decode.total_evictions
    for row in out["fleets"][2:]:
        replicas = row["prefill_replicas"]
        both = ls.simulate_fleet(served(20), "vllm", replicas=replicas, record="tokens", **machine)
        assert row["mean_latency"] == both.mean_latency
        assert row["ttft_p50"] == ls.service.metrics(both).percentile("ttft", 50)
        assert row["prefill_busy"] == row["decode_busy"] == both.busy.mean()


def test_disaggregate_prints_a_row_for_each_fleet() -> None:
    out = run(*ASK, *MORE, "--slo", "ttft=1")
    assert "\npolicy vllm, router round-robin; each machine llama2-70b-2xa100; KV cache" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["1", "+", "2"] in [row[:3] for row in rows]
    assert ["4", "that", "do", "both"] in [row[:4] for row in rows]
    assert "good: share of requests with ttft <= 1" in out
    table = list(csv.DictReader(io.StringIO(run(*ASK, "--csv", "-"))))
    assert [row["fleet"] for row in table] == ["1 + 2", "2 + 2", "3 that do both", "4 that do both"]


def test_in_rounds_a_transfer_takes_rounds() -> None:
    args = ["disaggregate", "--limit", "50", "--rounds", "--memory", "3000", "--pools", "1:1"]
    first = json.loads(run(*args, "--json"))["fleets"][0]
    later = json.loads(run(*args, "--transfer-latency", "40", "--json"))["fleets"][0]
    assert first["ttft_p50"] == later["ttft_p50"]
    assert first["mean_latency"] < later["mean_latency"] <= first["mean_latency"] + 80


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--pools", "3"], "--pools 3 does not have the form 2:4, prefill and decode replicas"),
        (["--pools", "0:3"], "--pools 0:3 does not have the form 2:4"),
        (["--pools", "1:1", "--transfer", "-1"], "expected a time of at least 0"),
        (["--pools", "1:1", "--policy", "vllm,prefixes=cached"], "cached prefixes are not for two pools"),
        (["--pools", "1:1", "--router", "randm"], "did you mean 'random'?"),
        (["--pools", "1:1", "--slo", "ttf=1"], "ttf"),
    ],
)
def test_disaggregate_refuses_what_is_no_pair_of_pools(args: list[str], said: str, refused: Refused) -> None:
    assert said in refused("disaggregate", "--limit", "20", *args)
