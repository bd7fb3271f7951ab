"""Formulas of policies: what they mean, that both evaluators agree to the last bit, and what is refused."""

from __future__ import annotations

import ast
import copy
import itertools
import math
import pickle
import re
import struct
from collections.abc import Mapping

import numpy as np
import pytest
from helpers import ROOT
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

from llmsched import formula
from llmsched.errors import FormulaError, FormulaValueError, PolicyError, WorkloadError
from llmsched.formula import FUNCTIONS, Formula, whole_tokens
from llmsched.formula_names import PLACES
from llmsched.formula_names import REQUEST_NAMES as NAMES
from llmsched.simulation import _compiled

PAGE = (ROOT / "docs" / "reference" / "formulas.md").read_text(encoding="utf-8")


def compiled_value(f: Formula, values: Mapping[str, float]) -> float:
    """The value by the compiled evaluator; NaN where there is none."""
    (value,) = _compiled.formula_values(f, {name: np.array([values[name]]) for name in f.reads}, 1)
    return float(value)


def both(text: str, **values: float) -> float:
    """The value, which must be the same by both evaluators."""
    f = Formula(text, "order")
    value = f.value(values)
    assert same_bits(value, compiled_value(f, values))
    return value


def same_bits(a: float, b: float) -> bool:
    return struct.pack("d", a) == struct.pack("d", b)


# Any formula ----------------------------------------------------------------------------------------------------------

NUMBERS = ["0.0", "1.0", "2.0", "0.1", "0.5", "3.0", "1e-300", "1e300", "7.25", "1e16"]
VALUES = st.one_of(
    st.integers(0, 20).map(float),
    st.integers(-(2**53), 2**62).map(float),
    st.sampled_from([0.0, 0.1, 1e-300, 1e300, -1e300, 5e-324, 1.7976931348623157e308]),
    st.floats(allow_nan=False, allow_infinity=False),
)


def numbers(depth: int) -> st.SearchStrategy[str]:
    """The text of a number: a leaf, or an operation on others."""
    leaves = st.sampled_from([*NAMES, *NAMES, *NUMBERS])
    if depth == 0:
        return leaves
    below = st.deferred(lambda: numbers(depth - 1))
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    return st.one_of(
        leaves,
        st.builds("({} {} {})".format, below, operators, below),
        st.builds("{}({})".format, st.sampled_from(["-", "abs", "floor", "ceil", "sqrt", "sqrt(abs"]), below).map(
            closed
        ),
        st.builds("({})**{}".format, below, st.integers(1, 5)),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), below, below),
        st.builds("min({}, {}, {})".format, below, below, below),
        st.builds("({} if {} else {})".format, below, truths(depth - 1), below),
    )


def truths(depth: int) -> st.SearchStrategy[str]:
    """The text of a condition."""
    below = st.deferred(lambda: numbers(depth))
    compared = st.builds("{} {} {}".format, below, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), below)
    if depth == 0:
        return compared
    others = st.deferred(lambda: truths(depth - 1))
    joined = st.builds("({} {} {})".format, others, st.sampled_from(["and", "or"]), others)
    return st.one_of(compared, joined, st.builds("not ({})".format, others))


def closed(text: str) -> str:
    return text + ")" * (text.count("(") - text.count(")"))


def made(text: str) -> Formula | None:
    """The formula, if its numbers alone do not fail and it is no longer than it may be."""
    try:
        return Formula(text, "order")
    except FormulaError as error:
        if "it always" in str(error) or "are read" in str(error):
            return None
        raise


@examples(600)
@given(numbers(4), st.lists(VALUES, min_size=len(NAMES), max_size=len(NAMES)))
def test_both_evaluators_agree_on_any_formula_to_the_last_bit(text, values):
    f = made(text)
    if f is None:
        return
    given_values = dict(zip(NAMES, values, strict=True))
    compiled = compiled_value(f, given_values)
    try:
        assert same_bits(f.value(given_values), compiled)
    except FormulaValueError:
        assert math.isnan(compiled)


