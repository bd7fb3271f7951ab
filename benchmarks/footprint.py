"""What needs a process of its own to be measured: importing the package, and the memory of a simulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Libraries of the extras (plots, command line, dataframes): `import llmsched` loads none of them.
HEAVY = ("matplotlib", "typer", "rich", "click", "pandas", "polars", "pyarrow", "scipy")

_IMPORT = """
import json, sys, time
began = time.perf_counter()
import llmsched
seconds = time.perf_counter() - began
import numpy
numpy_alone = time.perf_counter() - began - seconds
llmsched.simulate
ready = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "numpy": numpy_alone, "ready": ready, "modules": sorted(sys.modules)}))
"""

# The kernel's record of the largest resident set is reset just before the simulation, and memory that the allocator
# kept from making the workload is given back, so that the simulation cannot hide in it.
_PEAK = """
import ctypes, gc, json, sys
sys.path.insert(0, sys.argv[1])
import llmsched as ls
from cases import policy_case

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))

policy, n = sys.argv[2], int(sys.argv[3])
policy_case(policy, 1000).simulate()
case = policy_case(policy, n)
case.workload.extent
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
before = resident("VmRSS")
result = case.simulate()
print(json.dumps({"bytes": resident("VmHWM") - before, "returned": 24 * n}))
"""


def import_llmsched() -> dict[str, Any]:
    """Import it in a new process: `seconds`, until `simulate` is `ready`, those that `numpy` took, the `modules`."""
    return _python(_IMPORT)


def peak_bytes_per_request(policy: str, n: int) -> float:
    """The most memory that simulating `n` requests takes beyond the workload, the result's arrays (24 bytes) included.

    Raises
    ------
    NotImplementedError
        The system does not tell (Linux with glibc does, without sanitizers).
    """
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        raise NotImplementedError("under the address sanitizer memory is not given back")
    if not Path("/proc/self/clear_refs").exists():
        raise NotImplementedError("the peak of resident memory can be reset on Linux only")
    try:
        measured = _python(_PEAK, str(Path(__file__).parent), policy, str(n))
    except RuntimeError as error:
        if "clear_refs" in str(error) or "malloc_trim" in str(error):
            raise NotImplementedError(f"this system does not tell the peak of resident memory: {error}") from None
        raise
    return float(measured["bytes"]) / n


def _python(code: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
