"""Calibration: a clock from what was measured, whatever that is: steps, requests, kernels, published points.

    found = ls.serving.calibrate("run.jsonl")
    found.clock.write("clock.toml")
    print(found)

- **Steps** (our recorder, vLLM's iteration details, Dynamo): least squares with no coefficient below 0, each step
  weighing by its share of error, so that many short steps and few long ones both count. Steps far from all others of
  their kind (compilation, another process) are left out and counted.
- **Requests** (all other logs): simulation in the loop (`llmsched.serving.search`).
- **Kernel tables** and **published points**: `llmsched.serving.tables`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from .._logging import logger
from ..errors import InputError, number_of
from ..html_tables import share, table
from ..progress import with_seconds
from ..simulation.clock import Clock
from ..workloads.columns import FloatArray
from . import logs, systems, tables
from .log_rows import OnError
from .records import Log, Requests, Steps
from .search import Coefficient, search
from .tables import Tabled

_log = logger(__name__)

__all__ = ["Calibration", "Coefficient", "calibrate", "of_requests", "of_steps"]

_WORDS = {
    "base": "base",
    "per_request": "per request",
    "per_context_token": "per context token",
    "per_prompt_token": "per prompt token",
}
_TERMS = {"base": "constant", "per_request": "batch", "per_context_token": "context", "per_prompt_token": "prefilled"}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """A clock and how good it is.

    Attributes
    ----------
    clock
        Fitted to all rows that count.
    method
        ``"steps"``, ``"requests"`` or ``"kernels"``.
    rows, left_out
        Rows that it is fitted to, and those that were left out.
    error
        Of the fit: the mean over the rows of the error as a share.
    held_out
        What a clock that is fitted to the first two thirds of the rows says of the last third, as signed shares, by
        name: the time of all ``steps`` together and the mean size of the ``error`` of one; or the mean ``latency``,
        ``ttft`` and ``tpot``.
    profile
        Coefficient -> between what it can be. Empty where that is not known.
    notes
        What was decided, in words.
    """

    clock: Clock
    method: str
    rows: int
    left_out: int
    error: float
    held_out: Mapping[str, float]
    profile: Mapping[str, Coefficient]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Calibration({self})"

    def __str__(self) -> str:
        values = ", ".join(
            f"{key}={value:.6g}" for key, value in self.clock.fields().items() if isinstance(value, float)
        )
        return f"clock from {self.rows:,} {self.method}: {values}; mean error {self.error:.1%}"

    def _repr_html_(self) -> str:
        caption = f"clock from {self.rows:,} {self.method}: mean error {share(self.error)}"
        columns = self.coefficients()
        return table(caption, zip(*columns.values(), strict=True), header=[*columns], note="\n".join(self.notes))

    def coefficients(self) -> dict[str, list[str]]:
        """The coefficients in words, for tables: what each is, between what it can be, and how well that is known."""
        found = {"coefficient": list(_WORDS.values()), "value": [in_seconds(getattr(self.clock, n)) for n in _WORDS]}
        if not self.profile:
            return found
        known = [self.profile.get(name) for name in _WORDS]
        return found | {
            "at least": ["-" if c is None else in_seconds(c.low) for c in known],
            "at most": ["-" if c is None else in_seconds(c.high) for c in known],
            "known": ["-" if c is None else "yes" if c.determined else "poorly" for c in known],
        }

    def summary(self) -> dict[str, Any]:
        """All of it as a plain dict, ready for JSON."""
        ranges = {
            name: {**dataclasses.asdict(c), "high": c.high if np.isfinite(c.high) else None, "determined": c.determined}
            for name, c in self.profile.items()
        }
        plain = {key: getattr(self, key) for key in ("method", "rows", "left_out", "error")}
        return {
            "clock": self.clock.fields(),
            **plain,
            "held_out": dict(self.held_out),
            "profile": ranges,
            "notes": list(self.notes),
        }


def in_seconds(value: float) -> str:
    """Seconds in a unit that people read."""
    if not math.isfinite(value):
        return "any"
    if value == 0:
        return "0"
    unit, name = next(((u, n) for u, n in ((1, "s"), (1e-3, "ms"), (1e-6, "us")) if value >= u), (1e-9, "ns"))
    return f"{value / unit:.4g} {name}"


@with_seconds("calibrating")
def calibrate(
    log: str | os.PathLike[str] | Log,
    *,
    system: str = "vllm",
    layers: int | None = None,
    communication: float = 0.0,
    on_error: OnError = "raise",
) -> Calibration:
    """The clock that a log or a directory of kernel tables speaks for.

    Parameters
    ----------
    log
        What `logs.read` reads, or its answer; or a directory with `attention.csv`, `dense.csv` and `per_sequence.csv`.
    system
        What served the requests, where only their times are known: as on the command line, ``"vllm:max-num-seqs=256"``.
        What it leaves out is as the log says.
    layers
        Of the model, which kernel tables do not say.
    communication
        Seconds that each token takes on the links between GPUs, which tables of kernels lack. Every token that a step
        computes pays it: it is added to `per_request` (one token) and to `per_prompt_token`.
    on_error
        ``"skip"`` leaves bad rows out.

    Raises
    ------
    TraceError
        The log cannot be read (see `logs.read`).
    InputError
        It says too little: too few rows, or rows that cannot tell the terms apart (names them).
    """
    if not isinstance(log, Log) and (Path(log) / "attention.csv").is_file():
        if layers is None:
            raise InputError(f"{os.fspath(log)} has tables of kernels: say how many layers the model has (--layers 32)")
        return _of_tables(tables.of_kernels(log, layers, communication))
    if communication:
        raise InputError("communication is for tables of kernels: steps and requests were measured with it")
    read = log if isinstance(log, Log) else logs.read(log, on_error=on_error)
    _log.info("clock of the %s in %s", "requests" if read.steps is None else "steps", read.path)
    if read.steps is not None:
        return of_steps(read.steps, source=f"fitted to the steps in {Path(read.path).name}", notes=read.notes)
    assert read.requests is not None
    return of_requests(read.requests, systems.of_log(system, read), notes=read.notes)


def _of_tables(made: Tabled) -> Calibration:
    return Calibration(made.clock, "kernels", made.rows, 0, made.error, {}, MappingProxyType({}), made.notes)


# Steps ----------------------------------------------------------------------------------------------------------------


def of_steps(steps: Steps, *, source: str = "fitted to steps", notes: tuple[str, ...] = ()) -> Calibration:
    """The clock of measured steps.

    Raises InputError if there are fewer than 30, or they cannot tell the terms apart (names them).
    """
    if len(steps) < 30:
        raise InputError(f"{len(steps)} steps are too few to calibrate a clock from, expected 30 at least")
    said = list(notes)
    columns = {"batch": steps.batch, "prefilled": steps.prefilled}
    if steps.context is not None:
        columns["context"] = steps.context
    else:
        said.append("the log does not say how long contexts were: the clock has no term for them")
    if not steps.prefilled.any():
        del columns["prefilled"]
        said.append("no step prefilled a prompt: the clock has no term for that")
    if steps.waited:
        said.append(
            "times are those that the engine waited for a result: with asynchronous scheduling a step takes a little "
            "longer (the recorder has it right)"
        )
    table = {name: np.asarray(column, np.float64) for name, column in columns.items()} | {"seconds": steps.seconds}
    usual = _usual(table)
    kept = {name: column[usual] for name, column in table.items()}
    _log.info("fitted to %d steps, %d left out; terms %s", usual.sum(), (~usual).sum(), ", ".join(columns))
    fit = Clock.fit(kept, relative=True, source=source)
    if left_out := int((~usual).sum()):
        said.append(f"{left_out:,} steps are left out that took far longer or shorter than others of their kind")
    return Calibration(
        clock=fit.clock,
        method="steps",
        rows=len(kept["seconds"]),
        left_out=left_out,
        error=fit.mean_error,
        held_out=_held_out_steps(kept),
        profile=_standard_errors(fit.clock, kept),
        notes=tuple(said),
    )


def _fitted(clock: Clock, table: Mapping[str, FloatArray]) -> FloatArray:
    none = np.zeros(len(table["seconds"]))
    return clock.duration(table["batch"], table.get("context", none), table.get("prefilled", none))


def _usual(table: Mapping[str, FloatArray]) -> npt.NDArray[np.bool_]:
    """Which steps are within eight median deviations of the fit, among those that prefill and those that do not."""
    usual = np.ones(len(table["seconds"]), bool)
    prefills = table.get("prefilled", np.zeros(len(usual))) > 0
    for _ in range(3):
        clock = Clock.fit({name: column[usual] for name, column in table.items()}, relative=True).clock
        residual = np.log(table["seconds"] / np.maximum(_fitted(clock, table), 1e-12))
        found = np.ones(len(usual), bool)
        for kind in (prefills, ~prefills):
            if kind.sum() >= 10:
                off = np.abs(residual - np.median(residual[kind]))
                found &= ~kind | (off <= 8 * max(float(np.median(off[kind])), 0.01))
        if (found == usual).all():
            break
        usual = found
    return usual


def _held_out_steps(table: Mapping[str, FloatArray]) -> dict[str, float]:
    """Errors on the last third of a clock that is fitted to the rest; empty where the rest cannot tell terms apart."""
    cut = len(table["seconds"]) * 2 // 3
    try:
        clock = Clock.fit({name: column[:cut] for name, column in table.items()}, relative=True).clock
    except InputError:
        return {}
    rest = {name: column[cut:] for name, column in table.items()}
    fitted = _fitted(clock, rest)
    total = float(fitted.sum() / rest["seconds"].sum() - 1)
    return {"steps": total, "error": float(np.mean(np.abs(fitted / rest["seconds"] - 1)))}


def _standard_errors(clock: Clock, table: Mapping[str, FloatArray]) -> Mapping[str, Coefficient]:
    """Two standard errors to both sides of each coefficient that is not 0."""
    values = {name: getattr(clock, name) for name in _TERMS if getattr(clock, name) > 0}
    ones = np.ones(len(table["seconds"]))
    design = np.column_stack([ones if _TERMS[name] == "constant" else table[_TERMS[name]] for name in values])
    design = design / table["seconds"][:, None]
    residual = 1 - _fitted(clock, table) / table["seconds"]
    variance = float(residual @ residual) / max(1, len(residual) - len(values))
    spread = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * variance)
    return MappingProxyType(
        {
            name: Coefficient(value, max(0.0, value - 2 * float(error)), value + 2 * float(error))
            for (name, value), error in zip(values.items(), spread, strict=True)
        }
    )


# Requests -------------------------------------------------------------------------------------------------------------


def of_requests(requests: Requests, system: systems.System, *, notes: tuple[str, ...] = ()) -> Calibration:
    """The clock under which a simulation of `system` has the times of the requests. Raises InputError as `search`."""
    times = system.replay(requests)
    early = requests.first_half(2 / 3)
    before = search(requests, times, early, profile=False)
    found = search(requests, times, start=before.clock)
    _log.info("fitted to %s, misfit %.1f%%", number_of(len(requests.arrival), "request"), 100 * found.misfit)
    first, completion = times(before.clock)
    later = ~early
    simulated = dataclasses.replace(requests, first_token=first, completion=completion)
    held_out = {
        name: float(np.nanmean(getattr(simulated, name)[later]) / np.nanmean(getattr(requests, name)[later]) - 1)
        for name in ("latency", "ttft", "tpot")
        if np.isfinite(getattr(requests, name)[later]).any()
    }
    said = [*notes, *system.notes]
    said += [f"{name} is 0: with it the times are met no better, so the run does not tell it" for name in found.dropped]
    loose = [name for name, known in found.profile.items() if not known.determined]
    if loose:
        said.append(
            f"the run cannot tell {' and '.join(loose)} well (see the ranges): the clock is good for a load like this "
            "one, and a run at another load, or steps, would tell more"
        )
    if found.misfit > 0.25:
        raise InputError(
            f"no clock gives these times (misfit {found.misfit:.0%}): {system} is probably not how they were served. "
            "Check --system against the settings of the engine"
        )
    simulated = dataclasses.replace(requests, completion=times(found.clock)[1])
    error = float(np.mean(np.abs(simulated.latency / requests.latency - 1)))
    return Calibration(found.clock, "requests", len(requests), 0, error, held_out, found.profile, tuple(said))
