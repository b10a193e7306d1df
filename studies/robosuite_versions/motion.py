"""Does an arm move under the installed robosuite as it did under robosuite 1.4.1?

`record_14.py` made the ground truth. Here its env_args are translated, its actions are played, and
the gripper's poses are compared. `hold` asks a controller to stay where it is, for 20 steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from robosuite.environments.manipulation.lift import Lift
from robosuite.models.tasks import ManipulationTask
from scipy.spatial.transform import Rotation

from robomimic_vae_ext.data.conversion.env_args import convert_env_args
from robomimic_vae_ext.data.simulation import envs

RECORDINGS = Path(__file__).parents[2] / "tests" / "data" / "robosuite_14.npz"
SAME = (1e-3, 1.0)  # largest difference [m], [degree] that is called the same motion
NEAR = (1e-2, 6.0)  # beyond it, an environment that can be built counts as different
HOLD = (1e-2, 1.0)  # largest drift from a pose that is held for 20 steps
STEPS = 20


class TurnedLift(Lift):  # type: ignore[misc]
    """Lift with a robot that stands turned by 90 degrees, as in `record_14.py`."""

    def _load_model(self) -> None:
        super()._load_model()
        robots = [robot.robot_model for robot in self.robots]
        robots[0].set_base_ori([0, 0, np.pi / 2])
        self.model = ManipulationTask(self.model.mujoco_arena, robots, self.cube)


@dataclass(frozen=True)
class Recording:
    """One recording of robosuite 1.4.1: `arms` grippers over 20 steps.

    Args:
        key: its number in the file.
        controller: its type.
        given: `delta` or `absolute`.
        base: how the robot stands.
        robot: its name.
        changes: of the controller's default config.
        env_args: of robosuite 1.4.1.
        state: flattened state at the start.
        start: poses at the start (arms, 6): position [m] and rotation vector.
        actions: (20, A).
        poses: after each action (20, arms, 6).
    """

    key: str
    controller: str
    given: str
    base: str
    robot: str
    changes: dict[str, Any]
    env_args: dict[str, Any]
    state: np.ndarray
    start: np.ndarray
    actions: np.ndarray
    poses: np.ndarray

    @property
    def travel(self) -> float:
        """Largest distance of a gripper from its start [m]."""
        return float(np.linalg.norm((self.poses - self.start)[..., :3], axis=-1).max())


def recordings(path: Path = RECORDINGS) -> Iterator[Recording]:
    """Read the ground truth."""
    with np.load(path) as file:
        for key in sorted({name.split("/")[0] for name in file.files if "/" in name}):
            part = {name: file[f"{key}/{name}"] for name in ("state", "start", "actions", "poses")}
            case = json.loads(str(file[f"{key}/case"]))
            yield Recording(key, *case, json.loads(str(file[f"{key}/env_args"])), **part)


def build(env_args: dict[str, Any]) -> Any:
    """Build a low-dimensional environment without noise at its start."""
    fixed = {
        "initialization_noise": None,
        "control_freq": 20,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "ignore_done": True,
        "hard_reset": False,
    }
    return envs.build_env(env_args | {"env_kwargs": env_args["env_kwargs"] | fixed})


def poses(env: Any) -> np.ndarray:
    """Return position and rotation vector (arms, 6) of every gripper."""
    sites = [robot.eef_site_id[arm] for robot in env.robots for arm in robot.arms]
    data = env.sim.data
    turns = [Rotation.from_matrix(data.site_xmat[site].reshape(3, 3)) for site in sites]
    return np.array(
        [np.r_[data.site_xpos[s], r.as_rotvec()] for s, r in zip(sites, turns, strict=True)]
    )


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the largest distance [m] and angle [degree] between poses (..., 6)."""
    first, second = first.reshape(-1, 6), second.reshape(-1, 6)
    one, two = Rotation.from_rotvec(first[:, 3:]), Rotation.from_rotvec(second[:, 3:])
    distance = np.linalg.norm(first[:, :3] - second[:, :3], axis=1).max()
    return float(distance), float(np.degrees((one.inv() * two).magnitude().max()))


def follow(recording: Recording) -> tuple[float, float]:
    """Play a recording's actions under the installed robosuite; return the largest difference."""
    env = build(convert_env_args(recording.env_args))
    env.reset()
    env.sim.set_state_from_flattened(recording.state)
    env.sim.forward()
    for robot in env.robots:
        for controller in robot.composite_controller.part_controllers.values():
            controller.update(force=True)
        robot.composite_controller.update_state()
        robot.composite_controller.reset()
    reached = []
    for action in recording.actions:
        env.step(action.astype(float))
        reached.append(poses(env))
    env.close()
    return difference(np.array(reached), recording.poses)


def hold(recording: Recording) -> tuple[float, float]:
    """Ask a translated controller to stay for 20 steps; return the largest difference.

    The goal is written as robosuite 1.4 wants it: absolute poses in the world frame, or zeros.
    """
    env = build(convert_env_args(recording.env_args))
    env.reset()
    start = poses(env)
    action = np.zeros(env.action_dim)
    width = env.action_dim // len(start)
    for index, pose in enumerate(start):
        if recording.given == "absolute":
            action[index * width : index * width + 6] = pose
        action[(index + 1) * width - 1] = -1  # an open gripper
    reached = []
    for _ in range(STEPS):
        env.step(action)
        reached.append(poses(env))
    env.close()
    return difference(np.array(reached), np.repeat(start[None], STEPS, axis=0))
