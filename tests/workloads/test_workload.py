"""Workload: what it takes, what it refuses and how it says so, and that it never changes."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, LlmschedError, WorkloadError
from llmsched.simulation import problem
from llmsched.simulation.problem import volume

THREE = ls.Workload(
    [1, 2, 3],
    [4, 5, 6],
    lower=[1, 2, 3],
    upper=[7, 8, 9],
    point=[5, 5, 5],
    arrival=[0, 0.5, 2],
    priority=[0, -1, 0],
    deadline=[9, 0.5, 0],
)
COLUMNS = ("prompt", "output", "lower", "upper", "point", "arrival", "priority", "deadline")


# What it takes --------------------------------------------------------------------------------------------------------


def test_columns_are_whole_numbers_and_two_are_times():
    columns = THREE.columns()
    assert tuple(columns) == COLUMNS
    assert {name: column.dtype for name, column in columns.items()} == {
        name: np.dtype(np.float64 if name in ("arrival", "deadline") else np.int64) for name in COLUMNS
    }


def test_predictions_are_absent_and_arrivals_0_by_default():
    w = ls.Workload([1, 2], [3, 4])
    assert w.lower is w.upper is w.point is None
    assert w.arrival.tolist() == [0, 0]
    assert tuple(w.columns()) == ("prompt", "output", "arrival")
    assert dict(w.source) == {}


def test_a_single_number_stands_for_all_requests():
    w = ls.Workload(7, [1, 2, 3], lower=1, upper=np.int32(9), point=2.0, arrival=0.5)
    assert w == ls.Workload([7] * 3, [1, 2, 3], [1] * 3, [9] * 3, [2] * 3, [0.5] * 3)
    assert ls.Workload([1, 2], 3).output.tolist() == [3, 3]


@pytest.mark.parametrize(
    "make",
    [
        list, tuple, np.array, lambda x: np.array(x, np.uint8), lambda x: np.array(x, np.float32),
        lambda x: np.array(x, ">i4"), lambda x: np.array(x, object), lambda x: [np.int16(v) for v in x],
        lambda x: [Fraction(v) for v in x], lambda x: [Decimal(v) for v in x], lambda x: memoryview(bytes(x)),
        lambda x: np.repeat(x, 2)[::2], lambda x: np.array(x[::-1])[::-1],
    ],
)  # fmt: skip
def test_any_array_like_gives_the_same_workload(make):
    expected = ls.Workload([1, 2, 3], [4, 5, 6], [1, 1, 2], [7, 8, 9], [5, 6, 7], [0, 1, 2])
    assert ls.Workload(*(make(column.tolist()) for column in _whole(expected))) == expected
    assert ls.Workload(range(1, 4), range(4, 7)) == ls.Workload([1, 2, 3], [4, 5, 6])


def _whole(workload):
    return [column.astype(np.int64) for column in workload.columns().values()]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_dataframe_columns(library):
    module = pytest.importorskip(library)
    frame = {"prompt": [1, 2], "output": [3, 4], "arrival": [0.5, 1.5]}
    expected = ls.Workload(**frame)
    if library == "pyarrow":
        table = module.table(frame)
        assert ls.Workload(table["prompt"], table["output"], arrival=table["arrival"]) == expected
        assert (
            ls.Workload(*(module.array(frame[name]) for name in ("prompt", "output")), arrival=[0.5, 1.5]) == expected
        )
        return
    table = module.DataFrame(frame)
    assert ls.Workload(table["prompt"], table["output"], arrival=table["arrival"]) == expected
    if library == "pandas":
        nullable = table.astype({"prompt": "Int64"})
        assert ls.Workload(nullable["prompt"], nullable["output"], arrival=nullable["arrival"]) == expected
        assert ls.Workload(table.set_index("arrival")["prompt"], [3, 4], arrival=[0.5, 1.5]) == expected  # no alignment


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_missing_value_in_a_dataframe_column_is_named(library):
    module = pytest.importorskip(library)
    columns = {
        "pandas": lambda: module.Series([1, None, 3], dtype="Int64"),
        "polars": lambda: module.Series([1, None, 3]),
        "pyarrow": lambda: module.array([1, None, 3]),
    }
    with pytest.raises(WorkloadError, match=r"request 1: prompt is (nan|<NA>)") as caught:
        ls.Workload(columns[library](), [1, 1, 1])
    assert caught.value.request == 1


def test_an_empty_workload():
    w = ls.Workload([], [], lower=[], upper=5)
    assert len(w) == 0
    assert repr(w) == "Workload(0 requests)"
    assert w.columns()["lower"].dtype == np.int64
    assert w.with_intervals(ls.intervals.buckets(100)).upper.tolist() == []
    assert w.head(3) == w.take([]) == w.take(slice(None)) == w
    assert ls.Workload(5, []) == ls.Workload([], [])


def test_repr_says_how_many_how_long_and_what_is_predicted():
    assert repr(THREE) == (
        "Workload(3 requests, prompt 1-3, output 4-6, arrival 0-2, predictions: lower, upper, point)"
    )
    assert "predictions: none" in repr(ls.Workload([1], [1]))


def test_the_largest_numbers_are_exact():
    w = ls.Workload([2**53], [2**53], arrival=2**52)
    assert w.prompt.tolist() == w.output.tolist() == [2**53]
    assert w.arrival.tolist() == [2**52]


# What it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("prompt", -1, "-1"),
        ("prompt", 0.5, "0.5"),
        ("prompt", np.nan, "nan"),
        ("prompt", np.inf, "inf"),
        ("prompt", 2**53 + 1, "9007199254740993"),
        ("prompt", 1e300, "1e+300"),
        ("output", 0, "0"),
        ("output", -(2**63), "-9223372036854775808"),
        ("output", 1.5, "1.5"),
        ("lower", 0, "0"),
        ("lower", -np.inf, "-inf"),
        ("upper", 0, "0"),
        ("point", 0, "0"),
        ("point", 2.25, "2.25"),
        ("arrival", -0.5, "-0.5"),
        ("arrival", np.nan, "nan"),
        ("arrival", np.inf, "inf"),
    ],
)
def test_a_bad_value_names_its_request_column_value_and_what_is_expected(column, value, shown):
    columns = {"prompt": [1, 1, 1], "output": [1, 1, 1], column: [1, value, value]}
    with pytest.raises(WorkloadError) as caught:
        ls.Workload(**columns)
    message = str(caught.value)
    assert message.startswith(f"request 1: {column} is {shown}, expected ")
    most = 2**52 if column == "arrival" else 2**53
    assert f"from {0 if column in ('prompt', 'arrival') else 1} to {most}" in message
    assert ("a time" if column == "arrival" else "a whole number of tokens") in message
    assert caught.value.request == 1
    assert isinstance(caught.value, (InputError, ValueError, LlmschedError))


def test_a_bad_scalar_is_bad_from_the_first_request_on():
    with pytest.raises(WorkloadError, match=r"^request 0: prompt is -1, expected") as caught:
        ls.Workload(-1, [1, 2])
    assert caught.value.request == 0


def test_a_zero_prompt_and_a_zero_arrival_are_fine():
    assert ls.Workload(0, [1], arrival=-0.0).arrival.tolist() == [0]


@pytest.mark.parametrize("value", [None, [1], {}, object(), 1j, Fraction(1, 2), 10**400])
def test_what_is_no_number_is_refused_by_request(value):
    with pytest.raises(WorkloadError, match=r"request 1: prompt is|one number per request|must be numbers"):
        ls.Workload([1, value, 3], [1, 1, 1])


@pytest.mark.parametrize("value", ["12", b"12"])
def test_text_among_numbers_is_refused_by_request(value):
    with pytest.raises(WorkloadError, match=f"request 1: prompt is {value!r}"):
        ls.Workload([1, value, 3], [1, 1, 1])


@pytest.mark.parametrize("values", [[True, False], np.array(["2020-01-01", "2020-01-02"], "M8[D]"), np.array([1j, 2])])
def test_columns_of_another_kind_are_refused(values):
    with pytest.raises(WorkloadError, match=r"^output must be numbers, not (bool|datetime64\[D\]|complex128)$"):
        ls.Workload([1, 2], values)


def test_dates_of_arrival_are_refused_with_what_makes_seconds_of_them():
    t = np.array(["2026-11-03T09:00:02", "2026-11-03T09:00:00"], "M8[s]")
    with pytest.raises(WorkloadError, match=r"^arrival must be numbers, such as the seconds \(t - t.min\(\)\) / numpy"):
        ls.Workload([1, 2], [1, 2], arrival=t)
    workload = ls.Workload([1, 2], [1, 2], arrival=(t - t.min()) / np.timedelta64(1, "s"))
    assert workload.arrival.tolist() == [2, 0]


@pytest.mark.parametrize("values", [[[1, 2]], [[1], [2]], [[1], [2, 3]], np.ones((2, 1))])
def test_nested_columns_are_refused(values):
    with pytest.raises(WorkloadError, match=r"^prompt must be one number per request, not "):
        ls.Workload(values, [1, 1])


def test_lower_above_upper_names_the_request_and_both():
    with pytest.raises(
        WorkloadError, match=r"^request 1: lower is 5 and upper is 4, expected lower <= upper$"
    ) as caught:
        ls.Workload(0, [1, 1, 1], lower=[4, 5, 6], upper=4)
    assert caught.value.request == 1


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": [1, 2, 3], "output": [1, 2]}, "prompt has 3, others have 2"),
        ({"prompt": [1, 2], "output": [1, 2], "point": [1]}, "point has 1, others have 2"),
        ({"prompt": [], "output": [1, 2]}, "prompt has 0, others have 2"),
        ({"prompt": 1, "output": [1], "arrival": [1, 2]}, "arrival has 2, others have 1"),
    ],
)
def test_lengths_that_differ_are_counted(columns, said):
    with pytest.raises(WorkloadError, match=said) as caught:
        ls.Workload(**columns)
    assert caught.value.request is None


def test_all_scalars_leave_the_number_of_requests_open():
    with pytest.raises(WorkloadError, match="at least one column as a list"):
        ls.Workload(1, 1)


@pytest.mark.parametrize("column", ["prompt", "output"])
def test_a_request_needs_a_prompt_and_an_output(column):
    with pytest.raises(WorkloadError, match=column):
        THREE.replace(**{column: None})


def test_the_first_positional_arguments_are_prompt_and_output():
    with pytest.raises(TypeError, match="output"):
        ls.Workload([1])


# It never changes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", [*COLUMNS, "source", "anything"])
def test_attributes_cannot_be_set_and_the_error_says_what_to_do(column):
    with pytest.raises(AttributeError, match=rf"never changes: use workload.replace\({column}="):
        setattr(THREE, column, [1, 2, 3])


def test_attributes_cannot_be_deleted():
    w = ls.Workload([1], [1])
    with pytest.raises(AttributeError):
        del w.prompt
    assert w.prompt.tolist() == [1]


@pytest.mark.parametrize("column", COLUMNS)
def test_arrays_are_read_only(column):
    with pytest.raises(ValueError, match="read-only"):
        getattr(THREE, column)[0] = 1


def test_arrays_are_copies():
    mine = np.array([1, 2])
    w = ls.Workload(mine, [3, 4])
    mine[0] = 9
    assert w.prompt.tolist() == [1, 2]


def test_source_cannot_be_changed_and_is_a_copy():
    origin = {"file": "a.csv"}
    w = ls.Workload([1], [1], source=origin)
    origin["file"] = "b.csv"
    assert w.source == {"file": "a.csv"}
    with pytest.raises(TypeError):
        w.source["file"] = "c.csv"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_copies_are_equal_and_read_only_too(duplicate):
    w = duplicate(ls.Workload([1, 2], [3, 4], point=5, source={"file": "a.csv"}))
    assert w == ls.Workload([1, 2], [3, 4], point=5)
    assert w.source == {"file": "a.csv"}
    assert w.lower is None
    with pytest.raises(ValueError, match="read-only"):
        w.output[0] = 1


# Equality -------------------------------------------------------------------------------------------------------------


def test_equality_is_by_columns_and_not_by_source():
    assert ls.Workload([1], [2], source={"a": 1}) == ls.Workload([1.0], [2], source={})
    assert ls.Workload([1], [2]) != ls.Workload([1], [3])
    assert ls.Workload([1], [2]) != ls.Workload([1], [2], point=2)
    assert ls.Workload([1], [2]) != ls.Workload([1, 1], [2, 2])
    assert ls.Workload([1], [2]) != "workload"
    with pytest.raises(TypeError, match="unhashable"):
        hash(THREE)


# New ones from it -----------------------------------------------------------------------------------------------------


def test_replace_changes_some_columns_checks_them_and_keeps_the_source():
    w = ls.Workload([1, 2], [3, 4], point=5, source={"file": "a.csv"})
    new = w.replace(output=[7, 8], point=None, arrival=[0, 1])
    assert new == ls.Workload([1, 2], [7, 8], arrival=[0, 1])
    assert new.source == w.source
    assert w.output.tolist() == [3, 4]
    assert new.replace(arrival=None).arrival.tolist() == [0, 0]
    with pytest.raises(WorkloadError, match="request 1: output is 0"):
        w.replace(output=[1, 0])
    with pytest.raises(TypeError, match="no column 'outputs'; it has prompt, output, lower, upper, point, arrival"):
        w.replace(outputs=3)


def test_with_intervals_calls_the_rule_with_the_outputs():
    seen = []

    def rule(outputs):
        seen.append(outputs.tolist())
        return outputs, outputs + 1

    w = THREE.with_intervals(rule)
    assert seen == [[4, 5, 6]]
    assert w.lower.tolist() == [4, 5, 6]
    assert w.upper.tolist() == [5, 6, 7]
    assert w.point.tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        ([2, 0], [2, 0]),
        ([1, 1, 1], [1, 1, 1]),
        ([-1], [2]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([False, False, False], []),
        ((0, 2), [0, 2]),
        (range(2), [0, 1]),
        ([], []),
    ],
)
def test_take(index, kept):
    w = THREE.take(index)
    assert w.columns().keys() == THREE.columns().keys()
    for name, column in THREE.columns().items():
        assert getattr(w, name).tolist() == [column[i] for i in kept]


def test_take_keeps_the_source_and_shares_nothing():
    w = ls.Workload([1, 2], [3, 4], source={"file": "a.csv"})
    assert w.take([0]).source == w.source
    assert not np.shares_memory(w.take(slice(1)).prompt, w.prompt)


def test_take_refuses_what_is_out_of_range():
    with pytest.raises(IndexError):
        THREE.take([3])


def test_head():
    assert THREE.head(2) == THREE.take([0, 1])
    assert THREE.head(99) == THREE
    assert len(THREE.head(0)) == 0
    assert THREE.head(np.int64(1)) == THREE.take([0])
    with pytest.raises(WorkloadError, match="at least 0, not -1"):
        THREE.head(-1)
    with pytest.raises(TypeError):
        THREE.head(1.5)


# Volumes --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2**52), st.integers(1, 2**52)), min_size=1, max_size=20))
def test_the_volume_order_is_exact_beyond_64_bits(pairs):
    prompts, outputs = zip(*pairs, strict=True)
    exact = [s * o + o * (o + 1) // 2 for s, o in pairs]
    keys = volume(ls.Workload(prompts, outputs)).tolist()
    for a, x in zip(keys, exact, strict=True):
        for b, y in zip(keys, exact, strict=True):
            assert (a < b, a == b) == (x < y, x == y)


@given(st.lists(st.tuples(st.integers(0, 2**30 - 1), st.integers(1, 2**30)), min_size=1, max_size=20))
def test_volumes_that_fit_64_bits_are_themselves(pairs):
    prompts, outputs = zip(*pairs, strict=True)
    assert volume(ls.Workload(prompts, outputs)).tolist() == [s * o + o * (o + 1) // 2 for s, o in pairs]


def test_volumes_at_the_edge_of_64_bits():
    """Just above and below the limit at which volumes become ranks, and two that differ by one token-round."""
    for prompt, output in [
        (2**31 - 2, 1),
        (1, 2**31 - 2),
        (2**30, 2**30 - 1),
        (2**30, 2**30),
        (0, 2**32),
        (2**52, 2**52),
    ]:
        w = ls.Workload([prompt, prompt, 0], [output, max(1, output - 1), 1])
        keys = volume(w).tolist()
        assert keys[0] >= keys[1] >= keys[2]
        assert (keys[0] > keys[1]) == (output > 1)


def test_svf_orders_by_exact_volumes():
    """Volumes beyond 2**100 that differ by one token in the prompt."""
    w = ls.Workload([2**51 + 1, 2**51], [2**50, 2**50])
    assert problem.problem_of(w, ls.policies["svf"], 2**52, None).keys.tolist() == [1, 0]
    assert 2**50 * (2**51 + 1) > 2**100
