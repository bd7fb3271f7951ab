"""`llmsched bound`: the latency that no schedule can beat, and schedules that come near it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from .._version import version
from ..errors import InputError
from ..optimum.exact import optimal
from ..optimum.lower_bounds import LowerBound, lower_bound, on_grid
from ..optimum.planner import best_known, seconds_of
from ..optimum.schedule import Schedule
from ..simulation.blocks import down_to_blocks
from ..simulation.run import simulate
from ..workloads.workload import Workload
from . import console, describe
from .console import aligned, aside, at_most, print_columns, say
from .option_groups import expand_groups
from .options import DataOutput, MachineOptions, RequestOptions, RoundSeconds, Seed, Setup

#: What each bound of `llmsched.lower_bound` rests on.
_RESTS_ON = {
    "trivial": "a round per token",
    "area": "memory-time, smallest first",
    "busy": "mean busy times",
    "price": "the linear relaxation, by prices for memory",
    "search": "what the search proved",
}
#: The same by a clock.
_RESTS_ON_SECONDS = {"trivial": "each request alone", "busy": _RESTS_ON["busy"]}
#: Seconds that a schedule is looked for, unless told otherwise.
_SEARCH = 10.0


@dataclass(frozen=True)
class BoundOutput(DataOutput):
    """JSON, and the best schedule as CSV."""

    csv_file: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Also write the best schedule, a row per request (-: print that)."),
    ] = None


@expand_groups(
    "trace machine_name memory limit generator at_once rate clock_name in_rounds round_seconds max_batch block "
    "prefill_budget seed search exact format_ on_error as_json csv_file"
)
def bound(
    requests: RequestOptions,
    machine: MachineOptions,
    output: BoundOutput,
    at_once: Annotated[bool, typer.Option("--at-once", help="All requests arrive at 0.")] = False,
    round_seconds: RoundSeconds = None,
    seed: Seed = 0,
    search: Annotated[
        float | None,
        typer.Option(metavar="S", help=f"Seconds to look for a good schedule [{_SEARCH:g}]. 0: only the bound."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Prove the optimum: a few short requests, at most --search seconds.")
    ] = False,
) -> None:
    """What latency no schedule can beat, and how near a planner that knows the future comes to it.

    In rounds, in which every running request generates one token and which take one unit of time, the bounds are near
    and best_known is the best schedule found within --search seconds. In seconds, for a trace with arrival times or
    with --machine, nothing is searched: --rounds and --round-seconds ask for rounds. hsf and svf are the clairvoyant
    greedy policies. Bounds and best_known know the cache, not --max-batch, --block and --prefill-budget.
    """
    output.check()
    if at_once and requests.rate is not None:
        raise InputError("--at-once and --rate both say when requests arrive: give one of them")
    workload = requests.read(seed, requests.limit, round_seconds)
    setup = machine.setup(workload, round_seconds)
    seconds = _seconds_to_search(search, exact, output, setup)
    assert setup.memory is not None  # it is not what is looked for
    memory = down_to_blocks(setup.memory, setup.block)
    workload = requests.at_rate(requests.fitting(workload, memory), seed)
    if at_once:
        workload = workload.replace(arrival=0)
    found = lower_bound(workload, memory=memory, clock=setup.clock)
    best: Schedule | None = None
    with console.ticking("search", seconds):
        if exact:
            best = optimal(workload, memory=memory, time_limit=seconds, seed=seed)
        elif seconds:
            best = best_known(workload, memory=memory, time_limit=seconds, seed=seed)
    if best is not None:
        found = found.improved_by(best)
    totals = {name: simulate(workload, name, **setup.arguments(), seed=seed).total_latency for name in ("svf", "hsf")}
    if best is not None:
        name = "best_known" if not best.proven else "optimal" if on_grid(workload) else "optimal in whole rounds"
        totals = {name: best.total_latency, **totals}
        if output.csv_file is not None:
            _write_schedule(best, output.csv_file)
    schedules = {name: (total, found.gap(total)) for name, total in totals.items()}
    if output.as_json:
        console.print_json(_bound_json(found, schedules, workload, setup))
    elif not output.prints_csv:
        _print_bound(found, schedules, workload, setup, round_seconds)


def _seconds_to_search(search: float | None, exact: bool, output: BoundOutput, setup: Setup) -> float:
    """Seconds to look for a schedule. InputError if one is asked for and none is looked for."""
    wanted = "--exact proves" if exact else "--csv writes" if output.csv_file is not None else None
    if setup.clock is not None:
        if wanted is not None or search:
            what = "--search looks for a schedule" if wanted is None else f"{wanted} the best schedule"
            raise InputError(f"{what}, which is planned in rounds: add --rounds or --round-seconds, or leave it out")
        return 0.0
    seconds = seconds_of(_SEARCH if search is None else search, "--search")
    if not seconds and wanted is not None:
        raise InputError(f"{wanted} the best schedule, and --search 0 looks for none")
    return seconds


def _write_schedule(schedule: Schedule, file: str) -> None:
    columns = schedule.columns()
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    console.write_csv(file, list(columns), (dict(zip(columns, row, strict=True)) for row in rows))


def _print_bound(
    found: LowerBound,
    schedules: Mapping[str, tuple[float, float]],
    workload: Workload,
    setup: Setup,
    round_seconds: float | None,
) -> None:
    """Bounds on total latency, then schedules, by name: total latency and gap."""
    timed = setup.clock is not None
    aside(f"{describe.requests_text(workload)}{describe.arrivals_text(workload, round_seconds, timed)}")
    aside(f"{describe.machine_text(setup)}; times in {'seconds' if timed else 'rounds'}\n")
    n = max(len(workload), 1)
    names = [f"no less, by {name}" for name in found.each] + list(schedules)
    bounds = {**found.each, found.method: found.value}  # the best is rounded up as far as the proof allows
    fine = 1 if on_grid(workload) and not timed else 100  # between rounds there is more to a bound than whole ones
    totals = [*(math.floor(value * fine) / fine for value in bounds.values()), *(t for t, _ in schedules.values())]
    print_columns(
        {
            "latency": names,
            "total": aligned(totals),
            "mean": aligned([total / n for total in totals]),
            "gap": ["" for _ in found.each] + at_most([gap for _, gap in schedules.values()], decimals=1),
            "": [*((_RESTS_ON_SECONDS if timed else _RESTS_ON)[name] for name in found.each), *("" for _ in schedules)],
        },
        left_aligned=(0, 4),
    )
    say()
    aside("gap: latency is at most so far above that of the best possible schedule (a proven bound)")
    if "optimal in whole rounds" in schedules:
        aside(
            "note: requests arrive between rounds. The optimum is that of schedules whose rounds start a whole number"
        )
        aside("      after the first arrival; the bounds hold for all schedules")
    if timed:
        aside("note: schedules are planned in rounds: --rounds or --round-seconds S looks for better ones than these")
    elif len(totals) > len(found.each) + 2 and setup.limits() != Setup(None, None).limits():
        aside("note: best_known knows the cache, and no other limit: it may be out of reach with blocks or a cap")
    if found.preemptive < found.value:
        aside(
            f"note: policies that keep the tokens of what they evict (fcfs) have no less than {found.preemptive:,.0f}"
        )


def _bound_json(
    found: LowerBound, schedules: Mapping[str, tuple[float, float]], workload: Workload, setup: Setup
) -> dict[str, Any]:
    return {
        "llmsched": version,
        "workload": describe.workload_json(workload),
        **describe.setup_json(setup),
        "bound": {
            "total_latency": found.value,
            "keeping_tokens": found.preemptive,
            "method": found.method,
            "each": dict(found.each),
        },
        "schedules": [
            {"schedule": name, "total_latency": total, "gap": gap} for name, (total, gap) in schedules.items()
        ],
    }
