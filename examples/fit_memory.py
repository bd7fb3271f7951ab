"""Which cache the paper's experiments had: it prints none. At which M do its three findings hold, in seconds?

python examples/fit_memory.py                              # some minutes
python examples/fit_memory.py --memory 20000 60000 --subsets 1 --sizes 400

A finding holds if (1) amin takes at most 1.1 times as long as hsf and amax at least 1.5 times; (2) buckets take amax to
between 0.4 and 0.6 of that, and amin closer to hsf; (3) amax is within a tenth of its best at x = 0.1 only, and amin
within a tenth of hsf at all x.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llmsched.experiments import paper

MEMORY = (16_492, 30_000, 40_000, 50_000, 60_000, 70_000, 80_000, 100_000, 120_000)


def main(args: Sequence[str] | None = None) -> None:
    """A row per cache: what the findings are about, and which of them hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, nargs="+", default=MEMORY, help="tokens of cache")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000], help="requests; the largest counts")
    parser.add_argument("--subsets", type=int, default=5)
    parser.add_argument("--clock", default="llama2-70b-2xa100", help="or none: rounds")
    given = parser.parse_args(args)
    print(f"{'':8}  [1, 1000]     buckets             x = 0.1, 0.95, 0.99")
    print(f"{'M':>8}  amin  amax    amax/1  amin    amax              amin              holds")
    clock = None if given.clock == "none" else given.clock
    for memory in given.memory:
        rows = paper.reproduce(memory=memory, clock=clock, subsets=given.subsets, sizes=given.sizes)
        print(f"{memory:>8,}  {row(rows)}")


def row(rows: Sequence[paper.Row]) -> str:
    """The ratios at the largest size, and the numbers of the findings that hold."""
    most = max(row.requests for row in rows)
    at = {(row.intervals, row.policy): row for row in rows if row.requests == most}
    one, two, *three = (str(experiment.rule) for experiment in paper.EXPERIMENTS)
    halved = at[two, "amax"].mean_latency / at[one, "amax"].mean_latency
    amin, amax = ([at[rule, policy].ratio for rule in (one, two, *three)] for policy in ("amin", "amax"))
    best = min(amax[2:])
    holds = (
        amin[0] <= 1.1 and amax[0] >= 1.5,
        0.4 <= halved <= 0.6 and abs(amin[1] - 1) <= abs(amin[0] - 1),
        [ratio <= 1.1 * best for ratio in amax[2:]] == [True, False, False]
        and all(abs(ratio - 1) <= 0.1 for ratio in amin[2:]),
    )
    listed = ["  ".join(f"{ratio:.2f}" for ratio in ratios[2:]) for ratios in (amax, amin)]
    numbers = " ".join(str(k) for k, held in enumerate(holds, start=1) if held) or "none"
    return f"{amin[0]:.2f}  {amax[0]:<5.2f}   {halved:.2f}    {amin[1]:.2f}    {listed[0]}  {listed[1]}  {numbers}"


if __name__ == "__main__":
    main()
