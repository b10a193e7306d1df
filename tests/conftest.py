"""Fixtures for all tests: a tiny image dataset without simulator, and models built from it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
import torch

# What runs in the background of a script ignores Ctrl-C and hands that on to its children, of which
# the tests require that they obey it.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parent.parent
IMAGE_SIZE = 44  # smallest round size that NatureCNNCore takes after a crop to 40
OBS_DIMS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
ACTION_DIM = 7


def write_dataset(path: Path, lengths: tuple[int, ...], seed: int = 0) -> None:
    """Write random demonstrations in robomimic's schema; every second one ends in success."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env_args = {"env_name": "Lift", "env_version": "1.5.2", "type": 1, "env_kwargs": {}}
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["total"] = sum(lengths)
        for index, length in enumerate(lengths):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = length
            done = np.zeros(length)
            done[-1] = index % 2 == 0
            demo["actions"] = rng.uniform(-1, 1, (length, ACTION_DIM))
            demo["rewards"], demo["dones"] = done, done.astype(np.int64)
            demo["states"] = rng.normal(size=(length, 5))
            frames: dict[str, np.ndarray] = {
                key: rng.normal(size=(length + 1, size)) for key, size in OBS_DIMS.items()
            }
            shape = (length + 1, IMAGE_SIZE, IMAGE_SIZE, 3)
            frames |= {key: rng.integers(0, 256, shape, dtype=np.uint8) for key in CAMERAS}
            for key, value in frames.items():
                demo[f"obs/{key}"], demo[f"next_obs/{key}"] = value[:-1], value[1:]
        names = [f"demo_{index}".encode() for index in range(len(lengths))]
        file["mask/train"], file["mask/valid"] = names[:-1], names[-1:]


def damage(path: Path, name: str) -> None:
    """Compress an array of a dataset and overwrite it with zeros, which no unpacking survives."""
    with h5py.File(path, "r+") as file:
        values = file[name][()]
        del file[name]
        array = file.create_dataset(name, data=values, chunks=values.shape, compression="gzip")
        chunk = array.id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\0" * chunk.size)


