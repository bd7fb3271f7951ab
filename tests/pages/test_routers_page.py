"""docs/reference/routers.md has every named router with its fields, and every field with its values."""

from __future__ import annotations

import dataclasses
import re

import pytest
from helpers import ROOT

import llmsched as ls
from llmsched.fleet.router import PREDICTIONS, RULES, SCORES

PAGE = (ROOT / "docs" / "reference" / "routers.md").read_text(encoding="utf-8")
_, _, NAMED = PAGE.partition("\n## The named routers\n")
SECTIONS = dict(re.findall(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", NAMED, re.DOTALL | re.MULTILINE))


def rows_of(heading: str) -> dict[str, str]:
    """First column -> second column of the table under a heading."""
    _, _, after = PAGE.partition(f"\n{heading}\n")
    lines = [line.split("|") for line in re.split(r"\n##", after)[0].splitlines()]
    rows = {cells[1].strip(" `"): cells[2].strip() for cells in lines if len(cells) > 3}
    return dict(list(rows.items())[2:])


def test_every_named_router_has_a_section_and_no_other() -> None:
    assert list(SECTIONS) == list(ls.routers)


@pytest.mark.parametrize("name", ls.routers)
def test_a_section_says_what_the_router_is(name: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL)
    assert eval(code.strip(), {"Router": ls.Router}) == ls.routers[name]
    (reads,) = re.findall(r"^Reads: (.*?)\. Source: ", SECTIONS[name], re.MULTILINE)
    assert reads == (", ".join(f"`{column}`" for column in ls.routers[name].needs) or "no column")
    assert not SECTIONS[name].startswith("\n```"), "it begins with what the router is"


def test_rules_and_scores_are_told_as_in_the_code() -> None:
    assert rows_of("## How it chooses: `rule`") == dict(RULES)
    assert rows_of("## What it compares: `score`") == dict(SCORES)


def test_every_field_is_in_the_table_with_its_values() -> None:
    rows = rows_of("## Fields")
    assert list(rows) == [f.name for f in dataclasses.fields(ls.Router) if f.name != "name"]
    for field, words in {"rule": RULES, "score": SCORES, "work": PREDICTIONS, "by": (*PREDICTIONS, "prompt")}.items():
        assert re.findall(r"`([^`]+)`", rows[field]) == list(words)


@pytest.mark.parametrize("formula", re.findall(r'`"([^"]*[+/*][^"]*)"`', PAGE))
def test_the_formulas_of_the_page_are_formulas(formula: str) -> None:
    assert ls.Router(score=formula).formula is not None
