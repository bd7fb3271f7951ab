"""A live scheduler and fleets under faults: nothing lost, nothing twice, memory never exceeded.

python benchmarks/soak.py                     ten minutes or more, until a million requests went through the scheduler
python benchmarks/soak.py --seconds 30        what .ci/run does

Four fifths of the time a server drives `llmsched.live.Scheduler` through days of random policies and machines. Requests
are aborted at random, turned back, hastened, and now and then the server is killed: another one is told of all that had
not completed, and begins them anew. A fifth of it, fleets whose replicas fail and return are simulated. What is checked
in every round, of every request and of every fleet stands in `Server.check` and `fleet`. It ends with an error at the
first thing that is wrong, with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from time import monotonic

import numpy as np

import llmsched as ls
from llmsched.errors import NotFinishedError

DRIVEN = sorted(name for name, policy in ls.policies.items() if not policy.clairvoyant)
WAITING, LONGEST = 100, 200  # requests that wait at a server, and their longest outputs
DISPATCHING = sorted(set(ls.routers) - {"central-queue"})  # which has no queue for what a dead replica loses
DAY = 20_000  # requests of a policy and a machine
FLEET = 5_000  # requests of a fleet


@dataclasses.dataclass
class Served:
    """A request as the server sees it."""

    prompt: int
    output: int
    lower: int
    upper: int
    priority: int
    generated: int = 0
    to_prefill: int = 0
    cached: int = 0  # tokens that were processed; only with slots="processed"
    returned: bool = False


class Server:
    """A day of a server: it knows what it asked the scheduler for, and believes nothing that it is told."""

    def __init__(self, rng: np.random.Generator, number: Counter[str]) -> None:
        self.rng, self.number = rng, number
        self.policy = ls.policies[str(rng.choice(DRIVEN))]
        self.block = int(rng.choice([1, 16]))
        self.memory = int(rng.integers(260, 2000)) // self.block * self.block
        self.budget = int(rng.choice([0, 64, 512]))
        self.machine = {
            "memory": self.memory, "block": self.block, "seed": int(rng.integers(1000)),
            "max_batch": int(rng.choice([8, 64, 256])), "prefill_budget": self.budget or None,
        }  # fmt: skip
        self.processed = self.policy.slots == "processed"
        self.table = ls.LengthTable.from_outputs(rng.integers(1, LONGEST, 300))
        self.requests: dict[int, Served] = {}  # those that neither completed nor were aborted
        self.running: dict[int, Served] = {}  # in order of admission
        self.ended: set[int] = set()
        self.submitted = self.round = 0
        self.scheduler = self.started()

    def started(self) -> ls.live.Scheduler:
        return ls.live.Scheduler(self.policy, lengths=self.table, **self.machine)

    def run(self, requests: int, until: float) -> None:
        """Until so many requests are gone, or it is that late."""
        while len(self.ended) < requests and (self.round % 64 or monotonic() < until):
            while len(self.requests) < WAITING + len(self.running) and self.submitted < requests:
                self.submit_new()
            self.faults()
            self.step()
        self.number["requests"] += len(self.ended)
        self.number["rounds"] += self.round
        for id in [*self.requests]:
            self.abort(id)
        assert len(self.scheduler) == self.scheduler.need == self.scheduler.running == self.scheduler.waiting == 0
        assert len(self.ended) == self.submitted

    def submit_new(self) -> None:
        rng, output = self.rng, int(min(self.rng.geometric(0.04), LONGEST))
        lower = int(rng.integers(1, output + 20))
        request = Served(
            int(rng.integers(0, 100)), output, lower, lower + int(rng.integers(0, 40)), int(rng.integers(3))
        )
        self.requests[self.submitted] = request
        self.submit(self.submitted, request)
        self.submitted += 1

    def submit(self, id: int, r: Served) -> None:
        self.scheduler.submit(id, r.prompt, lower=r.lower, upper=r.upper, priority=r.priority, deadline=50.0)

    def faults(self) -> None:
        """Aborts, requests that are hastened, and now and then a crash."""
        chance = self.rng.random(3)
        if chance[0] < 0.1 and self.requests:
            ids = [*self.requests]
            for id in {ids[k] for k in self.rng.integers(0, len(ids), int(self.rng.integers(1, 4)))}:
                self.abort(id)
                self.number["aborted"] += 1
        if chance[1] < 0.01 and self.requests:
            ids = [*self.requests]
            self.scheduler.hasten(ids[int(self.rng.integers(len(ids)))])
        if chance[2] < 0.0005:
            self.crash()

    def crash(self) -> None:
        """The server is killed. Another one is told of all that had not completed, and begins them anew."""
        self.number["restarts"] += 1
        self.running.clear()
        self.scheduler = self.started()
        for id, r in self.requests.items():
            self.requests[id] = dataclasses.replace(r, generated=0, to_prefill=0, cached=0, returned=False)
            self.submit(id, r)

    def abort(self, id: int) -> None:
        self.scheduler.cancel(id)
        self.running.pop(id, None)
        self.end(id)

    def end(self, id: int) -> None:
        del self.requests[id]
        assert id not in self.ended
        self.ended.add(id)

    def step(self) -> None:
        """A round, as the scheduler decides it."""
        try:
            decision = self.scheduler.decide(float(self.round))
        except NotFinishedError:  # of a policy whose bounds rise without end; it is of no further use
            self.number["given up"] += 1
            self.crash()
            return
        self.round += 1
        for id in decision.evict:
            r = self.running.pop(id)
            self.number["evicted"] += 1
            r.returned, r.cached = True, 0
            if self.policy.resume == "restart":
                r.generated = 0
        for id in decision.admit:
            r = self.requests[id]
            assert id not in self.running
            if self.policy.resume != "swap" or not r.returned:
                r.to_prefill = r.prompt + r.generated
            self.running[id] = r
        if self.rng.random() < 0.002 and self.running and not self.processed and not self.budget:
            self.turn_back(next(reversed(self.running)))
        self.check(decision)
        done = self.process(decision) if self.processed else self.generate()
        self.scheduler.advance(finished=done)
        for id in done:
            del self.running[id]
            self.end(id)
            self.number["completed"] += 1

    def turn_back(self, id: int) -> None:
        self.scheduler.turn_back(id)
        r = self.running.pop(id)
        r.returned = True
        self.number["turned back"] += 1

    def check(self, decision: ls.live.Decision) -> None:
        """Before a round runs: who runs and waits is known alike, and what runs fits the cache."""
        scheduler, block = self.scheduler, self.block
        assert scheduler.running == len(self.running) <= self.machine["max_batch"]
        assert scheduler.running + scheduler.waiting == len(self.requests) == len(scheduler)
        if self.processed:
            tokens = {id: r.cached + decision.process.get(id, 0) for id, r in self.running.items()}
            assert sum(decision.process.values()) <= (self.budget or np.inf)
            assert decision.process.keys() <= self.running.keys()
        else:
            tokens = {id: r.prompt + r.generated + 1 for id, r in self.running.items()}
        taken = sum(-(-held // block) * block for held in tokens.values())
        assert taken == scheduler.need <= self.memory
        if self.round % 200 == 0:
            assert all(scheduler.is_running(id) == (id in self.running) for id in self.requests)

    def generate(self) -> list[int]:
        if self.budget:
            left = self.budget - sum(not r.to_prefill for r in self.running.values())
            for r in self.running.values():
                chunk = min(r.to_prefill, left)
                r.to_prefill -= chunk
                left -= chunk
        else:
            for r in self.running.values():
                r.to_prefill = 0
        return self.next_token([id for id, r in self.running.items() if not r.to_prefill])

    def process(self, decision: ls.live.Decision) -> list[int]:
        for id, tokens in decision.process.items():
            r = self.running[id]
            r.cached += tokens
            r.to_prefill -= min(r.to_prefill, tokens)
        return self.next_token([id for id in decision.process if not self.running[id].to_prefill])

    def next_token(self, ids: list[int]) -> list[int]:
        done = []
        for id in ids:
            r = self.running[id]
            r.generated += 1
            assert r.generated <= r.output
            if r.generated == r.output:
                done.append(id)
        return done


def fleet(rng: np.random.Generator, number: Counter[str]) -> None:
    """A fleet, some of whose replicas fail and return: every request completes once, in time, and the cache holds."""
    n, clock = FLEET, [None, ls.Clock(base=0.02, per_request=0.0004, per_context_token=1e-7)][int(rng.integers(2))]
    output = np.minimum(rng.geometric(0.02, n), 400)
    round = 1.0 if clock is None else 0.03
    w = ls.Workload(
        rng.integers(0, 200, n), output, np.maximum(output // 2, 1), 2 * output, session=rng.integers(0, 500, n),
        arrival=np.sort(rng.random(n)) * n * round * rng.choice([1.0, 3.0]), priority=rng.integers(0, 3, n),
    )  # fmt: skip
    times = [float(t) for t in rng.random(6) * w.arrival.max()]
    replicas = [ls.Replica(fails_at=t, returns_at=t + float(rng.exponential(w.arrival.max() / 5))) for t in times]
    replicas += [ls.Replica(), ls.Replica(fails_at=times[0])]
    policy, router = str(rng.choice(["amin", "fcfs", "vllm", "s3", "mcsf"])), str(rng.choice(DISPATCHING))
    r = ls.simulate_fleet(
        w,
        policy,
        replicas=replicas,
        router=router,
        memory=3000,
        clock=clock,
        record="timeline",
        seed=int(rng.integers(9)),
    )
    assert np.isfinite(r.completion).all()
    assert (r.start >= w.arrival).all()
    assert (r.completion > r.start).all()
    assert r.losses is not None
    tokens = 0
    for k, (replica, outcome) in enumerate(zip(replicas, r.outcomes, strict=True)):
        rows = outcome.timeline.expand()
        assert rows["memory"].max(initial=0) == outcome.peak_memory <= outcome.memory
        tokens += int(rows["batch"].sum())
        away = np.inf if replica.returns_at is None else replica.returns_at
        if replica.fails_at is not None:
            mine = r.replica == k
            assert ((r.completion[mine] <= replica.fails_at) | (r.start[mine] >= away)).all()
    if ls.policies[policy].slots == "ahead":
        assert tokens == int(w.output.sum()) + r.wasted_tokens
    number["fleets"] += 1
    number["sent again"] += int(r.losses.sum())


def soak(seconds: float, requests: int, seed: int, *, loud: bool = False) -> Counter[str]:
    """What was done, by name; `loud` prints it now and then.

    AssertionError, with a note that names the seed, at the first thing that is wrong.
    """
    number: Counter[str] = Counter()
    began, day = monotonic(), 0
    while monotonic() - began < seconds or number["requests"] < requests:
        try:
            spent = monotonic()
            Server(np.random.default_rng([seed, day]), number).run(DAY, spent + max(seconds / 5, 2.0))
            share = (monotonic() - spent) / 4
            spent = monotonic()
            while monotonic() - spent < share:
                fleet(np.random.default_rng([seed, day, number["fleets"]]), number)
        except Exception as error:
            error.add_note(f"in day {day} of seed {seed}: soak.py --seed {seed}")
            raise
        day += 1
        if loud and day % 10 == 0:
            print(f"{monotonic() - began:7.0f} s  {dict(number)}", flush=True)
    number["days"], number["seconds"] = day, round(monotonic() - began)
    return number


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default 600)")
    parser.add_argument("--requests", type=int, help="and so many requests, live (default 1,000,000 if 600 s or more)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    requests = given.requests if given.requests is not None else 1_000_000 if given.seconds >= 600 else 0
    for name, count in soak(given.seconds, requests, given.seed, loud=True).items():
        print(f"{name:<12}{count:>12,}")
    print("nothing lost, nothing twice, memory never exceeded")


if __name__ == "__main__":
    main()
