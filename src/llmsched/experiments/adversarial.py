"""adversarial_search(): a search for the instance on which a policy is worst, compared with another or the optimum.

    found = adversarial_search("amax", (10, 40), memory=400, budget=200)
    found.ratio, dict(zip(found.lengths, found.counts))

A search gives a lower bound on the worst case, never the worst case itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .._logging import logger
from ..errors import InputError, MemoryTooSmallError, NotFinishedError, PolicyError
from ..metrics.confidence import mean_and_half_width
from ..optimum import theory
from ..optimum.lower_bounds import lower_bound
from ..optimum.planner import plan_starts
from ..optimum.schedule import total_latency
from ..policy import Policy, named
from ..progress import with_bar
from ..simulation.batch import simulate_batch
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.columns import FloatArray, IntArray
from ..workloads.random_streams import raw_stream, uniforms
from ..workloads.workload import Workload

_log = logger(__name__)

__all__ = ["Adversary", "Step", "adversarial_search"]

#: Called after every generation with (instances tried, budget).
Progress = Callable[[int, int], None]

_OPTIMUM = "optimum"  # what `against` may be besides a policy
_GENERATION = 8  # neighbours tried at once, so that all processors have work; fixed, or results would depend on threads
_PLANS = 200  # iterations of the planner, against the optimum
_CONFIRM = 20  # fresh tie seeds on which the instance found is measured
_ELITE = 4  # instances whose neighbours are tried: the best alone is soon a dead end
_MOST_LENGTHS = 100_000
_LARGEST_EIGENPROBLEM = 500  # lengths up to which the distribution of Corollary 1 is a starting point


class Step(NamedTuple):
    """One improvement: after how many instances, the ratio (on the search's own seeds), requests, where from."""

    tried: int
    ratio: float
    requests: int
    origin: str


@dataclasses.dataclass(frozen=True, eq=False)
class Adversary:
    """The worst instance that a search found.

    Attributes
    ----------
    workload
        The instance: equal prompts, the interval for all, everything at 0.
    lengths, counts
        Its output lengths (tokens) and how many requests have each.
    ratio, ratio_ci95
        Total latency of `policy` over that of `against`, the mean over tie-breaking seeds that the search did not use
        (choosing the luckiest of many would flatter it), and half the width of its 95 % confidence interval. Against
        ``"optimum"`` the divisor is the least total latency that could be found: the true ratio is no smaller.
    ratio_at_most
        Against ``"optimum"`` what the true ratio to it cannot exceed, by `llmsched.lower_bound`; else `ratio`.
    policy, against, memory
        What was compared, in how many tokens of cache.
    tried, unfinished
        Instances tried, and those of them on which the policy did not finish (they count for nothing).
    history
        The improvements, best last.
    """

    workload: Workload
    lengths: IntArray
    counts: IntArray
    ratio: float
    ratio_ci95: float
    ratio_at_most: float
    policy: Policy
    against: str
    memory: int
    tried: int
    unfinished: int
    history: tuple[Step, ...]

    def __repr__(self) -> str:
        return (
            f"Adversary({self.policy.name} / {self.against} = {self.ratio:.4g} ± {self.ratio_ci95:.2g}, "
            f"{len(self.workload)} requests, memory {self.memory}, {self.tried} instances tried)"
        )


@with_bar("searching", "instances")
def adversarial_search(
    policy: str | Policy,
    interval: tuple[int, int],
    *,
    memory: int,
    budget: int = 200,
    seed: int = 0,
    against: str = "hsf",
    prompt: int = 0,
    most: int = 2000,
    repeats: int = 4,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Adversary:
    """Look for the instance on which `policy` is worst against `against`.

    Starts from the proofs' instances (Theorem 2's family over r, which is the two-point family; the distribution that
    maximises Lemma 2; one length only; geometric shapes) at several sizes, then climbs from the four best: some
    requests move to another length, a length's count or the whole instance is scaled, and what is better stays.

    Parameters
    ----------
    policy
        What is attacked; it sees the interval, never the lengths, unless it is clairvoyant.
    interval
        (lower, upper) in tokens: what every request is predicted, and the range of the lengths.
    memory
        M, tokens of cache.
    budget
        Instances to try, starts included, at least 1.
    seed
        Governs the search and the ties. The same seed finds the same instance, for any number of threads.
    against
        What the policy is measured by: ``"hsf"`` or another named policy, usually a clairvoyant one, or ``"optimum"``:
        the best schedule that a short `llmsched.best_known` finds, at about half a second per 2,000 requests.
        (`llmsched.optimal` says what the optimum of a small instance is.)
    prompt
        Tokens of prompt, the same for all.
    most
        Requests an instance may have.
    repeats
        Tie-breaking seeds per instance tried.
    threads
        As for `llmsched.simulate_batch`.
    progress
        Called now and then with (instances tried, budget).

    Raises
    ------
    InputError, PolicyError
        A value is out of range, or a policy is unknown.
    MemoryTooSmallError
        prompt + upper tokens do not fit.
    NotFinishedError
        The policy finishes on none of the instances.
    """
    low, high, prompt = _checked_interval(interval, prompt, memory)
    search = _Search(
        attacked=named(policy),
        against=None if against == _OPTIMUM else named(_baseline(against)),
        lengths=np.arange(low, high + 1, dtype=np.int64),
        prompt=prompt,
        memory=memory,
        seeds=_tie_seeds(whole("seed", seed, 0, LARGEST_SEED), whole("repeats", repeats, 1, 1000)),
        most=whole("most", most, 1),
        threads=threads,
    )
    budget = whole("budget", budget, 1)
    for generation in _generations(search, budget, seed):
        search.try_all(generation)
        if progress is not None:
            progress(search.tried, budget)
    return search.finish(against)


class _Candidate(NamedTuple):
    counts: IntArray
    origin: str


class _Search:
    """A search under way: what is fixed, and the best instances so far."""

    def __init__(
        self,
        attacked: Policy,
        against: Policy | None,
        lengths: IntArray,
        prompt: int,
        memory: int,
        seeds: list[int],
        most: int,
        threads: int | None,
    ) -> None:
        self.attacked, self.against, self.lengths, self.prompt = attacked, against, lengths, prompt
        self.memory, self.seeds, self.most, self.threads = memory, seeds, most, threads
        self.elite: list[tuple[float, _Candidate]] = []  # best first
        self.tried = self.unfinished = 0
        self.history: list[Step] = []
        self.failure: Exception | None = None

    def workload(self, counts: IntArray) -> Workload:
        bounds = {"lower": int(self.lengths[0]), "upper": int(self.lengths[-1])}
        return Workload(self.prompt, np.repeat(self.lengths, counts), **bounds, source={"generator": "adversarial"})

    def ratios(self, workloads: Sequence[Workload], seeds: Sequence[int]) -> FloatArray:
        """Total latency of the attacked policy over the other's, shape (workloads, seeds); NaN where not finished."""
        measured = [self.attacked] if self.against is None else [self.attacked, self.against]
        batch = simulate_batch(workloads, measured, memory=self.memory, seeds=seeds, threads=self.threads)
        for error in batch.errors.values():
            if not isinstance(error, NotFinishedError):
                raise error
            self.failure = error
        total = batch.totals["total_latency"].reshape(len(workloads), len(measured), len(seeds))
        if self.against is None:
            return np.asarray(total[:, 0] / np.array([[self.least(w)] for w in workloads]), dtype=np.float64)
        return np.asarray(total[:, 0] / total[:, 1], dtype=np.float64)

    def least(self, workload: Workload) -> float:
        """The least total latency found for the workload: an optimum or somewhat more."""
        start, _ = plan_starts(workload, self.memory, 0.0, math.inf, _PLANS, 0)
        return total_latency(workload, start)

    def try_all(self, candidates: Sequence[_Candidate]) -> None:
        ratios = self.ratios([self.workload(candidate.counts) for candidate in candidates], self.seeds).mean(axis=1)
        for candidate, ratio in zip(candidates, ratios.tolist(), strict=True):
            self.tried += 1
            if math.isnan(ratio):
                self.unfinished += 1
                continue
            if not self.elite or ratio > self.elite[0][0]:
                _log.info("instance %d, %s: ratio %.6g, the largest so far", self.tried, candidate.origin, ratio)
                self.history.append(Step(self.tried, ratio, int(candidate.counts.sum()), candidate.origin))
            self.elite = sorted([*self.elite, (ratio, candidate)], key=lambda known: -known[0])[:_ELITE]

    def finish(self, against: str) -> Adversary:
        if not self.elite:
            assert self.failure is not None
            raise self.failure
        counts = self.elite[0][1].counts
        workload = self.workload(counts)
        fresh = range(_CONFIRM)  # small numbers: the search's own are random 64-bit ones
        measured = self.ratios([workload], fresh)[0]
        _, half = mean_and_half_width(measured - measured[0])  # exactly 0 where ties do not matter
        ratio = float(measured.mean())
        at_most = ratio
        if self.against is None:
            at_most *= self.least(workload) / lower_bound(workload, memory=self.memory).of(self.attacked)
        there = counts > 0
        return Adversary(
            workload=workload,
            lengths=self.lengths[there],
            counts=counts[there],
            ratio=ratio,
            ratio_ci95=half,
            ratio_at_most=at_most,
            policy=self.attacked,
            against=against,
            memory=self.memory,
            tried=self.tried,
            unfinished=self.unfinished,
            history=tuple(self.history),
        )


def _generations(search: _Search, budget: int, seed: int) -> Iterator[list[_Candidate]]:
    """Batches of candidates, `budget` in all: the starts, then neighbours of the best by then, half of the first."""
    starts = _unique(_starts(search.lengths, search.prompt, search.most))[:budget]
    for first in range(0, len(starts), _GENERATION):
        yield starts[first : first + _GENERATION]
    tried = len(starts)
    while tried < budget:
        size = min(_GENERATION, budget - tried)
        parents = [candidate for _, candidate in search.elite] or starts[:1]
        yield [
            _neighbour(
                parents[k // 2 % len(parents) if k % 2 else 0],
                search.most,
                uniforms(seed, f"adversary {tried + k}", 5),
            )
            for k in range(size)
        ]
        tried += size


def _starts(lengths: IntArray, prompt: int, most: int) -> Iterator[_Candidate]:
    """The proofs' instances at several sizes; the largest first, as limits are reached there."""
    shapes = list(_shapes(lengths, prompt))
    for divisor in (1, 3, 10, 30):
        for shares, origin in shapes:
            counts = np.rint(shares * (most // divisor)).astype(np.int64)
            if counts.sum():
                yield _Candidate(_cut(counts, most), f"{origin}, n={counts.sum()}")


def _shapes(lengths: IntArray, prompt: int) -> Iterator[tuple[FloatArray, str]]:
    low, high = int(lengths[0]), int(lengths[-1])
    worst = theory.amax_instance_worst(low / high).r
    for r in (worst, 1.0, worst / 4, worst * 4):  # Theorem 2: a*upper of `lower`, b*lower of `upper`, r = a/b
        yield _two_point(len(lengths), r * high, low), f"Theorem 2, r={r:.3g}"
    if len(lengths) <= _LARGEST_EIGENPROBLEM:
        yield theory.amin_worst(high, low, prompt)[1], "largest of Lemma 2"
    for t in (high / low, 1.0, 0.1):  # Theorem 6: t = x_lower/x_upper, worst at 1/alpha
        yield _two_point(len(lengths), t, 1.0), f"two-point, t={t:.3g}"
    for q in (0.5, 0.8, 0.95):
        weights = np.power(q, np.arange(len(lengths), dtype=np.float64))
        yield weights / weights.sum(), f"geometric, q={q}"
    yield _two_point(len(lengths), 1.0, 0.0), "lower only"


def _two_point(size: int, at_lower: float, at_upper: float) -> FloatArray:
    shares = np.zeros(size)
    shares[0] += at_lower
    shares[-1] += at_upper
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _neighbour(best: _Candidate, most: int, draw: FloatArray) -> _Candidate:
    """A random change of the counts, steered by five uniform numbers."""
    counts, (kind, where, to, size, side) = best.counts.copy(), draw.tolist()
    there = np.flatnonzero(counts)
    source = int(there[int(where * len(there))])
    # Another length: anywhere, or (as often) next door, where the structure of waves decides.
    target = int(to * len(counts)) if side < 0.5 else min(max(source + (1 if to < 0.5 else -1), 0), len(counts) - 1)
    share = 0.5 ** (1 + 5 * size)  # a half to a 64th: coarse steps and fine ones
    if kind < 0.5:
        moved = max(1, int(counts[source] * share))
        counts[source] -= moved
        counts[target] += moved
        origin = "moved"
    elif kind < 0.8:
        counts[source] = _scaled(int(counts[source]), share, side)
        origin = "one length scaled"
    elif kind < 0.9:
        counts[target] += max(1, int(counts.sum() * share))
        origin = "length added"
    else:
        counts = np.array([_scaled(int(count), share, side) if count else 0 for count in counts], dtype=np.int64)
        origin = "all scaled"
    return _Candidate(_cut(counts, most), origin) if counts.sum() else best


def _scaled(count: int, share: float, side: float) -> int:
    step = max(1, int(count * share))
    return count + step if side < 0.5 else count - step


def _cut(counts: IntArray, most: int) -> IntArray:
    """The counts themselves, or shrunk in proportion so that at most `most` requests are left (and one at least)."""
    total = int(counts.sum())
    if total <= most:
        return counts
    shrunk = counts * most // total
    if not shrunk.any():
        shrunk[int(np.argmax(counts))] = 1
    return np.asarray(shrunk, dtype=np.int64)


def _unique(candidates: Iterator[_Candidate]) -> list[_Candidate]:
    return list({candidate.counts.tobytes(): candidate for candidate in candidates}.values())


def _tie_seeds(seed: int, repeats: int) -> list[int]:
    return [int(raw) for raw in raw_stream(seed, "adversary ties", repeats)]


def _baseline(against: object) -> str:
    if not isinstance(against, str):
        raise PolicyError(f"against must be the name of a policy, such as 'hsf', or 'optimum', not {against!r}")
    return against


def _checked_interval(interval: object, prompt: object, memory: object) -> tuple[int, int, int]:
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        raise InputError(f"interval must be a pair (lower, upper) of tokens, not {interval!r}")
    low, high, s = whole("lower", interval[0], 1), whole("upper", interval[1], 1), whole("prompt", prompt, 0)
    if low > high:
        raise InputError(f"interval: lower is {low} and upper is {high}, expected lower <= upper")
    if high - low >= _MOST_LENGTHS:
        raise InputError(f"interval: {low} to {high} has more than {_MOST_LENGTHS} lengths: narrow it")
    if whole("memory", memory, 1) < s + high:
        raise MemoryTooSmallError(
            f"requests of {s} prompt and up to {high} output tokens need {s + high} tokens of cache, not {memory}",
            request=0,
            needed=s + high,
        )
    return low, high, s
