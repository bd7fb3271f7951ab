"""Gates: what they read and decide, and where they say what is wrong."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError
from llmsched.metrics import gates

ROWS = {
    "amin": {
        "policy": "amin",
        "mean_latency": 10.0,
        "p99_latency": 50.0,
        "evictions": 3,
        "finished": True,
        "error": None,
    },
    "amin-doubling": {
        "policy": "amin-doubling",
        "mean_latency": 12.0,
        "p99_latency": 40.0,
        "evictions": 0,
        "error": None,
    },
    "hsf": {"policy": "hsf", "mean_latency": 8.0, "p99_latency": 60.0, "evictions": 0, "finished": True, "error": None},
    "clearing": {"policy": "clearing", "mean_latency": None, "p99_latency": None, "error": "stopped at round 9"},
    "amin, margin 5 %": {"policy": "amin, margin 5 %", "mean_latency": 9.0, "error": None},
    "größe-2": {"policy": "größe-2", "mean_latency": 7.0, "error": None},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amin.mean > 1.05 * hsf.mean", True),
        ("amin.mean > 1.25 * hsf.mean", False),
        ("amin.mean >= 1.25*hsf.mean", True),
        ("amin-doubling.p99 < amin.p99", True),
        ("amin.mean-hsf.mean == 2", True),
        ("amin.mean - hsf.mean == 2", True),
        ("amin.mean -hsf.mean == 2", True),
        ("2-amin.mean < 0", True),
        ("amin-doubling.mean-amin.mean == 2 and amin.mean-amin-doubling.mean == -2", True),
        ("not amin.mean > 5 or amin.evictions == 3", True),
        ("8 <= hsf.mean < amin.mean", True),
        ("8 < hsf.mean < amin.mean", False),
        ("(amin.mean + hsf.mean) / 2 == 9", True),
        ("'amin, margin 5 %'.mean < amin.mean", True),
        ('"amin-doubling".p99 == 40', True),
        ("größe-2.mean == 7 and amin.mean == 10", True),
        ("amin.mean_latency == amin.mean", True),
        ("amin.finished == 1", True),
        ("+amin.mean > -1e3", True),
        ("  amin.mean > 9\n", True),
    ],
)
def test_a_gate_decides_by_the_rows(text, expected):
    assert gates.parse(text).holds(ROWS) is expected


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("amin.mean >", 11, "syntax"),
        ("amin.mean > 1 +* 2", 16, "syntax"),
        ("amin.mean", 1, "a number, not a condition"),
        ("amin > 3", 1, "write what of 'amin' is meant, such as amin.mean"),
        ("amin.mean > f(3)", 13, "no use for this"),
        ("amin.mean > [3]", 13, "no use for this"),
        ("amin.mean.real > 3", 1, "no use for this"),
        ("amin.mean > 'x'", 13, "no use for this"),
        ("amin.mean > True", 13, "no use for this"),
        ("amin.mean > 2 ** 9", 13, r"by \+ - \* / alone"),
        ("amin.mean in 3", 1, "compared by"),
        ("amin.mean > 3 and 4", 19, "has to be a comparison, and this is a number"),
        ("amin.mean > (hsf.mean > 3)", 14, "has to be a number, and this is a comparison"),
        ("3.mean > 3", 2, "invalid"),
        ("(3).mean > 3", 1, "label is a name"),
        ("amin.policy == 3", 1, "policy is no number"),
        ("amin.mean > 1e999", 13, "not finite"),
        ("größe-2.mean == f(3)", 17, "no use for this"),
    ],
)
def test_what_is_no_gate_is_refused_with_its_place(text, place, message):
    with pytest.raises(InputError, match=rf"character {place}: .*{message}"):
        gates.parse(text)


@pytest.mark.parametrize("text", ["", "   ", None, "x" * 20_000, "(" * 500, "amin.mean > 3\x00"])
def test_nonsense_is_refused(text):
    with pytest.raises(InputError, match="gate"):
        gates.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hsf.mean < amin-dubling.mean", "character 12: there is no row 'amin-dubling'; did you mean 'amin-doubling'"),
        ("amin.men > 3", "character 1: there is no column 'men'; did you mean 'mean'"),
        ("clearing.mean > 3", "character 1: clearing has no mean_latency: stopped at round 9"),
        ("amin.mean / hsf.evictions > 3", "character 13: this is 0 and divides"),
    ],
)
def test_what_the_rows_do_not_have_is_told_with_its_place(text, message):
    with pytest.raises(InputError, match=message):
        gates.parse(text).holds(ROWS)


NUMBERS = st.one_of(
    st.integers(0, 99).map(str),
    st.sampled_from(["amin.mean", "hsf.p99", "amin-doubling.mean", "amin.evictions"]),
)
SUMS = st.recursive(
    NUMBERS, lambda part: st.builds("({} {} {})".format, part, st.sampled_from("+-*"), part), max_leaves=6
)
TESTS = st.recursive(
    st.builds("{} {} {}".format, SUMS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), SUMS),
    lambda part: st.one_of(
        st.builds("({} {} {})".format, part, st.sampled_from(["and", "or"]), part), st.builds("not ({})".format, part)
    ),
    max_leaves=4,
)


@given(TESTS)
def test_a_gate_means_what_the_same_text_means_in_python(text):
    class Row:
        def __init__(self, row):
            self.mean, self.p99, self.evictions = row["mean_latency"], row["p99_latency"], row["evictions"]

    names = {name.replace("-", "_"): Row(ROWS[name]) for name in ("amin", "hsf", "amin-doubling")}
    assert gates.parse(text).holds(ROWS) == eval(text.replace("amin-doubling", "amin_doubling"), {}, names)


def test_it_reads_a_comparison_and_explains_itself():
    w = ls.generate.lmsys(100, 0).with_intervals(ls.intervals.buckets(100))
    compared = ls.compare(w, ["amin", "hsf", "amin-doubling"], memory=2500)
    gate = ls.gates.parse("amin.mean > 1.05 * hsf.mean and amin-doubling.p99 > 0")
    amin, hsf = (compared[name].result.mean_latency for name in ("amin", "hsf"))
    assert gate.holds(compared) == operator.gt(amin, 1.05 * hsf)
    assert [(value.policy, value.column, value.place) for value in gate.values] == [
        ("amin", "mean_latency", 1),
        ("hsf", "mean_latency", 20),
        ("amin-doubling", "p99_latency", 33),
    ]
    assert f"amin.mean_latency = {amin:.6g}, hsf.mean_latency = {hsf:.6g}" in gate.explain(compared)
