"""Metrics of robomimic run folders, read from their TensorBoard logs."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from robomimic_vae_ext.errors import DatasetError


class Series(NamedTuple):
    """One logged quantity."""

    epochs: tuple[int, ...]
    values: tuple[float, ...]


def read_run(run: Path) -> dict[str, Series]:
    """Read every scalar that robomimic's DataLogger wrote.

    Args:
        run: time-stamped folder of a run, with `logs/tb` in it.

    Returns:
        Tag, for instance `Train/critic/loss`, to its series.

    Raises:
        DatasetError: no TensorBoard log there, or an empty one.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run / "logs" / "tb"
    if not folder.is_dir():
        raise DatasetError(
            f"{run} has no folder logs/tb",
            "the time-stamped folder of a robomimic run with experiment.logging.log_tb = true",
            "Pass that folder.",
        )
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    series = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        series[tag] = Series(tuple(p.step for p in points), tuple(p.value for p in points))
    if not series:
        raise DatasetError(
            f"{folder} holds no scalars", "logs of at least one epoch", "Wait for the first epoch."
        )
    return series


#: How the algorithms name the loss of their critic, ours first.
CRITIC_LOSSES: Final = ("critic/loss", "Critic/Critic1_Loss", "critic/critic1_loss")


def critic_loss(series: dict[str, Series]) -> str | None:
    """Name of the critic's training loss, without `Train/`; None where there is no critic."""
    return next((name for name in CRITIC_LOSSES if f"Train/{name}" in series), None)


def success_rate(series: dict[str, Series]) -> Series | None:
    """Success rate in the rollouts of training; None where there were none."""
    for tag, values in series.items():
        if tag.startswith("Rollout/Success_Rate/") and tag.count("/") == 2:
            return values
    return None
