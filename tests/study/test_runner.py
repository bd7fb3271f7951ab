"""Studies that run: the same table whatever does the work, in whatever order, and whatever happens in between."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from helpers.examples import examples
from helpers.study_results import wait_for, written
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import DamagedResultsError, InputError, StudyError
from llmsched.study import Study, failures, results, runner, store, work_list
from llmsched.study.worker import WorkUnit, simulate_unit

STUDY = Study(
    workloads=[
        {"generator": "lmsys", "requests": 60},
        {"name": "bursts", "generator": "lmsys", "requests": 40, "rate": 1, "cv": 3},
    ],
    policies=["hsf", "amin", "mcsf", {"name": "mine", "base": "amin", "refine": "double"}],
    intervals=["buckets:100", "noisy:0.9,0.5"],
    memories=[1500, 3000],
    metrics=["mean_latency", "p90_latency", "evictions", "wasted_share", "peak_share"],
    replications=8,
    seed=11,
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The table of an uninterrupted run."""
    out = tmp_path_factory.mktemp("plain") / "out"
    status = STUDY.run(out, workers=1)
    assert (status.done, status.failed, status.total) == (256, 0, 256)
    return results(out)


# The rows -------------------------------------------------------------------------------------------------------------


def test_every_row_is_what_simulate_says(plain):
    assert plain.column_names == ["workload", "intervals", "policy", "memory", "replication", "seed", *STUDY.metrics]
    assert all(plain.schema.field(name).type == pa.float64() for name in STUDY.metrics)
    rows = plain.to_pylist()
    assert len({tuple(row.values())[:5] for row in rows}) == len(rows) == 256
    for row in rows[::5]:
        cell = {factor: row[factor] for factor in ("workload", "intervals", "policy", "memory")}
        result = STUDY.simulate(row["replication"], **cell)
        summary = result.summary()
        assert result.seed == row["seed"]
        assert {name: row[name] for name in STUDY.metrics} == pytest.approx(
            {n: summary[n] for n in STUDY.metrics}, rel=1e-15
        )
        for name in ("mean_latency", "evictions", "peak_share"):
            assert row[name] == summary[name]


def test_all_policies_see_the_same_requests_intervals_and_ranks(plain):
    seeds = {(row["replication"], row["seed"]) for row in plain.to_pylist()}
    assert len(seeds) == 8
    a = STUDY.simulate(3, workload="bursts", intervals="noisy:0.9,0.5", policy="amin", memory=1500)
    b = STUDY.simulate(3, workload="bursts", intervals="noisy:0.9,0.5", policy="mine", memory=3000)
    c = STUDY.simulate(4, workload="bursts", intervals="noisy:0.9,0.5", policy="mine", memory=3000)
    assert a.workload == b.workload
    assert a.workload != c.workload
    assert not np.array_equal(a.workload.lower - a.workload.output, c.workload.lower - c.workload.output)


