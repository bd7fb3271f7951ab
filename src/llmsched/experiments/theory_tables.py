"""Tables and a figure of the closed forms of `theory`, as `llmsched theory` prints and draws them.

figure_style.save(theory_tables.figure(), "theory.png")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics.figure_style import STYLES, Panels, light_grid, panels_of, title
from ..optimum import theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ALPHAS", "QS", "UPPERS", "figure", "geometric", "guarantees", "worst"]

ALPHAS = ("1/100", "1/16", "1/9", "1/4", "0.382", "1/2", "3/4", "1")
UPPERS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
QS = ("0.1", "0.3", "0.5", "0.8", "0.9", "0.95", "0.99")


def guarantees(alphas: Iterable[theory.Number] = ALPHAS) -> list[dict[str, Any]]:
    """One row per alpha = lower/upper: the bounds on the ratio to `hsf`. Raises InputError for alpha outside (0, 1]."""
    rows = []
    for alpha in alphas:
        best = theory.best_guarantee(alpha)
        rows.append(
            {
                "alpha": str(alpha),
                "amax_bound": theory.amax_bound(alpha),
                "amax_printed_lower_bound": theory.amax_printed_lower_bound(alpha),
                "amax_instance_worst": theory.amax_instance_worst(alpha).ratio,
                "amin_two_point_bound": theory.amin_two_point_bound(alpha),
                "aell_two_point_bound": theory.aell_two_point_bound(alpha),
                "better_two_point": best.policy,
            }
        )
    return rows


def worst(uppers: Iterable[int] = UPPERS) -> list[dict[str, Any]]:
    """One row per longest output u: Corollary 1's largest ratio of `amin` on 1..u, the paper's fit to it, its trace."""
    return [
        {
            "upper": upper,
            "amin_rho": theory.amin_rho(upper),
            "amin_rho_fit": theory.amin_rho_fit(upper),
            "amin_trace": theory.amin_trace(upper),
        }
        for upper in uppers
    ]


def geometric(qs: Iterable[theory.Number] = QS) -> list[dict[str, Any]]:
    """One row per q: Lemma 2 on geometric lengths, Theorem 8 on linearly weighted ones."""
    return [
        {
            "q": str(q),
            "amin_geometric": theory.amin_geometric(q),
            "amin_linear_geometric": theory.amin_linear_geometric(q),
        }
        for q in qs
    ]


def figure(*, ax: Panels | None = None) -> Panels:
    """The bounds against alpha, the worst case of Lemma 2 against u, the geometric curves against q.

    Draws on `ax`, four axes in two rows, or on a new figure, which alone gets a title; returns the axes.

    Raises InputError for another number of axes, MissingExtraError without matplotlib.
    """
    drawn, panels = panels_of(ax, 2, 2, 10, 7)
    _amax(panels[0, 0])
    _two_point(panels[0, 1])
    _worst(panels[1, 0])
    _geometric(panels[1, 1])
    for axes in panels.ravel():
        axes.set_ylabel("ratio to hsf")
        light_grid(axes)
        axes.legend(frameon=False, fontsize=9)
    title(
        drawn, "Total latency relative to hsf: the closed forms of arXiv 2508.14544 for large n, nothing is simulated"
    )
    return np.ravel(panels)


def _amax(axes: Axes) -> None:
    alphas = np.geomspace(0.01, 1, 200).tolist()
    colour = STYLES["amax"][0]
    for label, dash, bound in (
        ("Theorem 1, upper bound", "-", theory.amax_bound),
        ("Theorem 2 as printed, lower bound", "--", theory.amax_printed_lower_bound),
        ("the instance in Theorem 2's proof", ":", lambda alpha: theory.amax_instance_worst(alpha).ratio),
    ):
        axes.plot(alphas, [bound(alpha) for alpha in alphas], color=colour, linestyle=dash, label=label)
    axes.set(xscale="log", yscale="log", xlabel="alpha = lower / upper")
    axes.set_title("amax, any lengths in [lower, upper]", fontsize=10, loc="left")


def _two_point(axes: Axes) -> None:
    alphas = np.linspace(0.005, 1, 400).tolist()
    for policy, source, bound in (
        ("amin", "Theorem 6", theory.amin_two_point_bound),
        ("aell", "Theorem 7", theory.aell_two_point_bound),
    ):
        colour, dash = STYLES[policy]
        curve = [bound(alpha) for alpha in alphas]
        axes.plot(alphas, curve, color=colour, linestyle=dash, label=f"{policy}, {source}")
    star = theory.ALPHA_STAR
    axes.axvline(star, ymax=0.5, color=STYLES["hsf"][0], linestyle=":", linewidth=1, label=f"they cross at {star:.3f}")
    axes.set_xlabel("alpha = lower / upper")
    axes.set_title("outputs either lower or upper: the worst mix", fontsize=10, loc="left")


def _worst(axes: Axes) -> None:
    rows = worst(UPPERS)
    uppers = [row["upper"] for row in rows]
    for key, label, style in (
        ("amin_trace", "its trace, 1 + 1/2 + ... + 1/u", {"color": "#808080", "linestyle": "--"}),
        ("amin_rho_fit", "the paper's fit", {"color": "#444444", "linestyle": ":"}),
        ("amin_rho", "amin, Corollary 1", {"color": STYLES["amin"][0], "marker": "o", "markersize": 4}),
    ):
        axes.plot(uppers, _column(rows, key), label=label, **style)
    axes.set(xscale="log", xlabel="longest output u (tokens; shortest 1)")
    axes.set_title("amin on the worst distribution for Lemma 2", fontsize=10, loc="left")


def _geometric(axes: Axes) -> None:
    rows = geometric(np.linspace(0.01, 0.99, 99).round(2).tolist())
    qs = [float(row["q"]) for row in rows]
    colour = STYLES["amin"][0]
    axes.plot(qs, _column(rows, "amin_geometric"), color=colour, label="geometric, Lemma 2")
    axes.plot(qs, _column(rows, "amin_linear_geometric"), color=colour, linestyle="--", label="linear, Theorem 8")
    axes.set_xlabel("q, one length's probability over the last's")
    axes.set_title("amin on geometric lengths", fontsize=10, loc="left")


def _column(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows]
