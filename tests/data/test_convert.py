"""Completing a dataset, and translating env_args between robosuite versions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.cli import main
from robomimic_vae_ext.data.conversion.convert import complete_dataset
from robomimic_vae_ext.data.conversion.env_args import convert_env_args
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError, OutputError
from tests.data.conftest import SCRIPTS, content

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
    with pytest.raises(OutputError, match="is the source"):
        complete_dataset(tiny_dataset, tiny_dataset, overwrite=True)
    assert tiny_dataset.read_bytes() == before


def test_an_existing_target_is_replaced_on_request_only(tiny_dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.hdf5"
    target.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        complete_dataset(tiny_dataset, target)
    assert target.read_text() == "precious"
    complete_dataset(tiny_dataset, target, overwrite=True)
    assert validate_dataset(target).transitions == 9


def test_env_args_to_15() -> None:
    new = convert_env_args(old_env_args(), "1.5.2")
    config = new["env_kwargs"]["controller_configs"]
    assert config["type"] == "BASIC"
    arm = config["body_parts"]["right"]
    assert arm["type"] == "OSC_POSE"
    assert arm["gripper"] == {"type": "GRIP"}
    assert (arm["input_type"], arm["input_ref_frame"]) == ("delta", "world")
    assert arm["damping_ratio"] == 1 and "damping" not in arm and "control_delta" not in arm
    assert new["env_kwargs"]["lite_physics"] is False
    assert new["env_version"] == "1.5.2"
    assert convert_env_args(new, "1.5.2") == new


def test_env_args_there_and_back() -> None:
    arm = {key: value for key, value in OLD_ARM.items() if key != "damping"} | {"damping_ratio": 1}
    for absolute in (False, True):
        config = arm | {"control_delta": not absolute}
        old = old_env_args(controller_configs=config, env_configuration="single-arm-opposed")
        new = convert_env_args(old, "1.5.2")
        assert convert_env_args(new, "1.4.1") == old
        assert old["env_kwargs"]["controller_configs"] is config  # a copy was converted


@pytest.mark.parametrize(
    ("change", "match", "remedy"),
    [
        ({"damping": 3}, "damping 3", {"damping": 1}),
        ({"position_limits": [[-1], [1]]}, "position_limits", {"position_limits": None}),
        ({"type": "OSC_POSITION"}, "OSC_POSITION", None),
        ({"type": "IK_POSE"}, "IK_POSE", None),
        ({"type": "JOINT_VELOCITY"}, "JOINT_VELOCITY", None),
    ],
)
def test_what_would_move_otherwise_is_refused(
    change: dict[str, Any], match: str, remedy: dict[str, Any] | None
) -> None:
    old = old_env_args(controller_configs=OLD_ARM | change)
    with pytest.raises(DatasetError, match=match):
        convert_env_args(old, "1.5.2")
    if remedy is not None:
        convert_env_args(old_env_args(controller_configs=OLD_ARM | change | remedy), "1.5.2")


def test_absolute_goals_of_10_are_refused() -> None:
    """They count from the pose at reset."""
    old = old_env_args(controller_configs=OLD_ARM | {"control_delta": False})
    convert_env_args(old | {"env_version": "1.2.0"}, "1.5.2")
    with pytest.raises(DatasetError, match=r"absolute goals of robosuite 1\.0"):
        convert_env_args(old | {"env_version": "1.0.1"}, "1.5.2")


@pytest.mark.parametrize(("before", "after"), [("1.4.1", "1.5.2"), ("1.5.2", "1.4.1")])
def test_the_default_controller_is_not_guessed(before: str, after: str) -> None:
    """1.4's is JOINT_VELOCITY, 1.5's OSC_POSE."""
    old = old_env_args(controller_configs=None) | {"env_version": before}
    with pytest.raises(DatasetError, match="controller_configs"):
        convert_env_args(old, after)
    assert convert_env_args(old, before) == old


def arm_15(**changes: Any) -> dict[str, Any]:
    arm = {"type": "OSC_POSE", "input_type": "delta", "input_ref_frame": "base"} | changes
    return {"type": "BASIC", "body_parts": {"right": arm}}


@pytest.mark.parametrize(
    ("arm", "kwargs", "refused"),
    [
        (arm_15(), {}, False),
        (arm_15(), {"env_configuration": "parallel"}, False),
        (arm_15(input_ref_frame="world", input_type="absolute"), {}, False),
        (arm_15(input_type="absolute"), {}, True),
        (arm_15(type="JOINT_POSITION"), {}, False),
        (arm_15(type="JOINT_POSITION", input_type="absolute"), {}, True),
        (arm_15(type="OSC_POSITION"), {}, True),
    ],
)
def test_what_14_has(arm: dict[str, Any], kwargs: dict[str, Any], refused: bool) -> None:
    new = old_env_args(controller_configs=arm, **kwargs) | {"env_version": "1.5.2"}
    if refused:
        with pytest.raises(DatasetError, match="moves as before"):
            convert_env_args(new, "1.4.1")
    else:
        convert_env_args(new, "1.4.1")


def test_a_turned_base_has_no_base_frame_in_14() -> None:
    new = old_env_args(controller_configs=arm_15(), env_configuration="opposed")
    with pytest.raises(DatasetError, match="base frame"):
        convert_env_args(new | {"env_version": "1.5.2", "env_name": "TwoArmLift"}, "1.4.1")


def test_absolute_joint_positions_of_14_were_deltas() -> None:
    """1.4 reads no control_delta there."""
    config = {"type": "JOINT_POSITION", "control_delta": False}
    new = convert_env_args(old_env_args(controller_configs=config), "1.5.2")
    arm = new["env_kwargs"]["controller_configs"]["body_parts"]["right"]
    assert arm["input_type"] == "delta"


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


def time_out(path: Path) -> None:
    """Make every demonstration one that ran out of time, without next observations."""
    without(path, "next_obs")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["dones"][...] = 0


def replace(path: Path, name: str, values: Any) -> None:
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        file[name] = values


def test_what_is_not_understood_is_copied(tiny_dataset: Path, tmp_path: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        file.attrs["origin"] = "lab"
        file["info/camera"] = np.eye(3)
        file["info"].attrs["lens"] = "wide"
        file["data/info"] = np.arange(3)
        demo = file["data/demo_0"]
        demo["action_dict/abs_pos"] = np.zeros((5, 3))
        demo["states"] = np.zeros((6, 32))
        demo["initial_state"] = np.arange(4)
        demo["success"] = True
        demo["obs/robot0_eef_pos"].attrs["unit"] = "m"
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    with h5py.File(tmp_path / "new.hdf5") as new:
        assert new.attrs["origin"] == "lab"
    old, new = content(tiny_dataset), content(tmp_path / "new.hdf5")
    for key in old.keys() - {"data@env_args"}:
        np.testing.assert_array_equal(old[key], new[key], err_msg=key)
    assert old.keys() == new.keys()


def test_what_is_dropped_is_dropped_everywhere(tiny_dataset: Path, tmp_path: Path) -> None:
    time_out(tiny_dataset)
    with h5py.File(tiny_dataset, "r+") as file:
        file["data/demo_0/action_dict/abs_pos"] = np.zeros((5, 3))
        file["data/demo_0/states"] = np.zeros((6, 32))
        file["data/demo_0/initial_state"] = np.arange(3)
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    with h5py.File(tmp_path / "new.hdf5") as file:
        demo = file["data/demo_0"]
        lengths = [len(demo[name]) for name in ("actions", "action_dict/abs_pos", "states")]
        assert lengths == [4, 4, 5]
        assert len(demo["initial_state"]) == 3


@pytest.mark.parametrize("terminal", [True, False])
def test_the_observation_after_the_last_action_is_used(
    tiny_dataset: Path, tmp_path: Path, terminal: bool
) -> None:
    without(tiny_dataset, "next_obs") if terminal else time_out(tiny_dataset)
    with h5py.File(tiny_dataset, "r+") as file:
        for demo in file["data"].values():
            obs = demo["obs"]
            for key in obs:
                values = obs[key][()]
                del obs[key]
                obs[key] = np.concatenate([values, values[:1]])
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    assert report.dropped == 0
    assert validate_dataset(report.path).transitions == 9
    with h5py.File(report.path) as file:
        demo = file["data/demo_1"]
        np.testing.assert_array_equal(
            demo["next_obs/robot0_eef_pos"][-1], demo["obs/robot0_eef_pos"][0]
        )


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_chunks_fit_a_shorter_demonstration(
    tiny_dataset: Path, tmp_path: Path, compression: str
) -> None:
    time_out(tiny_dataset)
    with h5py.File(tiny_dataset, "r+") as file:
        obs = file["data/demo_0/obs"]
        values = obs["robot0_eef_pos"][()]
        del obs["robot0_eef_pos"]
        obs.create_dataset("robot0_eef_pos", data=values, compression=compression)
        assert obs["robot0_eef_pos"].chunks == (5, 3)
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    with h5py.File(tmp_path / "new.hdf5") as file:
        array = file["data/demo_0/next_obs/robot0_eef_pos"]
        assert (array.compression, array.chunks) == (compression, (4, 3))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("rewards", np.ones(7), r"demo_0/rewards is \(7,\); expected \(5,\)"),
        ("dones", np.ones((5, 1)), r"demo_0/dones is \(5, 1\)"),
        ("obs/robot0_eef_pos", np.zeros((3, 3)), r"expected a length of 5 or 6"),
        ("next_obs/robot0_eef_pos", np.zeros((7, 3)), r"expected a length of 5 or 6"),
        ("obs", np.zeros((5, 2)), "demo_0/obs is an array"),
        ("obs/extra", np.zeros((5, 2)), "next_obs has the keys .*; expected those of obs"),
        ("actions", np.zeros((0, 7)), r"demo_0/actions is \(0, 7\)"),
        ("actions", np.full((5, 7), b"x"), r"demo_0/actions is of type \|S1"),
        ("extra", h5py.SoftLink("/nowhere"), "demo_0/extra is a broken link"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tiny_dataset: Path, tmp_path: Path, name: str, values: Any, message: str
) -> None:
    replace(tiny_dataset, f"data/demo_0/{name}", values)
    with pytest.raises(DatasetError, match=message):
        complete_dataset(tiny_dataset, tmp_path / "new.hdf5", assume_success=True)
    assert list(tmp_path.iterdir()) == [tiny_dataset]


def test_a_target_that_cannot_be_made_is_named(tiny_dataset: Path) -> None:
    with pytest.raises(DatasetError, match=r"/proc/nope/x.hdf5 cannot be created"):
        complete_dataset(tiny_dataset, Path("/proc/nope/x.hdf5"))


@pytest.mark.parametrize("version", [None, "1.4.1", 1.4])
def test_controllers_tell_an_old_version(version: object) -> None:
    new = convert_env_args(old_env_args() | {"env_version": version}, "1.5.2")
    assert new["env_kwargs"]["lite_physics"] is False


def test_controllers_tell_a_new_version() -> None:
    new = convert_env_args(old_env_args(), "1.5.2")
    new["env_kwargs"].pop("lite_physics")
    del new["env_version"]
    assert "lite_physics" not in convert_env_args(new, "1.5.2")["env_kwargs"]


@pytest.mark.parametrize(
    ("env_args", "message"),
    [
        (old_env_args(controller_configs="OSC_POSE"), "the controller 'OSC_POSE' in env_args"),
        (old_env_args() | {"type": 2}, "env_args of type 2; expected type 1, robosuite"),
    ],
)
def test_other_metadata_are_not_translated(env_args: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        convert_env_args(env_args, "1.5.2")


def test_the_target_is_named_once(tiny_dataset: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "new.hdf5")
    assert main(["convert", str(tiny_dataset)]) == 2
    assert main(["convert", str(tiny_dataset), target, "--out", target]) == 2
    assert list(tmp_path.iterdir()) == [tiny_dataset]
    assert main(["convert", str(tiny_dataset), "--out", target]) == 0
    assert main(["convert", str(tiny_dataset), target]) == 2  # exists
    assert main(["convert", str(tiny_dataset), target, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replay", "--compress", "foo"], "invalid choice: 'foo'"),
        (["--replay", "--clip-actions"], "--clip-actions with --replay"),  # would be ignored
        (["--cameras", "agentview", "--size", "64"], "--cameras --size without --replay"),
        ([], "has no rewards"),
    ],
)
def test_script_reports_bad_input_in_one_line(
    tiny_dataset: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    if not options:
        without(tiny_dataset, "rewards")
    command = [sys.executable, str(SCRIPTS / "convert_dataset.py"), str(tiny_dataset)]
    done = subprocess.run(
        [*command, str(tmp_path / "new.hdf5"), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("lapo convert: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [tiny_dataset]


def every(path: Path, name: str, make: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace an array of every demonstration by what is made of it."""
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            values = demo[name][()]
            del demo[name]
            demo[name] = make(values)


