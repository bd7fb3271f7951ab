"""The least seconds that each request takes by a clock, for `lower_bounds.busy_seconds`."""

from __future__ import annotations

from typing import NamedTuple

from ..simulation.clock import Clock
from ..workloads.columns import FloatArray
from ..workloads.workload import Workload


class RequestCosts(NamedTuple):
    """Of each request, in seconds (float64, in the workload's order); see `request_costs`."""

    work: FloatArray
    offset: FloatArray
    alone: FloatArray


def request_costs(workload: Workload, memory: int, clock: Clock) -> RequestCosts:
    """What each request needs of a machine with M tokens of cache.

    The round that generates a request's k-th token, k = 1..o, lasts d_k = base + per_request + per_context_token·(c +
    k − 1) at the least, c being the prompt if that counts as context, else 0. Of the round's time the request takes
    per_request + per_context_token·(c + k − 1) + base·(s + k)/M, and once, in its first round or (chunked prefill)
    before, per_prompt_token·s. What all that run take adds up to no more than the round lasts, because they hold no
    more than M tokens. So a schedule is one of a single machine on which request j needs `work`, the sum of what it
    takes. Attempts that are lost, prefill that is repeated and moved cache come on top.

    `offset` is what lies at least between the mean time of that work, spread evenly over each round, and completion:
    the mean over k, by what is taken, of d_k/2 + d_(k+1) + … + d_o. `alone` is d_1 + … + d_o and the prefill.
    """
    s, o = workload.prompt.astype(float), workload.output.astype(float)
    first, second = o * (o + 1) / 2, o * (o + 1) * (2 * o + 1) / 6  # sums of k and k² over k = 1..o; of k³: first²
    token, prefill = clock.per_context_token, clock.per_prompt_token * s
    own = clock.per_request + token * ((s if clock.context == "all" else 0.0) - 1)
    # Taken is fixed + rising·k, and lasting least + token·k; the tail after k is ends − least·k − token·k²/2.
    fixed, rising, least = own + clock.base * s / memory, token + clock.base / memory, clock.base + own
    work = fixed * o + rising * first + prefill
    ends = least * (o + 0.5) + token * first
    tails = fixed * (ends * o - least * first - token / 2 * second)
    tails += rising * (ends * first - least * second - token / 2 * first**2)
    tails += prefill * (ends - least - token / 2)
    return RequestCosts(work, tails / work, least * o + token * first + prefill)
