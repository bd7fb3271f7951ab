"""Hypothesis strategies: small workloads placed around the edges, and any composition of the policy fields."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import FormulaError
from llmsched.fleet.router import PREDICTIONS, RULES, SCORES
from llmsched.formula import Place, parse
from llmsched.formula_names import PLACES
from llmsched.policy import CHOICES


@st.composite
def lengths(draw: st.DrawFn, n: int, memory: int) -> tuple[list[int], list[int]]:
    """Prompts and outputs that fit `memory`: many zeros, ones, equal requests and requests of exactly `memory`."""
    prompts, outputs = [], []
    for _ in range(n):
        kind = draw(st.integers(0, 9))
        prompt = 0 if kind < 4 else draw(st.integers(0, max(0, min(memory - 1, memory // 2))))
        most = memory - prompt
        if kind == 9:
            output = most
        elif kind in (0, 8):
            output = 1
        else:
            output = draw(st.integers(1, max(1, min(most, memory // 2))))
        prompts.append(prompt)
        outputs.append(output)
    if n and draw(st.booleans()):  # many equals, for ties
        first = draw(st.integers(0, n - 1))
        for i in range(n):
            if draw(st.booleans()):
                prompts[i], outputs[i] = prompts[first], outputs[first]
    return prompts, outputs


@st.composite
def problems(draw: st.DrawFn, most: int = 12) -> tuple[ls.Workload, int]:
    """A workload with every column, and a memory in which each request fits."""
    memory = draw(st.integers(1, 60))
    n = draw(st.integers(1, most))
    prompts, outputs = draw(lengths(n, memory))
    if draw(st.booleans()):  # a cache exactly full, or that some request fills alone
        memory = max(
            max(s + o for s, o in zip(prompts, outputs, strict=True)),
            draw(st.sampled_from([sum(s + 1 for s in prompts), sum(prompts) + sum(outputs), memory])),
        )
    lower, upper, point = [], [], []
    for o in outputs:
        a, b = draw(st.integers(1, 2 * o + 2)), draw(st.integers(1, 2 * o + 2))
        exact = draw(st.booleans())
        lower.append(o if exact else min(a, b))
        upper.append(o if exact else max(a, b))
        point.append(draw(st.sampled_from([o, a, b])))
    arrival: list[float] | float = 0.0
    if draw(st.booleans()):
        grain = draw(st.sampled_from([1.0, 0.25, 0.1, 7.0]))
        arrival = [grain * draw(st.integers(0, 40)) for _ in range(n)]
    priority = draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n))
    deadline = draw(st.lists(st.sampled_from([0.0, 0.5, 3.0, 20.0, 1e6]), min_size=n, max_size=n))
    workload = ls.Workload(prompts, outputs, lower, upper, point, arrival, priority, deadline=deadline)
    return draw(with_lengths(workload)), memory


@st.composite
def with_lengths(draw: st.DrawFn, workload: ls.Workload) -> ls.Workload:
    """The workload with a table of lengths of up to three classes, longer and shorter than the truth."""
    kinds = draw(st.integers(1, 3))
    seen = draw(st.lists(st.integers(1, 40), min_size=kinds, max_size=20))
    labels = [*range(kinds), *(draw(st.integers(0, kinds - 1)) for _ in seen[kinds:])]
    table = ls.LengthTable.from_outputs(seen, labels)
    return workload.with_lengths(table, [draw(st.integers(0, kinds - 1)) for _ in range(len(workload))])


@st.composite
def formulas(draw: st.DrawFn, place: str, depth: int = 3) -> str:
    """Any formula of few operations, some of which have no value for some requests in some rounds."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        number = st.sampled_from(["0", "1", "2", "0.3", "100"])
        return draw(st.one_of(st.sampled_from(PLACES[place]), st.sampled_from(PLACES[place]), number))
    inner = formulas(place, depth - 1)
    a, b = draw(inner), draw(inner)
    kind = draw(st.sampled_from(["+", "-", "*", "+", "-", "*", "/", "//", "%", "min", "max", "if", "-x", "**"]))
    if kind in ("min", "max"):
        return f"{kind}({a}, {b})"
    if kind == "if":
        return f"({a} if {draw(inner)} < {draw(inner)} else {b})"
    if kind == "-x":
        return f"(-{a})"
    return f"({a}) ** 2" if kind == "**" else f"({a} {kind} {b})"


