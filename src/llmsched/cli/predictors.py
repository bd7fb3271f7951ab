"""`llmsched predictors`: what a predictor is worth, as tables, figures and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .._version import version
from ..experiments import predictor_figures, real_predictors
from ..experiments.predictor_value import BIAS_AT, POLICIES, Against, PredictorValue, predictor_value
from ..metrics import figure_style
from ..metrics.compare import MEMORY
from ..policy import named
from ..predict.conformal import coverage_of
from ..predict.feature_tables import read_csv
from ..workloads import generate
from ..workloads.workload import Workload
from . import console, describe
from .options import Memory, OnError, Seed, load, make_directory

# Coverages of the grid that the table shows.
_SHOWN = (0.5, 0.8, 0.9, 0.95, 1.0)
# With fcfs this near to hsf, no prediction can bring anything.
_EASY = 1.01
_AGAINST: tuple[Against, ...] = ("none", "fcfs")


def predictors(
    trace: Annotated[
        str | None,
        typer.Argument(
            metavar="TRACE",
            show_default=False,
            help="A trace file to draw requests from, or -. By default that of --features, if it has prompt_tokens.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures and numbers go; made if missing.")] = Path(
        "predictors"
    ),
    classes: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="A real classifier's labels: output_tokens and columns of classes."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="Train predictors: output_tokens and columns of what is known beforehand."),
    ] = None,
    coverage: Annotated[float, typer.Option(metavar="C", help="Coverage to calibrate real predictors to.")] = 0.9,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"A policy; repeat for several. By default {', '.join(POLICIES)}."),
    ] = None,
    memory: Memory = MEMORY,
    requests: Annotated[int, typer.Option(metavar="N", help="Requests in a replication.")] = 1000,
    replications: Annotated[int, typer.Option(metavar="K", help="Random draws of requests, at least 2.")] = 30,
    seed: Seed = 0,
    generator: Annotated[
        str | None,
        typer.Option(
            "--generate",
            metavar="SPEC",
            show_default=False,
            help="Workload without TRACE, such as two_point:10,40,0.8. By default lmsys.",
        ),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Format of TRACE. By default found.")
    ] = None,
    on_error: OnError = "raise",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What a predictor is worth: latency over coverage, width and bias of the intervals, and with real predictors.

    Intervals are made from the truth with noise, on a grid of 20 coverages by 20 widths and for 20 biases. Every policy
    is measured against perfect knowledge (hsf), against itself with no predictor (every request between 1 token and the
    longest) and against fcfs, which needs none. All requests of a replication arrive at 0.

    With --classes or --features, the first half of that file is learned from and the second half scheduled. The grid is
    of the requests in the file of --features too, if it has prompt_tokens and neither TRACE nor --generate is given.

    Writes heatmap, curves and, for real predictors, real (.png and .svg) and worth.csv into the --out directory.
    """
    figure_style.require_matplotlib()
    coverage_of(coverage)
    for name in policy or ():
        named(name)
    if trace is None and generator is None and features is not None and _has_requests(features):
        trace = features
    workload = _workload(trace, generator, seed, format_, on_error)
    prompts = generate.lmsys(1000, seed) if workload is None else workload
    predicted: dict[str, Workload] = {}
    if classes is not None:
        predicted |= real_predictors.from_classes(classes, prompts, coverage, seed)
    if features is not None:
        predicted |= real_predictors.from_features(features, prompts, coverage, seed)
    make_directory(out)
    with console.Bar("simulations") as bar:
        study = predictor_value(
            workload,
            policies=list(dict.fromkeys(policy or POLICIES)),
            memory=memory,
            seed=seed,
            requests=requests,
            replications=replications,
            predicted=predicted,
            progress=lambda done, total: bar.update("predictors", done, total),
        )
    files = _write(study, out)
    if as_json:
        console.print_json(_json(study, workload, coverage))
    else:
        _print(study, workload, coverage if predicted else None)
        console.say(f"\nWrote {', '.join(map(str, files[:-1]))} and {files[-1]}.")


def _has_requests(features: str) -> bool:
    """Whether a file of features is a trace as well."""
    return {"prompt_tokens", "output_tokens"} <= read_csv(features).keys()


def _workload(
    trace: str | None, generator: str | None, seed: int, format_: str | None, on_error: str
) -> Workload | None:
    """Requests to draw from; None for fresh ones of the lmsys generator in every replication."""
    if trace is not None:
        return load(trace, format_, on_error)
    return None if generator in (None, "lmsys") else generate.parse(generator, 20_000, seed)


def _write(study: PredictorValue, out: Path) -> list[Path]:
    drawn = {"heatmap": predictor_figures.heatmap(study), "curves": predictor_figures.latency_curves(study)}
    drawn |= {"real": predictor_figures.real_predictors(study)} if study.real else {}
    files = [out / f"{name}.{extension}" for name in drawn for extension in ("png", "svg")]
    for file in files:
        figure_style.save(drawn[file.stem], file)
    table = out / "worth.csv"
    records = [row.record() for row in study.rows()]
    console.write_csv(str(table), list(records[0]), records)
    return [*files, table]


