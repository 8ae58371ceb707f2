"""Weights & Biases, offline: files in the folder ``wandb`` below the root, which ``wandb sync`` uploads if wanted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

from ..tracking import PROJECT, Tracked


class Wandb:
    """Logs to a run of W&B whose id is ours, so that a run which goes on is the same one there.

    ``WANDB_PROJECT`` and ``WANDB_MODE`` are obeyed; without them it is the project ``isoflop``, and offline.
    """

    def begin(self, run: Tracked) -> None:
        """Open W&B's run; offline that is a folder of its own for each start, which belong together by the id."""
        settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            group=run.group or None,
            dir=str(run.root),
            config=dict(run.config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            reinit="finish_previous",
            settings=settings,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; what an earlier start logged already W&B leaves out when it is uploaded."""
        self._run.log(dict(values), step=step)

    def end(self, state: str, values: Mapping[str, float]) -> None:
        """Write the result into the run's summary, and close the run."""
        self._run.summary.update({"state": state, **{f"result/{name}": value for name, value in values.items()}})
        self._run.finish(exit_code=0 if state == "done" else 1)
