"""`llmsched compare`: several policies on one workload, as a table, a figure and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from .._version import version
from ..errors import InputError, MissingPredictionError, NotFinishedError
from ..metrics import energy, figure_style, figures, service
from ..metrics.compare import COLUMNS, DEFAULT_POLICIES, Comparison, Row
from ..metrics.compare import compare as compare_policies
from ..metrics.energy import Energy, Power
from ..metrics.service import Service
from ..policy import named
from ..simulation.run import EngineName
from . import console, describe
from .console import aligned, at_most, print_table, say, stdout
from .option_groups import expand_groups
from .options import (
    SLO_HELP,
    DataOutput,
    EngineOption,
    Intervals,
    MachineOptions,
    RequestOptions,
    RoundSeconds,
    Seed,
)
from .predictions import interval_rule, with_predictions


@dataclass(frozen=True)
class ServiceOptions:
    """What is measured beside latency."""

    slo: Annotated[str | None, typer.Option("--slo", metavar="TARGETS", help=SLO_HELP)] = None
    warmup: Annotated[
        float, typer.Option(metavar="T", help="Time to cut off service metrics at the begin (seconds with a clock).")
    ] = 0.0
    drain: Annotated[float, typer.Option(metavar="T", help="Time to cut off them before the end.")] = 0.0
    power: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Also the joules, of which it needs --clock: {', '.join(energy.powers)}."),
    ] = None


@dataclass(frozen=True)
class ComparisonOutput(DataOutput):
    """JSON, CSV and a figure."""

    plot_file: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Also draw a figure: .png, .svg or .pdf.")
    ] = None


@dataclass(frozen=True)
class _Measured:
    """A comparison with what else was measured by policy, and what was asked."""

    machine: MachineOptions
    asked: ServiceOptions
    comparison: Comparison
    services: Mapping[str, Service] | None  # None: not asked for
    energies: Mapping[str, Energy]
    targets: Mapping[str, float]

    def records(self) -> list[dict[str, Any]]:
        """A record per policy, with every metric."""
        records = _with_summaries(self.comparison.records(), self.services or {})
        return _with_summaries(records, self.energies, prefix="energy_")


@expand_groups(
    "trace policy memory interval seed limit generator round_seconds clock_name rate slo warmup drain power max_batch "
    "block prefill_budget format_ on_error max_rounds engine as_json csv_file plot_file"
)
def compare(
    requests: RequestOptions,
    machine: MachineOptions,
    asked: ServiceOptions,
    output: ComparisonOutput,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A policy, or one with other fields, as in 'amin; order=deadline; margin=0.05'; repeat for several. "
            "By default ten, hsf and nine that cannot see the truth; `llmsched policies` lists more.",
        ),
    ] = None,
    interval: Intervals = None,
    seed: Seed = 0,
    round_seconds: RoundSeconds = 1.0,
    max_rounds: Annotated[int | None, typer.Option(metavar="N", help="Stop a policy after so many rounds.")] = None,
    engine: EngineOption = "compiled",
) -> None:
    """Simulate several policies on one workload and compare them.

    Without TRACE: 2,000 generated requests like those of LMSYS-Chat-1M, all arriving at 0. Latency is completion minus
    arrival, queueing included, in rounds; a round generates one token for every running request.

    With --clock, times are in seconds and the table shows what users feel: time to first token (ttft), time per output
    token (tpot), the share of requests within the targets of --slo and such requests per second (good).

    A policy that does not finish says so in its row. The exit code is 0 if any policy finished, else 1; 2 for bad
    input.
    """
    output.check(output.plot_file)
    policies = {name: named(name) for name in policy or DEFAULT_POLICIES}
    rule = interval_rule(interval)
    timed = machine.clock is not None or asked.slo is not None
    targets = {} if asked.slo is None else service.parse_slo(asked.slo)
    power = _power(asked, machine)
    if machine.clock is not None and round_seconds != 1:
        raise InputError("--round-seconds and --clock both say how long a round lasts: give one of them")
    workload = requests.workload(seed, round_seconds)
    workload, spelling, notes = with_predictions(workload, rule, policies.values())
    with console.ProgressBar("requests") as bar:
        comparison = compare_policies(
            workload,
            policies,
            **machine.arguments(),
            seed=seed,
            engine=cast(EngineName, engine),
            record=("tokens", "timeline") if timed else (),
            max_rounds=max_rounds,
            progress=bar.update,
        )
    results = {row.policy: row.result for row in comparison if row.result is not None}
    window = {"warmup": asked.warmup, "drain": asked.drain}
    measured = _Measured(
        machine,
        asked,
        comparison,
        {name: service.metrics(result, targets, **window) for name, result in results.items()} if timed else None,
        {} if power is None else {name: energy.metrics(result, power) for name, result in results.items()},
        targets,
    )
    notes += describe.reading_notes(workload) + describe.overload_notes(measured.services or {})
    records = measured.records()
    if output.csv_file is not None:
        console.write_csv(output.csv_file, list(records[0]) if records else COLUMNS, records)
    if output.plot_file is not None:
        figure_style.save(figures.comparison(comparison), output.plot_file)
    if output.as_json:
        settings: dict[str, Any] = {"intervals": spelling, "max_rounds": max_rounds, "round_seconds": round_seconds}
        settings |= {"clock": describe.clock_json(machine.clock_name, machine.clock), "rate": requests.rate}
        settings |= {"slo": targets or None, **window, "max_batch": machine.max_batch, "block": machine.block}
        settings |= {"power": asked.power, "prefill_budget": machine.prefill_budget}
        console.print_json(_comparison_json(measured, settings, notes))
    elif not output.prints_csv:
        describe.print_run_header(workload, machine, seed, spelling, round_seconds)
        _print_comparison(measured, max_rounds, notes)
    if not results:
        raise typer.Exit(1)


def _power(asked: ServiceOptions, machine: MachineOptions) -> Power | None:
    if asked.power is None:
        return None
    if machine.clock is None:
        raise InputError("--power needs --clock: joules are watts times seconds")
    return energy.named(asked.power)


def _with_summaries(
    records: Sequence[Mapping[str, Any]], found: Mapping[str, Service | Energy], prefix: str = ""
) -> list[dict[str, Any]]:
    """The records of a comparison, with the summaries of those policies that have some, under prefixed names."""
    names = list(next(iter(found.values())).summary()) if found else []
    merged = []
    for record in records:
        policy = record["policy"]
        known = found[policy].summary() if policy in found else dict.fromkeys(names)
        finite = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in known.items()}
        merged.append({**record, **{f"{prefix}{k}": v for k, v in finite.items()}})
    return merged


def _comparison_json(measured: _Measured, settings: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    comparison = measured.comparison
    latency = comparison.baseline_latency
    return {
        "llmsched": version,
        "workload": describe.workload_json(comparison.workload),
        "memory": comparison.memory,
        "seed": comparison.seed,
        "engine": comparison.engine,
        **settings,
        "baseline": {"policy": comparison.baseline, "mean_latency": None if math.isnan(latency) else latency},
        "notes": list(notes),
        "policies": measured.records(),
    }


def _print_comparison(measured: _Measured, max_rounds: int | None, notes: Sequence[str]) -> None:
    ranked = measured.comparison.ranked()
    cells = _cells(measured, [row.record() for row in ranked if row.result is not None])
    rows: list[Sequence[str]] = list(zip(*cells.values(), strict=True))
    rows += [(row.policy, _why_no_result(row, max_rounds)) for row in ranked if row.result is None]
    say()
    print_table(list(cells), rows)
    say()
    _explain_columns(measured)
    describe.print_notes(notes)
    for row in ranked:
        if isinstance(row.error, MissingPredictionError):
            other = ", or give --intervals" if row.error.column in ("lower", "upper") else ""
            say(f"note: {row.policy} needs {row.error.column!r}, which the trace lacks: add it{other}")
        elif row.error is not None and not _stopped_by_max_rounds(row, max_rounds):
            say(f"note: {row.error}")


def _cells(measured: _Measured, records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The columns of the table by heading, a cell per policy that finished."""

    def column(name: str, **how: Any) -> list[str]:
        return aligned([record[name] for record in records], **how)

    def percent(name: str, decimals: int) -> list[str]:
        return aligned([record[name] * 100 for record in records], suffix="%", decimals=decimals)

    names = [record["policy"] for record in records]
    cells = {
        "policy": names,
        "mean": column("mean_latency"),
        "p50": column("p50_latency", decimals=0),
        "p99": column("p99_latency", decimals=0),
        f"vs {measured.comparison.baseline}": column("ratio", decimals=2),
        "gap": at_most([record["gap"] for record in records]),
        "makespan": column("makespan", decimals=0),
        "evicted": column("evictions"),
        "wasted": percent("wasted_share", 1),
        "peak": percent("peak_share", 0),
    }
    if measured.services is not None:
        cells = _service_cells(cells, [measured.services[name] for name in names], bool(measured.targets))
    if measured.energies:
        energies = [measured.energies[name] for name in names]
        cells["J/token"] = aligned([one.joules_per_token for one in energies], decimals=2)
        cells["wasted J"] = aligned([one.wasted_share * 100 for one in energies], suffix="%", decimals=1)
    if measured.services is None and _least_width(cells) > max(80, stdout().width):
        del cells["peak"]  # very large numbers; --json and --csv have it
    return cells


