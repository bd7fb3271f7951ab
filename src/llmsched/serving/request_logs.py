"""Readers of logs with a row per request: vLLM's timestamps, `vllm bench serve`, guidellm, aiperf."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputLimitError, TraceError
from ..settings_files import json_value, read_text
from .log_rows import Reading, number, requests_of
from .records import Log

Row = tuple[int, Mapping[str, float]]


def read_run(reading: Reading) -> Log:
    """`requests.jsonl` with vLLM's timestamps, and `meta.json` beside it if that is there.

    `arrival_time` is of another clock than the rest: the two are put together so that the request that was queued
    fastest was queued at once. Where it is missing, a request arrived when it was queued.
    """
    rows: list[Row] = []
    for line, row in reading.objects():
        times = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
        if row.get("last_token_ts") is None:
            reading.wrong("the request has no last_token_ts: it did not complete", line)
            continue
        values = {key: reading.number(row, key, line, 0.0) for key in ("input_toks", "output_toks", *times[2:])}
        for key in times[:2]:
            values[key] = reading.number(row, key, line, 0.0) if row.get(key) is not None else math.nan
        rows.append((line, values))
    aligned = _aligned(reading, rows)
    settings = _meta(Path(reading.path).with_name("meta.json"))
    return Log(reading.path, "run", None, requests_of(reading, aligned), settings, reading.all_notes())


def _aligned(reading: Reading, rows: Sequence[Row]) -> list[Row]:
    """The rows with arrivals by the clock of the engine."""
    arrival = np.array([row["arrival_time"] for _, row in rows])
    queued = np.array([row["queued_ts"] for _, row in rows])
    both = ~np.isnan(arrival) & ~np.isnan(queued)
    ahead = queued - arrival
    offset = float(ahead[both].min()) if both.any() else 0.0
    # A clock that is set, or another unit: most requests are queued within seconds of each other's delay.
    usual = float(np.median(ahead[both])) if both.any() else 0.0
    if usual - offset > 60:
        line = rows[int(np.argmin(np.where(both, ahead, np.inf)))][0]
        reading.wrong(
            f"arrival_time and queued_ts are {usual - offset:.6g} s further apart in other rows: a clock was set, or "
            "the units are mixed. Write both in seconds",
            line,
            skippable=False,
        )
    shift = 0.0 if abs(offset) < 1 else offset
    return [
        (
            line,
            {
                "prompt": row["input_toks"],
                "output": row["output_toks"],
                "arrival": row["queued_ts"] if math.isnan(row["arrival_time"]) else row["arrival_time"] + shift,
                "first_token": row["first_token_ts"],
                "completion": row["last_token_ts"],
            },
        )
        for line, row in rows
    ]


def _meta(path: Path) -> dict[str, Any]:
    """Settings of the engine in `meta.json`, by vLLM's names; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        meta = json_value(read_text(path))
    except InputLimitError:
        raise
    except ValueError as error:
        raise TraceError(f"not JSON: {error}. Copy it again, or delete it", str(path)) from None
    if not isinstance(meta, dict):
        raise TraceError("expected an object in braces. Copy it again, or delete it", str(path))
    settings: dict[str, Any] = {}
    parts = ("engine_kwargs", "kv_cache", "resolved_config")
    for part in (meta, *(meta.get(name) for name in parts)):
        if isinstance(part, dict):
            settings |= {key: value for key, value in part.items() if value is not None and key not in parts}
    if number(settings.get("num_gpu_blocks")):
        settings["num_gpu_blocks"] -= 1  # one is vLLM's own, the null block
    return settings


def read_vllm_bench(reading: Reading) -> Log:
    """The result of `vllm bench serve --save-result --save-detailed`."""
    result = reading.document()
    keys = ("input_lens", "output_lens", "ttfts", "itls", "start_times")
    lists: dict[str, Any] = {key: result.get(key) for key in keys}
    missing = [key for key, value in lists.items() if not isinstance(value, list)]
    if missing:
        raise TraceError(
            f"it lacks {', '.join(missing)}: run `vllm bench serve` with --save-result --save-detailed (of a release "
            "that writes start_times)",
            reading.path,
        )
    lengths = {key: len(value) for key, value in lists.items()}
    if len(set(lengths.values())) > 1:
        raise TraceError(f"its lists have different lengths: {lengths}", reading.path)
    errors = result.get("errors") or [""] * lengths["ttfts"]
    if not isinstance(errors, list) or len(errors) != lengths["ttfts"]:
        raise TraceError(f"errors is no list of {lengths['ttfts']} texts, one for each request", reading.path)
    rows: list[Row] = []
    failed = 0
    for k, (prompt, output, ttft, gaps, start, error) in enumerate(zip(*lists.values(), errors, strict=True)):
        if error or not output:
            failed += 1
            continue
        named = {f"input_lens[{k}]": prompt, f"output_lens[{k}]": output, f"ttfts[{k}]": ttft or 0.0}
        tokens, made, wait = (reading.number(named, key, 1, 0.0) for key in named)
        begin = reading.number({f"start_times[{k}]": start}, f"start_times[{k}]", 1)
        if not isinstance(gaps, list) or not all(map(number, gaps)):
            reading.wrong(f"itls[{k}] is no list of numbers", 1)
            continue
        first = begin + wait if wait else math.nan
        rows.append((1, _row(tokens, made, begin, first, begin + wait + math.fsum(gaps))))
    _note_failed(reading, failed)
    return Log(reading.path, "vllm-bench", None, requests_of(reading, rows), {}, reading.all_notes())


