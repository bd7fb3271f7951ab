"""adversarial_search: deterministic, honest about what it found, and better than where it starts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import llmsched as ls
from llmsched import errors
from llmsched.experiments.adversarial import Adversary, adversarial_search


@pytest.fixture(scope="module")
def found() -> Adversary:
    return adversarial_search("amin", (10, 40), memory=400, budget=120, seed=1, most=200, repeats=2)


def same(one: Adversary, other: Adversary) -> bool:
    return one.workload == other.workload and (one.ratio, one.history) == (other.ratio, other.history)


def test_the_same_seed_finds_the_same_for_any_number_of_threads(found: Adversary) -> None:
    again = adversarial_search("amin", (10, 40), memory=400, budget=120, seed=1, most=200, repeats=2, threads=3)
    assert same(found, again)
    other = adversarial_search("amin", (10, 40), memory=400, budget=120, seed=2, most=200, repeats=2)
    assert not same(found, other)


def test_what_is_reported_is_what_simulate_says(found: Adversary) -> None:
    w = found.workload
    hindsight = ls.simulate(w, "hsf", memory=400).total_latency
    ratios = [ls.simulate(w, "amin", memory=400, seed=seed).total_latency / hindsight for seed in range(20)]
    assert found.ratio == pytest.approx(np.mean(ratios))
    assert 0 < found.ratio_ci95 < 0.2
    assert dict(zip(found.lengths, found.counts, strict=True)) == dict(
        zip(*np.unique(w.output, return_counts=True), strict=True)
    )
    assert (found.policy, found.against, found.memory, found.unfinished) == (ls.policies["amin"], "hsf", 400, 0)
    assert "Adversary(amin / hsf = " in repr(found)


def test_the_instance_keeps_to_what_was_asked(found: Adversary) -> None:
    w = found.workload
    assert len(w) <= 200
    assert w.output.min() >= 10
    assert w.output.max() <= 40
    assert set(w.lower.tolist()) == {10}
    assert set(w.upper.tolist()) == {40}
    assert not w.arrival.any()
    assert not w.prompt.any()
    assert adversarial_search("amax", (2, 4), memory=40, budget=5, prompt=7).workload.prompt.tolist()[0] == 7


def test_the_history_rises_from_the_starts_within_the_budget(found: Adversary) -> None:
    ratios = [step.ratio for step in found.history]
    assert ratios == sorted(set(ratios))
    assert found.tried == 120
    assert [step.tried for step in found.history] == sorted({step.tried for step in found.history})
    assert found.history[-1].requests == len(found.workload)
    starts = adversarial_search("amin", (10, 40), memory=400, budget=40, seed=1, most=200, repeats=2)
    assert starts.history[-1].ratio < found.history[-1].ratio  # climbing pays


def test_theorem_2s_instance_is_the_first_start() -> None:
    found = adversarial_search("amax", (10, 40), memory=400, budget=1, most=1000)
    assert found.tried == 1
    assert found.history[0].origin.startswith("Theorem 2, r=2.58")
    assert found.lengths.tolist() == [10, 40]
    assert found.counts[0] / found.counts[1] == pytest.approx(2.58 * 4, rel=0.01)  # a*upper to b*lower, r = a/b


def test_progress_counts_instances() -> None:
    seen: list[tuple[int, int]] = []
    adversarial_search("amax", (2, 6), memory=24, budget=20, most=30, progress=lambda *what: seen.append(what))
    assert seen == sorted(seen)
    assert seen[-1] == (20, 20)


def test_a_policy_of_ones_own_and_another_baseline() -> None:
    mine = dataclasses.replace(ls.policies["amin"], refine="double")
    found = adversarial_search(mine, (2, 6), memory=24, budget=20, most=30, against="svf")
    assert found.policy == mine
    assert found.against == "svf"


def test_one_length_one_request_and_exact_intervals() -> None:
    found = adversarial_search("amin", (3, 3), memory=10, budget=12, most=1)
    assert (found.lengths.tolist(), found.counts.tolist(), found.ratio, found.ratio_ci95) == ([3], [1], 1.0, 0.0)


def test_instances_on_which_the_policy_does_not_finish_count_for_nothing() -> None:
    found = adversarial_search("protection", (5, 10), memory=20, budget=30, most=12)
    assert 0 < found.unfinished < found.tried
    assert np.isfinite(found.ratio)
    stuck = dataclasses.replace(ls.policies["protection"], margin=0.0)
    with pytest.raises(errors.NotFinishedError):
        adversarial_search(stuck, (10, 10), memory=20, budget=1, most=4)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"policy": "amon"}, errors.PolicyError, "amin"),
        ({"against": "optimal"}, errors.PolicyError, "no policy 'optimal'"),
        ({"against": ls.policies["hsf"]}, errors.PolicyError, "name of a policy"),
        ({"interval": (40, 10)}, errors.InputError, "expected lower <= upper"),
        ({"interval": (0, 10)}, errors.InputError, "lower must be"),
        ({"interval": 10}, errors.InputError, "pair"),
        ({"interval": (1, 10**7)}, errors.InputError, "narrow it"),
        ({"memory": 39}, errors.MemoryTooSmallError, "need 40 tokens of cache, not 39"),
        ({"memory": 49, "prompt": 10}, errors.MemoryTooSmallError, "need 50"),
        ({"memory": 0}, errors.InputError, "memory must be"),
        ({"budget": 0}, errors.InputError, "budget must be"),
        ({"seed": -1}, errors.InputError, "seed must be"),
        ({"most": 0}, errors.InputError, "most must be"),
        ({"repeats": 0}, errors.InputError, "repeats must be"),
        ({"threads": 0}, errors.InputError, "threads must be"),
        ({"prompt": -1}, errors.InputError, "prompt must be"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], kind: type[Exception], message: str) -> None:
    arguments = {"policy": "amin", "interval": (10, 40), "memory": 400, "budget": 8, "most": 20} | change
    with pytest.raises(kind, match=message):
        adversarial_search(**arguments)


def test_against_the_optimum_the_ratio_is_bracketed() -> None:
    """`hsf` on equal requests: synchronous waves, where staggered starts are far better (theory.md)."""
    found = adversarial_search("hsf", (5, 10), memory=40, budget=12, most=60, against="optimum")
    w = found.workload
    total = ls.simulate(w, "hsf", memory=40).total_latency
    best = ls.best_known(w, memory=40, time_limit=None, iterations=1000).total_latency
    assert found.against == "optimum"
    assert 1.3 < found.ratio <= found.ratio_at_most
    assert found.ratio <= total / best + 1e-9  # what it says of the optimum is true, and a longer search finds more
    assert total / ls.lower_bound(w, memory=40).value == pytest.approx(found.ratio_at_most)
    assert same(found, adversarial_search("hsf", (5, 10), memory=40, budget=12, most=60, against="optimum", threads=2))


def test_against_the_optimum_tiny_instances_are_exact() -> None:
    found = adversarial_search("hsf", (1, 4), memory=6, budget=30, most=5, against="optimum")
    total = ls.simulate(found.workload, "hsf", memory=6).total_latency
    optimum = ls.optimal(found.workload, memory=6, time_limit=None)
    assert optimum.proven
    assert found.ratio <= total / optimum.total_latency <= found.ratio_at_most
