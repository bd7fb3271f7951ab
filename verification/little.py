"""Little's law on timelines, as an identity: requests in the system, summed over rounds, are their latencies summed."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

import llmsched as ls
from llmsched import errors
from llmsched.predict import intervals
from llmsched.predict.intervals import with_midpoints
from llmsched.workloads import generate

from .checks import Check, Report

TITLE = "Little's law and the conservation of tokens, exactly, on the timeline of every policy"

_MEMORY = 2500


def run(quick: bool) -> Report:
    """Every policy with slots="ahead", on requests all at 0, at whole times, and in a Poisson process.

    There are 1,500 of them, quick 150.
    """
    checks: list[Check] = []
    unfinished = []
    for label, workload in _workloads(150 if quick else 1500):
        workload = workload.replace(priority=np.arange(len(workload)) % 3)
        workload = workload.with_lengths(ls.LengthTable.from_outputs(workload.output))
        for policy in ls.policies:
            if ls.policies[policy].slots == "processed":  # a round's batch is whom it serves, not all who run
                continue
            try:
                result = ls.simulate(workload, policy, memory=_MEMORY, record="timeline")
            except errors.NotFinishedError:
                unfinished.append(f"{policy} does not finish on {label}: no timeline to check.")
                continue
            checks += _identities(f"{label}, {policy}", result)
    return Report(checks, unfinished)


def sojourn(result: ls.Result) -> tuple[Fraction, Fraction]:
    """Total latency from the requests, and from the timeline alone (rounds), both exact.

    A request that arrives during a round is seen when the next begins; the wait until then is not in the timeline's
    counts, and is added from the arrival times and the times at which rounds begin.
    """
    assert result.timeline is not None
    latency = sum(map(Fraction, result.completion.tolist()), Fraction()) - sum(
        map(Fraction, result.workload.arrival.tolist()), Fraction()
    )
    rows = result.timeline.expand()
    counted = int((rows["batch"] + rows["waiting"]).sum())
    seen = rows["time"][np.searchsorted(rows["time"], result.workload.arrival)]
    unseen = sum(
        (Fraction(s) - Fraction(a) for s, a in zip(seen.tolist(), result.workload.arrival.tolist(), strict=True)),
        Fraction(),
    )
    return latency, counted + unseen


def _workloads(n: int) -> Iterator[tuple[str, ls.Workload]]:
    base = with_midpoints(generate.lmsys(n, seed=1).with_intervals(intervals.buckets(100)))
    yield "all at 0", base
    yield "whole times", base.replace(arrival=np.arange(n) * 3 // 2)
    # A rate that is a power of 2 keeps arrivals, and all sums of them, exact doubles.
    yield "Poisson", generate.poisson(base, 0.5, seed=1)


def _identities(label: str, result: ls.Result) -> Iterator[Check]:
    latency, counted = sojourn(result)
    size = {"n": len(result), "memory": result.memory}
    yield _identity(f"{label}: sum of latencies", "Little's law", counted, latency, **size)
    assert result.timeline is not None
    generated = int((result.timeline.rounds * result.timeline.batch).sum())
    tokens = int(result.workload.output.sum()) + result.wasted_tokens
    yield _identity(f"{label}: tokens generated", "outputs + wasted", Fraction(tokens), Fraction(generated), **size)


def _identity(name: str, source: str, theory: Fraction, measured: Fraction, **size: int) -> Check:
    """An identity between exact numbers: the difference is what is compared, so that no rounding hides it."""
    shown = float(theory)
    return Check(name, source, shown, shown + float(measured - theory), 0.0, size["n"], size["memory"])
