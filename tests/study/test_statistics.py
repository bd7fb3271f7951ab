"""Statistics of studies: against SciPy, against closed forms, and by simulation where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

import llmsched as ls
from llmsched.errors import InputError
from llmsched.study import statistics
from llmsched.study.statistics import Precision

RUNS = 10_000  # 95 % of so many: a standard error of 0.22 %, so that 1.5 % are seven of them
finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
series = st.lists(finite, min_size=2, max_size=40)


def _coverage(intervals: list[statistics.Interval], truth: float) -> float:
    return float(np.mean([low <= truth <= high for _, low, high in intervals]))


@pytest.fixture(scope="module")
def population() -> np.ndarray:
    """Mean latency of 6,000 small simulations: skewed as a study's are (columns: amin, amax)."""
    rng = np.random.default_rng(7)
    buckets = ls.intervals.buckets(100)
    workloads = [ls.generate.lmsys(60, seed=int(s)).with_intervals(buckets) for s in rng.integers(2**31, size=6000)]
    results = [[ls.simulate(w, p, memory=2000, seed=0).mean_latency for p in ("amin", "amax")] for w in workloads]
    values = np.array(results)
    assert stats.skew(values[:, 0]) > 0.5
    return values


# Against SciPy and closed forms --------------------------------------------------------------------------------------


@given(series, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_t_interval_is_scipys(values: list[float], confidence: float) -> None:
    mean, low, high = statistics.mean_interval(values, confidence)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assume(np.ptp(values) > 1e-6 * max(map(abs, values)))
    expected = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_bootstrap_limits_are_scipys_up_to_the_noise_of_resampling() -> None:
    values = np.random.default_rng(1).gamma(1.0, size=(40, 3))
    low, high = statistics.bootstrap_intervals(values, 0.9, resamples=40_000)
    expected = stats.bootstrap((values,), np.mean, axis=0, confidence_level=0.9, n_resamples=40_000, rng=2)
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.01)


def test_bootstrap_columns_do_not_depend_on_their_neighbours() -> None:
    values = np.random.default_rng(1).gamma(1.0, size=(30, 5))
    together = np.array(statistics.bootstrap_intervals(values, resamples=500))
    alone = np.hstack([statistics.bootstrap_intervals(values[:, [k]], resamples=500) for k in range(5)])
    assert together == pytest.approx(alone.reshape(2, 5), rel=1e-12)
    assert np.array_equal(together, np.array(statistics.bootstrap_intervals(values, resamples=500)))


@pytest.mark.parametrize(("n", "q", "ranks"), [(20, 0.5, (6, 15)), (10, 0.5, (2, 9)), (100, 0.9, (84, 96))])
def test_quantile_limits_are_the_order_statistics_of_the_tables(n: int, q: float, ranks: tuple[int, int]) -> None:
    _, low, high = statistics.quantile_interval(np.arange(1, n + 1), q)
    assert (low, high) == ranks


@given(st.integers(2, 400), st.sampled_from([0.1, 0.5, 0.9, 0.99]), st.sampled_from([0.8, 0.95]))
def test_order_statistics_enclose_a_quantile_as_often_as_the_binomial_says(n: int, q: float, confidence: float) -> None:
    _, low, high = statistics.quantile_interval(np.arange(1, n + 1), q, confidence)
    tail = (1 - confidence) / 2 + 1e-12
    below = 0.0 if low == -math.inf else stats.binom.cdf(low - 1, n, q)  # the quantile lies below X[low]
    above = 0.0 if high == math.inf else stats.binom.sf(high - 1, n, q)
    assert below <= tail
    assert above <= tail
    assert low == -math.inf or stats.binom.cdf(low, n, q) > tail - 2e-12  # one rank further would be too near
    assert high == math.inf or stats.binom.sf(high - 2, n, q) > tail - 2e-12
    assert high < math.inf or stats.binom.sf(n - 1, n, q) > tail - 2e-12


