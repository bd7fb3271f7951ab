"""`llmsched capacity --mix`: the cheapest machines of several kinds at which service targets hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .._version import version
from ..errors import InputError
from ..fleet.replica import Replica
from ..metrics.fleet_mix import Mix
from ..simulation import machine as machines
from ..workloads.workload import Workload
from . import console, describe
from .console import aligned, aside, number_of, print_columns, say
from .describe import Spelling


def kinds_of(texts: Sequence[str]) -> dict[str, Replica]:
    """The machines that are written ``NAME=PRICE`` or ``FILE=PRICE``. InputError for anything else, or one twice."""
    kinds: dict[str, Replica] = {}
    for text in texts:
        name, equals, price = text.rpartition("=")
        try:
            value = float(price)
        except ValueError:
            value = math.nan
        if not equals or not 0 < value < math.inf:
            raise InputError(f"--mix {text!r} does not have the form MACHINE=PRICE, such as llama2-70b-2xa100=7.5")
        machine = machines.parse(name)
        if machine.name in kinds:
            raise InputError(f"--mix has the machine {machine.name} twice: give it once, with its price")
        kinds[machine.name] = Replica.of(machine, price=value)
    return kinds


def print_answer(
    found: Mapping[str, Mix],
    kinds: Mapping[str, Replica],
    workload: Workload,
    spelling: Spelling,
    seed: int,
    notes: Sequence[str],
    as_json: bool,
) -> None:
    """The cheapest mix under each policy, and what each kind alone would cost."""
    if as_json:
        settings: dict[str, Any] = {"intervals": str(spelling), "known": spelling.words, "seed": seed}
        settings["prices"] = {name: kind.price for name, kind in kinds.items()}
        answers = [{**answer.record(), "policy": name} for name, answer in found.items()]
        console.print_json({"llmsched": version, **settings, "notes": list(notes), "answers": answers})
        return
    first = next(iter(found.values()))
    drawn = f"{number_of(first.replications, 'replication')} of {number_of(first.requests, 'request')}"
    arriving = ", as they arrive" if first.rate is None else f", {first.rate:g}/s"
    aside(f"{describe.requests_text(workload)}; {drawn}{arriving}")
    prices = ", ".join(f"machine {name} at {kind.price:g} an hour" for name, kind in kinds.items())
    aside(f"up to {number_of(first.most, 'replica')} behind {first.router}: {prices}")
    aside(spelling.text())
    aside(f"Cheapest mix with {first.attainment:.4g} of requests within {describe.targets_text(first.slo)}:\n")
    rows = list(found.values())
    columns = {"policy": list(found)}
    for name in kinds:
        columns[name] = aligned([one.counts.get(name) for one in rows], decimals=0)
    columns |= {
        "price": aligned([one.price for one in rows], decimals=2),
        "within": aligned([one.attained * 100 for one in rows], suffix="%", decimals=1),
        "±": aligned([one.attained_ci95 * 100 for one in rows], suffix="%", decimals=1),
    }
    for name in kinds:
        columns[f"{name} alone"] = aligned([one.alone[name][1] for one in rows], decimals=2)
    print_columns(columns)
    say()
    aside("±: half the 95 % confidence interval of the share; alone: price if all were of that kind")
    describe.print_notes(notes)


def notes_of(found: Mapping[str, Mix]) -> list[str]:
    """Why there is no mix, or how sure one is."""
    notes = []
    for name, one in found.items():
        if not one.counts:
            notes.append(f"{name}: the targets do not hold with {number_of(one.most, 'replica')} of any mix")
        elif one.attained - one.attained_ci95 < one.attainment:
            notes.append(f"{name}: within chance of failing the targets: more --replications tell")
    return notes
