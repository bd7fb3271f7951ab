"""The tables of the study file, each a dataclass with its keys, their types, defaults and meanings."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..errors import InputError, MissingExtraError, nearest, shown
from ..workloads.argument_checks import decimal_fraction, whole

try:
    from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
    from pydantic.dataclasses import dataclass
except ImportError:
    raise MissingExtraError("pydantic", "study", "a study") from None

from ..fleet import router as routers
from ..metrics import catalogue, energy, service, steady_state
from ..policy import CHOICES, Policy, composed, policies
from ..policy_files import from_code
from ..predict import intervals as rules
from ..simulation import clock as clocks
from ..simulation import machine
from ..workloads import generate, traces

if TYPE_CHECKING:
    from .statistics import Precision

CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)


# Kinds of values ------------------------------------------------------------------------------------------------------


def count_of(name: str, least: int = 1, **most: int) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value is None else whole(name, value, least, **most))


def amount_of(name: str, least: float, open_: bool = True, most: float = math.inf) -> BeforeValidator:
    return BeforeValidator(_amount_of(name, least, open_, most))


def _amount_of(name: str, least: float, open_: bool = True, most: float = math.inf) -> Callable[[Any], Any]:
    def check(value: Any) -> float | None:
        if value is None:
            return None
        try:
            number = float(decimal_fraction(value))
        except (InputError, OverflowError):
            number = math.nan
        if not ((number > least if open_ else number >= least) and number <= most):
            limit = "greater than" if open_ else "at least"
            upto = "" if math.isinf(most) else f" and at most {most:g}"
            raise InputError(f"{name} must be a number {limit} {least:g}{upto}, not {shown(value)}")
        return number

    return check


_rate = _amount_of("rate", 0)


def limits_of(name: str) -> BeforeValidator:
    """A whole number from 1, or `none` for no limit."""
    return BeforeValidator(lambda value: None if value in (None, "none") else whole(name, value, 1))


def one_or_more(value: Any) -> Any:
    """A value alone is a list of one; nothing is an empty list."""
    return () if value is None else value if isinstance(value, (list, tuple)) else (value,)


ONE_OR_MORE = BeforeValidator(one_or_more)


def rates_of(value: Any) -> float | tuple[float, ...] | None:
    """One rate, or a list of several."""
    rates = tuple(map(_rate, one_or_more(value)))
    if value is None:
        return None
    if not rates:
        raise InputError("rate is an empty list: give at least one")
    no_twins("rate", rates)
    return rates if len(rates) > 1 else rates[0]


def no_twins(key: str, names: Sequence[Any]) -> None:
    """Raise InputError if a name is there twice."""
    twins = sorted(str(name) for name, count in Counter(names).items() if count > 1)
    if twins:
        raise InputError(f"{key}: {twins[0]!r} is there twice: leave one out, or give it another name")


def word_of(what: str, words: Iterable[str]) -> BeforeValidator:
    known = list(words)

    def check(value: Any) -> Any:
        if value is not None and (not isinstance(value, str) or value not in known):
            raise InputError(f"there is no {what} {value!r}; {nearest(str(value), known)}")
        return value

    return BeforeValidator(check)


def short_for(key: str) -> BeforeValidator:
    """An entry may be written as a text alone, which stands for the table with that one key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _no_text_alone(value: Any) -> Any:
    if isinstance(value, str):
        raise InputError(f"expected a list, such as [{value!r}]")
    return value


LIST = BeforeValidator(_no_text_alone)


def _metric(name: Any) -> str:
    return catalogue.find(str(name)).name


METRIC = BeforeValidator(_metric)


def _generator(text: Any) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise InputError(f"expected a generator such as 'lmsys', not {text!r}")
    generate.parse(text, 1)
    return text


