"""Completes and translates robomimic datasets, always into a new file.

Offline RL needs `next_obs`, `rewards` and `dones`, which datasets for imitation often lack; a
rollout needs `env_args` that the installed robosuite can load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from robomimic_vae_ext.data.env_args import convert_env_args, version_of
from robomimic_vae_ext.data.hdf5 import (
    copy_attributes,
    copy_outside,
    copy_rest,
    demo_names,
    find_array,
    find_group,
    list_names,
    new_file,
    open_dataset,
    read_array,
    read_env_args,
    storage_of,
)
from robomimic_vae_ext.errors import DatasetError


@dataclass(frozen=True)
class ConvertReport:
    """Result of a conversion.

    Args:
        path: of the new file.
        demos: number of demonstrations.
        added: names of the arrays that were missing in at least one demonstration.
        clipped: number of action values that were outside [-1, 1].
        dropped: number of transitions without a next observation that were left out.
        versions: robosuite version of `env_args` before and after.
    """

    path: Path
    demos: int
    added: tuple[str, ...]
    clipped: int
    dropped: int
    versions: tuple[str, str]

    def describe(self) -> str:
        """Return one line for the terminal."""
        before, after = self.versions
        env_args = f"from robosuite {before} to {after}" if before != after else "as they were"
        return (
            f"{self.path}: {self.demos} demonstrations, added {', '.join(self.added) or 'nothing'};"
            f" {self.clipped} action values clipped, {self.dropped} final transitions without a "
            f"next observation left out, everything else copied; env_args {env_args}"
        )


def complete_dataset(
    source: Path,
    target: Path,
    assume_success: bool = False,
    clip_actions: bool = False,
    robosuite_version: str = "",
    overwrite: bool = False,
) -> ConvertReport:
    """Copy a dataset and add the arrays that offline RL needs.

    `next_obs` is the following observation. Where there are as many observations as actions, the
    last transition has none: if it is terminal, its own observation is repeated, since no value is
    bootstrapped from it; otherwise the transition is left out. `dones` are 1 where the
    (sparse) reward is positive. `rewards` cannot be known from the file, but see `assume_success`.
    Everything else is copied as it is.

    Args:
        source: the dataset.
        target: the file to write.
        assume_success: every demonstration ends with success: missing rewards are 1 at its end.
        clip_actions: clip actions to [-1, 1].
        robosuite_version: translate `env_args` for this version; `installed` or empty for none.
        overwrite: an existing target may be replaced.

    Returns:
        A report.

    Raises:
        OutputError: `target` exists already, or is the source.
        DatasetError: the dataset cannot be read or completed.
    """
    added: set[str] = set()
    clipped = dropped = total = 0
    with (
        open_dataset(source) as old,
        new_file(target, source, overwrite) as unfinished,
        h5py.File(unfinished, "r+") as new,
    ):
        demos = demo_names(old, source)
        env_args = read_env_args(old, source)
        before = after = version_of(env_args) or "(unknown)"
        if robosuite_version:
            env_args = convert_env_args(env_args, robosuite_version)
            after = env_args["env_version"]
        data = copy_outside(old, new, source, demos)
        for name in demos:
            demo = _Demo(old["data"][name], f"{source}: data/{name}", assume_success)
            clipped += demo.write(data.create_group(name), clip_actions)
            added |= demo.added
            dropped += demo.dropped
            total += demo.length - demo.dropped
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(env_args, indent=4)
    names = tuple(sorted(added))
    return ConvertReport(target, len(demos), names, clipped, dropped, (before, after))


class _Demo:
    """One demonstration of the source, and its missing arrays.

    Args:
        source: its group.
        where: its name for messages.
        assume_success: missing rewards are 1 at its end.
    """

    def __init__(self, source: h5py.Group, where: str, assume_success: bool) -> None:
        self.source, self.where = source, where
        actions = find_array(source, "actions", where)
        if actions is None or not actions.shape or not len(actions):
            raise DatasetError(
                f"{where}/actions is {'missing' if actions is None else actions.shape}",
                "an array (T, A), T > 0",
                "Leave out this demonstration.",
            )
        self.length = len(actions)
        self.actions = read_array(actions, f"{where}/actions")
        self.obs = self._observations("obs", (self.length, self.length + 1))
        self.next_obs = self._observations("next_obs", (self.length,))
        if not self.obs:
            raise DatasetError(
                f"{where} has no obs", "observations", "Make them from its states with --replay."
            )
        if self.next_obs and self.next_obs.keys() != self.obs.keys():
            raise DatasetError(
                f"{where}/next_obs has the keys {list_names(self.next_obs)}",
                f"those of obs, {list_names(self.obs)}",
                "Remove next_obs; it is then made from obs.",
            )
        self.made: dict[str, np.ndarray] = {}
        rewards = self._per_step("rewards")
        if rewards is None:
            if not assume_success:
                raise DatasetError(
                    f"{where} has no rewards",
                    "rewards, which cannot be computed from observations",
                    "Compute them with --replay, or add --assume-success if every "
                    "demonstration ends with success.",
                )
            rewards = self.made["rewards"] = np.eye(self.length)[-1]
        dones = self._per_step("dones")
        if dones is None:
            dones = self.made["dones"] = (rewards > 0).astype(np.int64)
        self.added = {*self.made} if self.next_obs else {*self.made, "next_obs"}
        # As many observations as actions: there is none after the last action.
        short = not self.next_obs and any(len(v) == self.length for v in self.obs.values())
        self.dropped = int(short and not dones[-1])
        if self.dropped == self.length:
            raise DatasetError(
                f"{where} has one step and no next observation", "two steps", "Leave it out."
            )

    def _per_step(self, key: str) -> np.ndarray | None:
        """Return rewards or dones, or None."""
        array = find_array(self.source, key, self.where)
        if array is not None and array.shape != (self.length,):
            raise DatasetError(
                f"{self.where}/{key} is {array.shape}",
                f"({self.length},), one per action",
                "Repair or remove them.",
            )
        return None if array is None else read_array(array, f"{self.where}/{key}")

    def _observations(self, part: str, lengths: tuple[int, ...]) -> dict[str, h5py.Dataset]:
        """Return the arrays of `obs` or `next_obs`, each of one of these lengths."""
        group = find_group(self.source, part, self.where)
        found = {}
        for key in group or ():
            values = found[key] = find_array(group, key, f"{self.where}/{part}")
            if not values.shape or len(values) not in lengths:
                raise DatasetError(
                    f"{self.where}/{part}/{key} is {values.shape}",
                    f"a length of {' or '.join(map(str, lengths))}, from its number of actions",
                    "Repair or leave out this demonstration.",
                )
        return found

    def write(self, target: h5py.Group, clip_actions: bool) -> int:
        """Write the demonstration; return the number of clipped action values."""
        keep = self.length - self.dropped
        copy_attributes(self.source, target)
        target.attrs["num_samples"] = keep
        made = dict(self.made)
        if clip_actions:
            made["actions"] = np.clip(self.actions, -1, 1)
        for key, values in made.items():
            target[key] = values[:keep]
        done = {*made, "obs"}
        copy_rest(self.source, target, self.where, done, self.length, self.dropped)
        copy_attributes(self.source["obs"], target.create_group("obs"))
        for key, values in self.obs.items():
            if self.next_obs and len(values) == keep:
                self.source.copy(values, target, f"obs/{key}")
                continue
            array = read_array(values, f"{self.where}/obs/{key}")
            _write(target, f"obs/{key}", array[:keep], values)
            if not self.next_obs:
                following = array[1 : keep + 1]
                if len(following) < keep:  # the last one is terminal
                    following = np.concatenate([following, array[-1:]])
                _write(target, f"next_obs/{key}", following, values)
        return int((np.abs(self.actions[:keep]) > 1).sum()) if clip_actions else 0


def _write(target: h5py.Group, name: str, values: np.ndarray, like: h5py.Dataset) -> None:
    """Write an array, stored as another one and with its attributes."""
    array = target.create_dataset(name, data=values, **storage_of(like, values.shape))
    for key, value in like.attrs.items():
        array.attrs[key] = value
