"""Random numbers that are the same on every machine and with every NumPy: raw PCG64 streams, one per purpose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .columns import FloatArray


def raw_stream(seed: int, purpose: str, n: int) -> npt.NDArray[np.uint64]:
    """`n` raw 64-bit numbers of PCG64, from the stream that `seed` has for `purpose`; the first do not depend on `n`.

    The streams are children of one SeedSequence, told apart by name, so that the same seed can be given to everything
    without one thing being correlated with another. Raw numbers, because NumPy promises that a bit generator's
    stream never changes, but not that of its distributions (NEP 19).
    """
    raw: npt.NDArray[np.uint64] = _generator(seed, purpose).random_raw(n)
    return raw


def uniforms(seed: int, purpose: str, n: int) -> FloatArray:
    """`n` doubles uniform on [0, 1), multiples of 2**-53, from `raw_stream`."""
    return _on_unit_interval(raw_stream(seed, purpose, n))


class Uniforms:
    """The numbers of `uniforms`, some at a time."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._generator = _generator(seed, purpose)

    def next(self, n: int) -> FloatArray:
        """The next `n`."""
        return _on_unit_interval(self._generator.random_raw(n))


def _generator(seed: int, purpose: str) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode())))


def _on_unit_interval(raw: npt.NDArray[np.uint64]) -> FloatArray:
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
