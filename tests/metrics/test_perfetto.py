"""Traces for Perfetto against Chrome's trace event format, and the figure of a run over time."""

from __future__ import annotations

import gzip
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import strategies
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import errors
from llmsched.metrics import attempts, figure_style, figures, perfetto

BOTH = ("tokens", "timeline")


def run(policy: str = "amin", n: int = 40, **options: Any) -> ls.Result:
    workload = ls.generate.lmsys(n, 3).with_intervals(ls.intervals.buckets(100))
    return ls.simulate(workload, policy, **{"memory": 1200, "record": BOTH, **options})


def written(result: ls.Result, path: Path, **options: Any) -> list[dict[str, Any]]:
    perfetto.write(result, path, **options)
    document = json.loads(path.read_text(encoding="utf-8"))
    events = document["traceEvents"]
    assert isinstance(events, list)
    check_format(events)
    return events


def check_format(events: list[dict[str, Any]]) -> None:
    """What the trace event format asks of the kinds of events that we write."""
    fields = {"X": {"ts", "dur", "tid", "cat"}, "C": {"ts", "args"}, "M": {"args"}}
    for event in events:
        assert set(event) >= {"name", "ph", "pid", *fields[event["ph"]]}, event
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            ((key, value),) = event["args"].items()
            kind = {"process_name": "name", "thread_name": "name"}.get(event["name"], "sort_index")
            assert key == kind
            assert isinstance(value, str if kind == "name" else int)
        else:
            assert math.isfinite(event["ts"])
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in event["args"].values())
    lanes: dict[int, float] = {}
    for event in sorted((e for e in events if e["ph"] == "X"), key=lambda e: e["ts"]):
        if event["cat"] == "prefill":  # within the stay before it
            assert event["ts"] + event["dur"] <= lanes[event["tid"]] + 0.01
            continue
        assert event["ts"] >= lanes.get(event["tid"], 0.0) - 0.01, "two stays overlap in one lane"
        lanes[event["tid"]] = event["ts"] + event["dur"]


@given(problem=strategies.problems(), machine=strategies.machines(), data=st.data())
@examples(60)
def test_every_stay_is_in_a_lane_of_its_own(problem: Any, machine: Any, data: st.DataObject) -> None:
    workload, memory = problem
    policy = data.draw(strategies.compositions(len(workload)))
    try:
        result = ls.simulate(workload, policy, memory=memory, record=BOTH, **machine)
    except (errors.NotFinishedError, errors.MemoryTooSmallError):
        return
    with tempfile.TemporaryDirectory() as folder:
        events = written(result, Path(folder, "run.json"))
    stays = [event for event in events if event["ph"] == "X" and event["cat"] != "prefill"]
    assert len(stays) == len(result.tokens)
    most = int(result.timeline.batch.max())
    assert {event["tid"] for event in stays} == set(range(1, most + 1))
    ends = [event["args"]["ends"] == "completes" for event in stays]
    assert sum(ends) == len(workload)
    assert len(ends) - sum(ends) == result.total_evictions


def test_prefill_of_several_rounds_is_shown_within_its_stay(tmp_path: Path) -> None:
    result = ls.simulate(ls.Workload([5, 1], [3, 2]), "fcfs", memory=20, seed=None, prefill_budget=2, record=BOTH)
    stays = [event for event in written(result, tmp_path / "run.json") if event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"]) for event in stays] == [
        ("request 0", 0, 5000),
        ("prefill", 0, 3000),  # rounds of a millisecond, chunks of 2, 2 and 1 tokens
        ("request 1", 2000, 2000),
    ]


def test_counters_are_those_of_the_timeline(tmp_path: Path) -> None:
    result = run(clock="llama2-70b-2xa100")
    events = written(result, tmp_path / "run.json")
    rows = result.timeline.expand()
    at = {round(t * 1e6, 3): k for k, t in enumerate(rows["time"])}
    seen = {"cache": 0, "batch": 0, "queue": 0}
    for event in events:
        if event["ph"] == "C" and event["ts"] in at:
            row = at[event["ts"]]
            column = {"cache": "memory", "batch": "batch", "queue": "waiting"}[event["name"]]
            (value,) = event["args"].values()
            assert value == rows[column][row]
            seen[event["name"]] += 1
    assert min(seen.values()) >= len(result.timeline)
    last = [event for event in events if event["ph"] == "C"][-3:]
    assert [list(event["args"].values()) for event in last] == [[0], [0], [0]]


def test_a_round_is_a_millisecond_and_a_second_a_second(tmp_path: Path) -> None:
    for options, unit in (({}, 1e3), ({"clock": ls.Clock(base=0.5)}, 1e6)):
        result = run(**options)
        stays = [event for event in written(result, tmp_path / "run.json") if event["ph"] == "X"]
        assert max(event["ts"] + event["dur"] for event in stays) == pytest.approx(result.makespan * unit)
        first = next(event for event in stays if event["args"]["request"] == 5)
        assert first["ts"] == pytest.approx(result.start[5] * unit)


