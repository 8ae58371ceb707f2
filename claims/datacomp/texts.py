"""The texts: ``python texts.py DIRECTORY`` writes those of the claim color-filter, whose pool is held fixed here."""

from __future__ import annotations

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "color-filter" / "texts.py"), run_name="__main__")
