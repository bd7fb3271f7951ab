"""What a log of a real engine says: its steps, its requests, its settings. The same for every format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import number_of
from ..html_tables import table
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Steps:
    """The steps of an engine: one value per step in every array.

    Attributes
    ----------
    seconds
        How long it took.
    batch
        Requests that it served.
    prefilled
        Tokens that it computed of prompts, and of what a preemption lost.
    context
        Tokens in the cache of the requests that it served, before it; None where the log does not say.
    waited
        Whether `seconds` is only the time that the engine waited for the result: with asynchronous scheduling a part of
        the step is over by then.
    """

    seconds: FloatArray
    batch: IntArray
    prefilled: IntArray
    context: IntArray | None = None
    waited: bool = False

    def __len__(self) -> int:
        return len(self.seconds)

    def __repr__(self) -> str:
        return f"Steps({len(self):,} steps in {self.seconds.sum():.4g} s)"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Requests:
    """The requests of a run that were completed, by arrival: one value per request in every array.

    Attributes
    ----------
    prompt, output
        Tokens of the prompt, and tokens generated.
    arrival, first_token, completion
        Seconds since the first arrival. `first_token` is NaN where the log does not say.
    """

    prompt: IntArray
    output: IntArray
    arrival: FloatArray
    first_token: FloatArray
    completion: FloatArray

    def __len__(self) -> int:
        return len(self.prompt)

    def __repr__(self) -> str:
        latency = f": mean latency {self.latency.mean():.4g} s" if len(self) else ""
        return f"Requests({number_of(len(self), 'request')}{latency})"

    @property
    def latency(self) -> FloatArray:
        """Seconds from the arrival to the last token."""
        return self.completion - self.arrival

    @property
    def ttft(self) -> FloatArray:
        """Seconds from the arrival to the first token, waiting included."""
        return self.first_token - self.arrival

    @property
    def tpot(self) -> FloatArray:
        """Seconds per token after the first; NaN for a request that generated one."""
        later = np.where(self.output > 1, self.output - 1, np.nan)
        return (self.completion - self.first_token) / later

    def workload(self) -> Workload:
        """The requests as they came."""
        return Workload(prompt=self.prompt, output=self.output, arrival=self.arrival)

    def first_half(self, share: float = 0.5) -> npt.NDArray[np.bool_]:
        """Whether a request is among the first `share` of them to arrive."""
        chosen = np.zeros(len(self), bool)
        chosen[: round(len(self) * share)] = True
        return chosen


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Log:
    """What was read from a file or a directory.

    Attributes
    ----------
    path, format
        Where it is from, and in which format it was.
    steps, requests
        What is in it; None where there is none of that.
    settings
        What the log says of the engine, by vLLM's own names: ``num_gpu_blocks``, ``max_num_seqs`` and so on.
    notes
        What had to be decided or left out, in words.
    """

    path: str
    format: str
    steps: Steps | None = None
    requests: Requests | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        there = [repr(part) for part in (self.steps, self.requests) if part is not None]
        return f"Log({self.path!r}, format {self.format}, {', '.join(there) or 'nothing in it'})"

    def _repr_html_(self) -> str:
        requests = self.requests
        times: dict[str, npt.NDArray[Any]] = {}
        if requests is not None and len(requests):
            times |= {"prompt": requests.prompt, "output": requests.output, "latency (s)": requests.latency}
            times |= {"time to the first token (s)": requests.ttft, "time per output token (s)": requests.tpot}
        if self.steps is not None and len(self.steps):
            times |= {"seconds of a step": self.steps.seconds, "requests in a step": self.steps.batch}
        rows = [
            (name, float(there.min()), *(float(value) for value in np.percentile(there, [50, 99])), float(there.max()))
            for name, column in times.items()
            if len(there := column[np.isfinite(column)])
        ]
        said = [f"{key}: {value}" for key, value in self.settings.items() if not isinstance(value, Mapping)]
        counts = [number_of(len(part), name) for part, name in ((self.steps, "step"), (requests, "request")) if part]
        caption = f"Log of {' and '.join(counts) or 'nothing'} (format {self.format})"
        return table(caption, rows, header=["", "min", "p50", "p99", "max"], note="; ".join([*self.notes, *said]))
