"""What resets write into the model comes from model_file, and a replay proves itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.cli import main
from robomimic_vae_ext.data.conversion.playback import replay_dataset
from robomimic_vae_ext.data.conversion.recorded_model import (
    ModelRestorer,
    named_values,
    read_model_xml,
)
from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.errors import DatasetError

pytestmark = pytest.mark.simulator


def env_args_of(name: str, **arm: Any) -> dict[str, Any]:
    """Return env_args of a low-dimensional environment, with changes of the arm's controller."""
    env_args = envs.EnvSpec("Lift").env_args()
    env_args["env_name"] = name
    env_args["env_kwargs"]["controller_configs"]["body_parts"]["right"] |= arm
    return env_args


def write_demos(path: Path, env_args: dict[str, Any], count: int, hard: bool = False) -> Path:
    """Record demonstrations as robomimic does: observations of exactly the states beside them.

    Args:
        path: of the file.
        env_args: of the environment.
        count: number of demonstrations of 8 steps.
        hard: each has a model of its own.
    """
    env = envs.build_env(env_args)
    rng = np.random.default_rng(0)
    arm = env_args["env_kwargs"]["controller_configs"]["body_parts"]["right"]
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        for index in range(count):
            env.hard_reset = hard
            envs.reseed(env, index)
            raw = env.reset()
            demo = data.create_group(f"demo_{index}")
            demo.attrs["model_file"] = envs.portable_model_xml(env)
            states, actions, observations = [], [], []
            goal = np.append(raw["robot0_eef_pos"], [3.0, 0.5, 0.0, -1.0])
            for _ in range(8):
                states.append(env.sim.get_state().flatten())
                raw = env._get_observations(force_update=True)
                observations.append(envs.read_observation(raw, env))
                action = np.append(rng.choice([-1.0, 1.0], 6) * rng.uniform(0.3, 1, 6), -1.0)
                actions.append(goal if arm.get("input_type") == "absolute" else action)
                env.step(actions[-1])
            demo["states"], demo["actions"] = np.array(states), np.array(actions)
            demo["rewards"], demo["dones"] = np.zeros(8), np.zeros(8, dtype=int)
            demo.attrs["num_samples"] = 8
            for key in observations[0]:
                demo[f"obs/{key}"] = np.array([obs[key] for obs in observations])
        names = np.array([f"demo_{index}" for index in range(count)], dtype="S")
        file["mask/train"], file["mask/last"] = names, names[-1:]
    return path


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of Door, each with its own place of the door."""
    return write_demos(tmp_path_factory.mktemp("door") / "door.hdf5", env_args_of("Door"), 2)


def change(source: Path, target: Path, **model_files: Any) -> Path:
    """Copy a file, with other model files of some demonstrations; None deletes one."""
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        for name, text in model_files.items():
            if text is None:
                del file[f"data/{name}"].attrs["model_file"]
            else:
                file[f"data/{name}"].attrs["model_file"] = text
    return target


def test_the_door_is_where_it_was(doors: Path, tmp_path: Path) -> None:
    report = replay_dataset(doors, tmp_path / "new.hdf5")
    with h5py.File(doors) as old, h5py.File(report.path) as new:
        places = [old[f"data/demo_{i}/obs/object"][0, :3] for i in range(2)]
        assert np.abs(places[0] - places[1]).max() > 5e-3
        for name in ("demo_0", "demo_1"):
            recorded = old[f"data/{name}/obs/object"][()]
            np.testing.assert_allclose(new[f"data/{name}/obs/object"], recorded, atol=2e-3)
            again = read_model_xml(new[f"data/{name}"].attrs["model_file"], name)
            before = read_model_xml(old[f"data/{name}"].attrs["model_file"], name)
            np.testing.assert_allclose(
                named_values(again, name)["body", "Door_main"]["pos"],
                named_values(before, name)["body", "Door_main"]["pos"],
                atol=1e-5,
            )


def test_a_door_of_unknown_place_is_left_out(doors: Path, tmp_path: Path) -> None:
    source = change(doors, tmp_path / "old.hdf5", demo_1=None)
    report = replay_dataset(source, tmp_path / "new.hdf5")
    assert [demo.name for demo in report.kept] == ["demo_0"]
    assert "Door_main" in report.demos[1].refused
    with h5py.File(report.path) as file:
        assert list(file["data"]) == ["demo_0"]
        assert list(file["mask"]) == ["train"]
        assert list(file["mask/train"]) == [b"demo_0"]
        assert file["data"].attrs["total"] == 8
    # The remedy that the message names.
    assert len(replay_dataset(source, tmp_path / "all.hdf5", tolerance=np.inf).kept) == 2


def test_another_demonstrations_door_is_seen(doors: Path, tmp_path: Path) -> None:
    with h5py.File(doors) as file:
        other = file["data/demo_1"].attrs["model_file"]
    source = change(doors, tmp_path / "old.hdf5", demo_0=other)
    report = replay_dataset(source, tmp_path / "new.hdf5")
    assert [demo.name for demo in report.kept] == ["demo_1"]
    assert "differs" in report.demos[0].refused


@pytest.mark.parametrize(
    "text",
    [
        "<html/>",
        "<mujoco>",
        '<!DOCTYPE a [<!ENTITY b "c">]><mujoco/>',
        '<mujoco><worldbody><body name="Door_main" pos="a b c"/></worldbody></mujoco>',
        '<mujoco><worldbody><body name="Door_main" pos="1e999 0 0"/></worldbody></mujoco>',
        '<mujoco><worldbody><body name="Door_main" quat="0 0 0 0"/></worldbody></mujoco>',
        '<mujoco><worldbody><geom name="table_collision" size="-1 1 1"/></worldbody></mujoco>',
        b"<\xff\xfe",
    ],
)
def test_junk_is_one_error_message(doors: Path, tmp_path: Path, text: Any) -> None:
    source = change(doors, tmp_path / "old.hdf5", demo_0=text)
    with pytest.raises(DatasetError, match="model_file"):
        replay_dataset(source, tmp_path / "new.hdf5")
    assert list(tmp_path.iterdir()) == [source]


def test_deep_xml_is_no_crash() -> None:
    text = "<mujoco><worldbody>" + "<body>" * 20_000 + "</body>" * 20_000 + "</worldbody></mujoco>"
    assert named_values(read_model_xml(text, "demo"), "demo") == {}


def test_what_else_a_reset_writes_is_kept() -> None:
    """The colours that hide markers, and the places of PickPlace's targets."""
    for name in ("PickPlaceCan", "Lift"):
        env = envs.build_env(env_args_of(name))
        env.reset()
        model = env.sim.model._model
        restorer = ModelRestorer(env)
        fields = ("site_rgba", "geom_rgba", "body_pos", "geom_size", "body_mass", "site_size")
        before = {field: getattr(model, field).copy() for field in fields}
        root = read_model_xml(envs.portable_model_xml(env), "demo")
        for again in (root, None):
            restorer.reset(again, "demo")
            for field in fields:
                np.testing.assert_allclose(getattr(model, field), before[field], atol=1e-5)