def _service_cells(
    cells: Mapping[str, list[str]], services: Sequence[Service], with_targets: bool
) -> dict[str, list[str]]:
    """The table with what users feel, in the place of some columns of the plain one."""
    per = services[0].unit[0] if services else "s"
    columns = {
        "policy": cells["policy"],
        "mean": aligned([one.summary()["e2e_mean"] for one in services]),
        "p99": aligned([float(one.percentile("e2e", 99)) for one in services]),
        **{name: column for name, column in cells.items() if name.startswith("vs ") or name == "gap"},
    }
    for metric in ("ttft", "tpot"):
        for q in (50, 99):
            values = [float(one.percentile(metric, q)) for one in services]
            columns[f"{metric} p{q}"] = aligned(values, decimals=_decimals_of_times(values))
    if with_targets:
        columns["good"] = aligned([one.goodput * 100 for one in services], suffix="%", decimals=1)
        columns[f"good/{per}"] = aligned([one.goodput_rate for one in services], decimals=2)
    columns[f"tokens/{per}"] = aligned([one.tokens_rate for one in services])
    return columns | {name: cells[name] for name in ("evicted", "wasted")}


def _decimals_of_times(values: Sequence[float]) -> int | None:
    """Decimals for a column of times: what is short stays readable beside what is long."""
    known = [value for value in values if math.isfinite(value)]
    if max(known, default=0) < 10:
        return 3
    return 2 if min(known) < 1 else None