@st.composite
def policy_formulas(draw: st.DrawFn, place: str) -> str:
    """Any formula that a policy takes; those that are no number whatever a request is are refused."""
    text = draw(formulas(place))
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
    if draw(st.integers(0, 2)) == 0:
        return ls.policies[draw(st.sampled_from(sorted(k for k, p in ls.policies.items() if p.slots in slots)))]
    fields = {name: draw(st.sampled_from(words)) for name, words in CHOICES.items()}
    fields["slots"] = draw(st.sampled_from(slots))
    fields["prompts"] = draw(st.sampled_from(["processed", "processed", "processed", "moved"]))
    fields["prefixes"] = "none"  # `turns_or_hashes` says otherwise: it needs to know which requests begin alike
    for place in PLACES if formulas else ():
        if draw(st.integers(0, 2)) == 0:
            fields[place] = draw(policy_formulas(place))
    if draw(st.integers(0, 5)) == 0:
        fields["order"] = draw(st.lists(st.sampled_from([-1.5, -0.0, 0.0, 1.0, 2.5, 1e300]), min_size=n, max_size=n))
    fields["margin"] = draw(st.sampled_from([0.0, 0.0, 0.1, 0.25, 0.9]))
    fields["beta"] = draw(st.sampled_from([0.1, 0.5, 1.0]))
    fields["headroom"] = draw(st.sampled_from([1, 1, 2, 5, 20]))
    fields["quantile"] = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    fields["ratio"] = draw(st.sampled_from([0.01, 0.3, 0.7, 1.0]))
    fields["ratio_floor"] = draw(st.sampled_from([0.0, 0.14, 1.0]))
    fields["ratio_rounds"] = draw(st.sampled_from([1, 3, 20, 600]))
    fields["clip"] = draw(st.sampled_from([1, 4, 4096]))
    fields["window"] = draw(st.sampled_from([1, 3, 1000]))
    fields["rate_limit"] = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0, 1.6, 5.0]))
    fields["chunk"] = draw(st.sampled_from([3, 7, 2**30, 2**30]))
    return ls.Policy(**fields | (draw(served_as_processed()) if fields["slots"] == "processed" else {}))


@st.composite
def served_as_processed(draw: st.DrawFn) -> dict[str, Any]:
    """What goes with slots="processed" in the place of what does not."""
    return {
        "reserve": draw(st.sampled_from(["none", "prompt"])),
        "resume": draw(st.sampled_from(["restart", "recompute"])),
        "headroom": 1,
    }


@st.composite
def machines(draw: st.DrawFn) -> dict[str, Any]:
    """What else `simulate` takes: mostly the plain model, sometimes a clock, a cap, blocks, prefill in chunks."""
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        coefficients = st.sampled_from([0.0, 0.1, 1.0, 0.3])
        options["clock"] = ls.Clock(
            base=draw(st.sampled_from([0.05, 0.7, 1.0])),
            per_request=draw(coefficients),
            per_context_token=draw(coefficients),
            per_prompt_token=draw(coefficients),
            per_swapped_token=draw(coefficients),
            context=draw(st.sampled_from(["generated", "all"])),
        )
    if draw(st.booleans()):
        options["max_batch"] = draw(st.integers(1, 5))
    if draw(st.booleans()):
        options["block"] = draw(st.sampled_from([2, 3, 4, 16]))
    if draw(st.booleans()):
        options["prefill_budget"] = draw(st.sampled_from([1, 2, 3, 5, 8, 20]))
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


