"""Options that several commands share, alone and in groups. An option that is added to a group is in all its commands.

A command that wants another help text or default for an option of a group takes a subclass that says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, cast

import typer

from ..errors import InputError
from ..metrics import service
from ..metrics.compare import MEMORY
from ..simulation.clock import Clock, clocks
from ..simulation.clock import parse as parse_clock
from ..workloads import generate, traces
from ..workloads.workload import Workload
from .output_files import check_outputs

DEFAULT_INTERVALS = "buckets:100"
#: What --slo says on a help page.
SLO_HELP = f"Targets such as ttft=1,tpot=0.1. There are: {', '.join(service.METRICS)}."
#: Requests that are generated unless --limit says how many.
_GENERATED = 2000

_FORMS = "a whole number such as 16492, 16k, 1.5M or 1e6"
_TIMES = {"k": 3, "m": 6, "g": 9}


def whole_number(text: str | int) -> int:
    """A count of tokens or requests as people write it: 16492, 16,492, 16k, 1.5M, 2G, 1e6.

    Raises typer.BadParameter, which says the forms, for anything that is no whole number.
    """
    written = str(text).strip().replace(",", "").replace("_", "")
    power = _TIMES.get(written[-1:].lower(), 0)
    try:
        value = Decimal(written[:-1] if power else written).scaleb(power)
        if value != value.to_integral_value() or abs(value) >= 2**63:
            raise ValueError
    except (ArithmeticError, ValueError):
        raise typer.BadParameter(f"{str(text)!r} is not {_FORMS}") from None
    return int(value)


Trace = Annotated[
    str | None,
    typer.Argument(metavar="TRACE", show_default=False, help="A trace file, or - for the standard input."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help=f"Format of TRACE: {', '.join(traces.FORMATS)}. By default found."),
]
OnError = Annotated[str, typer.Option(metavar="raise|skip", help="What to do with a bad row of TRACE.")]
Generate = Annotated[
    str, typer.Option("--generate", metavar="SPEC", help="Workload without TRACE, such as two_point:10,40,0.8.")
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", parser=whole_number, help=f"Only the first N requests (generated: {_GENERATED:,})."),
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
Intervals = Annotated[
    str | None,
    typer.Option(
        "--intervals",
        metavar="RULE",
        help="Predicted intervals: exact, constant:1,1000, buckets:100, relative:0.95 or "
        f"noisy:COVERAGE,WIDTH[,SEED[,BIAS]]. By default those in TRACE; if it has none, {DEFAULT_INTERVALS}.",
    ),
]
Memory = Annotated[int, typer.Option(metavar="M", parser=whole_number, help="Tokens of KV cache.")]
ClockName = Annotated[
    str | None,
    typer.Option(
        "--clock",
        metavar="NAME|FILE",
        help=f"How long a round lasts, so that times are in seconds: {', '.join(clocks)}, or a .toml or .json "
        "file. By default a round lasts 1.",
    ),
]
MaxBatch = Annotated[int | None, typer.Option(metavar="N", parser=whole_number, help="Most requests that run at once.")]
Block = Annotated[int, typer.Option(metavar="B", parser=whole_number, help="Tokens in a block of cache (16 in vLLM).")]
PrefillBudget = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=whole_number,
        help="Most tokens that a round processes: long prompts take several (chunked prefill).",
    ),
]
Seed = Annotated[int, typer.Option(metavar="K", help="Governs everything that is random.")]
EngineOption = Annotated[str, typer.Option(metavar="NAME", help="compiled, or reference (readable, equal, slow).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Csv = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Also write the numbers as CSV (-: print that instead).")
]


@dataclass(frozen=True)
class TraceOptions:
    """A trace file, and how it is read."""

    trace: Trace = None
    format_: Format = None
    on_error: OnError = "raise"

    def load(self) -> Workload | None:
        """The workload in TRACE, if it is given."""
        if self.trace is None:
            return None
        on_error = cast(Literal["raise", "skip"], self.on_error)  # `load` checks it
        return traces.load(self.trace, format=self.format_, on_error=on_error)


@dataclass(frozen=True)
class SourceOptions(TraceOptions):
    """Where requests come from: a trace or a generator."""

    generator: Generate = "lmsys"

    def read(self, seed: int, limit: int | None = None, round_seconds: float = 1.0) -> Workload:
        """The workload in TRACE, or a generated one, of which `limit` requests."""
        if not 0 < round_seconds < math.inf:
            raise InputError(f"--round-seconds is {round_seconds}, expected a number greater than 0")
        if self.trace is not None and self.generator != "lmsys":
            raise InputError("TRACE and --generate both say what the requests are: give one of them")
        workload = self.load()
        if workload is None:
            return generate.parse(self.generator, _GENERATED if limit is None else limit, seed)
        if limit is not None:
            workload = workload.head(limit)
        return workload if round_seconds == 1 else generate.speed_up(workload, round_seconds)


@dataclass(frozen=True)
class RequestOptions(SourceOptions):
    """The requests that are simulated: where they come from, how many, and when they arrive."""

    limit: Limit = None
    rate: Rate = None

    def workload(self, seed: int, round_seconds: float = 1.0) -> Workload:
        """The first --limit requests, arriving at --rate if that is given."""
        workload = self.read(seed, self.limit, round_seconds)
        return workload if self.rate is None else generate.poisson(workload, self.rate, seed)


@dataclass(frozen=True)
class BatchOptions:
    """Limits of a batch, and the blocks of the cache."""

    max_batch: MaxBatch = None
    block: Block = 1
    prefill_budget: PrefillBudget = None

    def limits(self) -> dict[str, Any]:
        """As arguments of `llmsched.simulate` and the like."""
        return {"max_batch": self.max_batch, "block": self.block, "prefill_budget": self.prefill_budget}


@dataclass(frozen=True)
class MachineOptions(BatchOptions):
    """What the requests run on: cache, clock and limits."""

    memory: Memory = MEMORY
    clock_name: ClockName = None

    @cached_property
    def clock(self) -> Clock | None:
        """The clock that --clock names, if it is given; InputError if there is none of that name."""
        return None if self.clock_name is None else parse_clock(self.clock_name)

    def arguments(self) -> dict[str, Any]:
        """As arguments of `llmsched.simulate` and the like."""
        return {"memory": self.memory, "clock": self.clock, **self.limits()}


@dataclass(frozen=True)
class DataOutput:
    """Numbers as JSON and CSV."""

    as_json: Json = False
    csv_file: Csv = None

    @property
    def prints_csv(self) -> bool:
        """Whether the CSV takes the place of what is printed."""
        return self.csv_file == "-"

    def check(self, plot_file: str | None = None) -> None:
        """Raise InputError if what is asked cannot be written."""
        if self.as_json and self.prints_csv:
            raise InputError("--json and --csv - both want the standard output: give the CSV a file name")
        check_outputs([self.csv_file], plot_file)
