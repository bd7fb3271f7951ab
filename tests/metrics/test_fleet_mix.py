"""cheapest_mix(): no cheaper mix that was allowed keeps the targets; what is wrong is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError
from llmsched.workloads import generate
from llmsched.workloads.random_streams import raw_stream

W = ls.generate.lmsys(300, seed=4)
SMALL, LARGE = (ls.machines[name] for name in ("llama2-70b-2xa100", "llama2-70b-4xa100"))
ASK: dict[str, Any] = {
    "slo": {"ttft": 1.0, "tpot": 0.08}, "rate": 45.0, "requests": 300, "replications": 3, "most": 6,
}  # fmt: skip


def kinds(small: float, large: float) -> dict[str, ls.Replica]:
    return {"small": ls.Replica.of(SMALL, price=small), "large": ls.Replica.of(LARGE, price=large)}


def share(counts: tuple[int, int]) -> float:
    """The mean share of requests that keep the targets, over the same replications."""
    replicas = [ls.Replica.of(SMALL)] * counts[0] + [ls.Replica.of(LARGE)] * counts[1]
    shares = []
    for seed in map(int, raw_stream(0, "capacity", 3)):
        w = generate.poisson(generate.resample(W, 300, seed), 45.0, seed)
        fleet = ls.simulate_fleet(
            w, "fcfs", replicas=replicas, router="least-requests,score=(requests+1)/speed", seed=seed, record="tokens"
        )
        shares.append(ls.service.metrics(fleet, ASK["slo"]).goodput)
    return float(np.mean(shares))


@pytest.mark.parametrize("prices", [(1.0, 1.9), (1.0, 2.6), (1.0, 1.2), (1.0, 10.0)])
def test_no_cheaper_mix_is_enough(prices):
    found = ls.cheapest_mix(W, "fcfs", kinds=kinds(*prices), **ASK)
    every = [c for c in itertools.product(range(7), repeat=2) if 1 <= sum(c) <= 6]
    enough = {counts: share(counts) for counts in every}
    holds = [counts for counts in every if enough[counts] >= 0.9]
    cheapest = min(counts[0] * prices[0] + counts[1] * prices[1] for counts in holds)
    assert found.price == pytest.approx(cheapest)
    counts = (found.counts["small"], found.counts["large"])
    assert found.attained == pytest.approx(enough[counts])
    assert found.attained >= 0.9
    assert len(found.probes) < len(every)
    for k, name in enumerate(found.counts):
        single = [c[k] for c in holds if c[1 - k] == 0]
        assert found.alone[name][0] == min(single, default=float("inf"))
    assert str(found).startswith(" + ".join(f"{n} x {name}" for name, n in found.counts.items() if n))


def test_long_requests_take_a_large_one_and_the_others_small_ones():
    w = ls.Workload(1, [400] * 2 + [20] * 60, arrival=[0, 1, *(10 + 2.0 * np.arange(60))])
    sizes = {"small": ls.Replica(memory=60, price=1.0), "large": ls.Replica(memory=900, max_batch=4, price=9.0)}
    asked: dict[str, Any] = {"slo": {"slowdown": 1.2}, "attainment": 1.0, "router": "least-tokens"}
    found = ls.cheapest_mix(w, "fcfs", kinds=sizes, most=6, replications=1, **asked)

    def holds(small: int, large: int) -> bool:
        replicas = [sizes["small"]] * small + [sizes["large"]] * large
        seed = int(raw_stream(0, "capacity", 1)[0])
        try:
            fleet = ls.simulate_fleet(w, "fcfs", replicas=replicas, router="least-tokens", seed=seed, record="tokens")
        except ls.errors.MemoryTooSmallError:
            return False
        return ls.service.metrics(fleet, asked["slo"]).goodput == 1.0

    every = [c for c in itertools.product(range(7), repeat=2) if 1 <= sum(c) <= 6]
    assert found.price == min(small + 9 * large for small, large in every if holds(small, large))
    assert found.alone["small"] == (float("inf"), float("inf"))
    assert found.counts == {"small": 3, "large": 1}


def test_no_mix_is_enough():
    found = ls.cheapest_mix(W, "fcfs", kinds=kinds(1.0, 2.0), **{**ASK, "most": 1, "rate": 300.0})
    assert found.counts == {}
    assert found.record()["price"] is None
    assert str(found) == "no mix of up to 1 replicas is enough for ttft <= 1, tpot <= 0.08"


def test_the_mix_does_not_depend_on_threads():
    one, other = (ls.cheapest_mix(W, "fcfs", kinds=kinds(1.0, 1.9), **ASK, threads=n).record() for n in (1, 3))
    assert one == other


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": {}}, "give at least one kind"),
        ({"kinds": {"a": 3}}, "kind 'a' is 3, expected a llmsched.Replica"),
        ({"kinds": kinds(0.0, 1.0)}, "kind 'small' has the price 0.0, expected a number greater than 0"),
        ({"kinds": {"a": ls.Replica(price=1.0)}}, "a replica has no memory"),
        ({"kinds": {**kinds(1, 2), "b": ls.Replica(memory=9000, price=1.0)}}, "some kinds have a clock and some"),
        ({"slo": {}}, "give at least one target"),
        ({"most": 0}, "most must be a whole number from 1"),
        ({"rate": None}, "requests are drawn at random at a given rate only"),
    ],
)
def test_what_cannot_be_mixed_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        ls.cheapest_mix(W, "fcfs", **{"kinds": kinds(1.0, 2.0), **ASK, **options})
