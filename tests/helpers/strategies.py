"""Hypothesis strategies: small workloads placed around the edges, and any composition of the policy fields.

A simulation is made of some two hundred small choices. Drawn from Hypothesis one by one they take longer than both
engines do: here they are read from bytes, which are drawn at once, and shrink too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import FormulaError
from llmsched.fleet.router import PREDICTIONS, RULES, SCORES
from llmsched.formula import Place, parse
from llmsched.formula_names import PLACES
from llmsched.policy import CHOICES

T = TypeVar("T")


class Picks:
    """Small choices, one for each byte; when there are no more, the first of every choice, which is the simplest."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def __repr__(self) -> str:
        return f"Picks({self.content.rstrip(bytes(1))!r})"

    def whole(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        assert 0 <= most - least < 256, (least, most)
        byte = self.content[self.at] if self.at < len(self.content) else 0
        self.at += 1
        return least + byte % (most - least + 1)

    def of(self, things: Sequence[T]) -> T:
        return things[self.whole(0, len(things) - 1)]

    def coin(self) -> bool:
        return self.whole(0, 1) == 1


#: Enough for 24 requests with all that is said of them, and for a policy with a formula in every place. All of one
#: size: Hypothesis puts parts of an example in the place of others, and bytes of another size it makes zeros.
picks = st.binary(min_size=400, max_size=400).map(Picks)


def _lengths(pick: Picks, n: int, memory: int) -> tuple[list[int], list[int]]:
    """Prompts and outputs that fit `memory`: many zeros, ones, equal requests and requests of exactly `memory`."""
    prompts, outputs = [], []
    for _ in range(n):
        kind = pick.whole(0, 9)
        prompt = 0 if kind < 4 else pick.whole(0, max(0, min(memory - 1, memory // 2)))
        most = memory - prompt
        if kind == 9:
            output = most
        elif kind in (0, 8):
            output = 1
        else:
            output = pick.whole(1, max(1, min(most, memory // 2)))
        prompts.append(prompt)
        outputs.append(output)
    if n and pick.coin():  # many equals, for ties
        first = pick.whole(0, n - 1)
        for i in range(n):
            if pick.coin():
                prompts[i], outputs[i] = prompts[first], outputs[first]
    return prompts, outputs


@st.composite
def problems(draw: st.DrawFn, most: int = 12) -> tuple[ls.Workload, int]:
    """A workload with every column, and a memory in which each request fits."""
    pick = draw(picks)
    memory = pick.whole(1, 60)
    n = pick.whole(1, most)
    prompts, outputs = _lengths(pick, n, memory)
    if pick.whole(0, 3) > 0:  # a cache exactly full, or that some request fills alone
        memory = max(
            max(s + o for s, o in zip(prompts, outputs, strict=True)),
            pick.of([0, 0, sum(s + 1 for s in prompts), sum(prompts) + sum(outputs)]),
        )
    lower, upper, point = [], [], []
    for o in outputs:
        a, b = pick.whole(1, 2 * o + 2), pick.whole(1, 2 * o + 2)
        exact = pick.coin()
        lower.append(o if exact else min(a, b))
        upper.append(o if exact else max(a, b))
        point.append(pick.of([o, a, b]))
    arrival: list[float] | float = 0.0
    if pick.coin():
        grain = pick.of([1.0, 0.25, 0.1, 7.0])
        arrival = [grain * pick.whole(0, 40) for _ in range(n)]
    priority = [pick.whole(-2, 2) for _ in range(n)]
    deadline = [pick.of([0.0, 0.5, 3.0, 20.0, 1e6]) for _ in range(n)]
    workload = ls.Workload(prompts, outputs, lower, upper, point, arrival, priority, deadline=deadline)
    return _with_lengths(pick, workload), memory


def _with_lengths(pick: Picks, workload: ls.Workload) -> ls.Workload:
    """The workload with a table of lengths of up to three classes, longer and shorter than the truth."""
    kinds = pick.whole(1, 3)
    seen = [pick.whole(1, 40) for _ in range(pick.whole(kinds, 20))]
    labels = [*range(kinds), *(pick.whole(0, kinds - 1) for _ in seen[kinds:])]
    table = ls.LengthTable.from_outputs(seen, labels)
    return workload.with_lengths(table, [pick.whole(0, kinds - 1) for _ in range(len(workload))])


def _formula(pick: Picks, place: str, depth: int = 3) -> str:
    """Any formula of few operations, some of which have no value for some requests in some rounds."""
    if depth == 0 or pick.whole(0, 3) == 0:
        return pick.of(pick.of([PLACES[place], PLACES[place], ["0", "1", "2", "0.3", "100"]]))
    inner = functools.partial(_formula, pick, place, depth - 1)
    a, b = inner(), inner()
    kind = pick.of(["+", "-", "*", "+", "-", "*", "/", "//", "%", "min", "max", "if", "-x", "**"])
    if kind in ("min", "max"):
        return f"{kind}({a}, {b})"
    if kind == "if":
        return f"({a} if {inner()} < {inner()} else {b})"
    if kind == "-x":
        return f"(-{a})"
    return f"({a}) ** 2" if kind == "**" else f"({a} {kind} {b})"


def _policy_formula(pick: Picks, place: str) -> str:
    """Any formula that a policy takes; those that are no number whatever a request is are refused."""
    text = _formula(pick, place)
    try:
        parse(text, cast(Place, place))
    except FormulaError:
        return "prompt + bound"
    return "prompt + bound" if text in CHOICES[place] else text


@st.composite
def compositions(draw: st.DrawFn, n: int, formulas: bool = False, slots: tuple[str, ...] = ("ahead",)) -> ls.Policy:
    """Any policy: a named one, or any choice of all fields, custom orders included, and formulas, which can fail.

    `slots` are its words for that field: what a round of "processed" serves is another thing than what runs.
    """
    pick = draw(picks)
    if pick.whole(0, 2) == 0:
        return ls.policies[pick.of(sorted(k for k, p in ls.policies.items() if p.slots in slots))]
    fields = {name: pick.of(words) for name, words in CHOICES.items()}
    fields["slots"] = pick.of(slots)
    fields["prompts"] = pick.of(["processed", "processed", "processed", "moved"])
    fields["prefixes"] = "none"  # `_turns_or_hashes` says otherwise: it needs to know which requests begin alike
    for place in PLACES if formulas else ():
        if pick.whole(0, 2) == 0:
            fields[place] = _policy_formula(pick, place)
    if pick.whole(0, 5) == 0:
        fields["order"] = [pick.of([-1.5, -0.0, 0.0, 1.0, 2.5, 1e300]) for _ in range(n)]
    fields["margin"] = pick.of([0.0, 0.0, 0.1, 0.25, 0.9])
    fields["beta"] = pick.of([0.1, 0.5, 1.0])
    fields["headroom"] = pick.of([1, 1, 2, 5, 20])
    fields["quantile"] = pick.of([0.0, 0.1, 0.5, 0.9, 1.0])
    fields["ratio"] = pick.of([0.01, 0.3, 0.7, 1.0])
    fields["ratio_floor"] = pick.of([0.0, 0.14, 1.0])
    fields["ratio_rounds"] = pick.of([1, 3, 20, 600])
    fields["clip"] = pick.of([1, 4, 4096])
    fields["window"] = pick.of([1, 3, 1000])
    fields["rate_limit"] = pick.of([0.0, 0.0, 0.3, 1.0, 1.6, 5.0])
    fields["chunk"] = pick.of([3, 7, 2**30, 2**30])
    return ls.Policy(**fields | (_served_as_processed(pick) if fields["slots"] == "processed" else {}))


def _served_as_processed(pick: Picks) -> dict[str, Any]:
    """What goes with slots="processed" in the place of what does not."""
    return {
        "reserve": pick.of(["none", "prompt"]),
        "resume": pick.of(["restart", "recompute"]),
        "headroom": 1,
    }


@st.composite
def machines(draw: st.DrawFn) -> dict[str, Any]:
    """What else `simulate` takes: mostly the plain model, sometimes a clock, a cap, blocks, prefill in chunks."""
    pick = draw(picks)
    options: dict[str, Any] = {}
    if pick.coin():
        coefficients = [0.0, 0.1, 1.0, 0.3]
        options["clock"] = ls.Clock(
            base=pick.of([0.05, 0.7, 1.0]),
            per_request=pick.of(coefficients),
            per_context_token=pick.of(coefficients),
            per_prompt_token=pick.of(coefficients),
            per_swapped_token=pick.of(coefficients),
            context=pick.of(["generated", "all"]),
        )
    if pick.whole(0, 2) == 2:
        options["max_batch"] = pick.whole(1, 5)
    if pick.whole(0, 2) == 2:
        options["block"] = pick.of([2, 3, 4, 16])
    if pick.whole(0, 2) == 2:
        options["prefill_budget"] = pick.of([1, 2, 3, 5, 8, 20])
    return options


#: What a router's score may be beside a word, and its work: some have no value where a replica is empty.
_SCORES = (
    "used+running",
    "waiting*2+believed_work-prompt/memory",
    "-free*speed",
    "requests/speed",
    "priority*used",
    "used-cached*2",
)
_WORK = (*PREDICTIONS, "lower+(upper-lower)*0.3", "min(prompt, upper)")


def _router(pick: Picks, replicas: int) -> ls.Router:
    """Any router for so many replicas: a named one, or any choice of all fields, formulas and delays included."""
    if pick.whole(0, 2) == 0:
        named = [router for router in ls.routers.values() if router.classes <= replicas]
        return pick.of(named)
    rule = pick.of([*RULES, "least", "least"])
    if rule == "central":
        return ls.Router(rule=rule)
    return ls.Router(
        rule=rule,
        score=pick.of([*SCORES, *_SCORES]),
        choices=pick.of([None, None, 1, 2, 3]),
        work=pick.of(_WORK),
        classes=pick.whole(1, min(3, replicas)),
        by=pick.of([*PREDICTIONS, "prompt"]),
        sessions=pick.coin(),
        delay=pick.of([0.0, 0.0, 0.3, 1.0, 4.0, 100.0]),
    )


@st.composite
def fleets(draw: st.DrawFn, most: int = 24) -> tuple[ls.Workload, dict[str, Any]]:
    """A workload and the other arguments of `simulate_fleet`: replicas that differ, any machine, router and seed."""
    workload, memory = draw(problems(most))
    n = len(workload)
    pick = draw(picks)
    machine = draw(machines())
    memory += machine.get("block", 1) - 1
    number = pick.whole(1, 4)
    policy = draw(compositions(n, formulas=True, slots=CHOICES["slots"]))
    workload, policy = _turns_or_hashes(pick, workload, policy, memory, pick.of(["hashes", "sessions"]))
    if workload.session is None:
        workload = workload.replace(session=[pick.whole(0, 3) for _ in range(n)])
    replicas: int | list[ls.Replica] = number
    if pick.coin():  # the last holds every request, the others what they may
        others = [
            ls.Replica(
                memory=pick.whole(machine.get("block", 1), 60),
                policy=pick.of([None, *ls.policies]),
                max_batch=pick.of([None, 1, 3]),
            )
            for _ in range(number - 1)
        ]
        replicas = [*others, ls.Replica(memory=memory)]
    router = _router(pick, number)
    options = {"replicas": replicas, "router": router, "memory": memory, "seed": draw(seeds), **machine}
    return workload, {"policy": policy, **options}


def _turns_or_hashes(
    pick: Picks, workload: ls.Workload, policy: ls.Policy, memory: int, kind: str
) -> tuple[ls.Workload, ls.Policy]:
    """The workload with block hashes, or with sessions whose turns mostly begin with all before them and may have think
    times; and the policy, which keeps prefixes in the cache where it can."""
    n, prompt = len(workload), workload.prompt.tolist()
    if kind == "hashes":
        block = pick.of([1, 2, 3, 4, 8])
        hashes = []
        for s in prompt:
            ids = [1]  # the children of k are 2k and 2k + 1: an id says all that is ahead of it
            for _ in range(min(pick.whole(0, 20), -(-s // block))):
                ids.append(2 * ids[-1] + pick.of([0, 0, 0, 1]))
            hashes.append(ids[1:])
        workload = workload.with_prefixes(ls.Prefixes(hashes, block))
    else:
        session = [pick.whole(0, 3) for _ in range(n)]
        said: dict[int, int] = {}
        latest: dict[int, float] = {}
        arrival = workload.arrival.tolist()
        for i, which in enumerate(session):
            longer = prompt[i] + said.get(which, 0)
            prompt[i] = longer if longer + workload.output[i] <= memory else prompt[i]
            said[which] = prompt[i] + int(workload.output[i])
            arrival[i] = latest[which] = max(latest.get(which, 0.0), arrival[i])
        workload = workload.replace(prompt=prompt, session=session, arrival=arrival)
        if pick.coin() and not _ranks_by_arrival(policy):
            workload = workload.replace(think=[pick.of([0.0, 0.0, 0.3, 1.0, 7.0]) for _ in range(n)])
    cached = policy.slots == "processed" and pick.whole(0, 3) > 0
    shared = {"prefixes": "cached", "prompts": "processed"} if cached else {}
    return workload, dataclasses.replace(policy, **shared) if cached else policy


def _ranks_by_arrival(policy: ls.Policy) -> bool:
    """Whether think times go with it: see `simulation.problem`."""
    read = {name for formula in policy.formulas.values() for name in formula.reads}
    words = [word for word in (policy.order, policy.evict) if isinstance(word, str)]
    return "priority" in words or bool(read & {"arrival", "joined"})


seeds = st.one_of(st.none(), st.integers(0, 5), st.just(2**64 - 1))


@st.composite
def simulations(draw: st.DrawFn) -> tuple[ls.Workload, ls.Policy, int, int | None, dict[str, Any]]:
    """All that a simulation is of: workload, policy (any there is), memory, seed, and options of the machine."""
    workload, memory = draw(problems())
    policy = draw(compositions(len(workload), formulas=True, slots=CHOICES["slots"]))
    pick, seed, machine = draw(picks), draw(seeds), draw(machines())
    kind = pick.of(["apart", "apart", "hashes", "sessions"])
    if kind != "apart":
        workload, policy = _turns_or_hashes(pick, workload, policy, memory, kind)
    return workload, policy, memory + machine.get("block", 1) - 1, seed, machine


@st.composite
def simulations_as_processed(draw: st.DrawFn) -> tuple[ls.Workload, ls.Policy, int, int | None, dict[str, Any]]:
    """As `simulations`, of slots="processed" alone, and pressed: prompts that take several rounds, several at a time,
    in a cache that is too small for those who run."""
    workload, _ = draw(problems())
    policy = draw(compositions(len(workload), formulas=True, slots=("processed",)))
    pick, seed, machine = draw(picks), draw(seeds), draw(machines())
    longest = pick.whole(3, 40)
    prompt = [pick.of([0, 1, pick.whole(1, longest - 1), pick.whole(1, longest - 1)]) for _ in range(len(workload))]
    output = [pick.whole(1, min(longest - s, 12)) for s in prompt]
    memory = longest + pick.of([0, 1, 4, longest // 2, longest])
    workload = workload.replace(prompt=prompt, output=output)
    policy = dataclasses.replace(
        policy, chunk=pick.of([1, 2, 3, 5, 2**30]), reserve=pick.of(["none", "none", "prompt"])
    )
    if pick.whole(0, 3) > 0:
        machine["prefill_budget"] = pick.of([2, 3, 4, 6, 9, 14])
    kind = pick.of(["apart", "hashes", "sessions"])
    if kind != "apart":
        workload, policy = _turns_or_hashes(pick, workload, policy, memory, kind)
    return workload, policy, memory + machine.get("block", 1) - 1, seed, machine


@st.composite
def fleets_as_processed(draw: st.DrawFn) -> tuple[ls.Workload, dict[str, Any]]:
    """As `fleets`, of two replicas or more that are pressed as in `simulations_as_processed`; the last holds every
    request."""
    workload, policy, memory, seed, machine = draw(simulations_as_processed())
    pick = draw(picks)
    workload = workload.take(np.argsort(workload.arrival, kind="stable"))
    if not isinstance(policy.order, str):
        policy = dataclasses.replace(policy, order="arrival")
    least = memory // 2 + machine.get("block", 1)
    replicas = [
        ls.Replica(memory=pick.of([memory, memory, least]), max_batch=pick.of([None, None, 1, 3]))
        for _ in range(pick.whole(1, 3))
    ]
    replicas.append(ls.Replica(memory=memory))
    router = _router(pick, len(replicas))
    if router.rule == "central" or pick.whole(0, 2) == 0:
        router = ls.Router(score=pick.of(["used - cached", "-cached", "used"]), delay=pick.of([0.0, 0.0, 1.0]))
    if workload.think is not None:
        router = router.replace(delay=0.0) if router.delay else router
    if router.sessions and workload.session is None:
        workload = workload.replace(session=[pick.whole(0, 3) for _ in range(len(workload))])
    return workload, {"policy": policy, "replicas": replicas, "router": router, "seed": seed, **machine}


@st.composite
def queues(draw: st.DrawFn) -> tuple[ls.Workload, dict[str, Any]]:
    """As `fleets`, of replicas behind a central queue, with policies that it takes; more requests than run at once."""
    workload, _ = draw(problems(18))
    policy = draw(compositions(len(workload), formulas=True, slots=CHOICES["slots"]))
    pick, machine = draw(picks), draw(machines())
    longest = pick.whole(3, 24)
    prompt = [pick.of([0, 1, pick.whole(1, longest - 1)]) for _ in range(len(workload))]
    output = [pick.whole(1, min(longest - s, 12)) for s in prompt]
    workload = workload.replace(prompt=prompt, output=output, arrival=sorted(workload.arrival.tolist()))
    policy = _of_one_queue(policy)
    if policy.slots == "processed":
        machine["prefill_budget"] = pick.of([None, 2, 3, 5, 9])
    half = longest // 2 + 1  # which cannot hold all that come first
    sizes = [pick.of([half, half, pick.whole(half, 2 * longest)]) for _ in range(pick.whole(1, 3))]
    sizes = [*sizes, longest + pick.of([0, 1, longest])]
    replicas = [
        ls.Replica(memory=size + machine.get("block", 1) - 1, max_batch=pick.of([None, None, 1, 3])) for size in sizes
    ]
    options = {"replicas": replicas, "router": ls.routers["central-queue"], "seed": draw(seeds), **machine}
    return workload, {"policy": policy, **options}


def _of_one_queue(policy: ls.Policy) -> ls.Policy:
    """The policy, or the nearest that a central queue takes: see docs/background/fleets.md."""
    fields: dict[str, Any] = {"fill": "break", "shed": "none", "chunk": 2**30}
    if not isinstance(policy.order, str):
        fields["order"] = "arrival"
    if policy.reserve == "history":
        fields["reserve"] = "conditional"
    if policy.evict == "priority":
        fields["evict"] = "progress"
    for place, formula in policy.formulas.items():
        if {"arrival", "joined", "now", "memory"} & set(formula.reads):
            fields[place] = {"order": "bound - evictions", "reserve": "bound", "evict": "generated - bound"}[place]
    return dataclasses.replace(policy, **fields)