@given(st.lists(st.tuples(finite, finite), min_size=3, max_size=30))
def test_fiellers_limits_are_where_the_paired_t_test_changes_its_mind(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    assume(np.ptp(x) > 1 and np.ptp(y) > 1)
    ratio, low, high = statistics.ratio_interval(x, y)
    assume(not math.isnan(ratio))
    _, below, above = statistics.mean_interval(y)
    assume(abs(abs(y.mean()) - (above - below) / 2) > 1e-3 * abs(y.mean()))  # not on the border of being bounded
    assert math.isinf(low) == math.isinf(high) == (below <= 0 <= above)
    if math.isinf(low):
        return
    assert low <= ratio <= high
    for limit in (low, high):
        difference = x - limit * y
        spread = difference.std(ddof=1) / math.sqrt(len(x))
        assume(spread > 1e-6 * np.abs(difference).max())
        statistic = abs(difference.mean()) / spread
        assert statistic == pytest.approx(stats.t.ppf(0.975, len(x) - 1), rel=1e-4)


def test_a_ratio_to_itself_is_one_and_to_zero_unknown() -> None:
    x = np.random.default_rng(0).gamma(2.0, size=50)
    assert statistics.ratio_interval(x, x) == pytest.approx((1, 1, 1))
    assert statistics.ratio_interval(3 * x, x) == pytest.approx((3, 3, 3))
    unknown = statistics.ratio_interval(x, np.zeros(50))
    assert math.isnan(unknown.estimate)
    assert unknown[1:] == (-math.inf, math.inf)


# Coverage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [10, 100])
def test_t_intervals_cover_a_known_mean(n: int) -> None:
    rng = np.random.default_rng(2)
    intervals = [statistics.mean_interval(x) for x in rng.normal(3, 2, size=(RUNS, n))]
    assert abs(_coverage(intervals, 3.0) - 0.95) <= 0.015


def test_intervals_cover_the_mean_of_what_a_study_has(population: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    samples = rng.choice(population[:, 0], size=(RUNS, 100))
    truth = population[:, 0].mean()
    assert abs(_coverage([statistics.mean_interval(x) for x in samples], truth) - 0.95) <= 0.015
    low, high = statistics.bootstrap_intervals(samples[:4000].T, resamples=1000)
    assert abs(np.mean((low <= truth) & (truth <= high)) - 0.95) <= 0.015


def test_the_bootstrap_is_for_skewness() -> None:
    """Errors on both sides: t intervals of exponential values miss on one side, BCa limits less so."""
    samples = np.random.default_rng(4).exponential(size=(60, 4000))
    low, high = statistics.bootstrap_intervals(samples, resamples=1000)
    plain = np.array([statistics.mean_interval(x) for x in samples.T])
    lopsided = abs(np.mean(plain[:, 1] > 1) - np.mean(plain[:, 2] < 1))
    assert abs(np.mean(low > 1) - np.mean(high < 1)) < lopsided / 2


def test_ratios_and_differences_of_paired_replications_cover(population: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(len(population), size=(RUNS, 100))
    amin, amax = population[rows].transpose(2, 0, 1)
    ratios = [statistics.ratio_interval(x, y) for x, y in zip(amax, amin, strict=True)]
    mean_amin, mean_amax = population.mean(axis=0)
    assert abs(_coverage(ratios, mean_amax / mean_amin) - 0.95) <= 0.015
    rng = np.random.default_rng(6)
    x, e = rng.normal(10, 2, (2, RUNS, 15))
    y = 0.8 * x + 0.2 * e
    ratios = [statistics.ratio_interval(a, b) for a, b in zip(2 * x + e, y, strict=True)]
    assert abs(_coverage(ratios, 3.0) - 0.95) <= 0.015
    differences = [statistics.paired_difference(a, b) for a, b in zip(x, y, strict=True)]
    assert abs(_coverage(differences, 0.0) - 0.95) <= 0.015
    paired, apart = differences[0], statistics.mean_interval(x[0])
    assert paired.high - paired.low < (apart.high - apart.low) / 2


def test_the_best_policy_is_a_candidate_and_regrets_are_covered() -> None:
    rng = np.random.default_rng(8)
    means = np.array([1.0, 1.0, 1.1, 1.5, 3.0])
    lost = wrong = 0
    for _ in range(4000):
        common = rng.normal(0, 1, (25, 1))
        found = statistics.best(means + common + rng.normal(0, [0.1, 0.3, 0.2, 0.5, 1], (25, 5)))
        regret = means - 1
        lost += not found.candidate[:2].all()  # both are best
        wrong += not ((found.low <= regret) & (regret <= found.high)).all()
        assert found.candidate[found.regret == 0].all()
        assert ((found.low <= found.regret) & (found.regret <= found.high)).all()
    assert lost / 4000 <= 0.05
    assert wrong / 4000 <= 0.05


def test_a_clearly_best_policy_stands_alone() -> None:
    x = np.random.default_rng(0).normal([5, 1, 3], 0.5, (40, 3))
    found = statistics.best(x)
    assert found.candidate.tolist() == [False, True, False]
    assert found.low[0] > 3
    assert (found.regret[1], found.low[1], found.high[1]) == (0, 0, 0)
    assert statistics.best(x, largest=True).candidate.tolist() == [True, False, False]
    same = statistics.best(np.column_stack([x[:, 0], x[:, 0]]))
    assert same.candidate.all()
    assert statistics.best(x[:1]).candidate.all()  # one replication says nothing
    assert statistics.best(x[:, :1]).candidate.all()


# Sequential stopping -------------------------------------------------------------------------------------------------


def _stopped(values: np.ndarray, precision: Precision) -> np.ndarray:
    n = 0
    while (wanted := statistics.replications_needed(values[:n], precision)) > n:
        assert wanted <= max(2 * n, precision.first)
        n = wanted
    return values[:n]


@pytest.mark.parametrize("absolute", [0.3, 0.24, 0.12])
def test_after_sequential_stopping_the_interval_of_normal_values_covers(absolute: float) -> None:
    rng = np.random.default_rng(9)
    precision = Precision(absolute=absolute)
    stopped = [_stopped(x, precision) for x in rng.normal(5, 1, size=(RUNS, 600))]
    intervals = [statistics.sequential_interval(x, precision) for x in stopped]
    assert all(high - low <= 2 * absolute * (1 + 1e-12) for _, low, high in intervals)
    assert 0.945 <= _coverage(intervals, 5.0) <= 0.965
    assert np.mean([len(x) for x in stopped]) <= 1.25 * (1.96 / absolute) ** 2 + precision.first / 2


@pytest.mark.parametrize("relative", [0.05, 0.03])
def test_after_sequential_stopping_the_interval_of_what_a_study_has_covers(
    population: np.ndarray, relative: float
) -> None:
    rng = np.random.default_rng(10)
    precision = Precision(relative=relative)
    stopped = [_stopped(x, precision) for x in rng.choice(population[:, 0], size=(5000, 600))]
    intervals = [statistics.sequential_interval(x, precision) for x in stopped]
    assert all(high - low <= 2 * relative * mean * (1 + 1e-12) for mean, low, high in intervals)
    assert abs(_coverage(intervals, population[:, 0].mean()) - 0.95) <= 0.015


@pytest.mark.parametrize(("confidence", "least"), [(0.9, 0.9), (0.95, 0.952), (0.99, 0.9897)])
def test_whatever_the_variance_is_normal_values_are_covered(confidence: float, least: float) -> None:
    """The claim in Precision's docstring, with the sums of squares alone: given them, coverage has a closed form."""
    rng = np.random.default_rng(11)
    runs, looks = 20_000, 32 * 2 ** np.arange(8)
    grown = np.column_stack([rng.chisquare(31, runs), rng.chisquare(np.diff(looks), (runs, 7))])
    deviation = np.sqrt(np.cumsum(grown, axis=1) / (looks - 1))
    t = stats.t.ppf(1 - statistics._ERROR_SHARE * (1 - confidence) / 2, looks - 1)
    found = []
    for enough in np.geomspace(8, 3000, 100):  # replications that would do if the variance were known
        wanted = (t * deviation / stats.norm.ppf(0.5 + confidence / 2)) ** 2 * enough
        stops = np.argmax(wanted <= 2 * looks - 1, axis=1)
        found.append(np.mean(2 * stats.norm.cdf(t[stops] * deviation[np.arange(runs), stops]) - 1))
    assert min(found) >= least - 0.0005
    assert max(found) <= 1 - statistics._ERROR_SHARE * (1 - confidence) + 0.0005


def test_a_plain_t_interval_would_not_do() -> None:
    """What the rule is for: looking after every replication until a t interval is narrow enough covers less."""
    rng = np.random.default_rng(12)
    n = np.arange(5, 401)
    t = stats.t.ppf(0.975, n - 1)
    missed = 0
    for x in rng.normal(0, 1, size=(2000, 400)):
        squares = np.cumsum(x * x) - np.cumsum(x) ** 2 / np.arange(1, 401)
        widths = 2 * t * np.sqrt(squares[4:] / (n - 1) / n)
        stop = n[np.argmax(widths <= 0.6)]
        interval = statistics.mean_interval(x[:stop])
        assert interval.high - interval.low <= 0.6 + 1e-9
        missed += not interval.low <= 0 <= interval.high
    assert 1 - missed / 2000 < 0.93


@given(st.lists(finite, max_size=300), st.sampled_from([None, 0.01, 10.0]), st.integers(16, 100))
def test_what_is_asked_for_is_sensible(values: list[float], absolute: float | None, first: int) -> None:
    precision = Precision(relative=None if absolute else 0.1, absolute=absolute, first=first, most=250)
    n = len(values)
    wanted = statistics.replications_needed(values, precision)
    assert n <= wanted <= max(2 * n, first)
    assert wanted == n or wanted <= 250
    mean, low, high = statistics.sequential_interval(values, precision)
    if n >= first and wanted == n < 250:
        assert (high - low) / 2 <= precision.target(mean) * (1 + 1e-9) + 1e-9 * abs(mean)


def test_values_without_spread_are_known_at_once() -> None:
    assert statistics.replications_needed([0.0] * 32, Precision(relative=0.1)) == 32
    assert statistics.sequential_interval([7.0] * 32, Precision(relative=0.1)) == (7, 7, 7)
    swings = [1.0, -1.0] * 16  # a mean of 0 can have no relative precision
    assert statistics.replications_needed(swings, Precision(relative=0.1)) == 64
    assert statistics.replications_needed(swings, Precision(relative=0.1, absolute=1.0)) == 32
    assert statistics.replications_needed(swings * 2, Precision(relative=0.1, most=50)) == 64


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "relative"),
        ({"relative": 0}, "relative is 0"),
        ({"absolute": -1.0}, "absolute is -1"),
        ({"absolute": math.nan}, "absolute is nan"),
        ({"relative": 0.1, "confidence": 95}, "between 0 and 1"),
        ({"relative": 0.1, "confidence": 0.2}, r"0\.5 to 0\.999"),
        ({"relative": 0.1, "first": 2}, "first is 2"),
        ({"relative": 0.1, "most": 3}, "most is 3"),
    ],
)
def test_an_impossible_precision_is_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Precision(**fields)


