"""Policies that somebody writes: formulas in three fields, and subclasses that decide in Python."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import machines, problems, seeds
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import FormulaError, FormulaValueError, MissingPredictionError, PolicyError
from llmsched.formula_names import PLACES
from llmsched.policy import CHOICES, named

NUMBERS = ("completion", "start", "evictions", "rounds", "peak_memory", "wasted_tokens")


def numbers(workload, policy, memory, **options):
    try:
        result = ls.simulate(workload, policy, memory=memory, **options)
    except ls.errors.LlmschedError as error:
        return type(error)
    return [np.asarray(getattr(result, name)).tolist() for name in NUMBERS]


def crowd(n=60, seed=0):
    rng = np.random.default_rng(seed)
    output = rng.integers(1, 20, n)
    lower = np.maximum(1, output - rng.integers(0, 12, n))
    arrival = np.sort(rng.exponential(2, n).cumsum())
    return ls.Workload(
        rng.integers(0, 10, n), output, lower, output + rng.integers(0, 16, n), output, arrival, deadline=20
    )


# Words and the formulas that say the same ----------------------------------------------------------------------------

SAME = {
    "order": {
        "arrival": "arrival", "queue": "joined", "bound": "bound + 0", "area": "(prompt + bound) * bound",
        "upper": "upper + 0", "point": "2 * point", "output": "output + 1",
        "volume": "prompt * output + output * (output + 1) / 2",
    },
    "reserve": {"bound": "bound - 0.25", "upper": "upper + 0", "point": "point - 0.5", "output": "1 * output"},
}  # fmt: skip


@examples(200)
@given(data=st.data(), field=st.sampled_from(sorted(SAME)), name=st.sampled_from(sorted(ls.policies)), seed=seeds)
def test_a_formula_that_says_what_a_word_says_decides_the_same(data, field, name, seed):
    workload, memory = data.draw(problems())
    word = data.draw(st.sampled_from(sorted(SAME[field])))
    options = data.draw(machines())
    memory += options.get("block", 1) - 1
    of = ls.policies[name]
    if field == "reserve" and of.slots == "processed":
        of = dataclasses.replace(of, slots="ahead", reserve="none")  # nobody looks ahead for slots that are processed
    base = dataclasses.replace(of, **{field: word})
    formula = dataclasses.replace(base, **{field: SAME[field][word]})
    found = [numbers(workload, policy, memory, seed=seed, max_rounds=2000, **options) for policy in (base, formula)]
    assert found[0] == found[1]


def test_ageing_by_now_and_by_arrival_is_one_order():
    w = crowd()
    a, b = ls.Policy(order="bound - 0.5 * (now - arrival)"), ls.Policy(order="bound + 0.5 * arrival")
    assert ls.simulate(w, a, memory=60).completion.tolist() == ls.simulate(w, b, memory=60).completion.tolist()


def test_the_highest_response_ratio_is_admitted_first():
    """Two wait for a place: the long one came first, but the short one's ratio is larger when there is room."""
    w = ls.Workload(0, [10, 8, 2], lower=[10, 8, 2], upper=[10, 8, 2], arrival=[0, 1, 2])
    hrrn = ls.Policy(order="-(now - arrival) / bound", reserve="bound")
    assert ls.simulate(w, hrrn, memory=10, max_batch=1).start.tolist() == [0, 12, 10]


def test_batches_give_what_single_runs_give():
    w = crowd()
    orders = ["(prompt + bound) * bound", "-(now - joined) / bound", "arrival + deadline", "1 / (2 - evictions)"]
    chosen = [ls.Policy(order=order, evict="prompt + generated", reserve="lower") for order in orders]
    batch = ls.simulate_batch(w, chosen, memory=60, seeds=[0, 1])
    for row, job in enumerate(batch.jobs):
        alone = numbers(w, chosen[job.policy], 60, seed=job.seed)
        if row in batch.errors:
            assert isinstance(batch.errors[row], FormulaValueError)
            assert alone is FormulaValueError
        else:
            assert batch.totals["rounds"][row] == alone[NUMBERS.index("rounds")]
    assert len(batch.errors) == 2


# What a policy with a formula is --------------------------------------------------------------------------------------


def test_spaces_do_not_make_another_policy():
    a, b = ls.Policy(order="(prompt+bound)  *bound"), ls.Policy(order="(prompt + bound) * bound")
    assert a == b
    assert hash(a) == hash(b)
    assert a != ls.Policy(order="(prompt + bound) * 2")


