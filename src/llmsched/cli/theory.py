"""`llmsched theory`: what the paper (arXiv 2508.14544) proves, as tables, curves and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from .._version import version
from ..experiments import theory_tables
from ..metrics import figure_style
from ..optimum.theory import ALPHA_STAR
from . import console
from .console import aside, print_table, say
from .options import Json
from .output_files import check_outputs

#: Table -> its title, and key -> heading.
_TABLES: Mapping[str, tuple[str, Mapping[str, str]]] = {
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


def theory(
    alpha: Annotated[
        list[str] | None,
        typer.Option(metavar="A", help="lower/upper, such as 0.25 or 1/4; repeat for several. By default 1/100 to 1."),
    ] = None,
    plot_file: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Also draw the curves: .png, .svg or .pdf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What the paper (arXiv 2508.14544) proves about amax, amin and aell: bounds on the ratio of total latency to hsf.

    All are limits of many requests in a large cache. `llmsched.theory` has each as a function, with its equation;
    docs/background/theory.md says how far simulated ratios are from them.
    """
    check_outputs([], plot_file)
    tables = {
        "guarantees": theory_tables.guarantees(alpha or theory_tables.ALPHAS),
        "worst": theory_tables.worst(),
        "geometric": theory_tables.geometric(),
    }
    if plot_file is not None:
        figure_style.save(theory_tables.figure(), plot_file)
    if as_json:
        console.print_json({"llmsched": version, "alpha_star": ALPHA_STAR, **tables})
    else:
        _print_theory(tables)


def _print_theory(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, rows in tables.items():
        title, headings = _TABLES[name]
        say(title)
        print_table(list(headings.values()), [[_cell(row[key]) for key in headings] for row in rows])
        say()
    say(f"aell has the better bound below alpha = {ALPHA_STAR:.3f}, amin above.")
    aside("note: limits of many requests in a large cache; simulated ratios differ, some by a lot. To see how far:")
    aside("python -m verification, in the sources, and docs/background/theory.md")


def _cell(value: Any) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else str(value)
