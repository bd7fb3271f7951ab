"""Help pages as typer writes them, but with no type beside a switch, which takes no value."""

from __future__ import annotations

from typing import Any

import typer.core


class _UntypedSwitches:
    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; an empty text is shown for the value of a switch, where typer writes ``<bool>``."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of what it is mixed into
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class HelpCommand(_UntypedSwitches, typer.core.TyperCommand):
    """A command with such a page."""


class HelpGroup(_UntypedSwitches, typer.core.TyperGroup):
    """A group of commands with such a page."""
