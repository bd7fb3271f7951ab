"""Why a run that would not end is stopped within a round, in words."""

from __future__ import annotations

from ..errors import NotFinishedError
from ..policy import Policy
from .limits import MOST_VAIN_DRAWS


def bound_passed(policy: Policy, request: object, round: int, remaining: int) -> NotFinishedError:
    """The error of a run in which the bound of a request, by whatever name it goes, would pass `LARGEST_BOUND`."""
    return NotFinishedError(
        f"policy {policy.name} stopped at round {round} with {remaining} requests left: the bound of request "
        f"{request!r} would pass 2**62 tokens, as it was evicted again and again and each time its bound doubled. "
        "Reserve what the policy believes (reserve='bound'), refine by progress (refine='progress'), keep a larger "
        "margin or more memory, or use another policy",
        policy.name,
        round,
        remaining,
        request,
    )


def nobody_drawn(policy: Policy, round: int, remaining: int) -> NotFinishedError:
    """The error of a run whose random eviction named nobody for so long."""
    return NotFinishedError(
        f"policy {policy.name} stopped at round {round} with {remaining} requests left: the cache overflows, and "
        f"{MOST_VAIN_DRAWS:,} draws with beta={policy.beta:g} named nobody who leaves. Take a larger beta",
        policy.name,
        round,
        remaining,
    )
