"""What every benchmark may use.

With the ordinary tests each runs once, untimed. To time them: pytest benchmarks --benchmark-enable --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from timing import alternating


@pytest.fixture(scope="session")
def plain():
    """The plain loop of plain.pyx, compiled; skips where that cannot be done."""
    from build_plain import CannotBuildError, plain

    try:
        return plain()
    except CannotBuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def against(benchmark):
    """Times a function and, where timing is on, notes how much faster or slower than each yardstick it is.

    `against(function, {"B": yardstick})` returns what the function returns. The ratio of least times, yardstick over
    function, goes to extra_info. Nothing is asserted of times: machines are shared.
    """

    def compare(function: Callable[[], Any], yardsticks: dict[str, Callable[[], Any]]) -> Any:
        result = benchmark(function)
        if benchmark.enabled:
            times = alternating({"": function, **yardsticks})
            for name in yardsticks:
                benchmark.extra_info[f"times faster than {name}"] = times[name] / times[""]
        return result

    return compare
