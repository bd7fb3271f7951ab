"""A serving system as the command line writes it: ``vllm:num-gpu-blocks=2587,max-num-seqs=256``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import InputError, nearest
from . import vllm

__all__ = ["SYSTEMS", "parse"]

#: Name -> what makes arguments of `llmsched.simulate` of its settings.
SYSTEMS: Mapping[str, Callable[..., dict[str, Any]]] = MappingProxyType({"vllm": vllm.settings})


def parse(text: str) -> dict[str, Any]:
    """Arguments of `llmsched.simulate` for the system and the settings that are written; dashes may be underscores.

    Raises InputError for an unknown system or setting (the nearest is suggested), one that is missing or given twice,
    or a value of another kind, and as the system's own function does.
    """
    name, given = settings_of(text)
    for parameter, what in inspect.signature(SYSTEMS[name]).parameters.items():
        if what.default is inspect.Parameter.empty and parameter not in given:
            shown = parameter.replace("_", "-")
            raise InputError(f"system {name}: {shown} is missing, as in {name}:{shown}=2587")
    return SYSTEMS[name](**given)


def settings_of(text: str, more: Mapping[str, str] = MappingProxyType({})) -> tuple[str, dict[str, Any]]:
    """The name of the system, and the settings that are written. `more` are settings it has besides, and their kinds.

    Raises InputError as `parse` does, but not for one that is missing.
    """
    name, _, rest = text.partition(":")
    if name not in SYSTEMS:
        raise InputError(f"there is no system {name!r}; {nearest(name, SYSTEMS)}")
    kinds = {key: str(what.annotation) for key, what in inspect.signature(SYSTEMS[name]).parameters.items()}
    kinds |= more
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        parameter = key.replace("-", "_")
        if not equals:
            raise InputError(f"system {text!r}: {part!r} is no setting, expected NAME=VALUE")
        if parameter not in kinds:
            names = [known.replace("_", "-") for known in kinds]
            raise InputError(f"system {name} has no setting {key!r}; {nearest(key.replace('_', '-'), names)}")
        if parameter in given:
            raise InputError(f"system {text!r}: {key} is given twice")
        given[parameter] = _value(key, value, kinds[parameter])
    return name, given


def _value(key: str, text: str, kind: str) -> Any:
    """A number, a word, or true or false, as the setting wants it."""
    if kind == "str":
        return text
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        return float(text) if kind == "float" else int(text.replace("_", ""))
    except (KeyError, ValueError):
        what = {"bool": "true or false", "float": "a number"}.get(kind, "a whole number")
        raise InputError(f"system setting {key}={text!r} is not {what}") from None
