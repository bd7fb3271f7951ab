"""``llmsched study report``: the page, and figures and a table beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, nearest
from ..metrics import figure_style
from . import console
from .output_files import check_outputs


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the results.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The page. By default DIR/report.html.", show_default=False),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What is shown first. By default the metric of `precision`, or mean_latency."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="What the others are compared with. By default hsf, or the first policy."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Also draw the figures for papers, into DIR.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="png|svg|pdf", help="Of the figures; repeat for several. By default png."),
    ] = None,
    along: Annotated[
        str | None,
        typer.Option(metavar="FACTOR", help="What the figures have on their horizontal axis. By default memory."),
    ] = None,
    csv_file: Annotated[
        str | None,
        typer.Option(
            "--csv", metavar="FILE", help="Also write every number of the report as CSV: a row per cell and metric."
        ),
    ] = None,
) -> None:
    """Make a page of the results to look at: one HTML file that works without a network.

    It has the metric against each factor with confidence intervals, ratios and paired differences, the best policies,
    memory use and evictions, a table that sorts and filters, and what it takes to do the study again.
    """
    from ..study import report as study_report
    from ..study import store

    store.describe(directory)  # before anything else: a wrong directory is not a matter of what is written to it
    page = directory / "report.html" if out is None else out
    check_outputs([page, csv_file])
    if (formats or along) and figures is None:
        raise InputError(f"--{'format' if formats else 'along'} is about figures: say where they go with --figures DIR")
    for extension in formats or ():
        if extension not in figure_style.FORMATS:
            raise InputError(f"--format {extension!r}: {nearest(extension, figure_style.FORMATS)}")
    if figures is not None:
        figure_style.require_matplotlib()
    contents = study_report.write(directory, page, metric=metric, against=against)
    written = [f"{page} ({page.stat().st_size / 1e6:.1f} MB)"]
    if figures is not None:
        from ..study.report_figures import save

        written += [str(file) for file in save(contents, figures, formats or ["png"], along=along)]
    if csv_file is not None:
        table = study_report.table(contents)
        rows = [{k: None if v != v else v for k, v in row.items()} for row in table.to_pylist()]  # NaN: nothing
        console.write_csv(csv_file, table.column_names, rows)
        written += [csv_file] if csv_file != "-" else []
    if csv_file != "-":
        console.aside(
            f"{console.number_of(len(contents.cells), 'cell')}, {console.number_of(contents.simulations, 'simulation')}"
        )
        if contents.unfinished:
            console.aside(f"note: {contents.unfinished}")
        console.aside(f"Wrote {', '.join(written)}.")
