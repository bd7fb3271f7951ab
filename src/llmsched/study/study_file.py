"""The study file: its keys, their types, defaults and meanings. `docs/reference/study-file.md` is made from this."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar, cast

from .. import settings_files
from ..errors import InputError, StudyError, nearest
from ..metrics import catalogue, energy
from ..metrics.compare import MEMORY
from ..simulation import clock as clocks
from ..workloads.argument_checks import LARGEST_SEED
from . import toml_lines
from .file_entries import (
    CLOCK,
    CONFIG,
    LIST,
    MACHINE,
    METRIC,
    ONE_OR_MORE,
    ROUTER,
    SWITCH,
    CellsEntry,
    IntervalsEntry,
    PolicyEntry,
    PowerEntry,
    PrecisionEntry,
    ServiceEntry,
    ShowsWhatIsGiven,
    SteadyStateEntry,
    WorkloadEntry,
    count_of,
    limits_of,
    no_twins,
    rates_of,
    short_for,
)

# isort: split
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

_Study = TypeVar("_Study", bound="StudyFile")


# The study ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class StudyFile(ShowsWhatIsGiven):
    """What is simulated, and how often: the keys of the study file. `Study` can also run it.

    Every combination of a workload, an interval setting, a policy, a memory and the other factors (clocks, machines,
    rates, limits of the engine) is a *cell*. Replication k of every cell sees the same requests, intervals and ranks
    (common random numbers), so that differences are paired.

    Raises StudyError, which names every mistake, when the values do not make a study.
    """

    name: str = "study"
    """What the study is called in reports."""
    description: str = ""
    """What it is about, for people."""
    seed: Annotated[int, count_of("seed", 0, most=LARGEST_SEED)] = 0
    """Governs everything that is random: the same seed gives the same results."""
    replications: Annotated[int | None, count_of("replications")] = None
    """Simulations of each cell (100, unless there is a `precision`)."""
    workloads: Annotated[tuple[Annotated[WorkloadEntry, short_for("generator")], ...], LIST]
    """What is to be scheduled."""
    intervals: Annotated[tuple[Annotated[IntervalsEntry, short_for("rule")], ...], LIST] = (
        IntervalsEntry(rule="buckets:100"),
    )
    """Predicted intervals of output lengths."""
    policies: Annotated[tuple[Annotated[PolicyEntry, short_for("base")], ...], LIST]
    """Scheduling policies."""
    rates: Annotated[float | tuple[float, ...] | None, BeforeValidator(rates_of)] = None
    """Rates of Poisson arrivals of all workloads, a factor: requests per second with a clock, else per round. Short for
    the same `rate` in each of the `workloads`."""
    memories: tuple[Annotated[int, count_of("a memory")], ...] | None = None
    """Sizes of the KV cache, in tokens: by default 16,492, or what each of the `machines` holds."""
    clocks: Annotated[tuple[Annotated[str, CLOCK], ...], LIST] = ()
    """How long a round lasts: names of clocks, or .toml and .json files relative to the study file. Without any, a
    round lasts 1 and times are in rounds; with one, they are in seconds."""
    machines: Annotated[tuple[Annotated[str, MACHINE], ...], LIST] = ()
    """Instead of clocks: names of machines (`llmsched machines` lists them), or .toml and .json files relative to the
    study file. A machine sets clock, memory, block, max_batch, prefill_budget and power; what the study gives of these
    holds for all machines in its place."""
    max_batch: Annotated[tuple[Annotated[int | None, limits_of("max_batch")], ...], ONE_OR_MORE] = ()
    """Most requests that run at once: a number, or a list of them, in which `"none"` is no limit. By default there is
    none, or the machine's."""
    block: Annotated[tuple[Annotated[int, count_of("block")], ...], ONE_OR_MORE] = ()
    """Tokens in a block of cache (16 in vLLM): a number, or a list of them. By default 1, or the machine's."""
    prefill_budget: Annotated[tuple[Annotated[int | None, limits_of("prefill_budget")], ...], ONE_OR_MORE] = ()
    """Most tokens that a round processes: long prompts then take several rounds (chunked prefill). A number, or a list
    of them, in which `"none"` is no limit. By default there is none, or the machine's."""
    replicas: Annotated[tuple[Annotated[int, count_of("replicas")], ...], ONE_OR_MORE] = ()
    """Replicas of the machine behind a router: a number, or a list of them. By default there is one machine, and no
    router."""
    routers: Annotated[tuple[Annotated[str, ROUTER], ...], LIST] = ()
    """Who chooses among the replicas: names of routers (`llmsched routers` lists them), or names with other fields,
    such as `"least-work,work=upper"`. By default `"least-requests"`."""
    max_rounds: Annotated[int | None, count_of("max_rounds")] = None
    """Rounds after which a simulation is given up."""
    metrics: Annotated[tuple[Annotated[str, METRIC], ...], LIST] = catalogue.DEFAULT
    """What is measured of every simulation."""
    service: ServiceEntry = dataclasses.field(default_factory=ServiceEntry)
    """How the service metrics are taken."""
    steady_state: Annotated[SteadyStateEntry | None, SWITCH] = None
    """Whether, and how, every simulation is taken for a run that settles: its warm-up is found and cut off."""
    power: Annotated[PowerEntry, short_for("model")] | None = None
    """Watts that the machine draws: for the metrics of energy."""
    precision: PrecisionEntry | None = None
    """Instead of `replications`: as many as it takes."""
    cells: tuple[CellsEntry, ...] = ()
    """Blocks of cells, instead of the full cross of all factors."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_memories_given", self.memories is not None)
        if self.memories is None:
            object.__setattr__(self, "memories", None if self.machines else (MEMORY,))
        elif not self.memories:
            raise InputError("memories is empty: give at least one")
        if self.machines and self.clocks:
            raise InputError("give either clocks or machines: a machine has a clock of its own")
        if self.routers and not self.replicas:
            raise InputError("routers choose among replicas: add replicas, such as replicas = [8]")
        if self.replicas and not self.routers:
            object.__setattr__(self, "routers", ("least-requests",))
        if self.rates is not None:
            object.__setattr__(self, "workloads", tuple(entry.at(self.rates) for entry in self.workloads))
            object.__setattr__(self, "rates", None)
        for key in ("workloads", "policies", "intervals", "metrics"):
            if not getattr(self, key):
                raise InputError(f"{key} is empty: give at least one")
        for key in ("workloads", "policies", "intervals"):
            no_twins(key, [entry.name for entry in getattr(self, key)])
        for key in (
            "memories",
            "clocks",
            "machines",
            "metrics",
            "max_batch",
            "block",
            "prefill_budget",
            "replicas",
            "routers",
        ):
            no_twins(key, getattr(self, key) or ())
        if self.steady_state is not None:
            added = [metric.name for metric in catalogue.of_source("steady") if metric.name not in self.metrics]
            object.__setattr__(self, "metrics", (*self.metrics, *added))
        if self.precision is None:
            object.__setattr__(self, "replications", self.replications or 100)
        elif self.replications is not None:
            raise InputError("give either replications or precision: precision finds the number itself")
        elif self.precision.metric not in self.metrics:
            raise InputError(f"precision.metric is {self.precision.metric!r}, which is not among the metrics")
        self._check_energy()
        for k, block in enumerate(self.cells):
            self._check_block(k, block)

    def _check_energy(self) -> None:
        asked = [name for name in self.metrics if catalogue.find(name).source == "energy"]
        if asked and self.machines:
            return  # they have clocks, and may have watts: see `plan.make`
        if asked and self.power is None:
            raise InputError(
                f"the metric {asked[0]} needs the watts that the machine draws: add power, such as "
                f'power = "{next(iter(energy.powers))}"'
            )
        if asked and not self.clocks:
            raise InputError(
                f'the metric {asked[0]} needs seconds: add clocks, such as clocks = ["{next(iter(clocks.clocks))}"]'
            )

    def _check_block(self, k: int, block: CellsEntry) -> None:
        for key, known in self.factors().items():
            for value in getattr(block, key) or ():
                if value not in known:
                    raise InputError(
                        f"cells[{k}]: {value!r} is not among the {key}; {nearest(str(value), map(str, known))}"
                    )

    def factors(self) -> dict[str, Sequence[Any]]:
        """The levels of each factor, by the factor's key, under the names that they have in the results."""
        return {
            "workloads": [entry.name for entry in self.workloads],
            "intervals": [entry.name for entry in self.intervals],
            "policies": [entry.name for entry in self.policies],
            "memories": self.memories or (),
            "clocks": self.clocks,
            "machines": self.machines,
            "rates": self.rate_levels(),
            "max_batch": self.max_batch,
            "block": self.block,
            "prefill_budget": self.prefill_budget,
            "replicas": self.replicas,
            "routers": self.routers,
        }

    def rate_levels(self) -> tuple[float | None, ...]:
        """The levels of the factor rate: those of all workloads if one has several, else nothing."""
        if all(len(entry.rates) == 1 for entry in self.workloads):
            return ()
        return tuple(dict.fromkeys(rate for entry in self.workloads for rate in entry.rates))

    # Files ------------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The study in a TOML file. Raises StudyError, which names file, line and key of every mistake; OSError."""
        name = os.fspath(path)
        try:
            text = settings_files.read_text(path)
        except UnicodeDecodeError as error:
            raise StudyError(f"{name}: not a text in UTF-8 (byte {error.start})") from None
        return cls.parse(text, name)

    @classmethod
    def parse(cls, text: str, path: str = "study") -> Self:
        """The study in the text of a TOML file; `path` is what messages call it. Raises StudyError as `load` does."""
        try:
            values = settings_files.toml_values(text)
        except ValueError as error:
            raise StudyError(f"{path}: not TOML: {error}") from None
        study = _read(cls, values, path, toml_lines.lines(text))
        object.__setattr__(study, "_text", text)
        object.__setattr__(study, "_path", path)
        return study

    def where(self, *place: str | int) -> str:
        """How a message about the value at `place` begins: file, line and key; the key alone if there is no file."""
        text: str | None = getattr(self, "_text", None)
        if text is None:
            return toml_lines.spelled(place)
        return _where(
            getattr(self, "_path", ""), toml_lines.line_of(toml_lines.lines(text), place)[1], toml_lines.spelled(place)
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The study with these fields, as in the file. Raises StudyError, which names the key of every mistake."""
        return _read(cls, dict(values), "", {})

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, defaults included."""
        return dataclasses.asdict(self)

    def replace(self, **fields: Any) -> Self:
        """The same study with some fields replaced. Raises StudyError if that makes no study."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if not getattr(self, "_memories_given", True):
            given["memories"] = None  # the default depends on the machines
        if "precision" in fields and "replications" not in fields:
            given["replications"] = None
        return type(self)(**{**given, **fields})

    def to_toml(self) -> str:
        """The study as the text of a study file: the one it was loaded from, if it was."""
        text: str | None = getattr(self, "_text", None)
        if text is not None:
            return text
        values = {key: value for key, value in self.to_dict().items() if value not in (None, ())}
        return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


# Mistakes -------------------------------------------------------------------------------------------------------------

_ENTRIES: Mapping[str, Any] = {
    "workloads": WorkloadEntry,
    "intervals": IntervalsEntry,
    "policies": PolicyEntry,
    "cells": CellsEntry,
    "precision": PrecisionEntry,
    "service": ServiceEntry,
    "steady_state": SteadyStateEntry,
    "power": PowerEntry,
}


def _read(kind: type[_Study], values: dict[str, Any], path: str, found: Mapping[toml_lines.Path, int]) -> _Study:
    try:
        study: _Study = _adapter(cast(Any, kind)).validate_python(values)
    except ValidationError as error:
        raise _as_study_error(error, path, found) from None
    return study


def _as_study_error(error: ValidationError, path: str, found: Mapping[toml_lines.Path, int]) -> StudyError:
    mistakes = [_mistake(detail, path, found) for detail in error.errors(include_url=False)]
    return StudyError("\n".join(text for _, text in sorted(mistakes)), path)


def stating_mistakes(construct: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(construct)
    def init(self: StudyFile, **values: Any) -> None:
        try:
            construct(self, **values)
        except ValidationError as error:
            raise _as_study_error(error, "", {}) from None

    return init


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _mistake(detail: Any, path: str, found: Mapping[toml_lines.Path, int]) -> tuple[int, str]:
    """The line (for sorting) and the text of one mistake."""
    place: toml_lines.Path = tuple(detail["loc"])
    start, line = toml_lines.line_of(found, place)
    missing = detail["type"] in ("missing", "missing_argument")
    key = toml_lines.spelled(place if missing or not found else start)
    return line or 0, ": ".join(filter(None, (_where(path, line, key), _what(detail, place))))


def _where(path: str, line: int | None, key: str) -> str:
    file = ", ".join(filter(None, (path, f"line {line}" if line is not None else "")))
    return ": ".join(filter(None, (file, key)))


def _what(detail: Any, place: toml_lines.Path) -> str:
    kind = detail["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        entry = _ENTRIES[str(place[0])] if len(place) > 1 else StudyFile
        return f"there is no such key; {nearest(str(place[-1]), [f.name for f in dataclasses.fields(entry)])}"
    if kind in ("missing", "missing_argument"):
        return "is missing"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    expected = {"tuple_type": "a list", "dataclass_type": "a table", "string_type": "a text", "dict_type": "a table"}
    if kind in expected:
        return f"expected {expected[kind]}, not {detail['input']!r}"
    return str(detail["msg"])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items() if item is not None) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return '"none"' if value is None else json.dumps(value, ensure_ascii=False)
