"""Reads recordings of simulator states and actions, and the environment that they belong to."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data.conversion.env_args import ROBOMIMIC_ENV_TYPE, convert_env_args
from robomimic_vae_ext.data.env_metadata import read_env_args
from robomimic_vae_ext.data.hdf5 import find_array, read_array
from robomimic_vae_ext.data.schema import STEP_ARRAYS
from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.errors import DatasetError

LOGGER: Final = logging.getLogger(__name__)

PROBES: Final = 12  # steps that are simulated
SHIFTS: Final = (0, 1, -1)
# A shift must reduce the error to less than this share. Measured on 54 recordings, shifted or
# not: the right shift has 0.06 to 0.36 of the error of no shift, a wrong one 1.2 to 16 times.
CLEAR: Final = 0.6


@dataclass(frozen=True)
class Recording:
    """States and actions of a demonstration.

    Args:
        states: (T, S) or (T + 1, S).
        actions: (T, A), each taken in the state of the same index.
        rewards: (T,), if they were recorded.
        dones: (T,), if they were recorded.
        shift: offset of `actions` in the file; see `ReplayReport`.
        motion_error: mean error of the gripper's position after one simulated action [m].
        motion: mean distance that it was recorded to move in these steps [m].
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None = None
    dones: np.ndarray | None = None
    shift: int = 0
    motion_error: float = 0.0
    motion: float = 0.0


def read_recording(env: Any, demo: h5py.Group, where: str) -> Recording:
    """Return states and actions, each action with the state it was taken in.

    Only raw recordings are checked for actions that are off by one step: a file with observations,
    rewards or dones is in robomimic's layout already, where they are aligned, and with much noise
    or contact the check can prefer a wrong shift.
    """
    found = {key: find_array(demo, key, where) for key in STEP_ARRAYS}
    if found["states"] is None or found["actions"] is None:
        raise DatasetError(
            f"{where} has {', '.join(demo) or 'nothing'}",
            "states and actions",
            "Replay needs both.",
        )
    arrays = {
        key: read_array(array, f"{where}/{key}")
        for key, array in found.items()
        if array is not None
    }
    states, actions = arrays["states"], arrays["actions"]
    raw = "obs" not in demo and arrays.keys() == {"states", "actions"}
    expected, least = len(env.sim.get_state().flatten()), 3 if raw else 1
    if states.ndim != 2 or states.shape[1] != expected or len(states) < least:
        raise DatasetError(
            f"{where}/states is {states.shape}",
            f"(T, {expected}) with T > {least - 1}, the state of the installed robosuite's model",
            "The recording is of another robot or task.",
        )
    surplus = len(states) - len(actions) if actions.ndim else None
    if actions.shape[1:] != (env.action_dim,) or surplus not in ((-1, 0, 1) if raw else (0, 1)):
        raise DatasetError(
            f"{where}/actions is {actions.shape}",
            f"({len(states)}, {env.action_dim})",
            "The recording is of another robot or controller.",
        )
    for key in ("rewards", "dones"):
        if key in arrays and arrays[key].shape != (len(actions),):
            raise DatasetError(
                f"{where}/{key} is {arrays[key].shape}",
                f"({len(actions)},), one per action",
                "Repair or remove them.",
            )
    actions = actions[: len(states)]
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise DatasetError(
            f"{where} has NaN or infinite states or actions", "finite numbers", "Leave it out."
        )
    probe = probe_motion(env, states, clip_actions(env, actions)[0])
    shift = probe.shift if raw else 0
    rewards, dones = arrays.get("rewards"), arrays.get("dones")
    if shift:
        LOGGER.warning("%s: action t%+d leads from state t to t+1; shifted back", where, shift)
    if shift > 0:
        states, actions = states[: len(actions) - shift + 1], actions[shift:]
    elif shift < 0:
        states, actions = states[-shift:], actions[:shift]
    return Recording(
        states, actions, rewards, dones, shift, probe.errors[shift], probe.motion
    )  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """Single recorded actions, simulated from the recorded states.

    Args:
        errors: for each offset of the actions, mean error of the grippers' positions [m].
        motion: mean distance that they were recorded to move [m].
    """

    errors: dict[int, float]
    motion: float

    @property
    def shift(self) -> int:
        """k in `SHIFTS` such that action t + k leads from state t to t + 1; 0 unless clear."""
        best = min(SHIFTS, key=lambda shift: self.errors[shift])
        return best if self.errors[best] < CLEAR * self.errors[0] else 0


