"""``llmsched study …``: new, check, run, results, repeat."""

from __future__ import annotations

import logging
import math
import shlex
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, nearest, shown
from . import console
from .option_groups import expand_groups
from .options import Json, whole_number

_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the results.", show_default=False)]


@dataclass(frozen=True)
class StudyFileOptions:
    """A study file, and what the command line changes in it."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study file.", show_default=False)]
    traces: Annotated[
        Path | None,
        typer.Option(
            "--traces", metavar="DIR", help="Where traces and clock files are. By default where the study file is."
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a key of the file by a TOML value; repeat for several."
        ),
    ] = None

    @property
    def directory(self) -> Path:
        """Where traces and clock files are."""
        return self.traces or self.file.parent

    def load(self) -> Any:
        """The study in the file, with what the command line changes in it."""
        from ..study.study import Study

        study = Study.load(self.file)
        changed = dict(_setting(text) for text in self.settings or [])
        return study.replace(**changed) if changed else study


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("study.toml"),
) -> None:
    """Write an example of a study file, with comments, to start from."""
    if file.exists():
        raise InputError(f"{file} exists already: give another name")
    file.write_text(
        resources.files("llmsched.study").joinpath("example.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    console.aside(f"Wrote {file}. Next: llmsched study check {file}")


@expand_groups()
def check(study_file: StudyFileOptions) -> None:
    """Check a study file, and say how many simulations it is and about how long they take."""
    from ..study import executors, summary
    from ..study.time_estimate import estimate
    from .study_display import duration

    study = study_file.load()
    plan = study.plan(study_file.directory)
    found = estimate(study, plan)
    axes = ((plan.workloads, "workload"), (plan.intervals, "interval setting"), (plan.policies, "policy"))
    counts = [console.number_of(len(axis), name) for axis, name in axes]
    others = {"max_batch": "batch limit", "block": "block size", "prefill_budget": "prefill budget"}
    others |= {"replicas": "number of replicas"}
    for factor in plan.factors[plan.factors.index("policy") + 1 :]:
        levels, name = getattr(plan, summary.AXES[factor]), others.get(factor, factor)
        counts.append(console.number_of(len(levels), name))
    console.say(f"{study_file.file}: {study.name}")
    _print_what_fails(plan, found)
    console.say(f"{' × '.join(counts)}: {console.number_of(found.cells, 'cell')}")
    each = console.number_of(study.replications or 0, "replication")
    if study.precision is not None:
        each = f"at first {study.precision.first:,}"
    until = (
        "" if study.precision is None else f", up to {study.precision.most:,}, until {_precision_text(study.precision)}"
    )
    console.say(f"{each}{until}: {console.number_of(found.simulations, 'simulation')}{' at first' if until else ''}")
    processors = executors.processors()
    console.say(
        f"On the {console.number_of(processors, 'processor')} here: {duration(found.seconds / processors)}; on one: "
        f"{duration(found.seconds)} (from timing {console.number_of(found.tried, 'simulation')})"
    )
    if len(found.failures) == found.tried > 0:
        raise typer.Exit(1)


def _print_what_fails(plan: Any, found: Any) -> None:
    """How many of the simulations that were tried fail, and why: an example of each kind, whatever the policy."""
    if not found.failures:
        return
    kinds: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}
    for failure in found.failures:
        labels = plan.labels(plan.cells[failure.cell])
        kinds.setdefault((failure.error, *(v for k, v in labels.items() if k != "policy")), (failure, labels))
    many = "all" if len(found.failures) == found.tried else f"{len(found.failures):,} of the"
    console.say(f"note: {many} {console.number_of(found.tried, 'simulation')} that were tried fail, such as")
    for failure, labels in list(kinds.values())[:3]:
        where = ", ".join(f"{k} {v}" for k, v in labels.items())
        console.say(f"   replication {failure.replication} of {where}: {failure.message}")
    if len(kinds) > 3:
        console.say(f"   and others in {console.number_of(len(kinds) - 3, 'more setting')}")


@expand_groups("file out workers cluster traces settings quick extend repair retry other_versions")
def run(
    study_file: StudyFileOptions,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.", show_default=False)],
    workers: Annotated[int | None, typer.Option(metavar="N", help="Threads; by default one per processor.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Let the workers of this Dask scheduler do it: tcp://10.0.0.1:8786."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Try it: 5 replications (16 with a precision), and of the requests a tenth, or what fills the cache.",
        ),
    ] = False,
    extend: Annotated[bool, typer.Option("--extend", help="Add to the results of a smaller study.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Put damaged files aside, and simulate them again.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Simulate again what failed.")] = False,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Add to results of another version of llmsched or NumPy.")
    ] = False,
) -> None:
    """Simulate what the study file says and is not in DIR yet. Stopped at any time, it goes on where it was.

    Rows are in DIR/results/\\*.parquet: one per simulation, metrics as columns. What failed is in DIR/failures.

    Exit codes: 0 all simulations have a result, 3 some failed, 1 all failed, 2 bad input, 130 interrupted.
    """
    from ..study import store
    from .study_display import Display

    if workers is not None and cluster is not None:
        raise InputError("--workers and --cluster both say who does the work: give one of them")
    if cluster is not None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is said below, in a line
    study = study_file.load()
    study = study.quick(study_file.directory) if quick else study
    begin = time.monotonic()
    try:
        with Display() as display:
            options = {"extend": extend, "repair": repair, "retry": retry, "progress": display.update}
            options["other_versions"] = other_versions
            last = study.run(out, cluster=cluster, workers=workers, traces=study_file.directory, **options)
    except KeyboardInterrupt:
        if (out / "study.json").exists():
            done = store.count(out)
            are = "is" if done == 1 else "are"
            console.complain(f"{console.number_of(done, 'simulation')} {are} in {out}; the same command goes on")
        raise
    for part in last.damaged:
        console.aside(f"note: {part} was damaged: it is in {out / 'damaged'}, and what was lost was simulated again")
    took = f" in {time.monotonic() - begin:,.1f} s" if last.done > last.before else ""
    new = f"{last.done - last.before:,} new{took}" if last.before else f"all{took}"
    console.aside(f"{console.number_of(last.done, 'simulation')} in {out} ({new}).")
    if last.failed:
        console.say(f"{last.failed:,} failed:")
        _print_failures(out, most=5)
    labels = [last.plan.labels(cell) for cell in last.plan.cells]
    _note_no_difference(labels, last.mean.tolist(), last.metric)
    if last.failed:
        code = 1 if last.failed == last.done else _SOME_FAILED
        of = "All" if code == 1 else f"{last.failed:,} of"
        console.say(f"{of} {console.number_of(last.done, 'simulation')} failed: exit code {code}.")
        raise typer.Exit(code)


#: The exit code when some simulations of a study failed, and others did not.
_SOME_FAILED = 3


def _note_no_difference(labels: list[dict[str, Any]], means: list[float], metric: str) -> None:
    """Say so if a study shows no difference between policies."""
    from ..study import summary

    said = summary.said_of_difference(summary.largest_difference(labels, means), metric)
    if said:
        console.aside(f"note: {said}")


def results(
    directory: _Directory,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="The metric to show; by default the first of the study.")
    ] = None,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write all rows as CSV instead (-: to the output).")
    ] = None,
    failed: Annotated[bool, typer.Option("--failures", help="What failed instead.")] = False,
    as_json: Json = False,
) -> None:
    """Show the mean of each cell with its 95 % interval, or write all rows as CSV."""
    from ..study import completeness, store, summary
    from ..study.statistics import Precision

    if failed:
        _print_failures(directory)
        return
    described, table, failed_rows = store.describe(directory), store.results(directory), store.failures(directory)
    completeness.check_has_results(table, failed_rows, directory)
    missing = completeness.what_is_missing(described, table, failed_rows)
    if missing and (as_json or csv_file is not None):
        console.complain(f"note: {missing}")  # not into the data
    if csv_file is not None:
        console.write_csv(csv_file, table.column_names, table.to_pylist())
        return
    name = metric or _metrics(described)[0]
    if name not in _metrics(described):
        raise InputError(f"the study has no metric {name!r}; {nearest(name, _metrics(described))}")
    precision = described["replications"]
    rule = {precision.pop("metric"): Precision(**precision)} if isinstance(precision, dict) else None
    found = summary.means(table, [name], precision=rule, resamples=0).to_pylist()
    place = {tuple(cell): k for k, cell in enumerate(described["cells"])}
    factors = [f for f in summary.FACTORS if f in table.column_names]
    found.sort(key=lambda row: place[tuple(row[f] for f in factors)])
    if as_json:
        console.print_json(
            [{k: _finite_or_none(v) for k, v in row.items() if not k.startswith("boot")} for row in found]
        )
        return
    cells = {f: [_level_text(row[f]) for row in found] for f in factors}
    cells["replications"] = [f"{row['n']:,}" for row in found]
    cells[name] = console.aligned([row["mean"] for row in found], decimals=_decimals(found))
    half_widths = [(row["high"] - row["low"]) / 2 for row in found]
    cells["± 95 %"] = console.aligned(half_widths, decimals=_decimals(found))
    console.print_table(
        list(cells), list(zip(*cells.values(), strict=True)), left_aligned=range(3), drop=["replications"]
    )
    _note_no_difference([{f: row[f] for f in factors} for row in found], [row["mean"] for row in found], name)
    if missing:
        console.aside(f"note: {missing}")


def _level_text(level: Any) -> str:
    """A level of a factor in a table."""
    if level is None:
        return "none"
    return level if isinstance(level, str) else f"{level:,}"


def _metrics(described: dict[str, Any]) -> list[str]:
    found: list[str] = described["definitions"]["metrics"]
    return found


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _decimals(rows: list[dict[str, Any]]) -> int:
    """Decimals with which the smallest interval has two digits, six at most."""
    halves = [(row["high"] - row["low"]) / 2 for row in rows]
    least = min((half for half in halves if math.isfinite(half) and half > 0), default=1.0)
    return min(6, max(0, 1 - math.floor(math.log10(least))))


def _print_failures(directory: Path, most: int | None = None) -> None:
    """One line per kind of failure, and how to repeat the first of it."""
    from ..study.store import failures
    from ..study.summary import FACTORS

    rows = failures(directory).to_pylist()
    factors = [name for name in FACTORS if rows and name in rows[0]]
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((*(row[f] for f in factors), row["error"]), []).append(row)
    for alike in list(kinds.values())[:most]:
        first = alike[0]
        where = ", ".join(f"{f} {_plain(first[f])}" for f in factors)
        console.say(
            f"{len(alike):,} × {where}: {first['message']} (replication {first['replication']}, seed {first['seed']})"
        )
        options = shlex.join(part for f in factors for part in (f"--{f.replace('_', '-')}", _plain(first[f])))
        again = f"llmsched study repeat {directory / 'study.toml'} --replication {first['replication']} {options}"
        console.say(f"   again: {again}", keep=True)
    if most is not None and len(kinds) > most:
        console.say(
            f"and {console.number_of(len(kinds) - most, 'more cell')}: llmsched study results {directory} --failures"
        )
    if not rows:
        console.say("Nothing failed.")


def _plain(level: Any) -> str:
    """A level of a factor as the options of `repeat` take it."""
    return "none" if level is None else f"{level:g}" if isinstance(level, float) else str(level)


@expand_groups(
    "file replication workload interval policy memory clock machine rate max_batch block prefill_budget replicas "
    "router traces settings"
)
def repeat(
    study_file: StudyFileOptions,
    replication: Annotated[int, typer.Option(metavar="K", help="The replication, from 0.", show_default=False)],
    workload: Annotated[str | None, typer.Option(metavar="NAME", help="The workload.")] = None,
    interval: Annotated[str | None, typer.Option("--intervals", metavar="NAME", help="The intervals.")] = None,
    policy: Annotated[str | None, typer.Option(metavar="NAME", help="The policy.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="M", parser=whole_number, help="The memory.")] = None,
    clock: Annotated[str | None, typer.Option(metavar="NAME", help="The clock.")] = None,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="The machine.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="R", help="The rate.")] = None,
    max_batch: Annotated[str | None, typer.Option(metavar="N", help="The max_batch: a number, or none.")] = None,
    block: Annotated[int | None, typer.Option(metavar="N", help="The block.")] = None,
    prefill_budget: Annotated[str | None, typer.Option(metavar="N", help="The prefill_budget: as above.")] = None,
    replicas: Annotated[int | None, typer.Option(metavar="N", help="The number of replicas.")] = None,
    router: Annotated[str | None, typer.Option(metavar="NAME", help="The router.")] = None,
) -> None:
    """Simulate one row of the results again, alone: for what failed, or looks strange. Prints JSON."""
    study = study_file.load()
    named: dict[str, Any] = {
        "workload": workload,
        "intervals": interval,
        "policy": policy,
        "memory": memory,
        "clock": clock,
    }
    named |= {"machine": machine, "rate": rate, "block": block, "replicas": replicas, "router": router}
    cell = {factor: value for factor, value in named.items() if value is not None}
    for factor, text in (("max_batch", max_batch), ("prefill_budget", prefill_budget)):
        if text is not None:
            cell[factor] = _limit(factor, text)
    result = study.simulate(replication, traces=study_file.directory, **cell)
    console.print_json(result.summary())


def _limit(name: str, text: str) -> int | None:
    try:
        return None if text == "none" else int(text)
    except ValueError:
        raise InputError(f"--{name.replace('_', '-')} {text!r}: expected a whole number, or none") from None


def _setting(text: str) -> tuple[str, Any]:
    """Key and value of a --set."""
    from ..settings_files import toml_values

    key, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return key.strip(), toml_values(f"value = {value}")["value"]
    except ValueError:
        example = "--set 'memories=[8000]'"
        raise InputError(f"--set {shown(text)}: expected a key and a TOML value, such as {example}") from None


def _precision_text(precision: Any) -> str:
    """What a study with a precision stops at."""
    widths = [f"±{precision.relative:.3g} of the mean" if precision.relative else ""]
    widths += [f"±{precision.absolute:g}" if precision.absolute else ""]
    within = " or ".join(filter(None, widths))
    return f"{precision.metric} is known within {within} ({precision.confidence:.3g} confidence)"
