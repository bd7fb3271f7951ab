"""`llmsched predictors`: what a predictor is worth, as tables, figures and numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .._version import version
from ..experiments import predictor_figures, real_predictors
from ..experiments.predictor_value import BIAS_AT, MOST_RATES, POLICIES, Against, PredictorValue, predictor_value
from ..metrics import figure_style
from ..predict import intervals
from ..predict.conformal import coverage_of
from ..workloads import generate
from ..workloads.workload import Workload
from . import console, describe
from .console import aside, at_most, plus_minus, print_columns, say
from .option_groups import expand_groups
from .options import (
    POLICY_HELP,
    MachineOptions,
    Seed,
    Setup,
    TraceOptions,
    parse_policies,
    whole_number,
)
from .output_files import make_directory

#: Coverages of the grid that the table shows.
_COVERAGES_SHOWN = (0.5, 0.8, 0.9, 0.95, 1.0)
#: With fcfs within this ratio to hsf, no prediction can bring anything.
_FCFS_IS_ENOUGH = 1.01
#: What a predictor has to beat, and how the tables call it.
_AGAINST: dict[Against, str] = {"none": "itself with none", "fcfs": "fcfs"}


@dataclasses.dataclass(frozen=True)
class PredictorSource(TraceOptions):
    """Where requests are drawn from: a trace or a generator."""

    trace: Annotated[
        str | None,
        typer.Argument(
            metavar="TRACE",
            show_default=False,
            help="A trace file to draw requests from, or -. By default that of --features, if it has prompt_tokens.",
        ),
    ] = None
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Format of TRACE. By default found.")
    ] = None
    generator: Annotated[
        str | None,
        typer.Option(
            "--generate",
            metavar="SPEC",
            show_default=False,
            help="Workload without TRACE, such as two_point:10,40,0.8. By default lmsys.",
        ),
    ] = None

    def or_features(self, features: str | None) -> PredictorSource:
        """With the file of features as TRACE if it is a trace as well, and nothing else is given."""
        if self.trace is not None or self.generator is not None or features is None:
            return self
        is_trace = {"prompt_tokens", "output_tokens"} <= real_predictors.read_table(features).keys()
        return dataclasses.replace(self, trace=features) if is_trace else self

    def workload(self, seed: int) -> Workload | None:
        """Requests to draw from; None for fresh ones of the lmsys generator in every replication."""
        if self.trace is not None or self.generator in (None, "lmsys"):
            return self.load()
        return generate.parse(self.generator, 20_000, seed)


@dataclasses.dataclass(frozen=True)
class PredictorMachine(MachineOptions):
    """Rounds by default, whatever TRACE is: requests are drawn from it, and its arrival times do not count."""

    machine_name: Annotated[
        str | None,
        typer.Option(
            "--machine",
            metavar="NAME|FILE",
            help="Times in seconds, and a cache, blocks and limits, each of which an option of its own replaces: "
            "`llmsched machines` lists them; or a .toml or .json file. By default times are in rounds.",
        ),
    ] = None


@expand_groups(
    "trace out classes features coverage policy machine_name memory rate clock_name in_rounds max_batch block "
    "prefill_budget requests replications seed generator format_ on_error as_json"
)
def predictors(
    source: PredictorSource,
    machine: PredictorMachine,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures and numbers go; made if missing.")] = Path(
        "predictors"
    ),
    classes: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="A real classifier's labels: output_tokens and columns of classes."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="CSV",
            help="Train predictors: a trace, or a table of output_tokens and what is known before.",
        ),
    ] = None,
    coverage: Annotated[float, typer.Option(metavar="C", help="Coverage to calibrate real predictors to.")] = 0.9,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"{POLICY_HELP} Repeat for several. By default {', '.join(POLICIES)}."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="Poisson arrivals, R per second (without --machine: round), not all at 0."),
    ] = None,
    requests: Annotated[int, typer.Option(metavar="N", parser=whole_number, help="Requests in a replication.")] = 1000,
    replications: Annotated[int, typer.Option(metavar="K", help="Random draws of requests, at least 2.")] = 30,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What a predictor is worth: latency over coverage, width and bias of the intervals, and with real predictors.

    Intervals are made from the truth with noise, on a grid of 20 coverages by 20 widths and for 20 biases. Every policy
    is measured against perfect knowledge (hsf), against itself with no predictor (every request between 1 token and the
    longest) and against fcfs, which needs none. All requests of a replication arrive at 0, unless there is a --rate.

    With --rate, the worth of real predictors is said in time saved per request and in requests: the rate at which
    latency is as it is with no predictor at R. Without --classes and --features, realistic errors are taken for one.

    With --classes or --features, the first half of that file is learned from and the second half scheduled. The grid is
    of the requests in the file of --features too, if it has prompt_tokens and neither TRACE nor --generate is given.

    Writes heatmap, curves and, for real predictors, real (.png and .svg) and worth.csv into the --out directory.
    """
    figure_style.require_matplotlib()
    coverage_of(coverage)
    policies, setup = parse_policies(policy or POLICIES), machine.setup()
    assert setup.memory is not None  # it is not what is looked for
    workload = source.or_features(features).workload(seed)
    prompts = generate.lmsys(1000, seed) if workload is None else workload
    predicted: dict[str, Workload] = {}
    if classes is not None:
        predicted |= real_predictors.from_classes(classes, prompts, coverage, seed)
    if features is not None:
        predicted |= real_predictors.from_features(features, prompts, coverage, seed)
    if rate is not None and not predicted:
        rule = intervals.realistic(seed)
        predicted["realistic errors"] = prompts.with_intervals(rule).replace(point=rule.point(prompts.output))
    make_directory(out)
    with console.ProgressBar("simulations") as bar:
        study = predictor_value(
            workload,
            policies=list(policies.values()),
            seed=seed,
            requests=requests,
            replications=replications,
            predicted=predicted,
            rate=rate,
            **setup.arguments(),
            progress=partial(bar.update, "predictors"),
        )
    files = _write(study, out)
    if as_json:
        console.print_json(_json(study, workload, setup, coverage))
    else:
        _print(study, workload, setup, coverage if classes or features else None)
        aside(f"\nWrote {', '.join(map(str, files[:-1]))} and {files[-1]}.")


