"""The schedulers keep the rules, are as good as they should be, and have no more to do than they had."""

import importlib.util

import pytest
from own_scheduler import adaptive_minimum, first_come

import llmsched as ls

SCHEDULERS = [first_come, adaptive_minimum]
if importlib.util.find_spec("fast"):  # built with: pip install -e .
    import fast

    SCHEDULERS.append(fast.first_come)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_it_keeps_the_rules(scheduler):
    workloads = {name: ls.testing.STANDARD[name] for name in ("at once", "on a machine")}
    ls.testing.check(scheduler, workloads=workloads, random_workloads=50)


def test_first_come_does_what_the_policy_fcfs_does():
    for case in ls.testing.STANDARD.values():
        mine = ls.testing.run(first_come, case.workload, **case.machine(), resume="recompute")
        theirs = ls.simulate(case.workload, "fcfs", **case.machine())
        assert mine.completion.tolist() == theirs.completion.tolist()


def test_adaptive_minimum_does_what_amin_does_with_equals_by_admission():
    case = ls.testing.STANDARD["arriving"]
    mine = ls.testing.run(adaptive_minimum, case.workload, **case.machine(), seed=None)
    theirs = ls.simulate(case.workload, ls.Policy(evict="1 * bound"), **case.machine(), seed=None)
    assert mine.completion.tolist() == theirs.completion.tolist()


def test_predictions_pay_where_all_are_there_at_once():
    case = {"at once": ls.testing.STANDARD["at once"]}
    card = ls.testing.score(adaptive_minimum, against=("vllm", "amax"), workloads=case)
    assert next(iter(card.ratios)) == "adaptive_minimum"


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_it_has_no_more_to_do_than_it_had(scheduler, scheduler_benchmark):
    results = scheduler_benchmark(scheduler)
    assert all(result.peak_share <= 1 for result in results.values())
