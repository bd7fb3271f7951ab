"""Readers of logs with a row per step: our recorder's, vLLM's iteration details, Dynamo's forward-pass metrics."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import TraceError
from ..input_limits import open_text
from .log_rows import MOST, Reading, check_gaps, check_order, requests_of
from .records import Log, Steps

#: A line of vLLM's log; older releases end after the time.
ITERATION = re.compile(
    r"Iteration\((?P<step>\d{1,15})\): (?P<context_requests>\d{1,15}) context requests, "
    r"(?P<context_tokens>\d{1,15}) context tokens, (?P<generation_requests>\d{1,15}) generation requests, "
    r"(?P<generation_tokens>\d{1,15}) generation tokens, "
    r"iteration elapsed time: (?P<time>\d{1,15}(?:\.\d*)?) ?(?P<unit>[a-zµ]+)",
    re.ASCII,
)
_MILLISECONDS = {"ms": 1e-3, "s": 1.0, "us": 1e-6, "µs": 1e-6}


def read_vllm_log(reading: Reading) -> Log:
    """Lines of `--enable-logging-iteration-details`.

    A line says how many requests and tokens of each phase were in the step, and not their context. Its time is that for
    which the engine waited for the step's result.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    dummies = 0
    with open_text(reading.path, errors="surrogateescape") as file:
        for line, text in enumerate(file, 1):
            found = ITERATION.search(text)
            if found is None:
                if "Iteration(" in text and "context requests" in text:
                    reading.wrong("a line of an iteration that is cut off or of another release of vLLM", line)
                continue
            if "(dummy)" in text:
                dummies += 1
                continue
            if found["unit"] not in _MILLISECONDS:
                reading.wrong(f"the time is in {found['unit']!r}, expected ms", line)
                continue
            rows.append((line, {**{k: float(v) for k, v in found.groupdict().items() if k != "unit"},
                                "seconds": float(found["time"]) * _MILLISECONDS[found["unit"]]}))  # fmt: skip
    if dummies:
        reading.notes.append(f"{dummies:,} dummy iterations, which serve nobody, are left out")
    else:
        check_gaps(reading, [line for line, _ in rows], [int(row["step"]) for _, row in rows], "iteration")
    check_order(reading, [line for line, _ in rows], [row["step"] for _, row in rows], "the number of the iteration")
    return Log(
        reading.path,
        "vllm-log",
        _steps(
            reading,
            rows,
            batch=lambda row: row["context_requests"] + row["generation_requests"],
            prefilled=lambda row: row["context_tokens"],
            waited=True,
        ),
        notes=reading.all_notes(),
    )