@examples(400)
@given(numbers(3), st.lists(VALUES, min_size=len(NAMES), max_size=len(NAMES)))
def test_a_formula_means_what_python_means_by_it(text, values):
    f = made(text.replace("**", "+"))  # powers are multiplied out, which Python's are not
    if f is None:
        return
    given_values = dict(zip(NAMES, values, strict=True))
    if "now" not in f.reads:
        given_values["now"] = 0.0
    known = {"sqrt": math.sqrt, "floor": lambda x: float(math.floor(x)), "ceil": lambda x: float(math.ceil(x))}
    try:
        value = f.value(given_values)
    except FormulaValueError:
        return
    functions = {"min": min, "max": max, "abs": abs, **known}
    assert same_bits(value, float(eval(f.text, {"__builtins__": {}}, {**functions, **given_values})))


def test_the_largest_formulas_have_cells_enough():
    leaves = itertools.cycle(NAMES)
    right = "".join(f"{name}+({k}.5*(" for k, name in zip(range(49), leaves, strict=False))
    texts = [closed(right + "point"), "+".join(f"{k}*prompt" for k in range(50)), "-" * 198 + "bound"]
    texts.append("min(" + ",".join(str(k + 0.5) + "+now*now" for k in range(39)) + ")")
    texts.append(" or ".join(f"prompt < {k}" for k in range(60)))
    texts[-1] = f"1 if {texts[-1]} else 2"
    for text in texts:
        f = Formula(text, "order")
        assert max(f.code[3::4], default=0) < formula.MOST_CELLS
        both(text, **dict.fromkeys(NAMES, 1.5))


# Each operation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("prompt + lower", 10.0),
        ("prompt - lower", 4.0),
        ("prompt * lower", 21.0),
        ("prompt / lower", 7 / 3),
        ("prompt // lower", 2.0),
        ("-prompt // lower", -3.0),
        ("1.0 // 0.1 + 0*prompt", 9.0),
        ("prompt % lower", 1.0),
        ("-prompt % lower", 2.0),
        ("prompt % -lower", -2.0),
        ("min(prompt, lower)", 3.0),
        ("max(prompt, lower)", 7.0),
        ("min(prompt, 2, lower)", 2.0),
        ("prompt ** 1", 7.0),
        ("prompt ** 3", 343.0),
        ("0.1 ** 3 + 0*prompt", 0.1 * 0.1 * 0.1),
        ("-prompt ** 2", -49.0),
        ("-prompt", -7.0),
        ("+prompt", 7.0),
        ("abs(-prompt)", 7.0),
        ("floor(prompt / 2)", 3.0),
        ("floor(-prompt / 2)", -4.0),
        ("ceil(prompt / 2)", 4.0),
        ("ceil(-prompt / 2)", -3.0),
        ("sqrt(prompt + 2)", 3.0),
        ("1 if prompt < lower else 2", 2.0),
        ("1 if prompt <= lower else 2", 2.0),
        ("1 if prompt > lower else 2", 1.0),
        ("1 if prompt >= lower else 2", 1.0),
        ("1 if prompt == lower else 2", 2.0),
        ("1 if prompt != lower else 2", 1.0),
        ("1 if not prompt < lower else 2", 1.0),
        ("1 if prompt > 1 and lower > 5 else 2", 2.0),
        ("1 if prompt > 1 or lower > 5 else 2", 1.0),
        ("1 if prompt > 9 or lower > 5 or lower == 3 else 2", 1.0),
        ("1 if prompt > 1 and lower > 1 and lower == 3 else 2", 1.0),
        ("prompt if lower > 5 else upper if lower > 2 else 4", 100.0),
        ("2 * 3 + 4", 10.0),
        ("1_000 + 1e3 + .5 + 2.", 2002.5),
        ("1 if 2 < 3 else prompt", 1.0),
        ("lower", 3.0),
        ("5", 5.0),
    ],
)
def test_each_operation(text, value):
    assert both(text, prompt=7.0, lower=3.0, upper=100.0) == value


