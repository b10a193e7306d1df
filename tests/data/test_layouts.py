"""Files in the layouts of other projects: converted, validated, and trained on for two epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.cli import main
from robomimic_vae_ext.data.description import describe_file
from robomimic_vae_ext.data.rewards import RewardKind
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.training import training_run
from tests.conftest import image_settings, merge
from tests.data import layouts
from tests.data.layouts import LAYOUTS


def prepare(layout: str, folder: Path) -> Path:
    """Write a file of a layout and convert it where it has to be."""
    write, flags, _, _ = LAYOUTS[layout]
    path = folder / "recorded.hdf5"
    write(path)
    if flags is None:
        return path
    assert main(["convert", str(path), "--out", str(folder / "new.hdf5"), *flags]) == 0
    return folder / "new.hdf5"


def settings(layout: str, data: Path, out: Path, **changes: Any) -> str:
    _, _, low_dim, rgb = LAYOUTS[layout]
    small: dict[str, Any] = {
        "algo_name": "lapo",
        "experiment": {
            "name": "layout", "validate": False, "epoch_every_n_steps": 2,
            "rollout": {"enabled": False}, "render_video": False, "save": {"enabled": False},
        },
        "train": {"data": str(data), "output_dir": str(out), "num_epochs": 2, "batch_size": 4,
                  "hdf5_filter_key": None},
        "algo": {"critic": {"value_bounds": None}},
        "observation": {"modalities": {"obs": {"low_dim": low_dim, "rgb": rgb}}},
    }  # fmt: skip
    config = out.with_suffix(".json")
    config.write_text(json.dumps(merge(merge(image_settings(), small), changes)))
    return str(config)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_epochs_without_rollouts(layout: str, tmp_path: Path) -> None:
    data = prepare(layout, tmp_path)
    assert main(["validate", str(data)]) == 0
    run = training_run.train(training_run.TrainOptions(settings(layout, data, tmp_path / "out")))
    assert "Epoch 2" in (run / "logs" / "log.txt").read_text()


def test_what_is_described(tmp_path: Path) -> None:
    kinds = {}
    for layout, (write, *_) in LAYOUTS.items():
        path = tmp_path / "x.hdf5"
        write(path)
        found = describe_file(path)
        kinds[layout] = (found.reward_kind, found.action_kind)
        assert found.transitions == sum(layouts.LENGTHS)
    assert kinds == {
        "robomimic low_dim": (RewardKind.SPARSE, "delta"),
        "robomimic image": (RewardKind.SPARSE, "delta"),
        "robomimic mg sparse": (RewardKind.HELD, "delta"),
        "robomimic mg dense": (RewardKind.DENSE, "delta"),
        "mimicgen": (RewardKind.SPARSE, "delta"),
        "Isaac Lab": (RewardKind.MISSING, None),
        "LIBERO": (RewardKind.SPARSE, "delta"),
    }


def test_isaac_lab_is_completed_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare("Isaac Lab", tmp_path)
    printed = capsys.readouterr().out
    assert "obs/datagen_info" in printed and "0 final transitions" in printed
    with h5py.File(tmp_path / "recorded.hdf5") as old, h5py.File(data) as new:
        for index, length in enumerate(layouts.LENGTHS):
            demo, before = new[f"data/demo_{index}"], old[f"data/demo_{index}"]
            np.testing.assert_array_equal(demo["rewards"][()], np.eye(length)[-1])
            np.testing.assert_array_equal(demo["dones"][()], np.eye(length)[-1])
            obs = before["obs/robot0_eef_pos"][()]
            np.testing.assert_array_equal(demo["obs/robot0_eef_pos"][()], obs)
            following = np.concatenate([obs[1:], obs[-1:]])
            np.testing.assert_array_equal(demo["next_obs/robot0_eef_pos"][()], following)
            assert "datagen_info" not in demo["obs"]
            assert demo["states/articulation/robot/joint_position"].shape == (length, 9)
            assert demo["initial_state/articulation/robot/root_pose"].shape == (1, 7)


def test_a_recorded_failure_is_not_assumed_a_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, new = tmp_path / "isaac.hdf5", tmp_path / "new.hdf5"
    layouts.isaac_lab(path)
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["success"] = False
    assert main(["convert", str(path), "--out", str(new), "--assume-success"]) == 2
    assert "demo_1 have success = False" in capsys.readouterr().err
    with h5py.File(path, "r+") as file:  # the remedy
        del file["data/demo_1"]
    assert main(["convert", str(path), "--out", str(new), "--assume-success"]) == 0
    assert main(["validate", str(new)]) == 0


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("layout", "package"), [("mimicgen", "mimicgen"), ("LIBERO", "libero"), ("Isaac Lab", "gym")]
)
def test_an_environment_that_is_not_installed_is_refused_before_training(
    layout: str, package: str, tmp_path: Path
) -> None:
    data = prepare(layout, tmp_path)
    rollouts = {"rollout": {"enabled": True}}
    config = settings(layout, data, tmp_path / "out", experiment=rollouts)
    with pytest.raises(ConfigError) as caught:
        training_run.train(training_run.TrainOptions(config))
    assert package in str(caught.value) and "--robosuite" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    # The remedy.
    off = {"experiment.rollout.enabled": False}
    training_run.train(training_run.TrainOptions(config, settings=off))


def test_bounds_that_cut_off_the_returns_are_refused(tmp_path: Path) -> None:
    data = prepare("robomimic mg sparse", tmp_path)
    bounded = {"critic": {"value_bounds": [0.0, 1.0]}}
    config = settings("robomimic mg sparse", data, tmp_path / "out", algo=bounded)
    with pytest.raises(ConfigError, match=r"value_bounds is \[0\.0, 1\.0\].*2\.97") as caught:
        training_run.train(training_run.TrainOptions(config))
    # The remedy: bounds for a goal that goes on being held, 1 / (1 - 0.99).
    assert "[0.0, 100.0]" in caught.value.action
    wide = {"algo.critic.value_bounds": [0.0, 100.0]}
    training_run.train(training_run.TrainOptions(config, settings=wide))
