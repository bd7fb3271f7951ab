"""`llmsched size`: the fewest tokens of KV cache at which service targets hold, and the GPUs that hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import typer

from .._version import version
from ..errors import InputError
from ..metrics.sizing import Sizing
from ..metrics.sizing import size as size_for
from ..simulation import kv_cache
from ..simulation.machine import Machine
from ..workloads.workload import Workload
from . import console, describe
from .console import aligned, aside, number_of, print_columns, say
from .describe import Spelling
from .option_groups import expand_groups
from .options import (
    Intervals,
    Json,
    MachineOptions,
    Seed,
    Setup,
    SourceOptions,
    TargetOptions,
)
from .predictions import interval_rule, with_predictions


@dataclass(frozen=True)
class GpuOptions:
    """What is served on which GPUs: how many of them hold the cache beside the weights."""

    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Also list GPUs that hold it beside: {', '.join(kv_cache.models)}."),
    ] = None
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help=f"Only this GPU of: {', '.join(kv_cache.gpus)}.")] = (
        None
    )
    gpus: Annotated[int, typer.Option(metavar="N", help="GPUs at most.")] = 8
    dtype: Annotated[str, typer.Option(metavar="NAME", help=f"Of weights: {', '.join(kv_cache.DTYPES)}.")] = "bfloat16"
    cache_dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the cache, if it is another than that of weights.")
    ] = None
    utilization: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the GPUs' memory that is used at all.")
    ] = 0.9

    def arguments(self) -> dict[str, Any]:
        """As arguments of `llmsched.size`."""
        asked = {"model": self.model, "gpu": self.gpu, "most": self.gpus, "dtype": self.dtype}
        return asked | {"cache_dtype": self.cache_dtype, "utilization": self.utilization}


@expand_groups(
    "slo trace policy machine_name rate attainment model gpu gpus dtype cache_dtype utilization memory clock_name "
    "in_rounds max_batch block prefill_budget requests replications interval seed generator format_ on_error"
)
def size(
    wanted: TargetOptions,
    source: SourceOptions,
    machine: MachineOptions,
    gpus: GpuOptions,
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Requests per second. By default as they arrive in TRACE.")
    ] = None,
    interval: Intervals = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find the fewest tokens of KV cache at which the targets hold on a machine, and the GPUs that hold them.

    A round takes as long as on the machine, whatever the cache: more GPUs, or others, are another machine to ask about.
    Tokens of GPUs are computed from layers, KV heads, head size, number format, GPU memory and weights.
    """
    limits, policies = wanted.arguments(), wanted.policies()
    there, setup = _machine(machine)
    rule = interval_rule(interval)
    workload = source.fitting(source.read(seed), None, setup.block)
    workload, spelling, notes = with_predictions(workload, rule, policies.values())
    if rate is None and not workload.arrival.any():
        notes.append("all requests arrive at 0: give --rate for a Poisson process")
    notes += describe.reading_notes(workload)
    asked: dict[str, Any] = {"machine": there, "rate": rate, "seed": seed, **limits, **gpus.arguments()}
    found: dict[str, Sizing] = {}
    with console.ProgressBar("simulations") as bar:
        for name, chosen in policies.items():
            found[name] = size_for(workload, chosen, **asked, progress=partial(bar.update, name))
    notes += _notes(found, gpus)
    if as_json:
        answers = [{**answer.record(), "policy": name} for name, answer in found.items()]
        settings = {"intervals": str(spelling), "known": spelling.words, "seed": seed, "notes": notes}
        console.print_json({"llmsched": version, **settings, "answers": answers})
    else:
        _print(found, workload, setup, spelling, gpus)
        describe.print_notes(notes)


def _machine(options: MachineOptions) -> tuple[Machine, Setup]:
    """The machine, and what the header says of it: --memory there is what it has."""
    if options.in_rounds:
        raise InputError("--rounds: a cache is sized for a machine, in seconds; leave it out")
    setup = options.or_default().setup()
    assert setup.clock is not None
    assert setup.memory is not None
    name = setup.machine or str(setup.clock_name)
    return Machine(name, setup.clock, setup.memory, **setup.limits()), replace(setup, memory=None)


def _print(found: Mapping[str, Sizing], workload: Workload, setup: Setup, spelling: Spelling, gpus: GpuOptions) -> None:
    answers = list(found.values())
    first = answers[0].capacity
    drawn = f"{number_of(first.replications, 'replication')} of {number_of(first.requests, 'request')}"
    arriving = ", as they arrive" if first.rate is None else f", {first.rate:g}/s"
    aside(f"{describe.requests_text(workload)}; {drawn}{arriving}")
    aside(f"{describe.machine_text(setup)}; times in seconds")
    aside(spelling.text())
    targets = describe.targets_text(first.slo)
    aside(f"Fewest tokens of KV cache with {first.attainment:.4g} of requests within {targets}:\n")
    print_columns(
        {
            "policy": list(found),
            "tokens": aligned([answer.tokens for answer in answers], decimals=0),
            "95 % from": aligned([answer.capacity.low for answer in answers], decimals=0),
            "to": aligned([answer.capacity.high for answer in answers], decimals=0),
            "within": aligned([answer.capacity.attained * 100 for answer in answers], suffix="%", decimals=1),
            f"of the {answers[0].machine.memory:,} there": aligned(
                [answer.share * 100 for answer in answers], suffix="%", decimals=0
            ),
        }
    )
    fits = [(name, fit) for name, answer in found.items() for fit in answer.fits]
    if fits:
        say(f"\nGPUs that hold so many tokens beside {gpus.model}, of each kind the fewest:\n")
        print_columns(
            {
                "policy": [name for name, _ in fits],
                "GPUs": [f"{fit.count} x {fit.gpu}" for _, fit in fits],
                "room": [f"{fit.tokens:,}" for _, fit in fits],
                "memory needed": aligned([fit.utilization * 100 for _, fit in fits], suffix="%", decimals=0),
            },
            left_aligned=(0, 1),
        )


def _notes(found: Mapping[str, Sizing], gpus: GpuOptions) -> Sequence[str]:
    """Why there is no number, or no GPU."""
    notes = []
    for name, answer in found.items():
        if math.isinf(answer.tokens):
            notes.append(
                f"{name}: the targets do not hold with any cache: the clock or --max-batch sets the limit. Try a lower "
                "--rate, another --machine, or several of them (llmsched capacity --replicas 1:64)"
            )
        elif gpus.model is not None and not answer.fits:
            notes.append(f"{name}: no {number_of(gpus.gpus, 'GPU')} hold so many tokens beside {gpus.model}")
        if answer.capacity.above_capacity:
            notes.append(f"{name}: requests pile up at this rate: longer replications (--requests) need more")
    return notes
