"""Runs before the judge: `judge` derives every round of a Result with its timeline and token log, and compares."""

from __future__ import annotations

import dataclasses
from typing import Any

import llmsched as ls

from .judge import Judge, Request, requests_of
from .judge_as_processed import JudgeAsProcessed, Names, names_of


@dataclasses.dataclass
class Round:
    """What the judge says of one round."""

    begin: float
    end: float
    left: list[Request]
    started: list[Request]
    had: dict[int, int]  # who was in the batch before -> tokens
    running: dict[int, int]  # who is in the batch -> tokens that it has, as the round begins
    memory: int
    batch: int  # those who were served
    waiting: int
    generated: dict[int, int]  # who got a token -> how many it has
    chunks: dict[int, int]
    prefilling: set[int]  # who has a part of its prompt left
    completed: list[Request]
    wasted: int
    after: dict[int, int]  # who is in the batch then -> tokens
    need: int  # of the next round, if nobody comes
    named: frozenset[Any]  # what blocks of the cache are called


def court_of(
    policy: ls.Policy, memory: int, seed: int | None, workload: ls.Workload, names: Names | None = None,
    kinds: tuple[type[Judge], type[JudgeAsProcessed]] = (Judge, JudgeAsProcessed), **machine: Any,
) -> Judge:  # fmt: skip
    """A judge for one machine."""
    lengths = workload.lengths
    machine["table"] = None if lengths is None else lengths.quantile(policy.quantile)
    ahead, as_processed = kinds
    if policy.slots == "ahead":
        return ahead(policy, memory, seed, **machine)
    if policy.prefixes == "none":
        return as_processed(policy, memory, seed, **machine)
    return as_processed(policy, memory, seed, names or names_of(workload, machine["block"]), **machine)


class Trial:
    """A judge driven by the lengths of the requests and by a clock."""

    def __init__(self, court: Judge, clock: ls.Clock | None) -> None:
        self.court, self.clock = court, clock
        self.epoch, self.since, self.now = 0.0, 0, 0.0

    @property
    def empty(self) -> bool:
        return not self.court.running and not self.court.waiting

    def jump(self, time: float) -> None:
        """Nobody was there until that time."""
        self.epoch, self.since, self.now = time, 0, time
        self.court.idle_until(time)

    def round(self) -> Round:
        court, clock, begin = self.court, self.clock, self.now
        had = {r.i: r.g for r in court.running}
        left, started = court.decide(begin)
        wasted = sum(had[r.i] for r in left) if court.policy.resume == "restart" else 0
        named = court.cache.names() if isinstance(court, JudgeAsProcessed) else frozenset()
        running, memory, waiting = {r.i: r.g for r in court.running}, court.need(), len(court.waiting)
        size, context = len(court.served), court.context(clock is not None and clock.context == "all")
        generated = court.generate()
        chunks = {r.i: r.chunk for r in court.running if r.chunk}
        prefilling = {r.i for r in court.running if r.to_prefill}
        self.since += 1
        self.now = self.epoch + self.since
        if clock is not None:
            work = clock.base + clock.per_request * size + clock.per_context_token * context
            work = work + clock.per_prompt_token * court.prefilled + clock.per_swapped_token * court.moved
            self.now = begin + work
        tokens = {r.i: r.g for r in generated}
        completed = [r for r in generated if r.g == r.known["output"]]
        for r in completed:
            court.complete(r)
        after, need = {r.i: r.g for r in court.running}, court.need()
        return Round(
            begin, self.now, left, started, had, running, memory, size, waiting, tokens, chunks, prefilling, completed,
            wasted, after, need, named,
        )  # fmt: skip