def _write(study: PredictorValue, out: Path) -> list[Path]:
    drawn = {"heatmap": predictor_figures.heatmap(study), "curves": predictor_figures.latency_curves(study)}
    drawn |= {"real": [predictor_figures.real_predictors(study)]} if study.real else {}
    files = [out / f"{name}.{extension}" for name in drawn for extension in ("png", "svg")]
    for file in files:
        figure_style.save(drawn[file.stem], file)
    table = out / "worth.csv"
    records = [row.record() for row in study.rows()]
    console.write_csv(str(table), list(records[0]), records)
    return [*files, table]


def _print(study: PredictorValue, workload: Workload | None, setup: Setup, coverage: float | None) -> None:
    drawn = f"{study.replications} replications of {console.number_of(study.requests, 'request')}"
    per = "round" if study.clock is None else "second"
    arriving = "all arriving at 0" if study.rate is None else f"Poisson arrivals, {study.rate:g} per {per}"
    aside(f"{drawn} from {describe.drawn_from(workload)}, {arriving}")
    ran_on = (
        f"{describe.machine_text(setup)}; seed {study.seed}; times in {'rounds' if setup.clock is None else 'seconds'}"
    )
    aside(ran_on)
    aside("the baseline is hsf, which knows every length, on the same requests\n")
    _print_without_predictor(study)
    say("\nIntervals as wide as so many times the truth are better than no predictor, at a coverage of:")
    print_columns(_break_even_cells(study), left_aligned=(0, 1))
    coverage_at, width_at = BIAS_AT
    say(
        "\nA bias of so much of the truth is still better than no predictor, at a coverage of "
        f"{coverage_at} and a width of {width_at}:"
    )
    biases = {
        f"than {words}": [_bias_text(*study.bias_range(policy, against)) for policy in study.policies]
        for against, words in _AGAINST.items()
    }
    print_columns({"policy": list(study.policies), **biases})
    if study.real:
        calibrated = "" if coverage is None else f", calibrated to a coverage of {coverage:g}"
        say(f"\nReal predictors{calibrated}:")
        print_columns(_real_cells(study))
        _print_worth(study)
    if any(row.policy == "fcfs" and row.vs_perfect < _FCFS_IS_ENOUGH for row in study.references):
        aside("note: the cache hardly fills, and fcfs is as good as hsf: try less --memory or more --requests")
    describe.print_notes([] if workload is None else describe.reading_notes(workload))
    incomplete = {row.policy for row in study.rows() if row.replications < study.replications}
    if incomplete:
        aside(f"note: {' and '.join(sorted(incomplete))}: replications that did not finish are left out")


