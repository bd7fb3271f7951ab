"""How many examples a test draws, of Hypothesis or of a list of its own."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

from hypothesis import settings

T = TypeVar("T")

#: Times the numbers that tests name. CI draws the same examples each time, so more of them there find little:
#: `LLMSCHED_EXAMPLES=10 pytest` draws others, and ten times as many.
SHARE = float(os.environ.get("LLMSCHED_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """For the decorator of a test: so many examples, times the share."""
    return settings(max_examples=max(1, round(count * SHARE)))


def some(cases: Sequence[T]) -> Sequence[T]:
    """All of these, or where the share is less than one so many, always the same."""
    if SHARE >= 1:
        return cases
    return random.Random(0).sample(cases, max(1, round(len(cases) * SHARE)))
