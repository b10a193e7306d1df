"""Replaying recordings of states and actions, in the layout of robosuite's demo.hdf5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.data.replay import replay_dataset
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError

pytestmark = pytest.mark.simulator


def write_recording(source: Path, path: Path, shift: int = 0, scale: float = 1.0) -> Path:
    """Write our episodes as robosuite 1.4 recorded its own.

    Args:
        source: one of our datasets.
        path: of the recording to make.
        shift: k such that action t + k leads from state t to state t + 1.
        scale: of the motion actions; beyond 1 they have to be clipped.
    """
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        data = new.create_group("data")
        data.attrs["env"] = "Lift"
        data.attrs["repository_version"] = "1.4.0"
        data.attrs["env_info"] = json.dumps(
            {
                "env_name": "Lift",
                "robots": "Panda",
                "controller_configs": {"type": "OSC_POSE", "kp": 150, "control_delta": True},
            }
        )
        for index, name in enumerate(old["data"]):
            demo = data.create_group(f"demo_{index + 1}")
            states, actions = old[f"data/{name}/states"][()], old[f"data/{name}/actions"][()]
            if shift > 0:
                actions = np.concatenate([np.zeros((shift, 7)), actions[:-shift]])
            demo["states"] = states
            demo["actions"] = np.where(np.abs(actions) == 1, scale * actions, actions)
            demo.attrs["model_file"] = "<mujoco><!-- does not load in 1.5 --></mujoco>"
    return path


@pytest.fixture(scope="module")
def long_lift(tmp_path_factory: pytest.TempPathFactory, make_settings: Any) -> Path:
    """Two noisy episodes of Lift, without pictures."""
    from robomimic_vae_ext.data.collect import collect

    path: Path = tmp_path_factory.mktemp("replay") / "lift.hdf5"
    collect(make_settings(n=2, horizon=60, quality="noisy"), path)
    return path


def test_replay_gives_back_observations(lift_images: Path, tmp_path: Path) -> None:
    recording = write_recording(lift_images, tmp_path / "demo.hdf5", scale=3.0)
    report = replay_dataset(recording, tmp_path / "new.hdf5", ["agentview"], size=16)
    assert report.shifts == (0, 0, 0)
    assert report.clipped > 0 and report.largest == 3.0
    assert "clipped" in report.describe() and "aligned" in report.describe()
    info = validate_dataset(report.path, obs_keys=["agentview_image", "object"])
    assert info.demos == ("demo_0", "demo_1", "demo_2")
    with h5py.File(lift_images) as old, h5py.File(report.path) as new:
        before, after = old["data/demo_0"], new["data/demo_0"]
        length = after.attrs["num_samples"]
        # The success itself came after the last recorded state.
        assert length == before.attrs["num_samples"] - 1
        np.testing.assert_array_equal(after["actions"], before["actions"][:length])
        # Our observations are one physics step (2 ms) older than the states beside them.
        np.testing.assert_allclose(
            after["obs/robot0_eef_pos"], before["obs/robot0_eef_pos"][:length], atol=2e-3
        )
        difference = (
            after["obs/agentview_image"][()].astype(int) - before["obs/agentview_image"][:length]
        )
        assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("shift", [0, 1])
def test_alignment_is_detected(long_lift: Path, tmp_path: Path, shift: int) -> None:
    recording = write_recording(long_lift, tmp_path / "demo.hdf5", shift)
    report = replay_dataset(recording, tmp_path / "new.hdf5")
    assert report.shifts == (shift, shift)
    with h5py.File(long_lift) as old, h5py.File(report.path) as new:
        length = new["data/demo_0"].attrs["num_samples"]
        np.testing.assert_array_equal(
            new["data/demo_0/actions"], old["data/demo_0/actions"][:length]
        )
        np.testing.assert_array_equal(new["data/demo_0/states"], old["data/demo_0/states"][:length])


def test_recording_of_another_robot(long_lift: Path, tmp_path: Path) -> None:
    recording = write_recording(long_lift, tmp_path / "demo.hdf5")
    with h5py.File(recording, "r+") as file:
        del file["data/demo_1/states"]
        file["data/demo_1/states"] = np.zeros((60, 71))
    with pytest.raises(DatasetError, match=r"states is \(60, 71\)"):
        replay_dataset(recording, tmp_path / "new.hdf5")
    assert list(tmp_path.iterdir()) == [recording]


def test_file_without_states(tiny_dataset: Path, tmp_path: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["env_kwargs"] = {"robots": ["Panda"]}
        file["data"].attrs["env_args"] = json.dumps(env_args)
    with pytest.raises(DatasetError, match="expected states and actions"):
        replay_dataset(tiny_dataset, tmp_path / "new.hdf5")
