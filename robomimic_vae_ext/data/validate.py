"""Checks a robomimic dataset before anything is trained on it.

The first problem raises a `DatasetError`. Of images only shapes and types are read, so that a
dataset of several gigabytes takes a fraction of a second; reading their pixels is optional.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data.env_args import ROBOMIMIC_ENV_TYPE, version_of
from robomimic_vae_ext.data.hdf5 import (
    demo_names,
    find_array,
    list_names,
    open_dataset,
    read_array,
    read_env_args,
)
from robomimic_vae_ext.data.validate_obs import (
    CONVERT,
    check_finite,
    check_observations,
    reference_shapes,
)
from robomimic_vae_ext.errors import DatasetError

LOGGER: Final = logging.getLogger(__name__)

ACTION_TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class DatasetInfo:
    """Content of a valid dataset.

    Args:
        path: of the file.
        demos: names of its demonstrations, by number.
        transitions: number of transitions.
        obs_shapes: shape of one observation per key.
        action_size: number of action dimensions.
        env_args: robomimic's environment metadata.
        filter_keys: names of the masks.
    """

    path: Path
    demos: tuple[str, ...]
    transitions: int
    obs_shapes: dict[str, tuple[int, ...]]
    action_size: int
    env_args: dict[str, Any]
    filter_keys: tuple[str, ...]


@dataclass(frozen=True)
class _Arrays:
    """Lengths of a demonstration, and whether its rewards and dones are ever nonzero."""

    length: int
    action_size: int
    present: dict[str, bool]


def validate_dataset(
    path: str | Path,
    obs_keys: Sequence[str] = (),
    filter_keys: Sequence[str] = (),
    need_transitions: bool = True,
    strict_version: bool = False,
    rollouts: bool = False,
    read_pictures: bool = False,
) -> DatasetInfo:
    """Check a dataset.

    Args:
        path: of the HDF5 file.
        obs_keys: observation keys that must exist; empty checks all keys of the file.
        filter_keys: masks that must exist.
        need_transitions: whether `next_obs`, `rewards` and `dones` must exist, as for any
            algorithm with a critic.
        strict_version: whether a dataset of another robosuite version is an error or a warning.
        rollouts: whether the environment will be made from it, see `check_version`.
        read_pictures: whether to read the pixels of these keys too, which finds damaged files.

    Returns:
        Content of the dataset.

    Raises:
        DatasetError: the first problem found.
    """
    path = Path(path)
    with open_dataset(path) as file:
        demos = demo_names(file, path)
        env_args = read_env_args(file, path)
        check_version(env_args, path, strict_version, rollouts)
        data = file["data"]
        first = f"{path}: data/{demos[0]}"
        reference = reference_shapes(data[demos[0]], first, path, obs_keys)
        arrays = []
        for name in demos:
            where = f"{path}: data/{name}"
            arrays.append(_check_arrays(data[name], where, need_transitions))
            length = arrays[-1].length
            check_observations(
                data[name], where, length, reference, demos[0], need_transitions, read_pictures
            )
            if arrays[-1].action_size != arrays[0].action_size:
                raise DatasetError(
                    f"{where}/actions has {arrays[-1].action_size} dimensions",
                    f"{arrays[0].action_size}, as in data/{demos[0]}",
                    "Leave out this demonstration.",
                )
        masks = _check_masks(file, path, set(demos), filter_keys)
    if need_transitions:
        _warn_of_zeros(path, arrays)
    transitions = sum(array.length for array in arrays)
    action_size = arrays[0].action_size
    return DatasetInfo(path, demos, transitions, reference, action_size, env_args, masks)


def check_version(
    env_args: dict[str, Any], path: Path, strict: bool, rollouts: bool = False
) -> None:
    """Compare the dataset's robosuite with the installed one.

    Args:
        env_args: robomimic's environment metadata.
        path: of the dataset, for the message.
        strict: whether a difference is an error or a warning.
        rollouts: whether the environment will be made: another minor version is an error then,
            since controller configurations of 1.4 and 1.5 do not load in each other.

    Raises:
        DatasetError: they differ and `strict` is set, or `rollouts` and the minor version differs.
    """
    found = version_of(env_args)
    if found is None or env_args["type"] != ROBOMIMIC_ENV_TYPE:
        return
    try:
        installed = metadata.version("robosuite")
    except metadata.PackageNotFoundError:
        return  # training needs no simulator
    same_minor = found.split(".")[:2] == installed.split(".")[:2]
    if found == installed or (same_minor and env_args.get("env_version") is None):
        return
    error = DatasetError(
        f"{path} was made with robosuite {found}",
        f"the installed robosuite {installed}",
        f"Convert its env_args with {CONVERT} --robosuite installed, or install "
        f"robosuite=={found}.",
    )
    if strict or (rollouts and not same_minor):
        raise error
    LOGGER.warning("%s", error)


def _check_arrays(demo: h5py.Group, where: str, need_transitions: bool) -> _Arrays:
    """Check actions, rewards, dones and num_samples."""
    found = find_array(demo, "actions", where)
    if found is None or found.ndim != 2 or 0 in found.shape:
        raise DatasetError(
            f"{where}/actions is {'missing' if found is None else found.shape}",
            "an array (T, A), T > 0 and A > 0",
            "Collect it again.",
        )
    actions = read_array(found, f"{where}/actions")
    length = len(actions)
    check_finite(actions, f"{where}/actions")
    largest = float(np.abs(actions).max())
    if largest > 1 + ACTION_TOLERANCE:
        raise DatasetError(
            f"{where}/actions reaches {largest:.3g}",
            "actions in [-1, 1]",
            f"Clip them with {CONVERT} --clip-actions, or rescale them.",
        )
    count = np.asarray(demo.attrs.get("num_samples")).tolist()
    if count != length:
        raise DatasetError(
            f"{where}: num_samples is {count!r}",
            f"its number of actions, {length}",
            f"Write it again with {CONVERT}.",
        )
    present = {}
    for key in ("rewards", "dones"):
        array = find_array(demo, key, where)
        if array is None and need_transitions:
            raise DatasetError(
                f"{where} has no {key}",
                f"{key}, which a critic learns from",
                f"Add them with {CONVERT}.",
            )
        if array is None:
            continue
        if array.shape != (length,):
            raise DatasetError(
                f"{where}/{key} is {array.shape}",
                f"({length},), one per action",
                "Collect it again.",
            )
        values = read_array(array, f"{where}/{key}")
        check_finite(values, f"{where}/{key}")
        present[key] = bool(values.any())
        if key == "dones" and not np.isin(values, (0, 1)).all():
            step = int(np.argmin(np.isin(values, (0, 1))))
            raise DatasetError(
                f"{where}/dones is {values[step]} at step {step}",
                "1 where an episode has ended, else 0",
                "Repair it.",
            )
    return _Arrays(length, actions.shape[1], present)


def _warn_of_zeros(path: Path, arrays: Sequence[_Arrays]) -> None:
    """Warn of rewards or dones that are 0 in every demonstration, from which no critic can learn.

    Not an error: imitation does not read them, and a time-out is not a terminal state.
    """
    for key, effect in (
        ("rewards", "every value is 0"),
        ("dones", "no episode ends, so every last value is bootstrapped"),
    ):
        if not any(array.present.get(key) for array in arrays):
            LOGGER.warning("%s: %s are 0 at every step; for a critic: %s", path, key, effect)


def _check_masks(
    file: h5py.File, path: Path, demos: set[str], wanted: Sequence[str]
) -> tuple[str, ...]:
    """Check that masks name existing demonstrations, each once; return the masks' names."""
    masks = file.get("mask", {})
    split = "robomimic's split_train_val.py"
    if not isinstance(masks, (h5py.Group, dict)):
        raise DatasetError(
            f"{path}: mask is an array", "a group of masks", f"Create the masks with {split}."
        )
    for name in wanted:
        if name not in masks:
            raise DatasetError(
                f"{path} has no filter key {name!r}",
                f"one of {list_names(masks) or 'none'}",
                f"Choose another, or create train and valid with {split}.",
            )
    members = {name: _mask_members(masks.get(name), f"{path}: mask/{name}") for name in masks}
    for name, found in members.items():
        unknown = sorted(set(found) - demos)
        twice = sorted(member for member, times in Counter(found).items() if times > 1)
        if unknown or twice or (name in wanted and not found):
            names = f"names {list_names(unknown or twice)}{'' if unknown else ' twice'}"
            raise DatasetError(
                f"{path}: mask/{name} {names if found else 'is empty'}",
                f"names of its {len(demos)} demonstrations, each once",
                f"Create the mask with {split}.",
            )
        # train and valid, success_train and success_valid, ...
        other = f"{name.removesuffix('train')}valid" if name.endswith("train") else ""
        both = set(found) & set(members.get(other, ()))
        if both:
            raise DatasetError(
                f"{path}: mask/{name} and mask/{other} both name {list_names(sorted(both))}",
                "validation demonstrations that are not in the training mask",
                f"Create both with {split}.",
            )
    return tuple(masks)


def _mask_members(mask: Any, where: str) -> list[str]:
    """Return the names in a mask."""
    if not isinstance(mask, h5py.Dataset) or mask.ndim != 1:
        found = f"an array {mask.shape}" if isinstance(mask, h5py.Dataset) else "not an array"
        raise DatasetError(
            f"{where} is {found}",
            "a list of names of demonstrations",
            "Create the mask with robomimic's split_train_val.py.",
        )
    return [m.decode() if isinstance(m, bytes) else str(m) for m in read_array(mask, where)]
