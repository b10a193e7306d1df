"""Replays recorded simulator states into observations and rewards of the installed robosuite.

For robosuite's own `demo.hdf5` files (states and actions, no observations, no rewards) and for
robomimic files whose observations lack a camera. The stored model XML is not used: XML of
robosuite 1.4 does not load in 1.5. The states are put into the installed version's model, which
has the same joints but may differ in sizes and colours. Rewards, dones, masks and attributes of a
robomimic file are kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from tqdm import tqdm

from robomimic_vae_ext.data import envs
from robomimic_vae_ext.data.hdf5 import demo_names, find_group, list_names, open_dataset
from robomimic_vae_ext.data.hdf5_copy import copy_attributes, copy_outside, copy_rest, new_file
from robomimic_vae_ext.data.robosuite_demos import (
    Recording,
    build_replay_env,
    put_state,
    read_recording,
    replay_env_args,
)
from robomimic_vae_ext.data.schema import (
    check_compression,
    count_episodes,
    make_masks,
    write_observations,
)

GRIPPER_STEPS: Final = 10  # from open to closed


@dataclass(frozen=True)
class ReplayReport:
    """Result of a replay.

    Args:
        path: of the new file.
        demos: number of demonstrations.
        transitions: number of transitions in the new file.
        successes: number of demonstrations with a positive reward: as recorded, or else because
            they reach success under the installed robosuite.
        clipped: number of action values that were outside [-1, 1].
        largest: largest absolute action value before clipping.
        shifts: for each demonstration, k if action t + k leads from state t to state t + 1.
        dropped: number of actions that are left out, after the first success.
        left_out: names of arrays of the source that the new file does not have.
    """

    path: Path
    demos: int
    transitions: int
    successes: int
    clipped: int
    largest: float
    shifts: tuple[int, ...]
    dropped: int
    left_out: tuple[str, ...]

    def describe(self) -> str:
        """Return one line for the terminal."""
        shifted = sum(shift != 0 for shift in self.shifts)
        return (
            f"{self.path}: {self.demos} demonstrations, {self.transitions} transitions, "
            f"{self.successes} reach success; {self.clipped} action values clipped to [-1, 1] "
            f"(largest {self.largest:.3g}); actions "
            + (f"shifted by one step in {shifted} demonstrations" if shifted else "aligned")
            + f"; left out: {self.dropped} actions after a success, and "
            + (list_names(self.left_out) or "nothing else")
        )


def replay_dataset(
    source: Path,
    target: Path,
    cameras: Sequence[str] = (),
    size: int = 84,
    rendering: str = "fast",
    compress: str = "",
    overwrite: bool = False,
) -> ReplayReport:
    """Replay a file of states and actions into a robomimic dataset.

    Rewards, dones, masks and attributes are kept where the file has them. Otherwise a
    demonstration ends at its first success, with reward 1 and done 1. As in robomimic's own
    dataset_states_to_obs.py, the last action is simulated if the state after it is not recorded.

    Args:
        source: robosuite's demo.hdf5, or a robomimic dataset with states.
        target: the file to write.
        cameras: to render; none makes a low-dimensional dataset.
        size: height and width of the images [pixel].
        rendering: `fast` uses this package's environment class if there is one, `full` robosuite's.
        compress: `gzip`, `lzf` or empty, for images.
        overwrite: an existing target may be replaced.

    Returns:
        A report.

    Raises:
        OutputError: `target` exists already, or is the source.
        DatasetError: the file has no states, or they do not fit the installed model.
    """
    check_compression(compress)
    with (
        open_dataset(source) as old,
        new_file(target, source, overwrite) as unfinished,
        h5py.File(unfinished, "r+") as new,
    ):
        names = demo_names(old, source)
        env_args = replay_env_args(old, source, cameras, size, rendering)
        env = build_replay_env(env_args, source)
        data = copy_outside(old, new, source, names)
        left_out: set[str] = set()
        largest, clipped, dropped, successes, shifts = 0.0, 0, 0, 0, []
        for name in tqdm(names, unit="episode"):
            where = f"{source}: data/{name}"
            recording = read_recording(env, old["data"][name], where)
            episode = replay_demo(env, recording)
            left_out |= _write_demo(
                old["data"][name], data.create_group(name), where, recording, episode, compress
            )
            shifts.append(recording.shift)
            successes += bool((episode["rewards"] > 0).any())
            dropped += len(recording.actions) - len(episode["actions"])
            clipped += int((np.abs(recording.actions) > 1).sum())
            largest = max(largest, float(np.abs(recording.actions).max()))
        data.attrs["env_args"] = json.dumps(env_args, indent=4)
        notes = {"replayed_from": source.name, "clipped_action_values": clipped}
        transitions = _summarize(new, names, notes)
    return ReplayReport(
        target, len(names), transitions, successes, clipped, largest, tuple(shifts), dropped,
        tuple(sorted(left_out)),
    )  # fmt: skip


def replay_demo(env: Any, recording: Recording) -> dict[str, Any]:
    """Replay one demonstration.

    Args:
        env: a robosuite environment.
        recording: of the demonstration.

    Returns:
        `obs` (n + 1, ...) per key, `actions`, `rewards`, `dones` (n, ...), and the `model_file`.
        n = T if rewards or dones were recorded, else it ends at the first success.
    """
    env.reset()
    actions = np.clip(recording.actions, -1, 1)
    whole = recording.rewards is not None or recording.dones is not None
    states = list(recording.states)
    if len(states) == len(actions):
        states.append(state_after(env, recording.states, actions))
    observations, reached = [], []
    for step, state in enumerate(states):
        put_state(env, state)
        raw = env._get_observations(force_update=True)
        observations.append(envs.read_observation(raw, env))
        reached.append(bool(env._check_success()))
        # Not in the first state: a transition must lead to success.
        if not whole and step > 0 and reached[-1]:
            break
    length = len(observations) - 1
    rewards, dones = recording.rewards, recording.dones
    if rewards is None:
        rewards = np.array(reached[1:], dtype=np.float64)
    if dones is None:
        dones = (rewards > 0).astype(np.int64)
    return {
        "obs": {key: np.stack([obs[key] for obs in observations]) for key in observations[0]},
        "actions": actions[:length],
        "rewards": rewards,
        "dones": dones,
        "model_file": envs.portable_model_xml(env),
    }


def state_after(env: Any, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Return the state after the last action."""
    # The fingers' target depends on earlier actions and is not part of the state.
    start = max(0, len(actions) - 1 - GRIPPER_STEPS)
    put_state(env, states[start])
    for action in actions[start:-1]:
        env.step(action)
    put_state(env, states[-1])
    env.step(actions[-1])
    return np.array(env.sim.get_state().flatten())


