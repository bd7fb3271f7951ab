"""A command that refuses what says two things: an option that takes one value, given twice with two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError
from .help_pages import HelpCommand


class Command(HelpCommand):
    """A command as typer has it, in which the last of two values does not win in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises InputError if an option that takes one value is given two different ones."""
        options = {name: p for p in self.params if p.param_type_name == "option" for name in p.opts}
        first: dict[str, tuple[str, str]] = {}
        for name, value in _given(args, options):
            said, other = first.setdefault(str(options[name].name), (name, value))
            if not options[name].multiple and other != value:
                raise InputError(f"{said} is given as {other} and as {value}: it takes one value")
        return super().parse_args(ctx, args)


def _given(args: Sequence[str], options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options among the arguments, of those that take a value, and that value."""
    rest = iter(args)
    for word in rest:
        if word == "--":
            return
        name, attached = word, None
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            attached = value if equals else None
        elif len(word) > 2 and word[:2] in options:
            name, attached = word[:2], word[2:]
        if name in options and not options[name].is_flag:
            found = next(rest, None) if attached is None else attached
            if found is not None:
                yield name, found
