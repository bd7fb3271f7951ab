"""What a verification finds: checks with confidence intervals, and reports of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["pass", "differs", "FAIL"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One number that theory gives and a simulation measured.

    Attributes
    ----------
    name, source
        What is compared, and where the theory's value comes from.
    theory, measured, half
        The value, the measured mean, and half the width of its confidence interval (0 where nothing is random).
    n, memory
        Requests and tokens of cache.
    limit
        True: theory speaks of a limit, and a difference is a finding. False: it must hold at this very size.
    one_sided
        True: theory gives an upper bound; only a confidence interval wholly above it counts.
    """

    name: str
    source: str
    theory: float
    measured: float
    half: float
    n: int
    memory: int
    limit: bool = False
    one_sided: bool = False

    @property
    def gap(self) -> float:
        """Measured over theory, minus 1."""
        return self.measured / self.theory - 1 if self.theory else self.measured

    @property
    def holds(self) -> bool:
        """Whether the confidence interval contains the theory's value (or reaches below the bound)."""
        slack = self.half + 1e-12 * abs(self.theory)  # rounding, where half is 0
        above = self.measured - self.theory
        return above <= slack and (self.one_sided or -above <= slack)

    @property
    def verdict(self) -> Verdict:
        return "pass" if self.holds else "differs" if self.limit else "FAIL"

    def record(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "gap": self.gap, "verdict": self.verdict}

    def sentence(self) -> str:
        """The check as one plain sentence, for the list of disagreements."""
        return (
            f"{self.name}: {self.source} says {self.theory:.4f}; at n={self.n:,}, M={self.memory:,} measured "
            f"{self.measured:.4f} ± {self.half:.4f} ({self.gap:+.1%})"
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """What a topic found: its checks, the conclusions it draws from them, and figures to draw if wanted."""

    checks: Sequence[Check]
    remarks: Sequence[str] = ()
    figures: Mapping[str, Callable[[], Figure]] = dataclasses.field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.verdict == "FAIL"]

    @property
    def differing(self) -> list[Check]:
        return [check for check in self.checks if check.verdict == "differs"]
