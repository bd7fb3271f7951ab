"""Replica: one machine of a fleet, and what it is told beside the policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..policy import Policy
from ..policy import named as named_policy
from ..simulation.clock import Clock
from ..simulation.clock import named as named_clock
from ..simulation.machine import Machine
from ..workloads.argument_checks import whole
from ..workloads.columns import LATEST

MOST_REPLICAS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Replica:
    """One of the replicas of a fleet. What is None is that of the fleet.

    Attributes
    ----------
    memory
        M, tokens of KV cache.
    clock, max_batch, block, prefill_budget
        As in `simulate`.
    policy
        The scheduling policy, a name or a `Policy`.
    price
        What it costs per hour, in any unit; for the cheapest mix.
    fails_at
        When it dies, with all that it has: its requests go back to the router. None: never.
    returns_at
        When it is there again, with an empty cache. None: never.

    Raises
    ------
    InputError
        A time is no number or negative, or it returns before it fails.
    """

    memory: int | None = None
    clock: str | Clock | None = None
    policy: str | Policy | None = None
    max_batch: int | None = None
    block: int | None = None
    prefill_budget: int | None = None
    price: float = 0.0
    fails_at: float | None = None
    returns_at: float | None = None

    def __post_init__(self) -> None:
        for name in ("fails_at", "returns_at"):
            time = getattr(self, name)
            if time is None:
                continue
            if isinstance(time, bool) or not isinstance(time, (int, float, np.number)) or not 0 <= time <= LATEST:
                raise InputError(f"a replica's {name}={time!r} is no time from 0 to {LATEST}")
            object.__setattr__(self, name, float(time))
        if self.returns_at is not None and (self.fails_at is None or self.returns_at < self.fails_at):
            raise InputError(
                f"a replica that returns at {self.returns_at:g} has to fail before: fails_at={self.fails_at}"
            )

    @classmethod
    def of(cls, machine: Machine, *, policy: str | Policy | None = None, price: float = 0.0) -> Replica:
        """A replica that is such a machine."""
        return cls(**machine.options(), policy=policy, price=price)

    def completed_by(self, fleet: dict[str, Any]) -> dict[str, Any]:
        """Its own values, and those of the fleet where it has none: policy, memory, clock, and so on.

        Raises InputError where neither says how much memory there is.
        """
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _ITS_OWN}
        values: dict[str, Any] = {name: fleet.get(name) if value is None else value for name, value in own.items()}
        if values["memory"] is None:
            raise InputError("a replica has no memory: simulate_fleet(..., memory=...), or Replica(memory=...)")
        values["policy"] = named_policy(values["policy"])
        values["clock"] = named_clock(values["clock"])
        values["block"] = 1 if values["block"] is None else whole("block", values["block"], 1)
        return values


_ITS_OWN = ("price", "fails_at", "returns_at")  # which a fleet has none of


def replicas_of(given: int | Sequence[Replica]) -> list[Replica]:
    """A `Replica` for each of a fleet. Raises InputError if there are none, or something else among them."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        for replica in given:
            if not isinstance(replica, Replica):
                raise InputError(f"replicas holds {replica!r}, expected a llmsched.Replica for each")
        if not given:
            raise InputError("replicas is empty: a fleet has at least one")
        return list(given)
    return [Replica()] * whole("replicas", given, 1, MOST_REPLICAS)


def machines_of(given: int | Sequence[Replica], **fleet: Any) -> list[dict[str, Any]]:
    """The values of each replica, with those of the fleet where it has none. Raises InputError as `Replica` does."""
    return [replica.completed_by(fleet) for replica in replicas_of(given)]
