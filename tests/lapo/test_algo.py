"""LAPO as robomimic uses it: actions, values, batches, checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from packaging.version import Version

from robomimic_vae_ext import compat
from robomimic_vae_ext.errors import CheckpointError, DatasetError
from robomimic_vae_ext.lapo.batches import repeated_transitions
from tests.conftest import REPOSITORY, data_entry


def rollout_obs(model: Any, n: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.rand(n, *s, generator=generator) for key, s in model.obs_shapes.items()}


def test_actions_are_deterministic_and_in_bounds(make_model: Callable[..., Any]) -> None:
    model = make_model()
    model.set_eval()
    first, second = (model.get_action(rollout_obs(model)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3, 7)
    assert first.abs().max() <= 1


def test_extra_observations_are_ignored(make_model: Callable[..., Any]) -> None:
    model = make_model()
    model.set_eval()
    obs = rollout_obs(model)
    assert torch.equal(
        model.get_action(obs), model.get_action(obs | {"robot0_joint_pos": torch.ones(3, 7)})
    )


def test_values_have_robomimics_shapes(make_model: Callable[..., Any]) -> None:
    model = make_model()
    model.set_eval()
    obs = rollout_obs(model)
    assert model.get_state_value(obs).shape == (3, 1)
    q = model.get_state_action_value(obs, torch.zeros(3, 7))
    assert q.shape == (3, 1)
    assert not torch.equal(q, model.get_state_action_value(obs, torch.ones(3, 7)))


def test_extraction_zero_decodes_the_prior_mean(make_model: Callable[..., Any]) -> None:
    actor, zero = (
        make_model({"algo": {"actor": {"extraction": latent}}}) for latent in ("actor", "zero")
    )
    for model in (actor, zero):
        model.set_eval()
    obs = rollout_obs(zero)
    features = zero.features_of(obs)
    expected = zero.actor_vae.decode(features, torch.zeros(3, 14))
    assert torch.equal(zero.get_action(obs), expected)
    assert not torch.equal(actor.get_action(obs), expected)


@pytest.mark.parametrize("frames", [1, 3])
def test_replay_and_sequence_dataset_give_the_same_batch(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], frames: int
) -> None:
    model = make_model({"train": {"frame_stack": frames}})
    ours, stock = (make_batch(model, replay=replay, size=42) for replay in (True, False))
    for key in ("actions", "rewards", "discounts"):
        torch.testing.assert_close(ours[key], stock[key])
    assert (ours["discounts"] > 0.98).any()  # windows of one step, whose padding was seen
    for group in ("obs", "next_obs"):
        assert set(ours[group]) == set(stock[group]) == set(model.obs_shapes)
        for key, value in ours[group].items():
            torch.testing.assert_close(value, stock[group][key])


@pytest.mark.parametrize("frames", [1, 3])
def test_frame_stacking_in_batches_and_rollouts(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], frames: int
) -> None:
    model = make_model({"train": {"frame_stack": frames}})
    batch = make_batch(model)
    assert batch["obs"]["agentview_image"].shape[:2] == (8, frames)
    info = model.log_info(model.train_on_batch(batch, epoch=1))
    assert info["grad_norm/obs_encoder"] > 0
    model.set_eval()
    obs = rollout_obs(model)
    if frames > 1:
        obs = {
            key: value[:, None].expand(-1, frames, *value.shape[1:]) for key, value in obs.items()
        }
    assert model.get_action(obs).shape == (3, 7)


def test_goals_reach_the_features(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    goals = {"modalities": {"goal": {"low_dim": ["object"], "rgb": ["agentview_image"]}}}
    model = make_model({"train": {"goal_mode": "last"}, "observation": goals})
    batch = make_batch(model)
    model.train_on_batch(batch, epoch=1)
    model.set_eval()
    goal = {"object": torch.rand(3, 10), "agentview_image": torch.rand(3, 3, 44, 44)}
    obs = rollout_obs(model)
    actions = model.get_action(obs, goal)
    assert not torch.equal(actions, model.get_action(obs, {k: 1 - v for k, v in goal.items()}))


def model_with(make_config: Callable[..., Any], modality: str, shape: list[int], encoder: Any):
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.algo import algo_factory

    modalities = {"obs": {"rgb": [], modality: ["sensor"]}}
    config = make_config(
        {"observation": {"modalities": modalities, "encoder": {modality: encoder}}}
    )
    obs_utils.initialize_obs_utils_with_config(config)
    shapes = {"sensor": shape, "robot0_eef_pos": [3], "robot0_gripper_qpos": [2]}
    model = algo_factory("lapo", config, shapes, 7, torch.device("cpu"))
    model.set_eval()
    return model


def test_depth_has_an_encoder(make_config: Callable[..., Any]) -> None:
    model = model_with(make_config, "depth", [1, 44, 44], {"core_class": "NatureCNNCore"})
    assert model.get_action(rollout_obs(model)).shape == (3, 7)


@pytest.mark.skipif(
    compat.robomimic_version() < Version("0.4"),
    reason="robomimic 0.3.0 cannot build any ScanCore (Conv1dBase forgets out_channels)",
)
def test_scan_has_an_encoder(make_config: Callable[..., Any]) -> None:
    model = model_with(make_config, "scan", [1, 64], {})
    assert model.get_action(rollout_obs(model)).shape == (3, 7)


def test_repeated_transitions_finds_padding_only() -> None:
    low_dim = torch.tensor([[[1.0], [2.0], [2.0]], [[1.0], [1.0], [3.0]]])
    image = torch.tensor([[[0], [5], [5]], [[0], [1], [1]]], dtype=torch.uint8)
    found = repeated_transitions([low_dim, image])
    assert found.tolist() == [[False, False, True], [False, False, False]]


@pytest.mark.parametrize("owner", ["critic", "vae"])
def test_save_and_load_gives_the_same_training(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], tmp_path: Path, owner: str
) -> None:
    schedule = {"learning_rate": {"epoch_schedule": [3, 5]}}
    changes = {"algo": {"optim_params": {"critic": schedule}}}
    model, other = make_model(changes, owner=owner), make_model(changes, owner=owner, seed=1)
    batch = make_batch(model)
    model.train_on_batch(batch, epoch=1)
    model.on_epoch_end(1)
    torch.save(model.serialize(), tmp_path / "model.pth")
    # torch's default, which refuses anything but tensors and plain types.
    other.deserialize(torch.load(tmp_path / "model.pth"), load_optimizers=True)
    for trained in (model, other):
        trained.set_train()
        torch.manual_seed(7)
        trained.train_on_batch(batch, epoch=1)
    expected, found = model.nets.state_dict(), other.nets.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert other.lr_schedulers["critic"].last_epoch == 1
    for trained in (model, other):
        trained.set_eval()
    obs = rollout_obs(model)
    assert torch.equal(model.get_action(obs), other.get_action(obs))


def test_a_foreign_checkpoint_is_one_line(make_model: Callable[..., Any]) -> None:
    wide = make_model({"algo": {"encoder": {"trunk_dim": 32}}})
    with pytest.raises(CheckpointError, match="does not fit the networks") as caught:
        make_model().deserialize(wide.serialize())
    assert "\n" not in str(caught.value)
    assert "size mismatch for" in str(caught.value)


def test_learning_rate_schedules_reach_every_group(make_model: Callable[..., Any]) -> None:
    schedule = {"learning_rate": {"epoch_schedule": [1], "decay_factor": 0.5}}
    model = make_model({"algo": {"optim_params": {"critic": schedule}}})
    model.on_epoch_end(1)
    rates = {group["name"]: group["lr"] for group in model.critic_optimizer.param_groups}
    assert rates == {"critic": 1.5e-4, "obs_encoder": 1.5e-4}


def test_value_bounds_hold_for_the_target(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model = make_model({"algo": {"critic": {"value_bounds": [0.25, 0.5]}}})
    batch = make_batch(model)
    with torch.no_grad():
        features = model.encode(batch["obs"])
        v = model.nets["critic"].value(features)
        targets = model._targets(batch, features, features, v)
    assert targets.v.min() >= 0.25 and targets.v.max() <= 0.5


@pytest.mark.parametrize("frames", [1, 3])
def test_next_observations_that_were_recorded_apart(
    make_model: Callable[..., Any], dataset: Path, tmp_path: Path, frames: int
) -> None:
    """Noisy next_obs: replay and SequenceDataset still give the same batch."""
    path = tmp_path / "apart.hdf5"
    shutil.copy(dataset, path)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["next_obs/robot0_eef_pos"][...] += 0.01
    model = make_model({"train": {"frame_stack": frames}})
    ours, stock = (whole_batch(model, path, replay) for replay in (True, False))
    for group in ("obs", "next_obs"):
        for key, value in ours[group].items():
            torch.testing.assert_close(value, stock[group][key])


def whole_batch(model: Any, path: Path, replay: bool) -> dict[str, Any]:
    import robomimic.utils.train_utils as train_utils
    from torch.utils.data import DataLoader

    config = model.global_config.deepcopy()
    with config.unlocked():
        config.algo.replay.enabled = replay
        config.train.data = data_entry(path)
    data = train_utils.dataset_factory(
        config, obs_keys=config.all_obs_keys, filter_by_attribute="train"
    )
    return model.process_batch_for_training(next(iter(DataLoader(data, batch_size=42))))


def test_the_replay_serves_worker_processes(make_model: Callable[..., Any], dataset: Path) -> None:
    import robomimic.utils.train_utils as train_utils
    from torch.utils.data import DataLoader

    config = make_model().global_config
    data = train_utils.dataset_factory(
        config, obs_keys=config.all_obs_keys, filter_by_attribute="train"
    )
    alone, workers = (
        list(DataLoader(data, batch_size=8, num_workers=count, drop_last=True)) for count in (0, 2)
    )
    assert len(alone) == len(workers) == 5
    for ours, theirs in zip(alone, workers, strict=True):
        assert torch.equal(ours["obs"]["agentview_image"], theirs["obs"]["agentview_image"])


def test_fewer_transitions_than_one_batch_are_refused(
    make_model: Callable[..., Any],
) -> None:
    import robomimic.utils.train_utils as train_utils

    config = make_model({"train": {"batch_size": 43}}).global_config
    with pytest.raises(DatasetError, match=r"'train' .* holds 42 transitions.*batch of 43"):
        train_utils.dataset_factory(config, config.all_obs_keys, filter_by_attribute="train")


def test_an_owner_without_weights_to_own_is_told(
    make_model: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    low_dim = {"observation": {"modalities": {"obs": {"rgb": []}}}}
    for owner in ("critic", "joint"):  # nobody may have chosen the default
        model = make_model(low_dim, owner=owner)
        assert "changes nothing" not in caplog.text
        assert [group["name"] for group in model.critic_optimizer.param_groups] == ["critic"]
    make_model(low_dim, owner="vae")
    assert "algo.encoder.owner = vae changes nothing" in caplog.text


@pytest.mark.parametrize(("owner", "broken"), [("critic", 0.0), ("joint", 0.0), ("vae", 1.0)])
def test_the_audit_watches_training(
    make_model: Callable[..., Any],
    make_batch: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    owner: str,
    broken: float,
) -> None:
    model = make_model({"algo": {"audit": {"every_n_steps": 2}}}, owner=owner)
    batch = make_batch(model)
    logs = [model.log_info(model.train_on_batch(batch, epoch=1)) for _ in range(4)]
    watched = [any(key.startswith("audit/") for key in log) for log in logs]
    assert watched == [True, False, True, False]
    assert logs[2]["audit/broken"] == broken
    assert any(key.endswith("obs_encoder/grad_norm") for key in logs[2])
    assert caplog.text.count("GRADIENT FLOW BROKEN") == broken  # once, not every time


def test_training_with_the_audit_is_the_same_to_the_bit(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    states = []
    for every in (0, 1):
        model = make_model({"algo": {"audit": {"every_n_steps": every}}})
        torch.manual_seed(2)
        for _ in range(3):
            model.train_on_batch(make_batch(model), epoch=1)
        states.append(model.nets.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_checkpoint_of_an_earlier_version_plays_the_same_actions() -> None:
    """Written by commit 49d96ed, with the actions it had there."""
    import robomimic.utils.file_utils as file_utils

    from robomimic_vae_ext.rollout import stored_policy

    folder = REPOSITORY / "tests" / "files"
    checkpoint = stored_policy.load_checkpoint(folder / "lapo_at_49d96ed.pth")
    policy = stored_policy.load_policy(checkpoint, "cpu").policy
    config, _ = file_utils.config_from_checkpoint(ckpt_dict=checkpoint)
    assert "start_step" not in config.algo.actor  # an option that is gone
    expected = torch.load(folder / "lapo_at_49d96ed_actions.pt")
    obs = {
        key: torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
        for key, shape in policy.obs_shapes.items()
    }
    torch.testing.assert_close(policy.get_action(obs), expected, atol=1e-6, rtol=0)
