"""The command line (extra `cli`): typer reads it, the library does the work, this file prints.

Exit codes: 0 done; 1 no policy finished, or the reader of the output went away; 2 bad input; 130 interrupted. A policy
that does not finish beside others that do is a result, not a failure. Everything that can go wrong is said in `main`.
"""

from __future__ import annotations

import io
import math
import os
import sys
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from . import answers, console, curves, energy, generate, intervals, paper, perfetto, plots, service, theory, traces
from . import capacity as capacities
from . import clock as clocks
from . import compare as comparing
from ._version import version
from .bounds import lower_bound, on_grid
from .errors import (
    InputError,
    LlmschedError,
    MemoryTooSmallError,
    nearest,
)
from .lengths import LengthTable
from .optimum import optimal
from .planner import best_known, seconds_of
from .policy import Policy, named, policies
from .predict.command import predictors
from .schedule import Schedule
from .simulation import Engine, simulate
from .study import commands as studies
from .workload import Workload

__all__ = ["app", "main"]

_DEFAULT_INTERVALS = "buckets:100"
_DEFAULT_CLOCK = "llama2-70b-2xa100"
_INTERRUPTED = 130

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.add_typer(studies.app, name="study")

_Trace = Annotated[
    str | None,
    typer.Argument(metavar="TRACE", show_default=False, help="A trace file, or - for the standard input."),
]
_Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help=f"Format of TRACE: {', '.join(traces.FORMATS)}. By default found."),
]
_OnError = Annotated[str, typer.Option(metavar="raise|skip", help="What to do with a bad row of TRACE.")]
_Memory = Annotated[int, typer.Option(metavar="M", help="Tokens of KV cache.")]
_Seed = Annotated[int, typer.Option(metavar="K", help="Governs everything that is random.")]
_EngineOption = Annotated[str, typer.Option(metavar="NAME", help="compiled, or reference (readable, equal, slow).")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Intervals = Annotated[
    str | None,
    typer.Option(
        "--intervals",
        metavar="RULE",
        help="Predicted intervals: exact, constant:1,1000, buckets:100, relative:0.95 or "
        f"noisy:COVERAGE,WIDTH[,SEED[,BIAS]]. By default those in TRACE; if it has none, {_DEFAULT_INTERVALS}.",
    ),
]
_Limit = Annotated[int | None, typer.Option(metavar="N", help="Only the first N requests (generated: 2,000).")]
_Generate = Annotated[
    str, typer.Option("--generate", metavar="SPEC", help="Workload without TRACE, such as two_point:10,40,0.8.")
]
_ClockOption = Annotated[
    str | None,
    typer.Option(
        "--clock",
        metavar="NAME|FILE",
        help=f"How long a round lasts, so that times are in seconds: {', '.join(clocks.clocks)}, or a .toml or .json "
        "file. By default a round lasts 1.",
    ),
]
_Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="R",
        help="Requests arrive in a Poisson process, R per second (without a clock, per "
        "round), instead of when TRACE says.",
    ),
]
_RoundSeconds = Annotated[
    float, typer.Option(metavar="S", help="Seconds that a round lasts: arrival times in TRACE are divided by this.")
]
_Slo = Annotated[
    str | None,
    typer.Option(
        "--slo", metavar="TARGETS", help=f"Targets such as ttft=1,tpot=0.1. There are: {', '.join(service.METRICS)}."
    ),
]
_MaxBatch = Annotated[int | None, typer.Option(metavar="N", help="Most requests that run at once.")]
_Block = Annotated[int, typer.Option(metavar="B", help="Tokens in a block of cache (16 in vLLM).")]
_PrefillBudget = Annotated[
    int | None,
    typer.Option(metavar="N", help="Most tokens that a round processes: long prompts take several (chunked prefill)."),
]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Whatever goes wrong is told here, in a line or two, on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8, a file name that is not text
    try:
        command = typer.main.get_command(app)
        code = command.main(args=args, prog_name="llmsched", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except LlmschedError as error:
        hint = f"try --memory {error.needed}" if isinstance(error, MemoryTooSmallError) else None
        return _failed(str(error), hint)
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as error:
        where = "writing the output" if error.filename is None else error.filename
        return _failed(f"{where}: {error.strerror or error}")
    except MemoryError:
        return _failed("this does not fit into the computer's memory")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except SystemExit as stopped:  # what typer and rich do about a broken pipe
        return _nobody_reads() if stopped.code else 0
    except Exception as error:  # typer's complaints about options; their class depends on its version
        if not hasattr(error, "format_message"):
            raise
        return _failed(error.format_message(), "llmsched --help and llmsched COMMAND --help list what there is")
    if code == _INTERRUPTED:
        console.complain("interrupted")
    return code if isinstance(code, int) else 0


def _failed(message: str, hint: str | None = None) -> int:
    console.complain(f"error: {message}", *([hint] if hint else []))
    return 2


def _nobody_reads() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
    return 1


# Commands ------------------------------------------------------------------------------------------------------------


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
    trace: _Trace = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A policy; repeat for several. By default ten, hsf and nine that cannot see the truth; `llmsched "
            "policies` lists more.",
        ),
    ] = None,
    memory: _Memory = paper.MEMORY,
    interval: _Intervals = None,
    seed: _Seed = 0,
    limit: _Limit = None,
    generator: _Generate = "lmsys",
    round_seconds: _RoundSeconds = 1.0,
    clock_name: _ClockOption = None,
    rate: _Rate = None,
    slo: _Slo = None,
    warmup: Annotated[
        float, typer.Option(metavar="T", help="Time to cut off service metrics at the begin (seconds with a clock).")
    ] = 0.0,
    drain: Annotated[float, typer.Option(metavar="T", help="Time to cut off them before the end.")] = 0.0,
    power: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Also the joules, of which it needs --clock: {', '.join(energy.powers)}."),
    ] = None,
    max_batch: _MaxBatch = None,
    block: _Block = 1,
    prefill_budget: _PrefillBudget = None,
    format_: _Format = None,
    on_error: _OnError = "raise",
    max_rounds: Annotated[int | None, typer.Option(metavar="N", help="Stop a policy after so many rounds.")] = None,
    engine: _EngineOption = "compiled",
    as_json: _Json = False,
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
    _check_outputs([] if csv_file == "-" else [csv_file], plot_file)
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
    workload = _arrive(_workload(trace, generator, seed, limit, format_, on_error, round_seconds), rate, seed)
    workload, spelling, notes = _predicted(workload, rule, chosen.values())
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
            engine=cast(Engine, engine),
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
    notes += answers.reading_notes(workload) + answers.overload_notes(served)
    settings: dict[str, Any] = {"intervals": spelling, "max_rounds": max_rounds, "round_seconds": round_seconds}
    settings |= {"clock": answers.clock_json(clock_name, clock), "rate": rate, "slo": targets or None}
    settings |= {"warmup": warmup, "drain": drain, "max_batch": max_batch, "block": block, "power": power}
    settings |= {"prefill_budget": prefill_budget}
    records = answers.with_summaries(compared.records(), served)
    records = answers.with_summaries(records, spent, prefix="energy_")
    if csv_file is not None:
        console.write_csv(csv_file, list(records[0]) if records else comparing.COLUMNS, records)
    if plot_file is not None:
        plots.save(plots.comparison(compared), plot_file)
    if as_json:
        console.print_json(answers.comparison_json(compared, settings, notes) | {"policies": records})
    elif csv_file != "-":
        answers.print_comparison(compared, settings, notes, served if timed else None, spent)
    if not any(row.result is not None for row in compared):
        raise typer.Exit(1)


