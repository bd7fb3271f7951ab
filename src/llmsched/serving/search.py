"""Simulation in the loop: the coefficients of a clock under which a simulation's times are those that were measured.

Each request gives two residuals: the time of its first token, as a share of its time to the first token and a tenth of
its latency; and the logarithm of the time from the first token to the last, simulated over measured. The ratios of the
means of both count as well, as in a request's own times is the chance of where in a step it came. Large ones count
less (pseudo-Huber at 5 %): where a cache is full, which request is preempted is chance, and a request that is
not the one of the run is wrong by much. The search is least squares from several starts, whose Jacobian is differences
of simulations, polished by Nelder and Mead's simplices, as a schedule changes in jumps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MissingExtraError
from ..progress import with_seconds
from ..simulation.clock import Clock
from ..workloads.columns import FloatArray
from .records import Requests
from .systems import Replay

#: Residuals beyond this count linearly.
_TOLERATED = 0.05
#: A coefficient may be anything that raises the misfit by no more than this share, or by half a per cent of the times:
#: two runs of an engine differ by more.
_RISE, _NOISE = 0.10, 0.005
_NAMES = ("base", "per_request", "per_context_token", "per_prompt_token")


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """A coefficient of a clock, and between what it can be without the misfit rising by a tenth.

    Attributes
    ----------
    value, low, high
        In seconds.
    """

    value: float
    low: float
    high: float

    @property
    def determined(self) -> bool:
        """Whether it is known within a factor of two."""
        return self.value > 0 and self.high <= 2 * self.low


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    clock
        The clock that fits best.
    misfit
        Root mean square of the residuals, large ones counting less.
    profile
        Coefficient -> what it may be; empty if not asked for.
    dropped
        Coefficients without which the times are met as well, and which are 0 therefore.
    simulations
        How many it took.
    """

    clock: Clock
    misfit: float
    profile: Mapping[str, Coefficient]
    dropped: tuple[str, ...]
    simulations: int


class _Misfit:
    """How far the times of simulations are from those of some of the requests, in units of typical coefficients."""

    def __init__(self, requests: Requests, counted: npt.NDArray[np.bool_], times: Replay) -> None:
        self.requests, self.counted, self.times = requests, counted, times
        self.timed = bool(np.isfinite(requests.first_token).all())
        self.units = _typical(requests, counted, self.timed)
        self.simulations = 0

    def clock(self, x: FloatArray) -> Clock:
        values = np.maximum(x, 0) * self.units
        values[0] = max(values[0], 1e-9)
        return Clock(**dict(zip(_NAMES, values.tolist(), strict=True)), source="fitted to the times of requests")

    def residuals(self, x: FloatArray) -> FloatArray:
        self.simulations += 1
        first, completion = self.times(self.clock(x))
        real = self.requests
        if not self.timed:
            late = np.log((completion - real.arrival) / real.latency)[self.counted]
            return np.append(late, self.of_mean(completion - real.arrival, real.latency))
        early = (first - real.first_token) / (real.ttft + 0.1 * real.latency)
        long = real.output > 1
        ratio = np.zeros(len(real))
        ratio[long] = np.log((completion - first)[long] / (real.completion - real.first_token)[long])
        means = (
            self.of_mean(first - real.arrival, real.ttft),
            self.of_mean(completion - first, real.latency - real.ttft),
        )
        return np.concatenate([early[self.counted], ratio[self.counted & long], means])

    def of_mean(self, simulated: FloatArray, measured: FloatArray) -> float:
        """The logarithm of the ratio of means, weighing as much as a tenth of the requests."""
        ratio = np.log(simulated[self.counted].mean() / measured[self.counted].mean())
        return float(ratio * np.sqrt(self.counted.sum() / 10))

    def cost(self, x: FloatArray) -> float:
        """Mean of the squares, large ones counting less."""
        scaled = self.residuals(np.abs(x)) / _TOLERATED
        return float(2 * _TOLERATED**2 * np.mean(np.sqrt(1 + scaled**2) - 1))


def _typical(requests: Requests, counted: npt.NDArray[np.bool_], timed: bool) -> FloatArray:
    """Sizes of the coefficients with each of which alone, about, the run would have taken as long."""
    step = float(np.nanmedian(requests.tpot[counted])) if timed else float(
        np.median((requests.latency / requests.output)[counted])
    )  # fmt: skip
    prefill = requests.ttft if timed else requests.latency
    prompt = float(np.percentile((prefill / np.maximum(requests.prompt, 1))[counted], 10))
    # Only of those that count: the times of the others are what the clock is judged by.
    served = (requests.completion - requests.first_token if timed else requests.latency)[counted]
    span = requests.completion[counted].max() - requests.arrival[counted].min()
    batch = max(1.0, float(served.sum() / span))
    context = batch * max(1.0, float(np.mean((requests.prompt + requests.output / 2)[counted])))
    units = np.array([step, step / batch, step / context, max(prompt, step / 1000)])
    if not (np.isfinite(units).all() and (units > 0).all()):
        raise InputError("the times of the log are all 0 or missing: a clock cannot be calibrated from them")
    return units


#: Where searches start, in units of typical coefficients.
_STARTS = ((0.6, 0.05, 0.3, 0.5), (0.8, 0.1, 0.1, 0.8), (0.4, 0.2, 0.5, 0.3), (0.3, 0.6, 0.1, 0.5))


