"""The command line (extra `cli`): `main` runs a command (app.py) and tells whatever goes wrong.

Exit codes: 0 done; 1 no policy finished, a condition of --fail-if holds, or the reader of the output went away; 2 bad
input; 3 some simulations of a study failed; 130 interrupted. A policy that does not finish beside others that do is a
result, not a failure.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from ..errors import LlmschedError, MemoryTooSmallError
from . import console
from .app import app

__all__ = ["app", "main"]

_INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Whatever goes wrong is told here, in a line or two, on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8, a file name that is not text
    command = typer.main.get_command(app)
    try:
        code = command.main(args=args, prog_name="llmsched", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except LlmschedError as error:
        return _failed(str(error), _hint(error, command, sys.argv[1:] if args is None else args))
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as error:
        where = "writing the output" if error.filename is None else error.filename
        return _failed(f"{where}: {error.strerror or error}")
    except MemoryError:
        return _failed("this does not fit into the computer's memory")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except SystemExit as stopped:  # what typer and rich do about a broken pipe
        return _nobody_reads() if stopped.code else 0
    except Exception as error:  # typer's complaints about options; their class depends on its version
        if not hasattr(error, "format_message"):
            raise
        said = _named_otherwise(error) or _plain(error.format_message())
        return _failed(said, "llmsched --help and llmsched COMMAND --help list what there is")
    if code == _INTERRUPTED:
        console.complain("interrupted")
    return code if isinstance(code, int) else 0


#: Options that say how many requests: of replications that are drawn, and of a trace.
_OTHERWISE = {"--requests": "--limit", "--limit": "--requests"}


def _named_otherwise(error: Any) -> str | None:
    """What to say of an option that another command has, if this one has it by another name."""
    name = getattr(error, "option_name", None)
    command = getattr(getattr(error, "ctx", None), "command", None)
    other = _OTHERWISE.get(str(name))
    there = any(other in parameter.opts for parameter in command.params) if other and command else False
    return f"No such option: {name}; here it is {other}" if there else None


def _plain(complaint: str) -> str:
    """typer's complaint in plain words: it tells what was being parsed into what."""
    kinds = {"number": "a number such as 2.5", "float": "a number such as 2.5", "integer": "a whole number"}
    return re.sub(
        r"(?:Input should be|'[^']*' is not) a valid (number|float|integer)\b.*",  # the second before typer 0.29
        lambda found: f"expected {kinds[found[1]]}",
        complaint,
    )


def _hint(error: LlmschedError, command: Any, args: Sequence[str]) -> str | None:
    """What would help, of the options that the command has."""
    if not isinstance(error, MemoryTooSmallError):
        return None
    for word in args:
        command = getattr(command, "commands", {}).get(word, command)
    there = {parameter.name for parameter in command.params}
    ways = [f"try --memory {error.needed}"] if "memory" in there else []
    ways += ["leave long requests out: --too-long drop"] if "too_long" in there else []
    return ", or ".join(ways) or None


def _failed(message: str, hint: str | None = None) -> int:
    console.complain(f"error: {message}", *([hint] if hint else []))
    return 2


def _nobody_reads() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
    return 1
