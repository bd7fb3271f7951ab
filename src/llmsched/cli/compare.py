"""`llmsched compare`: several policies on one workload, as a table, a figure and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from .._version import version
from ..errors import InputError, MissingPredictionError, NotFinishedError
from ..metrics import energy, figure_style, figures, knowledge, service
from ..metrics.compare import COLUMNS, DEFAULT_POLICIES, FLEET_COLUMNS, Comparison, Row
from ..metrics.compare import compare as compare_policies
from ..metrics.energy import Energy, Power
from ..metrics.gates import Gate
from ..metrics.knowledge import Level
from ..metrics.service import Service
from ..policy import Policy
from ..simulation.run import EngineName
from . import console, describe
from .console import aligned, aside, at_most, print_table, say
from .option_groups import expand_groups
from .options import (
    POLICY_HELP,
    SLO_HELP,
    DataOutput,
    EngineOption,
    FleetOptions,
    Intervals,
    MachineOptions,
    RequestOptions,
    RoundSeconds,
    Seed,
    Setup,
    SystemOptions,
    parse_policies,
    whole_number,
)
from .own_results import ResultOptions, added, judged, verdicts
from .own_results import notes as own_notes
from .predictions import interval_rule, with_predictions

#: Columns that the table can do without on a narrow terminal, the first to go first; --json and --csv have them all.
_DROPPED = (
    "peak", "wasted J", "p50", "tpot p50", "ttft p50", "wasted", "tokens/s", "tokens/r", "makespan", "gap", "evicted",
    "J/token", "tpot p99", "vs hsf", "p99",
)  # fmt: skip


#: How columns of energy begin.
_JOULES = "energy_"
_ENERGY_COLUMNS = [f"{_JOULES}{name}" for name in Energy.summary_names()]


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
        typer.Option(
            metavar="NAME",
            help=f"Also the joules, in seconds only: {', '.join(energy.powers)}, or machine: that of --machine.",
        ),
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

    setup: Setup
    fleet: FleetOptions
    asked: ServiceOptions
    comparison: Comparison
    services: Mapping[str, Service] | None  # None: not asked for
    energies: Mapping[str, Energy]
    targets: Mapping[str, float]
    levels: Sequence[Level] = ()

    def records(self) -> list[dict[str, Any]]:
        """A record per policy, with every metric."""
        records = _with_summaries(self.comparison.records(), self.services or {})
        return _with_summaries(records, self.energies, prefix=_JOULES)

    def told(self, intervals: str) -> list[dict[str, Any]]:
        """The same records, and one more for each policy at each level; the column ``told`` says which is which."""
        records = [{"policy": one["policy"], "told": intervals, **one} for one in self.records()]
        blank = dict.fromkeys(records[0])
        return records + [blank | row.record() | {"told": level.name} for level in self.levels for row in level.rows]


@expand_groups(
    "trace policy machine_name memory interval seed limit generator clock_name in_rounds round_seconds rate slo warmup "
    "drain power replicas router system max_batch block prefill_budget results fail_if format_ on_error max_rounds "
    "engine as_json csv_file plot_file"
)
def compare(
    requests: RequestOptions,
    machine: MachineOptions,
    system: SystemOptions,
    fleet: FleetOptions,
    asked: ServiceOptions,
    own: ResultOptions,
    output: ComparisonOutput,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"{POLICY_HELP} Repeat for several. By default ten, hsf and nine that cannot see the truth; "
            "`llmsched policies` lists more.",
        ),
    ] = None,
    interval: Intervals = None,
    seed: Seed = 0,
    round_seconds: RoundSeconds = None,
    max_rounds: Annotated[
        int | None, typer.Option(metavar="N", parser=whole_number, help="Stop a policy after so many rounds.")
    ] = None,
    engine: EngineOption = "compiled",
) -> None:
    """Simulate several policies on one workload and compare them.

    Without TRACE: 2,000 generated requests like those of LMSYS-Chat-1M, all arriving at 0. Latency is completion minus
    arrival, queueing included, in rounds; a round generates one token for every running request.

    A trace with arrival times is answered in seconds, as is all with --machine, and the table shows what users feel:
    time to first token (ttft), time per output token (tpot), the share of requests within the targets of --slo and such
    requests per second (good).

    Unless the requests bring predictions, a second table tells what these are worth: the best policies if they are told
    nothing, what a real predictor says, or the truth.

    With --replicas N, N such machines serve behind a --router: a row is a fleet. Several --router with one --policy are
    compared with each other.

    A policy that does not finish says so in its row. The exit code is 0 if any policy finished and no condition of
    --fail-if holds, else 1; 2 for bad input. A condition on a policy that does not finish counts as if it held.
    """
    output.check(output.plot_file)
    policies = system.policies() | parse_policies(policy or DEFAULT_POLICIES)
    several = len(fleet.routers) > 1
    if several and len(policies) > 1:
        raise InputError("several --router are compared under one policy: add --policy, as in --policy fcfs")
    if fleet.replicas is not None and own.results:
        raise InputError("--results are of one machine: leave --replicas out")
    conditions = own.conditions(fleet.routers if several else policies)
    rule = interval_rule(interval)
    targets = {} if asked.slo is None else service.parse_slo(asked.slo)
    workload = requests.read(seed, requests.limit, round_seconds)
    setup = system.on(machine, machine.setup(workload, round_seconds, sized=system.system is not None))
    timed = setup.clock is not None or asked.slo is not None
    power = _power(asked, setup)
    _check_columns(conditions, timed, power, fleet)
    workload = requests.fitting(workload, setup.memory, setup.block)
    workload, spelling, notes = with_predictions(requests.at_rate(workload, seed), rule, policies.values())
    logged = timed or bool(workload.arrival.any())  # tokens tell whether the load is above capacity
    own_results = own.read(workload, setup, policies)
    own.check_known(conditions, own_results, [*Service.summary_names(), *_ENERGY_COLUMNS])
    with console.ProgressBar("requests") as bar:
        comparison = compare_policies(
            workload,
            policies,
            **setup.arguments(),
            **fleet.arguments(),
            seed=system.seed(seed),
            engine=cast(EngineName, engine),
            record=("tokens", "timeline") if timed else ("tokens",) if logged else (),
            max_rounds=max_rounds,
            progress=bar.update,
        )
        levels: Sequence[Level] = ()
        if spelling.rule is not None and not several and not fleet.reads_predictions:
            levels = _levels(comparison, policies, setup, fleet, max_rounds, bar)
    results = {row.policy: row.result for row in comparison if row.result is not None}
    comparison = added(comparison, own_results)
    window = {"warmup": asked.warmup, "drain": asked.drain}
    services = {name: service.metrics(result, targets, **window) for name, result in results.items()} if logged else {}
    measured = _Measured(
        setup,
        fleet,
        asked,
        comparison,
        services if timed else None,
        {} if power is None else {name: energy.metrics(result, power) for name, result in results.items()},
        targets,
        levels,
    )
    notes += describe.reading_notes(workload) + describe.overload_notes(services)
    notes += own_notes(own_results, timed)
    if timed and comparison.replicas is None:  # in rounds the table has a column for it
        notes += describe.cache_notes(results.values())
    records = measured.records()
    gates = judged(conditions, comparison, records)
    if output.csv_file is not None:
        told = measured.told(str(spelling))
        console.write_csv(output.csv_file, list(told[0]), told)
    if output.plot_file is not None:
        figure = figures.comparison(comparison, intervals=str(spelling), slo=targets, levels=levels)
        figure_style.save(figure, output.plot_file)
    if output.as_json:
        settings: dict[str, Any] = {"intervals": str(spelling), "known": spelling.words, "max_rounds": max_rounds}
        settings |= {"round_seconds": round_seconds or 1.0, **describe.setup_json(setup), "rate": requests.rate}
        settings |= fleet.json()
        settings |= {"slo": targets or None, **window, "power": asked.power}
        settings |= {"gates": gates} if gates else {}
        console.print_json(_comparison_json(measured, settings, notes))
    elif not output.prints_csv:
        describe.print_run_header(workload, setup, seed, spelling, round_seconds, fleet.text())
        _print_comparison(measured, max_rounds, notes)
    tell = console.complain if output.as_json or output.prints_csv else say  # not into the data
    for line in verdicts(gates):
        tell(line)
    if not results or any(gate["holds"] for gate in gates):
        raise typer.Exit(1)


def _levels(
    comparison: Comparison,
    policies: Mapping[str, Policy],
    setup: Setup,
    fleet: FleetOptions,
    max_rounds: int | None,
    bar: console.ProgressBar,
) -> Sequence[Level]:
    """The policies again, told nothing, what a real predictor says, and the truth."""
    return knowledge.levels(
        comparison.workload,
        knowledge.candidates(comparison, policies),
        known=comparison,
        seed=comparison.seed or 0,
        max_rounds=max_rounds,
        progress=bar.update,
        **setup.arguments(),
        **fleet.arguments(),
    )


def _power(asked: ServiceOptions, setup: Setup) -> Power | None:
    if asked.power is None:
        return None
    if setup.clock is None:
        raise InputError("--power needs --machine or --clock: joules are watts times seconds")
    if asked.power != "machine":
        return energy.named(asked.power)
    if setup.power is None:
        raise InputError(f"machine {setup.machine} says nothing of power: name a model ({', '.join(energy.powers)})")
    return energy.named(setup.power)


def _check_columns(conditions: Sequence[Gate], timed: bool, power: Power | None, fleet: FleetOptions) -> None:
    """InputError if a condition reads a column that the records will not have."""
    of_service = Service.summary_names()
    known = [*COLUMNS, *(of_service if timed else ()), *(_ENERGY_COLUMNS if power is not None else ())]
    known += FLEET_COLUMNS if fleet.replicas is not None else ()
    others = dict.fromkeys(of_service, "--machine, --clock or --slo") | dict.fromkeys(_ENERGY_COLUMNS, "--power")
    others |= dict.fromkeys(FLEET_COLUMNS, "--replicas")
    for condition in conditions:
        condition.check_columns(known, others)


def _with_summaries(
    records: Sequence[Mapping[str, Any]], found: Mapping[str, Service | Energy], prefix: str = ""
) -> list[dict[str, Any]]:
    """The records of a comparison, with the summaries of those policies that have some, under prefixed names."""
    names = next(iter(found.values())).summary_names() if found else ()
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
        "knowledge": [level.record() for level in measured.levels],
        "verdict": _verdict(measured),
    }


def _print_comparison(measured: _Measured, max_rounds: int | None, notes: Sequence[str]) -> None:
    ranked = measured.comparison.ranked()
    cells = _cells(measured, [one for one in measured.comparison.records() if one["finished"]])
    heading = "policy" if len(measured.fleet.routers) == 1 else "router"
    rows: list[Sequence[str]] = list(zip(*cells.values(), strict=True))
    rows += [(row.policy, _why_no_result(row, max_rounds)) for row in ranked if row.result is None]
    say()
    print_table([heading, *list(cells)[1:]], rows, drop=_DROPPED)
    say()
    _explain_columns(measured)
    _print_levels(measured)
    describe.print_notes(notes)
    for row in ranked:
        if isinstance(row.error, MissingPredictionError):
            other = ", or give --intervals" if row.error.column in ("lower", "upper") else ""
            aside(f"note: {row.policy} needs {row.error.column!r}, which the trace lacks: add it{other}")
        elif row.error is not None and not _stopped_by_max_rounds(row, max_rounds):
            aside(f"note: {row.error}")


def _print_levels(measured: _Measured) -> None:
    """The best policies by what they are told of the lengths, and the verdict."""
    if not measured.levels:
        return
    rows = [(level, row) for level in measured.levels for row in _best(level)]
    records = [row.record() for _, row in rows]
    cells = {
        "policies are told": [level.words for level, _ in rows],
        "best": [row.policy for _, row in rows],
        "mean": aligned([record["mean_latency"] for record in records]),
        "p99": aligned([record["p99_latency"] for record in records], decimals=0),
        f"vs {measured.comparison.baseline}": aligned([record["ratio"] for record in records], decimals=2),
    }
    say()
    console.print_columns(cells, left_aligned=(0, 1))
    say()
    say(f"verdict: {_verdict(measured)}")


def _best(level: Level) -> list[Row]:
    """The two best policies in the mean, and the best by p99 if it is another."""
    steady = level.best("p99_latency")
    return [*level.rows[:2], *([] if steady in level.rows[:2] else [steady])]


def _verdict(measured: _Measured) -> str:
    unit = "rounds" if measured.setup.clock is None else "s"
    return knowledge.verdict(measured.levels, lambda value: aligned([value])[0], unit)


def _cells(measured: _Measured, records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The columns of the table by heading, a cell per policy that finished."""

    def column(name: str, **how: Any) -> list[str]:
        return aligned([record[name] for record in records], **how)

    def percent(name: str, decimals: int) -> list[str]:
        shares = [record[name] for record in records]
        return aligned([None if x is None else x * 100 for x in shares], suffix="%", decimals=decimals)

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
    if any(record["hit_share"] is not None for record in records):
        cells["hits"] = percent("hit_share", 1)
    if measured.services is not None:
        cells = _service_cells(cells, records, [measured.services.get(name) for name in names], bool(measured.targets))
    if measured.fleet.replicas is not None:
        busy = [(record["least_busy"] * 100, record["most_busy"] * 100) for record in records]
        cells["busy"] = [f"{least:.0f}-{most:.0f}%" for least, most in busy]
    if measured.energies:
        energies = [measured.energies.get(name) for name in names]
        cells["J/token"] = aligned([None if one is None else one.joules_per_token for one in energies], decimals=2)
        cells["wasted J"] = aligned(
            [None if one is None else one.wasted_share * 100 for one in energies], suffix="%", decimals=1
        )
    return cells


