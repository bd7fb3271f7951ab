from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..simulation.problem import Problem
from ..workloads.columns import FloatArray, IntArray
from .router import Router

COMPLETED: np.dtype[Any]

class Stopped(Exception): ...

class Fleet:
    def __init__(
        self,
        problems: list[Problem],
        kinds: list[int],
        router: Router,
        seed: int | None,
        longest: int,
        record: list[str],
        speeds: list[float],
        groups: list[list[int]],
        lives: list[tuple[float, float]],
    ) -> None: ...
    def take(
        self,
        problems: list[Problem],
        arrival: FloatArray,
        work: IntArray,
        replica: npt.NDArray[np.int32],
        rank: IntArray | None = None,
        classes: npt.NDArray[np.int32] | None = None,
        session: IntArray | None = None,
        sessions: int = 0,
        columns: Mapping[str, FloatArray] = ...,
        every_fits: bool = True,
        all_of_them: bool = False,
    ) -> None: ...
    def keep_into(
        self, completion: FloatArray, start: FloatArray, evictions: IntArray, cached: IntArray | None = None
    ) -> None: ...
    def close_loop(
        self, turn_before: IntArray, next_turn: IntArray, think: FloatArray, arrival: FloatArray
    ) -> None: ...
    def send_turns(self, upto: int) -> bool: ...
    def completions(self) -> npt.NDArray[Any]: ...
    def send(self, upto: int) -> bool: ...
    def finish(self) -> bool: ...
    def outcome(self, k: int) -> dict[str, Any]: ...
    def unfinished(self, k: int) -> tuple[int, int]: ...
    @property
    def completed_requests(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def slots(self) -> int: ...
