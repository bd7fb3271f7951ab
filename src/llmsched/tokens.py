"""Tokens: when every token was generated. Attempts and the ends of rounds, from which service metrics follow."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """The log of a run, kept with ``record="tokens"``.

    An attempt is a stay in the batch, from an admission until the request completes or leaves; a token is generated at
    the end of each of its rounds. Attempts are in the order in which they ended.

    Attributes
    ----------
    round_end
        Time at which each round ended (float64, one value per round).
    request
        The request of each attempt (index in the workload).
    first_round
        The attempt's first round, from 0.
    kept
        Tokens the request already had when the attempt began.
    generated
        Tokens it had when the attempt ended.
    """

    round_end: npt.NDArray[np.float64]
    request: npt.NDArray[np.int64]
    first_round: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    generated: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.request)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        names = [f.name for f in dataclasses.fields(self)]
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]
