"""The package of real engines is light: vllm is imported only where its scheduler is asked for."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_imports_vllm_until_its_scheduler_is_used():
    code = (
        "import sys, llmsched, llmsched.serving.vllm as v; v.__name__; "
        "assert not [name for name in sys.modules if name.split('.')[0] in ('vllm', 'torch')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
