"""What the tests of model.md share that were worked out by hand: engines, the plainest policies, the random stream."""

from __future__ import annotations

import llmsched as ls

ENGINES = ("reference", "compiled")
#: Looks at the coming round only, first come first served: the plainest policy to overflow a cache with.
GREEDY = ls.Policy(order="arrival", reserve="none", refine="none", evict="newest")
#: Believes the point prediction, first come first served.
POINT = ls.Policy(order="arrival", reserve="point", refine="none", evict="progress")
#: The least urgent leaves, and starts again.
URGENT = ls.Policy(order="priority", reserve="none", refine="none", evict="priority")


def splitmix64(state):
    """The stream of section 5, written again from Vigna's definition."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def rows(result, *names):
    expanded = result.timeline.expand()
    return [expanded[name].tolist() for name in names]
