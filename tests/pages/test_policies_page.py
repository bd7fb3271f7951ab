"""docs/reference/policies.md has every named policy with its fields, and every field with its values."""

from __future__ import annotations

import dataclasses
import re

import pytest
from helpers import ROOT

import llmsched as ls
from llmsched.policy import CHOICES, EVICTION_RULES, RESERVES

PAGE = (ROOT / "docs" / "reference" / "policies.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE))


def rows_of(heading: str) -> dict[str, str]:
    """First column -> second column of the table under a heading."""
    _, _, after = PAGE.partition(f"\n{heading}\n")
    table, _, _ = after.partition("\n## ")
    lines = [line.split("|") for line in table.splitlines()]
    return {cells[1].strip(" `"): cells[2].strip() for cells in lines if len(cells) > 3}


def test_every_named_policy_has_a_section_and_no_other() -> None:
    assert SECTIONS.keys() == ls.policies.keys()
    assert PAGE.count("\n### ") == len(SECTIONS)


@pytest.mark.parametrize("name", ls.policies)
def test_a_section_says_what_the_policy_is(name: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL)
    assert eval(code.strip(), {"Policy": ls.Policy}) == ls.policies[name]
    policy = ls.policies[name]
    (reads,) = re.findall(r"^Reads: (.*?)\. Source: ", SECTIONS[name], re.MULTILINE)
    columns = ", ".join(f"`{column}`" for column in policy.needs)
    assert reads == ("the truth" if policy.clairvoyant else columns or "no prediction")
    assert not SECTIONS[name].startswith("\n```"), "it begins with what the policy is"


def test_every_eviction_rule_and_every_belief_is_told_as_in_the_code() -> None:
    told = {word: rule.who for word, rule in EVICTION_RULES.items()}
    assert rows_of("## Who leaves: `evict`") == {"value": "who leaves next", "---": "---", **told}
    told = {word: rule.belief for word, rule in RESERVES.items()}
    assert rows_of("## What is believed: `reserve`") == {
        "value": "what a request is believed to reach", "---": "---", **told
    }  # fmt: skip


def test_every_field_is_in_the_table_with_its_values() -> None:
    rows = rows_of("## Fields")
    assert set(list(rows)[2:]) == {f.name for f in dataclasses.fields(ls.Policy)}
    for field, words in CHOICES.items():
        assert tuple(re.findall(r"`([^`]+)`", rows[field])) == words
