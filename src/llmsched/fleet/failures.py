"""Replicas that fail: lives of replicas, and sendings of requests, some of them again after their replica has died.

A life is a replica from a start to its death; one that returns has two. A request is sent once, and once more for every
life that dies with it. So a fleet with failures is a fleet of lives that takes sendings. What is sent before a death
does not depend on it: fleets of more and more sendings are simulated, one death after the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, MemoryTooSmallError, PolicyError
from ..simulation.blocks import down_to_blocks, whole_blocks
from ..simulation.outcome import Outcome
from ..simulation.problem import problem_of
from ..simulation.run import ENGINES, EngineName, simulate
from ..simulation.timeline import Timeline
from ..simulation.token_log import Tokens
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload
from .replica import Replica
from .router import Router


class Life(NamedTuple):
    """A replica from when it is there until it dies."""

    replica: int
    since: float = -math.inf
    until: float = math.inf


def lives_of(replicas: Sequence[Replica]) -> list[Life]:
    """The lives of all replicas, in their order."""
    lives = []
    for k, replica in enumerate(replicas):
        if replica.fails_at is None:
            lives.append(Life(k))
            continue
        lives.append(Life(k, until=replica.fails_at))
        if replica.returns_at is not None:
            lives.append(Life(k, since=replica.returns_at))
    return lives


def refuse(machines: Sequence[dict[str, Any]], router: Router, record: Collection[str]) -> None:
    """Raises InputError and PolicyError for what cannot be had where replicas fail."""
    if router.rule == "central":
        raise PolicyError(
            "router central-queue: replicas fail, and what they lose is sent again by a router that decides. Choose "
            "another router, or replicas without fails_at"
        )
    if "tokens" in record:
        raise InputError('record="tokens" is not kept where replicas fail: tokens that are lost belong to no result')
    for machine in machines:
        policy = machine["policy"]
        if policy.shed == "lottery" or policy.reserve == "history":
            raise PolicyError(
                f"policy {policy.name} draws by the place of a request among those of its replica, which is not known "
                "where replicas fail"
            )


class Sendings:
    """Who is sent when: requests at their arrival, and again when their replica has died; later if none is there."""

    def __init__(self, workload: Workload, lives: Sequence[Life], machines: Sequence[dict[str, Any]]) -> None:
        self.workload, self.lives = workload, lives
        size = workload.prompt + workload.output
        self.fits = [
            whole_blocks(size, m["block"]) <= down_to_blocks(m["memory"], m["block"]) for m in machines
        ]  # of each life, which requests
        self.request = np.arange(len(workload))
        self.time = self._when_possible(self.request, workload.arrival.copy())

    def _when_possible(self, request: IntArray, time: FloatArray) -> FloatArray:
        """The first time from `time` on at which a replica that holds the request is there."""
        best = np.full(len(request), math.inf)
        for life, fits in zip(self.lives, self.fits, strict=True):
            there = np.maximum(time, life.since)
            best = np.where(fits[request] & (there < life.until), np.minimum(best, there), best)
        if not np.isfinite(best).all():
            i = int(request[np.argmax(~np.isfinite(best))])
            if any(fits[i] for fits in self.fits):
                raise InputError(
                    f"request {i} has no replica: from some time on all of those that hold it have failed, and "
                    "none returns (Replica.returns_at)"
                )
            needed = int(self.workload.prompt[i] + self.workload.output[i])
            raise MemoryTooSmallError(f"request {i} needs {needed} tokens of cache, and no replica has them", i, needed)
        return best

    def again(self, request: IntArray, time: float) -> None:
        """These requests lost their replica."""
        self.request = np.concatenate([self.request, request])
        self.time = np.concatenate([self.time, self._when_possible(request, np.full(len(request), time))])

    def as_workload(self, before: float = math.inf) -> tuple[IntArray, Workload]:
        """(request of each row, rows) of what is sent before that time, in the order of the user's workload."""
        rows = np.flatnonzero(self.time < before)
        rows = rows[np.lexsort((self.time[rows], self.request[rows]))]
        request, time = self.request[rows], self.time[rows]
        sent = self.workload.take(request)
        more: dict[str, Any] = {"arrival": time}
        if sent.deadline is not None:
            more["deadline"] = np.maximum(sent.deadline - (time - sent.arrival), 0.0)
        return request, sent.replace(**more)


def until_death(
    part: Workload, machine: dict[str, Any], death: float, engine: EngineName, record: Collection[str]
) -> tuple[Outcome, float, int]:
    """What a life did until it died, when the last of its rounds ended, and the tokens that were lost with it.

    The round that was in progress then came to nothing.
    """
    options = {name: value for name, value in machine.items() if name != "policy"}
    whole = simulate(part, machine["policy"], seed=None, engine=engine, record=("tokens",), **options)
    log = whole.tokens
    assert log is not None
    rounds = int(np.searchsorted(log.round_end, death, side="right"))
    problem = problem_of(part, machine["policy"], machine["memory"], None, rounds, **{
        name: value for name, value in options.items() if name != "memory"
    })  # fmt: skip
    outcome = ENGINES[engine](problem, record, None)
    done = np.isfinite(outcome.completion)
    lost = generated_in(log, rounds) - int(part.output[done].sum()) - outcome.wasted_tokens
    return outcome, float(log.round_end[rounds - 1]) if rounds else 0.0, lost


def generated_in(log: Tokens, rounds: int) -> int:
    """Tokens that were generated in the first so many rounds."""
    silent = log.rounds - (log.generated - log.kept)
    return int(np.clip(rounds - log.first_round - silent, 0, log.generated - log.kept).sum())


def joined(timelines: Sequence[Timeline | None]) -> Timeline | None:
    """The timelines of a replica's lives as one; None if one of them is not there."""
    there = [timeline for timeline in timelines if timeline is not None]
    if len(there) < len(timelines):
        return None
    names = [f.name for f in dataclasses.fields(Timeline) if f.name != "clock"]
    columns = {name: np.concatenate([getattr(timeline, name) for timeline in there]) for name in names}
    return Timeline(**columns, clock=there[0].clock)
