"""`python -m verification`: run topics, print every check, say where theory and simulation disagree.

Exit code 0 if no exact statement failed, 1 if one did, 2 for bad input. Differences from limits are findings.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType

import llmsched
from llmsched.errors import LlmschedError, nearest
from llmsched.metrics import figure_style

from . import adversarial, bounds, competitive, little, queueing
from .checks import Check, Report

TOPICS: Mapping[str, ModuleType] = MappingProxyType(
    {
        "little": little,
        "queueing": queueing,
        "bounds": bounds,
        "competitive": competitive,
        "adversarial": adversarial,
    }
)
_MOST_ROWS = 40  # of passed checks, printed; failures and differences always are


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m verification", description=__doc__.split("\n\n")[0])
    parser.add_argument("--list", action="store_true", help="list the topics and end")
    parser.add_argument("-t", "--topic", action="append", metavar="NAME", help="only this topic; repeat for several")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write checks.json and the figures (extra plot) there")
    given = parser.parse_args(args)
    if given.list:
        for name, topic in TOPICS.items():
            print(f"{name:<12} {topic.TITLE}")
        return 0
    chosen = given.topic or list(TOPICS)
    try:
        for name in chosen:
            if name not in TOPICS:
                raise llmsched.errors.InputError(f"there is no topic {name!r}: {nearest(name, TOPICS)}")
        if given.out is not None:
            figure_style.require_matplotlib()
            given.out.mkdir(parents=True, exist_ok=True)
    except (LlmschedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    reports = {name: _run(name, given.quick) for name in chosen}
    _summary(reports)
    if given.out is not None:
        _write(given.out, reports)
    return 1 if any(report.failed for report in reports.values()) else 0


def _run(name: str, quick: bool) -> Report:
    topic, began = TOPICS[name], time.monotonic()
    print(f"\n{name}: {topic.TITLE}", flush=True)
    report: Report = topic.run(quick)
    _table(report.checks)
    for remark in report.remarks:
        print(f"  {remark}")
    print(f"  ({time.monotonic() - began:.1f} s)", flush=True)
    return report


def _table(checks: Sequence[Check]) -> None:
    shown = checks if len(checks) <= _MOST_ROWS else [check for check in checks if check.verdict != "pass"]
    if len(shown) < len(checks):
        print(f"  {len(checks) - len(shown)} checks passed and are not listed (--out writes all)")
    if not shown:
        return
    width = max(len(check.name) for check in shown)
    source = max(len(check.source) for check in shown)
    print(f"  {'check':<{width}}  {'theory from':<{source}}  {'n':>9}  {'M':>7}  {'theory':>11}  measured")
    for check in shown:
        measured = f"{check.measured:,.4f} ± {check.half:.4f}" if check.half else f"{check.measured:,.4f}"
        verdict = check.verdict if check.holds else f"{check.verdict} {check.gap:+.1%}"
        print(
            f"  {check.name:<{width}}  {check.source:<{source}}  {check.n:>9,}  {check.memory:>7,}  "
            f"{check.theory:>11,.4f}  {measured:<20}  {verdict}"
        )


def _summary(reports: Mapping[str, Report]) -> None:
    checks = [check for report in reports.values() for check in report.checks]
    count = {verdict: sum(check.verdict == verdict for check in checks) for verdict in ("pass", "differs", "FAIL")}
    print(f"\n{len(checks)} checks: {count['pass']} pass, {count['differs']} differ from a limit, {count['FAIL']} FAIL")
    differing = [check for report in reports.values() for check in report.differing]
    if differing:
        print("Where theory and simulation disagree, at the largest size of each comparison:")
        for check in _largest(differing, checks):
            print(f"  {check.sentence()}")
    for check in (check for report in reports.values() for check in report.failed):
        print(f"FAIL {check.sentence()}")


def _largest(differing: Sequence[Check], checks: Sequence[Check]) -> list[Check]:
    """Of every comparison, the largest size, where that differs."""
    last = {(check.name, check.source): check for check in checks}  # sizes come in ascending order
    return [check for check in differing if last[check.name, check.source] is check]


def _write(out: Path, reports: Mapping[str, Report]) -> None:
    records = {name: [check.record() for check in report.checks] for name, report in reports.items()}
    remarks = {name: list(report.remarks) for name, report in reports.items()}
    text = json.dumps(
        {"llmsched": llmsched.__version__, "checks": records, "remarks": remarks}, indent=1, default=float
    )
    (out / "checks.json").write_text(text + "\n", encoding="utf-8")
    written = [out / "checks.json"]
    for report in reports.values():
        for name, draw in report.figures.items():
            figure_style.save(draw(), out / f"{name}.png")
            written.append(out / f"{name}.png")
    print(f"\nWrote {', '.join(map(str, written))}.")


if __name__ == "__main__":
    sys.exit(main())
