"""`llmsched sweep`: latency and time to first token against load, per policy, and the knee of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from .._version import version
from ..errors import InputError
from ..metrics import figure_style, load_figures, service
from ..metrics.sweep import Sweep, parse_rates
from ..metrics.sweep import sweep as sweep_rates
from . import console, describe
from .compare import ComparisonOutput
from .console import aligned, aside, number_of, print_columns, say
from .describe import Spelling
from .option_groups import expand_groups
from .options import (
    POLICY_HELP,
    SLO_HELP,
    DrawnOptions,
    FleetOptions,
    Intervals,
    MachineOptions,
    Seed,
    Setup,
    SourceOptions,
    parse_policies,
)
from .predictions import interval_rule, with_predictions

_DEFAULT_POLICIES = ("fcfs", "amin", "hsf")
#: Columns that the table can do without on a narrow terminal, the first to go first; --json and --csv have them all.
_DROPPED = ("warm-up", "ttft p99", "p99", "± ttft", "good", "±")


@dataclass(frozen=True)
class SweepDraws(DrawnOptions):
    """Fewer of them, as there is one at each rate."""

    replications: Annotated[int, typer.Option(metavar="K", help="Random draws of requests and arrivals.")] = 5


@expand_groups(
    "trace machine_name rate policy replicas router slo memory clock_name in_rounds max_batch block prefill_budget "
    "requests replications interval seed generator format_ on_error as_json csv_file plot_file"
)
def sweep(
    source: SourceOptions,
    machine: MachineOptions,
    fleet: FleetOptions,
    output: ComparisonOutput,
    drawn: SweepDraws,
    rate: Annotated[
        str,
        typer.Option(
            "--rate",
            metavar="RATES",
            show_default=False,
            help="Requests per second: FIRST:LAST (ten equal steps), FIRST:LAST:STEPS, or a list such as 0.5,1,2.",
        ),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"{POLICY_HELP} Repeat for several. By default {', '.join(_DEFAULT_POLICIES)}.",
        ),
    ] = None,
    slo: Annotated[str | None, typer.Option("--slo", metavar="TARGETS", help=SLO_HELP)] = None,
    interval: Intervals = None,
    seed: Seed = 0,
) -> None:
    """Latency and time to first token against load, for several policies or routers, and where each stops keeping up.

    At each rate, requests are drawn from TRACE with replacement and arrive in a Poisson process; the warm-up is cut off
    and means have 95 % confidence intervals over the replications. The knee of a policy is the rate that it can serve
    for ever, measured at the lowest rate at which requests pile up.
    """
    output.check(output.plot_file)
    rates = parse_rates(rate)
    targets = {} if slo is None else service.parse_slo(slo)
    several = len(fleet.routers) > 1
    policies, rule = parse_policies(policy or _DEFAULT_POLICIES), interval_rule(interval)
    if several and len(policies) > 1:
        raise InputError("several --router are compared under one policy: add --policy, as in --policy fcfs")
    setup = machine.or_default().setup()
    workload = source.fitting(source.read(seed), setup.memory, setup.block)
    workload, spelling, notes = with_predictions(workload, rule, policies.values())
    asked: dict[str, Any] = {"slo": targets, **drawn.arguments(), "seed": seed}
    with console.ProgressBar("simulations") as bar:
        asked |= {**setup.arguments(), **fleet.arguments()}
        swept = sweep_rates(workload, policies, rates=rates, **asked, progress=partial(bar.update, "sweep"))
    notes += describe.reading_notes(workload) + _notes(swept)
    records = swept.records()
    if output.csv_file is not None:
        console.write_csv(output.csv_file, list(records[0]), records)
    if output.plot_file is not None:
        figure_style.save(load_figures.sweep(swept, intervals=str(spelling)), output.plot_file)
    if output.as_json:
        console.print_json(_json(swept, setup, fleet, spelling, notes))
    elif not output.prints_csv:
        _print(swept, setup, fleet, spelling, notes)


def _json(swept: Sweep, setup: Setup, fleet: FleetOptions, spelling: Spelling, notes: Sequence[str]) -> dict[str, Any]:
    finite = {name: _finite(swept.knee(name)) for name in swept.policies}
    return {
        "llmsched": version,
        "workload": describe.workload_json(swept.workload),
        **describe.setup_json(setup),
        **fleet.json(),
        "intervals": str(spelling),
        "known": spelling.words,
        "slo": dict(swept.slo) or None,
        "requests": swept.requests,
        "replications": swept.replications,
        "seed": swept.seed,
        "notes": list(notes),
        "knees": finite,
        "points": swept.records(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print(swept: Sweep, setup: Setup, fleet: FleetOptions, spelling: Spelling, notes: Sequence[str]) -> None:
    drawn = f"{number_of(swept.replications, 'replication')} of {number_of(swept.requests, 'request')}"
    aside(f"{describe.requests_text(swept.workload)}; {drawn}, Poisson arrivals")
    unit = "rounds" if setup.clock is None else "seconds"
    aside(f"{fleet.text()}{describe.machine_text(setup)}; seed {swept.seed}; times in {unit}")
    aside(f"{spelling.text()}\n")
    heading = "policy" if len(fleet.routers) == 1 else "router"
    print_columns(_cells(swept, heading), drop=_DROPPED)
    say()
    aside("p99: of latency; ttft: time to first token; ±: half the 95 % confidence interval; *: beyond the knee")
    if swept.slo:
        aside(f"good: share of requests with {describe.targets_text(swept.slo)}")
    say()
    say(f"Knee: requests/{swept.unit} that can be served for ever")
    knees = [swept.knee(name) for name in swept.policies]
    beyond = f"above {swept.points[-1].rate:g}"
    texts = ["not known" if math.isnan(k) else beyond if math.isinf(k) else f"{k:.3g}" for k in knees]
    print_columns({heading: list(swept.policies), "knee": texts})
    describe.print_notes(notes)


def _cells(swept: Sweep, heading: str) -> Mapping[str, list[str]]:
    points = swept.points

    def column(values: Mapping[str, list[float]], name: str) -> list[str]:
        return aligned(values[name])

    means = {name: [point.means[name] for point in points] for name in swept.measures}
    halves = {name: [point.half_widths[name] for point in points] for name in swept.measures}
    cells = {
        heading: [point.policy for point in points],
        "rate": [f"{point.rate:.4g}{' ' if swept.is_steady(point) else '*'}" for point in points],
        "mean": column(means, "latency_mean"),
        "±": column(halves, "latency_mean"),
        "p99": column(means, "latency_p99"),
        "ttft": column(means, "ttft_mean"),
        "± ttft": column(halves, "ttft_mean"),
        "ttft p99": column(means, "ttft_p99"),
    }
    if swept.slo:
        cells["good"] = aligned([100 * share for share in means["goodput"]], suffix="%", decimals=1)
    cells["warm-up"] = aligned([100 * point.warm_up for point in points], suffix="%", decimals=0)
    return cells


def _notes(swept: Sweep) -> list[str]:
    """What lacks replications, and what has no knee."""
    notes = []
    for name in swept.policies:
        short = [point for point in swept.of(name) if point.replications < swept.replications]
        if short:
            rates = ", ".join(f"{point.rate:g}" for point in short)
            notes.append(f"{name}: replications that did not finish are left out, at the rates {rates}")
    return notes
