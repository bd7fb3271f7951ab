"""What schedulers inside real engines share: a policy that keeps tokens, patience, and predictions filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .._logging import logger
from ..errors import InputError, nearest
from ..policy import Policy
from ..simulation import live
from ..workloads.columns import LATEST

_log = logger(__name__)

__all__ = ["PATIENCE", "Patience", "filled_in", "looking_ahead", "recomputing"]

#: Seconds after which a request that waits goes before all others, unless it is said otherwise.
PATIENCE = 600.0


def recomputing(policy: Policy, engine: str, say: Callable[[str], object]) -> Policy:
    """The policy as engines can run it: who is preempted keeps its tokens, and its cache is computed again."""
    if policy.resume == "recompute":
        return policy
    _log.info("%s: resume=%r becomes 'recompute' inside %s", policy.name, policy.resume, engine)
    say(
        f"policy {policy.name} says resume={policy.resume!r}: {engine} keeps the tokens of whom it preempts (recompute)"
    )
    return dataclasses.replace(policy, resume="recompute").labelled(policy.name)


def looking_ahead(policy: Policy, say: Callable[[str], object]) -> Policy:
    """The policy where only the engine knows how far a prompt is: slots cannot be counted as they are processed."""
    if policy.slots == "ahead":
        return policy
    say(f"policy {policy.name} says slots='processed': counted a token ahead, as the engine's steps are only reported")
    return dataclasses.replace(policy, slots="ahead", chunk=Policy().chunk).labelled(policy.name)


class Patience:
    """Lets requests that have been there for so many seconds go before all others; None: never.

    Raises InputError where it is no such number.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds >= 0):
            raise InputError(f"patience is {seconds!r}, expected seconds, or null for ever")
        self.seconds = float("inf") if seconds is None else float(seconds)
        self._oldest: dict[str, float] = {}  # id -> when it came, of those that were not hastened; in that order

    def came(self, id: str, when: float) -> None:
        """A request came then."""
        self._oldest[id] = when

    def hasten(self, core: live.Scheduler, now: float) -> None:
        """Those that wait for too long go first from now on."""
        while self._oldest:
            id, came = next(iter(self._oldest.items()))
            if id in core and now - came < self.seconds:
                break
            if id in core:
                core.hasten(id)
                _log.info("request %s goes first: it was there for %.1f s", id, now - came)
            del self._oldest[id]


def filled_in(id: str, given: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """A prediction for `live.Scheduler.submit`: what is missing is the widest, and nothing exceeds `longest`.

    Raises InputError where a name is unknown.
    """
    names = ("lower", "upper", "point", "deadline")
    for key in given:
        if key not in names:
            raise InputError(f"request {id}: llmsched has no {key!r}; {nearest(key, names)}")
    values = {"lower": 1, "upper": longest, "deadline": LATEST} | dict(given)
    for name in ("lower", "upper", "point"):
        if isinstance(values.get(name), (int, float)):
            values[name] = min(values[name], longest)
    return values
