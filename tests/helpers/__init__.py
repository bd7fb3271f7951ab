"""What tests share: strategies, oracles, trace files, and where the project's own files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Real traces: beside the checkout, no part of the project.
DATA = ROOT.parent / "shared" / "data"
