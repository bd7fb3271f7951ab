"""Real engines: their settings, their logs, and our policies inside them. Nothing is imported until it is used."""

from .._lazy import lazy

__getattr__, __dir__ = lazy(__name__, {"recorder": "recorder", "vllm": "vllm", "written": "written"})
