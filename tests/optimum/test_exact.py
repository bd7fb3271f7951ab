"""The exact optimum: that of trying everything, and of an independent integer program."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from helpers.examples import examples
from helpers.exhaustive import least_total, tiny
from hypothesis import given

import llmsched as ls
from llmsched.optimum.exact import optimal
from llmsched.optimum.lower_bounds import lower_bound
from llmsched.optimum.planner import best_known

pytest.importorskip("highspy", reason="the exact optimum needs highspy (the extra 'optimum')")


def random_instance(n, seed):
    rng = np.random.default_rng([n, seed])
    memory = int(rng.integers(30, 61))
    return ls.Workload(rng.integers(0, 6, n), rng.integers(1, 21, n)), memory


@examples(80)
@given(tiny(requests=5))
def test_the_optimum_is_that_of_trying_everything(instance):
    workload, memory = instance
    found = optimal(workload, memory=memory, time_limit=None)
    assert found.proven
    assert found.gap == 0
    assert found.total_latency == found.lower_bound == least_total(workload, memory)


@pytest.mark.parametrize("seed", range(3))
def test_the_integer_program_agrees(seed):
    workload, memory = random_instance(8, seed)
    searched, programmed = (
        optimal(workload, memory=memory, time_limit=None, solver=name) for name in ("search", "highs")
    )
    assert searched.proven
    assert programmed.proven
    assert searched.total_latency == programmed.total_latency


@pytest.mark.parametrize("seed", range(4))
def test_bound_optimum_and_plan_are_in_order(seed):
    workload, memory = random_instance(10, seed)
    found = optimal(workload, memory=memory, time_limit=None)
    plan = best_known(workload, memory=memory, time_limit=None, iterations=50)
    assert lower_bound(workload, memory=memory).value <= found.total_latency <= plan.total_latency
    assert found.check().replay().peak_memory == found.peak_memory
    assert found.total_latency <= ls.simulate(workload, "hsf", memory=memory).total_latency


def test_it_repeats():
    workload, memory = random_instance(10, 2)
    one, two = (optimal(workload, memory=memory, time_limit=None) for _ in range(2))
    assert np.array_equal(one.start, two.start)
    assert one.effort == two.effort


@pytest.mark.parametrize("solver", ["search", "highs"])
def test_when_time_is_up_the_bound_still_holds(solver):
    workload, memory = random_instance(14, 2)
    found = optimal(workload, memory=memory, time_limit=0, solver=solver)
    assert not found.proven
    assert found.gap > 0
    assert "above optimal" in repr(found)
    assert found.lower_bound <= optimal(workload, memory=memory, time_limit=None).total_latency <= found.total_latency


def test_waiting_for_a_request_that_is_still_to_come_can_be_right():
    """A long request and one round later three short ones that do not fit beside it: idling pays."""
    workload = ls.Workload([4, 0, 0, 0], [6, 1, 1, 1], arrival=[0, 1, 1, 1])
    found = optimal(workload, memory=10, time_limit=None)
    assert found.total_latency == least_total(workload, 10)
    workload = ls.Workload([0, 5, 5], [10, 1, 1], arrival=[0, 1, 1])
    found = optimal(workload, memory=12, time_limit=None)
    assert found.total_latency == least_total(workload, 12)


def test_the_papers_example():
    """model.md, example 2 (EC.1): s=1, o=(1,2,3,4), M=7."""
    found = optimal(ls.Workload([1] * 4, [1, 2, 3, 4]), memory=7, time_limit=None)
    assert found.total_latency == 12


def test_fractional_arrivals_are_moved_to_the_grid_of_the_first():
    workload = ls.Workload([0, 0], [3, 3], arrival=[0.25, 0.5])
    found = optimal(workload, memory=3, time_limit=None)
    assert found.start.tolist() == [0.25, 3.25]
    assert found.proven


def test_no_requests_are_optimal():
    assert optimal(ls.Workload([], []), memory=3).proven


def test_too_many_requests_are_refused_with_an_alternative():
    with pytest.raises(ls.errors.InputError, match=r"at most 50 requests, not 51.*lower_bound"):
        optimal(ls.Workload([0] * 51, 1), memory=10)


def test_too_long_instances_are_refused_with_an_alternative():
    with pytest.raises(ls.errors.InputError, match=r"all output tokens × makespan.*best_known"):
        optimal(ls.Workload([0] * 10, 2000), memory=2000)
    with pytest.raises(ls.errors.InputError, match=r"arrivals within 100000 rounds"):
        optimal(ls.Workload([0] * 2, 1, arrival=[0, 1e6]), memory=10)


def test_a_cache_too_large_to_fill_counts_as_what_can_be_filled():
    assert optimal(ls.Workload([3, 4], [2, 1]), memory=2**52).total_latency == 3
    with pytest.raises(ls.errors.InputError, match=r"caches of up to 1,073,741,824 tokens, not 2,000,000,002.*lower"):
        optimal(ls.Workload([10**9] * 2, [1, 1]), memory=2**52)


def test_instances_that_can_never_finish_are_refused():
    with pytest.raises(ls.errors.MemoryTooSmallError, match="request 1"):
        optimal(ls.Workload([1, 4], [1, 5]), memory=8)


def test_arguments_that_make_no_sense_are_refused():
    workload = ls.Workload([1], [1])
    with pytest.raises(ls.errors.InputError, match="did you mean 'highs'"):
        optimal(workload, memory=5, solver="high")
    with pytest.raises(ls.errors.InputError, match="time_limit"):
        optimal(workload, memory=5, time_limit=-1)
    with pytest.raises(ls.errors.InputError, match="Workload"):
        optimal("workload", memory=5)


def test_a_missing_solver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(ls.errors.MissingExtraError, match=r"llmsched\[optimum\]") as caught:
        optimal(ls.Workload([1], [1]), memory=5)
    assert caught.value.extra == "optimum"


@pytest.mark.parametrize("solver", ["search", "highs"])
def test_nothing_is_printed_by_the_solver(solver):
    workload, memory = random_instance(8, 0)
    code = f"""
import llmsched as ls
workload = ls.Workload({workload.prompt.tolist()}, {workload.output.tolist()})
ls.optimal(workload, memory={memory}, solver={solver!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (["solver", "-n", "6", "--instances", "2"], "2 of 2 proven"),
        (["solver", "-n", "6", "--instances", "2", "--method", "highs", "--cpu"], "2 of 2 proven"),
        (["cuts", "-n", "6", "--instances", "1"], "with cuts"),
        (["study", "-n", "5", "-n", "0", "--instances", "1"], "over time 40-60"),
    ],
)
def test_the_measurements_of_the_documentation_run(what, expected):
    script = ROOT / "examples" / "hindsight_optimum.py"
    done = subprocess.run(
        [sys.executable, str(script), *what], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_the_traces_of_the_documentation_run(tmp_path):
    script = ROOT / "examples" / "hindsight_optimum.py"
    file = tmp_path / "t.csv"
    file.write_text("prompt_tokens,output_tokens\n" + "3,5\n" * 10)
    arguments = [sys.executable, str(script), "traces", str(file), "--memory", "20", "--seconds", "0.1"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("t.csv, 10 requests, M = 20: bound ")
