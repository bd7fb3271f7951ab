"""Clock: how long a round takes, in seconds. Named ones, one's own from a file, or fitted to measurements."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from .. import settings_files
from ..errors import InputError, InputLimitError, by_name, nearest, shown

Context = Literal["generated", "all"]

_COEFFICIENTS = ("base", "per_request", "per_context_token", "per_prompt_token", "per_swapped_token")

#: Unit of a clock file -> seconds in it.
UNITS: Mapping[str, float] = MappingProxyType({"s": 1.0, "ms": 1e-3, "us": 1e-6})


#: The largest coefficient, in seconds: far beyond all machines, and no sum of rounds overflows.
LONGEST = 1e9


@dataclasses.dataclass(frozen=True)
class Clock:
    """A linear model of the duration of a round, in seconds.

    duration = base + per_request·(batch size) + per_context_token·(context) + per_prompt_token·(tokens prefilled)
    + per_swapped_token·(tokens moved), evaluated left to right in double precision.

    Attributes
    ----------
    base
        Seconds of a round whatever it holds.
    per_request
        Seconds for each running request.
    per_context_token
        Seconds for each token of context, summed over the batch, held before the round.
    per_prompt_token
        Seconds for each token prefilled in the round: prompts of the requests admitted in it, and the tokens they kept
        under ``resume="recompute"``.
    per_swapped_token
        Seconds for each token moved out of the cache by an eviction or back in by an admission (``resume="swap"``).
    context
        What counts as context: ``"generated"`` tokens only, or ``"all"`` tokens, the prompt included.
    source
        Where the numbers come from.

    Raises
    ------
    InputError
        A coefficient is negative, not a number or above 1e9, or time would stand still (base and per_request both 0).
    """

    base: float
    per_request: float = 0.0
    per_context_token: float = 0.0
    per_prompt_token: float = 0.0
    per_swapped_token: float = 0.0
    context: Context = "all"
    source: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in _COEFFICIENTS:
            value = getattr(self, name)
            if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
                raise InputError(f"clock coefficient {name}={value!r} is not a number of seconds")
            if value > LONGEST and value != math.inf:
                raise InputError(f"clock coefficient {name}={shown(value)} is more than {LONGEST:g} seconds")
            if not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"clock coefficient {name}={shown(value)} must be a finite number of seconds, at least 0"
                )
            object.__setattr__(self, name, float(value))
        if not self.base + self.per_request > 0:
            raise InputError("a clock with base=0 and per_request=0 stands still: one of them must be greater than 0")
        if self.context not in get_args(Context):
            raise InputError(
                f"clock context={self.context!r} is unknown; {nearest(str(self.context), get_args(Context))}"
            )

    @overload
    def duration(self, batch: int, context: int, prefilled: int = 0, swapped: int = 0) -> float: ...

    @overload
    def duration(
        self,
        batch: npt.NDArray[Any],
        context: npt.NDArray[Any],
        prefilled: npt.NDArray[Any] | int = 0,
        swapped: npt.NDArray[Any] | int = 0,
    ) -> npt.NDArray[np.float64]: ...

    def duration(self, batch: Any, context: Any, prefilled: Any = 0, swapped: Any = 0) -> Any:
        """Seconds of a round: `batch` requests, tokens of context held before it, tokens prefilled, tokens moved.

        Of several rounds if these are arrays.
        """
        return (
            self.base
            + self.per_request * batch
            + self.per_context_token * context
            + self.per_prompt_token * prefilled
            + self.per_swapped_token * swapped
        )

    def fields(self) -> dict[str, Any]:
        """The coefficients and the source as a plain dict."""
        return dataclasses.asdict(self)

    # Files ---------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Clock:
        """The clock in a file: JSON if its name ends in .json, else TOML.

        The keys are the attributes, of which `base` or `per_request` must be there, and `unit`, which says what the
        coefficients are in: "s", "ms" or "us". For example::

            unit = "ms"
            base = 44.6
            per_request = 0.52
            per_context_token = 0.0027
            per_prompt_token = 0.378
            context = "generated"
            source = "measured on our own machine"

        Raises InputError, naming the file, if it is not TOML (JSON), lacks the unit, has an unknown key or unit (the
        nearest is suggested), or a coefficient is impossible; OSError if it cannot be read.
        """
        name = os.fspath(path)
        kind = "JSON" if _is_json(name) else "TOML"
        try:
            values = settings_files.parsed(settings_files.read_text(name), kind)
        except InputLimitError:
            raise
        except ValueError as error:  # what parsing and the decoding of text raise
            raise InputError(f"clock file {name}: not {kind}: {error}") from None
        try:
            return cls.from_values(values)
        except InputError as error:
            raise InputError(f"clock file {name}: {error}") from None

    @classmethod
    def from_values(cls, values: Any) -> Clock:
        """The clock with the keys and values of a file, `unit` among them. Raises InputError as `read` does."""
        if not isinstance(values, dict):
            raise InputError("expected keys and values, such as base = 44.6")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in (*known, "unit"):
                raise InputError(f"there is no key {key!r}; {nearest(key, ['unit', *known])}")
        if "unit" not in values:
            raise InputError('the unit of the coefficients is missing: write unit = "s", "ms" or "us"')
        unit = values["unit"]
        if not isinstance(unit, str) or unit not in UNITS:
            raise InputError(f"the unit {unit!r} is unknown; {nearest(str(unit), UNITS)}")
        if not isinstance(values.get("source", ""), str):
            raise InputError(f"source={values['source']!r} is not a text")
        fields = {"base": 0.0} | {key: value for key, value in values.items() if key != "unit"}
        numbers = cls(**fields)  # refuses what is not a number before it is converted
        return dataclasses.replace(numbers, **{k: getattr(numbers, k) * UNITS[unit] for k in _COEFFICIENTS})

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the clock in seconds, as `read` reads it: JSON if the name ends in .json, else TOML."""
        import json

        values = {"unit": "s", **self.fields()}
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        text = json.dumps(values, indent=2) if _is_json(os.fspath(path)) else "\n".join(lines)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")

    # Measurements --------------------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, table: Any, *, context: Context = "all", relative: bool = False, source: str = "fitted") -> ClockFit:
        """The clock that comes nearest to measured rounds, by least squares with no coefficient below 0.

        Parameters
        ----------
        table
            A mapping of columns, or a dataframe (pandas, polars, Arrow), with a row per measured round: ``seconds`` it
            took and the ``batch`` size, and where these were recorded the tokens of ``context`` held before the round,
            ``prefilled`` and ``swapped`` in it. The coefficient of a column that is not there is 0.
        context
            What the column of that name counts: ``"all"`` tokens or ``"generated"`` ones.
        relative
            Weigh errors as shares of the seconds instead of in seconds, so that long rounds (prefill) do not decide
            alone.
        source
            Where the measurements come from; kept in the clock.

        Raises
        ------
        InputError
            A column is missing or unknown, a value is impossible (names column and row), the table cannot tell the
            terms apart (names the columns), or the clock that fits best would stand still.
        """
        columns = _columns(table)
        seconds = columns.pop("seconds")
        terms = {"constant": np.ones(len(seconds)), **columns}
        matrix = np.column_stack(list(terms.values()))
        _check_identified(matrix, list(terms))
        weights = 1 / seconds if relative else np.ones(len(seconds))
        coefficients = _non_negative(matrix * weights[:, None], seconds * weights)
        residuals = seconds - matrix @ coefficients
        found = dict(zip(terms, coefficients.tolist(), strict=True))
        if not found["constant"] + found["batch"] > 0:
            raise InputError("the clock that fits best has base = per_request = 0 and stands still: check the columns")
        clock = cls(**{_TERMS[term]: value for term, value in found.items()}, context=context, source=source)
        spread = float(((seconds - seconds.mean()) ** 2).sum())
        r2 = 1 - float((residuals**2).sum()) / spread if spread > 0 else math.nan
        return ClockFit(clock, r2, residuals, seconds)


