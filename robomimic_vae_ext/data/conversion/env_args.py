"""Translates environment metadata between robosuite up to 1.4 and robosuite from 1.5 on.

A controller is translated only where the same actions make the same motion; otherwise it is
refused. What was measured, with robosuite 1.4.1 beside 1.5.2, is in docs/data_conversion.md.
"""

from __future__ import annotations

from copy import deepcopy
from importlib import metadata
from typing import Any, Final

from robomimic_vae_ext.errors import DatasetError

ROBOMIMIC_ENV_TYPE: Final = 1  # robomimic's EnvType.ROBOSUITE_TYPE; data/ never imports robomimic
_NEW_IN_15: Final = ("lite_physics", "seed", "base_types")
_CONFIGURATIONS_14: Final = {
    "opposed": "single-arm-opposed",
    "parallel": "single-arm-parallel",
    "single-robot": "bimanual",
}
_TWO_ARMED_14: Final = ("Baxter",)  # all that 1.4 has
# Right arm and gripper first: 1.4's order of actions. 1.5 alone would put both grippers last.
_ORDER_14: Final = ("right", "right_gripper", "left", "left_gripper")
# Environments of robosuite whose one robot is never turned, so that its base frame and the world
# frame have the same axes.
_UPRIGHT: Final = (
    "Lift",
    "PlayLift",
    "Stack",
    "PickPlace",
    "NutAssembly",
    "Door",
    "Wipe",
    "ToolHang",
)
_WHY_NOT: Final = {
    "OSC_POSITION": "robosuite 1.4 turns the hand to a fixed orientation, 1.5 keeps its own",
    "IK_POSE": "robosuite 1.5 has another solver, whose motion differs",
    "JOINT_VELOCITY": "robosuite 1.5.0 to 1.5.2 cannot build this controller",
}
_SAME_VERSION: Final = (
    "Leave out --robosuite and train without rollouts (experiment.rollout.enabled = false), or use "
    "the robosuite that the dataset was made with."
)


