"""`llmsched capacity`: the highest arrival rate, or the smallest cache, at which service targets hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer

from .._version import version
from ..errors import InputError, nearest
from ..metrics import figure_style, load_figures
from ..metrics.capacity import Capacity, highest_rate, smallest_memory
from ..metrics.sweep import LEAST, Sweep, sweep
from ..policy import Policy
from ..workloads.workload import Workload
from . import console, describe
from .console import aligned, number_of, print_columns, say
from .describe import Spelling
from .option_groups import expand_groups
from .options import (
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


@expand_groups(
    "slo trace policy attainment find machine_name memory rate clock_name in_rounds max_batch block prefill_budget "
    "requests replications "
    "interval seed generator format_ on_error as_json plot_file"
)
def capacity(
    wanted: TargetOptions,
    source: SourceOptions,
    machine: CapacityMachine,
    find: Annotated[
        str, typer.Option(metavar="rate|memory", help="The highest arrival rate, or the smallest cache.")
    ] = "rate",
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="For --find memory: requests per second. By default as in TRACE."),
    ] = None,
    interval: Intervals = None,
    seed: Seed = 0,
    as_json: Json = False,
    plot_file: Annotated[
        str | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Also draw a figure (.png, .svg, .pdf): latency, ttft and goodput around the rate that is found (some "
            "more simulations), or the share within the targets against the cache.",
        ),
    ] = None,
) -> None:
    """Find the highest arrival rate, or the smallest KV cache, at which the targets hold.

    They hold if a share of the requests (--attainment) keeps all of them. Requests are drawn from TRACE with
    replacement and arrive in a Poisson process; the answer is found by bisection, with its 95 % confidence interval.
    """
    check_outputs([], plot_file)
    search = _search(find, machine, rate)
    setup = machine.of(sized=find == "memory")
    asked: dict[str, Any] = {**wanted.arguments(), "seed": seed, **setup.arguments()}
    policies = wanted.policies()
    rule = interval_rule(interval)
    workload, spelling, notes = with_predictions(
        source.fitting(source.read(seed), setup.memory, setup.block), rule, policies.values()
    )
    if find == "memory" and rate is None and not workload.arrival.any():
        notes.append("all requests arrive at 0: give --rate for a Poisson process")
    notes += describe.reading_notes(workload)
    if find == "memory":
        del asked["memory"]
        asked["rate"] = rate
    found: dict[str, Capacity] = {}
    with console.ProgressBar("simulations") as bar:
        for name, chosen in policies.items():
            found[name] = search(workload, chosen, **asked, progress=partial(bar.update, name))
        notes += _capacity_notes(found)
        if plot_file is not None:
            ran_on = {"clock": setup.clock, **setup.limits()}
            if find == "rate" and any(0 < answer.value < math.inf for answer in found.values()):
                swept = _around(found, workload, policies, ran_on, seed, partial(bar.update, "for the figure"))
                values = {name: answer.value for name, answer in found.items()}
                figure = load_figures.sweep(
                    swept, intervals=str(spelling), capacities=values, attainment=wanted.attainment
                )
            else:
                figure = load_figures.capacity(found, workload, **ran_on, intervals=str(spelling))
            figure_style.save(figure, plot_file)
    if as_json:
        settings = {"intervals": str(spelling), "known": spelling.words, "seed": seed, **describe.setup_json(setup)}
        records = [{**answer.record(), "policy": name} for name, answer in found.items()]
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


def _search(find: str, machine: MachineOptions, rate: float | None) -> Callable[..., Capacity]:
    """The search that --find names: what is found cannot be given."""
    if find not in ("rate", "memory"):
        raise InputError(f"--find {find!r} is unknown; {nearest(find, ('rate', 'memory'))}")
    if find == "rate":
        if rate is not None:
            raise InputError("--rate is what --find rate finds: leave it out, or give --find memory")
        return highest_rate
    if machine.memory is not None:
        raise InputError("--memory is what --find memory finds: leave it out, or give --find rate")
    return smallest_memory


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
    say(f"{describe.requests_text(workload)}; {drawn}{arriving}")
    unit = "rounds" if setup.clock is None else "seconds"
    say(f"{describe.machine_text(setup)}; times in {unit}")
    say(spelling.text())
    say(
        f"{'Highest rate' if first.quantity == 'rate' else 'Smallest cache'} with {first.attainment:.4g} of requests "
        f"within {describe.targets_text(first.slo)}:\n"
    )
    decimals = 2 if first.quantity == "rate" else 0
    print_columns(
        {
            "policy": list(found),
            f"requests/{first.unit}" if first.quantity == "rate" else "tokens": aligned(
                [answer.value for answer in answers], decimals=decimals
            ),
            "95 % from": aligned([answer.low for answer in answers], decimals=decimals),
            "to": aligned([answer.high for answer in answers], decimals=decimals),
            "within": aligned([answer.attained * 100 for answer in answers], suffix="%", decimals=1),
        }
    )
    describe.print_notes(notes)


def _capacity_notes(found: Mapping[str, Capacity]) -> list[str]:
    """Why there is no number, or one that does not hold for ever."""
    notes = []
    for name, answer in found.items():
        if answer.above_capacity:
            notes.append(
                f"{name}: requests pile up at this rate in {answer.above_capacity} of {answer.replications} "
                f"replications; for ever, about {answer.stable_rate:.3g} requests/{answer.unit} can be served. Longer "
                "ones (--requests) hold less"
            )
        if answer.value == 0:
            notes.append(f"{name}: the targets do not hold even if requests come one by one")
        if math.isinf(answer.value) and answer.quantity == "rate":
            notes.append(f"{name}: the targets hold even if all requests come at once")
        if math.isinf(answer.value) and answer.quantity == "memory":
            notes.append(f"{name}: the targets do not hold with any cache: the clock or --max-batch sets the limit")
    return notes