def probe_motion(env: Any, states: np.ndarray, actions: np.ndarray) -> Probe:
    """Simulate single actions from recorded states, with each offset of the actions.

    Args:
        env: a robosuite environment.
        states: (T, S).
        actions: (T, A), in the range of the controllers.
    """
    # Candidates differ most where neighbouring actions differ most.
    change = np.abs(np.diff(actions[:, :3], axis=0)).sum(axis=1)
    steps = [
        t for t in np.argsort(-change, kind="stable")[: 2 * PROBES] if 1 <= t < len(states) - 2
    ][:PROBES]
    errors, motion = {shift: 0.0 for shift in SHIFTS}, 0.0
    for t in steps:
        put_state(env, states[t])
        before = gripper_positions(env)
        put_state(env, states[t + 1])
        reached = gripper_positions(env)
        motion += _distance(before, reached) / len(steps)
        for shift in SHIFTS:
            put_state(env, states[t])
            env.step(actions[t + shift])
            errors[shift] += _distance(gripper_positions(env), reached) / len(steps)
    return Probe(errors, motion)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first - second, axis=1).max())


def clip_actions(env: Any, actions: np.ndarray) -> tuple[np.ndarray, int]:
    """Clip actions to what the controllers read; absolute goals have no limits.

    Args:
        env: a robosuite environment.
        actions: (T, A).

    Returns:
        The clipped actions, and the number of values that were outside.
    """
    lows, highs = [], []
    for robot in env.robots:
        parts = robot.composite_controller
        low, high = (np.array(limit, dtype=float) for limit in robot.action_limits)
        for name, (start, end) in parts._action_split_indexes.items():
            if getattr(parts.part_controllers[name], "input_type", "delta") == "absolute":
                low[start:end], high[start:end] = -np.inf, np.inf
        lows.append(low)
        highs.append(high)
    clipped = np.clip(actions, np.concatenate(lows), np.concatenate(highs))
    return clipped, int((clipped != actions).sum())


def put_state(env: Any, state: np.ndarray) -> None:
    """Set the simulator to a recorded state."""
    env.sim.set_state_from_flattened(state)
    env.sim.forward()
    # Controllers keep the last pose that they read, and the next action would start from it.
    for robot in env.robots:
        for controller in robot.composite_controller.part_controllers.values():
            controller.update(force=True)


def gripper_positions(env: Any) -> np.ndarray:
    """Return the position (arms, 3) of every gripper [m]."""
    sites = [robot.eef_site_id[arm] for robot in env.robots for arm in robot.arms]
    return np.array(env.sim.data.site_xpos[sites])


def replay_env_args(
    file: h5py.File, source: Path, cameras: Sequence[str], size: int, rendering: str
) -> dict[str, Any]:
    """Return environment metadata for the installed robosuite, from robomimic's or robosuite's.

    Raises:
        DatasetError: the file has neither, or the images cannot be rendered.
    """
    if size < 1:
        raise DatasetError(f"image size {size}", "at least 1 pixel", "Choose another --size.")
    attrs = file["data"].attrs if "data" in file else {}
    if "env_args" in attrs or "env" not in attrs:
        env_args = read_env_args(file, source)
    else:
        kwargs = _read_env_info(attrs.get("env_info", "{}"), source)
        version = str(attrs.get("repository_version", "1.4.0"))
        env_args = {
            "env_name": kwargs.pop("env_name", str(attrs["env"])),
            "env_version": version,
            "type": ROBOMIMIC_ENV_TYPE,
            "env_kwargs": kwargs,
        }
    env_args = convert_env_args(env_args)
    # Environments of robosuite or others have one rendering, under both names.
    names = {name: env_args["env_name"] for name in ("fast", "full")}
    for ours in envs.ENVIRONMENTS.values():
        names = ours if env_args["env_name"] in ours.values() else names
    if rendering not in names:
        raise DatasetError(
            f"rendering {rendering!r}",
            f"for {env_args['env_name']} one of {', '.join(names)}",
            "Choose one of them with --rendering.",
        )
    env_args["env_name"] = names[rendering]
    kwargs = env_args["env_kwargs"]
    kwargs.update(
        has_renderer=False,
        has_offscreen_renderer=bool(cameras),
        use_camera_obs=bool(cameras),
        use_object_obs=True,
        ignore_done=True,
        reward_shaping=False,
        hard_reset=False,
        camera_depths=False,
        control_freq=kwargs.get("control_freq", envs.CONTROL_FREQUENCY),
    )
    for key in ("camera_names", "camera_heights", "camera_widths"):
        kwargs.pop(key, None)
    if cameras:
        kwargs.update(camera_names=list(cameras), camera_heights=size, camera_widths=size)
    return env_args


def _read_env_info(text: Any, source: Path) -> dict[str, Any]:
    """Return robosuite's own environment metadata."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{source}: env_info is not a JSON object ({error})",
            "the attribute that robosuite's DataCollectionWrapper writes",
            "Repair this attribute of the group data.",
        ) from error


def build_replay_env(env_args: dict[str, Any], source: Path) -> Any:
    """Return the environment after one reset."""

    def refuse(reason: str) -> DatasetError:
        return DatasetError(
            f"{source}: robosuite cannot build {env_args['env_name']} ({reason})",
            "env_args of an environment that the installed robosuite has",
            "Correct the attribute env_args of the group data.",
        )

    with envs.bare_errors(refuse):
        env = envs.build_env(env_args)
    env.reset()
    return env
