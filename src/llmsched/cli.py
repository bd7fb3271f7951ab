"""The command line (extra `cli`): typer reads it, the library does the work, this file prints.

Exit codes: 0 done; 1 no policy finished, or the reader of the output went away; 2 bad input; 130 interrupted. A policy
that does not finish beside others that do is a result, not a failure. Everything that can go wrong is said in `main`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from . import compare as comparing
from . import curves, generate, intervals, paper, plots, theory, traces
from ._version import version
from .errors import InputError, LlmschedError, MemoryTooSmallError, MissingPredictionError, NotFinishedError
from .policy import DESCRIPTIONS, Policy, named, policies
from .simulation import Engine
from .workload import Workload

__all__ = ["app", "main"]

_DEFAULT_INTERVALS = "buckets:100"
_INTERRUPTED = 130

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

_Trace = Annotated[
    str | None,
    typer.Argument(metavar="TRACE", show_default=False, help="A trace file, or - for the standard input."),
]
_Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help=f"Format of TRACE: {', '.join(traces.FORMATS)}. By default found."),
]
_OnError = Annotated[str, typer.Option(metavar="raise|skip", help="What to do with a bad row of TRACE.")]
_Memory = Annotated[int, typer.Option(metavar="M", help="Tokens of KV cache.")]
_Seed = Annotated[int, typer.Option(metavar="K", help="Governs everything that is random.")]
_EngineOption = Annotated[str, typer.Option(metavar="NAME", help="compiled, or reference (readable, equal, slow).")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Whatever goes wrong is told here, in a line or two, on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8, a file name that is not text
    try:
        command = typer.main.get_command(app)
        code = command.main(args=args, prog_name="llmsched", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except LlmschedError as error:
        hint = f"try --memory {error.needed}" if isinstance(error, MemoryTooSmallError) else None
        return _complain(str(error), hint)
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as error:
        where = "writing the output" if error.filename is None else error.filename
        return _complain(f"{where}: {error.strerror or error}")
    except MemoryError:
        return _complain("this does not fit into the computer's memory")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except SystemExit as stopped:  # what typer and rich do about a broken pipe
        return _nobody_reads() if stopped.code else 0
    except Exception as error:  # typer's complaints about options; their class depends on its version
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), "llmsched --help and llmsched COMMAND --help list what there is")
    if code == _INTERRUPTED:
        _complain("interrupted", prefix="")
    return code if isinstance(code, int) else 0


def _complain(message: str, hint: str | None = None, prefix: str = "error: ") -> int:
    print(f"{prefix}{message}", *([hint] if hint else []), sep="\n", file=sys.stderr)
    return 2


def _nobody_reads() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
    return 1


# Commands ------------------------------------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Which scheduling policy, which length predictor and how much KV cache does an LLM service need?"""
    if show_version:
        print(f"llmsched {version}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit


@app.command("compare")
def _compare(
    trace: _Trace = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A policy; repeat for several. By default hsf and all that cannot see the truth."
        ),
    ] = None,
    memory: _Memory = paper.MEMORY,
    interval: Annotated[
        str | None,
        typer.Option(
            "--intervals",
            metavar="RULE",
            help="Predicted intervals: exact, constant:1,1000, buckets:100, relative:0.95 or "
            f"noisy:COVERAGE,WIDTH[,SEED]. By default those in TRACE; if it has none, {_DEFAULT_INTERVALS}.",
        ),
    ] = None,
    seed: _Seed = 0,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N requests (generated: 2,000).")
    ] = None,
    generator: Annotated[
        str, typer.Option("--generate", metavar="SPEC", help="Workload without TRACE, such as two_point:10,40,0.8.")
    ] = "lmsys",
    round_seconds: Annotated[
        float,
        typer.Option(metavar="S", help="Seconds that a round lasts: arrival times in TRACE are divided by this."),
    ] = 1.0,
    format_: _Format = None,
    on_error: _OnError = "raise",
    max_rounds: Annotated[int | None, typer.Option(metavar="N", help="Stop a policy after so many rounds.")] = None,
    engine: _EngineOption = "compiled",
    as_json: _Json = False,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Also write the numbers as CSV (-: print that instead).")
    ] = None,
    plot_file: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Also draw a figure: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Simulate several policies on one workload and compare them.

    Without TRACE: 2,000 generated requests like those of LMSYS-Chat-1M, all arriving at 0. Latency is completion minus
    arrival, queueing included, in rounds; a round generates one token for every running request.

    A policy that does not finish says so in its row. The exit code is 0 if any policy finished, else 1; 2 for bad
    input.
    """
    if as_json and csv_file == "-":
        raise InputError("--json and --csv - both want the standard output: give the CSV a file name")
    _check_outputs([] if csv_file == "-" else [csv_file], plot_file)
    chosen = {name: named(name) for name in policy or comparing.DEFAULT_POLICIES}
    rule = None if interval is None else intervals.parse(interval)
    workload = _workload(trace, generator, seed, limit, format_, on_error, round_seconds)
    workload, spelling, notes = _predicted(workload, rule, chosen.values())
    with _Bar("requests") as bar:
        compared = comparing.compare(
            workload,
            chosen,
            memory=memory,
            seed=seed,
            engine=cast(Engine, engine),
            max_rounds=max_rounds,
            progress=bar.update,
        )
    notes += _reading_notes(workload)
    settings = {"intervals": spelling, "max_rounds": max_rounds, "round_seconds": round_seconds}
    if csv_file is not None:
        _write_csv(csv_file, comparing.COLUMNS, compared.records())
    if plot_file is not None:
        plots.save(plots.comparison(compared), plot_file)
    if as_json:
        _print_json(_comparison_json(compared, settings, notes))
    elif csv_file != "-":
        _print_comparison(compared, settings, notes)
    if not any(row.result is not None for row in compared):
        raise typer.Exit(1)


@app.command("paper")
def _paper(
    trace: _Trace = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures and numbers go; made if missing.")] = Path(
        "paper"
    ),
    memory: _Memory = paper.MEMORY,
    subsets: Annotated[int, typer.Option(metavar="K", help="Random subsets of each size.")] = 20,
    seed: _Seed = 0,
    format_: _Format = None,
    on_error: _OnError = "raise",
    engine: _EngineOption = "compiled",
) -> None:
    """Repeat the experiments of the paper (arXiv 2508.14544): average latency of amax, amin and hsf.

    Random subsets of 200, 400, ... 2,000 requests, all arriving at 0, with three kinds of predicted intervals. The
    subsets are independent draws, with replacement where they come from TRACE, and the same ones for every policy.

    Writes average_latency.png, .svg and .csv into the --out directory.
    """
    plots.require_matplotlib()
    workload = None if trace is None else traces.load(trace, format=format_, on_error=_on_error(on_error))
    _make_directory(out)
    with _Bar("subsets") as bar:
        rows = paper.reproduce(
            workload,
            memory=memory,
            seed=seed,
            subsets=subsets,
            engine=cast(Engine, engine),
            progress=lambda done, total: bar.update("experiments", done, total),
        )
    files = [out / f"average_latency.{extension}" for extension in ("png", "svg", "csv")]
    figure = plots.paper(rows)
    for file in files[:2]:
        plots.save(figure, file)
    records = [row.record() for row in rows]
    _write_csv(str(files[2]), list(records[0]), records)
    _print_paper(rows, workload, memory, seed)
    _say(f"\nWrote {', '.join(map(str, files[:2]))} and {files[2]}.")


@app.command("policies")
def _policies(as_json: _Json = False) -> None:
    """List the named policies, and what each decides by."""
    if as_json:
        _print_json([_policy_json(name, policy) for name, policy in policies.items()])
        return
    columns = ["policy", "order", "reserve", "margin", "evict", "refine", "cap to", "resume"]
    _print_table(columns, [_policy_cells(name, policy) for name, policy in policies.items()], left=range(8))
    _say()
    width = max(map(len, policies)) + 2
    for name, policy in policies.items():
        reads = "the truth" if policy.clairvoyant else ", ".join(policy.needs) or "no prediction"
        text = f"{DESCRIPTIONS[name]}; reads {reads}"
        lines = textwrap.wrap(text, max(_stdout().width, 60) - width)
        _say(f"{name:<{width}}" + f"\n{'':{width}}".join(lines))


@app.command("theory")
def _theory(
    alpha: Annotated[
        list[str] | None,
        typer.Option(metavar="A", help="lower/upper, such as 0.25 or 1/4; repeat for several. By default 1/100 to 1."),
    ] = None,
    plot_file: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Also draw the curves: .png, .svg or .pdf.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """What the paper (arXiv 2508.14544) proves about amax, amin and aell: bounds on the ratio of total latency to hsf.

    All are limits of many requests in a large cache. `llmsched.theory` has each as a function, with its equation;
    docs/background/theory.md says how far simulated ratios are from them.
    """
    _check_outputs([], plot_file)
    tables = {
        "guarantees": curves.guarantees(alpha or curves.ALPHAS),
        "worst": curves.worst(),
        "geometric": curves.geometric(),
    }
    if plot_file is not None:
        plots.save(curves.figure(), plot_file)
    if as_json:
        _print_json({"llmsched": version, "alpha_star": theory.ALPHA_STAR, **tables})
    else:
        _print_theory(tables)


# What goes in --------------------------------------------------------------------------------------------------------


def _workload(
    trace: str | None,
    generator: str,
    seed: int,
    limit: int | None,
    format_: str | None,
    on_error: str,
    round_seconds: float,
) -> Workload:
    if not 0 < round_seconds < math.inf:
        raise InputError(f"--round-seconds is {round_seconds}, expected a number greater than 0")
    if trace is None:
        return generate.parse(generator, 2000 if limit is None else limit, seed)
    workload = traces.load(trace, format=format_, on_error=_on_error(on_error))
    if limit is not None:
        workload = workload.head(limit)
    return workload if round_seconds == 1 else generate.speed_up(workload, round_seconds)


def _on_error(word: str) -> Any:
    return word  # `traces.load` says what it expects


def _predicted(
    workload: Workload, rule: intervals.IntervalRule | None, chosen: Iterable[Policy]
) -> tuple[Workload, str, list[str]]:
    """The workload with every prediction the policies may need, how its intervals are spelled, and notes on that."""
    if rule is None and (workload.lower is not None or workload.upper is not None):
        spelling = "as given"
    else:
        rule = rule or intervals.parse(_DEFAULT_INTERVALS)
        workload, spelling = workload.replace(point=None).with_intervals(rule), str(rule)
    readers = [policy.name for policy in chosen if "point" in policy.needs]
    if not readers or workload.point is not None or workload.lower is None or workload.upper is None:
        return workload, spelling, []
    note = f"{' and '.join(readers)}: no point predictions given, so the middle of each interval, rounded up, is used"
    return comparing.with_midpoints(workload), spelling, [note]


def _reading_notes(workload: Workload) -> list[str]:
    source = workload.source
    notes = []
    if source.get("skipped"):
        notes.append(f"bad rows skipped: {source['skipped']:,}, the first: {source.get('first_skipped')}")
    if source.get("dropped"):
        notes.append(f"failed requests left out (no output): {source['dropped']:,}")
    return notes


def _check_outputs(files: Sequence[str | None], plot: str | None) -> None:
    """Find out before a long simulation, not after it, that a file cannot be written."""
    if plot is not None:
        plots.check_path(plot)
        plots.require_matplotlib()
    for file in (*files, plot):
        if file is None:
            continue
        directory = Path(file).parent
        if not directory.is_dir():
            raise InputError(f"cannot write {file!r}: there is no directory {str(directory)!r}")
        if Path(file).is_dir():
            raise InputError(f"cannot write {file!r}: it is a directory")
        if not os.access(file if Path(file).exists() else directory, os.W_OK):
            raise InputError(f"cannot write {file!r}: permission denied")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the directory {str(directory)!r}: {error.strerror}") from None


# What comes out ------------------------------------------------------------------------------------------------------


class _Bar:
    """A progress bar on stderr, if that is a terminal, once the work has taken a second."""

    def __init__(self, unit: str) -> None:
        console = Console(stderr=True)
        self._shown = console.is_terminal
        self._begin = time.monotonic()
        count = TextColumn(f"{{task.completed:,.0f}} of {{task.total:,.0f}} {unit}")
        layout = TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn()
        self._progress = Progress(*layout, console=console, transient=True)
        self._task = self._progress.add_task("", visible=False)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress.live.is_started:  # stopping what never began would print an empty line
            self._progress.stop()

    def update(self, label: str, done: int, total: int) -> None:
        if not self._shown or time.monotonic() - self._begin < 1:
            return
        self._progress.update(self._task, description=label, completed=done, total=total, visible=True)
        self._progress.start()


def _stdout() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _say(text: str = "", style: str = "") -> None:
    console = _stdout()
    if console.options.ascii_only:
        text = text.replace("─", "-").replace("±", "+-")
    console.print(Text(text, style), soft_wrap=True)  # never wrapped or cut by rich: a file has the whole line


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> None:
    """Columns aligned right, but for those in `left`. A short row's last cell runs on over the columns it lacks."""
    full = [header, *(row for row in rows if len(row) == len(header))]
    widths = [max(len(row[k]) for row in full) for k in range(len(header))]
    widths[0] = max([widths[0], *(len(row[0]) for row in rows)])
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= _stdout().width else " "
    at_left = set(left)

    def line(cells: Sequence[str]) -> str:
        left_all = len(cells) < len(header)
        aligned = (
            cell.ljust(width) if left_all or k in at_left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=False))
        )
        return gap.join(aligned).rstrip()

    _say(line(header), "bold")
    _say("─" * (sum(widths) + len(gap) * (len(widths) - 1)), "dim")
    for row in rows:
        _say(line(row), "" if len(row) == len(header) else "yellow")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def _write_csv(file: str, columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    if file == "-":
        print(text.getvalue(), end="")
    else:
        Path(file).write_text(text.getvalue(), encoding="utf-8", newline="")


def _column(values: Sequence[float | None], suffix: str = "", decimals: int | None = None) -> list[str]:
    """Numbers of one column with thousands separators and equally many decimals: about four digits of the largest."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if decimals is None:
        largest = max(map(abs, known), default=0)
        whole = all(value == int(value) for value in known)
        decimals = 0 if whole or largest >= 10_000 else 1 if largest >= 100 else 2
    return ["-" if v is None or not math.isfinite(v) else f"{v:,.{decimals}f}{suffix}" for v in values]


def _print_comparison(compared: comparing.Comparison, settings: Mapping[str, Any], notes: Sequence[str]) -> None:
    workload, ranked = compared.workload, compared.ranked()
    _say(f"{_counted(workload)}{_arriving(workload, settings['round_seconds'])}")
    cache = f"KV cache {compared.memory:,} tokens"
    _say(f"{cache}; intervals {settings['intervals']}; seed {compared.seed}; times in rounds\n")
    records = [row.record() for row in ranked if row.result is not None]

    def column(name: str, **how: Any) -> list[str]:
        return _column([record[name] for record in records], **how)

    def percent(name: str, decimals: int) -> list[str]:
        return _column([record[name] * 100 for record in records], suffix="%", decimals=decimals)

    cells = {
        "policy": [record["policy"] for record in records],
        "mean": column("mean_latency"),
        "p50": column("p50_latency", decimals=0),
        "p99": column("p99_latency", decimals=0),
        f"vs {compared.baseline}": column("ratio", decimals=2),
        "makespan": column("makespan", decimals=0),
        "evicted": column("evictions"),
        "wasted": percent("wasted_share", 1),
        "peak": percent("peak_share", 0),
    }
    rows: list[Sequence[str]] = list(zip(*cells.values(), strict=True))
    rows += [(row.policy, _why_not(row, settings["max_rounds"])) for row in ranked if row.result is None]
    _print_table(list(cells), rows)
    _say()
    _say("mean, p50, p99: latency; vs hsf: ratio of mean latencies; wasted: share of generated tokens")
    for note in notes:
        _say(f"note: {note}")
    for row in ranked:
        if isinstance(row.error, MissingPredictionError):
            _say(f"note: {row.policy} needs {row.error.column!r}, which the trace lacks: add it, or give --intervals")
        elif row.error is not None and not _stopped(row, settings["max_rounds"]):
            _say(f"note: {row.error}")


def _stopped(row: comparing.Row, max_rounds: int | None) -> bool:
    return isinstance(row.error, NotFinishedError) and max_rounds is not None and row.error.round >= max_rounds


def _why_not(row: comparing.Row, max_rounds: int | None) -> str:
    """What stands in the row of a policy without a result; the note below has the rest."""
    if not isinstance(row.error, NotFinishedError):
        return "cannot run: a prediction is missing"
    why = "stopped by --max-rounds" if _stopped(row, max_rounds) else "does not finish"
    return f"{why}: {row.completed:,} of {row.requests:,} completed in {row.error.round:,} rounds"


def _counted(workload: Workload) -> str:
    source = workload.source
    origin = str(source["path"]) if "path" in source else f"the {source.get('generator', 'given')} generator"
    prompt, output = int(workload.prompt.sum()), int(workload.output.sum())
    return f"{len(workload):,} requests from {origin}: {prompt:,} prompt + {output:,} output tokens"


def _arriving(workload: Workload, round_seconds: float) -> str:
    last = float(workload.arrival.max()) if len(workload) else 0.0
    return f", arriving over {last:,.0f} rounds of {round_seconds:g} s" if last else ", all arriving at 0"


def _comparison_json(
    compared: comparing.Comparison, settings: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    workload, latency = compared.workload, compared.baseline_latency
    return {
        "llmsched": version,
        "workload": {
            "requests": len(workload),
            "prompt_tokens": int(workload.prompt.sum()),
            "output_tokens": int(workload.output.sum()),
            "source": dict(workload.source),
        },
        "memory": compared.memory,
        "seed": compared.seed,
        "engine": compared.engine,
        **settings,
        "baseline": {"policy": compared.baseline, "mean_latency": None if math.isnan(latency) else latency},
        "notes": list(notes),
        "policies": compared.records(),
    }


def _print_paper(rows: Sequence[paper.Row], workload: Workload | None, memory: int, seed: int) -> None:
    most, subsets = max(row.requests for row in rows), rows[0].subsets
    origin = (
        "the lmsys generator" if workload is None else f"the {len(workload):,} requests of {workload.source['path']}"
    )
    _say(f"{subsets} random subsets of each size from {origin}")
    _say(f"KV cache {memory:,} tokens; seed {seed}; all requests arrive at 0")
    _say(f"Average latency in rounds of {most:,} requests, and ratios ± 95 % confidence:\n")
    at = {(row.intervals, row.policy): row for row in rows if row.requests == most}
    lines = [[at[str(experiment.rule), policy] for policy in paper.POLICIES] for experiment in paper.EXPERIMENTS]
    cells = {
        "intervals": [f"{experiment.number}. {experiment.title}" for experiment in paper.EXPERIMENTS],
        **{
            policy: _column([line[p].mean_latency for line in lines], decimals=1)
            for p, policy in enumerate(paper.POLICIES)
        },
        "amax / hsf": [_with_interval(line[1]) for line in lines],
        "amin / hsf": [_with_interval(line[2]) for line in lines],
    }
    _print_table(list(cells), list(zip(*cells.values(), strict=True)))
    _say()
    for finding in paper.findings(rows):
        _say(textwrap.fill(finding, max(_stdout().width, 60), subsequent_indent="   "))
    for note in [] if workload is None else _reading_notes(workload):
        _say(f"note: {note}")
    if memory == paper.MEMORY:
        _say("note: the paper prints no cache size, and how close amin comes to hsf depends on it: try --memory 80000")


def _with_interval(row: paper.Row) -> str:
    return f"{row.ratio:.2f}" + ("" if math.isnan(row.ratio_ci95) else f" ± {row.ratio_ci95:.2f}")


#: Table of `llmsched theory` -> its title, and key -> heading.
_THEORY: Mapping[str, tuple[str, Mapping[str, str]]] = {
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


def _print_theory(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, rows in tables.items():
        title, headings = _THEORY[name]
        _say(title)
        cells = [[_figures(row[key]) for key in headings] for row in rows]
        _print_table(list(headings.values()), cells)
        _say()
    _say(f"aell has the better bound below alpha = {theory.ALPHA_STAR:.3f}, amin above.")
    _say("note: limits of many requests in a large cache; simulated ratios differ, some by a lot. To see how far:")
    _say("python -m verification, in the sources, and docs/background/theory.md")


def _figures(value: Any) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else str(value)


def _policy_json(name: str, policy: Policy) -> dict[str, Any]:
    about = {"description": DESCRIPTIONS[name], "clairvoyant": policy.clairvoyant, "needs": list(policy.needs)}
    return {"policy": name, **policy.fields(), **about}


def _policy_cells(name: str, policy: Policy) -> list[str]:
    evict = f"{policy.evict} {policy.beta:g}" if policy.evict == "random" else policy.evict
    cap = "-" if policy.cap == "none" else policy.cap_refine
    order = policy.order if isinstance(policy.order, str) else "custom"
    return [name, order, policy.reserve, f"{policy.margin:g}", evict, policy.refine, cap, policy.resume]
