"""Generated workloads: the published statistics, exact distributions, streams that never change, arrivals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmsched.errors import InputError
from llmsched.workloads import generate
from llmsched.workloads.workload import Workload

# Every generator with parameters for which small and large draws are possible: name -> arguments after n.
EXAMPLES = {
    "lmsys": (),
    "two_point": (10, 40, 0.6),
    "geometric": (0.9, 100),
    "linear_geometric": (0.7, 50),
    "uniform": (5, 24),
    "lognormal": (3.0, 1.2, 2, 300),
}


def probabilities(name, args):
    """Support and exact probabilities of the outputs, written down again from the definitions."""
    if name == "two_point":
        low, high, share = args
        return np.array([low, high]), np.array([share, 1 - share])
    if name in ("geometric", "linear_geometric"):
        q, upper = args
        k = np.arange(1, upper + 1)
        weights = np.array([(1 - q) * q ** (i - 1) * (i * (1 - q) if name == "linear_geometric" else 1) for i in k])
    elif name == "uniform":
        k = np.arange(args[0], args[1] + 1)
        weights = np.ones(len(k))
    else:
        mu, sigma, low, high = args or generate._LMSYS_OUTPUT
        k = np.arange(low, high + 1)
        weights = stats.lognorm.pdf(k, sigma, scale=math.exp(mu))
    return k, weights / math.fsum(weights)


def chi_square(sample, k, p):
    """P-value of the sample (n,) under probabilities p of values k; thin cells joined with their neighbours."""
    counts = np.array([(sample == v).sum() for v in k])
    assert counts.sum() == len(sample)
    cell = np.floor(np.cumsum(p * len(sample)) / 50).astype(int)
    observed, expected = np.bincount(cell, counts), np.bincount(cell, p * len(sample))
    seen = expected > 0
    return stats.chisquare(observed[seen], expected[seen]).pvalue


@pytest.mark.parametrize(
    ("constants", "high", "mean", "median"), [("_LMSYS_PROMPT", 468, 41, 11), ("_LMSYS_OUTPUT", 883, 85, 43)]
)
def test_lmsys_distributions_have_the_published_mean_and_median(constants, high, mean, median):
    mu, sigma, low, top = getattr(generate, constants)
    assert (low, top) == (1, high)
    k = np.arange(1, high + 1)
    weights = stats.lognorm.pdf(k, sigma, scale=math.exp(mu))
    p = weights / math.fsum(weights)
    assert math.fsum(p * k) == pytest.approx(mean, abs=0.001)
    below, to = p[: median - 1].sum(), p[:median].sum()
    assert below < 0.5 <= to
    assert (below + to) / 2 == pytest.approx(0.5, abs=1e-4)  # and no other median is near


def test_lmsys_draws_have_the_published_statistics():
    w = generate.lmsys(200_000, seed=1)
    for column, high, mean, median in [(w.prompt, 468, 41, 11), (w.output, 883, 85, 43)]:
        assert column.min() == 1
        assert column.max() == high
        assert column.mean() == pytest.approx(mean, abs=4 * column.std() / math.sqrt(len(w)))
        assert np.median(column) == median
    assert abs(np.corrcoef(w.prompt, w.output)[0, 1]) < 4 / math.sqrt(len(w))


@pytest.mark.parametrize(
    ("constants", "mean", "median", "variance"),
    [("_LMSYS_PROMPT_HALVES", 41, 11, 4961), ("_LMSYS_OUTPUT_HALVES", 85, 43, 9702)],
)
def test_lmsys_has_the_published_variances_where_asked(constants, mean, median, variance):
    k, p = generate._halves_table(*getattr(generate, constants))
    assert math.fsum(p) == pytest.approx(1)
    assert math.fsum(p * k) == pytest.approx(mean, abs=0.001)
    assert math.fsum(p * k * k) - mean**2 == pytest.approx(variance, abs=0.5)
    assert (p[: median - 1].sum() + p[:median].sum()) / 2 == pytest.approx(0.5)
    w = generate.lmsys(200_000, 3, second_moments=True)
    column = w.prompt if constants.startswith("_LMSYS_PROMPT") else w.output
    assert np.median(column) == median
    assert column.var() == pytest.approx(variance, rel=0.02)
    assert generate.lmsys(5, 3, second_moments=True).source["second_moments"] is True


def test_lmsys_is_by_default_2000_requests_at_0_without_predictions():
    w = generate.lmsys()
    assert w == generate.lmsys(2000, 0)
    assert list(w.columns()) == ["prompt", "output", "arrival"]
    assert not w.arrival.any()
    assert w.source == {"generator": "lmsys", "n": 2000, "seed": 0}


@pytest.mark.parametrize("name", EXAMPLES)
def test_outputs_follow_the_exact_distribution(name):
    w = generate.GENERATORS[name](200_000, *EXAMPLES[name], seed=3)
    assert chi_square(w.output, *probabilities(name, EXAMPLES[name])) > 1e-3


@pytest.mark.parametrize("name", EXAMPLES)
def test_tables_are_the_exact_probabilities_to_one_step(name, monkeypatch):
    tables = []
    monkeypatch.setattr(generate, "_draw", lambda s, p, n, k, w: (tables.append((k, w)), np.ones(n, np.int64))[1])
    generate.GENERATORS[name](1, *EXAMPLES[name], seed=0)
    k, p = probabilities(name, EXAMPLES[name])
    values, weights = tables[-1]
    steps = generate._cumulative(weights)
    assert np.array_equal(values, k)
    assert steps[-1] == 2**40
    assert (np.abs(np.cumsum(p) * 2**40 - steps) <= 1).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_last_bits_of_the_mathematics_library_do_not_change_a_workload(name, monkeypatch):
    before = generate.GENERATORS[name](50_000, *EXAMPLES[name], seed=5)
    cumulative, noise = generate._cumulative, np.random.default_rng(0)
    monkeypatch.setattr(
        generate, "_cumulative", lambda weights: cumulative(weights * (1 + 4e-16 * noise.uniform(-1, 1, len(weights))))
    )
    assert generate.GENERATORS[name](50_000, *EXAMPLES[name], seed=5) == before


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_first_requests_do_not_depend_on_how_many_follow(name):
    long, short = (generate.GENERATORS[name](n, *EXAMPLES[name], seed=9) for n in (1000, 10))
    assert long.head(10) == short
    assert long != generate.GENERATORS[name](1000, *EXAMPLES[name], seed=10)


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_requests_is_a_workload_too(name):
    w = generate.GENERATORS[name](0, *EXAMPLES[name])
    assert len(w) == len(generate.poisson(w, 1)) == len(generate.gamma(w, 1, 2)) == len(generate.resample(w, 0)) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "lmsys": [37, 9, 94, 66, 4, 5, 28, 86],
        "two_point": [10, 10, 40, 40, 10, 10, 10, 40],
        "geometric": [6, 2, 13, 10, 1, 1, 5, 12],
        "linear_geometric": [4, 2, 7, 6, 1, 1, 4, 7],
        "uniform": [14, 7, 19, 17, 5, 5, 12, 19],
        "lognormal": [17, 5, 42, 30, 3, 3, 13, 39],
    }.items(),
)
def test_one_seed_gives_one_workload_for_ever(name, expected):
    assert generate.GENERATORS[name](8, *EXAMPLES[name], seed=2026).output.tolist() == expected


def test_one_seed_gives_one_prompt_stream_for_ever():
    assert generate.lmsys(8, seed=2026).prompt.tolist() == [3, 7, 32, 234, 19, 4, 2, 27]


@pytest.mark.parametrize(
    ("name", "support"),
    [("two_point", (10, 40)), ("geometric", (1, 100)), ("linear_geometric", (1, 50)), ("uniform", (5, 24))],
)
def test_theory_workloads_carry_their_support_as_everybodys_interval(name, support):
    w = generate.GENERATORS[name](50, *EXAMPLES[name], prompt=7)
    assert (set(w.lower), set(w.upper)) == ({support[0]}, {support[1]})
    assert set(w.prompt) == {7}
    bare = generate.GENERATORS[name](50, *EXAMPLES[name], prompt=7, interval=False)
    assert bare == w.replace(lower=None, upper=None)


def test_lognormal_carries_an_interval_only_if_asked():
    assert generate.lognormal(5, 3, 1, 2, 300).lower is None
    assert set(generate.lognormal(5, 3, 1, 2, 300, interval=True).upper) == {300}


def test_source_says_how_to_make_the_workload_again():
    w = generate.two_point(100, 10, 40, "0.8", 5, 3)
    source = dict(w.source)
    assert source == {
        "generator": "two_point", "n": 100, "lower": 10, "upper": 40, "share": 0.8, "prompt": 5, "interval": True,
        "seed": 3,
    }  # fmt: skip
    assert generate.GENERATORS[source.pop("generator")](**source) == w


@given(st.integers(1, 10**15), st.integers(0, 10**15), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_two_point_has_two_points(lower, more, share, seed):
    w = generate.two_point(20, lower, lower + more, share, seed=seed)
    assert set(w.output) <= {lower, lower + more}


def test_two_point_at_the_ends_of_share():
    assert set(generate.two_point(1000, 1, 2, 1).output) == {1}
    assert set(generate.two_point(1000, 1, 2, 0).output) == {2}


@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(1, 500), st.integers(0, 99))
def test_geometrics_stay_in_their_support(q, upper, seed):
    for maker in (generate.geometric, generate.linear_geometric):
        w = maker(50, q, upper, seed=seed)
        assert w.output.min() >= 1
        assert w.output.max() <= upper


@given(st.floats(-1000, 1000), st.floats(1e-6, 1e6), st.integers(1, 500), st.integers(0, 500))
def test_lognormals_stay_in_their_range_however_extreme(mu, sigma, low, more):
    w = generate.lognormal(20, mu, sigma, low, low + more)
    assert w.output.min() >= low
    assert w.output.max() <= low + more


def test_lognormal_by_mean_and_median_is_that_before_the_cut():
    w = generate.lognormal(10, mean=85, median=43, high=100_000)
    assert w.source["mu"] == pytest.approx(math.log(43))
    assert math.exp(w.source["mu"] + w.source["sigma"] ** 2 / 2) == pytest.approx(85)
    assert w == generate.lognormal(10, w.source["mu"], w.source["sigma"], high=100_000)


def test_resample_draws_whole_rows_uniformly():
    rows = Workload([1, 2, 3, 4], [10, 20, 30, 40], lower=[5, 6, 7, 8], point=[9, 8, 7, 6], arrival=[0.5, 1, 2, 3])
    w = generate.resample(rows, 40_000, seed=1)
    assert not w.arrival.any()
    at = w.prompt - 1
    assert w == rows.take(at).replace(arrival=0.0)
    assert stats.chisquare(np.bincount(at)).pvalue > 1e-3
    assert w.source["of"] == {}
    assert generate.resample(rows, 40_000, seed=1, keep_arrivals=True) == rows.take(at)
    assert w.prompt[:12].tolist() == [1, 3, 4, 3, 2, 3, 3, 2, 2, 3, 4, 2]


def test_resample_can_follow_arrivals_and_keeps_the_source():
    w = generate.resample(generate.lmsys(5, 7), 3, 1)
    assert w.source == {
        "generator": "resample", "n": 3, "keep_arrivals": False, "seed": 1,
        "of": {"generator": "lmsys", "n": 5, "seed": 7},
    }  # fmt: skip


def test_poisson_gaps_are_exponential_with_the_rate():
    w = generate.lmsys(20_000)
    arriving = generate.poisson(w, rate=50, seed=4)
    gaps = np.diff(arriving.arrival, prepend=0)
    assert stats.kstest(gaps * 50, "expon").pvalue > 1e-3
    assert arriving.replace(arrival=0.0) == w
    assert arriving.source["arrivals"] == {"process": "poisson", "rate": 50.0, "seed": 4}
    assert arriving.source["generator"] == "lmsys"


@pytest.mark.parametrize("cv", [0.3, 1, 3])
def test_gamma_gaps_have_the_rate_and_the_cv(cv):
    arriving = generate.gamma(generate.lmsys(20_000), rate=0.5, cv=cv, seed=4)
    gaps = np.diff(arriving.arrival, prepend=0)
    if cv < 2:  # with cv=3, gaps of a fraction of a step are rounded to a tie at 0
        assert stats.kstest(gaps * 0.5, stats.gamma(cv**-2, scale=cv**2).cdf).pvalue > 1e-3
    assert gaps.mean() == pytest.approx(2, abs=4 * 2 * cv / math.sqrt(20_000))
    assert gaps.std() == pytest.approx(2 * cv, rel=0.1)


def test_gamma_with_cv_0_is_clockwork_and_extremes_work():
    w = generate.lmsys(5)
    assert generate.gamma(w, 4, 0).arrival.tolist() == [0.25, 0.5, 0.75, 1, 1.25]
    assert generate.gamma(w, 4, 5e-324).arrival.tolist() == [0.25, 0.5, 0.75, 1, 1.25]
    assert (np.diff(generate.gamma(w, 4, 1000).arrival) >= 0).all()


def test_arrivals_never_change_and_never_depend_on_how_many_follow():
    w = generate.lmsys(1000)
    assert generate.poisson(w, 1, 2026).arrival[:4].tolist() == [
        0.6698522567749023,
        1.5852527618408203,
        1.6270132064819336,
        2.3295230865478516,
    ]
    assert generate.gamma(w, 1, 2, 2026).arrival[:4].tolist() == [
        0.22725200653076172,
        0.2272634506225586,
        0.3840818405151367,
        1.6090164184570312,
    ]
    for make in (lambda w: generate.poisson(w, 3, 1), lambda w: generate.gamma(w, 3, 2, 1)):
        assert make(w).head(10) == make(w.head(10))


def test_speed_up_divides_the_workloads_own_times():
    w = generate.poisson(generate.lmsys(10), 1)
    fast = generate.speed_up(w, 2)
    assert np.array_equal(fast.arrival, w.arrival / 2)
    assert fast.source["arrivals"] == {"process": "speed_up", "factor": 2.0, "of": w.source["arrivals"]}
    assert "of" not in generate.speed_up(generate.lmsys(10), 2).source["arrivals"]


def test_at_once_sets_all_arrivals_to_0():
    w = generate.lmsys(10)
    assert generate.at_once(generate.poisson(w, 1)) == w


def test_the_same_seed_everywhere_does_not_correlate():
    w = generate.poisson(generate.lmsys(50_000, seed=0), 1, seed=0)
    gaps = np.diff(w.arrival, prepend=0)
    for a, b in [(w.prompt, w.output), (w.prompt, gaps), (w.output, gaps)]:
        assert abs(stats.spearmanr(a, b).statistic) < 4 / math.sqrt(len(w))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lmsys", lambda: generate.lmsys(30, 4)),
        ("two_point:10,40", lambda: generate.two_point(30, 10, 40, seed=4)),
        ("two_point:10,40,0.7,5", lambda: generate.two_point(30, 10, 40, 0.7, 5, 4)),
        ("geometric:0.9,100", lambda: generate.geometric(30, 0.9, 100, seed=4)),
        ("linear_geometric: 0.9, 100, 20", lambda: generate.linear_geometric(30, 0.9, 100, 20, 4)),
        ("uniform:1,100", lambda: generate.uniform(30, 1, 100, seed=4)),
        ("lognormal:3,1.2,1,500", lambda: generate.lognormal(30, 3, 1.2, 1, 500, seed=4)),
    ],
)
def test_parse_reads_the_command_line_spelling(text, expected):
    assert generate.parse(text, 30, 4) == expected()
    assert generate.parse(text, 30, 4).source == expected().source


def test_every_generator_has_a_form():
    assert list(generate.FORMS) == list(generate.GENERATORS) == list(EXAMPLES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lmsis", r"no generator 'lmsis': did you mean 'lmsys'\? known: .*two_point:LOWER,UPPER"),
        ("lmsys:3", "does not have the form lmsys$"),
        ("two_point:10", r"does not have the form two_point:LOWER,UPPER\[,SHARE,PROMPT\]"),
        ("two_point:40,10", "lower is 40 and upper is 10.*write it as two_point:LOWER,UPPER"),
        ("geometric:x,10", "q must be a finite number, not 'x'"),
        ("uniform:1,2.5", "high must be a whole number .* not '2.5'"),
    ],
)
def test_parse_says_what_was_wrong_and_the_right_form(text, message):
    with pytest.raises(InputError, match=message):
        generate.parse(text)


W = Workload(1, [1, 2], arrival=[1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generate.lmsys(-1), "n, the number of requests, must be a whole number from 0 .* not -1"),
        (lambda: generate.lmsys(2.5), "n, the number of requests, .* not 2.5"),
        (lambda: generate.lmsys(5, -1), "seed must be a whole number from 0 to 18446744073709551615, not -1"),
        (lambda: generate.lmsys(5, None), "seed must be .* not None"),
        (lambda: generate.two_point(5, 0, 3), "lower must be a whole number from 1"),
        (lambda: generate.two_point(5, 4, 3), "lower is 4 and upper is 3, expected lower <= upper"),
        (lambda: generate.two_point(5, 1, 3, 1.5), "share must be a probability from 0 to 1, not 1.5"),
        (lambda: generate.two_point(5, 1, 3, float("nan")), "share must be a finite number"),
        (lambda: generate.two_point(5, 1, 3, prompt=-1), "prompt must be a whole number from 0"),
        (lambda: generate.geometric(5, 0, 10), "q, .* between 0 and 1, not 0"),
        (lambda: generate.geometric(5, 1, 10), "q, .* between 0 and 1, not 1"),
        (lambda: generate.geometric(5, 0.5, 0), "upper must be a whole number from 1"),
        (lambda: generate.linear_geometric(5, -0.5, 10), "q, .* between 0 and 1, not -0.5"),
        (lambda: generate.linear_geometric(5, 0.5, 10**6 + 1), "lengths 1 to 1000001 are too many"),
        (lambda: generate.uniform(5, 3, 2), "low is 3 and high is 2, expected low <= high"),
        (lambda: generate.uniform(5, 1, 10**7), "too many"),
        (lambda: generate.lognormal(5, 1), "either mu and sigma or mean and median"),
        (lambda: generate.lognormal(5, 1, 1, mean=3), "either mu and sigma or mean and median"),
        (lambda: generate.lognormal(5, mean=3), "either mu and sigma or mean and median"),
        (lambda: generate.lognormal(5, 1, 0), "1e-6 <= sigma"),
        (lambda: generate.lognormal(5, 1e4, 1), "mu <= 1000"),
        (lambda: generate.lognormal(5, mean=3, median=4), "mean is 3, median is 4"),
        (lambda: generate.lognormal(5, mean=3, median=0), "median must be greater than 0"),
        (lambda: generate.resample(Workload([], []), 3), "nothing to draw from"),
        (lambda: generate.poisson(W, 0), "rate must be greater than 0, not 0"),
        (lambda: generate.poisson(W, float("inf")), "rate must be a finite number"),
        (lambda: generate.poisson(W, 1e-320), "request 0: arrival is inf"),
        (lambda: generate.poisson(W, 1, "x"), "seed must be"),
        (lambda: generate.gamma(W, 1, -1), "cv, .* from 0 to 1000, not -1"),
        (lambda: generate.gamma(W, -1, 1), "rate must be greater than 0"),
        (lambda: generate.speed_up(W, 0), "factor must be greater than 0"),
        (lambda: generate.speed_up(W, 1e-320), "request 0: arrival is inf"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