def test_a_policy_with_formulas_survives_pickle_fields_and_repr():
    p = ls.Policy(order="deadline", evict="prompt + generated", reserve="lower + 0.3 * (upper - lower)")
    assert pickle.loads(pickle.dumps(p)) == p == ls.Policy(**p.fields()) == eval(repr(p), {"Policy": ls.Policy})


def test_needs_and_clairvoyance_come_from_the_formulas():
    p = ls.Policy(order="deadline + priority", evict="bound", reserve="upper / 2", bound="point")
    assert p.needs == ("upper", "point", "priority", "deadline")
    assert not p.clairvoyant
    assert ls.Policy(evict="output - generated").clairvoyant
    assert ls.Policy(order="arrival", evict="newest", reserve="prompt + 1").needs == ()


def test_tie_counts_where_a_formula_evicts():
    assert ls.Policy(evict="generated + 0", tie="prompt") != ls.Policy(evict="generated + 0")


def test_a_text_names_a_policy_with_other_fields():
    given = "amin,order=bound - 0.5 * (now - arrival),margin=0.05,headroom=2"
    assert named(given) == ls.Policy(order="bound-0.5*(now-arrival)", margin=0.05, headroom=2)
    for text, message in (
        ("amin,ordr=bound", "did you mean 'order'"),
        ("amnin,order=bound", "did you mean 'amin'"),
        ("amin,order", "there is no policy"),
        ("amin,margin=much", "margin='much' is out of range"),
        ("amin,order=promt * 2", "did you mean 'prompt'"),
    ):
        with pytest.raises(PolicyError, match=message):
            named(text)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", sorted(PLACES))
def test_a_word_that_is_none_gets_the_nearest_word_or_name(field):
    with pytest.raises(PolicyError, match=r"is unknown; did you mean 'bound'"):
        ls.Policy(**{field: "bond"})


@pytest.mark.parametrize("field", sorted(set(CHOICES) - set(PLACES)))
def test_other_fields_take_no_formula(field):
    with pytest.raises(PolicyError, match="is unknown"):
        ls.Policy(**{field: "prompt + 1"})


@pytest.mark.parametrize("text", ["prompt.real", "__import__('os')", "prompt +", "prompt < 3", "outptu * 2", ""])
def test_what_is_no_formula_is_refused_with_its_place(text):
    with pytest.raises(FormulaError):
        ls.Policy(order=text)


def test_a_missing_deadline_is_asked_for():
    w = ls.Workload(1, [2, 3], lower=1, upper=3)
    with pytest.raises(MissingPredictionError, match=r"the column 'deadline'.*workload.replace\(deadline=...\)"):
        ls.simulate(w, ls.Policy(order="deadline"), memory=10)


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@pytest.mark.parametrize(
    "fields",
    [
        {"order": "1 / (prompt - 1)"},
        {"reserve": "1 / (prompt - 1)"},
        {"evict": "1 / (prompt - 1)", "order": "arrival"},
        {"order": "1 / (prompt - 1 + now - now * 1)"},
        {"order": "1 / (1 - evictions)"},
        {"reserve": "1 / (1 - evictions)"},
    ],
)
def test_a_value_that_is_none_names_the_request(fields, engine):
    w = ls.Workload([2, 2, 2, 1], [9, 9, 9, 9], lower=1, upper=9)
    with pytest.raises(FormulaValueError, match=r"request \d: the formula of \w+ divides by zero, where"):
        ls.simulate(w, ls.Policy(refine="none", margin=0.0, **fields), memory=24, engine=engine, max_rounds=500)


# Policies in Python ---------------------------------------------------------------------------------------------------


class SmallestArea(ls.Policy):
    reads = ("bound",)

    def admission_key(self, request, now):
        return (request.prompt + request.bound) * request.bound


class Greedy(ls.Policy):
    def feasible(self, batch, request, now):
        return True


class NewestLeaves(ls.Policy):
    def victims(self, batch, need, now):
        return batch[-1:]


class CheapestLeaves(ls.Policy):
    def victims(self, batch, need, now):
        return [min(batch, key=lambda r: r.prompt + r.generated)]


class ResponseRatio(ls.Policy):
    reads = ("bound",)

    def admission_key(self, request, now):
        return -(now - request.joined) / request.bound