def test_a_study_runs_without_loading_scipy(tmp_path):
    """Its import takes longer than a small study."""
    code = (
        "import sys; from llmsched.study import Study; "
        "study = Study(workloads=[{'generator': 'lmsys', 'requests': 20}], policies=['amin'], replications=3); "
        "study.run('out'); assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_half_widths_while_a_study_runs_are_those_of_student():
    degrees = np.arange(-1.0, 300)
    expected = [math.nan, math.nan, *scipy.stats.t.ppf(0.975, degrees[2:])]
    np.testing.assert_allclose(work_list._t95(degrees), expected, rtol=2e-6)


def test_a_replication_is_the_child_of_its_index():
    child = np.random.SeedSequence(11).spawn(6)[5]
    assert STUDY.simulate(5, workload="lmsys", intervals="buckets:100", policy="hsf", memory=1500).seed == int(
        child.generate_state(1, np.uint64)[0]
    )


def test_a_policy_without_predictions_has_one_row_for_all_settings(plain):
    rows = {
        tuple(row[f] for f in ("workload", "policy", "memory", "replication", "intervals")): row
        for row in plain.to_pylist()
    }
    for (*rest, setting), row in rows.items():
        if row["policy"] == "hsf" and setting == "buckets:100":
            assert row["mean_latency"] == rows[(*rest, "noisy:0.9,0.5")]["mean_latency"]


@given(st.data())
@examples(15)
def test_any_piece_of_the_work_gives_the_rows_of_the_whole(data):
    plan = STUDY.plan()
    cells = np.array([k for k, cell in enumerate(plan.cells) if cell.workload == 1])
    whole = simulate_unit(WorkUnit(plan, 1, cells, np.arange(4), np.ones((4, len(cells)), bool)))
    some = sorted(data.draw(st.sets(st.sampled_from(cells.tolist()), min_size=1)))
    replications = np.array(data.draw(st.permutations(range(4))))[: data.draw(st.integers(1, 4))]
    wanted = np.array(
        data.draw(
            st.lists(
                st.lists(st.booleans(), min_size=len(some), max_size=len(some)),
                min_size=len(replications),
                max_size=len(replications),
            )
        )
    )
    part = simulate_unit(WorkUnit(plan, 1, np.array(some), replications, wanted))
    known = {
        (c, r): v
        for c, r, v in zip(whole.cell.tolist(), whole.replication.tolist(), whole.values.T.tolist(), strict=True)
    }
    found = {
        (c, r): v for c, r, v in zip(part.cell.tolist(), part.replication.tolist(), part.values.T.tolist(), strict=True)
    }
    assert found.keys() == {
        (c, r)
        for row, r in zip(wanted, replications.tolist(), strict=True)
        for c, w in zip(some, row, strict=True)
        if w
    }
    assert all(known[key] == value for key, value in found.items())


def test_all_options_of_simulate_reach_the_simulation():
    options = {"max_batch": 7, "block": 16, "prefill_budget": 64}
    study = Study(workloads=["lmsys"], policies=["vllm"], intervals=["noisy:0.9,0.5,3,0.2"], replications=1, **options)
    result = study.simulate(0)
    assert {name: getattr(result, name) for name in options} == options
    done = simulate_unit(WorkUnit(study.plan(), 0, np.arange(1), np.arange(1), np.ones((1, 1), bool)))
    assert done.values[study.metrics.index("mean_latency"), 0] == result.mean_latency
    assert done.values[study.metrics.index("peak_share"), 0] == result.peak_share


@pytest.mark.parametrize("more", [[], ["goodput"]])
@pytest.mark.parametrize(("clock", "rate"), [(None, 0.5), ("llama2-70b-2xa100", 10)])
def test_the_gap_is_that_of_compare(tmp_path, more, clock, rate):
    """Of a trace taken whole, replications share their lengths and differ in when they arrive: so do their bounds."""
    ls.traces.write(ls.generate.lmsys(40, seed=2), tmp_path / "t.csv")
    axes: dict = {"workloads": [{"trace": "t.csv", "sample": "whole", "rate": rate}], "memories": [1500]}
    service = {"service": {"slo": {"ttft": 5}}} if more else {}
    axes |= {"clocks": [clock] if clock else [], "metrics": ["gap", *more], "replications": 3}
    study = Study(**axes, **service, policies=["hsf", "amin", "fcfs"])
    study.run(tmp_path / "out", traces=tmp_path)
    rows = results(tmp_path / "out").to_pylist()
    assert len(rows) == 9
    for row in rows:
        cell = {factor: row[factor] for factor in ("workload", "intervals", "policy", "memory")}
        result = study.simulate(row["replication"], traces=tmp_path, **cell)
        bound = ls.lower_bound(result.workload, memory=1500, iterations=0, clock=clock)
        assert row["gap"] == bound.gap(result.total_latency, result.policy)
    assert len({row["gap"] for row in rows}) == 9


ENERGY = {
    "workloads": [{"generator": "lmsys", "requests": 30, "rate": 10}],
    "policies": ["fcfs", "amin"],
    "memories": [1500],
    "clocks": ["llama2-70b-2xa100", "llama2-70b-8xh100"],
    "metrics": ["energy_total", "energy_wasted_share", "gap", "mean_latency"],
    "replications": 2,
}


@pytest.mark.parametrize(
    ("power", "model"),
    [
        ("example-2xa100", ls.energy.powers["example-2xa100"]),
        ({"idle": 100, "busy": 300, "per_token": 2.5}, ls.energy.Power(100, 0.0, 2.5, 300)),
        ({"idle": 100, "per_request": 50, "limit": 250}, ls.energy.Power(100, 50, limit=250)),
    ],
)
def test_joules_in_a_study_are_those_of_the_run_alone(tmp_path, power, model):
    study = Study.from_dict({**ENERGY, "power": power})
    study.run(tmp_path / "out")
    rows = results(tmp_path / "out").to_pylist()
    assert len(rows) == 8
    for row in rows:
        cell = {factor: row[factor] for factor in ("policy", "clock")}
        result = study.simulate(row["replication"], **cell)
        spent = ls.energy.metrics(result, model)
        assert row["energy_total"] == spent.total > 0
        assert row["energy_wasted_share"] == spent.wasted_share
        assert row["mean_latency"] == result.mean_latency
    again = {**ENERGY, "power": {"idle": 1}}
    with pytest.raises(StudyError, match="power was"):
        Study.from_dict(again).run(tmp_path / "out")


def test_service_metrics_and_clocks():
    study = Study(
        workloads=[{"generator": "lmsys", "requests": 30, "rate": 2}],
        policies=["fcfs", "amin"],
        memories=[3000],
        clocks=["llama2-70b-2xa100", "llama2-70b-8xh100"],
        metrics=["ttft_p99", "goodput", "mean_latency", "p50_latency", "peak_share"],
        service={"slo": {"ttft": 0.5}},
        replications=2,
    )
    plan = study.plan()
    done = simulate_unit(WorkUnit(plan, 0, np.arange(4), np.arange(2), np.ones((2, 4), bool)))
    assert plan.factors[-1] == "clock"
    for k in range(len(done.cell)):
        labels = plan.labels(plan.cells[done.cell[k]])
        result = study.simulate(int(done.replication[k]), **labels)
        service = ls.service.metrics(result, {"ttft": 0.5})
        expected = [
            service.percentile("ttft", 99),
            service.goodput,
            result.mean_latency,
            result.percentile(50),
            result.peak_share,
        ]
        assert done.values[:, k].tolist() == expected


@pytest.mark.parametrize("more", [[], ["ttft_p99"], ["gap"]])  # in batches, one by one, with bounds
def test_rows_of_all_factors_are_what_simulate_says(tmp_path, more):
    (tmp_path / "mine.toml").write_text('clock = "llama2-70b-8xh100"\nmemory = 2500\nblock = 16\nmax_batch = 8\n')
    workload = {"name": "a", "generator": "lmsys", "requests": 25, "rate": [5, 40]}
    study = Study(
        workloads=[workload],
        policies=["amin", "vllm"],
        machines=["llama2-70b-2xa100", "mine.toml"],
        max_batch=[4, "none"],
        prefill_budget=[64, 512],
        metrics=["mean_latency", "evictions", "peak_share", *more],
        replications=2,
    )
    study.run(tmp_path / "out", traces=tmp_path, workers=1)
    rows = results(tmp_path / "out").to_pylist()
    assert len(rows) == 2**6
    factors = ("policy", "machine", "rate", "max_batch", "prefill_budget")
    assert len({tuple(row[f] for f in (*factors, "replication")) for row in rows}) == len(rows)
    assert len({row["mean_latency"] for row in rows}) > 32
    for row in rows[::3]:
        result = study.simulate(row["replication"], traces=tmp_path, **{f: row[f] for f in factors})
        assert (result.max_batch, result.prefill_budget) == (row["max_batch"], row["prefill_budget"])
        assert (result.memory, result.block) == {"mine.toml": (2496, 16)}.get(row["machine"], (16_492, 1))
        for name in ("mean_latency", "evictions", "peak_share"):
            assert row[name] == result.summary()[name]
    grown = study.replace(max_batch=[4, "none", 2], workloads=[{**workload, "rate": [5, 40, 10]}])
    status = grown.run(tmp_path / "out", traces=tmp_path, workers=1, extend=True)
    assert (status.before, status.done) == (2**6, 2**6 * 9 // 4)
    with pytest.raises(StudyError, match="max_batch lost none"):
        study.replace(max_batch=[4, 3]).run(tmp_path / "out", traces=tmp_path, workers=1, extend=True)


@pytest.mark.parametrize("given", [True, {"batches": 10, "method": "overlapping", "last": 0.25}])
def test_the_steady_state_is_that_of_the_run_alone(given):
    workload = {"generator": "lmsys", "requests": 400, "rate": 0.5}
    axes = {"workloads": [workload], "policies": ["fcfs", "amin"], "memories": [3000], "replications": 2}
    study = Study.from_dict({**axes, "metrics": ["mean_latency", "ttft_mean"], "steady_state": given})
    names = ("steady_latency", "steady_half", "steady_dropped", "steady_doubts")
    assert study.metrics == ("mean_latency", "ttft_mean", *names)
    options = {"last": 0.1} if given is True else dict(given)
    last = int(options.pop("last") * 400)
    done = simulate_unit(WorkUnit(study.plan(), 0, np.arange(2), np.arange(2), np.ones((2, 2), bool)))
    for k, (cell, replication) in enumerate(zip(done.cell.tolist(), done.replication.tolist(), strict=True)):
        result = study.simulate(replication, policy=("fcfs", "amin")[cell])
        found = ls.steady_state.estimate(ls.steady_state.latencies(result)[: 400 - last], **options)
        arrival = np.sort(result.workload.arrival)
        service = ls.service.metrics(result, warmup=float(arrival[found.dropped] - arrival[0]))
        half = (found.high - found.low) / 2
        expected = [found.mean, half, found.dropped, len(found.doubts)]
        assert done.values[:, k].tolist() == [result.mean_latency, service.statistic("ttft", "mean"), *expected]


def test_a_run_too_short_for_a_steady_state_fails_and_says_why():
    study = Study(workloads=[{"generator": "lmsys", "requests": 40}], policies=["fcfs"], steady_state=True)
    done = simulate_unit(WorkUnit(study.plan(), 0, np.arange(1), np.arange(1), np.ones((1, 1), bool)))
    assert "36 values are too few: 80 are the least" in done.failures[0].message


def test_rates_share_their_requests_and_the_shape_of_their_arrivals():
    workload = {"generator": "lmsys", "requests": 30, "rate": [1, 4], "cv": 3}
    study = Study(workloads=[workload], policies=["amin"], intervals=["noisy:0.9,0.5"])
    slow, fast = (study.simulate(2, rate=rate).workload for rate in (1, 4))
    assert np.array_equal(slow.prompt, fast.prompt)
    assert np.array_equal(slow.upper, fast.upper)
    assert slow.arrival.max() > fast.arrival.max()


@pytest.mark.parametrize("metric", ["mean_latency", "ttft_p99"])  # in batches, and one by one for service metrics
def test_chunked_prefill_and_priorities_from_a_trace(tmp_path, metric):
    w = ls.generate.lmsys(40, 1)
    ls.traces.write(w.replace(priority=w.prompt % 2), tmp_path / "w.csv")
    axes = {"workloads": [{"name": "w", "trace": str(tmp_path / "w.csv")}], "memories": [3000]}
    study = Study(**axes, policies=["vllm-priority"], prefill_budget=32, metrics=[metric], replications=1)
    plan = study.plan()
    done = simulate_unit(WorkUnit(plan, 0, np.arange(1), np.arange(1), np.ones((1, 1), bool)), plan.read["w"])
    result = study.simulate(0, **plan.labels(plan.cells[0]))
    assert result.prefill_budget == 32
    alone = ls.service.metrics(result).percentile("ttft", 99) if metric == "ttft_p99" else result.mean_latency
    assert done.values.tolist() == [[alone]]


def test_a_policy_that_reads_a_table_of_lengths_gets_that_of_the_requests():
    axes = {"workloads": [{"name": "w", "generator": "lmsys", "requests": 60}], "memories": [3000]}
    study = Study(**axes, policies=["conditional", "past-future"], metrics=["mean_latency"], replications=1)
    plan = study.plan()
    done = simulate_unit(WorkUnit(plan, 0, np.arange(2), np.arange(1), np.ones((1, 2), bool)))
    for k, cell in enumerate(plan.cells):
        result = study.simulate(0, **plan.labels(cell))
        assert done.values[0][k] == result.mean_latency
        if result.workload.lengths is not None:
            assert result.policy.name == "conditional"
            assert result.workload.lengths == ls.LengthTable.from_outputs(result.workload.output)


def test_traces_are_resampled_cut_into_windows_or_taken_whole(tmp_path):
    trace = ls.generate.gamma(ls.generate.lmsys(200, 5), 0.5, 2, 5).with_intervals(ls.intervals.relative("0.5"))
    ls.traces.write(trace, tmp_path / "t.csv")
    entry = {"trace": "t.csv", "requests": 50}
    study = Study(
        workloads=[
            {**entry, "name": "drawn", "rate": 3.0},
            {**entry, "name": "window", "sample": "window", "speed": 2.0},
            {**entry, "name": "whole", "sample": "whole"},
        ],
        intervals=["given", "exact"],
        policies=["amin", "mcsf"],
        memories=[2000],
        replications=3,
    )
    assert study.run(tmp_path / "out", traces=tmp_path, workers=2).failed == 0

    def requests(name, replication, intervals="given"):
        return study.simulate(replication, traces=tmp_path, workload=name, intervals=intervals, policy="amin").workload

    whole, window, drawn = (requests(name, 1) for name in ("whole", "window", "drawn"))
    assert np.array_equal(whole.output, trace.output[:50])
    assert np.array_equal(whole.upper, trace.upper[:50])
    assert np.array_equal(requests("whole", 1, "exact").upper, trace.output[:50])
    starts = [i for i in range(151) if np.array_equal(trace.output[i : i + 50], window.output)]
    assert len(starts) == 1
    gaps = trace.arrival[starts[0] : starts[0] + 50]
    assert window.arrival == pytest.approx((gaps - gaps[0]) / 2)
    assert requests("window", 2) != window
    assert set(drawn.output.tolist()) <= set(trace.output.tolist())
    assert drawn.arrival[0] > 0


def test_predictors_are_compared_on_the_same_requests(tmp_path):
    trace = ls.generate.gamma(ls.generate.lmsys(150, 5), 0.5, 2, 5)
    ls.traces.write(trace, tmp_path / "t.csv")
    good, bad = (trace.with_intervals(ls.intervals.noisy(cover, 0.5, 3)) for cover in ("0.95", "0.3"))
    ls.traces.write(good, tmp_path / "good.csv")
    ls.traces.write(bad, tmp_path / "bad.csv")
    study = Study(
        workloads=[
            {"trace": "t.csv", "requests": 40},
            {"name": "cut", "trace": "t.csv", "requests": 30, "sample": "window"},
        ],
        intervals=[{"predictions": "good.csv"}, {"name": "worse", "predictions": "bad.csv"}, "exact"],
        policies=["amin", "mcsf", "hsf"],
        memories=[1500],
        replications=4,
    )
    assert study.run(tmp_path / "out", traces=tmp_path).failed == 0
    for name in ("t", "cut"):
        seen = [
            study.simulate(2, traces=tmp_path, workload=name, intervals=setting, policy="amin").workload
            for setting in ("good", "worse", "exact")
        ]
        assert all(
            np.array_equal(a.output, seen[0].output) and np.array_equal(a.arrival, seen[0].arrival) for a in seen
        )
        rows = {
            (o, low, up) for o, low, up in zip(bad.output.tolist(), bad.lower.tolist(), bad.upper.tolist(), strict=True)
        }
        assert set(zip(seen[1].output.tolist(), seen[1].lower.tolist(), seen[1].upper.tolist(), strict=True)) <= rows
    ls.traces.write(bad.head(149), tmp_path / "bad.csv")
    with pytest.raises(StudyError, match=r"bad\.csv are not .* trace: it has 150 requests, they are for 149\. Give"):
        study.plan(tmp_path)
    ls.traces.write(bad.take(np.r_[0:7, 8:150]), tmp_path / "bad.csv")
    with pytest.raises(StudyError, match=r"trace: they differ from request \d+ on; it has 150 requests, they"):
        study.plan(tmp_path)
    ls.traces.write(good.with_intervals(ls.intervals.exact()), tmp_path / "bad.csv")
    with pytest.raises(StudyError, match="'worse' means something else"):
        study.run(tmp_path / "out", traces=tmp_path, extend=True)
    with pytest.raises(StudyError, match="workload 'lmsys' is drawn by a generator"):
        Study(workloads=["lmsys"], intervals=study.intervals, policies=["amin"]).plan(tmp_path)


def test_one_failing_cell_does_not_lose_the_others(tmp_path):
    study = Study(
        workloads=[{"generator": "lmsys", "requests": 50}],
        policies=["amin", "protection"],
        memories=[900, 4000],
        replications=6,
    )
    out = tmp_path / "out"
    status = study.run(out, workers=2)
    assert status.done == 24
    assert 0 < status.failed < 24
    good, bad = results(out), failures(out)
    assert len(good) == 24 - status.failed
    assert len(bad) == status.failed
    row = bad.to_pylist()[0]
    assert row["error"] in ("MemoryTooSmallError", "NotFinishedError")
    cell = {factor: row[factor] for factor in ("workload", "intervals", "policy", "memory")}
    with pytest.raises(getattr(ls.errors, row["error"])) as caught:
        study.simulate(row["replication"], **cell)
    assert str(caught.value) == row["message"]
    before = (out / "failures").stat().st_mtime_ns
    assert study.run(out).done == 24
    assert (out / "failures").stat().st_mtime_ns == before
    assert study.run(out, retry=True).failed == status.failed
    assert written(failures(out)) == written(bad)


LONG = STUDY.replace(replications=400)


@pytest.fixture(scope="module")
def long_table(tmp_path_factory):
    out = tmp_path_factory.mktemp("long") / "out"
    LONG.run(out)
    return written(results(out))


# Whoever does the work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_threads_gives_the_same_table(plain, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(runner, "_FIRST_UNIT", 3 * workers)  # other batches, too
    STUDY.run(tmp_path / "out", workers=workers)
    assert written(results(tmp_path / "out")) == written(plain)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_gives_the_same_table(plain, tmp_path, kind):
    options = {"mp_context": multiprocessing.get_context("spawn")} if kind is ProcessPoolExecutor else {}
    with kind(2, **options) as executor:
        STUDY.run(tmp_path / "out", executor=executor)
        assert executor.submit(sum, [1, 2]).result() == 3  # it is left open
    assert written(results(tmp_path / "out")) == written(plain)


def test_an_executor_that_breaks_loses_nothing_that_was_reported(tmp_path, long_table, monkeypatch):
    monkeypatch.setattr(runner, "_TOLD_EVERY", 0)  # before it is over
    monkeypatch.setattr(runner, "_UNIT_SECONDS", 0.1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        killed = []

        def kill(status):
            if status.count.sum() and not killed:
                killed.append(next(iter(executor._processes)))
                os.kill(killed[0], signal.SIGKILL)

        with pytest.raises(StudyError, match=r"a worker process died .*start the study again, and it goes on"):
            LONG.run(tmp_path / "out", executor=executor, progress=kill)
    kept = len(results(tmp_path / "out"))
    assert kept > 0
    assert LONG.run(tmp_path / "out").before == kept
    assert written(results(tmp_path / "out")) == long_table


def test_the_work_list_hands_out_everything_once(tmp_path):
    plan = STUDY.plan()
    rng = np.random.default_rng(1)
    book = work_list.WorkList(plan, 20, None)
    cells, replications = (rng.integers(0, limit, 90) for limit in (len(plan.cells), 20))
    there = set(zip(cells.tolist(), replications.tolist(), strict=True))
    cells, replications = (np.array(column) for column in zip(*there, strict=True))
    book.record(cells, replications, np.ones(len(cells)))
    handed = []
    while book.waiting_workloads():
        workload = int(rng.choice(book.waiting_workloads()))
        unit = book.hand_out(workload, int(rng.integers(1, 60)))
        assert len(unit) > 0
        for r, row in zip(unit.replications.tolist(), unit.wanted, strict=True):
            handed += [(c, r) for c in unit.cells[row].tolist()]
    assert len(handed) == len(set(handed))
    assert set(handed) | there == {(c, r) for c in range(len(plan.cells)) for r in range(20)}
    assert not set(handed) & there


def test_means_so_far_are_those_of_the_rows(plain, tmp_path):
    status = STUDY.run(tmp_path / "out")
    for k, cell in enumerate(status.plan.cells):
        labels = status.plan.labels(cell)
        values = np.array([r["mean_latency"] for r in plain.to_pylist() if all(r[f] == v for f, v in labels.items())])
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
        assert (status.count[k], status.mean[k]) == (8, pytest.approx(values.mean()))
        assert status.half[k] == pytest.approx((high - low) / 2)


def test_precision_is_reached_by_the_same_replications_whoever_works(tmp_path, monkeypatch):
    study = STUDY.replace(
        precision={"metric": "mean_latency", "relative": 0.1, "first": 16, "most": 200}, policies=["hsf", "amin"]
    )
    first = study.run(tmp_path / "one", workers=1)
    assert first.count.min() >= 16
    assert len(set(first.count.tolist())) > 1
    assert (first.half[first.count < 200] <= 0.1 * first.mean[first.count < 200]).all()
    monkeypatch.setattr(runner, "_FIRST_UNIT", 7)
    study.run(tmp_path / "two", workers=3)
    table = results(tmp_path / "one")
    assert written(results(tmp_path / "two")) == written(table)
    for cell in (
        table.group_by(["workload", "intervals", "policy", "memory"])
        .aggregate([("replication", "max"), ("replication", "count")])
        .to_pylist()
    ):
        assert cell["replication_max"] == cell["replication_count"] - 1


# Whatever happens -----------------------------------------------------------------------------------------------------


def command(file: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "llmsched", "study", "run", str(file), "--out", str(out), *more]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(LONG.to_toml())
    return path


def stopped_after_a_part(arguments, folder, how, later):
    """Run a command, stop it a little after it has written another part (if it did not end), and say what it said."""
    before = set(folder.glob("part-*.parquet"))
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: process.poll() is not None or set(folder.glob("part-*.parquet")) - before)
    time.sleep(later)
    process.send_signal(how)
    return process.communicate()[1], process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_moment_it_goes_on(file, tmp_path, long_table, how):
    out = tmp_path / "out"
    early = subprocess.Popen(command(file, out), stderr=subprocess.PIPE)
    wait_for(lambda: (out / "study.json").exists())
    early.send_signal(how)
    early.communicate()
    for more in range(2):
        said, process = stopped_after_a_part(command(file, out, "--workers", "1"), out / "results", how, 0.05 * more)
        if how == signal.SIGINT and process.returncode == 130:
            done = len(results(out))
            told = f"{done:,} simulations are in {out}; the same command goes on\n"
            all_done = done == len(pa.ipc.open_stream(long_table).read_all())  # stopped in the line after the last one
            assert said in {told + "interrupted\n", "interrupted\n" if all_done else told + "interrupted\n"}
    kept = len(results(out))
    status = LONG.run(out)
    assert status.before == kept
    assert written(results(out)) == long_table


def test_a_full_disk_loses_nothing_that_was_reported(file, tmp_path, long_table):
    out = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    process = subprocess.run(command(file, out), stderr=subprocess.PIPE, text=True, preexec_fn=limit, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: cannot write to {out}: File too large.")
    assert "Traceback" not in process.stderr
    assert not list(out.glob("**/*.part"))
    kept = len(results(out))
    status = LONG.run(out)
    assert status.before == kept
    assert written(results(out)) == long_table


def test_many_small_parts_become_one(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_ROWS_AT_ONCE", 1)
    monkeypatch.setattr(runner, "_FIRST_UNIT", 8)
    monkeypatch.setattr(runner, "_UNIT_SECONDS", 0.002)
    monkeypatch.setattr(store, "_COMPACTED_AT", 8)
    STUDY.run(tmp_path / "out", workers=1)
    assert len(list((tmp_path / "out" / "results").iterdir())) == 1
    assert written(results(tmp_path / "out")) == written(plain)


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty"])
def test_a_damaged_part_is_named_and_can_be_computed_again(plain, tmp_path, spoil):
    out = tmp_path / "out"
    STUDY.run(out)
    (part,) = (out / "results").glob("*.parquet")
    raw = bytearray(part.read_bytes())
    if spoil == "flip":
        raw[len(raw) // 3] ^= 1
    part.write_bytes({"cut": raw[: len(raw) // 2], "flip": raw, "empty": b""}[spoil])
    with pytest.raises(DamagedResultsError, match=r"part-.*parquet is damaged .*--repair"):
        results(out)
    with pytest.raises(DamagedResultsError, match="--repair"):
        STUDY.run(out)
    status = STUDY.run(out, repair=True)
    assert status.damaged == (str(part),)
    assert status.before == 0
    assert (out / "damaged" / f"results-{part.name}").read_bytes() != b"x"
    assert written(results(out)) == written(plain)


# Other studies --------------------------------------------------------------------------------------------------------


def test_a_larger_study_is_refused_unless_it_may_extend(plain, tmp_path):
    out = tmp_path / "out"
    STUDY.replace(replications=4, policies=STUDY.policies[:2], memories=(1500,)).run(out)
    for more in ({"extend": False}, {}):
        with pytest.raises(
            StudyError, match=r"policies gained 'mcsf'; .*memories gained 3000; replications were 4 and are 8.*--extend"
        ):
            STUDY.run(out, **more)
    status = STUDY.run(out, extend=True)
    assert (status.before, status.done) == (2 * 2 * 2 * 4, 256)
    assert written(results(out)) == written(plain)
    assert json.loads((out / "study.json").read_text())["hash"] == store.describe(out)["hash"]
    assert STUDY.run(out).done == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 12}, "seed was 11 and is 12"),
        ({"metrics": ("mean_latency",)}, "metrics was"),
        ({"max_batch": 9}, "max_batch lost none"),
        ({"prefill_budget": 64}, "prefill_budget lost none"),
        ({"block": [1, 16]}, "the rows have other columns"),
        ({"machines": ["llama2-70b-2xa100"], "block": 1}, "machines lost ''"),
        ({"policies": ("hsf",)}, "policies lost 'amin'"),
        ({"replications": 3}, "replications were 8 and are 3"),
        (
            {"intervals": ("buckets:100", {"name": "noisy:0.9,0.5", "rule": "noisy:0.9,0.6"})},
            "'noisy:0.9,0.5' means something else",
        ),
        ({"cells": ({"policies": ("hsf",)},)}, r"combinations \(cells\) were taken away"),
    ],
)
def test_another_study_is_refused_even_then(tmp_path, change, message):
    out = tmp_path / "out"
    STUDY.replace(replications=8).run(out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for extend in (False, True):
        with pytest.raises(StudyError, match=message):
            STUDY.replace(**change).run(out, extend=extend)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_the_same_study_in_other_words_is_the_same(tmp_path):
    out = tmp_path / "out"
    STUDY.run(out)
    other = STUDY.replace(name="another name", description="and text")
    assert other.run(out).before == 256
    assert "another name" in (out / "study.toml").read_text()


def test_other_versions_directories_and_processes_are_refused(tmp_path):
    out = tmp_path / "out"
    small = STUDY.replace(replications=1)
    small.run(out)
    described = json.loads((out / "study.json").read_text())
    assert described["llmsched"] == ls.__version__
    assert {"hash", "python", "numpy", "system", "machine", "command", "started", "runs"} <= described.keys()
    (out / "study.json").write_text("{")
    with pytest.raises(StudyError, match=r"study\.json is damaged .*--repair"):
        small.run(out)
    (out / "study.json").unlink()
    with pytest.raises(StudyError, match="holds no study, but other files"):
        small.run(out)
    with pytest.raises(StudyError, match=r"holds no study \(no study.json\)"):
        results(out)
    with pytest.raises(StudyError, match="is a file"):
        small.run(out / "lock")
    (tmp_path / "new").mkdir()
    handle = store._locked(tmp_path / "new")
    with pytest.raises(StudyError, match="is in use"):
        small.run(tmp_path / "new")
    os.close(handle)
    with pytest.raises(InputError, match="give one of them"):
        small.run(tmp_path / "new", executor=ThreadPoolExecutor(1), cluster="tcp://x:1")


def test_duckdb_and_polars_read_the_files(plain, tmp_path):
    polars = pytest.importorskip("polars")
    out = tmp_path / "out"
    STUDY.run(out)
    query = f"select policy, avg(mean_latency) from '{out}/results/*.parquet' group by policy order by policy"
    found = dict(duckdb.sql(query).fetchall())
    frame = (
        polars.scan_parquet(f"{out}/results/*.parquet")
        .group_by("policy")
        .agg(polars.col("mean_latency").mean())
        .collect()
    )
    assert found == pytest.approx(dict(frame.iter_rows()))
    assert set(found) == {"hsf", "amin", "mcsf", "mine"}
