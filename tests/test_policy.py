"""Policy: a choice of fields, checked; what it needs, what it is called, and when two are the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError, PolicyError
from llmsched.policy import CHOICES, DESCRIPTIONS, named

AMIN = ls.policies["amin"]


# Fields ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ls.policies))
def test_a_named_policy_is_what_its_fields_make(name):
    policy = ls.policies[name]
    assert ls.Policy(**policy.fields()) == policy
    assert ls.Policy(**policy.fields()).fields() == policy.fields()


def test_a_bare_policy_is_amin():
    assert ls.Policy() == AMIN
    assert ls.Policy().name == "amin"


@pytest.mark.parametrize("field", sorted(CHOICES))
def test_fields_take_their_words_and_refuse_others_with_a_suggestion(field):
    base = "vllm" if field in ("slots", "prefixes") else "amin"  # a policy that looks ahead has its slots ahead
    for word in CHOICES[field]:
        assert getattr(dataclasses.replace(ls.policies[base], **{field: word}), field) == word
    typo = CHOICES[field][0] + "x"
    with pytest.raises(PolicyError) as caught:
        ls.Policy(**{field: typo})
    message = str(caught.value)
    assert f"{field}={typo!r}" in message
    assert f"did you mean {CHOICES[field][0]!r}?" in message
    assert f"known: {', '.join(CHOICES[field])}" in message
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("reserve", "bound", "nobody looks ahead for slots that are taken as tokens are processed"),
        ("reserve", "prompt + 1", "nobody looks ahead"),
        ("headroom", 2, "no more room is made than the next one needs"),
        ("resume", "swap", "a part of a prompt is not moved out and in"),
    ],
)
def test_what_does_not_go_with_slots_as_processed_is_refused(field, value, why):
    with pytest.raises(PolicyError, match=f"slots='processed' with {field}=.*{why}"):
        dataclasses.replace(ls.policies["vllm"], **{field: value})


@pytest.mark.parametrize("field", sorted(CHOICES))
@pytest.mark.parametrize("value", [None, 3, ["bound"], b"bound"])
def test_what_is_no_word_is_refused(field, value):
    with pytest.raises(PolicyError, match=field):
        ls.Policy(**{field: value})


@pytest.mark.parametrize("field", sorted(CHOICES.keys() - {"order"}))
def test_only_the_order_may_be_an_array(field):
    with pytest.raises(PolicyError, match=field):
        ls.Policy(**{field: np.array([1.0, 2.0])})


@pytest.mark.parametrize("margin", [0, 0.0, 0.5, 0.999, np.float64(0.25), np.float32(0.25), Fraction(1, 4)])
def test_margins_from_0_to_below_1(margin):
    assert float(ls.Policy(margin=margin).margin) == float(margin)


@pytest.mark.parametrize("field", ["margin", "beta"])
@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf, None, "0.1", True, [0.1]])
def test_shares_out_of_range_are_refused(field, value):
    with pytest.raises(PolicyError, match=rf"{field}=.* is out of range, expected 0 <=? {field} <=? 1"):
        ls.Policy(**{field: value})


@pytest.mark.parametrize("field", ["margin", "beta"])
def test_a_share_beyond_all_doubles_is_refused(field):
    with pytest.raises(PolicyError, match="out of range"):
        ls.Policy(**{field: 10**400})


def test_the_ends_of_both_shares():
    assert ls.Policy(beta=1).beta == 1
    with pytest.raises(PolicyError, match="0 <= margin < 1"):
        ls.Policy(margin=1)
    with pytest.raises(PolicyError, match="0 < beta <= 1"):
        ls.Policy(beta=0)


def test_a_field_that_does_not_exist():
    with pytest.raises(TypeError, match="evct"):
        ls.Policy(evct="bound")


def test_policies_never_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AMIN.evict = "newest"
    with pytest.raises(TypeError):
        ls.policies["mine"] = AMIN


# Orders of the caller's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[3, 1, 2], (3.0, 1.0, 2.0), np.array([3, 1, 2], np.int8), range(3, 0, -1)])
def test_an_order_may_be_numbers(order):
    policy = ls.Policy(order=order)
    assert policy.order.dtype == np.float64
    assert policy.order.tolist() == [float(x) for x in order]
    assert repr(policy) == "Policy(order=<3 numbers>)" == policy.name


def test_an_order_may_come_from_pandas():
    pandas = pytest.importorskip("pandas")
    assert ls.Policy(order=pandas.Series([3, 1, 2])) == ls.Policy(order=[3, 1, 2])


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ([1, np.nan], "request 1 is nan"),
        ([-np.inf, 1], "request 0 is -inf"),
        ([[1, 2]], r"array of shape \(1, 2\)"),
        (5, "one number per request"),
        ([1j, 2], "or numbers"),
        (["a", "b"], "or numbers"),
        ([[1], [1, 2]], "or numbers"),
        ([10**400], "or numbers"),
    ],
)
def test_bad_orders(order, said):
    with pytest.raises(PolicyError, match=said):
        ls.Policy(order=order)


def test_an_order_is_a_read_only_copy():
    mine = np.array([1.0, 2.0])
    policy = ls.Policy(order=mine)
    mine[0] = 9
    assert policy.order.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        policy.order[0] = 9


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_an_order_stays_read_only_in_a_copy(duplicate):
    """Equality and hash are computed once: an order that changed afterwards would contradict them."""
    policy = ls.Policy(order=[1, 2])
    hash(policy)
    with pytest.raises(ValueError, match="read-only"):
        duplicate(policy).order[0] = 9


# Equality, hash, name -------------------------------------------------------------------------------------------------


def test_a_policy_is_one_line():
    doubling = dataclasses.replace(AMIN, refine="double")
    assert doubling == ls.policies["amin-doubling"]
    assert hash(doubling) == hash(ls.policies["amin-doubling"])
    assert doubling.name == "amin-doubling"


def test_fields_that_nothing_reads_do_not_count():
    assert dataclasses.replace(AMIN, beta=0.7) == AMIN
    assert dataclasses.replace(AMIN, cap_refine="double") == AMIN
    assert hash(dataclasses.replace(AMIN, beta=0.7, cap_refine="double")) == hash(AMIN)
    assert dataclasses.replace(AMIN, beta=0.7).name == "amin"
    assert dataclasses.replace(ls.policies["fcfs"], bound="upper", hold="peak") == ls.policies["fcfs"]
    assert dataclasses.replace(AMIN, bound="upper") != AMIN
    assert dataclasses.replace(ls.policies["amax"], hold="peak") != ls.policies["amax"]
    assert dataclasses.replace(AMIN, quantile=0.1, ratio=1, ratio_floor=0, ratio_rounds=9, clip=1, window=7) == AMIN
    assert dataclasses.replace(ls.policies["fcfs"], tie="prompt") == ls.policies["fcfs"]
    for name, fields in {
        "amin": {"tie": "prompt"},
        "fcfs": {"headroom": 2},
        "conditional": {"quantile": 0.4},
        "past-future": {"window": 200},
    }.items():
        assert dataclasses.replace(ls.policies[name], **fields) != ls.policies[name]
    for fields in ({"ratio": 1}, {"ratio_floor": 0}, {"ratio_rounds": 9}, {"clip": 1}, {"headroom": 1}):
        assert dataclasses.replace(ls.policies["sglang"], **fields) != ls.policies["sglang"]
    assert dataclasses.replace(ls.policies["clearing"], beta=0.7) != ls.policies["clearing"]
    assert dataclasses.replace(ls.policies["aell"], cap_refine="double") != ls.policies["aell"]


def test_named_policies_all_differ_and_know_their_names():
    assert len(set(ls.policies.values())) == len(ls.policies)
    for name, policy in ls.policies.items():
        assert policy.name == name
        assert ls.Policy(**policy.fields()) == policy
    assert DESCRIPTIONS.keys() == ls.policies.keys()


def test_equality_of_orders_is_by_numbers():
    assert ls.Policy(order=[1, 2]) == ls.Policy(order=(1.0, 2.0))
    assert hash(ls.Policy(order=[1, 2])) == hash(ls.Policy(order=(1.0, 2.0)))
    assert ls.Policy(order=[1, 2]) != ls.Policy(order=[2, 1])
    assert ls.Policy(order=[1, 2]) != ls.Policy(order=[1, 2, 3])
    assert ls.Policy(order=[1, 2]) != AMIN
    assert AMIN != "amin"


def test_a_policy_without_a_name_shows_what_it_changes():
    policy = ls.Policy(reserve="upper", margin=0.1)
    assert policy.name == repr(policy) == "Policy(reserve='upper', margin=0.1)"
    assert eval(repr(policy), {"Policy": ls.Policy}) == policy


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
@pytest.mark.parametrize("policy", [*ls.policies.values(), ls.Policy(order=[2, 1])], ids=lambda p: p.name)
def test_copies_are_equal(policy, duplicate):
    assert duplicate(policy) == policy
    assert hash(duplicate(policy)) == hash(policy)
    assert duplicate(policy).name == policy.name


@pytest.mark.parametrize(
    "policy", [*ls.policies.values(), ls.Policy(order=[2, 1]), ls.Policy(margin=np.float64(0.1))], ids=lambda p: p.name
)
def test_fields_are_plain_and_make_the_policy_again(policy):
    fields = policy.fields()
    assert fields.keys() == {f.name for f in dataclasses.fields(ls.Policy)}
    assert ls.Policy(**json.loads(json.dumps(fields))) == policy


@pytest.mark.parametrize("margin", [np.float32(0.25), Fraction(1, 4), Decimal("0.25")])
def test_a_margin_of_any_numeric_type_is_one_policy_and_fits_json(margin):
    policy = ls.Policy(margin=margin)
    assert policy == ls.Policy(margin=0.25)
    assert json.loads(json.dumps(policy.fields()))["margin"] == 0.25


# What it reads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "needs", "clairvoyant"),
    [
        ("hsf", (), True),
        ("amax", ("upper",), False),
        ("amin", ("lower",), False),
        ("amin-doubling", ("lower",), False),
        ("aell", ("lower", "upper"), False),
        ("mcsf", ("point",), False),
        ("mc-benchmark", ("point",), False),
        ("fcfs", (), False),
        ("vllm-priority", ("priority",), False),
        ("protection", (), False),
        ("clearing", (), False),
        ("svf", (), True),
        ("amin-recompute", ("lower",), False),
        ("amin-lottery", ("lower",), False),
        ("auto", ("lower", "upper"), False),
        ("mcsf-protection", ("point",), False),
        ("vllm", (), False),
        ("trtllm", ("upper",), False),
        ("s3", ("upper",), False),
        ("rect", (), False),
        ("conditional", ("lengths",), False),
        ("sglang", ("upper",), False),
        ("past-future", ("upper",), False),
    ],
)
def test_needs_and_clairvoyance_of_the_named(name, needs, clairvoyant):
    assert ls.policies[name].needs == needs
    assert ls.policies[name].clairvoyant is clairvoyant


@pytest.mark.parametrize(
    ("fields", "needs", "clairvoyant"),
    [
        ({"order": "arrival", "reserve": "upper"}, ("lower", "upper"), False),  # evict="bound" reads õ
        ({"order": "arrival", "reserve": "upper", "evict": "all"}, ("upper",), False),
        ({"order": "point", "reserve": "upper", "evict": "all"}, ("upper", "point"), False),
        ({"order": "volume", "reserve": "none", "evict": "newest"}, (), True),
        ({"order": [1, 2], "reserve": "output", "evict": "newest"}, (), True),
        ({"order": [1, 2], "reserve": "none", "evict": "newest"}, (), False),
        ({"order": "table", "reserve": "none", "evict": "newest"}, ("lengths",), False),
        ({"order": "arrival", "reserve": "conditional"}, ("lower", "lengths"), False),
        ({"order": "arrival", "reserve": "ratio", "evict": "all"}, ("upper",), False),
        ({"order": "bound", "reserve": "history", "evict": "all"}, ("lower", "upper"), False),
        ({"cap": "bound", "cap_refine": "double"}, ("lower",), False),
        ({"bound": "upper"}, ("upper",), False),
        ({"bound": "point", "cap": "bound"}, ("upper", "point"), False),
        ({"bound": "one"}, (), False),
        ({"order": "area", "reserve": "output", "evict": "newest"}, ("lower",), True),
        ({"bound": "point", "order": "arrival", "reserve": "none", "evict": "newest"}, (), False),
        ({"order": "priority"}, ("lower", "priority"), False),
        ({"order": "arrival", "reserve": "none", "evict": "priority"}, ("priority",), False),
        ({"order": "arrival", "reserve": "none", "evict": "all", "cap": "bound"}, ("lower", "upper"), False),
        ({"order": "arrival", "reserve": "none", "evict": "all", "refine": "double"}, (), False),
    ],
)
def test_needs_of_compositions(fields, needs, clairvoyant):
    policy = ls.Policy(**fields)
    assert policy.needs == needs
    assert policy.clairvoyant is clairvoyant


@pytest.mark.parametrize("policy", [*ls.policies.values()], ids=lambda p: p.name)
def test_what_a_policy_does_not_need_it_does_not_read(policy):
    """Without the columns it does not need, or with nonsense in them, it does the same."""
    w = ls.generate.lmsys(60, seed=3).with_intervals(ls.intervals.buckets(50))
    w = w.replace(point=w.output + 3, priority=w.prompt % 3).with_lengths(ls.LengthTable.from_outputs([20, 100, 300]))
    optional = ("lower", "upper", "point", "priority")
    bare = w.replace(**{column: None for column in optional if column not in policy.needs})
    full, less = (ls.simulate(x, policy, memory=3000) for x in (w, bare))
    assert full.completion.tolist() == less.completion.tolist()


@pytest.mark.parametrize("policy", [*ls.policies.values()], ids=lambda p: p.name)
def test_no_policy_but_the_clairvoyant_sees_the_truth_before_it_happens(policy):
    """Two workloads that differ only in an output not reached yet: until then they are the same."""
    w = ls.Workload(3, [20, 9, 30, 4, 12], lower=[4, 4, 4, 4, 8], upper=40, point=[18, 10, 25, 5, 12])
    w = w.replace(priority=[1, 0, 1, 2, 0]).with_lengths(ls.LengthTable.from_outputs([5, 10, 15, 20, 25]))
    longer = w.replace(output=[20, 9, 31, 4, 12])  # differs after 30 tokens of request 2
    both = [ls.simulate(x, policy, memory=60, record="timeline", seed=None) for x in (w, longer)]
    rows = [r.timeline.expand() for r in both]
    same = int(both[0].start[2]) + 30
    differ = any(
        rows[0][name][:same].tolist() != rows[1][name][:same].tolist() for name in ("memory", "batch", "waiting")
    )
    assert not differ or policy.clairvoyant


# By name --------------------------------------------------------------------------------------------------------------


def test_named_takes_names_and_policies():
    assert named("hsf") is ls.policies["hsf"]
    mine = ls.Policy(margin=0.1)
    assert named(mine) is mine


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("amim", "there is no policy 'amim'; did you mean 'amin'\\?"),
        ("AMIN", "'AMIN'.*known: hsf, amax, amin"),
        ("amin-dubling", "did you mean 'amin-doubling'\\?"),
        ("", "there is no policy ''; known: hsf"),
        (None, "not NoneType"),
        (5, "not int"),
    ],
)
def test_named_suggests_the_nearest(given, said):
    with pytest.raises(PolicyError, match=said):
        named(given)


def test_a_named_policy_says_its_name_after_its_fields():
    assert repr(ls.Policy()) == "Policy()  # amin"
    for name, policy in ls.policies.items():
        assert repr(policy).endswith(f"  # {name}")
        assert eval(repr(policy), {"Policy": ls.Policy}) == policy


def test_a_subclass_with_methods_that_nothing_calls_is_refused():
    with pytest.raises(ls.errors.PolicyError, match=r"Mine decides nothing: nothing would call admit\(\)"):

        class Mine(ls.Policy):
            def admit(self, waiting):
                return waiting

    with pytest.raises(ls.errors.PolicyError, match="Idle decides nothing"):

        class Idle(ls.Policy):
            limit = 3


@pytest.mark.parametrize(
    ("things", "wrong", "right"),
    [
        (ls.policies, "amni", "amin"),
        (ls.clocks, "llama2-70b-2xa10", "llama2-70b-2xa100"),
        (ls.machines, "llama2-70b-8xh10", "llama2-70b-8xh100"),
        (ls.energy.powers, "example-2xa10", "example-2xa100"),
    ],
)
def test_a_mapping_of_names_suggests_the_nearest(things, wrong, right):
    with pytest.raises(ls.errors.UnknownNameError, match=f"did you mean '{right}'") as caught:
        things[wrong]
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ls.errors.PolicyError) == (things is ls.policies)
    assert wrong not in things
    assert things.get(wrong) is None
    assert things.get(right) == things[right]
    assert {**things} == dict(things.items())
    with pytest.raises(TypeError):
        things["new"] = things[right]


# Names of one's own ---------------------------------------------------------------------------------------------------


def test_a_label_is_shown_and_is_not_part_of_equality() -> None:
    mine = ls.Policy(margin=0.1).labelled("mine")
    assert (mine.name, mine.label) == ("mine", "mine")
    assert mine == ls.Policy(margin=0.1)
    assert hash(mine) == hash(ls.Policy(margin=0.1))
    assert pickle.loads(pickle.dumps(mine)).name == "mine"
    assert dataclasses.replace(mine, margin=0.2).label == ""
    assert (
        ls.simulate(ls.generate.lmsys(5).with_intervals(ls.intervals.exact()), mine, memory=5000).policy.name == "mine"
    )
    with pytest.raises(PolicyError, match="name of a policy"):
        mine.labelled(" ")


def test_what_is_composed_is_what_replace_makes() -> None:
    from llmsched.policy_files import parse

    assert parse("vllm") is ls.policies["vllm"]
    assert parse("vllm,margin=0.1,fill=skip") == dataclasses.replace(ls.policies["vllm"], margin=0.1, fill="skip")
    assert parse("vllm,margin=0.1").name == "vllm,margin=0.1"
    assert parse("amin, headroom=3 ,name=mine").name == "mine"
    for bad, said in (("amin,margin=1,margin=2", "twice"), ("amin,order=bond", "did you mean 'bound'")):
        with pytest.raises(PolicyError, match=said):
            parse(bad)


@pytest.mark.parametrize("text", ["=", "margin=0.05", "margin=0.05,beta=0.1", " = ,a=1"])
def test_a_spelling_without_a_policy_is_told_what_comes_first(text):
    with pytest.raises(PolicyError, match=r"does not begin with the name of a policy, as in amin,margin=0\.05"):
        named(text)
