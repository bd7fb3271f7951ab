"""theory.py: every value that the design card prints, the identities between them, and bad input."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError
from llmsched.optimum import theory

ALPHAS = ["1/4", 0.25, Fraction(1, 9), 0.0625, 0.5, 1]


# A_max ----------------------------------------------------------------------------------------------------------------


def test_theorem_1_at_some_alphas() -> None:
    assert [theory.amax_bound(a) for a in ("1/4", "1/2", 1)] == [10, 3, 1]


def test_theorem_2_as_printed_and_its_instance() -> None:
    assert theory.amax_printed_lower_bound("1/4") == 6
    assert theory.amax_instance("1/4", "1/2") == 3
    assert theory.amax_instance(1, 2.5) == pytest.approx(1)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_instances_worst_r_is_worst(alpha: object) -> None:
    worst = theory.amax_instance_worst(alpha)
    tried = [theory.amax_instance(alpha, r) for r in np.linspace(0.01, 20, 2000)]
    assert worst.ratio >= max(tried) - 1e-12
    assert worst.ratio == pytest.approx(max(tried), rel=1e-5)
    assert worst.ratio == theory.amax_instance(alpha, worst.r)


def test_the_instance_stays_below_the_printed_bound_which_it_should_prove() -> None:
    for alpha in (0.5, 0.25, 0.1, 0.01):
        assert theory.amax_instance_worst(alpha).ratio < theory.amax_printed_lower_bound(alpha)
        assert theory.amax_printed_lower_bound(alpha) < theory.amax_bound(alpha)
    assert theory.amax_instance_worst(1e-9).ratio * 1e-9 == pytest.approx((1 + math.sqrt(2)) / 2, rel=1e-6)


# Lemma 2 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "ratio"), [(0, 1.375), (5, 1.4074), (20, 1.4375), (100, 1.4420)])
def test_lemma_2_on_the_cards_example(prompt: int, ratio: float) -> None:
    assert theory.amin_ratio([10, 40], [0.8, 0.2], prompt) == pytest.approx(ratio, abs=5e-5)


def lemma_2_as_printed(x: dict[int, Fraction], lower: int, upper: int, s: int) -> Fraction:
    """The formula, sum by sum, in exact numbers."""
    above = below = Fraction(0)
    x = {k: x.get(k, Fraction(0)) for k in range(lower, upper + 1)}
    for k in x:
        delta = s + lower if k == lower else 1
        ahead = [i for i in x if i > k]
        first = sum(i * x[i] for i in x if i >= k)
        each = sum(delta * x[i] / (s + i) for i in x if i >= k)
        above += delta * first * (each + 2 * sum((i - k) * x[i] / (s + i) for i in ahead))
        below += k * (s + k) * x[k] * (x[k] + 2 * sum(x[i] for i in ahead))
    return above / below


@examples(80)
@given(
    weights=st.dictionaries(st.integers(1, 25), st.integers(1, 50), min_size=1, max_size=8),
    prompt=st.integers(0, 60),
    below=st.integers(0, 3),
    beyond=st.integers(0, 3),
)
def test_lemma_2_is_the_printed_sum(weights: dict[int, int], prompt: int, below: int, beyond: int) -> None:
    lower, upper = max(1, min(weights) - below), max(weights) + beyond
    total = sum(weights.values())
    exact = lemma_2_as_printed({k: Fraction(x, total) for k, x in weights.items()}, lower, upper, prompt)
    given_ratio = theory.amin_ratio(list(weights), list(weights.values()), prompt, lower, upper)
    assert given_ratio == pytest.approx(float(exact), rel=1e-12)
    assert given_ratio >= 1 - 1e-12


def test_lemma_2_takes_lengths_in_any_order_twice_and_with_zeros() -> None:
    one = theory.amin_ratio([10, 40], [0.8, 0.2])
    assert theory.amin_ratio([40, 10, 10, 25], [2, 4, 4, 0]) == pytest.approx(one)
    assert theory.amin_ratio(np.array([10.0, 40.0]), np.array([8, 2])) == pytest.approx(one)


def test_lemma_2_is_1_when_all_is_known() -> None:
    assert theory.amin_ratio([7], [3], 11) == pytest.approx(1)


def test_lemma_2_is_linear_in_the_support() -> None:
    k = np.arange(1, 300_001)
    assert 1 < theory.amin_ratio(k, np.ones(len(k))) < 2


def test_hsfs_leading_term_is_its_total_latency_where_everything_divides() -> None:
    n, memory = 8000, 100
    measured = ls.simulate(ls.Workload(0, np.full(n, 10)), "hsf", memory=memory).total_latency
    leading = theory.hsf_total_latency(n, memory, [10], [1])
    assert leading == n * n * 100 / 200
    assert leading == pytest.approx(measured, rel=2 * memory / n)


def test_random_order_on_geometric_lengths() -> None:
    k = np.arange(1, 2000)
    for q in (0.3, 0.5, 0.9):
        assert theory.random_order_ratio(k, q ** (k - 1.0)) == pytest.approx((1 + q) ** 2 / (1 + q * q))
    assert theory.random_order_ratio([10], [1]) == pytest.approx(0.55)  # waves of 10 use 55 % of the cache


# Corollary 1 ----------------------------------------------------------------------------------------------------------

RHO = {1: 1, 2: 1.25, 3: 1.3793, 5: 1.5309, 10: 1.7249, 20: 1.9118, 50: 2.1532, 100: 2.3333, 200: 2.5121}


@pytest.mark.parametrize(("upper", "rho"), RHO.items())
def test_rho_of_the_card(upper: int, rho: float) -> None:
    assert theory.amin_rho(upper) == pytest.approx(rho, abs=5e-5)


@pytest.mark.parametrize("upper", [1, 2, 7, 30])
def test_the_matrices_are_those_of_corollary_1_and_the_trace_is_harmonic(upper: int) -> None:
    a, b = theory.quadratic_forms(upper)
    i, j = np.meshgrid(np.arange(1, upper + 1), np.arange(1, upper + 1))
    m = np.minimum(i, j)
    assert np.allclose(b, m**2)
    assert np.allclose(a, m**2 / (i * j) * ((i + j) ** 2 / 2 - m**2))
    product = np.linalg.solve(b, a)
    assert np.trace(product) == pytest.approx(theory.amin_trace(upper))
    assert max(np.linalg.eigvals(product).real) == pytest.approx(theory.amin_rho(upper))


@examples(40)
@given(
    x=st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any),
    lower=st.integers(1, 12),
    prompt=st.integers(0, 30),
)
def test_lemma_2_is_the_quotient_of_the_quadratic_forms_and_below_rho(x: list[int], lower: int, prompt: int) -> None:
    upper = lower + len(x) - 1
    a, b = theory.quadratic_forms(upper, lower, prompt)
    shares = np.array(x, dtype=float)
    ratio = theory.amin_ratio(np.arange(lower, upper + 1), shares, prompt, lower, upper)
    assert ratio == pytest.approx(shares @ a @ shares / (shares @ b @ shares))
    assert ratio <= theory.amin_rho(upper, lower, prompt) * (1 + 1e-9)


@pytest.mark.parametrize(("lower", "upper", "prompt"), [(1, 1, 0), (1, 40, 0), (10, 40, 0), (3, 60, 100), (30, 31, 3)])
def test_the_worst_distribution_is_one_and_reaches_rho(lower: int, upper: int, prompt: int) -> None:
    lengths, shares = theory.amin_worst(upper, lower, prompt)
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1)
    ratio = theory.amin_ratio(lengths, shares, prompt, lower, upper)
    assert ratio == pytest.approx(theory.amin_rho(upper, lower, prompt))


def test_rho_up_to_2000() -> None:
    assert theory.amin_rho(2000) == pytest.approx(3.1002952948, abs=1e-9)


@pytest.mark.parametrize(("lower", "upper", "prompt"), [(1, 30, 0), (5, 90, 1000), (399, 400, 0), (20, 20, 7)])
def test_rho_is_the_largest_of_all_eigenvalues(lower: int, upper: int, prompt: int) -> None:
    a, b = theory.quadratic_forms(upper, lower, prompt)
    root = np.linalg.inv(np.linalg.cholesky(b))
    assert theory.amin_rho(upper, lower, prompt) == pytest.approx(np.linalg.eigvalsh(root @ a @ root.T)[-1], rel=1e-9)


def test_rho_lies_below_its_trace_and_near_the_papers_fit() -> None:
    for upper in RHO:
        assert theory.amin_rho(upper) <= theory.amin_trace(upper) + 1e-12
    assert theory.amin_rho_fit(1) == pytest.approx(0.2555 * math.log(1.2793) + 1.1587)
    for upper in (5, 50, 200):
        assert theory.amin_rho_fit(upper) == pytest.approx(theory.amin_rho(upper), rel=0.05)
    assert theory.amin_trace(3) == pytest.approx(1 + 1 / 2 + 1 / 3)


# Theorems 5 to 8 ------------------------------------------------------------------------------------------------------


def test_theorem_5s_order() -> None:
    assert theory.amin_order("1/10") == pytest.approx(math.log(10))
    assert theory.amin_order(1) == 0


@pytest.mark.parametrize("t", [0, "1/3", 1, 4, 100])
@pytest.mark.parametrize(("lower", "upper"), [(10, 40), (3, 4), (5, 5), (1, 100)])
def test_theorem_6_is_lemma_2_on_two_lengths(lower: int, upper: int, t: object) -> None:
    odds = float(Fraction(str(t)))
    if lower == upper and odds == 0:
        odds = 1.0
    shares = [odds / (1 + odds), 1 / (1 + odds)]
    expected = theory.amin_ratio([lower, upper], shares, 0, lower, upper)
    assert theory.amin_two_point(Fraction(lower, upper), odds) == pytest.approx(expected)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_two_point_bounds_are_the_largest_over_t(alpha: object) -> None:
    a = float(Fraction(str(alpha)))
    odds = np.concatenate([[0.0, 1 / a, max(1 / a - 2, 0)], np.geomspace(1e-3, 1e4, 500)])
    for curve, bound in (
        (theory.amin_two_point, theory.amin_two_point_bound),
        (theory.aell_two_point, theory.aell_two_point_bound),
    ):
        assert max(curve(a, t) for t in odds) == pytest.approx(bound(a))
    assert theory.amin_two_point(a, 1 / a) == pytest.approx((3 - a) / 2)


def test_theorem_7s_bound_on_both_sides_of_a_half() -> None:
    assert theory.aell_two_point_bound("1/4") == pytest.approx(1 + 1 / 6)
    assert theory.aell_two_point_bound("1/2") == 1.5
    assert theory.aell_two_point_bound("0.8") == pytest.approx(1 + 2 * 0.64)


def test_the_guarantees_cross_at_alpha_star() -> None:
    assert pytest.approx(0.381966, abs=5e-7) == theory.ALPHA_STAR
    assert theory.amin_two_point_bound(theory.ALPHA_STAR) == pytest.approx(theory.aell_two_point_bound(0.3819660112501))
    below, above = theory.best_guarantee(0.38), theory.best_guarantee(0.384)
    assert (below.policy, above.policy) == ("aell", "amin")
    assert below.ratio < below.other
    assert above.ratio < above.other
    assert theory.best_guarantee("1/4") == theory.Guarantee("aell", pytest.approx(7 / 6), 1.375)
    assert theory.best_guarantee(1).ratio == 1


@pytest.mark.parametrize(("q", "ratio"), [(0.1, 1.1455), (0.5, 1.5561), (0.8, 1.6672), (0.9, 1.6788)])
def test_the_geometric_curve_of_the_card(q: float, ratio: float) -> None:
    assert theory.amin_geometric(q) == pytest.approx(ratio, abs=5e-5)


def test_the_geometric_curve_rises_and_stays_below_1_7() -> None:
    curve = [theory.amin_geometric(q) for q in (0.01, *np.linspace(0.05, 0.95, 19), 0.99, 0.999)]
    assert curve == sorted(curve)
    assert 1 < curve[0] < 1.02
    assert curve[-1] < 1.7


@pytest.mark.parametrize("q", ["0.1", "0.5", "0.9"])
def test_theorem_8_is_lemma_2_on_the_linearly_weighted_geometric(q: str) -> None:
    k = np.arange(1, 1000)
    expected = theory.amin_ratio(k, k * float(q) ** (k - 1.0))
    assert theory.amin_linear_geometric(q) == pytest.approx(expected)
    assert theory.amin_linear_geometric(q) <= theory.LINEAR_GEOMETRIC_BOUND
    assert theory.amin_linear_geometric(1 - 1e-12) == pytest.approx(14 / 9)


# Staggered starts -----------------------------------------------------------------------------------------------------


def test_the_staggered_pipeline_of_the_card() -> None:
    assert theory.staggered_total_latency(1000, 100, 0, 10) == 303353
    assert ls.simulate(ls.Workload(0, np.full(1000, 10)), "hsf", memory=100).total_latency == 505000


@examples(60)
@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 25))
def test_the_staggered_peak_is_what_a_replay_needs(width: int, prompt: int, output: int) -> None:
    starts = np.arange(5 * width) * output // width
    progress = np.arange(starts[-1] + output)[:, None] - starts + 1
    running = (progress >= 1) & (progress <= output)
    assert np.where(running, prompt + progress, 0).sum(axis=1).max() == theory.staggered_peak(width, prompt, output)


@examples(60)
@given(st.integers(0, 300), st.integers(0, 9), st.integers(1, 25), st.integers(0, 400))
def test_the_widest_staggered_pipeline_fits_and_its_latency_is_the_sum(
    n: int, prompt: int, output: int, m: int
) -> None:
    memory = prompt + output + m
    width = theory.staggered_width(memory, prompt, output)
    assert theory.staggered_peak(width, prompt, output) <= memory < theory.staggered_peak(width + 1, prompt, output)
    total = sum(j * output // width + output for j in range(n))
    assert theory.staggered_total_latency(n, memory, prompt, output) == total


# Bad input ------------------------------------------------------------------------------------------------------------

OF_ALPHA = [
    theory.amax_bound,
    theory.amax_printed_lower_bound,
    theory.amax_instance_worst,
    theory.amin_order,
    theory.amin_two_point_bound,
    theory.aell_two_point_bound,
    theory.best_guarantee,
    lambda a: theory.amax_instance(a, 1),
    lambda a: theory.amin_two_point(a, 1),
    lambda a: theory.aell_two_point(a, 1),
]


def test_algorithm_2_exceeds_theorem_6_on_32_requests():
    """theory.md's smallest example; over 100 tie seeds, far beyond their spread."""
    w = ls.Workload(0, [1] * 24 + [4] * 8, 1, 4)
    best = ls.simulate(w, "hsf", memory=4).total_latency
    ratios = np.array([ls.simulate(w, "amin", memory=4, seed=k).total_latency / best for k in range(100)])
    assert ratios.mean() - 4 * ratios.std() / 10 > theory.amin_two_point_bound("1/4")


