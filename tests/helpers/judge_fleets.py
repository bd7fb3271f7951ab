"""Fleets before the judge, by docs/background/fleets.md and docs/reference/routers.md: `judge_fleet`."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from fractions import Fraction
from typing import Any

import llmsched as ls

from .judge import Judge, Request, Stream, requests_of, whole_tokens
from .judge_as_processed import JudgeAsProcessed, Names, names_of
from .judge_runs import Round, Trial, court_of, judge, judge_arrivals

#: What a formula may read of a request that is sent.
COLUMNS = ("prompt", "lower", "upper", "point", "arrival", "priority", "deadline")


def column(workload: ls.Workload, name: str) -> list[Any]:
    """A column of the requests; the point is the middle of the interval, rounded up, where there is none."""
    w = workload
    if name == "point" and w.point is None and w.lower is not None and w.upper is not None:
        return (w.lower + -(-(w.upper - w.lower) // 2)).tolist()
    return [] if getattr(w, name) is None else getattr(w, name).tolist()


def bounds_of(workload: ls.Workload, router: ls.Router, sizes: list[int]) -> list[int]:
    """Where the classes end: at the first length by which the shorter ones have their replicas' share of all work."""
    prompt, by = workload.prompt.tolist(), column(workload, router.by)
    believed = column(workload, "point") if router.by == "prompt" else by
    work = [s * length + length * (length + 1) // 2 for s, length in zip(prompt, believed, strict=True)]
    bounds = []
    for g in range(1, len(sizes)):
        share = Fraction(sum(work) * sum(sizes[:g]), sum(sizes))
        enough = (v for v in sorted(set(by)) if sum(x for x, b in zip(work, by, strict=True) if b <= v) >= share)
        bounds.append(next(enough))
    return bounds


class FleetJudge:
    """What a router saw when it sent each request, from the rounds of the replicas, and whom it had to choose."""

    def __init__(self, result: ls.FleetResult, rounds: list[list[Round]]) -> None:
        self.result, self.router, self.workload, self.rounds = result, result.router, result.workload, rounds
        self.parts = result.replicas
        self.taken = [result.requests_of(k).tolist() for k in range(len(self.parts))]
        self.names = [names_of(self.workload, p.block) if p.policy.prefixes == "cached" else None for p in self.parts]
        self.begins = [[told.begin for told in part] for part in rounds]
        self.stream = Stream(result.seed or 0)
        self.turns: dict[int, int] = {}
        self.sessions: dict[int, int] = {}
        self.sent: set[int] = set()
        n, c = len(self.parts), self.router.classes
        self.groups = [range(n * g // c, n * (g + 1) // c) for g in range(c)]
        self.bounds = bounds_of(self.workload, self.router, [*map(len, self.groups)]) if c > 1 else []
        self.by = column(self.workload, self.router.by) if c > 1 else []
        self.columns = {name: column(self.workload, name) for name in COLUMNS}
        self.work = self.believed() if self.router.sees_work else []

    def believed(self) -> list[int]:
        """What is believed of the output of each request."""
        formula = self.router.work_formula
        if formula is None:
            return column(self.workload, self.router.work)
        return [whole_tokens(formula.value(self.read(formula, i, {}), i)) for i in range(len(self.workload))]

    def read(self, formula: Any, i: int, seen: dict[str, float]) -> dict[str, float]:
        """What a formula reads of request i, and of a replica."""
        return {name: float(seen[name] if name in seen else self.columns[name][i]) for name in formula.reads}

    def fits(self, i: int, k: int) -> bool:
        part = self.parts[k]
        size = int(self.workload.prompt[i] + self.workload.output[i])
        return -(-size // part.block) * part.block <= part.memory

    def view(self, k: int, time: float, i: int) -> dict[str, float]:
        """What is seen of a replica at that time, as request i is sent."""
        part, taken = self.parts[k], self.taken[k]
        there = [
            j for j, sent in enumerate(taken)
            if sent in self.sent and self.workload.arrival[sent] <= time and part.completion[j] > time
        ]  # fmt: skip
        running: dict[int, int] = {}
        used, cached = 0, 0
        names = self.names[k]
        last = bisect_left(self.begins[k], time) - 1
        if last >= 0:
            told = self.rounds[k][last]
            over = told.end <= time
            running, used = (told.after, told.need) if over else (told.running, told.memory)
            if names is not None:
                most = (int(self.workload.prompt[i]) - 1) // part.block
                hit = next((j for j in range(most) if names(i, j) not in told.named), max(most, 0))
                cached = hit * part.block
        work = sum(self.work[taken[j]] for j in there) - sum(running.values()) if self.work else 0
        clock = part.clock
        return {
            "requests": len(there), "running": len(running), "waiting": len(there) - len(running), "used": used,
            "free": part.memory - used, "memory": part.memory, "believed_work": max(work, 0), "cached": cached,
            "speed": 1.0 if clock is None else 1 / (clock.base + clock.per_request),
        }  # fmt: skip

    def choose(self, i: int) -> int:
        """Who has to take request i."""
        router, w = self.router, self.workload
        if router.sessions:
            last = self.sessions.get(int(w.session[i]))
            if last is not None and self.fits(i, last):
                return last
        replicas = range(len(self.parts))
        group, among = 0, [k for k in replicas if self.fits(i, k)]
        if router.classes > 1:
            value = self.by[i]
            group = sum(bound < value for bound in self.bounds)
            last = sum(bound <= value for bound in self.bounds)  # of either side, where it is as long as a bound
            own = [k for g in range(group, last + 1) for k in self.groups[g] if self.fits(i, k)]
            among = own if own else among
        if len(among) == 1:
            return among[0]
        if router.rule == "random":
            return among[self.stream.member(len(among))]
        if router.rule == "round-robin":
            self.turns[group] = self.turns.get(group, -1) + 1
            return among[self.turns[group] % len(among)]
        if router.choices is not None and router.choices < len(among):
            drawn: list[int] = []
            while len(drawn) < router.choices:
                k = among[self.stream.member(len(among))]
                drawn += [] if k in drawn else [k]
            among = drawn
        scores = [self.score(k, i) for k in among]
        least = [k for k, score in zip(among, scores, strict=True) if score == min(scores)]
        return least[0 if self.result.seed is None or len(least) == 1 else self.stream.member(len(least))]

    def score(self, k: int, i: int) -> float:
        seen = self.view(k, float(self.workload.arrival[i]) - self.router.delay, i)
        if self.router.rule == "idle":
            return float(seen["requests"] > 0)
        formula = self.router.formula
        return seen[self.router.score] if formula is None else formula.value(self.read(formula, i, seen), i)


class AtTheQueue:
    """What a judge of a replica does in step 4 where requests wait in a queue before all replicas: for a Judge too."""

    queue: Queue

    def consider(self: Any, started: list[Request]) -> None:
        def place(r: Request) -> Any:
            return self.key(r), r.rank

        own, open_ = sorted(self.waiting, key=place), True
        while own or (open_ and self.queue.waiting):
            first = self.queue.waiting[0] if open_ and self.queue.waiting else None
            if first is not None:
                self.offer(first)
            mine = first is None or (bool(own) and place(own[0]) < place(first))
            r = own[0] if mine else first
            if self.holds(r) and self.feasible(r, started):
                (own if mine else self.queue.waiting).pop(0)
                if not mine:
                    self.waiting.append(r)
                self.admit(r)
                started.append(r)
            elif mine:
                return
            else:
                open_ = False

    def offer(self: Any, r: Request) -> None:
        """As if it arrived now."""
        r.a = r.joined = self.now
        r.bound = self.first_bound(r)
        self.begins_to_wait(r)

    def holds(self: Any, r: Request) -> bool:
        return self.blocks(r.s + r.known["output"]) <= self.memory


class JudgeAtTheQueue(AtTheQueue, Judge):
    pass


class JudgeAsProcessedAtTheQueue(AtTheQueue, JudgeAsProcessed):
    pass


class Queue:
    """All replicas of a central queue together: who takes whom, and when."""

    def __init__(self, result: ls.FleetResult) -> None:
        self.workload = result.workload
        self.to_come = requests_of(self.workload, result.replicas[0].policy, None)
        self.waiting: list[Request] = []  # in the order of the policy
        self.places: dict[Request, Any] = {}
        self.time = 0.0
        self.trials = [Trial(self.court(part), part.clock) for part in result.replicas]

    def court(self, part: ls.Result) -> Any:
        kinds = JudgeAtTheQueue, JudgeAsProcessedAtTheQueue
        court: Any = court_of(
            part.policy, part.memory, None, self.workload, kinds=kinds, block=part.block, max_batch=part.max_batch,
            prefill_budget=part.prefill_budget,
        )  # fmt: skip
        court.queue = self
        return court

    def come(self) -> None:
        """Who has arrived is in the queue."""
        court: Any = self.trials[0].court
        while self.to_come and self.to_come[0].a <= self.time:
            r = self.to_come.pop(0)
            court.now = r.a
            court.offer(r)
            self.places[r] = court.key(r), r.i
            self.waiting = sorted([*self.waiting, r], key=lambda r: self.places[r])

    def begins(self, trial: Trial) -> bool:
        """Whether its next round can begin now."""
        if trial.empty:
            return trial.now <= self.time and bool(self.waiting) and trial.court.holds(self.waiting[0])
        return trial.now == self.time

    def next(self) -> tuple[int, Round] | None:
        """The next round that begins anywhere, and on which replica."""
        while True:
            self.come()
            ready = [k for k, trial in enumerate(self.trials) if self.begins(trial)]
            if ready:
                break
            later = [*(r.a for r in self.to_come[:1]), *(t.now for t in self.trials if t.now > self.time)]
            if not later:
                return None
            self.time = min(later)
        k = min(ready, key=lambda k: len(self.trials[k].court.running) + len(self.trials[k].court.waiting))
        if self.trials[k].now < self.time:
            self.trials[k].jump(self.time)
        return k, self.trials[k].round()


def judge_queue(result: ls.FleetResult, rounds: list[list[Round]]) -> None:
    """Who of the queue went where, and when. `rounds` are those of each replica alone, to which they came as taken."""
    queue = Queue(result)
    t = [0] * len(rounds)
    while (step := queue.next()) is not None:
        k, told = step
        alone = rounds[k][t[k]]
        t[k] += 1
        assert (told.begin, told.end) == (alone.begin, alone.end)
        for r in told.started:
            assert result.replica[r.i] == k, f"{r} at {told.begin}"
            assert result.start[r.i] == r.start, f"{r} at {told.begin}"
        for r in told.completed:
            assert result.completion[r.i] == told.end, f"{r} completes"
    assert t == [*map(len, rounds)]


def judge_fleet(result: ls.FleetResult) -> None:
    """Every choice of the router, or every request that a replica took, and on every replica every round."""
    w = result.workload
    taken = [result.requests_of(k).tolist() for k in range(len(result.outcomes))]
    assert sorted(i for part in taken for i in part) == [*range(len(w))]
    central = result.router.rule == "central" and len(taken) > 1  # one alone is a machine with its own queue
    parts = [as_taken(part) if central else part for part in result.replicas]
    rounds = [
        judge(part, names_within(w, part, of_part)) if len(part) else []
        for part, of_part in zip(parts, taken, strict=True)
    ]
    judge_arrivals(result)
    if central:
        judge_queue(result, rounds)
    if result.router.rule == "central":
        return
    court = FleetJudge(result, rounds)
    for i in sorted(range(len(w)), key=lambda i: (w.arrival[i], i)):
        assert court.choose(i) == result.replica[i], f"request {i} at {w.arrival[i]}"
        court.sent.add(i)
        if result.router.sessions:
            court.sessions[int(w.session[i])] = int(result.replica[i])


def as_taken(part: ls.Result) -> ls.Result:
    """For its replica a request of the central queue arrives as it is taken."""
    return dataclasses.replace(part, workload=part.workload.replace(arrival=part.start))


def names_within(workload: ls.Workload, part: ls.Result, taken: list[int]) -> Names | None:
    """What blocks are called on a replica: sessions go on on any of them."""
    if part.policy.prefixes != "cached":
        return None
    names = names_of(workload, part.block)
    return lambda i, j: names(taken[i], j)
