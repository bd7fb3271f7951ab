"""The entry of the console script `llmsched`, and of ``python -m llmsched``."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line, and return the exit code; 2 with one line on stderr when the extra `cli` is missing."""
    try:  # nothing of ours is imported before: Ctrl-C may come at any time
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        from .errors import MissingExtraError

        try:
            import rich  # noqa: F401
            import typer  # noqa: F401
        except ImportError:
            print(f"error: {MissingExtraError('typer and rich', 'cli', 'the command line')}", file=sys.stderr)
            return 2
        from .cli.main import main as run

        return run()
    except KeyboardInterrupt:  # before or after `run` would say so
        print("interrupted", file=sys.stderr)
        return 130


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """What Ctrl-C does: KeyboardInterrupt. An import that is cut short leaves modules half made: that is the end."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