@app.command("timeline")
def _timeline(
    trace: _Trace = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The figure: .png, .svg or .pdf.")] = Path("timeline.png"),
    perfetto_file: Annotated[
        str | None,
        typer.Option("--perfetto", metavar="FILE", help="Also a trace for ui.perfetto.dev: .json or .json.gz."),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="The policy.")] = "amin",
    memory: _Memory = paper.MEMORY,
    interval: _Intervals = None,
    seed: _Seed = 0,
    limit: _Limit = None,
    generator: _Generate = "lmsys",
    clock_name: _ClockOption = None,
    rate: _Rate = None,
    max_batch: _MaxBatch = None,
    block: _Block = 1,
    prefill_budget: _PrefillBudget = None,
    format_: _Format = None,
    on_error: _OnError = "raise",
    engine: _EngineOption = "compiled",
) -> None:
    """Draw what happened over time: use of the cache, batch size, queue and evictions.

    Up to 60 requests get a Gantt chart as well. For more, --perfetto writes a trace in which one can zoom.
    """
    _check_outputs([perfetto_file], str(out))
    chosen, clock = named(policy), None if clock_name is None else clocks.parse(clock_name)
    rule = None if interval is None else intervals.parse(interval)
    workload = _arrive(_workload(trace, generator, seed, limit, format_, on_error, 1.0), rate, seed)
    workload, spelling, notes = _predicted(workload, rule, [chosen])
    with console.Bar("requests") as bar:
        result = simulate(
            workload,
            chosen,
            memory=memory,
            seed=seed,
            engine=cast(Engine, engine),
            clock=clock,
            max_batch=max_batch,
            block=block,
            prefill_budget=prefill_budget,
            record=("tokens", "timeline"),
            progress=lambda done, total: bar.update(policy, done, total),
        )
    plots.save(plots.timeline(result), out)
    files = [str(out)]
    if perfetto_file is not None:
        written = perfetto.write(result, perfetto_file)
        files.append(perfetto_file)
        if written.left_out:
            notes.append(
                f"{perfetto_file} holds the first {written.stays:,} stays in the batch, up to {written.until:,.6g}; "
                f"{written.left_out:,} more were left out"
            )
    unit = "rounds" if clock is None else "seconds"
    console.say(f"{answers.counted(workload)}{answers.when_they_arrive(workload, 1.0, clock)}")
    cache = answers.machine_text(memory, block, max_batch, prefill_budget)
    cache += "" if clock is None else f"clock {clock_name}; "
    console.say(f"{cache}intervals {spelling}; seed {seed}; times in {unit}")
    console.say(
        f"{policy}: mean latency {console.aligned([result.mean_latency])[0]}, "
        f"makespan {console.aligned([result.makespan])[0]}, {console.number_of(result.total_evictions, 'eviction')}"
    )
    for note in notes + answers.reading_notes(workload) + answers.overload_notes({policy: service.metrics(result)}):
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
    trace: _Trace = None,
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
        int | None, typer.Option(metavar="M", help=f"Tokens of KV cache [for a rate by default: {paper.MEMORY}].")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="For --find memory: requests per second. By default as in TRACE."),
    ] = None,
    clock_name: Annotated[
        str, typer.Option("--clock", metavar="NAME|FILE", help=f"A clock: {', '.join(clocks.clocks)}, or a file.")
    ] = _DEFAULT_CLOCK,
    max_batch: _MaxBatch = None,
    block: _Block = 1,
    prefill_budget: _PrefillBudget = None,
    requests: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Requests in a replication; by default as many as there are (generated: 2,000)."
        ),
    ] = None,
    replications: Annotated[int, typer.Option(metavar="K", help="Random draws of requests and arrivals.")] = 10,
    interval: _Intervals = None,
    seed: _Seed = 0,
    generator: _Generate = "lmsys",
    format_: _Format = None,
    on_error: _OnError = "raise",
    as_json: _Json = False,
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
    workload = _workload(trace, generator, seed, None, format_, on_error, 1.0)
    workload, spelling, notes = _predicted(workload, rule, chosen.values())
    if find == "memory" and rate is None and not workload.arrival.any():
        notes.append("all requests arrive at 0: give --rate for a Poisson process")
    notes += answers.reading_notes(workload)
    machine: dict[str, Any] = {"clock": clock, "max_batch": max_batch, "block": block}
    machine |= {"prefill_budget": prefill_budget}
    asked: dict[str, Any] = {"slo": targets, "attainment": attainment, "requests": requests, "seed": seed}
    found: dict[str, capacities.Capacity] = {}
    with console.Bar("simulations") as bar:
        for name in chosen:
            options = {**machine, **asked, "replications": replications}
            options["progress"] = lambda done, total, name=name: bar.update(name, done, total)
            if find == "rate":
                held = paper.MEMORY if memory is None else memory
                found[name] = capacities.highest_rate(workload, chosen[name], memory=held, **options)
            else:
                found[name] = capacities.smallest_memory(workload, chosen[name], rate=rate, **options)
    notes += answers.capacity_notes(found)
    settings = {"intervals": spelling, "seed": seed, **machine, "clock": answers.clock_json(clock_name, clock)}
    if as_json:
        records = [{**answer.record(), "policy": name} for name, answer in found.items()]
        console.print_json({"llmsched": version, **settings, "notes": notes, "answers": records})
    else:
        answers.print_capacity(found, workload, settings, notes)


