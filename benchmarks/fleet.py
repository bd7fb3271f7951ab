"""What fleets are measured on: many replicas behind a router, and streams that no memory could hold.

python benchmarks/fleet.py --requests 100000000 --replicas 1000     a stream, with the memory that it took
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import resource
import time
from collections.abc import Callable
from typing import Any

from cases import CLOCK, DATA, MEMORY

import llmsched as ls

#: Requests a second of each replica: about nine tenths of what it serves.
RATE_AZURE, CACHE_AZURE = 0.8, 60_000
RATE = 5.0


@dataclasses.dataclass(frozen=True)
class FleetCase:
    """One simulation of a fleet to measure."""

    workload: ls.Workload
    policy: str
    replicas: int
    router: str
    memory: int = MEMORY
    clock: str | None = CLOCK

    def simulate(self) -> ls.FleetResult:
        return ls.simulate_fleet(
            self.workload, self.policy, replicas=self.replicas, router=self.router, memory=self.memory, clock=self.clock
        )

    def parts(self) -> list[ls.Result]:
        """The same requests, dealt out one by one, each replica by `simulate`."""
        return [
            ls.simulate(self.workload.take(slice(k, None, self.replicas)), self.policy, memory=self.memory, seed=None,
                        clock=self.clock)
            for k in range(self.replicas)
        ]  # fmt: skip


def arriving(n: int, replicas: int, rate: float = RATE) -> ls.Workload:
    """Generated conversations in buckets of 100, so many a second for each replica."""
    lengths = ls.generate.lmsys(5000, seed=1).with_intervals(ls.intervals.buckets(100))
    return ls.generate.poisson(ls.generate.resample(lengths, n, seed=0), rate * replicas, seed=0)


@functools.cache
def azure_times(replicas: int, rate: float | None) -> ls.Workload | None:
    """The Azure conversations, so many times as many, resampled: over the same hour, or by a rate for each replica."""
    path = DATA / "AzureLLMInferenceTrace_conv.csv"
    if not path.exists():
        return None
    trace = ls.traces.load(path).with_intervals(ls.intervals.buckets(100))
    many = ls.generate.resample(trace, replicas * len(trace), seed=0)
    return ls.generate.poisson(many, rate * replicas if rate else len(many) / float(trace.arrival.max()), seed=0)


def seconds_of(run: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def stream(n: int, replicas: int, policy: str = "fcfs", router: str = "power-of-two") -> ls.StreamResult:
    """So many generated requests, in chunks."""
    lengths = ls.generate.lmsys(5000, seed=1).with_intervals(ls.intervals.buckets(100))
    chunks = ls.generate.chunks(lengths, n, RATE * replicas, seed=0)
    return ls.stream(chunks, policy, replicas=replicas, router=router, memory=MEMORY, clock=CLOCK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--policy", default="fcfs")
    parser.add_argument("--router", default="power-of-two")
    asked = parser.parse_args()
    before, began = time.process_time(), time.perf_counter()
    result = stream(asked.requests, asked.replicas, asked.policy, asked.router)
    spent, passed = time.process_time() - before, time.perf_counter() - began
    print(result)
    for name, value in result.summary().items():
        print(f"{name}: {value:,}")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{asked.requests / spent:,.0f} requests per processor second, {passed:.1f} s, {resident:.0f} MiB at most")


if __name__ == "__main__":
    main()
