"""Does the ranking of the paper's policies survive when evicted work is not lost?

    python examples/recompute.py lengths.csv --out recompute       # or without a file: generated lengths

In the paper (arXiv 2508.14544) an evicted request starts again from nothing. Systems keep the tokens and compute the
cache again, or move the cache out and back. Here every policy is run all three ways: in rounds and with the Llama-2
clock, with several caches, loads and kinds of intervals, each on the same random draws of requests. Prints tables
of mean latency over that of `hsf`, with 95 % confidence intervals, and which pairs of policies change places; draws a
figure per clock.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.metrics import figure_style
from llmsched.metrics.confidence import mean_and_half_width
from llmsched.predict.intervals import with_midpoints

POLICIES = ("amax", "amin", "amin-doubling", "aell", "mcsf", "mc-benchmark", "vllm")
RESUMES = ("restart", "recompute", "swap")
INTERVALS = ("constant:1,1000", "buckets:100")
#: 320 KiB of cache per token (80 layers, 8 heads of 128, keys and values, 2 bytes) through two PCIe 4.0 links that
#: move 25 GB/s each: an assumption, while the other coefficients are the preset's.
SECONDS_PER_SWAPPED_TOKEN = 6.6e-6
CLOCKS = {
    "rounds": None,
    "seconds": dataclasses.replace(ls.clocks["llama2-70b-2xa100"], per_swapped_token=SECONDS_PER_SWAPPED_TOKEN),
}
#: Its order and victims, with what all have here: tokens take their cache at once, and who left resumes in three ways.
VLLM = dataclasses.replace(ls.policies["vllm"], slots="ahead", margin=0.01)
LOOKS = {"restart": ("o", "#D55E00"), "recompute": ("s", "#0072B2"), "swap": ("^", "#009E73")}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all policies are compared in. `load` is a share of `capacity`; None: all come at once."""

    time: str
    memory: int
    load: float | None
    intervals: str

    def __str__(self) -> str:
        come = "all at once" if self.load is None else f"load {self.load:g}"
        return f"M = {self.memory:,}, {come}, {self.intervals}"


#: (policy, resume) -> mean latency in each replication.
Latencies = dict[tuple[str, str], np.ndarray[Any, Any]]


def settings(memories: list[int], loads: list[float]) -> Iterator[Setting]:
    for time, memory, load, intervals in itertools.product(CLOCKS, memories, [None, *loads], INTERVALS):
        yield Setting(time, memory, load, intervals)


def latencies(setting: Setting, drawn: list[ls.Workload]) -> Latencies:
    """Every policy on the same draws: their differences are known better than the latencies themselves."""
    machine: dict[str, Any] = {"memory": setting.memory, "clock": CLOCKS[setting.time]}
    seeds = list(range(len(drawn)))
    if setting.load is not None:
        rate = setting.load * capacity(drawn[0], machine)
        drawn = [ls.generate.poisson(w, rate, k) for k, w in enumerate(drawn)]
    rule = ls.intervals.parse(setting.intervals)
    drawn = [with_midpoints(w.with_intervals(rule)) for w in drawn]

    def run(policy: ls.Policy) -> np.ndarray[Any, Any]:
        batch = ls.simulate_batch(drawn, policy, seeds=seeds, pair="zip", **machine)
        return batch.raise_errors().totals["mean_latency"]

    found = {("hsf", "restart"): run(ls.policies["hsf"])}
    for name, resume in itertools.product(POLICIES, RESUMES):
        found[name, resume] = run(dataclasses.replace(VLLM if name == "vllm" else ls.policies[name], resume=resume))
    return found


def capacity(requests: ls.Workload, machine: dict[str, Any]) -> float:
    """Requests per unit of time in the middle of a long queue, served as they came by who knows their lengths."""
    first_come = ls.simulate(requests.replace(point=requests.output), "mc-benchmark", **machine)
    early, late = np.quantile(first_come.completion, [0.25, 0.75])
    return len(requests) / 2 / float(late - early)


def ratio(found: Latencies, policy: str, resume: str) -> tuple[float, float]:
    """Mean over the replications of latency over that of `hsf`, and half its 95 % confidence interval."""
    return mean_and_half_width(found[policy, resume] / found["hsf", "restart"])


def changed_places(found: Latencies, resume: str) -> list[tuple[str, str]]:
    """Pairs of which the first is faster under restart and slower under `resume`, both beyond chance."""

    def faster(a: str, b: str, how: str) -> bool:
        mean, half = mean_and_half_width(np.log(found[a, how] / found[b, how]))
        return mean + half < 0

    pairs = itertools.permutations(POLICIES, 2)
    return [(a, b) for a, b in pairs if faster(a, b, "restart") and faster(b, a, resume)]


