"""A score card has the numbers of `ls.compare`, and of `run` for the scheduler itself."""

from __future__ import annotations

import json
import math

import pytest

import llmsched as ls
from llmsched.testing import Case, Decision, State

CASES = {
    "rounds": Case(ls.generate.lmsys(60).with_intervals(ls.intervals.buckets(100)), 800),
    "seconds": Case(
        ls.generate.poisson(ls.generate.lmsys(40, 1), 5, 0).with_intervals(ls.intervals.buckets(100)),
        512,
        clock="llama2-70b-2xa100",
        block=16,
    ),
}


def fcfs(state: State) -> Decision:
    admit, batch, evict, need = [], list(state.running), [], state.need
    while need > state.memory:
        evict.append(batch.pop())
        need -= evict[-1].tokens
    for request in state.waiting:
        need += request.tokens
        if need > state.memory:
            break
        admit.append(request)
    return Decision(tuple(admit), tuple(evict))


@pytest.fixture(scope="module")
def card() -> ls.testing.ScoreCard:
    return ls.testing.score(fcfs, against=("amin", "fcfs"), workloads=CASES, resume="recompute")


def test_rows_of_policies_are_those_of_compare(card: ls.testing.ScoreCard) -> None:
    for title, case in CASES.items():
        compared = ls.compare(case.workload, ["amin", "fcfs"], **case.machine())
        for policy in ("amin", "fcfs"):
            (row,) = (row for row in card.rows if (row["workload"], row["scheduler"]) == (title, policy))
            record = compared[policy].record()
            for name in ("mean_latency", "p99_latency", "ratio", "gap", "evictions", "wasted_share"):
                assert row[name] == record[name]
            assert row["decisions"] is None


@pytest.mark.parametrize("title", CASES)
def test_the_row_of_the_scheduler_is_that_of_its_run(card: ls.testing.ScoreCard, title: str) -> None:
    case = CASES[title]
    (row,) = (row for row in card.rows if (row["workload"], row["scheduler"]) == (title, "fcfs (own)"))
    result = ls.testing.run(fcfs, case.workload, **case.machine(), resume="recompute")
    hsf = ls.simulate(case.workload, "hsf", **case.machine())
    bound = ls.lower_bound(case.workload, memory=case.memory, clock=case.clock, iterations=0)
    assert row["mean_latency"] == result.mean_latency
    assert row["ratio"] == result.mean_latency / hsf.mean_latency
    assert row["gap"] == bound.gap(result.total_latency, "amin-recompute") > 0
    assert {name: row[name] for name in ("decisions", "requests_looked_at")} == {
        name: result.work[name] for name in ("decisions", "requests_looked_at")
    }
    assert row["unit"] == title


def test_it_shows_itself_as_text_html_and_plain_values(card: ls.testing.ScoreCard) -> None:
    lines = repr(card).splitlines()
    assert len(lines) == 1 + len(card.rows) + 1
    assert lines[0].split()[:2] == ["workload", "scheduler"]
    assert lines[-1].startswith("geometric mean vs hsf: ")
    assert card._repr_html_().count("<tr>") == 1 + len(card.rows)
    plain = card.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert list(card.columns()) == list(card.rows[0])


def test_ratios_are_geometric_means_best_first(card: ls.testing.ScoreCard) -> None:
    of_amin = [row["ratio"] for row in card.rows if row["scheduler"] == "amin"]
    assert card.ratios["amin"] == pytest.approx(math.sqrt(of_amin[0] * of_amin[1]))
    assert list(card.ratios.values()) == sorted(card.ratios.values())


def test_one_that_does_not_finish_says_so_in_its_row() -> None:
    def in_turns(state: State) -> Decision:
        return Decision((state.waiting[0],) if state.waiting else (), tuple(state.running) if state.waiting else ())

    workloads = {"two": Case(ls.Workload([1, 1], [5, 5], [5, 5], [5, 5]), 9)}
    card = ls.testing.score(in_turns, against="amin", workloads=workloads, label="<turns>")
    assert card.rows[0]["mean_latency"] is None
    assert "<turns> stopped at round" in card.rows[0]["error"]
    assert card.rows[0]["error"] in repr(card)
    assert list(card.ratios) == ["amin", "<turns>"]
    assert card.to_dict()["ratios"]["<turns>"] is None
    assert "&lt;turns&gt;" in card._repr_html_()
    assert "<turns>" not in card._repr_html_()


def test_an_empty_workload_has_no_numbers() -> None:
    card = ls.testing.score(fcfs, workloads={"none": Case(ls.Workload([], [], [], []), 9)})
    assert {row["ratio"] for row in card.rows} == {None}
    assert ls.testing.score(fcfs, workloads={}).ratios == {}
