"""Completes and translates robomimic datasets, always into a new file.

Offline RL needs `next_obs`, `rewards` and `dones`, which datasets for imitation often lack, and a
rollout needs `env_args` that the installed robosuite understands.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from robomimic_vae_ext.data.reading import demo_names, open_dataset, read_env_args
from robomimic_vae_ext.errors import DatasetError

LOGGER: Final = logging.getLogger(__name__)

# robosuite renamed these keys of an arm's controller between 1.4 and 1.5.
_ARM_KEYS_15: Final = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}
_ARM_KEYS_14: Final = {new: old for old, new in _ARM_KEYS_15.items()}
_NEW_IN_15: Final = ("lite_physics", "seed", "base_types")


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did.

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
        """Return what a person wants to read after a conversion."""
        before, after = self.versions
        env_args = f"from robosuite {before} to {after}" if before != after else "as they were"
        return (
            f"{self.path}: {self.demos} demonstrations, added {', '.join(self.added) or 'nothing'};"
            f" {self.clipped} action values clipped, {self.dropped} final transitions without a "
            f"next observation left out; env_args {env_args}"
        )


def complete_dataset(
    source: Path,
    target: Path,
    assume_success: bool = False,
    clip_actions: bool = False,
    robosuite_version: str = "",
) -> ConvertReport:
    """Copy a dataset and add what offline RL needs and the dataset lacks.

    `next_obs` is the following observation. The last transition has none: it is kept, with its own
    observation repeated, if it is terminal, since then no value is read from there; otherwise it
    is left out. `dones` are 1 where the (sparse) reward is positive. `rewards` cannot be known
    from the file, but see `assume_success`.

    Args:
        source: the dataset.
        target: the file to make; it must not exist.
        assume_success: every demonstration ends with success: missing rewards are 1 at its end.
        clip_actions: clip actions to [-1, 1].
        robosuite_version: translate `env_args` for this version; `installed` or empty for none.

    Returns:
        What was done.

    Raises:
        DatasetError: the dataset cannot be read or completed.
    """
    added: set[str] = set()
    clipped = dropped = total = 0
    with (
        new_file(target) as unfinished,
        open_dataset(source) as old,
        h5py.File(unfinished, "r+") as new,
    ):
        demos = demo_names(old, source)
        env_args = read_env_args(old, source)
        before = str(env_args.get("env_version"))
        if robosuite_version:
            env_args = convert_env_args(env_args, robosuite_version)
        copy_attributes(old["data"], new.create_group("data"))
        for name in demos:
            arrays, more, fewer = _complete(old["data"][name], f"{source}: {name}", assume_success)
            added |= more
            dropped += fewer
            if clip_actions:
                clipped += int((np.abs(arrays["actions"]) > 1).sum())
                arrays["actions"] = np.clip(arrays["actions"], -1, 1)
            total += _write_demo(old["data"][name], new["data"].create_group(name), arrays)
        new["data"].attrs["total"] = total
        new["data"].attrs["env_args"] = json.dumps(env_args, indent=4)
        if "mask" in old:
            old.copy("mask", new)
    versions = (before, str(env_args.get("env_version")))
    return ConvertReport(target, len(demos), tuple(sorted(added)), clipped, dropped, versions)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `target` when the block ends without an error.

    Raises:
        DatasetError: `target` exists.
    """
    if target.exists():
        raise DatasetError(f"{target} exists already", "a new file", "Choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.partial")
    h5py.File(unfinished, "w").close()
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def copy_attributes(source: h5py.Group, target: h5py.Group) -> None:
    """Copy all attributes."""
    for key, value in source.attrs.items():
        target.attrs[key] = value


def _complete(
    demo: h5py.Group, where: str, assume_success: bool
) -> tuple[dict[str, np.ndarray], set[str], int]:
    """Return a demonstration's step arrays, the names of those added, and steps dropped."""
    if "actions" not in demo or "obs" not in demo:
        raise DatasetError(
            f"{where} has no {'actions' if 'actions' not in demo else 'obs'}",
            "actions and obs",
            "Replay states into observations with --replay.",
        )
    arrays = {
        key: values[()]
        for key, values in demo.items()
        if isinstance(values, h5py.Dataset) and len(values) == len(demo["actions"])
    }
    length = len(arrays["actions"])
    added: set[str] = set()
    if "rewards" not in arrays:
        if not assume_success:
            raise DatasetError(
                f"{where} has no rewards",
                "rewards, which cannot be computed from observations",
                "Replay its states with --replay, or add --assume-success if every demonstration "
                "ends with success.",
            )
        arrays["rewards"] = np.zeros(length)
        arrays["rewards"][-1] = 1.0
        added.add("rewards")
    if "dones" not in arrays:
        arrays["dones"] = (arrays["rewards"] > 0).astype(np.int64)
        added.add("dones")
    if "next_obs" in demo:
        return arrays, added, 0
    added.add("next_obs")
    if arrays["dones"][-1]:
        return arrays, added, 0
    if length == 1:
        raise DatasetError(
            f"{where} has one step and no next observation", "two steps", "Leave it out."
        )
    return {key: values[:-1] for key, values in arrays.items()}, added, 1


