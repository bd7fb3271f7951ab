"""The readable fleet: what a router sees of a replica is what a simulation of the requests that it took so far shows.

Nothing is kept from one request to the next but who took which: for each of them every replica that the router looks at
is simulated anew, to the end, by the readable engine. `_fleet.pyx` keeps its engines, and agrees with it to the last
bit, except where requests would not finish but for others who come later: here they end the run with NotFinishedError.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import NotFinishedError
from ..policy import Policy
from ..simulation.blocks import down_to_blocks, full_blocks, whole_blocks
from ..simulation.endless import bound_passed
from ..simulation.problem import problem_of
from ..simulation.readable import engine_of
from ..simulation.reference import ReferenceEngine, splitmix64
from ..simulation.reference_prefixes import PrefixesCached
from ..simulation.result import Result
from ..simulation.run import simulate
from ..workloads.columns import LATEST, FloatArray, IntArray
from ..workloads.workload import Workload, turns_before
from .failures import Life
from .router import Router
from .views import class_bounds, classes_of, request_columns, work_of


class View(NamedTuple):
    """What a router sees of a replica; as in `llmsched.formula_names.REPLICA_NAMES`."""

    requests: int = 0
    running: int = 0
    used: int = 0
    believed_work: int = 0
    cached: int = 0

    def values(self, memory: int, speed: float) -> dict[str, float]:
        """Name -> value, for a formula."""
        return {
            **{name: float(value) for name, value in self._asdict().items()},
            "waiting": float(self.requests - self.running),
            "free": float(memory - self.used),
            "memory": float(memory),
            "speed": speed,
        }


def below(stream: Iterator[int], k: int) -> int:
    """A number from 0 to k - 1: floor(x k / 2^32), x the upper 32 bits of the next output of splitmix64."""
    return (next(stream) >> 32) * k >> 32


def fits(workload: Workload, i: int, machine: Mapping[str, Any]) -> bool:
    """Whether a replica can hold request i."""
    size, block = int(workload.prompt[i] + workload.output[i]), machine["block"]
    return bool(whole_blocks(size, block) <= down_to_blocks(machine["memory"], block))


class ReadableRouter:
    """A router at work on a workload. `run` says who takes each request."""

    def __init__(
        self,
        workload: Workload,
        machines: Sequence[Mapping[str, Any]],
        router: Router,
        seed: int | None,
        groups: Sequence[Sequence[int]],
        speeds: Sequence[float],
        lives: Sequence[Life] = (),
        bounds: IntArray | None = None,
    ) -> None:
        self.lives = lives
        self.workload, self.machines, self.router, self.groups, self.speeds = workload, machines, router, groups, speeds
        self.seeded, self.stream = seed is not None, splitmix64(seed or 0)
        self.work = work_of(workload, router)
        self.columns = request_columns(workload, router)
        self.classes: list[list[int]] = [[0, 0]] * len(workload)  # the first and the last, of each request
        if router.classes > 1:
            if bounds is None:
                bounds = class_bounds(workload, router, [len(group) for group in groups])
            self.classes = classes_of(workload, router, bounds).tolist()
        self.taken: list[list[int]] = [[] for _ in machines]
        self.turns = [0] * len(groups)
        self.session: dict[int, int] = {}
        self.think, self.turn_before = workload.think, turns_before(workload)

    def run(self) -> IntArray:
        """The replica of each request. They come in order of arrival, of equals the first in the workload."""
        replica = np.full(len(self.workload), -1, np.int64)
        self.workload = self.workload.replace(think=None)  # when a turn arrives, `come` says
        for i in self.come(replica):
            replica[i] = self.choose(i)
            self.taken[replica[i]].append(i)
            if self.router.sessions:
                assert self.workload.session is not None
                self.session[int(self.workload.session[i])] = int(replica[i])
        return replica

    def come(self, replica: IntArray) -> Iterator[int]:
        """The requests as they arrive. With think times that is known of a turn when the one before it is done.

        When a replica completes what it took so far is certain up to the earliest arrival that is known: what is yet to
        come arrives no sooner.
        """
        if self.think is None:
            yield from np.argsort(self.workload.arrival, kind="stable").tolist()
            return
        while (replica < 0).any():
            known = []
            completion = self.completions()
            for i in np.flatnonzero(replica < 0).tolist():
                before = int(self.turn_before[i])
                if before < 0:
                    known.append((float(self.workload.arrival[i]), i))
                elif before in completion:
                    known.append((completion[before] + float(self.think[i]), i))
            time, i = min(known)
            arrival = self.workload.arrival.copy()
            arrival[i] = time
            self.workload = self.workload.replace(arrival=arrival)
            if "arrival" in self.columns:
                self.columns["arrival"] = arrival
            yield i

    def completions(self) -> dict[int, float]:
        """When those complete that were taken so far, if nothing else comes."""
        found: dict[int, float] = {}
        for k, taken in enumerate(self.taken):
            if taken:
                found |= zip(sorted(taken), self.simulated(k, sorted(taken)).completion.tolist(), strict=True)
        return found

    def arrived(self) -> Workload:
        """The workload, with the times at which its requests arrived; after `run`."""
        return self.workload if self.think is None else self.workload.replace(think=self.think)

    def fits(self, i: int, k: int) -> bool:
        """Whether replica k is there when request i comes, and can hold it."""
        if self.lives and not self.lives[k].since <= self.workload.arrival[i] < self.lives[k].until:
            return False
        return fits(self.workload, i, self.machines[k])

    def choose(self, i: int) -> int:
        """Who takes request i."""
        if self.router.sessions:
            assert self.workload.session is not None
            last = self.session.get(int(self.workload.session[i]))
            if last is not None and self.fits(i, last):
                return last
        which, last_class = self.classes[i]
        among = [k for group in self.groups[which : last_class + 1] for k in group if self.fits(i, k)]
        among = among or [k for k in range(len(self.machines)) if self.fits(i, k)]
        if len(among) == 1:
            return among[0]
        if self.router.rule == "random":
            return among[below(self.stream, len(among))]
        if self.router.rule == "round-robin":
            self.turns[which] += 1
            return among[(self.turns[which] - 1) % len(among)]
        if self.router.choices is not None and self.router.choices < len(among):
            among = self.drawn(among, self.router.choices)
        scores = [self.score(i, k) for k in among]
        least = [k for k, score in zip(among, scores, strict=True) if score == min(scores)]
        return least[below(self.stream, len(least)) if self.seeded and len(least) > 1 else 0]

    def drawn(self, among: Sequence[int], choices: int) -> list[int]:
        """Different ones, each draw repeated until it names a new one."""
        found: list[int] = []
        while len(found) < choices:
            k = among[below(self.stream, len(among))]
            if k not in found:
                found.append(k)
        return found

    def score(self, i: int, k: int) -> float:
        """The smaller, the better."""
        view = self.view(i, k, float(self.workload.arrival[i]) - self.router.delay)
        if self.router.rule == "idle":
            return float(view.requests > 0)
        memory, block = self.machines[k]["memory"], self.machines[k]["block"]
        values = view.values(down_to_blocks(memory, block), self.speeds[k])
        if self.router.formula is None:
            return values[self.router.score]
        return self.router.formula.value(values | {name: float(c[i]) for name, c in self.columns.items()}, i)

    def simulated(self, k: int, taken: list[int]) -> Result:
        """What replica k does with these requests."""
        machine = {name: value for name, value in self.machines[k].items() if name != "policy"}
        policy = self.machines[k]["policy"]
        replica = self.lives[k].replica if self.lives else k
        return _simulated(self.workload, taken, policy, replica, record=("timeline", "tokens"), **machine)

    def view(self, i: int, k: int, time: float) -> View:
        """Replica k at that time, before anything that begins then, and what it has in its cache of request i."""
        taken = sorted(i for i in self.taken[k] if self.workload.arrival[i] <= time)
        if not taken:
            return View()
        result = self.simulated(k, taken)
        there = result.completion > time
        requests = int(np.count_nonzero(there))
        work = int(self.work[taken][there].sum()) if self.router.sees_work else 0
        assert result.timeline is not None
        rounds = result.timeline.expand()
        begun = int(np.count_nonzero(rounds["time"] < time))
        if not begun:
            return View(requests, 0, 0, work)
        view = _in_round(result, rounds, begun - 1, time, requests, work)
        if result.policy.slots == "ahead":
            return view
        assert result.tokens is not None
        rounds_over = begun - (result.tokens.round_end[begun - 1] > time)
        used, cached = self.slots(i, k, taken, int(rounds_over), begun)
        return view._replace(used=used, cached=cached)

    def slots(self, i: int, k: int, taken: list[int], over: int, begun: int) -> tuple[int, int]:
        """Slots that are taken after so many rounds are over and begun; and tokens of request i in the cache."""
        machine = self.machines[k]
        options = {name: machine[name] for name in ("clock", "max_batch", "block", "prefill_budget")}
        both = self.workload.take([*taken, i]).replace(arrival=[*self.workload.arrival[taken], LATEST])
        problem = problem_of(
            both, machine["policy"], machine["memory"], None, **options | {"clock": None}, may_not_fit=True
        )
        problem.clock = options["clock"]
        engine = engine_of(problem)(problem, ())
        for _ in range(over):
            engine.run_round()
        if begun > over:
            engine.decide()
        if not isinstance(engine, PrefixesCached) or problem.names is None:
            return engine.need(), 0
        asked = engine.requests[-1]
        most = min(full_blocks(max(asked.prompt, 1) - 1, problem.block), int(problem.names.size[asked.index]))
        return engine.need(), engine.in_cache(engine.name(asked, j) for j in range(most)) * problem.block


def _in_round(
    result: Result, rounds: Mapping[str, Any], last: int, time: float, requests: int, work: int
) -> View:  # fmt: skip
    """The view in round `last`, or after it, if it is over at that time."""
    log = result.tokens
    assert log is not None
    over = bool(log.round_end[last] <= time)
    done = result.completion == log.round_end[last]
    there = (log.first_round <= last) & (last < log.first_round + log.rounds) & ~(over & done[log.request])
    silent = log.rounds - (log.generated - log.kept)  # rounds of an attempt before its first token
    generated = (log.kept + np.maximum(0, last + over - log.first_round - silent))[there]
    running = log.request[there]
    left = max(work - int(generated.sum()), 0)
    used = int(rounds["memory"][last])
    if over:
        used = int(whole_blocks(result.workload.prompt[running] + generated + 1, result.block).sum())
    return View(requests, len(running), used, left)


class ReadableQueue:
    """A central queue at work on requests that are in order of arrival. `run` says who takes each, and when.

    For a replica a request arrives as it takes it. Whether it can is asked of a simulation of all that it took so far
    and of that request, arriving as a round begins: whether it starts then.
    """

    def __init__(self, workload: Workload, machines: Sequence[Mapping[str, Any]], max_rounds: int | None) -> None:
        self.workload, self.machines, self.max_rounds = workload, machines, max_rounds
        self.taken: list[list[int]] = [[] for _ in machines]
        self.taken_at = np.zeros(len(workload))
        self.began = [-1.0] * len(machines)  # the last round in which it was asked
        self.ran: list[tuple[FloatArray, FloatArray, FloatArray] | None] = [None] * len(machines)
        largest = max(machine["memory"] for machine in machines)
        problem = problem_of(workload, machines[0]["policy"], largest, None, may_not_fit=True)
        engine = ReferenceEngine(problem, ())
        self.key = [engine.admission_key(r) for r in engine.requests]

    def run(self) -> tuple[IntArray, FloatArray]:
        """The replica of each request, and when that took it."""
        coming, queue, time = list(range(len(self.workload))), list[int](), 0.0
        arrival = self.workload.arrival.tolist()
        while coming or queue:
            begins = [self.may_begin(k, time, queue[0]) if queue else math.inf for k in range(len(self.machines))]
            if coming and arrival[coming[0]] <= min(begins):
                time = arrival[coming[0]]
                while coming and arrival[coming[0]] == time:
                    queue.append(coming.pop(0))
                queue.sort(key=self.key.__getitem__)
                continue
            time = min(begins)
            k = min((self.requests(k, time), k) for k, at in enumerate(begins) if at == time)[1]
            while queue and self.takes(k, time, queue[0]):
                self.taken[k].append(queue[0])
                self.taken_at[queue.pop(0)] = time
                self.ran[k] = None
            self.began[k] = time
        replica = np.zeros(len(self.workload), np.int64)
        for k, requests in enumerate(self.taken):
            replica[requests] = k
        return replica, self.taken_at

    def simulated(self, k: int, requests: Sequence[int]) -> Result:
        """What replica k does with these requests, which it took, or might."""
        machine = {name: value for name, value in self.machines[k].items() if name != "policy"}
        return _simulated(
            self.workload.replace(arrival=self.taken_at), list(requests), self.machines[k]["policy"], k,
            record=("timeline", "tokens"), max_rounds=self.max_rounds, **machine,
        )  # fmt: skip

    def so_far(self, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Completions, begins and ends of rounds of replica k with what it took."""
        ran = self.ran[k]
        if ran is None:
            result = self.simulated(k, sorted(self.taken[k]))
            assert result.timeline is not None
            assert result.tokens is not None
            ran = self.ran[k] = result.completion, result.timeline.expand()["time"], result.tokens.round_end
        return ran

    def requests(self, k: int, time: float) -> int:
        """Those at a replica, without whom it completes then."""
        return int(np.count_nonzero(self.so_far(k)[0] > time))

    def may_begin(self, k: int, time: float, first: int) -> float:
        """When replica k begins its next round, or could, to take the first of the queue; infinite where it cannot."""
        _, begins, ends = self.so_far(k)
        begun = (begins < time) | ((begins == time) & (self.began[k] == time))
        under_way = ends[begun & (time < ends)]
        at = float(under_way[0]) if len(under_way) else time
        return at if self.requests(k, at) or fits(self.workload, first, self.machines[k]) else math.inf

    def takes(self, k: int, time: float, i: int) -> bool:
        """Whether it can start request i in the round that begins then."""
        if not fits(self.workload, i, self.machines[k]):
            return False
        self.taken_at[i] = time
        requests = sorted([*self.taken[k], i])
        return bool(self.simulated(k, requests).start[requests.index(i)] == time)


def outcomes(
    workload: Workload, machines: Sequence[Mapping[str, Any]], replica: IntArray, record: Collection[str],
    max_rounds: int | None, lives: Sequence[Life] = (),
) -> list[Result]:  # fmt: skip
    """What each replica does with the requests that it took."""
    results = []
    for k, machine in enumerate(machines):
        options = {name: value for name, value in machine.items() if name != "policy"}
        taken = np.flatnonzero(replica == k).tolist()
        options |= {"record": record, "max_rounds": max_rounds}
        results.append(_simulated(workload, taken, machine["policy"], lives[k].replica if lives else k, **options))
    return results


def _simulated(workload: Workload, taken: list[int], policy: Policy, replica: int, **options: Any) -> Result:
    """What a replica does with the requests that it took; errors name it, and them as the workload does."""
    try:
        return simulate(workload.take(taken), policy, seed=None, engine="reference", **options)
    except NotFinishedError as error:
        if isinstance(error.request, int):
            error = bound_passed(policy, taken[error.request], error.round, error.remaining)
        raise error.on_replica(replica) from None