def read_dynamo(reading: Reading) -> Log:
    """Dynamo's forward-pass metrics, one JSON object per line: as its exporter writes them, or as they are decoded.

    Only one worker and rank may be in a file: each has an engine and a clock of its own.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    lines: list[int] = []
    numbers: list[int] = []
    workers: dict[tuple[str, float], int] = {}
    for line, value in reading.objects():
        metrics = reading.part(value, "metrics", line) if "metrics" in value else value
        rank = reading.number(metrics, "dp_rank", line) if "dp_rank" in metrics else 0.0
        workers.setdefault((str(metrics.get("worker_id", ""))[:80], rank), line)
        if len(workers) > 1:
            names = " and ".join(f"worker {worker!r} rank {rank:g}" for worker, rank in workers)
            reading.wrong(f"there are several engines in it: {names}. Give each a file", line, skippable=False)
        number = value.get("sequence", metrics.get("counter_id"))
        if isinstance(number, int) and abs(number) <= MOST:
            lines.append(line)
            numbers.append(number)
        seconds = reading.number(metrics, "wall_time", line, 0.0)
        if not seconds > 0:  # a heartbeat while it is idle
            continue
        scheduled = reading.part(metrics, "scheduled_requests", line)
        if not scheduled:
            reading.wrong("there are no scheduled_requests in a pass that took time", line)
        counts = {key: reading.number(scheduled, key, line, 0.0) for key in _SCHEDULED if key in scheduled}
        if counts and not any(map(math.isnan, counts.values())):
            rows.append((line, {"seconds": seconds, **counts}))
    check_order(reading, lines, numbers, "the counter of messages")
    check_gaps(reading, lines, numbers, "message")
    steps = _steps(
        reading,
        rows,
        batch=lambda row: row.get("num_prefill_requests", 0) + row.get("num_decode_requests", 0),
        prefilled=lambda row: row.get("sum_prefill_tokens", 0),
        context=lambda row: row.get("sum_prefill_kv_tokens", 0) + row.get("sum_decode_kv_tokens", 0),
    )
    return Log(reading.path, "dynamo", steps, notes=reading.all_notes())


_SCHEDULED = (
    "num_prefill_requests",
    "num_decode_requests",
    "sum_prefill_tokens",
    "sum_prefill_kv_tokens",
    "sum_decode_kv_tokens",
)
_STEP = ("step", "start", "seconds", "batch", "context", "prefilled")
_REQUEST = ("prompt", "output", "arrival", "first_token", "completion")


def read_recorder(reading: Reading) -> Log:
    """The file of our own recorder (`llmsched.serving.recorder`): steps, requests and settings."""
    steps: list[tuple[int, dict[str, float]]] = []
    requests: list[tuple[int, Mapping[str, float]]] = []
    settings: dict[str, Any] = {}
    ended: dict[str, int] = {}
    for line, row in reading.objects():
        kind = row.get("type")
        if kind == "engine":
            if settings:
                reading.wrong("a second run begins here: give each a file of its own", line, skippable=False)
            settings = {key: value for key, value in row.items() if key != "type"}
        elif kind == "step":
            steps.append((line, {key: reading.number(row, key, line, 0.0) for key in _STEP}))
        elif kind == "request" and row.get("reason") in ("abort", "error"):
            ended[str(row["reason"])] = ended.get(str(row["reason"]), 0) + 1
        elif kind == "request":
            requests.append((line, {key: reading.number(row, key, line, 0.0) for key in _REQUEST}))
    steps = [(line, row) for line, row in steps if not any(map(math.isnan, row.values()))]
    lines = [line for line, _ in steps]
    check_order(reading, lines, [row["start"] for _, row in steps], "the start of steps")
    check_gaps(reading, lines, [int(row["step"]) for _, row in steps], "step")
    _check_units(reading, steps)
    reading.notes += [f"{count:,} requests that ended by {reason} are left out" for reason, count in ended.items()]
    return Log(
        reading.path,
        "recorder",
        _steps(
            reading,
            steps,
            batch=lambda row: row["batch"],
            prefilled=lambda row: row["prefilled"],
            context=lambda row: row["context"],
        ),
        requests_of(reading, requests) if requests else None,
        settings,
        reading.all_notes(),
    )


def _check_units(reading: Reading, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Raise TraceError where steps last a thousand times what their starts are apart: milliseconds beside seconds."""
    for (_, row), (line, following) in itertools.pairwise(steps):
        apart = following["start"] - row["start"]
        if apart > 0 and row["seconds"] > 100 * apart:
            reading.wrong(
                f"the step before lasts {row['seconds']:.6g} and this one starts {apart:.6g} after it: the units are "
                "mixed. Write start and seconds both in seconds",
                line,
                skippable=False,
            )


def _steps(
    reading: Reading,
    rows: Sequence[tuple[int, Mapping[str, float]]],
    *,
    batch: Any,
    prefilled: Any,
    context: Any = None,
    waited: bool = False,
) -> Steps:
    """The steps that served anybody. Raises TraceError if there are none."""
    served = [row for _, row in rows if batch(row) > 0 and row["seconds"] > 0]
    if not served:
        raise TraceError("there are no steps in it that served a request", reading.path)
    return Steps(
        seconds=np.array([row["seconds"] for row in served], np.float64),
        batch=np.array([batch(row) for row in served], np.int64),
        prefilled=np.array([prefilled(row) for row in served], np.int64),
        context=None if context is None else np.array([context(row) for row in served], np.int64),
        waited=waited,
    )