def convert_env_args(env_args: dict[str, Any], version: str = "installed") -> dict[str, Any]:
    """Translate environment metadata between robosuite up to 1.4 and robosuite from 1.5 on.

    Args:
        env_args: robomimic's environment metadata.
        version: of robosuite, or `installed`.

    Returns:
        A translated copy; unchanged but for `env_version` if nothing differs.

    Raises:
        DatasetError: a controller that would move differently under the other version.
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
    new = version_tuple(version) >= (1, 5)
    before = version_of(env_args)
    old = before is not None and version_tuple(before) < (1, 5)
    configs = kwargs.get("controller_configs")
    if configs is None and before is not None and old == new:
        raise DatasetError(
            f"env_args without controller_configs, of robosuite {before}",
            "a controller: the default of robosuite 1.4 is JOINT_VELOCITY, that of 1.5 OSC_POSE",
            "Write the controller into env_kwargs.controller_configs, or leave out --robosuite.",
        )
    if configs is not None:
        many = isinstance(configs, list)
        converted = [
            _to_composite(config, _robot(kwargs, index), before or "1.4")
            if new
            else _to_part(config, env_args)
            for index, config in enumerate(configs if many else [configs])
        ]
        kwargs["controller_configs"] = converted if many else converted[0]
    if not new:
        for key in _NEW_IN_15:
            kwargs.pop(key, None)
        configuration = kwargs.get("env_configuration")
        if configuration in _CONFIGURATIONS_14:  # 1.5 also reads the old names
            kwargs["env_configuration"] = _CONFIGURATIONS_14[configuration]
    elif old:
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


def _robot(kwargs: dict[str, Any], index: int) -> str:
    robots = kwargs.get("robots", "")
    if isinstance(robots, list):
        robots = robots[min(index, len(robots) - 1)] if robots else ""
    return str(robots)


def _check_controller(config: Any) -> None:
    if not isinstance(config, dict) or "type" not in config:
        raise DatasetError(
            f"the controller {str(config)[:40]!r} in env_args",
            "a JSON object with 'type', as for robosuite's controllers",
            "Repair the attribute env_args of the group data.",
        )


def _to_composite(config: Any, robot: str, before: str) -> dict[str, Any]:
    """Return the 1.4 controller of a robot as a 1.5 composite controller."""
    if robot not in _TWO_ARMED_14:
        if isinstance(config, dict) and "body_parts" in config:
            return config
        return {"type": "BASIC", "body_parts": {"right": _arm_15(config, before)}}
    pair = config if isinstance(config, list) else [config, config]
    if isinstance(pair[0], dict) and "body_parts" in pair[0]:
        return pair[0]
    arms = dict(zip(("right", "left"), (_arm_15(arm, before) for arm in pair), strict=False))
    return {
        "type": "BASIC",
        "body_parts": arms,
        "composite_controller_specific_configs": {"body_part_ordering": list(_ORDER_14)},
    }


def _arm_15(config: Any, before: str) -> dict[str, Any]:
    """Return the 1.4 controller of one arm as that of a body part."""
    _check_controller(config)
    if "input_type" in config or "input_ref_frame" in config:  # has the keys of 1.5 already
        return {"interpolation": None, "ramp_ratio": 0.2, "gripper": {"type": "GRIP"}} | config
    _check_same_motion(config, before)
    arm = {key: value for key, value in config.items() if not key.startswith("damping")}
    arm["damping_ratio"] = config.get("damping_ratio", 1)
    for name in ("damping_limits", "damping_ratio_limits"):
        if name in config:
            arm["damping_ratio_limits"] = config[name]
    delta = arm.pop("control_delta", True)
    if config["type"] == "OSC_POSE":
        # Deltas and goals of 1.4 are in the world frame, whatever the robot's base does.
        arm["input_type"] = "delta" if delta else "absolute"
        arm["input_ref_frame"] = "world"
    elif config["type"] == "JOINT_POSITION":
        arm["input_type"] = "delta"  # 1.4 ignores control_delta here
    arm.setdefault("interpolation", None)  # 1.5 requires both and has no default
    arm.setdefault("ramp_ratio", 0.2)
    arm["gripper"] = {"type": "GRIP"}
    return arm


def _check_same_motion(config: dict[str, Any], before: str) -> None:
    """Refuse a 1.4 controller whose actions move the arm differently under 1.5."""
    kind = config["type"]
    if kind in _WHY_NOT:
        raise DatasetError(
            f"the controller {kind} of robosuite {before}",
            f"one that moves as before ({_WHY_NOT[kind]})",
            _SAME_VERSION,
        )
    for key in ("position_limits", "orientation_limits"):
        if kind == "OSC_POSE" and config.get(key) is not None:
            raise DatasetError(
                f"{key} {config[key]} of the controller {kind}",
                "null, since robosuite 1.5 has no such limits",
                "Set it to null if the demonstrations stay within; otherwise: " + _SAME_VERSION,
            )
    if config.get("damping", 1) != 1:
        raise DatasetError(
            f"damping {config['damping']} of the controller {kind}",
            "damping_ratio, the key that releases of robosuite read (they ignore 'damping')",
            "Delete it, or rename it if the dataset was made by a fork that reads it.",
        )
    absolute = kind == "OSC_POSE" and not config.get("control_delta", True)
    if absolute and version_tuple(before) < (1, 2):
        raise DatasetError(
            f"absolute goals of robosuite {before}",
            "goals in the world frame, as from 1.2 on (1.0 counts from the pose at reset)",
            _SAME_VERSION,
        )


def _to_part(config: Any, env_args: dict[str, Any]) -> dict[str, Any]:
    """Return a 1.5 composite controller as a 1.4 arm controller."""
    _check_controller(config)
    if "body_parts" not in config:
        return dict(config)
    parts = config["body_parts"]
    if list(parts) != ["right"]:
        raise DatasetError(
            f"a controller for {', '.join(parts)}",
            "one right arm, all that robosuite 1.4's controller_configs describe",
            "Keep robosuite 1.5 for this dataset.",
        )
    arm = dict(parts["right"])
    _check_controller(arm)
    arm.pop("gripper", None)
    frame, given = arm.pop("input_ref_frame", "base"), arm.pop("input_type", "delta")
    kind = arm["type"]
    reason = _WHY_NOT.get(kind, "")
    if kind == "JOINT_POSITION" and given != "delta":
        reason = "robosuite 1.4 has no absolute joint positions"
    elif kind == "OSC_POSE" and frame != "world" and not (given == "delta" and _upright(env_args)):
        reason = "robosuite 1.4 has the world frame only"
    if reason:
        raise DatasetError(
            f"the controller {kind} with {given} actions in the {frame} frame",
            f"one that moves as before ({reason})",
            _SAME_VERSION,
        )
    if kind == "OSC_POSE":
        arm["control_delta"] = given == "delta"
    return arm


def _upright(env_args: dict[str, Any]) -> bool:
    """Whether the robots' base frames have the axes of the world."""
    if env_args["env_kwargs"].get("env_configuration") in ("parallel", "single-arm-parallel"):
        return True
    return str(env_args["env_name"]).startswith(_UPRIGHT)
