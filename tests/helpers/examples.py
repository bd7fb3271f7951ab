"""How many examples Hypothesis draws of a test."""

from __future__ import annotations

import os

from hypothesis import settings

#: Times the numbers that tests name. CI draws the same examples each time, so more of them there find little:
#: `LLMSCHED_EXAMPLES=10 pytest` draws others, and ten times as many.
SHARE = float(os.environ.get("LLMSCHED_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """For the decorator of a test: so many examples, times the share."""
    return settings(max_examples=max(1, round(count * SHARE)))
