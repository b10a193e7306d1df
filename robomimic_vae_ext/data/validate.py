"""Checks a robomimic dataset before anything is trained on it.

Every problem is a `DatasetError` of one sentence that says what was found, what was expected and
what to do. Only shapes of pictures are read, never their pixels, so that a dataset of several
gigabytes takes a fraction of a second.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data.reading import demo_names, list_names, open_dataset, read_env_args
from robomimic_vae_ext.errors import DatasetError

LOGGER: Final = logging.getLogger(__name__)

ACTION_TOLERANCE: Final = 1e-6
_CONVERT: Final = "scripts/convert_dataset.py IN OUT"


@dataclass(frozen=True)
class DatasetInfo:
    """What a valid dataset holds.

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


def validate_dataset(
    path: str | Path,
    obs_keys: Sequence[str] = (),
    filter_keys: Sequence[str] = (),
    need_transitions: bool = True,
    strict_version: bool = False,
    rollouts: bool = False,
) -> DatasetInfo:
    """Check a dataset.

    Args:
        path: of the HDF5 file.
        obs_keys: observation keys that will be asked for; empty checks those that are there.
        filter_keys: masks that will be asked for.
        need_transitions: whether `next_obs`, `rewards` and `dones` must be there, as for any
            algorithm with a critic.
        strict_version: whether a dataset of another robosuite version is an error or a warning.
        rollouts: whether the environment will be made from it, see `check_version`.

    Returns:
        What the dataset holds.

    Raises:
        DatasetError: the first problem found.
    """
    path = Path(path)
    with open_dataset(path) as file:
        demos = demo_names(file, path)
        env_args = read_env_args(file, path)
        check_version(env_args, path, strict_version, rollouts)
        first = file["data"][demos[0]]
        reference = _reference_shapes(first, demos[0], path, obs_keys)
        transitions = 0
        for name in demos:
            demo = file["data"][name]
            where = f"{path}: data/{name}"
            length = _check_arrays(demo, where, need_transitions)
            _check_observations(demo, where, length, reference, demos[0], need_transitions)
            transitions += length
        action_size = int(first["actions"].shape[1])
        _check_action_sizes(file, path, demos, action_size)
        masks = _check_masks(file, path, set(demos), filter_keys)
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
    found = env_args.get("env_version")
    try:
        installed = metadata.version("robosuite")
    except metadata.PackageNotFoundError:
        return  # training needs no simulator
    if found is None or found == installed:
        return
    error = DatasetError(
        f"{path} was made with robosuite {found}",
        f"the installed robosuite {installed}",
        f"Convert its env_args with {_CONVERT} --robosuite installed, or install "
        f"robosuite=={found}.",
    )
    if strict or (rollouts and found.split(".")[:2] != installed.split(".")[:2]):
        raise error
    LOGGER.warning("%s", error)


