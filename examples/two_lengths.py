"""Where A_l belongs: answers of either 10 or 400 tokens, one interval [10, 400] for all, prompts of 20 tokens.

python examples/two_lengths.py
"""

from __future__ import annotations

import llmsched as ls

POLICIES = ("hsf", "aell", "auto", "amin", "amin-lottery", "amax")
MEMORY = 16492


def main() -> None:
    """A table of mean latencies over that of `hsf`: four short answers to a long one, and with ten times as many."""
    print("n       " + "".join(f"{policy:>14}" for policy in POLICIES))
    for n in (4_000, 40_000):
        workload = ls.generate.two_point(n, 10, 400, "4/5", 20, seed=0).with_intervals(ls.intervals.constant(10, 400))
        compared = ls.compare(workload, POLICIES, memory=MEMORY)
        print(f"{n:<8,}" + "".join(f"{compared[policy].ratio:>14.3f}" for policy in POLICIES))


if __name__ == "__main__":
    main()
