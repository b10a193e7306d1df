"""Whether the environment of a dataset can be made here, before anything is trained for it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from typing import Any, Final

from robomimic_vae_ext.data.conversion.env_args import ROBOMIMIC_ENV_TYPE
from robomimic_vae_ext.data.env_metadata import ENV_TYPES
from robomimic_vae_ext.data.hdf5 import list_names
from robomimic_vae_ext.errors import ConfigError

WITHOUT: Final = "Train with experiment.rollout.enabled = false"
_MODULES: Final = {2: "gym", 3: "gibson2"}  # that robomimic's classes of these types import


def require_environment(env_args: dict[str, Any], names: Sequence[str]) -> None:
    """Refuse rollouts in an environment that is not installed.

    Args:
        env_args: of the dataset.
        names: of the environments, which the config may have replaced.

    Raises:
        ConfigError: one of them, or one of its robots, is unknown here.
    """
    kind = env_args["type"]
    if kind != ROBOMIMIC_ENV_TYPE:
        module = _MODULES[kind]
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"rollouts in {list_names(names)}, of type {kind} ({ENV_TYPES[kind]})",
                f"the package {module}, which robomimic makes such environments with",
                f"{WITHOUT}, or install {module}.",
            )
        if kind == 2:
            _require_gym(names)
        return
    from robomimic_vae_ext.data.simulation import envs  # registers ours

    for name in names:
        package = _package_of(name, env_args["env_kwargs"])
        if name not in envs.REGISTERED_ENVS and package is not None:
            _register(package)
        if name not in envs.REGISTERED_ENVS:
            raise ConfigError(
                f"robosuite {envs.robosuite.__version__} does not know the environment {name!r}",
                "an environment that is installed, for rollouts",
                f"{WITHOUT}, or install {package or 'the package that defines it'}.",
            )
    _require_robots(env_args["env_kwargs"].get("robots", []))


def _require_gym(names: Sequence[str]) -> None:
    gym = importlib.import_module("gym")
    for name in names:
        try:
            gym.spec(name)
        except Exception as error:  # gym has a class of its own for each reason
            raise ConfigError(
                f"gym does not know the environment {name!r} ({str(error).splitlines()[0]})",
                "an environment that is installed, for rollouts",
                f"{WITHOUT}, or install the package that defines it.",
            ) from error


def _require_robots(robots: Any) -> None:
    from robosuite.models.robots.robot_model import REGISTERED_ROBOTS

    for robot in robots if isinstance(robots, list) else [robots]:
        if robot not in REGISTERED_ROBOTS:
            raise ConfigError(
                f"robosuite does not know the robot {robot!r} of env_args",
                f"one of {list_names(sorted(REGISTERED_ROBOTS))}",
                f"{WITHOUT}, or install the package that defines it.",
            )


def _package_of(name: str, kwargs: dict[str, Any]) -> str | None:
    """Guess the package of an environment, from its name and from arguments of it alone."""
    if "bddl_file_name" in kwargs or name.lower().startswith("libero"):
        return "libero"
    if {"layout_ids", "style_ids", "layout_and_style_ids"} & kwargs.keys():
        return "robocasa"
    return "mimicgen" if re.search(r"_[DO]\d+$", name) else None


def _register(package: str) -> None:
    """Import a package that registers environments in robosuite, where it is installed."""
    modules = {"libero": "libero.libero.envs"}
    if importlib.util.find_spec(package) is not None:
        importlib.import_module(modules.get(package, package))
