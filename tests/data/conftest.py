"""Fixtures for datasets: a tiny file made of numbers, and short simulated ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

# Mesa's software EGL and triton each bring their own LLVM. Loaded in the order EGL, triton, the
# process dies of a segmentation fault; robomimic imports torchvision, and so triton, before it
# makes an environment, and so must these tests.
import torchvision  # noqa: F401

# Before anything imports MuJoCo.
os.environ.setdefault("MUJOCO_GL", "egl")

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    """A valid robomimic dataset of two demonstrations, without a simulator."""
    path = tmp_path / "tiny.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 9
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "env_version": "1.5.2", "type": 1, "env_kwargs": {}}
        )
        for index, length in enumerate((5, 4)):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = length
            demo["actions"] = rng.uniform(-1, 1, (length, 7))
            demo["rewards"] = np.eye(length)[-1]
            demo["dones"] = np.eye(length, dtype=np.int64)[-1]
            for part in ("obs", "next_obs"):
                demo[f"{part}/robot0_eef_pos"] = rng.standard_normal((length, 3))
                demo[f"{part}/agentview_image"] = np.zeros((length, 8, 8, 3), np.uint8)
        file["mask/train"] = np.array(["demo_0"], dtype="S")
        file["mask/valid"] = np.array(["demo_1"], dtype="S")
    return path


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Any]:
    """Build settings of short Lift episodes; keywords override."""

    def make(cameras: tuple[str, ...] = (), size: int = 16, **changes: Any) -> Any:
        from robomimic_vae_ext.data.simulation.envs import EnvSpec
        from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings

        task = changes.pop("task", "Lift")
        options = {"n": 3, "seed": 3, "horizon": 30, "quality": "expert"} | changes
        return CollectSettings(EnvSpec(task, cameras, size), **options)

    return make


@pytest.fixture(scope="session")
def lift_images(tmp_path_factory: pytest.TempPathFactory, make_settings: Any) -> Path:
    """Three expert episodes of Lift with one camera, collected by one process."""
    from robomimic_vae_ext.data.simulation.collect import collect

    path: Path = tmp_path_factory.mktemp("lift") / "lift.hdf5"
    collect(make_settings(cameras=("agentview",)), path)
    return path


def content(path: Path) -> dict[str, Any]:
    """Return every dataset and attribute of a file, for comparison."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = value
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def assert_same_content(first: Path, second: Path) -> None:
    """Assert that two files hold bit-identical data."""
    one, two = content(first), content(second)
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
