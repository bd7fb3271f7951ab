"""`llmsched calibrate`: a clock from a log of a real engine, from tables of kernel times, or from published points."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import typer

from .._version import version
from ..errors import InputError, nearest
from ..input_limits import open_text
from ..serving import calibration, logs, tables
from ..serving.calibration import Calibration, in_seconds
from ..serving.log_rows import OnError as OnErrorWord
from ..serving.records import Log
from ..serving.systems import machine
from ..serving.tables import Point
from ..simulation.clock import Clock
from . import console
from .console import aside, print_columns
from .option_groups import expand_groups
from .options import Json
from .output_files import check_outputs

LogFile = Annotated[
    str,
    typer.Argument(
        metavar="LOG",
        show_default=False,
        help=f"A log ({', '.join(logs.FORMATS)}), a directory with requests.jsonl or with tables of kernel times, or a "
        ".csv of published points.",
    ),
]
SystemSettings = Annotated[
    str,
    typer.Option(
        "--system",
        metavar="NAME[:SETTING=VALUE,...]",
        help="What served the requests, such as vllm:num-gpu-blocks=2587,max-num-seqs=256 (blocks: one less than "
        "vLLM has, which keeps one). What it leaves out is as "
        "the log says, else the engine's default.",
    ),
]
LogErrors = Annotated[str, typer.Option(metavar="raise|skip", help="What to do with a bad row of the log.")]


@dataclass(frozen=True)
class TableOptions:
    """What tables of kernel times and published points leave open."""

    layers: Annotated[
        int | None, typer.Option(metavar="N", help="Layers of the model, for tables of kernel times.")
    ] = None
    communication: Annotated[
        float,
        typer.Option(metavar="S", help="Seconds that a token takes on the links between GPUs, for tables of kernels."),
    ] = 0.0
    only: Annotated[str | None, typer.Option(metavar="NAME", help="Of published points, the engine to write.")] = None


@expand_groups("log output machine_file system layers communication only on_error as_json")
def calibrate(
    log: LogFile,
    tabled: TableOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the clock: .toml or .json, for --clock."),
    ] = None,
    machine_file: Annotated[
        Path | None,
        typer.Option(
            "--machine",
            metavar="FILE",
            help="Write what served: the clock with the engine's cache and limits, as the log or --system says: .toml "
            "or .json, for --machine of other commands.",
        ),
    ] = None,
    system: SystemSettings = "vllm",
    on_error: LogErrors = "raise",
    as_json: Json = False,
) -> None:
    """A clock from what was measured: how long a step of the engine takes, and how well that is known.

    From steps by least squares; from the times of requests by simulation in the loop.
    """
    check_outputs([output, machine_file])
    errors = cast(OnErrorWord, on_error)
    if machine_file is not None and (_has_points(log) or (Path(log) / "attention.csv").is_file()):
        raise InputError("--machine is for the log of an engine: points and kernels do not say how large its cache is")
    if _has_points(log):
        _points(log, tabled.only, output, as_json)
        return
    if tabled.only is not None:
        raise InputError("--only is for published points")
    read = log if machine_file is None else logs.read(log, on_error=errors)
    if isinstance(read, Log):  # found out before the clock is: a search takes a while
        machine(system, read, Clock(base=1.0))
    found = calibration.calibrate(
        read, system=system, layers=tabled.layers, communication=tabled.communication, on_error=errors
    )
    if output is not None:
        found.clock.write(output)
    if machine_file is not None and isinstance(read, Log):
        machine(system, read, found.clock, machine_file.stem).write(machine_file)
    if as_json:
        console.print_json({"llmsched": version, **found.summary()})
        return
    _print(found, [file for file in (output, machine_file) if file is not None])


def _print(found: Calibration, written: list[Path]) -> None:
    left_out = f" ({found.left_out:,} left out)" if found.left_out else ""
    aside(f"clock from {found.rows:,} {found.method}{left_out}, mean error {found.error:.1%}\n")
    print_columns(found.coefficients())
    if found.held_out:
        words = {"steps": "time of all steps", "error": "mean error of a step"}
        errors = ", ".join(
            f"{words.get(name, name)} {value:{'.1%' if name == 'error' else '+.1%'}}"
            for name, value in found.held_out.items()
        )
        aside(f"\nlast third, by a clock fitted to the rest: {errors}")
    for note in found.notes:
        aside(f"note: {note}")
    for file in written:
        aside(f"wrote {file}", keep=True)


def _has_points(path: str) -> bool:
    """Whether it is a table of published points: a .csv with their columns."""
    if not path.endswith(".csv"):
        return False
    with open_text(path, newline="") as file:
        return "silicon_tpot_ms" in next(csv.reader(file), [])


def _points(path: str, only: str | None, output: Path | None, as_json: bool) -> None:
    found = tables.of_points(path)
    if only is not None and only not in found:
        raise InputError(f"there is no engine {only!r}; {nearest(only, found)}")
    if output is not None and only is None:
        raise InputError("there are several engines in it: say which to write with --only NAME")
    if output is not None and only is not None:
        found[only].clock.write(output)
    shown = found if only is None else {only: found[only]}
    if as_json:
        console.print_json({"llmsched": version, "engines": {name: _fields(point) for name, point in shown.items()}})
        return
    print_columns(
        {
            "engine": list(shown),
            "points": [f"{point.points}" for point in shown.values()],
            "base": [in_seconds(point.clock.base) for point in shown.values()],
            "request": [in_seconds(point.clock.per_request) for point in shown.values()],
            "context": [in_seconds(point.clock.per_context_token) for point in shown.values()],
            "prompt": [in_seconds(point.clock.per_prompt_token) for point in shown.values()],
            "tpot": [f"{point.tpot_error:.0%}" for point in shown.values()],
            "ttft": [f"{point.ttft_error:.0%}" for point in shown.values()],
        },
        drop=("context", "request", "points"),
    )
    aside("\ntpot, ttft: mean error on the points; a first token also waits for what is around the engine")
    if output is not None:
        aside(f"wrote {output}", keep=True)


def _fields(point: Point) -> dict[str, object]:
    return {
        "clock": point.clock.fields(),
        "overhead": point.overhead,
        "points": point.points,
        "tpot_error": point.tpot_error,
        "ttft_error": point.ttft_error,
    }
