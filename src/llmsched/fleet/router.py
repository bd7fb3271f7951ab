"""Router: a rule that says which replica takes a request, as data."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import InputError, by_name, nearest
from ..formula_names import REPLICA_NAMES, REQUEST_NAMES
from ..workloads.argument_checks import whole

if TYPE_CHECKING:
    from ..formula import Formula

#: How a replica is chosen -> what that means.
RULES: Mapping[str, str] = MappingProxyType(
    {
        "random": "each is equally likely",
        "round-robin": "one after the other",
        "least": "the one with the smallest score",
        "idle": "one that has no requests; if there is none, any",
        "central": "the first that can admit it: until then it waits in one queue before them all",
    }
)
#: What `score` may be, beside a formula -> what it is of a replica.
SCORES: Mapping[str, str] = MappingProxyType(
    {name: REPLICA_NAMES[name] for name in ("requests", "waiting", "used", "believed_work")}
)
#: Predictions that `work` and `by` may be, beside a formula.
PREDICTIONS = ("lower", "upper", "point")


@dataclasses.dataclass(frozen=True, repr=False)
class Router:
    """Which replica takes a request. It decides as the request arrives, and never again; but for ``rule="central"``.

    It sees each replica as it is when the request arrives: requests that arrived before are there, a round in progress
    is not over. Of equals it draws one; with ``seed=None`` the first takes it.

    Parameters
    ----------
    rule
        ``"random"``, ``"round-robin"``, ``"least"`` (the smallest score), ``"idle"`` (one without requests), or
        ``"central"``: requests wait in one queue, in the policy's order, and a replica takes the first as soon as it
        can admit it (late binding).
    score
        For ``"least"``: ``"requests"`` that a replica was sent and has not completed; those that are ``"waiting"``;
        tokens of cache that are ``"used"``; ``"believed_work"``, output tokens that they are believed to need yet; or a
        formula over these, ``running``, ``free``, ``memory``, ``speed`` and the columns of the request
        (docs/reference/routers.md).
    choices
        Compare only so many replicas, drawn anew for each request; None: all of them.
    work
        What is believed of a request's output, for ``believed_work``: ``"lower"``, ``"upper"``, ``"point"``, or a
        formula over what a policy's `reserve` reads.
    classes
        Split the requests by `by` into so many classes, from short to long, each with replicas of its own: as many
        replicas to each as possible, with bounds between the classes that give each the same believed work. `rule`
        chooses among those of the class.
    by
        What the classes are of: ``"lower"``, ``"upper"``, ``"point"`` or ``"prompt"``.
    sessions
        A request goes to the replica that took the last one of its session; `rule` is for the first.
    delay
        The router sees replicas as they were so long ago (seconds, or rounds without a clock): what it sent since is
        not seen either.

    Raises
    ------
    InputError
        A field is out of range or unknown: the nearest is suggested. FormulaError, where a formula is none.
    """

    rule: str = "least"
    score: str = "requests"
    choices: int | None = None
    work: str = "point"
    classes: int = 1
    by: str = "point"
    sessions: bool = False
    delay: float = 0.0
    name: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"router field rule={self.rule!r} is unknown; {nearest(str(self.rule), RULES)}")
        if not isinstance(self.score, str):
            raise InputError(f"router field score is {self.score!r}, expected one of {', '.join(SCORES)}, or a formula")
        if not isinstance(self.work, str):
            raise InputError(f"router field work is {self.work!r}, expected {', '.join(PREDICTIONS)}, or a formula")
        if self.choices is not None:
            object.__setattr__(self, "choices", whole("router field choices", self.choices, 1))
        object.__setattr__(self, "classes", whole("router field classes", self.classes, 1))
        if self.by not in (*PREDICTIONS, "prompt"):
            raise InputError(
                f"router field by={self.by!r} is unknown; {nearest(str(self.by), (*PREDICTIONS, 'prompt'))}"
            )
        if not isinstance(self.sessions, bool):
            raise InputError(f"router field sessions is {self.sessions!r}, expected True or False")
        if isinstance(self.delay, bool) or not isinstance(self.delay, (int, float)) or not 0 <= self.delay < math.inf:
            raise InputError(f"router field delay is {self.delay!r}, expected a time of at least 0")
        if self.rule == "central":
            for name, value in {"choices": None, "classes": 1, "sessions": False, "delay": 0.0}.items():
                if getattr(self, name) != value:
                    raise InputError(
                        f"router field {name}={getattr(self, name)!r} says nothing of a central queue, from which "
                        f"replicas take requests as they can admit them: leave {name} out"
                    )
        if not self.name:
            object.__setattr__(self, "name", named_like(self) or repr(self))
        _ = self.formula, self.work_formula  # raise what is wrong with them

    @cached_property
    def formula(self) -> Formula | None:
        """The formula that `score` is, or None."""
        return None if self.score in SCORES else _formula("score", self.score, [*SCORES])

    @cached_property
    def work_formula(self) -> Formula | None:
        """The formula that `work` is, or None."""
        return None if self.work in PREDICTIONS else _formula("reserve", self.work, [*PREDICTIONS])

    @property
    def sees_work(self) -> bool:
        """Whether it looks at what is believed of a replica's work."""
        if self.rule != "least":
            return False
        return self.score == "believed_work" or (self.formula is not None and "believed_work" in self.formula.reads)

    @property
    def counts_requests(self) -> bool:
        """Whether all that it sees of a replica is how many requests are there, and what never changes."""
        if self.rule == "idle" or self.formula is None:
            return self.rule == "idle" or self.score == "requests"
        return not set(self.formula.reads) & {"running", "waiting", "used", "free", "cached", "believed_work"}

    @property
    def sees_cached(self) -> bool:
        """Whether it looks at what of a request is in a replica's cache."""
        return self.rule == "least" and self.formula is not None and "cached" in self.formula.reads

    @property
    def looks(self) -> bool:
        """Whether it looks at the replicas at all."""
        return self.rule in ("least", "idle")

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that it reads of a request."""
        read: set[str] = set()
        if self.sees_work:
            read |= {self.work} if self.work_formula is None else set(self.work_formula.reads)
        if self.rule == "least" and self.formula is not None:
            read |= set(self.formula.reads)
        if self.classes > 1:
            read.add(self.by)
        if self.sessions:
            read.add("session")
        return tuple(sorted(read & {*PREDICTIONS, "priority", "deadline", "session"}))

    def fields(self) -> dict[str, Any]:
        """The fields as a plain dict, without the name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "name"}

    def replace(self, **changes: Any) -> Router:
        """The same router with some fields changed."""
        known = [f.name for f in dataclasses.fields(self)]
        for key in changes:
            if key not in known:
                raise InputError(f"a router has no field {key!r}; {nearest(key, known)}")
        return dataclasses.replace(self, **{"name": "", **changes})

    def __repr__(self) -> str:
        changed = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.name != "name" and getattr(self, f.name) != f.default
        ]
        return f"Router({', '.join(changed)})"


