"""What several commands say: of the requests, of what they ran on, and in notes below a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics.service import Service
from ..predict.intervals import IntervalRule
from ..simulation.blocks import down_to_blocks
from ..simulation.result import Result
from ..workloads.workload import Workload
from .console import aside, number_of
from .options import Setup

_NEARLY_FULL = 0.8  # share of the cache in use, from which on it may be what requests wait for


def print_run_header(
    workload: Workload,
    setup: Setup,
    seed: int | None,
    intervals: Spelling,
    round_seconds: float | None = None,
    fleet: str = "",
) -> None:
    """The requests in a line, what they ran on in another, and what is known of their lengths in a third."""
    timed = setup.clock is not None
    aside(f"{requests_text(workload)}{arrivals_text(workload, round_seconds, timed)}")
    aside(f"{fleet}{machine_text(setup)}; seed {seed}; times in {'seconds' if timed else 'rounds'}")
    aside(intervals.text())


@dataclass(frozen=True)
class Spelling:
    """How intervals are spelled, and in words what they are made from."""

    rule: IntervalRule | None  # None: the workload brings its own

    def __str__(self) -> str:
        return "as given" if self.rule is None else str(self.rule)

    @property
    def words(self) -> str:
        """In words, what is known."""
        return "come with the requests" if self.rule is None else self.rule.describe()

    def text(self) -> str:
        """A line for a header."""
        return f"intervals {self}" + ("" if self.rule is None else f", {self.words}")


def requests_text(workload: Workload) -> str:
    """How many requests from where, with how many tokens."""
    prompt, output = int(workload.prompt.sum()), int(workload.output.sum())
    return (
        f"{number_of(len(workload), 'request')} from {origin(workload)}: "
        f"{prompt:,} prompt + {number_of(output, 'output token')}"
    )


def origin(workload: Workload) -> str:
    """The trace file, or the generator."""
    source = workload.source
    return str(source["path"]) if "path" in source else f"the {source.get('generator', 'given')} generator"


def drawn_from(workload: Workload | None) -> str:
    """What random subsets are drawn from: the requests of a workload, or (None) fresh ones."""
    if workload is None:
        return "the lmsys generator"
    return f"the {number_of(len(workload), 'request')} of {origin(workload)}"


def arrivals_text(workload: Workload, round_seconds: float | None = None, timed: bool = False) -> str:
    """When the requests arrive, to follow a comma: in seconds if a clock times the run, else in rounds."""
    last = float(workload.arrival.max()) if len(workload) else 0.0
    how = workload.source.get("arrivals")
    if isinstance(how, Mapping) and how.get("process") == "poisson" and last:
        return f", Poisson arrivals, {how['rate']:g} per {'second' if timed else 'round'}"
    if timed and last:
        return f", arriving over {number_of(round(last), 'second')}"
    return (
        f", arriving over {number_of(round(last), 'round')} of {round_seconds or 1:g} s"
        if last
        else ", all arriving at 0"
    )


def machine_text(setup: Setup) -> str:
    """What it is, cache, blocks and limits of the batch, each if there is one."""
    cache = "" if setup.memory is None else f"KV cache {setup.memory:,} tokens"
    unused = 0 if setup.memory is None else setup.memory - down_to_blocks(setup.memory, setup.block)
    blocks = "" if setup.block == 1 else f"{' in ' if cache else ''}blocks of {setup.block}"
    blocks += f" ({number_of(unused, 'token')} left over)" if unused else ""
    parts = [setup.name, cache + blocks, "" if setup.max_batch is None else f"at most {setup.max_batch:,} at once"]
    parts.append("" if setup.prefill_budget is None else f"at most {setup.prefill_budget:,} tokens a round")
    return "; ".join(part for part in parts if part)


def targets_text(slo: Mapping[str, float]) -> str:
    """Service targets, such as ttft <= 1."""
    return ", ".join(f"{name} <= {limit:g}" for name, limit in slo.items())


def workload_json(workload: Workload) -> dict[str, Any]:
    """Requests, tokens and source, for JSON."""
    return {
        "requests": len(workload),
        "prompt_tokens": int(workload.prompt.sum()),
        "output_tokens": int(workload.output.sum()),
        "source": dict(workload.source),
    }


def setup_json(setup: Setup) -> dict[str, Any]:
    """Machine, clock and limits, for JSON; the cache where it is not what was looked for."""
    clock = None if setup.clock is None else {"name": setup.clock_name, **setup.clock.fields()}
    memory = {} if setup.memory is None else {"memory": setup.memory}
    return {"machine": setup.machine, **memory, "clock": clock, **setup.limits()}


def reading_notes(workload: Workload) -> list[str]:
    """Notes on what was left out of a trace as it was read."""
    source = workload.source
    notes = []
    if source.get("skipped"):
        notes.append(f"bad rows skipped: {source['skipped']:,}, the first: {source.get('first_skipped')}")
    if source.get("dropped"):
        notes.append(f"failed requests left out (no output): {source['dropped']:,}")
    if source.get("too_long"):
        long = source["too_long"]
        counts = f"{long['dropped']:,} left out, {long['clipped']:,} cut off there"
        notes.append(f"requests longer than {long['limit']:,} tokens: {counts}")
    if source.get("read_as"):
        said = listed([f"{name!r} as {meant}" for name, meant in source["read_as"].items()])
        notes.append(f"columns read under other names: {said}")
    for name, meant in source.get("misspelt", {}).items():
        notes.append(f"column {name!r} is not read; did you mean {meant!r}?")
    return notes


def overload_notes(services: Mapping[str, Service]) -> list[str]:
    """One note on all policies under which requests pile up, by name unless they are all that there are."""
    overloads = {name: one.overload for name, one in services.items() if one.overload is not None}
    if not overloads:
        return []
    first = next(iter(overloads.values()))
    stable = ", ".join(f"{name} {overload.stable_rate:.3g}" for name, overload in overloads.items())
    under = f" under {listed(list(overloads))}" if len(overloads) < len(services) else ""
    return [
        f"load above capacity{under}: {first.rate:.3g} requests/{first.unit} arrive, and the queue grows as long as "
        f"they do: means are larger the longer the trace. What could be served for ever, about: {stable}"
    ]


def cache_notes(results: Iterable[Result]) -> list[str]:
    """A note where no policy ever fills the cache, so that it is no reason to wait."""
    peak = max((result.peak_share for result in results), default=1.0)
    if peak >= _NEARLY_FULL:
        return []
    return [f"at most {peak:.0%} of the cache is ever in use: it is not what requests wait for"]


def print_notes(notes: Sequence[str]) -> None:
    """Each note in a line of its own."""
    for note in notes:
        aside(f"note: {note}")


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
