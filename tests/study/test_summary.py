"""Tables of a study's results: against polars, whatever the order of the rows, and with values missing."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmsched.errors import InputError
from llmsched.study import statistics, summary

POLICIES = ("hsf", "amin", "amax")


def table(replications: int = 30, seed: int = 0, memories: tuple[int, ...] = (2000, 4000)) -> pa.Table:
    """Results as a study has them: a common factor per replication, and what each policy makes of it."""
    rng = np.random.default_rng(seed)
    rows = []
    for memory in memories:
        for k, common in enumerate(rng.gamma(20, 0.05, replications)):
            for cost, policy in zip((1.0, 1.2, 2.0), POLICIES, strict=True):
                latency = 1e5 * common * cost / memory * rng.uniform(0.98, 1.02)
                rows.append(("lmsys", policy, memory, k, latency, float(rng.poisson(3 if policy == "amin" else 0))))
    names = ("workload", "policy", "memory", "replication", "mean_latency", "evictions")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def test_means_are_those_of_polars_and_scipy() -> None:
    results = table()
    rows = summary.means(results).to_pylist()
    expected = pl.DataFrame(results.to_pydict()).group_by("policy", "memory").agg(
        pl.col("mean_latency", "evictions").mean().name.suffix(" mean"),
        pl.col("mean_latency", "evictions").std().name.suffix(" std"),
    )  # fmt: skip
    assert len(rows) == 2 * len(expected) == 12
    for found in rows:
        row = expected.row(
            by_predicate=(pl.col("policy") == found["policy"]) & (pl.col("memory") == found["memory"]), named=True
        )
        mean, deviation = (row[f"{found['metric']} {what}"] for what in ("mean", "std"))
        assert found["mean"] == pytest.approx(mean)
        assert found["deviation"] == pytest.approx(deviation)
        assert found["error"] == pytest.approx(deviation / math.sqrt(30))
        if deviation:
            assert (found["low"], found["high"]) == pytest.approx(stats.t.interval(0.95, 29, mean, found["error"]))
            assert (
                found["low"] < found["boot_low"] + found["error"] < found["boot_high"] < found["high"] + found["error"]
            )
        assert (found["n"], found["missing"]) == (30, 0)


@examples(10)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(random: object) -> None:
    results = table(10)
    order = list(range(len(results)))
    random.shuffle(order)
    shuffled = results.take(order)
    for make in (summary.means, summary.quantiles, summary.compared, summary.best):
        assert str(make(shuffled).to_pylist()) == str(make(results).to_pylist())  # text: a NaN differs from itself


def test_quantiles_lie_between_their_limits() -> None:
    rows = summary.quantiles(table(), ["mean_latency"], q=(0.25, 0.5, 0.99)).to_pylist()
    assert len(rows) == 18
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["high"] == math.inf) == (row["q"] == 0.99)


def test_comparisons_are_paired_by_replication() -> None:
    results = table()
    rows = summary.compared(results, "hsf", ["mean_latency"]).to_pylist()
    assert [(row["policy"], row["memory"]) for row in rows] == [
        ("amax", 2000),
        ("amax", 4000),
        ("amin", 2000),
        ("amin", 4000),
    ]
    for row in rows:
        mine, hsf = (
            results.filter((pc.field("policy") == policy) & (pc.field("memory") == row["memory"]))[
                "mean_latency"
            ].to_numpy()
            for policy in (row["policy"], "hsf")
        )
        assert (row["difference"], row["difference_low"], row["difference_high"]) == pytest.approx(
            statistics.paired_difference(mine, hsf)
        )
        assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx(
            statistics.ratio_interval(mine, hsf)
        )
        assert row["ratio_high"] - row["ratio_low"] < 0.03  # what is common to both has cancelled


def test_only_replications_that_both_have_are_compared() -> None:
    results = table()
    hsf = pc.equal(results["policy"], "hsf")
    even = pc.equal(pc.bit_wise_and(results["replication"], 1), 0)
    gone = pc.and_(hsf, pc.invert(even))  # of hsf, the odd ones are not there
    nan = pc.and_(pc.equal(results["policy"], "amin"), pc.less(results["replication"], 10))  # these did not finish
    latency = pc.if_else(nan, math.nan, results["mean_latency"])
    holed = results.set_column(4, "mean_latency", latency).filter(pc.invert(gone))
    counts = {row["policy"]: (row["n"], row["missing"]) for row in summary.means(holed, ["mean_latency"]).to_pylist()}
    assert counts == {"amax": (30, 0), "amin": (20, 10), "hsf": (15, 0)}
    compared = {row["policy"]: row["n"] for row in summary.compared(holed, "hsf", ["mean_latency"]).to_pylist()}
    assert compared == {"amax": 15, "amin": 10}
    assert {row["n"] for row in summary.best(holed).to_pylist()} == {10}
    nulls = holed.set_column(4, "mean_latency", pc.if_else(nan, None, results["mean_latency"]).filter(pc.invert(gone)))
    assert summary.means(nulls, ["mean_latency"]).equals(summary.means(holed, ["mean_latency"]))


def test_the_best_policy_of_each_setting() -> None:
    rows = {(row["policy"], row["memory"]): row for row in summary.best(table()).to_pylist()}
    assert {key: row["verdict"] for key, row in rows.items()} == {
        (policy, memory): "best" if policy == "hsf" else "worse" for policy in POLICIES for memory in (2000, 4000)
    }
    without = {row["policy"]: row["verdict"] for row in summary.best(table(), leave_out=["hsf"]).to_pylist()}
    assert without == {"amin": "best", "amax": "worse"}
    few = summary.best(table(1), leave_out=["hsf"]).to_pylist()
    assert {row["verdict"] for row in few} == {"among the best"}
    largest = {row["policy"]: row["verdict"] for row in summary.best(table(), largest=True).to_pylist()}
    assert largest == {"amax": "best", "amin": "worse", "hsf": "worse"}
    by_memory = {row["memory"]: row["verdict"] for row in summary.best(table(), along="memory").to_pylist()}
    assert by_memory == {2000: "worse", 4000: "best"}


def test_a_policy_that_never_finished_has_no_verdict_and_spoils_none() -> None:
    results = table()
    latency = pc.if_else(pc.equal(results["policy"], "amin"), math.nan, results["mean_latency"])
    found = {
        row["policy"]: row["verdict"]
        for row in summary.best(results.set_column(4, "mean_latency", latency)).to_pylist()
    }
    assert found == {"hsf": "best", "amin": "no data", "amax": "worse"}


def test_the_interval_after_sequential_stopping_is_the_one_that_is_valid() -> None:
    results = table(40)
    rule = statistics.Precision(relative=0.05)
    row = summary.means(results, ["mean_latency"], precision={"mean_latency": rule}).to_pylist()[0]
    mine = results.filter((pc.field("policy") == row["policy"]) & (pc.field("memory") == row["memory"]))["mean_latency"]
    assert (row["mean"], row["low"], row["high"]) == statistics.sequential_interval(mine.to_numpy(), rule)
    plain = summary.means(results, ["mean_latency"]).to_pylist()[0]
    assert row["high"] - row["low"] != plain["high"] - plain["low"]


def test_what_cannot_be_found_is_said() -> None:
    results = table()
    with pytest.raises(InputError, match="no metric 'mean_latncy': did you mean 'mean_latency'"):
        summary.means(results, ["mean_latncy"])
    with pytest.raises(InputError, match="no simulation has policy 'hfs': did you mean 'hsf'"):
        summary.compared(results, "hfs")
    with pytest.raises(InputError, match="no factor 'intervals'"):
        summary.best(results, along="intervals")
    with pytest.raises(InputError, match="no column 'replication'"):
        summary.means(results.drop_columns(["replication"]))
    with pytest.raises(InputError, match=r"replication 0 of .*'policy': 'amax'.* is there twice"):
        summary.means(pa.concat_tables([results, results]))


def test_tables_without_rows_have_their_columns() -> None:
    nothing = table().slice(0, 0)
    assert summary.means(nothing).num_rows == 0
    assert summary.best(nothing).column_names[-1] == "verdict"
    alone = table().filter(pc.equal(table()["policy"], "hsf"))
    assert summary.compared(alone).num_rows == 0
    assert {row["verdict"] for row in summary.best(alone).to_pylist()} == {"best"}
