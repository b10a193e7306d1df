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

from robomimic_vae_ext.data.validate import validate_dataset
from robomimic_vae_ext.errors import DatasetError
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
    "no actions": (drop("data/demo_1/actions"), "actions is nothing"),
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
    "no rewards": (drop("data/demo_1/rewards"), "has no rewards.*convert_dataset.py"),
    "no dones": (drop("data/demo_1/dones"), "has no dones.*convert_dataset.py"),
    "no next_obs": (drop("data/demo_1/next_obs"), "has no next_obs.*convert_dataset.py"),
    "dones length": (lambda f: replace(f, "data/demo_1/dones", np.zeros(3)), r"dones is \(3,\)"),
    "num_samples": (attribute("num_samples", 7, "data/demo_0"), "num_samples is 7"),
    "mask": (
        lambda f: replace(f, "mask/train", np.array(["demo_0", "demo_9"], dtype="S")),
        "mask/train names demo_9",
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
    with pytest.raises(DatasetError, match=r"no pictures of camera 'frontview'.*\(agentview\)"):
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


def test_script_exit_codes(tiny_dataset: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "validate_dataset.py"), str(tiny_dataset)]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert "2 demonstrations, 9 transitions" in good.stdout
    bad = subprocess.run(
        [*command, "--obs-keys", "object"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: ") and bad.stderr.count("\n") == 1
