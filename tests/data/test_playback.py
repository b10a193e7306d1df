"""Replaying recordings of states and actions, in the layout of robosuite's demo.hdf5."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.data.conversion.playback import replay_dataset
from robomimic_vae_ext.data.conversion.robosuite_demos import (
    build_replay_env,
    gripper_positions,
    put_state,
    replay_env_args,
)
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError
from tests.data.conftest import content

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
    from robomimic_vae_ext.data.simulation.collect import collect

    path: Path = tmp_path_factory.mktemp("replay") / "lift.hdf5"
    collect(make_settings(n=2, horizon=60, quality="noisy"), path)
    return path


def test_replay_gives_back_observations(lift_images: Path, tmp_path: Path) -> None:
    recording = write_recording(lift_images, tmp_path / "demo.hdf5", scale=3.0)
    report = replay_dataset(recording, tmp_path / "new.hdf5", ["agentview"], size=16)
    assert report.shifts == (0, 0, 0)
    assert (report.dropped, report.successes) == (0, 3)
    assert report.clipped > 0 and report.largest == 3.0
    assert "clipped" in report.describe() and "aligned" in report.describe()
    info = validate_dataset(report.path, obs_keys=["agentview_image", "object"])
    assert info.demos == ("demo_1", "demo_2", "demo_3")
    with h5py.File(lift_images) as old, h5py.File(report.path) as new:
        before, after = old["data/demo_0"], new["data/demo_1"]
        length = after.attrs["num_samples"]
        # The success itself came after the last recorded state.
        assert length == before.attrs["num_samples"]
        np.testing.assert_array_equal(after["rewards"], before["rewards"])
        np.testing.assert_array_equal(after["dones"], before["dones"])
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
        before, after = old["data/demo_0"], new["data/demo_1"]
        length = after.attrs["num_samples"]
        assert length == before.attrs["num_samples"] - shift
        np.testing.assert_array_equal(after["actions"], before["actions"][:length])
        np.testing.assert_array_equal(after["states"], before["states"][:length])


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


@pytest.fixture(scope="module")
def can_pairs(tmp_path_factory: pytest.TempPathFactory, make_settings: Any) -> Path:
    """Two pairs of episodes from one start each: a can placed, and one thrown away."""
    from robomimic_vae_ext.data.simulation.collect import collect

    path: Path = tmp_path_factory.mktemp("replay") / "can.hdf5"
    collect(make_settings(task="PickPlaceCan", quality="paired", n=4, seed=0, horizon=0), path)
    return path


def test_what_a_dataset_says_of_itself_is_kept(can_pairs: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(can_pairs, tmp_path / "can.hdf5"))
    with h5py.File(source, "r+") as file:
        file.attrs["origin"] = "lab"
        file["data/demo_0/action_dict/gripper"] = file["data/demo_0/actions"][:, -1:]
    report = replay_dataset(source, tmp_path / "new.hdf5")
    assert (report.successes, report.left_out, report.shifts) == (2, (), (0, 0, 0, 0))
    old, new = content(source), content(report.path)
    for key in ("data@notes", "data@env_args"):
        old.pop(key), new.pop(key)
    assert old.keys() == new.keys()
    for key in (key for key in old if "obs/" not in key and "@model_file" not in key):
        np.testing.assert_array_equal(old[key], new[key], err_msg=key)
    for key in (key for key in old if key.endswith(("obs/robot0_eef_pos", "obs/object"))):
        # Ours are one physics step (2 ms) older than the states, in which a can falls by 4 mm.
        np.testing.assert_allclose(old[key][1:, :3], new[key][1:, :3], atol=5e-3, err_msg=key)
    with h5py.File(report.path) as file:
        assert file.attrs["origin"] == "lab"
        assert [demo["dones"][-1] for demo in file["data"].values()] == [1, 1, 1, 1]


def test_episodes_of_one_start_are_not_split(can_pairs: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(can_pairs, tmp_path / "can.hdf5"))
    with h5py.File(source, "r+") as file:
        del file["mask"]
    replay_dataset(source, tmp_path / "new.hdf5")
    with h5py.File(tmp_path / "new.hdf5") as file:
        held_out = sorted(name.decode() for name in file["mask/valid"])
        assert held_out in (["demo_0", "demo_1"], ["demo_2", "demo_3"])
        assert "placed" in file["mask"]


def test_the_last_action_is_played(long_lift: Path, tmp_path: Path) -> None:
    """As exactly as if its end had been recorded, but for one physics step."""
    report = replay_dataset(long_lift, tmp_path / "new.hdf5")
    with h5py.File(long_lift) as old, h5py.File(report.path) as new:
        for name in old["data"]:
            key = f"data/{name}/next_obs/robot0_eef_pos"
            np.testing.assert_allclose(old[key][-1], new[key][-1], atol=1e-3)


def test_an_action_in_a_recorded_state_leads_to_the_next(long_lift: Path) -> None:
    """Controllers that remember another pose would miss it by a centimetre."""
    with h5py.File(long_lift) as file:
        env = build_replay_env(replay_env_args(file, long_lift, (), 84, "fast"), long_lift)
        demo = file["data/demo_0"]
        states, actions = demo["states"][()], demo["actions"][()]
    for step in (5, 25, 15, 20):
        put_state(env, states[step + 1])
        wanted = gripper_positions(env)
        put_state(env, states[step])
        env.step(actions[step])
        np.testing.assert_allclose(gripper_positions(env), wanted, atol=1e-3)


def test_a_state_after_the_last_action_is_used(long_lift: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(long_lift, tmp_path / "lift.hdf5"))
    with h5py.File(source, "r+") as file:
        demo = file["data/demo_0"]
        states = demo["states"][()]
        del demo["states"]
        demo["states"] = np.concatenate([states, states[:1]])
    report = replay_dataset(source, tmp_path / "new.hdf5")
    with h5py.File(report.path) as file:
        demo = file["data/demo_0"]
        np.testing.assert_array_equal(
            demo["next_obs/robot0_eef_pos"][-1], demo["obs/robot0_eef_pos"][0]
        )
        assert len(demo["states"]) == len(demo["actions"]) + 1


@pytest.mark.parametrize("raw", [True, False])
def test_no_shift_is_seen_where_there_is_none(
    tmp_path: Path, make_settings: Any, raw: bool
) -> None:
    """Noise and contact once made the action before look better in the last of these."""
    from robomimic_vae_ext.data.simulation.collect import collect

    source = tmp_path / "play.hdf5"
    collect(make_settings(task="PlayLift", quality="mixed", n=4, seed=0, horizon=0), source)
    if raw:
        with h5py.File(source, "r+") as file:
            for demo in file["data"].values():
                for key in ("obs", "next_obs", "rewards", "dones"):
                    del demo[key]
    assert replay_dataset(source, tmp_path / "new.hdf5").shifts == (0, 0, 0, 0)


def test_observations_that_are_not_made_anew_are_named(lift_images: Path, tmp_path: Path) -> None:
    report = replay_dataset(lift_images, tmp_path / "new.hdf5")
    assert report.left_out == ("obs/agentview_image",)
    assert "left out: 0 actions" in report.describe()
    assert report.describe().endswith("and obs/agentview_image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "image size 0"),
        ({"rendering": "foo"}, "rendering 'foo'; expected for LiftFast one of fast, full"),
        ({"compress": "foo"}, "compression 'foo'"),
    ],
)
def test_bad_options(
    lift_images: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        replay_dataset(lift_images, tmp_path / "new.hdf5", ["agentview"], **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("env_name", "Nowhere", "robosuite cannot build Nowhere"),
        ("env_kwargs", None, "env_kwargs null"),
        ("type", 2, "env_args of type 2"),
    ],
)
def test_bad_environments(
    long_lift: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    source = Path(shutil.copy(long_lift, tmp_path / "lift.hdf5"))
    with h5py.File(source, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        file["data"].attrs["env_args"] = json.dumps(env_args | {key: value})
    with pytest.raises(DatasetError, match=message):
        replay_dataset(source, tmp_path / "new.hdf5")
    assert list(tmp_path.iterdir()) == [source]
