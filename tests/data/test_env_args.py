"""Translated controllers move as they did under robosuite 1.4.1, or are refused."""

from __future__ import annotations

from typing import Any

import pytest

from robomimic_vae_ext.data.conversion.env_args import convert_env_args
from robomimic_vae_ext.errors import DatasetError

pytestmark = pytest.mark.simulator

# One of each kind; studies/robosuite_versions/make_tables.py runs all of them.
FOLLOWED = (
    ("OSC_POSE", "absolute", "one arm", "Panda"),
    ("OSC_POSE", "absolute", "two arms, opposed", "Panda"),
    ("OSC_POSE", "absolute", "two-armed robot", "Baxter"),
    ("OSC_POSE", "delta", "turned by 90 degrees", "Panda"),
    ("OSC_POSE", "delta", "two arms, parallel", "Panda"),
    ("JOINT_POSITION", "delta", "one arm", "Panda"),
)


@pytest.fixture(scope="module")
def motion() -> Any:
    from studies.robosuite_versions import motion

    return motion


def find(motion: Any, *case: str) -> Any:
    for recording in motion.recordings():
        if (recording.controller, recording.given, recording.base, recording.robot) == case:
            return recording
    raise AssertionError(f"no recording of {case}")


@pytest.mark.parametrize("case", FOLLOWED)
def test_recorded_actions_lead_to_the_recorded_poses(motion: Any, case: tuple[str, ...]) -> None:
    recording = find(motion, *case)
    distance, angle = motion.follow(recording)
    assert recording.travel > 15 * motion.SAME[0]
    assert distance < motion.SAME[0]
    assert angle < motion.SAME[1]


@pytest.mark.parametrize("case", [FOLLOWED[1], FOLLOWED[3]])
def test_a_pose_is_held(motion: Any, case: tuple[str, ...]) -> None:
    """In the base frame, the opposed arms would travel a metre."""
    distance, angle = motion.hold(find(motion, *case))
    assert distance < motion.HOLD[0]
    assert angle < motion.HOLD[1]


def test_what_moves_otherwise_is_refused(motion: Any) -> None:
    for recording in motion.recordings():
        kind = recording.controller
        if kind not in ("OSC_POSE", "JOINT_POSITION", "JOINT_TORQUE"):
            with pytest.raises(DatasetError, match=kind):
                convert_env_args(recording.env_args, "1.5.2")
        else:
            convert_env_args(recording.env_args, "1.5.2")
