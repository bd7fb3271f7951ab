"""Logs of real engines: every format says what was written, and what is wrong is named with file, line and advice."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import engine_logs
from helpers.engine_logs import REQUESTS, STEPS, engine_run, requests_of, steps_of, write_lines
from helpers.examples import some

import llmsched as ls
from llmsched.errors import InputError, TraceError
from llmsched.serving import logs


@pytest.fixture(scope="module")
def result() -> ls.Result:
    return engine_run(40)


@pytest.mark.parametrize("format", STEPS)
def test_steps_are_read_as_they_were_written(tmp_path: Path, format: str, result: ls.Result) -> None:
    log = logs.read(STEPS[format](tmp_path / "log", result))
    assert log.format == format
    assert log.steps is not None
    written = steps_of(result)
    near = 6e-6 if format == "vllm-log" else 1e-12  # it prints hundredths of milliseconds
    np.testing.assert_allclose(log.steps.seconds, [row["seconds"] for row in written], atol=near)
    np.testing.assert_array_equal(log.steps.batch, [row["batch"] for row in written])
    np.testing.assert_array_equal(log.steps.prefilled, [row["prefilled"] for row in written])
    if format == "vllm-log":
        assert log.steps.context is None
        assert log.steps.waited
    else:
        np.testing.assert_array_equal(log.steps.context, [row["context"] for row in written])


@pytest.mark.parametrize("format", [*STEPS, *REQUESTS])
def test_a_log_shows_what_is_in_it_and_not_every_number(tmp_path: Path, format: str, result: ls.Result) -> None:
    log = logs.read((STEPS | REQUESTS)[format](tmp_path / "log", result))
    assert len(repr(log)) < 300
    assert f"format {format}" in repr(log)
    shown = log._repr_html_()
    if log.requests is not None:
        assert repr(log.requests) == f"Requests(40 requests: mean latency {result.mean_latency:.4g} s)"
        assert "<td" in shown.partition("latency (s)")[2]
    if log.steps is not None:
        assert f"Log of {len(log.steps):,} steps" in shown


@pytest.mark.parametrize("format", REQUESTS)
def test_requests_are_read_as_they_were_written(tmp_path: Path, format: str, result: ls.Result) -> None:
    log = logs.read(REQUESTS[format](tmp_path / "log", result))
    assert log.format == format
    requests = log.requests
    assert requests is not None
    written = requests_of(result)
    begin = written[0]["arrival"]
    np.testing.assert_array_equal(requests.prompt, [row["prompt"] for row in written])
    np.testing.assert_array_equal(requests.output, [row["output"] for row in written])
    for name, key in (("arrival", "arrival"), ("first_token", "first"), ("completion", "completion")):
        np.testing.assert_allclose(getattr(requests, name), [row[key] - begin for row in written], atol=2e-6)


def test_settings_are_those_of_the_engine_without_its_own_block(tmp_path: Path, result: ls.Result) -> None:
    for format in ("recorder", "run"):
        settings = logs.read(REQUESTS[format](tmp_path / format, result)).settings
        assert (settings["num_gpu_blocks"], settings["max_num_seqs"]) == (700, 24)


def test_failed_and_aborted_requests_are_left_out_and_counted(tmp_path: Path, result: ls.Result) -> None:
    path = engine_logs.aiperf(tmp_path / "a.jsonl", result)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["error"] = {"code": 499}
    log = logs.read(write_lines(path, rows))
    assert log.requests is not None
    assert len(log.requests) == len(result) - 1
    assert "1 requests that failed" in log.notes[0]

    path = engine_logs.recorder(tmp_path / "r.jsonl", result)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1] |= {"reason": "abort", "first_token": None}
    log = logs.read(write_lines(path, rows))
    assert log.requests is not None
    assert len(log.requests) == len(result) - 1
    assert log.notes == ("1 requests that ended by abort are left out",)


def broken(text: str, line: int, change: Callable[[dict[str, Any]], None]) -> str:
    """A JSON Lines text with one row changed."""
    rows = [json.loads(row) for row in text.splitlines()]
    change(rows[line - 1])
    return "".join(json.dumps(row) + "\n" for row in rows)


def set_to(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda row: row.update(values)


BAD = {
    "a gap": ("recorder", lambda t: "".join(t.splitlines(keepends=True)[:9] + t.splitlines(keepends=True)[12:]),
              "line 10: a gap: step 11 follows 7, 3 are missing"),
    "steps whose clock runs back": ("recorder", lambda t: broken(t, 9, set_to(start=0.0)),
                                    "line 9: the start of steps runs back"),
    "milliseconds beside seconds": ("recorder", lambda t: broken(t, 9, set_to(seconds=15.0)),
                                    "line 10: the step before lasts 15 and .*units are mixed"),
    "an engine that started twice": ("recorder", lambda t: t + t, "a second run begins here"),
    "a step without a batch": ("recorder", lambda t: broken(t, 5, lambda row: row.pop("batch")),
                               "line 5: batch is not there, expected a number of at least 0"),
    "a line that is cut off": ("recorder", lambda t: t[:-30], "the file is cut off here.*delete this line"),
    "a number that is a text": ("run", lambda t: broken(t, 2, set_to(last_token_ts="now")),
                                "line 2: last_token_ts is 'now', expected a number"),
    "one time in milliseconds": ("run", lambda t: broken(t, 4, lambda r: r.update(
                                 last_token_ts=r["last_token_ts"] * 1e3)),
                                 "line 4: completion is .* about 1000 times that of other rows: the units are mixed"),
    "a token before the request": ("run", lambda t: broken(t, 4, lambda r: r.update(first_token_ts=5000.0)),
                                   "line 4: the clock runs back: first_token is .* before arrival"),
    "a clock that was set": ("run", lambda t: broken(t, 7, lambda r: r.update(arrival_time=r["arrival_time"] + 900)),
                             "line 7: arrival_time and queued_ts are .* further apart in other rows"),
    "a request that never ended": ("run", lambda t: broken(t, 4, set_to(last_token_ts=None)),
                                   "line 4: the request has no last_token_ts"),
    "iterations that are missing": ("vllm-log", lambda t: "".join(t.splitlines(keepends=True)[:9]
                                    + t.splitlines(keepends=True)[11:]), "line 10: a gap: iteration 10 follows 7"),
    "an iteration that is cut off": ("vllm-log", lambda t: t[:-60], "a line of an iteration that is cut off"),
    "two workers": ("dynamo", lambda t: broken(t, 9, lambda r: r["metrics"].update(worker_id="other")),
                    "line 9: there are several engines in it: worker 'w' rank 0 and worker 'other'"),
    "messages that are missing": ("dynamo", lambda t: broken(t, 9, set_to(sequence=12)),
                                  "line 9: a gap: message 12 follows 7|line 10: the counter of messages runs back"),
    "a unit that is unknown": ("aiperf", lambda t: broken(t, 2, lambda r: r["metrics"]["request_latency"].update(
                               unit="fortnights")), "line 2: request_latency is in 'fortnights', expected one of ns"),
    "no length": ("aiperf", lambda t: broken(t, 2, lambda r: r["metrics"].pop("input_sequence_length")),
                  "line 2: there is no input_sequence_length"),
    "a document that is cut off": ("guidellm", lambda t: t[:-80], "the file is cut off: copy it again"),
    "two benchmarks": ("guidellm", lambda t: json.dumps({"benchmarks": json.loads(t)["benchmarks"] * 2}),
                       "2 benchmarks in it, each a run of its own"),
    "two results": ("vllm-bench", lambda t: t + "\n" + t, "line 2: there are several runs in this file"),
    "no details": ("vllm-bench", lambda t: json.dumps({"request_throughput": 3.0}),
                   "it lacks input_lens, .*--save-detailed"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_logs_are_refused_with_file_line_and_advice(tmp_path: Path, name: str, result: ls.Result) -> None:
    format, spoil, message = BAD[name]
    path = {**STEPS, **REQUESTS}[format](tmp_path / "log", result)
    file = path / "requests.jsonl" if path.is_dir() else path
    file.write_text(spoil(file.read_text()))
    with pytest.raises(TraceError, match=message) as raised:
        logs.read(path)
    assert str(file) in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path: Path, result: ls.Result) -> None:
    path = engine_logs.run_directory(tmp_path / "run", result)
    file = path / "requests.jsonl"
    file.write_text(broken(file.read_text(), 4, set_to(last_token_ts=None)))
    log = logs.read(path, on_error="skip")
    assert log.requests is not None
    assert len(log.requests) == len(result) - 1
    assert "1 bad rows left out, the first: " in log.notes[-1]
    assert "line 4" in log.notes[-1]


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    for text, message in (
        ("", "the file is empty"),
        ("hello\n", "this is no log that is known"),
        ('{"a": 1}\n', "its first object has the keys 'a'"),
    ):
        (tmp_path / "log").write_text(text)
        with pytest.raises(TraceError, match=message):
            logs.read(tmp_path / "log")
    with pytest.raises(TraceError, match=r"no requests\.jsonl in this directory"):
        logs.read(tmp_path)
    (tmp_path / "log").write_text('{"type": "engine"}\n')
    with pytest.raises(InputError, match="on_error='ignore' is unknown"):
        logs.read(tmp_path / "log", on_error="ignore")


def test_real_runs_are_read_with_their_settings(data_file: Callable[[str], Path]) -> None:
    log = logs.read(data_file("engines/rtx4090_llama31_8b"))
    assert log.requests is not None
    assert len(log.requests) == 300
    assert log.settings["num_gpu_blocks"] == 2587
    assert log.requests.latency.mean() == pytest.approx(86.6, abs=0.1)
    assert log.notes == ()


_STRANGE = (None, True, "x", [], [None], {"x": []}, -1, 0, 10**400, math.nan)


def _nodes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places in a JSON value, the first members of its lists alone."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, member in inside:
        yield from _nodes(member, (*path, key))


def _with(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = _with(value[path[0]], path[1:], new)
    return changed


@pytest.mark.parametrize("format", sorted({**STEPS, **REQUESTS}))
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_anything_anywhere_in_a_log_is_read_or_refused(tmp_path: Path, format: str, on_error: Any) -> None:
    """The fuzzer found a pass of Dynamo without scheduled_requests; this tries every place of every format."""
    if format == "vllm-log":
        pytest.skip("it is no JSON")
    path = {**STEPS, **REQUESTS}[format](tmp_path / "log", engine_run(3))
    place = path / "requests.jsonl" if path.is_dir() else path
    whole = place.read_text()
    lines = [whole] if format in ("guidellm", "vllm-bench") else whole.splitlines()
    values = {number: json.loads(lines[number]) for number in (0, len(lines) // 2, len(lines) - 1)}
    places = [(number, node) for number, value in values.items() for node in _nodes(value)]
    for (number, node), new in some([*itertools.product(places, _STRANGE)]):
        text = json.dumps(_with(values[number], node, new))
        place.write_text("\n".join([*lines[:number], text, *lines[number + 1 :]]) + "\n")
        with contextlib.suppress(TraceError), warnings.catch_warnings(action="error"):
            logs.read(path, on_error=on_error)
