"""The core against the reference engine, against a sort, and against the plain loop. Equal answers, and how fast."""

from __future__ import annotations

import pytest
from cases import (
    MEMORY,
    Case,
    churning,
    lmsys,
    numbers,
    plain_numbers,
    policy_case,
    small_cases,
    yardstick_a,
    yardstick_b,
)

import llmsched as ls

SMALL = small_cases()


def arriving(policy: str) -> Case:
    workload = ls.generate.poisson(lmsys(256).with_intervals(ls.intervals.buckets(100)), rate=0.5, seed=1)
    return Case(f"{policy}, arriving, n=256", workload, policy, MEMORY // 4)


AGAINST_REFERENCE = [
    *(policy_case(policy, 256) for policy in ("hsf", "amax", "amin")),
    *(arriving(policy) for policy in ("amin", "aell", "fcfs")),
    churning(50),
]


@pytest.mark.benchmark(group="against the reference engine")
@pytest.mark.parametrize("case", AGAINST_REFERENCE, ids=str)
def test_core_equals_reference(case, against):
    def reference():
        return case.simulate("reference")

    result = against(case.simulate, {"reference": reference})
    assert numbers(result) == numbers(reference())


@pytest.mark.benchmark(group="against the plain loop")
@pytest.mark.parametrize("case", [*SMALL, churning(500), policy_case("amin", 10_000)], ids=str)
def test_core_equals_plain_loop(case, plain, against):
    """Both versions of the loop; the one that adds everybody up for each point is left out where it takes long."""
    loops = {"B, sweeping": yardstick_b(case, sweep=True)}
    if len(case.workload) <= 1024:
        loops["B"] = yardstick_b(case)
    result = against(case.simulate, loops)
    for loop in loops.values():
        assert plain_numbers(loop()) == numbers(result)


@pytest.mark.parametrize("case", [c for c in AGAINST_REFERENCE if "arriving" not in c.name], ids=str)
@pytest.mark.parametrize("sweep", [False, True])
def test_plain_loop_equals_reference(case, sweep, plain):
    assert plain_numbers(yardstick_b(case, sweep)()) == numbers(case.simulate("reference"))


def test_plain_loop_refuses_what_it_does_not_know(plain):
    workload = policy_case("amin", 10).workload
    for policy in ("fcfs", "aell", "clearing"):
        with pytest.raises(ValueError, match="plain loop"):
            yardstick_b(Case("", workload, policy))()


@pytest.mark.benchmark(group="against one sort")
@pytest.mark.parametrize("policy", ["hsf", "amin"])
@pytest.mark.parametrize("n", [10_000, 1_000_000])
def test_core_against_one_sort(policy, n, against):
    case = policy_case(policy, n)
    result = against(case.simulate, {"A": yardstick_a(case)})
    if policy == "hsf":  # it serves the shortest first: starts ascend with the lengths
        in_order = result.start[yardstick_a(case)()]
        shortest_first = case.workload.output[yardstick_a(case)()]
        longer = shortest_first[1:] > shortest_first[:-1]
        assert (in_order[1:][longer] >= in_order[:-1][longer]).all()
    assert result.peak_memory <= case.memory
    assert (result.completion >= result.start + case.workload.output).all()
