"""The staggered pipeline (arXiv 2601.22996): equal requests that start evenly spread use the cache evenly.

Of requests with s prompt tokens that run for `length` rounds, number j = 0, 1, ... starts at floor(j·length/k), so that
k run at any time.
"""

from __future__ import annotations

import math


def staggered_peak(width: int, prompt: int, length: int) -> int:
    """Largest memory (tokens) of a pipeline of `width` requests: s k + (o k + o + k - gcd(o, k))/2, o the length."""
    return prompt * width + (length * width + length + width - math.gcd(length, width)) // 2


def staggered_width(memory: int, prompt: int, length: int) -> int:
    """The largest width whose peak fits. Needs memory >= prompt + length."""
    low, high = 1, 2 * memory // length + 1  # every further request takes a token and half its length on average
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if staggered_peak(middle, prompt, length) <= memory else (low, middle)
    return low


def slice_width(memory: int, length: int) -> int:
    """k of a slice of requests that run for up to `length` rounds, with the largest prompts that it must expect.

    In arXiv 2607.09248 outputs exceed prompts: these have up to `length` tokens, or what the cache leaves of it.
    """
    return staggered_width(memory, min(length, memory - length), length)