@app.command("bound")
def _bound(
    trace: _Trace = None,
    memory: _Memory = paper.MEMORY,
    limit: _Limit = None,
    generator: _Generate = "lmsys",
    at_once: Annotated[bool, typer.Option("--at-once", help="All requests arrive at 0.")] = False,
    rate: _Rate = None,
    round_seconds: _RoundSeconds = 1.0,
    seed: _Seed = 0,
    search: Annotated[
        float, typer.Option(metavar="S", help="Seconds to look for a good schedule. 0: only the bound.")
    ] = 10.0,
    exact: Annotated[
        bool, typer.Option("--exact", help="Prove the optimum: a few short requests, at most --search seconds.")
    ] = False,
    format_: _Format = None,
    on_error: _OnError = "raise",
    as_json: _Json = False,
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
    _check_outputs([] if csv_file == "-" else [csv_file], None)
    if at_once and rate is not None:
        raise InputError("--at-once and --rate both say when requests arrive: give one of them")
    seconds = seconds_of(search, "--search")
    if not seconds and (csv_file is not None or exact):
        what = "--exact proves" if exact else "--csv writes"
        raise InputError(f"{what} the best schedule, and --search 0 looks for none")
    workload = _workload(trace, generator, seed, limit, format_, on_error, round_seconds)
    workload = workload.replace(arrival=0) if at_once else _arrive(workload, rate, seed)
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
        console.print_json(answers.bound_json(found, gaps, workload, memory))
    elif csv_file != "-":
        answers.print_bound(found, gaps, workload, memory)


@app.command("paper")
def _paper(
    trace: _Trace = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures and numbers go; made if missing.")] = Path(
        "paper"
    ),
    memory: _Memory = paper.MEMORY,
    subsets: Annotated[int, typer.Option(metavar="K", help="Random subsets of each size.")] = 20,
    seed: _Seed = 0,
    format_: _Format = None,
    on_error: _OnError = "raise",
    engine: _EngineOption = "compiled",
) -> None:
    """Repeat the experiments of the paper (arXiv 2508.14544): average latency of amax, amin and hsf.

    Random subsets of 200, 400, ... 2,000 requests, all arriving at 0, with three kinds of predicted intervals. The
    subsets are independent draws, with replacement where they come from TRACE, and the same ones for every policy.

    Writes average_latency.png, .svg and .csv into the --out directory.
    """
    plots.require_matplotlib()
    workload = None if trace is None else traces.load(trace, format=format_, on_error=_on_error(on_error))
    _make_directory(out)
    with console.Bar("subsets") as bar:
        rows = paper.reproduce(
            workload,
            memory=memory,
            seed=seed,
            subsets=subsets,
            engine=cast(Engine, engine),
            progress=lambda done, total: bar.update("experiments", done, total),
        )
    files = [out / f"average_latency.{extension}" for extension in ("png", "svg", "csv")]
    figure = plots.paper(rows)
    for file in files[:2]:
        plots.save(figure, file)
    records = [row.record() for row in rows]
    console.write_csv(str(files[2]), list(records[0]), records)
    answers.print_paper(rows, workload, memory, seed)
    console.say(f"\nWrote {', '.join(map(str, files[:2]))} and {files[2]}.")