def _rule(text: Any) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise InputError(f"expected a rule such as 'buckets:100', not {text!r}")
    if text == "given":
        return text
    if text.partition(":")[0] not in rules.FORMS:
        raise InputError(
            f"there is no interval rule {text!r}; {nearest(text.partition(':')[0], ['given', *rules.FORMS])}"
        )
    rules.parse(text)
    return text


def _clock(text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"expected the name of a clock or of a file, not {text!r}")
    if not text.lower().endswith((".toml", ".json")):
        clocks.named(text)
    return text


CLOCK = BeforeValidator(_clock)


def _machine(text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"expected the name of a machine or of a file, not {text!r}")
    if not text.lower().endswith((".toml", ".json")):
        machine.named(text)
    return text


MACHINE = BeforeValidator(_machine)


def _router(name: Any) -> Any:
    routers.named(name)  # refuses what is none
    return name


#: The name of a router, or one with other fields.
ROUTER = BeforeValidator(_router)


class ShowsWhatIsGiven:
    """An entry of a study file, whose `repr` leaves out the many keys that have their default."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # of the classes below, which are dataclasses
        values = [(field, getattr(self, field.name, field.default)) for field in fields]  # which a mistake leaves unset
        given = ", ".join(f"{field.name}={value!r}" for field, value in values if value not in (None, field.default))
        return f"{type(self).__name__}({given})"


# Entries --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class WorkloadEntry(ShowsWhatIsGiven):
    """One entry of `workloads`: where the requests of a replication come from, and when they arrive.

    A text alone is a generator: ``workloads = ["lmsys"]``.
    """

    name: str = ""
    """What it is called in the results; by default the generator, or the name of the trace's file."""
    generator: Annotated[str | None, BeforeValidator(_generator)] = None
    """A distribution, drawn anew in each replication, such as `lmsys` or `two_point:10,40,0.8`."""
    trace: str | None = None
    """Instead of a generator: a trace file, relative to the study file (or to `--traces DIR`)."""
    format: Annotated[str | None, word_of("trace format", traces.FORMATS)] = None
    """The format of the trace; by default found out."""
    requests: Annotated[int | None, count_of("requests")] = None
    """Requests in a replication; by default 1,000 of a generator, and as many as a trace has."""
    sample: Annotated[
        Literal["resample", "window", "whole"], word_of("way to sample", ["resample", "window", "whole"])
    ] = "resample"
    """What a replication takes of a trace: `resample` draws requests with replacement, `window` takes consecutive ones
    from a random place, with their arrival times, `whole` the first ones, always the same."""
    arrivals: Annotated[
        Literal["at_once", "poisson", "gamma", "trace"] | None,
        word_of("kind of arrivals", ["at_once", "poisson", "gamma", "trace"]),
    ] = None
    """`at_once` (at 0), `poisson`, `gamma` (bursty), or `trace` (the trace's own times). By default `poisson` if there
    is a `rate`, `gamma` if there is a `cv` too; else `trace` for a window or a whole trace, and `at_once`."""
    rate: Annotated[float | tuple[float, ...] | None, BeforeValidator(rates_of)] = None
    """Requests per second with a clock, else per round; for `poisson` and `gamma`. A list makes the rate a factor: the
    workload is simulated at each of them, and the results have a column `rate`."""
    cv: Annotated[float | None, amount_of("cv", 0, open_=False, most=1000)] = None
    """Standard deviation over mean of the gaps between `gamma` arrivals: 1 is Poisson, more is burstier."""
    speed: Annotated[float | None, amount_of("speed", 0)] = None
    """For the trace's own times: they are divided by this."""

    def __post_init__(self) -> None:
        if (self.generator is None) == (self.trace is None):
            raise InputError("give either a generator or a trace, not both and not none")
        _default_name(self, self.generator or Path(self.trace or "").stem)
        implied = "at_once" if self.generator or self.sample == "resample" else "trace"
        if self.rate is not None:
            implied = "poisson" if self.cv is None else "gamma"
        object.__setattr__(self, "arrivals", self.arrivals or implied)
        if self.generator is not None:
            object.__setattr__(self, "requests", self.requests or 1000)
            if self.sample != "resample" or self.format is not None:
                raise InputError("sample and format are for traces: leave them out with a generator")
        if self.arrivals == "trace" and implied != "trace":
            raise InputError('arrivals = "trace" needs a trace with sample = "window" or "whole", and no rate')
        uses = {"rate": ("poisson", "gamma"), "cv": ("gamma",), "speed": ("trace",)}
        for key, kinds in uses.items():
            if getattr(self, key) is not None and self.arrivals not in kinds:
                raise InputError(
                    f'{key} has no meaning with arrivals = "{self.arrivals}", only with {" and ".join(kinds)}'
                )
            if getattr(self, key) is None and self.arrivals in kinds and key != "speed":
                raise InputError(f'arrivals = "{self.arrivals}" needs {key}')

    def at(self, rates: float | tuple[float, ...]) -> WorkloadEntry:
        """The same with these rates of Poisson arrivals. Raises InputError if it says itself when requests arrive."""
        given = next((key for key in ("rate", "speed") if getattr(self, key) is not None), None)
        if given is not None:
            raise InputError(
                f"workload {self.name!r} has a {given} of its own, and rates are for all: give one of them"
            )
        return dataclasses.replace(self, rate=rates, arrivals=None)

    @property
    def rates(self) -> tuple[float | None, ...]:
        """All its rates; (None,) if it has none."""
        return self.rate if isinstance(self.rate, tuple) else (self.rate,)


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class IntervalsEntry(ShowsWhatIsGiven):
    """One entry of `intervals`: what the policies are told about output lengths.

    A text alone is a rule: ``intervals = ["buckets:100"]``.
    """

    name: str = ""
    """What it is called in the results; by default the rule."""
    rule: Annotated[str | None, BeforeValidator(_rule)] = None
    """`exact`, `constant:1,1000`, `buckets:100`, `relative:0.95`, `noisy:COVERAGE,WIDTH` or `realistic` (err
    anew in each replication), or `given`: the predictions that are in the trace or come with the generator."""
    predictions: str | None = None
    """Instead of a rule, what a predictor said: a file with the requests of the trace and their predictions, as
    `llmsched.traces.write` writes it. Relative to the study file, like the trace."""

    def __post_init__(self) -> None:
        if (self.rule is None) == (self.predictions is None):
            raise InputError("give either a rule or a file of predictions, not both and not none")
        _default_name(self, self.rule or Path(str(self.predictions)).stem)