def _formula(place: Any, text: str, words: list[str]) -> Formula:
    from ..formula import parse  # when the first one is met: most routers have none

    if text.isidentifier() and text not in (*REPLICA_NAMES, *REQUEST_NAMES):
        field = "score" if place == "score" else "work"
        raise InputError(f"router field {field}={text!r} is unknown; {nearest(text, words)}, or a formula")
    return parse(text, place)


_FIELDS: dict[str, dict[str, Any]] = {
    "random": {"rule": "random"},
    "round-robin": {"rule": "round-robin"},
    "least-requests": {},
    "least-waiting": {"score": "waiting"},
    "least-tokens": {"score": "used"},
    "least-work": {"score": "believed_work"},
    "power-of-two": {"choices": 2},
    "join-idle-queue": {"rule": "idle"},
    "length-classes": {"classes": 2},
    "session": {"sessions": True},
    "central-queue": {"rule": "central"},
}


def named_like(router: Router) -> str:
    """The name of the named router with the same fields, or nothing."""
    fields = router.fields()
    for name, values in _FIELDS.items():
        if all(fields[f.name] == values.get(f.name, f.default) for f in dataclasses.fields(Router) if f.name != "name"):
            return name
    return ""


#: The named routers (docs/reference/routers.md): name -> Router.
routers: Mapping[str, Router] = by_name({name: Router(**values) for name, values in _FIELDS.items()}, "router")

#: What each named router is, in one line.
DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "random": "any replica, each equally likely",
        "round-robin": "one replica after the other",
        "least-requests": "the replica with the fewest requests, running and waiting (join the shortest queue)",
        "least-waiting": "the replica with the fewest waiting requests",
        "least-tokens": "the replica whose running requests take the least cache",
        "least-work": "the replica whose requests are believed to need the fewest output tokens yet",
        "power-of-two": "of two replicas that are drawn, the one with fewer requests",
        "join-idle-queue": "a replica without requests if there is one, else any",
        "length-classes": "short and long requests to replicas of their own, there the one with the fewest requests",
        "session": "the replica that took the session's last request; for a new one, that with the fewest requests",
        "central-queue": "whichever replica can admit it first: requests wait in one queue before them all",
    }
)


def named(router: str | Router) -> Router:
    """The router itself, the named one, or a named one with other fields: ``"least-work,work=upper"``.

    Raises InputError for an unknown name, field or value; the nearest is suggested.
    """
    if isinstance(router, Router):
        return router
    if not isinstance(router, str):
        raise InputError(f"a router is a name or a llmsched.Router, not {type(router).__name__}")
    base, *pairs = re.split(r",(?=\s*\w+\s*=(?!=))", router)
    chosen = routers[base.strip()]
    if not pairs:
        return chosen
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = (part.strip() for part in pair.partition("="))
        if key in values:
            raise InputError(f"router {router!r}: {key!r} is given twice")
        values[key] = _value(key, value)
    return chosen.replace(**values, **({} if "name" in values else {"name": router}))


def labelled(router: str | Router | Iterable[str | Router] | Mapping[str, str | Router]) -> dict[str, Router]:
    """One router or several, by label: the keys of a mapping, else names. Raises InputError as `named` does."""
    if isinstance(router, Mapping):
        found = {label: named(one) for label, one in router.items()}
    else:
        several = router if isinstance(router, Iterable) and not isinstance(router, str) else [router]
        found = {chosen.name: chosen for chosen in map(named, several)}
    if not found:
        raise InputError("there is no router: give at least one")
    return found


def _value(key: str, text: str) -> Any:
    if key in ("choices", "classes", "delay"):
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if number.is_integer() and key != "delay" else number
    if key == "sessions":
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)
    return text