def _print_without_predictor(study: PredictorValue) -> None:
    say("With no predictor, each request between 1 token and the longest; fcfs reads no prediction:")
    rows = [row for row in study.references if row.predictor == "none"]
    print_columns(
        {
            "policy": [row.policy for row in rows],
            "latency / hsf": [plus_minus(row.vs_perfect, row.vs_perfect_ci95) for row in rows],
            "gap": at_most([row.gap for row in rows]),
        }
    )
    (perfect,) = (row for row in study.references if row.predictor == "perfect")
    hsf = at_most([perfect.gap])[0]
    aside(f"gap: latency is at most so far above the best possible (a proven bound); hsf itself: {hsf}")


def _print_worth(study: PredictorValue) -> None:
    """What real predictors save, in time and, with a rate, in requests."""
    unit, per = ("rounds", "round") if study.clock is None else ("seconds", "s")
    say(f"\nMean latency that they save, in {unit}, against the same policy with no predictor:")
    cells = {"predictor": [row.predictor for row in study.real], "policy": [row.policy for row in study.real]}
    cells["saved"] = [plus_minus(row.saved, row.saved_ci95) for row in study.real]
    if study.rate is not None:
        cells[f"requests/{per}"] = [_rate_text(row.rate, study.rate) for row in study.real]
    print_columns(cells, left_aligned=(0, 1))
    if study.rate is not None:
        aside(f"requests/{per}: the rate at which latency is what it is with no predictor at {study.rate:g}")


def _rate_text(rate: float, asked: float) -> str:
    """A rate, and how much more or less than the one asked about that is."""
    if math.isnan(rate):
        return "-"
    if math.isinf(rate):
        return f"more than {MOST_RATES * asked:.4g}"
    return f"{rate:.3g} ({rate / asked - 1:+.0%})"


def _break_even_cells(study: PredictorValue) -> dict[str, list[str]]:
    cells: dict[str, list[str]] = {"policy": [], "better than": []}
    for policy in study.policies:
        for against, words in _AGAINST.items():
            cells["policy"].append(policy)
            cells["better than"].append(words)
            for point in study.break_even(policy, against):
                if point.coverage in _COVERAGES_SHOWN:
                    cells.setdefault(f"{point.coverage:g}", []).append(_break_even_width(point.width, point.sure))
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
                "-" if row is None else plus_minus(getattr(row, column), getattr(row, f"{column}_ci95")) for row in rows
            ]
        cells[f"{policy} gap"] = at_most([getattr(at.get((name, policy)), "gap", None) for name in names])
    return cells


def _break_even_width(width: float, sure: float) -> str:
    """A break-even width, and up to where it is sure."""
    return _width_text(width) if width == sure else f"{_width_text(width)} (sure: {_width_text(sure)})"


def _width_text(width: float) -> str:
    return "all" if math.isinf(width) else "none" if width == 0 else f"{width:.1f}"


def _bias_text(low: float, high: float) -> str:
    """The biases between which a predictor is still worth it."""
    if math.isnan(low):
        return "none"
    if math.isinf(low):
        return "all" if math.isinf(high) else f"up to {high:+.2f}"
    return f"from {low:+.2f}" if math.isinf(high) else f"{low:+.2f} to {high:+.2f}"


def _json(study: PredictorValue, workload: Workload | None, setup: Setup, coverage: float) -> dict[str, Any]:
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
        **describe.setup_json(setup),
        "seed": study.seed,
        "calibrated_to": coverage,
        "rate": study.rate,
        "break_even": points,
        "rows": [row.record() for row in study.rows()],
    }
