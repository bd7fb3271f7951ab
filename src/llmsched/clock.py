"""Clock: how long a round takes, in seconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from .errors import InputError, nearest

Context = Literal["generated", "all"]

_COEFFICIENTS = ("base", "per_request", "per_context_token", "per_prompt_token", "per_swapped_token")


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
        A coefficient is negative or not a number, or time would stand still (base and per_request both 0).
    """

    base: float
    per_request: float = 0.0
    per_context_token: float = 0.0
    per_prompt_token: float = 0.0
    per_swapped_token: float = 0.0
    context: Context = "all"
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in _COEFFICIENTS:
            value = getattr(self, name)
            if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
                raise InputError(f"clock coefficient {name}={value!r} is not a number of seconds")
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"clock coefficient {name}={value!r} must be a finite number of seconds, at least 0")
            object.__setattr__(self, name, float(value))
        if not self.base + self.per_request > 0:
            raise InputError("a clock with base=0 and per_request=0 stands still: one of them must be greater than 0")
        if self.context not in get_args(Context):
            raise InputError(
                f"clock context={self.context!r} is unknown; {nearest(str(self.context), get_args(Context))}"
            )

    def duration(self, batch: int, context: int, prefilled: int = 0, swapped: int = 0) -> float:
        """Seconds of a round: `batch` requests, tokens of context held before it, tokens prefilled, tokens moved."""
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


#: Named clocks: name -> Clock, each with its source.
clocks: Mapping[str, Clock] = MappingProxyType(
    {
        "llama2-70b-2xa100": Clock(
            base=0.0446,
            per_request=0.00052,
            per_context_token=0.0000027,
            per_prompt_token=0.000378,
            context="generated",
            source="Llama-2-70B on two A100: arXiv 2508.14544, Section 6; 2502.07115's code counts generated tokens",
        ),
    }
)


def named(clock: str | Clock | None) -> Clock | None:
    """The clock itself, or the named one. Raises InputError, with the nearest name, for an unknown one."""
    if clock is None or isinstance(clock, Clock):
        return clock
    if not isinstance(clock, str):
        raise InputError(f"a clock is a name or a llmsched.Clock, not {type(clock).__name__}")
    if clock not in clocks:
        raise InputError(f"there is no clock {clock!r}; {nearest(clock, clocks)}")
    return clocks[clock]
