"""cheapest_mix(): how many machines of each kind keep a service's targets at the lowest price.

    a100, h100 = (ls.machines[name] for name in ("llama2-70b-2xa100", "llama2-70b-4xh100"))
    kinds = {"2xA100": ls.Replica.of(a100, price=7.0), "4xH100": ls.Replica.of(h100, price=16.0)}
    print(ls.cheapest_mix(workload, "fcfs", kinds=kinds, slo={"ttft": 1.0, "tpot": 0.1}, rate=60.0))

One more replica is taken to do no harm. Then, for each number of the other kinds, the fewest of the first are found
by bisection, and only where they would be cheaper than what is known; a mix within one that failed is not tried. With
machines that differ, a router that loads the small ones too much can make more replicas worse: then a cheaper mix may
be missed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .._logging import logger
from ..errors import InputError, MemoryTooSmallError, NotFinishedError
from ..fleet.replica import MOST_REPLICAS, Replica
from ..fleet.router import Router
from ..fleet.router import named as named_router
from ..fleet.simulate_fleet import check_columns, simulate_fleet
from ..policy import Policy
from ..policy import named as named_policy
from ..progress import with_bar
from ..simulation.clock import named as named_clock
from ..workloads import generate
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.random_streams import raw_stream
from ..workloads.workload import Workload
from . import service
from .capacity import share_text
from .confidence import mean_and_half_width

_log = logger(__name__)

__all__ = ["BY_SPEED", "Mix", "cheapest_mix"]

#: A router that knows how fast each replica is.
BY_SPEED = "least-requests,score=(requests+1)/speed"

#: Called now and then with (simulations done, simulations in all: a guess).
Progress = Callable[[int, int], None]
Counts = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Mix:
    """What `cheapest_mix` found.

    Attributes
    ----------
    counts
        How many of each kind; empty if no mix of at most `most` is enough.
    price
        Of all of them per hour; infinite if there is none.
    attained, attained_ci95
        Share of the requests that keep every target, the mean over replications, and half the width of its 95 %
        confidence interval (Student's t).
    alone
        How many of a kind alone are enough, at what price; infinite for both if `most` are not.
    probes
        All that was tried: (counts in the order of the kinds, mean share, half the width of its interval).
    slo, attainment, policy, router, rate, most, requests, replications
        What was asked.
    simulations
        How many it took.
    """

    counts: Mapping[str, int]
    price: float
    attained: float
    attained_ci95: float
    alone: Mapping[str, tuple[float, float]]
    probes: tuple[tuple[Counts, float, float], ...]
    slo: Mapping[str, float]
    attainment: float
    policy: str
    router: str
    rate: float | None
    most: int
    requests: int
    replications: int
    simulations: int

    def __repr__(self) -> str:
        return f"Mix({self})"

    def __str__(self) -> str:
        targets = ", ".join(f"{name} <= {limit:g}" for name, limit in self.slo.items())
        if not self.counts:
            return f"no mix of up to {self.most} replicas is enough for {targets}"
        mix = " + ".join(f"{count} x {name}" for name, count in self.counts.items() if count)
        return f"{mix} at {self.price:g} an hour: {self.attained:.1%} of requests with {targets}"

    def record(self) -> dict[str, Any]:
        """The answer as plain values; None for what there is not or is infinite."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["alone"] = {name: [_finite(value) for value in both] for name, both in self.alone.items()}
        values["probes"] = [[list(counts), mean, _finite(half)] for counts, mean, half in self.probes]
        values |= {"counts": dict(self.counts), "slo": dict(self.slo)}
        return {name: _finite(value) for name, value in values.items()}


@with_bar("searching", "simulations")
def cheapest_mix(
    workload: Workload,
    policy: str | Policy = "fcfs",
    *,
    kinds: Mapping[str, Replica],
    slo: Mapping[str, float],
    router: str | Router = BY_SPEED,
    rate: float | None = None,
    most: int = 16,
    attainment: float = 0.9,
    requests: int | None = None,
    replications: int = 5,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Mix:
    """The cheapest replicas with which `attainment` of the requests meet every target of `slo`.

    Limits: the numbers of all kinds but the first are tried one by one, so that more than three kinds, or more than a
    few dozen replicas, take long; an answer within chance of another price is not told from it; and one more replica is
    taken to do no harm, so that a router which loads small machines too much may hide a cheaper mix.

    Parameters
    ----------
    workload, policy, slo, attainment, requests, replications, seed, threads, progress
        As for `llmsched.capacity.highest_rate`.
    kinds
        Name -> what such a replica is, with its memory, clock and `price` per hour.
    router
        As for `llmsched.simulate_fleet`; by default one that knows the speed of each replica.
    rate
        That of Poisson arrivals. Without one, requests arrive as the workload says.
    most
        Replicas in all, at most.

    Raises
    ------
    InputError
        There are no kinds, a price is not above 0, clocks are there for some kinds only, or as `highest_rate`.
    """
    search = _Search(workload, policy, kinds, slo, router, rate, most, attainment, requests, replications, seed)
    with ThreadPoolExecutor(
        os.cpu_count() or 1 if threads is None else whole("threads", threads, 1), thread_name_prefix="llmsched"
    ) as pool:
        return search.find(pool, progress)


class _Search:
    """One question under way."""

    def __init__(
        self,
        workload: Workload,
        policy: str | Policy,
        kinds: Mapping[str, Replica],
        slo: Mapping[str, float],
        router: str | Router,
        rate: float | None,
        most: int,
        attainment: float,
        requests: int | None,
        replications: int,
        seed: int,
    ) -> None:
        if not isinstance(workload, Workload) or not len(workload):
            raise InputError("there is nothing to serve: give a llmsched.Workload with requests")
        if not kinds:
            raise InputError('give at least one kind, such as {"2xA100": ls.Replica.of(machine, price=7.0)}')
        for name, kind in kinds.items():
            if not isinstance(kind, Replica):
                raise InputError(f"kind {name!r} is {kind!r}, expected a llmsched.Replica")
            if not 0 < kind.price < math.inf:
                raise InputError(f"kind {name!r} has the price {kind.price!r}, expected a number greater than 0")
            kind.completed_by({"policy": policy})
        if len({named_clock(kind.clock) is None for kind in kinds.values()}) > 1:
            raise InputError("some kinds have a clock and some have none: their times cannot be compared")
        self.slo = service.limits(slo)
        if not self.slo:
            raise InputError('give at least one target, such as slo={"ttft": 1.0, "tpot": 0.1}')
        if not (isinstance(attainment, (int, float)) and 0 < attainment <= 1):
            raise InputError(f"attainment={attainment!r} must be a number greater than 0, up to 1")
        self.workload, self.policy, self.router = workload, named_policy(policy), named_router(router)
        check_columns(workload, self.router)
        self.kinds, self.prices = dict(kinds), [float(kind.price) for kind in kinds.values()]
        self.rate, self.attainment = rate, attainment
        self.most = whole("most", most, 1, MOST_REPLICAS)
        self.requests = len(workload) if requests is None else whole("requests", requests, 1)
        self.replications = whole("replications", replications, 1)
        self.seeds = [int(s) for s in raw_stream(whole("seed", seed, 0, LARGEST_SEED), "capacity", self.replications)]
        if rate is None and requests is not None:
            raise InputError("requests are drawn at random at a given rate only: give a rate, or leave requests out")
        self.drawn = [workload] * self.replications
        if rate is not None:
            resampled = [generate.resample(workload, self.requests, one) for one in self.seeds]
            self.drawn = [generate.poisson(w, rate, one) for w, one in zip(resampled, self.seeds, strict=True)]
        self.tried: dict[Counts, tuple[float, float]] = {}
        self.pool: ThreadPoolExecutor
        self.progress: Progress | None

    def find(self, pool: ThreadPoolExecutor, progress: Progress | None) -> Mix:
        self.pool, self.progress = pool, progress
        alone: dict[str, tuple[float, float]] = {}
        best: Counts | None = None
        for k, name in enumerate(self.kinds):
            found = self.fewest(functools.partial(self.only, k), 1, self.most)
            alone[name] = (math.inf, math.inf) if found is None else (found, found * self.prices[k])
            if found is not None and (best is None or alone[name][1] < self.price(best)):
                best = self.only(k, found)
        others = [range(int(min(alone[name][0], self.most)) + 1) for name in list(self.kinds)[1:]]
        for rest in itertools.product(*others):
            best = self.cheaper(rest, best) if any(rest) else best
        shares = (math.nan, math.nan) if best is None else self.share(best)
        return Mix(
            counts={} if best is None else dict(zip(self.kinds, best, strict=True)),
            price=math.inf if best is None else self.price(best),
            attained=shares[0],
            attained_ci95=shares[1],
            alone=alone,
            probes=tuple((counts, *found) for counts, found in self.tried.items()),
            slo=self.slo,
            attainment=self.attainment,
            policy=self.policy.name,
            router=self.router.name,
            rate=self.rate,
            most=self.most,
            requests=self.requests,
            replications=self.replications,
            simulations=len(self.tried) * self.replications,
        )

    def cheaper(self, rest: Counts, best: Counts | None) -> Counts | None:
        """The fewest of the first kind beside these that are enough, if that is cheaper than the best; else that."""
        largest = self.most - sum(rest)
        if best is not None:
            left = self.price(best) - self.price((0, *rest))
            largest = min(largest, math.ceil(left / self.prices[0] - 1e-9) - 1)
        if largest < 0 or not self.enough((largest, *rest)):
            return best
        found = self.fewest(lambda n: (n, *rest), 0, largest)
        return best if found is None else (found, *rest)

    def fewest(self, mix: Callable[[int], Counts], least: int, most: int) -> int | None:
        """The smallest number from `least` to `most` whose mix is enough, or None."""
        low, high = least - 1, least
        while not self.enough(mix(high)):
            if high == most:
                return None
            low, high = high, min(2 * high + 1, most)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.enough(mix(middle)) else (middle, high)
        return high

    def enough(self, counts: Counts) -> bool:
        """Whether the targets hold; what contains a mix that is enough is, what is within one that is not is not."""
        for tried, (mean, _) in self.tried.items():
            if mean >= self.attainment and all(n >= m for n, m in zip(counts, tried, strict=True)):
                return True
            if mean < self.attainment and all(n <= m for n, m in zip(counts, tried, strict=True)):
                return False
        return self.share(counts)[0] >= self.attainment

    def share(self, counts: Counts) -> tuple[float, float]:
        """Share of the requests that keep the targets: the mean over replications, and half its interval."""
        if counts not in self.tried:
            replicas = [kind for kind, n in zip(self.kinds.values(), counts, strict=True) for _ in range(n)]
            shares = list(self.pool.map(lambda k: self.goodput(k, replicas), range(self.replications)))
            self.tried[counts] = mean_and_half_width(np.array(shares))
            mix = " + ".join(f"{n} x {name}" for n, name in zip(counts, self.kinds, strict=True))
            _log.info("%s: %s of the requests meet the targets", mix, share_text(*self.tried[counts]))
            if self.progress is not None:
                done = len(self.tried)
                self.progress(done * self.replications, 2 * max(done, 8) * self.replications)
        return self.tried[counts]

    def goodput(self, k: int, replicas: list[Replica]) -> float:
        """What replication k sees; 0 if a replica does not finish, or none holds some request."""
        try:
            fleet = simulate_fleet(
                self.drawn[k], self.policy, replicas=replicas, router=self.router, seed=self.seeds[k], record="tokens"
            )
        except (NotFinishedError, MemoryTooSmallError):
            return 0.0
        return service.metrics(fleet, self.slo).goodput

    def only(self, k: int, n: int) -> Counts:
        """So many of kind k, and no other."""
        return tuple(n if j == k else 0 for j in range(len(self.kinds)))

    def price(self, counts: Counts) -> float:
        """Of a mix, per hour."""
        return sum(n * price for n, price in zip(counts, self.prices, strict=True))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
