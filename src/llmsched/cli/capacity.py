"""`llmsched capacity`: the highest arrival rate, the smallest cache, or the fewest replicas, at which targets hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer

from .._version import version
from ..errors import InputError, nearest
from ..fleet.router import Router
from ..fleet.router import named as named_router
from ..metrics import figure_style, load_figures
from ..metrics.capacity import Capacity, fewest_replicas, highest_rate, smallest_memory
from ..metrics.fleet_mix import Mix, cheapest_mix
from ..metrics.sweep import LEAST, Sweep, sweep
from ..policy import Policy
from ..workloads.workload import Workload
from . import console, describe
from .capacity_mix import kinds_of, notes_of, print_answer
from .console import aligned, aside, number_of, print_columns
from .describe import Spelling
from .option_groups import expand_groups
from .options import (
    ROUTER_HELP,
    Intervals,
    Json,
    MachineName,
    MachineOptions,
    Seed,
    Setup,
    SourceOptions,
    TargetOptions,
)
from .output_files import check_outputs
from .predictions import interval_rule, with_predictions

_RATES_DRAWN = 9


@dataclass(frozen=True)
class CapacityMachine(MachineOptions):
    """A machine by default, whatever TRACE is: targets are in seconds."""

    machine_name: MachineName = None

    def of(self, sized: bool) -> Setup:
        """The machine; without its cache if that is what is looked for (`sized`)."""
        setup = self.or_default().setup(sized=sized)
        return replace(setup, memory=None) if sized else setup


@dataclass(frozen=True)
class FleetSearch:
    """Among how many replicas the fewest are looked for, and who chooses among them."""

    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO", help="For --find replicas, which it implies: how many at least and at most [1:64]."
        ),
    ] = None
    router: Annotated[
        list[str] | None,
        typer.Option(
            "--router",
            metavar="NAME",
            help=f"For --find replicas. {ROUTER_HELP} Repeat for a row each, with one --policy [least-requests].",
        ),
    ] = None

    mix: Annotated[
        list[str] | None,
        typer.Option(
            "--mix",
            metavar="MACHINE=PRICE",
            help="A machine (a name, or a file) and its price per hour: find the cheapest numbers of each, together at "
            "most as many as --replicas says [1:16]. Repeat for each kind.",
        ),
    ] = None

    @property
    def is_asked(self) -> bool:
        """Whether an option of it is given."""
        return self.replicas is not None or bool(self.router)

    def range(self) -> dict[str, int]:
        """`least` and `most`, as arguments of `fewest_replicas`. InputError if they are none."""
        if self.replicas is None:
            return {}
        first, colon, last = self.replicas.partition(":")
        if not (first.isdecimal() and last.isdecimal() and colon and 1 <= int(first) <= int(last)):
            raise InputError(f"--replicas {self.replicas} does not have the form 1:64, from how many to how many")
        return {"least": int(first), "most": int(last)}

    def of_mix(self) -> dict[str, Any]:
        """`most` and `router`, as arguments of `cheapest_mix`."""
        most = {"most": self.range()["most"]} if self.replicas is not None else {}
        return {**most, **({"router": self.router[0]} if self.router else {})}

    def routers(self) -> dict[str, Router]:
        """Those that are asked for, by the name that tables show."""
        return {named_router(text).name: named_router(text) for text in self.router or ["least-requests"]}


@expand_groups(
    "slo trace policy attainment find replicas router mix machine_name memory rate clock_name in_rounds "
    "max_batch block prefill_budget requests replications interval seed generator format_ on_error as_json "
    "plot_file"
)
def capacity(
    wanted: TargetOptions,
    source: SourceOptions,
    machine: CapacityMachine,
    fleet: FleetSearch,
    find: Annotated[
        str | None,
        typer.Option(
            metavar="rate|memory|replicas",
            help="The highest arrival rate, the smallest cache, or the fewest replicas [rate].",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="Requests per second, unless it is what is found. By default as in TRACE."),
    ] = None,
    interval: Intervals = None,
    seed: Seed = 0,
    as_json: Json = False,
    plot_file: Annotated[
        str | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Also draw a figure (.png, .svg, .pdf): latency, ttft and goodput around the rate that is found, or "
            "behind each router around --rate (some more simulations), or the share within the targets.",
        ),
    ] = None,
) -> None:
    """Find the highest arrival rate, the smallest KV cache, or the fewest replicas, at which the targets hold.

    They hold if a share of the requests (--attainment) keeps all of them. Requests are drawn from TRACE with
    replacement and arrive in a Poisson process; the answer is found by bisection, with its 95 % confidence interval.
    """
    check_outputs([], plot_file)
    if fleet.mix:
        _refuse_beside_mix(find, machine, fleet, plot_file)
        find = "mix"
    else:
        find = _what(find, machine, rate, fleet)
    setup = machine.of(sized=find == "memory")
    asked: dict[str, Any] = {**wanted.arguments(), "seed": seed, **setup.arguments()}
    policies = wanted.policies()
    rule = interval_rule(interval)
    workload, spelling, notes = with_predictions(
        source.fitting(source.read(seed), setup.memory, setup.block), rule, policies.values()
    )
    if find != "rate" and rate is None and not workload.arrival.any():
        notes.append("all requests arrive at 0: give --rate for a Poisson process")
    notes += describe.reading_notes(workload)
    if fleet.mix:
        of_mix: dict[str, Any] = {**wanted.arguments(), "seed": seed, "rate": rate, "kinds": kinds_of(fleet.mix)}
        of_mix |= fleet.of_mix()
        mixes: dict[str, Mix] = {}
        with console.ProgressBar("simulations") as bar:
            for name, chosen in policies.items():
                mixes[name] = cheapest_mix(workload, chosen, **of_mix, progress=partial(bar.update, name))
        notes += notes_of(mixes)
        print_answer(mixes, of_mix["kinds"], workload, spelling, seed, notes, as_json)
        return
    if find == "memory":
        del asked["memory"]
    if find != "rate":
        asked["rate"] = rate
    found: dict[str, Capacity] = {}
    with console.ProgressBar("simulations") as bar:
        for name, search in _searches(find, policies, fleet).items():
            found[name] = search(workload, **asked, progress=partial(bar.update, name))
        notes += _capacity_notes(found)
        if plot_file is not None:
            ran_on = {"clock": setup.clock, **setup.limits()}
            if find == "rate" and any(0 < answer.value < math.inf for answer in found.values()):
                swept = _around(found, workload, policies, ran_on, seed, partial(bar.update, "for the figure"))
                values = {name: answer.value for name, answer in found.items()}
                figure = load_figures.sweep(
                    swept, intervals=str(spelling), capacities=values, attainment=wanted.attainment
                )
            elif find == "replicas" and rate is not None and any(answer.value < math.inf for answer in found.values()):
                swept = _of_routers(found, workload, policies, fleet, ran_on, seed, partial(bar.update, "figure"))
                figure = load_figures.sweep(swept, intervals=str(spelling), attainment=wanted.attainment)
            else:
                figure = [load_figures.capacity(found, workload, **ran_on, intervals=str(spelling))]
            figure_style.save(figure, plot_file)
    if as_json:
        settings = {"intervals": str(spelling), "known": spelling.words, "seed": seed, **describe.setup_json(setup)}
        records = [
            answer.record() | {"policy" if name in policies else "router": name} for name, answer in found.items()
        ]
        answers = {"notes": notes, "answers": records}
        console.print_json({"llmsched": version, **settings, **answers})
    else:
        _print_capacity(found, workload, setup, spelling, notes)


def _around(
    found: Mapping[str, Capacity],
    workload: Workload,
    policies: Mapping[str, Policy],
    ran_on: Mapping[str, Any],
    seed: int,
    progress: Callable[[int, int], None],
) -> Sweep:
    """Rates from well below the lowest capacity that was found to above the highest."""
    first = next(iter(found.values()))
    values = [answer.value for answer in found.values() if 0 < answer.value < math.inf]
    rates = np.geomspace(0.3 * min(values), 1.6 * max(values), _RATES_DRAWN).tolist()
    assert first.memory is not None
    return sweep(
        workload, policies, rates=rates, memory=first.memory, slo=first.slo, **ran_on,
        requests=max(first.requests, LEAST), replications=min(first.replications, 5), seed=seed, progress=progress,
    )  # fmt: skip


def _of_routers(
    found: Mapping[str, Capacity],
    workload: Workload,
    policies: Mapping[str, Policy],
    fleet: FleetSearch,
    ran_on: Mapping[str, Any],
    seed: int,
    progress: Callable[[int, int], None],
) -> Sweep:
    """Every router with the most replicas that one of them needs, at rates below and above the one that was asked."""
    first = next(iter(found.values()))
    assert first.rate is not None
    assert first.memory is not None
    replicas = int(max(answer.value for answer in found.values() if answer.value < math.inf))
    return sweep(
        workload, policies, rates=np.geomspace(0.3 * first.rate, 1.3 * first.rate, _RATES_DRAWN).tolist(),
        memory=first.memory, slo=first.slo, **ran_on, replicas=replicas, router=fleet.routers(),
        requests=max(first.requests, LEAST), replications=min(first.replications, 5), seed=seed, progress=progress,
    )  # fmt: skip


def _refuse_beside_mix(find: str | None, machine: MachineOptions, fleet: FleetSearch, plot_file: str | None) -> None:
    """InputError if there is an option that says something else than --mix."""
    if find is not None or plot_file is not None:
        raise InputError("--mix finds the cheapest machines, and draws nothing: leave --find and --plot out")
    if machine != type(machine)():
        raise InputError("--mix says which machines there are: leave other options of machines out, or use files")
    if len(fleet.router or ()) > 1:
        raise InputError("--mix is for one --router")


def _what(find: str | None, machine: MachineOptions, rate: float | None, fleet: FleetSearch) -> str:
    """What is looked for. InputError if it is given, or if what is given is of another search."""
    find = find or ("replicas" if fleet.is_asked else "rate")
    if find not in ("rate", "memory", "replicas"):
        raise InputError(f"--find {find!r} is unknown; {nearest(find, ('rate', 'memory', 'replicas'))}")
    if fleet.is_asked and find != "replicas":
        raise InputError(f"--replicas and --router are for --find replicas, not {find}: leave them out")
    if find == "rate" and rate is not None:
        raise InputError("--rate is what --find rate finds: leave it out, or give --find memory, or --replicas 1:64")
    if find == "memory" and machine.memory is not None:
        raise InputError("--memory is what --find memory finds: leave it out, or give --find rate")
    return find


def _searches(find: str, policies: Mapping[str, Policy], fleet: FleetSearch) -> dict[str, Callable[..., Capacity]]:
    """What answers each row: one for each policy, or for each router."""
    if find != "replicas":
        search = highest_rate if find == "rate" else smallest_memory
        return {name: partial(search, policy=policy) for name, policy in policies.items()}
    among: dict[str, Any] = {**fleet.range()}
    rows = fleet.routers()
    if len(rows) == 1:
        among |= {"router": next(iter(rows.values()))}
        return {name: partial(fewest_replicas, policy=policy, **among) for name, policy in policies.items()}
    if len(policies) > 1:
        raise InputError("several --router are compared under one policy: give one --policy")
    among |= {"policy": next(iter(policies.values()))}
    return {name: partial(fewest_replicas, router=router, **among) for name, router in rows.items()}


#: What is found -> what a header says of it, the heading of its column, and its decimals.
_FOUND = {
    "rate": ("Highest rate", "requests/{unit}", 2),
    "memory": ("Smallest cache", "tokens", 0),
    "replicas": ("Fewest replicas", "replicas", 0),
}


def _print_capacity(
    found: Mapping[str, Capacity], workload: Workload, setup: Setup, spelling: Spelling, notes: Sequence[str]
) -> None:
    answers = list(found.values())
    first = answers[0]
    drawn = f"{number_of(first.replications, 'replication')} of {number_of(first.requests, 'request')}"
    arriving = (
        ""
        if first.quantity == "rate"
        else ", as they arrive"
        if first.rate is None
        else f", {first.rate:g}/{first.unit}"
    )
    aside(f"{describe.requests_text(workload)}; {drawn}{arriving}")
    unit = "rounds" if setup.clock is None else "seconds"
    one_router = len({answer.router for answer in answers}) == 1
    behind = "" if first.router is None else f"replicas behind {first.router}; each " if one_router else "replicas of "
    aside(f"{behind}{describe.machine_text(setup)}; times in {unit}")
    aside(spelling.text())
    what, heading, decimals = _FOUND[first.quantity]
    aside(f"{what} with {first.attainment:.4g} of requests within {describe.targets_text(first.slo)}:\n")
    print_columns(
        {
            "policy" if one_router else "router": list(found),
            heading.format(unit=first.unit): aligned([answer.value for answer in answers], decimals=decimals),
            "95 % from": aligned([answer.low for answer in answers], decimals=decimals),
            "to": aligned([answer.high for answer in answers], decimals=decimals),
            "within": aligned([answer.attained * 100 for answer in answers], suffix="%", decimals=1),
        }
    )
    describe.print_notes(notes)


def _more_were_worse(answer: Capacity) -> tuple[float, float] | None:
    """Two numbers of replicas of which the larger is worse, beyond chance; None where there are none."""
    if answer.quantity == "replicas":
        for (fewer, share, half), (more, other, other_half) in itertools.pairwise(answer.probes):
            if other + other_half < share - half:
                return fewer, more
    return None


def _capacity_notes(found: Mapping[str, Capacity]) -> list[str]:
    """Why there is no number, or one that does not hold for ever."""
    notes = []
    for name, answer in found.items():
        if answer.above_capacity:
            arriving = answer.value if answer.rate is None else answer.rate
            notes.append(
                f"{name}: this does not hold for ever: {arriving:.3g} requests/{answer.unit} arrive, and about "
                f"{answer.stable_rate:.3g} can be served; in {answer.above_capacity} of {answer.replications} "
                f"replications they pile up, and {answer.requests:,} requests are over before the targets break. Ask "
                f"again with longer ones: --requests {10 * answer.requests}"
            )
        if worse := _more_were_worse(answer):
            notes.append(
                f"{name}: {worse[1]:,.0f} replicas kept the targets for fewer requests than {worse[0]:,.0f}. More are "
                "taken to be no worse, so that a smaller answer may have been missed"
            )
        if answer.value == 0:
            notes.append(f"{name}: the targets do not hold even if requests come one by one")
        if math.isinf(answer.value) and answer.quantity == "rate":
            notes.append(f"{name}: the targets hold even if all requests come at once")
        if math.isinf(answer.value) and answer.quantity == "memory":
            notes.append(
                f"{name}: the targets do not hold with any cache: the clock or --max-batch sets the limit. Try a lower "
                "--rate, another --machine, or several of them (llmsched capacity --replicas 1:64)"
            )
        if math.isinf(answer.value) and answer.quantity == "replicas":
            most = int(max(tried for tried, _, _ in answer.probes))
            notes.append(
                f"{name}: the targets do not hold with {most:,} replicas either: allow more (--replicas 1:1000)"
            )
    return notes
