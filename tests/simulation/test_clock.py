"""Clocks: fitted to measurements, read from files, and the named ones against the numbers they come from."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import errors
from llmsched.simulation import clock

TRUE = ls.Clock(base=0.04, per_request=0.0005, per_context_token=2.5e-6, per_prompt_token=4e-4, per_swapped_token=1e-5)

# Medians of the five runs of each kind in data/perf_model.csv of github.com/Mutinifni/splitwise-sim, for llama2-70b:
# (prompt tokens of each request, batch) -> ms for the prompts, ms for a token after them (128 are generated).
SPLITWISE = {
    "llama2-70b-8xa100": {
        (512, 1): (94.31, 44.85), (512, 2): (165.94, 44.56), (512, 4): (292.28, 45.79), (512, 8): (767.62, 46.47),
        (512, 16): (2084.41, 50.44), (512, 32): (3524.54, 53.02), (512, 64): (7553.99, 71.61),
        (128, 1): (65.35, 43.03), (256, 1): (66.76, 43.48), (1024, 1): (154.46, 44.97), (2048, 1): (274.22, 45.44),
        (4096, 1): (661.22, 46.48), (8192, 1): (1549.82, 46.51),
    },
    "llama2-70b-8xh100": {
        (512, 1): (53.39, 29.76), (512, 2): (76.89, 30.26), (512, 4): (132.64, 31.79), (512, 8): (371.63, 32.50),
        (512, 16): (811.93, 34.17), (512, 32): (1551.73, 38.62), (512, 64): (2936.33, 50.16),
        (128, 1): (58.19, 29.87), (256, 1): (51.66, 28.27), (1024, 1): (77.91, 29.74), (2048, 1): (136.80, 31.05),
        (4096, 1): (390.29, 30.56), (8192, 1): (844.89, 31.41),
    },
    "llama2-70b-4xa100": {
        (512, 1): (126.96, 44.99), (512, 2): (253.93, 45.00), (512, 4): (571.43, 45.09), (512, 8): (1233.02, 45.80),
        (512, 16): (2892.58, 48.52), (512, 32): (5131.73, 52.35), (512, 64): (10947.82, 72.95),
        (128, 1): (63.65, 42.42), (256, 1): (78.57, 42.18), (1024, 1): (227.08, 44.95), (2048, 1): (403.33, 44.98),
        (4096, 1): (965.15, 46.37), (8192, 1): (2278.45, 46.06),
    },
    "llama2-70b-4xh100": {
        (512, 1): (59.62, 29.72), (512, 2): (103.62, 29.98), (512, 4): (195.28, 29.92), (512, 8): (442.20, 31.44),
        (512, 16): (874.35, 32.84), (512, 32): (1726.05, 36.88), (512, 64): (3520.47, 52.36),
        (128, 1): (49.09, 28.36), (256, 1): (50.98, 30.03), (1024, 1): (105.61, 29.44), (2048, 1): (200.68, 29.82),
        (4096, 1): (463.46, 29.58), (8192, 1): (953.58, 29.72),
    },
    "llama2-70b-2xh100": {  # without a batch of 64, for which two GPUs have no room
        (512, 1): (83.83, 37.00), (512, 2): (155.84, 37.39), (512, 4): (299.82, 39.98), (512, 8): (606.02, 40.40),
        (512, 16): (1191.98, 41.97), (512, 32): (2397.77, 52.30),
        (128, 1): (48.33, 37.24), (256, 1): (51.85, 37.84), (1024, 1): (157.95, 37.39), (2048, 1): (310.32, 37.37),
        (4096, 1): (642.66, 37.54), (8192, 1): (1339.84, 37.80),
    },
}  # fmt: skip


def measured(rows: int = 40, noise: float = 0.0, seed: int = 0, true: ls.Clock = TRUE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    table = {
        "batch": rng.integers(1, 65, rows),
        "context": rng.integers(0, 20_000, rows),
        "prefilled": rng.integers(0, 2_000, rows) * rng.integers(0, 2, rows),
        "swapped": rng.integers(0, 500, rows),
    }
    exact = true.duration(table["batch"], table["context"], table["prefilled"], table["swapped"])
    return table | {"seconds": exact * (1 + noise * rng.standard_normal(rows))}


# Fitting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [False, True])
def test_exact_measurements_give_the_clock_back(relative: bool) -> None:
    fit = ls.Clock.fit(measured(), relative=relative, source="ours")
    for name, value in TRUE.fields().items():
        if name not in ("source", "context"):
            assert getattr(fit.clock, name) == pytest.approx(value, rel=1e-6), name
    assert fit.r2 == pytest.approx(1)
    assert fit.mean_error < 1e-9
    assert fit.clock.source == "ours"
    assert fit.summary()["rows"] == 40


def test_columns_that_were_not_recorded_cost_nothing() -> None:
    table = {"batch": [1, 2, 4], "seconds": [0.011, 0.012, 0.014]}
    fit = ls.Clock.fit(table, context="generated")
    assert fit.clock.base == pytest.approx(0.01)
    assert fit.clock.per_request == pytest.approx(0.001)
    assert (fit.clock.per_context_token, fit.clock.per_prompt_token, fit.clock.per_swapped_token) == (0, 0, 0)
    assert fit.clock.context == "generated"


@given(st.data())
@examples(60)
def test_it_is_the_non_negative_least_squares_solution(data: st.DataObject) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rows, columns = data.draw(st.integers(5, 12)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    matrix, values = rng.standard_normal((rows, columns)), rng.standard_normal(rows)
    mine = clock._non_negative(matrix, values)
    theirs, distance = optimize.nnls(matrix, values)
    assert np.allclose(mine, theirs, atol=1e-9)
    assert math.isclose(np.linalg.norm(matrix @ mine - values), distance, rel_tol=1e-9, abs_tol=1e-12)
    assert (mine >= 0).all()


def test_noise_leaves_residuals_and_an_r2_below_one() -> None:
    table = measured(400, noise=0.05)
    fit = ls.Clock.fit(table, relative=True)
    assert 0.9 < fit.r2 < 1
    assert 0.02 < fit.mean_error < 0.08
    again = fit.clock.duration(table["batch"], table["context"], table["prefilled"], table["swapped"])
    assert np.allclose(fit.residuals, table["seconds"] - again)
    assert fit.clock.base == pytest.approx(TRUE.base, rel=0.3)


def test_dataframes_are_tables_too() -> None:
    table = measured()
    expected = ls.Clock.fit(table).clock
    for library, make in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "table")):
        frame = getattr(pytest.importorskip(library), make)(table)
        assert ls.Clock.fit(frame).clock == expected


@pytest.mark.parametrize("name", SPLITWISE)
def test_the_fitted_presets_are_the_fits_of_their_source(name: str) -> None:
    table: dict[str, list[float]] = {"batch": [], "context": [], "prefilled": [], "seconds": []}
    for (prompt, batch), (first, later) in SPLITWISE[name].items():
        table["batch"] += [batch, batch]
        table["context"] += [batch * prompt, batch * (prompt + 64)]  # on average over the 128 tokens
        table["prefilled"] += [batch * prompt, 0]
        table["seconds"] += [first / 1000, later / 1000]
    fit, preset = ls.Clock.fit(table, relative=True), ls.clocks[name]
    for coefficient in ("base", "per_request", "per_context_token", "per_prompt_token"):
        assert getattr(preset, coefficient) == pytest.approx(getattr(fit.clock, coefficient), rel=0.005)
    error = np.abs(1 - np.array([preset.duration(*row) for row in zip(*list(table.values())[:3], strict=True)])
                   / table["seconds"])  # fmt: skip
    stated = [int(word) for word in preset.source.replace("%", "").split() if word.isdigit()][-2:]
    assert (math.ceil(100 * error[1::2].max()), math.ceil(100 * error[::2].max())) == tuple(stated)


# Measurements that will not do ----------------------------------------------------------------------------------------


def test_terms_that_cannot_be_told_apart_are_named() -> None:
    table = measured()
    with pytest.raises(errors.InputError, match=r"cannot tell apart the costs of constant, batch:"):
        ls.Clock.fit(table | {"batch": np.full(40, 8)})
    with pytest.raises(errors.InputError, match=r"costs of batch, context:"):
        ls.Clock.fit(table | {"context": table["batch"] * 100})
    with pytest.raises(errors.InputError, match=r"costs of constant, batch, context:"):
        ls.Clock.fit(table | {"context": table["batch"] * 100 + 7})
    with pytest.raises(errors.InputError, match=r"cannot identify the cost of swapped: all values are 0"):
        ls.Clock.fit(table | {"swapped": np.zeros(40)})
    with pytest.raises(errors.InputError, match="3 rows of measurements cannot tell 5 coefficients apart"):
        ls.Clock.fit({name: column[:3] for name, column in table.items()})


@pytest.mark.parametrize(
    ("column", "row", "value", "said"),
    [
        ("seconds", 3, 0.0, r"row 3 \(from 0\): seconds=0 is not a number greater than 0"),
        ("seconds", 4, math.nan, r"row 4 \(from 0\): seconds=nan"),
        ("batch", 0, 0, r"row 0 \(from 0\): batch=0 is not a number at least 1"),
        ("context", 39, -1, r"row 39 \(from 0\): context=-1"),
        ("prefilled", 2, math.inf, r"row 2 \(from 0\): prefilled=inf"),
        ("swapped", 1, "much", r"row 1 \(from 0\): swapped='much' is not a number"),
    ],
)
def test_a_bad_row_is_named(column: str, row: int, value: Any, said: str) -> None:
    table: dict[str, Any] = {name: values.tolist() for name, values in measured().items()}
    table[column][row] = value
    with pytest.raises(errors.InputError, match=said):
        ls.Clock.fit(table)


def test_a_bad_table_is_refused() -> None:
    table = measured()
    with pytest.raises(errors.InputError, match="unknown column 'prefiled'; did you mean 'prefilled'"):
        ls.Clock.fit(table | {"prefiled": table["prefilled"]})
    with pytest.raises(errors.InputError, match="lack the column 'seconds'; there are: batch"):
        ls.Clock.fit({"batch": [1, 2]})
    with pytest.raises(errors.InputError, match="different lengths: 39 of batch"):
        ls.Clock.fit(table | {"batch": table["batch"][1:]})
    with pytest.raises(errors.InputError, match="not list"):
        ls.Clock.fit([1, 2])
    with pytest.raises(errors.InputError, match="2 dimensions"):
        ls.Clock.fit(table | {"batch": np.ones((40, 2))})
    with pytest.raises(errors.InputError, match="stands still"):
        ls.Clock.fit({"batch": [1, 2, 3, 4], "context": [1, 1, 5, 9], "seconds": [0.1, 0.01, 0.5, 0.7]})


# Coefficients that will not do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base": 0}, "stands still"),
        ({"base": 0, "per_context_token": 1, "per_prompt_token": 1, "per_swapped_token": 1}, "stands still"),
        ({"base": -0.01}, "base=-0.01 must be a finite number of seconds, at least 0"),
        ({"base": 1, "per_request": -1}, "per_request=-1 must be"),
        ({"base": 1, "per_context_token": -1e-9}, "per_context_token=-1e-09 must be"),
        ({"base": 1, "per_prompt_token": math.nan}, "per_prompt_token=nan must be"),
        ({"base": math.inf}, "base=inf must be"),
        ({"base": 1e10}, r"base=10000000000\.0 is more than 1e\+09 seconds"),
        ({"base": True}, "base=True is not a number"),
        ({"base": "0.1"}, "base='0.1' is not a number"),
        ({"base": None}, "base=None is not a number"),
        ({"base": 1, "context": "prompt"}, "context='prompt' is unknown; known: generated, all"),
    ],
)
def test_a_clock_that_goes_back_or_stands_still_is_refused(fields: Any, said: str) -> None:
    with pytest.raises(errors.InputError, match=said):
        ls.Clock(**fields)


@pytest.mark.parametrize("given", ["llama2-70b", "LLAMA2-70B-2XA100", "", 5, {"base": 1}])
@pytest.mark.parametrize("engine", ["compiled", "reference"])
def test_what_is_no_clock_is_refused(given: Any, engine: Any) -> None:
    with pytest.raises(errors.InputError, match="clock"):
        ls.simulate(ls.Workload([1], [1]), "fcfs", memory=10, clock=given, engine=engine)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clock.toml", "clock.json", "CLOCK.JSON"])
def test_a_clock_survives_its_file(tmp_path: Path, name: str) -> None:
    for mine in (TRUE, dataclasses.replace(TRUE, source='a "quoted"\n source, ünïcode', context="generated")):
        mine.write(tmp_path / name)
        again = ls.Clock.read(tmp_path / name)
        assert again == mine
        assert again.source == mine.source
        assert clock.parse(str(tmp_path / name)) == mine


@pytest.mark.parametrize(("unit", "factor"), [("s", 1.0), ("ms", 1e-3), ("us", 1e-6)])
def test_the_unit_of_a_file_is_stated(tmp_path: Path, unit: str, factor: float) -> None:
    file = tmp_path / "clock.toml"
    file.write_text(f'unit = "{unit}"\nbase = 44\nper_prompt_token = 0.5\n')
    assert ls.Clock.read(file) == ls.Clock(base=44 * factor, per_prompt_token=0.5 * factor)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base = 1", r"clock\.toml: the unit of the coefficients is missing"),
        ('unit = "msec"\nbase = 1', "the unit 'msec' is unknown; did you mean 'ms'"),
        ("unit = 3\nbase = 1", "the unit 3 is unknown"),
        ('unit = "s"\nbase = 1\nper_requests = 2', "no key 'per_requests'; did you mean 'per_request'"),
        ('unit = "s"\nbase = -1', "base=-1 must be a finite number of seconds, at least 0"),
        ('unit = "s"\nbase = "1"', "base='1' is not a number"),
        ('unit = "s"\nbase = inf', "base=inf must be a finite"),
        ('unit = "s"\nper_prompt_token = 1', "stands still"),
        ('unit = "s"\nbase = 1\ncontext = "al"', "context='al' is unknown; did you mean 'all'"),
        ('unit = "s"\nbase = 1\nsource = 2', "source=2 is not a text"),
        ("unit = s", "not TOML"),
    ],
)
def test_a_bad_file_is_refused_and_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "clock.toml"
    file.write_text(text)
    with pytest.raises(errors.InputError, match=said):
        ls.Clock.read(file)


def test_what_is_no_file_of_a_clock_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "clock.json"
    for text, said in (
        ("{", "not JSON"),
        ("[1]", "expected keys and values"),
        ('{"unit": []}', r"unit \[\] is unknown"),
    ):
        file.write_text(text)
        with pytest.raises(errors.InputError, match=said):
            ls.Clock.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(errors.InputError, match="not JSON"):
        ls.Clock.read(file)
    with pytest.raises(FileNotFoundError):
        ls.Clock.read(tmp_path / "none.toml")
    with pytest.raises(errors.InputError, match="did you mean 'llama2-70b-2xa100'"):
        clock.parse("llama2-70b-2xa10")
    assert clock.parse("llama2-70b-2xa100") == ls.clocks["llama2-70b-2xa100"]


def test_every_named_clock_has_a_source_and_runs() -> None:
    workload = ls.generate.lmsys(20)
    for name, preset in ls.clocks.items():
        assert preset.source
        assert ls.simulate(workload, "fcfs", memory=5000, clock=name).makespan > 0