@app.command("policies")
def _policies(as_json: _Json = False) -> None:
    """List the named policies, and what each decides by."""
    if as_json:
        console.print_json([answers.policy_json(name, policy) for name, policy in policies.items()])
        return
    rows = [answers.policy_cells(name, policy) for name, policy in policies.items()]
    console.print_table(answers.POLICY_COLUMNS, rows, left=range(len(answers.POLICY_COLUMNS)))
    console.say()
    width = max(map(len, policies)) + 2
    for name, policy in policies.items():
        lines = textwrap.wrap(answers.policy_text(name, policy), max(console.stdout().width, 60) - width)
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
    as_json: _Json = False,
) -> None:
    """What the paper (arXiv 2508.14544) proves about amax, amin and aell: bounds on the ratio of total latency to hsf.

    All are limits of many requests in a large cache. `llmsched.theory` has each as a function, with its equation;
    docs/background/theory.md says how far simulated ratios are from them.
    """
    _check_outputs([], plot_file)
    tables = {
        "guarantees": curves.guarantees(alpha or curves.ALPHAS),
        "worst": curves.worst(),
        "geometric": curves.geometric(),
    }
    if plot_file is not None:
        plots.save(curves.figure(), plot_file)
    if as_json:
        console.print_json({"llmsched": version, "alpha_star": theory.ALPHA_STAR, **tables})
    else:
        answers.print_theory(tables)


