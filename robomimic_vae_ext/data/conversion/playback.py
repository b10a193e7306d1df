"""Replays recorded simulator states into observations and rewards of the installed robosuite.

For robosuite's own `demo.hdf5` files (states and actions, no observations, no rewards) and for
robomimic files whose observations lack a camera. The states are put into the installed version's
model; what resets draw into the model comes from the recording's `model_file` (see
`recorded_model`). What is recorded is then compared with what was made anew, and a demonstration
that differs is left out. Rewards, dones, masks and attributes of a robomimic file are kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from tqdm import tqdm

from robomimic_vae_ext.data.conversion.recorded_model import (
    ModelRestorer,
    drawn_at_reset,
    has_model_xml,
    read_model_xml,
)
from robomimic_vae_ext.data.conversion.replay_checks import (
    TOLERANCE,
    UNKNOWN_SUCCESS,
    DemoReport,
    compare_observations,
    missing_values,
    refusal,
)
from robomimic_vae_ext.data.conversion.robosuite_demos import (
    Recording,
    build_replay_env,
    clip_actions,
    put_state,
    read_recording,
    replay_env_args,
)
from robomimic_vae_ext.data.hdf5 import demo_names, find_group, list_names, open_dataset
from robomimic_vae_ext.data.hdf5_copy import copy_attributes, copy_outside, copy_rest, new_file
from robomimic_vae_ext.data.schema import (
    check_compression,
    count_episodes,
    make_masks,
    write_observations,
)
from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.errors import DatasetError

GRIPPER_STEPS: Final = 10  # from open to closed


@dataclass(frozen=True)
class ReplayReport:
    """Result of a replay.

    Args:
        path: of the new file.
        demos: what became of each demonstration of the source.
        transitions: number of transitions in the new file.
        clipped: number of action values that were outside of the controllers' range.
        largest: largest absolute action value before clipping.
        dropped: number of actions that are left out, after the first success.
        left_out: names of arrays of the source that the new file does not have.
    """

    path: Path
    demos: tuple[DemoReport, ...]
    transitions: int
    clipped: int
    largest: float
    dropped: int
    left_out: tuple[str, ...]

    @property
    def kept(self) -> tuple[DemoReport, ...]:
        """Those that the new file has."""
        return tuple(demo for demo in self.demos if not demo.refused)

    @property
    def shifts(self) -> tuple[int, ...]:
        """For each kept demonstration, k if action t + k leads from state t to state t + 1."""
        return tuple(demo.shift for demo in self.kept)

    @property
    def successes(self) -> int:
        """Number of kept demonstrations with a positive reward."""
        return sum(demo.success for demo in self.kept)

    def describe(self) -> str:
        """Return one line per demonstration and one for all."""
        shifted = sum(shift != 0 for shift in self.shifts)
        total = (
            f"{self.path}: {len(self.kept)} of {len(self.demos)} demonstrations, "
            f"{self.transitions} transitions, {self.successes} reach success; {self.clipped} "
            f"action values clipped to the controllers' range (largest {self.largest:.3g}); "
            "actions "
            + (f"shifted by one step in {shifted} demonstrations" if shifted else "aligned")
            + f"; left out: {self.dropped} actions after a success, and "
            + (list_names(self.left_out) or "nothing else")
        )
        return "\n".join([*(demo.describe() for demo in self.demos), total])


def replay_dataset(
    source: Path,
    target: Path,
    cameras: Sequence[str] = (),
    size: int = 84,
    rendering: str = "fast",
    compress: str = "",
    overwrite: bool = False,
    tolerance: float = TOLERANCE,
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
        tolerance: largest median difference of a low-dimensional observation from the recorded one
            [m, rad, or as it is]; a demonstration beyond it is left out, infinite keeps all.

    Returns:
        A report.

    Raises:
        OutputError: `target` exists already, or is the source.
        DatasetError: the file has no states, they do not fit the installed model, or no
            demonstration is left.
    """
    check_compression(compress)
    with (
        open_dataset(source) as old,
        new_file(target, source, overwrite) as unfinished,
        h5py.File(unfinished, "r+") as new,
    ):
        names = demo_names(old, source)
        env_args = replay_env_args(old, source, cameras, size, rendering)
        player = _Player(source, env_args, tolerance)
        data = copy_outside(old, new, source, names)
        left_out: set[str] = set()
        largest, clipped, dropped, reports = 0.0, 0, 0, []
        for name in tqdm(names, unit="episode"):
            where = f"{source}: data/{name}"
            recording, episode, report = player.play(old["data"][name], name, where)
            reports.append(report)
            if report.refused:
                continue
            left_out |= _write_demo(
                old["data"][name], data.create_group(name), where, recording, episode, compress
            )
            dropped += len(recording.actions) - len(episode["actions"])
            clipped += episode["clipped"]
            largest = max(largest, float(np.abs(recording.actions).max()))
        kept = [report.name for report in reports if not report.refused]
        if not kept:
            raise DatasetError(
                f"{source}: no demonstration is replayed as it was recorded ({reports[0].name}: "
                f"{reports[0].refused})",
                "at least one",
                "Do what it says, or replay with the version of robosuite that recorded them.",
            )
        data.attrs["env_args"] = json.dumps(env_args, indent=4)
        notes = {"replayed_from": source.name, "clipped_action_values": clipped}
        _filter_masks(new, kept)
        transitions = _summarize(new, kept, notes)
    return ReplayReport(
        target, tuple(reports), transitions, clipped, largest, dropped, tuple(sorted(left_out))
    )


