"""Real engines: their settings, their logs, and our policies inside them. Nothing is imported until it is used."""

from .._lazy import lazy

__all__ = ["calibrate", "clocks", "logs", "recorder", "systems", "validate", "vllm", "written"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "calibrate": "calibration",
        "clocks": "published_clocks",
        "logs": "logs",
        "recorder": "recorder",
        "systems": "systems",
        "validate": "validation",
        "vllm": "vllm",
        "written": "written",
    },
)