@examples(150)
@given(data=st.data(), name=st.sampled_from(sorted(ls.policies)))
def test_methods_that_say_what_formulas_say_decide_the_same(data, name):
    workload, memory = data.draw(problems())
    options = data.draw(machines()) | {"seed": None, "max_rounds": 500}
    memory += options.get("block", 1) - 1
    evicts = dataclasses.replace(ls.policies[name], evict="prompt + generated", tie="drawn")
    orders = dataclasses.replace(ls.policies[name], order="-(now - joined) / bound")
    for own, formula in ((CheapestLeaves.based_on(evicts), evicts), (ResponseRatio.based_on(orders), orders)):
        assert numbers(workload, own, memory, **options) == numbers(workload, formula, memory, **options)


@examples(150)
@given(data=st.data(), name=st.sampled_from(sorted(ls.policies)), seed=seeds)
def test_methods_that_say_what_words_say_decide_the_same(data, name, seed):
    workload, memory = data.draw(problems())
    options = data.draw(machines())
    memory += options.get("block", 1) - 1
    base = ls.policies[name]
    options |= {"seed": seed, "max_rounds": 500}
    newest = dataclasses.replace(base, evict="newest")
    area = dataclasses.replace(base, order="area")
    none = dataclasses.replace(base, reserve="none", margin=0.0)
    for own, word in (
        (NewestLeaves.based_on(newest), newest),
        (SmallestArea.based_on(area), area),
        (Greedy.based_on(none), none),
    ):
        assert numbers(workload, own, memory, **options) == numbers(workload, word, memory, **options)


def test_a_policy_in_python_goes_wherever_policies_go():
    w, own = crowd(), NewestLeaves(order="arrival", reserve="none")
    word = ls.Policy(order="arrival", reserve="none", evict="newest")
    assert ls.simulate(w, own, memory=60).engine == "reference"
    batch = ls.simulate_batch(w, [own, word], memory=60, seeds=[0, 3], percentiles=[50], keep=True)
    for totals in batch.totals.values():
        assert totals[:2].tolist() == totals[2:].tolist()
    rows = ls.compare(w, {"own": own, "word": word}, memory=60)
    assert len({row.result.total_latency for row in rows if row.policy in ("own", "word")}) == 1
    assert pickle.loads(pickle.dumps(own)) == own != word
    assert dataclasses.replace(own, margin=0.1).methods == ("victims",)


def test_what_methods_return_is_checked():
    class NoKey(ls.Policy):
        def admission_key(self, request, now):
            return float("nan")

    class Nobody(ls.Policy):
        def victims(self, batch, need, now):
            return []

    class Peeks(ls.Policy):
        def admission_key(self, request, now):
            return request.output

    w = crowd()
    with pytest.raises(PolicyError, match=r"NoKey.admission_key in round 0 returned nan for request 0"):
        ls.simulate(w, NoKey(), memory=60)
    with pytest.raises(PolicyError, match=r"Nobody.victims in round \d+ returned \[\], expected at least one"):
        ls.simulate(w, Nobody(order="arrival", reserve="none"), memory=60)
    with pytest.raises(PolicyError, match=r"not 'output': add it to the `reads`.* \(.*test_own_policies.py:\d+\)"):
        ls.simulate(w, Peeks(), memory=60)
    Peeks.reads = ("outptu",)
    with pytest.raises(PolicyError, match="did you mean 'output'"):
        Peeks()


@pytest.mark.parametrize("method", ["admission_key", "feasible", "victims"])
def test_a_method_that_raises_is_told_with_its_line(method):
    def broken(self, *arguments):
        return 1 / 0

    own = type("Broken", (ls.Policy,), {method: broken})(order="arrival", reserve="none")
    line = broken.__code__.co_firstlineno + 1
    said = rf"Broken.{method} in round \d+ raised ZeroDivisionError: .* \(.*test_own_policies.py:{line}\)"
    with pytest.raises(PolicyError, match=said):
        ls.simulate(crowd(), own, memory=60)


def test_answers_that_cannot_be_read_are_told():
    unreadable = {"feasible": np.array([True, False]), "victims": 5}
    for method, answer in unreadable.items():
        own = type("Odd", (ls.Policy,), {method: lambda self, *_, answer=answer: answer})(
            order="arrival", reserve="none"
        )
        with pytest.raises(PolicyError, match=rf"Odd.{method} in round \d+ raised \w+Error"):
            ls.simulate(crowd(), own, memory=60)
