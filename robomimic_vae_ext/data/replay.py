"""Replays recorded simulator states into observations and rewards of the installed robosuite.

For robosuite's own `demo.hdf5` files (states and actions, no observations, no rewards) and for
robomimic files whose observations lack a camera. The stored model XML is not used: XML of
robosuite 1.4 does not load in 1.5. The states are put into the installed version's model, which
has the same joints but may differ in sizes and colours.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from tqdm import tqdm

from robomimic_vae_ext.data import envs
from robomimic_vae_ext.data.copying import copy_attributes, copy_rest, new_file
from robomimic_vae_ext.data.env_args import ROBOMIMIC_ENV_TYPE, convert_env_args
from robomimic_vae_ext.data.reading import demo_names, open_dataset, read_env_args
from robomimic_vae_ext.data.schema import write_dataset, write_episode
from robomimic_vae_ext.errors import DatasetError

LOGGER: Final = logging.getLogger(__name__)

PROBES: Final = 12  # steps that are simulated to find out which action belongs to which state
SHIFTS: Final = (0, 1, -1)
CLEAR: Final = 0.8  # a shift must predict at least this much better than no shift


@dataclass(frozen=True)
class ReplayReport:
    """What a replay found and did.

    Args:
        path: of the new file.
        demos: number of demonstrations.
        transitions: number of transitions in the new file.
        successes: number of demonstrations that reach success under the installed robosuite.
        clipped: number of action values that were outside [-1, 1].
        largest: largest absolute action value before clipping.
        shifts: for each demonstration, k if action t + k leads from state t to state t + 1.
    """

    path: Path
    demos: int
    transitions: int
    successes: int
    clipped: int
    largest: float
    shifts: tuple[int, ...]

    def describe(self) -> str:
        """Return what a person wants to read after a replay."""
        shifted = sum(shift != 0 for shift in self.shifts)
        return (
            f"{self.path}: {self.demos} demonstrations, {self.transitions} transitions, "
            f"{self.successes} reach success; {self.clipped} action values clipped to [-1, 1] "
            f"(largest {self.largest:.3g}); actions "
            + (f"shifted by one step in {shifted} demonstrations" if shifted else "aligned")
        )


def replay_dataset(
    source: Path,
    target: Path,
    cameras: Sequence[str] = (),
    size: int = 84,
    rendering: str = "fast",
    compress: str = "",
) -> ReplayReport:
    """Replay a file of states and actions into a robomimic dataset.

    A demonstration ends at its first success, with reward 1 and done 1. The last recorded action
    leads to a state that was not recorded, so it has no transition.

    Args:
        source: robosuite's demo.hdf5, or a robomimic dataset with states.
        target: the file to make; it must not exist.
        cameras: to render; none makes a low-dimensional dataset.
        size: of the pictures [pixel].
        rendering: `fast` takes our environment class where there is one, `full` robosuite's own.
        compress: `gzip`, `lzf` or empty, for pictures.

    Returns:
        What was found and done.

    Raises:
        DatasetError: the file is not of this kind, or its states do not fit the model.
    """
    with open_dataset(source) as file, new_file(target) as unfinished:
        env_args = replay_env_args(file, source, cameras, size, rendering)
        env = envs.build_env(env_args)
        env.reset()
        folder = unfinished.with_suffix(".episodes")
        folder.mkdir()
        try:
            paths, shifts, clipped, largest = [], [], 0, 0.0
            for name in tqdm(demo_names(file, source), unit="episode"):
                states, actions, shift = _aligned(env, file["data"][name], f"{source}: data/{name}")
                clipped += int((np.abs(actions) > 1).sum())
                largest = max(largest, float(np.abs(actions).max()))
                shifts.append(shift)
                paths.append(folder / f"{name}.hdf5")
                with h5py.File(paths[-1], "w") as episode:
                    write_episode(episode, replay_demo(env, states, np.clip(actions, -1, 1)))
            notes = {"replayed_from": source.name, "clipped_action_values": clipped}
            summary = write_dataset(unfinished, paths, env_args, notes, 0, compress)
        finally:
            shutil.rmtree(folder)
    return ReplayReport(
        target, len(paths), summary.transitions, summary.successes, clipped, largest, tuple(shifts)
    )


def replay_env_args(
    file: h5py.File, source: Path, cameras: Sequence[str], size: int, rendering: str
) -> dict[str, Any]:
    """Return environment metadata for the installed robosuite, from robomimic's or robosuite's.

    Raises:
        DatasetError: neither is there.
    """
    attrs = file["data"].attrs if "data" in file else {}
    if "env_args" in attrs or "env" not in attrs:
        env_args = read_env_args(file, source)
    else:
        kwargs = json.loads(attrs.get("env_info", "{}"))
        version = str(attrs.get("repository_version", "1.4.0"))
        env_args = {
            "env_name": kwargs.pop("env_name", str(attrs["env"])),
            "env_version": version,
            "type": envs.ROBOMIMIC_ENV_TYPE,
            "env_kwargs": kwargs,
        }
    env_args = convert_env_args(env_args)
    for names in envs.ENVIRONMENTS.values():
        if env_args["env_name"] in names.values():
            env_args["env_name"] = names.get(rendering, env_args["env_name"])
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


def _aligned(env: Any, demo: h5py.Group, where: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return states (T, S) and the actions (T, A) taken in them, and the shift that was found."""
    if "states" not in demo or "actions" not in demo:
        raise DatasetError(
            f"{where} has {', '.join(demo) or 'nothing'}",
            "states and actions",
            "Only such recordings can be replayed.",
        )
    states, actions = demo["states"][()], demo["actions"][()]
    expected = len(env.sim.get_state().flatten())
    if states.ndim != 2 or states.shape[1] != expected or len(states) < 3:
        raise DatasetError(
            f"{where}/states is {states.shape}",
            f"(T, {expected}) with T > 2, the state of the installed robosuite's model",
            "The recording is of another robot or task.",
        )
    if actions.shape[1:] != (env.action_dim,) or abs(len(states) - len(actions)) > 1:
        raise DatasetError(
            f"{where}/actions is {actions.shape}",
            f"({len(states)}, {env.action_dim})",
            "The recording is of another robot or controller.",
        )
    length = min(len(states), len(actions))
    states, actions = states[:length], actions[:length]
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise DatasetError(
            f"{where} has NaN or infinite states or actions", "finite numbers", "Leave it out."
        )
    shift = find_shift(env, states, np.clip(actions, -1, 1))
    if shift:
        LOGGER.warning("%s: action t%+d leads from state t to t+1; shifted back", where, shift)
    if shift > 0:
        return states[:-shift], actions[shift:], shift
    if shift < 0:
        return states[-shift:], actions[:shift], shift
    return states, actions, shift


