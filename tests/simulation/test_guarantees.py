"""What is proved of policies, held against a lower bound on every schedule: docs/background/guarantees.md."""

from __future__ import annotations

import numpy as np
import pytest

import llmsched as ls


def drawn(seed: int, memory: int, n: int = 60) -> ls.Workload:
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, memory // rng.choice([2, 4, 20]), n)
    output = np.minimum(1 + rng.exponential(rng.choice([2, 10, 40]), n).astype(np.int64), memory - prompt)
    return ls.Workload(prompt, output)


@pytest.mark.parametrize("seed", range(20))
def test_smallest_volume_first_keeps_its_ratio(seed):
    """At most 1 + 2/(1 - a), if no request needs more than a share a of the cache (arXiv 2606.22327, Theorem 3.2)."""
    memory = 100 + 50 * (seed % 5)
    w = drawn(seed, memory // 2)
    share = (w.prompt + w.output).max() / memory
    ratio = ls.simulate(w, "svf", memory=memory).total_latency / ls.lower_bound(w, memory=memory, iterations=0).value
    assert ratio <= 1 + 2 / (1 - share)


@pytest.mark.parametrize("seed", range(20))
def test_rect_and_response_keep_their_ratios_where_they_have_them(seed):
    """36 for large or prompt-heavy requests, 236/3 for response-heavy ones (arXiv 2607.09248); nobody is evicted."""
    memory = 100 + 50 * (seed % 5)
    w = drawn(seed, memory)
    small = 4 * w.prompt <= memory
    for policy, bound, chosen in (
        ("rect", 36, ~small),
        ("rect", 36, small & (w.output <= w.prompt)),
        ("response", 236 / 3, small & (w.output > w.prompt)),
    ):
        part = w.take(chosen.nonzero()[0])
        if len(part):
            result = ls.simulate(part, policy, memory=memory)
            assert result.total_latency <= bound * ls.lower_bound(part, memory=memory, iterations=0).value
            # every attempt was stopped at its cap: 1, 2, 4, ... tokens of `rect`, from the prompt's on of `response`
            first = 1 if policy == "rect" else 2.0 ** np.ceil(np.log2(np.maximum(part.prompt, 1)))
            assert (result.evictions == np.maximum(np.ceil(np.log2(part.output / first)), 0)).all()