def _service_cells(
    cells: Mapping[str, list[str]],
    records: Sequence[Mapping[str, Any]],
    services: Sequence[Service | None],
    with_targets: bool,
) -> dict[str, list[str]]:
    """The table with what users feel, in the place of some columns of the plain one."""
    known = [one for one in services if one is not None]
    per = known[0].unit[0] if known else "s"
    rows = list(zip(records, services, strict=True))
    columns = {
        "policy": cells["policy"],
        "mean": aligned([record["mean_latency"] if one is None else one.summary()["e2e_mean"] for record, one in rows]),
        "p99": aligned(
            [record["p99_latency"] if one is None else float(one.percentile("e2e", 99)) for record, one in rows]
        ),
        **{name: column for name, column in cells.items() if name.startswith("vs ") or name == "gap"},
    }
    for metric in ("ttft", "tpot"):
        for q in (50, 99):
            values = [math.nan if one is None else float(one.percentile(metric, q)) for one in services]
            columns[f"{metric} p{q}"] = aligned(values, decimals=_decimals_of_times(values))
    if with_targets:
        columns["good"] = aligned(
            [None if one is None else one.goodput * 100 for one in services], suffix="%", decimals=1
        )
        columns[f"good/{per}"] = aligned([None if one is None else one.goodput_rate for one in services], decimals=2)
    columns[f"tokens/{per}"] = aligned([None if one is None else one.tokens_rate for one in services])
    return columns | {name: cells[name] for name in ("evicted", "wasted", "hits") if name in cells}


