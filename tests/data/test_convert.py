"""Completing a dataset, and translating env_args between robosuite versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.data.convert import complete_dataset
from robomimic_vae_ext.data.env_args import convert_env_args
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError

OLD_ARM: dict[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "kp": 150,
    "damping": 1,
    "impedance_mode": "fixed",
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}


def old_env_args(**kwargs: Any) -> dict[str, Any]:
    return {
        "env_name": "Lift",
        "env_version": "1.4.1",
        "type": 1,
        "env_kwargs": {"robots": ["Panda"], "controller_configs": OLD_ARM} | kwargs,
    }


def without(path: Path, *names: str) -> None:
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for name in names:
                del demo[name]


def test_next_obs_of_terminal_episodes(tiny_dataset: Path, tmp_path: Path) -> None:
    without(tiny_dataset, "next_obs", "dones")
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    assert report.added == ("dones", "next_obs")
    assert report.dropped == 0
    assert validate_dataset(report.path).transitions == 9
    with h5py.File(report.path) as file:
        demo = file["data/demo_0"]
        obs, following = demo["obs/robot0_eef_pos"][()], demo["next_obs/robot0_eef_pos"][()]
        np.testing.assert_array_equal(following[:-1], obs[1:])
        np.testing.assert_array_equal(demo["dones"][()], [0, 0, 0, 0, 1])
        assert list(file["mask"]) == ["train", "valid"]


def test_time_out_loses_its_last_transition(tiny_dataset: Path, tmp_path: Path) -> None:
    without(tiny_dataset, "next_obs")
    with h5py.File(tiny_dataset, "r+") as file:
        file["data/demo_1/dones"][...] = 0
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    assert report.dropped == 1
    info = validate_dataset(report.path)
    assert info.transitions == 8
    with h5py.File(report.path) as file:
        assert file["data/demo_1"].attrs["num_samples"] == 3
        assert file["data"].attrs["total"] == 8


def test_missing_rewards_need_an_assumption(tiny_dataset: Path, tmp_path: Path) -> None:
    without(tiny_dataset, "rewards", "dones")
    target = tmp_path / "new.hdf5"
    with pytest.raises(DatasetError, match="--assume-success"):
        complete_dataset(tiny_dataset, target)
    assert sorted(tmp_path.iterdir()) == [tiny_dataset]  # nothing half-written
    complete_dataset(tiny_dataset, target, assume_success=True)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["data/demo_1/rewards"][()], [0, 0, 0, 1])
        np.testing.assert_array_equal(file["data/demo_1/dones"][()], [0, 0, 0, 1])


def test_clipping_is_counted(tiny_dataset: Path, tmp_path: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        file["data/demo_0/actions"][1, :2] = (3.75, -2.0)
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5", clip_actions=True)
    assert report.clipped == 2
    assert "2 action values clipped" in report.describe()
    validate_dataset(report.path)


def test_source_is_never_changed(tiny_dataset: Path, tmp_path: Path) -> None:
    before = tiny_dataset.read_bytes()
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5", clip_actions=True)
    assert tiny_dataset.read_bytes() == before
    with pytest.raises(DatasetError, match="exists already"):
        complete_dataset(tiny_dataset, tiny_dataset)


def test_env_args_to_15() -> None:
    new = convert_env_args(old_env_args(), "1.5.2")
    config = new["env_kwargs"]["controller_configs"]
    assert config["type"] == "BASIC"
    arm = config["body_parts"]["right"]
    assert arm["type"] == "OSC_POSE"
    assert arm["gripper"] == {"type": "GRIP"}
    assert (arm["input_type"], arm["input_ref_frame"]) == ("delta", "base")
    assert arm["damping_ratio"] == 1 and "damping" not in arm and "control_delta" not in arm
    assert new["env_kwargs"]["lite_physics"] is False
    assert new["env_version"] == "1.5.2"
    assert convert_env_args(new, "1.5.2") == new


def test_env_args_there_and_back() -> None:
    old = old_env_args()
    assert convert_env_args(convert_env_args(old, "1.5.2"), "1.4.1") == old
    assert old == old_env_args()  # a copy was converted


def test_lists_of_controllers_stay_lists() -> None:
    new = convert_env_args(old_env_args(controller_configs=[OLD_ARM]), "1.5.2")
    assert new["env_kwargs"]["controller_configs"][0]["type"] == "BASIC"


def test_two_arms_do_not_fit_into_14() -> None:
    config = {"type": "BASIC", "body_parts": {"right": {}, "left": {}}}
    with pytest.raises(DatasetError, match="right, left"):
        convert_env_args(old_env_args(controller_configs=config), "1.4.1")


def test_conversion_is_written(tiny_dataset: Path, tmp_path: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        file["data"].attrs["env_args"] = json.dumps(old_env_args())
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5", robosuite_version="1.5.2")
    assert validate_dataset(tmp_path / "new.hdf5").env_args == convert_env_args(
        old_env_args(), "1.5.2"
    )


@pytest.mark.parametrize("version", ["new", "1", "x.y"])
def test_bad_version(version: str) -> None:
    with pytest.raises(DatasetError, match="robosuite version"):
        convert_env_args(old_env_args(), version)
