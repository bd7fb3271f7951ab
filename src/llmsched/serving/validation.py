"""Validation: the times of a real run against those of a simulation of it.

found = ls.serving.validate("run/", "vllm:max-num-seqs=256", clock="clock.toml")
found.errors["latency"]["mean"]   # signed: 0.02 is 2 % too long
print(found.verdict)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..html_tables import table
from ..metrics.figure_style import Panels
from ..progress import with_seconds
from ..simulation.clock import Clock
from ..workloads.columns import FloatArray
from . import logs
from .log_rows import OnError
from .published_clocks import parse as parse_clock
from .records import Log, Requests
from .search import search
from .systems import System, of_log
from .validation_figure import draw

__all__ = ["METRICS", "STATISTICS", "Validation", "validate"]

#: What is compared, in seconds, and how a figure names it.
METRICS: Mapping[str, str] = {
    "latency": "latency",
    "ttft": "time to the first token",
    "tpot": "time per output token",
}
STATISTICS = ("mean", "p50", "p90", "p99")
#: Errors up to this are what a reader may call right, up to that roughly right.
_GOOD, _ROUGH = 0.05, 0.15


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """What was measured and what was simulated.

    Attributes
    ----------
    measured, simulated
        Of the requests that count, by arrival.
    system, clock
        What was simulated.
    fitted
        Requests that the clock was fitted to, which do not count; 0 if it was given.
    notes
        What was decided or left out, in words.
    """

    measured: Requests
    simulated: Requests
    system: System
    clock: Clock
    fitted: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Validation({len(self.measured)} requests of {self.system.name}. {self.verdict})"

    @property
    def statistics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Metric -> statistic -> measured and simulated seconds; metrics that the log does not have are left out."""
        return {
            name: {
                which: {"measured": _statistic(real, which), "simulated": _statistic(made, which)}
                for which in STATISTICS
            }
            for name, (real, made) in self._columns().items()
        }

    @property
    def errors(self) -> dict[str, dict[str, float]]:
        """Metric -> statistic -> simulated over measured, minus 1."""
        return {
            name: {which: pair["simulated"] / pair["measured"] - 1 for which, pair in of.items()}
            for name, of in self.statistics.items()
        }

    @property
    def per_request(self) -> dict[str, dict[str, float]]:
        """Metric -> mean, p50, p90 and p99 of the size of a request's own error, as a share."""
        return {
            name: {which: _statistic(np.abs(made / real - 1), which) for which in STATISTICS}
            for name, (real, made) in self._columns().items()
        }

    @property
    def verdict(self) -> str:
        """What the errors mean, in words: by the means, and by the median and the p99 of latency."""
        errors = self.errors
        judged = {
            (which, name): errors[name][which]
            for name, which in (
                ("latency", "mean"), ("latency", "p50"), ("latency", "p99"), ("ttft", "mean"), ("tpot", "mean"),
            )
            if name in errors
        }  # fmt: skip
        worst = max(judged, key=lambda one: abs(judged[one]))
        size = abs(judged[worst])
        if size <= _GOOD:
            others = {(which, name): error for name, of in errors.items() for which, error in of.items()}
            last = max(others, key=lambda one: abs(others[one]))
            but = f"; of other percentiles {_in_words(last, others[last])}" if abs(others[last]) > _GOOD else ""
            return (
                f"Means, and the median and p99 of latency, are right to within {_GOOD:.0%}: at worst "
                f"{_in_words(worst, judged[worst])}{but}."
            )
        advice = (
            "Compare policies with it, and calibrate the clock on a run at this load before you size anything"
            if size <= _ROUGH
            else "Do not use it: check the settings of --system, then calibrate the clock again"
        )
        word = "roughly right" if size <= _ROUGH else "off"
        return f"The simulation is {word}: {_in_words(worst, judged[worst])}. {advice}."

    def _repr_html_(self) -> str:
        rows = [
            (METRICS[name], which, pair["measured"], pair["simulated"], f"{self.errors[name][which]:+.1%}")
            for name, of in self.statistics.items()
            for which, pair in of.items()
        ]
        fitted = f", by a clock fitted to the {self.fitted:,} before" if self.fitted else ""
        return table(
            f"{len(self.measured):,} requests of {self.system.name}, measured and simulated{fitted}",
            rows,
            header=["", "", "measured (s)", "simulated (s)", "error"],
            note="\n".join([self.verdict, *self.notes]),
        )

    def summary(self) -> dict[str, Any]:
        """All of it as a plain dict, ready for JSON."""
        return {
            "requests": len(self.measured),
            "fitted": self.fitted,
            "system": str(self.system),
            "clock": self.clock.fields(),
            "statistics": self.statistics,
            "errors": self.errors,
            "per_request": self.per_request,
            "verdict": self.verdict,
            "notes": list(self.notes),
        }

    def plot(self, *, ax: Panels | None = None) -> Panels:
        """Draw the distributions of latency and of the time to the first token, and each request's latency.

        Draws on `ax`, three axes, or on a new figure, which alone gets a title; returns the axes, for
        `llmsched.metrics.figure_style.save`. Raises InputError for another number of axes, MissingExtraError without
        matplotlib.
        """
        kind = f"clock fitted to the {self.fitted:,} before" if self.fitted else "clock given"
        heading = (
            f"Measured and simulated: {len(self.measured):,} requests, {self.system.name}, {kind}; "
            f"mean latency {self.errors['latency']['mean']:+.1%}"
        )
        return draw(self.measured, self.simulated, heading, ax)

    def _columns(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Metric -> measured and simulated, of the requests that have it."""
        found = {}
        for name in METRICS:
            real, made = getattr(self.measured, name), getattr(self.simulated, name)
            there = np.isfinite(real) & np.isfinite(made) & (real > 0)
            if there.any():
                found[name] = (real[there], made[there])
        return found


def _in_words(one: tuple[str, str], error: float) -> str:
    which, name = one
    return f"the {which} {METRICS[name]} is {abs(error):.1%} too {'long' if error > 0 else 'short'}"


def _statistic(values: FloatArray, which: str) -> float:
    return float(np.mean(values) if which == "mean" else np.percentile(values, float(which[1:])))


@with_seconds("validating")
def validate(
    run: str | os.PathLike[str] | Log,
    system: str = "vllm",
    *,
    clock: str | os.PathLike[str] | Clock | None = None,
    fit_fraction: float | None = None,
    on_error: OnError = "raise",
) -> Validation:
    """Simulate the requests of a run as they came, and compare.

    Parameters
    ----------
    run
        What `logs.read` reads, with times of requests; or its answer.
    system
        What served them, as on the command line: ``"vllm:max-num-seqs=256"``. What it leaves out is as the log says.
    clock
        A `Clock`, the name of one, or a file.
    fit_fraction
        Instead of a clock: it is calibrated on this share of the requests, those that arrived first, and all that is
        compared is of the others.
    on_error
        ``"skip"`` leaves bad rows out.

    Raises
    ------
    TraceError
        The run cannot be read, or has no times of requests.
    InputError
        `clock` and `fit_fraction` are both or neither given, or `fit_fraction` is no share; the system or a setting is
        unknown or cannot be expressed; see `search` too.
    """
    if (clock is None) == (fit_fraction is None):
        raise InputError("give either a clock or a share to calibrate it on (--clock FILE or --fit-fraction 0.5)")
    if fit_fraction is not None and not 0 < fit_fraction < 1:
        raise InputError(f"fit_fraction is {fit_fraction!r}, expected a share between 0 and 1")
    log = run if isinstance(run, Log) else logs.read(run, on_error=on_error)
    if log.requests is None:
        raise InputError(f"{log.path} has the times of steps and not those of requests: there is nothing to compare")
    requests, served_by = log.requests, of_log(system, log)
    notes = [*log.notes, *served_by.notes]
    times = served_by.replay(requests)
    counted = np.ones(len(requests), bool)
    if fit_fraction is not None:
        early = requests.first_half(fit_fraction)
        found = search(requests, times, early, profile=False)
        used, counted = found.clock, ~early
    else:
        assert clock is not None
        used = clock if isinstance(clock, Clock) else parse_clock(os.fspath(clock))
    if not counted.any():
        raise InputError("no requests are left to compare: take a smaller fit_fraction")
    first, completion = times(used)
    simulated = dataclasses.replace(requests, first_token=first, completion=completion)
    return Validation(
        measured=_some(requests, counted),
        simulated=_some(simulated, counted),
        system=served_by,
        clock=used,
        fitted=int((~counted).sum()),
        notes=tuple(notes),
    )


def _some(requests: Requests, chosen: npt.NDArray[np.bool_]) -> Requests:
    return Requests(**{field.name: getattr(requests, field.name)[chosen] for field in dataclasses.fields(requests)})