@dataclasses.dataclass(frozen=True, eq=False)
class ClockFit:
    """What `Clock.fit` found.

    Attributes
    ----------
    clock
        The fitted clock.
    r2
        Share of the variance of the measured seconds that it explains: 1 is perfect; NaN if they do not vary.
    residuals
        Measured minus fitted seconds, one per row.
    seconds
        The measured seconds.
    """

    clock: Clock
    r2: float
    residuals: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]

    @property
    def mean_error(self) -> float:
        """Mean over the rows of the size of the residual as a share of the measured seconds."""
        return float(np.mean(np.abs(self.residuals) / self.seconds))

    def summary(self) -> dict[str, Any]:
        """The coefficients in seconds and how well they fit, as a plain dict."""
        return {**self.clock.fields(), "r2": self.r2, "mean_error": self.mean_error, "rows": len(self.seconds)}


# Term of the fit -> coefficient; all but the constant are columns of the table.
_TERMS = MappingProxyType(
    {
        "constant": "base",
        "batch": "per_request",
        "context": "per_context_token",
        "prefilled": "per_prompt_token",
        "swapped": "per_swapped_token",
    }
)
_COLUMNS = ("batch", "context", "prefilled", "swapped", "seconds")


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def _columns(table: Any) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of a table of measurements, checked, in the order of `_COLUMNS`."""
    names: Sequence[str] | None = getattr(table, "column_names", None)  # Arrow
    if names is None:
        names = list(table.keys()) if hasattr(table, "keys") else getattr(table, "columns", None)
    if names is None or callable(names):
        raise InputError(f"expected a mapping of columns or a dataframe, not {type(table).__name__}")
    for name in names:
        if name not in _COLUMNS:
            raise InputError(f"the measurements have an unknown column {name!r}; {nearest(str(name), _COLUMNS)}")
    for name in ("batch", "seconds"):
        if name not in names:
            raise InputError(f"the measurements lack the column {name!r}; there are: {', '.join(names) or 'none'}")
    columns = {name: _numbers(name, table[name]) for name in _COLUMNS if name in names}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        found = ", ".join(f"{len(column)} of {name}" for name, column in columns.items())
        raise InputError(f"the columns of the measurements have different lengths: {found}")
    return columns


def _numbers(name: str, values: Any) -> npt.NDArray[np.float64]:
    least, strict = (0.0, True) if name == "seconds" else (1.0, False) if name == "batch" else (0.0, False)
    expected = "greater than 0" if strict else f"at least {least:g}"
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        for row, value in enumerate(values):
            try:
                float(value)
            except (TypeError, ValueError):
                raise InputError(
                    f"measurements, row {row} (from 0): {name}={value!r} is not a number {expected}"
                ) from None
        raise InputError(f"the column {name!r} of the measurements is not a list of numbers") from None
    if column.ndim != 1:
        raise InputError(f"the column {name!r} of the measurements has {column.ndim} dimensions, expected 1")
    good = np.isfinite(column) & ((column > least) if strict else (column >= least))
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"measurements, row {row} (from 0): {name}={column[row]:g} is not a number {expected}")
    return column


def _check_identified(matrix: npt.NDArray[np.float64], terms: list[str]) -> None:
    """Refuse a table in which some columns say the same as others, naming them."""
    rows, count = matrix.shape
    if rows < count:
        raise InputError(
            f"{rows} rows of measurements cannot tell {count} coefficients apart ({', '.join(terms)}): measure more, "
            "or leave columns out"
        )
    empty = [term for term, column in zip(terms, matrix.T, strict=True) if not column.any()]
    if empty:
        raise InputError(
            f"the measurements cannot identify the cost of {' and '.join(empty)}: all values are 0. Measure rounds "
            "that have some, or leave the column out"
        )
    scaled = matrix / np.linalg.norm(matrix, axis=0)
    _, sizes, directions = np.linalg.svd(scaled, full_matrices=False)
    null = directions[sizes < 1e-10 * sizes[0]]
    if len(null):
        tangled = [term for term, weight in zip(terms, np.abs(null).max(axis=0), strict=True) if weight > 1e-6]
        raise InputError(
            f"the measurements cannot tell apart the costs of {', '.join(tangled)}: these columns determine each other "
            "in every row (a column that never changes is the same as the constant). Measure rounds in which they "
            "vary independently, or leave a column out"
        )


def _non_negative(matrix: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The x >= 0 with the least \\|matrix x - values\\|, for a matrix of full rank with a handful of columns.

    The answer solves the unconstrained problem on its own support: the best feasible one of all supports is it.
    """
    count = matrix.shape[1]
    scale = np.linalg.norm(matrix, axis=0)
    best, least = np.zeros(count), float(values @ values)
    for size in range(1, count + 1):
        for support in map(list, itertools.combinations(range(count), size)):
            solution = np.linalg.lstsq(matrix[:, support] / scale[support], values, rcond=None)[0] / scale[support]
            if (solution < 0).any():
                continue
            error = float(((matrix[:, support] @ solution - values) ** 2).sum())
            if error < least:
                best, least = np.zeros(count), error
                best[support] = solution
    return best