def read(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        values: np.ndarray = file[name][()]
    return values


DENSE = np.array([0.1, 0.3, 0.2, 1.0, 0.9])
HELD = np.array([0.0, 0.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("rewards", "shaping"), [(DENSE, None), (HELD, False), (np.eye(5)[-1], True), (-HELD, None)]
)
def test_dones_are_inferred_from_sparse_rewards_alone(
    tiny_dataset: Path, tmp_path: Path, rewards: np.ndarray, shaping: bool | None
) -> None:
    without(tiny_dataset, "dones")
    every(tiny_dataset, "rewards", lambda old: rewards[-len(old) :])
    with h5py.File(tiny_dataset, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["env_kwargs"] = {"reward_shaping": shaping}
        file["data"].attrs["env_args"] = json.dumps(env_args)
    target = tmp_path / "new.hdf5"
    with pytest.raises(DatasetError, match=r"no dones.*--dones-from success, end or none"):
        complete_dataset(tiny_dataset, target)
    assert not target.exists()
    # The remedies.
    for rule, expected in (("end", [0, 0, 0, 0, 1]), ("none", [0] * 5)):
        report = complete_dataset(tiny_dataset, target, dones_from=rule, overwrite=True)
        np.testing.assert_array_equal(read(target, "data/demo_0/dones"), expected)
        assert validate_dataset(target).transitions == 9
        assert f"--dones-from {rule}" in report.describe()


@pytest.mark.parametrize(
    ("rewards", "expected"), [(HELD, [0, 0, 1, 1, 1]), (DENSE, [0, 0, 0, 1, 0])]
)
def test_dones_from_success(
    tiny_dataset: Path, tmp_path: Path, rewards: np.ndarray, expected: list[int]
) -> None:
    """Dense rewards of robosuite reach reward_scale, here 1, in success and there alone."""
    without(tiny_dataset, "dones")
    every(tiny_dataset, "rewards", lambda old: rewards[-len(old) :])
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5", dones_from="success")
    np.testing.assert_array_equal(read(tmp_path / "new.hdf5", "data/demo_0/dones"), expected)


def test_dense_rewards_of_others_do_not_show_success(tiny_dataset: Path, tmp_path: Path) -> None:
    without(tiny_dataset, "dones")
    every(tiny_dataset, "rewards", lambda old: DENSE[-len(old) :])
    with h5py.File(tiny_dataset, "r+") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Hopper", "type": 2})
    with pytest.raises(DatasetError, match="Use --dones-from end or none"):
        complete_dataset(tiny_dataset, tmp_path / "new.hdf5", dones_from="success")


@pytest.mark.parametrize("has_dones", [True, False])
def test_success_is_assumed_of_rewards_that_are_all_zero(
    tiny_dataset: Path, tmp_path: Path, has_dones: bool
) -> None:
    without(tiny_dataset, "next_obs", *(() if has_dones else ("dones",)))
    every(tiny_dataset, "rewards", np.zeros_like)
    if has_dones:
        every(tiny_dataset, "dones", np.zeros_like)
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5", assume_success=True)
    assert report.dropped == 0
    for name, length in (("demo_0", 5), ("demo_1", 4)):
        for key in ("rewards", "dones"):
            values = read(report.path, f"data/{name}/{key}")
            np.testing.assert_array_equal(values, np.eye(length)[-1])
    assert "rewards replaced" in report.describe()
    assert "reward 1 at the end of 2 demonstrations" in report.describe()
    assert validate_dataset(report.path).transitions == 9


def test_failures_among_successes_are_not_assumed_successes(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        file["data/demo_1/rewards"][...] = 0
    with pytest.raises(DatasetError, match="the rewards of demo_1 are 0 while others are paid"):
        complete_dataset(tiny_dataset, tmp_path / "new.hdf5", assume_success=True)
    with h5py.File(tiny_dataset, "r+") as file:  # the remedy
        del file["data/demo_1/rewards"]
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5", assume_success=True)
    np.testing.assert_array_equal(read(tmp_path / "new.hdf5", "data/demo_1/rewards"), [0, 0, 0, 1])


def test_a_reward_that_is_left_out_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    time_out(tiny_dataset)
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    assert report.dropped == 2
    assert "demo_0, demo_1" in report.describe() and "--dones-from" in report.describe()
    kept = complete_dataset(tiny_dataset, tmp_path / "kept.hdf5", dones_from="end")  # the remedy
    assert kept.dropped == 0 and validate_dataset(kept.path).transitions == 9


def longer(values: np.ndarray) -> np.ndarray:
    """One row more, as recorders write it that store the state after the last action too."""
    return np.concatenate([values, values[:1]])


@pytest.mark.parametrize("columns", [("actions",), ("actions", "rewards", "dones")])
@pytest.mark.parametrize("has_next", [True, False])
def test_a_row_after_the_last_transition_is_left_out_and_named(
    tiny_dataset: Path, tmp_path: Path, columns: tuple[str, ...], has_next: bool
) -> None:
    before = content(tiny_dataset)
    for name in columns:
        every(tiny_dataset, name, longer)
    assert validate_dataset(tiny_dataset).transitions == 9
    if not has_next:
        without(tiny_dataset, "next_obs")
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    assert set(report.left_out) == set(columns) and report.dropped == 0
    assert all(name in report.describe() for name in columns)
    after = content(report.path)
    for name in ("actions", "rewards", "dones", "obs/robot0_eef_pos"):
        for demo in ("data/demo_0", "data/demo_1"):
            np.testing.assert_array_equal(after[f"{demo}/{name}"], before[f"{demo}/{name}"])
    assert after["data/demo_0@num_samples"] == 5


def test_what_counts_the_transitions_is_asked_for(tiny_dataset: Path, tmp_path: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        file["data/demo_0"].attrs["num_samples"] = 3
    with pytest.raises(DatasetError, match="--length actions"):
        validate_dataset(tiny_dataset)
    with pytest.raises(DatasetError, match="num_samples is 3 with 5 actions"):
        complete_dataset(tiny_dataset, tmp_path / "new.hdf5")
    for rule, length in (("actions", 5), ("num_samples", 3)):
        target = tmp_path / f"{rule}.hdf5"
        complete_dataset(tiny_dataset, target, length=rule)
        assert validate_dataset(target).transitions == length + 4
        for name in ("actions", "obs/robot0_eef_pos", "next_obs/agentview_image"):
            old = read(tiny_dataset, f"data/demo_0/{name}")
            np.testing.assert_array_equal(read(target, f"data/demo_0/{name}"), old[:length])


@pytest.mark.parametrize("configs", ["1.4", "1.5", "list"])
def test_absolute_actions_are_never_clipped(
    tiny_dataset: Path, tmp_path: Path, configs: str
) -> None:
    part = {"type": "OSC_POSE", "input_type": "absolute"}
    found: Any = {
        "1.4": OLD_ARM | {"control_delta": False},
        "1.5": {"type": "BASIC", "body_parts": {"right": part}},
        "list": [OLD_ARM, OLD_ARM | {"control_delta": False}],
    }[configs]
    with h5py.File(tiny_dataset, "r+") as file:
        env_args = old_env_args(controller_configs=found)
        file["data"].attrs["env_args"] = json.dumps(env_args)
        file["data/demo_0/actions"][1, 3:5] = (2.96, 3.08)
    with pytest.raises(DatasetError, match=r"reaches 3\.08") as caught:
        validate_dataset(tiny_dataset)
    assert "--clip-actions" not in str(caught.value) and "absolute" in str(caught.value)
    with pytest.raises(DatasetError, match="env_args say that the actions are absolute"):
        complete_dataset(tiny_dataset, tmp_path / "new.hdf5", clip_actions=True)
    assert not (tmp_path / "new.hdf5").exists()


def test_differences_are_clipped_as_advised(tiny_dataset: Path, tmp_path: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        file["data"].attrs["env_args"] = json.dumps(old_env_args())
        file["data/demo_0/actions"][1, 3] = 1.5
    with pytest.raises(DatasetError, match="--clip-actions"):
        validate_dataset(tiny_dataset)
    report = complete_dataset(tiny_dataset, tmp_path / "new.hdf5", clip_actions=True)
    assert report.clipped == 1
    validate_dataset(report.path)


def test_the_report_groups_demonstrations(tiny_dataset: Path, tmp_path: Path) -> None:
    without(tiny_dataset, "next_obs")
    with h5py.File(tiny_dataset, "r+") as file:
        file["data/demo_1/dones"][...] = 0
    text = complete_dataset(tiny_dataset, tmp_path / "new.hdf5").describe().splitlines()
    assert "  demo_0: added next_obs" in text
    assert "  demo_1: added next_obs; last transition left out" in text


def test_masks_are_added_on_request(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--split, and it has train, valid"):
        complete_dataset(tiny_dataset, tmp_path / "new.hdf5", split=True)
    with h5py.File(tiny_dataset, "r+") as file:
        del file["mask"]
    complete_dataset(tiny_dataset, tmp_path / "new.hdf5", split=True)
    found = validate_dataset(tmp_path / "new.hdf5", filter_keys=["train", "valid"])
    assert sorted(found.masks["train"] + found.masks["valid"]) == ["demo_0", "demo_1"]
