"""The logs of a run, cut back to where its state was saved.

A killed run may have logged more than its saved state knows of; continued from that state, it would
log those epochs twice. So the state holds the sizes of the log files.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import robomimic.scripts.train as stock

EVENTS = "tb/events.out.tfevents."


def sizes(logs: Path) -> dict[str, int]:
    """Size of every file in a run's folder `logs`, by its path there [bytes]."""
    return {
        str(path.relative_to(logs)): path.stat().st_size
        for path in sorted(logs.rglob("*"))
        if path.is_file()
    }


def cut_back(logs: Path, wanted: dict[str, int]) -> None:
    """Shorten the files of a run to these sizes, and remove event files that were not there."""
    for name in sizes(logs):
        if name in wanted:
            os.truncate(logs / name, wanted[name])
        elif name.startswith(EVENTS):
            (logs / name).unlink()


class SynchronousLogger(stock.DataLogger):
    """robomimic's logger, whose events are in their file when `record` returns.

    tensorboardX hands events to a thread by a queue that cannot be waited for; a full disk ends
    that thread without a message.

    Args:
        log_dir: of the run.
        config: of the run.
        **options: of robomimic's logger.
    """

    muted = False  # while epochs are replayed: their events are in the files already

    def __init__(self, log_dir: str, config: Any, **options: Any) -> None:
        # The name of an event file is made of the second: never that of an earlier file.
        while (Path(log_dir) / f"{EVENTS}{int(time.time())}.{socket.gethostname()}").exists():
            time.sleep(0.05)
        super().__init__(log_dir, config, **options)
        self._tb_logger: Any = self._tb_logger
        self._wandb_logger: Any = self._wandb_logger
        self._outlets = self._tb_logger, self._wandb_logger
        if self._tb_logger is not None:
            self._events = self._tb_logger._get_file_writer().event_writer
            self._events.add_event = self._events._ev_writer.write_event

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Log a value; while muted, only for the statistics over all values."""
        self._tb_logger, self._wandb_logger = (None, None) if self.muted else self._outlets
        super().record(*args, **kwargs)

    def flush(self) -> None:
        """Bring all events to the disk."""
        if self._outlets[0] is not None:
            self._events.flush()

    def close(self) -> None:
        """Close the files."""
        self._tb_logger, self._wandb_logger = self._outlets
        super().close()
