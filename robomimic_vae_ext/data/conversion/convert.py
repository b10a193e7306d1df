"""Completes and translates robomimic datasets, always into a new file.

Offline RL needs `next_obs`, `rewards` and `dones`, which datasets for imitation often lack; a
rollout needs `env_args` that the installed robosuite can load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data.conversion.convert_report import ConvertReport, DemoReport
from robomimic_vae_ext.data.conversion.convert_rewards import Outcome, Rules
from robomimic_vae_ext.data.conversion.env_args import convert_env_args, version_of
from robomimic_vae_ext.data.description import Demonstration, Description, describe
from robomimic_vae_ext.data.env_metadata import ABSOLUTE
from robomimic_vae_ext.data.hdf5 import list_names, open_dataset, read_array
from robomimic_vae_ext.data.hdf5_copy import (
    copy_array,
    copy_attributes,
    copy_outside,
    copy_rest,
    copy_rows,
    new_file,
    storage_of,
)
from robomimic_vae_ext.data.schema import make_masks
from robomimic_vae_ext.data.validate import advice_on_actions
from robomimic_vae_ext.errors import DatasetError

_OWN: Final = ("actions", "rewards", "dones", "obs", "next_obs")


@dataclass(frozen=True)
class ConvertOptions:
    """What to add and to change, and how to decide what the file does not say.

    Args:
        assume_success: every demonstration ends with success: where rewards are missing or all 0,
            they are 1 at its end.
        dones_from: `success`, `end` or `none`, see `convert_rewards.Rules`; empty: infer them.
        length: `num_samples` or `actions` counts the transitions; empty: the former where the
            latter agree.
        clip_actions: clip actions to [-1, 1].
        split: add the masks train and valid.
        robosuite_version: translate `env_args` for this version; `installed` or empty for none.
        follow_links: read what is stored in other files, too.
        overwrite: an existing target may be replaced.
    """

    assume_success: bool = False
    dones_from: str = ""
    length: str = ""
    clip_actions: bool = False
    split: bool = False
    robosuite_version: str = ""
    follow_links: bool = False
    overwrite: bool = False


def complete_dataset(source: Path, target: Path, **options: Any) -> ConvertReport:
    """Copy a dataset and add the arrays that offline RL needs.

    `next_obs` is the following observation. Where there are as many observations as actions, the
    last transition has none: if it is terminal, its own observation is repeated, since no value is
    bootstrapped from it; otherwise the transition is left out. `dones` are 1 where the reward is
    positive, if it is sparse; elsewhere they are asked for. `rewards` cannot be known from the
    file, but see `assume_success`. Everything else is copied as it is, but for groups inside `obs`.

    Args:
        source: the dataset.
        target: the file to write.
        options: of `ConvertOptions`.

    Returns:
        A report.

    Raises:
        OutputError: `target` exists already, or is the source.
        DatasetError: the dataset cannot be read or completed, or an option contradicts it.
    """
    asked = ConvertOptions(**options)
    with (
        open_dataset(source, asked.follow_links) as old,
        new_file(target, source, asked.overwrite) as unfinished,
        h5py.File(unfinished, "r+") as new,
    ):
        found = describe(old, source)
        rules = Rules(found, asked.assume_success, asked.dones_from, asked.length)
        if asked.clip_actions and found.action_kind == ABSOLUTE:
            raise DatasetError(
                f"{source}: --clip-actions, and env_args say that the actions are absolute",
                "differences, which a controller clips too",
                advice_on_actions(ABSOLUTE),
            )
        env_args = found.env_args
        before = after = version_of(env_args) or "(unknown)"
        if asked.robosuite_version:
            env_args = convert_env_args(env_args, asked.robosuite_version)
            after = env_args["env_version"]
        data = copy_outside(old, new, source, found.demos)
        each = []
        for demo in found.demonstrations:
            conversion = _Conversion(old["data"][demo.name], demo, source, rules)
            each.append(conversion.write(data.create_group(demo.name), asked.clip_actions))
        data.attrs["total"] = sum(demo.transitions for demo in each)
        data.attrs["env_args"] = json.dumps(env_args, indent=4)
        if asked.split:
            _split(new, found, rules)
    return ConvertReport(target, tuple(each), rules.all_decisions(), (before, after))


def _split(new: h5py.File, found: Description, rules: Rules) -> None:
    """Add the masks train and valid."""
    taken = [name for name in ("train", "valid") if name in found.masks]
    if taken or len(found.demos) < 2:
        raise DatasetError(
            f"{found.path}: --split, and it has {list_names(taken) or 'one demonstration'}",
            "two demonstrations without masks train and valid",
            "Leave out --split.",
        )
    count = len(found.demos)
    masks = make_masks([""] * count, [True] * count, seed=0, demos=found.demos)
    for name in ("train", "valid"):
        new.create_dataset(f"mask/{name}", data=np.array(masks[name], dtype="S"))
    sizes = f"{len(masks['train'])} in train, {len(masks['valid'])} in valid"
    rules.decisions.append(f"--split: {sizes}, drawn with seed 0")


class _Conversion:
    """One demonstration of the source, and its missing arrays.

    Args:
        source: its group.
        demo: its description.
        path: of the source.
        rules: of the dataset.
    """

    def __init__(self, source: h5py.Group, demo: Demonstration, path: Path, rules: Rules) -> None:
        self.source, self.demo, self.rules = source, demo, rules
        self.where = where = f"{path}: data/{demo.name}"
        self.outcome: Outcome = rules.outcome(demo, where)
        self.length = self.outcome.length
        self._check_observations()
        self.has_next = bool(demo.keys("next_obs"))
        # As many observations as actions: there is none after the last action.
        rows = [demo.columns[f"obs/{key}"].rows for key in demo.keys("obs")]
        self.is_short = not self.has_next and any(count == self.length for count in rows)
        self.dropped = int(self.is_short and not self.outcome.dones[-1])
        self._check_drop()

    def _check_observations(self) -> None:
        demo, where = self.demo, self.where
        if not demo.keys("obs"):
            raise DatasetError(
                f"{where} has no obs", "observations", "Make them from its states with --replay."
            )
        if demo.keys("next_obs") and set(demo.keys("next_obs")) != set(demo.keys("obs")):
            raise DatasetError(
                f"{where}/next_obs has the keys {list_names(demo.keys('next_obs'))}",
                f"those of obs, {list_names(demo.keys('obs'))}",
                "Remove next_obs; it is then made from obs.",
            )
        for name, column in demo.columns.items():
            if name.partition("/")[0] not in ("obs", "next_obs"):
                continue
            lengths = (self.length, self.length + 1)
            longer = self.rules.by_length and column.rows > self.length
            if column.rows not in lengths and not longer:
                raise DatasetError(
                    f"{where}/{name} is {column.shape}",
                    f"a length of {lengths[0]} or {lengths[1]}, from its number of actions",
                    "Repair or leave out this demonstration.",
                )

    def _check_drop(self) -> None:
        if self.dropped == self.length:
            raise DatasetError(
                f"{self.where} has one step and no next observation", "two steps", "Leave it out."
            )
        if self.dropped and self.outcome.rewards[-1] > 0:
            self.rules.rewards_lost.append(self.demo.name)

    def write(self, target: h5py.Group, clip_actions: bool) -> DemoReport:
        """Write the demonstration."""
        demo, keep = self.demo, self.length - self.dropped
        copy_attributes(self.source, target)
        target.attrs["num_samples"] = keep
        made = self._write_steps(target, keep, clip_actions)
        rows = demo.columns["actions"].rows
        beyond = rows - self.length if rows > self.length + 1 else 0  # by --length num_samples
        copy_rest(
            self.source, target, self.where, _OWN, self.length + beyond, self.dropped + beyond
        )
        for part in ("obs", "next_obs"):
            if part == "obs" or self.has_next:
                copy_attributes(self.source[part], target.create_group(part))
        for key in demo.keys("obs"):
            self._write_observation(target, key, keep)
        surplus = [
            name
            for name, column in demo.columns.items()
            if column.rows > self.length and (self.has_next or not name.startswith("obs/"))
        ]
        added = self.outcome.added + (() if self.has_next else ("next_obs",))
        return DemoReport(
            demo.name, keep, added, self.outcome.changed, made, self.dropped, tuple(surplus),
            demo.nested,
        )  # fmt: skip

    def _write_steps(self, target: h5py.Group, keep: int, clip_actions: bool) -> int:
        """Write actions, rewards and dones; return the number of clipped values."""
        outcome, clipped = self.outcome, 0
        touched = {name.partition(" ")[0] for name in (*outcome.added, *outcome.changed)}
        for key in ("rewards", "dones"):
            if key in touched:
                target[key] = getattr(outcome, key)[:keep]
            else:
                self._copy(target, key, keep)
        actions = self.demo.actions
        if clip_actions and actions is not None:
            actions = actions[:keep]
            clipped = int((np.abs(actions) > 1).sum())
            target["actions"] = np.clip(actions, -1, 1)
        else:
            self._copy(target, "actions", keep)
        return clipped

    def _copy(self, target: h5py.Group, name: str, keep: int) -> None:
        """Copy the first rows of an array, or all of it as it is stored."""
        array, where = self.source[name], f"{self.where}/{name}"
        if len(array) == keep:
            copy_array(array, target, name, where)
        else:
            copy_rows(array, target, name, where, keep)

    def _write_observation(self, target: h5py.Group, key: str, keep: int) -> None:
        if self.has_next:
            self._copy(target, f"obs/{key}", keep)
            self._copy(target, f"next_obs/{key}", keep)
            return
        values = self.source[f"obs/{key}"]
        array = read_array(values, f"{self.where}/obs/{key}")
        _write(target, f"obs/{key}", array[:keep], values)
        following = array[1 : keep + 1]
        if len(following) < keep:  # the last one is terminal
            following = np.concatenate([following, array[keep - 1 : keep]])
        _write(target, f"next_obs/{key}", following, values)


def _write(target: h5py.Group, name: str, values: np.ndarray, like: h5py.Dataset) -> None:
    """Write an array, stored as another one and with its attributes."""
    array = target.create_dataset(name, data=values, **storage_of(like, values.shape))
    copy_attributes(like, array)