def find_shift(env: Any, states: np.ndarray, actions: np.ndarray) -> int:
    """Find out which action leads from one recorded state to the next, by simulating it.

    Args:
        env: a robosuite environment.
        states: (T, S).
        actions: (T, A), in [-1, 1].

    Returns:
        k in `SHIFTS` such that action t + k leads from state t to t + 1; 0 if that is not clear.
    """
    # Where neighbouring actions differ most, the candidates can be told apart.
    change = np.abs(np.diff(actions[:, :3], axis=0)).sum(axis=1)
    steps = [
        t for t in np.argsort(-change, kind="stable")[: 2 * PROBES] if 1 <= t < len(states) - 2
    ]
    errors = {shift: 0.0 for shift in SHIFTS}
    for t in steps[:PROBES]:
        put_state(env, states[t + 1])
        reached = gripper_position(env)
        for shift in SHIFTS:
            put_state(env, states[t])
            env.step(actions[t + shift])
            errors[shift] += float(np.linalg.norm(gripper_position(env) - reached))
    best = min(SHIFTS, key=lambda shift: errors[shift])
    return best if errors[best] < CLEAR * errors[0] else 0


def put_state(env: Any, state: np.ndarray) -> None:
    """Put the simulator into a recorded state."""
    env.sim.set_state_from_flattened(state)
    env.sim.forward()


def gripper_position(env: Any) -> np.ndarray:
    """Return the position (3,) of the first arm's gripper [m]."""
    robot = env.robots[0]
    return np.array(env.sim.data.site_xpos[robot.eef_site_id[robot.arms[0]]])


def replay_demo(env: Any, states: np.ndarray, actions: np.ndarray) -> dict[str, Any]:
    """Replay one demonstration.

    Args:
        env: a robosuite environment.
        states: (T, S).
        actions: (T, A), in [-1, 1], each taken in the state of the same index.

    Returns:
        An episode as `collect.run_episode` returns it, of at most T - 1 transitions.
    """
    env.reset()
    observations, success = [], False
    for step, state in enumerate(states):
        put_state(env, state)
        observations.append(envs.read_observation(env._get_observations(force_update=True), env))
        # Not in the first state: a transition must lead to success.
        success = step > 0 and bool(env._check_success())
        if success:
            break
    length = len(observations) - 1
    dones = np.zeros(length, dtype=np.int64)
    dones[-1] = success
    return {
        "obs": {key: np.stack([obs[key] for obs in observations]) for key in observations[0]},
        "actions": actions[:length],
        "rewards": dones.astype(np.float64),
        "dones": dones,
        "states": states[:length],
        "attrs": {
            "model_file": envs.portable_model_xml(env),
            "behaviour": "replayed",
            "success": success,
        },
    }
