"""The report of a study: one HTML file that needs no network, for people to look at.

    report.write("results", "report.html")

The page is `template/` with three things put into it: the numbers (`Contents`) as JSON, Vega-Lite in one script (extra
`study`, from vl-convert), and the page's own style and script. Everything that comes from a study is text to the page,
never markup, and a content security policy in the page forbids it to load anything.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._version import version
from ..errors import MissingExtraError
from ..metrics import figure_style
from ..progress import with_seconds
from .report_contents import Contents
from .whole_files import write_whole

if TYPE_CHECKING:
    import pyarrow

__all__ = ["page", "read", "write"]

_DIGITS = 6  # significant ones of the numbers in the page
_DARK = {"#000000": "#f2f2f2", "#0072B2": "#4aa8e8", "#808080": "#a6a6a6", "#332288": "#9d8cf0", "#882255": "#e5606e"}
_LISTED = 100  # runs of the study that the page tells of


def read(directory: str | os.PathLike[str], *, metric: str | None = None, against: str | None = None) -> Contents:
    """The contents of a report on the study in `directory`, for `page` and for `figures`.

    Raises StudyError if the directory holds no study, InputError if it has no results yet, or no such metric or policy.
    """
    from . import completeness, store

    folder = Path(directory)
    described, table, failures = store.describe(folder), store.results(folder), store.failures(folder)
    completeness.check_has_results(table, failures, folder)
    text = store.study_file(folder, described)
    missing = completeness.what_is_missing(described, table, failures)
    return Contents.of(
        table, described, text, metric=metric, against=against, failures=failures.num_rows, unfinished=missing
    )


@with_seconds("writing")
def write(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    metric: str | None = None,
    against: str | None = None,
) -> Contents:
    """Write the report on the study in `directory` to `path`, and return what is in it.

    Raises StudyError, InputError as `read`, MissingExtraError without vl-convert, OSError for the file.

    Parameters
    ----------
    directory
        The results of a study, finished or not.
    path
        The HTML file.
    metric
        What the page shows first; by default what the study's precision is about, or the mean latency.
    against
        The policy that others are compared with; by default hsf, or the first one of the study.
    """
    contents = read(directory, metric=metric, against=against)
    text, target = page(contents), Path(path)
    if target.parent == Path(directory):  # no link that somebody has put there is followed
        write_whole(target, lambda file: file.write(text.encode()))
    else:
        target.write_text(text, encoding="utf-8")
    return contents


def page(contents: Contents) -> str:
    """The HTML of the report. Raises MissingExtraError without vl-convert."""
    from html import escape

    return _filled(
        _template("report.html"),
        {
            "title": escape(contents.name),
            "style": _template("report.css"),
            "library": _script(vega_script("study", "the report of a study")),
            "app": _script(_template("report.js")),
            "data": json.dumps(_data(contents), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        },
    )


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with its {{marks}} replaced, in one go: what is put in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def _template(name: str) -> str:
    return (importlib.resources.files(__package__) / "template" / name).read_text(encoding="utf-8")


def _script(code: str) -> str:
    """Code that can stand in a script element: nothing in it ends the element."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE)


