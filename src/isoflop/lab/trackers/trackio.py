"""trackio: its local database, which ``trackio show`` shows; ``TRACKIO_DIR`` says where that lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trackio
from trackio.sqlite_storage import SQLiteStorage

from ..tracking import PROJECT, Tracked


class Trackio:
    """Logs to a run of trackio's project ``isoflop`` that bears our name and hash."""

    def begin(self, run: Tracked) -> None:
        """Open the run, or go on with it behind what it holds already."""
        name = run.name if run.name.endswith(run.id) else f"{run.name}-{run.id}"
        self._run: Any = trackio.init(
            PROJECT,
            name=name,
            group=run.group or None,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        logs = SQLiteStorage.get_logs(PROJECT, name, run_id=None)
        self._known = {(log.get("step"), key) for log in logs for key in log}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve that an earlier start did not log: those come out the same again."""
        new = {name: value for name, value in values.items() if (step, name) not in self._known}
        if new:
            self._run.log(new, step=step)

    def end(self, state: str, values: Mapping[str, float]) -> None:
        """Add the result at the run's last step, and wait until all is written."""
        self.log(int(values.get("step", 0)), {f"result/{name}": value for name, value in values.items()})
        self._run.finish()
