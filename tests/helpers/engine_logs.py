"""Logs of an engine that is a simulation with a known clock, in every format that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.serving.vllm import settings

CLOCK = ls.Clock(base=0.012, per_request=4e-5, per_context_token=2e-7, per_prompt_token=6e-5)
SETTINGS = {"num_gpu_blocks": 700, "block_size": 16, "max_num_seqs": 24, "max_num_batched_tokens": 512}
SYSTEM = "vllm:num-gpu-blocks=700,max-num-seqs=24,max-num-batched-tokens=512"
EPOCH, BOOT = 1.7e9, 5000.0


def engine_run(n: int = 120, rate: float = 4.0, clock: ls.Clock = CLOCK, seed: int = 1) -> ls.Result:
    """Requests at `rate` served by vLLM with `SETTINGS`, steps and tokens recorded."""
    rng = np.random.default_rng(seed)
    workload = ls.Workload(
        prompt=rng.integers(40, 900, n),
        output=rng.integers(20, 160, n),
        arrival=np.cumsum(rng.exponential(1 / rate, n)),
    )
    return ls.simulate(workload, clock=clock, record=("tokens", "timeline"), **settings(**SETTINGS))


def requests_of(result: ls.Result) -> list[dict[str, Any]]:
    """Prompt, output, arrival, first token and completion of every request, in seconds."""
    first = ls.service.metrics(result).ttft + result.workload.arrival
    columns = {
        "prompt": result.workload.prompt,
        "output": result.workload.output,
        "arrival": result.workload.arrival,
        "first": first,
        "completion": result.completion,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def steps_of(result: ls.Result) -> list[dict[str, Any]]:
    """Start, seconds, batch, context and tokens prefilled of every step."""
    timeline = result.timeline
    assert timeline is not None
    assert result.clock is not None
    later = np.arange(timeline.rounds.sum()) - np.repeat(np.cumsum(timeline.rounds) - timeline.rounds, timeline.rounds)
    batch = np.repeat(timeline.batch, timeline.rounds)
    context = np.repeat(timeline.context, timeline.rounds) + later * batch
    prefilled = np.where(later == 0, np.repeat(timeline.prefilled, timeline.rounds), 0)
    start = timeline.expand()["time"]
    return [
        {"start": t, "seconds": result.clock.duration(b, c, p), "batch": b, "context": c, "prefilled": p}
        for t, b, c, p in zip(start.tolist(), batch.tolist(), context.tolist(), prefilled.tolist(), strict=True)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recorder(path: Path, result: ls.Result) -> Path:
    steps = [{"type": "step", "step": k, **row} for k, row in enumerate(steps_of(result))]
    requests = [
        {"type": "request", "request": k, "reason": "length", "first_token": row.pop("first"), **row}
        for k, row in enumerate(requests_of(result))
    ]
    return write_lines(path, [{"type": "engine", "format": 1, "vllm": "0.32.0", **SETTINGS}, *steps, *requests])


def vllm_log(path: Path, result: ls.Result) -> Path:
    lines = ["(EngineCore pid=9) INFO 11-29 02:00:00 [core.py:1] Initializing"]
    for k, row in enumerate(steps_of(result)):
        context = int(row["prefilled"] > 0)
        generation = row["batch"] - context
        lines.append(
            f"INFO 11-29 02:00:01 [loggers.py:195] Engine 000: Iteration({k}): {context} context requests, "
            f"{row['prefilled']} context tokens, {generation} generation requests, {generation} generation tokens, "
            "iteration elapsed time: "
            f"{row['seconds'] * 1e3:.2f} ms, GPU KV cache usage: 3.0%"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def dynamo(path: Path, result: ls.Result) -> Path:
    rows = []
    for k, row in enumerate(steps_of(result)):
        scheduled = {
            "num_prefill_requests": int(row["prefilled"] > 0),
            "sum_prefill_tokens": row["prefilled"],
            "sum_prefill_kv_tokens": 0,
            "num_decode_requests": row["batch"] - int(row["prefilled"] > 0),
            "sum_decode_kv_tokens": row["context"],
        }
        metrics = {"worker_id": "w", "dp_rank": 0, "wall_time": row["seconds"], "scheduled_requests": scheduled}
        rows.append({"namespace": "dynamo", "publisher_id": 7, "sequence": k, "metrics": metrics})
    rows.append(
        {"publisher_id": 7, "sequence": len(rows), "metrics": {"worker_id": "w", "dp_rank": 0, "wall_time": 0.0}}
    )
    return write_lines(path, rows)


def run_directory(path: Path, result: ls.Result) -> Path:
    """`requests.jsonl` in epoch seconds and seconds since boot, and `meta.json`."""
    path.mkdir(exist_ok=True)
    rows = [
        {
            "request_id": f"bench-{k}",
            "input_toks": row["prompt"],
            "output_toks": row["output"],
            "arrival_time": EPOCH + row["arrival"],
            "queued_ts": BOOT + row["arrival"] + 0.001 * (k % 7),
            "scheduled_ts": BOOT + row["arrival"] + 0.01,
            "first_token_ts": BOOT + row["first"],
            "last_token_ts": BOOT + row["completion"],
        }
        for k, row in enumerate(requests_of(result))
    ]
    write_lines(path / "requests.jsonl", rows)
    meta = {
        "engine_kwargs": {"max_num_seqs": 24, "max_num_batched_tokens": 512, "data_parallel_size": 1},
        "kv_cache": {"num_gpu_blocks": 701, "block_size": 16},  # vLLM keeps one for itself
    }
    (path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return path


def vllm_bench(path: Path, result: ls.Result) -> Path:
    rows = requests_of(result)
    itls = [[(row["completion"] - row["first"]) / max(1, row["output"] - 1)] * (row["output"] - 1) for row in rows]
    value = {
        "duration": 1.0,
        "request_throughput": 1.0,
        "input_lens": [row["prompt"] for row in rows],
        "output_lens": [row["output"] for row in rows],
        "ttfts": [row["first"] - row["arrival"] for row in rows],
        "itls": itls,
        "start_times": [BOOT + row["arrival"] for row in rows],
        "errors": [""] * len(rows),
    }
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def guidellm(path: Path, result: ls.Result) -> Path:
    successful = [
        {
            "request_id": str(k),
            "info": {
                "timings": {
                    "request_start": EPOCH + row["arrival"],
                    "first_token_iteration": EPOCH + row["first"],
                    "last_token_iteration": EPOCH + row["completion"],
                    "request_end": EPOCH + row["completion"] + 0.002,
                }
            },
            "prompt_tokens": row["prompt"],
            "output_tokens": row["output"],
        }
        for k, row in enumerate(requests_of(result))
    ]
    requests = {"successful": successful, "errored": [], "incomplete": []}
    value = {"metadata": {"version": 2}, "benchmarks": [{"requests": requests}]}
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    return path


def aiperf(path: Path, result: ls.Result) -> Path:
    rows = [
        {
            "metadata": {
                "session_num": k,
                "request_start_ns": round((EPOCH + row["arrival"]) * 1e9),
                "request_end_ns": round((EPOCH + row["completion"]) * 1e9),
                "benchmark_phase": "profiling",
                "was_cancelled": False,
            },
            "metrics": {
                "input_sequence_length": {"value": row["prompt"], "unit": "tokens"},
                "output_sequence_length": {"value": row["output"], "unit": "tokens"},
                "time_to_first_token": {"value": (row["first"] - row["arrival"]) * 1e3, "unit": "ms"},
                "request_latency": {"value": (row["completion"] - row["arrival"]) * 1e3, "unit": "ms"},
            },
            "error": None,
        }
        for k, row in enumerate(requests_of(result))
    ]
    return write_lines(path, rows)


#: Format -> what writes a log in it.
STEPS: dict[str, Callable[[Path, ls.Result], Path]] = {"recorder": recorder, "vllm-log": vllm_log, "dynamo": dynamo}
REQUESTS: dict[str, Callable[[Path, ls.Result], Path]] = {
    "recorder": recorder,
    "run": run_directory,
    "vllm-bench": vllm_bench,
    "guidellm": guidellm,
    "aiperf": aiperf,
}