def _decimals_of_times(values: Sequence[float]) -> int | None:
    """Decimals for a column of times: what is short stays readable beside what is long."""
    known = [value for value in values if math.isfinite(value)]
    if max(known, default=0) < 10:
        return 3
    return 2 if min(known) < 1 else None


def _explain_columns(measured: _Measured) -> None:
    timed = measured.setup.clock is not None
    unit = "seconds" if timed else "rounds"
    baseline = measured.comparison.baseline
    if measured.services is None:
        aside(f"mean, p50, p99: latency; vs {baseline}: ratio of mean latencies; wasted: share of generated tokens")
    else:
        aside("mean, p99: latency; ttft: time to first token; tpot: time per output token (mean of a request)")
        if measured.targets:
            targets = describe.targets_text(measured.targets)
            aside(f"good: share of requests with {targets}; good/{unit[0]}: such requests per {unit[:-1]}")
    if measured.energies:
        power = measured.asked.power
        aside(f"J/token: all joules over all output tokens, power model {power}; wasted J: share by evictions")
    if measured.fleet.replicas is not None:
        aside("busy: share of the time in which rounds ran, on the least and on the most busy replica")
    better = "proven, and far off where few requests wait" if timed else "llmsched bound proves better bounds"
    aside(f"gap: mean latency is at most so far above the best possible ({better})")


def _stopped_by_max_rounds(row: Row, max_rounds: int | None) -> bool:
    return isinstance(row.error, NotFinishedError) and max_rounds is not None and row.error.round >= max_rounds


def _why_no_result(row: Row, max_rounds: int | None) -> str:
    """What stands in the row of a policy without a result; the note below has the rest."""
    if not isinstance(row.error, NotFinishedError):
        return "cannot run: a column is missing"
    why = "stopped by --max-rounds" if _stopped_by_max_rounds(row, max_rounds) else "does not finish"
    return f"{why}: {row.completed:,} of {row.requests:,} completed in {row.error.round:,} rounds"
