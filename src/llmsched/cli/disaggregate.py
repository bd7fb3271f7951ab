"""`llmsched disaggregate`: a pool of machines for prompts and one for tokens, beside as many that do both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from .._version import version
from ..errors import InputError
from ..fleet.disaggregated import Disaggregated, Transfer, simulate_disaggregated
from ..fleet.result import FleetResult
from ..fleet.simulate_fleet import simulate_fleet
from ..metrics import service
from ..policy_files import parse as parse_policy
from . import console, describe
from .console import aligned, print_columns, say
from .option_groups import expand_groups
from .options import (
    POLICY_HELP,
    ROUTER_HELP,
    SLO_HELP,
    DataOutput,
    Intervals,
    MachineOptions,
    RequestOptions,
    Seed,
)
from .predictions import interval_rule, with_predictions

_TIMES = tuple(f"{metric}_p{q}" for metric in ("ttft", "tpot", "e2e") for q in (50, 90, 99))


@dataclass(frozen=True)
class PoolOptions:
    """How many replicas each pool has, who chooses among them, and what moves between them."""

    pools: Annotated[
        list[str],
        typer.Option(
            "--pools",
            metavar="PREFILL:DECODE",
            show_default=False,
            help="Replicas that process prompts, and that generate the tokens after the first, such as 2:4. Repeat for "
            "a row each.",
        ),
    ]
    transfer: Annotated[
        float, typer.Option(metavar="S", help="Seconds to move the cache of one token of a prompt (rounds, in rounds).")
    ] = 0.0
    transfer_latency: Annotated[float, typer.Option(metavar="S", help="Seconds that each transfer takes besides.")] = (
        0.0
    )
    router: Annotated[str, typer.Option("--router", metavar="NAME", help=f"{ROUTER_HELP} For both pools.")] = (
        "least-requests"
    )

    def sizes(self) -> list[tuple[int, int]]:
        """Prefill and decode replicas of each --pools. InputError if one has not the form 2:4."""
        found = []
        for text in self.pools:
            prefill, colon, decode = text.partition(":")
            if not (colon and prefill.isdecimal() and decode.isdecimal() and int(prefill) and int(decode)):
                raise InputError(f"--pools {text} does not have the form 2:4, prefill and decode replicas")
            found.append((int(prefill), int(decode)))
        return list(dict.fromkeys(found))


@expand_groups(
    "trace pools transfer transfer_latency policy router machine_name memory interval seed limit generator clock_name "
    "in_rounds rate slo max_batch block prefill_budget format_ on_error as_json csv_file"
)
def disaggregate(
    requests: RequestOptions,
    pools: PoolOptions,
    machine: MachineOptions,
    output: DataOutput,
    policy: Annotated[str, typer.Option(metavar="NAME", help=POLICY_HELP)] = "fcfs",
    slo: Annotated[str | None, typer.Option("--slo", metavar="TARGETS", help=SLO_HELP)] = None,
    interval: Intervals = None,
    seed: Seed = 0,
) -> None:
    """Process prompts on one pool of machines and generate tokens on another, and compare with as many that do both.

    A request generates its first token on a prefill replica; its cache moves, and a decode replica generates the rest.
    What a decode replica evicts it processes again itself.
    """
    output.check()
    sizes, transfer = pools.sizes(), Transfer(pools.transfer, pools.transfer_latency)
    chosen, rule = parse_policy(policy), interval_rule(interval)
    targets = {} if slo is None else service.parse_slo(slo)
    workload = requests.read(seed, requests.limit)
    setup = machine.or_default().setup(workload)
    workload = requests.fitting(workload, setup.memory, setup.block)
    workload, spelling, notes = with_predictions(requests.at_rate(workload, seed), rule, [chosen])
    common: dict[str, Any] = {**setup.arguments(), "router": pools.router, "seed": seed}
    records = []
    with console.ProgressBar("fleets") as bar:
        totals = list(dict.fromkeys(map(sum, sizes)))
        rows = len(sizes) + len(totals)
        for prefill, decode in sizes:
            apart = simulate_disaggregated(
                workload, chosen, prefill=prefill, decode=decode, transfer=transfer, **common
            )
            records.append({"fleet": f"{prefill} + {decode}", **_of_pools(apart, targets)})
            bar.update("pools", len(records), rows)
        for replicas in totals:
            fleet = simulate_fleet(workload, chosen, replicas=replicas, record="tokens", **common)
            records.append({"fleet": f"{replicas} that do both", **_of_both(fleet, targets)})
            bar.update("pools", len(records), rows)
    if output.csv_file is not None:
        console.write_csv(output.csv_file, list(records[0]), records)
    notes += describe.reading_notes(workload)
    if output.as_json:
        settings = {"intervals": str(spelling), "known": spelling.words, "seed": seed, **describe.setup_json(setup)}
        settings |= {"policy": chosen.name, "router": pools.router, "rate": requests.rate, "slo": targets or None}
        settings |= {"transfer": {"per_token": transfer.per_token, "latency": transfer.latency}}
        workload_json = describe.workload_json(workload)
        console.print_json(
            {"llmsched": version, "workload": workload_json, **settings, "notes": notes, "fleets": records}
        )
    elif not output.prints_csv:
        before = f"policy {chosen.name}, router {pools.router}; each "
        describe.print_run_header(workload, setup, seed, spelling, None, before)
        _print_fleets(records, targets)
        describe.print_notes(notes)


def _of_pools(result: Disaggregated, targets: Mapping[str, float]) -> dict[str, Any]:
    found = result.summary()
    return {
        "prefill_replicas": found["prefill_replicas"],
        "decode_replicas": found["decode_replicas"],
        "mean_latency": found["mean_latency"],
        **{name: _finite(found[name]) for name in _TIMES},
        "goodput": result.goodput(targets) if targets else None,
        "evictions": found["prefill_evictions"] + found["decode_evictions"],
        "prefill_busy": found["prefill_busy"],
        "decode_busy": found["decode_busy"],
    }


def _of_both(result: FleetResult, targets: Mapping[str, float]) -> dict[str, Any]:
    found = service.metrics(result, targets)
    times = {
        f"{metric}_p{q}": float(found.percentile(metric, q)) for metric, _, q in (t.partition("_p") for t in _TIMES)
    }
    busy = float(result.busy.mean())
    return {
        "prefill_replicas": len(result.outcomes),
        "decode_replicas": len(result.outcomes),
        "mean_latency": result.mean_latency,
        **{name: _finite(value) for name, value in times.items()},
        "goodput": found.goodput if targets else None,
        "evictions": result.total_evictions,
        "prefill_busy": busy,
        "decode_busy": busy,
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _print_fleets(records: Sequence[Mapping[str, Any]], targets: Mapping[str, float]) -> None:
    def column(name: str, **how: Any) -> list[str]:
        return aligned([record[name] for record in records], **how)

    def percent(name: str, decimals: int) -> list[str]:
        shares = [record[name] for record in records]
        return aligned([None if x is None else x * 100 for x in shares], suffix="%", decimals=decimals)

    cells = {"replicas": [str(record["fleet"]) for record in records], "mean": column("mean_latency")}
    cells |= {f"{m} p{q}": column(f"{m}_p{q}", decimals=3) for m in ("ttft", "tpot") for q in (50, 99)}
    if targets:
        cells["good"] = percent("goodput", 1)
    cells |= {
        "evicted": column("evictions"),
        "prefill": percent("prefill_busy", 0),
        "decode": percent("decode_busy", 0),
    }
    say()
    print_columns(cells)
    say()
    say("mean: latency; ttft: time to first token; tpot: time per token after it, transfer included")
    if targets:
        say(f"good: share of requests with {describe.targets_text(targets)}")
    say("prefill, decode: share of the time in which rounds ran, of the replicas of either pool (mean)")
