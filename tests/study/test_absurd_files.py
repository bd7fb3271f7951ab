"""Study files with values that nobody means: told in a line, at once."""

from __future__ import annotations

import pytest

from llmsched.cli.study import _setting
from llmsched.errors import InputError, InputLimitError, StudyError
from llmsched.study import Study

BASE = 'workloads = [{generator = "lmsys", requests = 10}]\npolicies = ["amin"]\n'
DIGITS = "9" * 400


@pytest.mark.parametrize(
    "text",
    [
        "metrics = [5]",
        "metrics = [[5]]",
        f"seed = {'9' * 5000}",
        f"memories = [{'9' * 5000}]",
        f"rates = [{DIGITS}]",
        f"precision = {{metric = 'mean_latency', relative = {DIGITS}}}",
        f"service = {{slo = {{ttft = {DIGITS}}}}}",
        f"power = {{idle = {DIGITS}}}",
        f"max_rounds = {DIGITS}",
        "x = " + "{a = " * 2000 + "1" + "}" * 2000,
        "memories = " + "[" * 2000 + "]" * 2000,
        "[" + ".".join(["a"] * 2000) + "]\nb = 1",
    ],
)
def test_an_absurd_value_is_told_in_a_line(text):
    with pytest.raises(StudyError) as caught:
        Study.parse(BASE + text + "\n")
    assert len(str(caught.value)) < 1000


def test_a_precision_that_nothing_reaches_runs_to_the_most(tmp_path):
    precision = {"metric": "mean_latency", "relative": 1e-160, "most": 64}
    study = Study(workloads=[{"generator": "lmsys", "requests": 10}], policies=["amin"], precision=precision)
    assert study.run(tmp_path / "out").done == 64


def test_thousands_of_levels_are_planned_at_once():
    """They took time with the square of their number: 30,000 would take the limit of this test."""
    study = Study.parse(BASE + f"memories = {list(range(1000, 31_000))}\n")
    assert len(study.plan().cells) == 30_000


def test_a_study_of_too_many_cells_is_refused(monkeypatch):
    study = Study.parse(BASE + f"memories = {list(range(1000, 1101))}\n")
    monkeypatch.setenv("LLMSCHED_LIMITS", "cells=100")
    with pytest.raises(InputLimitError, match=r"the study has more than 100: .*LLMSCHED_LIMITS=cells=404"):
        study.plan()


@pytest.mark.parametrize("text", ["memories=" + "[" * 3000, f"seed={'9' * 5000}"])
def test_an_absurd_setting_of_the_command_line_is_told_in_a_line(text):
    with pytest.raises(InputError, match="expected a key and a TOML value") as caught:
        _setting(text)
    assert len(str(caught.value)) < 300
