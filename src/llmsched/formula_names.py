"""The names that formulas read, and where formulas stand: light, as every simulation imports it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

#: What a policy's formula may read of a request -> what that is.
REQUEST_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "tokens of the prompt, s",
        "lower": "predicted lower bound of the output, ℓ",
        "upper": "predicted upper bound of the output, u",
        "point": "point prediction of the output, p",
        "bound": "the bound that evictions and caps raise, õ",
        "generated": "tokens that it holds of its output, g; while it waits, those it kept",
        "arrival": "when it arrived",
        "joined": "when it last began to wait: its arrival, or the round it left the batch",
        "now": "when the round starts",
        "priority": "how urgent it is: the smaller, the more",
        "deadline": "how long after its arrival it should complete",
        "evictions": "how often it left the batch before completing",
        "memory": "tokens of cache, M",
        "output": "the true output, o (clairvoyant)",
    }
)

#: What a router's formula may read of a replica, as it sees it -> what that is.
REPLICA_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "requests": "requests that were sent to it and have not completed",
        "running": "those of its requests that run",
        "waiting": "those of its requests that do not run",
        "used": "tokens of cache that its running requests take in the round in progress, in whole blocks",
        "free": "tokens of cache that they leave",
        "believed_work": "output tokens that its requests are believed to need yet (Router.work)",
        "speed": "rounds per second with one request (1 without a clock)",
        "cached": "tokens of the request's prompt that are in its cache, where prefixes are cached; else 0",
    }
)

#: All of them. The order is that of `FormulaName` in _engine/formula.pxd.
NAMES: Mapping[str, str] = MappingProxyType({**REQUEST_NAMES, **REPLICA_NAMES})

Place = Literal["order", "evict", "reserve", "score"]

#: Policy field -> the names that its formulas may use. What a request is believed to reach does not change while it
#: waits or runs, so that a reserve reads nothing that does.
PLACES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "order": tuple(REQUEST_NAMES),
        "evict": tuple(REQUEST_NAMES),
        "reserve": tuple(name for name in REQUEST_NAMES if name not in ("generated", "joined", "now")),
    }
)

#: The same, and "score" of a router, which sees a request as it arrives.
ALLOWED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **PLACES,
        "score": ("prompt", "lower", "upper", "point", "arrival", "priority", "deadline", "memory", *REPLICA_NAMES),
    }
)
