"""What a study may measure of every simulation: names of columns, all of them numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType

from ..errors import InputError, nearest
from ..metrics.service import METRICS as OF_REQUESTS

#: Metrics that cost nothing, and what they are. Times are in rounds, or in seconds with a clock.
TOTALS = MappingProxyType(
    {
        "mean_latency": "mean of completion minus arrival",
        "total_latency": "sum of all latencies (TEL in the paper)",
        "max_latency": "the largest latency",
        "makespan": "when the last request completes",
        "rounds": "rounds that ran",
        "evictions": "how often requests left before completing",
        "evicted_requests": "requests that left before completing at least once",
        "wasted_tokens": "tokens generated and lost",
        "wasted_share": "the same as a share of all generated tokens",
        "peak_memory": "largest memory of any round, in tokens",
        "peak_share": "the same as a share of the cache",
    }
)
#: Those that `simulate_batch` does not return: computed from the totals, the workload and the memory.
DERIVED = ("wasted_share", "peak_share")

#: What else can be said of a simulation; it takes about as long as the simulation.
CERTIFIED = MappingProxyType(
    {"gap": "total latency is at most this share above that of any schedule (`llmsched.lower_bound`)"}
)

#: What is taken of a metric of requests.
STATISTICS = ("mean", "p50", "p90", "p99", "max")
_RATES = MappingProxyType(
    {
        "goodput": "share of requests that keep every target of the service table",
        "goodput_rate": "such requests per second",
        "requests_rate": "completions per second",
        "tokens_rate": "new tokens per second",
        "busy": "share of the time in which rounds ran",
        "cache_use": "mean share of the cache in use",
        "jain": "Jain's index of fairness",
        "longest_wait": "the longest wait of a request for a place in the batch",
        "above_capacity": "1 if the load is above capacity, else 0",
        "stable_rate": "about how many requests per second could be served for ever (NaN below capacity)",
    }
)
#: Metrics of what users feel; the log of every token that they need makes simulations several times as long.
SERVICE = MappingProxyType(
    {f"{name}_{statistic}": f"{statistic} of {text}" for name, text in OF_REQUESTS.items() for statistic in STATISTICS}
    | dict(_RATES)
)

#: What is measured when the file says nothing.
DEFAULT = tuple(TOTALS)

_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)_latency")


def percentile(name: str) -> float | None:
    """The percentile that ``p99_latency`` or ``p99.9_latency`` is, or None if `name` is no such name."""
    match = _PERCENTILE.fullmatch(name)
    q = float(match.group(1)) if match else 101.0
    return q if q <= 100 else None


def percentiles(metrics: Sequence[str]) -> list[tuple[str, float]]:
    """Those of `metrics` that are percentiles of latency, with their number."""
    return [(name, q) for name in metrics if (q := percentile(name)) is not None]


def check(name: str) -> str:
    """The name itself if there is such a metric; else InputError that suggests the nearest."""
    if name in TOTALS or name in CERTIFIED or name in SERVICE or percentile(name) is not None:
        return name
    close = nearest(name, [*TOTALS, *CERTIFIED, "p50_latency", "p90_latency", "p99_latency", *SERVICE])
    raise InputError(f"there is no metric {name!r}; {close.split('known:')[0]}see docs/reference/study-file.md")