def test_the_branch_not_taken_is_not_computed():
    assert both("1 / generated if generated > 0 else 0", generated=0.0) == 0
    assert both("1 if generated > 0 and 1 / generated < 3 else 2", generated=0.0) == 2
    assert both("1 if generated == 0 or 1 / generated < 3 else 2", generated=0.0) == 1


def test_zeros_are_those_of_doubles_and_whole_numbers_have_one():
    assert same_bits(both("-prompt", prompt=0.0), -0.0)
    assert same_bits(both("ceil(-prompt)", prompt=0.5), 0.0)
    assert same_bits(both("floor(-prompt)", prompt=0.0), 0.0)
    assert same_bits(both("0 * -prompt + -0.0", prompt=1.0), -0.0)
    assert Formula("0.0 - prompt") != Formula("-0.0 - prompt")


# No value -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values", "said", "column"),
    [
        ("1 / generated", {"generated": 0.0}, "divides by zero, where generated = 0", 3),
        ("prompt // (generated - 1)", {"prompt": 3.0, "generated": 1.0}, "divides by zero", 8),
        ("prompt % generated", {"prompt": 3.0, "generated": -0.0}, "divides by zero", 8),
        ("min(3, 1 / generated)", {"generated": 0.0}, "divides by zero", 10),
        ("sqrt(2 - prompt)", {"prompt": 3.0}, "takes the square root of -1", 1),
        ("2 + prompt ** 64", {"prompt": 1e6}, "is too large for a double", 12),
        ("prompt * 1e300", {"prompt": 1e9}, "is too large for a double", 8),
        ("1 / (prompt * 1e300)", {"prompt": 1e9}, "is too large", 13),
        ("1 if prompt * 1e300 > 2 else 0", {"prompt": 1e9}, "is too large", 13),
        ("1e300 // prompt", {"prompt": 1e-300}, "is too large", 7),
    ],
)
def test_a_value_that_does_not_exist_names_request_and_place(text, values, said, column):
    f = Formula(text, "order")
    assert math.isnan(compiled_value(f, values))
    with pytest.raises(FormulaValueError, match=re.escape(said)) as caught:
        f.value(values, request=12)
    assert caught.value.request == 12
    assert caught.value.column == column
    assert caught.value.formula == text
    first, shown, caret = str(caught.value).splitlines()
    assert first.startswith("request 12: the formula of order ")
    assert shown.strip() == text
    assert caret.index("^") == 4 + column - 1
    assert isinstance(caught.value, WorkloadError)


def test_the_first_request_without_a_value_can_be_found():
    generated = np.array([2.0, 1.0, 0.0, 4.0])
    values = _compiled.formula_values(Formula("1 / generated"), {"generated": generated}, 4)
    assert np.isnan(values).tolist() == [False, False, True, False]
    assert values[[0, 1, 3]].tolist() == [0.5, 1.0, 0.25]


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match="prompt has 2 values, expected 3"):
        _compiled.formula_values(Formula("prompt"), {"prompt": np.zeros(2)}, 3)


# What is refused ------------------------------------------------------------------------------------------------------


