"""Logs of real engines, read whatever wrote them: steps, requests, settings.

    log = ls.serving.logs.read("run.jsonl")
    log.steps, log.requests, log.settings

Formats (`FORMATS`), found by what is in the file:

- ``recorder``: the file of `llmsched.serving.recorder`.
- ``run``: `requests.jsonl` with vLLM's own timestamps (queued_ts, first_token_ts), alone or in a directory with
  `meta.json`, as LLMServingSim's bench writes it.
- ``vllm-log``: lines "Iteration(7): 1 context requests, ..." of vLLM (`--enable-logging-iteration-details`).
- ``dynamo``: forward-pass metrics of NVIDIA Dynamo, a JSON object per line.
- ``vllm-bench``: the result of `vllm bench serve --save-result --save-detailed`.
- ``guidellm``: `benchmarks.json` of guidellm.
- ``aiperf``: `profile_export.jsonl` of aiperf.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import TraceError
from ..input_limits import open_text
from ..progress import with_seconds
from ..settings_files import json_value
from . import request_logs, step_logs
from .log_rows import OnError, Reading
from .records import Log

__all__ = ["FORMATS", "read"]

#: Format -> its reader.
FORMATS: dict[str, Callable[[Reading], Log]] = {
    "recorder": step_logs.read_recorder,
    "run": request_logs.read_run,
    "vllm-log": step_logs.read_vllm_log,
    "dynamo": step_logs.read_dynamo,
    "vllm-bench": request_logs.read_vllm_bench,
    "guidellm": request_logs.read_guidellm,
    "aiperf": request_logs.read_aiperf,
}


@with_seconds("reading")
def read(path: str | os.PathLike[str], *, on_error: OnError = "raise") -> Log:
    """The log in a file, or in a directory with `requests.jsonl`.

    Raises
    ------
    TraceError
        It is in none of the formats, or a row cannot be used: gaps, clocks that run back, mixed units, JSON that is cut
        off. Names the file, the line, and what to do; with ``on_error="skip"`` such rows are left out and counted in
        `Log.notes`.
    OSError
        It cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        if not (place / "requests.jsonl").is_file():
            raise TraceError("there is no requests.jsonl in this directory: give the log itself", str(place))
        place = place / "requests.jsonl"
    return FORMATS[_format_of(place)](Reading(str(place), on_error))


def _format_of(path: Path) -> str:
    """The format, by the first object in the file or the first line that vLLM logs."""
    with open_text(path, "document", lines=False, errors="surrogateescape") as file:
        head = [line for line in (file.readline() for _ in range(2000)) if line.strip()]
    if not head:
        raise TraceError("the file is empty", str(path))
    if head[0].lstrip().startswith("{"):
        return _format_of_json(path, head[0])
    if any(step_logs.ITERATION.search(line) for line in head):
        return "vllm-log"
    raise TraceError(
        f"this is no log that is known ({', '.join(FORMATS)}): it is no JSON, and its first 2,000 lines have no "
        '"Iteration(...)" of vLLM, which --enable-logging-iteration-details writes',
        str(path),
    )


def _format_of_json(path: Path, line: str) -> str:
    keys = _keys(line)
    if keys is None:  # an object over several lines, or one that is cut off
        with open_text(path, "document", lines=False, errors="surrogateescape") as file:
            text = file.read()
        keys = {key: None for key in ("benchmarks", "ttfts", "input_lens") if f'"{key}"' in text}
    if keys.get("type") in ("engine", "step", "request"):
        return "recorder"
    for format, needed in _KEYS.items():
        if any(all(key in keys for key in some) for some in needed):
            return format
    raise TraceError(
        f"this is no log that is known ({', '.join(FORMATS)}): its first object has the keys "
        f"{', '.join(map(repr, list(keys)[:8])) or 'none'}",
        str(path),
        1,
    )


#: Format -> keys that its first object has: all of one of these groups.
_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "run": (("queued_ts", "first_token_ts"), ("input_toks", "output_toks")),
    "aiperf": (("metadata", "metrics"),),
    "dynamo": (("scheduled_requests", "wall_time"), ("metrics", "publisher_id"), ("metrics", "sequence")),
    "guidellm": (("benchmarks",),),
    "vllm-bench": (("request_throughput",), ("ttfts",), ("input_lens",)),
}


def _keys(line: str) -> dict[str, Any] | None:
    try:
        value = json_value(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else {}