def _with_fields_of_policies(entry: type) -> type:
    """The class with a key for each field of a policy, described as there; None leaves the base's."""
    about = _attributes(inspect.getdoc(Policy) or "")  # from Python 3.13 on docstrings are indented otherwise
    for field in dataclasses.fields(Policy):
        entry.__annotations__[field.name] = (str if field.name in CHOICES else float) | None
        setattr(entry, field.name, Field(default=None, description=about.get(field.name)))
    return entry


def _attributes(docstring: str) -> dict[str, str]:
    """What the section of attributes of a docstring says about each; of several together, about the first."""
    section = re.search(r"Attributes\n-+\n(.*?)(\n\n|$)", docstring, re.DOTALL)
    about: dict[str, str] = {}
    for names, text in re.findall(r"^(\w.*)\n((?: {4}.*\n?)+)", section[1] if section else "", re.MULTILINE):
        first, *others = names.split(", ")
        about[first] = re.sub(r'``"(\w+)"``', r"`\1`", " ".join(text.split())).replace("``", "`")
        about |= dict.fromkeys(others, f"See `{first}`.")
    return about


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
@_with_fields_of_policies
class PolicyEntry(ShowsWhatIsGiven):
    """One entry of `policies`: a named policy, or one composed of the fields of `llmsched.Policy`.

    A text alone is a named policy: ``policies = ["hsf", "amin"]``.
    """

    name: str = ""
    """What it is called in the results; by default the base, if no field is changed."""
    base: Annotated[str, word_of("policy", policies)] | None = None
    """The named policy that has the fields not given here; by default amin."""
    python: str | None = None
    """Instead, a subclass of `Policy`, or a policy, in a file of Python: `mine.py:Ageing`, relative to the study file.
    What a subclass does not decide is the base's. The file is run."""

    @field_validator(*(f.name for f in dataclasses.fields(Policy)), mode="before", check_fields=False)
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            Policy(**{str(info.field_name): value})  # says what is wrong with it
        return value

    def __post_init__(self) -> None:
        changed = [f.name for f in dataclasses.fields(Policy) if getattr(self, f.name) is not None]
        if changed and not self.name:
            raise InputError("a policy composed of fields needs a name")
        _default_name(self, self.base or "amin" if self.python is None else self.python.rpartition(":")[2])

    def policy(self, folder: Path = Path()) -> Policy:
        """The policy that this describes; files are relative to `folder`."""
        keys = ("base", *(f.name for f in dataclasses.fields(Policy)))
        values = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        return composed(values) if self.python is None else from_code(self.python, folder, values)


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class CellsEntry(ShowsWhatIsGiven):
    """One entry of `cells`: a block of the design, the cross of what is named in it. What is not named: all there are.

    Without any entry the design is the full cross of all factors.
    """

    workloads: Annotated[tuple[str, ...] | None, LIST] = None
    """Names of workloads."""
    intervals: Annotated[tuple[str, ...] | None, LIST] = None
    """Names of interval settings."""
    policies: Annotated[tuple[str, ...] | None, LIST] = None
    """Names of policies."""
    memories: tuple[Annotated[int, count_of("a memory")], ...] | None = None
    """Tokens of KV cache."""
    clocks: Annotated[tuple[str, ...] | None, LIST] = None
    """Names of clocks."""
    machines: Annotated[tuple[str, ...] | None, LIST] = None
    """Names of machines."""
    rates: tuple[Annotated[float, amount_of("rate", 0)], ...] | None = None
    """Rates of workloads."""
    max_batch: tuple[Annotated[int | None, limits_of("max_batch")], ...] | None = None
    """Most requests that run at once; `"none"` for no limit."""
    block: tuple[Annotated[int, count_of("block")], ...] | None = None
    """Tokens in a block of cache."""
    prefill_budget: tuple[Annotated[int | None, limits_of("prefill_budget")], ...] | None = None
    """Most tokens that a round processes; `"none"` for no limit."""
    replicas: tuple[Annotated[int, count_of("replicas")], ...] | None = None
    """Numbers of replicas."""
    routers: Annotated[tuple[str, ...] | None, LIST] = None
    """Names of routers."""


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class PrecisionEntry(ShowsWhatIsGiven):
    """The table `precision`: instead of a number of replications, how narrow the confidence intervals have to be.

    Every cell gets replications until the interval of its mean is narrow enough.
    """

    metric: Annotated[str, METRIC] = "mean_latency"
    """The metric whose mean is to be known; it must be among the metrics of the study."""
    relative: Annotated[float | None, amount_of("relative", 0)] = None
    """Half the width of the interval, as a share of the mean's magnitude."""
    absolute: Annotated[float | None, amount_of("absolute", 0)] = None
    """Half the width of the interval, in the metric's unit. With both, the wider one will do."""
    confidence: Annotated[float, amount_of("confidence", 0.5, open_=False, most=0.999)] = 0.95
    """Probability with which the interval contains the mean."""
    first: Annotated[int, count_of("first", 16)] = 32
    """Replications that every cell gets before its precision is looked at."""
    most: Annotated[int, count_of("most", 16)] = 100_000
    """Replications at which a cell is given up."""

    def __post_init__(self) -> None:
        self.rule()

    def rule(self) -> Precision:
        """What the statistics make of it. Raises InputError if the values do not go together."""
        from .statistics import Precision  # it needs scipy

        return Precision(self.relative, self.absolute, self.confidence, self.first, self.most)


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class ServiceEntry(ShowsWhatIsGiven):
    """The table `service`: how the service metrics (`ttft_p99`, `goodput`, ...) are taken."""

    slo: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Targets that define `goodput`, such as `{ ttft = 1.0, tpot = 0.1 }`."""
    warmup: Annotated[float, amount_of("warmup", 0, open_=False)] = 0.0
    """Time cut off at the begin."""
    drain: Annotated[float, amount_of("drain", 0, open_=False)] = 0.0
    """Time cut off before the end."""

    @field_validator("slo", mode="after")
    @classmethod
    def _targets(cls, value: dict[str, Any]) -> dict[str, Any]:
        return service.limits(value)


def _switch(value: Any) -> Any:
    """`true` is the table with its defaults, `false` none."""
    return {} if value is True else None if value is False else value


SWITCH = BeforeValidator(_switch)


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class SteadyStateEntry(ShowsWhatIsGiven):
    """The table `steady_state`: every simulation is one long run whose warm-up is cut off, found by MSER-5.

    ``steady_state = true`` stands for the table with its defaults. The metrics `steady_latency`, `steady_half`,
    `steady_dropped` and `steady_doubts` are added to those of the study, and service metrics leave out the warm-up.
    """

    batches: Annotated[int, count_of("batches", 2)] = steady_state.BATCHES
    """Batches of the batch means that `steady_half` is from."""
    method: Annotated[Literal["batches", "overlapping"], word_of("method", steady_state.METHODS)] = "batches"
    """`batches` next to each other, or `overlapping` ones."""
    confidence: Annotated[float, amount_of("confidence", 0.5, open_=False, most=0.999)] = 0.95
    """Probability with which the interval of half-width `steady_half` contains the mean."""
    last: Annotated[float, amount_of("last", 0, open_=False, most=0.5)] = 0.1
    """Share of the requests that is left out at the end: the last ones see no arrivals after them."""


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class PowerEntry(ShowsWhatIsGiven):
    """The table `power`: the watts that the machine draws, which metrics of energy need; they need a clock as well.

    A text alone is a named power model: ``power = "example-2xa100"``.
    """

    model: Annotated[str | None, word_of("power model", energy.powers)] = None
    """A named power model, instead of the watts below."""
    idle: Annotated[float | None, amount_of("idle", 0, open_=False)] = None
    """Watts while nothing runs."""
    busy: Annotated[float | None, amount_of("busy", 0, open_=False)] = None
    """Watts of a round before what it holds; by default as much as `idle`."""
    per_request: Annotated[float, amount_of("per_request", 0, open_=False)] = 0.0
    """Watts for each running request."""
    per_token: Annotated[float, amount_of("per_token", 0, open_=False)] = 0.0
    """Watts for each token processed in the round."""
    limit: Annotated[float | None, amount_of("limit", 0)] = None
    """The most that it can draw; by default there is no limit."""

    def __post_init__(self) -> None:
        watts = [f.name for f in dataclasses.fields(self) if f.name != "model" and getattr(self, f.name) != f.default]
        if self.model is not None and watts:
            raise InputError(f"give either a named model or watts ({', '.join(watts)}), not both")
        if self.model is None and self.idle is None:
            raise InputError(f"give a named model ({', '.join(energy.powers)}) or at least the watts when idle")
        self.power()

    def power(self) -> energy.Power:
        """The power model that this describes. Raises InputError if the watts make none."""
        if self.model is not None:
            return energy.powers[self.model]
        limit = math.inf if self.limit is None else self.limit
        return energy.Power(self.idle or 0.0, self.per_request, self.per_token, self.busy, limit)


def _default_name(entry: Any, name: str) -> None:
    object.__setattr__(entry, "name", entry.name or name)
