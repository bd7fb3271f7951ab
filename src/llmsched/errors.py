"""Every exception a user can meet. Each message says what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

_Thing = TypeVar("_Thing")


class LlmschedError(Exception):
    """Base of everything llmsched raises on purpose. All of them survive pickling, attributes included."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class InputError(LlmschedError, ValueError):
    """Something given to llmsched cannot be used: the message says what, where and what would do."""


class WorkloadError(InputError):
    """A request has an impossible value. ``request`` is its index (from 0), or None if it is about all of them."""

    def __init__(self, message: str, request: int | None = None) -> None:
        super().__init__(message)
        self.request = request


class MissingPredictionError(WorkloadError):
    """A policy needs a prediction column that the workload does not have. ``column`` is its name."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column


class MemoryTooSmallError(WorkloadError):
    """A request can never fit the cache. ``needed`` is the smallest memory (tokens) that would do for all."""

    def __init__(self, message: str, request: int, needed: int) -> None:
        super().__init__(message, request)
        self.needed = needed


class PolicyError(InputError):
    """A policy, or one of its fields, does not exist or does not make sense."""


class UnknownNameError(InputError, KeyError):
    """There is nothing of that name in a mapping of named things; the message suggests the nearest."""

    __str__ = Exception.__str__  # KeyError's shows quotes and escapes


class UnknownPolicyError(PolicyError, UnknownNameError):
    """There is no policy of that name; the message suggests the nearest."""


class FormulaError(PolicyError):
    """A text is no formula. ``formula`` is the text, ``column`` (from 1) where it stops being one."""

    def __init__(self, message: str, place: str, formula: str, column: int) -> None:
        super().__init__(f"formula of {place}, column {column}: {message}\n{_pointed_at(formula, column)}")
        self.formula = formula
        self.column = column


class FormulaValueError(WorkloadError):
    """A formula has no value for a request: it divides by zero, say. ``column`` (from 1) is where in ``formula``."""

    def __init__(self, message: str, place: str, formula: str, column: int, request: int | None = None) -> None:
        who = "" if request is None else f"request {request}: "
        super().__init__(f"{who}the formula of {place} {message}\n{_pointed_at(formula, column)}", request)
        self.formula = formula
        self.column = column


class TraceError(InputError):
    """A trace file cannot be read. ``path`` and ``line`` (from 1) say where, if it is one line's fault.

    ``is_row``: it is a row that ``on_error="skip"`` would leave out.
    """

    is_row = False

    def __init__(self, message: str, path: str = "", line: int | None = None) -> None:
        where = path if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {message}" if where else message)
        self.path = path
        self.line = line


class InputLimitError(TraceError):
    """A file is larger, or unpacks to more, than is read (see `llmsched.input_limits`): the message says how to raise
    the limit."""


class StudyError(InputError):
    """A study file, a directory of results or a cluster cannot be used. ``path`` is the file's or directory's name.

    For a study file the message has one line per mistake, with its line and key.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class DamagedResultsError(StudyError):
    """A file of a study's results cannot be read. ``path`` is its name."""

    def __init__(self, path: str, reason: str) -> None:
        brief = " ".join(reason.split())[:120]
        super().__init__(
            f"{path} is damaged ({brief}). Run the study again with --repair: the file is put aside, and what was in "
            "it is simulated again",
            path,
        )


class NotFinishedError(LlmschedError, RuntimeError):
    """A simulation was stopped because it does not finish, or reached ``max_rounds``.

    ``policy`` is the policy's name, ``round`` the number of rounds that ran, ``remaining`` the requests left, and
    ``request`` the one whose bound would have risen without end, or None if that was not why.
    """

    def __init__(self, message: str, policy: str, round: int, remaining: int, request: object = None) -> None:
        super().__init__(message)
        self.policy = policy
        self.round = round
        self.remaining = remaining
        self.request = request

    def on_replica(self, replica: int) -> NotFinishedError:
        """The same of a replica of a fleet, which the message names."""
        who = f"policy {self.policy}"
        message = str(self).replace(f"{who} stopped", f"{who} on replica {replica} stopped", 1)
        return NotFinishedError(message, self.policy, self.round, self.remaining, self.request)


class SchedulerError(InputError):
    """A scheduler under test decided what cannot be (`llmsched.testing`). ``round`` is the round, from 0.

    ``request`` is the index of the request it is about, or None.
    """

    def __init__(self, message: str, round: int, request: int | None = None) -> None:
        super().__init__(message)
        self.round = round
        self.request = request


class MissingExtraError(LlmschedError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: pip install 'llmsched[{extra}]', "
            f"or in a clone of llmsched pip install '.[{extra}]'"
        )
        self.package = package
        self.extra = extra


def by_name(
    things: Mapping[str, _Thing], what: str, error: type[UnknownNameError] = UnknownNameError
) -> Mapping[str, _Thing]:
    """The things, which are called `what`, as a mapping to read that suggests the nearest name for one it lacks."""
    return MappingProxyType(_Named(things, what, error))


class _Named(dict[str, _Thing]):
    def __init__(self, things: Mapping[str, _Thing], what: str, error: type[UnknownNameError]) -> None:
        super().__init__(things)
        self.what, self.error = what, error

    def __missing__(self, name: object) -> _Thing:
        raise self.error(f"there is no {self.what} {name!r}; {nearest(str(name), self)}")


def __dir__() -> list[str]:
    return sorted(k for k, v in globals().items() if isinstance(v, type) and issubclass(v, LlmschedError))


def _rebuild(kind: type[LlmschedError], args: tuple[Any, ...], attributes: dict[str, Any]) -> LlmschedError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _pointed_at(text: str, column: int) -> str:
    """The text, or as much of it as fits a line, and a caret below the column (from 1)."""
    start = max(0, column - 61)
    shown = text[start : start + 100]
    return f"    {shown}\n    {' ' * (column - 1 - start)}^"


def shown(value: object) -> str:
    """A value for messages, in 500 characters at most; Python refuses to write out integers of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return f"a number of more than {sys.get_int_max_str_digits():,} digits"
    return text if len(text) <= 500 else f"{text[:77]}..."


def number_of(count: int, thing: str) -> str:
    """1 request, 2 requests, 1,000 queries."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def closest(name: str, known: Iterable[str], likeness: float) -> str | None:
    """The known name most like `name`, if it is as much like it as that (from 0 to 1, as `difflib` measures it)."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1, cutoff=likeness)), None)


def _closest_number(name: str, known: Iterable[str]) -> str | None:
    """The known number next to `name`; None if that is no number, or some of the known ones are none."""
    try:
        number = float(name)
        return min(known, key=lambda one: abs(float(one) - number), default=None)
    except ValueError:
        return None


def _only_longer(name: str, known: Iterable[str]) -> str | None:
    """The one known name of which `name` is a part, of three letters at least; None if there are several."""
    longer = [one for one in known if len(name) >= 3 and name.lower() in str(one).lower()]
    return longer[0] if len(longer) == 1 else None


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that suggests the known name nearest to `name` and lists them all. Numbers are near by distance."""
    names = list(known)
    close = _closest_number(name, names) or closest(name, names, 0.5) or _only_longer(name, names)
    hint = f"did you mean {close!r}? " if close else ""
    if any(mark in str(one) for one in names for mark in ", "):  # where one ends could not be seen
        names = [repr(one) for one in names]
    return f"{hint}known: {', '.join(names)}"
