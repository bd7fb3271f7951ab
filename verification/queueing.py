"""Queueing theory, where the model is a single server: prompts so long that the cache holds one request at a time.

Then a request of o tokens is a job of o rounds, started the moment the server is free, or on arrival if it is idle: an
M/G/1 queue without preemption, whatever the policy, in the policy's admission order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.metrics.confidence import mean_and_half_width
from llmsched.predict import intervals
from llmsched.workloads import generate

from . import figures
from .checks import Check, Report

TITLE = "M/G/1 waiting times where one request fits at a time: Pollaczek-Khinchine, and Cobham's priorities"

_PROMPT = 1000
_BUCKET = 10
_LOADS = (0.5, 0.8)
_TRIMMED = 0.1  # of the requests, at both ends: the queue starts empty, and its last requests see no more arrivals


@dataclasses.dataclass(frozen=True)
class Service:
    """A distribution of service times (rounds), its generator's name in reports."""

    label: str
    lengths: np.ndarray[Any, Any]
    shares: np.ndarray[Any, Any]
    spelled: str

    def moment(self, power: int) -> float:
        return float(np.sum(self.shares * self.lengths.astype(np.float64) ** power))


def pollaczek_khinchine(rate: float, service: Service) -> float:
    """Mean wait (rounds) first come first served, rate E[S^2] / (2 (1 - rate E[S])) (Pollaczek and Khinchine)."""
    return rate * service.moment(2) / (2 * (1 - rate * service.moment(1)))


def cobham(rate: float, service: Service, classes: np.ndarray[Any, Any]) -> dict[int, float]:
    """Mean wait (rounds) by priority class without preemption, smallest class first (Cobham 1954; Phipps 1956 for the
    shortest job first): rate E[S^2]/2 over (1 - s_before)(1 - s_with), s the load of the classes before, and with it.
    """
    residual, before, waits = rate * service.moment(2) / 2, 0.0, {}
    for priority in np.unique(classes):
        mine = classes == priority
        after = before + rate * float(np.sum(service.shares[mine] * service.lengths[mine]))
        waits[int(priority)] = residual / ((1 - before) * (1 - after))
        before = after
    return waits


def services() -> list[Service]:
    """Deterministic, two lengths, and geometric cut off at 100."""
    k = np.arange(1, 101)
    tail = 0.9 ** (k - 1.0)
    return [
        Service("deterministic 10", np.array([10]), np.array([1.0]), "two_point:10,10"),
        Service("two-point 2/30", np.array([2, 30]), np.array([0.8, 0.2]), "two_point:2,30,0.8"),
        Service("geometric q=0.9", k, tail / tail.sum(), "geometric:0.9,100"),
    ]


def run(quick: bool) -> Report:
    """Quick: 20 replications of 6,000 requests; else 40 of 40,000."""
    replications, n = (20, 6000) if quick else (40, 40_000)
    cases = [(service, load) for service in services() for load in _LOADS]
    measured = [(service, load, _waits(service, load, replications, n)) for service, load in cases]
    # All intervals together hold with probability 99 %: each with 1 - 0.01 over their number (Bonferroni).
    count = sum(len(_claims(service, load)) for service, load in cases)
    coverage = 1 - 0.01 / count
    checks = [
        Check(name, source, value, *mean_and_half_width(_mean_wait(runs[policy], group), coverage), n, _memory(service))
        for service, load, runs in measured
        for name, source, policy, group, value in _claims(service, load)
    ]
    return Report(checks, (), {"queueing": partial(figures.queueing, checks)})


#: One claim: name, source, policy, class of requests (None: all; else (column value) of the classes), mean wait.
_Claim = tuple[str, str, str, "tuple[int, int] | None", float]


def _claims(service: Service, load: float) -> list[_Claim]:
    rate = load / service.moment(1)
    at = f"{service.label}, load {load}"
    by_length = cobham(rate, service, service.lengths)
    claims: list[_Claim] = [
        (f"{at}: fcfs", "Pollaczek-Khinchine", "fcfs", None, pollaczek_khinchine(rate, service)),
        (f"{at}: hsf, all", "shortest job first", "hsf", None, _overall(service, service.lengths, by_length)),
    ]
    shown = [int(service.lengths[0]), 5, 20] if len(service.lengths) > 2 else service.lengths.tolist()
    if len(shown) > 1:
        claims += [(f"{at}: hsf, o={k}", "shortest job first", "hsf", (k, k), by_length[k]) for k in shown]
        classes = (service.lengths - 1) // _BUCKET
        by_bucket = cobham(rate, service, classes)
        value = _overall(service, classes, by_bucket)
        claims += [(f"{at}: {p}, buckets", "Cobham's priorities", p, None, value) for p in ("amax", "amin")]
        ends = (1, _BUCKET)
        claims.append((f"{at}: amax, first bucket", "Cobham's priorities", "amax", ends, by_bucket[0]))
    return claims


def _overall(service: Service, classes: np.ndarray[Any, Any], waits: Mapping[int, float]) -> float:
    return float(np.sum(service.shares * np.array([waits[int(priority)] for priority in classes])))


def _memory(service: Service) -> int:
    """Enough for any one request, too little for two prompts."""
    return _PROMPT + int(service.lengths.max())


def _waits(service: Service, load: float, replications: int, n: int) -> dict[str, list[tuple[Any, Any]]]:
    """Per policy and replication: outputs and waits (rounds) of the requests that count."""
    rate = load / service.moment(1)
    runs: dict[str, list[tuple[Any, Any]]] = {policy: [] for policy in ("fcfs", "hsf", "amax", "amin")}
    kept = slice(int(n * _TRIMMED), n - int(n * _TRIMMED))
    for seed in range(replications):
        lengths = generate.parse(f"{service.spelled}", n, seed).output
        workload = ls.Workload(_PROMPT, lengths).with_intervals(intervals.buckets(_BUCKET))
        workload = generate.poisson(workload, rate, seed)
        for policy, results in runs.items():
            result = ls.simulate(workload, policy, memory=_memory(service), seed=seed)
            results.append((lengths[kept], (result.start - workload.arrival)[kept]))
    return runs


def _mean_wait(runs: Sequence[tuple[Any, Any]], group: tuple[int, int] | None) -> list[float]:
    low, high = group or (0, 2**53)
    return [float(np.mean(wait[(output >= low) & (output <= high)])) for output, wait in runs]
