"""Things show themselves in a notebook: tables that say what happened, in which no name is taken for HTML."""

from __future__ import annotations

import dataclasses
import html.parser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import html_tables

HOSTILE = "<script>alert('x')</script>&\"<b>"
W = ls.generate.poisson(ls.generate.lmsys(60), 1).with_intervals(ls.intervals.buckets(100))
NAMED = ls.Workload(prompt=W.prompt, output=W.output, lower=W.lower, upper=W.upper, source={"path": HOSTILE})
EVIL = ls.policies["amin"].labelled(HOSTILE)


class Parser(html.parser.HTMLParser):
    """The tags that are open, all that were met, and the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.met: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.met.add(tag)
        if tag not in ("line", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.met.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(thing: Any) -> Parser:
    parser = Parser()
    parser.feed(thing if isinstance(thing, str) else thing._repr_html_())
    parser.close()
    assert parser.open == []
    assert parser.met <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "small", "div", "figure", "svg",
                          "polygon", "line", "figcaption"}  # fmt: skip
    return parser


def study(tmp_path: Path) -> Any:
    pytest.importorskip("pydantic", reason="studies are the extra `study`")
    asked = ls.study.Study(
        workloads=["lmsys"], policies=[{"name": HOSTILE, "base": "amin"}, "hsf"], memories=[16492], replications=3
    )
    return asked.quick().run(tmp_path / "out")


def shown(tmp_path: Path) -> dict[str, Any]:
    """Everything that shows itself."""
    fleet = ls.simulate_fleet(NAMED, EVIL, replicas=2, memory=6000)
    status = study(tmp_path)
    slo = {"e2e": 500.0}
    return {
        "workload": NAMED,
        "policy": EVIL,
        "result": ls.simulate(NAMED, EVIL, memory=6000, record="timeline"),
        "timeline": ls.simulate(NAMED, EVIL, memory=6000, record="timeline").timeline,
        "fleet": fleet,
        "comparison": ls.compare(NAMED, {HOSTILE: "amin", "hsf": "hsf"}, memory=6000),
        "bound": ls.lower_bound(NAMED, memory=6000),
        "schedule": ls.best_known(NAMED, memory=6000, time_limit=0.1),
        "batch": ls.simulate_batch(NAMED, [EVIL, "hsf"], memory=6000),
        "sweep": ls.sweep(NAMED, {HOSTILE: "amin"}, rates=[0.5], memory=6000, replications=2, slo=slo),
        "capacity": ls.capacity.highest_rate(NAMED, EVIL, slo=slo, memory=6000, replications=2),
        "status": status,
        "cells": __import__("llmsched.study.summary", fromlist=["Cells"]).Cells.of(
            ls.study.results(status.directory), ["mean_latency"]
        ),
    }


def test_everything_shows_itself_and_no_name_is_taken_for_html(tmp_path: Path) -> None:
    things = shown(tmp_path)
    named = 0
    for kind, thing in things.items():
        texts = "".join(parsed(thing).texts)
        named += HOSTILE in texts
        assert len(texts) > 20, kind
        assert len(repr(thing)) > 10, kind
        assert " object at 0x" not in repr(thing), kind
    assert named >= 9


def test_a_comparison_says_why_a_policy_has_no_numbers_and_what_its_times_are(tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,3\n2,6,4\n")
    compared = ls.compare(ls.traces.load(trace), ["fcfs", "amin", "amax"], memory=60)
    said = "".join(parsed(compared).texts)
    assert "amin: needs the prediction column 'lower'" in said
    assert "amax: needs the prediction column 'upper'" in said
    assert "with_intervals" in said
    assert "Arrival times of the trace count as rounds" in said
    timed = ls.compare(ls.traces.load(trace), ["fcfs"], **ls.machines["llama2-70b-2xa100"].options())
    assert "count as rounds" not in "".join(parsed(timed).texts)
    assert "needs" not in "".join(parsed(timed).texts)


def test_a_row_of_a_comparison_or_a_column_that_is_not_there_is_told_with_the_nearest() -> None:
    compared = ls.compare(W, ["amin", "fcfs"], memory=6000)
    with pytest.raises(KeyError, match=r"there is no row 'amni'; did you mean 'amin'\? known: amin, fcfs"):
        compared["amni"]
    with pytest.raises(ls.errors.InputError, match="did you mean 'p99_latency'"):
        compared.best("p99")


def test_a_study_shows_what_is_given_and_no_default() -> None:
    pytest.importorskip("pydantic", reason="studies are the extra `study`")
    asked = ls.study.Study(
        workloads=["lmsys"], policies=["hsf", {"name": "m", "base": "amin", "margin": 0.05}], replications=3
    )
    shown = repr(asked)
    assert shown.startswith("Study(replications=3, workloads=(WorkloadEntry(")
    assert "margin=0.05" in shown
    assert "None" not in shown
    assert len(shown) < 400


def test_progress_says_whether_bars_are_shown() -> None:
    pytest.importorskip("tqdm", reason="progress bars are the extra `notebook`")
    with ls.show_progress() as shown:
        assert repr(shown) == "progress bars are on"
    assert repr(ls.show_progress(False)) == "progress bars are off"


def test_a_trace_without_bad_rows_says_nothing_of_them(tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    trace.write_text("prompt_tokens,output_tokens\n5,3\n")
    assert "skipped" not in "".join(parsed(ls.traces.load(trace)).texts)
    trace.write_text("prompt_tokens,output_tokens\n5,3\n5,x\n")
    assert "skipped: 1, first_skipped: " in "".join(parsed(ls.traces.load(trace, on_error="skip")).texts)


def test_a_result_says_its_numbers_and_draws_its_cache() -> None:
    result = ls.simulate(W, "amin", memory=6000, record="timeline")
    page = parsed(result)
    assert html_tables.number(result.mean_latency) in page.texts
    assert html_tables.number(result.total_evictions) in page.texts
    assert "svg" in page.met
    assert "svg" not in parsed(ls.simulate(W, "amin", memory=6000)).met


def test_the_cache_over_time_has_the_peak_and_the_idle_times() -> None:
    w = ls.Workload(prompt=[3, 1], output=[4, 2], arrival=[0.0, 100.0])
    timeline = ls.simulate(w, "fcfs", memory=50, record="timeline").timeline
    assert timeline is not None
    over_time = timeline.memory_over_time(102)
    assert max(over_time) == 7
    assert over_time[50] == 0
    rows = timeline.expand()
    for pieces in (1, 7, 240):
        assert max(timeline.memory_over_time(pieces)) == rows["memory"].max()


def test_empty_things_show_themselves() -> None:
    empty = ls.Workload([], [])
    for thing in (empty, ls.simulate(empty, "fcfs", memory=5, record="timeline"), ls.compare(empty, memory=5)):
        parsed(thing)


def test_of_a_long_table_it_says_how_many_rows_are_left_out() -> None:
    page = parsed(html_tables.table("many", [(k,) for k in range(100)]))
    assert f"{100 - html_tables.MOST_ROWS} more rows. " in "".join(page.texts).replace("rows.", "rows. ")


@given(st.lists(st.lists(st.one_of(st.text(), st.integers(), st.floats()), max_size=4), max_size=6), st.text())
def test_whatever_the_cells_hold_the_table_is_well_formed(rows: list[list[Any]], caption: str) -> None:
    parsed(html_tables.table(caption, rows, header=[caption], note=caption))


def test_numbers_that_are_not_known_are_a_dash() -> None:
    assert [html_tables.number(x) for x in (1234567, 12345.6, 1.23456, float("nan"), float("inf"))] == [
        "1,234,567", "12,346", "1.235", "–", "inf",
    ]  # fmt: skip


def test_the_best_row_has_the_least_of_a_column() -> None:
    compared = ls.compare(W, ["amin", "amax", "fcfs", "protection"], memory=6000)
    assert compared.best().policy == compared.ranked()[0].policy
    by_p99 = {row.policy: row.record()["p99_latency"] for row in compared}
    assert compared.best("p99_latency").policy == min(by_p99, key=lambda name: by_p99[name])
    with pytest.raises(ls.errors.InputError, match="p99_latency"):
        compared.best("p99_latancy")
    stuck = ls.compare(W, ["fcfs"], memory=6000, max_rounds=1, baseline=None)
    with pytest.raises(ls.errors.InputError, match="no policy finished"):
        stuck.best()
    assert "does not finish" in "".join(parsed(stuck).texts)


@pytest.mark.parametrize("replicas", [None, 2])
def test_a_comparison_is_a_table_of_its_records(replicas: int | None) -> None:
    pytest.importorskip("pandas", reason="dataframes are the extra `dataframe`")
    compared = ls.compare(W, ["amin", "hsf"], memory=6000, replicas=replicas)
    frame = compared.to_pandas()
    assert list(frame["policy"]) == [row.policy for row in compared.ranked()]
    assert list(frame["mean_latency"]) == [record["mean_latency"] for record in compared.records()]
    assert compared.to_polars().shape == frame.shape


def test_plots_take_axes_and_return_them() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="figures are the extra `plot`")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    compared = ls.compare(W, ["amin", "hsf"], memory=6000)
    result = ls.simulate(W, "amin", memory=6000, record="timeline")
    swept = ls.sweep(W, ["amin"], rates=[0.5, 1], memory=6000, replications=2)
    _, grid = plt.subplots(1, 4)
    for axes, plot in zip(
        grid, (compared.plot, swept.plot, lambda ax=None: ls.plots.cache(result, ax=ax),
               lambda ax=None: ls.plots.distribution({"amin": result}, ax=ax)), strict=True
    ):  # fmt: skip
        assert plot(ax=axes) is axes
        assert axes.has_data()
        own = plot()
        assert own.figure is not axes.figure
    plt.close("all")
    bars = compared.plot()
    widths = [patch.get_width() for patch in bars.patches]
    assert widths == [row.result.mean_latency for row in compared.ranked() if row.result is not None]
    lines = swept.plot("ttft_mean").get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), [point.means["ttft_mean"] for point in swept.points])
    plt.close("all")
    short = ls.simulate(ls.Workload(3, [4, 5]), "fcfs", memory=6000, record="timeline")
    _, (upper, lower) = plt.subplots(2, 1, sharex=True)
    for run, axes in ((result, upper), (short, lower)):
        ls.plots.cache(run, ax=axes)
    assert short.makespan < upper.get_xlim()[1] == result.makespan
    plt.close("all")
    with pytest.raises(ls.errors.InputError, match="was not measured"):
        swept.plot("goodput")
    with pytest.raises(ls.errors.InputError, match="no timeline"):
        ls.plots.cache(dataclasses.replace(result, timeline=None))
    with pytest.raises(ls.errors.InputError, match="nothing to draw"):
        ls.plots.distribution({})