def _print(study: PredictorValue, workload: Workload | None, coverage: float | None) -> None:
    drawn = f"{study.replications} replications of {console.number_of(study.requests, 'request')}"
    given = None if workload is None else f"the {console.number_of(len(workload), 'request')} of {_origin(workload)}"
    console.say(f"{drawn} from {given or 'the lmsys generator'}, all arriving at 0")
    console.say(
        f"KV cache {study.memory:,} tokens; seed {study.seed}; latencies relative to hsf on the same requests\n"
    )
    console.say("With no predictor, each request between 1 token and the longest; fcfs reads no prediction:")
    blind = [row for row in study.references if row.predictor == "none"]
    _table(
        {
            "policy": [r.policy for r in blind],
            "latency / hsf": [_pm(r.vs_perfect, r.vs_perfect_ci95) for r in blind],
            "gap": console.at_most([r.gap for r in blind]),
        }
    )
    (perfect,) = (row for row in study.references if row.predictor == "perfect")
    console.say("gap: latency is at most so far above the best possible (a proven bound); "
                f"hsf itself: {console.at_most([perfect.gap])[0]}")  # fmt: skip
    console.say("\nIntervals as wide as so many times the truth are better than no predictor, at a coverage of:")
    _table(_break_even_cells(study))
    console.say("\nA bias of so much of the truth is still better than no predictor, at a coverage of "
                f"{BIAS_AT[0]} and a width of {BIAS_AT[1]}:")  # fmt: skip
    cells: dict[str, list[str]] = {"policy": list(study.policies)}
    for against, words in zip(_AGAINST, ("than itself with none", "than fcfs"), strict=True):
        cells[words] = [_range(*study.bias_range(p, against)) for p in study.policies]
    _table(cells)
    if study.real:
        console.say(f"\nReal predictors, calibrated to a coverage of {coverage:g}:")
        _table(_real_cells(study))
    if any(row.policy == "fcfs" and row.vs_perfect < _EASY for row in blind):
        console.say("note: the cache hardly fills, and fcfs is as good as hsf: try less --memory or more --requests")
    for note in [] if workload is None else describe.reading_notes(workload):
        console.say(f"note: {note}")
    short = {row.policy for row in study.rows() if row.replications < study.replications}
    if short:
        console.say(f"note: {' and '.join(sorted(short))}: replications that did not finish are left out")


def _break_even_cells(study: PredictorValue) -> dict[str, list[str]]:
    cells: dict[str, list[str]] = {"policy": [], "better than": []}
    for policy in study.policies:
        for against in _AGAINST:
            cells["policy"].append(policy)
            cells["better than"].append("itself with none" if against == "none" else "fcfs")
            for point in study.break_even(policy, against):
                if point.coverage in _SHOWN:
                    cells.setdefault(f"{point.coverage:g}", []).append(_width(point.width, point.sure))
    return cells


def _real_cells(study: PredictorValue) -> dict[str, list[str]]:
    names = list(dict.fromkeys(row.predictor for row in study.real))
    at = {(row.predictor, row.policy): row for row in study.real}
    first = [next(row for row in study.real if row.predictor == name) for name in names]
    cells = {"predictor": names, "covered": [f"{row.covered * 100:.1f}%" for row in first]}
    cells["width"] = console.aligned([row.mean_width for row in first], decimals=0)
    for policy in study.policies:
        for column, heading in (("vs_perfect", "hsf"), ("vs_none", "none")):
            rows = [at.get((name, policy)) for name in names]
            cells[f"{policy} / {heading}"] = [
                "-" if row is None else _pm(getattr(row, column), getattr(row, f"{column}_ci95")) for row in rows
            ]
        cells[f"{policy} gap"] = console.at_most([getattr(at.get((name, policy)), "gap", None) for name in names])
    return cells


def _table(cells: dict[str, list[str]]) -> None:
    names = sum(name in ("policy", "predictor", "better than") for name in cells)
    console.print_table(list(cells), list(zip(*cells.values(), strict=True)), left=range(names))


def _pm(value: float, half: float) -> str:
    return f"{value:.2f} ± {half:.2f}"


def _width(width: float, sure: float) -> str:
    """A break-even width, and up to where it is sure."""
    return _limit(width) if width == sure else f"{_limit(width)} (sure: {_limit(sure)})"


def _limit(width: float) -> str:
    return "all" if math.isinf(width) else "none" if width == 0 else f"{width:.1f}"


def _range(low: float, high: float) -> str:
    if math.isnan(low):
        return "none"
    if math.isinf(low):
        return "all" if math.isinf(high) else f"up to {high:+.2f}"
    return f"from {low:+.2f}" if math.isinf(high) else f"{low:+.2f} to {high:+.2f}"


def _origin(workload: Workload) -> Any:
    return workload.source.get("path", f"the {workload.source.get('generator', 'given')} generator")


def _json(study: PredictorValue, workload: Workload | None, coverage: float) -> dict[str, Any]:
    def finite(values: Sequence[float]) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in values]

    points = [
        {"policy": policy, "against": against, **dict(zip(("coverage", "width", "sure"), finite(point), strict=True)),
         "always": math.isinf(point.width)}
        for policy in study.policies
        for against in _AGAINST
        for point in study.break_even(policy, against)
    ]  # fmt: skip
    return {
        "llmsched": version,
        "source": {"generator": "lmsys"} if workload is None else dict(workload.source),
        "requests": study.requests,
        "replications": study.replications,
        "memory": study.memory,
        "seed": study.seed,
        "calibrated_to": coverage,
        "break_even": points,
        "rows": [row.record() for row in study.rows()],
    }
