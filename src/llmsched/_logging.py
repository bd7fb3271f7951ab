"""The loggers: `logging.getLogger("llmsched")` and below it one for each module, silent until somebody listens.

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")

INFO is what a long call decides, WARNING what was lost on the way and made up for, DEBUG single steps.
"""

from __future__ import annotations

import logging

logging.getLogger("llmsched").addHandler(logging.NullHandler())  # else Python prints warnings that nobody asked for


def logger(module: str) -> logging.Logger:
    """That of a module, by its ``__name__``."""
    return logging.getLogger(module)