class Log:
    """What an engine says, round by round."""

    def __init__(self, result: ls.Result) -> None:
        assert result.tokens is not None
        assert result.timeline is not None
        log = self.tokens = result.tokens
        self.rows = result.timeline.expand()
        self.attempts = sorted(
            zip(
                *(column.tolist() for column in (log.request, log.first_round, log.rounds, log.kept, log.generated)),
                strict=True,
            )
        )
        self.generated: dict[int, dict[int, int]] = {}  # round -> who got a token -> how many it has then
        for i, first, rounds, kept, grown in self.attempts:
            for k in range(grown - kept):
                self.generated.setdefault(first + rounds - 1 - k, {})[i] = grown - k
        self.chunks: dict[int, dict[int, int]] = {}
        columns = (log.chunk_request, log.chunk_round, log.chunk_tokens)
        for i, t, tokens in zip(*(column.tolist() for column in columns), strict=True):
            self.chunks.setdefault(t, {})[i] = tokens

    def compare(self, t: int, told: Round, ahead: bool) -> None:
        where = f"round {t}: left {told.left}, started {told.started}"
        rows = self.rows
        assert self.generated.get(t, {}) == told.generated, where
        if not ahead or len(self.tokens.chunk_request):
            assert self.chunks.get(t, {}) == told.chunks, where
        for name in ("memory", "batch", "waiting"):
            assert rows[name][t] == getattr(told, name), f"{where}: {name}"
        assert rows["time"][t] == told.begin, where
        assert rows["evictions"][t] == len(told.left), where
        assert self.tokens.round_end[t] == told.end, where


def judge(result: ls.Result, names: Names | None = None) -> list[Round]:
    """Every round of the run, derived anew: who leaves, who starts, who completes, when, in how much memory."""
    w, log = result.workload, Log(result)
    court = court_of(
        result.policy, result.memory, result.seed, w, names, block=result.block, max_batch=result.max_batch,
        prefill_budget=result.prefill_budget,
    )  # fmt: skip
    trial, attempts = Trial(court, result.clock), Attempts()
    requests = requests_of(w, result.policy, result.seed)
    to_come = sorted(requests, key=lambda r: (r.a, r.i))
    told: list[Round] = []
    finished = 0
    while finished < len(w):
        if trial.empty and to_come[0].a > trial.now:
            trial.jump(to_come[0].a)
        while to_come and to_come[0].a <= trial.now:
            court.arrive(to_come.pop(0))
        told.append(trial.round())
        assert told[-1].memory <= result.memory
        assert len(told) <= result.rounds
        log.compare(len(told) - 1, told[-1], result.policy.slots == "ahead")
        attempts.take(len(told) - 1, told[-1])
        for r in told[-1].completed:
            finished += 1
            assert result.completion[r.i] == trial.now, f"{r} completes"
            assert result.start[r.i] == r.start, f"{r} started"
            assert result.evictions[r.i] == r.left, f"{r} left"
            assert result.cached is None or result.cached[r.i] == r.hit, f"{r} hit"
    assert sorted(attempts.told) == log.attempts
    assert result.rounds == len(told)
    assert result.peak_memory == max((t.memory for t in told), default=0)
    assert result.wasted_tokens == sum(t.wasted for t in told)
    judge_arrivals(result)
    return told


class Attempts:
    """The stays in the batch. With slots="processed" each has a token in every round after its prefill: a round that
    gives none ends it, and the next begins with the round after that. Those without a round are not told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int, int, int]] = []  # whose, first round, rounds, tokens before and after
        self.open: dict[int, tuple[int, int]] = {}

    def take(self, t: int, told: Round) -> None:
        for r in told.left:
            self.end(r.i, t, told.had[r.i])
        for r in told.started:
            self.open[r.i] = t, told.running[r.i]
        for i, g in told.running.items():
            if i not in told.generated and i not in told.prefilling:
                self.end(i, t, g)
                self.open[i] = t + 1, g
        for r in told.completed:
            self.end(r.i, t + 1, r.g)

    def end(self, i: int, t: int, g: int) -> None:
        first, kept = self.open.pop(i)
        if t > first:
            self.told.append((i, first, t - first, kept, g))


def judge_arrivals(result: ls.Result | ls.FleetResult) -> None:
    """With think times a turn arrives so long after the one before it completed."""
    w = result.workload
    before: dict[int, int] = {}
    for i in range(len(w) if w.think is not None else 0):
        which = int(w.session[i])
        if which in before:
            assert w.arrival[i] == result.completion[before[which]] + w.think[i], f"request {i} arrives"
        before[which] = i
