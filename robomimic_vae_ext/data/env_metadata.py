"""The attribute `env_args` of a dataset: what environment it is of, checked and described."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py

from robomimic_vae_ext.data.conversion.env_args import ROBOMIMIC_ENV_TYPE, version_of, version_tuple
from robomimic_vae_ext.data.hdf5 import item_of, list_names, read_json
from robomimic_vae_ext.errors import DatasetError

#: robomimic's EnvType; data/ never imports robomimic.
ENV_TYPES: Final = {ROBOMIMIC_ENV_TYPE: "robosuite", 2: "gym and Isaac Lab", 3: "iGibson"}
LARGEST_SIDE: Final = 4096  # of a picture [pixel]; larger ones are mistakes
ABSOLUTE: Final = "absolute"
DELTA: Final = "delta"
_REPAIR: Final = "Repair the attribute env_args of the group data."


def read_env_args(file: h5py.File, path: Path) -> dict[str, Any]:
    """Return the environment metadata.

    Raises:
        DatasetError: there is none, or a value of it has a kind that robomimic cannot use.
    """
    text = item_of(file, "data", str(path)).attrs.get("env_args")
    action = "Add the JSON attribute env_args to the group data, as robomimic's datasets have it."
    if text is None:
        raise DatasetError(f"{path}: data has no attribute env_args", "env_args", action)
    env_args = read_json(text, f"{path}: env_args", action)
    wanted: tuple[str, ...] = ("env_name", "type")
    # Isaac Lab's recorder writes no env_kwargs.
    other = isinstance(env_args, dict) and env_args.get("type", 1) != ROBOMIMIC_ENV_TYPE
    wanted += () if other else ("env_kwargs",)
    absent = [key for key in wanted if not isinstance(env_args, dict) or key not in env_args]
    if absent:
        raise DatasetError(
            f"{path}: env_args without {list_names(absent)}",
            f"the keys {list_names(wanted)}",
            action,
        )
    env_args = {"env_kwargs": {}} | env_args
    _check_kinds(env_args, f"{path}: env_args")
    return env_args


def _check_kinds(env_args: dict[str, Any], where: str) -> None:
    name, kind, kwargs = (env_args[key] for key in ("env_name", "type", "env_kwargs"))

    def require(ok: bool, key: str, value: Any, expected: str) -> None:
        if not ok:
            text = json.dumps(value)
            text = text if len(text) <= 80 else f"{text[:80]}..."
            raise DatasetError(f"{where} has {key} {text}", expected, _REPAIR)

    require(isinstance(name, str) and bool(name), "env_name", name, "the name of an environment")
    known = ", ".join(f"{number} ({what})" for number, what in ENV_TYPES.items())
    require(type(kind) is int and kind in ENV_TYPES, "type", kind, f"one of {known}")
    require(isinstance(kwargs, dict), "env_kwargs", kwargs, "a JSON object, which may be empty")
    robots = kwargs.get("robots", [])
    names = robots if isinstance(robots, list) else [robots]
    ok = all(isinstance(robot, str) for robot in names)
    require(ok, "robots", robots, "names of robots")
    for key in ("camera_heights", "camera_widths"):
        sides = kwargs.get(key, [])
        many = sides if isinstance(sides, list) else [sides]
        ok = all(type(side) is int and 0 < side <= LARGEST_SIDE for side in many)
        require(ok, key, sides, f"from 1 to {LARGEST_SIDE} pixels")
    shaping = kwargs.get("reward_shaping")
    require(shaping in (None, True, False), "reward_shaping", shaping, "true or false")
    scale = kwargs.get("reward_scale")
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    require(scale is None or (number and math.isfinite(scale)), "reward_scale", scale, "a number")
    if kind != ROBOMIMIC_ENV_TYPE:
        return
    version = env_args.get("env_version")
    ok = version is None or (type(version) in (str, float) and len(str(version)) < 40)
    require(ok, "env_version", version, "a version such as 1.5.2")
    found = version_of(env_args)
    if found is not None:
        try:
            version_tuple(found)
        except (DatasetError, ValueError) as error:
            raise DatasetError(
                f"{where} has env_version {found!r}", "a version such as 1.5.2", _REPAIR
            ) from error


def action_kind(env_args: dict[str, Any]) -> str | None:
    """Whether actions are differences or absolute poses; None where the metadata do not say."""
    kinds = set(_kinds_in(env_args["env_kwargs"].get("controller_configs")))
    # One absolute part is enough to make clipping harmful.
    return ABSOLUTE if ABSOLUTE in kinds else (DELTA if kinds else None)


def _kinds_in(config: Any) -> Iterator[str]:
    """Find the kinds of all controllers, in the layouts of robosuite 1.4 and 1.5."""
    if isinstance(config, list):
        for part in config:
            yield from _kinds_in(part)
    if not isinstance(config, dict):
        return
    if isinstance(config.get("control_delta"), bool):  # up to robosuite 1.4
        yield DELTA if config["control_delta"] else ABSOLUTE
    if config.get("input_type") in (DELTA, ABSOLUTE):  # from robosuite 1.5 on
        yield config["input_type"]
    for part in config.values():
        if isinstance(part, dict):
            yield from _kinds_in(part)
