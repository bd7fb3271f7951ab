"""A judge that is no engine: is this Result what model.md asks for? Plain Python on exact numbers, slow and simple.

`replay` needs a run in which nobody left before completing: then the start times and the truth alone say who ran when,
so the memory of every round and every single admission can be recomputed. `check_conservation` holds for any run.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

import llmsched as ls
from llmsched.optimum.theory import staggered_peak


def replay(result: ls.Result) -> None:
    """Every round of a run without evictions, recomputed from starts and outputs (model.md, sections 2 to 5)."""
    w = result.workload
    assert result.total_evictions == 0 == result.wasted_tokens
    start = [Fraction(t) for t in result.start.tolist()]
    arrival = [Fraction(t) for t in w.arrival.tolist()]
    prompt, output = w.prompt.tolist(), w.output.tolist()
    held = prompt if result.policy.slots == "ahead" else [max(s - 1, 0) for s in prompt]  # before the first token
    everyone = range(len(w))
    for i in everyone:
        assert start[i] >= arrival[i]
        assert result.completion[i] == start[i] + output[i]
    times = sorted({start[i] + k for i in everyone for k in range(output[i])})
    assert len(times) == result.rounds
    rows = result.timeline.expand()
    peak = 0
    for row, t in enumerate(times):
        running = [i for i in everyone if start[i] <= t < start[i] + output[i]]
        memory = sum(held[i] + int(t - start[i]) + 1 for i in running)
        assert memory <= result.memory
        peak = max(peak, memory)
        assert rows["time"][row] == t
        assert rows["memory"][row] == memory
        assert rows["batch"][row] == len(running)
        assert rows["waiting"][row] == sum(arrival[i] <= t < start[i] for i in everyone)
        assert rows["evictions"][row] == 0
        before = [i for i in running if start[i] < t]
        if row == 0:
            assert t == min(arrival)
        elif not before and t != times[row - 1] + 1:  # an idle jump ends at an arrival, not later
            assert t == min(a for a in arrival if a > times[row - 1])
        admitted = {i for i in running if start[i] == t}
        assert admitted == _admitted(result, t, start, arrival)
    assert result.peak_memory == peak == max(rows["memory"], default=0)


def _admitted(result: ls.Result, t: Fraction, start: list[Fraction], arrival: list[Fraction]) -> set[int]:
    """Who is admitted at time `t`: section 4's feasibility at *every* d, in section 5's order."""
    w, policy = result.workload, result.policy
    everyone = range(len(w))
    generated = {i: int(t - start[i]) for i in everyone if start[i] < t < start[i] + int(w.output[i])}
    waiting = [i for i in everyone if arrival[i] <= t <= start[i]]
    rank = list(everyone) if result.seed is None else np.random.default_rng(result.seed).permutation(len(w)).tolist()
    spared = math.floor((1 - Fraction(str(policy.margin))) * result.memory)
    new: set[int] = set()
    pace = _Pace(result, t, start)
    for i in sorted(waiting, key=lambda i: (_key(result, i), rank[i])):
        capacity = spared if generated else result.memory
        timely = not generated or pace.allows(i, len(new))
        if timely and _feasible(w, policy, {**generated, i: 0}, result.memory, capacity):
            generated[i] = 0
            new.add(i)
        elif policy.fill == "break":
            break
    return new


class _Pace:
    """What `rate_limit` and `slices` allow at time `t`: places in rounds since the batch was filled from nothing."""

    def __init__(self, result: ls.Result, t: Fraction, start: list[Fraction]) -> None:
        w, self.policy, self.memory = result.workload, result.policy, result.memory
        self.bound = [_first_bound(w, self.policy, i) for i in range(len(w))] if self.policy.tracks_bound else []
        filled = max(
            time
            for time in start
            if time <= t and not any(s < time < s + int(o) for s, o in zip(start, w.output, strict=True))
        )
        self.first = start.index(filled)
        self.rounds = int(t - filled)

    def allows(self, i: int, admitted: int) -> bool:
        if self.policy.slices == "staggered":
            length, own = (min(self.bound[k], self.memory) for k in (self.first, i))
            widths = range(1, self.memory + 1)
            fits = [k for k in widths if staggered_peak(k, min(length, self.memory - length), length) <= self.memory]
            due = sum(math.floor(Fraction(j * length, fits[-1])) == self.rounds % length for j in range(fits[-1]))
            if own != length or admitted >= due:
                return False
        limit = self.policy.rate_limit
        return not limit or admitted < math.ceil((self.rounds + 1) * limit) - math.ceil(self.rounds * limit)


def _key(result: ls.Result, i: int) -> object:
    w, policy = result.workload, result.policy
    if not isinstance(policy.order, str):
        return float(policy.order[i])
    if "order" in policy.formulas:
        formula = policy.formulas["order"]
        columns = {name: getattr(w, name, None) for name in formula.reads}
        values = {name: float(column[i]) for name, column in columns.items() if column is not None}
        bound = 1.0 if policy.bound == "one" else float(getattr(w, policy.bound)[i])  # nobody leaves, so that it stays
        return formula.value({"memory": float(result.memory), "bound": bound, **values}, i)
    if policy.order == "priority":
        return int(w.priority[i]), float(w.arrival[i])
    if policy.order == "volume":
        s, o = int(w.prompt[i]), int(w.output[i])
        return s * o + o * (o + 1) // 2
    if policy.order == "table":
        return int(w.lengths.quantile(policy.quantile)[w.classes[i], 0])
    if policy.order in ("bound", "area"):
        bound = _first_bound(w, policy, i)
        return bound if policy.order == "bound" else (int(w.prompt[i]) + bound) * bound
    return getattr(w, "arrival" if policy.order == "queue" else policy.order)[i].item()


def _first_bound(w: ls.Workload, policy: ls.Policy, i: int) -> int:
    if policy.bound == "prompt":
        return 1 << max(int(w.prompt[i]) - 1, 0).bit_length()
    return 1 if policy.bound == "one" else int(getattr(w, policy.bound)[i])


def _feasible(w: ls.Workload, policy: ls.Policy, generated: dict[int, int], memory: int, capacity: int) -> bool:
    def believed(i: int, g: int) -> int:
        if policy.reserve == "conditional":
            row = w.lengths.quantile(policy.quantile)[w.classes[i]].tolist()
            b = row[min(g, len(row) - 1)]
        else:
            b = _first_bound(w, policy, i) if policy.reserve == "bound" else int(getattr(w, policy.reserve)[i])
        return min(max(b, g + 1), memory - int(w.prompt[i]))

    coming = sum(int(w.prompt[i]) + g + 1 for i, g in generated.items())
    if policy.reserve == "none":
        return coming <= capacity
    if policy.hold != "growth":
        return max(coming, sum(int(w.prompt[i]) + believed(i, 0) for i in generated)) <= capacity
    length = {i: believed(i, g) for i, g in generated.items()}
    return all(
        sum(int(w.prompt[i]) + g + d for i, g in generated.items() if g + d <= length[i]) <= capacity
        for d in range(1, max(length[i] - generated[i] for i in generated) + 1)
    )


def check_conservation(result: ls.Result) -> None:
    """What holds however often requests left: memory, tokens and the time every request needs."""
    w, rows = result.workload, result.timeline.expand()
    assert len(rows["memory"]) == result.rounds
    assert rows["memory"].max(initial=0) == result.peak_memory <= result.memory
    if result.policy.slots == "ahead":  # else who would have been served may just have left
        assert rows["batch"].min(initial=1) >= 1
    assert rows["batch"].sum() == w.output.sum() + result.wasted_tokens
    assert rows["evictions"].sum() == result.total_evictions
    assert np.isfinite(result.completion).all()
    assert (result.start >= w.arrival).all()
    if result.policy.resume != "restart":
        assert result.wasted_tokens == 0
    stayed = result.evictions == 0  # whoever never left ran through from its first admission
    lasted = (result.completion - result.start)[stayed]
    assert (lasted >= w.output[stayed] - 1e-9).all()
    if result.policy.slots == "ahead":  # else it may run and not be served
        assert np.allclose(lasted, w.output[stayed], rtol=0, atol=1e-9)
    left = ~stayed  # whoever left lost a round at least
    assert (result.completion[left] >= result.start[left] + w.output[left] - 1e-9).all()
