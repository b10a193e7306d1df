"""Small files exactly in the layouts that other projects record, without their simulators."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LENGTHS = (9, 7, 8, 6)
SIDE = 44
MODEL = "<mujoco model='base'></mujoco>"
OSC = {"type": "OSC_POSE", "input_max": 1, "input_min": -1, "control_delta": True, "kp": 150}


def robosuite_args(name: str, version: str | None = "1.4.1", **kwargs: Any) -> dict[str, Any]:
    made = {
        "robots": ["Panda"], "controller_configs": OSC, "control_freq": 20, "reward_shaping": False,
        "camera_names": ["agentview"], "camera_heights": SIDE, "camera_widths": SIDE,
    }  # fmt: skip
    args = {"env_name": name, "type": 1, "env_kwargs": made | kwargs}
    return args | ({"env_version": version} if version else {})


class Writer:
    """Writes demonstrations of random numbers."""

    def __init__(self, path: Path, env_args: dict[str, Any]) -> None:
        self.rng = np.random.default_rng(0)
        self.file = h5py.File(path, "w")
        self.data = self.file.create_group("data")
        self.data.attrs["env_args"] = json.dumps(env_args)
        self.data.attrs["total"] = sum(LENGTHS)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def demos(self) -> list[tuple[h5py.Group, int]]:
        """A group each, with num_samples and actions."""
        made = []
        for index, length in enumerate(LENGTHS):
            demo = self.data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = length
            demo["actions"] = self.rng.uniform(-1, 1, (length, 7))
            made.append((demo, length))
        return made

    def vectors(self, rows: int) -> dict[str, np.ndarray]:
        return {
            "robot0_eef_pos": self.rng.normal(size=(rows, 3)),
            "robot0_gripper_qpos": self.rng.normal(size=(rows, 2)),
        }

    def picture(self, rows: int) -> np.ndarray:
        return self.rng.integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)

    def masks(self) -> None:
        names = np.array([f"demo_{i}" for i in range(len(LENGTHS))], dtype="S8")
        self.file["mask/train"], self.file["mask/valid"] = names[:-1], names[-1:]


def put_pairs(demo: h5py.Group, frames: dict[str, np.ndarray]) -> None:
    """Write T + 1 frames as obs and next_obs."""
    for key, values in frames.items():
        demo[f"obs/{key}"], demo[f"next_obs/{key}"] = values[:-1], values[1:]


def robomimic_low_dim(path: Path, images: bool = False) -> None:
    """robomimic v1.5 ph: sparse reward and done at the end, masks."""
    with Writer(path, robosuite_args("Lift")) as file:
        for demo, length in file.demos():
            frames = file.vectors(length + 1)
            if images:
                frames["agentview_image"] = file.picture(length + 1)
            put_pairs(demo, frames)
            demo["rewards"] = np.eye(length)[-1]
            demo["dones"] = np.eye(length, dtype=np.int64)[-1]
            demo["states"] = file.rng.normal(size=(length, 32))
            demo.attrs["model_file"] = MODEL
        file.masks()


def robomimic_image(path: Path) -> None:
    robomimic_low_dim(path, images=True)


def robomimic_mg(path: Path, dense: bool = False) -> None:
    """Machine-generated: successes go on, paid at every step; failures among them."""
    args = robosuite_args("Lift", None, reward_shaping=dense)
    with Writer(path, args) as file:
        for index, (demo, length) in enumerate(file.demos()):
            put_pairs(demo, file.vectors(length + 1))
            rewards = np.linspace(0.0, 0.8, length) if dense else np.zeros(length)
            if index % 2 == 0:
                rewards[-3:] = 1.0
            demo["rewards"], demo["dones"] = rewards, np.zeros(length, np.int64)
            demo["states"] = file.rng.normal(size=(length, 32))
            demo.attrs["model_file"] = MODEL
        file.masks()


def robomimic_mg_dense(path: Path) -> None:
    robomimic_mg(path, dense=True)


def mimicgen(path: Path) -> None:
    """Generated demonstrations: no next_obs, no dones, datagen_info beside obs, own environment."""
    with Writer(path, robosuite_args("Stack_D0", "1.4.1")) as file:
        for demo, length in file.demos():
            for key, values in (
                file.vectors(length) | {"agentview_image": file.picture(length)}
            ).items():
                demo[f"obs/{key}"] = values
            demo["rewards"] = np.eye(length)[-1]
            demo["states"] = file.rng.normal(size=(length, 45))
            demo["datagen_info/eef_pose"] = np.tile(np.eye(4), (length, 1, 1))
            demo["datagen_info/object_poses/cubeA"] = np.tile(np.eye(4), (length, 1, 1))
            demo["src_demo_inds"] = np.arange(3)
            demo.attrs["model_file"] = MODEL


def isaac_lab(path: Path) -> None:
    """Isaac Lab's recorder: gym type without env_kwargs, groups of states, nested obs."""
    args = {"env_name": "Isaac-Stack-Cube-Franka-IK-Rel-Mimic-v0", "type": 2}
    with Writer(path, args) as file:
        for demo, length in file.demos():
            demo.attrs["success"], demo.attrs["seed"] = True, 0
            demo["initial_state/articulation/robot/root_pose"] = np.zeros((1, 7), np.float32)
            demo["states/articulation/robot/joint_position"] = np.zeros((length, 9), np.float32)
            demo["processed_actions"] = np.zeros((length, 8), np.float32)
            for key, values in file.vectors(length).items():
                demo[f"obs/{key}"] = values.astype(np.float32)
            demo["obs/datagen_info/object_pose/cube_1"] = np.zeros((length, 4, 4), np.float32)
            demo["obs/datagen_info/subtask_term_signals/grasp_1"] = np.zeros((length, 1), bool)