def _reference_shapes(
    demo: h5py.Group, name: str, path: Path, obs_keys: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of one observation per key of the first demonstration."""
    obs = demo.get("obs")
    if not isinstance(obs, h5py.Group) or not len(obs):
        raise DatasetError(
            f"{path}: data/{name} has no observations",
            "data/demo_N/obs/KEY",
            f"Replay its states into observations with {_CONVERT} --replay.",
        )
    for key in obs_keys:
        if key in obs:
            continue
        if key.endswith("_image"):
            cameras = [k.removesuffix("_image") for k in obs if k.endswith("_image")]
            raise DatasetError(
                f"{path} has no pictures of camera {key.removesuffix('_image')!r}",
                f"one of its cameras ({list_names(cameras) or 'none'})",
                "Choose among these in observation.modalities, or collect with --cameras.",
            )
        raise DatasetError(
            f"{path} has no observation {key!r}",
            f"one of its keys ({list_names(obs)})",
            "Choose among these in observation.modalities.",
        )
    return {key: tuple(obs[key].shape[1:]) for key in (obs_keys or sorted(obs))}


def _check_arrays(demo: h5py.Group, where: str, need_transitions: bool) -> int:
    """Check actions, rewards, dones and num_samples; return the length."""
    if "actions" not in demo or demo["actions"].ndim != 2 or not len(demo["actions"]):
        found = demo["actions"].shape if "actions" in demo else "nothing"
        raise DatasetError(
            f"{where}/actions is {found}", "an array (T, A), T > 0", "Collect it again."
        )
    actions = demo["actions"][()]
    length = len(actions)
    _check_finite(actions, f"{where}/actions")
    largest = float(np.abs(actions).max())
    if largest > 1 + ACTION_TOLERANCE:
        raise DatasetError(
            f"{where}/actions reaches {largest:.3g}",
            "actions in [-1, 1]",
            f"Clip them with {_CONVERT} --clip-actions, or rescale them.",
        )
    if demo.attrs.get("num_samples") != length:
        raise DatasetError(
            f"{where}: num_samples is {demo.attrs.get('num_samples')}",
            f"its number of actions, {length}",
            f"Write it anew with {_CONVERT}.",
        )
    for key in ("rewards", "dones"):
        if key in demo:
            if demo[key].shape != (length,):
                raise DatasetError(
                    f"{where}/{key} is {demo[key].shape}",
                    f"({length},), one per action",
                    "Collect it again.",
                )
            _check_finite(demo[key][()], f"{where}/{key}")
        elif need_transitions:
            raise DatasetError(
                f"{where} has no {key}",
                f"{key}, which a critic learns from",
                f"Add them with {_CONVERT}.",
            )
    return length


def _check_finite(values: np.ndarray, where: str) -> None:
    if not np.isfinite(values).all():
        step = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DatasetError(
            f"{where} is NaN or infinite at step {step}",
            "finite numbers",
            "Repair or leave out this demonstration.",
        )


def _check_observations(
    demo: h5py.Group,
    where: str,
    length: int,
    reference: dict[str, tuple[int, ...]],
    first: str,
    need_next: bool,
) -> None:
    """Compare observations' shapes with those of the first demonstration; look for NaN."""
    for part in ("obs", "next_obs") if need_next else ("obs",):
        if part not in demo:
            raise DatasetError(
                f"{where} has no {part}",
                f"{part}, which a critic learns from",
                f"Add them with {_CONVERT}.",
            )
        for key, shape in reference.items():
            if key not in demo[part]:
                raise DatasetError(
                    f"{where}/{part} has no {key!r}",
                    f"the key that data/{first}/obs has",
                    "Leave out this demonstration or this key.",
                )
            found = demo[part][key].shape
            if found != (length, *shape):
                raise DatasetError(
                    f"{where}/{part}/{key} is {found}",
                    f"{(length, *shape)}, by its number of actions and data/{first}",
                    "Leave out this demonstration or collect it again.",
                )
            # Not pictures: reading them would take minutes.
            if len(shape) < 2 and demo[part][key].dtype.kind == "f":
                _check_finite(demo[part][key][()], f"{where}/{part}/{key}")


def _check_action_sizes(
    file: h5py.File, path: Path, demos: Sequence[str], action_size: int
) -> None:
    for name in demos:
        found = file["data"][name]["actions"].shape[1]
        if found != action_size:
            raise DatasetError(
                f"{path}: data/{name}/actions has {found} dimensions",
                f"{action_size}, as in data/{demos[0]}",
                "Leave out this demonstration.",
            )


def _check_masks(
    file: h5py.File, path: Path, demos: set[str], wanted: Sequence[str]
) -> tuple[str, ...]:
    """Check that masks name demonstrations that exist; return the masks' names."""
    masks = file.get("mask", {})
    for name in wanted:
        if name not in masks:
            raise DatasetError(
                f"{path} has no filter key {name!r}",
                f"one of {list_names(masks) or 'none'}",
                "Choose another, or make train and valid with robomimic's split_train_val.py.",
            )
    for name in masks:
        members = {m.decode() if isinstance(m, bytes) else str(m) for m in masks[name][()]}
        if members - demos:
            raise DatasetError(
                f"{path}: mask/{name} names {list_names(sorted(members - demos))}",
                f"demonstrations that are there (there are {len(demos)})",
                "Make the mask anew with robomimic's split_train_val.py.",
            )
    return tuple(masks)
