"""`llmsched validate`: the times of a real run against those of a simulation of it."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from .._version import version
from ..metrics.figure_style import save
from ..serving import validation
from ..serving.log_rows import OnError as OnErrorWord
from ..serving.validation import METRICS, STATISTICS, Validation
from . import console
from .calibrate import LogErrors, SystemSettings
from .console import aside, print_columns, say
from .options import Json
from .output_files import check_outputs


def validate(
    run: Annotated[
        str, typer.Argument(metavar="RUN", show_default=False, help="A log with times of requests, or its directory.")
    ],
    system: SystemSettings = "vllm",
    clock: Annotated[
        str | None, typer.Option("--clock", metavar="NAME|FILE", help="How long a step lasts (`llmsched calibrate`).")
    ] = None,
    fit_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Instead of a clock: calibrate it on this share of the requests, those that arrived first; all "
            "figures are of the others.",
        ),
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")] = None,
    on_error: LogErrors = "raise",
    as_json: Json = False,
) -> None:
    """How wrong is the simulation? The requests of a real run, as they came, measured and simulated."""
    check_outputs([], plot)
    found = validation.validate(
        run, system, clock=clock, fit_fraction=fit_fraction, on_error=cast(OnErrorWord, on_error)
    )
    if plot is not None:
        save(found.plot(), plot)
    if as_json:
        console.print_json({"llmsched": version, **found.summary()})
        return
    _print(found)
    if plot is not None:
        aside(f"wrote {plot}", keep=True)


def _print(found: Validation) -> None:
    kind = f", clock fitted to the {found.fitted:,} that came before" if found.fitted else ""
    aside(f"{len(found.measured):,} requests{kind}; {found.system}\n")
    statistics, errors, own = found.statistics, found.errors, found.per_request
    rows = [(name, which) for name in statistics for which in STATISTICS]
    print_columns(
        {
            "": [f"{METRICS[name]}, {which}" for name, which in rows],
            "measured": [f"{statistics[name][which]['measured']:,.4g} s" for name, which in rows],
            "simulated": [f"{statistics[name][which]['simulated']:,.4g} s" for name, which in rows],
            "error": [f"{errors[name][which]:+.1%}" for name, which in rows],
            "of a request": [f"{own[name][which]:.1%}" for name, which in rows],
        },
        drop=("of a request",),
    )
    aside("\nof a request: the mean, and percentiles, of the sizes of the requests' own errors")
    for note in found.notes:
        aside(f"note: {note}")
    say(f"\n{found.verdict}")
