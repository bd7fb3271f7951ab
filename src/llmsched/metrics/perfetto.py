"""A run as a trace that https://ui.perfetto.dev (or chrome://tracing) opens: who ran when, and counters.

    result = ls.simulate(workload, "amin", memory=16_492, record=("tokens", "timeline"))
    ls.perfetto.write(result, "run.json")

The format is Chrome's trace event format, as JSON: a lane (thread) per slot of the batch with an event for every stay
of a request in it, and counters for cache, batch and queue.
"""

from __future__ import annotations

import gzip
import heapq
import json
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..progress import with_seconds
from ..simulation.result import Result
from ..workloads.argument_checks import whole
from .attempts import Attempts, attempts

__all__ = ["MOST", "Written", "check_path", "write"]

#: Stays in the batch, and points of the counters, that are written unless told otherwise: some 50 MB, which opens fast.
MOST = 200_000

_SLOTS, _COUNTERS = 1, 2  # process ids


class Written(NamedTuple):
    """What `write` wrote: stays in the batch, those left out as there were too many, the time up to which all are."""

    stays: int
    left_out: int
    until: float


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless `write` can write a file of this name, by its extension."""
    name = os.fspath(path)
    if not name.lower().endswith((".json", ".json.gz")):
        raise InputError(f"cannot write a trace to {name!r}: its name must end in .json or .json.gz")


@with_seconds("writing")
def write(
    result: Result,
    path: str | os.PathLike[str],
    *,
    begin: float = 0.0,
    end: float = math.inf,
    most: int = MOST,
) -> Written:
    """Write a run recorded with ``record="tokens"`` (counters need ``"timeline"`` as well) as a Chrome trace.

    A second is a second of the trace; without a clock, a round is a millisecond.

    Parameters
    ----------
    result
        The run.
    path
        File to write: .json, or .json.gz for a compressed one, which Perfetto opens as well.
    begin, end
        Only what happened between these times.
    most
        The most stays in the batch to write: the first so many of the window. Counters are thinned out to as many.

    Raises
    ------
    InputError
        The run has no log of tokens, the window is empty, or the file's name ends in something else.
    OSError
        The file cannot be written.
    """
    check_path(path)
    most = whole("most", most, 1)
    if not begin < end:
        raise InputError(f"the window from {begin:g} to {end:g} is empty")
    log = attempts(result)
    order = np.argsort(log.begin, kind="stable")
    order = order[(log.end[order] > begin) & (log.begin[order] < end)]
    kept, left_out = order[:most], order[most:]
    until = float(log.begin[left_out[0]]) if len(left_out) else min(end, result.makespan)
    unit = 1e6 if result.clock is not None else 1e3  # microseconds in a unit of time
    events = [*_stays(result, log, kept, unit), *_counters(result, log, (begin, until), unit, most)]
    about = {
        "title": f"{result.policy.name}, {len(result)} requests, {result.memory} tokens of cache",
        "unit": "a round is shown as 1 ms" if result.clock is None else "seconds",
        "left_out": len(left_out),
        "until": until,
        "provenance": json.loads(json.dumps(result.provenance, default=str)),
    }
    document = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
    opener = gzip.open if os.fspath(path).endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps(document, separators=(",", ":"), allow_nan=False))
    return Written(len(kept), len(left_out), until)


def _stays(result: Result, log: Attempts, kept: np.ndarray[Any, Any], unit: float) -> Iterator[dict[str, Any]]:
    """An event per stay, on the lowest lane that is free, one for slow prefill within it, and the names of lanes."""
    workload, resume = result.workload, result.policy.resume
    after = {"restart": "evicted, tokens lost", "recompute": "evicted, cache lost", "swap": "evicted, cache moved out"}
    free: list[int] = []
    busy: list[tuple[float, int]] = []  # end, lane
    lanes = 0
    for k in kept.tolist():
        begin, end, i = float(log.begin[k]), float(log.end[k]), int(log.request[k])
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lanes += 1
            lane = lanes
        heapq.heappush(busy, (end, lane))
        yield {
            "name": f"request {i}",
            "cat": "completes" if log.completes[k] else "evicted",
            "ph": "X",
            "ts": _microseconds(begin, unit),
            "dur": _microseconds(end - begin, unit),
            "pid": _SLOTS,
            "tid": lane,
            "args": {
                "request": i,
                "ends": "completes" if log.completes[k] else after[resume],
                "prompt": int(workload.prompt[i]),
                "output": int(workload.output[i]),
                "tokens before": int(log.kept[k]),
                "tokens after": int(log.generated[k]),
                "arrival": float(workload.arrival[i]),
            },
        }
        if log.first_token[k] > log.first_round[k]:  # the prompt takes several rounds
            until = float(log.round_end[min(log.first_token[k], log.last_round[k])])
            yield {
                "name": "prefill",
                "cat": "prefill",
                "ph": "X",
                "ts": _microseconds(begin, unit),
                "dur": _microseconds(until - begin, unit),
                "pid": _SLOTS,
                "tid": lane,
                "args": {"request": i},
            }
    yield _metadata("process_name", _SLOTS, 0, name=f"running requests ({result.policy.name})")
    yield _metadata("process_sort_index", _SLOTS, 0, sort_index=1)
    for lane in range(1, lanes + 1):
        yield _metadata("thread_name", _SLOTS, lane, name=f"slot {lane}")
        yield _metadata("thread_sort_index", _SLOTS, lane, sort_index=lane)


def _metadata(what: str, process: int, thread: int, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": process, "tid": thread, "args": args}


def _counters(
    result: Result, log: Attempts, window: tuple[float, float], unit: float, most: int
) -> Iterator[dict[str, Any]]:
    """Counters where a segment of the timeline begins and in its last round, and zeros where nothing runs."""
    segments = result.timeline
    if segments is None or not len(segments):
        return
    last = np.cumsum(segments.rounds) - 1
    ends = log.round_end[last]
    idle = np.ones(len(segments), bool)
    idle[:-1] = segments.time[1:] > ends[:-1]
    zero = np.zeros(int(idle.sum()), np.int64)
    longer = segments.rounds > 1
    time = np.concatenate([segments.time, log.round_begin[last[longer]], ends[idle]])
    memory = np.concatenate([segments.memory, (segments.memory + (segments.rounds - 1) * segments.batch)[longer], zero])
    batch = np.concatenate([segments.batch, segments.batch[longer], zero])
    waiting = np.concatenate([segments.waiting, segments.waiting[longer], zero])
    order = np.argsort(time, kind="stable")
    order = order[(time[order] >= window[0]) & (time[order] <= window[1])]
    if len(order) > most:
        order = order[np.unique(np.linspace(0, len(order) - 1, most).astype(np.int64))]
    yield _metadata("process_name", _COUNTERS, 0, name="cache, batch and queue")
    yield _metadata("process_sort_index", _COUNTERS, 0, sort_index=0)
    columns = (time[order].tolist(), memory[order].tolist(), batch[order].tolist(), waiting[order].tolist())
    for at, tokens, running, queue in zip(*columns, strict=True):
        ts = _microseconds(at, unit)
        for name, series, value in (
            ("cache", "tokens", tokens),
            ("batch", "requests", running),
            ("queue", "requests", queue),
        ):
            yield {"name": name, "ph": "C", "ts": ts, "pid": _COUNTERS, "tid": 0, "args": {series: value}}


def _microseconds(time: float, unit: float) -> float:
    return round(time * unit, 3)
