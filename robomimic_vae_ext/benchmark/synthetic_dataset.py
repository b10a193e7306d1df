"""Synthetic datasets in robomimic's layout: timing needs shapes, not content."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robomimic_vae_ext.audit import ACTION_DIM
from robomimic_vae_ext.data import schema
from robomimic_vae_ext.data.simulation import envs


@dataclass(frozen=True)
class DatasetSize:
    """Size of a synthetic dataset.

    Args:
        demos: number of demonstrations.
        steps: transitions of each.
    """

    demos: int
    steps: int


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], size: DatasetSize) -> None:
    """Write random demonstrations in the layout of `lapo collect`.

    Args:
        path: of the HDF5 file.
        shapes: key to (H, W, C), uint8, or (D,), float.
        size: of the dataset.
    """
    rng = np.random.default_rng(0)
    cameras = [key.removesuffix("_image") for key, shape in shapes.items() if len(shape) == 3]
    env_args = envs.EnvSpec("Lift", tuple(cameras)).env_args()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        episodes = []
        for index in range(size.demos):
            episodes.append(Path(folder) / f"{index}.hdf5")
            with h5py.File(episodes[-1], "w") as file:
                schema.write_episode(file, _episode(rng, shapes, size.steps))
        schema.write_dataset(path, episodes, env_args, {}, seed=0)


def _episode(
    rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]], steps: int
) -> dict[str, Any]:
    def frames(shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 3:
            return rng.integers(0, 256, (steps + 1, *shape), dtype=np.uint8)
        return rng.normal(size=(steps + 1, *shape))

    last = np.arange(steps) == steps - 1
    return {
        "obs": {key: frames(shape) for key, shape in shapes.items()},
        "actions": rng.uniform(-1, 1, (steps, ACTION_DIM)),
        "rewards": last.astype(float),
        "dones": last.astype(np.int64),
        "states": rng.normal(size=(steps, 1)),
        "attrs": {"behaviour": "random", "success": True},
    }
