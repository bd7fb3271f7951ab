"""A serving system as the command line writes it, vllm:max-num-seqs=256, and the requests of a log run through it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..simulation.blocks import blocks_of
from ..simulation.clock import Clock
from ..simulation.machine import Machine
from ..simulation.result import Result
from ..simulation.run import simulate
from ..workloads.columns import FloatArray
from .records import Log, Requests
from .vllm import RELEASE
from .written import SYSTEMS, settings_of

__all__ = ["Replay", "System", "machine", "of_log"]

#: Clock -> when each request has its first and its last token, in seconds.
Replay = Callable[[Clock], tuple[FloatArray, FloatArray]]

#: Settings of a log that are simulated as if they were off: what they change is small, and the errors say how small.
_APPROXIMATED = ("async_scheduling", "enable_prefix_caching")
#: Settings of a log that a simulation cannot express -> the values at which they change nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "pipeline_parallel_size": (1,),
    "decode_context_parallel_size": (1,),
    "speculative_config": ({},),
    "num_speculative_tokens": (0,),
    "kv_transfer_config": ({},),
    "kv_connector": ("",),
    "lora_config": ({},),
    "enable_lora": (False,),
    "enable_chunked_prefill": (True,),
    "long_prefill_token_threshold_adaptive": (False,),
    "prefill_schedule_interval": (0, 1),
}


@dataclasses.dataclass(frozen=True)
class System:
    """An engine and its settings.

    Attributes
    ----------
    name
        One of `SYSTEMS`.
    settings
        By the engine's own names.
    engines
        Engines that share the requests (`data_parallel_size`), each with these settings.
    notes
        What had to be assumed, in words.
    """

    name: str
    settings: Mapping[str, Any]
    engines: int = 1
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        given = {**self.settings} | ({"data_parallel_size": self.engines} if self.engines > 1 else {})
        options = ",".join(f"{key.replace('_', '-')}={value}" for key, value in given.items())
        return f"{self.name}:{options}" if options else self.name

    def replay(self, requests: Requests) -> Replay:
        """What simulates the requests as they came, for any clock.

        With several engines requests go to them in turn, as a balancer sends them where queues are equally long.
        """
        arguments = SYSTEMS[self.name](**self.settings)
        workload = requests.workload()
        if arguments["policy"].prefixes == "cached":  # of its own blocks a preempted request may find some again
            workload = workload.replace(session=np.arange(len(requests)))
        engines = [np.arange(engine, len(requests), self.engines) for engine in range(self.engines)]
        shares = [(own, workload.take(own)) for own in engines]

        def times(clock: Clock) -> tuple[FloatArray, FloatArray]:
            first, completion = np.empty(len(requests)), np.empty(len(requests))
            for own, share in shares:
                result = simulate(share, clock=clock, record="tokens", **arguments)
                completion[own], first[own] = result.completion, _first_tokens(result)
            return first, completion

        return times


def _first_tokens(result: Result) -> FloatArray:
    """When each request had its first token: evictions keep tokens, so that it is in the first attempt with any."""
    log = result.tokens
    assert log is not None
    began = (log.kept == 0) & (log.generated > 0)
    first = np.empty(len(result))
    first[log.request[began]] = log.round_end[(log.first_round + log.rounds - log.generated)[began]]
    return first


def of_log(text: str, log: Log) -> System:
    """The system written as on the command line; what it leaves out is as the log says, else the engine's default.

    Raises InputError for an unknown system or setting (the nearest is suggested), a value of another kind, or a setting
    of the log that a simulation cannot express.
    """
    name, settings = _said(text, log)
    engines = int(settings.pop("data_parallel_size", 1))
    notes = [
        f"recorded with {key}; simulated without it"
        for key in _APPROXIMATED
        if log.settings.get(key) is True and not settings.get(key)
    ]
    if settings.get("enable_prefix_caching"):
        notes.append("no two prompts are taken to begin alike: the log does not say which do")
    release = str(log.settings.get("vllm") or log.settings.get("vllm_version") or "")
    if _minor(release) > _minor(RELEASE):
        notes.append(f"recorded with vLLM {release}; simulated as {RELEASE}, the newest that was looked at")
    if engines > 1:
        notes.append(f"requests are taken to go to the {engines} engines in turn: the log does not say to which")
    if "num_gpu_blocks" not in settings:
        assert log.requests is not None
        block = int(settings.get("block_size", 16))
        settings["num_gpu_blocks"] = int(np.sum(blocks_of(log.requests.prompt + log.requests.output, block)))
        notes.append("the log does not say how large the cache is: it is taken never to be full (num-gpu-blocks=N)")
    return System(name, settings, engines, tuple(notes))


def machine(text: str, log: Log, clock: Clock, name: str = "log") -> Machine:
    """What served a log, as a machine: `clock` with the engine's cache and limits, by `text` as for `of_log`.

    Of several engines that share the requests it is one. Raises InputError where neither says how large the cache is,
    and as `of_log` does.
    """
    system, settings = _said(text, log)
    settings.pop("data_parallel_size", None)
    if "num_gpu_blocks" not in settings:
        raise InputError(
            f"{log.path} does not say how large the cache is: give the blocks that requests can use, one less than the "
            f"engine has, as in {system}:num-gpu-blocks=2587"
        )
    options = SYSTEMS[system](**settings)
    limits = {key: options[key] for key in ("memory", "block", "max_batch", "prefill_budget")}
    return Machine(
        name, clock, **limits, source=f"clock {clock.source}; cache and limits of {System(system, settings)}"
    )


def _said(text: str, log: Log) -> tuple[str, dict[str, Any]]:
    """The name of the system, and its settings: those in `text`, else those in the log."""
    name, given = settings_of(text, {"data_parallel_size": "int"})
    parameters = inspect.signature(SYSTEMS[name]).parameters
    for key, neutral in _NEUTRAL.items():
        if log.settings.get(key) not in (None, *neutral):
            raise InputError(
                f"{log.path} was recorded with {key}={log.settings[key]!r}, which a simulation cannot express"
            )
    said = [key for key in (*parameters, "data_parallel_size") if key != "async_scheduling"]
    return name, {key: log.settings[key] for key in said if log.settings.get(key) is not None} | given


def _minor(release: str) -> tuple[int, ...]:
    """Of 0.32.1 it is (0, 32)."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])