app.command("predictors")(predictors)


# What goes in --------------------------------------------------------------------------------------------------------


def _workload(
    trace: str | None,
    generator: str,
    seed: int,
    limit: int | None,
    format_: str | None,
    on_error: str,
    round_seconds: float,
) -> Workload:
    if not 0 < round_seconds < math.inf:
        raise InputError(f"--round-seconds is {round_seconds}, expected a number greater than 0")
    if trace is None:
        return generate.parse(generator, 2000 if limit is None else limit, seed)
    if generator != "lmsys":
        raise InputError("TRACE and --generate both say what the requests are: give one of them")
    workload = traces.load(trace, format=format_, on_error=_on_error(on_error))
    if limit is not None:
        workload = workload.head(limit)
    return workload if round_seconds == 1 else generate.speed_up(workload, round_seconds)


def _arrive(workload: Workload, rate: float | None, seed: int) -> Workload:
    return workload if rate is None else generate.poisson(workload, rate, seed)


def _on_error(word: str) -> Any:
    return word  # `traces.load` says what it expects


def _predicted(
    workload: Workload, rule: intervals.IntervalRule | None, chosen: Collection[Policy]
) -> tuple[Workload, str, list[str]]:
    """The workload with every prediction the policies may need, how its intervals are spelled, and notes on that."""
    if rule is None and (workload.lower is not None or workload.upper is not None):
        spelling = "as given"
    else:
        rule = rule or intervals.parse(_DEFAULT_INTERVALS)
        workload, spelling = workload.replace(point=None).with_intervals(rule), str(rule)
    notes = []
    readers = {needed: [policy.name for policy in chosen if needed in policy.needs] for needed in ("lengths", "point")}
    if readers["lengths"] and len(workload):
        workload = workload.with_lengths(LengthTable.from_outputs(workload.output))
        names = answers.listed(readers["lengths"])
        notes.append(f"{names}: told how the outputs of this very workload are distributed, but not which is whose")
    if not readers["point"] or workload.point is not None or workload.lower is None or workload.upper is None:
        return workload, spelling, notes
    names = answers.listed(readers["point"])
    notes.append(f"{names}: no point predictions given, so the middle of each interval, rounded up, is used")
    return comparing.with_midpoints(workload), spelling, notes


def _check_outputs(files: Sequence[str | None], plot: str | None) -> None:
    """Find out before a long simulation, not after it, that a file cannot be written."""
    if plot is not None:
        plots.check_path(plot)
        plots.require_matplotlib()
    for file in (*files, plot):
        if file is None:
            continue
        directory = Path(file).parent
        if not directory.is_dir():
            raise InputError(f"cannot write {file!r}: there is no directory {str(directory)!r}")
        if Path(file).is_dir():
            raise InputError(f"cannot write {file!r}: it is a directory")
        if not os.access(file if Path(file).exists() else directory, os.W_OK):
            raise InputError(f"cannot write {file!r}: permission denied")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the directory {str(directory)!r}: {error.strerror}") from None
