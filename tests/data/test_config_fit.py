"""What a config and a dataset say about each other is compared before training."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import robomimic.algo  # noqa: F401  # registers our cores

from robomimic_vae_ext.data import config_fit
from robomimic_vae_ext.data.rewards import returns_of
from robomimic_vae_ext.errors import ConfigError, DatasetError, VaeExtError

Make = Callable[..., Any]
PICTURE = "agentview_image"
RNG = np.random.default_rng(0)


@pytest.fixture
def data(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(dataset, tmp_path / "data.hdf5"))


def change(path: Path, key: str, make: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace an observation of every demonstration."""
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for part in ("obs", "next_obs"):
                values = demo[f"{part}/{key}"][()]
                del demo[f"{part}/{key}"]
                demo[f"{part}/{key}"] = make(values)


def modalities(**keys: list[str]) -> dict[str, Any]:
    return {"observation": {"modalities": {"obs": {"low_dim": [], "rgb": []} | keys}}}


def grey(values: np.ndarray) -> np.ndarray:
    return values[..., 0]


def grey_with_axis(values: np.ndarray) -> np.ndarray:
    return values[..., :1]


def as_depth(values: np.ndarray) -> np.ndarray:
    return values[..., 0].astype(np.float32) / 255


POSITION = ["robot0_eef_pos"]


@pytest.mark.parametrize(
    ("make", "keys", "remedy", "then"),
    [
        # What is written, where the config has it; the remedy as a change of the file, or of keys.
        (as_depth, {"depth": [PICTURE]}, lambda a: a[..., None], None),
        (grey, {"rgb": [PICTURE]}, lambda a: np.repeat(a[..., None], 3, axis=-1), None),
        (grey_with_axis, {"rgb": [PICTURE]}, lambda a: np.repeat(a, 3, axis=-1), None),
        (grey_with_axis, {"depth": [PICTURE]}, lambda a: a.astype(np.float32) / 255, None),
        (lambda a: a / 255, {"rgb": [PICTURE]}, lambda a: (a * 255).round().astype("u1"), None),
        (None, {"depth": [PICTURE]}, None, {"rgb": [PICTURE]}),
        (None, {"low_dim": [PICTURE]}, None, {"rgb": [PICTURE]}),
        (None, {"rgb": POSITION}, None, {"low_dim": POSITION}),
    ],
    ids=["depth", "grey", "grey 1", "uint8 depth", "floats", "rgb", "picture", "vector"],
)
def test_observations_are_checked_by_modality(
    make_config: Make, data: Path, make: Any, keys: Any, remedy: Any, then: Any
) -> None:
    if make is not None:
        change(data, PICTURE, make)
    low_dim = {
        "low_dim": [] if "low_dim" in keys else POSITION if keys != {"rgb": POSITION} else []
    }
    config = make_config(modalities(**low_dim | keys))
    with pytest.raises(VaeExtError) as caught:
        config_fit.check_dataset(config, data)
    assert (POSITION[0] if keys == {"rgb": POSITION} else PICTURE) in str(caught.value)
    if remedy is not None:
        change(data, PICTURE, remedy)
    config_fit.check_dataset(make_config(modalities(**low_dim | (then or keys))), data)


