"""Makes the environment in which recordings are replayed, from what their file says of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from robomimic_vae_ext.data import envs
from robomimic_vae_ext.data.env_args import ROBOMIMIC_ENV_TYPE, convert_env_args
from robomimic_vae_ext.data.hdf5 import read_env_args
from robomimic_vae_ext.errors import DatasetError


def replay_env_args(
    file: h5py.File, source: Path, cameras: Sequence[str], size: int, rendering: str
) -> dict[str, Any]:
    """Return environment metadata for the installed robosuite, from robomimic's or robosuite's.

    Raises:
        DatasetError: neither is there, or the pictures cannot be made.
    """
    if size < 1:
        raise DatasetError(f"picture size {size}", "at least 1 pixel", "Choose another --size.")
    attrs = file["data"].attrs if "data" in file else {}
    if "env_args" in attrs or "env" not in attrs:
        env_args = read_env_args(file, source)
    else:
        kwargs = _read_env_info(attrs.get("env_info", "{}"), source)
        version = str(attrs.get("repository_version", "1.4.0"))
        env_args = {
            "env_name": kwargs.pop("env_name", str(attrs["env"])),
            "env_version": version,
            "type": ROBOMIMIC_ENV_TYPE,
            "env_kwargs": kwargs,
        }
    env_args = convert_env_args(env_args)
    # Environments that are not ours have one rendering, whatever it is called.
    names = {name: env_args["env_name"] for name in ("fast", "full")}
    for ours in envs.ENVIRONMENTS.values():
        names = ours if env_args["env_name"] in ours.values() else names
    if rendering not in names:
        raise DatasetError(
            f"rendering {rendering!r}",
            f"for {env_args['env_name']} one of {', '.join(names)}",
            "Choose one of them with --rendering.",
        )
    env_args["env_name"] = names[rendering]
    kwargs = env_args["env_kwargs"]
    kwargs.update(
        has_renderer=False,
        has_offscreen_renderer=bool(cameras),
        use_camera_obs=bool(cameras),
        use_object_obs=True,
        ignore_done=True,
        reward_shaping=False,
        hard_reset=False,
        camera_depths=False,
        control_freq=kwargs.get("control_freq", envs.CONTROL_FREQUENCY),
    )
    for key in ("camera_names", "camera_heights", "camera_widths"):
        kwargs.pop(key, None)
    if cameras:
        kwargs.update(camera_names=list(cameras), camera_heights=size, camera_widths=size)
    return env_args


def _read_env_info(text: Any, source: Path) -> dict[str, Any]:
    """Return robosuite's own environment metadata."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{source}: env_info is not a JSON object ({error})",
            "what robosuite's DataCollectionWrapper writes",
            "Repair this attribute of the group data.",
        ) from error


def build_replay_env(env_args: dict[str, Any], source: Path) -> Any:
    """Return the environment, reset once."""

    def refuse(reason: str) -> DatasetError:
        return DatasetError(
            f"{source}: robosuite cannot make {env_args['env_name']} ({reason})",
            "env_args of an environment that the installed robosuite has",
            "Correct the attribute env_args of the group data.",
        )

    with envs.bare_errors(refuse):
        env = envs.build_env(env_args)
    env.reset()
    return env
