"""Every kind of bad dataset gives its own sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.cli import main
from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError
from tests.conftest import damage
from tests.data.conftest import SCRIPTS


def test_valid_dataset_is_described(tiny_dataset: Path) -> None:
    info = validate_dataset(tiny_dataset, obs_keys=["agentview_image"], filter_keys=["valid"])
    assert info.demos == ("demo_0", "demo_1")
    assert info.transitions == 9
    assert info.obs_shapes == {"agentview_image": (8, 8, 3)}
    assert info.action_size == 7
    assert info.filter_keys == ("train", "valid")


def test_demos_are_sorted_by_number(tiny_dataset: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        file.copy("data/demo_1", "data/demo_10")
        file.copy("data/demo_1", "data/demo_2")
    assert validate_dataset(tiny_dataset).demos == ("demo_0", "demo_1", "demo_2", "demo_10")


def replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


def put(name: str, index: tuple[int, ...] | int, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][index] = value

    return change


def drop(*names: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return change


def attribute(key: str, value: object, group: str = "data") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[group].attrs[key] = value

    return change


def group(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_group(name)

    return change


def link(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = h5py.SoftLink("/nowhere")

    return change


def names(mask: str, *members: str) -> Callable[[h5py.File], None]:
    return lambda file: replace(file, f"mask/{mask}", np.array(members, dtype="S6"))


def everywhere(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def change_all(file: h5py.File) -> None:
        for demo in file["data"].values():
            for part in ("obs", "next_obs"):
                replace(demo, f"{part}/{key}", change(demo[f"{part}/{key}"][()]))

    return change_all


STRINGS = np.full((5, 7), b"x")
PICTURES = "agentview_image"

BROKEN: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no data": (drop("data"), "no group 'data'"),
    "no demos": (drop("data/demo_0", "data/demo_1"), "no demonstrations"),
    "bad name": (lambda f: f.move("data/demo_0", "data/first"), "demonstrations named first"),
    "no env_args": (lambda f: f["data"].attrs.__delitem__("env_args"), "no attribute env_args"),
    "bad JSON": (attribute("env_args", "{"), "env_args is not JSON"),
    "env_args keys": (attribute("env_args", json.dumps({"type": 1})), "without env_name"),
    "env_args list": (attribute("env_args", "[]"), "without env_name, type, env_kwargs"),
    "no obs": (drop("data/demo_0/obs"), "has no observations"),
    "key in one demo": (drop("data/demo_1/obs/robot0_eef_pos"), "demo_1/obs has no"),
    "shape": (
        lambda f: replace(f, "data/demo_1/obs/robot0_eef_pos", np.zeros((4, 2))),
        r"demo_1/obs/robot0_eef_pos is \(4, 2\); expected \(4, 3\)",
    ),
    "next shape": (
        lambda f: replace(f, "data/demo_1/next_obs/agentview_image", np.zeros((4, 9, 8, 3))),
        "demo_1/next_obs/agentview_image",
    ),
    "no actions": (drop("data/demo_1/actions"), "actions is missing"),
    "action size": (
        lambda f: replace(f, "data/demo_1/actions", np.zeros((4, 6))),
        "6 dimensions; expected 7",
    ),
    "NaN action": (put("data/demo_0/actions", (2, 1), np.nan), "NaN or infinite at step 2"),
    "big action": (put("data/demo_0/actions", (2, 1), -1.5), "reaches 1.5"),
    "NaN observation": (
        put("data/demo_1/obs/robot0_eef_pos", (3, 1), np.nan),
        "data/demo_1/obs/robot0_eef_pos is NaN or infinite at step 3",
    ),
    "inf next observation": (
        put("data/demo_0/next_obs/robot0_eef_pos", (4, 0), -np.inf),
        "data/demo_0/next_obs/robot0_eef_pos is NaN or infinite at step 4",
    ),
    "NaN done": (
        lambda f: replace(f, "data/demo_1/dones", np.array([0, np.nan, 0, 1])),
        "demo_1/dones is NaN or infinite at step 1",
    ),
    "inf reward": (put("data/demo_0/rewards", 3, np.inf), "rewards is NaN or infinite at step 3"),
    "no rewards": (drop("data/demo_1/rewards"), "has no rewards.*lapo convert"),
    "no dones": (drop("data/demo_1/dones"), "has no dones.*lapo convert"),
    "no next_obs": (drop("data/demo_1/next_obs"), "has no next_obs.*lapo convert"),
    "dones length": (lambda f: replace(f, "data/demo_1/dones", np.zeros(3)), r"dones is \(3,\)"),
    "num_samples": (attribute("num_samples", 7, "data/demo_0"), "num_samples is 7"),
    "mask": (
        lambda f: replace(f, "mask/train", np.array(["demo_0", "demo_9"], dtype="S")),
        "mask/train names demo_9",
    ),
    "number for a name": (
        lambda f: (f.move("data/demo_0", "data/0"), names("train", "0")(f)),
        "demonstrations named 0; expected names demo_0",
    ),
    "mask twice": (names("train", "demo_0", "demo_0"), "mask/train names demo_0 twice"),
    "masks overlap": (
        names("valid", "demo_0", "demo_1"),
        "mask/train and mask/valid both name demo_0",
    ),
    "mask group": (group("mask/train"), "mask/train is not an array"),
    "mask scalar": (
        lambda f: replace(f, "mask/train", np.bytes_("demo_0")),
        r"mask/train is an array \(\)",
    ),
    "masks array": (lambda f: replace(f, "mask", np.zeros(2)), "mask is an array"),
    "float pictures": (
        everywhere(PICTURES, lambda a: a / 255),
        "agentview_image has images of type float64; expected uint8 from 0 to 255",
    ),
    "float pictures of one demo": (
        lambda f: replace(f, f"data/demo_1/obs/{PICTURES}", np.full((4, 8, 8, 3), np.nan)),
        "demo_1/obs/agentview_image has images of type float64",
    ),
    "channels first": (
        everywhere(PICTURES, lambda a: np.moveaxis(a, -1, 1)),
        r"images of shape \(3, 8, 8\).*last axis",
    ),
    "NaN depth": (
        everywhere(PICTURES, lambda a: np.full((*a.shape[:-1], 1), np.nan)),
        "agentview_image is NaN or infinite at step 0",
    ),
    "string observation": (
        everywhere("robot0_eef_pos", lambda a: np.full(a.shape, b"x")),
        r"obs/robot0_eef_pos is of type \|S1; expected an array of numbers",
    ),
    "empty observation": (everywhere("robot0_eef_pos", lambda a: a[:, :0]), r"is \(5, 0\)"),
    "observation group": (group("data/demo_1/obs/robot0_eef_pos"), "robot0_eef_pos is a group"),
    "first observation group": (group("data/demo_0/obs/robot0_eef_pos"), "is a group"),
    "observation link": (link("data/demo_1/obs/robot0_eef_pos"), "is a broken link"),
    "next_obs array": (
        lambda f: replace(f, "data/demo_1/next_obs", np.zeros((4, 3))),
        "demo_1/next_obs is an array; expected a group",
    ),
    "done of 7": (put("data/demo_0/dones", 2, 7), "dones is 7 at step 2"),
    "string actions": (
        lambda f: replace(f, "data/demo_0/actions", STRINGS),
        r"actions is of type \|S1",
    ),
    "action group": (group("data/demo_0/actions"), "actions is a group"),
    "no action dimensions": (
        lambda f: replace(f, "data/demo_0/actions", np.zeros((5, 0))),
        r"actions is \(5, 0\)",
    ),
    "reward group": (group("data/demo_0/rewards"), "rewards is a group"),
    "demo link": (link("data/demo_7"), "data/demo_7 is a broken link"),
    "num_samples array": (
        attribute("num_samples", np.array([5, 5]), "data/demo_0"),
        r"num_samples is \[5, 5\]",
    ),
    "num_samples string": (attribute("num_samples", "5", "data/demo_0"), "num_samples is '5'"),
    "no env_kwargs": (
        attribute("env_args", json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": None})),
        "env_kwargs null; expected a JSON object",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_dataset(tiny_dataset: Path, case: str) -> None:
    change, message = BROKEN[case]
    with h5py.File(tiny_dataset, "r+") as file:
        change(file)
    with pytest.raises(DatasetError, match=message) as caught:
        validate_dataset(tiny_dataset)
    assert "\n" not in str(caught.value)
    assert caught.value.action


def test_a_wanted_mask_is_not_empty(tiny_dataset: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        names("train")(file)
    validate_dataset(tiny_dataset)
    with pytest.raises(DatasetError, match="mask/train is empty"):
        validate_dataset(tiny_dataset, filter_keys=["train"])


def test_damaged_values(tiny_dataset: Path) -> None:
    damage(tiny_dataset, "data/demo_1/actions")
    with pytest.raises(DatasetError, match="data/demo_1/actions cannot be read"):
        validate_dataset(tiny_dataset)


def test_damaged_pictures_are_found_if_they_are_read(tiny_dataset: Path) -> None:
    validate_dataset(tiny_dataset, read_pictures=True)
    name = f"data/demo_1/next_obs/{PICTURES}"
    damage(tiny_dataset, name)
    validate_dataset(tiny_dataset)
    with pytest.raises(DatasetError, match=f"{name} cannot be read"):
        validate_dataset(tiny_dataset, read_pictures=True)


@pytest.mark.parametrize("key", ["rewards", "dones"])
def test_nothing_but_zeros_is_a_warning(
    tiny_dataset: Path, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    validate_dataset(tiny_dataset)
    assert not caplog.text
    with h5py.File(tiny_dataset, "r+") as file:
        for demo in file["data"].values():
            demo[key][...] = 0
    validate_dataset(tiny_dataset)
    assert f"{key} are 0 at every step" in caplog.text
    caplog.clear()
    validate_dataset(tiny_dataset, need_transitions=False)
    assert not caplog.text


def test_depth_may_be_floats(tiny_dataset: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        everywhere(PICTURES, lambda a: np.zeros((*a.shape[:-1], 1), np.float32))(file)
    assert validate_dataset(tiny_dataset).obs_shapes[PICTURES] == (8, 8, 1)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no file"):
        validate_dataset(tmp_path / "none.hdf5")


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_truncated_file(tiny_dataset: Path, keep: int) -> None:
    tiny_dataset.write_bytes(tiny_dataset.read_bytes()[:keep])
    with pytest.raises(DatasetError, match="cannot be read as HDF5"):
        validate_dataset(tiny_dataset)


def test_asked_for_key_lists_available_ones(tiny_dataset: Path) -> None:
    with pytest.raises(DatasetError, match="agentview_image, robot0_eef_pos"):
        validate_dataset(tiny_dataset, obs_keys=["object"])
    with pytest.raises(DatasetError, match=r"no images of camera 'frontview'.*\(agentview\)"):
        validate_dataset(tiny_dataset, obs_keys=["frontview_image"])
    with pytest.raises(DatasetError, match="no filter key 'success'"):
        validate_dataset(tiny_dataset, filter_keys=["success"])


def test_imitation_needs_no_transitions(tiny_dataset: Path) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        for name in ("next_obs", "rewards", "dones"):
            del file[f"data/demo_0/{name}"]
    assert validate_dataset(tiny_dataset, need_transitions=False).transitions == 9


def test_other_robosuite_version(tiny_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        file["data"].attrs["env_args"] = json.dumps(env_args | {"env_version": "1.4.1"})
    validate_dataset(tiny_dataset)
    assert "robosuite 1.4.1" in caplog.text
    with pytest.raises(DatasetError, match=r"robosuite 1\.4\.1"):
        validate_dataset(tiny_dataset, strict_version=True)


OLD = {"controller_configs": {"type": "OSC_POSE"}}


@pytest.mark.parametrize(
    "changes", [{"env_version": 1.4}, {"env_version": None, "env_kwargs": OLD}]
)
def test_an_old_version_is_known_by_number_or_controllers(
    tiny_dataset: Path, changes: dict[str, object]
) -> None:
    with h5py.File(tiny_dataset, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        file["data"].attrs["env_args"] = json.dumps(env_args | changes)
    validate_dataset(tiny_dataset)
    with pytest.raises(DatasetError, match=r"was made with robosuite 1\.4;"):
        validate_dataset(tiny_dataset, rollouts=True)


def test_every_file_is_checked(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(tmp_path / "none.hdf5"), str(tiny_dataset)]) == 2
    out, err = capsys.readouterr()
    assert f"{tiny_dataset}: valid" in out and "none.hdf5" in err
    assert err.count("\n") == 1


def test_script_exit_codes(tiny_dataset: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "validate_dataset.py"), str(tiny_dataset)]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert "2 demonstrations, 9 transitions" in good.stdout
    bad = subprocess.run(
        [*command, "--obs-keys", "object"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("lapo validate: ") and bad.stderr.count("\n") == 1
    damage(tiny_dataset, f"data/demo_0/obs/{PICTURES}")
    read = subprocess.run(
        [*command, "--read-pictures"], capture_output=True, text=True, check=False
    )
    assert read.returncode == 2 and f"obs/{PICTURES} cannot be read" in read.stderr