def ordered(found: Latencies) -> int:
    """Pairs of policies whose order under restart is beyond chance."""
    logs = [
        mean_and_half_width(np.log(found[a, "restart"] / found[b, "restart"]))
        for a, b in itertools.combinations(POLICIES, 2)
    ]
    return sum(abs(mean) > half for mean, half in logs)


def print_tables(results: dict[Setting, Latencies]) -> None:
    print("Mean latency over that of hsf, ± half a 95 % interval")
    for setting, found in results.items():
        print(f"\n{setting}, in {setting.time}\n{'':16}" + "".join(f"{resume:<14}" for resume in RESUMES).rstrip())
        for policy in POLICIES:
            cells = [written(*ratio(found, policy, resume)) for resume in RESUMES]
            print(f"{policy:<16}" + "".join(f"{cell:<14}" for cell in cells).rstrip())
    for time, resume in itertools.product(CLOCKS, RESUMES[1:]):
        here = {setting: found for setting, found in results.items() if setting.time == time}
        pairs = [(pair, setting) for setting, found in here.items() for pair in changed_places(found, resume)]
        total = sum(map(ordered, here.values()))
        print(f"\nIn {time}, with {resume}: {len(pairs)} of {total} pairs that restart sets apart change places")
        for pair in sorted({pair for pair, _ in pairs}):
            where = [str(setting) for other, setting in pairs if other == pair]
            more = f" and {len(where) - 2} more" if len(where) > 2 else ""
            print(f"  {pair[0]} is ahead with restart, {pair[1]} with {resume}: {'; '.join(where[:2])}{more}")


def written(mean: float, half: float) -> str:
    return f"{mean:.2f} ± {half:.2f}"


def figure(results: dict[Setting, Latencies], time: str, memory: int) -> Any:
    from matplotlib.figure import Figure

    shown = {s: found for s, found in results.items() if (s.time, s.memory) == (time, memory)}
    loads = list(dict.fromkeys(s.load for s in shown))
    drawing = Figure(figsize=(3.1 * len(loads) + 1, 6.4), layout="constrained")
    grid = drawing.subplots(len(INTERVALS), len(loads), sharex=True, sharey="row", squeeze=False)
    for setting, found in shown.items():
        axes = grid[INTERVALS.index(setting.intervals), loads.index(setting.load)]
        for shift, (resume, (marker, colour)) in enumerate(LOOKS.items()):
            values = np.array([ratio(found, policy, resume) for policy in POLICIES])
            places = np.arange(len(POLICIES)) + 0.22 * (shift - 1)
            axes.errorbar(
                places, values[:, 0], values[:, 1], fmt=marker, color=colour, markersize=5, capsize=2, label=resume
            )
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.1g}"[-1] in "1235" else "")
        axes.set_xticks(range(len(POLICIES)), POLICIES, rotation=60, ha="right")
        axes.grid(color="#dddddd", linewidth=0.6, which="both", axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        come = "all at once" if setting.load is None else f"load {setting.load:g}"
        axes.set_title(f"{come}, {setting.intervals}", fontsize=10, loc="left")
    for row in grid:
        row[0].set_ylabel("mean latency / hsf")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False, title="evicted requests")
    unit = "rounds" if time == "rounds" else "seconds, Llama-2 clock"
    drawing.suptitle(f"Times in {unit}; {memory:,} tokens of cache", x=0.01, ha="left", fontsize=11)
    return drawing


def write_csv(results: dict[Setting, Latencies], path: Path) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["time", "memory", "load", "intervals", "policy", "resume", "ratio", "ratio_ci95", "mean_latency"])
        for setting, found in results.items():
            for policy, resume in found:
                about = [setting.time, setting.memory, setting.load or "", setting.intervals, policy, resume]
                out.writerow([*about, *ratio(found, policy, resume), found[policy, resume].mean()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", help="lengths to draw from; by default the lmsys generator")
    parser.add_argument("--requests", type=int, default=1000, help="in a replication")
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--memory", type=int, nargs="+", default=[8246, 16492, 32984], help="the middle one is drawn")
    parser.add_argument("--load", type=float, nargs="+", default=[0.7, 0.9, 1.1])
    parser.add_argument("--out", type=Path, default=Path("recompute"), help="directory of the figures and numbers")
    chosen = parser.parse_args()
    trace = None if chosen.trace is None else ls.generate.at_once(ls.traces.load(chosen.trace))
    drawn = [
        ls.generate.lmsys(chosen.requests, k) if trace is None else ls.generate.resample(trace, chosen.requests, k)
        for k in range(chosen.replications)
    ]
    results = {setting: latencies(setting, drawn) for setting in settings(chosen.memory, chosen.load)}
    print_tables(results)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_csv(results, chosen.out / "recompute.csv")
    for time in CLOCKS:
        figure_style.save(
            figure(results, time, sorted(chosen.memory)[len(chosen.memory) // 2]), chosen.out / f"{time}.png"
        )


if __name__ == "__main__":
    main()
