"""Policies of llmsched inside the continuous batching of transformers, through its registry of schedulers.

    from llmsched.serving.transformers_scheduler import register

    register("amin-recompute", predict=lambda request: {"lower": 20, "upper": 200})
    config = ContinuousBatchingConfig(scheduler_type="llmsched", use_async_batching=False)
    model.generate_batch(prompts, generation_config=..., continuous_batching_config=config)

The decisions are those of `llmsched.live.Scheduler`, as in vLLM. See docs/how-to/vllm.md. Written for transformers
5.19; this module imports transformers (and it torch), and no other does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed
import transformers
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.requests import logger as log
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING
from transformers.generation.continuous_batching.scheduler import Scheduler as Base

from ..errors import InputError, LlmschedError
from ..policy import Policy
from ..policy_files import parse
from ..simulation import live
from ..workloads.columns import LATEST
from .inside import PATIENCE, Patience, filled_in, looking_ahead, recomputing

__all__ = ["Scheduler", "register"]

#: The transformers whose scheduler this was written for and is tested with.
SUPPORTED = "5.19"

#: What is predicted of a request: lower, upper, point, deadline, or some of them.
Predict = Callable[[RequestState], Mapping[str, Any]]


def register(
    policy: str | Policy = "amin-recompute",
    *,
    predict: Predict | None = None,
    seed: int | None = 0,
    patience: float | None = PATIENCE,
    name: str = "llmsched",
) -> str:
    """Put a scheduler with a policy into transformers' registry; returns its name, for `scheduler_type`.

    Parameters
    ----------
    policy
        A policy, or one as on the command line: ``"fcfs,order=point"``. transformers keeps the tokens of a request that
        is preempted, so every policy runs with ``resume="recompute"``.
    predict
        Called with each request as it comes (`request_id`, `initial_tokens`, `max_new_tokens`, ...); returns what is
        predicted of it: ``{"lower": ..., "upper": ..., "point": ..., "deadline": ...}`` or some of these. What is
        missing: `upper` is max_new_tokens, `lower` 1, `point` the middle. Nothing exceeds max_new_tokens. What makes
        no sense is logged, and the request is scheduled by its max_new_tokens.
    seed
        What ties at preemptions are drawn with; None: none are.
    patience
        Seconds after which a request that still waits goes before all others; None: never.

    Raises
    ------
    InputError
        `policy` is unknown, or `patience` is no number; PolicyError, where the policy cannot decide live.
    """
    chosen = recomputing(parse(policy) if isinstance(policy, str) else policy, "transformers", log.info)
    live.Scheduler(chosen, memory=1)  # refused here, and not in the thread of the engine
    Patience(patience)
    if not transformers.__version__.startswith(SUPPORTED):
        log.warning(
            f"llmsched's scheduler was written for transformers {SUPPORTED} and this is {transformers.__version__}: "
            "if it fails, install that"
        )
    fields = {"policy": chosen, "predict": staticmethod(predict or _nothing), "seed": seed, "patience": patience}
    SCHEDULER_MAPPING[name] = type("Scheduler", (Scheduler,), fields)
    return name


def _nothing(request: RequestState) -> Mapping[str, Any]:
    return {}


class Scheduler(Base):  # type: ignore[misc]  # transformers is not there when types are checked
    """A scheduler of transformers with a policy of llmsched; `register` makes those that it can construct.

    Raises
    ------
    InputError
        At the start: a safety margin is set, the model's layers differ in the cache they take, or several processes
        share the model. In a step: batches are asynchronous.
    """

    policy: Policy
    predict: Predict
    seed: int | None
    patience: float | None

    def __init__(self, cache: Any, safety_margin: float | None, max_requests_per_batch: int) -> None:
        for wrong, what in (
            (bool(safety_margin), 'safety_margin: use the policy\'s own, "…,margin=0.01"'),
            (len(cache.cache_allocators) != 1, "layers whose cache differs: a token then has no one size"),
            (
                torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1,
                "a model in several processes: each would decide by its own clock",
            ),
        ):
            if wrong:
                raise InputError(f"llmsched's scheduler does not work with {what}")
        super().__init__(cache, 0.0, max_requests_per_batch)

    def reset(self) -> None:
        """As transformers does, and the policy forgets everybody."""
        super().reset()
        (allocator,) = self.cache.cache_allocators.values()
        # Whether a step computes as many tokens as the model of `prefill_budget` says: no shared prefix saves any. Else
        # the policy is told after every step who got no token.
        self._exact = not self.cache.use_prefix_sharing
        self.core = live.Scheduler(
            self.policy if self._exact else looking_ahead(self.policy, log.info),
            memory=self.cache.num_blocks * allocator.tokens_per_page,
            block=allocator.tokens_per_page,
            max_batch=self.max_requests_per_batch,
            prefill_budget=self.cache.max_batch_tokens if self._exact else None,
            seed=self.seed,
        )
        self._patience = Patience(self.patience)
        self._zero = time.perf_counter()
        self._finished: list[str] = []  # since the last decision
        self._delayed: list[str] = []  # of the last step
        self._expected: dict[str, int] = {}  # id -> tokens that it has once the last step ended, of those served

    # A step -----------------------------------------------------------------------------------------------------------

    def schedule_batch(self, token_budget: int, cache_budget: int) -> tuple[list[Any], bool, int, int]:
        """As transformers' own do, with the victims and the order of the policy. It never asks for an offload."""
        self._refuse_overlap()
        self._end_round()
        now = self._now()
        self._patience.hasten(self.core, now)
        decision = self.core.decide(now)
        for id in decision.evict:
            self._preempt(str(id))
        admitted = [self.waiting_requests[str(id)] for id in decision.admit]
        candidates = [*self.active_requests.values(), *admitted]
        gone: set[str] = set()
        batch, failed, fast, queries, read = self._process_candidates(candidates, token_budget, cache_budget, gone)
        if failed and self.cache.evict_cached_blocks() and not batch:  # prefixes that nobody uses were in the way
            batch, failed, fast, queries, read = self._process_candidates(candidates, token_budget, cache_budget, gone)
        self.starved_requests: list[Any] = []  # the policy preempts, and not the engine
        self._cleanup_waiting_queue(gone)
        for state in admitted:
            if state.request_id not in self.active_requests:  # no budget was left for its prompt
                self.core.turn_back(state.request_id)
        generating = [future.state for future in batch if future.has_new_token]
        self._expected = {state.request_id: state.generated_len() + 1 for state in generating}
        if not (self._exact and batch):
            self._delayed = [id for id in self.active_requests if id not in self._expected]
        return batch, fast, queries, read

    def _refuse_overlap(self) -> None:
        for id, tokens in self._expected.items():
            if id in self.active_requests and self.active_requests[id].generated_len() < tokens:
                raise InputError(
                    "llmsched's scheduler does not work with asynchronous batches: use_async_batching=False"
                )

    def _end_round(self) -> None:
        """Tell the policy what became of the round that it decided last."""
        gone = {*self._finished}
        delayed = [id for id in self._delayed if id not in gone and id in self.core and self.core.is_running(id)]
        self.core.advance(finished=self._finished, delayed=delayed)
        self._finished, self._delayed, self._expected = [], [], {}

    def _now(self) -> float:
        return time.perf_counter() - self._zero

    def _preempt(self, id: str) -> None:
        """The request loses its cache and waits with the tokens it has: what transformers calls a soft reset."""
        state = self.active_requests.pop(id)
        self.cache.free_blocks(id, no_cache=True)
        again = state.create_equivalent_initial_request()
        again.created_time = state.created_time
        state._status = RequestStatus.FINISHED
        super().add_waiting_request(again)

    # Requests come and go ---------------------------------------------------------------------------------------------

    def add_waiting_request(self, state: RequestState) -> None:
        """As transformers does, and the policy knows of it.

        Raises InputError, which fails the request, where it has no max_new_tokens, is longer than the cache, asks for
        several sequences, or has the id of one that is there.
        """
        id, longest, prompt = state.request_id, state.max_new_tokens, len(state.initial_tokens)
        for wrong, what in (
            (longest is None, "no max_new_tokens: nobody knows whether it would fit the cache"),
            (state.num_children > 0, "several sequences (num_return_sequences)"),
            (id in self.core, "the id of another that is there"),
            (
                longest is not None and prompt + longest > self.core.memory,
                f"{prompt} tokens and max_new_tokens={longest}: the cache holds {self.core.memory}, it could never "
                "finish",
            ),
        ):
            if wrong:
                raise InputError(f"request {id} has {what}")
        came = max(0.0, state.created_time - self._zero)
        try:
            values = filled_in(id, self.predict(state), longest)
            self.core.submit(id, prompt, **values, arrival=came, priority=0)
        except LlmschedError as error:
            log.warning(f"{error}: scheduled by its max_new_tokens")
            self.core.submit(id, prompt, lower=1, upper=longest, deadline=LATEST, arrival=came, priority=0)
        self._patience.came(id, came)
        super().add_waiting_request(state)

    def finish_request(self, request_id: str) -> None:
        """As transformers does, and the policy learns that it completed, or failed."""
        super().finish_request(request_id)
        if request_id in self.core:
            if self.core.is_running(request_id):
                self._finished.append(request_id)
            else:
                self.core.cancel(request_id)
        self._perhaps_idle()

    def clear_cancelled_requests(self) -> list[RequestState]:
        """As transformers does, and the policy learns who is gone."""
        cancelled: list[RequestState] = super().clear_cancelled_requests()
        for state in cancelled:
            id = state.request_id
            if id in self.core and id not in self._finished:
                self.core.cancel(id)
        self._perhaps_idle()
        return cancelled

    def _perhaps_idle(self) -> None:
        """With the last request an idle time begins, which some policies want to know."""
        if self._finished and not self.has_pending_requests():
            self._end_round()
            self.core.decide(self._now())
