"""The entry of the console script `llmsched`, and of ``python -m llmsched``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line, and return the exit code; 2 with one line on stderr when the extra `cli` is missing."""
    try:  # nothing is imported before: Ctrl-C may come at any time
        from .errors import MissingExtraError

        try:
            import rich  # noqa: F401
            import typer  # noqa: F401
        except ImportError:
            print(f"error: {MissingExtraError('typer and rich', 'cli', 'the command line')}", file=sys.stderr)
            return 2
        from .cli import main as run
    except KeyboardInterrupt:  # a second later `run` would say so
        print("interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
