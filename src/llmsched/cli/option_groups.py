"""Groups of options: a dataclass whose fields are options, which a command takes as one object."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

Command = Callable[..., None]


def expand_groups(order: str = "") -> Callable[[Command], Command]:
    """Let typer see the fields of a command's dataclasses as parameters; the command itself gets the objects.

    typer reads a signature and knows nothing of groups. The help page lists parameters as they stand in the signature,
    the fields of a group at its place. Where that is not wanted, `order` names them as they are to be listed; one that
    it leaves out follows the one before it in the signature.

    Raises
    ------
    TypeError
        `order` names what is no parameter.
    ValueError
        Two groups have a field of the same name.
    """

    def expand(command: Command) -> Command:
        parameters: list[inspect.Parameter] = []
        groups: dict[str, type[Any]] = {}
        hints = get_type_hints(command, include_extras=True)
        for name, parameter in inspect.signature(command).parameters.items():
            if dataclasses.is_dataclass(hints[name]):
                groups[name] = hints[name]
                parameters += _parameters_of(hints[name])
            else:
                parameters.append(_keyword(name, hints[name], parameter.default))
        parameters = _ordered(parameters, order.split())

        @functools.wraps(command)
        def run(**values: Any) -> None:
            made = {
                name: group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
                for name, group in groups.items()
            }
            command(**made, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # PEP 362
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return expand


def _parameters_of(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        _keyword(
            field.name,
            hints[field.name],
            inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
        )
        for field in dataclasses.fields(group)
    ]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _ordered(parameters: Sequence[inspect.Parameter], order: Sequence[str]) -> list[inspect.Parameter]:
    unknown = set(order) - {parameter.name for parameter in parameters}
    if unknown:
        raise TypeError(f"no such parameters to order: {', '.join(sorted(unknown))}")
    rank: dict[str, int] = {}
    last = -1
    for parameter in parameters:
        last = order.index(parameter.name) if parameter.name in order else last
        rank[parameter.name] = last
    return sorted(parameters, key=lambda parameter: rank[parameter.name])