@functools.cache
def vega_script(extra: str, purpose: str) -> str:
    """Vega-Lite, Vega and vega-embed as one script; making it takes a second.

    Raises MissingExtraError, which names the extra and what it is for, without vl-convert.
    """
    try:
        import vl_convert
    except ImportError:
        raise MissingExtraError("vl-convert-python", extra, purpose) from None
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _data(contents: Contents) -> dict[str, Any]:
    """What the page's script reads: columns, not rows, which keeps the file small."""
    place = {name: {level: k for k, level in enumerate(levels)} for name, levels in contents.factors.items()}
    styles = figure_style.styles_of([str(policy) for policy in contents.factors["policy"]])
    return {
        "name": contents.name,
        "description": str(contents.described.get("description") or ""),
        "version": version,
        "confidence": contents.confidence,
        "against": contents.against,
        "metric": contents.metric,
        "along": contents.along,
        "simulations": contents.simulations,
        "failures": contents.failures,
        "unfinished": contents.unfinished,
        "equal": contents.equal,
        "memoryUse": contents.memory_use,
        "evictionRate": contents.eviction_rate,
        "factors": [
            {
                "name": name,
                "levels": ["none" if level is None else level for level in levels],
                "numeric": all(isinstance(level, (int, float)) for level in levels),
                "scale": scale and {"title": scale[0], "values": _numbers(scale[1])},
                "cells": [place[name][cell[k]] for cell in contents.cells],
            }
            for k, (name, levels) in enumerate(contents.factors.items())
            for scale in [contents.scale(name)]
        ],
        "styles": [web_style(*styles[str(policy)]) for policy in contents.factors["policy"]],
        "clairvoyant": [policy in contents.clairvoyant for policy in contents.factors["policy"]],
        "verdicts": contents.verdicts,
        "metrics": [
            {
                "name": metric.name,
                "label": metric.label,
                "unit": "" if metric.is_share else metric.unit_in(contents.clocked),
                "share": metric.is_share,
                "moreIsBetter": not metric.less_is_better,
                "values": {key: _numbers(column) for key, column in contents.values[metric.name].items()},
            }
            for metric in contents.metrics
        ],
        "repeat": _repeat(contents),
    }


def web_style(colour: str, dash: str) -> dict[str, Any]:
    """How the page draws a policy: relatives share a colour, and differ in dashes of lines and shapes of points."""
    dashes: dict[str, list[int]] = {"-": [1, 0], "--": [7, 4], ":": [2, 3], "-.": [7, 3, 2, 3]}
    shapes = {"-": "circle", "--": "square", ":": "triangle-up", "-.": "diamond"}
    return {"light": colour, "dark": _DARK.get(colour, colour), "dash": dashes[dash], "shape": shapes[dash]}


def _numbers(values: Sequence[float] | np.ndarray[Any, Any]) -> list[float | int | None]:
    """Numbers for JSON, rounded; None for what is not finite."""
    numbers: list[float | int | None] = []
    for value in np.asarray(values, np.float64).tolist():
        if not math.isfinite(value):
            numbers.append(None)
            continue
        rounded = float(f"{value:.{_DIGITS}g}")
        numbers.append(int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded)
    return numbers


def _repeat(contents: Contents) -> dict[str, Any]:
    """What repeats the study: its file, the command, and what it ran on."""
    described = contents.described
    runs = list(described.get("runs") or [described])[-_LISTED:]
    facts = {
        "hash of the study": described.get("hash"),
        "llmsched": described.get("llmsched"),
        "Python": described.get("python"),
        "NumPy": described.get("numpy"),
        "machine": " ".join(str(described[key]) for key in ("system", "machine") if described.get(key)),
        "processors": described.get("processors"),
        "begun": described.get("started"),
    }
    return {
        "text": contents.text,
        "commands": list(dict.fromkeys(run["command"] for run in runs if run.get("command"))),
        "facts": [[name, str(value)] for name, value in facts.items() if value],
    }


def table(contents: Contents) -> pyarrow.Table:
    """Everything the report says as one table: a row per cell and metric, a column per number (see `Contents`)."""
    import pyarrow

    rows = len(contents.metrics)
    columns: dict[str, Any] = {
        name: [cell[k] for cell in contents.cells for _ in range(rows)] for k, name in enumerate(contents.factors)
    }
    columns["metric"] = [metric.name for metric in contents.metrics] * len(contents.cells)
    for key in contents.values[contents.metric]:
        stacked = np.stack([contents.values[metric.name][key] for metric in contents.metrics], axis=1)
        columns[key] = stacked.ravel()
    named = {float(k): name for k, name in enumerate(contents.verdicts)} | {-1.0: "knows the truth"}
    columns["verdict"] = [named[code] for code in columns["verdict"].tolist()]
    columns["n"] = columns["n"].astype(np.int64)
    return pyarrow.table(columns)