def test_what_cannot_be_used_is_said() -> None:
    with pytest.raises(InputError, match="replication 2 has the value nan"):
        statistics.mean_interval([1, 2, math.nan])
    with pytest.raises(InputError, match="2 and 3 values cannot be paired"):
        statistics.paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="2 axes, expected 1"):
        statistics.replications_needed([[1, 2]], Precision(relative=0.1))
    with pytest.raises(InputError, match="q is 1"):
        statistics.quantile_interval([1, 2], 1)
    with pytest.raises(InputError, match="replications × columns"):
        statistics.best([1, 2])
    with pytest.raises(InputError, match="replications × columns"):
        statistics.bootstrap_intervals([1, 2])
    with pytest.raises(InputError, match=r"such as 0\.95"):
        statistics.mean_interval([1, 2], 95)
    for empty in (
        statistics.mean_interval([]),
        statistics.quantile_interval([], 0.5),
        statistics.ratio_interval([], []),
    ):
        assert all(map(math.isnan, empty))
    assert math.isnan(statistics.mean_interval([3.0]).low)


def test_the_table_of_coverage_can_be_made_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from verification import coverage

    monkeypatch.setattr(coverage, "RUNS", 80)
    monkeypatch.setattr(coverage, "SIMULATIONS", 60)
    assert coverage.main() == 0
    lines = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs" / "reference" / "statistics.md").read_text("utf-8")
    for line in lines:
        values, interval, _ = (cell.strip() for cell in line.strip("|").split("|"))
        shown = f"| {values} | {interval.split(' values on')[0].rsplit(',', 1)[0]}"  # without the average, which varies
        assert shown in page
    assert len(lines) == 2 + 3 * 8 + 2 * 3
