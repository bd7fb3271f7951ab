"""Disaggregation: one pool of replicas processes prompts, another generates, and the cache moves between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .._logging import logger
from ..errors import InputError, MemoryTooSmallError, PolicyError, nearest, number_of
from ..policy import Policy
from ..progress import with_bar
from ..simulation.blocks import down_to_blocks, whole_blocks
from ..simulation.clock import Clock
from ..simulation.run import EngineName, Progress
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload
from .replica import Replica, machines_of, replicas_of
from .result import FleetResult
from .router import Router
from .simulate_fleet import simulate_fleet

_log = logger(__name__)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What moving the cache of a prompt from one replica to another takes: latency + per_token · s.

    Attributes
    ----------
    per_token
        Seconds for each token of the prompt (rounds without a clock). 320 KiB over a link of 25 GB/s are 1.3e-5.
    latency
        Seconds (rounds) for each request.
    """

    per_token: float = 0.0
    latency: float = 0.0

    def __post_init__(self) -> None:
        for name in ("per_token", "latency"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise InputError(f"Transfer.{name} is {value!r}, expected a time of at least 0")

    def seconds(self, prompt: IntArray) -> FloatArray:
        """How long it takes for prompts of so many tokens."""
        return self.latency + self.per_token * prompt.astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Disaggregated:
    """What a prefill pool and a decode pool did. Arrays have one value per request, in the workload's order.

    Attributes
    ----------
    workload
        The requests.
    prefill
        The prefill pool's result: each request generates its first token there, and completes with it.
    decode
        The decode pool's: the rest of those that generate more than one. Its requests are in the order in which they
        came, and each has its first token in its prompt.
    decoded
        Which request of the workload each of `decode` is.
    first_token, ready, completion
        When each request had its first token; when its cache was with the decode pool (NaN where it needs none); and
        when it had its last token.
    """

    workload: Workload
    prefill: FleetResult
    decode: FleetResult
    decoded: IntArray
    first_token: FloatArray
    ready: FloatArray
    completion: FloatArray
    transfer: Transfer

    def __len__(self) -> int:
        return len(self.workload)

    def __repr__(self) -> str:
        unit = "rounds" if self.prefill.clock is None else "s"
        return (
            f"Disaggregated({len(self.prefill.outcomes)} prefill + {len(self.decode.outcomes)} decode replicas, "
            f"{len(self)} requests: mean latency {self.mean_latency:.6g} {unit}, p99 ttft "
            f"{self.percentile('ttft', 99):.4g} {unit}, p99 tpot {self.percentile('tpot', 99):.4g} {unit})"
        )

    @cached_property
    def e2e(self) -> FloatArray:
        """Time from arrival to the last token: the latency."""
        return self.completion - self.workload.arrival

    @cached_property
    def ttft(self) -> FloatArray:
        """Time from arrival to the first token, which the prefill pool generates."""
        return self.first_token - self.workload.arrival

    @cached_property
    def tpot(self) -> FloatArray:
        """Time per token after the first, with the transfer and the wait for a decode replica; NaN for one token."""
        more = self.workload.output - 1
        tpot: FloatArray = np.full(len(self), np.nan)
        np.divide(self.completion - self.first_token, more, out=tpot, where=more > 0)
        return tpot

    @property
    def mean_latency(self) -> float:
        """Mean latency; NaN without requests."""
        return float(self.e2e.mean()) if len(self) else math.nan

    @property
    def makespan(self) -> float:
        """When the last request completed."""
        return float(self.completion.max(initial=0.0))

    def percentile(self, metric: str, q: float) -> float:
        """The q-th percentile (0 to 100) of ``"ttft"``, ``"tpot"`` or ``"e2e"``, without NaN; NaN if there is none.

        Raises InputError for another metric, or unless 0 <= q <= 100.
        """
        values = self._values(metric)
        if not 0 <= q <= 100:
            raise InputError(f"percentile {q!r} is out of range, expected 0 to 100")
        values = values[~np.isnan(values)]
        return float(np.percentile(values, q)) if len(values) else math.nan

    def goodput(self, slo: Mapping[str, float]) -> float:
        """Share of the requests that keep every target, ``{"ttft": 1.0, "tpot": 0.1}``. A NaN keeps any.

        Raises InputError for an unknown metric.
        """
        met = np.ones(len(self), bool)
        for metric, limit in slo.items():
            met &= ~(self._values(metric) > limit)
        return float(met.mean()) if len(self) else math.nan

    def _values(self, metric: str) -> FloatArray:
        if metric not in ("ttft", "tpot", "e2e"):
            raise InputError(f"there is no metric {metric!r} here; {nearest(str(metric), ('ttft', 'tpot', 'e2e'))}")
        values: FloatArray = getattr(self, metric)
        return values

    def summary(self) -> dict[str, Any]:
        """The totals as a plain dict of numbers, ready for JSON or a dataframe row."""
        numbers: dict[str, Any] = {"requests": len(self), "mean_latency": self.mean_latency, "makespan": self.makespan}
        for metric in ("ttft", "tpot", "e2e"):
            numbers |= {f"{metric}_p{q}": self.percentile(metric, q) for q in (50, 90, 99)}
        for name, pool in (("prefill", self.prefill), ("decode", self.decode)):
            busy = float(pool.busy.mean()) * pool.makespan / self.makespan if self.makespan else 0.0
            numbers |= {
                f"{name}_replicas": len(pool.outcomes),
                f"{name}_busy": busy,
                f"{name}_evictions": pool.total_evictions,
                f"{name}_peak_share": pool.peak_share,
            }
        return numbers

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per request: the workload's columns, times, and who took it in each pool (-1: no decode replica)."""
        replica = np.full(len(self), -1, np.int64)
        replica[self.decoded] = self.decode.replica
        times = {name: getattr(self, name) for name in ("first_token", "ready", "completion", "ttft", "tpot", "e2e")}
        return {**self.workload.columns(), **times, "prefill": self.prefill.replica, "decode": replica}


@with_bar("simulating", "requests")
def simulate_disaggregated(
    workload: Workload,
    policy: str | Policy = "fcfs",
    *,
    prefill: int | Sequence[Replica],
    decode: int | Sequence[Replica],
    transfer: Transfer = Transfer(),
    router: str | Router = "least-requests",
    decode_router: str | Router | None = None,
    memory: int | None = None,
    seed: int | None = 0,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    engine: EngineName = "compiled",
    record: str | Collection[str] | None = None,
    progress: Progress | None = None,
) -> Disaggregated:
    """Schedule `workload` on a pool that processes prompts and one that generates (docs/background/disaggregation.md).

    Each pool is a fleet, simulated as `simulate_fleet` does: the first with requests that generate one token, the
    second with the rest of those that generate more, which come as their cache has moved.

    Parameters
    ----------
    workload
        The requests.
    policy, memory, clock, max_batch, block
        Of each replica, as in `simulate_fleet`; a `Replica` may have its own, its policy too. Decode replicas have
        ``prompts="moved"``: they process those alone whose cache they evicted, where the policy recomputes it.
    prefill, decode
        How many replicas there are in each pool, or a `Replica` for each.
    transfer
        What moving the cache takes.
    router, decode_router
        Who takes a request in each pool; the second is the same unless it is given.
    prefill_budget
        Of the prefill replicas alone; a decode replica that has to process what it evicted in chunks says so itself.
    seed, engine, record
        As in `simulate_fleet`, for both pools.
    progress
        Called now and then with (requests completed in a pool, in both of them in all).

    Raises
    ------
    PolicyError, WorkloadError, InputError, NotFinishedError
        As `simulate_fleet`; for replicas that fail, think times and cached prefixes; and for decode replicas, a policy
        that reads a table of lengths.
    """
    if not isinstance(workload, Workload):
        raise InputError(f"simulate_disaggregated needs a llmsched.Workload, not {type(workload).__name__}")
    if not isinstance(transfer, Transfer):
        raise InputError(f"transfer is {transfer!r}, expected a llmsched.Transfer")
    common: dict[str, Any] = {
        "policy": policy,
        "memory": memory,
        "clock": clock,
        "max_batch": max_batch,
        "block": block,
    }
    prefilling = machines_of(prefill, **common, prefill_budget=prefill_budget)
    decoding = machines_of(decode, **common)
    if {machine["clock"] is None for machine in [*prefilling, *decoding]} == {True, False}:
        raise InputError("some replicas have a clock and others none: give all of both pools one, or none")
    _refuse(workload, [*replicas_of(prefill), *replicas_of(decode)], [*prefilling, *decoding])
    _check_fits(workload.prompt + 1, workload, prefilling, "prefill")
    _check_fits(workload.prompt + workload.output, workload, decoding, "decode")
    how: dict[str, Any] = {"seed": seed, "engine": engine, "record": record}
    n, both = len(workload), len(workload) + int(np.count_nonzero(workload.output > 1))
    first = simulate_fleet(
        _first_tokens(workload),
        replicas=[Replica(**m) for m in prefilling],
        router=router,
        progress=None if progress is None else lambda done, _: progress(done, both),
        **how,
    )
    _log.info("prefill: %d requests have their first token at %g", n, first.makespan)
    ready = first.completion + transfer.seconds(workload.prompt)
    decoded = np.flatnonzero(workload.output > 1)
    decoded = decoded[np.argsort(ready[decoded], kind="stable")]
    rest = simulate_fleet(
        _after_first_tokens(workload, ready, decoded),
        replicas=[Replica(**_with_prompts_moved(machine)) for machine in decoding],
        router=router if decode_router is None else decode_router,
        progress=None if progress is None else lambda done, _: progress(n + done, both),
        **how,
    )
    _log.info("decode: %s, the last completes at %g", number_of(len(decoded), "request"), rest.makespan)
    completion = first.completion.copy()
    completion[decoded] = rest.completion
    ready[workload.output == 1] = np.nan
    return Disaggregated(workload, first, rest, decoded, first.completion, ready, completion, transfer)


def _refuse(workload: Workload, replicas: Sequence[Replica], machines: Sequence[Mapping[str, Any]]) -> None:
    """Raises InputError and PolicyError for what the two pools do not know of each other."""
    if any(replica.fails_at is not None for replica in replicas):
        raise InputError("a pool cannot send requests again: leave fails_at out of its replicas")
    if workload.think is not None:
        raise InputError("think times are not for two pools: drop the column think")
    if any(machine["policy"].prefixes == "cached" for machine in machines):
        raise PolicyError("cached prefixes are not for two pools: take a policy with prefixes='none'")


def _first_tokens(workload: Workload) -> Workload:
    """The requests, each to generate its first token alone, which everybody knows."""
    changed = ["output", *(name for name in ("lower", "upper", "point") if getattr(workload, name) is not None)]
    return workload.replace(**dict.fromkeys(changed, np.ones(len(workload), np.int64)))


def _after_first_tokens(workload: Workload, ready: FloatArray, decoded: IntArray) -> Workload:
    """What is left of these requests, whose first token has become a part of the prompt."""
    changed: dict[str, Any] = {"prompt": workload.prompt + 1, "output": np.maximum(workload.output - 1, 1)}
    for name in ("lower", "upper", "point"):
        column = getattr(workload, name)
        if column is not None:
            changed[name] = np.maximum(column - 1, 1)
    if workload.deadline is not None:
        changed["deadline"] = np.maximum(workload.arrival + workload.deadline - ready, 0.0)
    return workload.replace(**changed, arrival=ready).take(decoded)


def _with_prompts_moved(machine: Mapping[str, Any]) -> dict[str, Any]:
    """A decode replica: prompts come with their cache, and their first token counts as generated."""
    policy, clock = machine["policy"], machine["clock"]
    if "lengths" in policy.needs:
        raise PolicyError(
            f"policy {policy.name} reads a table of whole outputs, of which a decode replica generates all but the "
            "first token: choose another policy for it, Replica(policy=...)"
        )
    moved = dataclasses.replace(policy, prompts="moved").labelled(f"{policy.name},prompts=moved")
    if clock is None or clock.context == "all":
        return {**machine, "policy": moved}
    # Where the context is what was generated, the first token is of it.
    counted = dataclasses.replace(clock, per_request=clock.per_request + clock.per_context_token)
    return {**machine, "policy": moved, "clock": counted}


def _check_fits(size: IntArray, workload: Workload, machines: Sequence[Mapping[str, Any]], pool: str) -> None:
    """Raises MemoryTooSmallError if a request fits no replica of a pool."""
    fits = np.zeros(len(workload), bool)
    for machine in machines:
        fits |= whole_blocks(size, machine["block"]) <= down_to_blocks(machine["memory"], machine["block"])
    if not fits.all():
        i = int(np.argmin(fits))
        needed = int(min(whole_blocks(int(size.max()), machine["block"]) for machine in machines))
        raise MemoryTooSmallError(
            f"request {i} needs {size[i]} tokens of cache in the {pool} pool, and none of its replicas has as many: it "
            f"can never finish. A {pool} replica with memory={needed} is enough for every request",
            i,
            needed,
        )