@with_seconds("searching")
def search(
    requests: Requests,
    times: Replay,
    counted: npt.NDArray[np.bool_] | None = None,
    *,
    profile: bool = True,
    start: Clock | None = None,
) -> Found:
    """The clock under which `times` of a simulation match those of the requests that are `counted`.

    Raises
    ------
    InputError
        There are fewer than 20 such requests, or they say nothing about the steps of the engine.
    MissingExtraError
        SciPy is not installed.
    """
    _require_scipy()
    counted = np.ones(len(requests), bool) if counted is None else counted
    if counted.sum() < 20:
        raise InputError(f"{int(counted.sum())} requests are too few to calibrate a clock from, expected 20 at least")
    misfit = _Misfit(requests, counted, times)
    starts = [np.array(s) for s in _STARTS]
    if start is not None:
        starts = [np.array([getattr(start, name) for name in _NAMES]) / misfit.units]
    free = [0, 1, 2, 3]
    # Wide differences see over the jumps that a schedule makes where an admission moves by a step.
    rough = sorted((_descent(misfit, s, free, 0.3) for s in starts), key=_cost)
    near = min([*rough, *(_descent(misfit, at[0], free, 0.05) for at in rough[:2])], key=_cost)
    best = _polished(misfit, near, free, (0.3, 0.1, 0.3, 0.05))
    dropped: list[str] = []
    # Of the two that a full batch cannot tell apart the context stays: every step reads all of it.
    for k in (1, 3):
        fewer = [j for j in free if j != k]
        without = best[0].copy()
        without[k] = 0.0
        tried = _polished(misfit, _descent(misfit, without, fewer, 0.05), fewer, (0.3, 0.1))
        if tried[1] <= _tolerated(best[1]):
            best, free = tried, fewer
            dropped.append(_NAMES[k])
    known = {_NAMES[k]: _range(misfit, best, free, k) for k in free} if profile else {}
    misfit_of_best = float(np.sqrt(best[1]))
    return Found(misfit.clock(best[0]), misfit_of_best, MappingProxyType(known), tuple(dropped), misfit.simulations)


Point = tuple[FloatArray, float]


def _cost(point: Point) -> float:
    return point[1]


def _tolerated(cost: float) -> float:
    """The cost whose misfit says no less than that of `cost`."""
    misfit = float(np.sqrt(cost))
    return (misfit + max(_RISE * misfit, _NOISE)) ** 2


def _descent(misfit: _Misfit, start: FloatArray, free: Sequence[int], width: float, evaluations: int = 6) -> Point:
    """The end of a descent in which the coefficients `free` may change, by differences of this width, and the cost."""
    from scipy.optimize import least_squares

    def full(part: FloatArray) -> FloatArray:
        x = start.copy()
        x[list(free)] = part
        return x

    def jacobian(part: FloatArray) -> FloatArray:
        columns = []
        for k in range(len(free)):
            ahead, behind = part.copy(), part.copy()
            ahead[k] += width * max(part[k], 0.1)
            behind[k] = max(0.0, part[k] - width * max(part[k], 0.1))
            difference = misfit.residuals(full(ahead)) - misfit.residuals(full(behind))
            columns.append(difference / (ahead[k] - behind[k]))
        return np.column_stack(columns)

    found = least_squares(
        lambda part: misfit.residuals(full(part)),
        np.maximum(start[list(free)], 1e-3),
        jac=jacobian,
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=_TOLERATED,
        max_nfev=evaluations,
    )
    x = full(found.x)
    return x, misfit.cost(x)


def _polished(misfit: _Misfit, at: Point, free: Sequence[int], sizes: Sequence[float]) -> Point:
    """The best point that simplices of these sizes around `at` shrink to."""
    from scipy.optimize import minimize

    for size in sizes:
        here = at[0]

        def full(part: FloatArray, here: FloatArray = here) -> FloatArray:
            x = here.copy()
            x[list(free)] = np.abs(part)
            return x

        part = here[list(free)]
        corners = np.vstack([part, part + np.diag(np.maximum(size * part, 0.15 * size))])
        options: dict[str, Any] = {"maxfev": 100, "initial_simplex": corners, "fatol": 1e-9, "xatol": 1e-4}
        found = minimize(lambda p: misfit.cost(full(p)), part, method="Nelder-Mead", options=options)
        at = min(at, (full(found.x), float(found.fun)), key=_cost)
    return at


def _range(misfit: _Misfit, best: Point, free: Sequence[int], k: int) -> Coefficient:
    """How far a coefficient can go, the others making up for it, until the misfit has risen by a tenth."""
    others = [j for j in free if j != k]
    most = _tolerated(best[1])

    def possible(value: float, near: FloatArray) -> FloatArray | None:
        x = near.copy()
        # In these units base, batch and context make up a usual step together: what one gains another gives.
        payer = {0: 2, 1: 2, 2: 0}.get(k)
        if payer in free:
            x[payer] = max(0.05, x[payer] - (value - x[k]))
        x[k] = value
        at = x, misfit.cost(x)
        for width in (0.3, 0.05):
            if others and at[1] > most:
                at = min(at, _descent(misfit, at[0], others, width, 4), key=_cost)
        return at[0] if at[1] <= most else None

    value = float(best[0][k])
    ends = []
    for factor in (1 / 3, 3.0):
        good, bad, near = value, value * factor, best[0]
        reached = possible(bad, near)
        if reached is not None:
            ends.append(0.0 if factor < 1 else np.inf)  # beyond a factor of three it does not matter how far
            continue
        for _ in range(5):
            middle = float(np.sqrt(good * bad))
            reached = possible(middle, near)
            good, bad, near = (middle, bad, reached) if reached is not None else (good, middle, near)
        ends.append(bad)
    unit = float(misfit.units[k])
    return Coefficient(value * unit, ends[0] * unit, ends[1] * unit)


def _require_scipy() -> None:
    try:
        import scipy.optimize  # noqa: F401
    except ImportError:
        raise MissingExtraError("scipy", "serving", "calibrating from the times of requests") from None
