"""What robomimic's training loop was given so far, to be given again.

Best scores, names of checkpoints and statistics of logs are local variables of robomimic's `train`.
A continued run lets it walk through the epochs that were done, without training: every part of an
epoch returns at once what it returned then, so the variables become what they were.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from robomimic_vae_ext.errors import CheckpointError


class Journal:
    """The results of the parts of all epochs, in order.

    Args:
        entries: of an earlier run, which are replayed first.
    """

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self.entries = list(entries)
        self._position = 0

    @property
    def at_end(self) -> bool:
        """Whether all entries were replayed."""
        return self._position == len(self.entries)

    def replay(self, kind: str, epoch: int) -> Any:
        """Result of the next entry.

        Raises:
            CheckpointError: the loop asks for something else.
        """
        entry = self.entries[self._position] if not self.at_end else {"kind": None, "epoch": None}
        if (entry["kind"], entry["epoch"]) != (kind, epoch):
            raise CheckpointError(
                f"robomimic's loop asks for '{kind}' of epoch {epoch}, and the interrupted run had "
                f"'{entry['kind']}' of epoch {entry['epoch']}",
                "the same order of training, validation and rollouts",
                "Continue with the versions of robomimic and of this package that began the run.",
            )
        self._position += 1
        return entry["result"]

    def add(self, kind: str, epoch: int, result: Any) -> None:
        """Append a result of plain numbers in dictionaries."""
        assert self.at_end
        self.entries.append({"kind": kind, "epoch": epoch, "result": plain(result)})
        self._position += 1


class Clock:
    """Stands in for the module `time` in robomimic's `train`, which saves checkpoints by it.

    It stops while a run is interrupted.

    Args:
        times: of an earlier run, which are replayed first.
        now: time of the earlier run when its state was saved [s]; None without one.
    """

    def __init__(self, times: list[float], now: float | None) -> None:
        self.times = list(times)
        self._position = 0
        self._offset = 0.0 if now is None else now - time.time()

    def now(self) -> float:
        """The time, not noted down [s]."""
        return time.time() + self._offset

    def time(self) -> float:
        """As `time.time`."""
        if self._position == len(self.times):
            self.times.append(self.now())
        self._position += 1
        return self.times[self._position - 1]


def plain(value: Any) -> Any:
    """Nested dictionaries with Python's own numbers, which `torch.load` takes as data."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value.item() if hasattr(value, "item") else value