def test_sizes_come_from_the_recording(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "lift.hdf5", env_args_of("Lift"), 2, hard=True)
    report = replay_dataset(source, tmp_path / "new.hdf5", rendering="full")
    assert len(report.kept) == 2
    sizes = []
    with h5py.File(source) as old, h5py.File(report.path) as new:
        for name in old["data"]:
            before, after = (
                named_values(read_model_xml(file[f"data/{name}"].attrs["model_file"], name), name)
                for file in (old, new)
            )
            np.testing.assert_allclose(
                after["geom", "cube_g0"]["size"], before["geom", "cube_g0"]["size"], atol=1e-6
            )
            sizes.append(before["geom", "cube_g0"]["size"])
    assert np.abs(sizes[0] - sizes[1]).max() > 1e-4


def test_absolute_actions_are_not_clipped(tmp_path: Path) -> None:
    env_args = env_args_of("LiftFast", input_type="absolute", input_ref_frame="world")
    source = write_demos(tmp_path / "lift.hdf5", env_args, 1)
    report = replay_dataset(source, tmp_path / "new.hdf5")
    assert (report.clipped, report.largest) == (0, 3.0)
    with h5py.File(source) as old, h5py.File(report.path) as new:
        np.testing.assert_array_equal(new["data/demo_0/actions"], old["data/demo_0/actions"])


def test_actions_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "lift.hdf5", env_args_of("LiftFast"), 1)
    replay_dataset(source, tmp_path / "right.hdf5")
    with h5py.File(source, "r+") as file:
        file["data/demo_0/actions"][:, :6] *= -1
    with pytest.raises(DatasetError, match="one action leads"):
        replay_dataset(source, tmp_path / "new.hdf5")


def test_pictures_that_differ_are_refused(lift_images: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(lift_images, tmp_path / "lift.hdf5"))
    replay_dataset(source, tmp_path / "right.hdf5", ["agentview"], size=16)
    with h5py.File(source, "r+") as file:
        for demo in file["data"].values():
            pictures = demo["obs/agentview_image"]
            pictures[...] = pictures[()][:, ::-1]
    with pytest.raises(DatasetError, match="agentview_image differs"):
        replay_dataset(source, tmp_path / "new.hdf5", ["agentview"], size=16)
    # The remedy that the message names.
    assert len(replay_dataset(source, tmp_path / "new.hdf5").kept) == 3


def test_a_contact_sheet(lift_images: Path, tmp_path: Path) -> None:
    from PIL import Image

    sheet = tmp_path / "sheet.png"
    command = ["convert", str(lift_images), str(tmp_path / "new.hdf5"), "--sheet", str(sheet)]
    assert main(command) == 0
    assert Image.open(sheet).size == (8 * (16 + 2), 3 * (16 + 2 + 12))
    assert main([*command[:2], str(tmp_path / "other.hdf5"), *command[3:]]) == 2  # exists
