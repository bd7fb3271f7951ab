"""The largest ratios that a search finds for amax and amin, next to the bounds."""

from __future__ import annotations

from typing import Any

from llmsched.experiments.adversarial import Adversary, adversarial_search
from llmsched.optimum import theory

from .checks import Check, Report

TITLE = "worst instances found by search for amax and amin at alpha = 1/4, 1/9, 1/16, next to the bounds"

#: (lower, upper, memory). The proof of Theorem 2 has M = lower*upper; `lower` = 1 is Corollary 1's setting.
_SETTINGS = ((10, 40, 400), (10, 90, 900), (10, 160, 1600), (1, 4, 200), (1, 9, 450), (1, 16, 800))


def run(quick: bool) -> Report:
    """Quick: 60 instances of up to 300 requests each; else 2,000 of up to 5,000."""
    budget, most, repeats = (60, 300, 2) if quick else (2000, 5000, 8)
    checks, remarks = [], []
    for lower, upper, memory in _SETTINGS[::3] if quick else _SETTINGS:
        for policy in ("amax", "amin"):
            found = adversarial_search(policy, (lower, upper), memory=memory, budget=budget, most=most, repeats=repeats)
            checks += _against_theory(policy, lower, upper, found)
            remarks.append(_remark(policy, lower, upper, found))
    return Report(checks, remarks)


def _against_theory(policy: str, lower: int, upper: int, found: Adversary) -> list[Check]:
    alpha = lower / upper
    claims = {
        "amax": [
            ("Theorem 1", theory.amax_bound(alpha)),
            ("Theorem 2 as printed", theory.amax_printed_lower_bound(alpha)),
            ("Theorem 2's instance", theory.amax_instance_worst(alpha).ratio),
        ],
        "amin": [
            ("Lemma 2, two lengths", theory.amin_two_point_bound(alpha)),
            ("Lemma 2, any lengths", theory.amin_rho(upper, lower)),
        ],
    }
    name = f"{policy} / hsf, interval [{lower}, {upper}], worst found"
    size: dict[str, Any] = {"n": len(found.workload), "memory": found.memory, "limit": True, "one_sided": True}
    return [Check(name, source, value, found.ratio, found.ratio_ci95, **size) for source, value in claims[policy]]


def _remark(policy: str, lower: int, upper: int, found: Adversary) -> str:
    top = sorted(zip(found.counts.tolist(), found.lengths.tolist(), strict=True), reverse=True)[:4]
    what = ", ".join(f"{count} of {length}" for count, length in top)
    rest = f" and {len(found.lengths) - len(top)} more lengths" if len(found.lengths) > len(top) else ""
    return (
        f"{policy}, interval [{lower}, {upper}], M = {found.memory:,}: {found.ratio:.3f} ± {found.ratio_ci95:.3f} with "
        f"{len(found.workload):,} requests ({what}{rest}), {found.tried:,} instances tried."
    )
