"""Tokens: when every token was processed. Attempts and the ends of rounds, from which service metrics follow."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt


def _none() -> npt.NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """The log of a run, kept with ``record="tokens"``.

    An attempt is a stay in the batch, from an admission until the request completes or leaves. A token is generated at
    the end of each of its rounds but, where prompts are processed in chunks (`prefill_budget`), the first ones: those
    before the last chunk. With ``slots="processed"`` a round that has no token for a running request, though its prompt
    is processed, ends its attempt, and the next begins with the round after. Attempts are in the order in which they
    ended, chunks in that in which they were processed.

    Attributes
    ----------
    round_end
        Time at which each round ended (float64, one value per round).
    request
        The request of each attempt (index in the workload).
    first_round
        The attempt's first round, from 0.
    rounds
        Rounds that it lasted: the last ``generated - kept`` of them generated a token each.
    kept
        Tokens the request already had when the attempt began.
    generated
        Tokens it had when the attempt ended.
    chunk_request, chunk_round, chunk_tokens
        Chunks of prompts and kept tokens: whose, in which round (from 0), how many tokens (>= 1). Empty where they were
        not processed in chunks: then it all happened in the attempt's first round.
    """

    round_end: npt.NDArray[np.float64]
    request: npt.NDArray[np.int64]
    first_round: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    generated: npt.NDArray[np.int64]
    chunk_request: npt.NDArray[np.int64] = dataclasses.field(default_factory=_none)
    chunk_round: npt.NDArray[np.int64] = dataclasses.field(default_factory=_none)
    chunk_tokens: npt.NDArray[np.int64] = dataclasses.field(default_factory=_none)

    def __len__(self) -> int:
        return len(self.request)

    def __repr__(self) -> str:
        chunks = f", {len(self.chunk_request)} chunks" if len(self.chunk_request) else ""
        return f"Tokens({len(self)} attempts in {len(self.round_end)} rounds{chunks})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        names = [f.name for f in dataclasses.fields(self)]
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]