def test_large_runs_are_cut_and_say_so(tmp_path: Path) -> None:
    result = run(n=300, clock=ls.Clock(base=0.5))
    about = perfetto.write(result, tmp_path / "all.json")
    assert about == (len(result.tokens), 0, result.makespan)
    few = perfetto.write(result, tmp_path / "few.json", most=50)
    assert (few.stays, few.left_out) == (50, len(result.tokens) - 50)
    document = json.loads((tmp_path / "few.json").read_text())
    assert document["otherData"]["left_out"] == few.left_out
    assert document["otherData"]["provenance"]["policy"] == "amin"
    check_format(document["traceEvents"])
    counted = [event for event in document["traceEvents"] if event["ph"] == "C"]
    assert len(counted) <= 3 * 50
    assert max(event["ts"] for event in counted) <= few.until * 1e6 + 1
    log = attempts.attempts(result)
    middle = result.makespan / 2
    window = written(result, tmp_path / "half.json", begin=middle, end=middle + 5)
    inside = (log.end > middle) & (log.begin < middle + 5)
    assert sum(event["ph"] == "X" for event in window) == inside.sum()


def test_a_compressed_trace_and_one_without_counters(tmp_path: Path) -> None:
    result = run(record="tokens")
    perfetto.write(result, tmp_path / "run.json.gz")
    with gzip.open(tmp_path / "run.json.gz", "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    check_format(events)
    assert not any(event["ph"] == "C" for event in events)


def test_nothing_to_write_and_what_cannot_be_written(tmp_path: Path) -> None:
    empty = ls.simulate(ls.Workload([], []), "fcfs", memory=9, record=BOTH)
    assert perfetto.write(empty, tmp_path / "none.json") == (0, 0, 0)
    check_format(json.loads((tmp_path / "none.json").read_text())["traceEvents"])
    with pytest.raises(errors.InputError, match='record="tokens"'):
        perfetto.write(run(record=None), tmp_path / "run.json")
    with pytest.raises(errors.InputError, match="from 3 to 3 is empty"):
        perfetto.write(run(), tmp_path / "run.json", begin=3, end=3)
    with pytest.raises(errors.InputError, match="most must be a whole number from 1"):
        perfetto.write(run(), tmp_path / "run.json", most=0)
    with pytest.raises(OSError, match="No such file"):
        perfetto.write(run(), tmp_path / "no" / "run.json")


# The figure -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plots() -> Any:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    from llmsched.metrics import figures

    return figures


def test_the_figure_shows_cache_batch_queue_evictions_and_a_gantt_chart(plots: Any) -> None:
    result = run()
    assert result.total_evictions
    cache, batch, waiting, left, gantt = figures.timeline(result)
    rows = result.timeline.expand()
    assert max(cache.get_lines()[0].get_ydata()) == pytest.approx(100 * result.peak_memory / 1200)
    assert max(batch.get_lines()[0].get_ydata()) == rows["batch"].max()
    assert max(waiting.get_lines()[0].get_ydata()) == rows["waiting"].max()
    segments = left.collections[0].get_segments()
    assert sum(segment[1][1] for segment in segments) == result.total_evictions
    assert len(gantt.patches) == len(result) + len(result.tokens)
    assert gantt.get_xlabel() == "rounds"
    labels = [text.get_text() for text in gantt.get_legend().get_texts()]
    assert labels == ["waiting", "running, completes", "running, evicted, tokens lost"]


def test_long_runs_are_drawn_as_means_over_pieces_of_time(plots: Any) -> None:
    workload = ls.generate.poisson(ls.generate.lmsys(400), 0.05)
    result = ls.simulate(workload, "fcfs", memory=1500, record=BOTH)
    assert result.rounds > ls.plots._MOST_ROUNDS
    drawn = figures.timeline(result)
    cache = drawn[0]
    line = cache.get_lines()[0]
    time, value = line.get_xdata(), line.get_ydata()
    rows = result.timeline.expand()
    mean = float((rows["memory"] * rows["duration"]).sum()) / result.makespan / 1500 * 100
    assert float((np.diff(time) * value[:-1]).sum()) / result.makespan == pytest.approx(mean)
    assert "gantt" not in {axes.get_ylabel() for axes in drawn}


@pytest.mark.parametrize("policy", ["fcfs", "hsf"])
def test_idle_times_and_small_runs_are_drawn(plots: Any, tmp_path: Path, policy: str) -> None:
    workload = ls.Workload([2, 2], [2, 2], arrival=[1.0, 11.0])
    result = ls.simulate(workload, policy, memory=10, record=BOTH, clock=ls.Clock(base=1.0))
    drawn = figures.timeline(result)
    assert len(drawn) == 4  # nothing was evicted
    line = drawn[1].get_lines()[0]
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [
        (1, 1), (2, 1), (3, 0), (11, 1), (12, 1), (13, 0),
    ]  # fmt: skip
    empty = ls.simulate(ls.Workload([], []), "fcfs", memory=9, record=BOTH)
    figure_style.save(drawn, tmp_path / "timeline.png")
    with pytest.raises(errors.InputError, match="nothing to draw"):
        figures.timeline(empty)


def test_a_figure_needs_a_timeline(plots: Any) -> None:
    with pytest.raises(errors.InputError, match="has no timeline"):
        figures.timeline(run(record="tokens"))
    with pytest.raises(errors.InputError, match="expected a"):
        figures.timeline(3)
    assert len(figures.timeline(run(record="timeline"))) == 4  # no log, no Gantt chart
