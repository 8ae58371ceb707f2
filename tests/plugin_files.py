"""A plugin of one file, as if somebody had installed it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def one_file(folder: Path, source: str) -> dict[str, str]:
    """Lay a package of one file out as if it were installed; the environment in which isoflop finds it."""
    return files(folder, {"somebodys": source})


def files(folder: Path, sources: Mapping[str, str]) -> dict[str, str]:
    """The same of several packages of one file each, by name; the file is called NAME_method.py."""
    folder.mkdir()
    for name, source in sources.items():
        (folder / f"{name}_method.py").write_text(source)
        about = folder / f"{name}_method-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-method\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[isoflop.parts]\n{name} = {name}_method\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "ISOFLOP_PLUGINS": ",".join(sources), "OMP_NUM_THREADS": "1"}
