"""`llmsched paper`: the experiments of the paper (arXiv 2508.14544) again, as figures, numbers and tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from ..experiments import paper_figure
from ..experiments.paper import EXPERIMENTS, POLICIES, Row, findings, reproduce
from ..metrics import figure_style
from ..metrics.compare import MEMORY
from ..serving.published_clocks import parse as parse_clock
from ..simulation.run import EngineName
from ..workloads.workload import Workload
from . import console, describe
from .console import aligned, aside, at_most, number_of, plus_minus, print_columns, say
from .option_groups import expand_groups
from .options import ClockName, EngineOption, Memory, Seed, TraceOptions
from .output_files import make_directory


@expand_groups("trace out memory clock_name subsets seed format_ on_error engine")
def paper(
    source: TraceOptions,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures and numbers go; made if missing.")] = Path(
        "paper"
    ),
    memory: Memory = MEMORY,
    clock_name: ClockName = None,
    subsets: Annotated[int, typer.Option(metavar="K", help="Random subsets of each size.")] = 20,
    seed: Seed = 0,
    engine: EngineOption = "compiled",
) -> None:
    """Repeat the experiments of the paper (arXiv 2508.14544): average latency of amax, amin and hsf.

    Random subsets of 200, 400, ... 2,000 requests, all arriving at 0, with three kinds of predicted intervals. The
    subsets are independent draws, with replacement where they come from TRACE, and the same ones for every policy.

    The paper's times are seconds: --clock gives them, and at --memory 60000 to 80000 buckets about halve what amax
    takes, as the paper finds.

    Writes average_latency.png, .svg and .csv into the --out directory.
    """
    figure_style.require_matplotlib()
    workload = source.load()
    clock = None if clock_name is None else parse_clock(clock_name)
    make_directory(out)
    with console.ProgressBar("subsets") as bar:
        rows = reproduce(
            workload,
            memory=memory,
            clock=clock,
            seed=seed,
            subsets=subsets,
            engine=cast(EngineName, engine),
            progress=partial(bar.update, "experiments"),
        )
    files = [out / f"average_latency.{extension}" for extension in ("png", "svg", "csv")]
    figure = paper_figure.paper(rows, workload=workload, clock=clock, seed=seed)
    for file in files[:2]:
        figure_style.save(figure, file)
    records = [row.record() for row in rows]
    console.write_csv(str(files[2]), list(records[0]), records)
    _print_paper(rows, workload, memory, seed, clock_name)
    console.aside(f"\nWrote {', '.join(map(str, files[:2]))} and {files[2]}.")


def _print_paper(
    rows: Sequence[Row], workload: Workload | None, memory: int, seed: int, clock_name: str | None
) -> None:
    most, subsets = max(row.requests for row in rows), rows[0].subsets
    aside(f"{number_of(subsets, 'random subset')} of each size from {describe.drawn_from(workload)}")
    clock = "" if clock_name is None else f"clock {clock_name}; "
    aside(f"KV cache {memory:,} tokens; {clock}seed {seed}; all requests arrive at 0")
    say(f"Average latency in {rows[0].unit} of {number_of(most, 'request')}, and ratios ± 95 % confidence:\n")
    at = {(row.intervals, row.policy): row for row in rows if row.requests == most}
    lines = [[at[str(experiment.rule), policy] for policy in POLICIES] for experiment in EXPERIMENTS]
    titles = [f"{experiment.number}. {experiment.title}" for experiment in EXPERIMENTS]
    latencies = {
        policy: aligned([line[p].mean_latency for line in lines], decimals=1) for p, policy in enumerate(POLICIES)
    }
    ratios = {
        f"{policy} / hsf": [plus_minus(line[p].ratio, line[p].ratio_ci95) for line in lines]
        for p, policy in enumerate(POLICIES)
        if policy != "hsf"
    }
    print_columns({"intervals": titles, **latencies, **ratios})
    say()
    say("At most so far above the best possible schedule (a proven bound):\n")
    gaps = {policy: at_most([line[p].gap for line in lines]) for p, policy in enumerate(POLICIES)}
    print_columns({"intervals": titles, **gaps})
    say()
    for finding in findings(rows):
        say(textwrap.fill(finding, max(console.stdout().width, 60), subsequent_indent="   "))
    describe.print_notes([] if workload is None else describe.reading_notes(workload))
    if memory == MEMORY:
        aside("note: the paper prints no cache size, and how close amin comes to hsf depends on it: try --memory 80000")
