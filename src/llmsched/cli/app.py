"""The commands of the command line: each reads its options, lets the library do the work, and prints the answer."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from .._version import version
from ..errors import InputError, nearest
from ..experiments import paper, paper_figure, theory_tables
from ..metrics import capacity as capacities
from ..metrics import compare as comparing
from ..metrics import energy, figure_style, figures, perfetto, service
from ..metrics.compare import MEMORY
from ..optimum import theory
from ..optimum.exact import optimal
from ..optimum.lower_bounds import lower_bound, on_grid
from ..optimum.planner import best_known, seconds_of
from ..optimum.schedule import Schedule
from ..policy import named, policies
from ..predict import intervals
from ..simulation import clock as clocks
from ..simulation.run import EngineName, simulate
from . import console, describe
from . import study as studies
from .options import (
    Block,
    ClockOption,
    EngineOption,
    Format,
    Generate,
    Intervals,
    Json,
    Limit,
    MaxBatch,
    Memory,
    OnError,
    PrefillBudget,
    Rate,
    RoundSeconds,
    Seed,
    Slo,
    Trace,
    arriving,
    check_outputs,
    load,
    make_directory,
    predicted,
    read_workload,
)
from .predictors import predictors

_DEFAULT_CLOCK = "llama2-70b-2xa100"

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.add_typer(studies.app, name="study")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Which scheduling policy, which length predictor and how much KV cache does an LLM service need?"""
    if show_version:
        print(f"llmsched {version}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit


@app.command("compare")
def _compare(
    trace: Trace = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A policy; repeat for several. By default ten, hsf and nine that cannot see the truth; `llmsched "
            "policies` lists more.",
        ),
    ] = None,
    memory: Memory = MEMORY,
    interval: Intervals = None,
    seed: Seed = 0,
    limit: Limit = None,
    generator: Generate = "lmsys",
    round_seconds: RoundSeconds = 1.0,
    clock_name: ClockOption = None,
    rate: Rate = None,
    slo: Slo = None,
    warmup: Annotated[
        float, typer.Option(metavar="T", help="Time to cut off service metrics at the begin (seconds with a clock).")
    ] = 0.0,
    drain: Annotated[float, typer.Option(metavar="T", help="Time to cut off them before the end.")] = 0.0,
    power: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Also the joules, of which it needs --clock: {', '.join(energy.powers)}."),
    ] = None,
    max_batch: MaxBatch = None,
    block: Block = 1,
    prefill_budget: PrefillBudget = None,
    format_: Format = None,
    on_error: OnError = "raise",
    max_rounds: Annotated[int | None, typer.Option(metavar="N", help="Stop a policy after so many rounds.")] = None,
    engine: EngineOption = "compiled",
    as_json: Json = False,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Also write the numbers as CSV (-: print that instead).")
    ] = None,
    plot_file: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Also draw a figure: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Simulate several policies on one workload and compare them.

    Without TRACE: 2,000 generated requests like those of LMSYS-Chat-1M, all arriving at 0. Latency is completion minus
    arrival, queueing included, in rounds; a round generates one token for every running request.

    With --clock, times are in seconds and the table shows what users feel: time to first token (ttft), time per output
    token (tpot), the share of requests within the targets of --slo and such requests per second (good).

    A policy that does not finish says so in its row. The exit code is 0 if any policy finished, else 1; 2 for bad
    input.
    """
    if as_json and csv_file == "-":
        raise InputError("--json and --csv - both want the standard output: give the CSV a file name")
    check_outputs([] if csv_file == "-" else [csv_file], plot_file)
    chosen = {name: named(name) for name in policy or comparing.DEFAULT_POLICIES}
    rule = None if interval is None else intervals.parse(interval)
    clock = None if clock_name is None else clocks.parse(clock_name)
    targets = {} if slo is None else service.parse_slo(slo)
    timed = clock is not None or slo is not None
    if power is not None and clock is None:
        raise InputError("--power needs --clock: joules are watts times seconds")
    watts = None if power is None else energy.named(power)
    if clock is not None and round_seconds != 1:
        raise InputError("--round-seconds and --clock both say how long a round lasts: give one of them")
    workload = arriving(read_workload(trace, generator, seed, limit, format_, on_error, round_seconds), rate, seed)
    workload, spelling, notes = predicted(workload, rule, chosen.values())
    machine: dict[str, Any] = {}
    if timed or max_batch is not None or block != 1 or prefill_budget is not None:
        machine = {"clock": clock, "max_batch": max_batch, "block": block, "prefill_budget": prefill_budget}
        machine["record"] = ("tokens", "timeline") if timed else ()
    with console.Bar("requests") as bar:
        compared = comparing.compare(
            workload,
            chosen,
            memory=memory,
            seed=seed,
            engine=cast(EngineName, engine),
            max_rounds=max_rounds,
            progress=bar.update,
            **machine,
        )
    served = {
        row.policy: service.metrics(row.result, targets, warmup=warmup, drain=drain)
        for row in compared
        if timed and row.result is not None
    }
    spent = {
        row.policy: energy.metrics(row.result, watts)
        for row in compared
        if watts is not None and row.result is not None
    }
    notes += describe.reading_notes(workload) + describe.overload_notes(served)
    settings: dict[str, Any] = {"intervals": spelling, "max_rounds": max_rounds, "round_seconds": round_seconds}
    settings |= {"clock": describe.clock_json(clock_name, clock), "rate": rate, "slo": targets or None}
    settings |= {"warmup": warmup, "drain": drain, "max_batch": max_batch, "block": block, "power": power}
    settings |= {"prefill_budget": prefill_budget}
    records = describe.with_summaries(compared.records(), served)
    records = describe.with_summaries(records, spent, prefix="energy_")
    if csv_file is not None:
        console.write_csv(csv_file, list(records[0]) if records else comparing.COLUMNS, records)
    if plot_file is not None:
        figure_style.save(figures.comparison(compared), plot_file)
    if as_json:
        console.print_json(describe.comparison_json(compared, settings, notes) | {"policies": records})
    elif csv_file != "-":
        describe.print_comparison(compared, settings, notes, served if timed else None, spent)
    if not any(row.result is not None for row in compared):
        raise typer.Exit(1)


@app.command("timeline")
def _timeline(
    trace: Trace = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The figure: .png, .svg or .pdf.")] = Path("timeline.png"),
    perfetto_file: Annotated[
        str | None,
        typer.Option("--perfetto", metavar="FILE", help="Also a trace for ui.perfetto.dev: .json or .json.gz."),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="The policy.")] = "amin",
    memory: Memory = MEMORY,
    interval: Intervals = None,
    seed: Seed = 0,
    limit: Limit = None,
    generator: Generate = "lmsys",
    clock_name: ClockOption = None,
    rate: Rate = None,
    max_batch: MaxBatch = None,
    block: Block = 1,
    prefill_budget: PrefillBudget = None,
    format_: Format = None,
    on_error: OnError = "raise",
    engine: EngineOption = "compiled",
) -> None:
    """Draw what happened over time: use of the cache, batch size, queue and evictions.

    Up to 60 requests get a Gantt chart as well. For more, --perfetto writes a trace in which one can zoom.
    """
    check_outputs([perfetto_file], str(out))
    chosen, clock = named(policy), None if clock_name is None else clocks.parse(clock_name)
    rule = None if interval is None else intervals.parse(interval)
    workload = arriving(read_workload(trace, generator, seed, limit, format_, on_error, 1.0), rate, seed)
    workload, spelling, notes = predicted(workload, rule, [chosen])
    with console.Bar("requests") as bar:
        result = simulate(
            workload,
            chosen,
            memory=memory,
            seed=seed,
            engine=cast(EngineName, engine),
            clock=clock,
            max_batch=max_batch,
            block=block,
            prefill_budget=prefill_budget,
            record=("tokens", "timeline"),
            progress=lambda done, total: bar.update(policy, done, total),
        )
    figure_style.save(figures.timeline(result), out)
    files = [str(out)]
    if perfetto_file is not None:
        written = perfetto.write(result, perfetto_file)
        files.append(perfetto_file)
        if written.left_out:
            notes.append(
                f"{perfetto_file} holds the first {written.stays:,} stays in the batch, up to {written.until:,.6g}; "
                f"{written.left_out:,} more were left out"
            )
    settings = {"intervals": spelling, "round_seconds": 1.0, "clock": describe.clock_json(clock_name, clock)}
    settings |= {"max_batch": max_batch, "block": block, "prefill_budget": prefill_budget}
    describe.print_what_ran(workload, memory, seed, settings)
    console.say(
        f"{policy}: mean latency {console.aligned([result.mean_latency])[0]}, "
        f"makespan {console.aligned([result.makespan])[0]}, {console.number_of(result.total_evictions, 'eviction')}"
    )
    for note in notes + describe.reading_notes(workload) + describe.overload_notes({policy: service.metrics(result)}):
        console.say(f"note: {note}")
    console.say(f"\nWrote {' and '.join(files)}.")


@app.command("capacity")
def _capacity(
    slo: Annotated[
        str,
        typer.Option(
            "--slo",
            metavar="TARGETS",
            help=f"Targets such as ttft=1,tpot=0.1. There are: {', '.join(service.METRICS)}.",
            show_default=False,
        ),
    ],
    trace: Trace = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A policy; repeat for several. By default fcfs.")
    ] = None,
    attainment: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the requests that has to keep all targets.")
    ] = 0.9,
    find: Annotated[
        str, typer.Option(metavar="rate|memory", help="The highest arrival rate, or the smallest cache.")
    ] = "rate",
    memory: Annotated[
        int | None, typer.Option(metavar="M", help=f"Tokens of KV cache [for a rate by default: {MEMORY}].")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="For --find memory: requests per second. By default as in TRACE."),
    ] = None,
    clock_name: Annotated[
        str, typer.Option("--clock", metavar="NAME|FILE", help=f"A clock: {', '.join(clocks.clocks)}, or a file.")
    ] = _DEFAULT_CLOCK,
    max_batch: MaxBatch = None,
    block: Block = 1,
    prefill_budget: PrefillBudget = None,
    requests: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Requests in a replication; by default as many as there are (generated: 2,000)."
        ),
    ] = None,
    replications: Annotated[int, typer.Option(metavar="K", help="Random draws of requests and arrivals.")] = 10,
    interval: Intervals = None,
    seed: Seed = 0,
    generator: Generate = "lmsys",
    format_: Format = None,
    on_error: OnError = "raise",
    as_json: Json = False,
) -> None:
    """Find the highest arrival rate, or the smallest KV cache, at which the targets hold.

    They hold if a share of the requests (--attainment) keeps all of them. Requests are drawn from TRACE with
    replacement and arrive in a Poisson process; the answer is found by bisection, with its 95 % confidence interval.
    """
    if find not in ("rate", "memory"):
        raise InputError(f"--find {find!r} is unknown; {nearest(find, ('rate', 'memory'))}")
    if find == "rate" and rate is not None:
        raise InputError("--rate is what --find rate finds: leave it out, or give --find memory")
    if find == "memory" and memory is not None:
        raise InputError("--memory is what --find memory finds: leave it out, or give --find rate")
    targets, clock = service.parse_slo(slo), clocks.parse(clock_name)
    chosen = {name: named(name) for name in policy or ["fcfs"]}
    rule = None if interval is None else intervals.parse(interval)
    workload = read_workload(trace, generator, seed, None, format_, on_error, 1.0)
    workload, spelling, notes = predicted(workload, rule, chosen.values())
    if find == "memory" and rate is None and not workload.arrival.any():
        notes.append("all requests arrive at 0: give --rate for a Poisson process")
    notes += describe.reading_notes(workload)
    machine: dict[str, Any] = {"clock": clock, "max_batch": max_batch, "block": block}
    machine |= {"prefill_budget": prefill_budget}
    asked: dict[str, Any] = {"slo": targets, "attainment": attainment, "requests": requests, "seed": seed}
    found: dict[str, capacities.Capacity] = {}
    with console.Bar("simulations") as bar:
        for name in chosen:
            options = {**machine, **asked, "replications": replications}
            options["progress"] = lambda done, total, name=name: bar.update(name, done, total)
            if find == "rate":
                held = MEMORY if memory is None else memory
                found[name] = capacities.highest_rate(workload, chosen[name], memory=held, **options)
            else:
                found[name] = capacities.smallest_memory(workload, chosen[name], rate=rate, **options)
    notes += describe.capacity_notes(found)
    settings = {"intervals": spelling, "seed": seed, **machine, "clock": describe.clock_json(clock_name, clock)}
    if as_json:
        records = [{**answer.record(), "policy": name} for name, answer in found.items()]
        console.print_json({"llmsched": version, **settings, "notes": notes, "answers": records})
    else:
        describe.print_capacity(found, workload, settings, notes)


@app.command("bound")
def _bound(
    trace: Trace = None,
    memory: Memory = MEMORY,
    limit: Limit = None,
    generator: Generate = "lmsys",
    at_once: Annotated[bool, typer.Option("--at-once", help="All requests arrive at 0.")] = False,
    rate: Rate = None,
    round_seconds: RoundSeconds = 1.0,
    seed: Seed = 0,
    search: Annotated[
        float, typer.Option(metavar="S", help="Seconds to look for a good schedule. 0: only the bound.")
    ] = 10.0,
    exact: Annotated[
        bool, typer.Option("--exact", help="Prove the optimum: a few short requests, at most --search seconds.")
    ] = False,
    format_: Format = None,
    on_error: OnError = "raise",
    as_json: Json = False,
    csv_file: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Also write the best schedule, a row per request (-: print that)."),
    ] = None,
) -> None:
    """What latency no schedule can beat, and how near a planner that knows the future comes to it.

    The bounds hold for every policy in the plain model, in which a round generates one token for every running request
    and takes one unit of time. best_known is the best schedule found within --search seconds, hsf and svf are the
    clairvoyant greedy policies. docs/background/optimum.md says more.
    """
    if as_json and csv_file == "-":
        raise InputError("--json and --csv - both want the standard output: give the CSV a file name")
    check_outputs([] if csv_file == "-" else [csv_file], None)
    if at_once and rate is not None:
        raise InputError("--at-once and --rate both say when requests arrive: give one of them")
    seconds = seconds_of(search, "--search")
    if not seconds and (csv_file is not None or exact):
        what = "--exact proves" if exact else "--csv writes"
        raise InputError(f"{what} the best schedule, and --search 0 looks for none")
    workload = read_workload(trace, generator, seed, limit, format_, on_error, round_seconds)
    workload = workload.replace(arrival=0) if at_once else arriving(workload, rate, seed)
    found = lower_bound(workload, memory)
    best: Schedule | None = None
    if exact:
        best = optimal(workload, memory, time_limit=seconds, seed=seed)
    elif seconds:
        best = best_known(workload, memory, time_limit=seconds, seed=seed)
    if best is not None:
        found = found.improved_by(best)
    schedules = {name: simulate(workload, name, memory=memory, seed=seed).total_latency for name in ("svf", "hsf")}
    if best is not None:
        name = "best_known" if not best.proven else "optimal" if on_grid(workload) else "optimal in whole rounds"
        schedules = {name: best.total_latency, **schedules}
        if csv_file is not None:
            columns = best.columns()
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            console.write_csv(csv_file, list(columns), (dict(zip(columns, row, strict=True)) for row in rows))
    gaps = {name: (total, found.gap(total)) for name, total in schedules.items()}
    if as_json:
        console.print_json(describe.bound_json(found, gaps, workload, memory))
    elif csv_file != "-":
        describe.print_bound(found, gaps, workload, memory)


@app.command("paper")
def _paper(
    trace: Trace = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures and numbers go; made if missing.")] = Path(
        "paper"
    ),
    memory: Memory = MEMORY,
    subsets: Annotated[int, typer.Option(metavar="K", help="Random subsets of each size.")] = 20,
    seed: Seed = 0,
    format_: Format = None,
    on_error: OnError = "raise",
    engine: EngineOption = "compiled",
) -> None:
    """Repeat the experiments of the paper (arXiv 2508.14544): average latency of amax, amin and hsf.

    Random subsets of 200, 400, ... 2,000 requests, all arriving at 0, with three kinds of predicted intervals. The
    subsets are independent draws, with replacement where they come from TRACE, and the same ones for every policy.

    Writes average_latency.png, .svg and .csv into the --out directory.
    """
    figure_style.require_matplotlib()
    workload = None if trace is None else load(trace, format_, on_error)
    make_directory(out)
    with console.Bar("subsets") as bar:
        rows = paper.reproduce(
            workload,
            memory=memory,
            seed=seed,
            subsets=subsets,
            engine=cast(EngineName, engine),
            progress=lambda done, total: bar.update("experiments", done, total),
        )
    files = [out / f"average_latency.{extension}" for extension in ("png", "svg", "csv")]
    figure = paper_figure.paper(rows)
    for file in files[:2]:
        figure_style.save(figure, file)
    records = [row.record() for row in rows]
    console.write_csv(str(files[2]), list(records[0]), records)
    describe.print_paper(rows, workload, memory, seed)
    console.say(f"\nWrote {', '.join(map(str, files[:2]))} and {files[2]}.")


@app.command("policies")
def _policies(as_json: Json = False) -> None:
    """List the named policies, and what each decides by."""
    if as_json:
        console.print_json([describe.policy_json(name, policy) for name, policy in policies.items()])
        return
    rows = [describe.policy_cells(name, policy) for name, policy in policies.items()]
    console.print_table(describe.POLICY_COLUMNS, rows, left=range(len(describe.POLICY_COLUMNS)))
    console.say()
    width = max(map(len, policies)) + 2
    for name, policy in policies.items():
        lines = textwrap.wrap(describe.policy_text(name, policy), max(console.stdout().width, 60) - width)
        console.say(f"{name:<{width}}" + f"\n{'':{width}}".join(lines))


@app.command("theory")
def _theory(
    alpha: Annotated[
        list[str] | None,
        typer.Option(metavar="A", help="lower/upper, such as 0.25 or 1/4; repeat for several. By default 1/100 to 1."),
    ] = None,
    plot_file: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Also draw the curves: .png, .svg or .pdf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What the paper (arXiv 2508.14544) proves about amax, amin and aell: bounds on the ratio of total latency to hsf.

    All are limits of many requests in a large cache. `llmsched.theory` has each as a function, with its equation;
    docs/background/theory.md says how far simulated ratios are from them.
    """
    check_outputs([], plot_file)
    tables = {
        "guarantees": theory_tables.guarantees(alpha or theory_tables.ALPHAS),
        "worst": theory_tables.worst(),
        "geometric": theory_tables.geometric(),
    }
    if plot_file is not None:
        figure_style.save(theory_tables.figure(), plot_file)
    if as_json:
        console.print_json({"llmsched": version, "alpha_star": theory.ALPHA_STAR, **tables})
    else:
        describe.print_theory(tables)


app.command("predictors")(predictors)