@st.composite
def routers(draw: st.DrawFn, replicas: int = 8) -> ls.Router:
    """Any router for a fleet of so many: a named one, or any choice of all fields, formulas and delays included."""
    if draw(st.integers(0, 2)) == 0:
        named = [router for router in ls.routers.values() if router.classes <= replicas]
        return draw(st.sampled_from(named))
    rule = draw(st.sampled_from([*RULES, "least", "least"]))
    if rule == "central":
        return ls.Router(rule=rule)
    return ls.Router(
        rule=rule,
        score=draw(st.sampled_from([*SCORES, *_SCORES])),
        choices=draw(st.sampled_from([None, None, 1, 2, 3])),
        work=draw(st.sampled_from(_WORK)),
        classes=draw(st.integers(1, min(3, replicas))),
        by=draw(st.sampled_from([*PREDICTIONS, "prompt"])),
        sessions=draw(st.booleans()),
        delay=draw(st.sampled_from([0.0, 0.0, 0.3, 1.0, 4.0, 100.0])),
    )


@st.composite
def fleets(draw: st.DrawFn, most: int = 24) -> tuple[ls.Workload, dict[str, Any]]:
    """A workload and the other arguments of `simulate_fleet`: replicas that differ, any machine, router and seed."""
    workload, memory = draw(problems(most))
    n = len(workload)
    machine = draw(machines())
    memory += machine.get("block", 1) - 1
    number = draw(st.integers(1, 4))
    policy = draw(compositions(n, formulas=True, slots=CHOICES["slots"]))
    workload, policy = draw(turns_or_hashes(workload, policy, memory, draw(st.sampled_from(["hashes", "sessions"]))))
    if workload.session is None:
        workload = workload.replace(session=draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    replicas: int | list[ls.Replica] = number
    if draw(st.booleans()):  # the last holds every request, the others what they may
        others = st.builds(
            ls.Replica,
            memory=st.integers(machine.get("block", 1), 60),
            policy=st.sampled_from([None, *ls.policies]),
            max_batch=st.sampled_from([None, 1, 3]),
        )
        replicas = [*(draw(others) for _ in range(number - 1)), ls.Replica(memory=memory)]
    router = draw(routers(number))
    options = {"replicas": replicas, "router": router, "memory": memory, "seed": draw(seeds), **machine}
    return workload, {"policy": policy, **options}


@st.composite
def turns_or_hashes(
    draw: st.DrawFn, workload: ls.Workload, policy: ls.Policy, memory: int, kind: str
) -> tuple[ls.Workload, ls.Policy]:
    """The workload with block hashes, or with sessions whose turns mostly begin with all before them and may have think
    times; and the policy, which keeps prefixes in the cache where it can."""
    n, prompt = len(workload), workload.prompt.tolist()
    if kind == "hashes":
        block = draw(st.sampled_from([1, 2, 3, 4, 8]))
        hashes = []
        for s in prompt:
            ids = [1]  # the children of k are 2k and 2k + 1: an id says all that is ahead of it
            for _ in range(min(draw(st.integers(0, 20)), -(-s // block))):
                ids.append(2 * ids[-1] + draw(st.sampled_from([0, 0, 0, 1])))
            hashes.append(ids[1:])
        workload = workload.with_prefixes(ls.Prefixes(hashes, block))
    else:
        session = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        said: dict[int, int] = {}
        latest: dict[int, float] = {}
        arrival = workload.arrival.tolist()
        for i, which in enumerate(session):
            longer = prompt[i] + said.get(which, 0)
            prompt[i] = longer if longer + workload.output[i] <= memory else prompt[i]
            said[which] = prompt[i] + int(workload.output[i])
            arrival[i] = latest[which] = max(latest.get(which, 0.0), arrival[i])
        workload = workload.replace(prompt=prompt, session=session, arrival=arrival)
        if draw(st.booleans()) and not _ranks_by_arrival(policy):
            think = st.sampled_from([0.0, 0.0, 0.3, 1.0, 7.0])
            workload = workload.replace(think=draw(st.lists(think, min_size=n, max_size=n)))
    cached = policy.slots == "processed" and draw(st.integers(0, 3)) > 0
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
    seed, machine = draw(seeds), draw(machines())
    kind = draw(st.sampled_from(["apart", "apart", "hashes", "sessions"]))
    if kind != "apart":
        workload, policy = draw(turns_or_hashes(workload, policy, memory, kind))
    return workload, policy, memory + machine.get("block", 1) - 1, seed, machine
