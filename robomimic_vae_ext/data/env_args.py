"""Translates environment metadata between robosuite up to 1.4 and robosuite from 1.5 on."""

from __future__ import annotations

from copy import deepcopy
from importlib import metadata
from typing import Any, Final

from robomimic_vae_ext.errors import DatasetError

ROBOMIMIC_ENV_TYPE: Final = 1  # robomimic's EnvType.ROBOSUITE_TYPE; data/ never imports robomimic
# robosuite renamed these keys of an arm's controller between 1.4 and 1.5.
_ARM_KEYS_15: Final = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}
_ARM_KEYS_14: Final = {new: old for old, new in _ARM_KEYS_15.items()}
_NEW_IN_15: Final = ("lite_physics", "seed", "base_types")


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
    if env_args["type"] != ROBOMIMIC_ENV_TYPE:
        raise DatasetError(
            f"env_args of type {env_args['type']}",
            f"type {ROBOMIMIC_ENV_TYPE}, robosuite",
            "Leave out --robosuite: only robosuite's metadata can be translated.",
        )
    if version == "installed":
        version = metadata.version("robosuite")
    result = deepcopy(env_args)
    kwargs = result["env_kwargs"]
    composite = version_tuple(version) >= (1, 5)
    before = version_of(env_args)
    configs = kwargs.get("controller_configs")
    if configs is not None:
        translate = _to_composite if composite else _to_part
        many = isinstance(configs, list)
        converted = [translate(config) for config in (configs if many else [configs])]
        kwargs["controller_configs"] = converted if many else converted[0]
    if not composite:
        for key in _NEW_IN_15:
            kwargs.pop(key, None)
    elif before is not None and version_tuple(before) < (1, 5):
        # robosuite's own advice for datasets of 1.4.1 and earlier: the old order of physics steps.
        kwargs.setdefault("lite_physics", False)
    result["env_version"] = version
    return result


def version_of(env_args: dict[str, Any]) -> str | None:
    """Return the robosuite version of environment metadata.

    robomimic began to write `env_version` late: without it, then the layout of the controllers
    distinguishes 1.4 from 1.5, and None means that there are none.
    """
    if env_args.get("env_version") is not None:
        return str(env_args["env_version"])
    configs = env_args["env_kwargs"].get("controller_configs")
    first = configs[0] if isinstance(configs, list) and configs else configs
    if not isinstance(first, dict):
        return None
    return "1.5" if "body_parts" in first else "1.4"


def version_tuple(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string.

    Raises:
        DatasetError: it does not begin with MAJOR.MINOR.
    """
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        raise DatasetError(
            f"robosuite version {version!r}",
            "a version such as 1.5.2",
            "Correct --robosuite, or env_version in the dataset's env_args.",
        )
    return int(parts[0]), int(parts[1])


def _check_controller(config: Any) -> None:
    if not isinstance(config, dict) or "type" not in config:
        raise DatasetError(
            f"the controller {str(config)[:40]!r} in env_args",
            "a JSON object with 'type', as for robosuite's controllers",
            "Repair the attribute env_args of the group data.",
        )


def _to_composite(config: dict[str, Any]) -> dict[str, Any]:
    """Return a 1.4 arm controller as a 1.5 composite controller of one right arm."""
    _check_controller(config)
    if "body_parts" in config:
        return config
    arm = {_ARM_KEYS_15.get(key, key): value for key, value in config.items()}
    # 1.4 had control_delta, with deltas in a frame that coincides with a fixed arm's base.
    arm["input_type"] = "delta" if arm.pop("control_delta", True) else "absolute"
    arm.setdefault("input_ref_frame", "base")
    arm.setdefault("interpolation", None)  # 1.5 requires both and has no default
    arm.setdefault("ramp_ratio", 0.2)
    arm["gripper"] = {"type": "GRIP"}
    return {"type": "BASIC", "body_parts": {"right": arm}}


def _to_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return a 1.5 composite controller as a 1.4 arm controller."""
    _check_controller(config)
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
