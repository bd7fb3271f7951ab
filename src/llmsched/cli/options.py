"""What commands take: the options that several of them share, and the workloads and files that they stand for."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from ..errors import InputError
from ..metrics import figure_style, service
from ..policy import Policy
from ..predict import intervals
from ..predict.intervals import with_midpoints
from ..simulation import clock as clocks
from ..workloads import generate, traces
from ..workloads.length_table import LengthTable
from ..workloads.workload import Workload
from . import describe

_DEFAULT_INTERVALS = "buckets:100"

Trace = Annotated[
    str | None,
    typer.Argument(metavar="TRACE", show_default=False, help="A trace file, or - for the standard input."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help=f"Format of TRACE: {', '.join(traces.FORMATS)}. By default found."),
]
OnError = Annotated[str, typer.Option(metavar="raise|skip", help="What to do with a bad row of TRACE.")]
Memory = Annotated[int, typer.Option(metavar="M", help="Tokens of KV cache.")]
Seed = Annotated[int, typer.Option(metavar="K", help="Governs everything that is random.")]
EngineOption = Annotated[str, typer.Option(metavar="NAME", help="compiled, or reference (readable, equal, slow).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Intervals = Annotated[
    str | None,
    typer.Option(
        "--intervals",
        metavar="RULE",
        help="Predicted intervals: exact, constant:1,1000, buckets:100, relative:0.95 or "
        f"noisy:COVERAGE,WIDTH[,SEED[,BIAS]]. By default those in TRACE; if it has none, {_DEFAULT_INTERVALS}.",
    ),
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Only the first N requests (generated: 2,000).")]
Generate = Annotated[
    str, typer.Option("--generate", metavar="SPEC", help="Workload without TRACE, such as two_point:10,40,0.8.")
]
ClockOption = Annotated[
    str | None,
    typer.Option(
        "--clock",
        metavar="NAME|FILE",
        help=f"How long a round lasts, so that times are in seconds: {', '.join(clocks.clocks)}, or a .toml or .json "
        "file. By default a round lasts 1.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="R",
        help="Requests arrive in a Poisson process, R per second (without a clock, per "
        "round), instead of when TRACE says.",
    ),
]
RoundSeconds = Annotated[
    float, typer.Option(metavar="S", help="Seconds that a round lasts: arrival times in TRACE are divided by this.")
]
Slo = Annotated[
    str | None,
    typer.Option(
        "--slo", metavar="TARGETS", help=f"Targets such as ttft=1,tpot=0.1. There are: {', '.join(service.METRICS)}."
    ),
]
MaxBatch = Annotated[int | None, typer.Option(metavar="N", help="Most requests that run at once.")]
Block = Annotated[int, typer.Option(metavar="B", help="Tokens in a block of cache (16 in vLLM).")]
PrefillBudget = Annotated[
    int | None,
    typer.Option(metavar="N", help="Most tokens that a round processes: long prompts take several (chunked prefill)."),
]


def load(trace: str, format_: str | None, on_error: str) -> Workload:
    """The workload in the file TRACE."""
    return traces.load(trace, format=format_, on_error=cast(Literal["raise", "skip"], on_error))  # it looks itself


def read_workload(
    trace: str | None,
    generator: str,
    seed: int,
    limit: int | None,
    format_: str | None,
    on_error: str,
    round_seconds: float,
) -> Workload:
    """The workload in TRACE, or a generated one, of which `limit` requests."""
    if not 0 < round_seconds < math.inf:
        raise InputError(f"--round-seconds is {round_seconds}, expected a number greater than 0")
    if trace is None:
        return generate.parse(generator, 2000 if limit is None else limit, seed)
    if generator != "lmsys":
        raise InputError("TRACE and --generate both say what the requests are: give one of them")
    workload = load(trace, format_, on_error)
    if limit is not None:
        workload = workload.head(limit)
    return workload if round_seconds == 1 else generate.speed_up(workload, round_seconds)


def arriving(workload: Workload, rate: float | None, seed: int) -> Workload:
    """The workload, arriving at --rate if that is given."""
    return workload if rate is None else generate.poisson(workload, rate, seed)


def predicted(
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
        names = describe.listed(readers["lengths"])
        notes.append(f"{names}: told how the outputs of this very workload are distributed, but not which is whose")
    if not readers["point"] or workload.point is not None or workload.lower is None or workload.upper is None:
        return workload, spelling, notes
    names = describe.listed(readers["point"])
    notes.append(f"{names}: no point predictions given, so the middle of each interval, rounded up, is used")
    return with_midpoints(workload), spelling, notes


def check_outputs(files: Sequence[str | None], plot: str | None) -> None:
    """Find out before a long simulation, not after it, that a file cannot be written."""
    if plot is not None:
        figure_style.check_path(plot)
        figure_style.require_matplotlib()
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


def make_directory(directory: Path) -> None:
    """Make the directory that is written to, and those above it, unless it is there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        taken = directory.exists() and not directory.is_dir()
        why = "there is a file of that name" if taken else error.strerror
        raise InputError(f"cannot make the directory {str(directory)!r}: {why}") from None
