"""A serving system as the command line writes it, vllm:max-num-seqs=256, and the requests of a log run through it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError, nearest
from ..metrics import service
from ..simulation.clock import Clock
from ..simulation.run import simulate
from ..workloads.columns import FloatArray
from . import vllm
from .records import Log, Requests

__all__ = ["SYSTEMS", "System", "of_log"]

#: Name -> what makes arguments of `llmsched.simulate` of its settings.
SYSTEMS = {"vllm": vllm.settings}

#: Settings of a log that are simulated as if they were off: what they change is small, and the errors say how small.
_APPROXIMATED = ("async_scheduling", "enable_prefix_caching")
#: Settings of a log that a simulation cannot express -> the value at which they change nothing.
_NEUTRAL: Mapping[str, Any] = {
    "pipeline_parallel_size": 1,
    "speculative_config": None,
    "enable_chunked_prefill": True,
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

    def times(self, requests: Requests, clock: Clock) -> tuple[FloatArray, FloatArray]:
        """When each request has its first and its last token, in seconds, if `clock` says how long steps last.

        With several engines requests go to them in turn, as a balancer sends them where queues are equally long.
        """
        first, completion = np.empty(len(requests)), np.empty(len(requests))
        arguments = SYSTEMS[self.name](**self.settings)
        workload = requests.workload()
        for engine in range(self.engines):
            own = np.arange(engine, len(requests), self.engines)
            result = simulate(workload.take(own), clock=clock, record="tokens", **arguments)
            completion[own] = result.completion
            first[own] = result.workload.arrival + service.metrics(result).ttft
        return first, completion


def of_log(text: str, log: Log) -> System:
    """The system written as on the command line; what it leaves out is as the log says, else the engine's default.

    Raises InputError for an unknown system or setting (the nearest is suggested), a value of another kind, or a setting
    of the log that a simulation cannot express.
    """
    name, _, options = text.partition(":")
    if name not in SYSTEMS:
        raise InputError(f"there is no system {name!r}; {nearest(name, SYSTEMS)}")
    parameters = inspect.signature(SYSTEMS[name]).parameters
    given = _options(options, [*parameters, "data_parallel_size"])
    for key, neutral in _NEUTRAL.items():
        if log.settings.get(key) not in (None, neutral):
            raise InputError(
                f"{log.path} was recorded with {key}={log.settings[key]!r}, which a simulation cannot express"
            )
    said = [key for key in (*parameters, "data_parallel_size") if key not in _APPROXIMATED]
    known = {key: log.settings[key] for key in said if log.settings.get(key) is not None}
    settings = {**known, **given}
    engines = int(settings.pop("data_parallel_size", 1))
    notes = [f"recorded with {key}; simulated without it" for key in _APPROXIMATED if log.settings.get(key) is True]
    if engines > 1:
        notes.append(f"requests are taken to go to the {engines} engines in turn: the log does not say to which")
    if "num_gpu_blocks" not in settings:
        assert log.requests is not None
        block = int(settings.get("block_size", 16))
        settings["num_gpu_blocks"] = int(np.sum(-(-(log.requests.prompt + log.requests.output) // block)))
        notes.append("the log does not say how large the cache is: it is taken never to be full (num-gpu-blocks=N)")
    return System(name, settings, engines, tuple(notes))


def _options(text: str, known: list[str]) -> dict[str, Any]:
    """Settings written as key=value,key=value; dashes are underscores."""
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise InputError(f"--system: {part!r} is no setting, expected NAME=VALUE")
        if key not in known:
            shown = [name.replace("_", "-") for name in known]
            raise InputError(f"--system: there is no setting {key.replace('_', '-')!r}; "
                             f"{nearest(key.replace('_', '-'), shown)}")  # fmt: skip
        given[key] = _value(key, value.strip())
    return given


def _value(key: str, text: str) -> Any:
    """A number or a word, as the setting wants it."""
    if key == "scheduling_policy":
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) if key == "watermark" else int(text.replace("_", ""))
    except ValueError:
        raise InputError(
            f"--system: {key.replace('_', '-')}={text!r} is not a {'number' if key == 'watermark' else 'whole number'}"
        ) from None
