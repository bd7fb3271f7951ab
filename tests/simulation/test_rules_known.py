"""A word of a policy field that an engine does not know is an error when it is imported, not a silent default."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmsched.policy import CHOICES, EVICTION_RULES, ORDERS, RESERVES, check_words

IMPORT = """
import importlib, sys, types

field, words, engine = sys.argv[1], sys.argv[2], sys.argv[3]
import llmsched.policy as policy
policy.CHOICES = {**policy.CHOICES, field: (*policy.CHOICES[field], "new")}
tables = {"order": "ORDERS", "reserve": "RESERVES", "evict": "EVICTION_RULES"}
if field in tables:
    rules = getattr(policy, tables[field])
    setattr(policy, tables[field], {**rules, "new": rules[words]})
importlib.import_module("llmsched.simulation.problem")  # what both of them read
importlib.import_module(f"llmsched.simulation.{engine}")
"""


def imported_with_a_new_word(field: str, alike: str, engine: str) -> str:
    """What Python says when `engine` is imported and the field may also be "new", a rule like `alike`."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, field, alike, engine], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else "no error"


@pytest.mark.parametrize("engine", ["reference", "_compiled"])
@pytest.mark.parametrize("field", sorted(CHOICES.keys() - {"order", "reserve", "evict"}))
def test_a_new_word_of_a_field_cannot_be_forgotten(field: str, engine: str) -> None:
    assert "'new'" in imported_with_a_new_word(field, "", engine)


@pytest.mark.parametrize("engine", ["reference", "_compiled"])
@pytest.mark.parametrize(
    ("field", "alike"),
    [
        *(("evict", word) for word in EVICTION_RULES),
        *(("reserve", word) for word, rule in RESERVES.items() if rule.kind == "moving"),
        *(("order", word) for word, rule in ORDERS.items() if rule.changes),
    ],
)
def test_a_new_rule_cannot_be_forgotten(field: str, alike: str, engine: str) -> None:
    assert "'new'" in imported_with_a_new_word(field, alike, engine)


def test_what_is_lacking_and_what_is_unknown_are_both_named() -> None:
    check_words("here", ["a", "b"], ("b", "a"))
    with pytest.raises(TypeError, match=r"here: it lacks \['b'\] of the words .* does not have \['c'\]"):
        check_words("here", ["a", "c"], ("a", "b"))
