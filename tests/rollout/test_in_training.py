"""The rollouts of train.py in worker processes: what stock logs, from the same seeds."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import h5py
import imageio
import pytest

from robomimic_vae_ext.analysis import run_metrics
from robomimic_vae_ext.data.simulation import collect
from robomimic_vae_ext.data.simulation.envs import EnvSpec
from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.training import training_run
from robomimic_vae_ext.training.training_run import TrainOptions
from tests.conftest import merge
from tests.rollout.conftest import OBS, SETTINGS

EPISODES, HORIZON, SKIP = 3, 10, 5


@pytest.fixture(scope="module")
def low_dim_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of shaped rewards in rollouts."""
    path = tmp_path_factory.mktemp("low_dim") / "lift.hdf5"
    collect.collect(CollectSettings(EnvSpec("Lift"), "expert", 2), path)
    with h5py.File(path, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["env_kwargs"]["reward_shaping"] = True
        file["data"].attrs["env_args"] = json.dumps(env_args)
    return path


def write_config(folder: Path, data: Path, name: str, **rollout: Any) -> Path:
    values = {
        "algo_name": name,
        "experiment": {
            "name": name, "epoch_every_n_steps": 2, "save": {"every_n_epochs": 1},
            "keep_all_videos": True,
            "rollout": {"n": EPISODES, "horizon": HORIZON, "rate": 1} | rollout,
        },
        "train": {
            "data": str(data), "output_dir": str(folder / "out"), "num_epochs": 2,
            "batch_size": 8, "cuda": False,
        },
        "observation": {"modalities": {"obs": {"low_dim": list(OBS), "rgb": []}}},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(merge(values, SETTINGS[name])))
    return path


def run(folder: Path, data: Path, name: str, **rollout: Any) -> Path:
    return training_run.train(TrainOptions(str(write_config(folder, data, name, **rollout))))


def rollout_series(folder: Path) -> dict[str, run_metrics.Series]:
    return {
        tag: series
        for tag, series in run_metrics.read_run(folder).items()
        if tag.startswith(("Rollout/", "Timing_Stats/Rollout"))
    }


def frames(folder: Path) -> list[int]:
    videos = sorted((folder / "videos").glob("*.mp4"))
    return [sum(1 for _ in imageio.get_reader(video)) for video in videos]


@pytest.fixture(scope="module")
def with_two_workers(low_dim_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of an algorithm; nobody changes it."""
    folder = tmp_path_factory.mktemp("two")

    @functools.cache
    def train(name: str) -> Path:
        return run(folder / name, low_dim_dataset, name, num_workers=2)

    return train


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("name", ["lapo", "bc"])
def test_workers_log_what_stock_logs(
    low_dim_dataset: Path, with_two_workers: Any, tmp_path: Path, name: str
) -> None:
    stock, two = run(tmp_path / "stock", low_dim_dataset, name), with_two_workers(name)
    expected, found = rollout_series(stock), rollout_series(two)
    assert set(found) == set(expected) and len(expected) > 5
    for tag, series in expected.items():
        assert found[tag].epochs == series.epochs == (1, 2)
        if "Horizon" in tag:
            assert found[tag].values == series.values  # no untrained policy lifts the cube
    names = [video.name for video in sorted((stock / "videos").glob("*.mp4"))]
    assert [video.name for video in sorted((two / "videos").glob("*.mp4"))] == names
    assert frames(two) == frames(stock) == [EPISODES * HORIZON // SKIP] * 2
    saved = json.loads((two / "config.json").read_text())
    assert "num_workers" not in saved["experiment"]["rollout"]  # stock train.py takes it too
    assert len(list((two / "models").glob("*.pth"))) == len(list((stock / "models").glob("*.pth")))


@pytest.mark.slow
@pytest.mark.simulator
def test_one_and_two_workers_log_the_same(
    low_dim_dataset: Path, with_two_workers: Any, tmp_path: Path
) -> None:
    """Rewards are shaped, so their sums tell where the robot has been."""
    one = run(tmp_path / "one", low_dim_dataset, "lapo", num_workers=1)
    returns = {}
    for count, folder in ((1, one), (2, with_two_workers("lapo"))):
        returns[count] = {
            tag: series.values
            for tag, series in rollout_series(folder).items()
            if tag.startswith("Rollout/") and "time" not in tag
        }
    assert returns[1] == returns[2]
    (mean,) = [v for tag, v in returns[1].items() if tag.startswith("Rollout/Return/")][:1]
    assert mean[0] != mean[1] and min(mean) > 0  # another policy and other seeds in each epoch


@pytest.mark.parametrize("count", [-1, 1.5, True, "2"])
def test_impossible_numbers_of_workers(tmp_path: Path, count: Any) -> None:
    path = write_config(tmp_path, tmp_path / "none.hdf5", "bc", num_workers=count)
    with pytest.raises(ConfigError, match=r"experiment\.rollout\.num_workers"):
        training_run.train(TrainOptions(str(path)))
