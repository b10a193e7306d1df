"""What is in a dataset: read once, by one reader, and asked by everything that uses the file.

The reader takes a file as it finds it and says so: missing and too long columns are facts of the
description. `validate` decides what can be trained on, `convert` what can be completed, and
`config_fit` whether a config and a dataset belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data import rewards as reward_kinds
from robomimic_vae_ext.data.env_metadata import action_kind, read_env_args
from robomimic_vae_ext.data.hdf5 import (
    demo_names,
    find_array,
    find_group,
    item_of,
    open_dataset,
    read_array,
    refuse_foreign_storage,
)
from robomimic_vae_ext.data.rewards import RewardKind
from robomimic_vae_ext.errors import DatasetError

STEP_COLUMNS: Final = ("actions", "rewards", "dones")
LEAVE_OUT: Final = "Leave out this demonstration."


@dataclass(frozen=True)
class Column:
    """One array of a demonstration.

    Args:
        shape: of the whole array.
        dtype: of its numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def rows(self) -> int:
        """Its own length; 0 for a single number."""
        return self.shape[0] if self.shape else 0


@dataclass(frozen=True)
class Demonstration:
    """One demonstration.

    Args:
        name: such as demo_0.
        declared: its attribute num_samples: transitions that robomimic reads; None: not there.
        length: number of its transitions, see `length_of`.
        columns: arrays by name: actions, rewards, dones, obs/KEY, next_obs/KEY.
        nested: groups inside obs and next_obs, which robomimic does not read.
        actions: (T, A), or as they are stored; None: there are none.
        rewards: (T,), or as they are stored; None: there are none.
        dones: (T,), or as they are stored; None: there are none.
        success: its attribute of this name, as a recorder sets it; None: it has none.
    """

    name: str
    declared: Any
    length: int
    columns: Mapping[str, Column]
    nested: tuple[str, ...]
    actions: np.ndarray | None
    rewards: np.ndarray | None
    dones: np.ndarray | None
    success: bool | None

    @property
    def surplus(self) -> tuple[str, ...]:
        """Columns with one row more than there are transitions; robomimic never reads it."""
        return tuple(
            name for name, column in self.columns.items() if column.rows == self.length + 1
        )

    def keys(self, part: str) -> tuple[str, ...]:
        """Observation keys of `obs` or `next_obs`."""
        start = f"{part}/"
        return tuple(name.removeprefix(start) for name in self.columns if name.startswith(start))


