"""Puts the planted stores and small models of the dictionary tests on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "dictionary"))
