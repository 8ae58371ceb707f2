"""TensorBoard: event files in the run's own directory, so that ``tensorboard --logdir runs`` shows all runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..tracking import Tracked

FOLDER = "tensorboard"
"""Below a run's directory."""


class TensorBoard:
    """Writes scalars, and the recipe as a text. What an earlier process wrote from the present step on is hidden."""

    def begin(self, run: Tracked) -> None:
        """Open a new event file beside those that there are."""
        folder = run.directory / FOLDER
        anew = run.step if folder.exists() else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=anew)
        if anew is None:
            recipe = json.dumps(run.config, indent=1).replace("\n", "\n    ")
            self._writer.add_text("recipe", f"    {recipe}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, state: str, values: Mapping[str, float]) -> None:
        """Add the result, for tables of runs, and close the file."""
        step = int(values.get("step", 0))
        self.log(step, {f"result/{name}": value for name, value in values.items() if name != "step"})
        self._writer.add_text("state", state, step)
        self._writer.close()