REFUSED = [
    ("(prompt + outptu) * 2", 11, "'outptu' is no name; did you mean 'output'? known: prompt, lower"),
    ("maximum(prompt, 2)", 1, "'maximum' is no function; did you mean 'max'"),
    ("x" * 200, 1, f"{'x' * 37 + '...'!r} is no name"),
    ("2 * log(prompt)", 5, "log is left out: its last bit depends on the machine"),
    ("prompt.real", 7, "'.' has no meaning"),
    ("prompt[0]", 7, "'[' has no meaning"),
    ("'prompt'", 1, "has no meaning"),
    ("lambda: 3", 1, "'lambda' has no meaning"),
    ("(y := 3)", 4, "':' has no meaning"),
    ("prompt = 3", 8, "'=' has no meaning"),
    ("min(x for x in prompt)", 7, "'for' has no meaning"),
    ("prompt is lower", 8, "'is' has no meaning"),
    ("True + 1", 1, "'True' has no meaning"),
    ("await prompt", 1, "'await' has no meaning"),
    ("prompt^2", 7, "'^' has no meaning in a formula: write ** for a power"),
    ("prompt & lower", 8, "write and"),
    ("lower + 0.3(upper - lower)", 9, "sqrt; is an operation missing before the bracket?"),
    ("pro\\mpt", 4, "has no meaning"),
    ("prompt # none", 8, "'#' has no meaning"),
    ("prompt @ lower", 8, "'@' has no meaning"),
    ("prompt << 2", 1, "has no meaning"),
    ("õ + 1", 1, "'õ' has no meaning"),
    ("\uff50rompt", 1, "has no meaning"),
    ("min(*prompt, 2)", 5, "has no meaning"),
    ("min(1, 2, **prompt)", 13, "has no meaning"),
    ("__import__(prompt)", 1, "'__import__' is no function"),
    ("(prompt)(3)", 2, "prompt is a number, it cannot be called"),
    ("min(1, 2)(3)", 1, "only a function can be called"),
    ("2(3)", 1, "only a function can be called"),
    ("min + 1", 1, "min is a function: min(...)"),
    ("min(prompt)", 1, "min takes 2 or more arguments, not 1"),
    ("abs(1, 2)", 1, "abs takes 1 argument, not 2"),
    ("sqrt()", 1, "sqrt takes 1 argument, not 0"),
    ("prompt, 2", 1, "not several"),
    ("prompt < 3", 1, "a number is expected; a comparison becomes one as in: 1 if prompt < 100 else 0"),
    ("1 + (prompt < 3)", 6, "a number is expected"),
    ("prompt and 3", 1, "a number is expected"),
    ("prompt if 3 else 2", 11, "a comparison is expected"),
    ("1 if prompt and lower > 2 else 2", 6, "a comparison is expected"),
    ("1 if 1 < prompt < 9 else 0", 6, "compare two numbers at a time"),
    ("prompt ** 0.5", 11, "an exponent is a whole number from 1 to 64"),
    ("prompt ** lower", 11, "an exponent"),
    ("prompt ** 65", 11, "an exponent"),
    ("prompt ** -1", 11, "an exponent"),
    ("prompt ** 0", 11, "an exponent"),
    ("3prompt", 2, "after the number 3 an operation is missing"),
    ("0x10", 2, "after the number 0"),
    ("1j", 2, "after the number 1"),
    ("1if prompt < 2 else 3", 2, "after the number 1"),
    ("prompt lower", None, "this is no formula: "),
    ("prompt +", None, "this is no formula: "),
    ("(prompt", None, "this is no formula: "),
    ("007", None, "this is no formula: "),
    ("1 / 0", 3, "it always divides by zero"),
    ("prompt + sqrt(2 - 3)", 10, "it always takes the square root of -1"),
    ("1e200 * 1e200", 7, "it always is too large for a double"),
    ("1e400", 1, "this number is too large for a double"),
    ("9" * 400, 1, "this number is too large for a double"),
    ("now / 0", 5, "it always divides by zero"),
    ("", 1, "it is empty"),
    (" \n ", 1, "it is empty"),
    ("prompt + " * 112, 1000, "it has 1008 characters, at most 1000 are read"),
    ("prompt * " * 3_000_000 + "1", 1000, "at most 1000 are read"),
    ("+".join("1" * 101), 1, "it has 201 names, numbers and operations, at most 200 are read"),
    ("-" * 900 + "1", 1, "it has 901 names"),
    ("(" * 400 + "1" + ")" * 400, None, "this is no formula: "),
]


