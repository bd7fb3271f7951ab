"""Drives `llmsched.live.Scheduler` through a workload as an engine that serves would, and notes what became of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

import llmsched as ls


@dataclasses.dataclass
class Served:
    """A request as the engine sees it."""

    index: int
    generated: int = 0
    to_prefill: int = 0
    ran: bool = False


@dataclasses.dataclass
class Driver:
    """One run. `at_once` submits everybody before the first round, else each request when it has arrived."""

    workload: ls.Workload
    scheduler: ls.live.Scheduler
    seed: int | None
    clock: ls.Clock | None = None
    prefill_budget: int | None = None
    at_once: bool = True

    def run(self) -> dict[str, list[float]]:
        """start, completion and evictions of each request."""
        w, n = self.workload, len(self.workload)
        self.ranks = range(n) if self.seed is None else np.random.default_rng(self.seed).permutation(n).tolist()
        self.start = [math.nan] * n
        self.completion = [math.nan] * n
        self.evictions = [0] * n
        self.requests = [Served(i) for i in range(n)]
        self.running: list[Served] = []
        to_come = sorted(range(n), key=lambda i: (w.arrival[i], i), reverse=True)
        if self.at_once:
            for i in range(n):
                self.submit(i)
            to_come_at = sorted(w.arrival.tolist(), reverse=True)
        epoch, rounds, left, now = 0.0, 0, n, 0.0
        while left:
            while not self.at_once and to_come and w.arrival[to_come[-1]] <= now:
                self.submit(to_come.pop())
            decision = self.scheduler.decide(now)
            self.apply(decision, now)
            if not self.running:
                times = to_come_at if self.at_once else [w.arrival[i] for i in to_come]
                epoch, rounds = min(time for time in times if time > now), 0
                now = epoch
                continue
            processed = self.scheduler.policy.slots == "processed"
            batch = len(decision.process if processed else self.running)
            rounds += 1
            now = now + self.clock.duration(batch, 0) if self.clock else epoch + rounds
            finished = self.process(decision, now) if processed else self.generate(now)
            self.scheduler.advance(finished=finished)
            left -= len(finished)
        assert len(self.scheduler) == self.scheduler.running == self.scheduler.waiting == self.scheduler.need == 0
        return {"start": self.start, "completion": self.completion, "evictions": self.evictions}

    def submit(self, i: int) -> None:
        w = self.workload
        names = ("lower", "upper", "point", "priority", "deadline")
        given: dict[str, Any] = {name: getattr(w, name)[i].item() for name in names if getattr(w, name) is not None}
        if w.lengths is not None and w.classes is not None:
            given["length_class"] = w.lengths.classes[w.classes[i]]
        self.scheduler.submit(i, w.prompt[i], arrival=w.arrival[i], tie=self.ranks[i], **given)

    def apply(self, decision: ls.live.Decision, now: float) -> None:
        policy = self.scheduler.policy
        for i in decision.evict:
            r = self.requests[i]
            self.running.remove(r)
            self.evictions[i] += 1
            if policy.resume == "restart":
                r.generated = 0
        for i in decision.admit:
            r = self.requests[i]
            if not r.ran:
                self.start[i] = now
            if policy.prompts == "moved" and not r.ran:
                r.to_prefill = 0
            elif policy.resume != "swap" or not r.ran:
                r.to_prefill = int(self.workload.prompt[i]) + r.generated
            r.ran = True
            self.running.append(r)

    def generate(self, now: float) -> list[int]:
        """A round: prompts are read in order of admission, with what generating leaves of the budget."""
        if self.prefill_budget is not None:
            budget = self.prefill_budget - sum(not r.to_prefill for r in self.running)
            for r in self.running:
                chunk = min(r.to_prefill, budget)
                r.to_prefill -= chunk
                budget -= chunk
        served = [r for r in self.running if self.prefill_budget is None or not r.to_prefill]
        return self.next_token(served, now)

    def process(self, decision: ls.live.Decision, now: float) -> list[int]:
        """A round in which the scheduler says how much of whom is processed."""
        served = [self.requests[i] for i in decision.process]
        for r in served:
            r.to_prefill -= min(r.to_prefill, decision.process[r.index])
        return self.next_token([r for r in served if not r.to_prefill], now)

    def next_token(self, served: list[Served], now: float) -> list[int]:
        finished = []
        for r in served:
            r.generated += 1
            if r.generated == self.workload.output[r.index]:
                self.completion[r.index] = now
                self.running.remove(r)
                finished.append(r.index)
        return finished[::-1]  # in whatever order: the scheduler knows who was admitted first
