"""Records how robosuite 1.4.1 moves, as ground truth for the translation of env_args.

Runs in an environment of its own, which holds robosuite 1.4.1 and not this package:

  python -m venv old && old/bin/pip install robosuite==1.4.1 "mujoco==2.3.7" "numpy<2" pybullet
  old/bin/python studies/robosuite_versions/record_14.py tests/data/robosuite_14.npz

Every recording is 20 actions of one controller from one start, and the gripper poses that they lead
to. The file is small (about 150 kB) and holds numbers and JSON only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import robosuite
import robosuite.utils.transform_utils as T
from robosuite.controllers import load_controller_config
from robosuite.environments.manipulation.lift import Lift

STEPS = 20
ONE_ARM = ("Panda", "Sawyer", "IIWA", "UR5e", "Kinova3", "Jaco")
BASES = {
    "one arm": ("Lift", {}),
    "turned by 90 degrees": ("TurnedLift", {}),
    "two arms, parallel": ("TwoArmLift", {"env_configuration": "single-arm-parallel"}),
    "two arms, opposed": ("TwoArmLift", {"env_configuration": "single-arm-opposed"}),
    "two-armed robot": ("TwoArmLift", {"env_configuration": "bimanual"}),
}


class TurnedLift(Lift):
    """Lift with a robot that stands turned by 90 degrees about the vertical axis."""

    def _load_model(self) -> None:
        super()._load_model()
        self.robots[0].robot_model.set_base_ori([0, 0, np.pi / 2])
        self.model.__init__(  # the task copies the robot's XML when it is made
            mujoco_arena=self.model.mujoco_arena,
            mujoco_robots=[robot.robot_model for robot in self.robots],
            mujoco_objects=self.cube,
        )


def cases() -> list[tuple[str, str, str, str, dict[str, Any]]]:
    """Return (controller, input, base, robot, changes of the controller's config)."""
    found = []
    for kind in ("OSC_POSE", "OSC_POSITION"):
        for delta in (True, False):
            for base in BASES:
                robots = ONE_ARM if base == "one arm" else ("Panda",)
                robots = ("Baxter",) if base == "two-armed robot" else robots
                for robot in robots:
                    found.append((kind, delta, base, robot, {"control_delta": delta}))
            linear = {"control_delta": delta, "interpolation": "linear"}
            found.append((kind, delta, "one arm", "Panda", linear))
            found.append((kind, delta, "two arms, opposed", "Panda", linear))
    strong = {"output_min": -8, "output_max": 8}  # 1.4's default of 0.1 Nm moves nothing
    for kind in ("JOINT_POSITION", "JOINT_VELOCITY", "JOINT_TORQUE"):
        for base in BASES:
            robot = "Baxter" if base == "two-armed robot" else "Panda"
            found.append((kind, True, base, robot, strong if kind == "JOINT_TORQUE" else {}))
    found.append(("JOINT_POSITION", True, "one arm", "Panda", {"control_delta": False}))
    found.append(("OSC_POSE", True, "one arm", "Panda", {"impedance_mode": "variable_kp"}))
    found.append(("IK_POSE", True, "one arm", "Panda", {}))
    return [(k, "delta" if d else "absolute", b, r, c) for k, d, b, r, c in found]


def arms_of(env: Any) -> list[tuple[Any, int]]:
    """Return (controller, site of the gripper) for every arm."""
    found = []
    for robot in env.robots:
        if isinstance(robot.controller, dict):
            found += [(robot.controller[arm], robot.eef_site_id[arm]) for arm in robot.arms]
        else:
            found.append((robot.controller, robot.eef_site_id))
    return found


def poses(env: Any) -> np.ndarray:
    """Return position and rotation vector (arms, 6) of every gripper."""
    result = []
    for _, site in arms_of(env):
        matrix = env.sim.data.site_xmat[site].reshape(3, 3)
        vector = T.quat2axisangle(T.mat2quat(matrix))
        result.append(np.concatenate([env.sim.data.site_xpos[site], vector]))
    return np.array(result)


def make_action(env: Any, step: int, start: np.ndarray, kind: str, delta: bool) -> np.ndarray:
    """Return the action of one step: a smooth path that differs in every dimension."""
    phase = 2 * np.pi * step / STEPS
    action = []
    for index, (controller, _) in enumerate(arms_of(env)):
        size = controller.control_dim
        wave = 0.7 * np.sin(phase * (1 + 0.3 * np.arange(size)) + 0.9 * np.arange(size) + index)
        if controller.name.startswith("OSC") and not delta:
            scale = np.array([0.05, 0.05, 0.05, 0.15, 0.15, 0.15])[:size]
            ramp = min(1.0, step / 5)  # no jump at the start
            matrix = T.quat2mat(T.axisangle2quat(start[index, 3:]))
            part = start[index, :3] + ramp * scale[:3] * wave[:3]
            if size == 6:
                turn = T.quat2mat(T.axisangle2quat(ramp * scale[3:] * wave[3:]))
                part = np.concatenate([part, T.quat2axisangle(T.mat2quat(turn @ matrix))])
            wave = part
        elif getattr(controller, "impedance_mode", "fixed") == "variable_kp":
            wave = np.concatenate([150 + 100 * wave[:6], wave[6:]])
        elif kind == "IK_POSE":
            wave = np.concatenate([0.02 * wave[:3], 0.05 * wave[3:]])
        action.append(np.concatenate([wave, [-1.0]]))
    return np.concatenate(action)


def record(kind: str, given: str, base: str, robot: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Record one case."""
    name, kwargs = BASES[base]
    two = base.startswith("two arms")
    config = load_controller_config(default_controller=kind) | changes
    kwargs = kwargs | {"robots": [robot] * (1 + two), "controller_configs": config}
    env_args = {"env_name": name, "env_version": "1.4.1", "type": 1, "env_kwargs": kwargs}
    text = json.dumps(env_args)
    env = robosuite.make(
        name, **json.loads(text)["env_kwargs"], initialization_noise=None, control_freq=20,
        has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, ignore_done=True,
    )  # fmt: skip
    np.random.seed(0)
    env.reset()
    state, start = env.sim.get_state().flatten(), poses(env)
    delta = given == "delta"
    actions, reached = [], []
    for step in range(STEPS):
        action = make_action(env, step, start, kind, delta).astype(np.float32).astype(float)
        env.step(action)
        actions.append(action)
        reached.append(poses(env))
    return {
        "env_args": text,
        "case": json.dumps([kind, given, base, robot, changes]),
        "state": state,
        "start": start.astype(np.float32),
        "actions": np.array(actions, np.float32),
        "poses": np.array(reached, np.float32),
    }


def main(path: str) -> None:
    """Record all cases into one file."""
    arrays: dict[str, Any] = {"version": robosuite.__version__}
    for index, case in enumerate(cases()):
        try:
            recording = record(*case)
        except Exception as error:  # robosuite raises exceptions of many kinds
            print(index, case, "FAILED", type(error).__name__, error)
            continue
        moved = np.abs(recording["poses"] - recording["start"])[..., :3].max()
        print(index, case, recording["actions"].shape, f"moved {moved:.3f} m")
        arrays |= {f"{index:02d}/{key}": value for key, value in recording.items()}
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