def libero(path: Path) -> None:
    """LIBERO: own cameras and environment, no next_obs, reward and done at the end."""
    args = robosuite_args(
        "Libero_Kitchen_Tabletop_Manipulation", "1.4.0", bddl_file_name="libero/kitchen.bddl"
    )
    with Writer(path, args) as file:
        file.data.attrs["bddl_file_name"] = "libero/kitchen.bddl"
        file.data.attrs["problem_info"] = json.dumps({"language_instruction": "open it"})
        for demo, length in file.demos():
            demo["obs/agentview_rgb"] = file.picture(length)
            demo["obs/ee_pos"] = file.rng.normal(size=(length, 3))
            demo["obs/gripper_states"] = file.rng.normal(size=(length, 2))
            demo["rewards"] = np.eye(length, dtype=np.uint8)[-1]
            demo["dones"] = np.eye(length, dtype=np.uint8)[-1]
            demo["states"] = file.rng.normal(size=(length, 110))
            demo["robot_states"] = file.rng.normal(size=(length, 9))
            demo.attrs["model_file"], demo.attrs["init_state"] = MODEL, np.zeros(110)


#: Name: how it is written, flags of `lapo convert` (None: used as it is), low_dim and rgb keys.
_VECTORS = ["robot0_eef_pos", "robot0_gripper_qpos"]
LAYOUTS: dict[str, tuple[Callable[[Path], None], list[str] | None, list[str], list[str]]] = {
    "robomimic low_dim": (robomimic_low_dim, None, _VECTORS, []),
    "robomimic image": (robomimic_image, None, _VECTORS, ["agentview_image"]),
    "robomimic mg sparse": (robomimic_mg, None, _VECTORS, []),
    "robomimic mg dense": (robomimic_mg_dense, None, _VECTORS, []),
    "mimicgen": (mimicgen, [], _VECTORS, ["agentview_image"]),
    "Isaac Lab": (isaac_lab, ["--assume-success"], _VECTORS, []),
    "LIBERO": (libero, [], ["ee_pos", "gripper_states"], ["agentview_rgb"]),
}