def read_guidellm(reading: Reading) -> Log:
    """`benchmarks.json` of guidellm: the successful requests of the one benchmark in it."""
    benchmarks = reading.document().get("benchmarks")
    if not isinstance(benchmarks, list) or not benchmarks or not isinstance(benchmarks[0], dict):
        raise TraceError("there are no benchmarks in it", reading.path)
    if len(benchmarks) > 1:
        raise TraceError(
            f"there are {len(benchmarks)} benchmarks in it, each a run of its own: run guidellm with one rate",
            reading.path,
        )
    requests = reading.part(benchmarks[0], "requests", None)
    rows: list[Row] = []
    for request in reading.objects_in(requests, "successful"):
        timings = reading.part(reading.part(request, "info", None), "timings", None)
        start = _first_of(timings.get("request_start"), request.get("request_start_time"), timings.get("resolve_start"))
        first = _first_of(timings.get("first_token_iteration"), timings.get("first_iteration"))
        end = _first_of(
            timings.get("last_token_iteration"), timings.get("request_end"), request.get("request_end_time")
        )
        prompt = _first_of(
            request.get("prompt_tokens"), reading.part(request, "input_metrics", None).get("text_tokens")
        )
        output = _first_of(
            request.get("output_tokens"), reading.part(request, "output_metrics", None).get("text_tokens")
        )
        if math.isnan(start + end + prompt + output):
            reading.wrong(
                f"request {request.get('request_id')!r} lacks its start, end, prompt_tokens or output_tokens", None
            )
            continue
        rows.append((1, _row(prompt, output, start, first, end)))
    _note_failed(reading, sum(len(reading.objects_in(requests, kind)) for kind in ("errored", "incomplete")))
    return Log(reading.path, "guidellm", None, requests_of(reading, rows), {}, reading.all_notes())


#: Unit that aiperf writes -> seconds.
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "milliseconds": 1e-3}


def read_aiperf(reading: Reading) -> Log:
    """`profile_export.jsonl` of aiperf: requests of the profiling phase that did not fail."""
    rows: list[Row] = []
    failed = 0
    for line, record in reading.objects():
        about, metrics = reading.part(record, "metadata", line), reading.part(record, "metrics", line)
        if about.get("benchmark_phase", "profiling") != "profiling":
            continue
        if record.get("error") or about.get("was_cancelled"):
            failed += 1
            continue
        start = reading.number(about, "request_start_ns", line, 0.0)
        # Nanoseconds since 1970 have more digits than a double: counted from the first row.
        prompt = _value(reading, metrics, line, "input_sequence_length")
        output = _value(reading, metrics, line, "output_sequence_length", "output_token_count")
        first = _seconds(reading, metrics, line, "time_to_first_token")
        latency = _seconds(reading, metrics, line, "request_latency")
        if math.isnan(latency) and not math.isnan(start):
            latency = (reading.number(about, "request_end_ns", line, 0.0) - start) * 1e-9
        arrival = start * 1e-9
        rows.append((line, _row(prompt, output, arrival, arrival + first, arrival + latency)))
    _note_failed(reading, failed)
    return Log(reading.path, "aiperf", None, requests_of(reading, rows), {}, reading.all_notes())


def _value(reading: Reading, metrics: Mapping[str, Any], line: int, *names: str) -> float:
    """The value of the first of these metrics that is there."""
    for name in names:
        if isinstance(metrics.get(name), dict):
            return reading.number(metrics[name], "value", line, 0.0)
    reading.wrong(f"there is no {' or '.join(names)}: run aiperf with --streaming and a tokenizer", line)
    return math.nan


def _seconds(reading: Reading, metrics: Mapping[str, Any], line: int, name: str) -> float:
    """A time, whatever its unit; NaN where it is missing."""
    if not isinstance(metrics.get(name), dict):
        return math.nan
    unit = metrics[name].get("unit")
    if not isinstance(unit, str) or unit not in _UNITS:
        reading.wrong(f"{name} is in {unit!r:.40}, expected one of {', '.join(_UNITS)}", line)
        return math.nan
    return reading.number(metrics[name], "value", line, 0.0) * _UNITS[unit]


def _row(prompt: float, output: float, arrival: float, first: float, completion: float) -> dict[str, float]:
    return {"prompt": prompt, "output": output, "arrival": arrival, "first_token": first, "completion": completion}


def _first_of(*values: Any) -> float:
    """The first that is a number; NaN if none is."""
    return next((float(value) for value in values if number(value)), math.nan)


def _note_failed(reading: Reading, failed: int) -> None:
    if failed:
        reading.notes.append(f"{failed:,} requests that failed are left out; the engine may have served a part of them")
