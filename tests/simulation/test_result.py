"""Result and Timeline: metrics against plain numpy, export, provenance, and what threads and callbacks see."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.checker import check_conservation
from helpers.examples import examples
from helpers.strategies import compositions, problems, seeds
from hypothesis import given, reject
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import LlmschedError, MissingExtraError, NotFinishedError
from llmsched.simulation import reference
from llmsched.simulation.problem import problem_of

ENGINES = ("reference", "compiled")
MIXED = ls.generate.poisson(ls.generate.lmsys(80, seed=5), rate=0.2, seed=5).with_intervals(ls.intervals.buckets(50))
MIXED = MIXED.replace(point=MIXED.output + 7)


@pytest.fixture(scope="module")
def result():
    r = ls.simulate(MIXED, "amin", memory=1300, record="timeline")
    assert r.total_evictions > 0
    return r


# Metrics --------------------------------------------------------------------------------------------------------------


def test_arrays_are_over_requests_in_the_workloads_order(result):
    for name, dtype in (("completion", float), ("start", float), ("latency", float), ("evictions", np.int64)):
        column = getattr(result, name)
        assert column.shape == (len(MIXED),)
        assert column.dtype == dtype
    assert len(result) == len(MIXED)
    assert result.workload is MIXED
    shuffled = np.random.default_rng(0).permutation(len(MIXED))
    again = ls.simulate(MIXED.take(shuffled), "hsf", memory=1300, seed=None)
    straight = ls.simulate(MIXED, "hsf", memory=1300, seed=None)
    assert again.total_latency == pytest.approx(straight.total_latency, rel=0.05)
    assert (again.start >= MIXED.arrival[shuffled]).all()


def test_latency_is_completion_minus_arrival_queueing_included(result):
    assert np.array_equal(result.latency, result.completion - MIXED.arrival)
    assert (result.latency >= MIXED.output - 1e-9).all()


def test_totals_against_plain_numpy(result):
    latency = result.completion - MIXED.arrival
    assert result.total_latency == pytest.approx(latency.sum(), rel=1e-12)
    assert result.mean_latency == pytest.approx(latency.mean(), rel=1e-12)
    assert result.makespan == result.completion.max()
    assert result.total_evictions == result.evictions.sum()
    assert result.wasted_share == result.wasted_tokens / (MIXED.output.sum() + result.wasted_tokens)
    assert result.peak_share == result.peak_memory / 1300


def test_summary_is_plain_complete_and_right(result):
    latency = result.completion - MIXED.arrival
    summary = result.summary()
    expected = {
        "policy": "amin",
        "memory": 1300,
        "seed": 0,
        "requests": 80,
        "completed": 80,
        "total_latency": latency.sum(),
        "mean_latency": latency.mean(),
        "p50_latency": np.percentile(latency, 50),
        "p90_latency": np.percentile(latency, 90),
        "p99_latency": np.percentile(latency, 99),
        "max_latency": latency.max(),
        "makespan": result.completion.max(),
        "rounds": result.rounds,
        "evictions": result.evictions.sum(),
        "evicted_requests": (result.evictions > 0).sum(),
        "wasted_tokens": result.wasted_tokens,
        "wasted_share": result.wasted_tokens / (result.wasted_tokens + MIXED.output.sum()),
        "peak_memory": result.peak_memory,
        "peak_share": result.peak_memory / 1300,
    }
    assert list(summary) == list(expected)
    for key, value in expected.items():
        assert summary[key] == pytest.approx(value, rel=1e-12) if key != "policy" else summary[key] == value
    assert {type(value) for value in summary.values()} <= {str, int, float}
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("engine", ENGINES)
def test_counts_are_plain_ints(engine):
    r = ls.simulate(MIXED.head(9), "amin", memory=1300, engine=engine, record="timeline")
    for name in ("rounds", "peak_memory", "wasted_tokens", "memory", "seed", "total_evictions"):
        assert type(getattr(r, name)) is int, name
    for name in ("total_latency", "mean_latency", "makespan", "wasted_share", "peak_share"):
        assert type(getattr(r, name)) is float, name
    assert (r.engine, r.seed, r.memory, r.policy.name) == (engine, 0, 1300, "amin")
    assert all(type(value) is int for value in r.work.values())


def test_percentiles(result):
    latency = result.completion - MIXED.arrival
    assert result.percentile(0) == latency.min()
    assert result.percentile(100) == latency.max()
    assert result.percentile(50) == np.median(latency)
    assert np.array_equal(result.percentile([10, 90]), np.percentile(latency, [10, 90]))
    assert result.percentile((99,)).shape == (1,)
    for q in (-1, 101, np.nan):
        with pytest.raises(ValueError, match="Percentiles"):
            result.percentile(q)


def test_repr_says_the_essentials(result):
    assert repr(result).startswith("Result(amin, 80 requests, memory 1300: mean latency ")
    assert f"evictions {result.total_evictions})" in repr(result)


def test_a_result_cannot_be_reassigned(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.rounds = 3


@pytest.mark.parametrize("engine", ENGINES)
def test_the_arrays_of_a_result_are_read_only_as_those_of_a_workload(engine):
    r = ls.simulate(MIXED.head(3), "amin", memory=1300, engine=engine)
    for name in ("completion", "start", "evictions", "latency"):
        assert not getattr(r, name).flags.writeable, name


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies(result, duplicate):
    again = duplicate(result)
    assert again.summary() == result.summary()
    assert again.timeline == result.timeline
    assert again.workload == result.workload
    assert again.policy == result.policy
    assert again.provenance == result.provenance


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("policy", sorted(ls.policies))
def test_no_requests_give_an_empty_result(engine, policy):
    w = ls.Workload([], [], [], [], [], priority=[]).with_lengths(ls.LengthTable.from_outputs([9]))
    r = ls.simulate(w, policy, memory=10, engine=engine, record="timeline", max_rounds=0)
    assert len(r) == r.rounds == r.peak_memory == r.wasted_tokens == r.total_evictions == 0
    assert r.total_latency == r.makespan == r.wasted_share == r.peak_share == 0
    assert np.isnan(r.mean_latency)
    assert np.isnan(r.percentile(50))
    assert np.isnan(r.percentile([50, 90])).tolist() == [True, True]
    assert r.summary()["completed"] == 0
    assert len(r.timeline) == 0
    assert all(column.tolist() == [] for column in r.timeline.expand().values())
    assert [len(column) for column in r.columns().values()] == [0] * 11
    assert "0 requests" in repr(r)
    assert r.completion.dtype == r.start.dtype == float
    assert r.evictions.dtype == np.int64


# Provenance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*sorted(ls.policies), ls.Policy(order=list(range(80)), margin=0.1)], ids=str)
@pytest.mark.parametrize("seed", [None, 3])
def test_provenance_is_json_and_repeats_the_run(policy, seed):
    w = ls.Workload(**MIXED.columns(), priority=MIXED.prompt % 3, source={"generator": "lmsys", "n": 80})
    w = w.with_lengths(ls.LengthTable.from_outputs([20, 100, 300]))
    r = ls.simulate(w, policy, memory=3000, seed=seed)
    told = json.loads(json.dumps(r.provenance))
    assert told["llmsched"] == ls.__version__
    assert told["policy"] == r.policy.name
    assert told["source"] == {"generator": "lmsys", "n": 80}
    assert told["memory"] == 3000
    again = ls.simulate(w, ls.Policy(**told["fields"]), memory=told["memory"], seed=told["seed"], engine=told["engine"])
    assert np.array_equal(again.completion, r.completion)
    assert again.summary() == r.summary()


def test_provenance_of_a_generated_workload_makes_it_again():
    r = ls.simulate(ls.generate.lmsys(50, seed=7), "hsf", memory=3000)
    source = r.provenance["source"]
    made = getattr(ls.generate, source.pop("generator"))(**source)
    assert made == r.workload


# Export ---------------------------------------------------------------------------------------------------------------

EXPORTED = ["prompt", "output", "lower", "upper", "point", "arrival", "start", "completion", "latency", "evictions"]


def test_columns_are_one_row_per_request(result):
    columns = result.columns()
    assert list(columns) == EXPORTED
    assert {len(column) for column in columns.values()} == {80}
    bare = ls.simulate(ls.Workload([1], [2]), "hsf", memory=3)
    assert list(bare.columns()) == [name for name in EXPORTED if name not in ("lower", "upper", "point")]


def test_to_pandas(result):
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert list(frame.columns) == EXPORTED
    assert frame["latency"].sum() == pytest.approx(result.total_latency)
    frame.loc[0, "completion"] = -1.0
    assert result.completion[0] != -1
    assert np.array_equal(ls.Workload(frame["prompt"], frame["output"]).output, MIXED.output)


def test_to_polars(result):
    polars = pytest.importorskip("polars")
    frame = result.to_polars()
    assert frame.columns == EXPORTED
    assert frame["evictions"].to_list() == result.evictions.tolist()
    assert frame["evictions"].dtype == polars.Int64


def test_to_arrow(result):
    pytest.importorskip("pyarrow")
    table = result.to_arrow()
    assert table.column_names == EXPORTED
    assert table["completion"].to_pylist() == result.completion.tolist()
    assert table.num_rows == 80


@pytest.mark.parametrize(
    ("method", "package"), [("to_pandas", "pandas"), ("to_polars", "polars"), ("to_arrow", "pyarrow")]
)
def test_without_the_library_the_error_says_what_to_install(result, monkeypatch, method, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"{package}, which is not installed: pip install 'llmsched\[dataframe\]'"
    ) as caught:
        getattr(result, method)()
    assert isinstance(caught.value, (ImportError, LlmschedError))
    assert (caught.value.package, caught.value.extra) == (package, "dataframe")


# Timeline -------------------------------------------------------------------------------------------------------------


def log_of(problem):
    """What the reference engine goes through, round by round, noted without its own bookkeeping of time."""
    log = []

    class Logged(reference.ReferenceEngine):
        def generation(self):
            batch = list(self.running)
            memory = sum(r.prompt + r.generated + 1 for r in batch)
            log.append((self.now, memory, len(batch), len(self.waiting), self.evictions_this_round))
            super().generation()

    engine = Logged(problem, ())
    while engine.unfinished:
        engine.run_round()
    return log


@examples(150)
@given(data=st.data())
def test_an_expanded_timeline_is_the_log_of_every_round(data):
    workload, memory = data.draw(problems())
    policy, seed = data.draw(compositions(len(workload))), data.draw(seeds)
    try:
        results = [
            ls.simulate(workload, policy, memory=memory, seed=seed, record="timeline", engine=engine, max_rounds=2000)
            for engine in ENGINES
        ]
    except NotFinishedError:
        reject()
    assert results[0].timeline == results[1].timeline
    log = log_of(problem_of(workload, policy, memory, seed))
    rows = results[1].timeline.expand()
    assert {"time", "memory", "batch", "waiting", "evictions"} <= rows.keys()
    for k, name in enumerate(["time", "memory", "batch", "waiting", "evictions"]):
        assert rows[name].tolist() == [entry[k] for entry in log]


@examples(100)
@given(data=st.data())
def test_no_two_neighbouring_segments_could_be_one(data):
    workload, memory = data.draw(problems())
    try:
        r = ls.simulate(
            workload, data.draw(compositions(len(workload))), memory=memory, record="timeline", max_rounds=2000
        )
    except NotFinishedError:
        reject()
    t = r.timeline
    assert t.rounds.min() >= 1
    assert t.rounds.sum() == r.rounds
    for k in range(len(t) - 1):
        grown = t.memory[k] + t.rounds[k] * t.batch[k] == t.memory[k + 1]
        same = t.batch[k] == t.batch[k + 1] and t.waiting[k] == t.waiting[k + 1] and t.evictions[k + 1] == 0
        assert not (grown and same) or t.time[k] + t.rounds[k] != t.time[k + 1]


def test_a_million_rounds_are_few_segments():
    r = ls.simulate(ls.Workload([0, 5], [10**6, 10], arrival=[0, 500_000]), "hsf", memory=2 * 10**6, record="timeline")
    assert r.rounds == 10**6
    assert len(r.timeline) == 3
    assert r.timeline.rounds.tolist() == [500_000, 10, 499_990]
    assert r.timeline.memory.tolist() == [1, 500_001 + 6, 500_011]
    expanded = r.timeline.expand()["memory"]
    assert expanded[-1] == expanded.max() == 10**6


def test_idle_time_is_between_segments():
    t = ls.simulate(ls.Workload(0, [2, 2], arrival=[0.5, 9.25]), "hsf", memory=2, record="timeline").timeline
    assert t.time.tolist() == [0.5, 9.25]
    assert t.rounds.tolist() == [2, 2]


def test_there_is_no_timeline_unless_asked_for():
    assert ls.simulate(ls.Workload([1], [1]), "hsf", memory=2).timeline is None


def test_a_result_has_every_field_that_the_class_has(result):
    assert set(vars(result)) >= {field.name for field in dataclasses.fields(ls.Result)}
    assert dataclasses.replace(result).mean_latency == result.mean_latency


def test_recording_changes_nothing(result):
    silent = ls.simulate(MIXED, "amin", memory=1300)
    assert silent.summary() == result.summary()
    assert np.array_equal(silent.completion, result.completion)
    check_conservation(result)


def test_timelines_compare_by_content(result):
    again = ls.simulate(MIXED, "amin", memory=1300, record="timeline").timeline
    assert result.timeline == again
    assert result.timeline != ls.simulate(MIXED, "hsf", memory=1300, record="timeline").timeline
    assert result.timeline != "timeline"
    assert list(result.timeline.columns())[:6] == ["time", "rounds", "memory", "batch", "waiting", "evictions"]
    assert pickle.loads(pickle.dumps(again)) == again


# Seeds, threads, callbacks --------------------------------------------------------------------------------------------

CHURN = ls.generate.linear_geometric(400, 0.9, 60, prompt=1, seed=3)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1, np.uint64(2**64 - 1), 7.0])
def test_seeds(seed):
    a, b = (ls.simulate(CHURN, "amin", memory=200, seed=seed) for _ in range(2))
    assert np.array_equal(a.completion, b.completion)
    assert a.seed == int(seed)
    assert type(a.seed) is int


def test_different_seeds_give_different_runs_and_none_is_not_zero():
    runs = {tuple(ls.simulate(CHURN, "amin", memory=200, seed=seed).completion) for seed in (None, 0, 1, 2, 2**64 - 1)}
    assert len(runs) == 5


def test_the_default_seed_is_zero():
    assert ls.simulate(CHURN, "amin", memory=200).summary() == ls.simulate(CHURN, "amin", memory=200, seed=0).summary()


def test_numpys_global_generator_is_neither_used_nor_changed():
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    a = ls.simulate(CHURN, "amin", memory=200)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(6)  # noqa: NPY002
    assert np.array_equal(ls.simulate(CHURN, "amin", memory=200).completion, a.completion)


def test_threads_give_what_each_run_gives_alone():
    w = CHURN.replace(point=CHURN.output, priority=CHURN.prompt % 3)
    w = w.with_lengths(ls.LengthTable.from_outputs(CHURN.output))
    finishing = [name for name in ls.policies if name not in ("protection", "clearing")]
    jobs = [(name, memory, seed) for name in finishing for memory in (200, 500) for seed in (0, 1, 2)]

    def run(job):
        name, memory, seed = job
        return ls.simulate(w, name, memory=memory, seed=seed, record="timeline")

    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, jobs))
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.completion, b.completion)
        assert a.summary() == b.summary()
        assert a.timeline == b.timeline


@pytest.mark.parametrize("engine", ENGINES)
def test_progress_counts_up_to_all(engine):
    n = {"compiled": 100_000, "reference": 300}[engine]
    seen = []
    w = ls.generate.linear_geometric(n, 0.9, 60, seed=1)
    ls.simulate(w, "amin", memory=400, engine=engine, progress=lambda done, of: seen.append((done, of)))
    assert seen
    assert {of for _, of in seen} == {n}
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert done[0] >= 0
    assert done[-1] <= n


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exception_in_progress_ends_the_run(engine):
    class StopItError(Exception):
        pass

    def stop(done, of):
        raise StopItError(done)

    w = ls.generate.linear_geometric(100_000 if engine == "compiled" else 300, 0.9, 60, seed=1)
    with pytest.raises(StopItError):
        ls.simulate(w, "amin", memory=400, engine=engine, progress=stop)
    assert ls.simulate(w.head(10), "amin", memory=400, engine=engine).rounds > 0


@pytest.mark.parametrize(("clock", "unit"), [(None, "rounds"), ("llama2-70b-2xa100", "s")])
def test_what_is_printed_is_short_and_has_units(clock, unit):
    w = ls.generate.lmsys(80).with_intervals(ls.intervals.buckets(100))
    r = ls.simulate(w, "amin", memory=2000, clock=clock, record=("timeline", "tokens"))
    assert f"mean latency {r.mean_latency:.6g} {unit}, makespan {r.makespan:.6g} {unit}, evictions" in repr(r)
    assert repr(r.timeline).startswith(f"Timeline({r.rounds} rounds in {len(r.timeline)} segments, the first at 0,")
    assert repr(r.timeline).endswith(f" {unit})")
    assert repr(r.tokens) == f"Tokens({len(r.tokens)} attempts in {r.rounds} rounds)"
    compared = ls.compare(w, ["amin"], memory=2000, clock=clock)
    assert f"mean latency in {'rounds' if unit == 'rounds' else 'seconds'} amin {r.mean_latency:.6g})" in repr(compared)
    for thing in (r, r.timeline, r.tokens, compared):
        assert len(repr(thing)) < 140


@pytest.mark.parametrize("policy", ["mcsf", "mc-benchmark", ls.Policy(bound="point")])
def test_without_a_point_it_is_the_middle_of_the_interval(policy):
    w = ls.generate.lmsys(80).with_intervals(ls.intervals.relative("0.5"))
    middle = ls.intervals.with_midpoints(w)
    for engine in ("compiled", "reference"):
        alone = ls.simulate(w, policy, memory=2000, engine=engine)
        given = ls.simulate(middle, policy, memory=2000, engine=engine)
        assert np.array_equal(alone.completion, given.completion)
        assert alone.workload.point is None
    assert alone.provenance["point"] == "middle of the interval"
    assert given.provenance["point"] == "given"
    assert ls.simulate(w, "fcfs", memory=2000).provenance["point"] is None
    batch = ls.simulate_batch([w], [policy], memory=2000)
    assert batch.raise_errors().totals["total_latency"][0] == alone.total_latency
    with pytest.raises(ls.errors.MissingPredictionError, match="'point'"):
        ls.simulate(w.replace(upper=None), policy, memory=2000)
