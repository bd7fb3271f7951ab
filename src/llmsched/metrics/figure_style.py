"""How every figure looks and is saved: a colour for each policy, a light grid, the file formats."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MissingExtraError, number_of
from ..simulation.clock import Clock, clocks
from ..workloads.workload import Workload
from . import figure_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Several axes, row by row: what a figure of several panels takes as `ax` and returns.
Panels: TypeAlias = "Sequence[Axes] | npt.NDArray[np.object_]"

_TITLE_SIZE = 11


#: What `save` can write, by the file's extension.
FORMATS = ("png", "svg", "pdf")


BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#808080",
)  # fmt: skip


#: Named policy -> (colour, dash). A colour belongs to one policy; relatives are shades of a hue and differ in the dash.
STYLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "hsf": (BLACK, "-"),
        "svf": ("#5A5A5A", ":"),
        "amax": (RED, "-"),
        "amin": (BLUE, "-"),
        "amin-doubling": (SKY, "--"),
        "amin-lottery": ("#4B2FBF", "-."),
        "auto": ("#00573F", ":"),
        "aell": (GREEN, "-"),
        "mcsf": (ORANGE, "-"),
        "mc-benchmark": ("#9A7200", "--"),
        "fcfs": (PURPLE, "-"),
        "protection": (GREY, "--"),
        "clearing": ("#B5B5B5", ":"),
        "amin-recompute": ("#00386B", "--"),
        "mcsf-protection": ("#EBD23A", ":"),
        "vllm": ("#882255", "--"),
        "vllm-priority": ("#B65CE0", "-."),
        "trtllm": ("#842400", "--"),
        "s3": ("#00B5C4", "-"),
        "rect": ("#7BC35A", "--"),
        "response": ("#5C6B00", "-."),
        "svf-1bit": ("#A07CA8", "-"),
        "conditional": ("#6C86DB", ":"),
        "sglang": ("#FF9C7A", ":"),
        "past-future": ("#F5B3D9", ":"),
    }
)


#: Colours of compositions of one's own; more than these are told apart by the dash.
_COLOURS_OF_OTHERS = (
    "#44AA99", "#999933", "#AA2266", "#117733", "#7A5230", "#E03131", "#2B8A9E", "#A9C4F5", "#C2A36B", "#3D5A40",
)  # fmt: skip


def require_matplotlib() -> None:
    """Raises MissingExtraError unless matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "drawing figures") from None


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises InputError unless `save` can write a file of this name, by its extension."""
    extension = Path(path).suffix.removeprefix(".").lower()
    if extension not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(f"cannot draw {os.fspath(path)!r}: the extension must be one of {known}")


def save(drawn: Figure | Axes | Panels, path: str | os.PathLike[str]) -> None:
    """Write a figure, or that of axes, in the format that the path's extension says; equal figures make equal files.

    Raises InputError for any other extension than those of `FORMATS`, OSError if the file cannot be written.
    """
    check_path(path)
    import matplotlib

    extension = Path(path).suffix.lower()
    undated: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(extension, {})
    with matplotlib.rc_context({"svg.hashsalt": "llmsched"}):
        figure_of(drawn).savefig(path, dpi=150, metadata=undated)


def figure_of(drawn: Figure | Axes | Panels) -> Figure:
    """The figure that axes are in: what every function that draws returns, or one of them."""
    one: Any = drawn[0] if isinstance(drawn, (Sequence, np.ndarray)) else drawn
    figure: Figure = one.get_figure(root=True)
    return figure


def panels_of(
    ax: Axes | Panels | None, rows: int, columns: int, width: float, height: float, **layout: Any
) -> tuple[Figure | None, Any]:
    """The panels to draw in, an array of axes (rows, columns): those of `ax`, row by row, or of a new figure.

    The figure is None for axes that are given: their figure's title and legend are somebody else's.
    Raises InputError for another number of axes, MissingExtraError without matplotlib.
    """
    if ax is None:
        figure = new_figure(width, height)
        return figure, figure.subplots(rows, columns, squeeze=False, **layout)
    given = np.ravel(np.array(ax, dtype=object))
    if len(given) != rows * columns:
        number = number_of(rows * columns, "panel")
        raise InputError(f"this figure has {number}: give ax= so many axes, in a list row by row, not {len(given)}")
    return None, given.reshape(rows, columns)


def legend(figure: Figure | None, axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend beside all panels of a figure of its own, else on these axes."""
    if figure is not None:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, handlelength=2.6)
    elif handles:
        axes.legend(handles, labels, frameon=False, handlelength=2.6, fontsize=8)


def new_figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=0.04, hspace=0.04))


def styles_of(policies: Sequence[str]) -> dict[str, tuple[str, str]]:
    others = [policy for policy in policies if policy not in STYLES]
    colours, dashes = len(_COLOURS_OF_OTHERS), ("-.", "-", ":", "--")  # so that 24 can be told apart
    looks = {
        policy: (_COLOURS_OF_OTHERS[k % colours], dashes[k // colours % 4]) for k, policy in enumerate(sorted(others))
    }
    return {**STYLES, **looks}


def light_grid(axes: Axes) -> None:
    """A light grid, no box, and ticks that can be read (not on an axis of names). After the scales are set."""
    for axis in (axes.xaxis, axes.yaxis):
        figure_ticks.readable(axis)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def title(figure: Figure | None, *parts: str) -> None:
    """What is drawn, above the figure: parts, of which empty ones are left out, in as many lines as they need.

    After the legend is there: the title keeps out of its way. Nothing for None, a figure that is somebody else's.
    """
    if figure is None:
        return
    beside = max((len(text.get_text()) for legend in figure.legends for text in legend.get_texts()), default=-10)
    points = figure.get_figwidth() * 72 - 6.2 * (beside + 10)
    letters = max(30, int(points / (_TITLE_SIZE * 0.6)))
    lines = [line for part in parts if part for line in textwrap.wrap(part.replace(" %", "\u00a0%"), letters)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=_TITLE_SIZE).set_parse_math(False)


def band() -> Any:
    """What a legend shows for the bands of confidence, whatever their colours."""
    from matplotlib.patches import Patch

    return Patch(color="#555555", alpha=0.25, linewidth=0)


def requests_of(workload: Workload, n: int | None = None) -> str:
    """How many requests from which trace or generator, for a title."""
    source: Mapping[str, Any] = workload.source
    while "path" not in source and isinstance(source.get("of"), Mapping):
        source = source["of"]
    where = ""
    if "path" in source:
        where = f" from {Path(str(source['path'])).name}"
    elif "generator" in source:
        where = f" from the {source['generator']} generator"
    count = len(workload) if n is None else n
    return f"{count:,} request{'' if count == 1 else 's'}{where}"


def machine_of(
    memory: int | None,
    clock: Clock | None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
) -> str:
    """What requests ran on, for a title: the clock by its name if it has one, the cache and the limits."""
    name = next((known for known, one in clocks.items() if one == clock), "a clock of one's own")
    parts = [] if clock is None else [name]
    parts += [] if memory is None else [f"{memory:,} tokens of KV cache" + (f" in blocks of {block}" * (block > 1))]
    parts += [] if max_batch is None else [f"at most {max_batch:,} at once"]
    parts += [] if prefill_budget is None else [f"at most {prefill_budget:,} tokens a round"]
    return ", ".join(parts)