@pytest.mark.parametrize(("text", "column", "said"), REFUSED, ids=[text[:20] for text, *_ in REFUSED])
@pytest.mark.filterwarnings("error")
def test_what_is_no_formula_is_refused_with_its_place(text, column, said):
    with pytest.raises(FormulaError) as caught:
        Formula(text, "order")
    message = str(caught.value)
    assert said in message
    assert isinstance(caught.value, PolicyError)
    assert len(message) < 1000
    if column is not None:
        assert caught.value.column == column
        assert message.startswith(f"formula of order, column {column}: ")
        if text.strip():
            _, shown, caret = message.splitlines()
            assert shown[caret.index("^")] == " ".join(text.split())[column - 1]


@pytest.mark.parametrize("text", [None, 3, b"prompt", ["prompt"], ast.Name("prompt")])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(FormulaError, match="a formula is a text"):
        Formula(text, "order")


@examples(300)
@given(st.one_of(st.text(max_size=40), st.text("prompt()*+-/%<>=!.,0123456789 eifls_andor", max_size=40)))
def test_any_text_is_a_formula_or_refused(text):
    refused = None
    try:
        f = Formula(text, "order")
    except FormulaError as error:
        refused = error
    if refused is None:
        assert Formula(f.text, "order") == f
    else:
        assert 1 <= refused.column <= max(1, len(refused.formula))


def test_nothing_runs_what_a_text_says(monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("evaluated")

    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(f"builtins.{name}", compile if name == "compile" else fail)
    assert Formula("prompt + 1").value({"prompt": 1.0}) == 2
    source = (ROOT / "src/llmsched/formula.py").read_text(encoding="utf-8")
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & {"eval", "exec", "compile", "__import__"}


def test_errors_survive_pickling():
    with pytest.raises(FormulaError) as caught:
        Formula("prompt + x")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.column == 10


# Where it may stand, and what it reads --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_place_takes_its_names_and_no_others(place):
    for name in NAMES:
        if name in PLACES[place]:
            assert set(Formula(f"2 * {name} ** 2", place).reads) == {name}
        else:
            with pytest.raises(FormulaError, match=f"{name} cannot be used in {place}"):
                Formula(name, place)


def test_a_place_that_is_no_policy_field():
    with pytest.raises(PolicyError, match="a formula is for order, evict, reserve, score, not for 'fill'"):
        Formula("prompt", "fill")


def test_only_what_reads_the_output_is_clairvoyant():
    assert Formula("prompt * output").clairvoyant
    assert not Formula("prompt * upper").clairvoyant
    assert not Formula("upper if 1 < 2 else output").clairvoyant


def test_what_it_reads_is_in_the_order_of_the_names():
    f = Formula("(upper - lower) * prompt + lower + 0 * memory")
    assert f.reads == ("prompt", "lower", "upper", "memory")


@pytest.mark.parametrize(
    "text",
    [
        "bound - 0.5 * (now - arrival)",
        "deadline - now - bound",
        "arrival + deadline - now",
        "-now",
        "now - now + prompt",
        "(now - arrival) / memory - bound",
        "(prompt - now) * 3 / 4",
        "memory * (now - joined)",
        "now * (2 if memory > 100 else 3) - joined",
        "prompt",
    ],
)
def test_time_that_adds_the_same_to_all_is_left_out(text):
    f = Formula(text, "order")
    assert "now" not in f.reads
    assert not f.changes_over_time
    # All numbers here are small multiples of 1/8: nothing is rounded, and Python's values have the order of the keys.
    rng = np.random.default_rng(0)
    requests = [{name: float(rng.integers(0, 200)) / 8 for name in NAMES} | {"memory": 128.0} for _ in range(30)]
    keys = [f.value(request) for request in requests]
    for now in (0.0, 1.0, 37.5, 1000.25):
        at_now = [float(eval(text, {}, {**request, "now": now})) for request in requests]
        assert np.argsort(keys, kind="stable").tolist() == np.argsort(at_now, kind="stable").tolist()


@pytest.mark.parametrize(
    "text",
    [
        "-(now - joined) / bound",
        "prompt * now",
        "now * now + bound",
        "max(now - arrival, 10)",
        "bound if now - arrival < 100 else 0",
        "bound - now if priority > 0 else bound",
        "1 / now",
        "now % 2 + prompt",
        "abs(now - joined)",
        "now / prompt",
    ],
)
def test_time_that_changes_the_order_stays(text):
    f = Formula(text, "order")
    assert "now" in f.reads
    assert f.changes_over_time


def test_what_changes_depends_on_the_place():
    assert not Formula("prompt + generated", "order").changes_over_time
    assert Formula("prompt + generated", "evict").changes_over_time
    assert not Formula("prompt + bound", "evict").changes_over_time
    for name in ("bound", "generated", "joined", "evictions"):
        assert Formula(name, "order").changes_by_leaving
    for name in NAMES.keys() - {"bound", "generated", "joined", "evictions"}:
        assert not Formula(name, "order").changes_by_leaving


# Equality and copies --------------------------------------------------------------------------------------------------


def test_formulas_computed_alike_are_equal():
    f = Formula("(prompt+bound)  *\n bound", "order")
    assert f.text == str(f) == "(prompt+bound) * bound"
    assert f == Formula("((prompt + bound)) * bound")
    assert hash(f) == hash(Formula("(prompt + bound) * bound"))
    assert Formula("2 * 3 * bound") == Formula("6 * bound")
    assert f != Formula("bound * (prompt + bound)")
    assert f != Formula("(prompt + bound) * bound", "evict")
    assert Formula("prompt") != Formula("lower")
    assert Formula("2") != Formula("3")
    assert f != "(prompt + bound) * bound"


def test_a_formula_comes_back_from_pickle_copy_and_repr():
    f = Formula("bound - 0.5 * (now - arrival)", "order")
    for again in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f), eval(repr(f), {"Formula": Formula})):
        assert again == f
        assert again.text == f.text
    assert repr(f) == "Formula('bound - 0.5 * (now - arrival)', 'order')"
    assert formula.parse(f.text, "order") is formula.parse(f.text, "order")


