"""Options that several commands share, alone and in groups. An option that is added to a group is in all its commands.

A command that wants another help text or default for an option of a group takes a subclass that says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, Self, cast

import typer

from ..errors import InputError, TraceError, number_of
from ..fleet.router import Router
from ..fleet.router import named as named_router
from ..metrics import service
from ..metrics.compare import MEMORY
from ..policy import Policy
from ..policy_files import parse as parse_policy
from ..serving import written
from ..serving.published_clocks import parse as parse_clock
from ..simulation import machine as machines
from ..simulation.blocks import down_to_blocks
from ..simulation.clock import Clock
from ..simulation.machine import Machine
from ..workloads import generate, traces
from ..workloads.long_requests import TooLong, limit_length
from ..workloads.workload import Workload
from .output_files import check_outputs

DEFAULT_INTERVALS = "buckets:100"
#: What serves a trace that has arrival times.
DEFAULT_MACHINE = "llama2-70b-2xa100"
#: What --slo says on a help page.
SLO_HELP = f"Targets such as ttft=1,tpot=0.1. There are: {', '.join(service.METRICS)}."
#: What a --policy is, on a help page.
POLICY_HELP = (
    "A policy: a name, one composed as amin,margin=0.05[,name=mine], a .toml file of such keys, or one in a file of "
    "Python, mine.py:Ageing."
)
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
        bytes_ = ": a count, and no bytes" if written[-1:] in ("B", "b") else ""
        raise typer.BadParameter(f"{str(text)!r} is not {_FORMS}{bytes_}") from None
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
    float | None,
    typer.Option(
        metavar="S",
        show_default=False,
        help="Count rounds of so many seconds: arrival times in TRACE are divided by it.",
    ),
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
CacheTokens = Annotated[
    int | None,
    typer.Option(
        "--memory", metavar="M", parser=whole_number, help=f"Tokens of KV cache [the machine's; in rounds {MEMORY:,}]."
    ),
]
MachineName = Annotated[
    str | None,
    typer.Option(
        "--machine",
        metavar="NAME|FILE",
        help="What serves: clock, cache, blocks and limits, each of which an option of its own replaces. `llmsched "
        f"machines` lists them; or a .toml or .json file. By default {DEFAULT_MACHINE} if TRACE has arrival times.",
    ),
]
ClockName = Annotated[
    str | None,
    typer.Option(
        "--clock",
        metavar="NAME|FILE",
        help="How long a round lasts, so that times are in seconds: a .toml or .json file or one of "
        "`llmsched.serving.clocks`, which need --memory, or the name of a machine, which is short for --machine.",
    ),
]
InRounds = Annotated[
    bool, typer.Option("--rounds", help="Times in rounds, of which each takes 1, although TRACE has arrival times.")
]
MaxBatch = Annotated[int | None, typer.Option(metavar="N", parser=whole_number, help="Most requests that run at once.")]
Block = Annotated[
    int | None, typer.Option(metavar="B", parser=whole_number, help="Tokens in a block of cache (16 in vLLM).")
]
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


MaxModelLen = Annotated[
    int | None,
    typer.Option(metavar="N", help="Most tokens of a request, prompt and output: see --too-long [without it, clip]."),
]
TooLongWay = Annotated[
    str | None,
    typer.Option(
        metavar="drop|clip|error",
        help="Requests longer than --max-model-len, or than the cache: leave them out, end them there, or stop.",
    ),
]


@dataclass(frozen=True)
class TraceOptions:
    """A trace file, and how it is read."""

    trace: Trace = None
    format_: Format = None
    on_error: OnError = "raise"

    def load(self) -> Workload | None:
        """The workload in TRACE, if it is given. TraceError if it has no requests."""
        if self.trace is None:
            return None
        on_error = cast(Literal["raise", "skip"], self.on_error)  # `load` checks it
        try:
            workload = traces.load(self.trace, format=self.format_, on_error=on_error)
        except TraceError as error:
            raise TraceError(f"{error} (--on-error skip leaves such rows out)") if error.is_row else error from None
        if not len(workload):
            source = workload.source
            left_out = sum(source.get(why, 0) for why in ("skipped", "dropped"))
            first = f", the first as {source['first_skipped']}" if source.get("first_skipped") else ""
            raise TraceError(
                "there are no requests in it" + (f": {left_out:,} left out{first}" if left_out else ""), self.trace
            )
        return workload


@dataclass(frozen=True)
class SourceOptions(TraceOptions):
    """Where requests come from: a trace or a generator."""

    generator: Generate = "lmsys"
    max_model_len: MaxModelLen = None
    too_long: TooLongWay = None

    def fitting(self, workload: Workload, memory: int | None, block: int = 1) -> Workload:
        """The requests as --max-model-len and --too-long want them, for a cache of so many tokens if that is known.

        Raises InputError if that leaves none.
        """
        fitted = self._fitting(workload, memory, block)
        if len(workload) and not len(fitted):
            limit = fitted.source["too_long"]["limit"]
            raise InputError(f"no requests are left: all {len(workload):,} have more than the {limit:,} tokens allowed")
        return fitted

    def _fitting(self, workload: Workload, memory: int | None, block: int) -> Workload:
        way = cast(TooLong | None, self.too_long)  # `limit_length` checks it
        if self.max_model_len is not None:
            workload = limit_length(workload, self.max_model_len, way or "clip")
        if way is None:
            return workload
        if memory is not None:
            return limit_length(workload, down_to_blocks(memory, block), way)
        if self.max_model_len is None:
            raise InputError("--too-long needs --max-model-len here: the cache is what is looked for")
        return workload

    def read(self, seed: int, limit: int | None = None, round_seconds: float | None = None) -> Workload:
        """The workload in TRACE, or a generated one, of which `limit` requests. InputError if there are none."""
        if limit == 0:
            raise InputError("--limit 0 leaves no requests")
        round_seconds = 1.0 if round_seconds is None else round_seconds
        if not 0 < round_seconds < math.inf:
            raise InputError(f"--round-seconds is {round_seconds}, expected a number greater than 0")
        if self.trace is not None and self.generator != "lmsys":
            raise InputError(f"TRACE ({self.trace}) and --generate both say what the requests are: give one of them")
        workload = self.load()
        if workload is None:
            return generate.parse(self.generator, _GENERATED if limit is None else limit, seed)
        if limit is not None:
            workload = workload.head(limit)
        return workload if round_seconds == 1 else generate.speed_up(workload, round_seconds)


@dataclass(frozen=True)
class DrawnOptions:
    """Random draws of requests and arrivals, of which a command takes means."""

    requests: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number,
            help=f"Requests in a replication; by default as many as there are (generated: {_GENERATED:,}).",
        ),
    ] = None
    replications: Annotated[int, typer.Option(metavar="K", help="Random draws of requests and arrivals.")] = 10

    def arguments(self) -> dict[str, Any]:
        """As arguments of `llmsched.capacity.highest_rate` and the like."""
        return {"requests": self.requests, "replications": self.replications}


@dataclass(frozen=True, kw_only=True)
class TargetOptions(DrawnOptions):
    """Service targets, by whose draws of requests a limit is found at which they hold."""

    slo: Annotated[str, typer.Option("--slo", metavar="TARGETS", help=SLO_HELP, show_default=False)]
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"{POLICY_HELP} Repeat for several. By default fcfs.")
    ] = None
    attainment: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the requests that has to keep all targets: with --slo ttft=2, 0.99 says that the p99 of "
            "ttft is at most 2.",
        ),
    ] = 0.9

    def policies(self) -> dict[str, Policy]:
        """The policies that are asked about, by the name that tables show."""
        return parse_policies(self.policy or ["fcfs"])

    def arguments(self) -> dict[str, Any]:
        """As arguments of `llmsched.capacity.highest_rate` and the like."""
        return {**super().arguments(), "slo": service.parse_slo(self.slo), "attainment": self.attainment}


@dataclass(frozen=True)
class RequestOptions(SourceOptions):
    """The requests that are simulated: where they come from, how many, and when they arrive."""

    limit: Limit = None
    rate: Rate = None

    def workload(self, seed: int, round_seconds: float | None = None) -> Workload:
        """The first --limit requests, arriving at --rate if that is given."""
        return self.at_rate(self.read(seed, self.limit, round_seconds), seed)

    def at_rate(self, workload: Workload, seed: int) -> Workload:
        """The requests, arriving at --rate if that is given."""
        return workload if self.rate is None else generate.poisson(workload, self.rate, seed)


@dataclass(frozen=True)
class Setup:
    """What a command simulates on, every option decided."""

    memory: int | None  # None: what the command looks for
    clock: Clock | None
    block: int = 1
    max_batch: int | None = None
    prefill_budget: int | None = None
    power: str | None = None
    name: str = ""  # what the header says it is, with the options that replace its own; empty in rounds
    clock_name: str | None = None
    machine: str | None = None

    def limits(self) -> dict[str, Any]:
        """Limits of the batch, as arguments of `llmsched.simulate` and the like."""
        return {"max_batch": self.max_batch, "block": self.block, "prefill_budget": self.prefill_budget}

    def arguments(self) -> dict[str, Any]:
        """As arguments of `llmsched.simulate` and the like."""
        return {"memory": self.memory, "clock": self.clock, **self.limits()}


@dataclass(frozen=True)
class MachineOptions:
    """What the requests run on: a machine, or cache, clock and limits one by one."""

    machine_name: MachineName = None
    memory: CacheTokens = None
    clock_name: ClockName = None
    in_rounds: InRounds = False
    max_batch: MaxBatch = None
    block: Block = None
    prefill_budget: PrefillBudget = None

    @property
    def is_timed(self) -> bool:
        """Whether a machine or a clock is given."""
        return self.machine_name is not None or self.clock_name is not None

    def or_default(self) -> Self:
        """With the default machine where neither a machine nor a clock is given, nor rounds are asked for."""
        return self if self.is_timed or self.in_rounds else replace(self, machine_name=DEFAULT_MACHINE)

    def setup(self, workload: Workload | None = None, round_seconds: float | None = None, sized: bool = False) -> Setup:
        """What there is to simulate on.

        `workload` is as it was read: if it has arrival times from a trace, they are seconds, and a machine serves it;
        unless --rounds or --round-seconds (`round_seconds`) asks for rounds. `sized`: the cache is what is looked for.

        Raises
        ------
        InputError
            Options exclude each other, a name is unknown, or a clock comes without a cache.
        """
        rounds = "--rounds" if self.in_rounds else "--round-seconds" if round_seconds is not None else None
        if rounds is not None and self.is_timed:
            raise InputError(
                f"{rounds} and {'--machine' if self.machine_name else '--clock'} both say how long a round lasts: "
                "give one of them"
            )
        own = {key: getattr(self, key) for key in ("memory", "block", "max_batch", "prefill_budget")}
        given = {key: value for key, value in own.items() if value is not None}
        if rounds is None and not self.is_timed and _arrives_in_seconds(workload):
            why = "; the default, as TRACE has arrival times: --rounds counts rounds"
            return self._on(machines.named(DEFAULT_MACHINE), given, None, why)
        if self.machine_name is not None:
            clock = None if self.clock_name is None else parse_clock(self.clock_name)
            return self._on(machines.parse(self.machine_name), given, clock)
        if self.clock_name in machines.machines:
            return self._on(machines.named(str(self.clock_name)), given, None)
        clock = None if self.clock_name is None else parse_clock(self.clock_name)
        if clock is not None and self.memory is None and not sized:
            raise InputError(
                f"clock {self.clock_name} has no cache: add --memory M, the tokens of KV cache that the machine holds "
                "(`llmsched size --help` says how to compute them), or give a machine file as --machine"
            )
        named = {"name": f"clock {self.clock_name}", "clock_name": self.clock_name} if clock is not None else {}
        return Setup(**{"memory": None if sized else MEMORY, "clock": clock} | given | named)

    def _on(self, machine: Machine, given: dict[str, int], clock: Clock | None, why: str = "") -> Setup:
        """A machine with the options that are given in the place of its own."""
        changed = {key: value for key, value in given.items() if value != getattr(machine, key)}
        if "block" in changed and "memory" not in changed and machine.memory < changed["block"]:
            raise InputError(f"block must be at most the cache of {machine.memory:,} tokens, not {changed['block']}")
        options = [] if clock is None else [f"--clock {self.clock_name}"]
        options += [f"--{key.replace('_', '-')} {value:,}" for key, value in changed.items()]
        name = f"machine {machine.name}{' with ' if options else ''}{', '.join(options)}{why}"
        values: dict[str, Any] = machine.options() | changed | ({} if clock is None else {"clock": clock})
        shown = machine.name if clock is None else self.clock_name
        return Setup(**values, power=machine.power, name=name, clock_name=shown, machine=machine.name)


SystemText = Annotated[
    str | None,
    typer.Option(
        "--system",
        metavar="NAME:SETTINGS",
        help="An engine by its own settings, such as vllm:num-gpu-blocks=2587,max-num-seqs=256: cache, blocks, limits "
        "and policy are its, and requests that arrive together are served in the order of TRACE.",
    ),
]


@dataclass(frozen=True)
class SystemOptions:
    """An engine that is simulated by its own settings."""

    system: SystemText = None

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        assert self.system is not None
        return written.parse(self.system)

    def policies(self) -> dict[str, Policy]:
        """Its policy, by the name that tables show; none if there is no --system."""
        if self.system is None:
            return {}
        name = f"system {self.system.partition(':')[0]}"
        return {name: self._arguments["policy"].labelled(name)}

    def on(self, machine: MachineOptions, setup: Setup) -> Setup:
        """The setup with its cache and limits. InputError if an option says another one."""
        if self.system is None:
            return setup
        limits = ("memory", "block", "max_batch", "prefill_budget")
        for name in limits:
            if getattr(machine, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} and --system both say what it is: give one of them")
        name = f"{setup.name}{' with ' if setup.name else ''}--system {self.system}"
        return replace(setup, **{limit: self._arguments[limit] for limit in limits}, name=name)

    def seed(self, seed: int) -> int | None:
        """The seed of a simulation: None with --system, whose ties are broken by index."""
        return seed if self.system is None else None


#: What a --router is, on a help page.
ROUTER_HELP = (
    "Who chooses the replica: a name (`llmsched routers` lists them), or one with fields: least-work,work=upper."
)


@dataclass(frozen=True)
class FleetOptions:
    """Replicas of the machine, and who chooses among them."""

    replicas: Annotated[
        int | None,
        typer.Option(metavar="N", parser=whole_number, help="Machines of that kind, behind a router [one, without]."),
    ] = None
    router: Annotated[
        list[str] | None,
        typer.Option(
            "--router", metavar="NAME", help=f"{ROUTER_HELP} Repeat for a row each, with one --policy [least-requests]."
        ),
    ] = None

    @cached_property
    def routers(self) -> dict[str, Router]:
        """The routers that are asked for, by the name that tables show. InputError without replicas to choose among."""
        if self.router and self.replicas is None:
            raise InputError("--router chooses among replicas: say how many, as in --replicas 8")
        return {named_router(text).name: named_router(text) for text in self.router or ["least-requests"]}

    @property
    def reads_predictions(self) -> bool:
        """Whether a router looks at what is predicted."""
        return self.replicas is not None and any(_PREDICTED & {*router.needs} for router in self.routers.values())

    def arguments(self) -> dict[str, Any]:
        """As arguments of `llmsched.compare`."""
        return {} if self.replicas is None else {"replicas": self.replicas, "router": self.routers}

    def text(self) -> str:
        """What a header says of it, to stand before the machine; empty without replicas."""
        if self.replicas is None:
            return ""
        router = f", router {next(iter(self.routers))}" if len(self.routers) == 1 else ""
        return f"{number_of(self.replicas, 'replica')}{router}; each "

    def json(self) -> dict[str, Any]:
        """The same for JSON."""
        if self.replicas is None:
            return {}
        return {"replicas": self.replicas, "routers": {name: one.fields() for name, one in self.routers.items()}}


_PREDICTED = frozenset({"lower", "upper", "point"})


def _arrives_in_seconds(workload: Workload | None) -> bool:
    """Whether it is a trace with arrival times."""
    return workload is not None and "path" in workload.source and bool(workload.arrival.any())


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


def parse_policies(texts: Iterable[str]) -> dict[str, Policy]:
    """The policies that are written so, by the name that tables show.

    Raises InputError if two that differ have the same name, and as `llmsched.policy_files.parse` does.
    """
    found: dict[str, Policy] = {}
    for text in texts:
        policy = parse_policy(text)
        name = policy.label or text
        if found.setdefault(name, policy) != policy:
            raise InputError(
                f"two policies are called {name!r}: give one of them another name, as in {text},name=other"
            )
    return found
