"""`llmsched generate`: a trace file, made by a generator."""

from __future__ import annotations

from typing import Annotated

import typer

from ..workloads import generate as generators
from ..workloads import traces
from . import describe
from .console import aside
from .options import Seed
from .output_files import check_outputs


def generate(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC", help=f"What is generated: {', '.join(generators.FORMS.values())}.", show_default=True
        ),
    ] = "lmsys",
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="The trace: .csv, .csv.gz or .parquet.")
    ] = "trace.csv",
    requests: Annotated[int, typer.Option("--requests", "-n", metavar="N", help="How many requests.")] = 2000,
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="They arrive at random, R per second. By default all at 0.")
    ] = None,
    burstiness: Annotated[
        float, typer.Option(metavar="CV", help="Standard deviation over mean of the gaps: 1 is a Poisson process.")
    ] = 1.0,
    seed: Seed = 0,
) -> None:
    """Write a trace file, for trying things out: lengths like those of LMSYS-Chat-1M unless SPEC says otherwise."""
    check_outputs([out])
    workload = generators.parse(spec, requests, seed)
    if rate is not None:
        if burstiness == 1:
            workload = generators.poisson(workload, rate, seed)
        else:
            workload = generators.gamma(workload, rate, burstiness, seed)
        if len(workload):
            workload = workload.replace(arrival=workload.arrival - workload.arrival.min())
    traces.write(workload, out)
    aside(f"Wrote {out}: {describe.requests_text(workload)}")
