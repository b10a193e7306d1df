"""Low-dimensional Lift data, untrained policies for it, and a pool that answers soon."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext.rollout.worker_pool import Patience
from tests.conftest import merge

OBS = {"robot0_eef_pos": [3], "robot0_eef_quat": [4], "robot0_gripper_qpos": [2], "object": [10]}
PATIENCE = Patience(start=600.0, step=10.0)  # where a worker is to be found hanging
UNHURRIED = Patience(start=600.0, step=300.0)  # where none is, on a machine however busy
SETTINGS: dict[str, dict[str, Any]] = {
    "lapo": {"algo": {"encoder": {"trunk_dim": 16}}},
    "bc": {"algo": {"actor_layer_dims": [16]}},
    "bc_gmm": {"algo": {"actor_layer_dims": [16], "gmm": {"enabled": True}}},
    "bc_rnn": {
        "algo": {"rnn": {"enabled": True, "horizon": 3, "hidden_dim": 16}},
        "train": {"seq_length": 3},
    },
}  # fmt: skip


def lift_env_args() -> dict[str, Any]:
    """Lift with shaped rewards, whose sum tells in its last bits where the robot has been."""
    from robomimic_vae_ext.data.simulation.envs import EnvSpec

    env_args = EnvSpec("Lift").env_args()
    env_args["env_kwargs"]["reward_shaping"] = True
    return env_args


def make_policy(kind: str) -> Any:
    """Untrained RolloutPolicy with fixed weights."""
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.algo import RolloutPolicy, algo_factory
    from robomimic.config import config_factory

    name = kind.split("_")[0]
    common = {
        "observation": {"modalities": {"obs": {"low_dim": list(OBS), "rgb": []}}},
        "experiment": {"rollout": {"horizon": 25}},
        "train": {"cuda": False},
    }
    config = config_factory(name)
    with config.values_unlocked():
        config.update(merge(common, SETTINGS[kind]))
    config.lock()
    with contextlib.redirect_stdout(io.StringIO()):
        obs_utils.initialize_obs_utils_with_config(config)
        torch.manual_seed(0)
        algo = algo_factory(name, config, dict(OBS), 7, torch.device("cpu"))
    algo.set_eval()
    return RolloutPolicy(algo)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoint of an untrained low-dimensional policy, as training would save it."""
    import robomimic.utils.train_utils as train_utils

    folder = tmp_path_factory.mktemp("untrained")

    def make(kind: str) -> Path:
        path = folder / f"{kind}.pth"
        if not path.exists():
            algo = make_policy(kind).policy
            shapes = {"all_shapes": dict(OBS), "ac_dim": 7, "use_images": False}
            train_utils.save_model(algo, algo.global_config, lift_env_args(), shapes, str(path))
        return path

    return make
