"""Config: locked keys, checked values, shipped files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

from robomimic_vae_ext.errors import ConfigError
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.json"))


def default_config() -> Any:
    from robomimic.config import config_factory

    return config_factory("lapo")


def update(values: dict[str, Any]) -> Any:
    config = default_config()
    with config.values_unlocked():
        config.update(values)
    config.lock()
    return config


def test_the_shipped_configs_are_there() -> None:
    names = {path.name for path in CONFIGS}
    assert {"vae_fixed.json", "vae_unfixed.json", "vae_joint.json"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_locked_and_builds(path: Path) -> None:
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.algo import algo_factory

    config = update(json.loads(path.read_text()))
    assert config.is_locked
    obs_utils.initialize_obs_utils_with_config(config)
    dims = {
        "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10,
    }  # fmt: skip
    shapes = {
        key: [3, 84, 84] if key.endswith("_image") else [dims[key]] for key in config.all_obs_keys
    }
    model = algo_factory("lapo", config, shapes, 7, torch.device("cpu"))
    model.set_eval()
    assert model.owner == "frozen" or any(True for _ in model.obs_encoder.parameters())
    action = model.get_action({key: torch.rand(1, *shape) for key, shape in shapes.items()})
    assert action.shape == (1, 7)
    assert action.abs().max() <= 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_say_only_what_differs_from_the_defaults(path: Path) -> None:
    config = default_config()

    def same(values: dict[str, Any], defaults: Any, prefix: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(defaults.get(key), dict):
                found += same(value, defaults[key], f"{prefix}{key}.")
            elif key in defaults and defaults[key] == value:
                found.append(prefix + key)
        return found

    # These are what the file is about, so they are spelled out even where they are the default.
    spelled_out = {"algo_name", "algo.encoder.owner", "train.seed"}
    assert set(same(json.loads(path.read_text()), config)) <= spelled_out


@pytest.mark.parametrize("kind", ["", "_low_dim"])
def test_fixed_and_unfixed_differ_in_the_owner_alone(kind: str) -> None:
    fixed, unfixed, joint = (
        json.loads((REPOSITORY / "configs" / f"vae_{name}{kind}.json").read_text())
        for name in ("fixed", "unfixed", "joint")
    )
    for other, owner in ((unfixed, "vae"), (joint, "joint")):
        assert other["algo"]["encoder"].pop("owner") == owner
        other["algo"]["encoder"].pop("vae_grad_scale", None)
        other["experiment"]["name"] = fixed["experiment"]["name"]
        expected = json.loads(json.dumps(fixed))
        expected["algo"]["encoder"].pop("owner")
        assert other == expected


NOTHING: dict[str, list[str]] = {"low_dim": [], "rgb": [], "depth": [], "scan": []}


def test_the_config_that_robomimic_leaves_in_a_run_can_be_trained_again() -> None:
    """0.5.0 writes lengths of the run into it, which no config has before."""
    lengths = {"num_train_batches": 100, "num_epochs": 20}
    optimizers = {name: lengths | {"max_gradient_norm": 7.0} for name in ("critic", "actor")}
    config = update({"algo": {"optim_params": optimizers}})
    assert config.algo.optim_params.critic.max_gradient_norm == 7.0
    assert "num_epochs" not in config.algo.optim_params.critic


@pytest.mark.parametrize(("version", "ok"), [("0.3.0", False), ("0.5.0", True)])
def test_normalisation_that_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str, ok: bool
) -> None:
    from robomimic_vae_ext import compat

    monkeypatch.setattr(compat, "robomimic_version", lambda: Version(version))
    values = {"train": {"hdf5_normalize_obs": True}}
    if ok:
        assert update(values).train.hdf5_normalize_obs
    else:
        with pytest.raises(ConfigError, match=r"train\.hdf5_normalize_obs is True"):
            update(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"algo": {"encodr": {}}}, "algo.encodr"),
        ({"algo": {"encoder": {"ownr": "critic"}}}, "algo.encoder.ownr"),
        ({"trian": {}}, "'trian'"),
        ({"algo": {"encoder": {"owner": "actor"}}}, "algo.encoder.owner is 'actor'"),
        ({"algo": {"encoder": {"norm": "layer"}}}, "algo.encoder.norm"),
        ({"algo": {"n_step": 9}}, "algo.n_step is 9"),
        ({"algo": {"n_step": 0}}, "algo.n_step is 0"),
        ({"algo": {"discount": 1.5}}, "algo.discount is 1.5"),
        ({"algo": {"discount": "high"}}, "algo.discount is 'high'"),
        ({"algo": {"vae": {"expectile": -0.1}}}, "algo.vae.expectile"),
        ({"algo": {"critic": {"value_bounds": [1.0, 0.0]}}}, "value_bounds"),
        ({"algo": {"actor": {"extraction": "mean"}}}, "algo.actor.extraction"),
        ({"algo": {"actor": {"samples": 0}}}, "algo.actor.samples is 0"),
        ({"algo": {"actor": {"decoder": "fast"}}}, "algo.actor.decoder is 'fast'"),
        ({"train": {"dataset_keys": ["actions"]}}, "dataset_keys"),
        ({"train": {"hdf5_load_next_obs": False}}, "hdf5_load_next_obs"),
        ({"train": {"pad_seq_length": False}}, "pad_seq_length"),
        ({"train": {"seq_length": "5"}}, "train.seq_length is '5'"),
        ({"train": {"frame_stack": 0}}, "train.frame_stack is 0"),
        ({"train": {"goal_mode": "subgoal"}}, "train.goal_mode"),
        ({"algo": 5}, "'algo' is 5"),
        ({"algo": {"critic": 5}}, "'algo.critic' is 5"),
        ({"algo": {"critic": {"value_bounds": 3}}}, "value_bounds is 3"),
        ({"algo": {"critic": {"value_bounds": ["a", "b"]}}}, "value_bounds"),
        ({"algo": {"n_step": True}}, "algo.n_step is True"),
        ({"algo": {"vae": {"latent_dim": 0}}}, "algo.vae.latent_dim is 0"),
        ({"algo": {"vae": {"layer_dims": 256}}}, "algo.vae.layer_dims is 256"),
        ({"algo": {"encoder": {"trunk_dim": 1.5}}}, "algo.encoder.trunk_dim is 1.5"),
        ({"algo": {"replay": {"max_gib": "a"}}}, "algo.replay.max_gib is 'a'"),
        ({"algo": {"replay": {"storage": "tape"}}}, "algo.replay.storage is 'tape'"),
        ({"algo": {"replay": {"folder": 3}}}, "algo.replay.folder is 3"),
        (
            {"algo": {"encoder": {"owner": "vae", "auxiliary": {"cloning": 1}}}},
            "algo.encoder.auxiliary.cloning is 1",
        ),
        ({"algo": {"encoder": {"auxiliary": {"inverse": -1}}}}, "auxiliary.inverse is -1"),
        ({"algo": {"encoder": {"auxiliary": {"inverse_steps": 6}}}}, "inverse_steps is 6"),
        ({"algo": {"encoder": {"auxiliary": {"layer_dims": 8}}}}, "auxiliary.layer_dims is 8"),
        ({"algo": {"encoder": {"vae_grad_norm": 1}}}, "algo.encoder.vae_grad_norm is 1"),
        ({"algo": {"encoder": {"policy_branch": True}}}, "algo.encoder.policy_branch is True"),
        ({"algo": {"actor": {"start_step": 2}}}, "algo.actor.start_step is 2"),
        (
            {"algo": {"encoder": {"owner": "critic", "vae_grad_scale": 0.3}}},
            "vae_grad_scale is 0.3",
        ),
        ({"algo": {"replay": {"enabled": "no"}}}, "algo.replay.enabled is 'no'"),
        ({"algo": {"optim_params": {"actor": {"optimizer_type": "sgd"}}}}, "_type is 'sgd'"),
        (
            {"algo": {"optim_params": {"actor": {"learning_rate": {"epoch_schedule": 5}}}}},
            "algo.optim_params.actor.learning_rate.epoch_schedule is 5",
        ),
        (
            {"algo": {"optim_params": {"critic": {"learning_rate": {"decay_factor": "a"}}}}},
            "decay_factor is 'a'",
        ),
        ({"algo": {"optim_params": {"critic": {"regularization": {"L2": -1}}}}}, "L2 is -1"),
        ({"train": {"dataset_keys": None}}, "train.dataset_keys is None"),
        ({"observation": {"modalities": {"obs": NOTHING}}}, "at least one observation key"),
        ({"observation": {"modalities": {"goal": {"low_dim": ["a"]}}}}, "train.goal_mode is None"),
        ({"algo": {"critic": {"loss": "huber"}}}, "algo.critic.loss is 'huber'"),
        ({"algo": {"critic": {"loss": "hl_gauss"}}}, "algo.critic.value_bounds is None"),
        ({"algo": {"critic": {"bins": 1}}}, "algo.critic.bins is 1"),
        ({"algo": {"critic": {"bin_sigma": 0}}}, "algo.critic.bin_sigma is 0"),
        (
            {"algo": {"critic": {"loss": "hl_gauss", "value_bounds": [0, 1], "bins": 6}}},
            "algo.critic.bins is 6; expected more than 6",
        ),
        (
            {"algo": {"optim_params": {"critic": {"learning_rate": {"initial": -1}}}}},
            "critic.learning_rate.initial is -1",
        ),
        (
            {"algo": {"optim_params": {"actor": {"max_gradient_norm": "x"}}}},
            "actor.max_gradient_norm is 'x'",
        ),
    ],
)
def test_bad_values_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        update(values)
    assert message in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_sections_still_take_anything() -> None:
    config = update({"observation": {"encoder": {"rgb": {"core_kwargs": {"channels": [8]}}}}})
    assert config.observation.encoder.rgb.core_kwargs.channels == [8]


def test_a_dumped_config_comes_back(make_config: Callable[..., Any]) -> None:
    from robomimic.config import config_factory

    config = make_config()
    again = config_factory("lapo", dic=json.loads(config.dump()))
    again.lock()
    assert again.dump() == config.dump()


def test_configs_of_older_checkpoints_get_the_keys_they_lack(
    make_config: Callable[..., Any],
) -> None:
    from robomimic.config import config_factory

    older = json.loads(make_config().dump())
    del older["algo"]["audit"], older["algo"]["actor"]["prior_weight"]
    del older["algo"]["critic"]["loss"]
    config = config_factory("lapo", dic=older)
    config.lock()
    assert config.algo.critic.loss == "mse"
    assert config.algo.audit.every_n_steps == default_config().algo.audit.every_n_steps
    assert config.algo.actor.prior_weight == 0.0


def test_configs_of_checkpoints_without_an_owner_had_the_critic(
    make_config: Callable[..., Any],
) -> None:
    """`critic` was the default before the key was written; today's default is another one."""
    from robomimic.config import config_factory

    older = json.loads(make_config().dump())
    del older["algo"]["encoder"]["owner"]
    config = config_factory("lapo", dic=older)
    config.lock()
    assert config.algo.encoder.owner == "critic"


def test_options_that_are_gone_are_dropped_where_they_did_nothing(
    make_config: Callable[..., Any],
) -> None:
    older = json.loads(make_config().dump())
    older["algo"]["encoder"] |= {"vae_grad_norm": None, "policy_branch": False}
    older["algo"]["actor"]["start_step"] = 0
    older["algo"]["actor"]["rollout_latent"] = older["algo"]["actor"].pop("extraction")
    assert update(older).dump() == make_config().dump()
