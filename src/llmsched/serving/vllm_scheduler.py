"""Policies of llmsched inside vLLM: a scheduler for its `scheduler_cls`, by name.

    vllm serve MODEL --scheduler-cls llmsched.serving.vllm.Scheduler \\
        --additional-config '{"llmsched": {"policy": "amin-recompute"}}'

The decisions are those of `llmsched.live.Scheduler`: before every step it says whom vLLM preempts, and whom it takes
from its queue, in which order; vLLM does the rest. See docs/how-to/vllm.md. Written for vLLM 0.32, of whose scheduler
it is a subclass; this module imports vllm, and no other does.
"""

from __future__ import annotations

import reprlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import vllm
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

from .._logging import logger as logger_of
from ..errors import InputError, LlmschedError, nearest
from ..policy_files import parse
from ..settings_files import json_value
from ..simulation import live
from ..workloads.columns import LATEST
from .inside import PATIENCE, Patience, filled_in, looking_ahead, recomputing

_log = logger_of(__name__)

#: The vLLM whose scheduler this was written for and is tested with.
SUPPORTED = "0.32"
_KEYS = ("policy", "seed", "patience", "predictor")

logger = init_logger("vllm.llmsched")


class Scheduler(AsyncScheduler):  # type: ignore[misc]  # vllm is not there when types are checked
    """vLLM's scheduler with a policy of llmsched, for asynchronous scheduling and for synchronous.

    ``additional_config={"llmsched": {...}}`` may say

    ``policy``
        A policy as on the command line: ``"amin-recompute"``, ``"fcfs,order=point"``, ``"mine.toml"``. By default
        ``"amin-recompute"``. vLLM keeps the tokens of a request that it preempts, so every policy runs with
        ``resume="recompute"``.
    ``seed``
        What ties at preemptions are drawn with; by default 0.
    ``patience``
        Seconds after which a request that still waits goes before all others, so that no policy starves anybody; null:
        never. By default 600.
    ``predictor``
        A file written by `llmsched.predict.save`: predicts the intervals of requests that bring ``features``, a value
        for each column that it was fitted on; `prompt_tokens` is there anyway.

    A request brings its prediction in ``SamplingParams(extra_args={"llmsched": {"lower": ..., "upper": ..., "point":
    ...}})``, over HTTP as JSON text in ``vllm_xargs``. What is missing: `upper` is its max_tokens, `lower` 1, `point`
    the middle; no prediction exceeds max_tokens.

    Raises
    ------
    InputError
        At the start: a key is unknown, the policy cannot decide live, or vLLM is set to something that a policy cannot
        count: speculative decoding, pipeline parallelism, a KV connector, a cache of several groups, a watermark.
    """

    running: list[Request]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        given = _configuration(self.vllm_config)
        _refuse(self)
        policy = recomputing(parse(str(given.get("policy", "amin-recompute"))), "vLLM", logger.info)
        self._patience = Patience(given.get("patience", PATIENCE))
        self._predictor = _predictor(given["predictor"]) if given.get("predictor") else None
        # Whether vLLM computes as many tokens a step as the model of `prefill_budget` says: no cached prefix saves any,
        # and every step knows what the last one sampled. Else it is told after every step who got no token.
        self._exact = not (
            self.cache_config.enable_prefix_caching
            or self.scheduler_config.async_scheduling
            or self.scheduler_config.long_prefill_token_threshold
            or not self.scheduler_config.enable_chunked_prefill
        )
        if not self._exact:
            policy = looking_ahead(policy, logger.info)
        self.core = live.Scheduler(
            policy,
            memory=(self.kv_cache_config.num_blocks - 1) * self.block_size,  # one block is vLLM's own
            block=self.block_size,
            max_batch=self.max_num_active_reqs,
            prefill_budget=self.max_num_scheduled_tokens if self._exact else None,
            seed=given.get("seed", 0),
        )
        if self.core.memory < self.max_model_len:
            raise InputError(
                f"the cache holds {self.core.memory} tokens, less than max_model_len={self.max_model_len}: a request "
                "of that length could never finish. Lower max_model_len, or give more cache"
            )
        self.waiting = Queue()
        self._zero, self._last = time.time(), 0.0
        self._finished: list[str] = []  # since the last decision
        self._delayed: list[str] = []  # of the last step
        self._decided: set[str] = set()  # whom the policy is preempting
        for log in (logger, _log):  # vLLM's, which it shows, and ours
            log.info(
                "llmsched schedules by %s (%d tokens of cache, %s steps)",
                policy.name,
                self.core.memory,
                "exact" if self._exact else "reported",
            )

    # A step -----------------------------------------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> Any:
        """As vLLM does, with the victims and the order of the policy."""
        self._end_round()
        now = self._now()
        self._patience.hasten(self.core, now)
        decision = self.core.decide(now)
        self._preempt([str(id) for id in decision.evict])
        self.waiting.admit(str(id) for id in decision.admit)
        output = super().schedule(throttle_prefills)
        for request in self.waiting.close():
            if request.status != RequestStatus.RUNNING:  # no budget for its prompt, its grammar is not compiled, ...
                self._turn_back(request.request_id)
        if not self._exact:
            served = output.num_scheduled_tokens
            self._delayed = [r.request_id for r in self.running if r.request_id not in served or r.is_prefill_chunk]
        return output

    def _end_round(self) -> None:
        """Tell the policy what became of the round that it decided last."""
        there = {*self._delayed}.difference(self._finished)
        delayed = [id for id in self._delayed if id in there and id in self.core and self.core.is_running(id)]
        self.core.advance(finished=self._finished, delayed=delayed)
        self._finished, self._delayed = [], []

    def _now(self) -> float:
        """Seconds since the start, on the clock of vLLM's arrivals; it does not run back."""
        self._last = max(self._last, time.time() - self._zero)
        return self._last

    def _preempt(self, ids: list[str]) -> None:
        victims = {*ids}
        if not victims:
            return
        _log.debug("preempted: %s", ids)
        leaving = {r.request_id: r for r in self.running if r.request_id in victims}
        self.running = [r for r in self.running if r.request_id not in victims]
        # One that starts again in this very step is sent to the workers with all its tokens, as one that did not run.
        self.prev_step_scheduled_req_ids.difference_update(victims)
        self._decided, now = victims, time.monotonic()
        for id in ids:
            self._preempt_request(leaving[id], now)
        self._decided = set()

    def _preempt_request(self, request: Request, *args: Any, **options: Any) -> None:
        """As vLLM does. Where that decided it (when its prefix cache is reset, of all that run) the policy learns."""
        super()._preempt_request(request, *args, **options)
        if request.request_id not in self._decided:
            self._turn_back(request.request_id)

    def _turn_back(self, id: str) -> None:
        if id in self.core and self.core.is_running(id):
            self.core.turn_back(id)

    # Requests come and go ---------------------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        """As vLLM does, and the policy knows of it. An impossible prediction is noted, and max_tokens taken for it.

        Nothing that a client sends raises here: that would end the engine, and with it everybody's requests.
        """
        if request.request_id in self.requests:  # more of a streamed input, whose request fails already
            return
        if request.resumable:  # more of its prompt is to come, which the policy cannot count
            request.resumable, request.streaming_queue = False, deque()
            self.grammar_compile_error_reqs.add(request.request_id)  # whom vLLM fails with the coming step
            logger.warning("request %s fails: llmsched's scheduler takes no streamed input", request.request_id)
        super().add_request(request)
        came = max(0.0, min(request.arrival_time - self._zero, self._now()))
        priority = max(-live.LARGEST_PRIORITY, min(request.priority, live.LARGEST_PRIORITY))
        known: dict[str, Any] = {"priority": priority, "arrival": came}
        try:
            self.core.submit(request.request_id, request.num_prompt_tokens, **self._predicted(request), **known)
        except LlmschedError as error:
            _log.warning("%s: scheduled by its max_tokens", error)
            logger.warning("%s: scheduled by its max_tokens", error)
            known |= {"lower": 1, "upper": request.max_tokens, "deadline": LATEST}
            self.core.submit(request.request_id, request.num_prompt_tokens, **known)
        self._patience.came(request.request_id, came)

    def _predicted(self, request: Request) -> dict[str, Any]:
        """What is predicted of it; no output is longer than its max_tokens."""
        extra = (request.sampling_params and request.sampling_params.extra_args) or {}
        given = extra.get("llmsched", {})
        try:
            given = json_value(given) if isinstance(given, str) else given
        except ValueError:
            raise InputError(f"request {request.request_id}: llmsched={_short(given)} is no JSON") from None
        if not isinstance(given, Mapping):
            raise InputError(f"request {request.request_id}: llmsched={_short(given)} is no mapping")
        values = dict(given)
        features = values.pop("features", {})
        if not isinstance(features, Mapping):
            raise InputError(f"request {request.request_id}: features={_short(features)} is no mapping")
        if self._predictor is not None and not values:
            values = _intervals(self._predictor, {"prompt_tokens": request.num_prompt_tokens, **features})
        return filled_in(request.request_id, values, request.max_tokens)

    def _free_request(self, request: Request, *args: Any, **options: Any) -> Any:
        """As vLLM does; the policy learns that the request completed or was aborted."""
        id = request.request_id
        if id in self.core:
            completed = request.status in (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)
            if completed and self.core.is_running(id):
                self._finished.append(id)
            elif id not in self._finished:
                self.core.cancel(id)
        return super()._free_request(request, *args, **options)

    def update_from_output(self, *args: Any, **options: Any) -> Any:
        """As vLLM does; with the last request an idle time begins, which some policies want to know."""
        outputs = super().update_from_output(*args, **options)
        if self._finished and not self.running and not len(self.waiting):
            self._end_round()
            self.core.decide(self._now())
        return outputs


class Queue(RequestQueue):  # type: ignore[misc]  # likewise
    """All that wait. vLLM sees at its front those that were admitted for the step, and behind them nobody."""

    def __init__(self) -> None:
        self._all: dict[str, Request] = {}
        self._admitted: list[Request] = []  # for this step, in order
        self._next = 0  # of these
        self._open = False  # a step is being scheduled

    def admit(self, ids: Iterable[str]) -> None:
        """A step begins, in which these may start."""
        self._admitted = [self._all[id] for id in ids]
        self._next, self._open = 0, True

    def close(self) -> list[Request]:
        """The step is scheduled; returns who was admitted for it."""
        self._open = False
        return self._admitted

    def add_request(self, request: Request) -> None:
        self._all[request.request_id] = request

    def pop_request(self) -> Request:
        request = self.peek_request()
        self._next += 1
        del self._all[request.request_id]
        return request

    def peek_request(self) -> Request:
        return self._admitted[self._next]

    prepend_request = add_request

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.add_request(request)

    def remove_request(self, request: Request) -> None:
        self._all.pop(request.request_id, None)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.remove_request(request)

    def __bool__(self) -> bool:
        return self._next < len(self._admitted) if self._open else bool(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._all.values())


# What is refused at the start -----------------------------------------------------------------------------------------


def _configuration(config: Any) -> dict[str, Any]:
    """``additional_config["llmsched"]``, checked. Raises InputError."""
    given = config.additional_config if isinstance(config.additional_config, dict) else {}
    ours = given.get("llmsched", {})
    if not isinstance(ours, dict):
        raise InputError(f'additional_config={{"llmsched": ...}} is {ours!r}, expected keys and values')
    for key in ours:
        if key not in (*_KEYS, "record"):
            raise InputError(f'additional_config={{"llmsched": ...}} has no key {key!r}; {nearest(key, _KEYS)}')
    return ours


def _refuse(scheduler: Scheduler) -> None:
    """Raise InputError where vLLM is set to what the policies' model has no words for."""
    if not vllm.__version__.startswith(SUPPORTED):
        logger.warning(
            "llmsched's scheduler was written for vLLM %s and this is %s: if it fails, install that",
            SUPPORTED,
            vllm.__version__,
        )
    config, groups = scheduler.vllm_config, scheduler.kv_cache_config.kv_cache_groups
    for wrong, what in (
        (config.speculative_config is not None, "speculative decoding: a step then makes several tokens"),
        (config.parallel_config.pipeline_parallel_size > 1, "pipeline parallelism: a request then skips steps"),
        (scheduler.connector is not None, "a KV connector: the cache is then not only its own"),
        (len(groups) != 1, f"a model whose cache has {len(groups)} groups of layers: a token then has no one size"),
        (scheduler.scheduler_config.watermark > 0, 'watermark: use the policy\'s own, "…,margin=0.01"'),
        (
            scheduler.num_sampled_tokens_per_step == 0,
            "pooling and diffusion models, which generate no tokens one by one",
        ),
        (scheduler.dcp_world_size > 1, "decode context parallelism"),
    ):
        if wrong:
            raise InputError(f"llmsched's scheduler does not work with {what}")


# Predictors -----------------------------------------------------------------------------------------------------------


def _predictor(path: str) -> Any:
    """The predictor in a file. Raises InputError as `llmsched.predict.load` does."""
    from .. import predict

    return predict.load(path)


def _intervals(predictor: Any, features: Mapping[str, Any]) -> dict[str, int]:
    """The bounds that it predicts for one request. Raises InputError where a column is missing or makes no sense."""
    try:
        lower, upper = predictor.predict_interval({name: [value] for name, value in features.items()})
    except Exception as error:  # whatever NumPy and scikit-learn make of what a client sent
        raise InputError(f"the predictor cannot read the features {_short(dict(features))}: {error}") from None
    bounds = {"lower": lower, "upper": upper}
    return {name: int(bound[0]) for name, bound in bounds.items() if bound is not None}


def _short(value: Any) -> str:
    """What a client sent, for a message."""
    return reprlib.repr(value)