_SPLITWISE = (
    "fitted (relative least squares) to the medians of data/perf_model.csv in github.com/Mutinifni/splitwise-sim: "
    "Patel et al., Splitwise, ISCA 2024; measured rounds of token generation are met within {decode} %, of prompts "
    "within {prefill} %"
)

#: Named clocks: name -> Clock, each with its source.
clocks: Mapping[str, Clock] = by_name(
    {
        "llama2-70b-2xa100": Clock(
            base=0.0446,
            per_request=0.00052,
            per_context_token=0.0000027,
            per_prompt_token=0.000378,
            context="generated",
            source="Llama-2-70B on two A100: arXiv 2508.14544, Section 6; 2502.07115's code counts generated tokens",
        ),
        "llama2-70b-4xa100": Clock(
            base=0.041,
            per_context_token=0.000000809,
            per_prompt_token=0.000226,
            source=f"Llama-2-70B on four A100 80GB, {_SPLITWISE.format(decode=8, prefill=35)}",
        ),
        "llama2-70b-8xa100": Clock(
            base=0.0419,
            per_request=0.0000508,
            per_context_token=0.000000692,
            per_prompt_token=0.000144,
            source=f"Llama-2-70B on eight A100 80GB, {_SPLITWISE.format(decode=7, prefill=42)}",
        ),
        "llama2-70b-2xh100": Clock(
            base=0.0346,
            per_request=0.000266,
            per_context_token=0.000000509,
            per_prompt_token=0.000129,
            source=f"Llama-2-70B on two H100 80GB, {_SPLITWISE.format(decode=8, prefill=32)}",
        ),
        "llama2-70b-4xh100": Clock(
            base=0.0283,
            per_request=0.000237,
            per_context_token=0.000000176,
            per_prompt_token=0.000091,
            source=f"Llama-2-70B on four H100 80GB, {_SPLITWISE.format(decode=7, prefill=27)}",
        ),
        "llama2-70b-8xh100": Clock(
            base=0.029,
            per_request=0.000165,
            per_context_token=0.000000288,
            per_prompt_token=0.0000674,
            source=f"Llama-2-70B on eight H100 80GB, {_SPLITWISE.format(decode=5, prefill=35)}",
        ),
    },
    "clock",
)


def named(clock: str | Clock | None) -> Clock | None:
    """The clock itself, or the named one. Raises InputError, with the nearest name, for an unknown one."""
    if clock is None or isinstance(clock, Clock):
        return clock
    if not isinstance(clock, str):
        raise InputError(f"a clock is a name or a llmsched.Clock, not {type(clock).__name__}")
    return clocks[clock]


def parse(text: str) -> Clock:
    """The clock written as on the command line: a name, or a file (see `Clock.read`).

    Raises InputError, with the nearest name, if it is neither, and as `Clock.read` does.
    """
    if text in clocks:
        return clocks[text]
    if text.lower().endswith((".toml", ".json")) or os.path.exists(text):
        return Clock.read(text)
    raise InputError(f"there is no clock {text!r}; {nearest(text, clocks)}; or the name of a .toml or .json file")
