"""size(): how much KV cache a service needs on a machine, and which GPUs hold that beside the model's weights.

found = ls.size(workload, "vllm", machine="llama2-70b-4xh100", slo={"ttft": 1.0, "tpot": 0.1}, rate=5.0,
                model="llama-2-70b")
print(found)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from .._logging import logger
from ..errors import InputError, nearest
from ..html_tables import table
from ..policy import Policy
from ..progress import with_bar
from ..simulation import kv_cache
from ..simulation.kv_cache import GPU, RESERVE, Fit, Model
from ..simulation.machine import Machine
from ..simulation.machine import named as named_machine
from ..workloads.workload import Workload
from .capacity import Capacity, Progress, smallest_memory

_log = logger(__name__)

__all__ = ["Sizing", "size"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sizing:
    """What `size` found.

    Attributes
    ----------
    capacity
        The answer, its confidence interval, and all that was tried.
    machine
        What was simulated.
    fits
        GPUs that hold the answer beside the model: of each kind the fewest, with the utilization that is just enough.
        Empty without a model, and where no memory is enough.
    safe_fits
        The same for the upper end of the confidence interval; empty where that is not known.
    """

    capacity: Capacity
    machine: Machine
    fits: tuple[Fit, ...]
    safe_fits: tuple[Fit, ...]

    @property
    def tokens(self) -> float:
        """The fewest tokens of cache that are enough; infinite if none are, however many."""
        return self.capacity.value

    @property
    def share(self) -> float:
        """The answer over the cache that the machine has: above 1, it has too little."""
        return self.tokens / self.machine.memory

    def __repr__(self) -> str:
        return f"Sizing({self.capacity})"

    def _repr_html_(self) -> str:
        first, *lines = str(self).splitlines()
        return table(first, [(line,) for line in lines])

    def __str__(self) -> str:
        if math.isinf(self.tokens):
            met = f"{self.capacity.attainment:.0%} of the requests never meet the targets"
            return f"no cache is enough on {self.machine.name}, however large: {met}"
        lines = [f"{self.capacity}", f"{self.machine.name} has {self.machine.memory:,}: {self.share:.0%} of it"]
        return "\n".join([*lines, *map(str, self.fits)])

    def record(self) -> dict[str, Any]:
        """The answer as plain values; None for what there is not or is infinite."""
        share = self.share if math.isfinite(self.share) else None
        fits = {name: [dataclasses.asdict(fit) for fit in getattr(self, name)] for name in ("fits", "safe_fits")}
        return self.capacity.record() | {"machine": self.machine.fields(), "share": share} | fits


@with_bar("searching", "simulations")
def size(
    workload: Workload,
    policy: str | Policy = "fcfs",
    *,
    machine: str | Machine,
    slo: Mapping[str, float],
    rate: float | None = None,
    model: str | Model | None = None,
    gpu: str | GPU | None = None,
    most: int = 8,
    dtype: str = "bfloat16",
    cache_dtype: str | None = None,
    utilization: float = 0.9,
    reserve: float = RESERVE,
    attainment: float = 0.9,
    requests: int | None = None,
    replications: int = 10,
    seed: int = 0,
    tolerance: float = 0.01,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sizing:
    """The fewest tokens of KV cache with which `attainment` of the requests meet every target, and GPUs that hold them.

    The rounds take as long as the machine's, whatever the cache: GPUs of another kind, or more of them, would be
    another machine.

    Parameters
    ----------
    workload, policy, slo, rate, attainment, requests, replications, seed, tolerance, threads, progress
        As for `llmsched.capacity.smallest_memory`.
    machine
        Name of a machine, or a `Machine`: its clock, blocks and limits; its own cache only tells how much of it is
        needed.
    model
        What is served: a name, or a `llmsched.kv_cache.Model`. None: no GPUs are looked for.
    gpu
        The only GPU to look at; None for all of `llmsched.kv_cache.gpus`.
    most
        GPUs at most.
    dtype, cache_dtype, utilization, reserve
        As for `llmsched.kv_cache.room`.

    Raises
    ------
    InputError, MissingPredictionError
        As `smallest_memory` and `kv_cache.gpus_for` do.
    """
    there = named_machine(machine)
    among: Mapping[str, GPU] | None = None
    if gpu is not None:
        if isinstance(gpu, str) and gpu not in kv_cache.gpus:
            raise InputError(f"there is no GPU {gpu!r}; {nearest(gpu, kv_cache.gpus)}; or a kv_cache.GPU")
        among = {gpu: kv_cache.gpus[gpu]} if isinstance(gpu, str) else {"GPU": gpu}
    if model is None and gpu is not None:
        raise InputError("a GPU alone does not say how many tokens it holds: give the model, too")

    def fits(tokens: float) -> tuple[Fit, ...]:
        if model is None or not math.isfinite(tokens):
            return ()
        options: dict[str, Any] = {"dtype": dtype, "cache_dtype": cache_dtype, "utilization": utilization}
        options |= {"reserve": reserve, "block": there.block, "most": most}
        return tuple(kv_cache.gpus_for(int(tokens), model, among, **options))

    fits(1)  # what is wrong with model and GPU is told before the first simulation
    found = smallest_memory(
        workload,
        policy,
        slo=slo,
        rate=rate,
        attainment=attainment,
        requests=requests,
        replications=replications,
        seed=seed,
        tolerance=tolerance,
        threads=threads,
        progress=progress,
        **there.options(memory=False),
    )
    holding = fits(found.value)
    if model is not None:
        _log.info("GPUs for %s tokens of cache: %s", f"{found.value:,.0f}", "; ".join(map(str, holding)) or "none")
    return Sizing(found, there, holding, fits(found.high))
