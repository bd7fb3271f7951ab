"""--quiet and --verbose, which every command has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from . import console

_OPTIONS = {
    "quiet": Annotated[
        bool, typer.Option("--quiet", "-q", help="The answer alone: no notes, no explanations, no progress bar.")
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="On stderr, what is decided on the way, and when.")
    ],
}


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """The command with both as its last options."""

    @functools.wraps(command)
    def run(*, quiet: bool, verbose: bool, **values: Any) -> None:
        with console.one_command(quiet, verbose):
            command(**values)

    own = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=False)
        for name, option in _OPTIONS.items()
    ]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {p.name: p.annotation for p in [*own.parameters.values(), *more]}
    return run