@dataclass(frozen=True)
class Description:
    """A dataset.

    Args:
        path: of the file.
        demonstrations: by number.
        env_args: robomimic's environment metadata.
        masks: name of a mask to the names in it.
        obs_keys: observations that somebody asked for; empty: all.
    """

    path: Path
    demonstrations: tuple[Demonstration, ...]
    env_args: dict[str, Any]
    masks: Mapping[str, tuple[str, ...]]
    obs_keys: tuple[str, ...] = ()

    @property
    def demos(self) -> tuple[str, ...]:
        """Names of the demonstrations, by number."""
        return tuple(demo.name for demo in self.demonstrations)

    @property
    def transitions(self) -> int:
        """Number of transitions."""
        return sum(demo.length for demo in self.demonstrations)

    @property
    def filter_keys(self) -> tuple[str, ...]:
        """Names of the masks."""
        return tuple(self.masks)

    @property
    def action_size(self) -> int:
        """Number of action dimensions."""
        return int(self.demonstrations[0].columns["actions"].shape[1])

    @property
    def action_kind(self) -> str | None:
        """Whether actions are "delta" or "absolute"; None where the file does not say."""
        return action_kind(self.env_args)

    @property
    def observations(self) -> dict[str, Column]:
        """Observation keys of the first demonstration, with what one step of them is."""
        first = self.demonstrations[0]
        columns = {key: first.columns[f"obs/{key}"] for key in self.obs_keys or first.keys("obs")}
        return {key: Column(it.shape[1:], it.dtype) for key, it in columns.items()}

    @property
    def obs_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one observation per key."""
        return {key: column.shape for key, column in self.observations.items()}

    @property
    def reward_kind(self) -> RewardKind:
        """When rewards are paid, from their values and `env_kwargs.reward_shaping`."""
        found = [demo.rewards for demo in self.demonstrations if demo.rewards is not None]
        return reward_kinds.kind_of(found, self.env_args["env_kwargs"].get("reward_shaping"))

    def of_mask(self, mask: str | None) -> tuple[Demonstration, ...]:
        """Demonstrations of a mask, or all."""
        names = self.demos if mask is None else self.masks[mask]
        return tuple(demo for demo in self.demonstrations if demo.name in set(names))


def describe(file: h5py.File, path: Path) -> Description:
    """Read what a dataset consists of.

    Args:
        file: from `hdf5.open_dataset`.
        path: of the file, for messages.

    Raises:
        DatasetError: a part is damaged, or not of the kind that it has to be.
    """
    names = demo_names(file, path)
    env_args = read_env_args(file, path)
    data = file["data"]
    demos = tuple(_describe_demo(data[name], name, f"{path}: data/{name}") for name in names)
    return Description(path, demos, env_args, _read_masks(file, path))


def _describe_demo(group: h5py.Group, name: str, where: str) -> Demonstration:
    columns: dict[str, Column] = {}
    arrays: dict[str, Any] = {}
    nested: list[str] = []
    for key in STEP_COLUMNS:
        arrays[key] = find_array(group, key, where)
        if arrays[key] is not None:
            columns[key] = _column(arrays[key])
    for part in ("obs", "next_obs"):
        inside = find_group(group, part, where)
        for key in inside or ():
            item = item_of(inside, key, f"{where}/{part}")
            if isinstance(item, h5py.Group):
                nested.append(f"{part}/{key}")
            else:
                columns[f"{part}/{key}"] = _column(find_array(inside, key, f"{where}/{part}"))
    declared = group.attrs.get("num_samples")
    actions = columns.get("actions")
    length = length_of(declared, actions.rows if actions else 0)
    values = {
        key: None if array is None else _read_rows(array, f"{where}/{key}", length)
        for key, array in arrays.items()
    }
    success = group.attrs.get("success")
    known = isinstance(success, bool | np.bool_ | int | np.integer)
    _check_model_file(group, where)
    return Demonstration(
        name, declared, length, columns, tuple(nested), **values,
        success=bool(success) if known else None,
    )  # fmt: skip


def _column(array: h5py.Dataset) -> Column:
    return Column(tuple(map(int, array.shape)), array.dtype)


def _read_rows(array: h5py.Dataset, where: str, length: int) -> np.ndarray:
    """Read the rows of the transitions; a column of another length is read whole."""
    many = bool(array.shape) and len(array) == length + 1
    return read_array(array, where, length if many else None)


def length_of(declared: Any, rows: int) -> int:
    """Number of transitions of a demonstration.

    robomimic reads as many as `num_samples` says. Recorders that store the state after the last
    action too may store an action with it: one row more than there are transitions, never read.

    Args:
        declared: the attribute num_samples, or None.
        rows: of the actions.

    Returns:
        `declared` where the actions have as many rows or one more, else `rows`.
    """
    count = whole_number(declared)
    return count if count is not None and count > 0 and rows in (count, count + 1) else rows


def whole_number(value: Any) -> int | None:
    """Return an attribute that is one whole number, else None."""
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        return None
    return int(value)


def _check_model_file(group: h5py.Group, where: str) -> None:
    """Check that the simulator's model is text that could be one: some tools execute on it."""
    model = group.attrs.get("model_file", "")
    if isinstance(model, bytes | np.bytes_):
        model = bytes(model).decode(errors="replace")
    if isinstance(model, str) and (not model.strip() or model.lstrip().startswith("<")):
        return
    raise DatasetError(
        f"{where} has a model_file that begins {str(model)[:20]!r}",
        "the XML of a MuJoCo model, or no such attribute",
        "Remove the attribute; training does not read it.",
    )


def _read_masks(file: h5py.File, path: Path) -> dict[str, tuple[str, ...]]:
    split = "Create the masks with robomimic's split_train_val.py."
    masks = item_of(file, "mask", str(path))
    if masks is None:
        return {}
    if not isinstance(masks, h5py.Group):
        raise DatasetError(f"{path}: mask is an array", "a group of masks", split)
    found = {}
    for name in masks:
        where = f"{path}: mask/{name}"
        mask = item_of(masks, name, f"{path}: mask")
        if not isinstance(mask, h5py.Dataset) or mask.shape is None or mask.ndim != 1:
            shape = f"an array {mask.shape}" if isinstance(mask, h5py.Dataset) else "not an array"
            raise DatasetError(f"{where} is {shape}", "a list of names of demonstrations", split)
        refuse_foreign_storage(mask, where)
        found[name] = tuple(_text(member, where) for member in read_array(mask, where))
    return found


def _text(member: Any, where: str) -> str:
    try:
        if isinstance(member, bytes):
            return member.decode()
        if isinstance(member, str):
            return member
    except UnicodeDecodeError:
        pass
    raise DatasetError(
        f"{where} holds {member!r}"[:200],
        "names of demonstrations, in UTF-8",
        "Create the mask with robomimic's split_train_val.py.",
    )


def describe_file(path: str | Path, follow_links: bool = False) -> Description:
    """Open a file and describe it; see `describe`."""
    path = Path(path)
    with open_dataset(path, follow_links) as file:
        return describe(file, path)