class _Player:
    """Plays demonstrations in the installed robosuite and checks each.

    Args:
        source: the file, for messages.
        env_args: of the environment to play in.
        tolerance: see `replay_dataset`.
    """

    def __init__(self, source: Path, env_args: dict[str, Any], tolerance: float) -> None:
        self.source, self.env_args, self.tolerance = source, env_args, tolerance
        self.env = build_replay_env(env_args, source)
        self.restorer = ModelRestorer(self.env)

    @cached_property
    def drawn(self) -> dict[str, float]:
        """What resets draw into the model; found with an environment that draws no pictures."""
        blind = {"has_offscreen_renderer": False, "use_camera_obs": False}
        kwargs = {k: v for k, v in self.env_args["env_kwargs"].items() if "camera_" not in k}
        env_args = self.env_args | {"env_kwargs": kwargs | blind}
        return drawn_at_reset(build_replay_env(env_args, self.source))

    def play(
        self, demo: h5py.Group, name: str, where: str
    ) -> tuple[Recording, dict[str, Any], DemoReport]:
        """Play one demonstration; the recording and the episode count if it is not refused."""
        text = demo.attrs.get("model_file")
        root = read_model_xml(text, where) if has_model_xml(text) else None
        named = self.restorer.reset(root, where)
        recording = read_recording(self.env, demo, where)
        refused = ""
        if not np.isinf(self.tolerance):
            if recording.rewards is None and hasattr(self.env, "wiped_markers"):
                refused = UNKNOWN_SUCCESS
            elif self.restorer.names - set(named):
                refused = missing_values(self.drawn, named, self.tolerance)
        if refused:
            return recording, {}, DemoReport(name, refused=refused)
        episode = replay_demo(self.env, recording)
        differences, pictures, uncompared = compare_observations(demo, episode["obs"], where)
        report = DemoReport(
            name,
            recording.shift,
            bool((episode["rewards"] > 0).any()),
            len(named),
            differences,
            pictures,
            uncompared,
            recording.motion_error,
            recording.motion,
        )
        return recording, episode, replace(report, refused=refusal(report, self.tolerance))


def replay_demo(env: Any, recording: Recording) -> dict[str, Any]:
    """Replay one demonstration in the model that the environment has now.

    Args:
        env: a robosuite environment.
        recording: of the demonstration.

    Returns:
        `obs` (n + 1, ...) per key, `actions`, `rewards`, `dones` (n, ...), the `model_file`, and
        `clipped`, the number of action values that were clipped.
        n = T if rewards or dones were recorded, else it ends at the first success.
    """
    actions, _ = clip_actions(env, recording.actions)
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
        "clipped": int((actions != recording.actions).sum()),
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


def _filter_masks(new: h5py.File, kept: Sequence[str]) -> None:
    """Take demonstrations that were left out of the masks; an empty mask is deleted."""
    for key in list(new.get("mask", ())):
        names = [name for name in new[f"mask/{key}"][()] if _text(name) in kept]
        del new[f"mask/{key}"]
        if names:
            new[f"mask/{key}"] = np.array(names)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


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
