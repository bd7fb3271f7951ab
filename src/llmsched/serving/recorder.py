"""A recorder for vLLM: a mix-in for its schedulers that changes nothing and writes down every step and every request.

Mixed into a scheduler class of vLLM (first in the bases), or ready-made for its two schedulers, by name::

    vllm serve MODEL --scheduler-cls llmsched.serving.recorder.AsyncRecorder \\
        --additional-config '{"llmsched": {"record": "run.jsonl"}}'

`AsyncRecorder` records vLLM's default, `SyncRecorder` the scheduler it has with ``async_scheduling=False``. Nothing
here imports vLLM until one of these two is asked for.

The file
--------
JSON Lines. Every line is an object, and its key ``type`` says which kind; readers pass over kinds and keys they do not
know. Times are seconds since the recorder started, by a clock that never runs back; counts are whole numbers. A line is
written when what it tells is over, so a run that was killed loses what was running and no more.

``{"type": "engine", ...}``, the first line: the engine and its settings, by vLLM's own names.
    ``format`` (1), ``vllm`` (its version), ``started`` (Unix time of second 0), ``async_scheduling``,
    ``num_gpu_blocks`` (those that requests can use: vLLM keeps one of its own for itself), ``block_size``,
    ``max_num_seqs``, ``max_num_batched_tokens``, ``max_model_len``, ``scheduling_policy``, ``watermark``,
    ``scheduler_reserve_full_isl``, ``long_prefill_token_threshold``, ``enable_chunked_prefill``,
    ``enable_prefix_caching``, ``pipeline_parallel_size``, ``speculative_config`` (its method), ``kv_connector`` (the
    name of its class), ``enable_lora``.

``{"type": "step", ...}``: one per step, in order.
    ``step``
        Its number, from 0.
    ``start``, ``seconds``
        When it began and how long it took: from scheduling to the end of its bookkeeping. Where steps overlap
        (asynchronous scheduling) a step begins when the one before it ended, so no second is counted twice.
    ``batch``
        Requests that the step served.
    ``context``
        Tokens that these had in the cache when it began.
    ``prefilled``
        Tokens it computed of prompts, and of what was generated before a preemption.
    ``scheduled``
        Tokens it computed in all: `prefilled`, and one for each request that was past its prompt.
    ``preempted``
        Requests that lost their cache in it.
    ``running``, ``waiting``
        Requests in the running list, served or not, and in the queue, once it was scheduled.

``{"type": "request", ...}``: one per request, when it ends.
    ``request``
        Its number, from 0, in the order in which they came.
    ``id``
        What vLLM calls it.
    ``arrival``, ``arrival_step``
        When it came, and how many steps had been scheduled by then.
    ``prompt``, ``output``, ``max_tokens``, ``priority``
        Tokens of its prompt, those it generated, the most it was allowed, and its priority.
    ``first_step``, ``start``
        The step that first served it, and when that began; null if none did.
    ``cached``
        Tokens of it that were in the cache when that step began: of a prefix that stayed there. Null if none did.
    ``first_token``
        When the step ended that generated its first token; null if none did.
    ``last_step``, ``completion``
        The step that generated its last token, and when that ended. For one that was aborted: the last step that was
        scheduled before, null if none was, and the time.
    ``preemptions``
        How often it lost its cache.
    ``reason``
        ``"stop"``, ``"length"``, ``"abort"`` or ``"error"``.
"""

from __future__ import annotations

import json
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler as _Scheduler
else:
    _Scheduler = object  # which of its schedulers it is mixed into is known when one is asked for

FORMAT = 1