def _write_demo(
    source: h5py.Group,
    target: h5py.Group,
    where: str,
    recording: Recording,
    episode: dict[str, Any],
    compress: str,
) -> set[str]:
    """Write a replayed demonstration and copy its other arrays; return the names left out."""
    length = len(episode["actions"])
    for key, values in episode["obs"].items():
        write_observations(target, key, values, compress)
    for key in ("actions", "rewards", "dones"):
        target[key] = episode[key]
    left_out = {f"obs/{key}" for key in find_group(source, "obs", where) or ()}
    left_out -= {f"obs/{key}" for key in episode["obs"]}
    done = {"obs", "next_obs", "actions", "rewards", "dones"}
    if recording.shift:
        target["states"] = recording.states[:length]
        left_out |= set(source) - done - {"states"}
    else:
        recorded = len(recording.actions)
        copy_rest(source, target, where, done, recorded, recorded - length)
    copy_attributes(source, target)
    defaults = {"behaviour": "replayed", "success": bool((episode["rewards"] > 0).any())}
    for key, value in defaults.items():
        if key not in target.attrs:
            target.attrs[key] = value
    target.attrs["model_file"] = episode["model_file"]
    target.attrs["num_samples"] = length
    return left_out


def _summarize(new: h5py.File, names: Sequence[str], notes: dict[str, Any]) -> int:
    """Write totals, notes, and masks if there are none; return the number of transitions."""
    data = new["data"]
    attrs = [data[name].attrs for name in names]
    behaviours = [str(attr["behaviour"]) for attr in attrs]
    successes = [bool(attr["success"]) for attr in attrs]
    try:
        before = dict(json.loads(data.attrs.get("notes", "{}")))
    except (TypeError, ValueError):
        before = {"notes": str(data.attrs["notes"])}
    notes = before | notes | count_episodes(behaviours, successes)
    data.attrs["notes"] = json.dumps(notes, indent=4)
    data.attrs["total"] = sum(int(attr["num_samples"]) for attr in attrs)
    if "mask" not in new:
        starts = [attr.get("seed", name) for attr, name in zip(attrs, names, strict=True)]
        for key, demos in make_masks(behaviours, successes, 0, starts, names).items():
            new.create_dataset(f"mask/{key}", data=np.array(demos, dtype="S"))
    return int(data.attrs["total"])