def _least_width(cells: Mapping[str, Sequence[str]]) -> int:
    """How wide a table of these columns is at least."""
    return sum(max(map(len, (name, *column))) + 1 for name, column in cells.items()) - 1


def _explain_columns(measured: _Measured) -> None:
    timed = measured.machine.clock is not None
    unit = "seconds" if timed else "rounds"
    if measured.services is None:
        say("mean, p50, p99: latency; vs hsf: ratio of mean latencies; wasted: share of generated tokens")
    else:
        say("mean, p99: latency; ttft: time to first token; tpot: time per output token (mean of a request)")
        if measured.targets:
            targets = describe.targets_text(measured.targets)
            say(f"good: share of requests with {targets}; good/{unit[0]}: such requests per {unit[:-1]}")
    if measured.energies:
        power = measured.asked.power
        say(f"J/token: all joules over all output tokens, power model {power}; wasted J: share by evictions")
    better = "proven, and far off where few requests wait" if timed else "llmsched bound proves better bounds"
    say(f"gap: mean latency is at most so far above the best possible ({better})")


def _stopped_by_max_rounds(row: Row, max_rounds: int | None) -> bool:
    return isinstance(row.error, NotFinishedError) and max_rounds is not None and row.error.round >= max_rounds


def _why_no_result(row: Row, max_rounds: int | None) -> str:
    """What stands in the row of a policy without a result; the note below has the rest."""
    if not isinstance(row.error, NotFinishedError):
        return "cannot run: a column is missing"
    why = "stopped by --max-rounds" if _stopped_by_max_rounds(row, max_rounds) else "does not finish"
    return f"{why}: {row.completed:,} of {row.requests:,} completed in {row.error.round:,} rounds"
