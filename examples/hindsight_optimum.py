"""The measurements of docs/background/optimum.md: how fast the optimum is proven, and how far policies are from it.

    python examples/hindsight_optimum.py solver              # 25 random instances of 12, 16 and 20 requests: an hour
    python examples/hindsight_optimum.py solver -n 10 --method cpsat       # the same by another solver
    python examples/hindsight_optimum.py cuts                # what knapsack cuts do to the linear relaxation
    python examples/hindsight_optimum.py study               # the companion paper's synthetic study: half an hour
    python examples/hindsight_optimum.py traces FILE...      # bound and best schedule of traces, all arriving at 0

Each takes --quick. Needs `pip install '.[optimum]'`, and for --method cpsat ortools as well.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import llmsched as ls


class Outcome(NamedTuple):
    """What is known of one instance: its least total latency lies in [bound, best]."""

    seconds: float
    best: float
    bound: float
    hsf: float
    svf: float

    @property
    def gap(self) -> float:
        return self.best / self.bound - 1


def outcome(workload: ls.Workload, memory: int, solve: Callable[[], tuple[float, float]]) -> Outcome:
    began = time.perf_counter()
    best, bound = solve()
    seconds = time.perf_counter() - began
    hsf, svf = (ls.simulate(workload, name, memory=memory, seed=0).total_latency for name in ("hsf", "svf"))
    return Outcome(seconds, best, bound, hsf, svf)


# How fast ------------------------------------------------------------------------------------------------------------


def random_instance(n: int, seed: int) -> tuple[ls.Workload, int]:
    """o in 1..20, s in 0..5, M in 30..60, all at 0."""
    rng = np.random.default_rng([n, seed])
    memory = int(rng.integers(30, 61))
    return ls.Workload(rng.integers(0, 6, n), rng.integers(1, 21, n)), memory


def solver(sizes: Iterable[int], count: int, seconds: float, method: str, log: Path | None) -> None:
    print(f"{method}, {seconds:g} s each; quantiles over {count} instances: 10, 25, 50, 75, 90, 100 %")
    for n in sizes:
        rows = []
        for seed in range(count):
            workload, memory = random_instance(n, seed)

            def solve(workload: ls.Workload = workload, memory: int = memory) -> tuple[float, float]:
                if method == "cpsat":
                    return by_cpsat(workload, memory, seconds)
                found = ls.optimal(workload, memory=memory, time_limit=seconds, solver=method)
                return found.total_latency, found.lower_bound

            rows.append(outcome(workload, memory, solve))
            if log is not None:
                with log.open("a") as file:
                    print(json.dumps({"method": method, "n": n, "seed": seed, **rows[-1]._asdict()}), file=file)
        proven = sum(row.gap <= 0 for row in rows)
        print(f"n = {n}: {proven} of {count} proven; hsf {ratio(r.hsf / r.best for r in rows)} of the best found")
        print(f"  seconds {quantiles([row.seconds for row in rows], '.2f')}")
        print(f"  gap (%) {quantiles([100 * row.gap for row in rows], '.2f')}", flush=True)


def quantiles(values: list[float], form: str) -> str:
    return "  ".join(f"{x:{form}}" for x in np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9, 1.0]))


def ratio(values: Iterable[float]) -> str:
    found = np.array(list(values))
    return f"{found.mean():.3f} (at most {found.max():.3f})"


def by_cpsat(workload: ls.Workload, memory: int, seconds: float) -> tuple[float, float]:
    """The time-indexed program by CP-SAT, given the schedule of `best_known` and no start too late to beat it."""
    from ortools.sat.python import cp_model

    plan = ls.best_known(workload, memory=memory, time_limit=None, iterations=300)
    model, terms, objective = cp_model.CpModel(), {}, []
    slack = int(plan.start.sum())
    for j, (s, o) in enumerate(zip(workload.prompt.tolist(), workload.output.tolist(), strict=True)):
        starts = [(t, model.new_bool_var("")) for t in range(min(slack, int(plan.makespan) - o) + 1)]
        model.add_exactly_one(x for _, x in starts)
        for t, x in starts:
            model.add_hint(x, t == int(plan.start[j]))
            objective.append(t * x)
            for g in range(o):
                terms.setdefault(t + g, []).append((s + g + 1) * x)
    for used in terms.values():
        model.add(sum(used) <= memory)
    model.minimize(sum(objective))
    program = cp_model.CpSolver()
    program.parameters.max_time_in_seconds, program.parameters.num_workers = seconds, 2
    program.solve(model)
    tokens = float(workload.output.sum())
    return program.objective_value + tokens, np.ceil(program.best_objective_bound - 1e-6) + tokens


# What cuts would do --------------------------------------------------------------------------------------------------


def cuts(sizes: Iterable[int], count: int) -> None:
    """The linear relaxation over starts by itself, and with rounding cuts for the knapsack of each round.

    A cut for round τ: Σ ⌊u·size⌋·x <= the most that sizes within M can reach, u = p/q. The most violated are added
    until none is violated.
    """
    print("n   seed    M   best found   relaxation   with cuts   cuts")
    for n in sizes:
        for seed in range(count):
            workload, memory = random_instance(n, seed)
            plan = ls.best_known(workload, memory=memory, time_limit=None, iterations=300)
            plain, cut, rows = relaxed(workload, memory, int(plan.makespan) + 2)
            print(f"{n:<3} {seed:4} {memory:4} {plan.total_latency:12,.0f} {plain:12,.1f} {cut:11,.1f} {rows:6}")


def relaxed(workload: ls.Workload, memory: int, horizon: int) -> tuple[float, float, int]:
    """Total latency by the relaxation, the same with cuts, and how many of these."""
    import highspy

    from llmsched.optimum.exact_search import Instance, time_indexed

    s, o, n = workload.prompt, workload.output, len(workload)
    request = np.repeat(np.arange(n), horizon - o + 1)
    at = np.concatenate([np.arange(horizon - x + 1) for x in o])
    program = highspy.Highs()
    program.setOptionValue("output_flag", False)
    instance = Instance(s, o, np.zeros(n, np.int64), memory)
    program.passModel(time_indexed(highspy, instance, request, at, horizon))
    column = np.repeat(np.arange(len(at)), o[request])
    k = np.concatenate([np.arange(x) for x in o[request]])
    when, size = at[column] + k, s[request[column]] + 1 + k
    rounding = np.array(list(roundings(memory)))
    totals, rows = [], 0
    while True:
        program.run()
        totals.append(program.getInfo().objective_function_value + float(o.sum()))
        used = np.zeros((memory + 1, horizon))
        np.add.at(used, (size, when), np.array(program.getSolution().col_value)[column])
        reached = rounding @ used
        worst = reached.argmax(axis=0)
        violated = np.flatnonzero(reached.max(axis=0) > 1.005)
        for t in violated:
            here = (when == t) & (rounding[worst[t]][size] > 0)
            value = rounding[worst[t]][size[here]]
            program.addRow(-highspy.kHighsInf, 1.0, len(value), column[here].astype(np.int32), value)
        rows += len(violated)
        if not len(violated):
            return totals[0], totals[-1], rows


def roundings(memory: int) -> Iterable[np.ndarray]:
    """⌊u·size⌋ for sizes 0..M over the most that sizes which add up to M can reach."""
    sizes = np.arange(memory + 1)
    for u in sorted({p / q for q in range(1, memory + 2) for p in range(1, q + 1) if p == 1 or q <= 24}):
        value = np.floor(u * sizes + 1e-9)
        most = np.zeros(memory + 1)
        for room in range(1, memory + 1):
            most[room] = (most[room - sizes[1 : room + 1]] + value[1 : room + 1]).max()
        if most[-1] > 0:
            yield value / most[-1]


# How far -------------------------------------------------------------------------------------------------------------


def synthetic(n: int, over_time: bool, seed: int) -> tuple[ls.Workload, int]:
    """The companion's instances (arXiv 2502.07115): M in 30..50, s in 1..5, o in 1..M-s; n = 0: 40..60 requests.

    Over time they arrive in a Poisson process of 0.5 to 1.5 requests per round, at whole rounds.
    """
    rng = np.random.default_rng([n, over_time, seed])
    memory = int(rng.integers(30, 51))
    size = n or int(rng.integers(40, 61))
    prompt = rng.integers(1, 6, size)
    output = rng.integers(1, memory - prompt + 1)
    arrival = np.floor(np.cumsum(rng.exponential(1 / rng.uniform(0.5, 1.5), size))) if over_time else np.zeros(size)
    return ls.Workload(prompt, output, arrival=arrival - arrival.min()), memory


def study(sizes: Iterable[int], count: int, seconds: float) -> None:
    """One line per size: ratios to the best schedule found, and to the proven bound, means over `count` instances."""
    print(f"means over {count} instances; each ratio to the optimum lies between the two printed")
    print("arrivals    n          hsf (at most)            svf   proven  mean gap")
    for over_time in (False, True):
        for n in sizes:
            rows = []
            for seed in range(count):
                workload, memory = synthetic(n, over_time, seed)

                def solve(workload: ls.Workload = workload, memory: int = memory) -> tuple[float, float]:
                    if len(workload) <= MOST_EXACT:
                        found = ls.optimal(workload, memory=memory, time_limit=seconds)
                    else:
                        found = ls.best_known(workload, memory=memory, time_limit=None, iterations=2000)
                    return found.total_latency, found.lower_bound

                rows.append(outcome(workload, memory, solve))
            hsf, hsf_most, svf, svf_most = np.mean(
                [[r.hsf / r.best, r.hsf / r.bound, r.svf / r.best, r.svf / r.bound] for r in rows], axis=0
            )
            print(
                f"{'over time' if over_time else 'at once':9} {n or '40-60':>5}   {hsf:.3f} to {hsf_most:.3f} "
                f"({max(r.hsf / r.best for r in rows):.3f})   {svf:.3f} to {svf_most:.3f}   "
                f"{100 * np.mean([r.gap <= 0 for r in rows]):4.0f} %   {100 * np.mean([r.gap for r in rows]):5.2f} %",
                flush=True,
            )
    print("published for 40 to 60 requests: hsf / optimum 1.005 at once, 1.047 over time")


MOST_EXACT = 12  # requests of up to 49 tokens


def traces(files: Iterable[Path], memory: int, requests: int, seconds: float) -> None:
    for file in files:
        workload = ls.traces.load(file).head(requests).replace(arrival=0)
        plan = ls.best_known(workload, memory=memory, time_limit=seconds)
        totals = [ls.simulate(workload, name, memory=memory, seed=0).total_latency for name in ("hsf", "svf")]
        print(
            f"{file.name}, {len(workload):,} requests, M = {memory:,}: bound {plan.lower_bound:,.0f}, best known "
            f"{plan.total_latency:,.0f} (+{100 * plan.gap:.2f} %), hsf {totals[0]:,.0f}, svf {totals[1]:,.0f} "
            f"({plan.seconds:.0f} s, {plan.effort['iterations']:,} iterations)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("solver", "cuts", "study", "traces"))
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="of `traces`")
    parser.add_argument("-n", type=int, action="append", help="requests; 0 in `study` for 40 to 60")
    parser.add_argument("--instances", type=int, help="of each size")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of one instance")
    parser.add_argument("--method", default="search", choices=("search", "highs", "cpsat"))
    parser.add_argument("--memory", type=int, default=16492, help="of `traces`")
    parser.add_argument("--requests", type=int, default=2000, help="of each trace, at most")
    parser.add_argument("--log", type=Path, help="also append a line of JSON per instance of `solver`")
    parser.add_argument("--quick", action="store_true", help="few and small: seconds")
    parser.add_argument("--cpu", action="store_true", help="count processor seconds: for a machine with other work")
    given = parser.parse_intermixed_args()
    if given.cpu:
        time.perf_counter = time.process_time  # the search reads no other clock, and runs on one processor
    quick = given.quick
    if given.what == "solver":
        sizes = given.n or ([6, 8] if quick else [12, 16, 20])
        solver(sizes, given.instances or (5 if quick else 25), given.seconds, given.method, given.log)
    elif given.what == "cuts":
        cuts(given.n or [20], given.instances or 5)
    elif given.what == "study":
        study(given.n or ([6] if quick else [8, 10, 0]), given.instances or (10 if quick else 200), given.seconds)
    else:
        traces(given.files, given.memory, given.requests, 1.0 if quick else given.seconds)


if __name__ == "__main__":
    main()
