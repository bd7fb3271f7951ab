"""Requests that are longer than a service takes: left out, or cut off, and counted."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import InputError, WorkloadError, nearest
from .argument_checks import whole
from .workload import Workload, attach_lengths, attach_prefixes

__all__ = ["WAYS", "TooLong", "limit_length"]

TooLong = Literal["drop", "clip", "error"]
WAYS: tuple[TooLong, ...] = ("drop", "clip", "error")


def limit_length(workload: Workload, most: int, too_long: TooLong = "clip") -> Workload:
    """The requests with at most so many tokens, prompt and output together (`max_model_len` of vLLM).

    Parameters
    ----------
    workload
        The requests.
    most
        Tokens, at least 1.
    too_long
        What becomes of longer ones: ``"clip"``, as in engines, ends the output at `most` tokens, and leaves out those
        whose prompt has no room for a token; ``"drop"`` leaves them all out; ``"error"`` refuses the workload.

    Returns
    -------
    Workload
        `workload.source` says under ``too_long`` how many were ``dropped`` and ``clipped``, and the limit.

    Raises
    ------
    InputError
        `most` or `too_long` is none.
    WorkloadError
        A request is too long, with ``"error"``.
    """
    most = whole("the most tokens of a request", most, 1)
    if too_long not in WAYS:
        raise InputError(f"there is no way {too_long!r} to treat long requests; {nearest(str(too_long), WAYS)}")
    size = workload.prompt + workload.output
    longer = size > most
    if not longer.any():
        return workload
    if too_long == "error":
        i = int(np.argmax(longer))
        raise WorkloadError(
            f"request {i} has prompt {workload.prompt[i]} + output {workload.output[i]} = {size[i]} tokens, more than "
            f"the {most} that are allowed; so have {int(longer.sum())} in all",
            i,
        )
    dropped = longer if too_long == "drop" else workload.prompt >= most
    kept = workload.replace(output=np.where(longer & ~dropped, most - workload.prompt, workload.output))
    kept = kept.take(np.flatnonzero(~dropped))
    counts = {"limit": most, "dropped": int(dropped.sum()), "clipped": int((longer & ~dropped).sum())}
    fresh = Workload(**kept.columns(), source={**kept.source, "too_long": counts})
    return attach_prefixes(attach_lengths(fresh, kept.lengths, kept.classes), kept.prefixes)
