"""`llmsched timeline`: what happened over time under one policy, as a figure and as a trace for Perfetto."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from ..metrics import figure_style, figures, perfetto, service
from ..policy_files import parse as parse_policy
from ..simulation.run import EngineName, simulate
from . import console, describe
from .option_groups import expand_groups
from .options import POLICY_HELP, EngineOption, Intervals, MachineOptions, RequestOptions, Seed, SystemOptions
from .output_files import check_outputs
from .predictions import interval_rule, with_predictions


@expand_groups(
    "trace out perfetto_file policy machine_name memory interval seed limit generator clock_name in_rounds rate "
    "max_batch block prefill_budget system format_ on_error engine"
)
def timeline(
    requests: RequestOptions,
    machine: MachineOptions,
    system: SystemOptions,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The figure: .png, .svg or .pdf.")] = Path("timeline.png"),
    perfetto_file: Annotated[
        str | None,
        typer.Option("--perfetto", metavar="FILE", help="Also a trace for ui.perfetto.dev: .json or .json.gz."),
    ] = None,
    policy: Annotated[str | None, typer.Option(metavar="NAME", help=f"{POLICY_HELP} By default amin.")] = None,
    interval: Intervals = None,
    seed: Seed = 0,
    engine: EngineOption = "compiled",
) -> None:
    """Draw what happened over time: use of the cache, batch size, queue and evictions.

    Up to 60 requests get a Gantt chart as well. For more, --perfetto writes a trace in which one can zoom.
    """
    check_outputs([perfetto_file], out)
    if perfetto_file is not None:
        perfetto.check_path(perfetto_file)
    chosen = parse_policy(policy) if policy else next(iter(system.policies().values()), parse_policy("amin"))
    rule = interval_rule(interval)
    workload = requests.read(seed, requests.limit)
    setup = system.on(machine, machine.setup(workload))
    workload = requests.fitting(workload, setup.memory, setup.block)
    workload, spelling, notes = with_predictions(requests.at_rate(workload, seed), rule, [chosen])
    with console.ProgressBar("requests") as bar:
        result = simulate(
            workload,
            chosen,
            **setup.arguments(),
            seed=system.seed(seed),
            engine=cast(EngineName, engine),
            record=("tokens", "timeline"),
            progress=partial(bar.update, chosen.name),
        )
    figure_style.save(figures.timeline(result, intervals=str(spelling)), out)
    files = [str(out)]
    if perfetto_file is not None:
        written = perfetto.write(result, perfetto_file)
        files.append(perfetto_file)
        if written.left_out:
            notes.append(
                f"{perfetto_file} holds the first {written.stays:,} stays in the batch, up to {written.until:,.6g}; "
                f"{written.left_out:,} more were left out"
            )
    describe.print_run_header(workload, setup, seed, spelling)
    console.say(
        f"{chosen.name}: mean latency {console.aligned([result.mean_latency])[0]}, "
        f"makespan {console.aligned([result.makespan])[0]}, {console.number_of(result.total_evictions, 'eviction')}"
    )
    notes += describe.reading_notes(workload) + describe.overload_notes({chosen.name: service.metrics(result)})
    describe.print_notes(notes)
    console.aside(f"\nWrote {' and '.join(files)}.")
