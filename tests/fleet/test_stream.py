"""Streams: the same rounds as a fleet that has all requests at once, in the memory of those that are there."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import fleets
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, LlmschedError, WorkloadError
from llmsched.fleet.stream import RELATIVE_ERROR

LENGTHS = ls.generate.lmsys(300, seed=1).with_intervals(ls.intervals.buckets(100))


def arriving(n: int, rate: float = 1.0) -> ls.Workload:
    return ls.generate.poisson(ls.generate.resample(LENGTHS, n, 2), rate, 2)


def pieces(workload, cuts):
    return [workload.take(slice(a, b)) for a, b in zip([0, *cuts], [*cuts, len(workload)], strict=True)]


@examples(200)
@given(drawn=fleets(), data=st.data())
def test_a_stream_equals_the_fleet_of_all_its_requests(drawn, data):
    workload, options = drawn
    workload = workload.replace(think=None).take(np.argsort(workload.arrival, kind="stable"))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(workload)), max_size=4)))
    policy, router = options["policy"], ls.Router() if options["router"] is None else options["router"]
    assume(isinstance(policy, str) or isinstance(policy.order, str))  # numbers for one workload
    assume(isinstance(policy, str) or policy.prefixes == "none")
    assume(len(workload) > 0)
    assume(isinstance(router, str) or router.classes == 1)  # whose bounds come from the first chunk
    if options["replicas"] == 1 or (isinstance(options["replicas"], list) and len(options["replicas"]) == 1):
        options["seed"] = None  # one alone draws by the number of requests, which a stream does not know
    options["max_rounds"] = 2000
    try:
        fleet = ls.simulate_fleet(workload, **options)
    except LlmschedError:
        assume(False)
    handed = []
    result = ls.stream(pieces(workload, cuts), completed=handed.append, **options)
    done = np.concatenate(handed)
    done = done[np.argsort(done["id"])]
    assert done["id"].tolist() == [*range(len(workload))]
    for name in ("completion", "start", "evictions", "replica"):
        assert done[name].tolist() == getattr(fleet, name).tolist()
    assert result.total_latency == pytest.approx(fleet.total_latency, rel=1e-12)
    assert (result.rounds, result.evictions, result.wasted_tokens, result.makespan, result.load.tolist()) == (
        fleet.rounds, fleet.total_evictions, fleet.wasted_tokens, fleet.makespan, fleet.load.tolist(),
    )  # fmt: skip


def test_quantiles_are_within_their_stated_error():
    workload = arriving(5000, 5.0)
    fleet = ls.simulate_fleet(workload, "fcfs", replicas=4, memory=16492)
    result = ls.stream(pieces(workload, [1000, 1001, 3000]), "fcfs", replicas=4, memory=16492)
    for q in (1, 50, 90, 99, 100):
        true = np.percentile(fleet.latency, q, method="inverted_cdf")
        assert abs(result.percentile(q) - true) <= 1.01 * RELATIVE_ERROR * true
    waits = fleet.start - workload.arrival
    assert result.percentile(1, "wait") == pytest.approx(np.percentile(waits, 1, method="inverted_cdf"), rel=0.0011)
    assert result.mean_wait == pytest.approx(waits.mean())


def test_memory_is_held_for_those_that_are_there_alone():
    few, many = (
        ls.stream(ls.generate.chunks(LENGTHS, n, 10.0, 0, size=500), "fcfs", replicas=20, memory=16492)
        for n in (5_000, 50_000)
    )
    assert many.requests == 50_000
    assert many.most_at_once <= 2 * few.most_at_once


def test_generated_chunks_are_the_generated_workload_in_pieces():
    whole = ls.generate.poisson(ls.generate.resample(LENGTHS, 1000, 7), 3.0, 7)
    chunks = list(ls.generate.chunks(LENGTHS, 1000, 3.0, 7, size=333))
    assert [len(chunk) for chunk in chunks] == [333, 333, 333, 1]
    for name, column in whole.columns().items():
        assert np.concatenate([getattr(chunk, name) for chunk in chunks]).tolist() == column.tolist()


def test_arrivals_never_go_back():
    with pytest.raises(WorkloadError, match=r"request 5 of the stream arrives at 0, before the one at .* came earlier"):
        ls.stream([arriving(5), ls.generate.at_once(arriving(5))], "fcfs", memory=16492)


@pytest.mark.parametrize(
    ("requests", "message"),
    [([3], "chunks of requests, not int"), ([arriving(3)], "a replica has no memory")],
)
def test_what_cannot_be_streamed_is_refused(requests, message):
    with pytest.raises(InputError, match=message):
        ls.stream(requests, "fcfs", **({} if "memory" in message else {"memory": 16492}))


def test_an_empty_stream_says_so():
    result = ls.stream([], "fcfs", memory=10)
    assert result.requests == 0
    assert np.isnan(result.mean_latency)
    assert np.isnan(result.percentile(50))


def test_a_percentile_of_something_else_suggests_what_there_is():
    with pytest.raises(InputError, match="latency"):
        ls.stream([], "fcfs", memory=10).percentile(50, "latencies")