# Whole tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (7.0, 7),
        (7.1, 8),
        (7.9, 8),
        (0.07 * 100, 7),  # 7.000000000000001
        (7 + 2**-19, 8),
        (0.0, 1),
        (-5.0, 1),
        (-1e300, 1),
        (0.4, 1),
        (0.5 - 2**-54, 1),
        (1e300, 2**62),
        (2.0**53 + 2, 2**53 + 2),
        (2.0**62, 2**62),
        (2.0**62 - 1024, 2**62 - 1024),
    ],
)
def test_a_reserve_is_rounded_up_to_whole_tokens(value, tokens):
    assert whole_tokens(value) == tokens
    assert _compiled.whole_tokens(np.array([value])).tolist() == [tokens]


@given(st.one_of(VALUES, st.floats(-2, 2**20)))
def test_both_evaluators_round_to_the_same_tokens(value):
    (tokens,) = _compiled.whole_tokens(np.array([value])).tolist()
    assert whole_tokens(value) == tokens
    assert 1 <= tokens <= 2**62
    if 1 <= value < 2**50:
        assert value - 2**-20 <= tokens < value + 1


# The page -------------------------------------------------------------------------------------------------------------


def test_the_page_has_every_name_and_function():
    table = PAGE[PAGE.index("## Names") : PAGE.index("## Operations")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(NAMES)
    operations = PAGE[PAGE.index("## Operations") : PAGE.index("## Numbers")]
    for function in FUNCTIONS:
        assert f"`{function}(" in operations
    for limit in (formula.LONGEST, formula.MOST_NODES, formula.LARGEST_POWER):
        assert f"{limit:,}" in PAGE


def test_the_formulas_of_the_page_are_formulas():
    shown = re.findall(r'\b(order|evict|reserve)="([^"]+)"', PAGE)
    assert len(shown) > 10
    for place, text in shown:
        Formula(text, place)
    for text in re.findall(r"^\| `([^`]+)` \| refused", PAGE, re.MULTILINE):
        with pytest.raises(FormulaError):
            Formula(text, "order")