def run_script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a script of ours in this process, which saves the seconds of its imports.

    The README's test runs the good cases of all that the README names as its users do.
    """
    command = [str(REPOSITORY / "scripts" / name), *map(str, words)]
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(command, code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six demonstrations of 3 to 12 steps with two cameras."""
    path = tmp_path_factory.mktemp("data") / "tiny.hdf5"
    write_dataset(path, lengths=(12, 9, 3, 7, 11, 8))
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: small tensors, and the same sums on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Restore the levels that a verb of `lapo` sets for its process, which is ours in a test."""
    names = ("robomimic_vae_ext", "robomimic_vae_ext.benchmark", "robomimic_vae_ext.gradient_flow")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def image_settings(owner: str = "critic") -> dict[str, Any]:
    """What the image tests change from the default config."""
    return {
        "train": {"batch_size": 8, "cuda": False, "hdf5_filter_key": "train"},
        "algo": {
            "encoder": {"owner": owner, "trunk_dim": 16},
            "critic": {"layer_dims": [16], "value_bounds": [0.0, 1.0]},
            "vae": {"layer_dims": [16]},
            "actor": {"layer_dims": [16]},
        },
        "observation": {
            "modalities": {
                "obs": {"low_dim": ["robot0_eef_pos", "robot0_gripper_qpos"], "rgb": CAMERAS}
            },
            "encoder": {
                "rgb": {
                    "core_class": "NatureCNNCore",
                    "core_kwargs": {"channels": [4, 4, 4]},
                    "obs_randomizer_class": "SlicedCropRandomizer",
                    "obs_randomizer_kwargs": {
                        "crop_height": 40,
                        "crop_width": 40,
                        "num_crops": 1,
                        "pos_enc": False,
                    },
                }
            },
        },
    }


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the second one winning."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


@pytest.fixture
def make_config(dataset: Path) -> Callable[..., Any]:
    """Locked LAPO config for the tiny dataset, with changes."""

    def make(changes: dict[str, Any] | None = None, owner: str = "critic") -> Any:
        import robomimic.utils.obs_utils as obs_utils
        from robomimic.config import config_factory

        config = config_factory("lapo")
        with config.values_unlocked():
            config.update(merge(image_settings(owner), changes or {}))
            config.train.data = data_entry(dataset)
        config.lock()
        obs_utils.initialize_obs_utils_with_config(config)
        return config

    return make


@pytest.fixture
def make_model(make_config: Callable[..., Any]) -> Callable[..., Any]:
    """LAPO model on CPU with fixed weights, in training mode."""

    def make(changes: dict[str, Any] | None = None, owner: str = "critic", seed: int = 0) -> Any:
        from robomimic.algo import algo_factory

        config = make_config(changes, owner)
        shapes: dict[str, list[int]] = {key: [size] for key, size in OBS_DIMS.items()}
        shapes |= {key: [3, IMAGE_SIZE, IMAGE_SIZE] for key in CAMERAS}
        torch.manual_seed(seed)
        model = algo_factory("lapo", config, shapes, ACTION_DIM, torch.device("cpu"))
        model.set_train()
        return model

    return make


@pytest.fixture
def make_batch(dataset: Path) -> Callable[..., Any]:
    """One processed batch for a model, from the in-memory replay or from SequenceDataset."""

    def make(model: Any, seed: int = 0, replay: bool = True, size: int = 8) -> dict[str, Any]:
        import robomimic.utils.train_utils as train_utils
        from torch.utils.data import DataLoader

        config = model.global_config.deepcopy()
        with config.unlocked():
            config.algo.replay.enabled = replay
        data = train_utils.dataset_factory(
            config, obs_keys=config.all_obs_keys, filter_by_attribute="train"
        )
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(data, batch_size=size, shuffle=True, generator=generator)
        batch = model.process_batch_for_training(next(iter(loader)))
        return model.postprocess_batch_for_training(batch, obs_normalization_stats=None)

    return make


def data_entry(path: Path) -> Any:
    """`config.train.data` as robomimic's train.py hands it on: a list of datasets since 0.5.0."""
    from packaging.version import Version

    from robomimic_vae_ext import compat

    listed = compat.robomimic_version() >= Version("0.4")
    return [{"path": str(path)}] if listed else str(path)


@pytest.fixture(scope="session")
def trained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a few training steps on a tiny dataset collected in the simulator."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the first process makes it for all
        base = base.parent
    with (base / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "trained" / "done").exists():
            shutil.rmtree(base / "trained", ignore_errors=True)  # of a process that failed
            _train(base / "trained")
            (base / "trained" / "done").touch()
    return next((base / "trained").glob("out/tiny/*/models/*.pth"))


def _train(folder: Path) -> None:
    folder.mkdir()
    data = folder / "lift.hdf5"
    scripts = REPOSITORY / "scripts"
    subprocess.run(
        [sys.executable, str(scripts / "collect_dataset.py"), "--env", "Lift", "--quality",
         "expert", "--n", "2", "--cameras", "agentview", "robot0_eye_in_hand", "--size", "44",
         "--seed", "0", "--out", str(data)],
        check=True, capture_output=True,
    )  # fmt: skip
    changes = {
        "algo_name": "lapo",
        "experiment": {
            "name": "tiny", "epoch_every_n_steps": 2, "save": {"every_n_epochs": 1},
            "rollout": {"n": 1, "horizon": 4, "rate": 1},
        },
        "train": {
            "data": str(data), "output_dir": str(folder / "out"), "num_epochs": 1,
        },
    }  # fmt: skip
    config = folder / "config.json"
    config.write_text(json.dumps(merge(image_settings(), changes)))
    result = subprocess.run(
        [sys.executable, "-m", "robomimic.scripts.train", "--config", str(config)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "finished run successfully!" in result.stdout, result.stdout[-3000:] + result.stderr