def test_a_file_is_read_once_until_it_changes(
    make_config: Make, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    original = config_fit.validate_dataset
    monkeypatch.setattr(
        config_fit, "validate_dataset", lambda *a, **k: reads.append(1) or original(*a, **k)
    )
    config = make_config()
    config_fit.check_dataset(config, data)
    config_fit.check_dataset(config, data)
    assert len(reads) == 1
    with h5py.File(data, "r+") as file:
        file["data/demo_0/actions"][0] = np.nan
    os.utime(data, ns=(0, 0))
    with pytest.raises(DatasetError, match="NaN"):
        config_fit.check_dataset(config, data)


def test_returns_stop_at_dones() -> None:
    rewards = np.array([0.0, 1.0, 0.0, 2.0])
    np.testing.assert_allclose(returns_of(rewards, None, 0.5), [0.75, 1.5, 1.0, 2.0])
    dones = np.array([0, 1, 0, 0])
    np.testing.assert_allclose(returns_of(rewards, dones, 0.5), [0.5, 1.0, 1.0, 2.0])


def pay(path: Path, rewards: Callable[[int], np.ndarray], dones: Callable[[int], Any]) -> None:
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            length = len(demo["rewards"])
            demo["rewards"][...], demo["dones"][...] = rewards(length), dones(length)


@pytest.mark.parametrize(
    ("rewards", "dones", "bounds", "advice"),
    [
        (np.ones, np.zeros, [0.0, 1.0], [0.0, 100.0]),  # a goal that is held: 1 / (1 - 0.99)
        (np.ones, lambda n: np.eye(n)[-1], [0.0, 1.0], [0.0, 11.37]),  # (1 - 0.99^12) / 0.01
        (np.ones, np.ones, [0.0, 1.0], None),  # each step is an end
        (lambda n: -np.ones(n), lambda n: np.eye(n)[-1], [0.0, 1.0], [-11.37, 0.0]),
        (lambda n: np.eye(n)[-1], lambda n: np.eye(n)[-1], [0.0, 1.0], None),
    ],
)
def test_bounds_hold_every_return(
    make_config: Make, data: Path, rewards: Any, dones: Any, bounds: Any, advice: Any
) -> None:
    pay(data, rewards, dones)
    config = make_config({"algo": {"critic": {"value_bounds": bounds}}})
    if advice is None:
        config_fit.check_dataset(config, data)
        return
    with pytest.raises(ConfigError, match="value_bounds") as caught:
        config_fit.check_dataset(config, data)
    assert f"value_bounds to {advice}," in str(caught.value)
    config_fit.check_dataset(make_config({"algo": {"critic": {"value_bounds": advice}}}), data)
    config_fit.check_dataset(make_config({"algo": {"critic": {"value_bounds": None}}}), data)


def test_bounds_of_bins_cannot_be_null(make_config: Make, data: Path) -> None:
    pay(data, np.ones, np.zeros)
    critic = {"loss": "hl_gauss", "value_bounds": [0.0, 1.0]}
    with pytest.raises(ConfigError) as caught:
        config_fit.check_dataset(make_config({"algo": {"critic": critic}}), data)
    assert "null" not in caught.value.action


def test_a_batch_that_is_larger_than_the_mask(make_config: Make, data: Path) -> None:
    with pytest.raises(DatasetError, match=r"mask 'train' .* holds 42 transitions"):
        config_fit.check_dataset(make_config({"train": {"batch_size": 43}}), data)
    config_fit.check_dataset(make_config({"train": {"batch_size": 42}}), data)


def test_a_horizon_that_is_shorter_than_the_demonstrations(
    make_config: Make, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for horizon, warns in ((400, False), (3, True)):
        with caplog.at_level(logging.WARNING):
            config_fit.check_dataset(
                make_config({"experiment": {"rollout": {"enabled": True, "horizon": horizon}}}),
                data,
            )
        assert ("rollout.horizon is 3" in caplog.text) == warns


@pytest.mark.parametrize("replay", [True, False])
def test_stock_train_asks_the_same(
    make_config: Make, data: Path, replay: bool, caplog: pytest.LogCaptureFixture
) -> None:
    import robomimic.utils.train_utils as train_utils

    from tests.conftest import data_entry

    config = make_config()
    with config.values_unlocked():
        config.train.data, config.algo.replay.enabled = data_entry(data), replay
    arguments = {"obs_keys": config.all_obs_keys, "filter_by_attribute": "train"}
    pay(data, np.ones, np.zeros)
    train_utils.dataset_factory(config, **arguments)
    assert "value_bounds is [0.0, 1.0]" in caplog.text
    change(data, PICTURE, grey)
    with pytest.raises(DatasetError, match=PICTURE):
        train_utils.dataset_factory(config, **arguments)
