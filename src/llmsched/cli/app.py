"""The commands of the command line, registered: each has a file, which reads its options and prints its answer."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import version
from . import study
from .bound import bound
from .calibrate import calibrate
from .capacity import capacity
from .compare import compare
from .disaggregate import disaggregate
from .doctor import doctor
from .explore import explore
from .generate import generate
from .given_once import Command
from .help_pages import HelpGroup
from .machines import machines
from .paper import paper
from .policies import policies
from .predictors import predictors
from .report import report
from .routers import routers
from .size import size
from .sweep import sweep
from .theory import theory
from .timeline import timeline
from .validate import validate
from .verbosity import with_verbosity

app = typer.Typer(
    cls=HelpGroup,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
_STUDIES = "Studies, and the paper"
for panel, commands in {
    "Compare policies": (compare, timeline, explore, predictors, bound),
    "Plan a service": (capacity, size, sweep, disaggregate),
    "Start from a real engine": (calibrate, validate),
    _STUDIES: (paper, theory),
    "What there is": (policies, routers, machines, generate, doctor),
}.items():
    for command in commands:
        app.command(command.__name__, cls=Command, rich_help_panel=panel)(with_verbosity(command))

study_app = typer.Typer(
    cls=HelpGroup,
    help="Monte Carlo studies: one file says what is run; interrupted, they go on; results are Parquet.",
    rich_markup_mode="markdown",
)


@study_app.callback(invoke_without_command=True)
def _study(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


for command in (report, study.new, study.check, study.run, study.results, study.repeat):
    study_app.command(command.__name__, cls=Command)(with_verbosity(command))
app.add_typer(study_app, name="study", rich_help_panel=_STUDIES)


_GREETING = f"""llmsched {version.partition("+")[0]} simulates how LLM requests share a KV cache. Three things to try:

  llmsched compare
      the scheduling policies on a built-in workload, told what a predictor may know

  llmsched generate --rate 4 --out trace.csv
  llmsched compare trace.csv
      the same on a trace; yours is a CSV file with arrival_s,prompt_tokens,output_tokens

  llmsched capacity trace.csv --slo ttft=2,tpot=0.2
      the most requests a second that keep these targets, in seconds

With a log of an engine of yours, begin with llmsched calibrate --help: it makes the machine that is simulated.
llmsched --help lists all commands, llmsched COMMAND --help what each takes."""


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Which scheduling policy, which length predictor and how much KV cache does an LLM service need?"""
    if show_version:
        print(f"llmsched {version}")
    elif context.invoked_subcommand is None:
        print(_GREETING)
    else:
        return
    raise typer.Exit
