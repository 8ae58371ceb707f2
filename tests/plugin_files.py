"""A plugin of one file, as if somebody had installed it."""

from __future__ import annotations

import os
from pathlib import Path


def one_file(folder: Path, source: str) -> dict[str, str]:
    """Lay a package of one file out as if it were installed; the environment in which isoflop finds it."""
    folder.mkdir()
    (folder / "somebodys_method.py").write_text(source)
    about = folder / "somebodys_method-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-method\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[isoflop.parts]\nsomebodys = somebodys_method\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "ISOFLOP_PLUGINS": "somebodys", "OMP_NUM_THREADS": "1"}