def _write_demo(source: h5py.Group, target: h5py.Group, arrays: dict[str, np.ndarray]) -> int:
    """Write a demonstration and return its length."""
    length = len(arrays["actions"])
    copy_attributes(source, target)
    for key, values in arrays.items():
        target.create_dataset(key, data=values)
    for key, values in source["obs"].items():
        options = {"compression": values.compression, "chunks": values.chunks}
        target.create_dataset(f"obs/{key}", data=values[:length], **options)
        if "next_obs" in source:
            following = source["next_obs"][key][:length]
        else:
            following = values[1 : length + 1]
            if len(following) < length:  # the last one is terminal
                following = np.concatenate([following, values[-1:]])
        target.create_dataset(f"next_obs/{key}", data=following, **options)
    target.attrs["num_samples"] = length
    return length


def convert_env_args(env_args: dict[str, Any], version: str = "installed") -> dict[str, Any]:
    """Translate environment metadata between robosuite up to 1.4 and robosuite from 1.5 on.

    Args:
        env_args: robomimic's environment metadata.
        version: of robosuite, or `installed`.

    Returns:
        A translated copy; unchanged but for `env_version` if nothing differs.

    Raises:
        DatasetError: a controller that the other version does not have.
    """
    if version == "installed":
        version = metadata.version("robosuite")
    result = deepcopy(env_args)
    kwargs = result["env_kwargs"]
    composite = version_tuple(version) >= (1, 5)
    configs = kwargs.get("controller_configs")
    if configs is not None:
        translate = _to_composite if composite else _to_part
        many = isinstance(configs, list)
        converted = [translate(config) for config in (configs if many else [configs])]
        kwargs["controller_configs"] = converted if many else converted[0]
    if not composite:
        for key in _NEW_IN_15:
            kwargs.pop(key, None)
    elif version_tuple(str(env_args.get("env_version", version))) < (1, 5):
        # robosuite's own advice for datasets of 1.4.1 and earlier: the old order of physics steps.
        kwargs.setdefault("lite_physics", False)
    result["env_version"] = version
    return result


def version_tuple(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string.

    Raises:
        DatasetError: it does not begin with two numbers.
    """
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        raise DatasetError(f"robosuite version {version!r}", "a version such as 1.5.2", "Give one.")
    return int(parts[0]), int(parts[1])


def _to_composite(config: dict[str, Any]) -> dict[str, Any]:
    """Return a 1.4 arm controller as a 1.5 composite controller of one right arm."""
    if "body_parts" in config:
        return config
    if "type" not in config:
        raise DatasetError(
            "a controller config without 'type'", "a robosuite controller", "Repair env_args."
        )
    arm = {_ARM_KEYS_15.get(key, key): value for key, value in config.items()}
    # 1.4 said control_delta, and took deltas in a frame that coincides with a fixed arm's base.
    arm["input_type"] = "delta" if arm.pop("control_delta", True) else "absolute"
    arm.setdefault("input_ref_frame", "base")
    arm.setdefault("interpolation", None)  # 1.5 asks for both of these without a default
    arm.setdefault("ramp_ratio", 0.2)
    arm["gripper"] = {"type": "GRIP"}
    return {"type": "BASIC", "body_parts": {"right": arm}}


def _to_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return a 1.5 composite controller as a 1.4 arm controller."""
    if "body_parts" not in config:
        return config
    parts = config["body_parts"]
    if list(parts) != ["right"]:
        raise DatasetError(
            f"a controller for {', '.join(parts)}",
            "one right arm, all that robosuite 1.4's controller_configs describe",
            "Keep robosuite 1.5 for this dataset.",
        )
    arm = {_ARM_KEYS_14.get(key, key): value for key, value in parts["right"].items()}
    arm.pop("gripper", None)
    arm.pop("input_ref_frame", None)
    arm["control_delta"] = arm.pop("input_type", "delta") == "delta"
    return arm