class Recorder(_Scheduler):  # type: ignore[misc]  # vllm is not there when types are checked
    """A mix-in for a scheduler of vLLM; see the module for the file it writes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        config: Any = options["vllm_config"] if "vllm_config" in options else args[0]
        self._zero = time.monotonic()
        self._steps = self._arrived = 0
        self._open_steps: dict[int, dict[str, Any]] = {}  # id of a step's output -> its row, until it has ended
        self._open_requests: dict[str, dict[str, Any]] = {}
        self._last_end = 0.0
        self._file: IO[str] = open(_place(config), "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (see shutdown)
        self._write({"type": "engine", "format": FORMAT, "started": time.time(), **_settings(self, config)})

    def add_request(self, request: Any) -> None:
        """As the scheduler does, and the request is noted."""
        if request.request_id not in self._open_requests:
            self._open_requests[request.request_id] = {
                "type": "request",
                "request": self._arrived,
                "id": request.request_id,
                "arrival": self._now(),
                "arrival_step": self._steps,
                "prompt": request.num_prompt_tokens,
                "output": 0,
                "max_tokens": request.max_tokens,
                "priority": request.priority,
                "first_step": None,
                "start": None,
                "cached": None,
                "first_token": None,
                "last_step": None,
                "completion": None,
                "preemptions": 0,
                "reason": None,
            }
            self._arrived += 1
        super().add_request(request)

    def schedule(self, *args: Any, **options: Any) -> Any:
        """As the scheduler does, and the step is noted."""
        began = self._now()
        output = super().schedule(*args, **options)
        served = output.num_scheduled_tokens
        context = prefilled = 0
        for name, tokens in served.items():
            request = self.requests[name]
            row = self._open_requests.get(name, {})
            before = request.num_computed_tokens - tokens  # the scheduler has counted this step's tokens already
            context += before
            if before < max(request.num_prompt_tokens, row.get("resumes_at", 0)):
                prefilled += tokens
            if row.get("first_step", 0) is None:
                row["first_step"], row["start"], row["cached"] = self._steps, began, before
        running, waiting = self.get_request_counts()
        self._open_steps[id(output)] = {
            "type": "step",
            "step": self._steps,
            "start": began,
            "seconds": None,
            "batch": len(served),
            "context": context,
            "prefilled": prefilled,
            "scheduled": sum(served.values()),
            "preempted": len(output.preempted_req_ids or ()),
            "running": running,
            "waiting": waiting,
        }
        self._steps += 1
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **options: Any) -> Any:
        """As the scheduler does, and the step, and who completed in it, are written."""
        outputs = super().update_from_output(scheduler_output, *args, **options)
        ended = self._now()
        row = self._open_steps.pop(id(scheduler_output))
        row["start"] = max(row["start"], self._last_end)
        row["seconds"] = ended - row["start"]
        self._last_end = ended
        self._write(row)
        for of_client in outputs.values():
            for output in of_client.outputs:
                self._generated(output, row["step"], ended)
        return outputs

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """As the scheduler does; those that are aborted are written."""
        ended = super().finish_requests(request_ids, finished_status)
        for name in list(self._open_requests):
            if name not in self.requests:
                self._end(name, "abort", self._steps - 1 if self._steps else None, self._now())
        return ended

    def shutdown(self) -> None:
        """As the scheduler does, and the file is closed."""
        super().shutdown()
        self._file.close()

    def _preempt_request(self, request: Any, *args: Any, **options: Any) -> None:
        row = self._open_requests.get(request.request_id)
        if row is not None:
            row["preemptions"] += 1
            row["resumes_at"] = request.num_tokens  # what is computed up to here is computed again
        super()._preempt_request(request, *args, **options)

    def _generated(self, output: Any, step: int, ended: float) -> None:
        row = self._open_requests.get(output.request_id)
        if row is None:
            return
        row["output"] += len(output.new_token_ids)
        if output.new_token_ids and row["first_token"] is None:
            row["first_token"] = ended
        if output.finish_reason is not None:
            self._end(output.request_id, str(output.finish_reason), step, ended)

    def _end(self, name: str, reason: str, step: int | None, ended: float) -> None:
        row = self._open_requests.pop(name)
        row.pop("resumes_at", None)
        row.update(last_step=step, completion=ended, reason=reason)
        self._write(row)

    def _now(self) -> float:
        return time.monotonic() - self._zero

    def _write(self, row: dict[str, Any]) -> None:
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
        self._file.write(json.dumps(rounded) + "\n")


def _place(config: Any) -> str:
    """The file that ``additional_config={"llmsched": {"record": ...}}`` names."""
    given = config.additional_config if isinstance(config.additional_config, dict) else {}
    place = given.get("llmsched", {}).get("record")
    if not isinstance(place, str) or not place:
        raise ValueError(
            'the recorder needs the name of a file to write: additional_config={"llmsched": {"record": "run.jsonl"}}'
        )
    return place


def _settings(scheduler: Any, config: Any) -> dict[str, Any]:
    """What the first line says of the engine."""
    from vllm import __version__

    rules, cache = config.scheduler_config, config.cache_config
    return {
        "vllm": __version__,
        "async_scheduling": bool(rules.async_scheduling),
        "num_gpu_blocks": scheduler.kv_cache_config.num_blocks - 1,  # one is vLLM's own, the null block
        "block_size": scheduler.block_size,
        "max_num_seqs": scheduler.max_num_active_reqs,
        "max_num_batched_tokens": scheduler.max_num_scheduled_tokens,
        "max_model_len": scheduler.max_model_len,
        "scheduling_policy": str(rules.policy),
        "watermark": rules.watermark,
        "scheduler_reserve_full_isl": rules.scheduler_reserve_full_isl,
        "long_prefill_token_threshold": rules.long_prefill_token_threshold,
        "enable_chunked_prefill": rules.enable_chunked_prefill,
        "enable_prefix_caching": bool(cache.enable_prefix_caching),
        # What a simulation cannot express (systems.py): noted, so that it is told.
        "pipeline_parallel_size": config.parallel_config.pipeline_parallel_size,
        "speculative_config": None if config.speculative_config is None else str(config.speculative_config.method),
        "kv_connector": "" if scheduler.connector is None else type(scheduler.connector).__name__,
        "enable_lora": config.lora_config is not None,
    }


def __getattr__(name: str) -> Any:
    """`SyncRecorder` and `AsyncRecorder`: vLLM is imported when one of them is asked for."""
    if name == "SyncRecorder":
        from vllm.v1.core.sched.scheduler import Scheduler as base
    elif name == "AsyncRecorder":
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler as base
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = type(name, (Recorder, base), {"__doc__": f"{base.__name__} of vLLM, recorded.", "__module__": __name__})
    globals()[name] = made
    return made
