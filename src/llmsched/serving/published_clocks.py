"""Named clocks of current models and GPUs: fitted to published points, and to published runs."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError, by_name, nearest
from ..simulation import clock as simulation_clocks
from ..simulation.clock import Clock

__all__ = ["clocks", "parse"]

#: Name (model, GPUs, engine, precision) -> base, per request, per context token, per prompt token in seconds, as
#: `tables.of_points` finds them; points; mean error in per cent of the time per output token and to the first token.
_POINTS: Mapping[str, tuple[float, float, float, float, int, float, int]] = {
    "llama-3.1-8b-1xh100-trtllm": (0.00642, 0, 4.99e-08, 1.96e-05, 42, 1.8, 45),
    "llama-3.1-70b-2xh200-vllm-fp8": (0.0132, 3.75e-05, 3.76e-08, 7.04e-05, 15, 3.6, 48),
    "llama-3.1-70b-4xh200-vllm-fp8": (0.00918, 4.55e-05, 2.08e-08, 4.24e-05, 15, 3.7, 44),
    "llama-3.1-70b-8xh200-vllm-fp8": (0.00774, 4.7e-05, 8.96e-09, 2.62e-05, 15, 2.7, 38),
    "llama-3.1-70b-4xb200-vllm-fp8": (0.00757, 6.14e-05, 0, 3.05e-05, 15, 2.5, 29),
    "qwen3-32b-1xh100-trtllm-fp8": (0.0136, 7.97e-05, 2.96e-08, 6.93e-05, 42, 3.6, 52),
    "qwen3-32b-4xh100-vllm": (0.00926, 6.08e-05, 2.53e-08, 2.88e-05, 30, 1.8, 64),
    "deepseek-r1-8xh200-sglang-fp8": (0.00919, 0.000361, 0, 3.93e-05, 20, 4.2, 22),
    "kimi-k2.5-4xb200-vllm-fp4": (0.00777, 0.000279, 0, 1.8e-05, 30, 4.8, 23),
    "glm-5-8xb200-sglang-fp8": (0.0178, 0.000177, 0, 4.4e-05, 22, 4.7, 36),
    "gpt-oss-120b-4xh200-vllm-fp4": (0.00367, 8.45e-05, 7.48e-10, 1.34e-05, 15, 3.1, 42),
    "qwen3.5-397b-a17b-8xb200-sglang-fp8": (0.00705, 0.000263, 0, 1.77e-05, 21, 3.3, 17),
    "minimax-m2.5-4xh200-vllm-fp8": (0.0116, 0.00019, 1.27e-08, 2.83e-05, 15, 2.5, 38),
}
#: The same, fitted by `llmsched calibrate` to the times of requests; mean error of a request's latency in per cent.
_RUNS: Mapping[str, tuple[float, float, float, float, int, float]] = {
    "llama-3.1-8b-1xrtxpro6000-vllm": (0.0134, 0, 1.02e-07, 4.18e-05, 300, 0.3),
}


def _of_points(row: tuple[float, float, float, float, int, float, int]) -> Clock:
    base, request, context, prompt, points, tpot, ttft = row
    return Clock(
        base,
        request,
        context,
        prompt,
        source=f"fitted to {points} points published by ai-dynamo/aiconfigurator (Apache-2.0); mean error {tpot} % of "
        f"the time per output token, {ttft} % of that to the first token (an overhead that the clock lacks included)",
    )


def _of_run(row: tuple[float, float, float, float, int, float]) -> Clock:
    base, request, context, prompt, requests, error = row
    return Clock(
        base,
        request,
        context,
        prompt,
        source=f"fitted to the times of {requests} requests of vLLM 0.19, published by casys-kaist/LLMServingSim "
        f"(MIT); mean error of a request's latency {error} %",
    )


#: Of its run the times cannot tell base and context apart, as the cache is always full: kernels can.
_RTX4090 = Clock(
    0.0163,
    4.64e-05,
    1.63e-07,
    8.01e-05,
    source="fitted to kernel times published by casys-kaist/LLMServingSim (MIT); mean error of a request's latency 2.2 "
    "% on 300 requests of vLLM 0.19, published by the same",
)

#: Name -> Clock, each with its source and error.
clocks: Mapping[str, Clock] = by_name(
    {name: _of_points(row) for name, row in _POINTS.items()}
    | {name: _of_run(row) for name, row in _RUNS.items()}
    | {"llama-3.1-8b-1xrtx4090-vllm": _RTX4090},
    "published clock",
)


def parse(text: str) -> Clock:
    """The clock of that name, here or in `llmsched.clocks`, or in a file. Raises InputError if it is neither."""
    if text in clocks:
        return clocks[text]
    try:
        return simulation_clocks.parse(text)
    except InputError as error:
        if text.lower().endswith((".toml", ".json")):
            raise
        known = [*clocks, *simulation_clocks.clocks]
        raise InputError(
            f"there is no clock {text!r}; {nearest(text, known)}; or the name of a .toml or .json file"
        ) from error
