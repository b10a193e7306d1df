"""Checks a robomimic dataset before anything is trained on it.

The first problem raises a `DatasetError`. Of images only shapes and types are read, so that a
dataset of several gigabytes takes a fraction of a second; reading their pixels is optional.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from robomimic_vae_ext.data.conversion.env_args import ROBOMIMIC_ENV_TYPE, version_of
from robomimic_vae_ext.data.description import Demonstration, Description, describe, whole_number
from robomimic_vae_ext.data.env_metadata import ABSOLUTE
from robomimic_vae_ext.data.hdf5 import list_names, open_dataset
from robomimic_vae_ext.data.rewards import LARGEST
from robomimic_vae_ext.data.validate_obs import (
    CONVERT,
    check_finite,
    check_observations,
    reference_shapes,
)
from robomimic_vae_ext.errors import DatasetError

LOGGER: Final = logging.getLogger(__name__)

ACTION_TOLERANCE: Final = 1e-6
_SPLIT: Final = "robomimic's split_train_val.py"


def validate_dataset(
    path: str | Path,
    obs_keys: Sequence[str] = (),
    filter_keys: Sequence[str] = (),
    need_transitions: bool = True,
    strict_version: bool = False,
    rollouts: bool = False,
    read_pictures: bool = False,
    any_actions: bool = False,
    compare_version: bool = True,
) -> Description:
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
        any_actions: whether actions may lie outside of [-1, 1], as where they are normalised.
        compare_version: whether to call `check_version` at all.

    Returns:
        What is in it.

    Raises:
        DatasetError: the first problem found.
    """
    path = Path(path)
    with open_dataset(path) as file:
        found = describe(file, path)
        if compare_version:
            check_version(found.env_args, path, strict_version, rollouts)
        reference = reference_shapes(found, obs_keys)
        for demo in found.demonstrations:
            where = f"{path}: data/{demo.name}"
            _check_actions(found, demo, where, any_actions)
            _check_steps(demo, where, need_transitions)
            check_observations(
                file["data"][demo.name], demo, where, reference, found.demos[0],
                need_transitions, read_pictures,
            )  # fmt: skip
        _check_masks(found, filter_keys)
    _warn_of_surplus(found)
    if need_transitions:
        _warn_of_zeros(found)
    return replace(found, obs_keys=tuple(reference))


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
    if env_args["type"] != ROBOMIMIC_ENV_TYPE:
        return
    found = version_of(env_args)
    if found is None:
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


def _check_actions(found: Description, demo: Demonstration, where: str, any_size: bool) -> None:
    """Check actions and num_samples."""
    column = demo.columns.get("actions")
    if demo.actions is None or column is None or len(column.shape) != 2 or 0 in column.shape:
        raise DatasetError(
            f"{where}/actions is {'missing' if column is None else column.shape}",
            "an array (T, A), T > 0 and A > 0",
            "Collect it again.",
        )
    if column.dtype.kind not in "fi" or column.dtype.itemsize > 8:
        raise DatasetError(
            f"{where}/actions is of type {column.dtype}",
            "floating-point numbers",
            "Write them as float32.",
        )
    first = found.demonstrations[0].columns["actions"].shape[1]
    if column.shape[1] != first:
        raise DatasetError(
            f"{where}/actions has {column.shape[1]} dimensions",
            f"{first}, as in data/{found.demos[0]}",
            "Leave out this demonstration.",
        )
    check_finite(demo.actions, f"{where}/actions")
    if whole_number(demo.declared) != demo.length:
        declared = np.asarray(demo.declared).tolist()
        raise DatasetError(
            f"{where}: num_samples is {declared!r}"[:200],
            f"its number of actions, {column.rows}",
            f"Write it again with {CONVERT} --length actions.",
        )
    largest = float(np.abs(demo.actions).max())
    if largest > 1 + ACTION_TOLERANCE and not any_size:
        raise DatasetError(
            f"{where}/actions reaches {largest:.3g}", "actions in [-1, 1]",
            advice_on_actions(found.action_kind),
        )  # fmt: skip


