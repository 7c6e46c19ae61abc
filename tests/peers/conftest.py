"""Tests against the peers' own code: `make test-peers`. Skipped where a peer is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
