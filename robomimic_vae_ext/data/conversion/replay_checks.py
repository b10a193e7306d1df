"""Compares a replay with what was recorded: observations, the first pictures, and the motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data.hdf5 import find_array, find_group, list_names, read_array

#: Largest median difference of an observation over a demonstration [m, rad, or as it is].
TOLERANCE: Final = 5e-3
#: Largest mean difference of the first pictures [of 255]; robosuite's own rendering and the fast
#: one differ by about 8, another camera or an upside-down picture by 40 and more.
PICTURE_TOLERANCE: Final = 25.0
#: Largest error of one simulated action, as a share of the motion that was recorded.
MOTION_TOLERANCE: Final = 0.5
#: Why raw recordings of Wipe get no rewards.
UNKNOWN_SUCCESS: Final = (
    "no rewards were recorded, and which marks are wiped is not part of the state, so success is "
    "unknown; --tolerance inf keeps it without success"
)
_LEAST_MOTION: Final = 1e-3  # [m]
# What changes much within one physics step, and follows from the states.
_DERIVED: Final = ("vel", "acc", "force", "torque", "contact")


@dataclass(frozen=True)
class DemoReport:
    """What became of one demonstration.

    Args:
        name: of the demonstration.
        shift: k if action t + k leads from state t to state t + 1.
        success: it has a positive reward.
        restored: number of names whose values came from `model_file`.
        differences: median difference of each observation that was recorded.
        pictures: mean difference of each first picture that was recorded [of 255].
        uncompared: recorded observations that have another shape now.
        motion_error: mean error of single simulated actions [m].
        motion: mean motion of the gripper in these steps, as recorded [m].
        refused: why it is left out, or empty.
    """

    name: str
    shift: int = 0
    success: bool = False
    restored: int = 0
    differences: dict[str, float] | None = None
    pictures: dict[str, float] | None = None
    uncompared: tuple[str, ...] = ()
    motion_error: float = 0.0
    motion: float = 0.0
    refused: str = ""

    def describe(self) -> str:
        """Return one line for the terminal."""
        if self.refused:
            return f"{self.name}: left out: {self.refused}"
        parts = [f"actions shifted by {self.shift}" if self.shift else "aligned"]
        parts.append("success" if self.success else "no success")
        parts.append(
            f"{self.restored} values from model_file" if self.restored else "no model_file"
        )
        if self.differences:
            key = max(self.differences, key=lambda name: self.differences[name])  # type: ignore[index]
            parts.append(f"observations within {self.differences[key]:.2g} ({key})")
        else:
            parts.append("no observations to compare")
        if self.pictures:
            parts.append(f"first pictures within {max(self.pictures.values()):.1f} of 255")
        if self.uncompared:
            parts.append(f"not compared, since of another shape: {list_names(self.uncompared)}")
        parts.append(
            f"one action errs by {1000 * self.motion_error:.1f} of {1000 * self.motion:.1f} mm"
        )
        return f"{self.name}: {', '.join(parts)}"


def compare_observations(
    demo: h5py.Group, remade: dict[str, np.ndarray], where: str
) -> tuple[dict[str, float], dict[str, float], tuple[str, ...]]:
    """Compare recorded observations with those made anew.

    The median over the steps is compared, since some recorders store observations that are one
    physics step (2 ms) older than the states beside them. Velocities, accelerations and forces are
    left out for the same reason.

    Args:
        demo: group of the recorded demonstration.
        remade: (T + 1, ...) per key.
        where: name of the demonstration for messages.

    Returns:
        Median difference per key, mean difference of the first picture per key, and the keys that
        have another shape now.
    """
    group = find_group(demo, "obs", where)
    differences, pictures, uncompared = {}, {}, []
    for key in group or ():
        if key not in remade or any(word in key for word in _DERIVED):
            continue
        array = find_array(group, key, f"{where}/obs")
        if array.shape[1:] != remade[key].shape[1:] or not array.shape or not len(array):
            uncompared.append(key)
        elif array.ndim == 4:
            pictures[key] = float(np.abs(array[0].astype(float) - remade[key][0]).mean())
        else:
            recorded = read_array(array, f"{where}/obs/{key}").astype(float)
            count = min(len(recorded), len(remade[key]))
            recorded, again = recorded[:count], remade[key][:count].astype(float)
            error = np.abs(recorded - again)
            if key.endswith("quat"):  # q and -q are one orientation
                error = np.minimum(error, np.abs(recorded + again).max(axis=1, keepdims=True))
            error = error.reshape(count, -1).max(axis=1)
            differences[key] = float(np.median(error)) if count else 0.0
    return differences, pictures, tuple(uncompared)


def refusal(report: DemoReport, tolerance: float) -> str:
    """Return why a demonstration does not prove itself, or an empty string.

    Args:
        report: of its comparison.
        tolerance: largest median difference of an observation; infinite accepts everything.
    """
    if np.isinf(tolerance):
        return ""
    keep = "--tolerance inf keeps it"
    for key, value in (report.differences or {}).items():
        if not value <= tolerance:
            return (
                f"{key} differs by {value:.3g} from the recorded one, expected {tolerance:g} at "
                f"most; {keep}"
            )
    for key, value in (report.pictures or {}).items():
        if not value <= PICTURE_TOLERANCE:
            return (
                f"the first {key} differs by {value:.0f} of 255 from the recorded one (another "
                f"camera or upside down?), expected {PICTURE_TOLERANCE:.0f}; leave this camera out "
                f"of --cameras, or {keep}"
            )
    if report.motion_error > max(_LEAST_MOTION, MOTION_TOLERANCE * report.motion):
        return (
            f"one action leads {1000 * report.motion_error:.1f} mm off the recorded motion of "
            f"{1000 * report.motion:.1f} mm, expected half of it: the controller differs; {keep}"
        )
    return ""


def missing_values(drawn: dict[str, float], recorded: Any, tolerance: float) -> str:
    """Return why a demonstration without these values is left out, or an empty string.

    Args:
        drawn: spread of what resets draw, by name.
        recorded: names that the recording has values of.
        tolerance: smaller spreads do not matter.
    """
    names = sorted(
        name for name, size in drawn.items() if size > tolerance and name not in recorded
    )
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"model_file does not say how {list_names(names[:3])}{more} was: resets draw it anew, and "
        "it is not part of the state; --tolerance inf keeps it with a new draw"
    )
