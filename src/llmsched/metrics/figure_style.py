"""How every figure looks and is saved: a colour for each policy, a light grid, the file formats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: What `save` can write, by the file's extension.
FORMATS = ("png", "svg", "pdf")


BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#808080",
)  # fmt: skip


#: Named policy -> (colour, dash). Relatives share a hue or a grey and differ in the dash.
STYLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "hsf": (BLACK, "-"),
        "svf": (BLACK, ":"),
        "amax": (RED, "-"),
        "amin": (BLUE, "-"),
        "amin-doubling": (SKY, "--"),
        "amin-lottery": (SKY, ":"),
        "auto": (GREEN, ":"),
        "aell": (GREEN, "-"),
        "mcsf": (ORANGE, "-"),
        "mc-benchmark": (ORANGE, "--"),
        "fcfs": (PURPLE, "-"),
        "protection": (GREY, "--"),
        "clearing": (GREY, ":"),
        "amin-recompute": (BLUE, "--"),
        "mcsf-protection": (ORANGE, ":"),
        "vllm": (PURPLE, "--"),
        "vllm-priority": (PURPLE, "-."),
        "trtllm": (RED, "--"),
        "s3": (SKY, "-"),
        "rect": (GREEN, "--"),
        "conditional": (BLUE, ":"),
        "sglang": (RED, ":"),
        "past-future": (PURPLE, ":"),
    }
)


_COLOURS_OF_OTHERS = ("#882255", "#44AA99", "#999933", "#332288", "#AA4499", "#117733")  # compositions of one's own


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


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format that the path's extension says; equal figures make equal files.

    Raises InputError for any other extension than those of `FORMATS`, OSError if the file cannot be written.
    """
    check_path(path)
    import matplotlib

    extension = Path(path).suffix.lower()
    undated: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(extension, {})
    with matplotlib.rc_context({"svg.hashsalt": "llmsched"}):
        figure.savefig(path, dpi=150, metadata=undated)


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
    """A light grid, no box, and thousands separators (not on an axis of names)."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
