"""Where the project's files lie: the package, its data, and the checkout around them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

PACKAGE = Path(str(files("fulcra_utils")))
ROOT = PACKAGE.parent
DATA = ROOT / "data"
