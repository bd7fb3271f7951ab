"""What each command answers: its tables, the notes below them, and the same as JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .._version import version
from ..errors import MissingPredictionError, NotFinishedError
from ..experiments import paper
from ..metrics import capacity as capacities
from ..metrics import compare as comparing
from ..metrics import energy, service
from ..metrics.compare import MEMORY
from ..optimum import theory
from ..optimum.lower_bounds import LowerBound, on_grid
from ..policy import DESCRIPTIONS, Policy
from ..simulation.clock import Clock
from ..workloads.workload import Workload
from .console import aligned, at_most, number_of, print_table, say, stdout

_BEST = "that of the best possible schedule (a proven bound)"


def print_what_ran(workload: Workload, memory: int, seed: int | None, settings: Mapping[str, Any]) -> None:
    """The requests in a line, and what they ran on in another."""
    clock = settings["clock"]
    say(f"{counted(workload)}{when_they_arrive(workload, settings['round_seconds'], clock)}")
    cache = machine_text(memory, *(settings[name] for name in ("block", "max_batch", "prefill_budget")))
    cache += "" if clock is None else f"clock {clock['name']}; "
    unit = "rounds" if clock is None else "seconds"
    say(f"{cache}intervals {settings['intervals']}; seed {seed}; times in {unit}")


def print_comparison(
    compared: comparing.Comparison,
    settings: Mapping[str, Any],
    notes: Sequence[str],
    served: Mapping[str, service.Service] | None = None,
    spent: Mapping[str, energy.Energy] = MappingProxyType({}),
) -> None:
    workload, ranked, clock = compared.workload, compared.ranked(), settings["clock"]
    unit = "rounds" if clock is None else "seconds"
    print_what_ran(workload, compared.memory, compared.seed, settings)
    say()
    records = [row.record() for row in ranked if row.result is not None]

    def column(name: str, **how: Any) -> list[str]:
        return aligned([record[name] for record in records], **how)

    def percent(name: str, decimals: int) -> list[str]:
        return aligned([record[name] * 100 for record in records], suffix="%", decimals=decimals)

    cells = {
        "policy": [record["policy"] for record in records],
        "mean": column("mean_latency"),
        "p50": column("p50_latency", decimals=0),
        "p99": column("p99_latency", decimals=0),
        f"vs {compared.baseline}": column("ratio", decimals=2),
        "gap": at_most([record["gap"] for record in records]),
        "makespan": column("makespan", decimals=0),
        "evicted": column("evictions"),
        "wasted": percent("wasted_share", 1),
        "peak": percent("peak_share", 0),
    }
    if served is not None:
        cells = service_cells(cells, [served[record["policy"]] for record in records], bool(settings["slo"]))
    if spent:
        joules = [spent[record["policy"]] for record in records]
        cells["J/token"] = aligned([one.joules_per_token for one in joules], decimals=2)
        cells["wasted J"] = aligned([one.wasted_share * 100 for one in joules], suffix="%", decimals=1)
    if served is None and width_of(cells) > max(80, stdout().width):
        del cells["peak"]  # very large numbers; --json and --csv have it
    rows: list[Sequence[str]] = list(zip(*cells.values(), strict=True))
    rows += [(row.policy, why_not(row, settings["max_rounds"])) for row in ranked if row.result is None]
    print_table(list(cells), rows)
    say()
    if served is None:
        say("mean, p50, p99: latency; vs hsf: ratio of mean latencies; wasted: share of generated tokens")
    else:
        say("mean, p99: latency; ttft: time to first token; tpot: time per output token (mean of a request)")
        if settings["slo"]:
            targets = ", ".join(f"{name} <= {limit:g}" for name, limit in settings["slo"].items())
            say(f"good: share of requests with {targets}; good/{unit[0]}: such requests per {unit[:-1]}")
    if spent:
        say(
            f"J/token: all joules over all output tokens, power model {settings['power']}; wasted J: share by evictions"
        )
    better = "llmsched bound proves better bounds" if clock is None else "proven, and far off where few requests wait"
    say(f"gap: mean latency is at most so far above the best possible ({better})")
    for note in notes:
        say(f"note: {note}")
    for row in ranked:
        if isinstance(row.error, MissingPredictionError):
            other = ", or give --intervals" if row.error.column in ("lower", "upper") else ""
            say(f"note: {row.policy} needs {row.error.column!r}, which the trace lacks: add it{other}")
        elif row.error is not None and not was_cut(row, settings["max_rounds"]):
            say(f"note: {row.error}")


def width_of(cells: Mapping[str, Sequence[str]]) -> int:
    """How wide a table of these columns is at least."""
    return sum(max(map(len, (name, *column))) + 1 for name, column in cells.items()) - 1


def service_cells(
    cells: Mapping[str, list[str]], served: Sequence[service.Service], targets: bool
) -> dict[str, list[str]]:
    """The table with what users feel, for what the plain one has of rounds."""
    per = served[0].unit[0] if served else "s"
    columns = {
        "policy": cells["policy"],
        "mean": aligned([seen.summary()["e2e_mean"] for seen in served]),
        "p99": aligned([float(seen.percentile("e2e", 99)) for seen in served]),
        **{name: column for name, column in cells.items() if name.startswith("vs ") or name == "gap"},
    }
    for metric in ("ttft", "tpot"):
        for q in (50, 99):
            values = [float(seen.percentile(metric, q)) for seen in served]
            columns[f"{metric} p{q}"] = aligned(values, decimals=places(values))
    if targets:
        columns["good"] = aligned([seen.goodput * 100 for seen in served], suffix="%", decimals=1)
        columns[f"good/{per}"] = aligned([seen.goodput_rate for seen in served], decimals=2)
    columns[f"tokens/{per}"] = aligned([seen.tokens_rate for seen in served])
    return columns | {name: cells[name] for name in ("evicted", "wasted")}


def places(values: Sequence[float]) -> int | None:
    """Decimals for a column of times: what is short stays readable beside what is long."""
    known = [value for value in values if math.isfinite(value)]
    if max(known, default=0) < 10:
        return 3
    return 2 if min(known) < 1 else None


def with_summaries(
    records: Sequence[Mapping[str, Any]],
    found: Mapping[str, service.Service | energy.Energy],
    prefix: str = "",
) -> list[dict[str, Any]]:
    """The records of a comparison, with the summaries of those policies that have some, under prefixed names."""
    names = list(next(iter(found.values())).summary()) if found else []
    merged = []
    for record in records:
        policy = record["policy"]
        known = found[policy].summary() if policy in found else dict.fromkeys(names)
        finite = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in known.items()}
        merged.append({**record, **{f"{prefix}{k}": v for k, v in finite.items()}})
    return merged


#: What each bound of `llmsched.lower_bound` rests on.
_BOUNDS = {
    "trivial": "a round per token",
    "area": "memory-time, smallest first",
    "busy": "mean busy times",
    "price": "the linear relaxation, by prices for memory",
    "search": "what the search proved",
}


def print_bound(
    found: LowerBound, schedules: Mapping[str, tuple[float, float]], workload: Workload, memory: int
) -> None:
    """Bounds on total latency, then schedules, by name: total latency and gap."""
    say(f"{counted(workload)}{when_they_arrive(workload, 1.0)}")
    say(f"KV cache {memory:,} tokens; latency in rounds\n")
    n = max(len(workload), 1)
    names = [f"no less, by {name}" for name in found.each] + list(schedules)
    floors = {**found.each, found.method: found.value}  # rounded up as far as the proof allows
    fine = 1 if on_grid(workload) else 100  # between rounds there is more to a bound than whole ones
    totals = [*(math.floor(floor * fine) / fine for floor in floors.values()), *(t for t, _ in schedules.values())]
    cells = {
        "latency": names,
        "total": aligned(totals),
        "mean": aligned([total / n for total in totals]),
        "gap": ["" for _ in found.each] + at_most([gap for _, gap in schedules.values()], decimals=1),
        "": [*(_BOUNDS[name] for name in found.each), *("" for _ in schedules)],
    }
    print_table(list(cells), list(zip(*cells.values(), strict=True)), left=(0, 4))
    say()
    say(f"gap: latency is at most so far above {_BEST}")
    if "optimal in whole rounds" in schedules:
        say("note: requests arrive between rounds. The optimum is that of schedules whose rounds start a whole number")
        say("      after the first arrival; the bounds hold for all schedules")
    if found.preemptive < found.value:
        say(f"note: policies that keep the tokens of what they evict (fcfs) have no less than {found.preemptive:,.0f}")


def bound_json(
    found: LowerBound, schedules: Mapping[str, tuple[float, float]], workload: Workload, memory: int
) -> dict[str, Any]:
    return {
        "llmsched": version,
        "workload": workload_json(workload),
        "memory": memory,
        "bound": {
            "total_latency": found.value,
            "keeping_tokens": found.preemptive,
            "method": found.method,
            "each": dict(found.each),
        },
        "schedules": [
            {"schedule": name, "total_latency": total, "gap": gap} for name, (total, gap) in schedules.items()
        ],
    }


def workload_json(workload: Workload) -> dict[str, Any]:
    return {
        "requests": len(workload),
        "prompt_tokens": int(workload.prompt.sum()),
        "output_tokens": int(workload.output.sum()),
        "source": dict(workload.source),
    }


def clock_json(name: str | None, clock: Clock | None) -> dict[str, Any] | None:
    return None if clock is None else {"name": name, **clock.fields()}


def machine_text(memory: int | None, block: int, max_batch: int | None, prefill_budget: int | None) -> str:
    """Cache, blocks and limits of the batch, each if there is one and followed by a semicolon."""
    cache = "" if memory is None else f"KV cache {memory:,} tokens"
    over = 0 if memory is None else memory % block
    blocks = "" if block == 1 else f"{' in ' if cache else ''}blocks of {block}"
    blocks += f" ({number_of(over, 'token')} left over)" if over else ""
    parts = [cache + blocks, "" if max_batch is None else f"at most {max_batch} at once"]
    parts.append("" if prefill_budget is None else f"at most {prefill_budget:,} tokens a round")
    return "".join(f"{part}; " for part in parts if part)


def print_capacity(
    found: Mapping[str, capacities.Capacity], workload: Workload, settings: Mapping[str, Any], notes: Sequence[str]
) -> None:
    answers = list(found.values())
    one = answers[0]
    drawn = f"{number_of(one.replications, 'replication')} of {number_of(one.requests, 'request')}"
    arriving = "" if one.quantity == "rate" else ", as they arrive" if one.rate is None else f", {one.rate:g}/s"
    cache = machine_text(one.memory, *(settings[name] for name in ("block", "max_batch", "prefill_budget")))
    say(f"{counted(workload)}; {drawn}{arriving}")
    say(f"{cache}clock {settings['clock']['name']}; intervals {settings['intervals']}; times in seconds")
    targets = ", ".join(f"{name} <= {limit:g}" for name, limit in one.slo.items())
    say(
        f"{'Highest rate' if one.quantity == 'rate' else 'Smallest cache'} with {one.attainment:.4g} of requests "
        f"within {targets}:\n"
    )
    decimals = 2 if one.quantity == "rate" else 0
    cells = {
        "policy": list(found),
        "requests/s" if one.quantity == "rate" else "tokens": aligned([a.value for a in answers], decimals=decimals),
        "95 % from": aligned([a.low for a in answers], decimals=decimals),
        "to": aligned([a.high for a in answers], decimals=decimals),
        "within": aligned([a.attained * 100 for a in answers], suffix="%", decimals=1),
    }
    print_table(list(cells), list(zip(*cells.values(), strict=True)))
    for note in notes:
        say(f"note: {note}")


def was_cut(row: comparing.Row, max_rounds: int | None) -> bool:
    return isinstance(row.error, NotFinishedError) and max_rounds is not None and row.error.round >= max_rounds


def why_not(row: comparing.Row, max_rounds: int | None) -> str:
    """What stands in the row of a policy without a result; the note below has the rest."""
    if not isinstance(row.error, NotFinishedError):
        return "cannot run: a column is missing"
    why = "stopped by --max-rounds" if was_cut(row, max_rounds) else "does not finish"
    return f"{why}: {row.completed:,} of {row.requests:,} completed in {row.error.round:,} rounds"


def counted(workload: Workload) -> str:
    source = workload.source
    origin = str(source["path"]) if "path" in source else f"the {source.get('generator', 'given')} generator"
    prompt, output = int(workload.prompt.sum()), int(workload.output.sum())
    return (
        f"{number_of(len(workload), 'request')} from {origin}: {prompt:,} prompt + {number_of(output, 'output token')}"
    )


def when_they_arrive(workload: Workload, round_seconds: float, clock: object = None) -> str:
    last = float(workload.arrival.max()) if len(workload) else 0.0
    how = workload.source.get("arrivals")
    if isinstance(how, Mapping) and how.get("process") == "poisson" and last:
        return f", Poisson arrivals, {how['rate']:g} per {'round' if clock is None else 'second'}"
    if clock is not None and last:
        return f", arriving over {number_of(round(last), 'second')}"
    return (
        f", arriving over {number_of(round(last), 'round')} of {round_seconds:g} s" if last else ", all arriving at 0"
    )


def comparison_json(
    compared: comparing.Comparison, settings: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    workload, latency = compared.workload, compared.baseline_latency
    return {
        "llmsched": version,
        "workload": workload_json(workload),
        "memory": compared.memory,
        "seed": compared.seed,
        "engine": compared.engine,
        **settings,
        "baseline": {"policy": compared.baseline, "mean_latency": None if math.isnan(latency) else latency},
        "notes": list(notes),
        "policies": compared.records(),
    }


def print_paper(rows: Sequence[paper.Row], workload: Workload | None, memory: int, seed: int) -> None:
    most, subsets = max(row.requests for row in rows), rows[0].subsets
    origin = (
        "the lmsys generator"
        if workload is None
        else f"the {number_of(len(workload), 'request')} of {workload.source['path']}"
    )
    say(f"{number_of(subsets, 'random subset')} of each size from {origin}")
    say(f"KV cache {memory:,} tokens; seed {seed}; all requests arrive at 0")
    say(f"Average latency in rounds of {number_of(most, 'request')}, and ratios ± 95 % confidence:\n")
    at = {(row.intervals, row.policy): row for row in rows if row.requests == most}
    lines = [[at[str(experiment.rule), policy] for policy in paper.POLICIES] for experiment in paper.EXPERIMENTS]
    cells = {
        "intervals": [f"{experiment.number}. {experiment.title}" for experiment in paper.EXPERIMENTS],
        **{
            policy: aligned([line[p].mean_latency for line in lines], decimals=1)
            for p, policy in enumerate(paper.POLICIES)
        },
        "amax / hsf": [with_interval(line[1]) for line in lines],
        "amin / hsf": [with_interval(line[2]) for line in lines],
    }
    print_table(list(cells), list(zip(*cells.values(), strict=True)))
    say()
    say("At most so far above the best possible schedule (a proven bound):\n")
    gaps = {policy: at_most([line[p].gap for line in lines]) for p, policy in enumerate(paper.POLICIES)}
    cells = {"intervals": cells["intervals"], **gaps}
    print_table(list(cells), list(zip(*cells.values(), strict=True)))
    say()
    for finding in paper.findings(rows):
        say(textwrap.fill(finding, max(stdout().width, 60), subsequent_indent="   "))
    for note in [] if workload is None else reading_notes(workload):
        say(f"note: {note}")
    if memory == MEMORY:
        say("note: the paper prints no cache size, and how close amin comes to hsf depends on it: try --memory 80000")


def with_interval(row: paper.Row) -> str:
    return f"{row.ratio:.2f}" + ("" if math.isnan(row.ratio_ci95) else f" ± {row.ratio_ci95:.2f}")


#: Table of `llmsched theory` -> its title, and key -> heading.
_THEORY: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "guarantees": (
        "Bounds on the ratio to hsf, alpha = lower/upper. amax: any lengths; amin, aell: outputs either lower or upper",
        {
            "alpha": "alpha",
            "amax_bound": "amax Th. 1",
            "amax_printed_lower_bound": "Th. 2 printed",
            "amax_instance_worst": "its instance",
            "amin_two_point_bound": "amin Th. 6",
            "aell_two_point_bound": "aell Th. 7",
            "better_two_point": "better",
        },
    ),
    "worst": (
        "amin, interval [1, u]: the largest ratio that Lemma 2 gives for any lengths (Corollary 1)",
        {"upper": "u", "amin_rho": "rho", "amin_rho_fit": "the paper's fit", "amin_trace": "trace H_u"},
    ),
    "geometric": (
        "amin, lengths geometric with ratio q, plain (Lemma 2) and linearly weighted (Theorem 8)",
        {"q": "q", "amin_geometric": "geometric", "amin_linear_geometric": "linear"},
    ),
}


def print_theory(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, rows in tables.items():
        title, headings = _THEORY[name]
        say(title)
        cells = [[figures(row[key]) for key in headings] for row in rows]
        print_table(list(headings.values()), cells)
        say()
    say(f"aell has the better bound below alpha = {theory.ALPHA_STAR:.3f}, amin above.")
    say("note: limits of many requests in a large cache; simulated ratios differ, some by a lot. To see how far:")
    say("python -m verification, in the sources, and docs/background/theory.md")


def figures(value: Any) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else str(value)


def policy_json(name: str, policy: Policy) -> dict[str, Any]:
    about = {"description": DESCRIPTIONS[name], "clairvoyant": policy.clairvoyant, "needs": list(policy.needs)}
    return {"policy": name, **policy.fields(), **about}


#: Columns of the table of policies; the first is the name, and two are made of two fields.
POLICY_COLUMNS = ("policy", "order", "reserve", "margin", "evict", "refine", "cap to", "resume")


def policy_cells(name: str, policy: Policy) -> list[str]:
    """The cells of `POLICY_COLUMNS`."""
    evict = f"{policy.evict} {policy.beta:g}" if policy.evict == "random" else policy.evict
    cap = "-" if policy.cap == "none" else policy.cap_refine
    order = policy.order if isinstance(policy.order, str) else "custom"
    return [name, order, policy.reserve, f"{policy.margin:g}", evict, policy.refine, cap, policy.resume]


def policy_text(name: str, policy: Policy) -> str:
    """What it is, what it reads, and the fields that are not in the table."""
    reads = "the truth" if policy.clairvoyant else ", ".join(policy.needs) or "no prediction"
    usual = Policy().fields()
    shown = {*POLICY_COLUMNS, "beta", "cap", "cap_refine"}
    others = [f"{k}={v}" for k, v in policy.fields().items() if k not in shown and v != usual[k]]
    return f"{DESCRIPTIONS[name]}; reads {reads}" + (f"; {', '.join(others)}" if others else "")


def reading_notes(workload: Workload) -> list[str]:
    source = workload.source
    notes = []
    if source.get("skipped"):
        notes.append(f"bad rows skipped: {source['skipped']:,}, the first: {source.get('first_skipped')}")
    if source.get("dropped"):
        notes.append(f"failed requests left out (no output): {source['dropped']:,}")
    for name, meant in source.get("misspelt", {}).items():
        notes.append(f"column {name!r} is not read; did you mean {meant!r}?")
    return notes


def listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def overload_notes(served: Mapping[str, service.Service]) -> list[str]:
    """One note on all policies under which requests pile up."""
    over = {name: seen.overload for name, seen in served.items() if seen.overload is not None}
    if not over:
        return []
    first = next(iter(over.values()))
    stable = ", ".join(f"{name} {overload.stable_rate:.3g}" for name, overload in over.items())
    return [
        f"load above capacity: {first.rate:.3g} requests/{first.unit} arrive, and the queue grows as long as they do. "
        f"What could be served for ever, about: {stable}"
    ]


def capacity_notes(found: Mapping[str, capacities.Capacity]) -> list[str]:
    notes = []
    for name, answer in found.items():
        if answer.above_capacity:
            notes.append(
                f"{name}: requests pile up at this rate in {answer.above_capacity} of {answer.replications} "
                f"replications; for ever, about {answer.stable_rate:.3g} requests/{answer.unit} can be served. Longer "
                "ones (--requests) hold less"
            )
        if answer.value == 0:
            notes.append(f"{name}: the targets do not hold even if requests come one by one")
        if math.isinf(answer.value) and answer.quantity == "rate":
            notes.append(f"{name}: the targets hold even if all requests come at once")
        if math.isinf(answer.value) and answer.quantity == "memory":
            notes.append(f"{name}: the targets do not hold with any cache: the clock or --max-batch sets the limit")
    return notes