@pytest.mark.parametrize("alpha", [0, -0.5, 1.0001, "5/4", math.nan, math.inf, "x", None, True, "1/0", [0.5]])
@pytest.mark.parametrize("function", OF_ALPHA)
def test_alpha_outside_its_domain_is_refused(function, alpha) -> None:
    with pytest.raises(InputError, match="alpha must be lower/upper, a number above 0 and at most 1, not"):
        function(alpha)


@pytest.mark.parametrize(
    ("lengths", "shares", "how", "message"),
    [
        ([10, 40], [0, 0], {}, "no mass: give a length"),
        ([], [], {}, "no mass"),
        ([10, 40], [0, 0], {"lower": 5, "upper": 50}, "no mass: give a length"),
        ([10, 40], [1, 1], {"lower": 11, "upper": 30}, r"no mass in \[11, 30\]"),
        ([10, 40], [1, 1], {"upper": 30}, r"length 40 has mass but lies outside \[10, 30\]"),
        ([10, 40], [1, 1], {"lower": 41, "upper": 30}, r"no mass in \[41, 30\]"),
        ([10, 40], [1, -1], {}, "share 1 is -1"),
        ([10, 40], [1, math.nan], {}, "share 1 is nan"),
        ([10, 40], [1, math.inf], {}, "share 1 is inf"),
        ([10, 40], [1], {}, "one size"),
        ([0, 40], [1, 1], {}, "length 0 must be a whole number from 1"),
        ([1.5, 40], [1, 1], {}, "length 0 must be a whole number"),
        ([[1, 2]], [[1, 1]], {}, "shape"),
        ([1, [2]], [1, 1], {}, "ragged"),
        ([1, 2], ["a", "b"], {}, "shares must be a list of numbers"),
        ([1, 2], [1, 1], {"prompt": -1}, "prompt must be a whole number from 0"),
        ([1, 2], [1, 1], {"lower": 0}, "lower must be a whole number from 1"),
        ([1, 10**9], [1, 1], {}, "too many"),
    ],
)
def test_distributions_that_are_none_are_refused(lengths, shares, how, message) -> None:
    with pytest.raises(InputError, match=message):
        theory.amin_ratio(lengths, shares, **how)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.amin_rho(0), "upper must be a whole number from 1"),
        (lambda: theory.amin_rho(3, 4), "expected lower <= upper"),
        (lambda: theory.amin_rho(10**6), "too many for a matrix: narrow them to 5000"),
        (lambda: theory.amin_worst(5, 1, -1), "prompt"),
        (lambda: theory.amin_trace(0), "upper"),
        (lambda: theory.amin_rho_fit(0.5), "upper"),
        (lambda: theory.amin_geometric(1), "q must be a number between 0 and 1, not 1"),
        (lambda: theory.amin_geometric(0), "q must be"),
        (lambda: theory.amin_geometric("0.9999999999"), "too near 1"),
        (lambda: theory.amin_linear_geometric(2), "q must be"),
        (lambda: theory.amax_instance(0.5, 0), "r must be a number above 0"),
        (lambda: theory.amin_two_point(0.5, -1), "t must be a number of at least 0"),
        (lambda: theory.staggered_width(9, 0, 10), "memory must be a whole number from 10"),
        (lambda: theory.staggered_peak(0, 0, 10), "width"),
        (lambda: theory.staggered_total_latency(-1, 100, 0, 10), "n must be"),
        (lambda: theory.hsf_total_latency(10, 39, [10, 40], [1, 1]), "memory must be a whole number from 40"),
    ],
)
def test_other_bad_input_is_refused(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call()
