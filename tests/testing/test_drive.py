"""Schedulers that decide as named policies do give the results of `simulate`; what cannot be decided is refused."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from helpers.examples import examples
from helpers.strategies import problems
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import NotFinishedError, SchedulerError
from llmsched.testing import Case, Decision, Request, State

sys.path.insert(0, str(ROOT / "examples" / "own_scheduler"))
try:
    import own_scheduler
finally:
    sys.path.remove(str(ROOT / "examples" / "own_scheduler"))

SEEDS = st.one_of(st.none(), st.integers(0, 5))


def same(mine: ls.Result, theirs: ls.Result) -> None:
    for name in ("completion", "start", "evictions"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), name)
    for name in ("rounds", "peak_memory", "wasted_tokens", "idle", "timeline", "tokens"):
        assert getattr(mine, name) == getattr(theirs, name), name
    mine_summary, their_summary = mine.summary(), theirs.summary()
    assert {**mine_summary, "policy": ""} == {**their_summary, "policy": ""}


def work_of(request: Request) -> int:
    """Tokens that a request has to process in its first round."""
    return max(request.prompt + request.generated, 1)


class Limits:
    """What `max_batch` and `prefill_budget` leave of a round."""

    def __init__(self, state: State, batch: list[Request]) -> None:
        self.places = np.inf if state.max_batch is None else state.max_batch - len(batch)
        self.budget = np.inf
        if state.prefill_budget is not None:
            self.budget = state.prefill_budget - sum(max(r.to_prefill, 1) for r in batch)

    def admits(self, request: Request) -> bool:
        if self.places <= 0 or self.budget <= 0:
            return False
        self.places -= 1
        self.budget -= work_of(request)
        return True


def fcfs(state: State) -> Decision:
    """The policy `fcfs`, on any machine."""
    batch, evict, admit, need = list(state.running), [], [], state.need
    while need > state.memory:
        evict.append(batch.pop())
        need -= evict[-1].tokens
    limits = Limits(state, batch)
    for request in sorted(state.waiting, key=lambda r: (r.arrival, r.rank)):
        limit = 99 * state.memory // 100 if batch or admit else state.memory
        if need + request.tokens > limit - limit % state.block or not limits.admits(request):
            break
        need += request.tokens
        admit.append(request.index)
    return Decision(tuple(admit), tuple(r.index for r in evict))


class AMin:
    """The policy `amin` with seed=None: equals leave in the order of lists that it remembers (model.md, section 5)."""

    def __init__(self) -> None:
        self.batch: list[Request] = []
        self.equals: dict[int, list[Request]] = {}

    def __call__(self, state: State) -> Decision:
        running = list(state.running)
        for request in [r for r in self.batch if r not in running]:
            self.leave(request)
        batch, evict, admit = running, [], []
        while sum(r.tokens for r in batch) > state.memory:
            victim = self.equals[min(self.equals)][0]
            self.leave(victim)
            batch.remove(victim)
            evict.append(victim)
        limits = Limits(state, batch)
        for request in sorted(state.waiting, key=lambda r: (own_scheduler.bound(r), r.rank)):
            if not own_scheduler.fits([*batch, request], state) or not limits.admits(request):
                break
            batch.append(request)
            admit.append(request)
            self.equals.setdefault(own_scheduler.bound(request), []).append(request)
        self.batch = batch
        return Decision(tuple(admit), tuple(evict))

    def leave(self, request: Request) -> None:
        key, members = next((key, members) for key, members in self.equals.items() if request in members)
        members[members.index(request)] = members[-1]
        members.pop()
        if not members:
            del self.equals[key]


RECORD = ("timeline", "tokens")


@given(st.integers(0, 10**6), SEEDS)
def test_first_come_first_served_gives_the_result_of_fcfs(k: int, seed: int | None) -> None:
    case = ls.testing.random_case(k, limits=True)
    mine = ls.testing.run(fcfs, case.workload, **case.machine(), seed=seed, resume="recompute", record=RECORD)
    same(mine, ls.simulate(case.workload, "fcfs", **case.machine(), seed=seed, record=RECORD))


@given(problems(), SEEDS)
def test_the_example_in_twenty_lines_gives_the_result_of_fcfs(drawn: Any, seed: int | None) -> None:
    workload, memory = drawn
    mine = ls.testing.run(
        own_scheduler.first_come, workload, memory=memory, seed=seed, resume="recompute", record=RECORD
    )
    same(mine, ls.simulate(workload, "fcfs", memory=memory, seed=seed, record=RECORD))


@given(st.integers(0, 10**6))
def test_a_scheduler_that_remembers_gives_the_result_of_amin(k: int) -> None:
    case = ls.testing.random_case(k, limits=True)
    try:
        theirs = ls.simulate(case.workload, "amin", **case.machine(), seed=None, record=RECORD)
    except NotFinishedError:
        assume(False)
    same(ls.testing.run(AMin, case.workload, **case.machine(), seed=None, record=RECORD), theirs)


@given(problems(), st.sampled_from(["restart", "recompute", "swap"]), st.sampled_from([None, "llama2-70b-2xa100"]))
def test_the_example_gives_the_result_of_amin_with_ties_by_admission(
    drawn: Any, resume: Any, clock: str | None
) -> None:
    workload, memory = drawn
    policy = ls.Policy(evict="1 * bound", resume=resume)
    options: dict[str, Any] = {"memory": memory, "seed": None, "clock": clock, "record": RECORD}
    mine = ls.testing.run(own_scheduler.adaptive_minimum, workload, **options, resume=resume)
    same(mine, ls.simulate(workload, policy, **options))


@pytest.mark.parametrize("name", ls.testing.STANDARD)
def test_the_examples_equal_their_policies_on_the_standard_workloads(name: str) -> None:
    case = ls.testing.STANDARD[name]
    mine = ls.testing.run(own_scheduler.first_come, case.workload, **case.machine(), resume="recompute", record=RECORD)
    same(mine, ls.simulate(case.workload, "fcfs", **case.machine(), record=RECORD))


def test_one_that_knows_the_truth_gives_the_result_of_shortest_first() -> None:
    def shortest(state: State) -> Decision:
        admit, need = [], sum(r.prompt + r.output for r in state.running)
        for request in sorted(state.waiting, key=lambda r: (r.output, r.rank)):
            need += request.prompt + request.output
            if need > state.memory:
                break
            admit.append(request)
        return Decision(tuple(admit), ())

    w = ls.generate.lmsys(50)
    mine = ls.testing.run(shortest, w, memory=2000, truth=True, record=RECORD)
    policy = dataclasses.replace(ls.policies["hsf"], hold="peak")
    same(mine, ls.simulate(w, policy, memory=2000, record=RECORD))


# Decisions that cannot be ---------------------------------------------------------------------------------------------

THREE = ls.Workload([4, 4, 4], [3, 3, 3], [1, 1, 1], [9, 9, 9], arrival=[0, 0, 9])

Says = Callable[[State], Any]


def everybody(state: State) -> Decision:
    return Decision(tuple(state.waiting), ())


def in_round(number: int, decision: Decision) -> Says:
    return lambda state: decision if state.round == number else everybody(state)


@pytest.mark.parametrize(
    ("decide", "machine", "round", "request_", "words"),
    [
        (everybody, {"memory": 9}, 0, 1, "with request 1, which takes 5 tokens of cache, the round needs 10"),
        (everybody, {"memory": 10}, 1, None, "the 2 requests that run need 12 tokens"),
        (in_round(1, Decision((), (2,))), {}, 1, 2, "request 2 is to be evicted, but it arrives at 9"),
        (in_round(1, Decision((1,), ())), {}, 1, 1, "request 1 is to be admitted, but it runs"),
        (in_round(1, Decision((2,), ())), {}, 1, 2, "request 2 is to be admitted, but it arrives at 9"),
        (in_round(3, Decision((1,), ())), {}, 3, 1, "request 1 is to be admitted, but it completed at 3"),
        (in_round(0, Decision((0, 1), (0,))), {}, 0, 0, "request 0 is to be evicted, but it waits"),
        (in_round(0, Decision((0, 1, 0), ())), {}, 0, 0, "admit names request 0 twice"),
        (in_round(0, Decision((0, 7), ())), {}, 0, None, "admit names 7, which is no request"),
        (in_round(0, Decision((True,), ())), {}, 0, None, "admit names True, which is no request"),
        (in_round(0, Decision(("0",), ())), {}, 0, None, "admit names '0', which is no request"),
        (in_round(0, Decision("01", ())), {}, 0, None, "admit is '01'"),  # type: ignore[arg-type]
        (in_round(0, Decision((), ())), {}, 0, 0, "nobody runs and 2 requests wait, request 0 the longest"),
        (in_round(1, Decision((), (0, 1))), {}, 1, 0, "nobody runs and 2 requests wait"),
        (lambda state: ((0,), ()), {}, 0, None, "the scheduler returned ((0,), ())"),
        (in_round(0, Decision((0,), (), {0: 1})), {}, 0, None, "slots='processed'"),
        (everybody, {"max_batch": 1}, 0, 1, "request 1 is to be admitted, but 1 run, and max_batch is 1"),
        (everybody, {"prefill_budget": 4}, 0, 1, "those that run have 4 tokens to process"),
    ],
)
def test_a_decision_that_cannot_be_is_refused(
    decide: Says, machine: dict[str, Any], round: int, request_: int | None, words: str
) -> None:
    workload = THREE.replace(output=[4, 3, 3]) if round == 3 else THREE  # request 0 runs on
    with pytest.raises(SchedulerError) as caught:
        ls.testing.run(decide, workload, **({"memory": 50, "seed": None} | machine))
    assert (caught.value.round, caught.value.request) == (round, request_)
    assert str(caught.value).startswith(f"round {round}: ")
    assert words in str(caught.value)
    assert len(str(caught.value).split(". ")) == 2  # what was wrong, and what to do


@pytest.mark.parametrize("scheduler", ["amin", ls.policies["amin"], 3])
def test_what_is_no_function_is_no_scheduler(scheduler: Any) -> None:
    with pytest.raises(ls.errors.InputError, match="expected a function from a state to a Decision, or a class"):
        ls.testing.check(scheduler)


def test_workloads_to_test_on_are_cases_by_name() -> None:
    requests = ls.generate.lmsys(5)
    for function in (ls.testing.check, ls.testing.score):
        with pytest.raises(ls.errors.InputError, match=r"workload 'mine' is .*, expected Case\(workload, memory="):
            function(nothing, workloads={"mine": requests})
        with pytest.raises(ls.errors.InputError, match=r"expected name -> Case\(workload, memory="):
            function(nothing, workloads=requests)


def nothing(state: State) -> Decision:
    return Decision((), ())


def test_what_a_scheduler_raises_says_when_it_was_asked() -> None:
    def broken(state: State) -> Decision:
        return Decision((state.waiting[0],), ()) if state.round == 0 else 1 // 0  # type: ignore[return-value]

    with pytest.raises(ZeroDivisionError) as caught:
        ls.testing.run(broken, THREE, memory=50)
    assert caught.value.__notes__ == ["the scheduler was asked before round 1, at 1"]


def test_requests_that_evict_each_other_for_ever_are_stopped() -> None:
    def in_turns(state: State) -> Decision:
        return Decision((state.waiting[0],), tuple(state.running))

    with pytest.raises(NotFinishedError, match="Request 0 was evicted") as caught:
        ls.testing.run(in_turns, ls.Workload([1, 1], [5, 5]), memory=9)
    assert caught.value.remaining == 2
    ended = ls.testing.run(in_turns, ls.Workload([1, 1], [5, 5]), memory=9, resume="recompute")
    assert ended.total_evictions == 8
    with pytest.raises(NotFinishedError, match="max_rounds=3 is reached"):
        ls.testing.run(everybody, THREE, memory=50, max_rounds=3)


def test_who_leaves_may_start_again_in_the_same_round() -> None:
    again = in_round(1, Decision((0,), (0,)))
    result = ls.testing.run(again, ls.Workload([1], [3]), memory=9)
    assert result.completion.tolist() == [4]
    assert (result.total_evictions, result.wasted_tokens) == (1, 1)


# What it sees ---------------------------------------------------------------------------------------------------------


def test_work_counts_decisions_looks_admissions_and_evictions() -> None:
    def looks(state: State) -> Decision:
        if not state.round:
            assert (len(state.waiting), len(state.running)) == (2, 0)
            first, second = state.waiting[0], state.waiting[1:][0]
            assert [first, second] == list(state.waiting)
            assert second in state.waiting
        return everybody(state)

    result = ls.testing.run(looks, THREE.replace(arrival=[0, 0, 2]), memory=50)
    assert result.work == {"decisions": 5, "requests_looked_at": 9, "admissions": 3, "evictions": 0}
    assert ls.testing.run(looks, THREE, memory=50).rounds == 6


def test_a_request_is_read_and_never_changed() -> None:
    seen: list[Request] = []

    def look(state: State) -> Decision:
        seen.extend(state.waiting)
        return everybody(state)

    ls.testing.run(look, ls.Workload([4], [3], priority=[2]), memory=9)
    (request,) = seen
    assert (request.index, request.prompt, request.priority, request.tokens) == (0, 4, 2, 8)
    with pytest.raises(AttributeError, match="not change them"):
        request.generated = 5  # type: ignore[misc]
    with pytest.raises(AttributeError, match="not change them"):
        del request.prompt
    with pytest.raises(AttributeError, match="does not see the true output"):
        _ = request.output
    with pytest.raises(AttributeError, match="with_intervals"):
        _ = request.lower
    with pytest.raises(AttributeError, match="no 'length'"):
        _ = request.length  # type: ignore[attr-defined]


def test_the_point_is_the_middle_of_the_interval() -> None:
    points: list[int] = []

    def look(state: State) -> Decision:
        points.extend(r.point for r in state.waiting)
        return everybody(state)

    ls.testing.run(look, ls.Workload([1, 1], [2, 2], [1, 1], [4, 5]), memory=50, seed=None)
    assert points == [3, 3]


def test_its_result_stands_beside_those_of_compare() -> None:
    workload = ls.generate.lmsys(30).with_intervals(ls.intervals.buckets(100))
    mine = ls.testing.run(fcfs, workload, memory=2000, resume="recompute", label="mine")
    compared = ls.foreign_result.added(ls.compare(workload, ["fcfs", "amin"], memory=2000), mine)
    assert compared["mine"].ratio == compared["fcfs"].ratio
    assert compared["mine"].record() == {**compared["fcfs"].record(), "policy": "mine"}


@examples(200)
@given(st.integers(0, 10**9), st.booleans())
def test_random_cases_are_the_same_for_a_seed_and_fit(seed: int, limits: bool) -> None:
    case = ls.testing.random_case(seed, limits=limits)
    again = ls.testing.random_case(seed, limits=limits)
    assert case.workload == again.workload
    assert case.machine() == again.machine()
    assert isinstance(case, Case)
    assert case.memory % case.block == 0
    assert (-(-(case.workload.prompt + case.workload.output) // case.block) * case.block).max() <= case.memory
    if not limits:
        assert case.max_batch is case.prefill_budget is None