def advice_on_actions(kind: str | None) -> str:
    """What to do about actions beyond [-1, 1], which depends on what they are."""
    if kind == ABSOLUTE:
        return (
            "They are absolute poses by env_args, which clipping would change: train on delta "
            "actions, or on actions that were scaled to [-1, 1] for an environment that scales "
            "them back."
        )
    if kind is None:
        return (
            f"If they are differences that overshoot, clip them with {CONVERT} --clip-actions; "
            "absolute poses must not be clipped but scaled, and scaled back in the environment."
        )
    return f"Clip them with {CONVERT} --clip-actions, as the controller does."


def _check_steps(demo: Demonstration, where: str, need_transitions: bool) -> None:
    """Check rewards and dones."""
    for key, values in (("rewards", demo.rewards), ("dones", demo.dones)):
        if values is None and need_transitions:
            raise DatasetError(
                f"{where} has no {key}",
                f"{key}, which a critic learns from",
                f"Add them with {CONVERT}.",
            )
        if values is None:
            continue
        if values.shape != (demo.length,):
            raise DatasetError(
                f"{where}/{key} is {demo.columns[key].shape}",
                f"({demo.length},), one per action",
                "Collect it again.",
            )
        check_finite(values, f"{where}/{key}")
    if demo.rewards is not None and np.abs(demo.rewards.astype(np.float64)).max() > LARGEST:
        step = int(np.abs(demo.rewards.astype(np.float64)).argmax())
        raise DatasetError(
            f"{where}/rewards is {demo.rewards[step]:.3g} at step {step}",
            f"at most {LARGEST:g}, whose squares losses can hold",
            "Scale the rewards of the whole dataset.",
        )
    if demo.dones is not None and not np.isin(demo.dones, (0, 1)).all():
        step = int(np.argmin(np.isin(demo.dones, (0, 1))))
        raise DatasetError(
            f"{where}/dones is {demo.dones[step]} at step {step}",
            "1 where an episode has ended, else 0",
            "Repair it.",
        )


def _warn_of_surplus(found: Description) -> None:
    """Say which rows nobody reads, since they are easily taken for transitions."""
    demos = [demo for demo in found.demonstrations if demo.surplus]
    if demos:
        names = sorted({name for demo in demos for name in demo.surplus})
        LOGGER.warning(
            "%s: %d demonstrations have one row more than num_samples in %s; it is not read",
            found.path, len(demos), list_names(names),
        )  # fmt: skip


def _warn_of_zeros(found: Description) -> None:
    """Warn of rewards or dones that are 0 in every demonstration, from which no critic can learn.

    Not an error: imitation does not read them, and a time-out is not a terminal state.
    """
    for key, effect in (
        ("rewards", "every value is 0"),
        ("dones", "no episode ends, so every last value is bootstrapped"),
    ):
        values = [getattr(demo, key) for demo in found.demonstrations]
        if not any(one is not None and one.any() for one in values):
            LOGGER.warning("%s: %s are 0 at every step; for a critic: %s", found.path, key, effect)


def _check_masks(found: Description, wanted: Sequence[str]) -> None:
    """Check that masks name existing demonstrations, each once."""
    path, demos = found.path, set(found.demos)
    for name in wanted:
        if name not in found.masks:
            raise DatasetError(
                f"{path} has no filter key {name!r}",
                f"one of {list_names(found.masks) or 'none'}",
                f"Choose another, or create train and valid with {_SPLIT}.",
            )
    for name, members in found.masks.items():
        unknown = sorted(set(members) - demos)
        twice = sorted(member for member, times in Counter(members).items() if times > 1)
        if unknown or twice or (name in wanted and not members):
            names = f"names {list_names(unknown or twice)}{'' if unknown else ' twice'}"
            raise DatasetError(
                f"{path}: mask/{name} {names if members else 'is empty'}",
                f"names of its {len(demos)} demonstrations, each once",
                f"Create the mask with {_SPLIT}.",
            )
        # train and valid, success_train and success_valid, ...
        other = f"{name.removesuffix('train')}valid" if name.endswith("train") else ""
        both = set(members) & set(found.masks.get(other, ()))
        if both:
            raise DatasetError(
                f"{path}: mask/{name} and mask/{other} both name {list_names(sorted(both))}",
                "validation demonstrations that are not in the training mask",
                f"Create both with {_SPLIT}.",
            )
