"""`check` finds a scheduler that breaks each of the invariants, and lets pass one that keeps them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError, SchedulerError
from llmsched.testing import Case, Decision, Request, State

FEW: dict[str, Any] = {
    "workloads": {"small": Case(ls.generate.lmsys(40).with_intervals(ls.intervals.buckets(100)), 800)},
    "random_workloads": 20,
}


def in_order(state: State, waiting: list[Request], key: Any = None) -> Decision:
    """Admit those that wait in this order while they fit; where the cache overflows the newest leave."""
    admit, need, batch, evict = [], state.need, list(state.running), []
    while need > state.memory:
        evict.append(batch.pop())
        need -= evict[-1].tokens
    for request in sorted(waiting, key=key) if key else waiting:
        need += request.tokens
        if need > state.memory:
            break
        admit.append(request)
    return Decision(tuple(admit), tuple(evict))


def first_come(state: State) -> Decision:
    return in_order(state, list(state.waiting))


def test_one_that_keeps_the_rules_passes() -> None:
    checked = ls.testing.check(first_come, **FEW)
    assert (checked.scheduler, checked.workloads) == ("first_come", 21)
    assert checked.runs > 4 * 21
    assert "no future knowledge" in repr(checked)
    assert "future" not in repr(ls.testing.check(first_come, truth=True, **FEW))


def test_one_that_looks_at_no_memory_is_found() -> None:
    with pytest.raises(SchedulerError, match=r"^workload 'small', round 0: with request \d+, which takes") as caught:
        ls.testing.check(lambda state: Decision(tuple(state.waiting), ()), **FEW)
    assert caught.value.round == 0
    assert caught.value.request is not None


def test_one_that_never_comes_to_an_end_is_found() -> None:
    def turned_out(state: State) -> Decision:
        return Decision((min(state.waiting, key=lambda r: r.joined),) if state.waiting else (), tuple(state.running))

    tiny = {"tiny": Case(ls.Workload([1] * 3, [5] * 3), 9)}
    with pytest.raises(
        SchedulerError, match=r"^workload 'tiny', turned_out stopped at round \d+ with 3 of 3"
    ) as caught:
        ls.testing.check(turned_out, workloads=tiny)
    assert caught.value.request == 0


@pytest.mark.parametrize(
    "key",
    [
        lambda r: random.random(),
        lambda r: np.random.random(),  # noqa: NPY002
        lambda r: hash(r),
        id,
    ],
    ids=["random", "numpy", "hash", "id"],
)
def test_one_that_depends_on_chance_is_found(key: Any) -> None:
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(SchedulerError, match="Nothing but chance had changed") as caught:
        ls.testing.check(lambda state: in_order(state, list(state.waiting), key), **FEW)
    assert caught.value.request is not None
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_the_order_of_a_set_is_chance() -> None:
    with pytest.raises(SchedulerError, match="the order of a set"):
        ls.testing.check(lambda state: in_order(state, list({*state.waiting})), **FEW)


def test_the_global_generators_stand_where_they_stood() -> None:
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = random.random(), float(np.random.random())  # noqa: NPY002
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    ls.testing.check(first_come, **FEW)
    assert before == (random.random(), float(np.random.random()))  # noqa: NPY002


class Remembers:
    """Every other decision is in the other direction."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, state: State) -> Decision:
        self.asked += 1
        return in_order(state, list(state.waiting)[:: 1 if self.asked % 2 else -1])


def test_what_is_left_of_the_run_before_is_found_and_a_class_has_none() -> None:
    odd = {"workloads": {"odd": Case(ls.Workload([1] * 5, [3] * 5), 9)}, "random_workloads": 0}
    rounds = ls.testing.run(Remembers, odd["workloads"]["odd"].workload, memory=9).rounds
    assert rounds % 2 == 1, "the second run has to begin in the other direction"
    with pytest.raises(SchedulerError, match="give its class"):
        ls.testing.check(Remembers(), **odd)
    ls.testing.check(Remembers, **FEW)


def test_one_that_knows_the_future_is_found() -> None:
    def cheats(state: State) -> Decision:
        return in_order(state, list(state.waiting), lambda r: (r._served.output, r.rank))

    with pytest.raises(SchedulerError, match="the scheduler knows the future") as caught:
        ls.testing.check(cheats, **FEW)
    assert "in another run admitted" in str(caught.value)
    ls.testing.check(cheats, truth=True, **FEW)


def test_the_future_that_shows_in_a_completion_alone_is_found() -> None:
    """It looks ahead only once others have completed: a cut in a later round catches it."""

    def cheats(state: State) -> Decision:
        late = state.round > 20
        return in_order(state, list(state.waiting), lambda r: (r._served.output if late else 0, r.rank))

    with pytest.raises(SchedulerError, match="the scheduler knows the future"):
        ls.testing.check(cheats, **FEW)


def test_a_scheduler_may_read_the_truth_only_if_that_is_said() -> None:
    def shortest(state: State) -> Decision:
        return in_order(state, list(state.waiting), lambda r: (r.output, r.rank))

    with pytest.raises(AttributeError, match="truth=True") as caught:
        ls.testing.check(shortest, **FEW)
    assert caught.value.__notes__ == ["the scheduler was asked before round 0, at 0", "on the workload 'small'"]
    ls.testing.check(shortest, truth=True, **FEW)


def test_limits_of_machines_are_met_where_they_are_asked_for() -> None:
    with pytest.raises(
        SchedulerError, match=r"^workload 'random_case\(\d+\)', round \d+: .*(max_batch|prefill_budget)"
    ):
        ls.testing.check(first_come, workloads={}, random_workloads=30, limits=True)
    with pytest.raises(InputError, match="random_workloads"):
        ls.testing.check(first_come, random_workloads=-1)
